//! Random numbers that belong to a place: a hospital, a patient.

use consilium_study::hash::Hash;

/// A stream of draws: SplitMix64 (Steele et al. 2014) from a hashed start. Good enough to paint with.
#[derive(Debug, Clone)]
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new(seed: u64, purpose: &str, place: &[u64]) -> Self {
        let mut key = seed.to_be_bytes().to_vec();
        key.extend(place.iter().flat_map(|number| number.to_be_bytes()));
        key.extend(purpose.as_bytes());
        let hash = Hash::labelled("synthetic-picture", &key);
        Self(u64::from_be_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes")))
    }

    pub(super) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn between(&mut self, (low, high): (f64, f64)) -> f64 {
        low + (high - low) * self.unit()
    }

    /// About a standard normal number: twelve uniform ones (only sums, so every machine agrees on every bit).
    pub(super) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}
