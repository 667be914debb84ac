//! The job of an attempt's end: add the uploads, take the masks off, store what comes out.
//!
//! Doing it twice gives the same files, so after a crash it is simply done again. Memory is one vector, one
//! block of the model (of two models with momentum) and one chunk a thread, whatever the number of sites; two more vectors for
//! a strategy that keeps moments, one more for one that keeps a mean of control variates.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::num::NonZero;

use consilium_memory::trim;
use consilium_rounds::StudyMachine;
use consilium_rounds::sum::{Sum, SumError, SumJob, sum};
use consilium_rounds::{SumRefused, Summed};
use consilium_secagg::layout::CHUNK_BYTES;
use consilium_study::hash::Hash;
use consilium_study::model_file::{ModelFile, ModelFileError, ModelIdentity, ModelReader, Origin};
use consilium_study::name::SiteName;

use crate::parts::Parts;
use crate::uploads::{ReadAt, UploadName, read_chunk};

/// Why a file of a job cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Model(#[from] ModelFileError),
    #[error(transparent)]
    File(#[from] io::Error),
}

/// Why a job failed for reasons that lie here.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error(transparent)]
    Sum(#[from] SumError<ReadError>),
    #[error("an upload cannot be opened: {0}")]
    Open(io::Error),
    #[error("the candidate cannot be written: {0}")]
    Candidate(#[from] io::Error),
}

/// Performs a job and says what came out.
pub(crate) fn perform(parts: &Parts, machine: &StudyMachine, job: &SumJob) -> Result<Summed, SumRefused> {
    // What many small buffers of the uploads have left.
    trim();
    try_perform(parts, machine, job).map_err(|error| {
        tracing::error!(attempt = job.context.attempt.get(), %error, "an opened sum cannot be used");
        SumRefused
    })
}

fn try_perform(parts: &Parts, machine: &StudyMachine, job: &SumJob) -> Result<Summed, JobError> {
    let study = machine.study();
    let mut spools: BTreeMap<&SiteName, File> = BTreeMap::new();
    for (site, &vector) in &job.survivors {
        let attempt = u64::from(job.context.attempt.get());
        spools.insert(
            site,
            parts
                .uploads
                .reader(&UploadName { study: study.hash(), attempt, vector })
                .map_err(JobError::Open)?,
        );
    }
    let read = |site: &SiteName, index: usize| -> Result<Vec<u8>, ReadError> {
        Ok(read_chunk(
            &mut ReadAt { file: &spools[site], offset: (index * CHUNK_BYTES) as u64 },
            CHUNK_BYTES,
        )?)
    };
    let identity = study.model_identity();
    let mut models: BTreeMap<Hash, ModelReader<File>> = BTreeMap::new();
    let model = |hash: &Hash, block: usize| -> Result<Vec<f32>, ReadError> {
        let model = match models.entry(*hash) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(open_model(parts, hash, &identity)?),
        };
        Ok(model.block(block)?)
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    match sum(study, job, threads, read, model)? {
        Sum::Train { aggregate, candidate, figures, largest, moments, control } => {
            let origin =
                Some(Origin { study: study.hash(), round: job.context.round.get(), tuned_from: None });
            let write = |model| -> io::Result<Hash> {
                let mut writer = parts.blobs.writer()?;
                ModelFile { identity: identity.clone(), origin, model }.write_to(&mut writer)?;
                writer.finish()
            };
            let candidate = write(candidate)?;
            let moments = match moments {
                Some([first, second]) => Some([write(first)?, write(second)?]),
                None => None,
            };
            let control = control.map(write).transpose()?;
            Ok(Summed::Train { aggregate, candidate, figures, largest, moments, control })
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

fn open_model(parts: &Parts, model: &Hash, identity: &ModelIdentity) -> Result<ModelReader<File>, ReadError> {
    let model = ModelReader::open(File::open(parts.blobs.path(model))?)?;
    model.identity().expect(identity)?;
    Ok(model)
}
