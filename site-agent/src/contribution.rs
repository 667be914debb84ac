//! What a site makes of its own cases in an attempt: the one recipe, for the vault and for simulations.
//!
//! Pure functions of the study, the model and the cases. Clipping, quantising and masking follow in
//! `consilium-secagg`, with the counts of `consilium-rounds`.

use std::ops::ControlFlow;

use consilium_learning::{Dataset, LocalSeed, LocalTraining, Progress, Scores, TrainError, train};
use consilium_rounds::metrics::EvaluationCounts;
use consilium_rounds::reason::Withdrawal;
use consilium_rounds::vector::evaluation_shape;
use consilium_secagg::numbering::RoundNumber;
use consilium_study::document::{Plan, Study};
use consilium_study::name::SiteName;

use crate::data::source::InvalidTarget;
use crate::data::{Case, Counts, Criteria, Target};

/// What a study asks of a case.
pub fn criteria(plan: &Plan) -> Result<Criteria, InvalidTarget> {
    let data = &plan.data;
    Ok(Criteria {
        labels: data.labels.clone(),
        task: data.task,
        case: match &data.inputs {
            None => Case::Picture(Target::new(data.channels, data.height, data.width)?),
            Some(inputs) => Case::Row(inputs.clone()),
        },
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

/// What local training changed.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalUpdate {
    /// Local minus starting parameters, shape `[params]`.
    pub update: Vec<f32>,
    /// Mean training loss.
    pub mean_loss: f64,
}

/// Trains as the study says, from the model that the round starts from.
pub fn local_update(
    study: &Study,
    site: &SiteName,
    round: RoundNumber,
    start: &[f32],
    cases: &Dataset,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<LocalUpdate, TrainError> {
    let task = LocalTraining {
        graph: &study.model,
        recipe: &study.training,
        preprocessing: study.model_identity().preprocessing,
        budget: study.training.extent(),
        seed: LocalSeed { study_seed: study.seed, site: site.clone(), round: round.get() - 1 },
        rounds: study.rounds.count,
        covers: 1,
        proximal_weight: study.rounds.strategy.proximal_weight(),
    };
    let trained = train(&task, start, cases, progress)?;
    let mut update = trained.model;
    for (after, before) in update.iter_mut().zip(start) {
        *after -= before;
    }
    Ok(LocalUpdate { update, mean_loss: trained.mean_loss })
}

/// Counts of held-out cases, from the scores of a candidate and of the model it is compared with.
pub fn evaluation_counts(
    study: &Study,
    candidate: &Scores,
    start: &Scores,
    cases: &Dataset,
) -> EvaluationCounts {
    let mut counts = EvaluationCounts::new(evaluation_shape(study));
    for ((candidate, start), label) in candidate.iter().zip(start.iter()).zip(cases.labels()) {
        counts.add(candidate, start, *label);
    }
    counts
}
