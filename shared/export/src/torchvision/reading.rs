//! Weights that torchvision published, or that somebody trained there, as a model of a graph.

use std::collections::BTreeSet;

use consilium_study::graph::{ModelGraph, ParameterSpec};
use consilium_study::model_file::other_kind;
use safetensors::{Dtype, SafeTensors};

use super::NotInTorchvision;
use super::network::Network;

/// A model that was read from a file of torchvision.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// The numbers, in the graph's order.
    pub model: Vec<f32>,
    /// Whether the last layer is the file's, too.
    pub has_scores: bool,
}

/// Why a file is not a model of the graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// The graph has no names in torchvision.
    #[error(transparent)]
    Graph(#[from] NotInTorchvision),
    /// Not a safetensors file, or a broken one.
    #[error("this is not a whole safetensors file")]
    NotSafetensors,
    /// A tensor is not there.
    #[error("tensor {name} is missing, so the file is of another network")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor that the graph has no place for.
    #[error("the graph has no tensor {name}, so the file is of another network")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape or type.
    #[error("tensor {name} is not f32 of shape {want:?} (its shape is {got:?}{})", other_kind(got, want))]
    Shape {
        /// Its name.
        name: String,
        /// Shape in the file.
        got: Vec<usize>,
        /// Shape in the graph.
        want: Vec<usize>,
    },
    /// A tensor holds infinities or no numbers.
    #[error("tensor {name} holds a value that is not finite")]
    NotFinite {
        /// Its name.
        name: String,
    },
}

/// Reads a safetensors file with torchvision's names as a model of `graph`.
///
/// A file that scores other classes than the graph keeps its last layer to itself, and so does every file where the graph has
/// layers of its own behind the global average pool (numbers beside the picture, more than one layer): those of `start` stay.
/// Everything else has to fit: a ResNet-34 holds all names of a ResNet-18, so names that are left over are an error.
///
/// # Panics
/// When `start` has another length than the graph says.
pub fn from_torchvision(graph: &ModelGraph, start: Vec<f32>, bytes: &[u8]) -> Result<Taken, NotTaken> {
    assert_eq!(start.len(), graph.len(), "a model has as many numbers as its graph");
    let (network, _) = Network::below(graph)?;
    let names = network.names(graph);
    let has_scores = names.len() == graph.parameters().len();
    let file = SafeTensors::deserialize(bytes).map_err(|_| NotTaken::NotSafetensors)?;
    let known: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let is_left = |name: &str| !has_scores && name.split('.').next() == Some(network.head());
    let unknown =
        |name: &&str| !known.contains(name) && !name.ends_with(".num_batches_tracked") && !is_left(name);
    let mut others: Vec<_> = file.names().into_iter().filter(unknown).collect();
    others.sort_unstable();
    if let Some(name) = others.first() {
        return Err(NotTaken::Unknown { name: (*name).to_owned() });
    }
    let mut taken = Taken { model: start, has_scores };
    for (name, block) in names.iter().zip(graph.parameters()) {
        let tensor = file.tensor(name).map_err(|_| NotTaken::Missing { name: name.clone() })?;
        if name.starts_with(network.head()) && scores_others(tensor.shape(), block) {
            taken.has_scores = false;
            continue;
        }
        if tensor.dtype() != Dtype::F32 || tensor.shape() != block.shape() {
            let (got, want) = (tensor.shape().to_vec(), block.shape().to_vec());
            return Err(NotTaken::Shape { name: name.clone(), got, want });
        }
        for (out, value) in taken.model[block.range()].iter_mut().zip(tensor.data().as_chunks::<4>().0) {
            *out = f32::from_le_bytes(*value);
            if !out.is_finite() {
                return Err(NotTaken::NotFinite { name: name.clone() });
            }
        }
    }
    Ok(taken)
}

/// Whether a block of the last layer is of the graph's, but for the number of classes.
fn scores_others(got: &[usize], block: &ParameterSpec) -> bool {
    got.len() == block.shape().len() && got[0] != block.shape()[0] && got[1..] == block.shape()[1..]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use consilium_study::graph::{CaseShape, Layer, Linear, ModelSection};
    use consilium_study::model_file::{Entry, header};

    use super::super::network::NETWORKS;
    use super::super::tests::{file, listed, preset};
    use super::super::to_torchvision;
    use super::*;

    #[test]
    fn what_was_written_comes_back() {
        let written = file(preset("preset = \"resnet18\""));
        let graph = &written.identity.graph;
        let bytes = to_torchvision(&written).unwrap();
        let taken = from_torchvision(graph, vec![-1.0; graph.len()], &bytes).unwrap();
        assert!(taken.has_scores && taken.model == written.model);
    }

    #[test]
    fn a_file_of_other_classes_keeps_its_last_layer() {
        let written = file(preset("preset = \"resnet18\""));
        let mut layers = written.identity.graph.layers().to_vec();
        let Some(Layer::Linear(last)) = layers.last_mut() else { unreachable!("a ResNet ends so") };
        last.outputs = 5;
        let graph = ModelGraph::new([3, 64, 64], layers).unwrap();
        let start = vec![-1.0; graph.len()];
        let taken = from_torchvision(&graph, start, &to_torchvision(&written).unwrap()).unwrap();
        assert!(!taken.has_scores);
        let body = graph.len() - 5 * 512 - 5;
        assert_eq!(taken.model[..body], written.model[..body]);
        assert_eq!(taken.model[body..], vec![-1.0; 5 * 512 + 5]);
    }

    /// What follows the features is the graph's own: ages beside the picture, or more than one layer.
    #[test]
    fn features_are_taken_below_layers_of_the_graphs_own() {
        let written = file(preset("preset = \"resnet18\""));
        let bytes = to_torchvision(&written).unwrap();
        let body = written.model.len() - 2 * 512 - 2;
        let with_ages = toml::from_str::<ModelSection>("preset = \"resnet18\"").unwrap();
        let with_ages = with_ages.graph(CaseShape::new([3, 64, 64], 2), 2).unwrap();
        let mut layers = written.identity.graph.layers().to_vec();
        layers.insert(layers.len() - 1, Layer::Linear(Linear { outputs: 512, bias: true }));
        let with_hidden = ModelGraph::new([3, 64, 64], layers).unwrap();
        for graph in [with_ages, with_hidden] {
            let taken = from_torchvision(&graph, vec![-1.0; graph.len()], &bytes).unwrap();
            assert!(!taken.has_scores);
            assert_eq!(taken.model[..body], written.model[..body]);
            assert_eq!(taken.model[body..], vec![-1.0; graph.len() - body]);
            let larger = to_torchvision(&file(listed(&NETWORKS[1], &Layer::BatchNorm))).unwrap();
            let refused = from_torchvision(&graph, vec![0.0; graph.len()], &larger).unwrap_err();
            assert!(matches!(refused, NotTaken::Unknown { .. }), "{refused}");
            let unnamed = to_torchvision(&file(graph)).unwrap_err();
            assert!(matches!(unnamed, NotInTorchvision::Layer { index: 20 | 21, .. }), "{unnamed}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let graph = |index: usize| listed(&NETWORKS[index], &Layer::BatchNorm);
        let write = |index: usize| to_torchvision(&file(graph(index))).unwrap();
        let refusal = |graph: &ModelGraph, bytes: &[u8]| {
            from_torchvision(graph, vec![0.0; graph.len()], bytes).unwrap_err().to_string()
        };
        let error = refusal(&graph(0), &write(1));
        assert_eq!(error, "the graph has no tensor layer1.2.bn1.bias, so the file is of another network");
        let error = refusal(&graph(1), &write(0));
        assert_eq!(error, "tensor layer1.2.conv1.weight is missing, so the file is of another network");
        let small = preset("preset = \"resnet18\"");
        let error = refusal(&small, &write(0));
        assert_eq!(
            error,
            "tensor conv1.weight is not f32 of shape [64, 3, 3, 3] (its shape is [64, 3, 7, 7])"
        );
        let mut infinite = file(graph(0));
        infinite.model[64 * 3 * 49] = f32::INFINITY;
        let error = refusal(&graph(0), &to_torchvision(&infinite).unwrap());
        assert_eq!(error, "tensor bn1.weight holds a value that is not finite");
        assert_eq!(refusal(&small, b"no model"), "this is not a whole safetensors file");
        let cut = write(0);
        assert_eq!(refusal(&graph(0), &cut[..cut.len() - 1]), "this is not a whole safetensors file");
        let halves =
            Entry { name: "conv1.weight", dtype: "F16", shape: &[64, 3, 7, 7], bytes: 0..2 * 64 * 3 * 49 };
        let mut bytes = header(&BTreeMap::new(), std::iter::once(halves));
        bytes.resize(bytes.len() + 2 * 64 * 3 * 49, 0);
        assert!(refusal(&graph(0), &bytes).starts_with("tensor conv1.weight is not f32"));
        let none = preset("preset = \"small-cnn\"");
        assert!(refusal(&none, &write(0)).contains("torchvision has no names for this graph"));
    }
}
