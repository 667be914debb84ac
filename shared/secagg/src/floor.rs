//! What no mask gets below: the key stream alone, for measurements.
//!
//! It lies here because generic code runs at its speed only where it is compiled into one unit with its loop, as
//! masks are.

use aes::Aes256;
use aes::cipher::{KeyIvInit, StreamCipher};
use ctr::Ctr64LE;

/// The key stream that masks are made of.
pub struct KeyStream(Ctr64LE<Aes256>);

impl KeyStream {
    /// A stream under a key that everybody knows.
    pub fn new() -> Self {
        Self(Ctr64LE::new(&[7; 32].into(), &[0; 16].into()))
    }

    /// Overwrites `block` so many times with the stream's next bytes.
    pub fn fill(&mut self, block: &mut [u8], times: usize) {
        for _ in 0..times {
            self.0.write_keystream(std::hint::black_box(&mut *block));
        }
    }
}

impl Default for KeyStream {
    fn default() -> Self {
        Self::new()
    }
}
