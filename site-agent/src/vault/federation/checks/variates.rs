//! Control variates at a site: which one it goes on from, and when it trains nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering;

use consilium_learning::ModelFile;
use consilium_rounds::control::{Before, OwnVariate, correction, own_after, reach};
use consilium_rounds::reason::{Decline, Withdrawal};
use consilium_secagg::context::ContextFields;
use consilium_secagg::control::Control;
use consilium_secagg::numbering::RoundNumber;
use consilium_secagg::quantiser::decode;

use super::*;

/// The trial's study, whose sites correct their steps.
fn text() -> String {
    study_text()
        .replace("epochs = 1", "steps = 6")
        .replace("count = 2", "count = 3\nstrategy = { kind = \"scaffold\" }")
}

fn own(site: &Site) -> Option<OwnVariate> {
    let path = site.folder.study(&study_of(site)).control_variate();
    Some(OwnVariate::from_canonical(&std::fs::read(path).ok()?).unwrap())
}

/// The same work in the context of which something is other.
fn changed(job: &AttemptJob, change: impl FnOnce(&mut ContextFields)) -> Box<AttemptJob> {
    let mut fields = job.context.clone().into_fields();
    change(&mut fields);
    let mut models = job.models.clone();
    models.insert(fields.model, job.models[&job.context.model].clone());
    Box::new(AttemptJob {
        study: job.study.clone(),
        context: Context::new(fields).unwrap(),
        weight: job.weight,
        models,
        reference: None,
        last: None,
        folder: job.folder.clone(),
        stop: std::sync::Arc::default(),
        parent: String::new(),
    })
}

/// The first site, asked to train in the second round, and what it was asked.
fn second_round() -> (Federation, Box<AttemptJob>) {
    let mut federation = Federation::of(&text(), WILLING);
    federation.start();
    let context = federation.asked_to_train(2);
    let mean = context.claim().unwrap().control.as_ref().unwrap().mean;
    let bytes = federation.models[&mean].clone().into();
    let site = &mut federation.sites[FIRST];
    site.hear(study_of(site), Directive::Begin { context });
    assert!(site.jobs.try_recv().is_err(), "the mean is not here");
    site.frame(FromRelay::Blob { hash: mean, offset: 0, bytes, last: true });
    let job = site.job();
    (federation, job)
}

fn trained(site: &mut Site, job: Box<AttemptJob>) -> (Vec<u32>, OwnVariate) {
    let Outcome::Worked { result: Ok(vector), .. } = site.outcome_of(Job::Attempt(job)) else {
        panic!("it was trained")
    };
    (vector.words.to_vec(), *vector.kept.variate.unwrap())
}

fn counting(control: &mut Option<Control>, attempt: u32) {
    control.as_mut().unwrap().counted[FIRST].attempt = Attempt::new(attempt).unwrap();
}

#[test]
fn each_site_keeps_its_variate_until_the_study_is_over() {
    let (mut federation, job) = second_round();
    let control = job.context.control.clone().unwrap();
    assert!(job.models.contains_key(&control.mean), "the mean is fetched like the model");
    assert_eq!(control.counted.len(), 4);
    let mean = ModelFile::from_bytes(&federation.models[&control.mean]).unwrap().model;
    let mut sum = vec![0.0; mean.len()];
    for (site, counted) in federation.sites.iter().zip(&control.counted) {
        let own = own(site).unwrap();
        assert_eq!((own.attempt, own.round.get(), &own.before), (counted.attempt, 1, &None));
        assert_ne!(own.after, mean);
        sum.iter_mut().zip(&own.after).for_each(|(sum, entry)| *sum += f64::from(*entry) / 4.0);
        let path = site.folder.study(&study_of(site)).control_variate();
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // All weigh the same here, so the mean is the plain one.
    assert!(sum.iter().zip(&mean).all(|(sum, mean)| (sum - f64::from(*mean)).abs() < 1e-5));
    assert!(mean.iter().any(|entry| entry.abs() > 1e-3));
    federation.run();
    federation.pass();
    assert!(federation.sites.iter().all(|site| own(site).is_none()), "they go with the keys of the study");
}

/// Steps are corrected by the mean less what is counted, and what is kept follows from the words that are summed.
#[test]
fn a_round_that_is_trained_again_gives_the_same_update_and_the_next_goes_on_from_what_is_counted() {
    let (mut federation, job) = second_round();
    let site = &mut federation.sites[FIRST];
    let (first, attempt) = (own(site).unwrap(), job.context.attempt.get());
    let (words, kept) = trained(site, changed(&job, |_| {}));
    let begun = Before { attempt: first.attempt, variate: first.after.clone() };
    assert_eq!(kept.before, Some(begun));
    let graph = &job.study.model;
    let mean = &federation.models[&job.context.control.as_ref().unwrap().mean];
    let corrected = correction(graph, &ModelFile::from_bytes(mean).unwrap().model, Some(&first.after));
    let sent = decode(&job.context, words.clone()).unwrap().update;
    assert_eq!(kept.after, own_after(graph, reach(&job.study, job.context.round), Some(&corrected), &sent));
    let site = &mut federation.sites[FIRST];
    let (uncorrected, _) = trained(site, changed(&job, |fields| fields.control = None));
    assert_ne!(uncorrected, words);
    // The attempt was given up, or the vault killed: the vector is the same, word for word.
    Disk.replace(Kind::ControlVariate, &job.folder.control_variate(), &kept.to_canonical()).unwrap();
    let again = changed(&job, |fields| fields.attempt = Attempt::new(attempt + 1).unwrap());
    let (same, later) = trained(site, again);
    assert_eq!((&same, &later.before, &later.after), (&words, &kept.before, &kept.after));
    Disk.replace(Kind::ControlVariate, &job.folder.control_variate(), &later.to_canonical()).unwrap();
    // In the next round from what the context counts: this one's where it was adopted, or else the first's.
    for (counted, begins) in [(attempt + 1, &later.after), (first.attempt.get(), &first.after)] {
        let next = changed(&job, |fields| {
            (fields.attempt, fields.round) =
                (Attempt::new(attempt + 2).unwrap(), RoundNumber::new(3).unwrap());
            counting(&mut fields.control, counted);
        });
        let (_, kept) = trained(site, next);
        assert_eq!(&kept.before.unwrap().variate, begins);
    }
}

/// The theorem of all studies, for one in which a site's next update follows from what it kept of the last.
#[test]
fn a_kill_between_any_two_writes_changes_no_variate() {
    let mut undisturbed = Federation::of(&text(), WILLING);
    undisturbed.run();
    let model = undisturbed.released();
    let writes = undisturbed.sites[1].disk.writes.load(Ordering::Relaxed);
    for last in (1..=writes).step_by(5) {
        let mut federation = Federation::of(&text(), WILLING);
        federation.sites[1].disk.last.store(last, Ordering::Relaxed);
        federation.run();
        assert_eq!(federation.released(), model, "killed at write {last}");
    }
}

/// Whoever cannot go on from what others count on says so, and takes part again once all have begun anew.
#[test]
fn a_variate_that_is_lost_or_damaged_is_told_and_all_begin_anew() {
    let (mut federation, job) = second_round();
    let site = &mut federation.sites[FIRST];
    let honest = own(site).unwrap();
    let path = job.folder.control_variate();
    let lost = Some(Halt::Withdraw(Withdrawal::VariateLost));
    let mut short = honest.clone();
    short.after.pop();
    let other_study = OwnVariate { study: other(), ..honest.clone() };
    for bytes in [b"no variate".to_vec(), short.to_canonical(), other_study.to_canonical()] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(site.halted(changed(&job, |_| {})), lost);
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(site.halted(changed(&job, |_| {})), lost);
    assert_eq!(site.halted(changed(&job, |fields| fields.control = None)), None);
    // The study goes on to its end.
    federation.run();
    federation.released();
}

#[test]
fn a_context_that_contradicts_what_a_site_knows_of_its_variate_is_declined() {
    let (mut federation, job) = second_round();
    let site = &mut federation.sites[FIRST];
    let (_, kept) = trained(site, changed(&job, |_| {}));
    Disk.replace(Kind::ControlVariate, &job.folder.control_variate(), &kept.to_canonical()).unwrap();
    let attempt = job.context.attempt.get();
    let declined = |halt: Option<Halt>, reason, words: &str| match halt {
        Some(Halt::Decline(got, why)) => assert!(got == reason && why.contains(words), "{why}"),
        other => panic!("{other:?}"),
    };
    // An attempt of the round that still goes on cannot be counted.
    let counted = changed(&job, |fields| {
        fields.attempt = Attempt::new(attempt + 1).unwrap();
        counting(&mut fields.control, attempt);
    });
    declined(site.halted(counted), Decline::Context, "its round goes on");
    // One round, one mean.
    let mut second = changed(&job, |fields| {
        fields.attempt = Attempt::new(attempt + 1).unwrap();
        fields.control.as_mut().unwrap().mean = other();
    });
    let honest = job.models[&job.context.control.as_ref().unwrap().mean].clone();
    second.models.insert(other(), honest.clone());
    declined(site.halted(second), Decline::Context, "another mean");
    // A mean that is longer than updates over their rates: 10 over six steps of 0.1.
    let mut long = ModelFile::from_bytes(&std::fs::read(&honest).unwrap()).unwrap();
    for (entry, fits) in [(16.6, true), (16.8, false)] {
        long.model.fill(0.0);
        long.model[3] = entry;
        std::fs::write(&honest, long.to_bytes()).unwrap();
        let halt = site.halted(changed(&job, |_| {}));
        if fits { assert_eq!(halt, None) } else { declined(halt, Decline::Model, "no honest sum") }
    }
}
