//! Round and study machines: what a coordinator does, as functions of (event, time) that return effects.
//!
//! One [`StudyMachine`] holds everything a coordinator knows of one study. It performs the rounds of federated
//! averaging (McMahan et al. 2017) over the secure aggregation of `consilium-secagg`: setup of pair keys,
//! Selection, `CollectMasked → ConsistencyCheck → Unmask`, strategy step, federated evaluation, adoption,
//! release. It opens no socket and no file and reads no clock, so a whole federation runs inside one test
//! thread ([`local`]).
//!
//! # The flow of calls at a coordinator
//!
//! ```text
//! let (machine, effects) = StudyMachine::propose(Proposal { study, operator, roster, … }, now)?;
//! after a restart:  let (machine, effects) = StudyMachine::from_bytes(&stored)?.resume(now);
//!
//! loop {
//!     event = one of
//!         Event::Connected(site) | Event::Disconnected(site)        a stream came or went
//!         Event::Message { from, message }                          Letter::<SiteMessage>::from_bytes(..), by letter.study
//!         Event::Receiving { from, attempt, bytes, of }             now and then, while chunks come in
//!         Event::Uploaded { from, attempt }                         the last chunk is on disk
//!         Event::Traffic { attempt, up, down }                      now and then
//!         Event::Summed { attempt, outcome }  |  Event::Published   a job is done
//!         Event::Operator { by, act }  |  Event::Revoked(site)
//!         Event::Tick                                               when machine.deadline() has come
//!     let (next, effects) = machine.handle(event, now, &signing_key);
//!     store next.to_bytes() and every Effect::Record in one transaction; then
//!         Effect::Sum(job)            sum(study, &job, threads, read, model) in a blocking pool; store the candidate;
//!                                     answer with Event::Summed. Idempotent; given out again by resume().
//!         Effect::Publish(release)    write model and card; answer with Event::Published. Likewise.
//!         Effect::DiscardUploads      delete files
//!         Effect::Refuse, RefuseAct   answer the caller; without one the message was taken
//!         Effect::Notify              tell watchers
//!     for each connected site: send what of next.directives_for(site) was not sent on this connection yet
//! }
//! ```
//!
//! Uploads: a site announces its vector by `Masked`; then [`StudyMachine::expects_upload`] says how long it is,
//! [`StudyMachine::check_chunk`] checks each chunk before it is written, and `Event::Uploaded` ends it. Where
//! `expects_upload` is `None` and [`StudyMachine::has_upload`] is false, bytes are refused.
//!
//! # At a site
//!
//! `consilium-secagg`'s documentation has the calls; [`local::LocalSite`] is the whole flow in one file.
//! [`vector::study_pin`] makes the pin that both sides need, [`metrics::EvaluationCounts`] and
//! [`metrics::TrainCounts`] make the integers at the end of the vector.
//!
//! # What must hold
//!
//! - *Attempts are numbered once per study and never used again*, also not after a restore.
//! - *An attempt is retried freely until its survivors are named.* From then on it counts as signed: no
//!   deadline ends it, only the answers or an operator's recorded word.
//! - *The repeat rule binds the coordinator too*: the same starting model and purpose means the same set of
//!   survivors, or a wait that says for whom.
//! - *Every wait has a name* ([`status::Wait`]), and a study that is started ends released, unless a person or a
//!   named wait keeps it.

pub mod combine;
pub mod control;
pub mod ending;
mod event;
pub mod gate;
pub mod local;
mod machine;
pub mod message;
pub mod metrics;
pub mod reason;
pub mod record;
pub mod status;
pub mod strategy;
pub mod sum;
mod time;
pub mod vector;

pub use event::{Act, ActRefused, Effect, Event, Notice, Refused, SumRefused, Summed};
pub use machine::{ExpectedUpload, Proposal, ProposalRefused, Shortage, StudyMachine, Timing, fewest_sites};
pub use time::Timestamp;
