//! The job of an attempt's end: add the uploads, take the masks off, store what comes out.
//!
//! Doing it twice gives the same files, so after a crash it is simply done again. Memory is one vector, one
//! model and one chunk, whatever the number of sites.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use consilium_rounds::StudyMachine;
use consilium_rounds::sum::{Sum, SumError, SumJob, sum};
use consilium_rounds::{SumRefused, Summed};
use consilium_secagg::context::Purpose;
use consilium_secagg::layout::CHUNK_BYTES;
use consilium_study::hash::Hash;
use consilium_study::model_file::{ModelFile, ModelFileError, Origin};
use consilium_study::name::SiteName;

use crate::memory::give_small_buffers_back;
use crate::parts::Parts;
use crate::uploads::{UploadName, read_chunk};

/// Why a job failed for reasons that lie here.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error(transparent)]
    Sum(#[from] SumError<io::Error>),
    #[error("the starting model cannot be read: {0}")]
    Start(#[from] ModelFileError),
    #[error("a file cannot be used: {0}")]
    Files(#[from] io::Error),
}

/// Performs a job and says what came out.
pub(crate) fn perform(parts: &Parts, machine: &StudyMachine, job: &SumJob) -> Result<Summed, SumRefused> {
    give_small_buffers_back();
    try_perform(parts, machine, job).map_err(|error| {
        tracing::error!(attempt = job.context.attempt.get(), %error, "an opened sum cannot be used");
        SumRefused
    })
}

fn try_perform(parts: &Parts, machine: &StudyMachine, job: &SumJob) -> Result<Summed, JobError> {
    let study = machine.study();
    let start = match job.context.purpose {
        Purpose::Train => Some(read_model(parts, machine, &job.context.model)?),
        Purpose::Evaluate | Purpose::Statistics => None,
    };
    // Chunks of one site are asked for in order, so each spool is read once from beginning to end.
    let mut spools: BTreeMap<SiteName, File> = BTreeMap::new();
    let read = |site: &SiteName, _index: usize| -> io::Result<Vec<u8>> {
        let spool = match spools.entry(site.clone()) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(vacant) => {
                let attempt = u64::from(job.context.attempt.get());
                vacant.insert(parts.uploads.reader(&UploadName {
                    study: study.hash(),
                    attempt,
                    site: site.clone(),
                })?)
            }
        };
        read_chunk(spool, CHUNK_BYTES)
    };
    match sum(study, job, start.as_deref(), read)? {
        Sum::Train { aggregate, candidate, figures, largest } => {
            drop(start);
            let origin = Some(Origin { study: study.hash(), round: job.context.round.get() });
            let file = ModelFile { identity: study.model_identity(), origin, model: candidate };
            let candidate = parts.blobs.put(&file.to_bytes())?;
            Ok(Summed::Train { aggregate, candidate, figures, largest })
        }
        Sum::Evaluate { aggregate, figures } => {
            let figures = figures.unwrap_or_else(|error| {
                tracing::warn!(%error, "the counts of an evaluation contradict each other");
                None
            });
            Ok(Summed::Evaluate { aggregate, figures })
        }
    }
}

fn read_model(parts: &Parts, machine: &StudyMachine, hash: &Hash) -> Result<Vec<f32>, JobError> {
    let bytes = parts.blobs.read(hash)?;
    Ok(ModelFile::from_bytes(&bytes)?.expect(&machine.study().model_identity())?)
}
