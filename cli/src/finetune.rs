//! Adapting a model to the cases of one site, and what that changes on cases that were held out there.
//!
//! Every number of the model is trained further, with Adam and a small learning rate. Before and after are compared case by
//! case: the same cases are scored twice, so their differences say more than the two figures do.

use std::ops::ControlFlow;

use anyhow::{Context as _, ensure};
use clap::Args;
use consilium_learning::{Dataset, LocalSeed, LocalTraining, ModelIdentity, Progress, score, train};
use consilium_rounds::metrics::{EvaluationShape, Figures, exact};
use consilium_site_agent::contribution::count_cases;
use consilium_study::name::SiteName;
use consilium_study::recipe::Training;
use consilium_study::task::{Label, Task};
use serde::{Deserialize, Serialize};

use crate::interval::Mean;

/// Probability from which a case counts as positive, where no study says.
const OPERATING_POINT: f64 = 0.5;

/// How a model is adapted.
#[derive(Debug, Clone, Copy, PartialEq, Args)]
pub(crate) struct Recipe {
    /// Learning rate of Adam
    #[arg(long, default_value_t = Recipe::USUAL.learning_rate)]
    learning_rate: f64,
    /// Passes over the cases
    #[arg(long, default_value_t = Recipe::USUAL.epochs)]
    epochs: u32,
    /// Cases in a batch
    #[arg(long, default_value_t = Recipe::USUAL.batch)]
    batch: u32,
}

impl Recipe {
    /// Small steps and few of them: the model is good already.
    pub(crate) const USUAL: Self = Self { learning_rate: 1e-4, epochs: 3, batch: 32 };

    /// The same as a study would say it. Areas count as they do in the figure by which two models are compared.
    pub(crate) fn training(self, task: Task) -> anyhow::Result<Training> {
        let Self { learning_rate, epochs, batch } = self;
        ensure!(learning_rate.is_finite(), "--learning-rate {learning_rate} is not finite");
        let loss = match task {
            Task::Classification | Task::Ordinal | Task::MultiLabel => "cross-entropy",
            Task::Segmentation => "dice-cross-entropy",
            Task::Regression => "squared-error",
        };
        let text = format!(
            "optimiser = \"adam\"\nlearning_rate = {learning_rate:?}\nepochs = {epochs}\nbatch = {batch}\nloss = \"{loss}\""
        );
        toml::from_str(&text).context("this recipe cannot be followed")
    }
}

/// Trains a model further on the cases of a site.
pub(crate) fn adapt(
    identity: &ModelIdentity,
    start: &[f32],
    recipe: &Training,
    site: &SiteName,
    cases: &Dataset,
    mut progress: impl FnMut(Progress<'_>),
) -> anyhow::Result<Vec<f32>> {
    let task = LocalTraining {
        graph: &identity.graph,
        recipe,
        preprocessing: identity.preprocessing,
        budget: recipe.extent(),
        seed: LocalSeed { study_seed: 0, site: site.clone(), round: 0 },
        rounds: 1,
        covers: 1,
        proximal_weight: 0.0,
        correction: None,
    };
    let mut tell = |at: Progress<'_>| {
        progress(at);
        ControlFlow::Continue(())
    };
    Ok(train(&task, start, cases, &mut tell)?.model)
}

/// Two models on the same cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// How many cases.
    pub(crate) cases: usize,
    pub(crate) before: Measured,
    pub(crate) after: Measured,
    /// Loss after less loss before, mean over cases.
    pub(crate) difference: Mean,
    /// Cases that were wrong and are right; of several findings, of which more are right.
    pub(crate) righted: usize,
    /// Cases that were right and are wrong, or of which fewer findings are right.
    pub(crate) wronged: usize,
}

/// What one of the two models makes of the cases.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Mean clipped cross-entropy.
    pub(crate) loss: f64,
    /// None where the cases do not define it.
    pub(crate) auroc: Option<f64>,
    /// None of models that score pixels.
    pub(crate) accuracy: Option<f64>,
    /// The Dice coefficient of models that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dice: Option<f64>,
    /// The mean absolute error of models of values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mae: Option<f64>,
}

impl Comparison {
    /// None without a case.
    pub(crate) fn of(
        identity: &ModelIdentity,
        before: &[f32],
        after: &[f32],
        cases: &Dataset,
    ) -> anyhow::Result<Option<Self>> {
        let figures = |model: &[f32]| -> anyhow::Result<Option<(Measured, Vec<Figures>)>> {
            let (all, single) = if identity.task.is_labelled() {
                of_labels(identity, model, cases)?
            } else {
                of_counts(identity, model, cases)?
            };
            let measured = |all: Figures| {
                let Figures { loss, auroc, accuracy, dice, mae, .. } = all;
                Measured { loss, auroc, accuracy, dice, mae }
            };
            Ok(all.map(|all| (measured(all), single)))
        };
        let (Some((before, old)), Some((after, new))) = (figures(before)?, figures(after)?) else {
            return Ok(None);
        };
        let differences: Vec<f64> = new.iter().zip(&old).map(|(new, old)| new.loss - old.loss).collect();
        let Some(difference) = Mean::of(&differences) else { return Ok(None) };
        let changed = |from: &[Figures], to: &[Figures]| {
            let share =
                |figures: &Figures| figures.accuracy.or(figures.dice).or(figures.mae.map(|error| -error));
            from.iter().zip(to).filter(|(from, to)| share(from) < share(to)).count()
        };
        let (righted, wronged) = (changed(&old, &new), changed(&new, &old));
        Ok(Some(Self { cases: cases.len(), before, after, difference, righted, wronged }))
    }

    /// Whether the loss after is at most the loss before.
    pub(crate) fn is_no_worse(&self) -> bool {
        self.after.loss <= self.before.loss
    }

    /// For people.
    pub(crate) fn people(&self) -> String {
        let Self { cases, before, after, difference, righted, wronged } = self;
        let figure =
            |figure: Option<f64>| figure.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"));
        let (verdict, half) = match difference.half {
            None => ("one case says nothing", String::new()),
            Some(half) if difference.mean.abs() <= half => {
                ("so few cases cannot tell that from no change", format!(" ± {half:.4}"))
            }
            Some(half) => ("that is more than chance among cases", format!(" ± {half:.4}")),
        };
        let (has_masks, has_values) = (before.dice.is_some() || after.dice.is_some(), after.mae.is_some());
        let (head, cases_changed) = if has_masks {
            ("Dice", format!("{righted} fit their mask better, {wronged} worse."))
        } else if has_values {
            ("MAE", format!("{righted} came closer to their value, {wronged} went away from it."))
        } else {
            let changed =
                format!("{righted} that were wrong are right, {wronged} that were right are wrong.");
            ("AUROC   accuracy", changed)
        };
        let line = |of: &Measured| {
            let figures = if has_masks {
                figure(of.dice)
            } else if has_values {
                figure(of.mae)
            } else {
                format!("{:<6}  {}", figure(of.auroc), figure(of.accuracy))
            };
            format!("{:.4}  {figures}", of.loss)
        };
        format!(
            "         loss    {head}\n\
             before   {}\n\
             after    {}\n\
             on the same {cases} held-out cases. Case by case the loss changes by {:+.4}{half} (95 %): {verdict}.\n\
             {cases_changed}",
            line(before),
            line(after),
            difference.mean,
        )
    }
}

/// Figures of all cases together, if there are any, and of each.
type OfCases = (Option<Figures>, Vec<Figures>);

fn of_labels(identity: &ModelIdentity, model: &[f32], cases: &Dataset) -> anyhow::Result<OfCases> {
    let ModelIdentity { graph, preprocessing, task, .. } = identity;
    let scores = score(graph, *preprocessing, *task, model, cases)?;
    let rows: Vec<&[f32]> = scores.iter().collect();
    let of = |rows: &[&[f32]], labels: &[Label]| exact::figures(rows, labels, *task, OPERATING_POINT);
    let single = rows.chunks(1).zip(cases.labels().chunks(1)).filter_map(|(row, label)| of(row, label));
    Ok((of(&rows, cases.labels()), single.collect()))
}

fn of_counts(identity: &ModelIdentity, model: &[f32], cases: &Dataset) -> anyhow::Result<OfCases> {
    let classes = u16::try_from(identity.graph.classes()).context("a model scores few classes")?;
    let shape = EvaluationShape::new(classes, 2, OPERATING_POINT)?.of_task(identity.task);
    let shape = shape.in_range(identity.range);
    let of =
        |cases: &Dataset| count_cases(shape, identity, model, None, cases).map(|counts| counts.figures());
    let single = (0..cases.len()).map(|case| of(&cases.select(&[case])));
    let single: Vec<Option<Figures>> = single.collect::<Result<_, _>>()?;
    Ok((of(cases)?, single.into_iter().flatten().collect()))
}

#[cfg(test)]
mod tests {
    use consilium_learning::{Pixels, Preprocessing};
    use consilium_study::graph::{ModelSpec, Preset};

    use super::*;

    fn identity() -> ModelIdentity {
        let graph = ModelSpec::Preset { preset: Preset::Logistic, norm: None, stem: None }
            .graph([1, 1, 1], 2)
            .unwrap();
        let preprocessing = Preprocessing::new(0.0, 1.0).unwrap();
        ModelIdentity {
            graph,
            preprocessing,
            labels: vec!["no".into(), "yes".into()],
            inputs: None,
            task: Task::Classification,
            range: None,
            beside: None,
        }
    }

    /// Scores of the second class are `slope * x`, of the first none.
    fn model(slope: f32) -> Vec<f32> {
        vec![0.0, slope, 0.0, 0.0]
    }

    #[test]
    fn cases_are_compared_one_by_one() {
        let values = vec![-1.0, 1.0, 2.0, -0.5];
        let cases =
            Dataset::new([1, 1, 1], Pixels::Floats(values.clone()), [0, 1, 0, 0].map(Label::Class).to_vec())
                .unwrap();
        let compared = Comparison::of(&identity(), &model(-1.0), &model(1.0), &cases).unwrap().unwrap();
        // With a slope of -1 only the third is right, with 1 all but the third.
        assert_eq!((compared.cases, compared.righted, compared.wronged), (4, 3, 1));
        let loss = |slope: f64, value: f64, yes: bool| {
            (1.0 + (if yes { -slope * value } else { slope * value }).exp()).ln()
        };
        let differences: Vec<f64> = values
            .iter()
            .zip([false, true, false, false])
            .map(|(value, yes)| loss(1.0, (*value).into(), yes) - loss(-1.0, (*value).into(), yes))
            .collect();
        let mean = differences.iter().sum::<f64>() / 4.0;
        assert!((compared.difference.mean - mean).abs() < 1e-6, "{compared:?}");
        assert!((compared.after.loss - compared.before.loss - mean).abs() < 1e-6);
        // Student's t with three degrees of freedom: 3.1824.
        let deviation = (differences.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / 3.0).sqrt();
        assert!((compared.difference.half.unwrap() - 3.182_446 * deviation / 2.0).abs() < 1e-4);
        assert!(
            compared.is_no_worse() == (mean <= 0.0)
                && compared.people().contains("cannot tell that from no change")
        );
        let turned = Comparison::of(&identity(), &model(1.0), &model(-1.0), &cases).unwrap().unwrap();
        assert_eq!((turned.righted, turned.wronged, turned.is_no_worse()), (1, 3, !compared.is_no_worse()));
        let none = Dataset::new([1, 1, 1], Pixels::Floats(vec![]), Vec::<Label>::new()).unwrap();
        assert_eq!(Comparison::of(&identity(), &model(1.0), &model(2.0), &none).unwrap(), None);
    }

    #[test]
    fn a_recipe_is_that_of_a_study_or_an_error() {
        let training = Recipe::USUAL.training(Task::Classification).unwrap();
        assert_eq!((training.learning_rate().to_bits(), training.batch()), (1e-4_f64.to_bits(), 32));
        for (recipe, key) in [
            (Recipe { learning_rate: 0.0, ..Recipe::USUAL }, "learning_rate"),
            (Recipe { learning_rate: f64::NAN, ..Recipe::USUAL }, "learning-rate"),
            (Recipe { epochs: 0, ..Recipe::USUAL }, "epochs"),
            (Recipe { batch: 5000, ..Recipe::USUAL }, "batch"),
        ] {
            let error = format!("{:#}", recipe.training(Task::Classification).unwrap_err());
            assert!(error.contains(key), "{error}");
        }
    }
}
