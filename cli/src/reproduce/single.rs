//! One trainer by itself, with the budget of a whole federation and the federation's rule to end early.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use anyhow::Context as _;
use consilium_learning::{Dataset, LocalSeed, LocalTraining, Progress, TrainError, initial, train};
use consilium_rounds::ending::Patience;
use consilium_study::document::Draft;
use consilium_study::name::SiteName;
use consilium_study::recipe::Extent;

use crate::demo::arms::figures;
use crate::demo::progress::Story;

/// The model that a trainer by itself would recommend. A stretch of its training is as many cases as a round has.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) model: Vec<f32>,
    /// The stretch that it is of.
    pub(super) stretch: u32,
    /// Stretches that were made.
    pub(super) made: u32,
}

const TOO_LONG: &str = "all rounds together are more than 4294967295 steps";

/// With as many threads as the machine has.
pub(super) fn on_all_cores<T: Send>(work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Ok(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(work))
}

/// Trains once through the whole study's budget, as one trainer does: the optimiser is never begun anew. After each stretch
/// the model is scored on the held-out cases, and the best by the study's metric is chosen, as a federation chooses among its
/// rounds; the last where none could be measured. Training that diverges before any was measured is an error. It ends early as
/// the federation does: after `rounds.patience` stretches in a row that are no better, or that nobody can measure.
pub(super) fn choose(
    draft: &Draft,
    site: &SiteName,
    cases: &Dataset,
    held_out: &Dataset,
    sites: usize,
    story: &Story,
) -> anyhow::Result<Chosen> {
    let rounds = draft.rounds.count;
    let (budget, stretch) = match draft.training.extent() {
        Extent::Epochs(epochs) => {
            let steps = u64::from(epochs) * cases.len().div_ceil(draft.training.batch()) as u64;
            (Extent::Epochs(rounds.checked_mul(epochs).context(TOO_LONG)?), steps)
        }
        Extent::Steps(steps) => {
            let steps = steps.checked_mul(u32::try_from(sites)?).context(TOO_LONG)?;
            (Extent::Steps(rounds.checked_mul(steps).context(TOO_LONG)?), u64::from(steps))
        }
    };
    let task = LocalTraining {
        graph: &draft.model,
        recipe: &draft.training,
        preprocessing: draft.model_identity().preprocessing,
        budget,
        seed: LocalSeed { study_seed: draft.seed, site: site.clone(), round: 0 },
        rounds,
        covers: rounds,
        proximal_weight: 0.0,
        correction: None,
    };
    let metric = draft.evaluation.recommend;
    let mut patience = Patience::of(draft);
    let (mut made, mut best, mut stopped) = (0, None, None);
    let mut failure = None;
    let mut judge = |at: Progress<'_>| {
        if !at.step.is_multiple_of(stretch) {
            return ControlFlow::Continue(());
        }
        made = u32::try_from(at.step / stretch).unwrap_or(u32::MAX);
        story.progress(&format!("{site} trains, {made} of {rounds}, loss {:.4}", at.loss));
        let scored = (!held_out.is_empty()).then(|| figures(draft, &at.model(), held_out)).transpose();
        let figure = match scored {
            Ok(figures) => figures.and_then(|figures| figures.get(metric)),
            Err(error) => {
                failure = Some(error);
                return ControlFlow::Break(());
            }
        };
        if patience.see(figure) {
            best = Some((at.model(), made));
        }
        // After the last step the training ends by itself, and says whether it went well.
        if patience.is_over() && made < rounds {
            stopped = Some(at.model());
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    let trained = train(&task, &initial(&draft.model, draft.seed), cases, &mut judge);
    if let Some(error) = failure {
        return Err(error);
    }
    let (model, stretch) = match (best, stopped, trained) {
        // What was measured before the numbers ran away stands, as a federation keeps the rounds before one that fails.
        (Some(best), _, Ok(_) | Err(TrainError::Stopped { .. } | TrainError::Diverged { .. })) => best,
        (None, Some(stopped), _) => (stopped, made),
        (None, None, trained) => (trained?.model, made),
        (Some(_), _, Err(error)) => return Err(error.into()),
    };
    Ok(Chosen { model, stretch, made })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use consilium_learning::Pixels;

    use super::*;
    use crate::output::Output;

    /// The last of twelve rounds by loss is not the best where the rate is so large.
    fn study(lines: &str) -> Draft {
        study_with("learning_rate = 0.5", lines)
    }

    fn study_with(recipe: &str, lines: &str) -> Draft {
        let text = format!(
            "format = 1\nname = \"s\"\ntitle = \"t\"\nsites = [\"a\", \"b\", \"c\"]\nseed = 1\n\
             [data]\nlabels = [\"no\", \"yes\"]\nchannels = 1\nheight = 2\nwidth = 2\nmean = 0.5\nstd = 0.5\n\
             [model]\npreset = \"logistic\"\n\
             [training]\noptimiser = \"sgd\"\n{recipe}\nbatch = 4\nepochs = 1\n\
             [rounds]\ncount = 12\nquorum = 3\n{lines}\n[evaluation]\nrecommend = \"loss\"\n"
        );
        Draft::from_toml(&text).unwrap()
    }

    /// Bright pictures are of class 1, or of class 0.
    fn cases(count: u16, bright: u16) -> Dataset {
        let pixels = (0..count).flat_map(|case| [if case % 2 == bright { 0.9 } else { 0.1 }; 4]).collect();
        Dataset::new([1, 2, 2], Pixels::Floats(pixels), (0..count).map(|case| case % 2).collect()).unwrap()
    }

    fn chosen(lines: &str, held_out: &Dataset) -> Chosen {
        let story = Story::new(Output { json: true }, Instant::now()).hushed();
        choose(&study(lines), &"a".parse().unwrap(), &cases(16, 1), held_out, 1, &story).unwrap()
    }

    #[test]
    fn a_trainer_ends_as_early_as_a_federation_would_and_keeps_the_best() {
        // What is learned is the opposite of what the held-out cases say, so the first stretch is the best.
        let whole = chosen("", &cases(8, 0));
        let early = chosen("patience = 3", &cases(8, 0));
        assert_eq!((whole.stretch, whole.made), (1, 12));
        assert_eq!((early.stretch, early.made), (1, 4));
        assert_eq!(early.model, whole.model);
        // Where every stretch is better, patience does not end.
        let better = chosen("patience = 1", &cases(8, 1));
        assert_eq!((better.stretch, better.made), (12, 12));
        assert_eq!(better.model, chosen("", &cases(8, 1)).model);
    }

    #[test]
    fn what_was_measured_before_the_numbers_ran_away_stands() {
        // Every step takes the weights further, by a factor that ends beyond all numbers.
        let wild = |held_out: &Dataset| {
            let story = Story::new(Output { json: true }, Instant::now()).hushed();
            let text = "learning_rate = 1e4\nweight_decay = 1.0";
            let draft = study_with(text, "");
            choose(&draft, &"a".parse().unwrap(), &cases(16, 1), held_out, 1, &story)
        };
        let Chosen { stretch, made, .. } = wild(&cases(8, 1)).unwrap();
        assert!((1..12).contains(&stretch) && made < 12, "{stretch} of {made}");
        let error = wild(&cases(0, 0)).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(TrainError::Diverged { .. })), "{error}");
    }

    #[test]
    fn what_nobody_can_measure_is_no_better() {
        let whole = chosen("", &cases(0, 0));
        assert_eq!((whole.stretch, whole.made), (12, 12));
        let early = chosen("patience = 2", &cases(0, 0));
        assert_eq!((early.stretch, early.made), (2, 2));
        assert_ne!(early.model, whole.model);
    }
}
