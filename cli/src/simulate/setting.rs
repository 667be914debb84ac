//! A study with its cases: dealt out, read, and those that no site has beside them.

use std::path::Path;

use anyhow::Context as _;
use consilium_learning::{Dataset, ModelFile};
use consilium_rounds::metrics::Figures;
use consilium_site_agent::data::Source;
use consilium_study::document::{Draft, Plan};

use super::hospitals::{self, Hospitals};
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
}

impl Setting {
    /// Deals the data out and reads everybody's cases, with the loader of an agent.
    pub(crate) fn new(mut plan: Plan, dealing: &Dealing<'_>, story: &Story) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("consilium-simulate-").tempdir()?;
        let dealt = hospitals::deal(&mut plan, dealing, folder.path())?;
        let draft = Draft::new(plan).context("the study, with the sites of this simulation")?;
        let hospitals = hospitals::load(&draft, &dealt, folder.path(), story)?;
        let read = |source: &Source| all_cases(&draft, std::slice::from_ref(source));
        let test = dealt.test.as_ref().map(read).transpose().context("reading the cases of no site")?;
        Ok(Self { draft, hospitals, test: test.filter(|cases| !cases.is_empty()) })
    }

    /// What a released file makes of the cases of no site.
    pub(crate) fn score_file(&self, released: &[u8]) -> anyhow::Result<Option<Figures>> {
        let model = ModelFile::from_bytes(released)?.expect(&self.draft.model_identity())?;
        self.test.as_ref().map(|cases| figures(&self.draft, &model, cases)).transpose()
    }
}
