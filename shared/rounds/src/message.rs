//! What coordinator and sites say to each other.
//!
//! A [`Letter`] names the study and carries a [`Directive`] (to a site) or a [`SiteMessage`] (from one), as
//! canonical CBOR inside a `bytes` field of the wire. Nothing here is believed because of the connection it
//! came on: what matters is signed, and is checked by the machine that uses it.
//!
//! What a site has to hear is a pure function of the coordinator's state
//! ([`crate::StudyMachine::directives_for`]). So a directive may come any number of times, and a site answers
//! each time as it did the first time; it acknowledges by [`DirectiveId`]. Within one connection directives
//! keep their order, in particular receipts come before the envelopes they belong to.
//!
//! | directive | when | a site answers with |
//! | --- | --- | --- |
//! | `Proposal` | until the study ends | `Decision`, then `Readiness` |
//! | `Opening` | the site has accepted | `Advert` |
//! | `Adverts`, `Encapsulations`, `Confirmations` | until the pair is settled | `Encapsulations`, `Confirmations`, `PairsSettled` |
//! | `Begin` | the site is in the Selection | `Progress` …, `Masked` (and `Envelopes`), or `Withdrawn` |
//! | `Receipts`, `Envelopes` | a dealer's upload is complete | `Opened` |
//! | `Survivors` | the site is in `U` | `Signature` |
//! | `Unmask` | `t` have signed | `Answer` |
//! | `Settled` | an attempt is over | nothing |
//! | `Guilt` | a dealer's guilt is proved | nothing |
//! | `Bound` | the repeat rule holds the study up | `Unbound`, or `Consent` when a person has given it |
//! | `StudyState` | always | nothing |
//!
//! Whatever it will not do it answers with `Declined`. No message is longer than [`MAX_MESSAGE`]; lists are
//! split by [`in_batches`].

mod directive;
mod site;

use std::fmt;

use consilium_study::canonical::{Canonical, NotCanonical};
use consilium_study::hash::Hash;
use minicbor::{Decode, Encode};

pub use self::directive::{Directive, Settled, SettledAs, StudyState};
pub use self::site::{Binding, Decision, Masked, Progress, SiteMessage, Stage};

/// Most bytes of an encoded [`Letter`].
pub const MAX_MESSAGE: usize = 1 << 20;
/// Bytes of a list in one message: what is left beside the other fields.
const MAX_LIST: usize = MAX_MESSAGE - 64 * 1024;

/// A message and the study it is about.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Letter<M> {
    /// The hash of the study.
    #[n(0)]
    pub study: Hash,
    /// What is said.
    #[n(1)]
    pub message: M,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLetter {
    /// Longer than any message is.
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// Not a message.
    #[error(transparent)]
    Bytes(#[from] NotCanonical),
}

impl<M> Letter<M>
where
    Letter<M>: Canonical,
{
    /// The bytes that travel.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_canonical()
    }

    /// Reads what a peer sent.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidLetter> {
        if bytes.len() > MAX_MESSAGE {
            return Err(InvalidLetter::TooLong(bytes.len()));
        }
        Ok(Self::from_canonical(bytes)?)
    }
}

/// Names one directive: the hash of the bytes of its letter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct DirectiveId(#[n(0)] Hash);

impl DirectiveId {
    /// The id of a directive as it travels.
    pub fn of(letter: &[u8]) -> Self {
        Self(Hash::labelled("directive", letter))
    }

    /// An id from its hash, as it travels in an acknowledgement.
    pub const fn from_hash(hash: Hash) -> Self {
        Self(hash)
    }

    /// The hash.
    pub const fn hash(&self) -> &Hash {
        &self.0
    }
}

impl fmt::Debug for DirectiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectiveId({})", self.0.short())
    }
}

/// Splits a list so that each part fits a message. No part is empty; an empty list has no parts.
pub fn in_batches<T: Canonical>(items: Vec<T>) -> Vec<Vec<T>> {
    in_batches_of(items, MAX_LIST)
}

fn in_batches_of<T: Canonical>(items: Vec<T>, limit: usize) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut filled = 0;
    for item in items {
        let length = item.to_canonical().len();
        match batches.last_mut() {
            Some(batch) if filled + length <= limit => {
                filled += length;
                batch.push(item);
            }
            _ => {
                filled = length;
                batches.push(vec![item]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_letter_survives_the_wire_and_is_bounded() {
        let study = Hash::of_bytes(b"study");
        let letter = Letter { study, message: Directive::StudyState(StudyState::Released { model: study }) };
        let bytes = letter.to_bytes();
        assert_eq!(Letter::from_bytes(&bytes), Ok(letter));
        assert_ne!(DirectiveId::of(&bytes), DirectiveId::of(&bytes[1..]));
        let long = vec![0; MAX_MESSAGE + 1];
        let verdict = Letter::<Directive>::from_bytes(&long);
        assert_eq!(verdict, Err(InvalidLetter::TooLong(MAX_MESSAGE + 1)));
    }

    proptest! {
        /// No bytes make decoding panic, and what decodes is canonical.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(letter) = Letter::<Directive>::from_bytes(&bytes) {
                prop_assert_eq!(letter.to_bytes(), bytes.clone());
            }
            if let Ok(letter) = Letter::<SiteMessage>::from_bytes(&bytes) {
                prop_assert_eq!(letter.to_bytes(), bytes);
            }
        }

        /// Batches keep everything, in order, and every batch fits.
        #[test]
        fn batches_keep_everything(lengths in proptest::collection::vec(0usize..300, 0..60), limit in 0usize..600) {
            let items: Vec<String> = lengths.iter().map(|length| "x".repeat(*length)).collect();
            let batches = in_batches_of(items.clone(), limit);
            for batch in &batches {
                let bytes: usize = batch.iter().map(|item| item.to_canonical().len()).sum();
                prop_assert!(bytes <= limit || batch.len() == 1);
            }
            prop_assert_eq!(batches.concat(), items);
        }
    }
}
