//! From uploads and opened seeds to a candidate or to figures: the arithmetic of a round.
//!
//! The same function serves the coordinator, `simulate` and an auditor who recomputes a round from evidence:
//! same uploads, same seeds, same starting model, same bytes. Memory is one vector (one for each group, where groups are
//! summed apart; two more for moments, one for a mean of control variates), one block of the model (of two with momentum) and one chunk a thread, whatever the
//! number of sites.

use std::collections::BTreeMap;

use consilium_secagg::accumulator::{Accumulator, OpenedSeeds, WrongChunk};
use consilium_secagg::context::{Context, Purpose};
use consilium_secagg::layout::{BlockKind, Layout};
use consilium_secagg::quantiser::{Aggregate, DecodeError, decode};
use consilium_secagg::ring::Ring;
use consilium_secagg::rotation::largest_rms;
use consilium_study::document::Study;
use consilium_study::hash::{Hash, Hasher};
use consilium_study::name::SiteName;
use minicbor::{Decode, Encode};

use crate::combine::combine;
use crate::control::{Variates, next_mean, reach};
use crate::metrics::{EvaluationCounts, Figures, MalformedCounts, TrainCounts, TrainFigures};
use crate::strategy::{Memory, StrategyError, first_moments, next_block};
use crate::vector::evaluation_shape;

/// Everything a sum needs besides the uploads and, after training, the models that the next one follows from
/// (`context.model`, `before`, `moments` and the mean of `context.control`).
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct SumJob {
    /// The context of the attempt.
    #[n(0)]
    pub context: Context,
    /// Whose uploads to add, in the order of names, each with the Merkle root of its chunks.
    #[n(1)]
    pub survivors: BTreeMap<SiteName, Hash>,
    /// The masks to take off.
    #[n(2)]
    pub seeds: OpenedSeeds,
    /// The model that was adopted before `context.model`, for a strategy with momentum.
    #[n(3)]
    pub before: Option<Hash>,
    /// First and second moment beside `context.model`, for a strategy that keeps them and has any yet; files of models.
    #[n(4)]
    pub moments: Option<[Hash; 2]>,
    /// The control variates that will be in their mean, for a strategy that keeps one; `context.control` names the mean so far.
    #[n(5)]
    pub variates: Option<Variates>,
}

/// What a sum gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Sum {
    /// Of a training round.
    Train {
        /// Plain hash of the sum's words, little-endian; of the groups' one after the other.
        aggregate: Hash,
        /// The candidate, shape `[params]`.
        candidate: Vec<f32>,
        /// What training says about itself.
        figures: TrainFigures,
        /// Largest magnitude of the mean update in each averaged block; of a packed block its largest root mean square.
        largest: Vec<f64>,
        /// First and second moment beside the candidate, of a strategy that keeps them; each of shape `[params]`.
        moments: Option<[Vec<f32>; 2]>,
        /// Mean of control variates beside the candidate, of a strategy that keeps one; shape `[params]`.
        control: Option<Vec<f32>>,
    },
    /// Of an evaluation.
    Evaluate {
        /// Plain hash of the sum's words, little-endian.
        aggregate: Hash,
        /// The figures, or how the counts contradict each other; `Ok(None)` when no case was counted.
        figures: Result<Option<Figures>, MalformedCounts>,
    },
}

/// Why there is no sum. `E` is the error of whoever reads the uploads.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SumError<E> {
    /// An upload cannot be read.
    #[error("the upload of {site} cannot be read: {error}")]
    Read {
        /// Whose.
        site: SiteName,
        /// Why.
        error: E,
    },
    /// An upload of another length than the layout.
    #[error(transparent)]
    Chunk(#[from] WrongChunk),
    /// No survivors' vectors lead to this sum: a site sent other values than the protocol allows.
    #[error("the sum is out of bounds: {0}")]
    Decode(#[from] DecodeError),
    /// The sum gives no model.
    #[error(transparent)]
    Strategy(#[from] StrategyError),
    /// The starting model, or the one before it, cannot be read.
    #[error("the model {} cannot be read: {error}", model.short())]
    Model {
        /// Which.
        model: Hash,
        /// Why.
        error: E,
    },
    /// A survivor that was not selected.
    #[error("{0} is not in the Selection")]
    Stranger(SiteName),
    /// Fewer groups than the study's rule needs.
    #[error("of the groups too few are in the sum")]
    TooFewGroups,
    /// This version publishes no statistics.
    #[error("this version sums no statistics")]
    Statistics,
}

/// Adds the uploads and takes the masks off, on so many `threads`, and reads the sum. `read(site, index)` returns chunk
/// `index` of a site's upload and is asked on each thread by itself; `model(hash, block)` returns one block of a model, and
/// is asked for those that the job names, in the order of blocks, after training only.
pub fn sum<B: AsRef<[u8]>, E: Send>(
    study: &Study,
    job: &SumJob,
    threads: usize,
    read: impl Fn(&SiteName, usize) -> Result<B, E> + Sync,
    mut model: impl FnMut(&Hash, usize) -> Result<Vec<f32>, E>,
) -> Result<Sum, SumError<E>> {
    let layout = &job.context.layout;
    let mut groups: BTreeMap<u16, Vec<&SiteName>> = BTreeMap::new();
    for site in job.survivors.keys() {
        let index = job.context.selection.index_of(site).ok_or_else(|| SumError::Stranger(site.clone()))?;
        groups.entry(job.context.group_of(index)).or_default().push(site);
    }
    let mut hasher = Hasher::new();
    let mut sums = Vec::with_capacity(groups.len());
    for (group, sites) in groups {
        let mut total = Accumulator::new(layout);
        total.add_vectors(sites.len(), threads, |vector, index| {
            read(sites[vector], index).map_err(|error| SumError::Read { site: sites[vector].clone(), error })
        })?;
        total.remove_masks(&job.context, &job.seeds.of_group(&job.context, group), threads);
        let words = total.into_words();
        hash_into(&mut hasher, &words);
        sums.push(decode(&job.context, words)?);
    }
    let aggregate = hasher.finish();
    let decoded = match study.aggregation.groups.filter(|_| job.context.grouping.is_some()) {
        Some(rule) => combine(rule, sums).ok_or(SumError::TooFewGroups)?,
        None => sums.pop().ok_or(SumError::TooFewGroups)?,
    };
    match job.context.purpose {
        Purpose::Train => {
            let (figures, largest) = train_figures(layout, &decoded);
            let (got, want) = (decoded.update.len(), study.model.averaged_len());
            if got != want {
                return Err(StrategyError::WrongLength { got, want }.into());
            }
            let mut next = study.model.spread(decoded.update);
            let mut read = |hash: &Hash, index| {
                model(hash, index).map_err(|error| SumError::Model { model: *hash, error })
            };
            let strategy = study.rounds.strategy;
            let mut moments =
                strategy.keeps_moments().then(|| [(); 2].map(|()| Vec::with_capacity(study.model.len())));
            let mut control = job.variates.as_ref().map(|variates| {
                let (attempt, round) = (job.context.attempt, job.context.round);
                (Vec::with_capacity(study.model.len()), variates.share(attempt), reach(study, round))
            });
            let so_far = job.context.control.as_ref().map(|control| control.mean);
            for (index, block) in study.model.parameters().iter().enumerate() {
                let start = read(&job.context.model, index)?;
                let before = job.before.as_ref().map(|before| read(before, index)).transpose()?;
                let mut of_block = match &job.moments {
                    Some([first, second]) => Some([read(first, index)?, read(second, index)?]),
                    None => first_moments(strategy, block),
                };
                if let Some((control, share, reach)) = &mut control {
                    let before = so_far.as_ref().map(|mean| read(mean, index)).transpose()?;
                    let mean = next_mean(block, *share, *reach, before.as_deref(), &next[block.range()]);
                    if let Some(entry) = mean.iter().position(|entry| !entry.is_finite()) {
                        return Err(StrategyError::NotFinite(block.range().start + entry).into());
                    }
                    control.extend(mean);
                }
                let memory = Memory {
                    before: before.as_deref(),
                    moments: of_block.as_mut().map(|moments| moments.each_mut().map(Vec::as_mut_slice)),
                };
                next_block(strategy, block, &start, memory, &mut next[block.range()])?;
                if let (Some(moments), Some(of_block)) = (&mut moments, of_block) {
                    for (moment, of_block) in moments.iter_mut().zip(of_block) {
                        moment.extend(of_block);
                    }
                }
            }
            let control = control.map(|(control, ..)| control);
            Ok(Sum::Train { aggregate, candidate: next, figures, largest, moments, control })
        }
        Purpose::Evaluate => {
            let counts = EvaluationCounts::from_words(evaluation_shape(study), &decoded.counts);
            Ok(Sum::Evaluate { aggregate, figures: counts.map(|counts| counts.figures()) })
        }
        Purpose::Statistics => Err(SumError::Statistics),
    }
}

/// Hashes words, little-endian, one after the other.
fn hash_into(hasher: &mut Hasher, words: &[u32]) {
    let mut buffer = [0; 1 << 14];
    for part in words.chunks(buffer.len() / 4) {
        let bytes = &mut buffer[..part.len() * 4];
        for (word, bytes) in part.iter().zip(bytes.as_chunks_mut::<4>().0) {
            *bytes = word.to_le_bytes();
        }
        hasher.update(bytes);
    }
}

fn train_figures(layout: &Layout, aggregate: &Aggregate) -> (TrainFigures, Vec<f64>) {
    let mut rest = aggregate.update.as_slice();
    let mut square = 0.0;
    let mut largest = Vec::with_capacity(layout.blocks().len());
    for block in layout.blocks() {
        let (part, after) = rest.split_at(block.length as usize);
        let is_update = block.kind == BlockKind::Update;
        largest.push(if is_update && layout.ring() == Ring::Packed {
            largest_rms(part)
        } else {
            part.iter().fold(0.0, |largest: f64, entry| largest.max(f64::from(entry.abs())))
        });
        if is_update {
            square += part.iter().map(|entry| f64::from(*entry).powi(2)).sum::<f64>();
        }
        rest = after;
    }
    let loss = TrainCounts::from_words(&aggregate.counts)
        .expect("the layout of a training round has room for its counts")
        .loss(aggregate.weight);
    let figures = TrainFigures {
        loss,
        weight: aggregate.weight,
        clipped: aggregate.clipped,
        saturated: aggregate.saturated.iter().copied().map(u64::from).sum(),
        update_norm: square.sqrt(),
    };
    (figures, largest)
}
