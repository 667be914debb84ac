//! Reading a model file tensor by tensor, for those who have no room for the whole.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::{FORMAT, ModelFileError, ModelIdentity, Origin, about};
use crate::canonical::Canonical as _;
use crate::graph::ParameterSpec;
use crate::task::{Range, Task};

/// The longest header that is read, bytes. `resnet18` needs 20 KiB.
pub(super) const LONGEST_HEADER: u64 = 4 << 20;

/// A model file whose header was read and fits the graph that it names; its numbers are still in the file.
#[derive(Debug)]
pub struct ModelReader<R> {
    source: R,
    identity: ModelIdentity,
    origin: Option<Origin>,
    /// Where each block of the graph begins in the file.
    offsets: Vec<u64>,
}

impl<R: Read + Seek> ModelReader<R> {
    /// Reads the header, and compares every tensor that it names with the graph.
    pub fn open(mut source: R) -> Result<Self, ModelFileError> {
        let length = source.seek(SeekFrom::End(0))?;
        source.seek(SeekFrom::Start(0))?;
        let mut header = [0; 8];
        source.read_exact(&mut header)?;
        let header_length = u64::from_le_bytes(header);
        if header_length > LONGEST_HEADER.min(length) {
            return Err(ModelFileError::NotSafetensors);
        }
        let mut header = vec![0; header_length as usize];
        source.read_exact(&mut header)?;
        // The offsets of what parses follow each other without a gap.
        let header: Metadata = serde_json::from_slice(&header).map_err(|_| ModelFileError::NotSafetensors)?;
        let body = 8 + header_length;
        if length.checked_sub(body) != Some(header.data_len() as u64) {
            return Err(ModelFileError::NotSafetensors);
        }
        let (identity, origin) = labels(&header)?;
        let offsets = offsets(&header, &identity)?.into_iter().map(|offset| body + offset as u64);
        Ok(Self { source, origin, offsets: offsets.collect(), identity })
    }

    /// What the numbers are of.
    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    /// What the numbers are of, when no more are wanted.
    pub fn into_identity(self) -> ModelIdentity {
        self.identity
    }

    /// Where the numbers come from.
    pub fn origin(&self) -> Option<Origin> {
        self.origin
    }

    /// Whether the numbers are of `identity` and all finite. Reads the file to its end.
    pub fn check(mut self, identity: &ModelIdentity) -> Result<(), ModelFileError> {
        self.identity.expect(identity)?;
        (0..self.offsets.len()).try_for_each(|index| self.block(index).map(|_| ()))
    }

    /// The numbers of block `index` of the graph, all finite.
    ///
    /// # Panics
    /// When the graph has no such block.
    pub fn block(&mut self, index: usize) -> Result<Vec<f32>, ModelFileError> {
        let mut values = Vec::with_capacity(self.identity.graph.parameters()[index].len());
        self.read_block(index, &mut values)?;
        Ok(values)
    }

    /// All numbers, in the graph's order.
    pub(super) fn all(&mut self) -> Result<Vec<f32>, ModelFileError> {
        // The file is as long as its graph says: opening compared them.
        let mut model = Vec::with_capacity(self.identity.graph.len());
        for index in 0..self.offsets.len() {
            self.read_block(index, &mut model)?;
        }
        Ok(model)
    }

    fn read_block(&mut self, index: usize, values: &mut Vec<f32>) -> Result<(), ModelFileError> {
        let block = &self.identity.graph.parameters()[index];
        self.source.seek(SeekFrom::Start(self.offsets[index]))?;
        let mut piece = [0; 1 << 14];
        let mut left = 4 * block.len();
        while left > 0 {
            let now = left.min(piece.len());
            self.source.read_exact(&mut piece[..now])?;
            for value in piece[..now].as_chunks::<4>().0 {
                let value = f32::from_le_bytes(*value);
                if !value.is_finite() {
                    return Err(ModelFileError::NotFinite { name: block.name().to_owned() });
                }
                values.push(value);
            }
            left -= now;
        }
        Ok(())
    }
}

impl From<io::Error> for ModelFileError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::NotSafetensors,
            kind => Self::Io(kind),
        }
    }
}

fn labels(header: &Metadata) -> Result<(ModelIdentity, Option<Origin>), ModelFileError> {
    let metadata = header.metadata().as_ref().ok_or(ModelFileError::Unlabelled)?;
    let field = |name: &str| metadata.get(name).map(String::as_str);
    if field("format") != Some(FORMAT) {
        return Err(ModelFileError::Unlabelled);
    }
    let identity = from_hex(field("identity").ok_or(ModelFileError::Unlabelled)?);
    let identity = ModelIdentity::from_canonical(&identity.ok_or(ModelFileError::Unlabelled)?)?;
    let hash = |text: &str| text.parse().map_err(|_| ModelFileError::Origin);
    let origin = match (field("study"), field("round"), field("tuned_from")) {
        (None, None, None) => None,
        (Some(study), Some(round), tuned_from) => Some(Origin {
            study: hash(study)?,
            round: round.parse().map_err(|_| ModelFileError::Origin)?,
            tuned_from: tuned_from.map(hash).transpose()?,
        }),
        _ => return Err(ModelFileError::Origin),
    };
    // Of what is left out by a writer before us nothing follows, but for the hash.
    let wanted = about(&identity, origin);
    let differs = |key: &str, value: &str| field(key).map_or(key == "graph_hash", |found| found != value);
    if let Some((key, _)) = wanted.into_iter().find(|(key, value)| differs(key, value)) {
        return Err(ModelFileError::Contradiction { key });
    }
    let (labels, classes) = (identity.labels.len(), identity.graph.classes());
    if labels != classes {
        return Err(ModelFileError::Labels { labels, classes });
    }
    let is_regression = identity.task == Task::Regression;
    if is_regression != identity.range.is_some_and(Range::is_lawful) || is_regression != (classes == 1) {
        return Err(ModelFileError::TaskOfGraph { task: identity.task.name() });
    }
    if identity.graph.is_dense() != identity.task.is_dense() {
        return Err(ModelFileError::TaskOfGraph { task: identity.task.name() });
    }
    let (rows, columns) = (identity.inputs.as_ref(), identity.beside.as_ref().map_or(0, Vec::len));
    let both = rows.is_some() && identity.beside.is_some();
    if both
        || rows.is_some_and(|inputs| inputs.len() != identity.graph.input_len())
        || columns != identity.graph.columns()
    {
        return Err(ModelFileError::OtherInputs);
    }
    Ok((identity, origin))
}

/// Where each block of the graph begins in the body.
fn offsets(header: &Metadata, identity: &ModelIdentity) -> Result<Vec<usize>, ModelFileError> {
    let blocks = identity.graph.parameters();
    let tensors = header.offset_keys().len();
    if tensors != blocks.len() {
        return Err(ModelFileError::TensorCount { got: tensors, want: blocks.len() });
    }
    let offset = |block: &ParameterSpec| {
        let name = || block.name().to_owned();
        let tensor = header.info(block.name()).ok_or_else(|| ModelFileError::Missing { name: name() })?;
        if tensor.dtype != Dtype::F32 || tensor.shape != block.shape() {
            let (got, want) = (tensor.shape.clone(), block.shape().to_vec());
            return Err(ModelFileError::Shape { name: name(), got, want });
        }
        Ok(tensor.data_offsets.0)
    };
    blocks.iter().map(offset).collect()
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
