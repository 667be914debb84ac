//! The course of a study: what it does by its own rules, and what operators make it do.

use consilium_secagg::numbering::RoundNumber;
use consilium_study::name::Principal;
use consilium_study::sign::SigningKey;

use super::run::{Gathering, Life, Phase, Run, Stage, Step, Wanted};
use super::sites::SiteRecord;
use super::{Effects, StudyMachine};
use crate::event::{ActRefused, Effect, Notice};
use crate::message::StudyState;
use crate::reason::Abandonment;
use crate::record::Course;
use crate::time::Timestamp;

impl StudyMachine {
    /// Does everything that can be done now.
    pub(super) fn advance(&mut self, now: Timestamp, key: &SigningKey, effects: &mut Effects) {
        while self.advance_once(now, key, effects) {}
    }

    fn advance_once(&mut self, now: Timestamp, key: &SigningKey, effects: &mut Effects) -> bool {
        match &self.life {
            Life::Proposed => {
                let open = self.is_enough(|record| record.accepted().is_some());
                if open {
                    self.life = Life::Open;
                    effects.course(Course::Open, &Principal::Coordinator);
                    effects.notify(Notice::State(StudyState::Open));
                }
                open
            }
            Life::Open => {
                // Keys are settled while the study waits for its start.
                if self.epoch_is_due(now) {
                    self.open_epoch(now, key, effects);
                    return true;
                }
                let start = self.wanted == Wanted::Yes;
                if start {
                    let step = Step::Train(RoundNumber::new(1).expect("rounds are numbered from 1"));
                    let stage = Stage::Gathering(Gathering::begin(now));
                    self.life = Life::Running(Run { step, stage });
                    effects.notify(Notice::State(StudyState::Running));
                }
                start
            }
            Life::Running(run) => match &run.stage {
                Stage::Gathering(gathering) => self.gather(&gathering.clone(), now, key, effects),
                Stage::Attempt(_) => self.push_on(now, effects),
                Stage::Summing(_) => false,
            },
            // What was opened is finished; nothing new begins.
            Life::Paused { run, .. } => match &run.stage {
                Stage::Attempt(_) => self.push_on(now, effects),
                Stage::Gathering(_) | Stage::Summing(_) => false,
            },
            Life::Closed { since, late, .. } => {
                let alarm = !late && since.after_human(self.timing.release_timeout) <= now;
                if alarm {
                    if let Life::Closed { late, .. } = &mut self.life {
                        *late = true;
                    }
                    effects.notify(Notice::ReleaseLate);
                }
                alarm
            }
            Life::Released(_) | Life::Stopped { .. } => false,
        }
    }

    /// Whether these sites are a quorum with every required one.
    pub(super) fn is_enough(&self, these: impl Fn(&SiteRecord) -> bool) -> bool {
        let count = self.sites.values().filter(|record| these(record)).count();
        let required = &self.study.rounds.required;
        count >= (self.study.rounds.quorum as usize).max(3)
            && required.iter().all(|site| these(&self.sites[site]))
    }

    pub(super) fn start(&mut self, by: &Principal, effects: &mut Effects) -> Result<(), ActRefused> {
        if self.is_over() {
            return Err(ActRefused::StudyOver);
        }
        if self.wanted != Wanted::Yes && matches!(self.life, Life::Proposed | Life::Open) {
            self.wanted = Wanted::Yes;
            effects.course(Course::Start, by);
        }
        Ok(())
    }

    pub(super) fn pause(
        &mut self,
        by: &Principal,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), ActRefused> {
        if self.is_over() {
            return Err(ActRefused::StudyOver);
        }
        match (&self.life, self.wanted) {
            (Life::Running(_), _) => {
                effects.course(Course::Pause, by);
                self.abandon_collection(Abandonment::Paused, by, now, effects);
                if let Life::Running(run) = &self.life {
                    self.life = Life::Paused { run: run.clone(), since: now };
                }
                effects.notify(Notice::State(StudyState::Paused));
            }
            (Life::Proposed | Life::Open, Wanted::Yes) => {
                self.wanted = Wanted::Held;
                effects.course(Course::Pause, by);
            }
            (Life::Proposed | Life::Open, Wanted::NotYet) => return Err(ActRefused::NotStarted),
            // It is paused, or nothing new begins any more.
            _ => {}
        }
        Ok(())
    }

    pub(super) fn unpause(
        &mut self,
        by: &Principal,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), ActRefused> {
        if self.is_over() {
            return Err(ActRefused::StudyOver);
        }
        match (&self.life, self.wanted) {
            (Life::Paused { run, .. }, _) => {
                let mut run = run.clone();
                if let Stage::Gathering(gathering) = &mut run.stage {
                    *gathering = Gathering::begin(now);
                }
                self.life = Life::Running(run);
                effects.course(Course::Resume, by);
                effects.notify(Notice::State(StudyState::Running));
            }
            (Life::Proposed | Life::Open, Wanted::Held) => {
                self.wanted = Wanted::Yes;
                effects.course(Course::Resume, by);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn stop(
        &mut self,
        by: &Principal,
        reason: String,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), ActRefused> {
        match self.life {
            Life::Stopped { .. } => Ok(()),
            Life::Released(_) => Err(ActRefused::StudyOver),
            Life::Proposed | Life::Open | Life::Running(_) | Life::Paused { .. } | Life::Closed { .. } => {
                if self.live_attempt().is_some() {
                    self.abandon(Abandonment::Stopped, Some(by), now, effects);
                }
                if let Some(Run { stage: Stage::Summing(summing), .. }) = self.run() {
                    let attempt = summing.job.context.attempt;
                    effects.push(Effect::DiscardUploads { attempt, survivors: Vec::new() });
                }
                effects.course(Course::Stop { reason: reason.clone() }, by);
                effects.notify(Notice::State(StudyState::Stopped));
                self.life = Life::Stopped { reason, since: now };
                Ok(())
            }
        }
    }

    pub(super) fn restored(
        &mut self,
        by: &Principal,
        above: u32,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), ActRefused> {
        if self.is_over() {
            return Err(ActRefused::StudyOver);
        }
        if above < self.next_attempt {
            // What the sites have seen is not above what this state knows.
            return Ok(());
        }
        if self.live_attempt().is_some_and(|live| live.attempt().get() <= above) {
            self.abandon(Abandonment::Restored, Some(by), now, effects);
        }
        self.next_attempt = above.saturating_add(1);
        // Keys that were settled after the backup are unknown here.
        self.epoch = None;
        // So may control variates be that were trained after it.
        self.lose_variates();
        effects.course(Course::Restored { above }, by);
        Ok(())
    }

    /// The next moment at which time alone changes something. The shell sends [`crate::Event::Tick`] then.
    pub fn deadline(&self) -> Option<Timestamp> {
        let mut moments: Vec<Timestamp> = Vec::new();
        match &self.life {
            Life::Running(run) | Life::Paused { run, .. } => match &run.stage {
                Stage::Gathering(gathering) => self.gathering_moments(gathering, &mut moments),
                Stage::Attempt(live) => {
                    if matches!(live.phase, Phase::Collect(_)) {
                        moments.push(match live.outstanding().next() {
                            Some(_) => self.collect_deadline(live),
                            None => self.verdict_deadline(live),
                        });
                    }
                }
                Stage::Summing(_) => {}
            },
            Life::Open => self.settling_moments(&mut moments),
            Life::Closed { since, late: false, .. } => {
                moments.push(since.after_human(self.timing.release_timeout));
            }
            Life::Proposed | Life::Closed { .. } | Life::Released(_) | Life::Stopped { .. } => {}
        }
        // A moment that has passed was seen by the last event.
        moments.into_iter().filter(|moment| *moment > self.clock).min()
    }

    fn gathering_moments(&self, gathering: &Gathering, moments: &mut Vec<Timestamp>) {
        moments.push(gathering.not_before);
        moments.push(gathering.since.after_human(self.study.rounds.evaluate_timeout));
        moments.extend(self.sites.values().filter_map(|record| record.expected_back(&self.timing)));
        moments.extend(self.draw_deadline());
        self.settling_moments(moments);
    }

    fn settling_moments(&self, moments: &mut Vec<Timestamp>) {
        moments.extend(self.sites.values().flat_map(SiteRecord::rests_end));
        if let Some(epoch) = &self.epoch {
            let patience = self.study.rounds.setup_timeout;
            let sites = self.sites.iter().filter(|(_, record)| record.accepted().is_some());
            moments.extend(sites.map(|(site, _)| self.settling_since(site, epoch).after_human(patience)));
        }
    }
}
