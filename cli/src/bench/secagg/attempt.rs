//! A whole attempt, from a trained update to the mean, with the time of each side.
//!
//! Real machines, real messages. A site rounds and masks on all cores; the coordinator checks vectors, adds them and takes
//! masks off on all, as it does behind its network. What is not in it: network, TLS, disk, training. The sum is compared
//! with a plain one.

use std::collections::BTreeSet;
use std::num::NonZero;

use anyhow::{Context as _, bail};
use consilium_secagg::accumulator::Accumulator;
use consilium_secagg::coordinator::CollectMasked;
use consilium_secagg::quantiser::{ClippedUpdate, RoundingKey, decode, encode_on};
use consilium_secagg::ring::{Ring, add_plain};
use consilium_secagg::site::Begun;
use consilium_study::canonical::Canonical as _;
use consilium_study::name::SiteName;
use serde::Serialize;

use super::kernels::Floors;
use super::parties::{Parties, WEIGHT_CAP};
use super::stopwatch::{Peak, Stopwatch};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) sites: usize,
    pub(super) parameters: u32,
    /// Sites that are selected and never upload.
    pub(super) lost: usize,
    pub(super) ring: Ring,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Attempt {
    /// Bits of an update's number in the sum.
    pub(super) ring_bits: u8,
    pub(super) sites: usize,
    pub(super) parameters: u32,
    pub(super) lost: usize,
    /// Median over the survivors: clip, quantise, mask, hash, seal, open envelopes, sign, answer.
    pub(super) client_seconds: f64,
    /// Check every chunk and message, add, rebuild seeds, take masks off, dequantise.
    pub(super) coordinator_seconds: f64,
    /// Key stream of a site's masks alone.
    pub(super) client_floor_seconds: f64,
    /// Plain sum of all vectors, and key stream of the masks that are left in it on all cores.
    pub(super) coordinator_floor_seconds: f64,
    /// One site's share of an epoch's setup: with all others, once in up to a hundred attempts.
    pub(super) setup_seconds: f64,
    /// What one site sends.
    pub(super) bytes_up: u64,
    /// The same in words of 4 bytes, by parameter.
    pub(super) words_per_parameter: f64,
    /// Most memory of the coordinator beside the sum itself.
    pub(super) coordinator_bytes_over_sum: Option<u64>,
}

/// Numbers that look like an update, the same for every site; each rounds them in its own way.
fn update(parameters: u32) -> Vec<f32> {
    let scale = 0.5 / f64::from(parameters).sqrt();
    (0..parameters)
        .map(|at| {
            let mixed = at.wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(0x9E37_79B1);
            (f64::from(mixed.cast_signed()) / f64::from(1_u32 << 31) * scale) as f32
        })
        .collect()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Checks a vector on all cores: a coordinator receives the uploads of several sites at a time.
fn check(phase: &CollectMasked, site: &SiteName, spool: &[Vec<u8>]) -> anyhow::Result<()> {
    let length = spool.len().div_ceil(threads());
    let part = |(part, chunks): (usize, &[Vec<u8>])| {
        let mut chunks = chunks.iter().enumerate();
        chunks.try_for_each(|(index, chunk)| phase.check_chunk(site, part * length + index, chunk))
    };
    std::thread::scope(|scope| {
        let mut parts = spool.chunks(length).enumerate();
        let first = parts.next();
        let others: Vec<_> = parts.map(|other| scope.spawn(move || part(other))).collect();
        first.map_or(Ok(()), part)?;
        for other in others {
            other.join().expect("a check does not panic")?;
        }
        Ok(())
    })
}

/// Runs an attempt.
pub(super) fn measure(case: Case, floors: Floors) -> anyhow::Result<Attempt> {
    let Case { sites, parameters, lost, ring } = case;
    let mut setup = Stopwatch::default();
    let mut parties = setup.time(|| Parties::new(sites, parameters, ring))?;
    let signed = parties.context()?;
    let context = signed.claim()?;
    let ctx = context.hash();
    let update = update(parameters);

    let mut coordinator = Stopwatch::default();
    let mut peak = Peak::default();
    let mut clients: Vec<Stopwatch> = Vec::new();
    let mut bytes_up = 0;
    let pin = parties.pin.clone();
    let mut phase = CollectMasked::new(&pin, &signed, BTreeSet::new())?;
    let mut sum = Accumulator::new(&context.layout);
    // Memory that was never written is not there yet; the sum's own is no surprise.
    for index in 0..context.layout.chunks() {
        sum.add_chunk(index, &vec![0; context.layout.chunk_bytes(index).unwrap_or_default()])?;
    }
    let mut spools = Vec::new();
    let mut plain = vec![0_u32; context.layout.words()];
    let survivors = sites - lost;
    for site in parties.sites.iter_mut().take(survivors) {
        let mut client = Stopwatch::default();
        let raw = update.clone();
        let Begun::Mask(permit) = client.time(|| site.say(|machine, book| machine.begin(&signed, book)))?
        else {
            bail!("a site that sealed nothing gives a permit");
        };
        let rounding = RoundingKey::new(1, &site.name, context.round);
        let vector = client.time(|| {
            let clipped = ClippedUpdate::clip(raw, &context.layout, context.clip_norm)?;
            encode_on(threads(), &context, WEIGHT_CAP, clipped, &[1, 2], &rounding)
        })?;
        add_plain(&context.layout, &mut plain, &vector);
        let mut masker = client.time(|| site.machine.mask(permit, vector))?.on(threads());
        let mut spool = Vec::new();
        while let Some(chunk) = client.time(|| masker.next_chunk()) {
            spool.push(chunk.bytes.to_vec());
        }
        let upload = client.time(|| -> anyhow::Result<_> {
            let masked = masker.finish()?;
            site.say(|machine, book| machine.seal(masked, book))
        })?;
        bytes_up =
            upload.to_canonical().len() as u64 + spool.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        peak.watch(|| {
            coordinator.time(|| -> anyhow::Result<()> {
                phase.take_upload(&pin, &site.name, upload)?;
                check(&phase, &site.name, &spool)?;
                Ok(phase.complete(&site.name)?)
            })
        })?;
        spools.push(spool);
        clients.push(client);
    }
    for (site, client) in parties.sites.iter_mut().zip(&mut clients) {
        let (receipts, envelopes) =
            coordinator.time(|| (phase.receipts_for(&site.name), phase.envelopes_for(&site.name)));
        let verdicts = client.time(|| {
            site.say(|machine, _| machine.take_receipts(&ctx, &receipts))?;
            site.say(|machine, _| machine.take_envelopes(&ctx, &envelopes))
        })?;
        bytes_up += verdicts.to_canonical().len() as u64 / survivors as u64;
        coordinator.time(|| phase.take_verdicts(&site.name, &verdicts))?;
    }
    let closed = coordinator.time(|| phase.close(&pin, 0).map_err(|(_, reason)| reason));
    let mut phase = closed.context("the survivors are enough")?;
    for (site, client) in parties.sites.iter_mut().zip(&mut clients) {
        let signature =
            client.time(|| site.say(|machine, book| machine.sign(&ctx, phase.survivors(), book)))?;
        bytes_up += signature.to_canonical().len() as u64 / survivors as u64;
        coordinator.time(|| phase.take_signature(&pin, &site.name, &signature))?;
    }
    let mut phase = coordinator.time(|| phase.unmask().ok()).context("every survivor has signed")?;
    for (site, client) in parties.sites.iter_mut().zip(&mut clients) {
        let answer = client.time(|| site.say(|machine, book| machine.answer(phase.request(), book)))?;
        bytes_up += answer.to_canonical().len() as u64 / survivors as u64;
        peak.watch(|| coordinator.time(|| phase.take_answer(&pin, &site.name, &answer)))?;
    }
    let words = peak.watch(|| {
        coordinator.time(|| -> anyhow::Result<_> {
            let seeds = phase.recover()?;
            sum.add_vectors(spools.len(), threads(), |vector, index| anyhow::Ok(&spools[vector][index]))?;
            sum.remove_masks(&context, &seeds, threads());
            Ok(sum.into_words())
        })
    })?;
    anyhow::ensure!(words == plain, "the sum under masks is not the plain one");
    peak.watch(|| coordinator.time(|| decode(&context, words)))?;

    let mut seconds: Vec<f64> = clients.iter().map(Stopwatch::seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let words = context.layout.words() as f64;
    let left = (survivors + survivors * lost) as f64;
    Ok(Attempt {
        ring_bits: ring.bits(),
        sites,
        parameters,
        lost,
        client_seconds: seconds[seconds.len() / 2],
        coordinator_seconds: coordinator.seconds(),
        client_floor_seconds: words * sites as f64 * floors.stream / threads() as f64,
        coordinator_floor_seconds: words
            * (survivors as f64 * floors.sum + left * floors.stream / threads() as f64),
        setup_seconds: setup.seconds() / sites as f64,
        bytes_up,
        words_per_parameter: bytes_up as f64 / 4.0 / f64::from(parameters),
        coordinator_bytes_over_sum: peak.bytes(),
    })
}
