//! Performing one cell.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use consilium_learning::{Dataset, LocalSeed, LocalTraining, ModelFile, Progress, initial, train};
use consilium_rounds::metrics::Figures;
use consilium_site_agent::contribution::put_own;
use consilium_study::document::Draft;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::recipe::Extent;
use serde::{Deserialize, Serialize};

use super::experiment::{Cell, Way};
use super::results::Outcome;
use crate::demo::arms::{figures, join};
use crate::demo::progress::Story;
use crate::finetune::{Comparison, Recipe, adapt};
use crate::simulate::bench::Crew;
use crate::simulate::engine::simulate;
use crate::simulate::hospitals::Hospital;
use crate::simulate::setting::{Dealing, Setting, median};

/// What came of a cell, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Finished {
    pub(super) cell: String,
    /// [`Cell::recipe`].
    pub(super) recipe: Hash,
    /// On the cases that nobody trained on; none where there are none, or of one class.
    pub(super) auroc: Option<f64>,
    pub(super) accuracy: Option<f64>,
    /// Cases that nobody trained on.
    pub(super) test_cases: usize,
    /// Cases trained on, of all sites.
    pub(super) train_cases: usize,
    /// The round (of a trainer without rounds: as many cases as a round has) whose model it is, of so many.
    pub(super) chosen: u32,
    pub(super) rounds: u32,
    /// Each site's own figures, where sites train alone, adapt the model or have layers of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) sites: Vec<Site>,
    pub(super) seconds: f64,
    /// The program that made it.
    pub(super) version: String,
}

/// What a site reaches by itself, or with its own layers in the federation's model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Site {
    pub(super) site: SiteName,
    pub(super) train_cases: usize,
    pub(super) auroc: Option<f64>,
    pub(super) accuracy: Option<f64>,
    /// Where the federation's model was adapted: before and after on the site's own held-out cases. The adapted one is
    /// taken if it is not worse there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    own: Option<Comparison>,
}

/// The model that a trainer by itself would recommend, and from which stretch of its training.
struct Chosen {
    model: Vec<f32>,
    stretch: u32,
}

impl Outcome for Finished {
    fn perform(cell: &Cell<'_>, data: &Path, recipe: Hash, story: &Story) -> anyhow::Result<Self> {
        let started = Instant::now();
        let setting = setting(cell, data, story)?;
        let Setting { draft, hospitals, test } = &setting;
        let able = || hospitals.iter().filter_map(|(site, hospital)| Some((site, hospital.as_ref().ok()?)));
        let score = |model: &[f32]| test.as_ref().map(|cases| figures(draft, model, cases)).transpose();
        let mut sites = Vec::new();
        let (figures, chosen) = match &cell.arm.way {
            Way::Federated(_) => {
                let simulation = simulate(draft.clone(), None, hospitals, &Crew::new()?, None, false, story)?;
                let scored = setting.score(&simulation)?;
                for (site, figures) in &scored.of_sites {
                    let cases = able().find(|(able, _)| *able == site);
                    let cases = cases.map_or(0, |(_, hospital)| hospital.train.len());
                    sites.push(Site::new(site, cases, Some(figures)));
                }
                (scored.of_all, simulation.release.round())
            }
            Way::Pooled(_) => {
                let train = join(able().map(|(_, hospital)| &hospital.train))?;
                let held_out = join(able().map(|(_, hospital)| &hospital.held_out))?;
                let everybody = SiteName::new("everybody").context("this is a name")?;
                let Chosen { model, stretch } =
                    on_all_cores(|| choose(draft, &everybody, &train, &held_out, able().count(), story))??;
                (score(&model)?, stretch)
            }
            Way::Alone(_) => {
                for (site, hospital) in able() {
                    let train = || choose(draft, site, &hospital.train, &hospital.held_out, 1, story);
                    let figures = score(&on_all_cores(train)??.model)?;
                    sites.push(Site::new(site, hospital.train.len(), figures.as_ref()));
                }
                (None, draft.rounds.count)
            }
            Way::Finetuned(_) => {
                let simulation = simulate(draft.clone(), None, hospitals, &Crew::new()?, None, false, story)?;
                let identity = draft.model_identity();
                let released = ModelFile::from_bytes(&simulation.released)?.expect(&identity)?;
                let recipe = Recipe::USUAL.training(draft.data.task)?;
                for (site, Hospital { train, held_out }) in able() {
                    story.progress(&format!("{site} adapts the model to its own cases"));
                    let mut start = released.clone();
                    put_own(&draft.model, &mut start, simulation.own.get(site).map(Vec::as_slice));
                    let adapted = on_all_cores(|| adapt(&identity, &start, &recipe, site, train, |_| {}))??;
                    let own = Comparison::of(&identity, &start, &adapted, held_out)?;
                    // What `model finetune` would write; without held-out cases nothing speaks against it.
                    let is_kept = own.as_ref().is_none_or(Comparison::is_no_worse);
                    let figures = score(if is_kept { &adapted } else { &start })?;
                    sites.push(Site { own, ..Site::new(site, train.len(), figures.as_ref()) });
                }
                (None, simulation.release.round())
            }
        };
        let of_sites = |figure: fn(&Site) -> Option<f64>| median(sites.iter().filter_map(figure).collect());
        Ok(Self {
            cell: cell.name(),
            recipe,
            auroc: figures.as_ref().map_or_else(|| of_sites(|site| site.auroc), |figures| figures.auroc),
            accuracy: figures
                .as_ref()
                .map_or_else(|| of_sites(|site| site.accuracy), |figures| figures.accuracy),
            test_cases: test.as_ref().map_or(0, Dataset::len),
            train_cases: able().map(|(_, hospital)| hospital.train.len()).sum(),
            chosen,
            rounds: draft.rounds.count,
            sites,
            seconds: started.elapsed().as_secs_f64(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    fn recipe(&self) -> Hash {
        self.recipe
    }

    fn line(&self, state: &str) -> String {
        let figure = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"));
        format!(
            "{} {state}: AUROC {}, accuracy {} on {} cases; round {} of {}, {:.0} s",
            self.cell,
            figure(self.auroc),
            figure(self.accuracy),
            self.test_cases,
            self.chosen,
            self.rounds,
            self.seconds
        )
    }
}

impl Site {
    fn new(site: &SiteName, train_cases: usize, figures: Option<&Figures>) -> Self {
        Self {
            site: site.clone(),
            train_cases,
            auroc: figures.and_then(|figures| figures.auroc),
            accuracy: figures.and_then(|figures| figures.accuracy),
            own: None,
        }
    }
}

/// The study of a cell with its seed, and its cases, dealt out.
pub(super) fn setting(cell: &Cell<'_>, data: &Path, story: &Story) -> anyhow::Result<Setting> {
    let mut plan = (*Draft::from_toml(&cell.arm.study).context("the study of this cell")?).clone();
    plan.seed = cell.seed;
    let dealt = cell.arm.way.dealt();
    let dealing =
        Dealing { data, partition: &dealt.partition, sites: dealt.sites, keeps_test: dealt.keeps_test };
    Setting::new(plan, &dealing, story)
}

const TOO_LONG: &str = "all rounds together are more than 4294967295 steps";

/// With as many threads as the machine has.
fn on_all_cores<T: Send>(work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Ok(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(work))
}

/// Trains once through the whole study's budget, as one trainer does: the optimiser is never begun anew. After each stretch
/// of as many cases as a round has, the model is scored on the held-out cases, and the best by the study's metric is
/// chosen, as a federation chooses among its rounds; without held-out cases the last.
fn choose(
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
    let mut best: Option<(f64, Chosen)> = None;
    let mut failure = None;
    let mut judge = |at: Progress<'_>| {
        if !at.step.is_multiple_of(stretch) {
            return ControlFlow::Continue(());
        }
        let number = u32::try_from(at.step / stretch).unwrap_or(u32::MAX);
        story.progress(&format!("{site} trains, {number} of {rounds}, loss {:.4}", at.loss));
        if held_out.is_empty() {
            return ControlFlow::Continue(());
        }
        let figures: Figures = match figures(draft, &at.model(), held_out) {
            Ok(figures) => figures,
            Err(error) => {
                failure = Some(error);
                return ControlFlow::Break(());
            }
        };
        if let Some(figure) = figures.get(metric)
            && best.as_ref().is_none_or(|(before, _)| metric.improves(figure, *before))
        {
            best = Some((figure, Chosen { model: at.model(), stretch: number }));
        }
        ControlFlow::Continue(())
    };
    let trained = train(&task, &initial(&draft.model, draft.seed), cases, &mut judge);
    if let Some(error) = failure {
        return Err(error);
    }
    let last = Chosen { model: trained?.model, stretch: rounds };
    Ok(best.map_or(last, |(_, chosen)| chosen))
}
