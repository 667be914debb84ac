//! Frozen and local layers at a site: what has to stay does, and each site keeps its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::atomic::Ordering;

use consilium_learning::ModelFile;
use consilium_rounds::reason::Decline;
use consilium_rounds::vector::evaluate_layout;
use consilium_secagg::numbering::RoundNumber;
use consilium_study::graph::Treatment;

use super::*;
use crate::command;
use crate::contribution::{LocalLayers, evaluation_counts, put_own};

/// The trial's study with a convolution that is frozen and a batch normalisation that each site keeps.
fn text() -> String {
    let model = r#"layers = [
            { kind = "conv2d", filters = 2, kernel = 3 },
            { kind = "batch-norm" },
            { kind = "flatten" },
            { kind = "linear", outputs = 2 },
        ]
        frozen = ["conv2d"]
        local = ["batch-norm"]"#;
    study_text().replace("preset = \"logistic\"", model)
}

fn own(site: &Site) -> Option<LocalLayers> {
    let path = site.folder.study(&study_of(site)).local_layers();
    Some(LocalLayers::from_canonical(&std::fs::read(path).ok()?).unwrap())
}

/// The same work in another attempt, of this round from this model.
fn again(job: &AttemptJob, attempt: u32, round: u32, model: Hash) -> Box<AttemptJob> {
    let mut fields = job.context.clone().into_fields();
    fields.attempt = Attempt::new(attempt).unwrap();
    fields.round = RoundNumber::new(round).unwrap();
    let models = job.models.iter().map(|(hash, path)| (*hash, path.clone()));
    let start = job.models[&job.context.model].clone();
    fields.model = model;
    Box::new(AttemptJob {
        study: job.study.clone(),
        context: Context::new(fields).unwrap(),
        weight: job.weight,
        models: models.chain([(model, start)]).collect(),
        reference: None,
        last: None,
        folder: job.folder.clone(),
        stop: std::sync::Arc::default(),
        parent: String::new(),
    })
}

impl Site {
    /// Trains, and keeps what an attempt keeps once its vector is masked.
    fn trained(&mut self, job: Box<AttemptJob>) -> (Vec<u32>, LocalLayers) {
        let path = job.folder.local_layers();
        let Outcome::Worked { result, .. } = self.outcome_of(Job::Attempt(job)) else {
            panic!("it was worked on")
        };
        let Ok(vector) = result else { panic!("it was trained") };
        let own = vector.kept.own.unwrap();
        Disk.replace(Kind::LocalLayers, &path, &own.to_canonical()).unwrap();
        (vector.words.to_vec(), own)
    }
}

#[test]
fn each_site_keeps_its_own_layers_for_the_model_that_is_released() {
    let mut federation = Federation::of(&text(), WILLING);
    federation.start();
    let context = federation.asked_to_train(2);
    let start = context.claim().unwrap().model;
    let initial =
        ModelFile::from_bytes(&federation.models[&federation.machine.study().initial_model()]).unwrap();
    let graph = &initial.identity.graph;
    let mut seen = BTreeSet::new();
    for site in &federation.sites {
        let LocalLayers { study, after, .. } = own(site).unwrap();
        assert_eq!(study, study_of(site));
        assert_ne!(after, graph.local_part(&initial.model));
        seen.insert(after.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
    }
    assert_eq!(seen.len(), 4, "every site has its own");
    // The first has not heard of the second round.
    let LocalLayers { round, start: of_first, before, .. } = own(&federation.sites[FIRST]).unwrap();
    assert_eq!((round.get(), of_first, before), (1, federation.machine.study().initial_model(), None));
    let model = ModelFile::from_bytes(&federation.models[&start]).unwrap().model;
    assert_ne!(model, initial.model);
    assert_eq!(graph.altered(&initial.model, &model), None, "and no model has any of them");
    federation.run();
    federation.pass();
    let folder = tempfile::tempdir().unwrap();
    let released = folder.path().join("released.safetensors");
    std::fs::write(&released, &federation.models[&federation.released()]).unwrap();
    let site = &federation.sites[FIRST];
    let study = study_of(site);
    let record = &site.core.cases[&study].record;
    let output = folder.path().join("own.safetensors");
    let written =
        || command::model::write(&site.folder, record, &released, &output).map_err(|error| error.to_string());
    let file = written().unwrap();
    let (kept, common) = (own(site).unwrap(), ModelFile::read(File::open(&released).unwrap()).unwrap());
    let mine = ModelFile::read(File::open(&output).unwrap()).unwrap();
    assert_eq!(mine.identity, common.identity);
    assert_eq!(graph.local_part(&mine.model), kept.after);
    assert_eq!(graph.compact(mine.model), graph.compact(common.model), "and nothing else moved");
    let origin = mine.origin.unwrap();
    assert_eq!((origin.study, origin.tuned_from), (study, Some(federation.released())));
    assert!(file.people().contains("layers.1"), "{}", file.people());
    // A file that is there is never touched, and another model than the released one not taken.
    assert!(written().unwrap_err().contains("is there already"));
    std::fs::remove_file(&output).unwrap();
    std::fs::write(&released, &federation.models[&federation.machine.study().initial_model()]).unwrap();
    assert!(written().unwrap_err().contains("is not the model that"));
    std::fs::write(&released, &federation.models[&federation.released()]).unwrap();
    std::fs::remove_file(site.folder.study(&study).local_layers()).unwrap();
    assert!(written().unwrap_err().contains("no layers of its own"));
    assert!(!output.exists());
}

#[test]
fn a_study_that_releases_nothing_leaves_no_layers() {
    let mut federation = Federation::of(&text(), WILLING);
    federation.start();
    federation.asked_to_train(2);
    assert!(federation.sites.iter().all(|site| own(site).is_some()));
    let by = "operator/o".parse().unwrap();
    federation.tell(Event::Operator { by, act: Act::Stop { reason: "enough".to_owned() } });
    while federation.pass() {}
    assert!(federation.sites.iter().all(|site| own(site).is_none()), "they go with the keys of the study");
}

/// What counts is the last training that was finished; the same round from the same model begins where it began.
#[test]
fn a_round_that_is_trained_again_gives_the_same_update_and_the_next_one_goes_on() {
    let mut federation = Federation::of(&text(), WILLING);
    federation.start();
    let context = federation.asked_to_train(2);
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    let first = own(site).unwrap();
    site.hear(study, Directive::Begin { context });
    let job = site.job();
    let (start, attempt) = (job.context.model, job.context.attempt.get());
    let (words, kept) = site.trained(again(&job, attempt, 2, start));
    assert_eq!((kept.before.as_ref(), kept.round.get()), (Some(&first.after), 2));
    // The attempt was given up, or the vault was killed: the vector is the same, word for word.
    assert_eq!(site.trained(again(&job, attempt + 1, 2, start)), (words.clone(), kept.clone()));
    // The candidate was refused, or came about without this site: the next round begins with the last finished training.
    let (other_words, later) = site.trained(again(&job, attempt + 2, 3, start));
    assert_eq!(later.before.as_ref(), Some(&kept.after));
    assert_ne!((other_words, &later.after), (words, &kept.after));
    // From another model the round is another training.
    let (_, elsewhere) = site.trained(again(&job, attempt + 3, 3, other()));
    assert_eq!(elsewhere.before, Some(later.after));
}

#[test]
fn a_site_measures_models_with_its_own_layers() {
    let mut federation = Federation::of(&text(), WILLING);
    federation.start();
    let context = federation.asked_to_train(2);
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    let mut job = site.job();
    let (plan, path) = (job.study.clone(), job.models[&job.context.model].clone());
    let mut fields = job.context.clone().into_fields();
    (fields.purpose, fields.layout) = (Purpose::Evaluate, evaluate_layout(&plan));
    job.context = Context::new(fields).unwrap();
    let Outcome::Worked { result: Ok(vector), .. } = site.outcome_of(Job::Attempt(job)) else {
        panic!("it was scored")
    };
    assert!(vector.kept.own.is_none(), "nothing was trained");
    let plain = ModelFile::from_bytes(&std::fs::read(path).unwrap()).unwrap().model;
    let held_out = site.worker.cohorts[&study].held_out.clone();
    let counted = |own: Option<&[f32]>| {
        let mut model = plain.clone();
        put_own(&plan.model, &mut model, own);
        evaluation_counts(&plan, &model, None, &held_out).unwrap().to_words()
    };
    let kept = own(site).unwrap();
    let with_own = counted(Some(&kept.after));
    assert_ne!(with_own, counted(None));
    assert!(vector.words.ends_with(&with_own));
}

/// The theorem of all studies, for one in which a site's next update follows from what it kept of the last.
#[test]
fn a_kill_between_any_two_writes_changes_no_local_layer() {
    let mut undisturbed = Federation::of(&text(), WILLING);
    undisturbed.run();
    let model = undisturbed.released();
    let writes = undisturbed.sites[1].disk.writes.load(Ordering::Relaxed);
    for last in (1..=writes).step_by(4) {
        let mut federation = Federation::of(&text(), WILLING);
        federation.sites[1].disk.last.store(last, Ordering::Relaxed);
        federation.run();
        assert_eq!(federation.released(), model, "killed at write {last}");
    }
}

#[test]
fn local_layers_that_are_damaged_or_of_another_study_are_not_used() {
    let mut federation = Federation::of(&text(), WILLING);
    federation.start();
    let context = federation.asked_to_train(2);
    let site = &mut federation.sites[FIRST];
    let study = study_of(site);
    site.hear(study, Directive::Begin { context });
    let job = site.job();
    let honest = own(site).unwrap();
    let (start, attempt) = (job.context.model, job.context.attempt.get());
    let mut halted = |bytes: &[u8]| {
        std::fs::write(job.folder.local_layers(), bytes).unwrap();
        site.halted(again(&job, attempt, 2, start))
    };
    assert_eq!(halted(&honest.to_canonical()), None);
    let failed = Some(Halt::Withdraw(consilium_rounds::reason::Withdrawal::TrainingFailed));
    for damaged in [
        LocalLayers { study: other(), ..honest.clone() },
        LocalLayers { after: honest.after[1..].to_vec(), ..honest.clone() },
        LocalLayers { before: Some(vec![f32::NAN; honest.after.len()]), ..honest.clone() },
    ] {
        assert_eq!(halted(&damaged.to_canonical()), failed);
    }
    assert_eq!(halted(b"no layers"), failed);
}

/// A frozen or local number that moved carries something past every bound on updates: at the start of a round, in what is
/// evaluated and in what that is compared with.
#[test]
fn a_model_whose_fixed_layers_moved_is_declined() {
    for purpose in [Purpose::Train, Purpose::Evaluate] {
        let mut federation = Federation::of(&text(), WILLING);
        federation.start();
        let context = federation.asked_to_train(2);
        let site = &mut federation.sites[FIRST];
        let study = study_of(site);
        site.hear(study, Directive::Begin { context });
        let job = site.job();
        let path = job.models[&job.context.model].clone();
        assert_eq!(job.models.len(), 2, "the start of the second round, and the initial model");
        let honest = ModelFile::from_bytes(&std::fs::read(&path).unwrap()).unwrap();
        for block in honest.identity.graph.parameters() {
            let mut moved = honest.clone();
            moved.model[block.range().start] += 0.001;
            std::fs::write(&path, moved.to_bytes()).unwrap();
            let mut fields = job.context.clone().into_fields();
            if purpose == Purpose::Evaluate {
                (fields.purpose, fields.layout) = (purpose, evaluate_layout(&job.study));
            }
            let halt = site.halted(Box::new(AttemptJob {
                study: job.study.clone(),
                context: Context::new(fields).unwrap(),
                weight: job.weight,
                models: job.models.clone(),
                reference: None,
                last: None,
                folder: job.folder.clone(),
                stop: std::sync::Arc::default(),
                parent: String::new(),
            }));
            match halt {
                None => assert_eq!(block.treatment(), Treatment::Averaged, "{}", block.name()),
                Some(Halt::Decline(Decline::Model, why)) => {
                    assert!(why.contains(block.name()) && why.contains(block.treatment().name()), "{why}");
                    assert_ne!(block.treatment(), Treatment::Averaged);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
