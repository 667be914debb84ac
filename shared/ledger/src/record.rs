//! Records: what can be written into the ledger, each a statement signed by who says it.

use consilium_identity::Roster;
use consilium_identity::enrolment::EnrolmentRequest;
use consilium_rounds::record::Record as Happened;
use consilium_secagg::context::Context;
use consilium_secagg::message::EpochOpening;
use consilium_study::canonical::{Canonical, NotCanonical};
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::name::Principal;
use consilium_study::sign::{Signed, SigningKey};
use consilium_study::statement::{Acceptance, Readiness, Refusal};

use crate::entry::{Blob, Kind};
use crate::parts::Parts;
use crate::statement::{Account, Event, Order};

/// A signed statement that the ledger records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// By the consortium: who belongs to it.
    Roster(Signed<Roster>),
    /// By a site that is not on the roster yet: it asks to be.
    Enrolment(Signed<EnrolmentRequest>),
    /// By an operator: a study is proposed.
    Study(Signed<Study>),
    /// By a site: it takes part.
    Acceptance(Signed<Acceptance>),
    /// By a site: it does not.
    Refusal(Signed<Refusal>),
    /// By a site: what it has.
    Readiness(Signed<Readiness>),
    /// By the coordinator: an epoch is open.
    Epoch(Signed<EpochOpening>),
    /// By the coordinator: what an attempt is about.
    Context(Signed<Context>),
    /// By the coordinator: what happened. The kind is that of the event.
    Account(Kind, Signed<Account>),
    /// By an operator: what is ordered.
    Order(Signed<Order>),
}

impl Record {
    /// What it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Roster(_) => Kind::Roster,
            Self::Enrolment(_) => Kind::Enrolment,
            Self::Study(_) => Kind::Study,
            Self::Acceptance(_) => Kind::Acceptance,
            Self::Refusal(_) => Kind::Refusal,
            Self::Readiness(_) => Kind::Readiness,
            Self::Epoch(_) => Kind::Epoch,
            Self::Context(_) => Kind::Context,
            Self::Account(kind, _) => *kind,
            Self::Order(_) => Kind::Order,
        }
    }

    /// Who is said to have signed it.
    pub fn signer(&self) -> &Principal {
        match self {
            Self::Roster(signed) => signed.signer(),
            Self::Enrolment(signed) => signed.signer(),
            Self::Study(signed) => signed.signer(),
            Self::Acceptance(signed) => signed.signer(),
            Self::Refusal(signed) => signed.signer(),
            Self::Readiness(signed) => signed.signer(),
            Self::Epoch(signed) => signed.signer(),
            Self::Context(signed) => signed.signer(),
            Self::Account(_, signed) => signed.signer(),
            Self::Order(signed) => signed.signer(),
        }
    }

    /// The bytes of the signed statement.
    pub fn to_statement(&self) -> Vec<u8> {
        match self {
            Self::Roster(signed) => signed.to_canonical(),
            Self::Enrolment(signed) => signed.to_canonical(),
            Self::Study(signed) => signed.to_canonical(),
            Self::Acceptance(signed) => signed.to_canonical(),
            Self::Refusal(signed) => signed.to_canonical(),
            Self::Readiness(signed) => signed.to_canonical(),
            Self::Epoch(signed) => signed.to_canonical(),
            Self::Context(signed) => signed.to_canonical(),
            Self::Account(_, signed) => signed.to_canonical(),
            Self::Order(signed) => signed.to_canonical(),
        }
    }

    /// Reads a signed statement of a kind. Its signature is not checked here.
    pub fn read(kind: Kind, statement: &[u8]) -> Result<Self, UnreadableRecord> {
        Ok(match kind {
            Kind::Roster => Self::Roster(Signed::from_canonical(statement)?),
            Kind::Enrolment => Self::Enrolment(Signed::from_canonical(statement)?),
            Kind::Study => Self::Study(Signed::from_canonical(statement)?),
            Kind::Acceptance => Self::Acceptance(Signed::from_canonical(statement)?),
            Kind::Refusal => Self::Refusal(Signed::from_canonical(statement)?),
            Kind::Readiness => Self::Readiness(Signed::from_canonical(statement)?),
            Kind::Epoch => Self::Epoch(Signed::from_canonical(statement)?),
            Kind::Context => Self::Context(Signed::from_canonical(statement)?),
            Kind::Order => Self::Order(Signed::from_canonical(statement)?),
            Kind::Survivors
            | Kind::Agreement
            | Kind::Opened
            | Kind::Abandoned
            | Kind::Adoption
            | Kind::Release
            | Kind::Course
            | Kind::Alarm
            | Kind::Guilty
            | Kind::Consent
            | Kind::Draw => {
                let signed = Signed::<Account>::from_canonical(statement)?;
                let told = signed.claim()?.event.kind();
                if told != kind {
                    return Err(UnreadableRecord::OtherKind { told });
                }
                Self::Account(kind, signed)
            }
        })
    }
}

/// Why bytes are no record of a kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableRecord {
    /// They are no such signed statement.
    #[error("not a signed statement of this kind: {0}")]
    Malformed(#[from] NotCanonical),
    /// They tell something else than the entry says.
    #[error("the statement in it is of kind {told}")]
    OtherKind {
        /// What the statement tells.
        told: Kind,
    },
}

/// A record with the blobs that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The record.
    pub record: Record,
    /// To be kept before the record is.
    pub blobs: Vec<Blob>,
}

impl From<Record> for Sealed {
    fn from(record: Record) -> Self {
        Self { record, blobs: Vec::new() }
    }
}

impl Sealed {
    /// Makes a record of what the round machine of a study recorded. What others signed stays as they did;
    /// the rest is signed with the coordinator's key. The same input gives the same bytes, so recording
    /// again after a crash adds nothing.
    pub fn of(happened: &Happened, study: Hash, key: &SigningKey) -> Self {
        let mut blobs = Vec::new();
        let event = match happened {
            Happened::Proposal { study, .. } => return Record::Study(study.clone()).into(),
            Happened::Acceptance(signed) => return Record::Acceptance(signed.clone()).into(),
            Happened::Refusal(signed) => return Record::Refusal(signed.clone()).into(),
            Happened::Readiness(signed) => return Record::Readiness(signed.clone()).into(),
            Happened::Epoch(signed) => return Record::Epoch(signed.clone()).into(),
            Happened::Context(signed) => return Record::Context(signed.clone()).into(),
            Happened::Course { course, by } => Event::Course { course: course.clone(), by: by.clone() },
            Happened::Proposed(proposed) => {
                let (receipts, blob) = Parts::of(&proposed.receipts);
                blobs.push(blob);
                Event::Survivors {
                    context: proposed.ctx,
                    survivors: proposed.survivors.clone(),
                    receipts,
                    missing: proposed.missing.clone(),
                }
            }
            Happened::Agreement { ctx, signatures, .. } => {
                let (signatures, blob) = Parts::of(signatures);
                blobs.push(blob);
                Event::Agreement { context: *ctx, signatures }
            }
            Happened::Opened(sum) => Event::Opened(sum.clone()),
            Happened::Abandoned { ctx, cause, missing, by, .. } => {
                Event::Abandoned { context: *ctx, cause: *cause, missing: missing.clone(), by: by.clone() }
            }
            Happened::Adoption(adoption) => Event::Adoption(adoption.clone()),
            Happened::Release(release) => Event::Release(release.clone()),
            Happened::Alarm { site, alarm } => Event::Alarm { site: site.clone(), alarm: *alarm },
            Happened::Guilty { dealer, proof } => {
                Event::Guilty { dealer: dealer.clone(), proof: proof.clone() }
            }
            Happened::Draw(proof) => Event::Draw(proof.clone()),
            Happened::Consent { site, model } => Event::Consent { site: site.clone(), model: *model },
        };
        let kind = event.kind();
        let signed = Signed::seal(&Account { study, event }, Principal::Coordinator, key);
        Self { record: Record::Account(kind, signed), blobs }
    }
}
