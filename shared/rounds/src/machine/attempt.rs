//! A running attempt: uploads, verdicts, signatures, answers, and what ends each phase.

use std::collections::BTreeSet;

use consilium_secagg::context::Purpose;
use consilium_secagg::coordinator::{NotClosed, NotRecovered};
use consilium_secagg::message::Upload;
use consilium_secagg::numbering::Attempt;
use consilium_secagg::{Inconsistent, UnmetTerms};
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};

use super::run::{Gathering, GivenUp, Life, Live, Phase, Run, Stage, Step, Summing, UploadState};
use super::sites::Standing;
use super::{Effects, StudyMachine};
use crate::event::{ActRefused, Effect, Notice, Refused};
use crate::message::{Settled, SettledAs};
use crate::reason::{Abandonment, Dropout, Unevaluated};
use crate::record::{Missing, Proposed, Record};
use crate::status::{LineState, RoundLine};
use crate::sum::SumJob;
use crate::time::Timestamp;

/// After the last upload, verdicts on envelopes are waited for at most so long.
const VERDICT_PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);

/// What the shell may take in of a masked vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedUpload {
    /// Merkle root of its chunks.
    pub vector: Hash,
    /// Bytes in all.
    pub bytes: u64,
    /// Chunks in all; the last may be shorter than 1 MiB.
    pub chunks: usize,
}

impl StudyMachine {
    /// The masked vector that a site may send now: its receipt is here and the attempt still collects. `None`
    /// means that bytes are refused (and any that came before are thrown away).
    pub fn expects_upload(&self, site: &SiteName, attempt: Attempt) -> Option<ExpectedUpload> {
        let live = self.collecting_live().filter(|live| live.attempt() == attempt)?;
        let Phase::Collect(phase) = &live.phase else { return None };
        let vector = phase.vector_of(site)?;
        let layout = &live.context.layout;
        let receiving = live.members.get(site)?.upload == UploadState::Receiving;
        receiving.then(|| ExpectedUpload {
            vector,
            bytes: layout.words() as u64 * 4,
            chunks: layout.chunks(),
        })
    }

    /// The attempt whose masked vectors are still of use.
    pub fn spooled_attempt(&self) -> Option<Attempt> {
        match &self.run()?.stage {
            Stage::Gathering(_) => None,
            Stage::Attempt(live) => Some(live.attempt()),
            Stage::Summing(summing) => Some(summing.job.context.attempt),
        }
    }

    /// Whether a site's vector of an attempt is complete here.
    pub fn has_upload(&self, site: &SiteName, attempt: Attempt) -> bool {
        self.collecting_live().is_some_and(|live| {
            let complete = |member: &super::run::Member| member.upload == UploadState::Complete;
            live.attempt() == attempt && live.members.get(site).is_some_and(complete)
        })
    }

    /// Checks a chunk against the receipt before it is written to disk.
    pub fn check_chunk(
        &self,
        site: &SiteName,
        attempt: Attempt,
        index: usize,
        bytes: &[u8],
    ) -> Result<(), Refused> {
        let live = self.collecting_live().filter(|live| live.attempt() == attempt).ok_or(Refused::NotNow)?;
        match &live.phase {
            Phase::Collect(phase) => Ok(phase.check_chunk(site, index, bytes)?),
            Phase::Check { .. } | Phase::Unmask { .. } => Err(Refused::NotNow),
        }
    }

    fn collecting_live(&self) -> Option<&Live> {
        match &self.run()?.stage {
            Stage::Attempt(live) if matches!(live.phase, Phase::Collect(_)) => Some(live),
            _ => None,
        }
    }

    pub(super) fn live_attempt(&self) -> Option<&Live> {
        match &self.run()?.stage {
            Stage::Attempt(live) => Some(live),
            Stage::Gathering(_) | Stage::Summing(_) => None,
        }
    }

    /// Takes a receipt once all its envelopes are here.
    pub(super) fn take_upload(&mut self, from: &SiteName, upload: Upload) -> Result<(), Refused> {
        let pin = self.pin();
        let Some(Stage::Attempt(live)) = self.run_mut().map(|run| &mut run.stage) else {
            return Err(Refused::NotNow);
        };
        let (Phase::Collect(phase), Some(member)) = (&mut live.phase, live.members.get_mut(from)) else {
            return Err(Refused::NotNow);
        };
        let others = live.context.selection.len() - 1;
        if upload.envelopes.len() < others {
            if member.upload == UploadState::Awaited {
                member.upload = UploadState::Announced(Box::new(upload));
            } else if let UploadState::Announced(before) = &mut member.upload
                && before.envelopes.len() < upload.envelopes.len()
            {
                **before = upload;
            }
            return Ok(());
        }
        phase.take_upload(&pin, from, upload)?;
        if matches!(member.upload, UploadState::Awaited | UploadState::Announced(_)) {
            member.upload = UploadState::Receiving;
        }
        Ok(())
    }

    /// All chunks of a vector are on disk.
    pub(super) fn uploaded(
        &mut self,
        from: &SiteName,
        attempt: Attempt,
        now: Timestamp,
    ) -> Result<(), Refused> {
        let Some(Stage::Attempt(live)) = self.run_mut().map(|run| &mut run.stage) else {
            return Err(Refused::NotNow);
        };
        let (Phase::Collect(phase), Some(member)) = (&mut live.phase, live.members.get_mut(from)) else {
            return Err(Refused::NotNow);
        };
        if live.context.attempt != attempt || matches!(member.upload, UploadState::Gone(_)) {
            return Err(Refused::NotNow);
        }
        phase.complete(from)?;
        member.upload = UploadState::Complete;
        member.progressed = now;
        Ok(())
    }

    pub(super) fn count_traffic(&mut self, attempt: Attempt, up: u64, down: u64) {
        match self.run_mut().map(|run| &mut run.stage) {
            Some(Stage::Attempt(live)) if live.context.attempt == attempt => {
                live.bytes_up += up;
                live.bytes_down += down;
            }
            Some(Stage::Summing(summing)) if summing.job.context.attempt == attempt => {
                summing.bytes_up += up;
                summing.bytes_down += down;
            }
            _ => {}
        }
    }

    /// Ends the phase of the running attempt if it can end. Returns whether anything changed.
    pub(super) fn push_on(&mut self, now: Timestamp, effects: &mut Effects) -> bool {
        let Some(live) = self.live_attempt() else { return false };
        match &live.phase {
            Phase::Collect(_) => {
                let possible = live.complete() + live.outstanding().count();
                if possible < live.needed as usize {
                    self.abandon(Abandonment::BelowQuorum, None, now, effects);
                    return true;
                }
                if self.collect_ends(live, now) {
                    self.close_collection(now, effects);
                    return true;
                }
                false
            }
            Phase::Check { check, .. } => {
                let agreed = check.missing() == 0;
                if agreed {
                    self.begin_unmask(now, effects);
                }
                agreed
            }
            Phase::Unmask { .. } => self.recover(now, effects),
        }
    }

    /// Whether nobody is waited for any more.
    fn collect_ends(&self, live: &Live, now: Timestamp) -> bool {
        let Phase::Collect(phase) = &live.phase else { return false };
        if live.outstanding().next().is_some() {
            return now >= self.collect_deadline(live);
        }
        // Whoever withdrew says nothing more about envelopes.
        let silent = |site| {
            let gone = |member: &super::run::Member| matches!(member.upload, UploadState::Gone(_));
            !self.sites[site].is_up() || live.members.get(site).is_none_or(gone)
        };
        phase.waits().verdicts.iter().all(silent) || now >= self.verdict_deadline(live)
    }

    /// When the members that are still working have made no progress for the study's timeout. It never lies
    /// further from the beginning than the coordinator's patience stretches that timeout.
    pub(super) fn collect_deadline(&self, live: &Live) -> Timestamp {
        let timeout = self.step_timeout(live);
        let cap = live.begun.after(timeout * self.timing.stretch.max(1));
        let last = live.outstanding().map(|(_, member)| member.progressed).max().unwrap_or(live.begun);
        last.after(timeout).min(cap)
    }

    /// When verdicts on envelopes are waited for no longer.
    pub(super) fn verdict_deadline(&self, live: &Live) -> Timestamp {
        let last = live.members.values().map(|member| member.progressed).max().unwrap_or(live.begun);
        last.after(self.step_timeout(live).min(VERDICT_PATIENCE))
    }

    fn step_timeout(&self, live: &Live) -> std::time::Duration {
        match live.context.purpose {
            Purpose::Train => self.study.rounds.collect_timeout.get(),
            _ => self.study.rounds.evaluate_timeout.get(),
        }
    }

    /// Names the survivors, or gives the attempt up.
    fn close_collection(&mut self, now: Timestamp, effects: &mut Effects) {
        let pin = self.pin();
        let Some(live) = self.live_attempt() else { return };
        let Phase::Collect(phase) = &live.phase else { return };
        let check = match phase.clone().close(&pin, live.needed as usize) {
            Ok(check) => check,
            Err((_, cause)) => return self.abandon(abandonment(&cause), None, now, effects),
        };
        let survivors = check.names();
        if !self.enough_groups(&live.context, &survivors) {
            return self.abandon(Abandonment::TooFewGroups, None, now, effects);
        }
        let missing = live.missing(&survivors, Dropout::NoUpload, Dropout::LeftOut);
        let proposed = Proposed {
            attempt: live.attempt(),
            ctx: live.ctx,
            survivors: check
                .survivors()
                .members()
                .iter()
                .filter_map(|member| {
                    Some((live.context.selection.site(member.site)?.clone(), member.receipt))
                })
                .collect(),
            receipts: check.receipts(),
            missing,
        };
        let context = live.context.clone();
        effects.record(Record::Proposed(proposed));
        self.remember_opened(&context, survivors);
        if let Some(Stage::Attempt(live)) = self.run_mut().map(|run| &mut run.stage) {
            live.phase = Phase::Check { check, since: now };
        }
    }

    fn begin_unmask(&mut self, now: Timestamp, effects: &mut Effects) {
        let Some(Stage::Attempt(live)) = self.run_mut().map(|run| &mut run.stage) else { return };
        let Phase::Check { check, .. } = &live.phase else { return };
        let Ok(unmask) = check.clone().unmask() else { return };
        effects.record(Record::Agreement {
            attempt: live.attempt(),
            ctx: live.ctx,
            signatures: unmask.request().signatures.clone(),
        });
        live.phase = Phase::Unmask { unmask, since: now };
    }

    /// Rebuilds the seeds, where enough have answered, and hands the arithmetic to the shell. Returns whether
    /// anything changed.
    fn recover(&mut self, now: Timestamp, effects: &mut Effects) -> bool {
        let Some(live) = self.live_attempt() else { return false };
        let Phase::Unmask { unmask, .. } = &live.phase else { return false };
        let survivors = unmask.names();
        match unmask.recover() {
            Ok(seeds) => {
                let before = self.before(live.context.purpose);
                let moments = self.moments.filter(|_| live.context.purpose == Purpose::Train);
                let variates = self.next_variates(live, &survivors);
                let (context, vectors) = (live.context.clone(), unmask.vectors());
                let job = SumJob { context, survivors: vectors, seeds, before, moments, variates };
                let summing = Summing {
                    ctx: live.ctx,
                    begun: live.begun,
                    missing: live.missing(&survivors, Dropout::NoUpload, Dropout::LeftOut),
                    selected: live.context.selection.len() as u32,
                    bytes_up: live.bytes_up,
                    bytes_down: live.bytes_down,
                    busy_ms: live.members.values().map(|member| member.busy_ms).max().unwrap_or(0),
                    given_up: live.given_up.clone(),
                    job: job.clone(),
                };
                effects.push(Effect::Sum(Box::new(job)));
                if let Some(run) = self.run_mut() {
                    run.stage = Stage::Summing(Box::new(summing));
                }
            }
            Err(NotRecovered::TooFew { .. }) => return false,
            Err(NotRecovered::Guilty(guilty)) => {
                let pin = self.pin();
                for proof in guilty {
                    let Ok(dealer) = proof.check(&pin) else { continue };
                    if let Some(record) = self.sites.get_mut(&dealer) {
                        record.standing = Standing::Guilty;
                    }
                    effects.record(Record::Guilty { dealer, proof: Box::new(proof.clone()) });
                    self.guilt.push(proof);
                }
                self.abandon(Abandonment::GuiltyDealer, None, now, effects);
            }
        }
        true
    }

    pub(super) fn guilty(&self) -> BTreeSet<SiteName> {
        let guilty = self.sites.iter().filter(|(_, record)| record.standing == Standing::Guilty);
        guilty.map(|(site, _)| site.clone()).collect()
    }

    /// Gives the running attempt up. The step is tried again with another, unless it was an evaluation that no
    /// gate waits for.
    pub(super) fn abandon(
        &mut self,
        cause: Abandonment,
        by: Option<&Principal>,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        let Some(live) = self.live_attempt() else { return };
        // Before the deadline nobody is to blame for not being done.
        let late = now >= self.collect_deadline(live);
        let missing = not_complete(live, if late { Dropout::NoUpload } else { Dropout::Unfinished });
        let (attempt, ctx, given_up) = (live.attempt(), live.ctx, live.given_up.and(&live.context, &missing));
        let line = RoundLine {
            round: live.context.round.get(),
            kind: live.context.purpose.into(),
            state: LineState::Abandoned(cause),
            loss: None,
            auroc: None,
            metric: self.own_metric(),
            figure: None,
            selected: live.context.selection.len() as u32,
            counted: 0,
            missing: missing.clone(),
            bytes_up: live.bytes_up,
            bytes_down: live.bytes_down,
            seconds: now.since(live.begun).as_secs_f64(),
            overhead_seconds: None,
            absent: self.absent(&live.context.selection),
        };
        effects.record(Record::Abandoned { attempt, ctx, cause, missing, by: by.cloned() });
        effects.push(Effect::DiscardUploads { attempt, survivors: Vec::new() });
        effects.notify(Notice::Abandoned { attempt, cause });
        self.give_up(attempt, ctx, cause, given_up, now);
        self.add_line(line, effects);
        let evaluating = self.run().is_some_and(|run| matches!(run.step, Step::Evaluate { .. }));
        let halted = matches!(cause, Abandonment::Paused | Abandonment::Stopped | Abandonment::Restored);
        if evaluating && !halted && self.may_go_unseen() {
            self.conclude_unevaluated(Unevaluated::NoQuorum, now, effects);
        }
    }

    /// Back to gathering, a little later each time.
    pub(super) fn give_up(
        &mut self,
        attempt: Attempt,
        ctx: consilium_secagg::context::CtxHash,
        cause: Abandonment,
        given_up: GivenUp,
        now: Timestamp,
    ) {
        let candidate = self.waiting_candidate();
        self.settled = Some(Settled {
            attempt,
            ctx,
            outcome: SettledAs::Abandoned(cause),
            model: self.model,
            candidate,
        });
        let pause = self.timing.rest.get() * 2u32.pow((given_up.attempts - 1).min(8));
        let gathering = Gathering { since: now, not_before: now.after(pause), given_up };
        if let Some(run) = self.run_mut() {
            run.stage = Stage::Gathering(gathering);
        }
    }

    pub(super) fn add_line(&mut self, line: RoundLine, effects: &mut Effects) {
        self.lines.push(line.clone());
        effects.notify(Notice::Line(line));
    }

    pub(super) fn declare_lost(
        &mut self,
        by: &Principal,
        attempt: Attempt,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), ActRefused> {
        // Said twice: it is already over.
        if self.settled.as_ref().is_some_and(|settled| {
            settled.attempt == attempt && settled.outcome == SettledAs::Abandoned(Abandonment::DeclaredLost)
        }) {
            return Ok(());
        }
        let waiting = self
            .live_attempt()
            .is_some_and(|live| live.attempt() == attempt && !matches!(live.phase, Phase::Collect(_)));
        if !waiting {
            return Err(ActRefused::NotWaiting);
        }
        self.abandon(Abandonment::DeclaredLost, Some(by), now, effects);
        Ok(())
    }

    /// An attempt whose survivors are not named is given up; one whose survivors are named goes on.
    pub(super) fn abandon_collection(
        &mut self,
        cause: Abandonment,
        by: &Principal,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        if self.collecting_live().is_some() {
            self.abandon(cause, Some(by), now, effects);
        }
    }

    pub(super) fn expel(&mut self, site: &SiteName, now: Timestamp) {
        let attempt = self.collecting_live().map(Live::attempt);
        if let Some(attempt) = attempt {
            // Whoever is no member of the attempt has nothing to leave.
            let _ = self.leave(attempt, Missing::new(site.clone(), Dropout::Revoked), now);
        }
        if let Some(record) = self.sites.get_mut(site) {
            record.disconnect(now);
            record.standing = Standing::Revoked;
        }
    }

    /// The candidate that waits for its evaluation.
    pub(super) fn waiting_candidate(&self) -> Option<Hash> {
        match &self.life {
            Life::Running(Run { step: Step::Evaluate { trained, .. }, .. })
            | Life::Paused { run: Run { step: Step::Evaluate { trained, .. }, .. }, .. } => {
                Some(trained.candidate)
            }
            _ => None,
        }
    }
}

/// Members whose vector did not come, and why.
fn not_complete(live: &Live, why: Dropout) -> Vec<Missing> {
    let complete: BTreeSet<SiteName> = live
        .members
        .iter()
        .filter(|(_, member)| member.upload == UploadState::Complete)
        .map(|(site, _)| site.clone())
        .collect();
    live.missing(&complete, why, why)
}

fn abandonment(cause: &NotClosed) -> Abandonment {
    match cause {
        NotClosed::BelowQuorum { .. } => Abandonment::BelowQuorum,
        NotClosed::Terms(Inconsistent::Terms { unmet: UnmetTerms::Repeat, .. }) => Abandonment::RepeatRule,
        NotClosed::Terms(_) => Abandonment::Terms,
    }
}
