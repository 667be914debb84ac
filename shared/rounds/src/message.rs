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
//! | `StudyState` | always | nothing |
//!
//! Whatever it will not do it answers with `Declined`. No message is longer than [`MAX_MESSAGE`]; lists are
//! split by [`in_batches`].

use std::fmt;

use consilium_secagg::alarm::Alarm;
use consilium_secagg::context::{Context, CtxHash, Purpose};
use consilium_secagg::guilt::DealerGuilt;
use consilium_secagg::message::{
    Advert, Answer, Confirmation, DealerVerdict, Encapsulation, Envelope, EpochOpening, Receipt, Survivors,
    SurvivorsSignature, UnmaskRequest, Upload,
};
use consilium_secagg::numbering::{Attempt, Epoch};
use consilium_study::canonical::{Canonical, NotCanonical};
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;
use consilium_study::statement::{Acceptance, Readiness, Refusal};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use serde::Serialize;

use crate::reason::{Abandonment, Decline, Withdrawal};

/// Most bytes of an encoded [`Letter`].
pub const MAX_MESSAGE: usize = 1 << 20;
/// Bytes of a list in one message: what is left beside the other fields.
const MAX_LIST: usize = MAX_MESSAGE - 64 * 1024;

/// A message and the study it is about.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Letter<M> {
    /// [`Study::hash`].
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

/// From the coordinator to a site.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Directive {
    /// A study asks for the site's decision. The initial model is fetched by the hash in the study.
    #[n(0)]
    Proposal {
        /// The study, signed by an operator.
        #[n(0)]
        study: Signed<Study>,
        /// The signed roster that the study is pinned to, as the identity crate writes it.
        #[n(1)]
        roster: ByteVec,
    },
    /// Where the study stands. It can only make a site do less.
    #[n(1)]
    StudyState(#[n(0)] StudyState),
    /// A generation of pair keys begins.
    #[n(2)]
    Opening(#[n(0)] Signed<EpochOpening>),
    /// Public keys of other sites.
    #[n(3)]
    Adverts(#[n(0)] Vec<Signed<Advert>>),
    /// Ciphertexts for this site.
    #[n(4)]
    Encapsulations(#[n(0)] Vec<Signed<Encapsulation>>),
    /// Tags for this site.
    #[n(5)]
    Confirmations(#[n(0)] Vec<Signed<Confirmation>>),
    /// An attempt begins: purpose, model, baseline, Selection and layout stand in the context.
    #[n(6)]
    Begin {
        /// Signed by the coordinator.
        #[n(0)]
        context: Signed<Context>,
    },
    /// Receipts of complete uploads, the site's own included.
    #[n(7)]
    Receipts {
        /// The attempt.
        #[n(0)]
        ctx: CtxHash,
        /// Some of the receipts.
        #[n(1)]
        receipts: Vec<Signed<Receipt>>,
    },
    /// Envelopes for this site, from dealers whose upload is complete.
    #[n(8)]
    Envelopes {
        /// The attempt.
        #[n(0)]
        ctx: CtxHash,
        /// Some of the envelopes.
        #[n(1)]
        envelopes: Vec<Envelope>,
    },
    /// `U`, to be signed.
    #[n(9)]
    Survivors {
        /// The attempt.
        #[n(0)]
        ctx: CtxHash,
        /// Whose vectors are in the sum.
        #[n(1)]
        survivors: Survivors,
    },
    /// `t` survivors have signed: give shares and seeds.
    #[n(10)]
    Unmask(#[n(0)] UnmaskRequest),
    /// An attempt is over.
    #[n(11)]
    Settled(#[n(0)] Settled),
    /// A dealer is proved guilty: survivors without it count as the same set.
    #[n(12)]
    Guilt(#[n(0)] Box<DealerGuilt>),
}

/// How the latest attempt of a study ended, and which models the next one may name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Settled {
    /// The attempt.
    #[n(0)]
    pub attempt: Attempt,
    /// Its hash.
    #[n(1)]
    pub ctx: CtxHash,
    /// How it ended.
    #[n(2)]
    pub outcome: SettledAs,
    /// The model that the study has adopted: what the next training starts from.
    #[n(3)]
    pub model: Hash,
    /// A candidate that waits for its evaluation.
    #[n(4)]
    pub candidate: Option<Hash>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SettledAs {
    /// Its sum was opened.
    #[n(0)]
    Opened,
    /// It ended without a sum.
    #[n(1)]
    Abandoned(#[n(0)] Abandonment),
}

/// Where a study stands, as sites are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StudyState {
    /// Waiting for sites to decide.
    #[n(0)]
    Proposed,
    /// Enough sites have accepted; waiting for its start.
    #[n(1)]
    Open,
    /// Rounds are run.
    #[n(2)]
    Running,
    /// No attempt begins until it is resumed; local training stops.
    #[n(3)]
    Paused,
    /// All rounds are done.
    #[n(4)]
    Closed,
    /// Over, with this recommended model.
    #[n(5)]
    Released {
        /// The model.
        #[n(0)]
        model: Hash,
    },
    /// Over, without a release.
    #[n(6)]
    Stopped,
}

/// From a site to the coordinator.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum SiteMessage {
    /// What the site says to the study.
    #[n(0)]
    Decision(#[n(0)] Decision),
    /// What the site has, in gated counts.
    #[n(1)]
    Readiness(#[n(0)] Signed<Readiness>),
    /// The site's public keys of an epoch.
    #[n(2)]
    Advert(#[n(0)] Signed<Advert>),
    /// Ciphertexts for higher names.
    #[n(3)]
    Encapsulations(#[n(0)] Vec<Signed<Encapsulation>>),
    /// Tags for peers.
    #[n(4)]
    Confirmations(#[n(0)] Vec<Signed<Confirmation>>),
    /// All peers with whom the site has confirmed keys of an epoch. Within an epoch the set only grows.
    #[n(5)]
    PairsSettled {
        /// The epoch.
        #[n(0)]
        epoch: Epoch,
        /// The peers.
        #[n(1)]
        with: Vec<SiteName>,
    },
    /// The site cannot use this epoch any more (its chain keys are gone) and waits for the next.
    #[n(6)]
    KeysLost {
        /// The epoch.
        #[n(0)]
        epoch: Epoch,
    },
    /// Work goes on.
    #[n(7)]
    Progress(#[n(0)] Progress),
    /// The masked vector is complete at the site: receipt, chunk hashes and (the first) envelopes.
    #[n(8)]
    Masked(#[n(0)] Masked),
    /// Further envelopes of an upload that was announced by `Masked`.
    #[n(9)]
    Envelopes {
        /// The attempt.
        #[n(0)]
        ctx: CtxHash,
        /// Some of the envelopes.
        #[n(1)]
        envelopes: Vec<Envelope>,
    },
    /// What was found in envelopes.
    #[n(10)]
    Opened {
        /// The attempt.
        #[n(0)]
        ctx: CtxHash,
        /// Per dealer.
        #[n(1)]
        verdicts: Vec<DealerVerdict>,
    },
    /// The site signed these survivors.
    #[n(11)]
    Signature(#[n(0)] Signed<SurvivorsSignature>),
    /// Shares and seeds.
    #[n(12)]
    Answer(#[n(0)] Signed<Answer>),
    /// The site takes no further part in an attempt.
    #[n(13)]
    Withdrawn {
        /// The attempt.
        #[n(0)]
        attempt: Attempt,
        /// Why.
        #[n(1)]
        cause: Withdrawal,
    },
    /// The site will not do what a directive asks.
    #[n(14)]
    Declined {
        /// Which directive.
        #[n(0)]
        directive: DirectiveId,
        /// The attempt it is about, if one.
        #[n(1)]
        attempt: Option<Attempt>,
        /// Why.
        #[n(2)]
        reason: Decline,
    },
    /// Two statements that cannot both be honest.
    #[n(15)]
    Alarm(#[n(0)] Alarm),
    /// A person at the site allows this model to be opened once more with other survivors than before.
    #[n(16)]
    Consent(#[n(0)] Consent),
}

/// What a site says to a study.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Decision {
    /// A person at the site has still to decide.
    #[n(0)]
    Pending,
    /// It takes part.
    #[n(1)]
    Accepted(#[n(0)] Signed<Acceptance>),
    /// It does not, or no longer.
    #[n(2)]
    Refused(#[n(0)] Signed<Refusal>),
}

/// How far a site has come in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Progress {
    /// The attempt.
    #[n(0)]
    pub attempt: Attempt,
    /// What it is doing.
    #[n(1)]
    pub stage: Stage,
    /// Units done. Only growth counts as progress.
    #[n(2)]
    pub done: u64,
    /// Units in all.
    #[n(3)]
    pub total: u64,
}

/// What a site is doing in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum Stage {
    /// Fetching the model.
    #[n(0)]
    Fetching,
    /// Reading and decoding images.
    #[n(1)]
    Loading,
    /// Training.
    #[n(2)]
    Training,
    /// Scoring held-out cases.
    #[n(3)]
    Evaluating,
    /// Masking.
    #[n(4)]
    Masking,
    /// Sending the masked vector.
    #[n(5)]
    Uploading,
}

/// A site's masked vector is complete: everything about it but its bytes.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Masked {
    /// The attempt.
    #[n(0)]
    pub attempt: Attempt,
    /// Receipt, chunk hashes and as many envelopes as fit; the others follow.
    #[n(1)]
    pub upload: Upload,
    /// Milliseconds spent on loading, training and evaluating.
    #[n(2)]
    pub busy_ms: u64,
}

/// A person's leave to open a model once more with other survivors.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Consent {
    /// The starting model, in an evaluation the candidate.
    #[n(0)]
    pub model: Hash,
    /// The purpose.
    #[n(1)]
    pub purpose: Purpose,
    /// The survivors that no longer bind this site.
    #[n(2)]
    pub survivors: Vec<SiteName>,
}

impl SiteMessage {
    /// The messages that announce an upload, each short enough to travel.
    pub fn of_upload(attempt: Attempt, ctx: CtxHash, upload: Upload, busy_ms: u64) -> Vec<Self> {
        let Upload { receipt, envelopes, chunks } = upload;
        // Chunk hashes and receipt stand in the first message; a vector of 16 GiB has 600 kB of them.
        let taken = 64 * chunks.len() + receipt.to_canonical().len();
        let mut batches = in_batches_of(envelopes, MAX_LIST.saturating_sub(taken)).into_iter();
        let envelopes = batches.next().unwrap_or_default();
        let upload = Upload { receipt, envelopes, chunks };
        std::iter::once(Self::Masked(Masked { attempt, upload, busy_ms }))
            .chain(batches.map(|envelopes| Self::Envelopes { ctx, envelopes }))
            .collect()
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
