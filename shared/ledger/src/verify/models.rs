//! Which model a study goes on with, what it releases, and what people order and notice.

use std::collections::BTreeSet;

use consilium_rounds::ending::is_over;
use consilium_rounds::reason::CandidateRefusal;
use consilium_rounds::record::{Adoption, Course, Evaluated, Release, Verdict};
use consilium_rounds::{fewest_sites, gate};
use consilium_secagg::alarm::Alarm;
use consilium_secagg::context::Purpose;
use consilium_secagg::guilt::DealerGuilt;
use consilium_study::document::AcceptanceGate;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::Signed;

use super::{End, Fault, Walk};
use crate::card::Card;
use crate::describe;
use crate::report::{AlarmReport, ReleaseReport, RoundReport, StudyState};
use crate::statement::{Act, Order};

impl Walk {
    pub(super) fn adoption(&mut self, hash: Hash, said: Adoption) -> Result<(), Fault> {
        if let Some(evaluated) = &said.evaluated {
            self.evaluated(hash, said.candidate, evaluated)?;
        }
        let study = self.study_mut(&hash)?;
        let made = study.candidate.clone().ok_or(Fault::NoSuchModel(said.candidate))?;
        for (what, got, want) in
            [("candidate", said.candidate, made.model), ("starting model", said.start, study.model)]
        {
            if got != want {
                return Err(Fault::WrongModel { what, got, want });
            }
        }
        if said.round.get() != made.round {
            return Err(Fault::NotAsStudied("round"));
        }
        let rule = Rule {
            trained: &made.counted.iter().cloned().collect(),
            fewest: fewest_sites(&study.study),
            declined: study.declined == Some(said.start),
            too_long: gate::is_too_long(&study.study, &said.trained),
            gate: study.study.evaluation.gate.as_ref(),
            before: &study.adoptions,
        };
        judge(&said, &rule)?;
        study.adoptions.push(said.clone());
        study.candidate = None;
        if said.verdict == Verdict::Refused(CandidateRefusal::TooFewWilling) {
            study.declined = Some(said.start);
        }
        if !matches!(said.verdict, Verdict::Refused(_)) {
            study.model = made.model;
            study.control = made.control;
            study.adopted.insert((made.round, made.model));
            study.counted.extend(made.counted);
        }
        study.report.rounds.push(RoundReport {
            round: made.round,
            start: said.start,
            candidate: made.model,
            verdict: describe::verdict(said.verdict),
            figures: said.evaluated.map(|evaluated| evaluated.figures),
        });
        Ok(())
    }

    /// The figures come from an opened evaluation of this candidate, by these survivors, in this study.
    fn evaluated(&self, study: Hash, candidate: Hash, said: &Evaluated) -> Result<(), Fault> {
        let attempt = self.attempts.get(&said.ctx).ok_or(Fault::ForeignFigures)?;
        let about_it = attempt.study == study
            && attempt.context.purpose == Purpose::Evaluate
            && attempt.context.model == candidate
            && attempt.end == Some(End::Opened)
            && attempt.report.counted.iter().eq(&said.survivors);
        if about_it { Ok(()) } else { Err(Fault::ForeignFigures) }
    }

    pub(super) fn release(&mut self, hash: Hash, said: Release) -> Result<(), Fault> {
        let study = self.study_mut(&hash)?;
        if said.study != hash {
            return Err(Fault::UnknownStudy(said.study));
        }
        if matches!(study.state, StudyState::Stopped | StudyState::Released) {
            return Err(Fault::Halted(study.state));
        }
        if !study.adopted.contains(&(said.round(), said.model)) {
            return Err(Fault::NoSuchModel(said.model));
        }
        if said.participants != study.counted {
            return Err(Fault::Participants);
        }
        study.state = StudyState::Released;
        study.report.released = Some(ReleaseReport {
            card: Card::of(&study.study, &said),
            round: said.round(),
            model: said.model,
            participants: said.participants.into_iter().collect(),
        });
        Ok(())
    }

    /// What an operator orders takes effect with the coordinator's account of it; until then it waits.
    pub(super) fn order(&mut self, signed: &Signed<Order>) -> Result<(), Fault> {
        let by = signed.signer().clone();
        if !matches!(by, Principal::Operator(_)) {
            return Err(Fault::WrongRole { got: by, want: "an operator" });
        }
        let said = Self::by_member(self.roster()?, signed)?.into_inner();
        match &said.act {
            Act::Course { study, .. } | Act::DeclareLost { study, .. } => {
                self.study_mut(study)?;
                self.report.orders.push((by, said.act));
            }
            Act::Revoke { site } => {
                if self.rosters.values().all(|roster| roster.site(site).is_none()) {
                    return Err(Fault::NotOnRoster(Principal::Site(site.clone())));
                }
                self.report.revoked.insert(site.clone());
            }
        }
        Ok(())
    }

    pub(super) fn course(
        &mut self,
        hash: Hash,
        course: Course,
        by: &Principal,
        index: u64,
    ) -> Result<(), Fault> {
        let study = self.study_mut(&hash)?;
        if matches!(study.state, StudyState::Stopped | StudyState::Released) {
            return Err(Fault::Halted(study.state));
        }
        if course == Course::Close && !is_over(&study.study, &study.adoptions) {
            return Err(Fault::EarlyEnd { done: study.adoptions.len(), rounds: study.study.rounds.count });
        }
        study.state = match &course {
            Course::Open | Course::Restored { .. } => study.state,
            Course::Start | Course::Resume => StudyState::Open,
            Course::Pause => StudyState::Paused,
            Course::Stop { .. } => StudyState::Stopped,
            Course::Close => StudyState::Closed,
        };
        if *by != Principal::Coordinator {
            self.ordered(by, &Act::Course { study: hash, course }, index);
        }
        Ok(())
    }

    pub(super) fn alarm(
        &mut self,
        study: Hash,
        index: u64,
        site: &SiteName,
        alarm: &Alarm,
    ) -> Result<(), Fault> {
        self.raise(study, index, site, describe::sight(alarm))
    }

    pub(super) fn guilty(
        &mut self,
        study: Hash,
        index: u64,
        dealer: SiteName,
        proof: &DealerGuilt,
    ) -> Result<(), Fault> {
        let pin = self.pin(&study, &proof.context.claim()?.roster)?;
        let proved = proof.check(&pin)?;
        if proved != dealer {
            return Err(Fault::OtherDealer(proved));
        }
        self.raise(study, index, &dealer, describe::GUILTY.to_owned())?;
        self.study_mut(&study)?.guilty.insert(dealer);
        Ok(())
    }

    pub(super) fn consent(
        &mut self,
        study: Hash,
        index: u64,
        site: &SiteName,
        model: Hash,
    ) -> Result<(), Fault> {
        let what =
            format!("a person there allowed model {} to be opened with other survivors", model.short());
        self.raise(study, index, site, what)
    }

    fn raise(&mut self, study: Hash, entry: u64, site: &SiteName, what: String) -> Result<(), Fault> {
        if !self.study_mut(&study)?.study.sites.contains(site) {
            return Err(Fault::NotInStudy(site.clone()));
        }
        self.report.alarms.push(AlarmReport { entry, site: site.clone(), what });
        Ok(())
    }
}

/// What a candidate is judged by.
pub(super) struct Rule<'a> {
    /// Who trained it.
    pub(super) trained: &'a BTreeSet<SiteName>,
    /// The fewest sites that a round is made of.
    pub(super) fewest: usize,
    /// Whether too few would have trained from an earlier candidate with the same starting model.
    pub(super) declined: bool,
    /// Whether its update is longer than any hospital may send.
    pub(super) too_long: bool,
    /// None with the gate off.
    pub(super) gate: Option<&'a AcceptanceGate>,
    /// The candidates before it.
    pub(super) before: &'a [Adoption],
}

/// What too few sites would train from is refused. With the gate off everything else is adopted; with it on,
/// exactly what it lets pass. Nothing is adopted unseen with a gate or after a refusal of the first kind.
pub(super) fn judge(said: &Adoption, rule: &Rule<'_>) -> Result<(), Fault> {
    let Adoption { verdict, evaluated, .. } = said;
    let (verdict, evaluated) = (*verdict, evaluated.as_ref());
    let declined = evaluated.is_some_and(|evaluated| evaluated.willing(rule.trained) < rule.fewest);
    match (verdict, evaluated, rule.gate) {
        (Verdict::Refused(CandidateRefusal::TooLong), ..) if rule.too_long => Ok(()),
        (Verdict::Refused(CandidateRefusal::TooLong), ..) => {
            Err(Fault::Verdict("it is as long as hospitals may send"))
        }
        _ if rule.too_long => Err(Fault::Verdict("it is longer than any hospital may send")),
        (Verdict::Refused(CandidateRefusal::TooFewWilling), ..) if declined => Ok(()),
        (Verdict::Refused(CandidateRefusal::TooFewWilling), ..) => {
            Err(Fault::Verdict("enough sites would train from it"))
        }
        _ if declined => Err(Fault::Verdict("too few sites would train from it")),
        (Verdict::Unevaluated(_), Some(_), _) => Err(Fault::Verdict("it was evaluated")),
        (Verdict::Adopted, None, _) => Err(Fault::Verdict("it was not evaluated")),
        (Verdict::Unevaluated(_), None, gate) if rule.declined || gate.is_some() => {
            Err(Fault::Verdict("an unevaluated candidate has to wait"))
        }
        (Verdict::Refused(CandidateRefusal::BadCounts), None, None) if rule.declined => Ok(()),
        (Verdict::Refused(CandidateRefusal::BadCounts), Some(_), Some(_)) => {
            Err(Fault::Verdict("its counts gave figures"))
        }
        (Verdict::Refused(_), _, None) => Err(Fault::Verdict("the gate is off")),
        (Verdict::Unevaluated(_), None, _)
        | (Verdict::Adopted, Some(_), None)
        | (Verdict::Refused(CandidateRefusal::BadCounts), None, Some(_)) => Ok(()),
        (Verdict::Refused(_), None, Some(_)) => Err(Fault::Verdict("nothing says how much it lost")),
        (Verdict::Refused(_) | Verdict::Adopted, Some(evaluated), Some(gate)) => {
            let refusal = gate::refusal(gate, rule.before, &said.trained, evaluated);
            if refusal.map_or(Verdict::Adopted, Verdict::Refused) == verdict {
                Ok(())
            } else {
                Err(Fault::Verdict("losses and lengths say otherwise"))
            }
        }
    }
}
