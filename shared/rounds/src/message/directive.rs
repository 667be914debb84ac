//! From the coordinator to a site.

use consilium_secagg::context::{Context, CtxHash};
use consilium_secagg::guilt::DealerGuilt;
use consilium_secagg::message::{
    Advert, Confirmation, DrawCall, Encapsulation, Envelope, EpochOpening, Receipt, Reveal, Survivors,
    UnmaskRequest,
};
use consilium_secagg::numbering::Attempt;
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::sign::Signed;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use serde::Serialize;

use super::Binding;
use crate::reason::Abandonment;

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
    /// The study waits: the next attempt would open `model` again, and some of those whose vectors were in a
    /// sum with it are missing. A site that wrote these survivors down asks a person; another says that it is
    /// not bound.
    #[n(13)]
    Bound(#[n(0)] Binding),
    /// Who takes part in the epoch's draw of groups: give the nonce.
    #[n(14)]
    Draw(#[n(0)] Signed<DrawCall>),
    /// The nonces of all others in it.
    #[n(15)]
    Reveals(#[n(0)] Vec<Signed<Reveal>>),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
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

impl StudyState {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Open => "open",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Closed => "closed",
            Self::Released { .. } => "released",
            Self::Stopped => "stopped",
        }
    }

    /// The recommended model, once there is one.
    pub const fn released(self) -> Option<Hash> {
        match self {
            Self::Released { model } => Some(model),
            _ => None,
        }
    }
}

/// Its word: whatever belongs to a state has a key of its own.
impl Serialize for StudyState {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
