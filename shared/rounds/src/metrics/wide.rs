//! Sums that outgrow one word of the ring.

use minicbor::{Decode, Encode};

/// A sum in two ring words: sixteen low bits and the rest, so that the words of 65,536 sites add without a
/// carry getting lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Wide(#[n(0)] u64);

impl Wide {
    /// The largest value one site may add; 48 bits.
    pub const MAX: u64 = (1 << 48) - 1;

    /// A sum of its own.
    pub fn new(value: u64) -> Self {
        Self(value.min(Self::MAX))
    }

    /// The value.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Adds, staying at [`Wide::MAX`] rather than wrapping.
    pub fn add(&mut self, value: u64) {
        self.0 = self.0.saturating_add(value).min(Self::MAX);
    }

    /// Low and high word.
    pub fn words(self) -> [u32; 2] {
        [(self.0 & 0xffff) as u32, (self.0 >> 16) as u32]
    }

    /// The value of a sum of [`Wide::words`], added word by word.
    pub fn from_words([low, high]: [u32; 2]) -> Self {
        Self((u64::from(high) << 16) + u64::from(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Adding words is adding values.
        #[test]
        fn words_add(values in proptest::collection::vec(0u64..1 << 40, 0..200)) {
            let mut words = [0u32; 2];
            for value in &values {
                for (sum, word) in words.iter_mut().zip(Wide::new(*value).words()) {
                    *sum += word;
                }
            }
            prop_assert_eq!(Wide::from_words(words).get(), values.iter().sum::<u64>());
        }
    }
}
