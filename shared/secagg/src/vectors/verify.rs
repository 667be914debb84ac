//! Vectors against this implementation: everything that follows from their inputs is computed again.

use std::collections::BTreeMap;

use consilium_study::canonical::Canonical;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, Statement, VerifyingKey};
use serde_json::Value;

use super::pieces::{leaves, stream};
use super::{floats_hex, floats_of, hex, unhex, unhex_32, words_hex, words_of};
use crate::accumulator::{Accumulator, OpenedMask, OpenedSeeds};
use crate::agreement::derive;
use crate::context::{Context, ContextFields, Purpose, Selection};
use crate::dealing::{Row, shares_match};
use crate::layout::{CHUNK_WORDS, Layout};
use crate::mask::{Mask, Role, Sign, apply_all};
use crate::masker::chunk_leaf;
use crate::merkle;
use crate::message::{
    Advert, Answer, Confirmation, Encapsulation, Envelope, EpochOpening, Receipt, Survivors,
    SurvivorsSignature, UnmaskRequest,
};
use crate::numbering::{Attempt, Epoch, RoundNumber, SiteIndex};
use crate::quantiser::{ClipNorm, ClippedUpdate, RoundingKey, decode, encode, encode_counts};
use crate::secret::{MaskSeed, PairKey, hkdf};
use crate::shamir;
use crate::threshold::Thresholds;

/// Checks a file of any of the formats; panics where it differs.
pub(super) fn file(file: &Value) {
    match file["format"].as_str().unwrap() {
        "consilium-secagg-vectors/1" => transcript(file),
        "consilium-secagg-streams/1" => streams(file),
        "consilium-secagg-shamir/1" => shares(file),
        "consilium-secagg-quantiser/1" => quantised(file),
        "consilium-secagg-groups/1" => super::groups::check(file),
        "consilium-secagg-packed/1" => super::packed::verify(file),
        other => panic!("no format {other}"),
    }
}

/// A context of which only the vector matters.
pub(crate) fn context_for(layout: &Layout, members: usize, clip_norm: ClipNorm, weight_cap: u32) -> Context {
    let member = |at: usize| (format!("s{at:03}").parse().unwrap(), Hash::of_bytes(b"advert"));
    Context::new(ContextFields {
        version: crate::context::PROTOCOL_VERSION,
        study: Hash::of_bytes(b"study"),
        roster: Hash::of_bytes(b"roster"),
        epoch: Epoch::new(1).unwrap(),
        round: RoundNumber::new(1).unwrap(),
        attempt: Attempt::new(1).unwrap(),
        purpose: Purpose::Train,
        model: Hash::of_bytes(b"model"),
        baseline: None,
        selection: Selection::new((0..members).map(member)).unwrap(),
        groups: 1,
        grouping: None,
        thresholds: Thresholds::new(members, members, 0).unwrap(),
        layout: layout.clone(),
        chunk_words: CHUNK_WORDS as u32,
        ring_bits: layout.ring().bits(),
        clip_norm,
        weight_cap,
        noise: 0,
        control: None,
    })
    .unwrap()
}

fn streams(file: &Value) {
    for case in file["streams"].as_array().unwrap() {
        let (seed, role) = (unhex_32(&case["seed"]), case["role"].as_str().unwrap());
        let words = stream(&seed, role, case["words"].as_u64().unwrap() as usize);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(hex(&*hkdf(&[], &seed, "mask-stream", &(super::pieces::ctx(), role))), case["key"]);
        assert_eq!(hex(Hash::of_bytes(&bytes).as_bytes()), case["sha256"]);
        assert_eq!(words_hex(&words[..16]), case["first"]);
        assert_eq!(words_hex(&words[words.len() - 16..]), case["last"]);
    }
    let chunked = &file["chunked"];
    let words = stream(
        &unhex_32(&chunked["seed"]),
        chunked["role"].as_str().unwrap(),
        chunked["words"].as_u64().unwrap() as usize,
    );
    let leaves = leaves(SiteIndex::new(file["sender"].as_u64().unwrap() as u8).unwrap(), &words);
    let published: Vec<[u8; 32]> = chunked["leaves"].as_array().unwrap().iter().map(unhex_32).collect();
    assert!(leaves.iter().map(Hash::as_bytes).eq(&published));
    assert_eq!(hex(merkle::root(&leaves).as_bytes()), chunked["root"]);
}

fn shares(file: &Value) {
    for case in file["cases"].as_array().unwrap() {
        let shares: Vec<[u8; 32]> = case["shares"].as_array().unwrap().iter().map(unhex_32).collect();
        let threshold = case["threshold"].as_u64().unwrap() as u16;
        let honest = Thresholds::new(shares.len(), shares.len(), 0).unwrap();
        let thresholds = Thresholds { threshold, ..honest };
        // The first holders, and the last.
        for skipped in [0, shares.len() - usize::from(threshold)] {
            let chosen: Vec<_> = (skipped..skipped + usize::from(threshold))
                .map(|at| (SiteIndex::from_position(at).unwrap(), shares[at]))
                .collect();
            let seed = shamir::combine(&chosen, &thresholds).unwrap();
            assert_eq!(hex(seed.as_bytes()), case["secret"]);
        }
    }
}

fn quantised(file: &Value) {
    for case in file["cases"].as_array().unwrap() {
        let layout = Layout::from_canonical(&unhex(&case["layout"])).unwrap();
        let number = |name: &str| case[name].as_u64().unwrap() as u32;
        let clip = f64::from_bits(u64::from_be_bytes(unhex(&case["clip_norm"]).try_into().unwrap()));
        let clip = ClipNorm::new(clip).unwrap();
        let context = context_for(&layout, number("members") as usize, clip, number("weight_cap"));
        let site: SiteName = case["site"].as_str().unwrap().parse().unwrap();
        let seed = case["study_seed"].as_str().unwrap().parse().unwrap();
        let key = RoundingKey::new(seed, &site, RoundNumber::new(number("round")).unwrap());
        let update = ClippedUpdate::clip(floats_of(&case["update"]), &layout, clip).unwrap();
        let words = encode(&context, number("weight"), update, &counts(case), &key).unwrap();
        assert_eq!(words_hex(&words), case["words"]);
    }
}

pub(super) fn counts(case: &Value) -> Vec<u32> {
    case["counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap() as u32).collect()
}

/// A share and its holder.
type Point = (SiteIndex, [u8; 32]);

/// A published attempt.
struct Transcript<'f> {
    file: &'f Value,
    context: Context,
    keys: BTreeMap<SiteName, VerifyingKey>,
    receipts: BTreeMap<SiteIndex, Receipt>,
}

fn transcript(file: &Value) {
    let coordinator = VerifyingKey::from_bytes(unhex_32(&file["coordinator"]));
    let opening: EpochOpening = signed(&unhex(&file["opening"]), &Principal::Coordinator, &coordinator);
    let context: Context = signed(&unhex(&file["context"]), &Principal::Coordinator, &coordinator);
    assert_eq!(hex(context.hash().hash().as_bytes()), file["ctx"]);
    assert!(opening.epoch == context.epoch && opening.serves(context.attempt));
    let keys: BTreeMap<SiteName, VerifyingKey> = file["site_keys"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(site, key)| (site.parse().unwrap(), VerifyingKey::from_bytes(unhex_32(key))))
        .collect();
    let mut transcript = Transcript { file, context, keys, receipts: BTreeMap::new() };
    for (site, receipt) in file["receipts"].as_object().unwrap() {
        let receipt: Receipt = transcript.signed_by(&site.parse().unwrap(), receipt);
        transcript.receipts.insert(receipt.sender, receipt);
    }
    transcript.pairs(&opening);
    transcript.vectors();
    transcript.dealings();
    transcript.opening();
    transcript.sum();
}

fn signed<T: Statement>(bytes: &[u8], by: &Principal, key: &VerifyingKey) -> T {
    Signed::<T>::from_canonical(bytes).unwrap().verify(by, key).unwrap().into_inner()
}

impl Transcript<'_> {
    fn signed_by<T: Statement>(&self, site: &SiteName, value: &Value) -> T {
        signed(&unhex(value), &Principal::Site(site.clone()), &self.keys[site])
    }

    fn site(&self, index: SiteIndex) -> &SiteName {
        self.context.selection.site(index).unwrap()
    }

    fn index(&self, site: &str) -> SiteIndex {
        self.context.selection.index_of(&site.parse().unwrap()).unwrap()
    }

    fn pairs(&self, opening: &EpochOpening) {
        let adverts: BTreeMap<SiteName, Advert> = self.file["adverts"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(site, advert)| (site.parse().unwrap(), self.signed_by(&site.parse().unwrap(), advert)))
            .collect();
        for member in self.context.selection.members() {
            assert_eq!(member.advert, adverts[&member.site].hash());
        }
        let list = |name: &str| self.file[name].as_array().unwrap().clone();
        let mut ciphertexts = BTreeMap::new();
        for value in list("encapsulations") {
            let from = Signed::<Encapsulation>::from_canonical(&unhex(&value)).unwrap().claim().unwrap().from;
            let encapsulation: Encapsulation = self.signed_by(&from, &value);
            ciphertexts.insert((from, encapsulation.to.clone()), encapsulation);
        }
        let mut tags = BTreeMap::new();
        for value in list("confirmations") {
            let from = Signed::<Confirmation>::from_canonical(&unhex(&value)).unwrap().claim().unwrap().from;
            let confirmation: Confirmation = self.signed_by(&from, &value);
            tags.insert((from, confirmation.to.clone()), confirmation.tag);
        }
        for pair in list("pairs") {
            let name = |end: &str| pair[end].as_str().unwrap().parse::<SiteName>().unwrap();
            let (lower, higher) = (name("lower"), name("higher"));
            let encapsulation = &ciphertexts[&(lower.clone(), higher.clone())];
            let agreed = derive(
                &unhex(&pair["mlkem"]),
                &unhex(&pair["x25519"]),
                &adverts[&lower],
                &adverts[&higher],
                &encapsulation.ciphertext,
            );
            assert_eq!(tags[&(lower.clone(), higher.clone())][..], agreed.tag_of_lower[..]);
            assert_eq!(tags[&(higher, lower)][..], agreed.tag_of_higher[..]);
            assert_eq!(hex(agreed.key.as_bytes()), pair["first_key"]);
            let steps = self.context.attempt.get() - opening.first_attempt.get();
            let key = (0..steps).fold(agreed.key, |key, _| key.step());
            assert_eq!(hex(key.as_bytes()), pair["key"]);
        }
    }

    /// The key that two selected sites have in the attempt, or one for itself.
    fn key(&self, a: &SiteName, b: &SiteName) -> PairKey {
        if a == b {
            return PairKey::from_bytes(&unhex_32(&self.file["own_keys"][a.as_str()]));
        }
        let (lower, higher) = (a.min(b), a.max(b));
        let pairs = self.file["pairs"].as_array().unwrap();
        let of = |pair: &&Value| pair["lower"] == lower.as_str() && pair["higher"] == higher.as_str();
        PairKey::from_bytes(&unhex_32(&pairs.iter().find(of).unwrap()["key"]))
    }

    fn vectors(&self) {
        let ctx = self.context.hash();
        for (site, vector) in self.file["vectors"].as_object().unwrap() {
            let (me, name) = (self.index(site), site.parse::<SiteName>().unwrap());
            let mut words = self.contribution(&name);
            let own = MaskSeed::from_bytes(&unhex_32(&vector["self_seed"]));
            let receipt = &self.receipts[&me];
            assert_eq!(receipt.self_commitment, own.commitment(&ctx, me, me));
            let mut streams = vec![Mask::new(&own, &ctx, Role::Own, Sign::Plus).stream(0)];
            for (peer, published) in vector["pair_seeds"].as_object().unwrap() {
                let seed = self.key(&name, &peer.parse().unwrap()).mask_seed(&ctx);
                assert_eq!(hex(seed.as_bytes()), *published);
                let peer = self.index(peer);
                assert_eq!(receipt.pair_commitment(peer), Some(&seed.commitment(&ctx, me, peer)));
                streams.push(Mask::new(&seed, &ctx, Role::Pair, Sign::of_pair(me, peer)).stream(0));
            }
            apply_all(&mut streams, &mut words, self.context.layout.exact_words());
            assert_eq!(words_hex(&words), vector["masked"]);
            let bytes = unhex(&vector["masked"]);
            let leaf = chunk_leaf(&ctx, me, 0, &bytes);
            assert_eq!(vector["leaves"].as_array().unwrap()[..], [hex(leaf.as_bytes())]);
            assert_eq!(receipt.chunks, merkle::root(&[leaf]));
        }
    }

    fn contribution(&self, site: &SiteName) -> Vec<u32> {
        let contribution = &self.file["contributions"][site.as_str()];
        let counts = counts(contribution);
        let words = if self.context.purpose == Purpose::Train {
            let seed = self.file["study_seed"].as_str().unwrap().parse().unwrap();
            let rounding = RoundingKey::new(seed, site, self.context.round);
            let update = floats_of(&contribution["update"]);
            let clipped = ClippedUpdate::clip(update, &self.context.layout, self.context.clip_norm).unwrap();
            let weight = contribution["weight"].as_u64().unwrap() as u32;
            encode(&self.context, weight, clipped, &counts, &rounding).unwrap()
        } else {
            encode_counts(&self.context, &counts).unwrap()
        };
        assert_eq!(words_hex(&words), contribution["words"]);
        words
    }

    fn dealings(&self) {
        for (dealer, envelopes) in self.file["envelopes"].as_object().unwrap() {
            let receipt = &self.receipts[&self.index(dealer)];
            let dealing = &self.file["dealings"][dealer];
            for (holder, envelope) in envelopes.as_object().unwrap() {
                let at = self.index(holder);
                let envelope = Envelope::from_canonical(&unhex(envelope)).unwrap();
                assert_eq!(receipt.envelope(at), Some(&envelope.hash()));
                let key = self.key(&dealer.parse().unwrap(), &holder.parse().unwrap());
                let row = Row::open(&key, &envelope, receipt).map_err(|_| "it opens").unwrap();
                let (shares, salt) = row.parts();
                assert_eq!(hex(salt), dealing["row_salts"][at.position()]);
                let shares: Vec<Value> = shares.iter().map(|share| hex(share.as_slice())).collect();
                assert_eq!(Value::from(shares), dealing["shares"][at.position()]);
            }
        }
    }

    fn opening(&self) {
        let ctx = self.context.hash();
        let survivors = Survivors::from_canonical(&unhex(&self.file["survivors"])).unwrap();
        assert_eq!(hex(survivors.hash().as_bytes()), self.file["survivors_hash"]);
        let request = UnmaskRequest::from_canonical(&unhex(&self.file["request"])).unwrap();
        assert!(request.ctx == ctx && request.survivors == survivors);
        let mut signers = survivors.indices();
        for (signature, published) in
            request.signatures.iter().zip(self.file["signatures"].as_array().unwrap())
        {
            assert_eq!(hex(&signature.to_canonical()), *published);
            let site = self.site(signers.next().unwrap()).clone();
            let statement: SurvivorsSignature = self.signed_by(&site, published);
            assert!(statement.ctx == ctx && statement.survivors == survivors.hash());
        }
        // By dealer and by whom a seed is about.
        let mut given: BTreeMap<(SiteIndex, SiteIndex), Vec<Point>> = BTreeMap::new();
        for (holder, answer) in self.file["answers"].as_object().unwrap() {
            let answer: Answer = self.signed_by(&holder.parse().unwrap(), answer);
            assert_eq!(answer.holder, self.index(holder));
            for shares in &answer.dealers {
                assert!(shares_match(&self.receipts[&shares.dealer], answer.holder, shares));
                for opened in &shares.shares {
                    let list = given.entry((shares.dealer, opened.about)).or_default();
                    list.push((answer.holder, *opened.share));
                }
            }
        }
        for mask in self.opened().masks {
            let shares = &given[&(mask.survivor, mask.peer)];
            let threshold = usize::from(self.context.thresholds.threshold);
            let seed = shamir::combine(&shares[..threshold], &self.context.thresholds).unwrap();
            assert_eq!(seed.as_bytes()[..], mask.seed[..]);
        }
    }

    fn opened(&self) -> OpenedSeeds {
        let index = |value: &Value| SiteIndex::new(value.as_u64().unwrap() as u8).unwrap();
        let mask = |value: &Value| OpenedMask {
            survivor: index(&value["survivor"]),
            peer: index(&value["peer"]),
            seed: unhex_32(&value["seed"]).into(),
        };
        OpenedSeeds { masks: self.file["opened"].as_array().unwrap().iter().map(mask).collect() }
    }

    fn sum(&self) {
        let mut sum = Accumulator::new(&self.context.layout);
        for vector in self.file["vectors"].as_object().unwrap().values() {
            sum.add_chunk(0, &unhex(&vector["masked"])).unwrap();
        }
        sum.remove_masks(&self.context, &self.opened(), 2);
        let words = sum.into_words();
        assert_eq!(words_hex(&words), self.file["sum"]);
        assert_eq!(words, words_of(&self.file["sum"]));
        assert_eq!(hex(Hash::of_bytes(&unhex(&self.file["sum"])).as_bytes()), self.file["aggregate"]);
        let decoded = decode(&self.context, words).unwrap();
        assert_eq!(floats_hex(&decoded.update), self.file["mean"]);
        assert_eq!(Value::from(decoded.saturated), self.file["saturated"]);
        assert_eq!(Value::from(decoded.counts), self.file["counts"]);
        assert_eq!(
            (Value::from(decoded.weight), Value::from(decoded.clipped)),
            (self.file["weight"].clone(), self.file["clipped"].clone())
        );
    }
}
