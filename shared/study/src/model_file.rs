//! Model files: safetensors with names, shapes and what the numbers are of.
//!
//! Weights loaded into another architecture, or behind another preprocessing, give plausible and
//! meaningless figures. So a file carries its graph, preprocessing and labels in canonical bytes,
//! reading compares every tensor with that graph, and [`ModelFile::expect`] refuses a file of another
//! identity and says both.
//!
//! The same model has the same bytes: the header is written in sorted order (the crate's own writer
//! keeps metadata in a randomly ordered map), and the body is the flat vector, little-endian.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use crate::canonical::{Canonical, NotCanonical};
use crate::document::Plan;
use crate::graph::ModelGraph;
use crate::hash::Hash;
use crate::preprocessing::Preprocessing;

const FORMAT: &str = "consilium-model/1";

/// What the numbers of a model are of.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct ModelIdentity {
    /// The graph.
    #[n(0)]
    pub graph: ModelGraph,
    /// How pictures become inputs.
    #[n(1)]
    pub preprocessing: Preprocessing,
    /// Name of each class, in the order of the scores.
    #[n(2)]
    pub labels: Vec<String>,
}

impl ModelIdentity {
    /// Hash of graph, preprocessing and labels together.
    pub fn hash(&self) -> Hash {
        Hash::of_value("model-identity", self)
    }
}

/// Where a model comes from; an initial model comes from nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Hash of the study.
    pub study: Hash,
    /// Rounds trained.
    pub round: u32,
}

/// A model with its identity.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFile {
    /// What the numbers are of.
    pub identity: ModelIdentity,
    /// Where they come from.
    pub origin: Option<Origin>,
    /// The numbers, in the graph's order.
    pub model: Vec<f32>,
}

impl ModelFile {
    /// The bytes of a safetensors file. Equal models give equal bytes.
    ///
    /// # Panics
    /// When `model` has another length than the graph says.
    pub fn to_bytes(&self) -> Vec<u8> {
        let ModelIdentity { graph, preprocessing, labels } = &self.identity;
        assert_eq!(self.model.len(), graph.len(), "a model has as many numbers as its graph");
        let mut metadata = BTreeMap::from([
            ("format", FORMAT.to_owned()),
            ("identity", to_hex(&self.identity.to_canonical())),
            // For people and other programs; reading trusts `identity` alone.
            ("graph_hash", graph.hash().to_string()),
            ("labels", json!(labels).to_string()),
            ("mean", preprocessing.mean().to_string()),
            ("std", preprocessing.std().to_string()),
        ]);
        if let Some(origin) = self.origin {
            metadata.insert("study", origin.study.to_string());
            metadata.insert("round", origin.round.to_string());
        }
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!(metadata));
        for block in graph.parameters() {
            let range = block.range();
            let entry = json!({
                "dtype": "F32", "shape": block.shape(), "data_offsets": [range.start * 4, range.end * 4]
            });
            header.insert(block.name().to_owned(), entry);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        // The format wants the body to start at a multiple of eight.
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut bytes = Vec::with_capacity(8 + header.len() + self.model.len() * 4);
        bytes.extend((header.len() as u64).to_le_bytes());
        bytes.extend(header);
        self.model.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        bytes
    }

    /// Reads a file and compares every tensor with the graph that it names.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelFileError> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|_| ModelFileError::NotSafetensors)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|_| ModelFileError::NotSafetensors)?;
        let metadata = header.metadata().as_ref().ok_or(ModelFileError::Unlabelled)?;
        let field = |name: &'static str| metadata.get(name).map(String::as_str);
        if field("format") != Some(FORMAT) {
            return Err(ModelFileError::Unlabelled);
        }
        let identity = from_hex(field("identity").ok_or(ModelFileError::Unlabelled)?);
        let identity = ModelIdentity::from_canonical(&identity.ok_or(ModelFileError::Unlabelled)?)?;
        let origin = match (field("study"), field("round")) {
            (None, None) => None,
            (Some(study), Some(round)) => Some(Origin {
                study: study.parse().map_err(|_| ModelFileError::Origin)?,
                round: round.parse().map_err(|_| ModelFileError::Origin)?,
            }),
            _ => return Err(ModelFileError::Origin),
        };
        if identity.labels.len() != identity.graph.classes() {
            return Err(ModelFileError::Labels {
                labels: identity.labels.len(),
                classes: identity.graph.classes(),
            });
        }
        if tensors.len() != identity.graph.parameters().len() {
            return Err(ModelFileError::TensorCount {
                got: tensors.len(),
                want: identity.graph.parameters().len(),
            });
        }
        // No more room than the file has numbers for, whatever its header claims.
        let mut model = Vec::with_capacity(identity.graph.len().min(bytes.len() / 4));
        for block in identity.graph.parameters() {
            let name = || block.name().to_owned();
            let tensor =
                tensors.tensor(block.name()).map_err(|_| ModelFileError::Missing { name: name() })?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != block.shape() {
                return Err(ModelFileError::Shape {
                    name: name(),
                    got: tensor.shape().to_vec(),
                    want: block.shape().to_vec(),
                });
            }
            let values = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            model.extend(values);
            if model[block.range()].iter().any(|value| !value.is_finite()) {
                return Err(ModelFileError::NotFinite { name: name() });
            }
        }
        Ok(Self { identity, origin, model })
    }

    /// The numbers, if they are of `identity`.
    pub fn expect(self, identity: &ModelIdentity) -> Result<Vec<f32>, ModelFileError> {
        let (file, wanted) = (self.identity.graph.hash(), identity.graph.hash());
        if file != wanted {
            return Err(ModelFileError::OtherGraph { file, wanted });
        }
        if self.identity.preprocessing != identity.preprocessing {
            let (file, wanted) = (self.identity.preprocessing, identity.preprocessing);
            return Err(ModelFileError::OtherPreprocessing { file, wanted });
        }
        if self.identity.labels != identity.labels {
            let wanted = identity.labels.clone();
            return Err(ModelFileError::OtherLabels { file: self.identity.labels, wanted });
        }
        Ok(self.model)
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

/// Why a file is not the model that is wanted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelFileError {
    /// Not a safetensors file, or a broken one.
    #[error("this is not a whole safetensors file")]
    NotSafetensors,
    /// A safetensors file that does not say what its numbers are of.
    #[error("the file does not say which graph its numbers belong to (no {FORMAT} identity)")]
    Unlabelled,
    /// The identity is not canonical, or its graph is not a model.
    #[error("the file's identity: {0}")]
    Identity(#[from] NotCanonical),
    /// Study and round do not read.
    #[error("the file's study and round are not a hash and a number")]
    Origin,
    /// Labels and classes differ in number.
    #[error("the file has {labels} labels for {classes} classes")]
    Labels {
        /// Number of labels.
        labels: usize,
        /// Number of classes.
        classes: usize,
    },
    /// Too many or too few tensors.
    #[error("the file has {got} tensors, its graph has {want}")]
    TensorCount {
        /// Tensors in the file.
        got: usize,
        /// Blocks of the graph.
        want: usize,
    },
    /// A tensor is not there.
    #[error("tensor {name} is missing")]
    Missing {
        /// Name of the block.
        name: String,
    },
    /// A tensor has another shape or type.
    #[error("tensor {name} is not f32 of shape {want:?} (its shape is {got:?})")]
    Shape {
        /// Name of the block.
        name: String,
        /// Shape in the file.
        got: Vec<usize>,
        /// Shape in the graph.
        want: Vec<usize>,
    },
    /// A tensor holds infinities or no numbers.
    #[error("tensor {name} holds a value that is not finite")]
    NotFinite {
        /// Name of the block.
        name: String,
    },
    /// A model of another graph.
    #[error("the file is of graph {file}, wanted is graph {wanted}")]
    OtherGraph {
        /// Hash of the file's graph.
        file: Hash,
        /// Hash of the graph that is wanted.
        wanted: Hash,
    },
    /// A model behind another preprocessing.
    #[error("the file was trained behind {file:?}, wanted is {wanted:?}")]
    OtherPreprocessing {
        /// The file's.
        file: Preprocessing,
        /// What is wanted.
        wanted: Preprocessing,
    },
    /// A model of other classes.
    #[error("the file scores {file:?}, wanted is {wanted:?}")]
    OtherLabels {
        /// The file's.
        file: Vec<String>,
        /// What is wanted.
        wanted: Vec<String>,
    },
}

impl Plan {
    /// What the numbers of every model of this study are of.
    pub fn model_identity(&self) -> ModelIdentity {
        let preprocessing = Preprocessing::new(self.data.mean, self.data.std)
            .expect("a study's mean and deviation were checked with it");
        ModelIdentity { graph: self.model.clone(), preprocessing, labels: self.data.labels.clone() }
    }
}
