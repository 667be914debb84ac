//! Checkpoints: how many entries a log has and what their root is, signed by the log.
//!
//! The text is a C2SP tlog-checkpoint in a C2SP signed note. Origin and key name are the name of the
//! consortium; the key is the coordinator's statement key. A note's text holds no control character but
//! line ends, and every statement's signature input holds a zero byte, so neither passes for the other.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use consilium_study::hash::Hash;
use consilium_study::name::ConsortiumName;
use consilium_study::sign::{SigningKey, VerifyingKey};
use signed_note::{Note, Verifier, VerifierList};
use tlog_tiles::tlog;

use crate::tree::MAX_SIZE;

/// C2SP's number for Ed25519 in a key's encoding.
const ED25519_KEY: u8 = 1;

/// Size and root of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose log it is.
    pub origin: ConsortiumName,
    /// Number of entries.
    pub size: u64,
    /// Root over the entries.
    pub root: Hash,
}

impl Checkpoint {
    /// The signed note of this checkpoint: what the file `checkpoint` holds.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let pair = Ed25519KeyPair::from_seed_unchecked(key.to_seed().as_slice())
            .expect("a signing key's seed is a key");
        let text = self.text();
        let signature = signed_note::Signature::new(
            self.origin.to_string(),
            key_id(&self.origin, &key.verifying_key()),
            pair.sign(&text).as_ref().to_vec(),
        )
        .expect("the name of a consortium is a key name");
        Note::new(&text, &[signature]).expect("the text is one of names and digits").to_bytes()
    }

    fn text(&self) -> Vec<u8> {
        let root = tlog::Hash(*self.root.as_bytes());
        tlog_tiles::Checkpoint::new(self.origin.as_str(), self.size, root, "")
            .expect("the name of a consortium is not empty")
            .to_bytes()
    }
}

/// A checkpoint as found, its signature not yet checked.
#[derive(Debug, PartialEq)]
pub struct ClaimedCheckpoint {
    note: Note,
    claim: Checkpoint,
}

impl ClaimedCheckpoint {
    /// Parses the file `checkpoint`.
    pub fn parse(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let note = Note::from_bytes(bytes).map_err(|_| CheckpointError::Malformed)?;
        let parsed =
            tlog_tiles::Checkpoint::from_bytes(note.text()).map_err(|_| CheckpointError::Malformed)?;
        // Our checkpoints carry no extension, and there is one spelling of each.
        if note.to_bytes() != bytes || !parsed.extension().is_empty() {
            return Err(CheckpointError::Malformed);
        }
        if parsed.size() > MAX_SIZE {
            return Err(CheckpointError::Size(parsed.size()));
        }
        let origin = ConsortiumName::new(parsed.origin()).map_err(|_| CheckpointError::Malformed)?;
        let root = Hash::from_bytes(parsed.hash().0);
        Ok(Self { note, claim: Checkpoint { origin, size: parsed.size(), root } })
    }

    /// What it claims, unchecked: only to find the key to check it with.
    pub fn claim(&self) -> &Checkpoint {
        &self.claim
    }

    /// Checks whose log it is and the log's signature. Signatures of other keys are passed over.
    pub fn verify(&self, origin: &ConsortiumName, key: &VerifyingKey) -> Result<Checkpoint, CheckpointError> {
        if self.claim.origin != *origin {
            return Err(CheckpointError::Origin { got: self.claim.origin.clone(), want: origin.clone() });
        }
        let known = VerifierList::new(vec![Box::new(LogKey { origin: origin.clone(), key: *key })]);
        self.note.verify(&known).map_err(|_| CheckpointError::Signature)?;
        Ok(self.claim.clone())
    }
}

/// Why a checkpoint is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes are not a signed checkpoint.
    #[error("it is not a signed checkpoint")]
    Malformed,
    /// No log has that many entries.
    #[error("it claims {0} entries, more than any log may have")]
    Size(u64),
    /// The checkpoint of somebody else's log.
    #[error("it is of the log of {got}, not of {want}")]
    Origin {
        /// Whose log it is.
        got: ConsortiumName,
        /// Whose log was to be read.
        want: ConsortiumName,
    },
    /// The log's key did not sign this.
    #[error("the signature of the coordinator's key does not match")]
    Signature,
}

struct LogKey {
    origin: ConsortiumName,
    key: VerifyingKey,
}

impl Verifier for LogKey {
    fn name(&self) -> &str {
        self.origin.as_str()
    }

    fn key_id(&self) -> u32 {
        key_id(&self.origin, &self.key)
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.key.as_bytes()).verify(message, signature).is_ok()
    }
}

fn key_id(origin: &ConsortiumName, key: &VerifyingKey) -> u32 {
    signed_note::key_id(origin.as_str(), &[&[ED25519_KEY], key.as_bytes().as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_study::hash::Hash;

    fn origin() -> ConsortiumName {
        "rhine".parse().unwrap()
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: origin(), size: 7, root: Hash::of_bytes(b"root") }
    }

    #[test]
    fn other_implementations_can_read_it() {
        // The reader of the `signed_note` crate, with the key in C2SP's own spelling.
        let key = SigningKey::generate();
        let bytes = checkpoint().sign(&key);
        let note = Note::from_bytes(&bytes).unwrap();
        let dalek_key = [&[ED25519_KEY], key.verifying_key().as_bytes().as_slice()].concat();
        let id = signed_note::key_id("rhine", &dalek_key);
        let line = String::from_utf8(bytes.clone()).unwrap();
        assert!(line.starts_with("rhine\n7\n"), "{line}");
        let vkey = format!("rhine+{id:08x}+{}", base64(&dalek_key));
        let verifier = signed_note::StandardVerifier::new(&vkey).unwrap();
        assert!(note.verify(&VerifierList::new(vec![Box::new(verifier)])).is_ok());
    }

    fn base64(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        assert_eq!(bytes.len() % 3, 0);
        let group = |bytes: &[u8]| {
            let word = u32::from(bytes[0]) << 16 | u32::from(bytes[1]) << 8 | u32::from(bytes[2]);
            [18, 12, 6, 0].map(|shift| ALPHABET[(word >> shift & 63) as usize] as char)
        };
        bytes.chunks(3).flat_map(group).collect()
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = SigningKey::generate();
        let bytes = checkpoint().sign(&key);
        let read = |bytes: &[u8]| ClaimedCheckpoint::parse(bytes)?.verify(&origin(), &key.verifying_key());
        assert_eq!(read(&bytes), Ok(checkpoint()));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&changed).is_err(), "bit {bit} was not noticed");
        }
    }

    #[test]
    fn foreign_keys_and_logs_are_refused() {
        let (key, other) = (SigningKey::generate(), SigningKey::generate());
        let claimed = || ClaimedCheckpoint::parse(&checkpoint().sign(&key)).unwrap();
        assert_eq!(claimed().verify(&origin(), &other.verifying_key()), Err(CheckpointError::Signature));
        let elbe: ConsortiumName = "elbe".parse().unwrap();
        assert!(matches!(claimed().verify(&elbe, &key.verifying_key()), Err(CheckpointError::Origin { .. })));
    }

    #[test]
    fn a_size_that_lies_is_an_error() {
        let key = SigningKey::generate();
        for size in [MAX_SIZE + 1, u64::MAX] {
            let bytes = Checkpoint { size, ..checkpoint() }.sign(&key);
            assert_eq!(ClaimedCheckpoint::parse(&bytes), Err(CheckpointError::Size(size)));
        }
    }
}
