//! The chain: pair keys of one epoch, stepped forward with every accepted attempt (Ma et al. 2023 set up once
//! for many rounds; the ratchet is ours).
//!
//! All keys of a chain belong to the same attempt. Going to a later attempt hashes every key forward and
//! forgets the earlier ones, so that recorded uploads stay closed after a break-in. The chain is serialised
//! apart from everything else, because its file is kept outside databases and backups.

use std::collections::BTreeMap;

use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::agreement::EpochSecrets;
use crate::numbering::{Attempt, Epoch};
use crate::secret::PairKey;

/// The keys that a site holds for one study.
pub(crate) struct Chain {
    /// Made anew whenever keys were lost; the record carries it too.
    pub(crate) instance: [u8; 16],
    /// The state that this file was written with.
    pub(crate) version: u64,
    pub(crate) epoch: Option<EpochChain>,
}

/// Keys of one epoch.
pub(crate) struct EpochChain {
    epoch: Epoch,
    first: Attempt,
    at: Attempt,
    own: PairKey,
    secrets: Option<EpochSecrets>,
    pairs: BTreeMap<SiteName, Pair>,
}

struct Pair {
    key: PairKey,
    /// The tag that the peer has yet to send.
    expected: Option<Zeroizing<[u8; 32]>>,
}

impl EpochChain {
    /// A chain without pairs, whose keys will belong to `first`.
    pub(crate) fn new(epoch: Epoch, first: Attempt, secrets: EpochSecrets) -> Self {
        let pairs = BTreeMap::new();
        Self { epoch, first, at: first, own: PairKey::random(), secrets: Some(secrets), pairs }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The attempt that the keys belong to.
    pub(crate) fn at(&self) -> Attempt {
        self.at
    }

    /// The secret keys of the epoch, until they are erased.
    pub(crate) fn secrets(&self) -> Option<&EpochSecrets> {
        self.secrets.as_ref()
    }

    /// Erases the secret keys of the epoch: no further pair can be settled.
    pub(crate) fn erase_secrets(&mut self) {
        self.secrets = None;
    }

    /// Takes the first key of a pair, which belongs to the epoch's first attempt, and steps it to where the
    /// chain is. The caller's record sees to it that this happens once per pair.
    pub(crate) fn settle(&mut self, peer: &SiteName, first: PairKey, expected: Zeroizing<[u8; 32]>) {
        let mut key = first;
        for _ in self.first.get()..self.at.get() {
            key = key.step();
        }
        self.pairs.insert(peer.clone(), Pair { key, expected: Some(expected) });
    }

    /// Whether a tag is the one that the peer has to send. A pair that was confirmed before stays confirmed.
    pub(crate) fn confirm(&mut self, peer: &SiteName, tag: &[u8; 32]) -> bool {
        let Some(pair) = self.pairs.get_mut(peer) else { return false };
        let matches = match &pair.expected {
            Some(expected) => expected.ct_eq(tag).into(),
            None => true,
        };
        if matches {
            pair.expected = None;
        }
        matches
    }

    /// Whether the pair has a key, and the peer has shown that it has the same.
    pub(crate) fn is_settled(&self, peer: &SiteName) -> bool {
        self.pairs.get(peer).is_some_and(|pair| pair.expected.is_none())
    }

    /// Whether the pair has a key.
    pub(crate) fn has(&self, peer: &SiteName) -> bool {
        self.pairs.contains_key(peer)
    }

    /// The key of a settled pair at the chain's attempt.
    pub(crate) fn key(&self, peer: &SiteName) -> Option<&PairKey> {
        self.pairs.get(peer).filter(|pair| pair.expected.is_none()).map(|pair| &pair.key)
    }

    /// The key that the site has for itself.
    pub(crate) fn own(&self) -> &PairKey {
        &self.own
    }

    /// Steps all keys to `attempt` and forgets the earlier ones. Never goes back: false where the chain is
    /// already later.
    pub(crate) fn advance(&mut self, attempt: Attempt) -> bool {
        for _ in self.at.get()..attempt.get() {
            self.own = self.own.step();
            for pair in self.pairs.values_mut() {
                pair.key = pair.key.step();
            }
        }
        self.at = self.at.max(attempt);
        self.at == attempt
    }
}

/// The file's content. Its buffers are wiped when it is dropped.
#[derive(Encode, Decode)]
#[cbor(map)]
struct File {
    #[n(0)]
    study: Hash,
    #[n(1)]
    instance: ByteArray<16>,
    #[n(2)]
    version: u64,
    #[n(3)]
    epoch: Option<EpochFile>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct EpochFile {
    #[n(0)]
    epoch: Epoch,
    #[n(1)]
    first: Attempt,
    #[n(2)]
    at: Attempt,
    #[n(3)]
    own: PairKey,
    #[n(4)]
    x25519: ByteVec,
    #[n(5)]
    ml_kem: ByteVec,
    #[n(6)]
    pairs: Vec<PairFile>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct PairFile {
    #[n(0)]
    peer: SiteName,
    #[n(1)]
    key: PairKey,
    #[n(2)]
    expected: ByteVec,
}

impl Drop for EpochFile {
    fn drop(&mut self) {
        self.x25519.as_mut_slice().zeroize();
        self.ml_kem.as_mut_slice().zeroize();
    }
}

impl Drop for PairFile {
    fn drop(&mut self) {
        self.expected.as_mut_slice().zeroize();
    }
}

/// A chain file that is not one, or belongs to another study.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoChain;

impl Chain {
    /// The bytes of the chain file.
    pub(crate) fn to_bytes(&self, study: &Hash) -> Zeroizing<Vec<u8>> {
        let epoch = self.epoch.as_ref().map(|chain| {
            let (x25519, ml_kem) = match &chain.secrets {
                Some(secrets) => {
                    let (x25519, ml_kem) = secrets.parts();
                    (x25519.to_vec(), ml_kem.to_vec())
                }
                None => (Vec::new(), Vec::new()),
            };
            EpochFile {
                epoch: chain.epoch,
                first: chain.first,
                at: chain.at,
                own: chain.own.clone(),
                x25519: x25519.into(),
                ml_kem: ml_kem.into(),
                pairs: chain.pairs.iter().map(|(peer, pair)| PairFile::of(peer, pair)).collect(),
            }
        });
        let file = File { study: *study, instance: self.instance.into(), version: self.version, epoch };
        // Large enough from the start: a buffer that grows would leave keys behind in freed memory.
        let pairs = file.epoch.as_ref().map_or(0, |epoch| epoch.pairs.len());
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096 + pairs * 192));
        minicbor::encode(&file, &mut *bytes).expect("encoding into a vector cannot fail");
        bytes
    }

    /// Reads a chain file of `study`.
    pub(crate) fn from_bytes(bytes: &[u8], study: &Hash) -> Result<Self, NoChain> {
        let file: File = minicbor::decode(bytes).map_err(|_| NoChain)?;
        if file.study != *study {
            return Err(NoChain);
        }
        let epoch = match &file.epoch {
            None => None,
            Some(epoch) => Some(epoch.read()?),
        };
        Ok(Self { instance: *file.instance, version: file.version, epoch })
    }
}

impl EpochFile {
    fn read(&self) -> Result<EpochChain, NoChain> {
        let secrets = if self.x25519.is_empty() && self.ml_kem.is_empty() {
            None
        } else {
            Some(EpochSecrets::from_parts(&self.x25519, &self.ml_kem).ok_or(NoChain)?)
        };
        let pairs = self.pairs.iter().map(PairFile::read).collect::<Result<_, _>>()?;
        Ok(EpochChain {
            epoch: self.epoch,
            first: self.first,
            at: self.at,
            own: self.own.clone(),
            secrets,
            pairs,
        })
    }
}

impl PairFile {
    fn of(peer: &SiteName, pair: &Pair) -> Self {
        let expected = pair.expected.as_ref().map_or_else(Vec::new, |tag| tag.to_vec());
        Self { peer: peer.clone(), key: pair.key.clone(), expected: expected.into() }
    }

    fn read(&self) -> Result<(SiteName, Pair), NoChain> {
        let expected = match self.expected.as_slice() {
            [] => None,
            tag => Some(Zeroizing::new(tag.try_into().map_err(|_| NoChain)?)),
        };
        Ok((self.peer.clone(), Pair { key: self.key.clone(), expected }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SiteName {
        text.parse().unwrap()
    }

    fn chain() -> EpochChain {
        let first = Attempt::new(5).unwrap();
        let mut chain = EpochChain::new(Epoch::new(2).unwrap(), first, EpochSecrets::generate().0);
        chain.settle(&name("b"), PairKey::from_bytes(&[1; 32]), Zeroizing::new([2; 32]));
        chain
    }

    fn at(number: u32) -> Attempt {
        Attempt::new(number).unwrap()
    }

    #[test]
    fn early_and_late_pairs_have_the_same_key_at_an_attempt() {
        let mut early = chain();
        assert!(early.confirm(&name("b"), &[2; 32]));
        let own = early.own().clone();
        assert!(early.advance(at(9)));
        assert_ne!(early.own(), &own);
        let mut late = EpochChain::new(Epoch::new(2).unwrap(), at(5), EpochSecrets::generate().0);
        assert!(late.advance(at(7)));
        late.settle(&name("b"), PairKey::from_bytes(&[1; 32]), Zeroizing::new([2; 32]));
        assert!(late.confirm(&name("b"), &[2; 32]));
        assert!(late.advance(at(9)));
        assert_eq!(early.key(&name("b")), late.key(&name("b")));
        assert_ne!(early.key(&name("b")).unwrap(), &PairKey::from_bytes(&[1; 32]));
        assert!(!late.advance(at(8)), "a chain never goes back");
        assert_eq!(late.at(), at(9));
    }

    #[test]
    fn only_a_confirmed_pair_has_a_key() {
        let mut chain = chain();
        assert!(chain.has(&name("b")) && chain.key(&name("b")).is_none());
        assert!(!chain.confirm(&name("b"), &[3; 32]));
        assert!(!chain.confirm(&name("c"), &[2; 32]));
        assert!(!chain.is_settled(&name("b")));
        assert!(chain.confirm(&name("b"), &[2; 32]) && chain.is_settled(&name("b")));
    }

    #[test]
    fn the_file_holds_everything_and_nothing_decodes_by_accident() {
        let study = Hash::of_bytes(b"study");
        let mut before = Chain { instance: [4; 16], version: 8, epoch: Some(chain()) };
        before.epoch.as_mut().unwrap().advance(at(6));
        let bytes = before.to_bytes(&study);
        let after = Chain::from_bytes(&bytes, &study).unwrap();
        assert_eq!(*after.to_bytes(&study), *bytes);
        assert!(Chain::from_bytes(&bytes, &Hash::of_bytes(b"other")).is_err());
        for length in 0..bytes.len() {
            assert!(Chain::from_bytes(&bytes[..length], &study).is_err());
        }
        let mut erased = after;
        erased.epoch.as_mut().unwrap().erase_secrets();
        let again = Chain::from_bytes(&erased.to_bytes(&study), &study).unwrap();
        assert!(again.epoch.unwrap().secrets().is_none());
    }
}
