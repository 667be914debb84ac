//! Which device trains a round, and what a GPU asks for that the processor does not.
//!
//! On the processor an update follows from round, model and cases bit for bit, so it may be trained as often as it is asked
//! for. On a GPU each training gives another one, and the difference of two that are opened says something of the cases. So
//! a site with a GPU keeps what it trained last for a study, in memory, and gives the same again in whatever attempt asks for
//! it. Where that is gone, because the vault was started anew, it sits out a round for which it has masked an update before.

use std::collections::BTreeMap;

use consilium_learning::{DeviceError, TrainError};
use consilium_rounds::reason::Withdrawal;
use consilium_secagg::numbering::RoundNumber;
use consilium_study::document::Study;
use consilium_study::forecast::Forecast;
use consilium_study::hash::{Hash, Hasher};
use zeroize::Zeroizing;

use super::work::Halt;
use crate::config::OnGpuLoss;
use crate::contribution::{LocalUpdate, local_update};
use crate::gpu::{Accelerator, Training, Watch};

/// Trains on the device of `site.toml`.
pub(super) struct Trainer {
    gpu: Option<Box<dyn Accelerator>>,
    on_loss: OnGpuLoss,
    /// By study, where there is a GPU.
    kept: BTreeMap<Hash, Kept>,
}

/// What was trained last.
struct Kept {
    round: RoundNumber,
    start: Hash,
    /// Of what was added to each gradient.
    correction: Option<Hash>,
    update: Zeroizing<Vec<f32>>,
    own: Vec<f32>,
    mean_loss: f64,
}

impl Trainer {
    /// Without a GPU, on the processor.
    pub(super) fn new(gpu: Option<Box<dyn Accelerator>>, on_loss: OnGpuLoss) -> Self {
        Self { gpu, on_loss, kept: BTreeMap::new() }
    }

    /// The study is over.
    pub(super) fn forget(&mut self, study: &Hash) {
        self.kept.remove(study);
    }

    /// What training from the model `start` gives. `given` says whether an update from that model may have left this site
    /// already, and be in a sum that was opened.
    pub(super) fn update(
        &mut self,
        training: Training<'_>,
        start: Hash,
        given: bool,
        watch: Watch<'_>,
    ) -> Result<LocalUpdate, Halt> {
        let Some(gpu) = &mut self.gpu else { return on_processor(training, watch) };
        let Training { study, round, .. } = training;
        let id = study.hash();
        let correction = training.correction.map(hash_of);
        let is_same = |kept: &&Kept| (kept.round, kept.start, kept.correction) == (round, start, correction);
        if let Some(kept) = self.kept.get(&id).filter(is_same) {
            return Ok(kept.again());
        }
        if given {
            let words = format!(
                "sits out: what was trained here from model {} has left this site masked and is gone since the agent was \
                 started anew; a second training on a GPU would give another update",
                start.short()
            );
            return Err(Halt::SitOut(Withdrawal::Unrepeatable, words));
        }
        let update = match gpu.train(training, watch) {
            Ok(trained) => LocalUpdate::of(study, training.start, trained),
            Err(TrainError::Device(error)) => {
                let cause = in_words(error, study);
                tracing::warn!(study = id.short(), cause, "the GPU did not train");
                match self.on_loss {
                    OnGpuLoss::Cpu => on_processor(training, watch)?,
                    OnGpuLoss::DropOut => {
                        let words = format!("sits out: {cause}; it is looked for again in the next attempt");
                        return Err(Halt::SitOut(Withdrawal::NoDevice, words));
                    }
                }
            }
            Err(error) => return Err(halted(study, &error)),
        };
        self.kept.insert(id, Kept::of((round, start, correction), &update));
        Ok(update)
    }
}

impl Kept {
    fn of(
        (round, start, correction): (RoundNumber, Hash, Option<Hash>),
        LocalUpdate { update, own, mean_loss }: &LocalUpdate,
    ) -> Self {
        let (update, own) = (Zeroizing::new(update.clone()), own.clone());
        Self { round, start, correction, update, own, mean_loss: *mean_loss }
    }

    fn again(&self) -> LocalUpdate {
        LocalUpdate { update: self.update.to_vec(), own: self.own.clone(), mean_loss: self.mean_loss }
    }
}

fn hash_of(entries: &[f32]) -> Hash {
    let mut hasher = Hasher::labelled("correction");
    for entry in entries {
        hasher.update(&entry.to_le_bytes());
    }
    hasher.finish()
}

fn on_processor(training: Training<'_>, watch: Watch<'_>) -> Result<LocalUpdate, Halt> {
    let Training { study, site, round, start, cases, correction } = training;
    local_update(study, site, round, start, correction, cases, &mut |at| watch(at.step, at.steps))
        .map_err(|error| halted(study, &error))
}

fn halted(study: &Study, error: &TrainError) -> Halt {
    if matches!(error, TrainError::Stopped { .. }) {
        return Halt::Stopped;
    }
    tracing::warn!(study = study.hash().short(), %error, "training gave no model");
    Halt::Withdraw(Withdrawal::TrainingFailed)
}

/// Why the GPU did not train; where its memory was too small, with what the study needs.
fn in_words(error: DeviceError, study: &Study) -> String {
    match error {
        DeviceError::OutOfMemory => {
            format!("{error}: the forecast for a batch of this study is {}", Forecast::of(study).site_memory)
        }
        error => error.to_string(),
    }
}
