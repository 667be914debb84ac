//! What a site makes of its own cases in an attempt: the one recipe, for the vault and for simulations.
//!
//! Pure functions of the study, the model and the cases. Clipping, quantising and masking follow in
//! `consilium-secagg`, with the counts of `consilium-rounds`.

use std::ops::ControlFlow;

use consilium_learning::score::ScoreError;
use consilium_learning::{
    Dataset, LocalSeed, LocalTraining, ModelIdentity, Progress, TrainError, Trained, score_each, train,
};
use consilium_rounds::metrics::{EvaluationCounts, EvaluationShape, Truth, loss};
use consilium_rounds::reason::Withdrawal;
use consilium_rounds::vector::evaluation_shape;
use consilium_secagg::numbering::RoundNumber;
use consilium_study::check::Unreadable;
use consilium_study::document::{Plan, Study};
use consilium_study::graph::{ModelGraph, ParameterSpec, Treatment};
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::task::Label;
use minicbor::{Decode, Encode};

use crate::data::{Case, Counts, Criteria};

/// What a study asks of a case.
pub fn criteria(plan: &Plan) -> Result<Criteria, Unreadable> {
    let data = &plan.data;
    Ok(Criteria {
        labels: data.labels.clone(),
        task: data.task,
        range: data.range,
        case: Case::of(data.inputs.as_ref(), (data.case(), data.window), data.beside.as_ref())?,
        holdout: data.holdout.get(),
    })
}

/// Whether a cohort is enough to take part in an attempt. `least` is the study's or the site's own floor of
/// usable cases, whichever is higher.
pub fn enough(plan: &Plan, least: u32, counts: &Counts) -> Result<(), Withdrawal> {
    if counts.usable < u64::from(least) {
        Err(Withdrawal::TooFewCases)
    } else if counts.usable_share() < plan.data.smallest_usable_share.get() {
        Err(Withdrawal::TooFewUsable)
    } else {
        Ok(())
    }
}

/// A site's own numbers in the local layers of a study, and which training they come from.
///
/// They are those of the last training that was finished, whatever became of it: nobody else's numbers follow from them, so
/// an attempt that was given up, a candidate that was refused and a sum without this site leave nothing to be undone; they
/// suit the site's cases and a model that the study had. Training for a round again from the same model, in another attempt
/// or after a kill, begins with what that round began with, so that it gives the same update, bit for bit.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct LocalLayers {
    /// The study.
    #[n(0)]
    pub study: Hash,
    /// The round that was trained.
    #[n(1)]
    pub round: RoundNumber,
    /// The model that it started from.
    #[n(2)]
    pub start: Hash,
    /// What the local layers were when it began; none for the initial model's numbers.
    #[n(3)]
    pub before: Option<Vec<f32>>,
    /// What it made of them, in the order of [`ModelGraph::local_part`].
    #[n(4)]
    pub after: Vec<f32>,
}

impl LocalLayers {
    /// What a training of this round from this model begins with.
    pub fn at_start(&self, round: RoundNumber, start: Hash) -> Option<&[f32]> {
        if (self.round, self.start) == (round, start) { self.before.as_deref() } else { Some(&self.after) }
    }

    /// Whether these are numbers for the local layers of this study.
    pub fn is_of(&self, study: &Study) -> bool {
        let length: usize = study.model.treated(Treatment::Local).map(ParameterSpec::len).sum();
        let fits = |part: &[f32]| part.len() == length && part.iter().all(|value| value.is_finite());
        self.study == study.hash() && self.before.as_deref().is_none_or(fits) && fits(&self.after)
    }
}

/// Puts a site's own numbers into a model of the study; without any, those of the initial model stay.
pub fn put_own(graph: &ModelGraph, model: &mut [f32], own: Option<&[f32]>) {
    if let Some(own) = own {
        let fits = graph.put_local(model, own);
        assert!(fits, "a site's own numbers are checked when they are read");
    }
}

/// What local training changed.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalUpdate {
    /// Local minus starting parameters of the averaged blocks, in their order.
    pub update: Vec<f32>,
    /// The local layers after training, in their order; none in a study without them.
    pub own: Vec<f32>,
    /// Mean training loss.
    pub mean_loss: f64,
}

impl LocalUpdate {
    /// What a training made of the model `start`.
    pub fn of(study: &Study, start: &[f32], trained: Trained) -> Self {
        let own = study.model.local_part(&trained.model);
        let mut update = trained.model;
        for (after, before) in update.iter_mut().zip(start) {
            *after -= before;
        }
        Self { update: study.model.compact(update), own, mean_loss: trained.mean_loss }
    }
}

/// What a study asks of a site in a round. `correction`, shape `[params]`, is added to each gradient; see
/// [`consilium_rounds::control::correction`].
pub fn local_training<'a>(
    study: &'a Study,
    site: &SiteName,
    round: RoundNumber,
    correction: Option<&'a [f32]>,
) -> LocalTraining<'a> {
    LocalTraining {
        graph: &study.model,
        recipe: &study.training,
        preprocessing: study.model_identity().preprocessing,
        budget: study.training.extent(),
        seed: LocalSeed { study_seed: study.seed, site: site.clone(), round: round.get() - 1 },
        rounds: study.rounds.count,
        covers: 1,
        proximal_weight: study.rounds.strategy.proximal_weight(),
        correction,
    }
}

/// Trains as the study says, from the model that the round starts from, the site's own numbers in its local layers.
/// `correction`, shape `[params]`, is added to each gradient; see [`consilium_rounds::control::correction`].
pub fn local_update(
    study: &Study,
    site: &SiteName,
    round: RoundNumber,
    start: &[f32],
    correction: Option<&[f32]>,
    cases: &Dataset,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<LocalUpdate, TrainError> {
    let trained = train(&local_training(study, site, round, correction), start, cases, progress)?;
    Ok(LocalUpdate::of(study, start, trained))
}

/// Counts of held-out cases under a candidate. `start_losses` are those of the model it is compared with, case by case;
/// none where that is the candidate itself.
pub fn evaluation_counts(
    plan: &Plan,
    candidate: &[f32],
    start_losses: Option<&[f64]>,
    cases: &Dataset,
) -> Result<EvaluationCounts, ScoreError> {
    count_cases(evaluation_shape(plan), &plan.model_identity(), candidate, start_losses, cases)
}

/// The same for a model without its study.
pub fn count_cases(
    shape: EvaluationShape,
    identity: &ModelIdentity,
    candidate: &[f32],
    start_losses: Option<&[f64]>,
    cases: &Dataset,
) -> Result<EvaluationCounts, ScoreError> {
    let ModelIdentity { graph, preprocessing, task, .. } = identity;
    let mut counts = EvaluationCounts::new(shape);
    score_each(graph, *preprocessing, *task, candidate, cases, &mut |case, scores| {
        let truth = truth(cases, case);
        let start_loss = start_losses.map_or_else(|| loss(scores, truth), |losses| losses[case]);
        counts.add(scores, start_loss, truth);
    })?;
    Ok(counts)
}

/// Clipped cross-entropy of each case under a model.
pub fn losses(identity: &ModelIdentity, model: &[f32], cases: &Dataset) -> Result<Vec<f64>, ScoreError> {
    let ModelIdentity { graph, preprocessing, task, .. } = identity;
    let mut losses = Vec::with_capacity(cases.len());
    score_each(graph, *preprocessing, *task, model, cases, &mut |case, scores| {
        losses.push(loss(scores, truth(cases, case)));
    })?;
    Ok(losses)
}

/// What is known of a case.
fn truth(cases: &Dataset, case: usize) -> Truth<'_> {
    match cases.labels()[case] {
        Label::Mask => Truth::Mask(cases.mask(case)),
        label => Truth::Label(label),
    }
}
