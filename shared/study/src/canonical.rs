//! Canonical bytes: one value, one encoding.
//!
//! Everything that is signed or hashed is deterministic CBOR (RFC 8949, section 4.2.1). The types
//! derive their codec with integer keys from `minicbor`, which writes definite lengths and shortest
//! integers in index order; decoding encodes again and compares, so a second spelling of the same
//! value never passes.

use minicbor::{Decode, Encode};

/// A value with exactly one encoding. Implemented for every type with a `minicbor` codec.
pub trait Canonical: Encode<()> + for<'b> Decode<'b, ()> {
    /// The canonical encoding of this value.
    fn to_canonical(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding into a vector cannot fail")
    }

    /// Decodes `bytes`, which must be the canonical encoding of a value and nothing more.
    fn from_canonical(bytes: &[u8]) -> Result<Self, NotCanonical> {
        let mut decoder = minicbor::Decoder::new(bytes);
        let value = Self::decode(&mut decoder, &mut ())
            .map_err(|error| NotCanonical::Malformed(error.to_string()))?;
        if decoder.position() != bytes.len() {
            return Err(NotCanonical::Trailing { extra: bytes.len() - decoder.position() });
        }
        if value.to_canonical() != bytes {
            return Err(NotCanonical::NotShortest);
        }
        Ok(value)
    }
}

impl<T: Encode<()> + for<'b> Decode<'b, ()>> Canonical for T {}

/// Whether `value` is its type's default. A field that came later is left out of the bytes then, so that what was signed
/// before it keeps its hash; and one that is written out all the same is no canonical encoding.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Why bytes are not the canonical encoding of a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCanonical {
    /// The bytes do not decode; the text is the decoder's own.
    #[error("bytes do not decode: {0}")]
    Malformed(String),
    /// A value decoded, and bytes were left over.
    #[error("{extra} bytes after the end of the value")]
    Trailing {
        /// Number of bytes left over.
        extra: usize,
    },
    /// The same value has another, canonical encoding.
    #[error("the value is not written in its canonical form")]
    NotShortest,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Sample {
        #[n(0)]
        number: u64,
        #[n(1)]
        text: String,
        #[n(2)]
        maybe: Option<f64>,
    }

    #[test]
    fn a_longer_spelling_of_a_number_is_refused() {
        let short = Sample { number: 7, text: "a".into(), maybe: None }.to_canonical();
        assert_eq!(short, [0xa2, 0x00, 0x07, 0x01, 0x61, 0x61]);
        let long = [0xa2, 0x00, 0x18, 0x07, 0x01, 0x61, 0x61];
        assert_eq!(Sample::from_canonical(&long), Err(NotCanonical::NotShortest));
    }

    #[test]
    fn trailing_bytes_and_unknown_fields_are_refused() {
        let mut bytes = Sample { number: 7, text: "a".into(), maybe: None }.to_canonical();
        bytes.push(0);
        assert_eq!(Sample::from_canonical(&bytes), Err(NotCanonical::Trailing { extra: 1 }));
        let with_unknown = [0xa3, 0x00, 0x07, 0x01, 0x61, 0x61, 0x09, 0x01];
        assert_eq!(Sample::from_canonical(&with_unknown), Err(NotCanonical::NotShortest));
    }

    proptest! {
        /// Whatever decodes encodes to the same bytes, and no input panics.
        #[test]
        fn decoding_is_the_inverse_of_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = Sample::from_canonical(&bytes) {
                prop_assert_eq!(value.to_canonical(), bytes);
            }
        }
    }
}
