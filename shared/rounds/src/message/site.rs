//! From a site to the coordinator.

use consilium_secagg::alarm::Alarm;
use consilium_secagg::context::{CtxHash, Purpose};
use consilium_secagg::message::{
    Advert, Answer, Confirmation, DealerVerdict, Encapsulation, Envelope, Reveal, SurvivorsSignature, Upload,
};
use consilium_secagg::numbering::{Attempt, Epoch};
use consilium_study::canonical::Canonical as _;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;
use consilium_study::statement::{Acceptance, Readiness, Refusal};
use minicbor::{Decode, Encode};
use serde::Serialize;

use super::{DirectiveId, MAX_LIST, in_batches_of};
use crate::reason::{Decline, Withdrawal};

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
    /// A person at the site allows this model to be opened once more with other survivors than these.
    #[n(16)]
    Consent(#[n(0)] Binding),
    /// The site never wrote these survivors down for this model: it needs no person to go on with others.
    #[n(17)]
    Unbound(#[n(0)] Binding),
    /// The site's nonce in an epoch's draw of groups.
    #[n(18)]
    Reveal(#[n(0)] Signed<Reveal>),
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

/// What the next sum would open again, and the survivors of an earlier one that bind whoever wrote them down.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Binding {
    /// The starting model; in an evaluation the candidate.
    #[n(0)]
    pub model: Hash,
    /// What for.
    #[n(1)]
    pub purpose: Purpose,
    /// The model that an evaluation compares with.
    #[n(2)]
    pub baseline: Option<Hash>,
    /// Whose vectors were in the earlier sum, as the coordinator has it.
    #[n(3)]
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
