//! The published test vectors under `tests/vectors`: made here once, and checked here and by the Python reference
//! in `tests/reference`, which was written from the specification page alone.
//!
//! `CONSILIUM_WRITE_VECTORS=1 cargo test --release --workspace --lib published_vectors` writes new ones.

mod groups;
mod packed;
mod pieces;
mod transcript;
pub(crate) mod verify;

use std::path::PathBuf;

use serde_json::Value;

/// A published file, and what makes it.
type Made = (&'static str, fn() -> Value);

const FILES: [Made; 8] = [
    ("round-train.json", transcript::train),
    ("round-packed.json", transcript::packed),
    ("round-evaluate.json", transcript::evaluate),
    ("streams.json", pieces::streams),
    ("shamir.json", pieces::shamir),
    ("quantiser.json", pieces::quantiser),
    ("groups.json", groups::make),
    ("packed.json", packed::packed),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors")
}

#[test]
fn published_vectors_hold() {
    let write = std::env::var_os("CONSILIUM_WRITE_VECTORS").is_some();
    for (name, make) in FILES {
        let path = folder().join(name);
        if write {
            let mut text = serde_json::to_string_pretty(&make()).unwrap();
            text.push('\n');
            std::fs::write(&path, text).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        verify::file(&serde_json::from_str(&text).unwrap());
    }
}

/// A transcript that is made now is one that the checks take, and a changed one is not.
#[test]
fn the_checks_take_what_the_machines_say_and_nothing_else() {
    let honest = transcript::train();
    verify::file(&honest);
    for place in ["/sum", "/vectors/site-001/masked", "/dealings/site-000/shares/2/1", "/pairs/0/key"] {
        let mut file = honest.clone();
        flip(file.pointer_mut(place).unwrap());
        let noticed = std::panic::catch_unwind(|| verify::file(&file)).is_err();
        assert!(noticed, "a change of {place}");
    }
}

fn flip(hex: &mut Value) {
    let text = hex.as_str().unwrap();
    let first = if text.starts_with('0') { "1" } else { "0" };
    *hex = Value::String(format!("{first}{}", &text[1..]));
}

fn hex(bytes: &[u8]) -> Value {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Value::String(digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect())
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no byte string"));
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn unhex_32(value: &Value) -> [u8; 32] {
    unhex(value).try_into().unwrap()
}

fn words_hex(words: &[u32]) -> Value {
    hex(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
}

fn words_of(value: &Value) -> Vec<u32> {
    unhex(value).as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn floats_hex(floats: &[f32]) -> Value {
    hex(&floats.iter().flat_map(|float| float.to_le_bytes()).collect::<Vec<_>>())
}

fn floats_of(value: &Value) -> Vec<f32> {
    words_of(value).into_iter().map(f32::from_bits).collect()
}
