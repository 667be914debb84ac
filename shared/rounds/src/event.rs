//! What the machine is told, and what it asks of its shell.

use consilium_secagg::coordinator::CoordinatorRefusal;
use consilium_secagg::numbering::Attempt;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};

use crate::message::SiteMessage;
use crate::metrics::{Figures, TrainFigures};
use crate::reason::Abandonment;
use crate::record::{Record, Release};
use crate::status::RoundLine;
use crate::sum::SumJob;

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed: the moment of [`crate::StudyMachine::deadline`] has come.
    Tick,
    /// A site's connection is up. Only connected sites are selected.
    Connected(SiteName),
    /// A site's connection is down.
    Disconnected(SiteName),
    /// A site said something. The connection's certificate names the site.
    Message {
        /// Who.
        from: SiteName,
        /// What.
        message: SiteMessage,
    },
    /// Chunks of a site's masked vector have come in: it works, however slow its line is.
    Receiving {
        /// Whose.
        from: SiteName,
        /// The attempt.
        attempt: Attempt,
        /// Bytes on disk.
        bytes: u64,
        /// Bytes in all.
        of: u64,
    },
    /// All chunks of a site's masked vector are on disk, each checked with
    /// [`crate::StudyMachine::check_chunk`].
    Uploaded {
        /// Whose.
        from: SiteName,
        /// The attempt.
        attempt: Attempt,
    },
    /// Bytes that crossed the wire for an attempt since the last such event.
    Traffic {
        /// The attempt.
        attempt: Attempt,
        /// From sites.
        up: u64,
        /// To sites.
        down: u64,
    },
    /// A [`SumJob`] is done.
    Summed {
        /// Its attempt.
        attempt: Attempt,
        /// What came out.
        outcome: Result<Summed, SumRefused>,
    },
    /// The released model and its card are written.
    Published,
    /// An operator's act, checked by the shell.
    Operator {
        /// Who.
        by: Principal,
        /// What.
        act: Act,
    },
    /// A site's certificate was revoked, for good.
    Revoked(SiteName),
}

/// What an operator can do to a study. Each may come in any state, and twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Begin the rounds as soon as enough sites are ready.
    Start,
    /// Begin no attempt until resumed. An attempt whose survivors were not named yet is given up.
    Pause,
    /// Go on at the same round.
    Resume,
    /// End the study without a release.
    Stop {
        /// Why, in the operator's words.
        reason: String,
    },
    /// Give up an attempt whose survivors have been proposed. The repeat rule still counts it as opened.
    DeclareLost {
        /// The attempt.
        attempt: Attempt,
    },
    /// The coordinator was restored from a backup: go on above the highest attempt that a site has reported.
    Restored {
        /// That attempt.
        above: u32,
    },
}

/// The outcome of a [`SumJob`], once the candidate is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Summed {
    /// Of a training round.
    Train {
        /// Plain hash of the sum's words.
        aggregate: Hash,
        /// Hash of the stored candidate.
        candidate: Hash,
        /// What training said about itself.
        figures: TrainFigures,
        /// Largest magnitude of the mean update in each block.
        largest: Vec<f64>,
        /// Hashes of the stored moments, of a strategy that keeps them.
        moments: Option<[Hash; 2]>,
        /// Hash of the stored mean of control variates, of a strategy that keeps one.
        control: Option<Hash>,
    },
    /// Of an evaluation.
    Evaluate {
        /// Plain hash of the sum's words.
        aggregate: Hash,
        /// The figures; none when the counts contradict each other or no case was counted.
        figures: Option<Figures>,
    },
}

/// Uploads and recovered seeds did not give a sum or a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the uploads and the recovered seeds do not give a usable sum")]
pub struct SumRefused;

/// What the shell has to do, after it has committed the new state.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Write to the ledger, in the same transaction as the state.
    Record(Box<Record>),
    /// Add the uploads, take the masks off and apply the strategy; answer with [`Event::Summed`]. Doing it
    /// twice gives the same.
    Sum(Box<SumJob>),
    /// The attempt is over; uploads of sites not named here are late or partial and are deleted at once. Those
    /// of survivors may be kept as evidence.
    DiscardUploads {
        /// The attempt.
        attempt: Attempt,
        /// Whose uploads are in the opened sum.
        survivors: Vec<SiteName>,
    },
    /// Write the released model with its card; answer with [`Event::Published`].
    Publish(Box<Release>),
    /// A message was refused: tell its sender. The round goes on without it.
    Refuse {
        /// Whose message.
        site: SiteName,
        /// Why.
        refusal: Refused,
    },
    /// An operator's act was refused: tell the operator.
    RefuseAct(ActRefused),
    /// Tell watchers.
    Notify(Notice),
}

/// Something a watcher wants to know at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A round of one kind ended, or an attempt was given up.
    Line(RoundLine),
    /// An attempt was given up.
    Abandoned {
        /// Which.
        attempt: Attempt,
        /// Why.
        cause: Abandonment,
    },
    /// The study changed its state.
    State(crate::message::StudyState),
    /// Writing the release takes longer than it should.
    ReleaseLate,
    /// A site noticed what no honest party does.
    Alarm(SiteName),
}

/// Why a site's message was refused. The round goes on without it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a site of this study.
    #[error("{0} is not a site of this study")]
    UnknownSite(SiteName),
    /// The site has not accepted the study.
    #[error("{0} has not accepted the study")]
    NotAccepted(SiteName),
    /// The study is over.
    #[error("the study is over")]
    StudyOver,
    /// About another study, roster, site or weight than it should be.
    #[error("{0} is not what this study says")]
    Mismatch(&'static str),
    /// A signature does not match.
    #[error("the signature does not match: {0}")]
    Signature(#[from] consilium_study::sign::SignatureError),
    /// About an attempt or epoch that is not running, or a phase that has passed.
    #[error("this belongs to an attempt, epoch or phase that is not open")]
    NotNow,
    /// The protocol refused it.
    #[error(transparent)]
    Protocol(#[from] CoordinatorRefusal),
}

/// Why an operator's act was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActRefused {
    /// Only a stopped or released study is over, and stays so.
    #[error("the study is over")]
    StudyOver,
    /// A study that nobody has started has nothing to pause.
    #[error(
        "the study was not started, so there is nothing to pause; it begins no round before `consilium study start`"
    )]
    NotStarted,
    /// Only an attempt whose survivors were proposed can be declared lost; others end by themselves.
    #[error("no attempt of this number waits for signatures or answers")]
    NotWaiting,
}
