//! What people see: the ladder of sites, and every wait with who, for whom, since when and until when.

use std::collections::BTreeMap;

use consilium_study::name::SiteName;

use super::StudyMachine;
use super::run::{Gathering, Life, Live, Phase as Running, Stage, UploadState, Wanted};
use super::select::Shortage;
use super::sites::{Link, SiteRecord, Standing};
use crate::status::{Kind, Phase, RoundLine, Rung, SiteStatus, StudyStatus, Wait, WaitReason};
use crate::time::Timestamp;

impl StudyMachine {
    /// The study as a dashboard shows it.
    pub fn status(&self) -> StudyStatus {
        let run = self.run();
        let live = self.live_attempt();
        StudyStatus {
            study: self.study_hash(),
            name: self.study.name.clone(),
            state: self.state(),
            released: self.state().released(),
            round: run.map_or(self.adoptions.len() as u32, |run| run.step.round().get()),
            rounds: self.study.rounds.count,
            kind: run.map(|run| Kind::from(run.step.purpose())),
            attempt: live.map(|live| live.attempt().get()),
            phase: self.phase(),
            model: self.model,
            sites: self.sites.iter().map(|(site, record)| self.site_status(site, record)).collect(),
            waits: self.waits(),
            lines: self.lines.clone(),
        }
    }

    /// The latest line of the rounds.
    pub fn round_line(&self) -> Option<&RoundLine> {
        self.lines.last()
    }

    fn phase(&self) -> Phase {
        match self.run().map(|run| &run.stage) {
            None => Phase::Idle,
            Some(Stage::Gathering(_)) => Phase::Gathering,
            Some(Stage::Summing(_)) => Phase::Summing,
            Some(Stage::Attempt(live)) => match live.phase {
                Running::Collect(_) => Phase::CollectMasked,
                Running::Check { .. } => Phase::ConsistencyCheck,
                Running::Unmask { .. } => Phase::Unmask,
            },
        }
    }

    /// Whether the attempt is made, or the next one probably will be, without a site that could be asked.
    fn leaves_out(&self, site: &SiteName) -> bool {
        let running = self.live_attempt().map(|live| &live.given_up.unwilling);
        running.or_else(|| self.unwilling()).is_some_and(|unwilling| unwilling.contains(site))
    }

    fn site_status(&self, site: &SiteName, record: &SiteRecord) -> SiteStatus {
        let member = self.live_attempt().and_then(|live| live.members.get(site));
        let progress = member.and_then(|member| member.progress);
        let missing = match member.map(|member| &member.upload) {
            Some(UploadState::Gone(missing)) => Some(missing.clone()),
            // Between attempts: what an operator asks when a study waits for a site that is there.
            None if !record.is_available(self.purpose(), self.clock) || self.leaves_out(site) => {
                record.last_missing.clone()
            }
            Some(_) | None => None,
        };
        SiteStatus {
            site: site.clone(),
            rung: self.rung(site, record),
            connected: record.is_up(),
            stage: progress.map(|progress| progress.stage),
            done: progress.map_or(0, |progress| progress.done),
            total: progress.map_or(0, |progress| progress.total),
            missing,
            refused_by: match &record.standing {
                Standing::Refused(refusal) => refusal.claim().ok().map(|refusal| refusal.rule.to_string()),
                _ => None,
            },
        }
    }

    fn rung(&self, site: &SiteName, record: &SiteRecord) -> Rung {
        match &record.standing {
            Standing::Revoked | Standing::Guilty => return Rung::Expelled,
            Standing::Refused(_) => return Rung::Refused,
            Standing::Deciding { .. } => return Rung::Deciding,
            Standing::Silent if record.link == Link::Never => return Rung::Enrolled,
            Standing::Silent => return Rung::Connected,
            Standing::Accepted(_) => {}
        }
        if let Some(live) = self.live_attempt()
            && let Some(member) = live.members.get(site)
        {
            let counted = match &live.phase {
                Running::Collect(_) => false,
                Running::Check { check, .. } => check.names().contains(site),
                Running::Unmask { unmask, .. } => unmask.names().contains(site),
            };
            match member.upload {
                UploadState::Complete if counted => return Rung::Counted,
                UploadState::Complete => return Rung::Uploaded,
                UploadState::Awaited | UploadState::Announced(_) | UploadState::Receiving => {
                    return Rung::Training;
                }
                UploadState::Gone(_) => {}
            }
        }
        let now = self.clock;
        if !record.is_up() {
            Rung::Away
        } else if record.is_available(self.purpose(), now) && !self.unsettled(now).contains(site) {
            Rung::Ready
        } else {
            Rung::Preparing
        }
    }

    fn waits(&self) -> Vec<Wait> {
        let wait = |reason, sites, since, until| vec![Wait { reason, sites, since, until }];
        match &self.life {
            Life::Proposed => {
                let gone = |record: &SiteRecord| {
                    matches!(record.standing, Standing::Refused(_) | Standing::Revoked | Standing::Guilty)
                };
                let sites: Vec<_> = self
                    .sites
                    .iter()
                    .filter(|(_, record)| gone(record))
                    .map(|(site, _)| site.clone())
                    .collect();
                if !self.is_enough(|record| !gone(record)) {
                    return wait(WaitReason::Stop, sites, self.proposed_at, None);
                }
                let undecided =
                    self.sites.iter().filter(|(_, record)| record.accepted().is_none() && !gone(record));
                let sites = undecided.map(|(site, _)| site.clone()).collect();
                wait(WaitReason::Acceptances, sites, self.proposed_at, None)
            }
            Life::Open => match self.wanted {
                Wanted::NotYet => wait(WaitReason::Start, Vec::new(), self.proposed_at, None),
                Wanted::Held => wait(WaitReason::Resume, Vec::new(), self.proposed_at, None),
                Wanted::Yes => Vec::new(),
            },
            Life::Running(run) => match &run.stage {
                Stage::Gathering(gathering) => self.gathering_waits(gathering),
                Stage::Attempt(live) => self.attempt_waits(live),
                Stage::Summing(summing) => wait(WaitReason::Sum, Vec::new(), summing.begun, None),
            },
            Life::Paused { run, since } => {
                let mut waits = wait(WaitReason::Resume, Vec::new(), *since, None);
                if let Stage::Attempt(live) = &run.stage {
                    waits.extend(self.attempt_waits(live));
                }
                waits
            }
            Life::Closed { since, .. } => {
                let until = since.after_human(self.timing.release_timeout);
                wait(WaitReason::Release, Vec::new(), *since, Some(until))
            }
            Life::Released(_) | Life::Stopped { .. } => Vec::new(),
        }
    }

    fn gathering_waits(&self, gathering: &Gathering) -> Vec<Wait> {
        let since = gathering.since;
        let now = self.clock;
        match self.choose(now) {
            Err(shortage) => {
                let training = self.candidate().is_none();
                let until = (!training && self.may_go_unseen())
                    .then(|| since.after_human(self.study.rounds.evaluate_timeout));
                let sites = match &shortage {
                    Shortage::Required { missing } | Shortage::Bound { missing } => missing.clone(),
                    Shortage::TooFew { .. } | Shortage::TooSmallChange | Shortage::TooFewGroups { .. } => {
                        self.not_ready(now)
                    }
                    Shortage::Regrouped => Vec::new(),
                };
                let mut waits = vec![Wait { reason: WaitReason::Sites(shortage), sites, since, until }];
                if let Some((_, asked)) = self.question() {
                    let sites = asked.into_iter().cloned().collect();
                    waits.push(Wait { reason: WaitReason::Consent, sites, since, until });
                }
                waits
            }
            Ok(selected) => {
                let late: BTreeMap<SiteName, Timestamp> = self.awaited(&selected.sites, now);
                let until = late.values().max().copied();
                let mut waits = Vec::new();
                if !late.is_empty() {
                    let sites = late.into_keys().collect();
                    waits.push(Wait { reason: WaitReason::Latecomers, sites, since, until });
                }
                let hidden = self.hidden();
                if !hidden.is_empty() {
                    let until = self.draw_deadline();
                    waits.push(Wait { reason: WaitReason::Draw, sites: hidden, since, until });
                }
                if gathering.not_before > now {
                    let until = Some(gathering.not_before);
                    waits.push(Wait { reason: WaitReason::Retry, sites: Vec::new(), since, until });
                }
                waits
            }
        }
    }

    fn not_ready(&self, now: Timestamp) -> Vec<SiteName> {
        let unsettled = self.unsettled(now);
        self.sites
            .iter()
            .filter(|(site, record)| !record.is_available(self.purpose(), now) || unsettled.contains(site))
            .map(|(site, _)| site.clone())
            .collect()
    }

    fn attempt_waits(&self, live: &Live) -> Vec<Wait> {
        let (reason, sites, since, until): (_, Vec<SiteName>, _, _) = match &live.phase {
            Running::Collect(phase) => {
                let outstanding: Vec<SiteName> = live.outstanding().map(|(site, _)| site.clone()).collect();
                if outstanding.is_empty() {
                    let until = self.verdict_deadline(live);
                    (WaitReason::Envelopes, phase.waits().verdicts, live.begun, Some(until))
                } else {
                    (WaitReason::Uploads, outstanding, live.begun, Some(self.collect_deadline(live)))
                }
            }
            Running::Check { check, since } => (WaitReason::Signatures, check.waits(), *since, None),
            Running::Unmask { unmask, since } => (WaitReason::Answers, unmask.waits(), *since, None),
        };
        vec![Wait { reason, sites, since, until }]
    }
}
