//! A whole attempt of four sites, one of which never uploads, with every message and every secret.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::canonical::Canonical;
use consilium_study::hash::Hash;
use serde_json::{Map, Value, json};

use super::{floats_hex, hex, words_hex};
use crate::agreement::EpochSecrets;
use crate::context::{Context, Purpose};
use crate::coordinator::CollectMasked;
use crate::dealing::Row;
use crate::federation::{Federation, answer, arrive, judge, name, sign};
use crate::layout::{Block, BlockKind, Layout};
use crate::message::{Envelope, Receipt};
use crate::quantiser::{ClippedUpdate, RoundingKey, decode, encode, encode_counts};
use crate::ring::Ring;
use crate::secret::MaskSeed;
use crate::site::Begun;
use crate::terms::Floors;

const SITES: usize = 4;
/// The site that never uploads.
const GONE: usize = 2;
const STUDY_SEED: u64 = 20_261_124;
const RATE: f64 = 1.5;

/// The layout of a training round, with every kind of block.
fn blocks() -> Layout {
    let block = |kind, length, range_exponent| Block { kind, length, range_exponent };
    let blocks = vec![
        block(BlockKind::Update, 40, 0),
        block(BlockKind::Statistics, 6, 4),
        block(BlockKind::Update, 30, -3),
    ];
    Layout::new(blocks, 2).unwrap()
}

pub(super) fn train() -> Value {
    play("A training round of four sites, one of which never uploads", Purpose::Train, &blocks())
}

pub(super) fn packed() -> Value {
    let layout = blocks().in_ring(Ring::Packed).unwrap();
    play("A packed training round of four sites, one of which never uploads", Purpose::Train, &layout)
}

pub(super) fn evaluate() -> Value {
    play(
        "An evaluation of four sites, one of which never uploads",
        Purpose::Evaluate,
        &Layout::of_counts(110),
    )
}

/// What a site contributes.
struct Contribution {
    weight: u32,
    update: Vec<f32>,
    counts: Vec<u32>,
    words: Vec<u32>,
}

fn contribution(context: &Context, position: usize) -> Contribution {
    let layout = &context.layout;
    let counts: Vec<u32> = (0..layout.counts().len()).map(|at| (at * 37 + position * 11) as u32).collect();
    if context.purpose != Purpose::Train {
        let words = encode_counts(context, &counts).unwrap();
        return Contribution { weight: 1, update: Vec::new(), counts, words };
    }
    // The last site's update is beyond the clip norm.
    let scale = if position == SITES - 1 { 0.5 } else { 0.02 };
    let entry = |at: usize| scale * ((at * (position + 2)) as f32 * 0.377).cos();
    let update: Vec<f32> = (0..layout.entries()).map(entry).collect();
    let weight = 4 << position;
    let rounding = RoundingKey::new(STUDY_SEED, &name(position), context.round);
    let clipped = ClippedUpdate::clip(update.clone(), layout, context.clip_norm).unwrap();
    let words = encode(context, weight, clipped, &counts, &rounding).unwrap();
    Contribution { weight, update, counts, words }
}

fn play(title: &str, purpose: Purpose, layout: &Layout) -> Value {
    let mut federation = Federation::unsettled(SITES, layout, |_| Floors::default(), false);
    federation.advertise();
    // Kept here before the sites erase them.
    let secrets: Vec<EpochSecrets> = federation
        .nodes
        .iter()
        .map(|node| {
            let (x25519, ml_kem) = node.machine.chain().epoch.as_ref().unwrap().secrets().unwrap().parts();
            EpochSecrets::from_parts(x25519, ml_kem).unwrap()
        })
        .collect();
    federation.settle_pairs();

    let mut fields = federation.fields(3);
    fields.purpose = purpose;
    if purpose == Purpose::Evaluate {
        fields.baseline = Some(Hash::of_bytes(b"baseline"));
    }
    let signed = federation.sign(fields);
    let context = signed.claim().unwrap();
    let ctx = context.hash();

    let mut file = setup(&federation, &secrets);
    let mut parts = BTreeMap::from(
        ["contributions", "vectors", "dealings", "receipts", "envelopes", "own_keys"]
            .map(|part| (part, Map::new())),
    );
    let mut phase = CollectMasked::new(&federation.pin, &signed, BTreeSet::new()).unwrap();
    let mut dealt: Vec<(usize, Receipt, Vec<Envelope>)> = Vec::new();
    for position in (0..SITES).filter(|position| *position != GONE) {
        let contribution = contribution(&context, position);
        let node = &mut federation.nodes[position];
        let site = node.name.to_string();
        let begun = node.say(&federation.pin, |machine, book| machine.begin(&signed, book)).unwrap();
        let Begun::Mask(permit) = begun else { panic!("nothing was sealed yet") };
        let mut masker = node.machine.mask(permit, contribution.words.clone()).unwrap();
        let seeds: Vec<MaskSeed> = masker.seeds().to_vec();
        node.spool.clear();
        while let Some(chunk) = masker.next_chunk() {
            node.spool.push(chunk.bytes.to_vec());
        }
        let masked = masker.finish().unwrap();
        let envelopes = masked.dealt.envelopes.clone();
        let leaves: Vec<Value> = masked.chunks.iter().map(|leaf| hex(leaf.as_bytes())).collect();
        let upload = node.say(&federation.pin, |machine, book| machine.seal(masked, book)).unwrap();
        let pair_seeds: Map<String, Value> = (0..SITES)
            .filter(|peer| *peer != position)
            .map(|peer| (name(peer).to_string(), hex(seeds[peer].as_bytes())))
            .collect();
        let mut put = |part: &'static str, value: Value| {
            parts.get_mut(part).unwrap().insert(site.clone(), value);
        };
        put("own_keys", hex(node.machine.chain().epoch.as_ref().unwrap().own().as_bytes()));
        put(
            "contributions",
            json!({
                "weight": contribution.weight, "update": floats_hex(&contribution.update),
                "counts": contribution.counts, "words": words_hex(&contribution.words),
            }),
        );
        put(
            "vectors",
            json!({
                "self_seed": hex(seeds[position].as_bytes()), "pair_seeds": pair_seeds,
                "masked": hex(&node.spool.concat()), "leaves": leaves,
            }),
        );
        put("receipts", hex(&upload.receipt.to_canonical()));
        dealt.push((position, upload.receipt.claim().unwrap(), envelopes));
        arrive(&federation.pin, &mut phase, node, upload);
    }
    // A holder's key opens what was dealt to it; for the site that is gone, the dealer's own end of the pair does.
    for (at, receipt, envelopes) in &dealt {
        let (at, dealer) = (*at, name(*at).to_string());
        let chain = federation.nodes[at].machine.chain().epoch.as_ref().unwrap();
        let (mut salts, mut shares) = (Vec::new(), Vec::new());
        for (holder, envelope) in envelopes.iter().enumerate() {
            let key = if holder == at { chain.own() } else { chain.key(&name(holder)).unwrap() };
            let row = Row::open(key, envelope, receipt).map_err(|_| "an honest envelope opens").unwrap();
            let (row_shares, salt) = row.parts();
            salts.push(hex(salt));
            shares.push(row_shares.iter().map(|share| hex(share.as_slice())).collect::<Vec<_>>());
        }
        let sealed: Map<String, Value> = envelopes
            .iter()
            .enumerate()
            .map(|(holder, envelope)| (name(holder).to_string(), hex(&envelope.to_canonical())))
            .collect();
        parts.get_mut("envelopes").unwrap().insert(dealer.clone(), Value::Object(sealed));
        let dealing = json!({ "row_salts": salts, "shares": shares, "coefficients": null });
        parts.get_mut("dealings").unwrap().insert(dealer, dealing);
    }

    for node in federation.nodes.iter_mut().filter(|node| node.name != name(GONE)) {
        judge(&federation.pin, &mut phase, node);
    }
    let mut check = phase.close(&federation.pin, 3).map_err(|(_, why)| why).unwrap();
    for node in federation.nodes.iter_mut().filter(|node| node.name != name(GONE)) {
        sign(&federation.pin, &ctx, &mut check, node).unwrap();
    }
    let mut unmask = check.unmask().map_err(|_| "three signed").unwrap();
    let request = unmask.request().clone();
    let mut answers = Map::new();
    for node in federation.nodes.iter_mut().filter(|node| node.name != name(GONE)) {
        answer(&federation.pin, &mut unmask, node).unwrap();
        let again = node.say(&federation.pin, |machine, book| machine.answer(&request, book)).unwrap();
        answers.insert(node.name.to_string(), hex(&again.to_canonical()));
    }
    let opened = unmask.recover().unwrap();
    let sum = federation.sum(&context, &unmask.names(), &opened);
    let aggregate: Vec<u8> = sum.iter().flat_map(|word| word.to_le_bytes()).collect();
    let decoded = decode(&context, sum.clone()).unwrap();
    let start: Vec<f32> = (0..decoded.update.len()).map(|at| (at as f32 * 0.1).sin()).collect();
    let rate_of = |at: usize| {
        // Running statistics are measured, not trained.
        let mut rest = at;
        let block = context.layout.blocks().iter().find(|block| {
            let here = rest < block.length as usize;
            rest = rest.saturating_sub(block.length as usize);
            here
        });
        if block.unwrap().kind == BlockKind::Update { RATE } else { 1.0 }
    };
    let next: Vec<f32> = (0..start.len())
        .map(|at| (f64::from(start[at]) + rate_of(at) * f64::from(decoded.update[at])) as f32)
        .collect();

    let opened: Vec<Value> = opened
        .masks
        .iter()
        .map(|mask| json!({ "survivor": mask.survivor.get(), "peer": mask.peer.get(), "seed": hex(&mask.seed[..]) }))
        .collect();
    for (part, values) in parts {
        file.insert(part.to_owned(), Value::Object(values));
    }
    let rest = json!({
        "title": title,
        "context": hex(&signed.to_canonical()),
        "ctx": hex(ctx.hash().as_bytes()),
        "pairs": pairs(&federation, &secrets),
        "survivors": hex(&request.survivors.to_canonical()),
        "survivors_hash": hex(request.survivors.hash().as_bytes()),
        "signatures": request.signatures.iter().map(|signed| hex(&signed.to_canonical())).collect::<Vec<_>>(),
        "request": hex(&request.to_canonical()),
        "answers": answers,
        "opened": opened,
        "sum": words_hex(&sum),
        "aggregate": hex(Hash::of_bytes(&aggregate).as_bytes()),
        "mean": floats_hex(&decoded.update),
        "weight": decoded.weight,
        "clipped": decoded.clipped,
        "saturated": decoded.saturated,
        "counts": decoded.counts,
        "start": floats_hex(&start),
        "server_learning_rate": RATE,
        "next": floats_hex(&next),
    });
    file.extend(rest.as_object().unwrap().clone());
    Value::Object(file)
}

/// The study and the messages of its key setup.
fn setup(federation: &Federation, secrets: &[EpochSecrets]) -> Map<String, Value> {
    let (pin, setup) = (&federation.pin, &federation.setup);
    let mut adverts = Map::new();
    let (mut encapsulations, mut confirmations) = (BTreeSet::new(), BTreeSet::new());
    for node in &federation.nodes {
        let mail = setup.mail_for(&node.name);
        for advert in &mail.adverts {
            adverts.insert(advert.claim().unwrap().site.to_string(), hex(&advert.to_canonical()));
        }
        encapsulations.extend(mail.encapsulations.iter().map(Canonical::to_canonical));
        confirmations.extend(mail.confirmations.iter().map(Canonical::to_canonical));
    }
    assert_eq!(secrets.len(), adverts.len());
    let keys: Map<String, Value> =
        pin.sites.iter().map(|(site, key)| (site.to_string(), hex(key.as_bytes()))).collect();
    let file = json!({
        "format": "consilium-secagg-vectors/1",
        "study": hex(pin.study.as_bytes()),
        "roster": hex(pin.roster.as_bytes()),
        "study_seed": STUDY_SEED.to_string(),
        "coordinator": hex(pin.coordinator.as_bytes()),
        "site_keys": keys,
        "min_honest": pin.min_honest,
        "opening": hex(&setup.opening().to_canonical()),
        "adverts": adverts,
        "encapsulations": encapsulations.iter().map(|bytes| hex(bytes)).collect::<Vec<_>>(),
        "confirmations": confirmations.iter().map(|bytes| hex(bytes)).collect::<Vec<_>>(),
    });
    file.as_object().unwrap().clone()
}

/// What each pair agreed on, recomputed from the secret keys of its higher name.
fn pairs(federation: &Federation, secrets: &[EpochSecrets]) -> Vec<Value> {
    let mut pairs = Vec::new();
    for (at, node) in federation.nodes.iter().enumerate() {
        let mail = federation.setup.mail_for(&node.name);
        for signed in mail.encapsulations {
            let encapsulation = signed.claim().unwrap();
            let lower = (0..SITES).find(|position| name(*position) == encapsulation.from).unwrap();
            let theirs = mail
                .adverts
                .iter()
                .map(|advert| advert.claim().unwrap())
                .find(|advert| advert.site == encapsulation.from)
                .unwrap();
            let other = federation.setup.mail_for(&name(lower));
            let mine = other
                .adverts
                .iter()
                .map(|advert| advert.claim().unwrap())
                .find(|advert| advert.site == node.name)
                .unwrap();
            let (ml_kem, x25519) = secrets[at].shared(&theirs, &encapsulation.ciphertext);
            let agreed = secrets[at].decapsulate(&theirs, &mine, &encapsulation.ciphertext).unwrap();
            // The pair of two sites of which one is gone stands where the other is.
            let (here, peer) = if at == GONE { (lower, at) } else { (at, lower) };
            let chain = federation.nodes[here].machine.chain().epoch.as_ref().unwrap();
            pairs.push(json!({
                "lower": name(lower).as_str(), "higher": node.name.as_str(),
                "mlkem": hex(&ml_kem), "x25519": hex(&x25519),
                "first_key": hex(agreed.key.as_bytes()),
                "key": hex(chain.key(&name(peer)).unwrap().as_bytes()),
            }));
        }
    }
    pairs
}
