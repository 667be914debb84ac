//! Each check of a vault for itself: what one core is asked, and what it makes of that.

use consilium_identity::Roster;
use consilium_identity::roster::SiteEntry;
use consilium_rounds::message::{Directive, Letter, SiteMessage, StudyState};
use consilium_rounds::{Act, Event};
use consilium_secagg::context::{Context, Purpose, Selection};
use consilium_secagg::message::EpochOpening;
use consilium_secagg::numbering::{Attempt, Epoch};
use consilium_secagg::threshold::Thresholds;
use consilium_study::canonical::Canonical as _;
use consilium_study::disclosure::Floor;
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::name::Principal;
use consilium_study::policy::Policy;
use consilium_study::sign::{Signed, SigningKey};

use super::tests::WILLING;
use super::{Federation, Site, study_text};
use crate::journal;
use crate::pipe::message::{FromRelay, FromVault};
use crate::store::{Disk, Kind, Store as _};
use crate::vault::core::Core;
use crate::vault::record::{PersonalAct, PersonalAnswer};
use crate::vault::work::{AttemptJob, Halt, Job, Outcome};

mod attempts;
mod devices;
mod files;
mod local_layers;
mod variates;

const FIRST: usize = 0;

impl Federation {
    /// What the coordinator would say to the first site now.
    fn directives(&self) -> Vec<Letter<Directive>> {
        self.machine.directives_for(&self.sites[FIRST].name)
    }

    fn proposal(&self) -> (Hash, Signed<Study>, Signed<Roster>) {
        let Letter { study, message: Directive::Proposal { study: signed, roster } } =
            self.directives().remove(0)
        else {
            panic!("a study is proposed first")
        };
        (study, signed, Signed::from_canonical(&roster).unwrap())
    }

    fn start(&mut self) {
        self.tell(Event::Operator { by: "operator/o".parse().unwrap(), act: Act::Start });
    }

    /// A study that runs, and what asks the first site to train in its first round, unheard yet.
    fn asked() -> (Self, Signed<Context>) {
        let mut federation = Self::new(WILLING);
        federation.start();
        let context = federation.asked_to_train(1);
        (federation, context)
    }

    /// What opens an epoch after that of a context.
    pub(super) fn next_epoch(&self, context: &Context) -> Directive {
        let opening = EpochOpening {
            study: context.study,
            roster: context.roster,
            epoch: Epoch::new(context.epoch.get() + 1).unwrap(),
            first_attempt: Attempt::new(50).unwrap(),
            attempts: 10,
        };
        Directive::Opening(Signed::seal(&opening, Principal::Coordinator, &self.key))
    }

    /// Goes on until the first site is asked to train in a round, and has not heard of it yet.
    fn asked_to_train(&mut self, round: u32) -> Signed<Context> {
        for _ in 0..1000 {
            for letter in self.directives() {
                if let Directive::Begin { context } = letter.message {
                    let claim = context.claim().unwrap();
                    if claim.round.get() == round && claim.purpose == Purpose::Train {
                        return context;
                    }
                }
            }
            if !self.pass() {
                self.now += 60_000;
                self.tell(Event::Tick);
            }
        }
        panic!("{:#?}", self.machine.status());
    }
}

impl Site {
    fn hear(&mut self, study: Hash, message: Directive) {
        let bytes = Letter { study, message }.to_bytes();
        self.core.frame(FromRelay::Directive { bytes: bytes.into(), parent: String::new() }).unwrap();
    }

    fn propose(&mut self, study: Hash, signed: &Signed<Study>, roster: &Signed<Roster>) {
        let (study_signed, roster) = (signed.clone(), roster.to_canonical().into());
        self.hear(study, Directive::Proposal { study: study_signed, roster });
    }

    fn events(&self) -> Vec<journal::Event> {
        let records = journal::read(&Disk, &self.folder.journal()).unwrap();
        records.into_iter().map(|record| record.event).collect()
    }

    /// Why directives were refused, as the journal has it.
    fn refusals(&self) -> Vec<String> {
        let reason = |event| match event {
            journal::Event::DirectiveRefused { reason, .. } => Some(reason),
            _ => None,
        };
        self.events().into_iter().filter_map(reason).collect()
    }

    /// A person answers.
    fn answer(&mut self, study: Hash, answer: &PersonalAnswer) {
        let path = self.folder.study(&study).decision();
        Disk.replace(Kind::Decision, &path, &answer.to_canonical()).unwrap();
        self.core.tick().unwrap();
    }

    fn stage(&self, study: Hash) -> &'static str {
        self.core.cases[&study].record.stage().name()
    }

    /// Everything the core has to say now.
    fn says(&mut self) -> Vec<SiteMessage> {
        let said = self.core.speak().into_iter().filter_map(|message| match message {
            FromVault::Say { message, .. } => Some(Letter::from_bytes(&message).unwrap().message),
            _ => None,
        });
        said.collect()
    }

    fn highest(&self, study: Hash) -> Option<Attempt> {
        self.core.cases[&study].machine.as_ref().unwrap().highest_attempt()
    }

    /// The work of the attempt that was just accepted.
    fn job(&mut self) -> Box<AttemptJob> {
        loop {
            if let Job::Attempt(job) = self.jobs.try_recv().expect("an attempt is worked on") {
                return job;
            }
        }
    }

    /// What comes of some work, and the job that follows is left alone.
    fn outcome_of(&mut self, job: Job) -> Outcome {
        let outcomes = std::cell::RefCell::new(Vec::new());
        self.worker.perform(job, &|outcome| outcomes.borrow_mut().push(outcome));
        let done = |outcome: &Outcome| matches!(outcome, Outcome::Worked { .. } | Outcome::Spooled { .. });
        outcomes.into_inner().into_iter().find(done).expect("work ends")
    }

    fn halted(&mut self, job: Box<AttemptJob>) -> Option<Halt> {
        match self.outcome_of(Job::Attempt(job)) {
            Outcome::Worked { result, .. } => result.err(),
            _ => panic!("an attempt was worked on"),
        }
    }
}

fn answer(study: Hash, act: PersonalAct) -> PersonalAnswer {
    PersonalAnswer { study, act, person: "Ada".into(), at_ms: 0, about: None }
}

fn study_of(site: &Site) -> Hash {
    *site.core.cases.keys().next().unwrap()
}

fn other() -> Hash {
    Hash::of_bytes(b"other")
}

#[test]
fn a_proposal_is_signed_by_an_operator_of_a_roster_that_is_believed() {
    let mut federation = Federation::new(WILLING);
    let (study, good, roster) = federation.proposal();
    let (plan, stranger) = (good.claim().unwrap(), SigningKey::generate());
    let by = |signer: Principal, key: &SigningKey| Signed::seal(&plan, signer, key);
    let operator = |name: &str| -> Principal { format!("operator/{name}").parse().unwrap() };
    let forged = Signed::seal(&roster.claim().unwrap(), roster.signer().clone(), &stranger);
    let wrong = [
        (study, by(operator("o"), &stranger), &roster),
        (study, by(operator("x"), &stranger), &roster),
        (study, by(Principal::Coordinator, &federation.key), &roster),
        (other(), good.clone(), &roster),
        (study, good.clone(), &forged),
    ];
    for (number, (study, signed, roster)) in wrong.into_iter().enumerate() {
        let site = &mut federation.sites[FIRST];
        site.propose(study, &signed, roster);
        assert!(site.core.cases.is_empty());
        assert_eq!(site.refusals().len(), number + 1, "{:?}", site.refusals());
    }
    let site = &mut federation.sites[FIRST];
    for _ in 0..2 {
        site.propose(study, &good, &roster);
        assert_eq!(site.stage(study), "decided");
        let proposed = |event: &journal::Event| matches!(event, journal::Event::Proposed { .. });
        assert_eq!(site.events().iter().filter(|event| proposed(event)).count(), 1);
    }
}

#[test]
fn the_newest_roster_of_a_proposal_is_the_one_that_is_believed() {
    let mut federation = Federation::new(WILLING);
    let (study, good, roster) = federation.proposal();
    let known = roster.claim().unwrap();
    let e = SiteEntry {
        name: "e".parse().unwrap(),
        signing_key: SigningKey::generate().verifying_key(),
        tls_key: Hash::of_bytes(b"e"),
        test: false,
    };
    let newer = known.with_site(e.clone()).unwrap();
    let fork = known.with_site(SiteEntry { tls_key: other(), ..e }).unwrap();
    let [signed, fork] = [&newer, &fork].map(|roster| federation.consortium.sign(roster));
    let site = &mut federation.sites[FIRST];
    assert!(site.core.identity.check_roster(&fork).is_ok());
    site.propose(study, &good, &signed);
    assert_eq!(site.core.identity.roster, signed);
    site.crash();
    let identity = &site.core.identity;
    assert_eq!(identity.roster, signed);
    assert!(identity.check_roster(&signed).is_ok());
    assert!(identity.check_roster(&roster).is_err(), "an older one");
    assert!(identity.check_roster(&fork).is_err(), "another one of the same version");
}

#[test]
fn a_persons_answer_is_about_this_study_and_what_it_waits_for() {
    let mut federation = Federation::new("operators = [\"operator/o\"]\n");
    while federation.pass() {}
    let study = federation.machine.study_hash();
    let site = &mut federation.sites[FIRST];
    site.answer(study, &answer(other(), PersonalAct::Approve));
    assert_eq!(site.stage(study), "waiting");
    assert!(!site.folder.study(&study).decision().exists());
    site.answer(study, &answer(study, PersonalAct::Approve));
    assert_eq!(site.stage(study), "decided");
    site.crash();
    assert_eq!(site.stage(study), "decided");
    // No, while the data is read.
    site.answer(study, &answer(study, PersonalAct::Decline));
    assert_eq!(site.stage(study), "refused");
    site.work();
    assert_eq!(site.stage(study), "refused");
    site.crash();
    assert_eq!(site.stage(study), "refused");
    let site = &mut federation.sites[1];
    for _ in 0..2 {
        site.answer(study, &answer(study, PersonalAct::Approve));
        site.work();
        assert_eq!(site.stage(study), "accepted");
    }
    site.crash();
    assert_eq!(site.stage(study), "accepted");
    assert!(site.folder.disclosure().exists(), "what the gate told is remembered");
    site.answer(study, &answer(study, PersonalAct::Approve));
    assert_eq!(site.stage(study), "accepted", "there is nothing to be approved again");
    assert!(site.folder.study(&study).chain_keys().exists());
    site.answer(study, &answer(study, PersonalAct::Decline));
    assert_eq!(site.stage(study), "refused");
    assert!(!site.folder.study(&study).chain_keys().exists(), "whoever leaves a study leaves no keys");
    let told = |event: &journal::Event| match event {
        journal::Event::Approved { person, .. } => Some(format!("approved by {person}")),
        journal::Event::Accepted { rule, .. } => Some(format!("accepted by {rule}")),
        journal::Event::Declined { person, .. } => Some(format!("declined by {person}")),
        journal::Event::Refused { rule, .. } => Some(format!("refused by {rule}")),
        _ => None,
    };
    let told: Vec<_> = site.events().iter().filter_map(told).collect();
    let people = ["approved by Ada", "accepted by person: Ada", "declined by Ada", "refused by person: Ada"];
    assert_eq!(told, people);
}

#[test]
fn a_site_with_too_few_cases_does_not_take_part() {
    let mut federation = Federation::new(&format!("{WILLING}min_cases = 61\n"));
    while federation.pass() {}
    let study = federation.machine.study_hash();
    let rule = |site: &Site| site.core.cases[&study].record.rule().unwrap().as_str().to_owned();
    assert_eq!(rule(&federation.sites[FIRST]), "policy.min_cases");
    let mut federation = Federation::new(WILLING);
    let study = federation.machine.study_hash();
    let cohort = federation.sites[FIRST].worker.cohorts.get_mut(&study).unwrap();
    cohort.train = cohort.train.select(&[]);
    while federation.pass() {}
    let site = &federation.sites[FIRST];
    let rule = site.core.cases[&study].record.rule().unwrap().as_str().to_owned();
    assert_eq!((site.stage(study), rule.as_str()), ("refused", "policy.min_cases"), "none to train on");
}

#[test]
fn after_the_end_nothing_is_taken_and_nothing_said() {
    let mut federation = Federation::new(WILLING);
    federation.run();
    while federation.pass() {}
    let study = federation.machine.study_hash();
    let site = &mut federation.sites[FIRST];
    assert!(!site.worker.cohorts.contains_key(&study), "its cases are let go");
    site.crash();
    let case = &site.core.cases[&study];
    assert!(case.machine.is_none() && case.sayings().next().is_none());
    let begun = case.record.participation().unwrap().begun.clone().unwrap();
    let before = site.refusals().len();
    site.hear(study, Directive::Begin { context: begun });
    assert_eq!(site.refusals()[before..], ["the study is over here"]);
    site.answer(study, &answer(study, PersonalAct::Decline));
    assert_eq!(site.stage(study), "accepted", "there is nothing to be declined any more");
}

#[test]
fn refusals_about_unknown_studies_are_not_kept_without_end() {
    let mut federation = Federation::new(WILLING);
    let site = &mut federation.sites[FIRST];
    for number in 0..100_u32 {
        site.hear(Hash::of_bytes(&number.to_le_bytes()), Directive::StudyState(StudyState::Paused));
    }
    assert_eq!(site.says().len(), 32);
}

#[test]
fn a_vault_without_the_book_that_its_records_know_does_not_start() {
    let mut federation = Federation::new(WILLING);
    federation.start();
    federation.asked_to_train(2);
    let site = &federation.sites[FIRST];
    let open = || {
        let (sender, _jobs) = std::sync::mpsc::channel();
        let (policy, identity) = (site.policy.clone(), site.identity.clone());
        let key = SigningKey::from_seed(site.seed.into());
        Core::open(site.folder.clone(), site.disk.clone(), policy, identity, key, sender).map(|_| ())
    };
    assert!(open().is_ok());
    std::fs::remove_file(site.folder.repeat_book()).unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("is older than what study"), "{error}");
}

#[test]
fn floors_are_those_of_the_acceptance_and_the_gate_of_today() {
    let mut federation = Federation::new(&format!("{WILLING}min_selection = 4\nknown_sites = [\"b\"]\n"));
    while federation.pass() {}
    let study = federation.machine.study_hash();
    let site = &mut federation.sites[FIRST];
    site.policy = Policy::from_toml(&format!("{WILLING}known_sites = [\"b\"]\ncount_floor = 50\n")).unwrap();
    site.crash();
    let machine = site.core.cases[&study].machine.as_ref().unwrap();
    assert_eq!(machine.terms(&other(), Purpose::Train, &site.core.book).min_selection, 4);
    assert_eq!(site.core.gate.floor(), Floor::new(50).unwrap());
    // The others go on without b, and this site does not.
    let mut federation = Federation::new(&format!("{WILLING}known_sites = [\"b\"]\n"));
    federation.start();
    let context = federation.asked_to_train(1);
    let mut fields = context.claim().unwrap().into_fields();
    let left = fields.selection.members().iter().filter(|member| member.site.as_str() != "b");
    fields.selection =
        Selection::new(left.map(|member| (member.site.clone(), member.advert)).collect::<Vec<_>>()).unwrap();
    fields.thresholds = Thresholds::new(4, 3, 0).unwrap();
    let context = Context::new(fields).unwrap();
    let context = Signed::seal(&context, Principal::Coordinator, &federation.key);
    let site = &mut federation.sites[FIRST];
    site.hear(study_of(site), Directive::Begin { context });
    assert_eq!(site.refusals(), ["policy.known_sites demands b"]);
}
