//! Checking a ledger from its first entry to its last, with the consortium's public key and nothing else.
//!
//! What is checked, in this order:
//! 1. every byte of the log's folder: entries, tiles and root belong together ([`LogReader`]);
//! 2. every entry: the statement is one, and the party who had to sign it did, with the key that the
//!    roster in force gives that party;
//! 3. the order of things: a site on the roster only with keys that it asked with; a context only for an accepted study, of sites that accepted it, with the
//!    thresholds of the formula and the model the study stands at; a sum only with the signatures of enough
//!    survivors; a model only from a sum; a release only of an adopted model;
//! 4. the checkpoint: signed by the coordinator that the latest roster names.
//!
//! What this does not check: the arithmetic inside a sum and a strategy step. For that the masked vectors
//! are needed, which are kept for some time only. How a mean of control variates goes on follows from models, and the report
//! says what whoever has their files can hold it against ([`crate::report::ControlReport`]).

mod attempts;
mod controls;
mod fault;
mod members;
mod models;

use std::collections::{BTreeMap, BTreeSet};

use consilium_identity::{Anchor, Roster};
use consilium_rounds::control::Controlled;
use consilium_rounds::record::Adoption;
use consilium_rounds::vector::study_pin;
use consilium_secagg::context::{Context, CtxHash};
use consilium_secagg::grouping::Drawn;
use consilium_secagg::message::{EpochOpening, Survivors};
use consilium_secagg::pin::StudyPin;
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, Statement, Verified, VerifyingKey};
use consilium_study::statement::Acceptance;

use self::controls::Correction;
use crate::entry::Entry;
use crate::files::{Blobs, Files};
use crate::reader::LogReader;
use crate::record::Record;
use crate::report::{AlarmReport, AttemptReport, Decision, Report, StudyReport, StudyState};
use crate::statement::{Account, Act, Event};

pub use fault::{Failure, Fault};

/// Checks a whole ledger against the consortium's key.
pub fn verify(files: &impl Files, blobs: &impl Blobs, key: &VerifyingKey) -> Result<Report, Failure> {
    let reader = LogReader::open(files)?;
    let others = reader.check_folder()?;
    // The name is the checkpoint's claim until the first roster tells it.
    let anchor = Anchor { name: reader.claim().origin.clone(), key: *key };
    let mut walk = Walk::new(anchor);
    for entry in reader.entries() {
        let (index, entry) = entry?;
        walk.step(index, &entry, blobs).map_err(|fault| Failure::Entry {
            index,
            kind: entry.kind(),
            fault: Box::new(fault),
        })?;
    }
    let coordinator = walk.roster().map_err(|_| Failure::Empty)?.coordinator().signing_key;
    let checkpoint = reader.authenticate(&walk.anchor.name, &coordinator)?;
    let mut report = walk.report(checkpoint.size, checkpoint.root);
    report.notices.extend(others.into_iter().map(|path| format!("{path} is no part of the ledger")));
    Ok(report)
}

/// What is known after the entries so far.
struct Walk {
    anchor: Anchor,
    rosters: BTreeMap<Hash, Roster>,
    latest: Option<Hash>,
    /// TLS and signing keys that sites have asked with.
    asked: BTreeSet<(SiteName, Hash, VerifyingKey)>,
    studies: BTreeMap<Hash, StudyWalk>,
    /// Studies in the order of their proposals.
    proposals: Vec<Hash>,
    attempts: BTreeMap<CtxHash, AttemptWalk>,
    report: Draft,
    last_time_ms: u64,
}

/// The part of the report that grows entry by entry.
#[derive(Default)]
struct Draft {
    revoked: BTreeSet<SiteName>,
    alarms: Vec<AlarmReport>,
    notices: Vec<String>,
    /// What operators signed, and no course has followed yet.
    orders: Vec<(Principal, Act)>,
}

struct StudyWalk {
    study: Study,
    state: StudyState,
    accepted: BTreeMap<SiteName, Acceptance>,
    refused: BTreeMap<SiteName, String>,
    epoch: Option<EpochOpening>,
    /// The groups of that epoch.
    drawn: Option<Drawn>,
    /// Contexts in order.
    contexts: Vec<CtxHash>,
    last_attempt: u32,
    /// The model the study stands at.
    model: Hash,
    /// The mean of control variates beside it, of a strategy that keeps one.
    control: Option<Controlled>,
    /// Models it stood at, after the rounds that made each.
    adopted: BTreeSet<(u32, Hash)>,
    /// What the last opened training made, until it is adopted or refused.
    candidate: Option<Candidate>,
    /// Candidates that were adopted or refused, in order.
    adoptions: Vec<Adoption>,
    /// The starting model of the last candidate that too few sites would have trained from.
    declined: Option<Hash>,
    /// Sites whose updates are in an adopted model.
    counted: BTreeSet<SiteName>,
    /// Dealers whose guilt is proved.
    guilty: BTreeSet<SiteName>,
    report: StudyReport,
}

/// A model that waits for its verdict.
#[derive(Clone)]
struct Candidate {
    round: u32,
    model: Hash,
    counted: Vec<SiteName>,
    /// The mean of control variates beside it.
    control: Option<Controlled>,
}

struct AttemptWalk {
    study: Hash,
    context: Context,
    correction: Correction,
    survivors: Option<Survivors>,
    agreed: bool,
    end: Option<End>,
    report: AttemptReport,
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Opened,
    Abandoned,
}

impl Walk {
    fn new(anchor: Anchor) -> Self {
        Self {
            anchor,
            rosters: BTreeMap::new(),
            latest: None,
            asked: BTreeSet::new(),
            studies: BTreeMap::new(),
            proposals: Vec::new(),
            attempts: BTreeMap::new(),
            report: Draft::default(),
            last_time_ms: 0,
        }
    }

    fn step(&mut self, index: u64, entry: &Entry, blobs: &impl Blobs) -> Result<(), Fault> {
        let record = Record::read(entry.kind(), &entry.statement(blobs)?)?;
        if entry.recorded_at_ms() < self.last_time_ms {
            self.report.notices.push(format!("the coordinator's clock went back before entry {index}"));
        }
        self.last_time_ms = entry.recorded_at_ms();
        match record {
            Record::Roster(signed) => self.roster_entry(&signed),
            Record::Enrolment(signed) => self.enrolment(&signed),
            Record::Study(signed) => self.study(&signed),
            Record::Acceptance(signed) => self.acceptance(&signed),
            Record::Refusal(signed) => self.refusal(&signed),
            Record::Readiness(signed) => self.readiness(&signed),
            Record::Epoch(signed) => self.epoch(&signed),
            Record::Context(signed) => self.context(&signed),
            Record::Order(signed) => self.order(&signed),
            Record::Account(_, signed) => {
                let account = self.by_coordinator(&signed)?.into_inner();
                self.account(index, account, blobs)
            }
        }
    }

    fn account(&mut self, index: u64, account: Account, blobs: &impl Blobs) -> Result<(), Fault> {
        let Account { study, event } = account;
        self.study_mut(&study)?;
        match event {
            Event::Course { course, by } => self.course(study, course, &by, index),
            Event::Survivors { context, survivors, receipts, missing } => {
                let receipts = receipts.read(blobs)?;
                self.survivors(study, &context, &survivors, &receipts, &missing)
            }
            Event::Agreement { context, signatures } => {
                self.agreement(study, &context, &signatures.read(blobs)?)
            }
            Event::Opened(sum) => self.opened(study, &sum),
            Event::Abandoned { context, cause, missing, by } => {
                self.abandoned(study, &context, cause, &missing, by.as_ref(), index)
            }
            Event::Adoption(adoption) => self.adoption(study, *adoption),
            Event::Release(release) => self.release(study, release),
            Event::Alarm { site, alarm } => self.alarm(study, index, &site, &alarm),
            Event::Guilty { dealer, proof } => self.guilty(study, index, dealer, &proof),
            Event::Draw(proof) => self.draw(study, &proof),
            Event::Consent { site, model } => self.consent(study, index, &site, model),
        }
    }

    /// The roster in force.
    fn roster(&self) -> Result<&Roster, Fault> {
        self.latest.as_ref().and_then(|hash| self.rosters.get(hash)).ok_or(Fault::NoRoster)
    }

    /// A statement that the coordinator has to have signed.
    fn by_coordinator<T: Statement>(&self, signed: &Signed<T>) -> Result<Verified<T>, Fault> {
        let key = self.roster()?.coordinator().signing_key;
        Ok(signed.verify(&Principal::Coordinator, &key)?)
    }

    /// A statement signed by whoever it says, with the key that a roster gives that party.
    fn by_member<T: Statement>(roster: &Roster, signed: &Signed<T>) -> Result<Verified<T>, Fault> {
        let signer = signed.signer();
        let key = roster.signing_key(signer).ok_or_else(|| Fault::NotOnRoster(signer.clone()))?;
        Ok(signed.verify(signer, &key)?)
    }

    fn study_mut(&mut self, study: &Hash) -> Result<&mut StudyWalk, Fault> {
        self.studies.get_mut(study).ok_or(Fault::UnknownStudy(*study))
    }

    /// What a study pins, with the keys of a roster.
    fn pin(&self, study: &Hash, roster: &Hash) -> Result<StudyPin, Fault> {
        let study = self.studies.get(study).ok_or(Fault::UnknownStudy(*study))?;
        let roster = self.rosters.get(roster).ok_or(Fault::UnknownRoster(*roster))?;
        let key_of = |site: &SiteName| roster.site(site).map(|entry| entry.signing_key);
        Ok(study_pin(&study.study, roster.hash(), roster.coordinator().signing_key, key_of)?)
    }

    /// An attempt of a study that has not ended.
    fn attempt_mut(&mut self, study: Hash, context: &CtxHash) -> Result<&mut AttemptWalk, Fault> {
        let attempt = self.attempts.get_mut(context).filter(|attempt| attempt.study == study);
        let attempt = attempt.ok_or(Fault::UnknownContext(*context.hash()))?;
        if attempt.end.is_some() { Err(Fault::SaidBefore("ended")) } else { Ok(attempt) }
    }

    /// Takes an operator's own order for an act, or notes that there is only the coordinator's word for it.
    fn ordered(&mut self, by: &Principal, act: &Act, index: u64) {
        let orders = &mut self.report.orders;
        match orders.iter().position(|(who, what)| who == by && what == act) {
            Some(at) => drop(orders.remove(at)),
            None => self.report.notices.push(format!(
                "entry {index} names {by}, whose own signature is not in the ledger: it is the coordinator's word"
            )),
        }
    }

    fn report(mut self, entries: u64, root: Hash) -> Report {
        let latest = self.roster().map(|roster| roster.sites().to_vec()).unwrap_or_default();
        let mut studies = Vec::new();
        for walk in self.proposals.iter().filter_map(|hash| self.studies.remove(hash)) {
            let mut report = walk.report;
            report.state = walk.state;
            report.model = walk.model;
            let accepted = walk.accepted.into_iter();
            report.accepted =
                accepted.map(|(site, said)| Decision { site, rule: said.rule.to_string() }).collect();
            report.refused = walk.refused.into_iter().map(|(site, rule)| Decision { site, rule }).collect();
            let attempts = walk.contexts.iter().filter_map(|context| self.attempts.remove(context));
            report.attempts = attempts.map(|attempt| attempt.report).collect();
            studies.push(report);
        }
        Report {
            consortium: self.anchor.name.clone(),
            fingerprint: self.anchor.fingerprint(),
            entries,
            root,
            sites: latest.into_iter().map(|entry| entry.name).collect(),
            revoked: self.report.revoked.into_iter().collect(),
            studies,
            alarms: self.report.alarms,
            notices: self.report.notices,
        }
    }
}

#[cfg(test)]
mod tests;
