//! What a study makes of each block of its model: it is averaged, frozen or local.
//!
//! This is the one place that says which numbers travel. A summed vector holds the averaged blocks in the graph's order;
//! [`ModelGraph::compact`] goes there from a flat vector of the whole model and [`ModelGraph::spread`] back, and layouts,
//! ranges, strategies and forecasts all go over [`ModelGraph::averaged`]. Local batch normalisation is FedBN (Li et al.
//! 2021), local running statistics alone are SiloBN (Andreux et al. 2020).
//!
//! A study's author names layers; what is signed is a treatment for each block, so that two ways of naming the same blocks
//! are one study, and a graph whose blocks are all averaged has the bytes that it had before there was a choice.

use minicbor::{Decode, Encode};

use crate::graph::{ModelGraph, ParameterSpec, Role};

/// What becomes of a block's numbers in a study.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Treatment {
    /// Sites train it, and the next model has what their updates say together.
    #[n(0)]
    #[default]
    Averaged,
    /// It stays as it is in the initial model.
    #[n(1)]
    Frozen,
    /// Each site trains its own and keeps it. Models that travel have the initial model's numbers there.
    #[n(2)]
    Local,
}

impl Treatment {
    /// The word for it, and its key in `[model]` where it has one.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Averaged => "averaged",
            Self::Frozen => "frozen",
            Self::Local => "local",
        }
    }
}

/// Why blocks cannot be treated like that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTreatment {
    /// A name that is no layer's.
    #[error("`{}` names \"{entry}\", and the model has no such layer or block; it has {there}", treatment.name())]
    NoSuchLayer {
        /// The list it stands in.
        treatment: Treatment,
        /// As written.
        entry: String,
        /// What there is.
        there: String,
    },
    /// One block in both lists.
    #[error("{0} is named in `frozen` and in `local`; name it in one of them")]
    FrozenAndLocal(String),
    /// A batch normalisation whose running mean and variance are treated differently.
    #[error("{0} and the running variance beside it have to be treated alike")]
    HalfOfStatistics(String),
    /// No block is left for a sum.
    #[error("no layer is left that sites train and average; name fewer in `frozen` and `local`")]
    NothingAveraged,
    /// Another number of treatments than of blocks.
    #[error("{got} treatments for {want} blocks")]
    Count {
        /// Treatments.
        got: usize,
        /// Blocks.
        want: usize,
    },
}

impl ModelGraph {
    /// The same graph with the blocks frozen and local that these entries name. An entry is the name of a layer, of a part
    /// of one or of a block (`layers.4`, `layers.4.main`, `layers.4.main.0.weight`), or a kind of layer for all of that
    /// kind (`batch-norm`).
    pub fn treat(self, frozen: &[String], local: &[String]) -> Result<Self, InvalidTreatment> {
        let mut treatments = vec![Treatment::Averaged; self.parameters().len()];
        for (treatment, entries) in [(Treatment::Frozen, frozen), (Treatment::Local, local)] {
            for entry in entries {
                let named = self
                    .parameters()
                    .iter()
                    .zip(&mut treatments)
                    .filter(|(block, _)| is_named_by(entry, block));
                let mut any = false;
                for (block, place) in named {
                    any = true;
                    if ![Treatment::Averaged, treatment].contains(place) {
                        return Err(InvalidTreatment::FrozenAndLocal(block.name().to_owned()));
                    }
                    *place = treatment;
                }
                if !any {
                    let (entry, there) = (entry.clone(), self.layers_like(entry));
                    return Err(InvalidTreatment::NoSuchLayer { treatment, entry, there });
                }
            }
        }
        self.with_treatments(&treatments)
    }

    /// The same graph with these treatments, one for each block.
    pub(crate) fn with_treatments(mut self, treatments: &[Treatment]) -> Result<Self, InvalidTreatment> {
        let blocks = self.parameters_mut();
        if blocks.len() != treatments.len() {
            return Err(InvalidTreatment::Count { got: treatments.len(), want: blocks.len() });
        }
        for (block, treatment) in blocks.iter_mut().zip(treatments) {
            block.treatment = *treatment;
        }
        let halves = blocks
            .windows(2)
            .find(|pair| pair[0].role() == Role::RunningMean && pair[0].treatment() != pair[1].treatment());
        if let Some(pair) = halves {
            return Err(InvalidTreatment::HalfOfStatistics(pair[0].name().to_owned()));
        }
        if self.averaged().any(ParameterSpec::is_trainable) {
            Ok(self)
        } else {
            Err(InvalidTreatment::NothingAveraged)
        }
    }

    /// The blocks of a summed vector, in its order.
    pub fn averaged(&self) -> impl Iterator<Item = &ParameterSpec> {
        self.treated(Treatment::Averaged)
    }

    /// The blocks of one treatment, in the order of the flat vector.
    pub fn treated(&self, treatment: Treatment) -> impl Iterator<Item = &ParameterSpec> {
        self.parameters().iter().filter(move |block| block.treatment() == treatment)
    }

    /// Length of a summed vector.
    pub fn averaged_len(&self) -> usize {
        self.averaged().map(ParameterSpec::len).sum()
    }

    /// The names of the blocks of one treatment.
    pub fn names(&self, treatment: Treatment) -> Vec<String> {
        self.treated(treatment).map(|block| block.name().to_owned()).collect()
    }

    /// Whether models of a study share numbers that no sum changes.
    pub fn has_fixed(&self) -> bool {
        self.averaged_len() < self.len()
    }

    /// Of `whole`, shape `[params]`, the entries that travel, in place.
    ///
    /// # Panics
    /// When `whole` has another length.
    pub fn compact(&self, mut whole: Vec<f32>) -> Vec<f32> {
        assert_eq!(whole.len(), self.len(), "a model has as many numbers as its graph");
        let mut end = 0;
        for block in self.averaged() {
            whole.copy_within(block.range(), end);
            end += block.len();
        }
        whole.truncate(end);
        whole
    }

    /// The entries of a summed vector at their places in the model, in place; zero elsewhere.
    ///
    /// # Panics
    /// When `averaged` is not as long as a summed vector.
    pub fn spread(&self, mut averaged: Vec<f32>) -> Vec<f32> {
        assert_eq!(averaged.len(), self.averaged_len(), "a summed vector has the averaged blocks");
        let mut end = averaged.len();
        averaged.resize(self.len(), 0.0);
        // From the last block on, what has still to move lies before all that is written.
        for block in self.parameters().iter().rev() {
            if block.treatment() == Treatment::Averaged {
                let start = end - block.len();
                averaged.copy_within(start..end, block.range().start);
                end = start;
            } else {
                averaged[block.range()].fill(0.0);
            }
        }
        averaged
    }

    /// The numbers that a site keeps to itself, in the order of the flat vector.
    pub fn local_part(&self, model: &[f32]) -> Vec<f32> {
        self.treated(Treatment::Local).flat_map(|block| model[block.range()].iter().copied()).collect()
    }

    /// Puts a site's own numbers in their places. Says whether there were as many as there are places.
    #[must_use]
    pub fn put_local(&self, model: &mut [f32], mut own: &[f32]) -> bool {
        for block in self.treated(Treatment::Local) {
            let Some((part, rest)) = own.split_at_checked(block.len()) else { return false };
            model[block.range()].copy_from_slice(part);
            own = rest;
        }
        own.is_empty()
    }

    /// The first block in which a model is not as every model of the study is: whatever is not averaged has, bit for bit,
    /// the numbers of the `initial` model. Both have shape `[params]`.
    pub fn altered<'a>(&'a self, initial: &[f32], model: &[f32]) -> Option<&'a ParameterSpec> {
        let fixed = self.parameters().iter().filter(|block| block.treatment() != Treatment::Averaged);
        let bits = |model: &[f32], block: &ParameterSpec| -> Vec<u32> {
            model[block.range()].iter().map(|value| value.to_bits()).collect()
        };
        fixed.into_iter().find(|block| bits(initial, block) != bits(model, block))
    }

    /// The layers with numbers, with what kind they are and how they are treated, for people: `layers.0 (conv2d, frozen)`.
    /// A layer with branches is one.
    pub fn layers_in_words(&self) -> Vec<String> {
        let of_layer = |(index, layer): (usize, &crate::layer::Layer)| {
            let name = format!("layers.{index}");
            let mut treatments: Vec<Treatment> = Vec::new();
            for block in self.parameters().iter().filter(|block| is_within(&name, block.name())) {
                if !treatments.contains(&block.treatment()) {
                    treatments.push(block.treatment());
                }
            }
            match treatments.as_slice() {
                [] => None,
                [Treatment::Averaged] => Some(format!("{name} ({})", layer.kind())),
                some => {
                    let some: Vec<_> = some.iter().map(|treatment| treatment.name()).collect();
                    Some(format!("{name} ({}, {})", layer.kind(), some.join(" and ")))
                }
            }
        };
        self.layers().iter().enumerate().filter_map(of_layer).collect()
    }

    /// What could have been meant by a name that is no layer's: what is below the layer that it begins with, or all layers
    /// and kinds.
    fn layers_like(&self, entry: &str) -> String {
        let outermost: Vec<&str> = entry.split('.').take(2).collect();
        let outermost = outermost.join(".");
        let below = self.parameters().iter().filter(|block| is_within(&outermost, block.name()));
        let mut below: Vec<&str> = below.map(ParameterSpec::name).collect();
        if below.is_empty() {
            let mut kinds: Vec<&str> = self.parameters().iter().map(ParameterSpec::kind).collect();
            kinds.sort_unstable();
            kinds.dedup();
            return format!("{}, of the kinds {}", self.layers_in_words().join(", "), kinds.join(", "));
        }
        below.dedup();
        below.join(", ")
    }
}

/// Whether an entry of a list names a block.
fn is_named_by(entry: &str, block: &ParameterSpec) -> bool {
    entry == block.kind() || is_within(entry, block.name())
}

/// Whether `name` is `outer` or lies below it: prefixes end where a part of a name does.
fn is_within(outer: &str, name: &str) -> bool {
    name.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;
    use crate::canonical::Canonical as _;
    use crate::graph::{ModelSection, ModelSpec};

    const LAYERS: &str = r#"layers = [
        { kind = "conv2d", filters = 2, kernel = 3, padding = 1 },
        { kind = "batch-norm" },
        { kind = "residual", main = [
            { kind = "conv2d", filters = 2, kernel = 1 },
            { kind = "batch-norm" },
        ] },
        { kind = "flatten" },
        { kind = "linear", outputs = 3 },
        { kind = "layer-norm" },
        { kind = "linear", outputs = 2 },
    ]"#;

    fn plain() -> ModelGraph {
        let section: ModelSection = toml::from_str(LAYERS).unwrap();
        section.graph([1, 4, 4], 2).unwrap()
    }

    fn treat(frozen: &[&str], local: &[&str]) -> Result<ModelGraph, InvalidTreatment> {
        let owned = |list: &[&str]| list.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>();
        plain().treat(&owned(frozen), &owned(local))
    }

    fn treated(graph: &ModelGraph, treatment: Treatment) -> Vec<&str> {
        graph.treated(treatment).map(ParameterSpec::name).collect()
    }

    #[test]
    fn layers_are_named_by_prefixes_that_end_at_a_dot_and_by_kinds() {
        let graph = treat(&["layers.2.main.0", "layers.4.bias"], &["batch-norm"]).unwrap();
        assert_eq!(
            treated(&graph, Treatment::Frozen),
            ["layers.2.main.0.weight", "layers.2.main.0.bias", "layers.4.bias"]
        );
        let of = |layer: &str| {
            ["scale", "shift", "running_mean", "running_variance"].map(|role| format!("{layer}.{role}"))
        };
        assert_eq!(treated(&graph, Treatment::Local), [of("layers.1"), of("layers.2.main.1")].concat());
        assert_eq!(
            treated(&graph, Treatment::Averaged),
            [
                "layers.0.weight",
                "layers.0.bias",
                "layers.4.weight",
                "layers.5.scale",
                "layers.5.shift",
                "layers.6.weight",
                "layers.6.bias"
            ]
        );
        assert_eq!(
            graph.layers_in_words(),
            [
                "layers.0 (conv2d)",
                "layers.1 (batch-norm, local)",
                "layers.2 (residual, frozen and local)",
                "layers.4 (linear, averaged and frozen)",
                "layers.5 (layer-norm)",
                "layers.6 (linear)"
            ]
        );
        // Gradients change what is local and nothing that is frozen.
        let trained: Vec<_> =
            graph.parameters().iter().filter(|block| block.is_trainable()).map(ParameterSpec::name).collect();
        assert!(trained.contains(&"layers.1.scale") && !trained.contains(&"layers.4.bias"));
        assert!(!trained.contains(&"layers.1.running_mean"));
    }

    #[test]
    fn names_of_nothing_and_lists_that_contradict_each_other_are_refused() {
        let said = |frozen: &[&str], local: &[&str]| treat(frozen, local).unwrap_err().to_string();
        let text = said(&["layers.7"], &[]);
        assert!(text.starts_with("`frozen` names \"layers.7\""), "{text}");
        assert!(
            text.contains("layers.2 (residual)") && text.contains("of the kinds batch-norm, conv2d"),
            "{text}"
        );
        // `layers.2.m` is no prefix of `layers.2.main` that ends at a dot.
        let text = said(&[], &["layers.2.m"]);
        assert!(
            text.starts_with("`local` names \"layers.2.m\"") && text.contains("layers.2.main.1.shift"),
            "{text}"
        );
        assert!(!text.contains("layers.0"), "{text}");
        for nothing in ["", "layers.3", "layers.1.", "group-norm", "activation"] {
            assert!(said(&[nothing], &[]).contains("no such layer"), "{nothing}");
        }
        assert_eq!(
            treat(&["layers.2"], &["batch-norm"]),
            Err(InvalidTreatment::FrozenAndLocal("layers.2.main.1.scale".to_owned()))
        );
        assert_eq!(
            treat(&[], &["layers.1.running_variance"]),
            Err(InvalidTreatment::HalfOfStatistics("layers.1.running_mean".to_owned()))
        );
        assert_eq!(treat(&["layers"], &[]), Err(InvalidTreatment::NothingAveraged));
        let all = [
            "conv2d",
            "linear",
            "layer-norm",
            "layers.1.scale",
            "layers.1.shift",
            "layers.2.main.1.scale",
            "layers.2.main.1.shift",
        ];
        assert_eq!(
            treat(&all, &[]),
            Err(InvalidTreatment::NothingAveraged),
            "statistics alone are no training"
        );
    }

    #[test]
    fn what_is_signed_is_the_treatment_of_each_block_and_absent_where_all_are_averaged() {
        let (plain, graph) = (plain(), treat(&["layers.0"], &["batch-norm"]).unwrap());
        assert_eq!(
            treat(&["layers.0.weight", "layers.0.bias"], &["layers.1", "layers.2.main.1"]).unwrap(),
            graph
        );
        assert_eq!(graph.hash(), plain.hash(), "it is one architecture");
        assert_ne!(graph.to_canonical(), plain.to_canonical());
        assert_eq!(ModelGraph::from_canonical(&graph.to_canonical()), Ok(graph.clone()));
        assert_eq!(plain.clone().with_treatments(&[Treatment::Averaged; 18]).unwrap(), plain);
        // {0: [1, 4, 4], 1: layers, 2: treatments}: the plain bytes, with one entry more.
        let (short, long) = (plain.to_canonical(), graph.to_canonical());
        assert_eq!((short[0], long[0], &short[1..]), (0xa2, 0xa3, &long[1..short.len()]));
        let with = |treatments: &[u8]| {
            let mut bytes = [&[0xa3], &short[1..], &[2, 0x80 + treatments.len() as u8]].concat();
            bytes.extend(treatments);
            ModelGraph::from_canonical(&bytes).map_err(|error| error.to_string())
        };
        assert_eq!(with(&[&[1, 1, 2, 2, 2, 2, 0, 0, 2, 2, 2, 2][..], &[0; 6]].concat()), Ok(graph));
        assert!(with(&[0; 18]).unwrap_err().contains("canonical"));
        assert!(with(&[1; 18]).unwrap_err().contains("no layer is left"));
        assert!(with(&[1; 17]).unwrap_err().contains("17 treatments for 18 blocks"));
        assert!(with(&[3; 18]).is_err());
    }

    #[test]
    fn only_a_changed_number_that_is_not_averaged_is_an_alteration() {
        let graph = treat(&["layers.4.weight"], &["layers.1"]).unwrap();
        let initial: Vec<f32> = (0..graph.len()).map(|value| value as f32).collect();
        for block in graph.parameters() {
            let mut model = initial.clone();
            model[block.range().end - 1] += 1.0;
            let found = graph.altered(&initial, &model).map(ParameterSpec::name);
            assert_eq!(found, (block.treatment() != Treatment::Averaged).then(|| block.name()));
        }
        let mut signed = vec![0.0; graph.len()];
        signed[graph.treated(Treatment::Frozen).next().unwrap().range().start] = -0.0;
        assert!(graph.altered(&vec![0.0; graph.len()], &signed).is_some(), "bits count");
    }

    proptest! {
        /// In place or block by block: the averaged entries in order, and back to where they came from.
        #[test]
        fn what_travels_are_the_averaged_entries_in_order(choice in proptest::collection::vec(0..3_u8, 20)) {
            let spec: ModelSpec = toml::from_str::<ModelSection>(LAYERS).unwrap().architecture;
            let graph = spec.graph([1, 4, 4], 2).unwrap();
            let treatments: Vec<_> = graph.parameters().iter().zip(choice).map(|(block, choice)| {
                if block.kind() == "batch-norm" { Treatment::Local } else {
                    [Treatment::Averaged, Treatment::Frozen, Treatment::Local][usize::from(choice)]
                }
            }).collect();
            let Ok(graph) = graph.with_treatments(&treatments) else { return Ok(()) };
            let model: Vec<f32> = (1..=graph.len()).map(|value| value as f32).collect();
            let slow: Vec<f32> = graph.averaged().flat_map(|block| model[block.range()].to_vec()).collect();
            let travels = graph.compact(model.clone());
            prop_assert_eq!(&travels, &slow);
            prop_assert_eq!(travels.len(), graph.averaged_len());
            let back = graph.spread(travels);
            for block in graph.parameters() {
                let averaged = block.treatment() == Treatment::Averaged;
                let want = if averaged { model[block.range()].to_vec() } else { vec![0.0; block.len()] };
                prop_assert_eq!(&back[block.range()], want);
            }
            let own = graph.local_part(&model);
            let mut other = vec![0.0; graph.len()];
            prop_assert_eq!(graph.put_local(&mut other, &own), true);
            prop_assert_eq!(graph.local_part(&other), own.clone());
            prop_assert_eq!(other.iter().filter(|value| **value != 0.0).count(), own.len());
            prop_assert_eq!(graph.put_local(&mut other, &[own, vec![1.0]].concat()), false);
        }

        /// A hostile study's treatments never panic.
        #[test]
        fn any_treatments_are_taken_or_refused(choice in proptest::collection::vec(any::<u8>(), 0..24)) {
            let short = plain().to_canonical();
            let mut bytes = [&[0xa3], &short[1..], &[2, 0x80 + choice.len().min(23) as u8]].concat();
            bytes.extend(choice.iter().take(23));
            let _ = ModelGraph::from_canonical(&bytes);
        }
    }
}
