//! Writing before speaking, as types.
//!
//! Whatever a site lets out comes as [`Unsent`], stamped with the state that it follows from. Only a
//! [`Persisted`] proof for exactly that state opens it, and only a successful write makes a proof. A state that
//! moved on in between (a later attempt was accepted) no longer lets the old message out.

use consilium_study::hash::Hash;

/// Where a site's state is kept. Both writes must be durable when they return.
pub trait Store {
    /// Why a write failed.
    type Error;

    /// Writes the chain file of a study beside the one before, which [`Store::save_record`] takes away: after a crash
    /// between the two, the chain that goes with the record is still there. Kept outside databases and backups, under
    /// a key that is replaced with every write, so that earlier contents cannot be read again.
    fn save_chain(&mut self, study: &Hash, chain: &[u8]) -> Result<(), Self::Error>;

    /// Replaces the record of a study and, where it changed, the repeat book, in one transaction. Called after
    /// the chain was saved.
    fn save_record(&mut self, study: &Hash, record: &[u8], book: Option<&[u8]>) -> Result<(), Self::Error>;
}

/// Names one state of one site's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) study: Hash,
    pub(crate) instance: [u8; 16],
    pub(crate) version: u64,
}

/// Proof that a state was written. Made by [`super::SiteMachine::persist`] alone.
#[derive(Debug)]
#[must_use]
pub struct Persisted(pub(crate) Stamp);

/// A message that must not leave before the state it follows from was written.
#[derive(Debug)]
#[must_use]
pub struct Unsent<T> {
    message: T,
    stamp: Stamp,
}

/// The proof is for another state than the one the message follows from: ask the machine again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state was written, but not the one that this message follows from")]
pub struct OtherState;

impl<T> Unsent<T> {
    pub(crate) fn new(message: T, stamp: Stamp) -> Self {
        Self { message, stamp }
    }

    /// The message, now that its state was written.
    pub fn open(self, proof: &Persisted) -> Result<T, OtherState> {
        if self.stamp == proof.0 { Ok(self.message) } else { Err(OtherState) }
    }
}
