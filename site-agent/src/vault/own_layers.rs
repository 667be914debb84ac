//! A site's own numbers in a study's local layers: what a training begins with, and what the hospital keeps of a released study.

use std::path::Path;

use anyhow::{Context as _, ensure};
use consilium_rounds::reason::Withdrawal;
use consilium_study::canonical::Canonical as _;
use consilium_study::document::Study;
use consilium_study::graph::Treatment;

use super::work::{AttemptJob, Bench, Halt};
use crate::contribution::LocalLayers;
use crate::store::{Kind, Store};

/// Reads them; none before the first training, and in a study without local layers.
pub(crate) fn read(store: &dyn Store, file: &Path, study: &Study) -> anyhow::Result<Option<LocalLayers>> {
    if study.model.treated(Treatment::Local).next().is_none() {
        return Ok(None);
    }
    let Some(bytes) = store.read(Kind::LocalLayers, file)? else { return Ok(None) };
    let about = || format!("{} cannot be used", file.display());
    let own = LocalLayers::from_canonical(&bytes).with_context(about)?;
    ensure!(own.is_of(study), "{}: it is of another study, or not finite", about());
    Ok(Some(own))
}

impl Bench {
    /// Those of the study of an attempt.
    pub(super) fn own_layers(&self, job: &AttemptJob) -> Result<Option<LocalLayers>, Halt> {
        read(&*self.store, &job.folder.local_layers(), &job.study).map_err(|error| {
            tracing::error!(study = job.study.hash().short(), "the local layers cannot be read: {error:#}");
            Halt::Withdraw(Withdrawal::TrainingFailed)
        })
    }
}
