//! The inner loops, each beside the floor it is held against.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use consilium_secagg::accumulator::{Accumulator, OpenedMask, OpenedSeeds};
use consilium_secagg::context::Context;
use consilium_secagg::floor::KeyStream;
use consilium_secagg::layout::CHUNK_WORDS;
use consilium_secagg::numbering::{RoundNumber, SiteIndex};
use consilium_secagg::quantiser::{ClippedUpdate, RoundingKey, decode, encode, encode_on};
use consilium_secagg::ring::Ring;
use consilium_study::hash::Hash;
use serde::Serialize;

use super::parties::{WEIGHT_CAP, fields, pin, site_name};
use super::stopwatch::best;

/// Parameters: 40 MB of words, far more than any cache holds.
const WORDS: u32 = 10_000_000;
/// Masks that are fused: a site among ten.
const SITES: usize = 10;
/// Measurements, of which the best counts.
const TIMES: usize = 7;

/// One kernel.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Kernel {
    pub(super) kernel: &'static str,
    /// Nanoseconds a word, and for masks a word and mask.
    pub(super) nanoseconds: f64,
    /// Words, or words of key stream, that it gets through.
    pub(super) gigabytes_per_second: f64,
    /// What it is held against.
    pub(super) floor: Option<&'static str>,
    /// The floor's time over its own.
    pub(super) ratio: Option<f64>,
}

/// Seconds a word that nothing gets below on one thread of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floors {
    /// Of key stream, for each mask.
    pub(super) stream: f64,
    /// Of a plain sum, for each vector.
    pub(super) sum: f64,
}

/// All kernels, and the ratios that the last line repeats.
pub(super) struct Kernels {
    pub(super) rows: Vec<Kernel>,
    pub(super) floors: Floors,
    pub(super) mask: f64,
    pub(super) accumulate: f64,
    pub(super) quantise: f64,
    pub(super) dequantise: f64,
}

const KEY_STREAM: &str = "AES-256-CTR key stream";
const PLAIN_SUM: &str = "a[i] += b[i]";

/// Time of the work alone: what it made is given back afterwards.
fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    let made = black_box(work());
    let spent = began.elapsed();
    drop(made);
    spent
}

/// Seconds for `bytes` of key stream, in blocks of the length that is fastest here.
fn key_stream(bytes: usize) -> f64 {
    let with_blocks_of = |length: usize| {
        let (mut block, times) = (vec![0; length], bytes / length);
        let mut stream = KeyStream::new();
        best(TIMES, || timed(|| stream.fill(&mut block, times))) * bytes as f64 / (times * length) as f64
    };
    [4096, 8192, 16384, 32768].into_iter().map(with_blocks_of).fold(f64::INFINITY, f64::min)
}

/// Seconds for `a[i] += b[i]`.
fn plain_sum(words: usize) -> f64 {
    let (mut a, b) = (vec![1_u32; words], vec![2_u32; words]);
    best(TIMES, || {
        timed(|| {
            for (a, b) in black_box(&mut a).iter_mut().zip(black_box(&b)) {
                *a = a.wrapping_add(*b);
            }
        })
    })
}

/// Measures all.
pub(super) fn measure() -> anyhow::Result<Kernels> {
    let context_in = |ring| -> anyhow::Result<Context> {
        let (pin, ..) = pin(SITES, WORDS, ring)?;
        Ok(Context::new(fields(&pin, |site| Hash::of_bytes(site.as_str().as_bytes()))?)?)
    };
    let context = context_in(Ring::Words)?;
    let words = context.layout.words();
    let stream_floor = key_stream(words * 4);
    let sum_floor = plain_sum(words);

    let own_masks = |sites: usize| -> anyhow::Result<OpenedSeeds> {
        let mask = |position| {
            let site = SiteIndex::from_position(position)?;
            Ok(OpenedMask { survivor: site, peer: site, seed: [position as u8; 32].into() })
        };
        Ok(OpenedSeeds { masks: (0..sites).map(mask).collect::<anyhow::Result<_>>()? })
    };
    let mask = |masks: usize| -> anyhow::Result<f64> {
        let seeds = own_masks(masks)?;
        let mut sum = Accumulator::new(&context.layout);
        Ok(best(TIMES, || timed(|| sum.remove_masks(&context, &seeds, 1))) / masks as f64)
    };
    let (one, ten) = (mask(1)?, mask(SITES)?);

    let chunks: Vec<Vec<u8>> = (0..context.layout.chunks())
        .map(|index| vec![3; context.layout.chunk_bytes(index).unwrap_or(CHUNK_WORDS * 4)])
        .collect();
    let mut sum = Accumulator::new(&context.layout);
    let mut failed = None;
    let accumulate = best(TIMES, || {
        timed(|| {
            for (index, chunk) in chunks.iter().enumerate() {
                failed = failed.or(sum.add_chunk(index, chunk).err());
            }
        })
    });
    if let Some(error) = failed {
        return Err(error.into());
    }

    let entries: Vec<f32> = (0..WORDS).map(|at| (at % 1000) as f32 * 1e-8).collect();
    let clip = best(TIMES, || {
        let entries = entries.clone();
        timed(|| ClippedUpdate::clip(entries, &context.layout, context.clip_norm))
    });
    let clipped = ClippedUpdate::clip(entries, &context.layout, context.clip_norm)?;
    let rounding = RoundingKey::new(1, &site_name(0), RoundNumber::new(1)?);
    let both_ways = |context: &Context| -> anyhow::Result<(f64, f64)> {
        let vector = encode(context, WEIGHT_CAP, clipped.clone(), &[1, 2], &rounding)?;
        let there = best(TIMES, || {
            let clipped = clipped.clone();
            timed(|| encode(context, WEIGHT_CAP, clipped, &[1, 2], &rounding))
        });
        let back = best(TIMES, || {
            let vector = vector.clone();
            timed(|| decode(context, vector))
        });
        Ok((there, back))
    };
    let (quantise, dequantise) = both_ways(&context)?;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let on_all_cores = best(TIMES, || {
        let clipped = clipped.clone();
        timed(|| encode_on(cores, &context, WEIGHT_CAP, clipped, &[1, 2], &rounding))
    });
    let (pack, unpack) = both_ways(&context_in(Ring::Packed)?)?;

    let row = |kernel, seconds: f64, floor: Option<(&'static str, f64)>| Kernel {
        kernel,
        nanoseconds: seconds * 1e9 / words as f64,
        gigabytes_per_second: words as f64 * 4.0 / seconds / 1e9,
        floor: floor.map(|(name, _)| name),
        ratio: floor.map(|(_, floor)| floor / seconds),
    };
    let (stream, plain) = ((KEY_STREAM, stream_floor), (PLAIN_SUM, sum_floor));
    Ok(Kernels {
        rows: vec![
            row(KEY_STREAM, stream_floor, None),
            row(PLAIN_SUM, sum_floor, None),
            row("one mask, fused", one, Some(stream)),
            row("ten masks, fused", ten, Some(stream)),
            row("accumulate", accumulate, Some(plain)),
            row("clip", clip, Some(plain)),
            row("quantise", quantise, Some(plain)),
            row("quantise, all cores", on_all_cores, Some(plain)),
            row("dequantise", dequantise, Some(plain)),
            row("rotate and pack", pack, Some(plain)),
            row("unpack and rotate back", unpack, Some(plain)),
        ],
        floors: Floors { stream: stream_floor / words as f64, sum: sum_floor / words as f64 },
        mask: stream_floor / ten,
        accumulate: sum_floor / accumulate,
        quantise: sum_floor / on_all_cores,
        dequantise: sum_floor / dequantise,
    })
}
