//! Epochs, contexts, survivors and how attempts end.

use std::collections::{BTreeMap, BTreeSet};

use consilium_identity::Roster;
use consilium_rounds::reason::Abandonment;
use consilium_rounds::record::{Missing, OpenedSum};
use consilium_secagg::context::{Context, CtxHash, Purpose};
use consilium_secagg::grouping::DrawProof;
use consilium_secagg::message::{EpochOpening, Receipt, Survivor, Survivors, SurvivorsSignature};
use consilium_secagg::numbering::SiteIndex;
use consilium_secagg::terms::RosterSet;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, Statement};

use super::{AttemptWalk, Candidate, End, Fault, StudyWalk, Walk};
use crate::describe;
use crate::report::{Absence, AttemptReport, StudyState};
use crate::statement::Act;

impl Walk {
    pub(super) fn epoch(&mut self, signed: &Signed<EpochOpening>) -> Result<(), Fault> {
        let opening = self.by_coordinator(signed)?.into_inner();
        if !self.rosters.contains_key(&opening.roster) {
            return Err(Fault::UnknownRoster(opening.roster));
        }
        let study = self.study_mut(&opening.study)?;
        // Keys are settled before the start, too: also while that is put off.
        if study.state != StudyState::Paused {
            study.running()?;
        }
        let before = study.epoch.as_ref().map_or(0, |epoch| epoch.epoch.get());
        rising("epoch", opening.epoch.get(), before)?;
        rising("first attempt", opening.first_attempt.get(), study.last_attempt)?;
        if opening.attempts > study.study.rounds.attempts_per_epoch {
            return Err(Fault::NotAsStudied("number of attempts in an epoch"));
        }
        study.epoch = Some(opening);
        study.drawn = None;
        Ok(())
    }

    /// The groups follow from what every participant committed to before anybody revealed it.
    pub(super) fn draw(&mut self, hash: Hash, proof: &DrawProof) -> Result<(), Fault> {
        let study = self.study_mut(&hash)?;
        let open = study.epoch.clone().ok_or(Fault::Groups)?;
        if study.drawn.is_some() {
            return Err(Fault::SaidBefore("'s epoch had a draw"));
        }
        let (call, drawn) = proof.check(&self.pin(&hash, &open.roster)?)?;
        if call.epoch != open.epoch {
            return Err(Fault::Groups);
        }
        self.study_mut(&hash)?.drawn = Some(drawn);
        Ok(())
    }

    pub(super) fn context(&mut self, signed: &Signed<Context>) -> Result<(), Fault> {
        let context = self.by_coordinator(signed)?.into_inner();
        self.pin(&context.study, &context.roster)?.check(&context)?;
        let hash = context.hash();
        let study = self.study_mut(&context.study)?;
        study.running()?;
        rising("attempt", context.attempt.get(), study.last_attempt)?;
        study.serves(&context)?;
        study.groups(&context)?;
        study.consents(&context)?;
        study.starts_right(&context)?;
        let correction = study.correction(&context)?;
        study.last_attempt = context.attempt.get();
        study.contexts.push(hash);
        let report = AttemptReport {
            attempt: context.attempt.get(),
            round: context.round.get(),
            purpose: describe::purpose(context.purpose),
            model: context.model,
            selected: context.selection.members().iter().map(|member| member.site.clone()).collect(),
            counted: Vec::new(),
            missing: Vec::new(),
            groups: context.groups,
            honest_behind_sum: match context.grouping {
                None => context.thresholds.honest_behind_a_sum(),
                Some(_) => context.thresholds.honest,
            },
            outcome: "not settled".to_owned(),
            aggregate: None,
            candidate: None,
        };
        let study = context.study;
        let walk =
            AttemptWalk { study, context, correction, survivors: None, agreed: false, end: None, report };
        self.attempts.insert(hash, walk);
        Ok(())
    }

    pub(super) fn survivors(
        &mut self,
        study: Hash,
        context: &CtxHash,
        survivors: &[(SiteName, Hash)],
        receipts: &[Signed<Receipt>],
        missing: &[Missing],
    ) -> Result<(), Fault> {
        let attempt = self.attempt_mut(study, context)?;
        if attempt.survivors.is_some() {
            return Err(Fault::SaidBefore("had survivors"));
        }
        attempt.split(survivors, missing)?;
        let named = attempt.named(survivors)?;
        let (attempt, of) = (&self.attempts[context], &self.studies[&study]);
        let known = attempt.known_receipts(&self.rosters[&attempt.context.roster], receipts)?;
        attempt.check_receipts(&named, &known)?;
        of.check_terms(attempt, &named, &known)?;
        if let Some(thin) = attempt.context.thin_groups(named.indices()).first().and_then(BTreeSet::first) {
            return Err(Fault::ThinGroup(attempt.site(*thin)?.clone()));
        }
        let attempt = self.attempt_mut(study, context)?;
        attempt.report.counted = survivors.iter().map(|(site, _)| site.clone()).collect();
        attempt.report.missing = absences(missing);
        "survivors were proposed, the sum is not opened".clone_into(&mut attempt.report.outcome);
        attempt.survivors = Some(named);
        Ok(())
    }

    pub(super) fn agreement(
        &mut self,
        study: Hash,
        context: &CtxHash,
        signatures: &[Signed<SurvivorsSignature>],
    ) -> Result<(), Fault> {
        let attempt = self.attempt_mut(study, context)?;
        if attempt.agreed {
            return Err(Fault::SaidBefore("was agreed on"));
        }
        let survivors = attempt.survivors.clone().ok_or(Fault::WrongEnd("no survivors were proposed"))?;
        let roster = &self.rosters[&self.attempts[context].context.roster];
        self.attempts[context].check_signatures(roster, &survivors, signatures)?;
        let attempt = self.attempt_mut(study, context)?;
        attempt.agreed = true;
        "enough survivors signed, the sum is not opened".clone_into(&mut attempt.report.outcome);
        Ok(())
    }

    pub(super) fn opened(&mut self, study: Hash, sum: &OpenedSum) -> Result<(), Fault> {
        let strategy = self.study_mut(&study)?.study.rounds.strategy;
        let attempt = self.attempt_mut(study, &sum.ctx)?;
        let context = &attempt.context;
        let said = (sum.attempt, sum.round, sum.purpose);
        if said != (context.attempt, context.round, context.purpose) {
            return Err(Fault::WrongEnd("its numbers or purpose are not the context's"));
        }
        if !attempt.agreed {
            return Err(Fault::WrongEnd("no survivors have agreed to open a sum"));
        }
        if sum.candidate.is_some() != (sum.purpose == Purpose::Train) {
            return Err(Fault::WrongEnd("training makes a model, and nothing else does"));
        }
        if sum.moments.is_some() != (sum.candidate.is_some() && strategy.keeps_moments()) {
            return Err(Fault::WrongEnd(
                "moments stand beside the models of a strategy that keeps them, and nowhere else",
            ));
        }
        let control = attempt.control_of(sum, strategy.keeps_control())?;
        attempt.end = Some(End::Opened);
        "the sum was opened".clone_into(&mut attempt.report.outcome);
        attempt.report.aggregate = Some(sum.aggregate);
        attempt.report.candidate = sum.candidate;
        let (counted, context) = (attempt.report.counted.clone(), attempt.context.clone());
        if let Some(model) = sum.candidate {
            let study = self.study_mut(&study)?;
            if let Some(made) = &control {
                study.note_control(&context, model, made);
            }
            study.candidate = Some(Candidate { round: sum.round.get(), model, counted, control });
        }
        Ok(())
    }

    pub(super) fn abandoned(
        &mut self,
        study: Hash,
        context: &CtxHash,
        cause: Abandonment,
        missing: &[Missing],
        by: Option<&Principal>,
        index: u64,
    ) -> Result<(), Fault> {
        let guilty = self.study_mut(&study)?.guilty.clone();
        let attempt = self.attempt_mut(study, context)?;
        // Survivors that were proposed may have been opened: only a failed sum, a proof that one of them dealt shares
        // that lead to none, or a person ends that.
        let decided = match cause {
            Abandonment::DeclaredLost | Abandonment::SumFailed | Abandonment::Stopped => true,
            Abandonment::GuiltyDealer => attempt.has_survivor_of(&guilty)?,
            Abandonment::Restored => by.is_some(),
            Abandonment::BelowQuorum
            | Abandonment::TooFewGroups
            | Abandonment::RepeatRule
            | Abandonment::Terms
            | Abandonment::Paused => false,
        };
        if attempt.survivors.is_some() && !decided {
            return Err(Fault::WrongEnd("survivors were proposed, so it can only be declared lost"));
        }
        attempt.end = Some(End::Abandoned);
        attempt.report.outcome = format!("no sum: {cause}");
        attempt.report.counted.clear();
        attempt.report.missing = absences(missing);
        let number = attempt.context.attempt;
        if cause == Abandonment::DeclaredLost {
            let by = by.ok_or(Fault::WrongEnd("it does not say who declared it lost"))?;
            self.ordered(by, &Act::DeclareLost { study, attempt: number }, index);
        }
        Ok(())
    }
}

impl StudyWalk {
    /// Attempts may begin.
    pub(super) fn running(&self) -> Result<(), Fault> {
        if self.state == StudyState::Open { Ok(()) } else { Err(Fault::Halted(self.state)) }
    }

    fn serves(&self, context: &Context) -> Result<(), Fault> {
        let serves = |open: &EpochOpening| {
            open.epoch == context.epoch && open.roster == context.roster && open.serves(context.attempt)
        };
        if self.epoch.as_ref().is_some_and(serves) {
            return Ok(());
        }
        Err(Fault::NoEpoch { epoch: context.epoch.get(), attempt: context.attempt.get() })
    }

    /// The groups are those that were drawn, of sites that have each allowed groups.
    fn groups(&self, context: &Context) -> Result<(), Fault> {
        if context.grouping.is_none() {
            return Ok(());
        }
        let drawn = self.drawn.as_ref().and_then(|drawn| drawn.grouping(&context.selection));
        if drawn != context.grouping {
            return Err(Fault::Groups);
        }
        let allows = |site: &SiteName| self.accepted.get(site).is_some_and(|said| said.terms.groups);
        match context.selection.members().iter().find(|member| !allows(&member.site)) {
            Some(member) => Err(Fault::NotGrouped(member.site.clone())),
            None => Ok(()),
        }
    }

    /// Every selected site agreed to this study with these members, on terms that the context meets.
    fn consents(&self, context: &Context) -> Result<(), Fault> {
        let thresholds = context.thresholds;
        for member in context.selection.members() {
            let site = &member.site;
            let accepted = self.accepted.get(site).filter(|said| said.roster == context.roster);
            let terms = accepted.ok_or_else(|| Fault::NotAccepted(site.clone()))?.terms;
            let too_small = terms.min_selection > u32::from(thresholds.selected)
                || terms.min_honest > u32::from(thresholds.honest);
            if too_small {
                return Err(Fault::TermsBroken(site.clone()));
            }
        }
        Ok(())
    }

    /// Training starts from the model the study stands at; an evaluation is of what training made.
    fn starts_right(&self, context: &Context) -> Result<(), Fault> {
        let same = |what, got, want| {
            if got == want { Ok(()) } else { Err(Fault::WrongModel { what, got, want }) }
        };
        match context.purpose {
            Purpose::Train => same("starting model", context.model, self.model),
            Purpose::Statistics => Ok(()),
            Purpose::Evaluate => {
                let candidate = self.candidate.as_ref().ok_or(Fault::NoSuchModel(context.model))?;
                same("candidate", context.model, candidate.model)?;
                context.baseline.map_or(Ok(()), |baseline| same("baseline", baseline, self.model))
            }
        }
    }
}

/// Receipts by their senders.
type Known = BTreeMap<SiteIndex, Receipt>;

impl StudyWalk {
    /// The survivors meet the terms in every survivor's receipt.
    fn check_terms(&self, attempt: &AttemptWalk, survivors: &Survivors, known: &Known) -> Result<(), Fault> {
        let sites = survivors.indices().map(|index| attempt.site(index).cloned());
        let sites = sites.collect::<Result<BTreeSet<_>, _>>()?;
        let mut roster = self.study.sites.clone();
        roster.sort();
        let set = RosterSet::of(&roster, &sites);
        for index in survivors.indices() {
            let site = attempt.site(index)?;
            let receipt = known.get(&index).ok_or_else(|| Fault::WrongReceipt(site.clone()))?;
            let terms = &receipt.terms;
            if sites.len() < usize::from(terms.min_selection)
                || terms.min_honest > attempt.context.thresholds.honest
            {
                return Err(Fault::TermsBroken(site.clone()));
            }
            let too_near =
                |earlier: &RosterSet| (1..u32::from(terms.min_change)).contains(&set.distance(earlier));
            let bound = |before: &Vec<SiteName>| {
                let before: BTreeSet<_> = before.iter().cloned().collect();
                sites != before && !sites.iter().eq(before.difference(&self.guilty))
            };
            if terms.earlier.iter().any(too_near) || terms.bound.iter().any(bound) {
                return Err(Fault::Repeated(site.clone()));
            }
        }
        Ok(())
    }
}

impl AttemptWalk {
    fn site(&self, index: SiteIndex) -> Result<&SiteName, Fault> {
        self.context.selection.site(index).ok_or(Fault::NotTheSelection)
    }

    /// Whether one of these sites is among the survivors.
    fn has_survivor_of(&self, sites: &BTreeSet<SiteName>) -> Result<bool, Fault> {
        let mut survivors = self.survivors.iter().flat_map(Survivors::indices).map(|index| self.site(index));
        survivors.try_fold(false, |found, site| Ok(found || sites.contains(site?)))
    }

    /// Survivors and missing sites are the Selection, each once.
    fn split(&self, survivors: &[(SiteName, Hash)], missing: &[Missing]) -> Result<(), Fault> {
        let mut said: Vec<_> = survivors.iter().map(|(site, _)| site).collect();
        said.extend(missing.iter().map(|missing| &missing.site));
        said.sort();
        let selected = self.context.selection.members().iter().map(|member| &member.site);
        if said.into_iter().eq(selected) { Ok(()) } else { Err(Fault::NotTheSelection) }
    }

    /// The survivors by their indices, as they are signed.
    fn named(&self, survivors: &[(SiteName, Hash)]) -> Result<Survivors, Fault> {
        let member = |(site, receipt): &(SiteName, Hash)| {
            let index = self.context.selection.index_of(site).ok_or(Fault::NotTheSelection)?;
            Ok(Survivor { site: index, receipt: *receipt })
        };
        let members = survivors.iter().map(member).collect::<Result<_, Fault>>()?;
        Survivors::new(members).map_err(|_| Fault::NotTheSelection)
    }

    /// The receipts by their senders: each signed by a selected site, about this attempt.
    fn known_receipts(&self, roster: &Roster, receipts: &[Signed<Receipt>]) -> Result<Known, Fault> {
        let mut known = BTreeMap::new();
        for signed in receipts {
            let (index, receipt) = self.of_member(roster, signed, "receipt")?;
            if receipt.ctx != self.context.hash() || receipt.sender != index {
                return Err(Fault::Foreign { what: "receipt", by: signed.signer().clone() });
            }
            known.insert(index, receipt);
        }
        Ok(known)
    }

    /// Every survivor has the receipt it is named with, and both ends of every pair commit to one seed.
    fn check_receipts(&self, survivors: &Survivors, known: &Known) -> Result<(), Fault> {
        for member in survivors.members() {
            let site = self.site(member.site)?;
            let receipt = known.get(&member.site).filter(|receipt| receipt.hash() == member.receipt);
            let receipt = receipt.ok_or_else(|| Fault::WrongReceipt(site.clone()))?;
            for peer in survivors.indices().filter(|peer| *peer > member.site) {
                let theirs = known.get(&peer).and_then(|receipt| receipt.pair_commitment(member.site));
                if theirs.is_none() || receipt.pair_commitment(peer) != theirs {
                    return Err(Fault::UnequalPair(site.clone(), self.site(peer)?.clone()));
                }
            }
        }
        Ok(())
    }

    /// Enough distinct survivors signed for exactly these survivors.
    fn check_signatures(
        &self,
        roster: &Roster,
        survivors: &Survivors,
        signatures: &[Signed<SurvivorsSignature>],
    ) -> Result<(), Fault> {
        let mut signed_by = BTreeSet::new();
        for signed in signatures {
            let (index, said) = self.of_member(roster, signed, "signature")?;
            let about_this = said.ctx == self.context.hash() && said.survivors == survivors.hash();
            if !about_this || !survivors.contains(index) {
                return Err(Fault::Foreign { what: "signature", by: signed.signer().clone() });
            }
            signed_by.insert(index);
        }
        let (got, want) = (signed_by.len(), self.context.thresholds.threshold);
        if got < usize::from(want) { Err(Fault::TooFewSigned { got, want }) } else { Ok(()) }
    }

    /// A statement of a selected site, with its index.
    fn of_member<T: Statement>(
        &self,
        roster: &Roster,
        signed: &Signed<T>,
        what: &'static str,
    ) -> Result<(SiteIndex, T), Fault> {
        let by = signed.signer();
        let foreign = || Fault::Foreign { what, by: by.clone() };
        let Principal::Site(name) = by else { return Err(foreign()) };
        let index = self.context.selection.index_of(name).ok_or_else(foreign)?;
        let key = roster.signing_key(by).ok_or_else(|| Fault::NotOnRoster(by.clone()))?;
        Ok((index, signed.verify(by, &key)?.into_inner()))
    }
}

fn absences(missing: &[Missing]) -> Vec<Absence> {
    let absence = |missing: &Missing| Absence { site: missing.site.clone(), reason: missing.to_string() };
    missing.iter().map(absence).collect()
}

fn rising(what: &'static str, got: u32, after: u32) -> Result<(), Fault> {
    if got > after { Ok(()) } else { Err(Fault::NotRising { what, got, after }) }
}
