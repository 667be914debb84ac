//! Which integers a round sums, and what of that is the same at every party of a study.

use std::collections::BTreeMap;

use consilium_secagg::context::Purpose;
use consilium_secagg::layout::{Block, BlockKind, InvalidLayout, Layout};
use consilium_secagg::packed::{first_range_exponent, range_exponent_after};
use consilium_secagg::pin::StudyPin;
use consilium_secagg::quantiser::{ClipNorm, range_exponent, update_range_exponent};
use consilium_secagg::ring::Ring;
use consilium_study::document::{Plan, Study};
use consilium_study::graph::ParameterSpec;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::VerifyingKey;

use crate::metrics::{EvaluationShape, TrainCounts};

/// Normalisation statistics are no gradients and know no clip norm: their range starts at two to this power.
const FIRST_STATISTICS_EXPONENT: i16 = 10;

/// The exponents of the ranges of a study's averaged blocks, in block order; they travel in each context.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Ranges(#[n(0)] Vec<i16>);

impl Ranges {
    /// Ranges of the first round: the clip norm for parameters, or what it leaves to each entry of a packed update.
    pub fn first(study: &Study) -> Self {
        let trained = study.model.averaged().filter(|block| block.is_trainable());
        let clip = match ring(study) {
            Ring::Words => update_range_exponent(clip_norm(study), None),
            Ring::Packed => first_range_exponent(clip_norm(study), trained.map(ParameterSpec::len).sum()),
        };
        let of = |trainable: bool| if trainable { clip } else { FIRST_STATISTICS_EXPONENT };
        Self(study.model.averaged().map(|block| of(block.is_trainable())).collect())
    }

    /// Ranges after an aggregate whose largest magnitude in each block was `largest`. Of packed blocks that is the root
    /// mean square of a piece, of which the heaviest site sends the `share`; their ranges are doubled `spread` times.
    #[must_use]
    pub fn after(study: &Study, largest: &[f64], share: f64, spread: u8) -> Self {
        let blocks = study.model.averaged().zip(largest);
        let exponents = blocks.map(|(block, largest)| {
            if block.is_trainable() {
                match ring(study) {
                    Ring::Words => update_range_exponent(clip_norm(study), Some(*largest)),
                    Ring::Packed => range_exponent_after(clip_norm(study), share * largest, spread),
                }
            } else {
                // The rule of the clip norm, with the first range in its place.
                let first = FIRST_STATISTICS_EXPONENT;
                range_exponent(16.0 * largest).clamp(first - 20, first)
            }
        });
        Self(exponents.collect())
    }
}

fn clip_norm(study: &Study) -> ClipNorm {
    ClipNorm::new(study.aggregation.clip_norm.get()).expect("a study's clip norm is finite and above zero")
}

/// How the updates of a study are summed.
pub(crate) fn ring(study: &Study) -> Ring {
    Ring::from_bits(study.aggregation.ring_bits)
        .expect("the check of a study admits only rings that there are")
}

/// The layout of a training round: `[weight | update blocks | saturated, clipped | training loss]`, the update blocks
/// behind the rest where they are packed. Only averaged blocks of the model are in it.
pub fn train_layout(study: &Study, ranges: &Ranges) -> Result<Layout, InvalidLayout> {
    let blocks = study.model.averaged().zip(&ranges.0).map(|(block, exponent)| Block {
        kind: if block.is_trainable() { BlockKind::Update } else { BlockKind::Statistics },
        length: u32::try_from(block.len()).unwrap_or(u32::MAX),
        range_exponent: *exponent,
    });
    Layout::new(blocks.collect(), TrainCounts::WORDS as u32)?.in_ring(ring(study))
}

/// The layout of an evaluation: `[weight | counts]`. Every site weighs 1.
pub fn evaluate_layout(study: &Study) -> Layout {
    Layout::of_counts(evaluation_shape(study).words() as u32)
}

/// What a study counts in an evaluation.
pub fn evaluation_shape(study: &Plan) -> EvaluationShape {
    let classes = u16::try_from(study.classes()).unwrap_or(u16::MAX);
    let bins = u16::try_from(study.evaluation.bins).unwrap_or(u16::MAX);
    EvaluationShape::new(classes, bins, study.evaluation.operating_point.get())
        .expect("the check of a study admits only countable evaluations")
        .of_task(study.data.task)
        .calibrated(study.evaluation.calibrate)
        .in_range(study.data.range)
}

/// A study that no party can take part in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpinnable {
    /// The roster does not have a site of the study.
    #[error("{0} is named in the study and not in the roster")]
    UnknownSite(SiteName),
    /// The model does not fit the vector.
    #[error("the model does not fit a summed vector: {0}")]
    Layout(#[from] InvalidLayout),
}

/// What the study pins, the same at the coordinator, at every site and for an auditor. `roster` is the hash of
/// the roster that the study goes with, `key_of` looks a site up in it.
pub fn study_pin(
    study: &Study,
    roster: Hash,
    coordinator: VerifyingKey,
    key_of: impl Fn(&SiteName) -> Option<VerifyingKey>,
) -> Result<StudyPin, Unpinnable> {
    let keyed = |site: &SiteName| match key_of(site) {
        Some(key) => Ok((site.clone(), key)),
        None => Err(Unpinnable::UnknownSite(site.clone())),
    };
    Ok(StudyPin {
        study: study.hash(),
        roster,
        coordinator,
        sites: study.sites.iter().map(keyed).collect::<Result<_, _>>()?,
        rounds: study.rounds.count,
        initial_model: study.initial_model(),
        min_honest: u16::try_from(study.aggregation.min_honest).unwrap_or(u16::MAX),
        clip_norm: clip_norm(study),
        weight_cap: study.aggregation.weight_cap,
        noise: 0,
        groups: study.aggregation.groups.map_or(1, |groups| u16::try_from(groups.count).unwrap_or(u16::MAX)),
        control: study.rounds.strategy.keeps_control(),
        layouts: BTreeMap::from([
            (Purpose::Train, train_layout(study, &Ranges::first(study))?),
            (Purpose::Evaluate, evaluate_layout(study)),
        ]),
    })
}
