//! From a proposal to a decision: signatures, roster, policy, a person, the data, in this order.
//!
//! No data file is opened before policy and, where it is asked for, a person have said yes (D10).

use std::time::{Duration, Instant};

use consilium_identity::Roster;
use consilium_identity::roster::SiteEntry;
use consilium_rounds::message::{Decision, SiteMessage};
use consilium_rounds::reason::Decline;
use consilium_study::canonical::Canonical as _;
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::policy::Decision as Judgement;
use consilium_study::sign::Signed;
use consilium_study::statement::{Acceptance, Refusal, Rule};

use super::case::{Case, Topic};
use super::cases::{Found, readiness};
use super::core::{Core, Taken};
use super::record::{Participation, PersonalAct, PersonalAnswer, Stage, StudyRecord};
use super::work::Job;
use crate::data::LoadError;
use crate::journal::Event;
use crate::relay::board::now_ms;
use crate::store::Kind;

/// How long to wait before data that could not be read is read again.
const LOAD_AGAIN: Duration = Duration::from_mins(1);

impl Core {
    /// A study is proposed.
    pub(super) fn proposal(
        &mut self,
        study: Hash,
        signed: Signed<Study>,
        roster: &[u8],
    ) -> anyhow::Result<Taken> {
        if self.cases.contains_key(&study) {
            return Ok(Taken::Done);
        }
        let refused = |reason, why: String| Taken::Refused { reason, attempt: None, why };
        let Ok(roster) = Signed::<Roster>::from_canonical(roster) else {
            return Ok(refused(Decline::Malformed, "the roster of a proposal does not decode".into()));
        };
        let checked = match self.identity.check_roster(&roster) {
            Ok(checked) => checked,
            Err(error) => return Ok(refused(Decline::Roster, error.to_string())),
        };
        let signer = signed.signer().clone();
        let key = match &signer {
            Principal::Operator(_) => checked.signing_key(&signer),
            _ => return Ok(refused(Decline::Signature, format!("{signer} proposes no studies"))),
        };
        let Some(key) = key else {
            return Ok(refused(Decline::Signature, format!("{signer} is not on the roster")));
        };
        let plan = match signed.verify(&signer, &key) {
            Ok(plan) => plan.into_inner(),
            Err(error) => return Ok(refused(Decline::Signature, error.to_string())),
        };
        if plan.hash() != study {
            return Ok(refused(Decline::Malformed, "a proposal names another study than it holds".into()));
        }
        self.remember_roster(roster.clone(), &checked)?;
        self.note(Event::Proposed { study, name: plan.name.clone(), operator: signer.to_string() })?;
        let record = StudyRecord::new(plan, signed, roster, now_ms());
        record.write(&*self.store, &self.folder)?;
        tracing::info!(study = study.short(), name = %record.plan().name, "a study was proposed");
        self.cases.insert(study, Case::new(record));
        self.judge(study)?;
        Ok(Taken::Done)
    }

    /// The newest roster is pinned, so that no older one is believed again. Sites that are new on it are noted:
    /// whoever can sign rosters could otherwise fill studies with sites of its own, and nobody here would see it.
    pub(super) fn remember_roster(&mut self, roster: Signed<Roster>, checked: &Roster) -> anyhow::Result<()> {
        let known = self.identity.roster.claim()?;
        if checked.version() <= known.version() {
            return Ok(());
        }
        let is_known = |site: &&SiteEntry| {
            known.site(&site.name).is_some_and(|entry| entry.signing_key == site.signing_key)
        };
        let new = checked.sites().iter().filter(|site| !is_known(site)).map(|site| site.name.clone());
        let new: Vec<SiteName> = new.collect();
        if !new.is_empty() {
            self.note(Event::RosterGrew { version: checked.version(), new })?;
        }
        self.identity.roster = roster;
        self.identity.write(&*self.store, &self.folder)
    }

    /// Holds the policy against a study that nobody has decided on.
    pub(super) fn judge(&mut self, study: Hash) -> anyhow::Result<()> {
        let Some(case) = self.cases.get(&study) else { return Ok(()) };
        let record = &case.record;
        let sites = record.roster_sites(&self.identity.anchor)?;
        let verdict = self.policy.judge(record.plan(), record.operator(), &self.identity.site, &sites);
        match verdict.decision() {
            Judgement::Accept(rule) => self.decide(study, rule),
            Judgement::Refuse(rule) => self.refuse(study, rule),
            Judgement::AskPerson => {
                if let Some(case) = self.cases.get_mut(&study) {
                    case.say(Topic::Decision, SiteMessage::Decision(Decision::Pending));
                }
                Ok(())
            }
        }
    }

    /// Whether a person has answered since the last look. An answer to nothing is put aside.
    pub(super) fn look_for_answer(&mut self, study: Hash) -> anyhow::Result<()> {
        let Some(case) = self.cases.get(&study) else { return Ok(()) };
        let (waiting, asked) = (*case.record.stage() == Stage::Waiting, case.asked.clone());
        let takes_part = matches!(case.record.stage(), Stage::Decided { .. } | Stage::Accepted(_));
        if case.record.is_over() || !(waiting || takes_part) {
            return Ok(());
        }
        let path = self.folder.study(&study).decision();
        let Some(bytes) = self.store.read(Kind::Decision, &path)? else { return Ok(()) };
        let answer = PersonalAnswer::from_canonical(&bytes).ok().filter(|answer| answer.study == study);
        if let Some(PersonalAnswer { act, person, about, .. }) = answer
            && let Ok(rule) = Rule::person(&person)
        {
            match (act, asked) {
                (PersonalAct::Approve, _) if waiting => {
                    self.note(Event::Approved { study, person })?;
                    self.decide(study, rule)?;
                }
                (PersonalAct::Decline, _) => {
                    self.note(Event::Declined { study, person })?;
                    // Killed before the refusal is written, it finds the answer again.
                    self.forget_study(study)?;
                    self.refuse(study, rule)?;
                }
                (PersonalAct::Consent, Some(question)) if about == Some(question.hash()) => {
                    self.consent(study, person, question)?;
                }
                _ => {
                    tracing::warn!(
                        study = study.short(),
                        person,
                        "an answer to what is not asked is put aside"
                    );
                }
            }
        }
        self.store.remove(Kind::Decision, &path)?;
        Ok(())
    }

    /// Yes, by this rule. What follows needs the data.
    fn decide(&mut self, study: Hash, rule: Rule) -> anyhow::Result<()> {
        if let Some(case) = self.cases.get_mut(&study) {
            case.record.set_stage(Stage::Decided { rule });
            case.record.write(&*self.store, &self.folder)?;
        }
        self.load(study)
    }

    /// Has the data read, for the first time.
    pub(super) fn load(&mut self, study: Hash) -> anyhow::Result<()> {
        if let Some(case) = self.cases.get_mut(&study) {
            case.say(Topic::Decision, SiteMessage::Decision(Decision::Pending));
            self.jobs.send(Job::Load(std::sync::Arc::clone(&case.study)))?;
        }
        Ok(())
    }

    /// No, by this rule.
    fn refuse(&mut self, study: Hash, rule: Rule) -> anyhow::Result<()> {
        let refusal = Refusal { study, rule: rule.clone() };
        let refusal = Signed::seal(&refusal, self.identity.principal(), &self.key);
        self.note(Event::Refused { study, rule: rule.as_str().to_owned() })?;
        if let Some(case) = self.cases.get_mut(&study) {
            case.record.set_stage(Stage::Refused { refusal, rule });
            case.record.write(&*self.store, &self.folder)?;
        }
        self.repeat_decision(study);
        self.forget_pictures()
    }

    /// The data was read: accept, or say why not.
    pub(super) fn loaded(&mut self, study: Hash, found: Result<Found, LoadError>) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        let Stage::Decided { rule } = case.record.stage().clone() else { return Ok(()) };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                case.trouble = Some(format!("{error}. {}", error.remedy(&crate::data::access::user_name())));
                case.load_again = Some(Instant::now() + LOAD_AGAIN);
                tracing::warn!(study = study.short(), "{error}; it will be tried again");
                return Ok(());
            }
        };
        case.trouble = None;
        let least = self.policy.minimum_cases(&case.study);
        // Zero and few look alike: both are below the declared minimum.
        if found.counts.usable < u64::from(least) || found.train.iter().all(|&cases| cases == 0) {
            let rule = Rule::new("policy.min_cases").expect("a rule's name is one short line");
            return self.refuse(study, rule);
        }
        let statement = readiness(study, &found, &mut self.gate);
        self.store.replace(Kind::Disclosure, &self.folder.disclosure(), &self.gate.to_canonical())?;
        let roster = case.record.roster().claim()?.hash();
        let acceptance = Acceptance {
            study,
            roster,
            rule: rule.clone(),
            weight_class: case.study.aggregation.weight_of(&found.train, self.policy.count_floor()),
            terms: self.policy.terms(&case.study),
        };
        let participation = Participation {
            weight_class: acceptance.weight_class,
            acceptance: Signed::seal(&acceptance, self.identity.principal(), &self.key),
            rule: rule.clone(),
            readiness: Signed::seal(&statement, self.identity.principal(), &self.key),
            begun: None,
            withdrawn: None,
            reference: None,
            busy_ms: 0,
            consent: None,
        };
        self.new_machine(study)?;
        self.note(Event::Accepted { study, rule: rule.as_str().to_owned() })?;
        self.note(Event::Ready { study })?;
        if let Some(case) = self.cases.get_mut(&study) {
            case.record.set_stage(Stage::Accepted(Box::new(participation)));
            case.record.write(&*self.store, &self.folder)?;
            self.models.want(case.study.initial_model(), model_limit(&case.study));
            tracing::info!(study = study.short(), name = %case.study.name, "accepted");
        }
        self.repeat_decision(study);
        self.retry_parked(study)
    }

    /// Says the decision that was written down.
    pub(super) fn repeat_decision(&mut self, study: Hash) {
        let Some(case) = self.cases.get_mut(&study) else { return };
        match case.record.stage().clone() {
            Stage::Waiting | Stage::Decided { .. } => {
                case.say(Topic::Decision, SiteMessage::Decision(Decision::Pending));
            }
            Stage::Refused { refusal, .. } => {
                case.say(Topic::Decision, SiteMessage::Decision(Decision::Refused(refusal)));
            }
            Stage::Accepted(participation) => {
                case.say(
                    Topic::Decision,
                    SiteMessage::Decision(Decision::Accepted(participation.acceptance)),
                );
                case.say(Topic::Readiness, SiteMessage::Readiness(participation.readiness));
                if let Some(consent) = participation.consent {
                    case.say(Topic::Consent, SiteMessage::Consent(consent));
                }
            }
        }
    }
}

/// Most bytes that a model file of a study may have: its numbers, and a header of names and shapes.
pub(super) fn model_limit(study: &Study) -> u64 {
    study.model_identity().longest_file()
}
