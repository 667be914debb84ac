//! Messages of sites: each is checked, then kept; one that does not fit is refused and changes nothing.

use std::collections::BTreeSet;

use consilium_secagg::context::CtxHash;
use consilium_secagg::message::Envelope;
use consilium_secagg::numbering::{Attempt, Epoch};
use consilium_secagg::terms::Floors;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::Signed;
use consilium_study::statement::{Acceptance, Readiness, Refusal};

use super::run::{Live, Member, Phase, Stage, UploadState};
use super::sites::{Accepted, RestAfter, SiteRecord, Standing, Summed};
use super::{Effects, StudyMachine};
use crate::event::{Notice, Refused};
use crate::message::{Binding, Decision, Masked, Progress, SiteMessage, Stage as Doing};
use crate::reason::{Decline, Withdrawal};
use crate::record::{Missing, Record};
use crate::time::Timestamp;

impl StudyMachine {
    pub(super) fn take(
        &mut self,
        from: &SiteName,
        message: SiteMessage,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        let over = self.is_over();
        let record = self.sites.get_mut(from).ok_or_else(|| Refused::UnknownSite(from.clone()))?;
        match record.standing {
            Standing::Revoked => return Err(Refused::UnknownSite(from.clone())),
            Standing::Guilty => return Err(Refused::NotAccepted(from.clone())),
            Standing::Silent | Standing::Deciding { .. } | Standing::Accepted(_) | Standing::Refused(_) => {}
        }
        record.hear(now);
        if over {
            return Err(Refused::StudyOver);
        }
        let accepted = record.accepted().is_some();
        match message {
            // Enough had come without it.
            _ if accepted && self.comes_late(&message) => {}
            SiteMessage::Decision(decision) => return self.decided(from, decision, now, effects),
            SiteMessage::Readiness(readiness) => return self.readiness(from, readiness, effects),
            _ if !accepted => return Err(Refused::NotAccepted(from.clone())),
            SiteMessage::Advert(advert) => {
                let pin = self.pin();
                let epoch = self.epoch.as_mut().ok_or(Refused::NotNow)?;
                epoch.setup.take_advert(&pin, &advert)?;
            }
            SiteMessage::Encapsulations(list) => {
                let pin = self.pin();
                let epoch = self.epoch.as_mut().ok_or(Refused::NotNow)?;
                for encapsulation in list {
                    epoch.setup.take_encapsulation(&pin, &encapsulation)?;
                }
            }
            SiteMessage::Confirmations(list) => {
                let pin = self.pin();
                let epoch = self.epoch.as_mut().ok_or(Refused::NotNow)?;
                for confirmation in list {
                    epoch.setup.take_confirmation(&pin, &confirmation)?;
                }
            }
            SiteMessage::Reveal(reveal) => {
                let pin = self.pin();
                let setup = &mut self.epoch.as_mut().ok_or(Refused::NotNow)?.setup;
                let before = setup.drawn().is_some();
                setup.take_reveal(&pin, &reveal)?;
                if let Some(proof) = setup.proof_of_draw().filter(|_| !before) {
                    effects.record(Record::Draw(Box::new(proof)));
                }
            }
            SiteMessage::PairsSettled { epoch, with } => return self.pairs_settled(from, epoch, with),
            SiteMessage::KeysLost { epoch } => return self.keys_lost(from, epoch, now),
            SiteMessage::Progress(progress) => return self.progress(from, progress, now),
            SiteMessage::Masked(masked) => return self.masked(from, masked, now),
            SiteMessage::Envelopes { ctx, envelopes } => {
                return self.more_envelopes(from, ctx, envelopes, now);
            }
            SiteMessage::Opened { ctx, verdicts } => match &mut self.live(ctx)?.phase {
                Phase::Collect(phase) => phase.take_verdicts(from, &verdicts)?,
                // Its verdicts were not waited for; they come too late to matter.
                Phase::Check { .. } | Phase::Unmask { .. } => {}
            },
            SiteMessage::Signature(signature) => {
                let pin = self.pin();
                let ctx = signature.claim().map_err(|_| Refused::Mismatch("the signature"))?.ctx;
                match &mut self.live(ctx)?.phase {
                    Phase::Collect(_) => return Err(Refused::NotNow),
                    Phase::Check { check, .. } => check.take_signature(&pin, from, &signature)?,
                    // Enough had signed before.
                    Phase::Unmask { .. } => {}
                }
            }
            SiteMessage::Answer(answer) => {
                let pin = self.pin();
                let ctx = answer.claim().map_err(|_| Refused::Mismatch("the answer"))?.ctx;
                match &mut self.live(ctx)?.phase {
                    Phase::Collect(_) | Phase::Check { .. } => return Err(Refused::NotNow),
                    Phase::Unmask { unmask, .. } => unmask.take_answer(&pin, from, &answer)?,
                }
            }
            SiteMessage::Withdrawn { attempt, cause } => {
                self.leave(attempt, Missing::withdrew(from.clone(), cause), now)?;
                if cause == Withdrawal::VariateLost {
                    self.lose_variates();
                }
            }
            SiteMessage::Declined { attempt, reason, .. } => {
                let missing = Missing::declined(from.clone(), reason);
                if reason == Decline::Repeat {
                    self.bind_again(from, attempt);
                }
                return attempt.map_or(Ok(()), |attempt| self.leave(attempt, missing, now));
            }
            SiteMessage::Alarm(alarm) => {
                effects.record(Record::Alarm { site: from.clone(), alarm });
                effects.notify(Notice::Alarm(from.clone()));
            }
            SiteMessage::Consent(binding) => {
                if self.free(from, &binding) {
                    effects.record(Record::Consent { site: from.clone(), model: binding.model });
                }
            }
            SiteMessage::Unbound(binding) => {
                self.free(from, &binding);
            }
        }
        Ok(())
    }

    fn decided(
        &mut self,
        from: &SiteName,
        decision: Decision,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        let principal = Principal::Site(from.clone());
        let record = self.sites.get_mut(from).ok_or_else(|| Refused::UnknownSite(from.clone()))?;
        match decision {
            Decision::Pending => {
                if record.standing == Standing::Silent {
                    record.standing = Standing::Deciding { since: now };
                }
            }
            Decision::Accepted(signed) => {
                if record.accepted().is_some_and(|accepted| accepted.signed == signed) {
                    return Ok(());
                }
                let acceptance = signed.verify(&principal, &record.key)?.into_inner();
                self.check_acceptance(from, &acceptance)?;
                let terms = acceptance.terms;
                let standing =
                    Standing::Accepted(Box::new(Accepted { signed: signed.clone(), terms, since: now }));
                if let Some(record) = self.sites.get_mut(from) {
                    record.standing = standing;
                }
                effects.record(Record::Acceptance(signed));
            }
            Decision::Refused(signed) => {
                if record.standing == Standing::Refused(signed.clone()) {
                    return Ok(());
                }
                let Refusal { study, .. } = signed.verify(&principal, &record.key)?.into_inner();
                if study != self.study.hash() {
                    return Err(Refused::Mismatch("the study"));
                }
                record.standing = Standing::Refused(signed.clone());
                effects.record(Record::Refusal(signed));
                if let Some(attempt) = self.collecting() {
                    // It changed its mind in the middle of an attempt.
                    let _ =
                        self.leave(attempt, Missing::withdrew(from.clone(), Withdrawal::StoppedAtSite), now);
                }
            }
        }
        Ok(())
    }

    fn check_acceptance(&self, from: &SiteName, acceptance: &Acceptance) -> Result<(), Refused> {
        let aggregation = &self.study.aggregation;
        let weight = acceptance.weight_class;
        let lawful_weight =
            aggregation.weight.allows(weight, aggregation.weight_cap, acceptance.terms.exact_weights);
        // A weight is fixed at acceptance: were it to follow the cases, its changes would show them.
        let same_weight = match &self.sites[from].standing {
            Standing::Accepted(before) => {
                before.signed.claim().is_ok_and(|before| before.weight_class == weight)
            }
            _ => true,
        };
        for (holds, what) in [
            (acceptance.study == self.study.hash(), "the study"),
            (acceptance.roster == self.roster_hash, "the roster"),
            (lawful_weight && same_weight, "the weight"),
            (acceptance.terms.groups || aggregation.groups.is_none(), "what the site says about groups"),
        ] {
            if !holds {
                return Err(Refused::Mismatch(what));
            }
        }
        Ok(())
    }

    fn readiness(
        &mut self,
        from: &SiteName,
        signed: Signed<Readiness>,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        let study = self.study.hash();
        let record = self.sites.get_mut(from).ok_or_else(|| Refused::UnknownSite(from.clone()))?;
        if record.readiness.as_ref() == Some(&signed) {
            return Ok(());
        }
        let readiness = signed.verify(&Principal::Site(from.clone()), &record.key)?;
        if readiness.study != study {
            return Err(Refused::Mismatch("the study"));
        }
        record.readiness = Some(signed.clone());
        effects.record(Record::Readiness(signed));
        Ok(())
    }

    fn pairs_settled(&mut self, from: &SiteName, epoch: Epoch, with: Vec<SiteName>) -> Result<(), Refused> {
        let state =
            self.epoch.as_mut().filter(|state| state.opening.epoch == epoch).ok_or(Refused::NotNow)?;
        if state.lost.contains(from) || state.setup.advert(from).is_none() {
            return Err(Refused::NotNow);
        }
        let peers = state.settled.entry(from.clone()).or_default();
        peers.extend(with.into_iter().filter(|peer| self.sites.contains_key(peer)));
        state.setup.take_settled(from, peers.iter().cloned());
        Ok(())
    }

    fn keys_lost(&mut self, from: &SiteName, epoch: Epoch, now: Timestamp) -> Result<(), Refused> {
        let state =
            self.epoch.as_mut().filter(|state| state.opening.epoch == epoch).ok_or(Refused::NotNow)?;
        if !state.lost.insert(from.clone()) {
            return Ok(());
        }
        // The next epoch is opened when it has rested, so that a site that loses its keys again and again
        // cannot keep the others busy.
        let timing = self.timing;
        if let Some(record) = self.sites.get_mut(from) {
            record.rest(RestAfter::Setup, now, &timing);
        }
        if let Some(attempt) = self.collecting() {
            let _ = self.leave(attempt, Missing::withdrew(from.clone(), Withdrawal::NoKeys), now);
        }
        Ok(())
    }

    /// Of so many bytes of a masked vector, so many are here.
    pub(super) fn receiving(
        &mut self,
        from: &SiteName,
        attempt: Attempt,
        (done, total): (u64, u64),
        now: Timestamp,
    ) -> Result<(), Refused> {
        self.progress(from, Progress { attempt, stage: Doing::Uploading, done, total }, now)
    }

    fn progress(&mut self, from: &SiteName, progress: Progress, now: Timestamp) -> Result<(), Refused> {
        let member = self.member(from, progress.attempt)?;
        // Only growth counts: a site that repeats itself does not hold the others up.
        let grown = member
            .progress
            .is_none_or(|before| (progress.stage, progress.done) > (before.stage, before.done));
        if grown {
            member.progress = Some(progress);
            member.progressed = now;
        }
        Ok(())
    }

    fn masked(&mut self, from: &SiteName, masked: Masked, now: Timestamp) -> Result<(), Refused> {
        let accepted = self.sites.get(from).and_then(SiteRecord::accepted);
        let floors = accepted.map(|accepted| Floors::of(&accepted.terms));
        let member = self.member(from, masked.attempt)?;
        match member.upload {
            UploadState::Gone(_) => return Err(Refused::NotNow),
            // Said again. The first receipt counts; the protocol compares.
            UploadState::Awaited
            | UploadState::Announced(_)
            | UploadState::Receiving
            | UploadState::Complete => {}
        }
        // A site asks of a round what it said when it accepted, or the others could not be chosen by it.
        let receipt = masked.upload.receipt.claim().map_err(|_| Refused::Mismatch("the receipt"))?;
        if !floors.is_some_and(|floors| floors.are_in(&receipt.terms)) {
            return Err(Refused::Mismatch("what the receipt asks of the round"));
        }
        member.busy_ms = member.busy_ms.max(masked.busy_ms);
        member.progressed = now;
        self.take_upload(from, masked.upload)
    }

    fn more_envelopes(
        &mut self,
        from: &SiteName,
        ctx: CtxHash,
        envelopes: Vec<Envelope>,
        now: Timestamp,
    ) -> Result<(), Refused> {
        let live = self.live(ctx)?;
        let most = live.context.selection.len();
        let member = live.members.get_mut(from).ok_or(Refused::NotNow)?;
        let UploadState::Announced(upload) = &member.upload else {
            // Said again after all had come.
            return Ok(());
        };
        member.progressed = now;
        let mut upload = (**upload).clone();
        for envelope in envelopes {
            let known = upload.envelopes.iter().any(|known| known.recipient == envelope.recipient);
            if !known && upload.envelopes.len() < most {
                upload.envelopes.push(envelope);
            }
        }
        upload.envelopes.sort_by_key(|envelope| envelope.recipient);
        self.take_upload(from, upload)
    }

    /// A site takes no further part in an attempt that still collects.
    pub(super) fn leave(
        &mut self,
        attempt: Attempt,
        missing: Missing,
        now: Timestamp,
    ) -> Result<(), Refused> {
        let (timing, purpose) = (self.timing, self.purpose());
        let member = self.member(&missing.site, attempt)?;
        // A complete vector stays in: it cannot be told apart from one whose sender fell silent.
        if matches!(member.upload, UploadState::Complete | UploadState::Gone(_)) {
            return Ok(());
        }
        member.upload = UploadState::Gone(missing.clone());
        if let Some(record) = self.sites.get_mut(&missing.site) {
            record.last_missing = Some(missing);
            record.rest(RestAfter::Attempt(purpose), now, &timing);
        }
        Ok(())
    }

    /// Survivors no longer bind, or never bound, this site. Says whether that is news.
    fn free(&mut self, from: &SiteName, binding: &Binding) -> bool {
        let survivors: BTreeSet<_> = binding.survivors.iter().cloned().collect();
        let mut freed = false;
        for set in &mut self.opened {
            let meant = set.is_opened_by(binding.purpose, binding.model, binding.baseline);
            freed |= meant && set.survivors == survivors && set.freed.insert(from.clone());
        }
        let Binding { purpose, model, baseline, .. } = *binding;
        let record = self.sites.get_mut(from);
        if let Some(record) =
            record.filter(|record| record.bound == Some(Summed { purpose, model, baseline }))
        {
            record.bound = None;
            freed = true;
        }
        freed
    }

    /// A site refuses an attempt because of the repeat rule: whatever it said before, it is bound.
    fn bind_again(&mut self, from: &SiteName, attempt: Option<Attempt>) {
        let Some(summed) = attempt.and_then(|attempt| self.summed_by(attempt)) else { return };
        let Summed { purpose, model, baseline } = summed;
        let mut here = false;
        for set in &mut self.opened {
            if set.is_opened_by(purpose, model, baseline) {
                set.freed.remove(from);
                here = true;
            }
        }
        if !here && let Some(record) = self.sites.get_mut(from) {
            record.bound = Some(summed);
        }
    }

    /// What an attempt would open that collects, or was given up a moment ago.
    fn summed_by(&self, attempt: Attempt) -> Option<Summed> {
        let latest = attempt.get() + 1 == self.next_attempt;
        match &self.run()?.stage {
            Stage::Attempt(live) if live.attempt() == attempt => {
                let context = &live.context;
                let (purpose, model, baseline) = (context.purpose, context.model, context.baseline);
                Some(Summed { purpose, model, baseline })
            }
            // The same is tried again.
            Stage::Gathering(gathering) if latest && gathering.given_up.attempts > 0 => self.next_sum(),
            Stage::Attempt(_) | Stage::Gathering(_) | Stage::Summing(_) => None,
        }
    }

    /// Whether a message belongs to the attempt that has just ended.
    fn comes_late(&self, message: &SiteMessage) -> bool {
        let ctx = match message {
            SiteMessage::Opened { ctx, .. } => Some(*ctx),
            SiteMessage::Signature(signature) => signature.claim().ok().map(|said| said.ctx),
            SiteMessage::Answer(answer) => answer.claim().ok().map(|said| said.ctx),
            _ => None,
        };
        let summing = match self.run().map(|run| &run.stage) {
            Some(Stage::Summing(summing)) => Some(summing.ctx),
            _ => None,
        };
        let settled = self.settled.as_ref().map(|settled| settled.ctx);
        ctx.is_some() && (ctx == summing || ctx == settled)
    }

    /// The number of the attempt that collects, if one does.
    fn collecting(&self) -> Option<Attempt> {
        match &self.run()?.stage {
            Stage::Attempt(live) if matches!(live.phase, Phase::Collect(_)) => Some(live.attempt()),
            _ => None,
        }
    }

    /// The running attempt, if it is this one.
    pub(super) fn live(&mut self, ctx: CtxHash) -> Result<&mut Live, Refused> {
        match self.run_mut().map(|run| &mut run.stage) {
            Some(Stage::Attempt(live)) if live.ctx == ctx => Ok(live),
            _ => Err(Refused::NotNow),
        }
    }

    /// A member of the attempt that collects.
    fn member(&mut self, site: &SiteName, attempt: Attempt) -> Result<&mut Member, Refused> {
        match self.run_mut().map(|run| &mut run.stage) {
            Some(Stage::Attempt(live))
                if live.attempt() == attempt && matches!(live.phase, Phase::Collect(_)) =>
            {
                live.members.get_mut(site).ok_or(Refused::NotNow)
            }
            _ => Err(Refused::NotNow),
        }
    }
}
