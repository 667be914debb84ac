//! How a safetensors file begins.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value, json};

/// A tensor of a file.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type of its numbers, in the format's own word.
    pub dtype: &'static str,
    /// Its shape, slowest axis first; empty for a single number.
    pub shape: &'a [usize],
    /// Where its bytes lie in the body.
    pub bytes: Range<usize>,
}

/// All that stands before the body of a file: the header's length and the header, in sorted order.
pub fn header<'a>(
    metadata: &BTreeMap<&'static str, String>,
    entries: impl Iterator<Item = Entry<'a>>,
) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!(metadata));
    for Entry { name, dtype, shape, bytes } in entries {
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [bytes.start, bytes.end] });
        header.insert(name.to_owned(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // The format wants the body to start at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut header);
    bytes
}
