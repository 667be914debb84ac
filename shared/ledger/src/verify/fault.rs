//! Why a ledger is not in order.

use consilium_identity::enrolment::EnrolmentRefusal;
use consilium_identity::roster::RosterError;
use consilium_rounds::vector::Unpinnable;
use consilium_secagg::grouping::BadDraw;
use consilium_secagg::guilt::NoGuilt;
use consilium_secagg::pin::PinMismatch;
use consilium_study::canonical::NotCanonical;
use consilium_study::hash::Hash;
use consilium_study::name::{ConsortiumName, Principal, SiteName, StudyName};
use consilium_study::sign::SignatureError;

use crate::describe::counted;
use crate::entry::Kind;
use crate::files::Unreadable;
use crate::parts::BadParts;
use crate::reader::LogError;
use crate::record::UnreadableRecord;
use crate::report::StudyState;

/// Why a ledger is refused, and where.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The log itself: bytes that do not belong together, or a checkpoint of somebody else.
    #[error(transparent)]
    Log(#[from] LogError),
    /// One entry.
    #[error("entry {index} ({kind}): {fault}")]
    Entry {
        /// Which.
        index: u64,
        /// What it is said to be.
        kind: Kind,
        /// What is wrong.
        fault: Box<Fault>,
    },
    /// Nothing says who the coordinator is.
    #[error("the ledger has no roster, so nobody could have signed it")]
    Empty,
}

impl Failure {
    /// The number of the entry at fault, where it is one.
    pub fn entry(&self) -> Option<u64> {
        match self {
            Self::Entry { index, .. }
            | Self::Log(
                LogError::Entry { index, .. }
                | LogError::Bundle { index, .. }
                | LogError::NotAnEntry { index, .. },
            ) => Some(*index),
            Self::Log(_) | Self::Empty => None,
        }
    }

    /// What that entry is said to be, where its bytes still tell.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Entry { kind, .. } => Some(*kind),
            Self::Log(LogError::Entry { kind, .. }) => *kind,
            Self::Log(_) | Self::Empty => None,
        }
    }
}

/// What is wrong with an entry.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its statement is kept in a blob, and that is missing or changed.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Its statement is no statement.
    #[error(transparent)]
    Record(#[from] UnreadableRecord),
    /// A signed claim that does not decode.
    #[error("the signed bytes do not decode: {0}")]
    Malformed(#[from] NotCanonical),
    /// Signer or signature.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// A roster that is not the next one.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// A request to join that proves nothing.
    #[error(transparent)]
    Enrolment(#[from] EnrolmentRefusal),
    /// A request to join another consortium.
    #[error("it asks to join {0}")]
    AskedElsewhere(ConsortiumName),
    /// A site whose keys nobody has asked with.
    #[error("it names {0} with keys that the site did not ask to join with before it")]
    NotAsked(SiteName),
    /// Receipts or signatures that it names.
    #[error(transparent)]
    Parts(#[from] BadParts),
    /// Nothing can be checked before there is a roster.
    #[error("no roster comes before it")]
    NoRoster,
    /// Signed by somebody who does not belong to the consortium.
    #[error("{0} is not on the roster")]
    NotOnRoster(Principal),
    /// Signed by somebody whose part this is not.
    #[error("{got} signed it, but it takes {want}")]
    WrongRole {
        /// Who signed.
        got: Principal,
        /// Whose part it is.
        want: &'static str,
    },
    /// Names a roster that the ledger does not have.
    #[error("it names roster {0}, which is not in the ledger before it")]
    UnknownRoster(Hash),
    /// Names a study that nobody proposed.
    #[error("it names study {0}, which nobody proposed before it")]
    UnknownStudy(Hash),
    /// Names an attempt that never began.
    #[error("it names context {0}, which is not in the ledger before it")]
    UnknownContext(Hash),
    /// A second study of one name.
    #[error("a study called {0} was proposed before")]
    SecondStudy(StudyName),
    /// A second decision of one site.
    #[error("{0} has accepted this study before")]
    SecondDecision(SiteName),
    /// The study is not about this site.
    #[error("the study does not name {0}")]
    NotInStudy(SiteName),
    /// A site that has not agreed, or that agreed with other members.
    #[error("{0} has not accepted this study with this roster")]
    NotAccepted(SiteName),
    /// Nothing may happen in the study now.
    #[error("the study is {0}")]
    Halted(StudyState),
    /// A number that has to rise did not.
    #[error("{what} {got} comes after {after}")]
    NotRising {
        /// Number of what.
        what: &'static str,
        /// The number.
        got: u32,
        /// The one before.
        after: u32,
    },
    /// The epoch is not open, or does not serve the attempt.
    #[error("no open epoch {epoch} serves attempt {attempt}")]
    NoEpoch {
        /// The epoch it names.
        epoch: u32,
        /// The attempt.
        attempt: u32,
    },
    /// A study that this roster cannot carry.
    #[error(transparent)]
    Unpinnable(#[from] Unpinnable),
    /// A context that is not the study's.
    #[error(transparent)]
    Pin(#[from] PinMismatch),
    /// A draw that its own parts do not lead to.
    #[error("the draw of groups is not proved: {0}")]
    Draw(#[from] BadDraw),
    /// Groups that were not drawn.
    #[error("its groups are not those that were drawn for its epoch")]
    Groups,
    /// A site that is summed in a group and did not allow it.
    #[error("{0} has not allowed that groups are summed apart")]
    NotGrouped(SiteName),
    /// A group that should have stayed out.
    #[error("of the group of {0} too few sites survived, and it was not left out")]
    ThinGroup(SiteName),
    /// A proof of guilt that proves nothing.
    #[error("the proof of guilt proves nothing: {0}")]
    Guilt(#[from] NoGuilt),
    /// A proof of another dealer's guilt.
    #[error("the proof is about {0}")]
    OtherDealer(SiteName),
    /// A number that the study fixes.
    #[error("its {0} is not the study's")]
    NotAsStudied(&'static str),
    /// A site's terms ask for more.
    #[error("the terms of {0} ask for more sites than this")]
    TermsBroken(SiteName),
    /// Survivors that a site may not be counted with.
    #[error("the survivors are not those that {0} has signed for before, or differ too little from them")]
    Repeated(SiteName),
    /// A model that is not the one the study stands at, or not what was made.
    #[error("its {what} is {got}, and the ledger leads to {want}")]
    WrongModel {
        /// Which model.
        what: &'static str,
        /// What it says.
        got: Hash,
        /// What follows from the entries before.
        want: Hash,
    },
    /// Control variates that are not those beside the adopted model.
    #[error("it does not name the mean of control variates beside the adopted model, or not whose are in it")]
    Control,
    /// A model, and nothing was made or adopted that it could be.
    #[error("it names model {0}, and no entry before it leads there")]
    NoSuchModel(Hash),
    /// Something was said before about this attempt, and only one thing may be.
    #[error("this attempt {0} before")]
    SaidBefore(&'static str),
    /// An end that does not follow from what came before.
    #[error("this attempt cannot end so: {0}")]
    WrongEnd(&'static str),
    /// A survivor or missing site that was not selected, or both at once.
    #[error("survivors and missing sites are not the Selection, each once")]
    NotTheSelection,
    /// A receipt or signature that does not belong to this attempt.
    #[error("a {what} of {by} is not about this attempt")]
    Foreign {
        /// Receipt or signature.
        what: &'static str,
        /// Whose.
        by: Principal,
    },
    /// A survivor without its receipt.
    #[error("the receipt of {0} is not the one that the survivors name")]
    WrongReceipt(SiteName),
    /// Two ends of a pair that do not have the same seed.
    #[error("the receipts of {0} and {1} commit to different pair seeds")]
    UnequalPair(SiteName, SiteName),
    /// Too few signed.
    #[error("{} signed, and it takes {want}", counted(*got as u64, "survivor", "survivors"))]
    TooFewSigned {
        /// How many did.
        got: usize,
        /// How many have to.
        want: u16,
    },
    /// Participants that are not those of the sums.
    #[error("the participants it names are not the sites whose updates are in adopted models")]
    Participants,
    /// The rules for candidates and the verdict disagree.
    #[error("the verdict is not what the rules of the study say: {0}")]
    Verdict(&'static str),
    /// Closed while the study still had rounds.
    #[error("it is closed after {done} of {rounds} rounds, and nothing in the study ends it early")]
    EarlyEnd {
        /// Rounds done.
        done: usize,
        /// Rounds of the study.
        rounds: u32,
    },
    /// Figures of an evaluation that is not one of this candidate.
    #[error("its figures come from an attempt that did not evaluate this candidate")]
    ForeignFigures,
}
