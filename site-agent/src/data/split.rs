//! Which patients are held out.
//!
//! Where a source brings no split of its own, a patient's side follows from a keyed hash of the
//! patient's name alone. So all pictures of a patient are on one side, a patient keeps the side when
//! the cohort grows or another study comes, and nobody without the site's key can tell the side.

use std::fmt;

use aws_lc_rs::hmac;
use consilium_study::hash::Hash;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::local::Patient;

/// A side of the split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Trained on.
    Train,
    /// Held out for evaluation.
    HeldOut,
}

/// Who a case is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A named patient.
    Patient(&'a Patient),
    /// Nobody is named: the case is its own patient, told by its content.
    Unnamed(&'a Hash),
}

/// The site's own key for splitting. It never leaves the site.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SplitKey([u8; 32]);

impl SplitKey {
    /// A key from 32 random bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The side of a subject when the share `holdout` of all is to be held out.
    pub fn side(&self, subject: Subject<'_>, holdout: f64) -> Side {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut mac = hmac::Context::with_key(&key);
        match subject {
            Subject::Patient(patient) => {
                mac.update(b"consilium/v1/split/patient\0");
                mac.update(patient.reveal().as_bytes());
            }
            Subject::Unnamed(content) => {
                mac.update(b"consilium/v1/split/content\0");
                mac.update(content.as_bytes());
            }
        }
        let tag = mac.sign();
        let first: [u8; 8] = tag.as_ref()[..8].try_into().expect("the tag has 32 bytes");
        // 53 bits are exact in f64, so every share from 0 to 1 behaves as written.
        let drawn = (u64::from_be_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64;
        if drawn < holdout { Side::HeldOut } else { Side::Train }
    }
}

impl fmt::Debug for SplitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SplitKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held_out(key: u8, share: f64) -> Vec<bool> {
        let key = SplitKey::new([key; 32]);
        (0..2000)
            .map(|number| {
                let patient = Patient::new(format!("p{number}"));
                key.side(Subject::Patient(&patient), share) == Side::HeldOut
            })
            .collect()
    }

    #[test]
    fn the_share_is_kept_and_depends_on_the_key() {
        for share in [0.1, 0.2, 0.5] {
            let count = held_out(1, share).iter().filter(|&&held| held).count() as f64;
            // Four standard deviations.
            assert!((count - 2000.0 * share).abs() < 4.0 * (2000.0 * share * (1.0 - share)).sqrt());
        }
        assert!(held_out(1, 0.0).iter().all(|&held| !held));
        assert_ne!(held_out(1, 0.2), held_out(2, 0.2));
    }

    proptest! {
        /// More held out means: the same patients, and some more.
        #[test]
        fn nobody_leaves_the_held_out_side_when_it_grows(key: u8, small in 0.0_f64..1.0, more in 0.0_f64..1.0) {
            let larger = small + (1.0 - small) * more;
            for (before, after) in held_out(key, small).iter().zip(held_out(key, larger)) {
                prop_assert!(!before || after);
            }
        }
    }
}
