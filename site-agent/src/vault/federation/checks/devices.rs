//! A site whose GPU goes and comes back, and what it gives when a round is trained again.

use std::collections::VecDeque;
use std::sync::Mutex;

use consilium_learning::{DeviceError, TrainError, Trained, train};
use consilium_rounds::reason::Withdrawal;
use consilium_rounds::status::Phase;
use consilium_secagg::numbering::RoundNumber;
use consilium_study::forecast::Forecast;

use super::super::SITES;
use super::*;
use crate::config::OnGpuLoss;
use crate::contribution::local_training;
use crate::gpu::{Accelerator, Training, Watch};
use crate::vault::record::Reference;
use crate::vault::trainer::Trainer;

/// What becomes of the next trainings, and how many there were. Where nothing is said, a training succeeds.
#[derive(Clone, Default)]
struct Script(std::sync::Arc<Mutex<(VecDeque<DeviceError>, u32)>>);

impl Script {
    fn failing(errors: impl IntoIterator<Item = DeviceError>) -> Self {
        Self(std::sync::Arc::new(Mutex::new((errors.into_iter().collect(), 0))))
    }

    fn trainings(&self) -> u32 {
        self.0.lock().unwrap().1
    }
}

/// No two trainings give the same, as on a GPU.
impl Accelerator for Script {
    fn train(&mut self, training: Training<'_>, watch: Watch<'_>) -> Result<Trained, TrainError> {
        let mut script = self.0.lock().unwrap();
        if let Some(error) = script.0.pop_front() {
            return Err(error.into());
        }
        script.1 += 1;
        let Training { study, site, round, start, cases, correction } = training;
        let task = local_training(study, site, round, correction);
        let mut trained = train(&task, start, cases, &mut |at| watch(at.step, at.steps))?;
        trained.model[0] += 0.01 * script.1 as f32;
        Ok(trained)
    }
}

fn trainer(script: &Script, on_loss: OnGpuLoss) -> Trainer {
    Trainer::new(Some(Box::new(script.clone())), on_loss)
}

fn words(site: &mut Site, job: Box<AttemptJob>) -> Vec<u32> {
    match site.outcome_of(Job::Attempt(job)) {
        Outcome::Worked { result: Ok(vector), .. } => vector.words.to_vec(),
        Outcome::Worked { result: Err(halt), .. } => panic!("{halt:?}"),
        _ => panic!("an attempt was worked on"),
    }
}

/// The same work in another attempt, of this round; where an update was `given` before, the model is written down.
fn again(job: &AttemptJob, attempt: u32, round: u32, given: bool) -> Box<AttemptJob> {
    let mut fields = job.context.clone().into_fields();
    fields.attempt = Attempt::new(attempt).unwrap();
    fields.round = RoundNumber::new(round).unwrap();
    let reference = Reference { model: fields.model, loss: None, round: fields.round };
    Box::new(AttemptJob {
        study: job.study.clone(),
        context: Context::new(fields).unwrap(),
        weight: job.weight,
        models: job.models.clone(),
        reference: given.then_some(reference),
        last: None,
        folder: job.folder.clone(),
        stop: std::sync::Arc::default(),
        parent: String::new(),
    })
}

fn withdrawals(site: &Site) -> Vec<(u32, String)> {
    let withdrew = |event| match event {
        journal::Event::Withdrew { attempt, cause, .. } => Some((attempt, cause)),
        _ => None,
    };
    site.events().into_iter().filter_map(withdrew).collect()
}

/// Gone in the first round, there again when the coordinator asks the site anew: one dropout with its cause, and nobody has to
/// do anything.
#[test]
fn a_gpu_that_was_lost_is_a_dropout_and_is_used_again_when_it_is_back() {
    let mut federation = Federation::of(&study_text().replace("count = 2", "count = 3"), WILLING);
    let script = Script::failing([DeviceError::Lost]);
    federation.sites[FIRST].worker.bench.trainer = trainer(&script, OnGpuLoss::DropOut);
    federation.start();
    while withdrawals(&federation.sites[FIRST]).is_empty() {
        assert!(federation.pass(), "{:#?}", federation.machine.status());
    }
    let site = &federation.sites[FIRST];
    let study = study_of(site);
    let shown = site.core.cases[&study].in_words();
    assert!(shown.contains("the GPU was lost") && shown.contains("next attempt"), "{shown}");
    // A site that left is asked again after a while.
    for _ in 0..200 {
        if matches!(federation.machine.state(), StudyState::Released { .. }) {
            break;
        }
        federation.pass();
        federation.now += 10_000;
        federation.tell(Event::Tick);
    }
    assert_ne!(federation.released(), federation.machine.study().initial_model());
    assert_eq!(withdrawals(&federation.sites[FIRST]), [(1, "NoDevice".to_owned())]);
    assert_eq!(script.trainings(), 2, "both later rounds were trained on it");
}

#[test]
fn a_gpu_that_cannot_train_is_named_or_the_processor_trains() {
    let (mut federation, context) = Federation::asked();
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    let job = site.job();
    let on_processor = words(site, again(&job, 1, 1, false));
    let memory = Forecast::of(&job.study).site_memory.to_string();
    for (error, said) in [
        (DeviceError::NotBuilt, "built without GPU support"),
        (DeviceError::Wrong, "computes wrong numbers"),
        (DeviceError::OutOfMemory, &*memory),
    ] {
        site.worker.bench.trainer = trainer(&Script::failing([error]), OnGpuLoss::DropOut);
        match site.halted(again(&job, 1, 1, false)) {
            Some(Halt::SitOut(Withdrawal::NoDevice, why)) => assert!(why.contains(said), "{why}"),
            other => panic!("{other:?}"),
        }
        site.worker.bench.trainer = trainer(&Script::failing([error]), OnGpuLoss::Cpu);
        assert_eq!(words(site, again(&job, 1, 1, false)), on_processor);
    }
}

/// A second vector of the same round and model would tell something by its difference from the first.
#[test]
fn a_round_that_was_trained_on_a_gpu_gives_the_same_update_again_or_none() {
    let (mut federation, context) = Federation::asked();
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    let job = site.job();
    let script = Script::default();
    site.worker.bench.trainer = trainer(&script, OnGpuLoss::Cpu);
    let first = words(site, again(&job, 1, 1, false));
    assert_eq!(words(site, again(&job, 2, 1, true)), first);
    assert_eq!(script.trainings(), 1);
    // The agent is started anew.
    site.worker.bench.trainer = trainer(&script, OnGpuLoss::Cpu);
    match site.halted(again(&job, 3, 1, true)) {
        Some(Halt::SitOut(Withdrawal::Unrepeatable, why)) => assert!(why.contains("started anew"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(script.trainings(), 1);
    // What was never given may be trained again, and another round is another training.
    assert_ne!(words(site, again(&job, 4, 1, false)), first);
    assert_ne!(words(site, again(&job, 5, 2, false)), first);
    assert_eq!(script.trainings(), 3);
    // At the end of the study nothing of it is left.
    let cohort = site.worker.cohorts[&study].clone();
    site.worker.perform(Job::Forget(study), &|_| {});
    site.worker.cohorts.insert(study, cohort);
    assert!(matches!(site.halted(again(&job, 6, 2, true)), Some(Halt::SitOut(Withdrawal::Unrepeatable, _))));
}

/// Uploaded, given up, and asked for again: the site knows, whether its agent was started anew or not.
#[test]
fn a_site_knows_for_which_model_it_gave_an_update() {
    for started_anew in [false, true] {
        let mut federation = Federation::new(WILLING);
        let script = Script::default();
        federation.sites[FIRST].worker.bench.trainer = trainer(&script, OnGpuLoss::DropOut);
        federation.start();
        while federation.uploads.len() < SITES.len() {
            assert!(federation.pass(), "{:#?}", federation.machine.status());
        }
        federation.disconnect(2);
        federation.disconnect(3);
        for _ in 0..100 {
            if federation.machine.status().phase == Phase::ConsistencyCheck && !federation.pass() {
                break;
            }
            federation.pass();
            federation.now += 1_000;
            federation.tell(Event::Tick);
        }
        let attempt = Attempt::new(federation.machine.status().attempt.unwrap()).unwrap();
        federation
            .tell(Event::Operator { by: "operator/o".parse().unwrap(), act: Act::DeclareLost { attempt } });
        if started_anew {
            federation.sites[FIRST].crash();
            federation.sites[FIRST].worker.bench.trainer = trainer(&script, OnGpuLoss::DropOut);
        }
        federation.reconnect(2);
        federation.reconnect(3);
        for _ in 0..20 {
            while federation.pass() {}
            federation.now += 60_000;
            federation.tell(Event::Tick);
        }
        let site = &federation.sites[FIRST];
        let withdrew: Vec<String> = withdrawals(site).into_iter().map(|(_, cause)| cause).collect();
        if started_anew {
            assert!(withdrew.contains(&"Unrepeatable".to_owned()), "{withdrew:?}");
            assert_eq!(script.trainings(), 1);
        } else {
            assert!(withdrew.is_empty(), "{withdrew:?}");
            federation.run();
            assert_eq!(script.trainings(), federation.machine.study().rounds.count);
        }
    }
}
