//! Plain averaging of the updates that a simulation sees, to compare a masked sum with.
//!
//! Nothing here can be encoded or sent: the types implement neither, and live for one comparison.

use std::collections::BTreeMap;

use consilium_rounds::combine::combine_means;
use consilium_rounds::metrics::TrainCounts;
use consilium_rounds::sum::SumJob;
use consilium_secagg::context::Context;
use consilium_secagg::layout::{BlockKind, Layout};
use consilium_secagg::quantiser::{ClippedUpdate, RoundingKey, decode, encode};
use consilium_secagg::ring::add_plain;
use consilium_site_agent::contribution::LocalUpdate;
use consilium_study::document::Study;
use consilium_study::hash::{Hash, Hasher};
use consilium_study::name::SiteName;

/// What the sum of a training round has to be.
pub(super) struct PlainSum {
    /// Hash of the plain sum of the sites' integers, as the engine hashes an opened sum.
    pub(super) aggregate: Hash,
    /// Distance of the mean in it to FedAvg in floating point (McMahan et al. 2017), or of the combination of groups to that
    /// of their means in floating point, over the same clipped updates, relative to the latter's L2 norm. Normalisation statistics are not in it: they have ranges of
    /// their own.
    pub(super) relative_error: f64,
}

/// Averages the survivors' updates without any masks. `None` when one of them is not at hand.
pub(super) fn average<'u>(
    study: &Study,
    job: &SumJob,
    update: impl Fn(&SiteName) -> Option<&'u LocalUpdate>,
    weight: impl Fn(&SiteName) -> Option<u32>,
) -> Option<PlainSum> {
    let context = &job.context;
    let mut groups: BTreeMap<u16, Group> = BTreeMap::new();
    for site in job.survivors.keys() {
        let group =
            groups.entry(context.group_of(context.selection.index_of(site)?)).or_insert_with(|| Group {
                words: vec![0; context.layout.words()],
                mean: vec![0.0; context.layout.entries()],
                weight: 0.0,
            });
        let (local, weight) = (update(site)?, weight(site)?);
        let clipped = ClippedUpdate::clip(local.update.clone(), &context.layout, context.clip_norm).ok()?;
        for (sum, entry) in group.mean.iter_mut().zip(clipped.entries()) {
            *sum += f64::from(weight) * f64::from(*entry);
        }
        group.weight += f64::from(weight);
        let contribution = contribution(study, site, context, weight, clipped, local.mean_loss)?;
        add_plain(&context.layout, &mut group.words, &contribution);
    }
    let mut hasher = Hasher::new();
    let (mut opened, mut plain) = (Vec::new(), Vec::new());
    for Group { words, mean, weight } in groups.into_values() {
        hash_into(&mut hasher, &words);
        opened.push(decode(context, words).ok()?.update);
        plain.push(mean.into_iter().map(|sum| (sum / weight) as f32).collect::<Vec<_>>());
    }
    let joined = |mut means: Vec<Vec<f32>>| match study.aggregation.groups {
        Some(groups) => combine_means(groups, means),
        None => means.pop(),
    };
    let relative_error = relative_error(&context.layout, &joined(opened)?, &joined(plain)?);
    Some(PlainSum { aggregate: hasher.finish(), relative_error })
}

/// A group's sum, in integers and in floating point.
struct Group {
    words: Vec<u32>,
    mean: Vec<f64>,
    weight: f64,
}

fn contribution(
    study: &Study,
    site: &SiteName,
    context: &Context,
    weight: u32,
    clipped: ClippedUpdate,
    loss: f64,
) -> Option<Vec<u32>> {
    let rounding = RoundingKey::new(study.seed, site, context.round);
    encode(context, weight, clipped, &TrainCounts::new(loss, weight).to_words(), &rounding).ok()
}

/// L2 norm of the difference by the L2 norm of `plain`, over trained parameters. Zero between two zeros.
fn relative_error(layout: &Layout, opened: &[f32], plain: &[f32]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    let mut at = 0;
    for block in layout.blocks() {
        let range = at..at + block.length as usize;
        at = range.end;
        if block.kind != BlockKind::Update {
            continue;
        }
        for (opened, plain) in opened[range.clone()].iter().zip(&plain[range]) {
            difference += (f64::from(*opened) - f64::from(*plain)).powi(2);
            norm += f64::from(*plain).powi(2);
        }
    }
    if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}

/// Hashes words, little-endian, one after the other.
fn hash_into(hasher: &mut Hasher, words: &[u32]) {
    for part in words.chunks(1 << 14) {
        hasher.update(&part.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
    }
}
