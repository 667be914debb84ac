use proptest::prelude::*;

use super::*;
use crate::context::ContextFields;
use crate::federation::{Federation, name};
use crate::layout::Layout;
use crate::numbering::{Attempt, RoundNumber};
use crate::quantiser::{Aggregate, ClippedUpdate, decode, encode};
use crate::ring::{Ring, add_plain};
use crate::rotation::{lanes, largest_rms};
use crate::vectors::verify::context_for;

const CAP: u32 = 64;

fn block(kind: BlockKind, length: u32, range_exponent: i16) -> Block {
    Block { kind, length, range_exponent }
}

fn layout(blocks: Vec<Block>) -> Layout {
    Layout::new(blocks, 1).unwrap().in_ring(Ring::Packed).unwrap()
}

fn context(sites: usize, blocks: Vec<Block>) -> Context {
    context_for(&layout(blocks), sites, ClipNorm::new(1.0).unwrap(), CAP)
}

fn one_block(sites: usize, length: usize, range_exponent: i16) -> Context {
    context(sites, vec![block(BlockKind::Update, length as u32, range_exponent)])
}

/// Numbers that look normal enough, from a hash, of a given L2 norm.
fn update(salt: usize, length: usize, norm: f64) -> Vec<f32> {
    let key = RoundingKey::new(99, &name(salt), RoundNumber::new(7).unwrap());
    let mut bytes = vec![0; length * 8];
    key.stream().write_keystream(&mut bytes);
    let raw: Vec<f64> = bytes
        .chunks_exact(8)
        .map(|some| some.iter().map(|byte| f64::from(*byte) - 127.5).sum::<f64>())
        .collect();
    let scale = norm / raw.iter().map(|entry| entry * entry).sum::<f64>().sqrt();
    raw.iter().map(|entry| (entry * scale) as f32).collect()
}

fn vector(context: &Context, site: usize, weight: u32, update: &[f32]) -> Vec<u32> {
    let clipped = ClippedUpdate::clip(update.to_vec(), &context.layout, context.clip_norm).unwrap();
    let key = RoundingKey::new(1, &name(site), context.round);
    encode(context, weight, clipped, &[5], &key).unwrap()
}

fn sum(context: &Context, vectors: impl Iterator<Item = Vec<u32>>) -> Vec<u32> {
    let mut total = vec![0; context.layout.words()];
    vectors.for_each(|vector| add_plain(&context.layout, &mut total, &vector));
    total
}

fn aggregate(context: &Context, updates: &[Vec<f32>], weights: &[u32]) -> Aggregate {
    let vectors = updates
        .iter()
        .zip(weights)
        .enumerate()
        .map(|(site, (update, weight))| vector(context, site, *weight, update));
    decode(context, sum(context, vectors)).unwrap()
}

/// The weighted mean in floats, after the same clipping.
fn plain(context: &Context, updates: &[Vec<f32>], weights: &[u32]) -> Vec<f64> {
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let mut mean = vec![0.0; updates[0].len()];
    for (update, weight) in updates.iter().zip(weights) {
        let clipped = ClippedUpdate::clip(update.clone(), &context.layout, context.clip_norm).unwrap();
        for (mean, entry) in mean.iter_mut().zip(clipped.entries()) {
            *mean += f64::from(*entry) * f64::from(*weight) / total;
        }
    }
    mean
}

fn square(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.map(|number| number * number).sum()
}

/// Squared L2 distances to the plain mean: of the aggregate, and of zero.
fn squares(got: &Aggregate, plain: &[f64]) -> (f64, f64) {
    let distance = square(plain.iter().zip(&got.update).map(|(plain, got)| plain - f64::from(*got)));
    (distance, square(plain.iter().copied()))
}

/// One step of a mean of weights that sum to `total`.
fn step(context: &Context, total: f64) -> f64 {
    let limit = f64::from(lane_limit(context.selection.len()));
    context.layout.blocks()[0].range() * f64::from(CAP) / (limit * total)
}

#[test]
fn lanes_are_as_wide_as_the_sites_allow() {
    for sites in 3..=200 {
        let limit = lane_limit(sites) as usize;
        assert!(sites * limit <= 0x7fff && sites * (limit + 1) > 0x7fff, "{sites}");
        if sites.is_power_of_two() {
            assert_eq!(limit, (1 << (15 - sites.trailing_zeros())) - 1, "16 − log2 n bits");
        }
    }
}

/// Every lane of every site at its limit, upwards and downwards: each sum is what it would be in wide integers.
#[test]
fn nothing_wraps_at_the_edge() {
    for sites in [3, 4, 5, 8, 10, 100, 127, 128, 200] {
        let limit = i64::from(lane_limit(sites));
        let context = one_block(sites, 300, -30);
        for peak in [0.9f32, -0.9] {
            // One entry is spread over all lanes, far beyond the range.
            let mut spike = vec![0.0; 300];
            spike[17] = peak;
            let total = sum(&context, (0..sites).map(|site| vector(&context, site, CAP, &spike)));
            let words = &total[context.layout.exact_words()..];
            let mut sums = vec![Wrapping(0); 512];
            unpack(words, &mut sums);
            assert!(
                sums.iter().all(|sum| i64::from(sum.0).abs() == limit * i64::from(sites as u8)),
                "{sites} sites"
            );
            assert!(sums.iter().any(|sum| sum.0 > 0) && sums.iter().any(|sum| sum.0 < 0));
            let got = decode(&context, total).unwrap();
            assert_eq!(got.saturated, [512 * sites as u32], "every lane is counted");
            assert_eq!((got.counts, got.weight), (vec![5 * sites as u32], CAP * sites as u32));
            // The direction is right, the length is the range's.
            let want = f64::from(peak.signum()) * (-30f64).exp2() * 512f64.sqrt();
            assert!((f64::from(got.update[17]) / want - 1.0).abs() < 1e-6);
            assert!(got.update.iter().enumerate().all(|(at, entry)| at == 17 || entry.abs() < 1e-12));
        }
    }
}

#[test]
fn the_error_stays_within_the_formula() {
    const ENTRIES: usize = 100_000;
    for (sites, weights) in [(4, vec![64, 32, 32, 16]), (10, vec![64; 10]), (100, vec![32; 100])] {
        let common = update(1000, ENTRIES, 0.45);
        let updates: Vec<Vec<f32>> = (0..sites)
            .map(|site| common.iter().zip(update(site, ENTRIES, 0.2)).map(|(a, b)| a + b).collect())
            .collect();
        let context = one_block(sites, ENTRIES, first_range_exponent(ClipNorm::new(1.0).unwrap(), ENTRIES));
        let got = aggregate(&context, &updates, &weights);
        assert_eq!(got.saturated, [0]);
        let total = weights.iter().map(|weight| f64::from(*weight)).sum();
        let (distance, _) = squares(&got, &plain(&context, &updates, &weights));
        let step = step(&context, total);
        // Padding is rounded too, and what falls on it is thrown away.
        let expected = sites as f64 * ENTRIES as f64 * step * step / 4.0;
        assert!(distance < expected, "{sites} sites: {distance:e} against {expected:e}");
        assert!(distance > expected / 2.0, "the formula is not vacuous: {distance:e} against {expected:e}");
    }
}

/// Squared relative error of a round whose ranges follow from a round like it, with sites that agree: the design's aim is
/// 3e-7 for ten sites and 3e-6 for a hundred. Ranges are powers of two, so what a range has to spare depends on the
/// length of the update: all of an octave are tried.
#[test]
fn the_mean_square_error_meets_its_aims() {
    const ENTRIES: usize = 50_000;
    for (sites, aim) in [(4, 1.2e-7), (10, 3e-7), (100, 3e-6)] {
        let clip_norm = ClipNorm::new(1.0).unwrap();
        let weights = vec![CAP; sites];
        let mut seen = Vec::new();
        for norm in [0.25, 0.3, 0.35, 0.42, 0.49] {
            let updates: Vec<Vec<f32>> = (0..sites)
                .map(|site| {
                    update(1000, ENTRIES, norm)
                        .iter()
                        .zip(update(site, ENTRIES, norm / 4.0))
                        .map(|(a, b)| a + b)
                        .collect()
                })
                .collect();
            let before: Vec<f32> = plain(&one_block(sites, ENTRIES, 0), &updates, &weights)
                .iter()
                .map(|mean| *mean as f32)
                .collect();
            let context = one_block(sites, ENTRIES, range_exponent_after(clip_norm, largest_rms(&before), 0));
            let got = aggregate(&context, &updates, &weights);
            let (distance, length) = squares(&got, &plain(&context, &updates, &weights));
            seen.push(distance / length);
            assert!(!is_crowded(got.saturated[0].into(), ENTRIES, sites), "{:?}", got.saturated);
        }
        println!("{sites} sites: {seen:?}, aim {aim:e}");
        assert!(seen.iter().all(|error| *error < aim), "{sites} sites: {seen:?}");
    }
}

#[test]
fn an_uneven_update_is_as_exact_as_an_even_one() {
    // All of the length in a few entries, which the 32-bit ring would need a range of its own for.
    let length = 1 << 14;
    let mut spiky = vec![0.0; length];
    for at in 0..16 {
        spiky[at * 1000] = 0.2;
    }
    let updates = vec![spiky; 4];
    let context = one_block(4, length, first_range_exponent(ClipNorm::new(1.0).unwrap(), length));
    let got = aggregate(&context, &updates, &[CAP; 4]);
    let (distance, norm) = squares(&got, &plain(&context, &updates, &[CAP; 4]));
    assert!(got.saturated == [0] && distance / norm < 1e-6, "{:e}", distance / norm);
}

#[test]
fn statistics_stay_in_words_of_their_own() {
    let blocks = vec![
        block(BlockKind::Update, 2, 0),
        block(BlockKind::Statistics, 3, 10),
        block(BlockKind::Update, 300, 0),
    ];
    let context = context(3, blocks);
    let mut update = vec![0.0; 305];
    update[..7].copy_from_slice(&[0.3, 0.4, 500.0, -7.0, 0.25, 0.5, -0.25]);
    let got = aggregate(&context, &vec![update.clone(); 3], &[64, 32, 16]);
    for (got, want) in got.update[2..5].iter().zip(&update[2..5]) {
        assert!((got - want).abs() < 1e-4, "{got} instead of {want}");
    }
    for at in [0, 1, 5, 6, 7, 304] {
        // The errors of 256 or 512 lanes.
        assert!(
            (got.update[at] - update[at]).abs() < 2e-3,
            "entry {at}: {} instead of {}",
            got.update[at],
            update[at]
        );
    }
    assert_eq!((got.saturated, got.clipped), (vec![0, 0, 0], 0));
}

#[test]
fn a_new_attempt_repeats_the_same_integers_and_a_new_round_does_not() {
    let context = one_block(4, 5000, -4);
    let update = update(3, 5000, 0.9);
    let with = |change: &dyn Fn(&mut ContextFields)| {
        let mut fields = context.clone().into_fields();
        change(&mut fields);
        vector(&Context::new(fields).unwrap(), 0, CAP, &update)
    };
    let first = with(&|_| ());
    assert_eq!(first, with(&|fields| fields.attempt = Attempt::new(9).unwrap()));
    assert_ne!(first, with(&|fields| fields.round = RoundNumber::new(2).unwrap()));
    // Another round rotates in another way too, not only rounds: the signs of the lanes differ in half the places.
    let signs = |round| {
        let mut fields = context.clone().into_fields();
        fields.round = RoundNumber::new(round).unwrap();
        Signs::of(&fields).next(1024).to_vec()
    };
    let differ: u32 = signs(1).iter().zip(signs(2)).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert!((400..624).contains(&differ), "{differ}");
}

#[test]
fn the_vector_takes_two_bytes_an_entry() {
    for length in [100_000u32, 421_642, 1_000_000, 11_169_152] {
        let layout = layout(vec![block(BlockKind::Update, length, 0)]);
        let bytes = layout.words() as f64 * 4.0 / f64::from(length);
        assert!(bytes < 2.0 * 1.02, "{bytes} bytes an entry for {length}");
        assert_eq!(layout.words(), 5 + lanes(length as usize) / 2 - 1);
    }
}

#[test]
fn ranges_follow_the_rule() {
    let bound = ClipNorm::new(10.0).unwrap();
    // 16 · 10 / 1000 = 0.16.
    assert_eq!(first_range_exponent(bound, 1_000_000), -2);
    assert_eq!(first_range_exponent(bound, 1), 4, "never above the clip norm");
    // 6 · 0.001 = 0.006, below 2^-7 = 0.0078.
    assert_eq!(range_exponent_after(bound, 0.001, 0), -7);
    assert_eq!(range_exponent_after(bound, 0.001, 2), -5);
    assert_eq!(range_exponent_after(bound, 5.0, 12), 4);
    assert_eq!(range_exponent_after(bound, 0.0, 0), 4 - 40);
    assert_eq!(range_exponent_after(bound, f64::NAN, 0), 4);
    assert!(!is_crowded(10, 1 << 16, 10) && is_crowded(11, 1 << 16, 10));
}

/// Whole machines, with one site that drops out: masks cancel lane by lane, and what is opened is the plain sum.
#[test]
fn a_federation_opens_the_plain_sum() {
    let blocks = vec![block(BlockKind::Update, 700, -3), block(BlockKind::Statistics, 6, 4)];
    let layout = layout(blocks);
    let mut federation = Federation::new(4, &layout);
    let signed = federation.sign(federation.fields(3));
    let context = signed.claim().unwrap();
    let updates: Vec<_> = (0..4).map(|site| update(site, 706, 0.7)).collect();
    let mut vectors: Vec<_> =
        updates.iter().enumerate().map(|(site, update)| vector(&context, site, 4, update)).collect();
    // A site that keeps to nothing: what it sends stays in its own lanes.
    vectors[1][context.layout.exact_words()..].fill(0xffff_ffff);
    let phase = federation.collect(&signed, &vectors);
    let closed = phase.close(&federation.pin, 3).map_err(|(_, reason)| reason).unwrap();
    let opening = federation.open(closed);
    let total = federation.sum(&context, &opening.names(), &opening.recover().unwrap());
    assert!(total == sum(&context, vectors.into_iter()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the updates, weights and range: without saturation the mean of a block is within `n` steps a lane, in L2;
    /// with saturation no entry of the sum is beyond what all sites together may send.
    #[test]
    fn sums_are_means_or_saturate(
        entries in proptest::collection::vec(proptest::collection::vec(-1.0f32..1.0, 40), 5),
        weights in proptest::collection::vec(1u32..=CAP, 5),
        range in -9i16..=0,
    ) {
        let context = one_block(5, 40, range);
        let got = aggregate(&context, &entries, &weights);
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let (distance, _) = squares(&got, &plain(&context, &entries, &weights));
        let step = step(&context, total);
        if got.saturated == [0] {
            prop_assert!(distance.sqrt() < 5.0 * step * 256f64.sqrt() + 1e-6, "{distance:e} with steps of {step:e}");
        }
        let most = 5.0 * f64::from(lane_limit(5)) * step * 256f64.sqrt();
        prop_assert!(square(got.update.iter().map(|entry| f64::from(*entry))).sqrt() <= most * 1.000_001);
    }

    /// Sums of whatever lanes decode without panic, and to finite numbers.
    #[test]
    fn every_sum_of_lanes_is_read(words in proptest::collection::vec(any::<u32>(), 128), weight in 1u32..=3 * CAP) {
        let context = one_block(3, 200, 0);
        let mut sum = vec![0; context.layout.words()];
        let exact = context.layout.exact_words();
        sum[exact..].copy_from_slice(&words);
        sum[context.layout.weight()] = weight;
        prop_assert!(decode(&context, sum).unwrap().update.iter().all(|entry| entry.is_finite()));
    }
}
