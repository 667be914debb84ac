//! Files: what is written before what, and what a crash or the end of a study leaves.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use consilium_secagg::site::Store as _;

use super::*;
use crate::folder::SiteFolder;
use crate::pipe::message::Link;
use crate::vault::case::{Doing, Topic};
use crate::vault::federation::memory_folder;
use crate::vault::federation::mortal::Mortal;
use crate::vault::keeping::Keeping;

/// In the other order a crash could leave a record that knows a book that was never written, or a chain without its
/// record.
#[test]
fn first_the_repeat_book_then_the_record_then_the_chain() {
    for (last, record_is_written) in [(2, false), (3, true)] {
        let dir = memory_folder();
        let (folder, disk, study) = (SiteFolder::new(dir.path()), Arc::new(Mortal::default()), other());
        let mut keeping = Keeping::new(disk.clone(), folder.clone());
        keeping.save_chain(&study, b"chain").unwrap();
        disk.last.store(disk.writes.load(Ordering::Relaxed) + last, Ordering::Relaxed);
        assert!(keeping.save_record(&study, b"record", Some(b"book")).is_err());
        let files = folder.study(&study);
        assert!(folder.repeat_book().exists() && files.next_chain_keys().exists());
        assert_eq!(files.secagg().exists(), record_is_written);
    }
}

/// A write of the protocol's state is five writes, and the record of the attempt follows.
#[test]
fn a_crash_between_the_halves_of_a_write_loses_no_keys() {
    for last in 1..=6 {
        let (mut federation, context) = Federation::asked();
        let site = &mut federation.sites[FIRST];
        let study = study_of(site);
        let disk = site.disk.clone();
        disk.last.store(disk.writes.load(Ordering::Relaxed) + last, Ordering::Relaxed);
        let bytes = Letter { study, message: Directive::Begin { context: context.clone() } }.to_bytes();
        site.frame(FromRelay::Directive { bytes: bytes.into(), parent: String::new() });
        assert_eq!(disk.last.load(Ordering::Relaxed), 0, "it was killed");
        assert!(site.core.cases[&study].machine.as_ref().unwrap().epoch().is_some(), "at write {last}");
        assert!(!site.folder.study(&study).next_chain_keys().exists());
        site.hear(study, Directive::Begin { context });
        assert!(matches!(site.core.cases[&study].doing, Doing::Working { .. }), "at write {last}");
    }
}

#[test]
fn what_was_begun_and_masked_is_gone_on_with_after_a_restart() {
    let (mut federation, context) = Federation::asked();
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    site.crash();
    assert!(matches!(site.core.cases[&study].doing, Doing::Working { .. }));
    site.work();
    let offered = site.core.cases[&study].upload.clone();
    assert!(offered.is_some());
    site.crash();
    assert_eq!(site.core.cases[&study].upload, offered, "the same vector, announced in the same words");
    assert!(site.core.cases[&study].record.participation().unwrap().reference.is_some());
}

#[test]
fn an_attempt_that_is_sat_out_stays_so() {
    let (mut federation, context) = Federation::asked();
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.worker.bench.minimum_cases = Box::new(|_| 61);
    site.hear(study, Directive::Begin { context: context.clone() });
    site.work();
    assert!(site.events().iter().any(|event| matches!(event, journal::Event::Withdrew { .. })));
    site.crash();
    for _ in 0..2 {
        let case = &site.core.cases[&study];
        assert!(matches!(case.doing, Doing::Nothing) && case.says(Topic::Withdrawn));
        site.hear(study, Directive::Begin { context: context.clone() });
    }
}

#[test]
fn whoever_leaves_in_the_middle_of_an_attempt_leaves_nothing_of_it() {
    for stopped in [false, true] {
        let (mut federation, context) = Federation::asked();
        let attempt = context.claim().unwrap().attempt.get();
        let site = &mut federation.sites[FIRST];
        let study = study_of(site);
        site.hear(study, Directive::Begin { context });
        let pictures = site.folder.cache().join("v1");
        std::fs::create_dir_all(&pictures).unwrap();
        site.work();
        let files = site.folder.study(&study);
        assert!(site.core.cases[&study].upload.is_some() && files.spool(attempt).exists());
        assert!(pictures.exists(), "a study is under way");
        if stopped {
            site.hear(study, Directive::StudyState(StudyState::Stopped));
        } else {
            site.answer(study, &answer(study, PersonalAct::Decline));
        }
        let case = &site.core.cases[&study];
        assert!(case.machine.is_none() && case.upload.is_none());
        assert_eq!(case.sayings().count(), usize::from(!stopped), "nothing but a refusal");
        assert!(
            !files.spool(attempt).exists() && !files.chain_keys().exists() && !files.chain_wrap().exists()
        );
        assert_eq!(std::fs::read_dir(site.folder.models()).unwrap().count(), 0);
        site.work();
        assert!(!site.worker.cohorts.contains_key(&study), "its cases are let go");
        assert!(!pictures.exists(), "so are pictures, where no other study is");
    }
}

#[test]
fn what_has_not_come_is_asked_for_again_on_the_next_connection() {
    let mut federation = Federation::new(WILLING);
    let (study, signed, roster) = federation.proposal();
    let site = &mut federation.sites[FIRST];
    site.propose(study, &signed, &roster);
    site.work();
    for wanted in [1, 0, 1] {
        let is_want = |message: &FromVault| matches!(message, FromVault::Want { .. });
        assert_eq!(site.core.speak().into_iter().filter(is_want).count(), wanted);
        if wanted == 0 {
            site.frame(FromRelay::Link(Link::Up));
        }
    }
}
