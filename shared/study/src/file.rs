//! `study.toml` as written, and how it becomes a plan.
//!
//! Nothing in the file is passed over: unknown keys are refused by the types, and because serde has gaps
//! there (a tagged enum accepts anything beside a kind without fields), what was understood is written
//! out again and has to hold every key of the file.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::document::{
    Aggregation, CHUNK, Data, Evaluation, InvalidStudy, MAX_BYTES, Plan, RING_BITS, Rounds, least_honest,
};
use crate::graph::ModelSection;
use crate::grouping::Groups;
use crate::loss::Loss;
use crate::malformed;
use crate::metric::Metric;
use crate::name::{SiteName, StudyName};
use crate::quantity::{ClipNorm, HumanSize};
use crate::recipe::Training;
use crate::weight::WeightRule;

/// What stands in `study.toml`, before defaults that depend on the rest are filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    format: u32,
    name: StudyName,
    title: String,
    sites: Vec<SiteName>,
    seed: u64,
    data: Data,
    model: ModelSection,
    training: Training,
    rounds: Rounds,
    #[serde(default)]
    aggregation: AggregationSection,
    #[serde(default)]
    evaluation: Evaluation,
}

/// `[aggregation]` as written: what is left out depends on the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AggregationSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    clip_norm: Option<ClipNorm>,
    weight: WeightRule,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_cap: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_honest: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk: Option<HumanSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ring_bits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Groups>,
}

impl AggregationSection {
    fn fill_in(self, sites: usize) -> Aggregation {
        let weight_cap = if self.weight == WeightRule::Equal { 1 } else { 4096 };
        Aggregation {
            clip_norm: self.clip_norm.unwrap_or(ClipNorm::constant(10.0)),
            weight: self.weight,
            weight_cap: self.weight_cap.unwrap_or(weight_cap),
            min_honest: self.min_honest.unwrap_or_else(|| least_honest(sites)),
            chunk: self.chunk.unwrap_or(CHUNK),
            ring_bits: self.ring_bits.unwrap_or(RING_BITS),
            groups: self.groups,
        }
    }
}

/// Reads a file into a plan whose rules are not checked yet.
pub(crate) fn read(text: &str) -> Result<Plan, InvalidStudy> {
    if text.len() > MAX_BYTES {
        return Err(InvalidStudy::TooLong { bytes: text.len() });
    }
    let syntax = |error: toml::de::Error| match malformed::layer(text) {
        Some(layer) => InvalidStudy::Layer(layer),
        None => InvalidStudy::Syntax { what: error.to_string(), key: malformed::key(text, &error) },
    };
    let file: File = toml::from_str(text).map_err(syntax)?;
    let written: Table = toml::from_str(text).map_err(syntax)?;
    let understood = Table::try_from(&file).expect("what was read from a file can be written to one");
    if let Some(path) = table_surplus(&written, &understood) {
        let of_a_layer = malformed::layer(text).filter(|_| path.starts_with("model.layers."));
        return Err(of_a_layer.map_or(InvalidStudy::UnknownKey(path), InvalidStudy::Layer));
    }

    let File { format, name, title, mut sites, seed, data, model, training, mut rounds, .. } = file;
    sites.sort();
    rounds.required.sort();
    // A number of labels beyond 32 bits cannot be the number of classes of a graph either.
    let classes = u32::try_from(data.labels.len()).unwrap_or(u32::MAX);
    // A file without any is refused by the rules, whose words are of labels and not of a layer.
    let classes = classes.max(1);
    let model = model.graph(data.model_input(), classes)?;
    let aggregation = file.aggregation.fill_in(sites.len());
    let mut evaluation = file.evaluation;
    let names =
        |section: &str, key: &str| written.get(section).is_some_and(|section| section.get(key).is_some());
    if !names("evaluation", "recommend") {
        evaluation.recommend = Metric::usual(data.task);
    }
    let training = if names("training", "loss") {
        training
    } else {
        let usual = training.with_loss(Loss::usual(data.task));
        usual.map_err(|error| InvalidStudy::Syntax {
            what: format!("training: {error}"),
            key: Some("training".to_owned()),
        })?
    };
    Ok(Plan { format, name, title, sites, seed, data, model, training, rounds, aggregation, evaluation })
}

/// The path of the first key that is written and was not understood.
fn table_surplus(written: &Table, understood: &Table) -> Option<String> {
    written.iter().find_map(|(key, value)| match understood.get(key) {
        None => Some(key.clone()),
        Some(known) => surplus(value, known).map(|path| format!("{key}.{path}")),
    })
}

fn surplus(written: &Value, understood: &Value) -> Option<String> {
    match (written, understood) {
        (Value::Table(written), Value::Table(understood)) => table_surplus(written, understood),
        (Value::Array(written), Value::Array(understood)) => {
            let mut pairs = written.iter().zip(understood).enumerate();
            pairs.find_map(|(at, (value, known))| surplus(value, known).map(|path| format!("{at}.{path}")))
        }
        _ => None,
    }
}
