//! Performing one cell.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use consilium_learning::{Dataset, ModelFile};
use consilium_rounds::metrics::Figures;
use consilium_site_agent::contribution::put_own;
use consilium_study::document::Draft;
use consilium_study::hash::Hash;
use consilium_study::metric::Metric;
use consilium_study::name::SiteName;

use super::experiment::{Cell, Way};
use super::finished::{Finished, LeftOut, Reason, Site, medians, of_task};
use super::results::Outcome;
use super::single::{Chosen, choose, on_all_cores};
use crate::demo::arms::{figures, join};
use crate::demo::progress::Story;
use crate::finetune::{Comparison, Recipe, adapt};
use crate::simulate::bench::Crew;
use crate::simulate::engine::{Simulation, simulate};
use crate::simulate::hospitals::Hospital;
use crate::simulate::setting::{Dealing, Setting};

/// What came of training.
struct Trained {
    /// Of the one model, if there is one.
    figures: Option<Figures>,
    sites: Vec<Site>,
    chosen: u32,
    made: u32,
    left_out: Vec<LeftOut>,
}

impl Outcome for Finished {
    fn perform(cell: &Cell<'_>, data: &Path, recipe: Hash, story: &Story) -> anyhow::Result<Self> {
        let started = Instant::now();
        let setting = setting(cell, data, story)?;
        let Trained { figures, sites, chosen, made, left_out } = train(&cell.arm.way, &setting, story)?;
        let Setting { draft, hospitals, test, .. } = &setting;
        let task = draft.data.task;
        let figures = match figures {
            Some(figures) => of_task(task, |metric| figures.get(metric)),
            None => medians(&sites, task),
        };
        Ok(Self {
            cell: cell.name(),
            recipe,
            auroc: figures.get(&Metric::Auroc).copied(),
            accuracy: figures.get(&Metric::Accuracy).copied(),
            figures,
            test_cases: test.as_ref().map_or(0, Dataset::len),
            train_cases: hospitals.values().flatten().map(|hospital| hospital.train.len()).sum(),
            chosen,
            rounds: draft.rounds.count,
            rounds_made: Some(made),
            left_out,
            sites,
            seconds: started.elapsed().as_secs_f64(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    fn recipe(&self) -> Hash {
        self.recipe
    }

    fn line(&self, cell: &Cell<'_>, state: &str) -> String {
        self.line(cell, state)
    }
}

/// Trains in one of the ways.
fn train(way: &Way, setting: &Setting, story: &Story) -> anyhow::Result<Trained> {
    let Setting { draft, hospitals, test, .. } = setting;
    let task = draft.data.task;
    let able = || hospitals.iter().filter_map(|(site, hospital)| Some((site, hospital.as_ref().ok()?)));
    // Who has nothing to train on makes no step, and can neither train alone nor adapt a model.
    let training = || able().filter(|(_, hospital)| !hospital.train.is_empty());
    let score = |model: &[f32]| test.as_ref().map(|cases| figures(draft, model, cases)).transpose();
    let simulated = || simulate(draft.clone(), None, hospitals, &Crew::new()?, None, false, story);
    let mut sites = Vec::new();
    let trained = match way {
        Way::Federated(_) => {
            let simulation = simulated()?;
            let scored = setting.score(&simulation)?;
            for (site, figures) in &scored.of_sites {
                let cases = able().find(|(able, _)| *able == site);
                let cases = cases.map_or(0, |(_, hospital)| hospital.train.len());
                sites.push(Site::new(site, cases, task, Some(figures)));
            }
            Trained {
                figures: scored.of_all,
                sites,
                chosen: simulation.release.round(),
                made: simulation.release.rounds,
                left_out: left_out(setting, Some(&counted(&simulation))),
            }
        }
        Way::Pooled(_) => {
            let train = join(able().map(|(_, hospital)| &hospital.train))?;
            let held_out = join(able().map(|(_, hospital)| &hospital.held_out))?;
            let everybody = SiteName::new("everybody").context("this is a name")?;
            let Chosen { model, stretch, made } =
                on_all_cores(|| choose(draft, &everybody, &train, &held_out, training().count(), story))??;
            let left_out = left_out(setting, None);
            Trained { figures: score(&model)?, sites, chosen: stretch, made, left_out }
        }
        Way::Alone(_) => {
            let mut most = 0;
            for (site, hospital) in training() {
                let train = || choose(draft, site, &hospital.train, &hospital.held_out, 1, story);
                let Chosen { model, stretch, made } = on_all_cores(train)??;
                let figures = score(&model)?;
                let (chosen, rounds_made) = (Some(stretch), Some(made));
                let site = Site::new(site, hospital.train.len(), task, figures.as_ref());
                sites.push(Site { chosen, rounds_made, ..site });
                most = most.max(made);
            }
            Trained { figures: None, sites, chosen: most, made: most, left_out: left_out(setting, None) }
        }
        Way::Finetuned(_) => {
            let simulation = simulated()?;
            let identity = draft.model_identity();
            let released = ModelFile::from_bytes(&simulation.released)?.expect(&identity)?;
            let recipe = Recipe::USUAL.training(task)?;
            for (site, Hospital { train, held_out }) in training() {
                story.progress(&format!("{site} adapts the model to its own cases"));
                let mut start = released.clone();
                put_own(&draft.model, &mut start, simulation.own.get(site).map(Vec::as_slice));
                let adapted = on_all_cores(|| adapt(&identity, &start, &recipe, site, train, |_| {}))??;
                let own = Comparison::of(&identity, &start, &adapted, held_out)?;
                // What `model finetune` would write; without held-out cases nothing speaks against it.
                let is_kept = own.as_ref().is_none_or(Comparison::is_no_worse);
                let figures = score(if is_kept { &adapted } else { &start })?;
                sites.push(Site { own, ..Site::new(site, train.len(), task, figures.as_ref()) });
            }
            let (chosen, made) = (simulation.release.round(), simulation.release.rounds);
            Trained { figures: None, sites, chosen, made, left_out: left_out(setting, None) }
        }
    };
    Ok(trained)
}

/// Whose update is in a round's sum.
fn counted(simulation: &Simulation) -> BTreeSet<SiteName> {
    simulation.rounds.iter().flat_map(|round| round.counted(&simulation.study.sites)).collect()
}

/// Whose cases an arm does without: of a federation also those that were `counted` in no round.
fn left_out(setting: &Setting, counted: Option<&BTreeSet<SiteName>>) -> Vec<LeftOut> {
    let test_only = setting.test_only.iter().map(|site| (site, Reason::TestOnly));
    let others = setting.hospitals.iter().filter_map(|(site, hospital)| {
        let reason = match hospital {
            Err(_) => Reason::TooFewCases,
            Ok(hospital) if hospital.train.is_empty() => Reason::NothingToTrainOn,
            Ok(_) if counted.is_some_and(|counted| !counted.contains(site)) => Reason::InNoRound,
            Ok(_) => return None,
        };
        Some((site, reason))
    });
    test_only.chain(others).map(|(site, reason)| LeftOut { site: site.clone(), reason }).collect()
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use consilium_learning::Pixels;
    use consilium_rounds::reason::Withdrawal;

    use super::*;
    use crate::output::Output;
    use crate::partition::Partition;
    use crate::reproduce::experiment::Dealt;

    fn name(site: &str) -> SiteName {
        site.parse().unwrap()
    }

    /// Four sites: of one all cases are held out.
    fn setting(lines: &str, gate: &str) -> Setting {
        let text = format!(
            "format = 1\nname = \"s\"\ntitle = \"t\"\nsites = [\"a\", \"b\", \"c\", \"held\"]\nseed = 1\n\
             [data]\nlabels = [\"no\", \"yes\"]\nchannels = 1\nheight = 2\nwidth = 2\nmean = 0.5\nstd = 0.5\n\
             [model]\npreset = \"logistic\"\n\
             [training]\noptimiser = \"sgd\"\nlearning_rate = 0.5\nbatch = 4\nepochs = 1\n\
             [rounds]\ncount = 6\nquorum = 3\n{lines}\n\
             [aggregation]\nmin_honest = 2\n[evaluation]\nrecommend = \"loss\"\n{gate}\n"
        );
        let cases = |count: u16, bright: u16| {
            let value = |case: u16| if case % 2 == bright { 0.9 } else { 0.1 };
            let pixels = (0..count).flat_map(|case| [value(case); 4]).collect();
            Dataset::new([1, 2, 2], Pixels::Floats(pixels), (0..count).map(|case| case % 2).collect())
                .unwrap()
        };
        // What is held out says the opposite of what is learned, so that every round makes it worse.
        let able = |train| Ok(Hospital { train: cases(train, 1), held_out: cases(8, 0) });
        let hospitals = [("a", able(16)), ("b", able(16)), ("c", able(16)), ("held", able(0))];
        Setting {
            draft: Draft::from_toml(&text).unwrap(),
            hospitals: hospitals.map(|(site, hospital)| (name(site), hospital)).into(),
            test: Some(cases(8, 1)),
            test_only: vec![name("gone")],
        }
    }

    fn trained(way: impl Fn(Dealt) -> Way, setting: &Setting) -> Trained {
        let story = Story::new(Output { json: true }, Instant::now()).hushed();
        train(&way(Dealt::by(Partition::Iid)), setting, &story).unwrap()
    }

    #[test]
    fn who_cannot_train_is_left_out_by_name_and_the_others_go_on() {
        let mut setting = setting("", "");
        for way in [Way::Pooled, Way::Federated, Way::Alone, Way::Finetuned] {
            let trained = trained(way, &setting);
            let left_out: Vec<_> =
                trained.left_out.iter().map(|left| (left.site.as_str(), left.reason)).collect();
            let expected = [("gone", Reason::TestOnly), ("held", Reason::NothingToTrainOn)];
            assert_eq!(left_out, expected);
            assert_eq!(trained.made, 6);
            let has_sites = trained.figures.is_none();
            assert_eq!(trained.sites.len(), if has_sites { 3 } else { 0 });
            assert!(trained.sites.iter().all(|site| site.figures.contains_key(&Metric::Auroc)));
        }
        setting.hospitals.insert(name("small"), Err(Withdrawal::TooFewCases));
        let nobody = left_out(&setting, Some(&BTreeSet::from([name("a"), name("b")])));
        assert!(nobody.contains(&LeftOut { site: name("c"), reason: Reason::InNoRound }), "{nobody:?}");
        assert!(nobody.contains(&LeftOut { site: name("small"), reason: Reason::TooFewCases }), "{nobody:?}");
    }

    #[test]
    fn all_arms_end_early_by_the_same_rule() {
        let setting = setting("patience = 2", "");
        for way in [Way::Pooled, Way::Federated, Way::Alone, Way::Finetuned] {
            let trained = trained(way, &setting);
            assert_eq!((trained.made, trained.chosen.min(3)), (3, trained.chosen));
            assert!(trained.sites.iter().all(|site| site.rounds_made.is_none_or(|made| made == 3)));
        }
    }

    #[test]
    fn a_federation_whose_rounds_are_all_refused_is_told_from_one_that_was_trained() {
        let setting = setting("", "gate = { max_loss_increase = 0.0 }");
        assert_eq!(trained(Way::Federated, &setting).chosen, 0);
    }
}
