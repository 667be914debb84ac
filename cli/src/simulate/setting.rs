//! A study with its cases: dealt out, read, and those that no site has beside them.

use std::path::Path;

use anyhow::Context as _;
use consilium_learning::{Dataset, ModelFile};
use consilium_rounds::metrics::Figures;
use consilium_site_agent::contribution::put_own;
use consilium_site_agent::data::Source;
use consilium_study::document::{Draft, Plan};
use consilium_study::name::SiteName;

use super::engine::Simulation;
use super::hospitals::{self, Hospitals};
use super::scratch::Scratch;
use crate::demo::arms::{all_cases, figures};
use crate::demo::progress::Story;
use crate::partition::Partition;

/// What is dealt out, and how.
pub(crate) struct Dealing<'a> {
    /// An archive or a folder.
    pub(crate) data: &'a Path,
    pub(crate) partition: &'a Partition,
    /// Number of sites, where it is not the study's own or that of a column's values.
    pub(crate) sites: Option<u16>,
    /// Whether a fifth of the patients goes to no site although the table has no split and is dealt by a column.
    pub(crate) keeps_test: bool,
}

/// A study that can be run in this process.
pub(crate) struct Setting {
    pub(crate) draft: Draft,
    pub(crate) hospitals: Hospitals,
    /// Cases of no site, if there are any.
    pub(crate) test: Option<Dataset>,
    /// Whoever would be a site if not all of its patients were among those.
    pub(crate) test_only: Vec<SiteName>,
}

impl Setting {
    /// Deals the data out and reads everybody's cases, with the loader of an agent.
    pub(crate) fn new(mut plan: Plan, dealing: &Dealing<'_>, story: &Story) -> anyhow::Result<Self> {
        let folder = Scratch::new()?;
        let dealt = hospitals::deal(&mut plan, dealing, folder.path())?;
        let draft = Draft::new(plan).context("the study, with the sites of this simulation")?;
        let hospitals = hospitals::load(&draft, &dealt, folder.path(), story)?;
        let read = |source: &Source| all_cases(&draft, std::slice::from_ref(source));
        let test = dealt.test.as_ref().map(read).transpose().context("reading the cases of no site")?;
        let test = test.filter(|cases| !cases.is_empty());
        Ok(Self { draft, hospitals, test, test_only: dealt.test_only })
    }

    /// What a released file makes of the cases of no site. In a study with local layers nobody uses the file as it is, but
    /// with numbers of their own.
    pub(crate) fn score(&self, simulation: &Simulation) -> anyhow::Result<Scored> {
        let mut scored = Scored::default();
        let Some(cases) = &self.test else { return Ok(scored) };
        let model = ModelFile::from_bytes(&simulation.released)?.expect(&self.draft.model_identity())?;
        for (site, own) in &simulation.own {
            let mut model = model.clone();
            put_own(&self.draft.model, &mut model, Some(own));
            scored.of_sites.push((site.clone(), figures(&self.draft, &model, cases)?));
        }
        if scored.of_sites.is_empty() {
            scored.of_all = Some(figures(&self.draft, &model, cases)?);
        }
        Ok(scored)
    }
}

/// Figures on the cases of no site, where there are such cases.
#[derive(Default)]
pub(crate) struct Scored {
    /// Of the one model that all sites have.
    pub(crate) of_all: Option<Figures>,
    /// Of the model with the own layers of each site, where there are local layers.
    pub(crate) of_sites: Vec<(SiteName, Figures)>,
}

impl Scored {
    /// A figure of the model, or its median over the sites that have their own.
    pub(crate) fn figure(&self, of: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        match &self.of_all {
            Some(figures) => of(figures),
            None => median(self.of_sites.iter().filter_map(|(_, figures)| of(figures)).collect()),
        }
    }
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_some_values() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
