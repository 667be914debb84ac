//! safetensors with the names that torchvision gives the weights of its ResNets (He et al. 2016) and DenseNets (Huang et al.
//! 2017).
//!
//! torchvision knows weights by the names of its modules (`layer2.0.downsample.0.weight`), so a graph that is laid
//! out as one of its networks can be loaded there with `strict=True`, and any other cannot. The stem may differ: its
//! names do not depend on the size of the first convolution, on its stride, or on whether a pooling follows. A program
//! that loads the file has to build the stem that the file's metadata names. So it is with the normalisation of ResNets: group
//! normalisation has the names that torchvision gives it as `norm_layer`.

mod network;
mod reading;

use std::collections::BTreeMap;

use consilium_study::graph::{Convolution, Layer};
use consilium_study::model_file::{Entry, ModelFile, header};

use self::network::Network;
pub use self::reading::{NotTaken, Taken, from_torchvision};

/// Why a graph has no names in torchvision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInTorchvision {
    /// A layer that none of its networks has at its place.
    #[error(
        "torchvision has no names for this graph: none of its networks that are known here goes on with layers.{index} ({kind})"
    )]
    Layer {
        /// Number of the layer.
        index: usize,
        /// Its kind.
        kind: &'static str,
    },
    /// A beginning of one of its networks.
    #[error(
        "torchvision has no names for this graph: it ends after {layers} layers, where its networks go on"
    )]
    Ends {
        /// Number of layers.
        layers: usize,
    },
}

/// The bytes of a safetensors file that torchvision's network of the same layout loads with `strict=True`. Equal models
/// give equal bytes.
///
/// # Panics
/// When the model has another length than its graph says.
pub fn to_torchvision(file: &ModelFile) -> Result<Vec<u8>, NotInTorchvision> {
    let graph = &file.identity.graph;
    assert_eq!(file.model.len(), graph.len(), "a model has as many numbers as its graph");
    let network = Network::of(graph)?;
    let names = network.names(graph);
    let counted = names.iter().filter_map(|name| name.strip_suffix("running_mean"));
    let counters: Vec<_> = counted.map(|module| format!("{module}num_batches_tracked")).collect();
    // PyTorch counts batches where momentum is off, and wants the number in the file all the same.
    let counted = 8 * counters.len();
    let numbers = counters.iter().enumerate().map(|(index, name)| Entry {
        name,
        dtype: "I64",
        shape: &[],
        bytes: 8 * index..8 * (index + 1),
    });
    let tensors = names.iter().zip(graph.parameters()).map(|(name, block)| Entry {
        name,
        dtype: "F32",
        shape: block.shape(),
        bytes: counted + 4 * block.range().start..counted + 4 * block.range().end,
    });
    let mut metadata: BTreeMap<_, _> = file.about();
    metadata.insert("architecture", network.name.to_owned());
    metadata.insert("stem", stem_in_words(graph.layers()));
    let mut bytes = header(&metadata, numbers.chain(tensors));
    bytes.resize(bytes.len() + counted, 0);
    bytes.extend(file.model.iter().flat_map(|value| value.to_le_bytes()));
    Ok(bytes)
}

/// What a program that loads the file has to begin its network with.
fn stem_in_words(layers: &[Layer]) -> String {
    let [Layer::Conv2d(conv), _, _, after, ..] = layers else {
        unreachable!("every network begins with a convolution, its normalisation and a rectifier")
    };
    let Convolution { kernel, stride, padding, .. } = conv;
    let pool = match after {
        Layer::MaxPool(pool) => {
            format!("max pool {0}x{0}, stride {1}, padding {2}", pool.size, pool.stride(), pool.padding)
        }
        _ => "no max pool".to_owned(),
    };
    format!("convolution {kernel}x{kernel}, stride {stride}, padding {padding}; {pool}")
}

#[cfg(test)]
mod tests {
    use super::network::{NETWORKS, RECTIFIER};
    use super::*;
    use consilium_study::graph::{Linear, ModelGraph, ModelSection};
    use consilium_study::model_file::{ModelIdentity, Origin};
    use consilium_study::preprocessing::Preprocessing;
    use consilium_study::task::Task;
    use safetensors::{Dtype, SafeTensors};

    /// The state dictionary of `torchvision.models.resnet18(num_classes=2)`, torchvision 0.29.2 (BSD-3-Clause), in its
    /// order: `[(k, list(v.shape)) for k, v in model.state_dict().items()]`, a name and sides on each line.
    const RESNET18: &str = include_str!("torchvision/resnet18.txt");
    /// The same of `resnet50`.
    const RESNET50: &str = include_str!("torchvision/resnet50.txt");
    /// The same of `densenet121`.
    const DENSENET121: &str = include_str!("torchvision/densenet121.txt");

    pub(super) fn file(graph: ModelGraph) -> ModelFile {
        let preprocessing = Preprocessing::new(0.5, 0.25).unwrap();
        let identity = ModelIdentity {
            preprocessing,
            labels: vec!["no".into(), "yes".into()],
            inputs: None,
            task: Task::Classification,
            graph,
            range: None,
            beside: None,
        };
        let origin = Origin { study: identity.hash(), round: 3, tuned_from: None };
        let model = (0..identity.graph.len()).map(|index| index as f32).collect();
        ModelFile { identity, origin: Some(origin), model }
    }

    pub(super) fn preset(text: &str) -> ModelGraph {
        toml::from_str::<ModelSection>(text).unwrap().graph([3, 64, 64], 2).unwrap()
    }

    /// A graph with torchvision's own stem, as a study would list it.
    pub(super) fn listed(network: &Network, norm: &Layer) -> ModelGraph {
        let stem = Convolution {
            filters: 64,
            kernel: 7,
            stride: 2,
            padding: 3,
            groups: 1,
            bias: false,
            dilation: 1,
        };
        let mut layers = vec![Layer::Conv2d(stem), norm.clone(), RECTIFIER];
        layers.extend(network.features(norm));
        layers.push(Layer::Linear(Linear { outputs: 2, bias: true }));
        ModelGraph::new([3, 64, 64], layers).unwrap()
    }

    fn published(text: &str) -> BTreeMap<String, Vec<usize>> {
        let tensor = |line: &str| {
            let mut words = line.split(' ');
            let name = words.next().unwrap().to_owned();
            (name, words.map(|side| side.parse().unwrap()).collect())
        };
        text.lines().map(tensor).collect()
    }

    fn written(bytes: &[u8]) -> BTreeMap<String, Vec<usize>> {
        let tensors = SafeTensors::deserialize(bytes).unwrap();
        let shape = |(name, view): (String, safetensors::tensor::TensorView)| (name, view.shape().to_vec());
        tensors.tensors().into_iter().map(shape).collect()
    }

    #[test]
    fn names_and_shapes_are_those_of_torchvision() {
        let bytes = to_torchvision(&file(listed(&NETWORKS[0], &Layer::BatchNorm))).unwrap();
        assert_eq!(written(&bytes), published(RESNET18));
        let bytes = to_torchvision(&file(listed(&NETWORKS[2], &Layer::BatchNorm))).unwrap();
        assert_eq!(written(&bytes), published(RESNET50));
        let bytes = to_torchvision(&file(preset("preset = \"resnet50\"\nstem = \"imagenet\""))).unwrap();
        assert_eq!(written(&bytes), published(RESNET50));
        let bytes = to_torchvision(&file(preset("preset = \"densenet121\"\nstem = \"imagenet\""))).unwrap();
        assert_eq!(written(&bytes), published(DENSENET121));
        // The small stem differs in the first kernel alone.
        let mut wanted = published(RESNET18);
        wanted.insert("conv1.weight".into(), vec![64, 3, 3, 3]);
        let bytes = to_torchvision(&file(preset("preset = \"resnet18\""))).unwrap();
        assert_eq!(written(&bytes), wanted);
        // Without statistics there is nothing to count.
        wanted.retain(|name, _| !name.contains("running_") && !name.contains("num_batches"));
        let bytes = to_torchvision(&file(preset("preset = \"resnet18\"\nnorm = \"group\""))).unwrap();
        assert_eq!(written(&bytes), wanted);
    }

    #[test]
    fn each_tensor_holds_its_block() {
        let file = file(preset("preset = \"resnet18\""));
        let bytes = to_torchvision(&file).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let about = header.metadata().as_ref().unwrap();
        assert_eq!(about["architecture"], "resnet18");
        assert_eq!(about["stem"], "convolution 3x3, stride 1, padding 1; no max pool");
        assert_eq!((about["labels"].as_str(), about["round"].as_str()), (r#"["no","yes"]"#, "3"));
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for (ours, theirs) in [
            ("layers.1.running_variance", "bn1.running_var"),
            ("layers.7.main.3.weight", "layer2.0.conv2.weight"),
            ("layers.7.shortcut.1.shift", "layer2.0.downsample.1.bias"),
            ("layers.20.weight", "fc.weight"),
        ] {
            let block = file.identity.graph.parameters().iter().find(|block| block.name() == ours).unwrap();
            let view = tensors.tensor(theirs).unwrap();
            assert_eq!(view.dtype(), Dtype::F32);
            let first = f32::from_le_bytes(view.data()[..4].try_into().unwrap());
            assert_eq!((first, view.shape()), (block.range().start as f32, block.shape()), "{theirs}");
        }
        let counter = tensors.tensor("bn1.num_batches_tracked").unwrap();
        assert_eq!((counter.dtype(), counter.data()), (Dtype::I64, &[0; 8][..]));
    }

    #[test]
    fn what_torchvision_has_no_names_for_is_refused_by_name() {
        let refusal = |graph: ModelGraph| to_torchvision(&file(graph)).unwrap_err().to_string();
        let error = refusal(preset("preset = \"small-cnn\""));
        assert!(
            error.ends_with("none of its networks that are known here goes on with layers.0 (conv2d)"),
            "{error}"
        );
        let whole = preset("preset = \"resnet18\"");
        let without = |index: usize| {
            let mut layers = whole.layers().to_vec();
            layers.remove(index);
            ModelGraph::new([3, 64, 64], layers).unwrap()
        };
        // Without its last block it is the beginning of no other ResNet.
        for (index, says) in
            [(2, "layers.2 (residual)"), (4, "layers.4 (residual)"), (18, "layers.18 (global-average-pool)")]
        {
            let error = refusal(without(index));
            assert!(error.ends_with(says), "{error}");
        }
        let mut layers = whole.layers()[..3].to_vec();
        layers.extend([Layer::GlobalAveragePool, Layer::Linear(Linear { outputs: 2, bias: true })]);
        let error = refusal(ModelGraph::new([3, 64, 64], layers).unwrap());
        assert!(error.ends_with("layers.3 (global-average-pool)"), "{error}");
    }
}
