//! The packed ring at its edges: several pieces, narrow ranges, the widest Selection; summed and read.

use consilium_study::canonical::Canonical;
use consilium_study::name::SiteName;
use serde_json::{Value, json};

use super::verify::{context_for, counts};
use super::{floats_hex, floats_of, hex, unhex, words_hex};
use crate::context::Context;
use crate::layout::{Block, BlockKind, Layout};
use crate::numbering::RoundNumber;
use crate::quantiser::{ClipNorm, ClippedUpdate, RoundingKey, decode, encode};
use crate::ring::{Ring, add_plain};

const STUDY_SEED: u64 = 7_000_000_007;
const ROUND: u32 = 5;

/// A layout, members, clip norm, weight cap, and a weight and an update for each of some of them.
type Case = (Vec<(BlockKind, u32, i16)>, usize, f64, u32, Vec<(u32, Vec<f32>)>);

pub(super) fn packed() -> Value {
    let wave = |length: usize, scale: f32, pace: f32| -> Vec<f32> {
        (0..length).map(|at| scale * (at as f32 * pace).sin()).collect()
    };
    let (update, statistics) = (BlockKind::Update, BlockKind::Statistics);
    let cases: Vec<Case> = vec![
        // Long pieces, several of them, statistics between.
        (
            vec![(update, 2000, -4), (statistics, 5, 6), (update, 300, -2)],
            3,
            1.0,
            4,
            vec![(3, wave(2305, 0.02, 0.7311)), (4, wave(2305, 0.3, 0.311)), (1, wave(2305, 0.001, 1.7))],
        ),
        // Saturated, and clipped.
        (
            vec![(update, 500, -9)],
            5,
            0.5,
            16,
            vec![(16, wave(500, 0.2, 0.7311)), (5, wave(500, -0.2, 0.7311))],
        ),
        // Widest Selection, smallest weight, tiny and zero entries.
        (
            vec![(update, 8, -20), (update, 8, 0)],
            200,
            1.0,
            1 << 20,
            vec![(1, [0.0, -0.0, 1e-30, -1e-30, 1e-7, -1e-7, 0.5, -0.5].repeat(2))],
        ),
    ];
    let cases: Vec<Value> = cases.into_iter().map(|case| made(&case)).collect();
    json!({ "format": "consilium-secagg-packed/1", "cases": cases })
}

fn context(layout: &Layout, members: usize, clip_norm: ClipNorm, cap: u32) -> Context {
    let mut fields = context_for(layout, members, clip_norm, cap).into_fields();
    fields.round = RoundNumber::new(ROUND).unwrap();
    Context::new(fields).unwrap()
}

fn words_of(context: &Context, site: &SiteName, weight: u32, update: &[f32], counts: &[u32]) -> Vec<u32> {
    let clipped = ClippedUpdate::clip(update.to_vec(), &context.layout, context.clip_norm).unwrap();
    encode(context, weight, clipped, counts, &RoundingKey::new(STUDY_SEED, site, context.round)).unwrap()
}

fn made((blocks, members, clip, cap, sites): &Case) -> Value {
    let blocks = blocks.iter().map(|(kind, length, exponent)| Block {
        kind: *kind,
        length: *length,
        range_exponent: *exponent,
    });
    let layout = Layout::new(blocks.collect(), 2).unwrap().in_ring(Ring::Packed).unwrap();
    let context = context(&layout, *members, ClipNorm::new(*clip).unwrap(), *cap);
    let mut sum = vec![0; layout.words()];
    let sites: Vec<Value> = sites
        .iter()
        .enumerate()
        .map(|(at, (weight, update))| {
            let site: SiteName = format!("hospital-{at}").parse().unwrap();
            let counts = [7 + at as u32, 1];
            let words = words_of(&context, &site, *weight, update, &counts);
            add_plain(&layout, &mut sum, &words);
            json!({
                "site": site.as_str(), "weight": weight, "update": floats_hex(update), "counts": counts,
                "words": words_hex(&words),
            })
        })
        .collect();
    let mean = decode(&context, sum.clone()).unwrap();
    json!({
        "layout": hex(&layout.to_canonical()), "members": members,
        "clip_norm": hex(&clip.to_bits().to_be_bytes()), "weight_cap": cap,
        "study": hex(context.study.as_bytes()), "study_seed": STUDY_SEED.to_string(), "round": ROUND,
        "sites": sites, "sum": words_hex(&sum),
        "mean": floats_hex(&mean.update), "weight": mean.weight, "saturated": mean.saturated,
    })
}

pub(super) fn verify(file: &Value) {
    for case in file["cases"].as_array().unwrap() {
        let layout = Layout::from_canonical(&unhex(&case["layout"])).unwrap();
        let number = |value: &Value| value.as_u64().unwrap() as u32;
        let clip = f64::from_bits(u64::from_be_bytes(unhex(&case["clip_norm"]).try_into().unwrap()));
        let context = context(
            &layout,
            number(&case["members"]) as usize,
            ClipNorm::new(clip).unwrap(),
            number(&case["weight_cap"]),
        );
        assert_eq!(hex(context.study.as_bytes()), case["study"]);
        let mut sum = vec![0; layout.words()];
        for one in case["sites"].as_array().unwrap() {
            let site = one["site"].as_str().unwrap().parse().unwrap();
            let words =
                words_of(&context, &site, number(&one["weight"]), &floats_of(&one["update"]), &counts(one));
            assert_eq!(words_hex(&words), one["words"]);
            add_plain(&layout, &mut sum, &words);
        }
        assert_eq!(words_hex(&sum), case["sum"]);
        let mean = decode(&context, sum).unwrap();
        assert_eq!(floats_hex(&mean.update), case["mean"]);
        assert_eq!(Value::from(mean.saturated), case["saturated"]);
        assert_eq!(Value::from(mean.weight), case["weight"]);
    }
}
