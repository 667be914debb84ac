//! Statements that exist for the ledger alone: what the coordinator tells, and what operators order. The
//! others are those that travel between the parties.
//!
//! What the coordinator tells is what its round machine recorded, with long lists taken out and named by
//! hash. It names the study by [`Study::hash`](consilium_study::document::Study::hash) and an attempt by the
//! hash of its context, so that none can be read as being about another.

use consilium_rounds::reason::Abandonment;
use consilium_rounds::record::{Adoption, Course, Missing, OpenedSum, Release};
use consilium_secagg::alarm::Alarm;
use consilium_secagg::context::CtxHash;
use consilium_secagg::grouping::DrawProof;
use consilium_secagg::guilt::DealerGuilt;
use consilium_secagg::numbering::Attempt;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::Statement;
use minicbor::{Decode, Encode};

use crate::entry::Kind;
use crate::parts::Parts;

/// The coordinator tells what happened in a study.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Account {
    /// The study.
    #[n(0)]
    pub study: Hash,
    /// What happened.
    #[n(1)]
    pub event: Event,
}

impl Statement for Account {
    const LABEL: &'static str = "account";
}

/// What happened in a study.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Event {
    /// It took another course.
    #[n(0)]
    Course {
        /// What it does now.
        #[n(0)]
        course: Course,
        /// Who said so; the coordinator where a rule did.
        #[n(1)]
        by: Principal,
    },
    /// Survivors were proposed: from here on the attempt counts as opened.
    #[n(1)]
    Survivors {
        /// The attempt.
        #[n(0)]
        context: CtxHash,
        /// Sites and the hashes of their receipts, in the order of names.
        #[n(1)]
        survivors: Vec<(SiteName, Hash)>,
        /// The receipts of complete uploads.
        #[n(2)]
        receipts: Parts,
        /// Members that are no survivors, and why.
        #[n(3)]
        missing: Vec<Missing>,
    },
    /// Enough of them signed.
    #[n(2)]
    Agreement {
        /// The attempt.
        #[n(0)]
        context: CtxHash,
        /// Their signatures.
        #[n(1)]
        signatures: Parts,
    },
    /// The sum was opened.
    #[n(3)]
    Opened(#[n(0)] OpenedSum),
    /// The attempt ended without a sum.
    #[n(4)]
    Abandoned {
        /// The attempt.
        #[n(0)]
        context: CtxHash,
        /// Why.
        #[n(1)]
        cause: Abandonment,
        /// Members that are no survivors, and why.
        #[n(2)]
        missing: Vec<Missing>,
        /// The operator who declared it lost, paused or stopped.
        #[n(3)]
        by: Option<Principal>,
    },
    /// A round's candidate was adopted or refused.
    #[n(5)]
    Adoption(#[n(0)] Box<Adoption>),
    /// The study is over and recommends a model.
    #[n(6)]
    Release(#[n(0)] Release),
    /// A site noticed what should not happen.
    #[n(7)]
    Alarm {
        /// Who noticed.
        #[n(0)]
        site: SiteName,
        /// What.
        #[n(1)]
        alarm: Alarm,
    },
    /// A dealer is proved guilty.
    #[n(8)]
    Guilty {
        /// The dealer.
        #[n(0)]
        dealer: SiteName,
        /// The proof.
        #[n(1)]
        proof: Box<DealerGuilt>,
    },
    /// A person at a site allowed a model to be opened once more with other survivors.
    #[n(9)]
    Consent {
        /// The site.
        #[n(0)]
        site: SiteName,
        /// The model.
        #[n(1)]
        model: Hash,
    },
    /// The groups of an epoch were drawn, with everything that proves it.
    #[n(10)]
    Draw(#[n(0)] Box<DrawProof>),
}

impl Event {
    /// The kind of entry that tells it.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Course { .. } => Kind::Course,
            Self::Survivors { .. } => Kind::Survivors,
            Self::Agreement { .. } => Kind::Agreement,
            Self::Opened(_) => Kind::Opened,
            Self::Abandoned { .. } => Kind::Abandoned,
            Self::Adoption(_) => Kind::Adoption,
            Self::Release(_) => Kind::Release,
            Self::Alarm { .. } => Kind::Alarm,
            Self::Guilty { .. } => Kind::Guilty,
            Self::Consent { .. } => Kind::Consent,
            Self::Draw(_) => Kind::Draw,
        }
    }
}

/// An operator's own word for an act, signed with the operator's key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Order {
    /// When it was signed, in milliseconds since 1970: two orders alike are two orders.
    #[n(0)]
    pub signed_at_ms: u64,
    /// What is ordered.
    #[n(1)]
    pub act: Act,
}

impl Statement for Order {
    const LABEL: &'static str = "order";
}

/// What an operator orders.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Act {
    /// A study takes another course.
    #[n(0)]
    Course {
        /// The study.
        #[n(0)]
        study: Hash,
        /// What it does from now on.
        #[n(1)]
        course: Course,
    },
    /// Give up an attempt whose survivors have been proposed.
    #[n(1)]
    DeclareLost {
        /// The study.
        #[n(0)]
        study: Hash,
        /// The attempt.
        #[n(1)]
        attempt: Attempt,
    },
    /// Speak with a site no more.
    #[n(2)]
    Revoke {
        /// The site.
        #[n(0)]
        site: SiteName,
    },
}
