//! Attempts: what is worked on, what is left, what is told.

use std::sync::atomic::Ordering;

use consilium_rounds::message::{Binding, DirectiveId, Settled, SettledAs};
use consilium_rounds::reason::{Decline, Withdrawal};
use consilium_secagg::message::{Advert, Survivor, Survivors};
use consilium_secagg::numbering::{RoundNumber, SiteIndex};

use super::*;
use crate::pipe::message::{Upload, Verdict};
use crate::vault::case::{Doing, Topic};
use crate::vault::core::Taken;
use crate::vault::record::{Question, Reference};

#[test]
fn a_study_that_pauses_is_not_worked_on() {
    let (mut federation, context) = Federation::asked();
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::StudyState(StudyState::Paused));
    site.hear(study, Directive::Begin { context });
    assert_eq!(site.highest(study), None);
    site.hear(study, Directive::StudyState(StudyState::Running));
    assert!(site.highest(study).is_some(), "what waited is taken up");
    let job = site.job();
    site.hear(study, Directive::StudyState(StudyState::Paused));
    assert!(job.stop.load(Ordering::Relaxed) && matches!(site.core.cases[&study].doing, Doing::Nothing));
    assert_eq!(site.halted(job), Some(Halt::Stopped));
    site.crash();
    assert!(matches!(site.core.cases[&study].doing, Doing::Nothing), "it still pauses");
    site.hear(study, Directive::StudyState(StudyState::Running));
    assert!(matches!(site.core.cases[&study].doing, Doing::Working { .. }), "it goes on where it was");
}

#[test]
fn an_attempt_that_was_settled_or_left_is_not_worked_on() {
    let (mut federation, context) = Federation::asked();
    let claim = context.claim().unwrap();
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    let settled = |attempt| {
        let (ctx, outcome, model) = (claim.hash(), SettledAs::Opened, claim.model);
        Directive::Settled(Settled { attempt, ctx, outcome, model, candidate: None })
    };
    let begin = || Directive::Begin { context: context.clone() };
    site.hear(study, begin());
    assert!(matches!(site.core.cases[&study].doing, Doing::Working { .. }));
    // Words about other attempts, and of work that was stopped, change nothing.
    let job = site.job();
    let failed = |attempt, halt| Outcome::Worked { study, attempt, result: Err(halt) };
    let withdrawn = Halt::Withdraw(Withdrawal::NoData);
    site.core.outcome(failed(99, withdrawn)).unwrap();
    site.core.outcome(failed(claim.attempt.get(), Halt::Stopped)).unwrap();
    assert!(matches!(site.core.cases[&study].doing, Doing::Working { .. }));
    let outcome = site.outcome_of(Job::Attempt(job));
    site.core.outcome(outcome).unwrap();
    let Ok(spool) = site.jobs.try_recv() else { panic!("the vector is masked next") };
    let Outcome::Spooled { attempt, masked, .. } = site.outcome_of(spool) else { panic!("masked") };
    site.core.outcome(Outcome::Spooled { study, attempt: 99, masked }).unwrap();
    assert!(site.core.cases[&study].upload.is_none(), "nothing is signed for");
    assert!(site.folder.study(&study).spool(attempt).exists());
    site.hear(study, settled(claim.attempt));
    assert!(matches!(site.core.cases[&study].doing, Doing::Nothing));
    assert!(!site.folder.study(&study).spool(attempt).exists());
    site.hear(study, begin());
    assert!(matches!(site.core.cases[&study].doing, Doing::Nothing), "it is over");
    site.crash();
    assert!(matches!(site.core.cases[&study].doing, Doing::Nothing), "it still is");
}

#[test]
fn a_chunk_is_given_of_the_vector_on_offer_only() {
    let (mut federation, context) = Federation::asked();
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    site.work();
    let (good, _) = site.core.cases[&study].upload.clone().unwrap();
    let mut chunk = |upload: Upload| {
        site.core.read_chunk(upload, 0);
        let Some(FromVault::Chunk { bytes, .. }) = site.core.out.pop() else {
            panic!("a chunk was asked for")
        };
        bytes.len() as u64
    };
    assert_eq!(chunk(Upload { length: good.length - 4, ..good }), 0);
    assert_eq!(chunk(good), good.length);
}

#[test]
fn a_vector_is_offered_when_its_announcement_was_heard() {
    let (mut federation, context) = Federation::asked();
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    site.work();
    let mut offered = false;
    for _ in 0..2 {
        let messages = site.core.speak();
        let ready = |message: &FromVault| matches!(message, FromVault::UploadReady { .. });
        assert_eq!(messages.iter().any(ready), offered);
        for message in messages {
            if let FromVault::Say { id, .. } = message {
                site.frame(FromRelay::Said { id, verdict: Verdict::Recorded });
                offered = true;
            }
        }
    }
}

#[test]
fn a_later_attempt_ends_the_one_before() {
    let (mut federation, context) = Federation::asked();
    let claim = context.claim().unwrap();
    let first = claim.attempt.get();
    let mut fields = claim.clone().into_fields();
    fields.attempt = fields.attempt.next().unwrap();
    let next = Context::new(fields).unwrap();
    let next = Signed::seal(&next, Principal::Coordinator, &federation.key);
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    site.work();
    let spool = site.folder.study(&study).spool(first);
    assert!(site.core.cases[&study].upload.is_some() && spool.exists());
    site.hear(study, Directive::Begin { context: next });
    assert!(site.core.cases[&study].upload.is_none() && !spool.exists());
    // Late words about the one before.
    let (attempt, ctx, model) = (claim.attempt, claim.hash(), claim.model);
    let settled = Settled { attempt, ctx, outcome: SettledAs::Opened, model, candidate: None };
    site.hear(study, Directive::Settled(settled));
    assert!(matches!(site.core.cases[&study].doing, Doing::Working { .. }));
}

#[test]
fn survivors_whose_receipts_have_not_come_are_waited_for() {
    let (mut federation, context) = Federation::asked();
    let ctx = context.claim().unwrap().hash();
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    site.work();
    let own = site.events().into_iter().find_map(|event| match event {
        journal::Event::Masked { receipt, .. } => Some(receipt),
        _ => None,
    });
    let member =
        |(position, receipt)| Survivor { site: SiteIndex::from_position(position).unwrap(), receipt };
    let members = [own.unwrap(), other(), other()].into_iter().enumerate().map(member);
    let survivors = Survivors::new(members.collect()).unwrap();
    let survivors = Directive::Survivors { ctx, survivors };
    let id = *DirectiveId::of(&Letter { study, message: survivors.clone() }.to_bytes()).hash();
    for _ in 0..2 {
        site.hear(study, survivors.clone());
    }
    assert!(site.refusals().is_empty(), "{:?}", site.refusals());
    let acknowledged = FromVault::Acknowledge { directive: id };
    assert!(!site.core.speak().contains(&acknowledged), "so it comes again after a restart");
    assert_eq!(site.core.cases.get_mut(&study).unwrap().take_parked().len(), 1);
}

#[test]
fn alarms_and_refused_keys_are_written_down_and_told() {
    let (mut federation, context) = Federation::asked();
    let mut fields = context.claim().unwrap().into_fields();
    fields.model = other();
    let second = Context::new(fields).unwrap();
    let second = Signed::seal(&second, Principal::Coordinator, &federation.key);
    let adverts = federation.directives().into_iter().find_map(|letter| match letter.message {
        Directive::Adverts(adverts) => Some(adverts),
        _ => None,
    });
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    site.hear(study, Directive::Begin { context: second });
    let alarms = |site: &Site| {
        let is_alarm = |event: &&journal::Event| matches!(event, journal::Event::Alarm { .. });
        site.events().iter().filter(is_alarm).count()
    };
    assert_eq!(alarms(site), 1);
    assert!(site.says().iter().any(|message| matches!(message, SiteMessage::Alarm(_))));
    if let Some(adverts) = adverts {
        let claim: Advert = adverts[0].claim().unwrap();
        let forged = Signed::seal(&claim, adverts[0].signer().clone(), &SigningKey::generate());
        let before = site.refusals().len();
        site.hear(study, Directive::Adverts(vec![forged]));
        assert_eq!(site.refusals().len(), before + 1);
    }
}

#[test]
fn a_new_epoch_ends_the_attempt_of_the_one_before() {
    let (mut federation, context) = Federation::asked();
    let claim = context.claim().unwrap();
    let opening = federation.next_epoch(&claim);
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    assert!(matches!(site.core.cases[&study].doing, Doing::Working { .. }));
    assert!(site.core.cases[&study].says(Topic::PairsSettled));
    site.hear(study, opening);
    let case = &site.core.cases[&study];
    assert!(matches!(case.doing, Doing::Nothing));
    assert!(case.encapsulations.is_empty() && case.confirmations.is_empty());
    assert!(!case.says(Topic::PairsSettled), "that was about other keys");
}

#[test]
fn a_site_with_too_few_cases_left_sits_an_attempt_out() {
    let (mut federation, context) = Federation::asked();
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    let job = site.job();
    let again = |job: &AttemptJob| {
        let AttemptJob { study, context, weight, models, folder, .. } = job;
        Box::new(AttemptJob {
            study: study.clone(),
            context: context.clone(),
            weight: *weight,
            models: models.clone(),
            reference: None,
            last: None,
            folder: folder.clone(),
            stop: std::sync::Arc::default(),
            parent: String::new(),
        })
    };
    let too_few = Some(Halt::Withdraw(Withdrawal::TooFewCases));
    assert_eq!(site.halted(again(&job)), None);
    site.worker.bench.minimum_cases = Box::new(|_| 61);
    assert_eq!(site.halted(again(&job)), too_few);
    site.worker.bench.minimum_cases = Box::new(|_| 1);
    let cohort = site.worker.cohorts.get_mut(&study).unwrap();
    let empty = cohort.train.select(&[]);
    let train = std::mem::replace(&mut cohort.train, empty.clone());
    assert_eq!(site.halted(again(&job)), Some(Halt::Withdraw(Withdrawal::NothingToTrainOn)));
    let cohort = site.worker.cohorts.get_mut(&study).unwrap();
    (cohort.train, cohort.held_out) = (train, empty);
    let mut evaluation = again(&job);
    let mut fields = evaluation.context.clone().into_fields();
    fields.purpose = Purpose::Evaluate;
    evaluation.context = Context::new(fields).unwrap();
    assert_eq!(site.halted(evaluation), Some(Halt::Withdraw(Withdrawal::NothingHeldOut)));
}

#[test]
fn a_trap_is_known_by_its_distance_and_by_its_loss() {
    let text = study_text().replace("count = 2", "count = 3");
    let mut federation = Federation::of(&text, WILLING);
    federation.start();
    let context = federation.asked_to_train(3);
    let round = |round| RoundNumber::new(round).unwrap();
    let mut starts = std::mem::take(&mut federation.models);
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context: context.clone() });
    let job = site.job();
    let reference = job.reference.unwrap();
    assert!(reference.loss.is_some() && reference.round == round(2), "the model of the round before");
    // A model that lies between one and two times as far away as one round can move it.
    let plan = &job.study;
    let clip = plan.aggregation.clip_norm.get();
    let bytes = starts.remove(&context.claim().unwrap().model).unwrap();
    let mut far = consilium_learning::ModelFile::from_bytes(&bytes).unwrap();
    far.model[0] += 1.5 * clip as f32;
    let last = site.folder.root().join("far");
    std::fs::write(&last, far.to_bytes()).unwrap();
    let mut halted = |since: u32, loss: Option<f64>, trap_factor: f64, last: &std::path::Path| {
        site.worker.bench.trap_factor = trap_factor;
        let (study, context) = (job.study.clone(), job.context.clone());
        let reference = Reference { model: other(), loss, round: round(since) };
        site.halted(Box::new(AttemptJob {
            study,
            context,
            weight: job.weight,
            models: job.models.clone(),
            reference: Some(reference),
            last: Some(last.to_owned()),
            folder: job.folder.clone(),
            stop: std::sync::Arc::default(),
            parent: String::new(),
        }))
    };
    let declined = |halt: Option<Halt>, words: &str| match halt {
        Some(Halt::Decline(Decline::Model, why)) => assert!(why.contains(words), "{why}"),
        other => panic!("{other:?}"),
    };
    declined(halted(2, None, 3.0, &last), "that no honest sum leads to");
    assert_eq!(halted(1, None, 3.0, &last), None, "in two rounds it may move that far");
    let start = &job.models[&job.context.model];
    assert_eq!(halted(2, None, 3.0, start), None);
    declined(halted(2, Some(0.1), 1e-6, start), "is much worse here than the last");
    assert_eq!(halted(2, Some(0.1), 3.0, start), None);
    // However the attempt ends, the next one is held against the same model.
    let (attempt, ctx, model) = (job.context.attempt, job.context.hash(), job.context.model);
    let settled = Settled { attempt, ctx, outcome: SettledAs::Opened, model, candidate: None };
    site.hear(study, Directive::Settled(settled));
    assert!(site.core.models.find(&reference.model).is_some());
}

#[test]
fn a_model_of_another_study_is_not_trained_from() {
    let (mut federation, context) = Federation::asked();
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    let job = site.job();
    let path = job.models[&job.context.model].clone();
    let bytes = std::fs::read(&path).unwrap();
    let mut other = consilium_learning::ModelFile::from_bytes(&bytes).unwrap();
    other.identity.labels.reverse();
    std::fs::write(&path, other.to_bytes()).unwrap();
    match site.halted(job) {
        Some(Halt::Decline(Decline::Model, why)) => assert!(why.contains("not one of this study"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn progress_tells_nothing_of_how_many_cases_there_are() {
    let (mut federation, context) = Federation::asked();
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    let job = site.job();
    let totals = std::cell::RefCell::new(Vec::new());
    site.worker.perform(Job::Attempt(job), &|outcome| {
        if let Outcome::Progress { done, total, .. } = outcome {
            totals.borrow_mut().push((done <= 100, total));
        }
    });
    let totals = totals.into_inner();
    assert!(!totals.is_empty() && totals.iter().all(|told| *told == (true, 100)), "{totals:?}");
}

#[test]
fn where_the_policy_says_never_nobody_is_asked_and_nobody_consents() {
    for (repeat, asks) in [("ask", true), ("never", false)] {
        let mut federation = Federation::new(&format!("{WILLING}repeat = \"{repeat}\"\n"));
        federation.start();
        federation.asked_to_train(2);
        let model = federation.machine.study().initial_model();
        let site = &mut federation.sites[FIRST];
        let study = study_of(site);
        let binding = Binding { model, purpose: Purpose::Train, baseline: None, survivors: Vec::new() };
        let taken = site.core.bound(study, binding.clone());
        assert_eq!(matches!(taken, Taken::Refused { reason: Decline::Policy, .. }), !asks);
        assert_eq!(site.core.cases[&study].asked.is_some(), asks);
        site.core
            .consent(study, "Ada".into(), Question { binding: binding.clone(), sets: Vec::new() })
            .unwrap();
        assert_eq!(site.core.book.bound(&model, Purpose::Train).is_none(), asks);
        let consented = |event: &journal::Event| matches!(event, journal::Event::Consented { .. });
        assert_eq!(site.events().iter().any(consented), asks);
        let given = |site: &Site| site.core.cases[&study].record.participation().unwrap().consent.clone();
        assert_eq!(given(site), asks.then_some(binding));
        site.crash();
        assert_eq!(given(site).is_some(), asks, "it was written down");
        assert_eq!(site.core.book.bound(&model, Purpose::Train).is_none(), asks);
        // It was for once.
        site.core.spend_consent(study).unwrap();
        assert_eq!(given(site), None);
        site.crash();
        assert_eq!(given(site), None);
    }
}

#[test]
fn directives_that_wait_are_not_kept_without_end() {
    let mut federation = Federation::new(WILLING);
    while federation.pass() {}
    let study = federation.machine.study_hash();
    let case = federation.sites[FIRST].core.cases.get_mut(&study).unwrap();
    let parked = (0..300_u32).filter(|number| {
        let bytes = number.to_le_bytes();
        let id = DirectiveId::of(&bytes);
        case.park(id, &bytes, "")
    });
    assert_eq!(parked.count(), 256);
}
