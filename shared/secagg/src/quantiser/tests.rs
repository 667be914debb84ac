use proptest::prelude::*;

use super::*;
use crate::context::ContextFields;
use crate::federation::{Federation, name};
use crate::layout::{Block, BlockKind, Layout};

fn block(length: u32, range_exponent: i16) -> Block {
    Block { kind: BlockKind::Update, length, range_exponent }
}

/// A context for `sites` sites with these blocks.
fn context(sites: usize, blocks: Vec<Block>, counts: u32, weight_cap: u32) -> Context {
    let layout = Layout::new(blocks, counts).unwrap();
    let federation = Federation::new(sites, &layout);
    Context::new(ContextFields { weight_cap, ..federation.fields(1) }).unwrap()
}

fn round(number: u32) -> RoundNumber {
    RoundNumber::new(number).unwrap()
}

/// Numbers that look normal enough, from a hash.
fn update(site: usize, length: usize, norm: f64) -> Vec<f32> {
    let key = RoundingKey::new(99, &name(site), round(7));
    let mut bytes = vec![0; length * 8];
    key.stream().write_keystream(&mut bytes);
    let raw: Vec<f64> = bytes
        .chunks_exact(8)
        .map(|some| some.iter().map(|byte| f64::from(*byte) - 127.5).sum::<f64>())
        .collect();
    let scale = norm / raw.iter().map(|entry| entry * entry).sum::<f64>().sqrt();
    raw.iter().map(|entry| (entry * scale) as f32).collect()
}

fn wrapping_sum(vectors: &[Vec<u32>]) -> Vec<u32> {
    let mut sum = vec![0u32; vectors[0].len()];
    for vector in vectors {
        for (total, word) in sum.iter_mut().zip(vector) {
            *total = total.wrapping_add(*word);
        }
    }
    sum
}

/// Encodes one update per site and decodes the sum.
fn aggregate(context: &Context, updates: &[Vec<f32>], weights: &[u32]) -> Aggregate {
    let vectors: Vec<Vec<u32>> = updates
        .iter()
        .zip(weights)
        .enumerate()
        .map(|(site, (update, weight))| {
            let clipped = ClippedUpdate::clip(update.clone(), &context.layout, context.clip_norm).unwrap();
            let key = RoundingKey::new(1, &name(site), context.round);
            encode(context, *weight, clipped, &[], &key).unwrap()
        })
        .collect();
    decode(context, wrapping_sum(&vectors)).unwrap()
}

/// Relative L2 distance to the weighted mean in floats, after the same clipping.
fn relative_error(context: &Context, updates: &[Vec<f32>], weights: &[u32]) -> f64 {
    let got = aggregate(context, updates, weights);
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let mut plain = vec![0.0; updates[0].len()];
    for (update, weight) in updates.iter().zip(weights) {
        let clipped = ClippedUpdate::clip(update.clone(), &context.layout, context.clip_norm).unwrap();
        for (mean, entry) in plain.iter_mut().zip(clipped.entries()) {
            *mean += f64::from(*entry) * f64::from(*weight) / total;
        }
    }
    let distance =
        plain.iter().zip(&got.update).map(|(plain, got)| (plain - f64::from(*got)).powi(2)).sum::<f64>();
    (distance / plain.iter().map(|entry| entry * entry).sum::<f64>()).sqrt()
}

/// The error that the formula of the quantiser predicts: each site's stochastic rounding has at most the variance of a
/// quarter step, and the step of the mean is `range · w_cap / (2^(bits−1) · Σw)`.
fn predicted_error(context: &Context, entries: usize, weights: &[u32], norm_of_mean: f64) -> f64 {
    let sites = context.selection.len();
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let range = context.layout.blocks()[0].range();
    let step = range * f64::from(context.weight_cap) / (f64::from(entry_bits(sites) - 1).exp2() * total);
    step * (sites as f64 * entries as f64 / 4.0).sqrt() / norm_of_mean
}

#[test]
fn the_error_stays_within_the_formula_and_below_a_hundred_thousandth() {
    // C/norm at most 2, the largest weight at most twice the mean, up to eight sites (design, decision 5).
    const ENTRIES: usize = 200_000;
    for (sites, weights) in [(4, vec![64, 32, 32, 16]), (8, vec![64, 64, 32, 32, 32, 16, 64, 32])] {
        let range = range_exponent(1.0);
        let context = context(sites, vec![block(ENTRIES as u32, range)], 0, 64);
        // Sites that agree in direction, as trained models do: one common part and one of their own.
        let common = update(100, ENTRIES, 0.45);
        let updates: Vec<Vec<f32>> = (0..sites)
            .map(|site| common.iter().zip(update(site, ENTRIES, 0.2)).map(|(a, b)| a + b).collect())
            .collect();
        let error = relative_error(&context, &updates, &weights);
        let predicted = predicted_error(&context, ENTRIES, &weights, 0.45);
        assert!(error < predicted * 1.1, "{error:e} against {predicted:e}");
        assert!(error > predicted * 0.2, "the formula is not vacuous: {error:e} against {predicted:e}");
        assert!(error < 1e-5, "{error:e}");
    }
}

#[test]
fn nothing_wraps_at_the_edge() {
    for sites in [3, 4, 5, 8, 9] {
        let bits = entry_bits(sites);
        assert!(sites as u64 * ((1u64 << (bits - 1)) - 1) < 1 << 31, "entries of {sites} sites fit i32");
        assert!(sites as u64 * u64::from(count_limit(sites)) < 1 << 32, "counts of {sites} sites fit u32");
        // The next larger width would not do.
        assert!(sites as u64 * ((1u64 << bits) - 1) >= 1 << 31);
        let context = context(sites, vec![block(2, -3)], 1, 64);
        let clipped = ClippedUpdate::clip(vec![0.9, -0.9], &context.layout, context.clip_norm).unwrap();
        let vectors: Vec<_> = (0..sites)
            .map(|site| {
                let key = RoundingKey::new(1, &name(site), round(1));
                encode(&context, 64, clipped.clone(), &[count_limit(sites)], &key).unwrap()
            })
            .collect();
        let sum = decode(&context, wrapping_sum(&vectors)).unwrap();
        // 0.9 saturates at the range of 0.125, with its sign; every saturation is counted.
        assert!(
            (sum.update[0] - 0.125).abs() < 1e-6 && (sum.update[1] + 0.125).abs() < 1e-6,
            "{:?}",
            sum.update
        );
        assert_eq!(sum.saturated, [2 * sites as u32]);
        assert_eq!(sum.clipped, sites as u32);
        assert_eq!(sum.counts, [count_limit(sites) * sites as u32]);
        assert_eq!(sum.weight, 64 * sites as u32);
    }
}

#[test]
fn rounding_repeats_within_a_round_and_is_unbiased() {
    let context = context(4, vec![block(40_000, 0)], 0, 64);
    let entry = 3.3 / f64::from(entry_bits(4) - 1).exp2();
    let clipped =
        ClippedUpdate::clip(vec![entry as f32; 40_000], &context.layout, context.clip_norm).unwrap();
    let vector = |seed, site, number| {
        encode(&context, 64, clipped.clone(), &[], &RoundingKey::new(seed, &name(site), round(number)))
            .unwrap()
    };
    assert_eq!(vector(1, 0, 1), vector(1, 0, 1));
    for other in [vector(2, 0, 1), vector(1, 1, 1), vector(1, 0, 2)] {
        assert_ne!(vector(1, 0, 1), other);
    }
    let rounded = &vector(1, 0, 1)[context.layout.update()];
    assert!(rounded.iter().all(|word| *word == 3 || *word == 4));
    let mean = rounded.iter().map(|word| f64::from(*word)).sum::<f64>() / 40_000.0;
    assert!((mean - 3.3).abs() < 0.01, "{mean}");
}

#[test]
fn statistics_are_outside_the_clip_norm() {
    let statistics = Block { kind: BlockKind::Statistics, length: 2, range_exponent: 10 };
    let context = context(3, vec![block(2, 0), statistics], 0, 64);
    let updates = vec![vec![3.0, 4.0, 500.0, -7.0]; 3];
    let got = aggregate(&context, &updates, &[64, 64, 64]);
    for (got, want) in got.update.iter().zip([0.6, 0.8, 500.0, -7.0]) {
        assert!((got - want).abs() < 1e-4, "{got} instead of {want}");
    }
    assert_eq!((got.clipped, got.saturated), (3, vec![0, 0]));
}

#[test]
fn numbers_that_cannot_be_summed_are_refused() {
    let context = context(4, vec![block(2, 0)], 1, 64);
    let layout = &context.layout;
    let bound = context.clip_norm;
    let clip = |entries| ClippedUpdate::clip(entries, layout, bound);
    assert_eq!(clip(vec![0.0]), Err(EncodeError::Length { got: 1, want: 2 }));
    assert_eq!(clip(vec![0.0, f32::NAN]), Err(EncodeError::NotFinite { index: 1 }));
    assert_eq!(clip(vec![f32::INFINITY, 0.0]), Err(EncodeError::NotFinite { index: 0 }));
    let zero = clip(vec![0.0; 2]).unwrap();
    assert!(!zero.was_clipped());
    let key = RoundingKey::new(1, &name(0), round(1));
    assert_eq!(encode(&context, 0, zero.clone(), &[0], &key), Err(EncodeError::Weight { got: 0, cap: 64 }));
    assert_eq!(encode(&context, 65, zero.clone(), &[0], &key), Err(EncodeError::Weight { got: 65, cap: 64 }));
    assert_eq!(encode(&context, 1, zero.clone(), &[], &key), Err(EncodeError::Length { got: 0, want: 1 }));
    let limit = count_limit(4);
    let over = EncodeError::Count { index: 0, got: limit + 1, limit };
    assert_eq!(encode(&context, 1, zero, &[limit + 1], &key), Err(over));
    assert_eq!(encode_counts(&context, &[1]), Err(EncodeError::Length { got: 0, want: 2 }));
    let mut words = vec![0; layout.words()];
    for (got, is_sum) in [(0, false), (4 * 64, true), (4 * 64 + 1, false)] {
        words[layout.weight()] = got;
        let wrong = Err(DecodeError::Weight { got, sites: 4 });
        assert_eq!(decode(&context, words.clone()).map(|_| ()), if is_sum { Ok(()) } else { wrong });
    }
    assert!(decode(&context, words[1..].to_vec()).is_err());
}

#[test]
fn ranges_follow_the_rule() {
    let bound = ClipNorm::new(10.0).unwrap();
    assert_eq!(update_range_exponent(bound, None), 4);
    assert_eq!(update_range_exponent(bound, Some(0.01)), -2);
    assert_eq!(update_range_exponent(bound, Some(100.0)), 4);
    assert_eq!(update_range_exponent(bound, Some(0.0)), 4 - 20);
    assert_eq!(update_range_exponent(bound, Some(f64::NAN)), 4);
    assert_eq!(range_exponent(1.0), 0);
    assert_eq!(range_exponent(1.01), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Every sum of encoded vectors lies within one step of the mean in exact arithmetic, whatever the inputs.
    #[test]
    fn sums_are_means(entries in proptest::collection::vec(proptest::collection::vec(-0.3f32..0.3, 5), 4),
                      weights in proptest::collection::vec(1u32..=64, 4)) {
        let context = context(4, vec![block(5, 0)], 0, 64);
        let got = aggregate(&context, &entries, &weights);
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let step = 64.0 / (f64::from(entry_bits(4) - 1).exp2() * total);
        for at in 0..5 {
            let plain: f64 = entries.iter().zip(&weights)
                .map(|(entries, weight)| f64::from(entries[at]) * f64::from(*weight) / total).sum();
            prop_assert!((plain - f64::from(got.update[at])).abs() <= 4.0 * step + plain.abs() * 1e-6);
        }
    }
}

#[test]
fn threads_and_stretches_change_nothing() {
    for lengths in [vec![1], vec![STRETCH as u32], vec![700, 1, 1500, 3], vec![5000, 40]] {
        let blocks = lengths.iter().enumerate().map(|(at, length)| Block {
            kind: BlockKind::Update,
            length: *length,
            // One block saturates.
            range_exponent: if at == 2 { -12 } else { 0 },
        });
        let layout = Layout::new(blocks.collect(), 3).unwrap();
        let federation = Federation::new(5, &layout);
        let context = Context::new(ContextFields { weight_cap: 64, ..federation.fields(1) }).unwrap();
        let update = update(3, layout.entries(), 0.9);
        let key = RoundingKey::new(1, &name(0), context.round);
        let on = |threads| {
            let clipped = ClippedUpdate::clip(update.clone(), &layout, context.clip_norm).unwrap();
            encode_on(threads, &context, 33, clipped, &[1, 2, 3], &key).unwrap()
        };
        let one = on(1);
        assert_eq!(one[layout.saturated()].iter().any(|over| *over > 0), lengths.len() > 2);
        // Entry by entry, with a stream that is read two bytes at a time.
        let (mut dice, mut at) = (key.stream(), 0);
        for block in layout.blocks() {
            for _ in 0..block.length {
                let mut noise = [0; 2];
                dice.apply_keystream(&mut noise);
                let up = (f64::from(u16::from_le_bytes(noise)) + 0.5) / 65536.0;
                let bits = entry_bits(5) - 1;
                let value =
                    f64::from(update[at]) * (33.0 / 64.0 * f64::from(bits).exp2() / block.range()) + up;
                let largest = f64::from(bits).exp2() - 1.0;
                let want = value.floor().clamp(-largest, largest) as i32;
                assert_eq!(one[layout.update()][at].cast_signed(), want, "entry {at}");
                at += 1;
            }
        }
        for threads in [0, 2, 3, 7, 64] {
            assert_eq!(on(threads), one, "{lengths:?} on {threads}");
        }
    }
}
