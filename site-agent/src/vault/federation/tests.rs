//! What must hold whatever happens to a vault.

use std::collections::{BTreeSet, HashSet};
use std::mem::discriminant;
use std::sync::atomic::Ordering;

use consilium_identity::roster::SiteEntry;
use consilium_rounds::reason::CandidateRefusal;
use consilium_rounds::record::Verdict;
use consilium_rounds::status::Phase;
use consilium_rounds::{Act, Event};
use consilium_secagg::numbering::{Attempt, Epoch};
use consilium_study::canonical::Canonical as _;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::policy::Policy;
use consilium_study::sign::{Signed, SigningKey};

use super::{Federation, Job, SITES, pictures, study_text};
use crate::journal;
use crate::pipe::message::FromRelay;
use crate::store::{Disk, Kind, Store as _};
use crate::vault::chainfile;
use crate::vault::record::{Opened, PersonalAct, PersonalAnswer, Question, Stage};

pub(super) const WILLING: &str = "approval = \"automatic\"\noperators = [\"operator/o\"]\n";

#[test]
fn a_study_runs_to_its_release_and_leaves_no_key_behind() {
    let mut federation = Federation::new(WILLING);
    federation.run();
    assert_ne!(federation.released(), federation.machine.study().initial_model());
    federation.pass();
    let study = federation.machine.study_hash();
    for site in &federation.sites {
        let files = site.folder.study(&study);
        assert!(!files.chain_keys().exists(), "the chain keys of a study that is over are erased");
        assert!(site.trained.values().all(|times| *times == 1), "{:?}", site.trained);
        let left: Vec<_> = std::fs::read_dir(files.record().parent().unwrap())
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| name.to_string_lossy().starts_with("spool"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let records = journal::read(&Disk, &site.folder.journal()).unwrap();
        let kinds: HashSet<_> = records.iter().map(|record| discriminant(&record.event)).collect();
        // Proposed, accepted, ready, epoch, began, masked, signed, answered, settled, state.
        assert_eq!(kinds.len(), 10, "{records:#?}");
    }
}

/// Training makes the model worse than any guess where it is scored: nobody would train from the candidate, so it is
/// refused, and the study goes on from the model before instead of standing still.
#[test]
fn a_study_goes_on_when_nobody_would_train_from_its_candidate() {
    let text = study_text().replace("learning_rate = 0.1", "learning_rate = 100.0");
    let mut federation = Federation::of(&text, WILLING);
    for site in &mut federation.sites {
        let scored = &mut site.worker.cohorts.values_mut().next().unwrap().held_out;
        *scored = pictures(20, 0, 0);
    }
    federation.run();
    let adoptions = federation.machine.adoptions();
    assert_eq!(adoptions.len(), 2);
    for adoption in adoptions {
        assert_eq!(adoption.verdict, Verdict::Refused(CandidateRefusal::TooFewWilling), "{adoption:?}");
        assert_eq!(adoption.evaluated.as_ref().unwrap().figures.declines, 4);
    }
    assert_eq!(federation.released(), federation.machine.study().initial_model());
}

/// The theorem: a vault that is killed after any message, and started again, changes neither the model nor what
/// is counted.
#[test]
fn a_kill_after_any_message_changes_nothing() {
    let mut undisturbed = Federation::new(WILLING);
    undisturbed.run();
    let (model, messages) = (undisturbed.released(), undisturbed.said);
    assert!(messages > 100);
    // A prime step visits different messages of different sites.
    for crash_after in (1..messages).step_by(13) {
        let mut federation = Federation::new(WILLING);
        federation.crash_after = Some(crash_after);
        federation.run();
        assert_eq!(federation.released(), model, "killed after message {crash_after}");
        for site in &federation.sites {
            assert!(site.trained.values().all(|times| *times <= 2), "{:?}", site.trained);
        }
    }
}

/// The same between any two durable writes, which is where a kill can leave a site in a new state.
#[test]
fn a_kill_between_any_two_writes_changes_nothing() {
    let mut undisturbed = Federation::new(WILLING);
    undisturbed.run();
    let model = undisturbed.released();
    let writes = undisturbed.sites[1].disk.writes.load(Ordering::Relaxed);
    assert!(writes > 100, "{writes}");
    for last in (1..=writes).step_by(5) {
        let mut federation = Federation::new(WILLING);
        federation.sites[1].disk.last.store(last, Ordering::Relaxed);
        federation.run();
        let records = journal::read(&Disk, &federation.sites[1].folder.journal()).unwrap();
        assert_eq!(
            federation.released(),
            model,
            "killed at write {last}: {records:#?} {:#?}",
            federation.refused
        );
        let masked: Vec<_> = records
            .iter()
            .filter_map(|record| match &record.event {
                journal::Event::Masked { attempt, receipt, .. } => Some((*attempt, *receipt)),
                _ => None,
            })
            .collect();
        let receipts: BTreeSet<_> = masked.iter().collect();
        let attempts: BTreeSet<_> = masked.iter().map(|(attempt, _)| attempt).collect();
        assert_eq!(receipts.len(), attempts.len(), "one receipt per attempt, whatever happens");
    }
}

/// A vault that is started every night does not keep the secret keys of an epoch for ever.
#[test]
fn the_age_of_setup_keys_is_known_after_a_restart() {
    let mut federation = Federation::new(WILLING);
    federation.tell(Event::Operator { by: "operator/o".parse().unwrap(), act: Act::Start });
    let study = federation.machine.study_hash();
    federation.pass();
    let record = std::fs::read(federation.sites[0].folder.study(&study).record()).unwrap();
    assert_eq!(record[0], 0xa5, "a map of the five fields that have always been there");
    let since = |federation: &Federation| federation.sites[0].core.cases[&study].setup_keys_since;
    while since(&federation).is_none() {
        assert!(federation.pass(), "{:#?}", federation.machine.status());
    }
    let opened = since(&federation);
    federation.sites[0].crash();
    assert_eq!(since(&federation), opened);
    let site = &mut federation.sites[0];
    let chain_bytes = |site: &super::Site| {
        let chains = chainfile::candidates(&Disk, &site.folder.study(&study), &study).unwrap();
        chains.iter().map(|(_, chain)| chain.len()).sum::<usize>()
    };
    let before = chain_bytes(site);
    let case = site.core.cases.get_mut(&study).unwrap();
    let epoch = case.machine.as_ref().unwrap().epoch().unwrap();
    assert_eq!(
        case.record.opened_ms(Epoch::new(epoch.get() + 1).unwrap()),
        None,
        "each epoch has its own age"
    );
    let at_ms = opened.unwrap() - 24 * 3_600_000;
    case.record.set_opened(Opened { epoch, at_ms });
    case.record.write(&Disk, &site.folder).unwrap();
    site.crash();
    assert!(chain_bytes(site) + 2400 < before, "an ML-KEM secret key has 2400 bytes, and it is gone");
    assert_eq!(since(&federation), None);
    // And one that is not started again.
    let site = &mut federation.sites[1];
    let before = chain_bytes(site);
    let since = &mut site.core.cases.get_mut(&study).unwrap().setup_keys_since;
    *since = since.map(|at_ms| at_ms - 24 * 3_600_000);
    site.core.tick().unwrap();
    assert!(chain_bytes(site) + 2400 < before);
}

/// Whoever signs rosters can add sites, and a person at this one can see which.
#[test]
fn sites_that_are_new_on_a_roster_are_written_down() {
    let mut federation = Federation::new(WILLING);
    let core = &mut federation.sites[0].core;
    let known = core.identity.roster.claim().unwrap();
    let b = &known.sites()[1];
    let other_key = SiteEntry { signing_key: SigningKey::generate().verifying_key(), ..b.clone() };
    let e = SiteEntry {
        name: "e".parse().unwrap(),
        signing_key: SigningKey::generate().verifying_key(),
        tls_key: Hash::of_bytes(b"e"),
        test: false,
    };
    let newer = known.with_site_replaced(other_key).unwrap().with_site(e).unwrap();
    let signed = Signed::seal(&newer, "operator/o".parse().unwrap(), &federation.key);
    core.remember_roster(signed.clone(), &newer).unwrap();
    core.remember_roster(signed, &newer).unwrap();
    let records = journal::read(&Disk, &federation.sites[0].folder.journal()).unwrap();
    let grew: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.event {
            journal::Event::RosterGrew { new, .. } => {
                Some(new.iter().map(SiteName::as_str).collect::<Vec<_>>())
            }
            _ => None,
        })
        .collect();
    assert_eq!(grew, [["b", "e"]]);
}

/// The others chose their partners by what this site accepted with.
#[test]
fn a_policy_that_was_made_stricter_declines_the_rounds_and_says_by_which_key() {
    let mut federation = Federation::new(WILLING);
    while federation.pass() {}
    let stricter = format!("{WILLING}min_selection = 4\n");
    let site = &mut federation.sites[0];
    site.policy = Policy::from_toml(&stricter).unwrap();
    site.crash();
    federation.run();
    federation.released();
    let site = &federation.sites[0];
    assert!(site.trained.is_empty(), "{:?}", site.trained);
    let study = federation.machine.study_hash();
    let trouble = site.core.cases[&study].trouble.as_deref();
    assert!(trouble.is_some_and(|why| why.contains("policy.min_selection")), "{trouble:?}");
}

#[test]
fn no_data_is_touched_before_a_person_has_approved() {
    let mut federation = Federation::new("operators = [\"operator/o\"]\n");
    while federation.pass() {}
    let study = federation.machine.study_hash();
    for site in &mut federation.sites {
        assert_eq!(*site.core.cases[&study].record.stage(), Stage::Waiting);
        assert!(site.jobs.try_recv().is_err(), "no work without a yes");
        let answer =
            PersonalAnswer { study, act: PersonalAct::Approve, person: "Ada".into(), at_ms: 0, about: None };
        Disk.replace(Kind::Decision, &site.folder.study(&study).decision(), &answer.to_canonical()).unwrap();
        site.core.tick().unwrap();
        assert!(!site.folder.study(&study).decision().exists());
    }
    federation.run();
    let rule = federation.sites[0].core.cases[&study].record.rule().unwrap().as_str().to_owned();
    assert_eq!(rule, "person: Ada");
}

/// A sum is given up after two have signed; one site is gone for good. The others go on when persons have said
/// yes, and a site that never saw the survivors needs nobody.
#[test]
fn a_model_is_opened_with_others_when_persons_consent() {
    let mut federation = Federation::new(WILLING);
    federation.tell(Event::Operator { by: "operator/o".parse().unwrap(), act: Act::Start });
    while federation.uploads.len() < 4 {
        assert!(federation.pass(), "{:#?}", federation.machine.status());
    }
    assert_eq!(federation.machine.status().phase, Phase::CollectMasked);
    federation.disconnect(2);
    federation.disconnect(3);
    let mut passes = 0;
    while federation.machine.status().phase != Phase::ConsistencyCheck || federation.pass() {
        assert!(passes < 100, "{:#?}", federation.machine.status());
        passes += 1;
        federation.pass();
        federation.now += 1_000;
        federation.tell(Event::Tick);
    }
    let attempt = Attempt::new(federation.machine.status().attempt.unwrap()).unwrap();
    federation.tell(Event::Operator { by: "operator/o".parse().unwrap(), act: Act::DeclareLost { attempt } });
    federation.reconnect(2);
    let study = federation.machine.study_hash();
    for _ in 0..20 {
        while federation.pass() {}
        federation.now += 60_000;
        federation.tell(Event::Tick);
    }
    let asked: Vec<_> = federation.sites.iter().map(|site| site.core.cases[&study].asked.clone()).collect();
    assert!(asked[0].is_some() && asked[0] == asked[1], "{asked:?} {:#?}", federation.machine.status());
    assert_eq!(asked[2..], [None, None]);
    assert_eq!(asked[0].as_ref().unwrap().sets, [SITES.map(|site| site.parse().unwrap()).to_vec()]);
    // An answer to another question is put aside.
    for (about, freed) in [(Some(study), false), (asked[0].as_ref().map(Question::hash), true)] {
        for site in &mut federation.sites[..2] {
            let act = PersonalAct::Consent;
            let answer = PersonalAnswer { study, act, person: "Ada".into(), at_ms: 0, about };
            let path = site.folder.study(&study).decision();
            Disk.replace(Kind::Decision, &path, &answer.to_canonical()).unwrap();
            site.core.tick().unwrap();
            assert!(!path.exists());
            assert_eq!(site.core.cases[&study].asked.is_none(), freed);
        }
    }
    // The leave survives a kill.
    federation.sites[0].crash();
    federation.run();
    assert_ne!(federation.released(), federation.machine.study().initial_model());
}

#[test]
fn a_policy_that_names_no_operator_refuses_everybody() {
    let mut federation = Federation::new("approval = \"automatic\"\n");
    while federation.pass() {}
    let study = federation.machine.study_hash();
    for site in &federation.sites {
        let record = &site.core.cases[&study].record;
        assert_eq!(record.stage().name(), "refused");
        assert_eq!(record.rule().unwrap().as_str(), "policy.operators");
    }
}

#[test]
fn rounds_of_a_study_that_was_not_accepted_are_refused_and_written_down() {
    let mut accepted = Federation::new(WILLING);
    for _ in 0..8 {
        accepted.pass();
    }
    accepted.tell(Event::Operator { by: "operator/o".parse().unwrap(), act: Act::Start });
    for _ in 0..8 {
        accepted.pass();
    }
    let letters = accepted.machine.directives_for(&"a".parse().unwrap());
    let mut other = Federation::new(WILLING);
    assert!(matches!(other.sites[0].jobs.try_recv(), Ok(Job::EmptyCache)), "it has accepted nothing yet");
    let core = &mut other.sites[0].core;
    let before = core.cases.len();
    for letter in letters.into_iter().skip(1) {
        let bytes = letter.to_bytes();
        core.frame(FromRelay::Directive { bytes: bytes.into(), parent: String::new() }).unwrap();
    }
    core.frame(FromRelay::Directive { bytes: vec![0xff; 40].into(), parent: String::new() }).unwrap();
    assert_eq!(core.cases.len(), before);
    let records = journal::read(&Disk, &other.sites[0].folder.journal()).unwrap();
    let refused = |record: &&journal::Record| matches!(record.event, journal::Event::DirectiveRefused { .. });
    assert!(records.iter().filter(refused).count() >= 2, "{records:?}");
    assert!(other.sites[0].jobs.try_recv().is_err());
}
