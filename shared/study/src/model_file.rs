//! Model files: safetensors with names, shapes and what the numbers are of.
//!
//! Weights loaded into another architecture, or behind another preprocessing, give plausible and
//! meaningless figures. So a file carries its graph, preprocessing and labels in canonical bytes,
//! reading compares every tensor with that graph, and [`ModelFile::expect`] refuses a file of another
//! identity and says both.
//!
//! The same model has the same bytes: the header is written in sorted order (the crate's own writer
//! keeps metadata in a randomly ordered map), and the body is the flat vector, little-endian.

mod header;
mod reader;

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Seek, Write};

use minicbor::{Decode, Encode};
use serde_json::json;

use crate::canonical::{Canonical, NotCanonical, is_default};
use crate::data::Input;
use crate::document::Plan;
use crate::graph::{ModelGraph, Treatment};
use crate::hash::Hash;
use crate::preprocessing::Preprocessing;
use crate::task::{Range, Task};

pub use self::header::{Entry, header};
use self::reader::LONGEST_HEADER;
pub use self::reader::ModelReader;

const FORMAT: &str = "consilium-model/1";
/// Numbers that are written at once.
const PIECE: usize = 1 << 14;

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
    /// Where cases are rows of a table: what is taken from each.
    #[n(3)]
    pub inputs: Option<Vec<Input>>,
    /// What the scores answer.
    #[n(4)]
    #[cbor(skip_if = "is_default")]
    pub task: Task,
    /// Of a regression: what outputs of 0 and 1 stand for.
    #[n(5)]
    pub range: Option<Range>,
    /// Where numbers lie beside pictures: what is taken from the row of each.
    #[n(6)]
    pub beside: Option<Vec<Input>>,
}

impl ModelIdentity {
    /// Hash of graph, preprocessing and labels together.
    pub fn hash(&self) -> Hash {
        Hash::of_value("model-identity", self)
    }

    /// What is taken from a row of a table: of one that is a case, or of one that lies beside a picture.
    pub fn columns(&self) -> &[Input] {
        self.inputs.as_ref().or(self.beside.as_ref()).map_or(&[], Vec::as_slice)
    }

    /// Most bytes that a file of this identity may have.
    pub fn longest_file(&self) -> u64 {
        8 + LONGEST_HEADER + 4 * self.graph.len() as u64
    }

    /// Whether a file of this identity is one of a study with the `wanted` one.
    pub fn expect(&self, wanted: &Self) -> Result<(), ModelFileError> {
        self.fits(wanted)?;
        if self.graph == wanted.graph { Ok(()) } else { Err(ModelFileError::OtherTreatments) }
    }

    /// Whether a study with the `wanted` identity can start from a file of this one: which layers another study averaged,
    /// froze or left to its sites does not matter.
    pub fn fits(&self, wanted: &Self) -> Result<(), ModelFileError> {
        let (file, graph) = (self.graph.hash(), wanted.graph.hash());
        if file != graph {
            return Err(ModelFileError::OtherGraph { file, wanted: graph });
        }
        if self.preprocessing != wanted.preprocessing {
            let (file, wanted) = (self.preprocessing, wanted.preprocessing);
            return Err(ModelFileError::OtherPreprocessing { file, wanted });
        }
        if self.labels != wanted.labels {
            let (file, wanted) = (self.labels.clone(), wanted.labels.clone());
            return Err(ModelFileError::OtherLabels { file, wanted });
        }
        if self.inputs != wanted.inputs || self.beside != wanted.beside {
            return Err(ModelFileError::OtherInputs);
        }
        if self.range != wanted.range {
            return Err(ModelFileError::OtherRange);
        }
        if self.task != wanted.task {
            return Err(ModelFileError::OtherTask { file: self.task.name(), wanted: wanted.task.name() });
        }
        Ok(())
    }
}

/// Where a model comes from; an initial model comes from nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Hash of the study.
    pub study: Hash,
    /// Rounds trained.
    pub round: u32,
    /// Plain hash of the released file that a hospital adapted to its own cases; none of what a study itself made.
    pub tuned_from: Option<Hash>,
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
        let mut bytes = Vec::with_capacity(self.model.len() * 4);
        self.write_to(&mut bytes).expect("memory takes every byte");
        bytes
    }

    /// Writes what [`ModelFile::to_bytes`] gives, a little at a time.
    ///
    /// # Panics
    /// When `model` has another length than the graph says.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        assert_eq!(self.model.len(), self.identity.graph.len(), "a model has as many numbers as its graph");
        out.write_all(&self.header())?;
        let mut piece = Vec::with_capacity(4 * PIECE);
        for values in self.model.chunks(PIECE) {
            piece.clear();
            piece.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            out.write_all(&piece)?;
        }
        Ok(())
    }

    /// What the file says of itself for people and for other programs, key by key.
    pub fn about(&self) -> BTreeMap<&'static str, String> {
        about(&self.identity, self.origin)
    }

    fn header(&self) -> Vec<u8> {
        let mut metadata = self.about();
        metadata.insert("format", FORMAT.to_owned());
        // Reading goes by the identity and the origin, and refuses a file of which anything else contradicts these.
        metadata.insert("identity", to_hex(&self.identity.to_canonical()));
        let entries = self.identity.graph.parameters().iter().map(|block| Entry {
            name: block.name(),
            dtype: "F32",
            shape: block.shape(),
            bytes: block.range().start * 4..block.range().end * 4,
        });
        header(&metadata, entries)
    }

    /// Reads a file that is in memory: [`ModelFile::read`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelFileError> {
        Self::read(Cursor::new(bytes))
    }

    /// Reads a file and compares every tensor with the graph that it names.
    pub fn read(source: impl Read + Seek) -> Result<Self, ModelFileError> {
        let mut reader = ModelReader::open(source)?;
        let model = reader.all()?;
        Ok(Self { origin: reader.origin(), identity: reader.into_identity(), model })
    }

    /// The numbers, if they are of `identity`.
    pub fn expect(self, identity: &ModelIdentity) -> Result<Vec<f32>, ModelFileError> {
        self.identity.expect(identity)?;
        Ok(self.model)
    }
}

/// What a file of this identity and origin says of itself, besides both.
fn about(identity: &ModelIdentity, origin: Option<Origin>) -> BTreeMap<&'static str, String> {
    let ModelIdentity { graph, preprocessing, labels, inputs, task, range, beside } = identity;
    let mut about = BTreeMap::from([
        ("graph_hash", graph.hash().to_string()),
        ("labels", json!(labels).to_string()),
        ("mean", preprocessing.mean().to_string()),
        ("std", preprocessing.std().to_string()),
    ]);
    if let Some(inputs) = inputs.as_ref().or(beside.as_ref()) {
        about.insert("inputs", json!(inputs).to_string());
    }
    if !is_default(task) {
        about.insert("task", task.name().to_owned());
    }
    if let Some(window) = preprocessing.window() {
        about.insert("window", json!(window).to_string());
    }
    if let Some(range) = range {
        about.insert("range", json!(range).to_string());
    }
    for (key, treatment) in [("frozen", Treatment::Frozen), ("local", Treatment::Local)] {
        let names = graph.names(treatment);
        if !names.is_empty() {
            about.insert(key, json!(names).to_string());
        }
    }
    if let Some(origin) = origin {
        about.insert("study", origin.study.to_string());
        about.insert("round", origin.round.to_string());
        if let Some(released) = origin.tuned_from {
            about.insert("tuned_from", released.to_string());
        }
    }
    about
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// Said of a tensor of the right shape that is not f32.
pub fn other_kind(got: &[usize], want: &[usize]) -> &'static str {
    if got == want { ", but its numbers are of another kind" } else { "" }
}

/// Why a file is not the model that is wanted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelFileError {
    /// Not a safetensors file, or a broken one.
    #[error("this is not a whole safetensors file")]
    NotSafetensors,
    /// The file cannot be read.
    #[error("reading failed: {0}")]
    Io(io::ErrorKind),
    /// A safetensors file that does not say what its numbers are of.
    #[error("the file does not say which graph its numbers belong to (no {FORMAT} identity)")]
    Unlabelled,
    /// The identity is not canonical, or its graph is not a model.
    #[error("the file's identity: {0}")]
    Identity(#[from] NotCanonical),
    /// What is written for people and other programs is not what the identity says.
    #[error(
        "the file contradicts itself: its {key} is not that of its identity, so it was altered; get it anew"
    )]
    Contradiction {
        /// The key.
        key: &'static str,
    },
    /// Study, round and the file that it was adapted from do not read.
    #[error("the file's study, round and tuned_from are not a hash, a number and, where it is there, a hash")]
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
    #[error("tensor {name} is not f32 of shape {want:?} (its shape is {got:?}{})", other_kind(got, want))]
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
    /// A model of a study that treats its layers otherwise.
    #[error("the file is of a study with other frozen or local layers")]
    OtherTreatments,
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
    /// A model of rows, or of pictures with rows beside them, with other inputs.
    #[error("the file was trained on other inputs than are wanted")]
    OtherInputs,
    /// A model that scores pixels where its task is about cases, or cases where it is about pixels.
    #[error("the file's graph cannot answer its own task, {task}")]
    TaskOfGraph {
        /// The file's task.
        task: &'static str,
    },
    /// Outputs stand for other values.
    #[error("the file's outputs stand for values in another range than the study's")]
    OtherRange,
    /// A model that answers another question.
    #[error("the file is of a task of {file}, wanted is {wanted}")]
    OtherTask {
        /// The file's.
        file: &'static str,
        /// What is wanted.
        wanted: &'static str,
    },
}

impl Plan {
    /// What the numbers of every model of this study are of.
    pub fn model_identity(&self) -> ModelIdentity {
        let preprocessing = Preprocessing::new(self.data.mean, self.data.std)
            .expect("a study's mean and deviation were checked with it")
            .behind(self.data.window);
        ModelIdentity {
            graph: self.model.clone(),
            preprocessing,
            labels: self.data.labels.clone(),
            inputs: self.data.inputs.clone(),
            task: self.data.task,
            range: self.data.range,
            beside: self.data.beside.clone(),
        }
    }
}
