//! Single computations: long streams, shares with chosen coefficients, quantisation at its edges.

use consilium_study::canonical::Canonical;
use consilium_study::hash::Hash;
use serde_json::{Value, json};

use super::{floats_hex, hex, words_hex};
use crate::context::CtxHash;
use crate::layout::{Block, BlockKind, CHUNK_WORDS, Layout};
use crate::mask::{Mask, Role, Sign, apply_all};
use crate::masker::chunk_leaf;
use crate::merkle;
use crate::numbering::{RoundNumber, SiteIndex};
use crate::quantiser::{ClipNorm, RoundingKey, encode};
use crate::secret::{MaskSeed, hkdf, random};

pub(super) fn ctx() -> CtxHash {
    CtxHash::from_canonical(&Hash::of_bytes(b"ctx").to_canonical()).unwrap()
}

pub(super) fn stream(seed: &[u8; 32], role: &str, words: usize) -> Vec<u32> {
    let role = if role == "self" { Role::Own } else { Role::Pair };
    let mut stream = vec![0; words];
    let mask = Mask::new(&MaskSeed::from_bytes(seed), &ctx(), role, Sign::Plus);
    apply_all(&mut [mask.stream(0)], &mut stream, words);
    stream
}

pub(super) fn leaves(sender: SiteIndex, words: &[u32]) -> Vec<Hash> {
    let chunk = |(index, words): (usize, &[u32])| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        chunk_leaf(&ctx(), sender, index, &bytes)
    };
    words.chunks(CHUNK_WORDS).enumerate().map(chunk).collect()
}

pub(super) fn streams() -> Value {
    let described = |seed: [u8; 32], role: &str, words: usize| {
        let stream = stream(&seed, role, words);
        let bytes: Vec<u8> = stream.iter().flat_map(|word| word.to_le_bytes()).collect();
        json!({
            "seed": hex(&seed), "role": role, "words": words,
            "key": hex(&*hkdf(&[], &seed, "mask-stream", &(ctx(), role))),
            "sha256": hex(Hash::of_bytes(&bytes).as_bytes()),
            "first": words_hex(&stream[..16]), "last": words_hex(&stream[words - 16..]),
        })
    };
    let sender = SiteIndex::new(3).unwrap();
    let (seed, words) = (*random::<32>(), 2 * CHUNK_WORDS + 777);
    let leaves = leaves(sender, &stream(&seed, "pair", words));
    json!({
        "format": "consilium-secagg-streams/1",
        "ctx": hex(&ctx().hash().as_bytes()[..]),
        "sender": 3,
        "streams": [
            described([9; 32], "self", 16),
            described(*random(), "self", 2049),
            described(*random(), "pair", 1_000_003),
        ],
        "chunked": {
            "seed": hex(&seed), "role": "pair", "words": words,
            "leaves": leaves.iter().map(|leaf| hex(leaf.as_bytes())).collect::<Vec<_>>(),
            "root": hex(merkle::root(&leaves).as_bytes()),
        },
    })
}

/// A byte times another in the field of AES, the slow way.
pub(super) fn times(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 == 1 {
            product ^= a;
        }
        a = (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1b };
        b >>= 1;
    }
    product
}

pub(super) fn shamir() -> Value {
    // Chosen coefficients cannot be given to the library, so the shares are made the slow way; that the library
    // rebuilds the secret from them is what `verify` checks.
    let case = |threshold: usize, holders: u8| {
        let secret = *random::<32>();
        let coefficients: Vec<Vec<u8>> = (0..32).map(|_| random::<32>()[..threshold - 1].to_vec()).collect();
        let share = |x: u8| -> Vec<u8> {
            let value = |byte: usize| {
                let higher = coefficients[byte].iter().rev().fold(0, |sum, a| times(sum ^ a, x));
                secret[byte] ^ higher
            };
            (0..32).map(value).collect()
        };
        json!({
            "threshold": threshold, "holders": holders, "secret": hex(&secret),
            "coefficients": coefficients.iter().map(|row| hex(row)).collect::<Vec<_>>(),
            "shares": (1..=holders).map(|x| hex(&share(x))).collect::<Vec<_>>(),
        })
    };
    json!({
        "format": "consilium-secagg-shamir/1",
        "cases": [case(3, 3), case(3, 4), case(5, 7), case(7, 10), case(21, 30)],
    })
}

/// A layout, members, clip norm, weight cap, weight and update.
type Case = (Vec<(BlockKind, u32, i16)>, usize, f64, u32, u32, Vec<f32>);

pub(super) fn quantiser() -> Value {
    let spread = |length: usize, scale: f32| -> Vec<f32> {
        (0..length).map(|at| scale * ((at as f32 * 0.7311).sin() + 0.01 * at as f32)).collect()
    };
    let (update, statistics) = (BlockKind::Update, BlockKind::Statistics);
    let cases: Vec<Case> = vec![
        (vec![(update, 64, 0)], 3, 1.0, 4, 3, spread(64, 0.01)),
        // Clipped, and statistics are not.
        (vec![(update, 40, 4), (statistics, 8, 10)], 4, 10.0, 64, 64, spread(48, 30.0)),
        // Saturated: a narrow range.
        (vec![(update, 24, -6), (update, 8, 0)], 5, 1.0, 16, 16, spread(32, 0.05)),
        // Widest Selection, smallest weight, tiny and zero entries.
        (
            vec![(update, 8, -20)],
            200,
            1.0,
            1 << 20,
            1,
            vec![0.0, -0.0, 1e-30, -1e-30, 1e-7, -1e-7, 0.5, -0.5],
        ),
        // Several pieces of the rounding stream.
        (vec![(update, 3000, 1), (update, 1100, 1)], 8, 1.5, 128, 100, spread(4100, 0.001)),
    ];
    let cases: Vec<Value> = cases.into_iter().map(|case| quantised(&case)).collect();
    json!({ "format": "consilium-secagg-quantiser/1", "cases": cases })
}

fn quantised((blocks, members, clip, cap, weight, update): &Case) -> Value {
    let blocks = blocks.iter().map(|(kind, length, exponent)| Block {
        kind: *kind,
        length: *length,
        range_exponent: *exponent,
    });
    let layout = Layout::new(blocks.collect(), 2).unwrap();
    let counts = [7, 1];
    let site = "charite".parse().unwrap();
    let (seed, round) = (u64::MAX - 5, 12);
    let clip_norm = ClipNorm::new(*clip).unwrap();
    let key = RoundingKey::new(seed, &site, RoundNumber::new(round).unwrap());
    let context = super::verify::context_for(&layout, *members, clip_norm, *cap);
    let clipped = crate::quantiser::ClippedUpdate::clip(update.clone(), &layout, clip_norm).unwrap();
    let words = encode(&context, *weight, clipped, &counts, &key).unwrap();
    json!({
        "layout": hex(&layout.to_canonical()), "members": members,
        "clip_norm": hex(&clip.to_bits().to_be_bytes()), "weight_cap": cap, "weight": weight,
        "study_seed": seed.to_string(), "site": site.as_str(), "round": round,
        "update": floats_hex(update), "counts": counts, "words": words_hex(&words),
    })
}
