//! The messages with which pairs of sites agree on keys.

use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::Statement;
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

use crate::numbering::{Attempt, Epoch, MAX_ATTEMPTS_PER_EPOCH};

/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203).
pub const KEM_KEY_BYTES: usize = 1184;
/// Bytes of an ML-KEM-768 ciphertext (FIPS 203).
pub const KEM_CIPHERTEXT_BYTES: usize = 1088;
/// The coordinator opens a new generation of pair keys.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EpochOpening {
    /// Hash of the signed study.
    #[n(0)]
    pub study: Hash,
    /// Hash of the roster that the study is pinned to.
    #[n(1)]
    pub roster: Hash,
    /// Its number.
    #[n(2)]
    pub epoch: Epoch,
    /// The attempt that the first keys of all pairs belong to.
    #[n(3)]
    pub first_attempt: Attempt,
    /// How many attempts it serves, at most [`MAX_ATTEMPTS_PER_EPOCH`].
    #[n(4)]
    pub attempts: u32,
}

impl EpochOpening {
    /// Whether the epoch serves an attempt.
    pub fn serves(&self, attempt: Attempt) -> bool {
        attempt
            .get()
            .checked_sub(self.first_attempt.get())
            .is_some_and(|steps| steps < self.attempts.min(MAX_ATTEMPTS_PER_EPOCH))
    }
}

impl Statement for EpochOpening {
    const LABEL: &'static str = "epoch-opening";
}

/// A site's public keys for one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Advert {
    /// Hash of the signed study.
    #[n(0)]
    pub study: Hash,
    /// Hash of the roster.
    #[n(1)]
    pub roster: Hash,
    /// The epoch.
    #[n(2)]
    pub epoch: Epoch,
    /// Whose keys.
    #[n(3)]
    pub site: SiteName,
    /// X25519 public key.
    #[n(4)]
    pub x25519: ByteArray<32>,
    /// ML-KEM-768 encapsulation key.
    #[n(5)]
    pub ml_kem: ByteArray<KEM_KEY_BYTES>,
    /// Where the study sums groups: what the nonce that this site will reveal is.
    #[n(6)]
    pub nonce: Option<Hash>,
}

impl Advert {
    /// The hash that contexts and pair keys carry.
    pub fn hash(&self) -> Hash {
        Hash::of_value("advert-hash", self)
    }
}

impl Statement for Advert {
    const LABEL: &'static str = "advert";
}

/// The ciphertext that the lower name of a pair sends to the higher.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Encapsulation {
    /// Hash of the signed study.
    #[n(0)]
    pub study: Hash,
    /// The epoch.
    #[n(1)]
    pub epoch: Epoch,
    /// The lower name.
    #[n(2)]
    pub from: SiteName,
    /// The higher name.
    #[n(3)]
    pub to: SiteName,
    /// Hash of the lower name's advert.
    #[n(4)]
    pub from_advert: Hash,
    /// Hash of the higher name's advert.
    #[n(5)]
    pub to_advert: Hash,
    /// ML-KEM-768 ciphertext.
    #[n(6)]
    pub ciphertext: ByteArray<KEM_CIPHERTEXT_BYTES>,
}

impl Statement for Encapsulation {
    const LABEL: &'static str = "encapsulation";
}

/// One end of a pair proves to the other that it has the same key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Confirmation {
    /// Hash of the signed study.
    #[n(0)]
    pub study: Hash,
    /// The epoch.
    #[n(1)]
    pub epoch: Epoch,
    /// Who confirms.
    #[n(2)]
    pub from: SiteName,
    /// To whom.
    #[n(3)]
    pub to: SiteName,
    /// The tag.
    #[n(4)]
    pub tag: ByteArray<32>,
}

impl Statement for Confirmation {
    const LABEL: &'static str = "confirmation";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_serves_a_hundred_attempts_at_most() {
        let at = |number| Attempt::new(number).unwrap();
        let hash = Hash::of_bytes(b"hash");
        let served = |attempts| {
            let (epoch, first_attempt) = (Epoch::new(1).unwrap(), at(5));
            let opening = EpochOpening { study: hash, roster: hash, epoch, first_attempt, attempts };
            (1..300).filter(|number| opening.serves(at(*number))).collect::<Vec<_>>()
        };
        assert_eq!(served(3), [5, 6, 7]);
        assert_eq!(served(200), (5..105).collect::<Vec<_>>(), "whatever an opening says");
    }
}
