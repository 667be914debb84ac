//! An entry of the ledger: a signed statement, what kind it is, and when it was recorded.
//!
//! The statement is kept as the bytes that were signed. Short ones stand in the entry; longer ones are
//! files named by their hash, so that an entry stays below C2SP's limit and a bundle stays small. The
//! leaf of the tree is the canonical encoding of the [`Entry`].

use consilium_study::canonical::{Canonical, NotCanonical};
use consilium_study::hash::Hash;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use serde::Serialize;

use crate::files::{Blobs, Unreadable, read_blob};

/// Longest entry. C2SP's own limit is 65,535 bytes.
pub const MAX_ENTRY: usize = 60 * 1024;

/// Longest statement that stands in its entry. Every growth of a log writes the last bundle again, so
/// entries are kept far shorter than they may be.
pub const MAX_INLINE: usize = 8 * 1024;

/// Longest statement at all.
pub const MAX_STATEMENT: usize = 16 * 1024 * 1024;

/// What an entry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The consortium says who belongs to it, with their keys.
    #[n(0)]
    Roster,
    /// An operator proposes a study.
    #[n(1)]
    Study,
    /// A site agrees to take part in a study.
    #[n(2)]
    Acceptance,
    /// A site declines a study and says by which rule.
    #[n(3)]
    Refusal,
    /// A site says what it has, in gated counts.
    #[n(4)]
    Readiness,
    /// The coordinator opens an epoch: a set of keys for many attempts.
    #[n(5)]
    Epoch,
    /// The coordinator fixes what an attempt is about.
    #[n(6)]
    Context,
    /// The coordinator proposes whose updates are in a sum.
    #[n(7)]
    Survivors,
    /// Enough survivors signed for that.
    #[n(8)]
    Agreement,
    /// A sum was opened.
    #[n(9)]
    Opened,
    /// An attempt ended without a sum.
    #[n(10)]
    Abandoned,
    /// A round ended: its candidate was adopted or refused.
    #[n(11)]
    Adoption,
    /// A study is over and recommends a model.
    #[n(12)]
    Release,
    /// A study was started, paused, resumed, stopped or closed.
    #[n(13)]
    Course,
    /// An operator's own signature under such an act, or under a revocation.
    #[n(14)]
    Order,
    /// A site noticed what should not happen.
    #[n(15)]
    Alarm,
    /// A dealer of shares is proved guilty.
    #[n(16)]
    Guilty,
    /// A person at a site allowed other survivors for a starting model.
    #[n(17)]
    Consent,
    /// A site asks to belong to the consortium, and proves that it holds the keys that it asks for.
    #[n(18)]
    Enrolment,
    /// The groups of an epoch were drawn.
    #[n(19)]
    Draw,
}

impl Kind {
    /// The kind as a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Roster => "roster",
            Self::Study => "study",
            Self::Acceptance => "acceptance",
            Self::Refusal => "refusal",
            Self::Readiness => "readiness",
            Self::Epoch => "epoch",
            Self::Context => "context",
            Self::Survivors => "survivors",
            Self::Agreement => "agreement",
            Self::Opened => "opened",
            Self::Abandoned => "abandoned",
            Self::Adoption => "adoption",
            Self::Release => "release",
            Self::Course => "course",
            Self::Order => "order",
            Self::Alarm => "alarm",
            Self::Guilty => "guilty",
            Self::Consent => "consent",
            Self::Enrolment => "enrolment",
            Self::Draw => "draw",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Where the bytes of a signed statement are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
enum Body {
    #[n(0)]
    Inline(#[n(0)] ByteVec),
    #[n(1)]
    Kept {
        #[n(0)]
        hash: Hash,
        #[n(1)]
        length: u64,
    },
}

/// One entry of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    #[n(0)]
    recorded_at_ms: u64,
    #[n(1)]
    kind: Kind,
    #[n(2)]
    body: Body,
}

impl Entry {
    /// Wraps a signed statement. A long one comes back as a blob to be kept under its hash, before the
    /// entry is.
    pub fn new(kind: Kind, statement: Vec<u8>, recorded_at_ms: u64) -> Result<(Self, Option<Blob>), TooLong> {
        if statement.len() > MAX_STATEMENT {
            return Err(TooLong { kind, length: statement.len() });
        }
        if statement.len() <= MAX_INLINE {
            return Ok((Self { recorded_at_ms, kind, body: Body::Inline(statement.into()) }, None));
        }
        let blob = Blob { hash: Hash::of_bytes(&statement), bytes: statement };
        let body = Body::Kept { hash: blob.hash, length: blob.bytes.len() as u64 };
        Ok((Self { recorded_at_ms, kind, body }, Some(blob)))
    }

    /// Reads an entry of a log.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotCanonical> {
        Self::from_canonical(bytes)
    }

    /// The kind that damaged bytes of an entry still tell, for the message about them.
    pub(crate) fn glimpse(bytes: &[u8]) -> Option<Kind> {
        let mut decoder = minicbor::Decoder::new(bytes);
        decoder.map().ok()?;
        (decoder.u8().ok()? == 0).then_some(())?;
        decoder.u64().ok()?;
        (decoder.u8().ok()? == 1).then_some(())?;
        decoder.decode().ok()
    }

    /// When the coordinator recorded it, in milliseconds since 1970.
    pub const fn recorded_at_ms(&self) -> u64 {
        self.recorded_at_ms
    }

    /// What it records.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Plain hash of the signed statement, wherever its bytes are.
    pub fn statement_hash(&self) -> Hash {
        match &self.body {
            Body::Inline(bytes) => Hash::of_bytes(bytes),
            Body::Kept { hash, .. } => *hash,
        }
    }

    /// Length of the signed statement, as the entry says.
    pub fn statement_length(&self) -> u64 {
        match &self.body {
            Body::Inline(bytes) => bytes.len() as u64,
            Body::Kept { length, .. } => *length,
        }
    }

    /// The blob that holds the statement, if it does not stand in the entry.
    pub fn kept_in(&self) -> Option<Hash> {
        match &self.body {
            Body::Inline(_) => None,
            Body::Kept { hash, .. } => Some(*hash),
        }
    }

    /// The bytes of the signed statement.
    pub fn statement(&self, blobs: &impl Blobs) -> Result<Vec<u8>, Unreadable> {
        match &self.body {
            Body::Inline(bytes) => Ok(bytes.to_vec()),
            Body::Kept { hash, length } => {
                let bytes = read_blob(blobs, hash, MAX_STATEMENT as u64)?;
                if bytes.len() as u64 == *length {
                    Ok(bytes)
                } else {
                    Err(Unreadable::Length { blob: *hash, want: *length, got: bytes.len() as u64 })
                }
            }
        }
    }
}

/// A content-addressed part: its name is the plain SHA-256 of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its name.
    pub hash: Hash,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A statement too long to be recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} statement of {length} bytes is too long for the ledger (at most {MAX_STATEMENT})")]
pub struct TooLong {
    /// What was to be recorded.
    pub kind: Kind,
    /// Its length.
    pub length: usize,
}
