//! What a sum leads to: a candidate, its adoption or refusal, the next round, the release.

use std::collections::BTreeSet;

use consilium_secagg::context::{Purpose, Selection};
use consilium_secagg::numbering::{Attempt, RoundNumber};
use consilium_secagg::packed::{WIDEST_SPREAD, is_crowded};
use consilium_study::hash::Hash;
use consilium_study::metric::Metric;
use consilium_study::name::SiteName;

use super::fewest_sites;
use super::run::{Gathering, Life, Run, Stage, Step, Summing, Trained};
use super::sites::SiteRecord;
use super::{Effects, StudyMachine};
use crate::ending::is_over;
use crate::event::{Effect, Notice, SumRefused, Summed};
use crate::gate;
use crate::message::{Settled, SettledAs, StudyState};
use crate::metrics::{Figures, TrainFigures};
use crate::reason::{Abandonment, CandidateRefusal, Unevaluated};
use crate::record::{Adoption, Course, Evaluated, OpenedSum, Record, Release, ReleaseReason, Verdict};
use crate::status::{LineState, RoundLine};
use crate::time::Timestamp;
use crate::vector::Ranges;

impl StudyMachine {
    /// The shell has added up.
    pub(super) fn summed(
        &mut self,
        attempt: Attempt,
        outcome: Result<Summed, SumRefused>,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        let Some(run) = self.run() else { return };
        let Stage::Summing(summing) = &run.stage else { return };
        if summing.job.context.attempt != attempt {
            // The answer of a job that was given out twice.
            return;
        }
        let (summing, step) = ((**summing).clone(), run.step.clone());
        match (outcome, step) {
            (
                Ok(Summed::Train { aggregate, candidate, figures, largest, moments, control }),
                Step::Train(round),
            ) => {
                let made =
                    OpenedSum { candidate: Some(candidate), moments, control, ..sum(&summing, aggregate) };
                opened(&summing, made, effects);
                let survivors = summing.job.survivors.keys().cloned().collect();
                let control = Self::next_control(&summing, control);
                let trained = Trained { candidate, figures, largest, survivors, moments, control };
                self.trained(round, &summing, trained, now, effects);
            }
            (Ok(Summed::Evaluate { aggregate, figures }), Step::Evaluate { round, trained }) => {
                opened(&summing, sum(&summing, aggregate), effects);
                self.evaluated(round, &summing, &trained, figures, now, effects);
            }
            // A model that is not finite, or counts that no vectors lead to. An answer of the wrong kind is
            // no sum either.
            (Err(SumRefused) | Ok(_), _) => self.sum_failed(&summing, now, effects),
        }
    }

    fn trained(
        &mut self,
        round: RoundNumber,
        summing: &Summing,
        trained: Trained,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        let line = self.line_of(summing, LineState::Trained, Some(trained.figures.loss), None, now);
        self.settled = Some(Settled {
            attempt: summing.job.context.attempt,
            ctx: summing.ctx,
            outcome: SettledAs::Opened,
            model: self.model,
            candidate: Some(trained.candidate),
        });
        if let Some(run) = self.run_mut() {
            *run = Run {
                step: Step::Evaluate { round, trained: Box::new(trained) },
                stage: Stage::Gathering(Gathering::begin(now)),
            };
        }
        self.was_counted(summing.job.context.purpose, summing.job.survivors.keys());
        self.add_line(line, effects);
    }

    fn evaluated(
        &mut self,
        round: RoundNumber,
        summing: &Summing,
        trained: &Trained,
        figures: Option<Figures>,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        let evaluated = figures.map(|figures| Evaluated {
            ctx: summing.ctx,
            survivors: summing.job.survivors.keys().cloned().collect(),
            figures,
        });
        let verdict = self.judge(trained, evaluated.as_ref());
        let state = match verdict {
            Verdict::Adopted => LineState::Adopted,
            Verdict::Unevaluated(cause) => LineState::Unevaluated(cause),
            Verdict::Refused(cause) => LineState::Refused(cause),
        };
        let figures = evaluated.as_ref().map(|evaluated| &evaluated.figures);
        let loss = figures.map(|figures| figures.loss);
        let line = self.line_of(summing, state, loss, figures, now);
        self.was_counted(summing.job.context.purpose, summing.job.survivors.keys());
        self.conclude(round, trained, verdict, evaluated, now, effects);
        self.settled = Some(Settled {
            attempt: summing.job.context.attempt,
            ctx: summing.ctx,
            outcome: SettledAs::Opened,
            model: self.model,
            candidate: None,
        });
        self.add_line(line, effects);
    }

    /// A candidate that is too long, or that too few sites would train from, is refused, or the study would stand
    /// still. The rest is the acceptance gate's. Figures that are none do not pass a gate that is on.
    fn judge(&self, trained: &Trained, evaluated: Option<&Evaluated>) -> Verdict {
        if gate::is_too_long(&self.study, &trained.figures) {
            return Verdict::Refused(CandidateRefusal::TooLong);
        }
        let Some(evaluated) = evaluated else {
            return if self.may_go_unseen() {
                Verdict::Unevaluated(Unevaluated::BadCounts)
            } else {
                Verdict::Refused(CandidateRefusal::BadCounts)
            };
        };
        if evaluated.willing(&trained.survivors) < fewest_sites(&self.study) {
            return Verdict::Refused(CandidateRefusal::TooFewWilling);
        }
        let gate = self.study.evaluation.gate;
        let refusal =
            gate.and_then(|gate| gate::refusal(&gate, &self.adoptions, &trained.figures, evaluated));
        refusal.map_or(Verdict::Adopted, Verdict::Refused)
    }

    /// Whether a candidate is adopted that nobody can evaluate: not with a gate, and not where too few sites would
    /// have trained from an earlier one with this starting model.
    pub(super) fn may_go_unseen(&self) -> bool {
        let declined = |last: &Adoption| {
            last.start == self.model && last.verdict == Verdict::Refused(CandidateRefusal::TooFewWilling)
        };
        self.study.evaluation.gate.is_none() && !self.adoptions.iter().any(declined)
    }

    /// Nobody can say how good the candidate is, and nothing waits for it.
    pub(super) fn conclude_unevaluated(&mut self, cause: Unevaluated, now: Timestamp, effects: &mut Effects) {
        let Some(Run { step: Step::Evaluate { round, trained }, .. }) = self.run().cloned() else {
            return;
        };
        let verdict = if gate::is_too_long(&self.study, &trained.figures) {
            Verdict::Refused(CandidateRefusal::TooLong)
        } else {
            Verdict::Unevaluated(cause)
        };
        self.conclude(round, &trained, verdict, None, now, effects);
        if let Some(settled) = &mut self.settled {
            settled.model = self.model;
            settled.candidate = None;
        }
        let line = RoundLine {
            round: round.get(),
            kind: crate::status::Kind::Evaluate,
            state: match verdict {
                Verdict::Refused(cause) => LineState::Refused(cause),
                Verdict::Adopted | Verdict::Unevaluated(_) => LineState::Unevaluated(cause),
            },
            loss: None,
            auroc: None,
            metric: self.own_metric(),
            figure: None,
            selected: 0,
            counted: 0,
            missing: Vec::new(),
            bytes_up: 0,
            bytes_down: 0,
            seconds: 0.0,
            overhead_seconds: None,
            absent: Vec::new(),
        };
        self.add_line(line, effects);
    }

    /// Ends a round.
    fn conclude(
        &mut self,
        round: RoundNumber,
        trained: &Trained,
        verdict: Verdict,
        evaluated: Option<Evaluated>,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        let adoption = Adoption {
            round,
            start: self.model,
            candidate: trained.candidate,
            verdict,
            trained: trained.figures,
            evaluated,
        };
        if !matches!(verdict, Verdict::Refused(_)) {
            self.model = trained.candidate;
            self.moments = trained.moments;
            self.control.clone_from(&trained.control);
            if self.is_crowded(trained) {
                self.spread =
                    Some(self.spread.map_or(1, |spread| spread.saturating_add(1)).min(WIDEST_SPREAD));
            }
            let spread = self.spread.unwrap_or_default();
            self.ranges = Ranges::after(&self.study, &trained.largest, self.heaviest_share(), spread);
            self.participants.extend(trained.survivors.iter().cloned());
        }
        self.adoptions.push(adoption.clone());
        self.forget_opened();
        effects.record(Record::Adoption(Box::new(adoption)));
        if is_over(&self.study, &self.adoptions) {
            self.close(now, effects);
        } else if let Some(run) = self.run_mut() {
            let next = RoundNumber::new(round.get() + 1).expect("the number of rounds fits a round number");
            *run = Run { step: Step::Train(next), stage: Stage::Gathering(Gathering::begin(now)) };
        }
    }

    fn sum_failed(&mut self, summing: &Summing, now: Timestamp, effects: &mut Effects) {
        let context = &summing.job.context;
        let (attempt, cause) = (context.attempt, Abandonment::SumFailed);
        effects.record(Record::Abandoned {
            attempt,
            ctx: summing.ctx,
            cause,
            missing: summing.missing.clone(),
            by: None,
        });
        effects.push(Effect::DiscardUploads { attempt, survivors: Vec::new() });
        effects.notify(Notice::Abandoned { attempt, cause });
        self.give_up(attempt, summing.ctx, cause, summing.given_up.and(context, &summing.missing), now);
        let line = self.line_of(summing, LineState::Abandoned(cause), None, None, now);
        self.add_line(line, effects);
        if self.waiting_candidate().is_some() && self.may_go_unseen() {
            self.conclude_unevaluated(Unevaluated::BadCounts, now, effects);
        }
    }

    /// Sites that were counted are trusted to be there again.
    fn was_counted<'s>(&mut self, purpose: Purpose, survivors: impl Iterator<Item = &'s SiteName>) {
        for site in survivors {
            if let Some(record) = self.sites.get_mut(site) {
                record.was_counted(purpose);
            }
        }
    }

    /// The largest weight that a site accepted with, by the largest that the study allows.
    fn heaviest_share(&self) -> f64 {
        let weights = self.sites.values().filter_map(SiteRecord::weight);
        f64::from(weights.max().unwrap_or(1)) / f64::from(self.study.aggregation.weight_cap)
    }

    /// Whether so many entries of a packed sum saturated that the ranges have to be wider.
    fn is_crowded(&self, trained: &Trained) -> bool {
        self.study.aggregation.is_packed()
            && is_crowded(trained.figures.saturated, self.study.model.averaged_len(), trained.survivors.len())
    }

    /// No further round follows: one transition, with the recommended model in it.
    fn close(&mut self, now: Timestamp, effects: &mut Effects) {
        let release = Release {
            study: self.study.hash(),
            model: self.study.initial_model(),
            reason: ReleaseReason::NothingAdopted,
            rounds: self.adoptions.len() as u32,
            participants: self.participants.clone(),
            absent: self.sites.keys().filter(|site| !self.participants.contains(*site)).cloned().collect(),
        };
        let release = match self.recommended() {
            Some((adoption, reason)) => Release { model: adoption.candidate, reason, ..release },
            None => release,
        };
        effects.course(Course::Close, &consilium_study::name::Principal::Coordinator);
        effects.push(Effect::Publish(Box::new(release.clone())));
        effects.notify(Notice::State(StudyState::Closed));
        self.life = Life::Closed { release: Box::new(release), since: now, late: false };
    }

    /// The best of the adopted models by the study's metric. Only models whose held-out cases are those of the
    /// same sites are compared: the largest such group, the later one of equals. Without figures, the last.
    fn recommended(&self) -> Option<(&Adoption, ReleaseReason)> {
        let adopted: Vec<&Adoption> = self
            .adoptions
            .iter()
            .filter(|adoption| !matches!(adoption.verdict, Verdict::Refused(_)))
            .collect();
        let last = *adopted.last()?;
        let metric = self.study.evaluation.recommend;
        let measured: Vec<(&Adoption, &Evaluated, f64)> = adopted
            .iter()
            .filter_map(|adoption| {
                let evaluated = adoption.evaluated.as_ref()?;
                Some((*adoption, evaluated, evaluated.figures.get(metric)?))
            })
            .collect();
        let size = |group: &BTreeSet<SiteName>| {
            measured.iter().filter(|(_, evaluated, _)| evaluated.survivors == *group).count()
        };
        let group =
            measured.iter().map(|(_, evaluated, _)| &evaluated.survivors).max_by_key(|group| size(group));
        let Some(group) = group else {
            return Some((last, ReleaseReason::LastAdopted { round: last.round }));
        };
        let mut best: Option<(&Adoption, &Evaluated, f64)> = None;
        for (adoption, evaluated, figure) in &measured {
            let of_group = evaluated.survivors == *group;
            if of_group && best.is_none_or(|(_, _, before)| metric.improves(*figure, before)) {
                best = Some((adoption, evaluated, *figure));
            }
        }
        best.map(|(adoption, evaluated, _)| {
            let reason = ReleaseReason::BestEvaluated {
                round: adoption.round,
                metric,
                evaluated: Box::new(evaluated.clone()),
                among: size(group) as u32,
            };
            (adoption, reason)
        })
    }

    fn line_of(
        &self,
        summing: &Summing,
        state: LineState,
        loss: Option<f64>,
        figures: Option<&Figures>,
        now: Timestamp,
    ) -> RoundLine {
        let metric = self.own_metric();
        let context = &summing.job.context;
        let seconds = now.since(summing.begun).as_secs_f64();
        let training = context.purpose == Purpose::Train;
        RoundLine {
            round: context.round.get(),
            kind: context.purpose.into(),
            state,
            loss,
            auroc: figures.and_then(|figures| figures.auroc),
            metric,
            figure: figures.zip(metric).and_then(|(figures, metric)| figures.get(metric)),
            selected: summing.selected,
            counted: summing.job.survivors.len() as u32,
            missing: summing.missing.clone(),
            bytes_up: summing.bytes_up,
            bytes_down: summing.bytes_down,
            seconds,
            absent: self.absent(&context.selection),
            overhead_seconds: training.then(|| (seconds - summing.busy_ms as f64 / 1000.0).max(0.0)),
        }
    }

    /// The metric that lines tell beside loss and AUROC, where the study's model is picked by it.
    pub(super) fn own_metric(&self) -> Option<Metric> {
        let metric = self.study.evaluation.recommend;
        (!matches!(metric, Metric::Loss | Metric::Auroc)).then_some(metric)
    }

    /// Sites of the study that are not in a Selection.
    pub(super) fn absent(&self, selection: &Selection) -> Vec<SiteName> {
        let invited: BTreeSet<&SiteName> = selection.members().iter().map(|member| &member.site).collect();
        self.study.sites.iter().filter(|site| !invited.contains(site)).cloned().collect()
    }

    pub(super) fn published(&mut self, effects: &mut Effects) {
        if let Life::Closed { release, .. } = &self.life {
            let release = release.clone();
            effects.record(Record::Release((*release).clone()));
            effects.notify(Notice::State(StudyState::Released { model: release.model }));
            self.life = Life::Released(release);
        }
    }

    /// The recommended model of a study whose rounds are done.
    pub fn release(&self) -> Option<&Release> {
        match &self.life {
            Life::Closed { release, .. } | Life::Released(release) => Some(release),
            Life::Proposed | Life::Open | Life::Running(_) | Life::Paused { .. } | Life::Stopped { .. } => {
                None
            }
        }
    }

    /// The model that was adopted before this one, where training with momentum needs it.
    pub(super) fn before(&self, purpose: Purpose) -> Option<Hash> {
        let needs_it = purpose == Purpose::Train && self.study.rounds.strategy.server_momentum() > 0.0;
        let mut adopted =
            self.adoptions.iter().rev().filter(|last| !matches!(last.verdict, Verdict::Refused(_)));
        needs_it.then(|| adopted.next()).flatten().map(|last| last.start)
    }

    /// What training said about the candidate that waits for its evaluation.
    pub fn candidate(&self) -> Option<(Hash, TrainFigures)> {
        match &self.run()?.step {
            Step::Evaluate { trained, .. } => Some((trained.candidate, trained.figures)),
            Step::Train(_) => None,
        }
    }
}

/// An opened sum that made nothing.
fn sum(summing: &Summing, aggregate: Hash) -> OpenedSum {
    let context = &summing.job.context;
    OpenedSum {
        attempt: context.attempt,
        ctx: summing.ctx,
        round: context.round,
        purpose: context.purpose,
        aggregate,
        candidate: None,
        moments: None,
        control: None,
    }
}

fn opened(summing: &Summing, sum: OpenedSum, effects: &mut Effects) {
    let attempt = sum.attempt;
    effects.record(Record::Opened(sum));
    let survivors = summing.job.survivors.keys().cloned().collect();
    effects.push(Effect::DiscardUploads { attempt, survivors });
}
