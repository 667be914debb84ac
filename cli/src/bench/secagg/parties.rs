//! Sites and coordinator of one attempt, with their state in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context as _;
use consilium_secagg::context::{Context, ContextFields, PROTOCOL_VERSION, Purpose, Selection};
use consilium_secagg::coordinator::EpochSetup;
use consilium_secagg::layout::{Block, BlockKind, CHUNK_WORDS, Layout};
use consilium_secagg::message::EpochOpening;
use consilium_secagg::numbering::{Attempt, Epoch, MAX_ATTEMPTS_PER_EPOCH, RoundNumber};
use consilium_secagg::pin::StudyPin;
use consilium_secagg::quantiser::ClipNorm;
use consilium_secagg::ring::Ring;
use consilium_secagg::site::{RepeatBook, SiteMachine, SiteRefusal, Store, Unsent};
use consilium_secagg::terms::Floors;
use consilium_secagg::threshold::Thresholds;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, SigningKey};

/// Bound on an update's norm, and range of its entries.
pub(super) const CLIP_NORM: f64 = 1.0;
/// Largest weight.
pub(super) const WEIGHT_CAP: u32 = 64;

/// Two numbers stand beside the update, as a training round has them.
pub(super) fn layout(parameters: u32, ring: Ring) -> anyhow::Result<Layout> {
    let block = Block { kind: BlockKind::Update, length: parameters, range_exponent: 0 };
    Layout::new(vec![block], 2)
        .and_then(|layout| layout.in_ring(ring))
        .context("the layout of the measured vector")
}

pub(super) fn site_name(position: usize) -> SiteName {
    format!("site-{position:03}").parse().expect("digits make a name")
}

/// The fields of a context in which every site of the study is selected.
pub(super) fn fields(pin: &StudyPin, adverts: impl Fn(&SiteName) -> Hash) -> anyhow::Result<ContextFields> {
    let selection = Selection::new(pin.sites.keys().map(|site| (site.clone(), adverts(site))))?;
    Ok(ContextFields {
        version: PROTOCOL_VERSION,
        study: pin.study,
        roster: pin.roster,
        epoch: Epoch::new(1)?,
        round: RoundNumber::new(1)?,
        attempt: Attempt::new(1)?,
        purpose: Purpose::Train,
        model: pin.initial_model,
        baseline: None,
        groups: 1,
        grouping: None,
        thresholds: Thresholds::new(pin.sites.len(), selection.len(), 0)?,
        selection,
        layout: pin.layouts[&Purpose::Train].clone(),
        chunk_words: CHUNK_WORDS as u32,
        ring_bits: pin.layouts[&Purpose::Train].ring().bits(),
        clip_norm: pin.clip_norm,
        weight_cap: WEIGHT_CAP,
        noise: 0,
        control: None,
    })
}

/// State in memory, where a site has a disk.
#[derive(Default)]
struct Memory {
    chain: Vec<u8>,
    record: Vec<u8>,
    book: Vec<u8>,
}

impl Store for Memory {
    type Error = Infallible;

    fn save_chain(&mut self, _: &Hash, chain: &[u8]) -> Result<(), Infallible> {
        self.chain = chain.to_vec();
        Ok(())
    }

    fn save_record(&mut self, _: &Hash, record: &[u8], book: Option<&[u8]>) -> Result<(), Infallible> {
        self.record = record.to_vec();
        if let Some(book) = book {
            self.book = book.to_vec();
        }
        Ok(())
    }
}

/// One site.
pub(super) struct Site {
    pub(super) name: SiteName,
    pub(super) machine: SiteMachine,
    pub(super) book: RepeatBook,
    memory: Memory,
}

impl Site {
    /// Writes before speaking, as a site does.
    pub(super) fn say<T>(
        &mut self,
        act: impl FnOnce(&mut SiteMachine, &mut RepeatBook) -> Result<Unsent<T>, SiteRefusal>,
    ) -> anyhow::Result<T> {
        let unsent = act(&mut self.machine, &mut self.book)?;
        let proof = match self.machine.persist(&mut self.book, &mut self.memory) {
            Ok(proof) => proof,
            Err(never) => match never {},
        };
        Ok(unsent.open(&proof)?)
    }
}

/// A study with its sites, whose pairs are settled.
pub(super) struct Parties {
    pub(super) pin: StudyPin,
    pub(super) sites: Vec<Site>,
    coordinator: SigningKey,
    setup: EpochSetup,
}

/// What a study of the bench pins.
pub(super) fn pin(
    sites: usize,
    parameters: u32,
    ring: Ring,
) -> anyhow::Result<(StudyPin, SigningKey, Vec<SigningKey>)> {
    let coordinator = SigningKey::generate();
    let keys: Vec<_> = (0..sites).map(|_| SigningKey::generate()).collect();
    let named = keys.iter().enumerate().map(|(at, key)| (site_name(at), key.verifying_key()));
    let pin = StudyPin {
        study: Hash::of_bytes(b"bench"),
        roster: Hash::of_bytes(b"roster"),
        coordinator: coordinator.verifying_key(),
        sites: named.collect(),
        rounds: 1,
        initial_model: Hash::of_bytes(b"model"),
        min_honest: 0,
        clip_norm: ClipNorm::new(CLIP_NORM)?,
        weight_cap: WEIGHT_CAP,
        noise: 0,
        groups: 1,
        control: false,
        layouts: BTreeMap::from([(Purpose::Train, layout(parameters, ring)?)]),
    };
    Ok((pin, coordinator, keys))
}

impl Parties {
    /// Makes keys and settles all pairs.
    pub(super) fn new(sites: usize, parameters: u32, ring: Ring) -> anyhow::Result<Self> {
        let (pin, coordinator, keys) = pin(sites, parameters, ring)?;
        let opening = EpochOpening {
            study: pin.study,
            roster: pin.roster,
            epoch: Epoch::new(1)?,
            first_attempt: Attempt::new(1)?,
            attempts: MAX_ATTEMPTS_PER_EPOCH,
        };
        let opening = Signed::seal(&opening, Principal::Coordinator, &coordinator);
        let setup = EpochSetup::new(&pin, &opening)?;
        let site = |(at, key): (usize, SigningKey)| -> anyhow::Result<Site> {
            let (name, key) = (site_name(at), Arc::new(key));
            let machine = SiteMachine::new(pin.clone(), name.clone(), key, Floors::default())?;
            Ok(Site { name, machine, book: RepeatBook::new(), memory: Memory::default() })
        };
        let sites = keys.into_iter().enumerate().map(site).collect::<anyhow::Result<_>>()?;
        let mut parties = Self { pin, sites, coordinator, setup };
        parties.settle()?;
        Ok(parties)
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        let Self { pin, sites, setup, .. } = self;
        for site in &mut *sites {
            let advert = site.say(|machine, _| machine.open_epoch(setup.opening()))?;
            setup.take_advert(pin, &advert)?;
        }
        // Adverts and ciphertexts; tags; who is settled.
        for _ in 0..3 {
            for site in &mut *sites {
                let mail = setup.mail_for(&site.name);
                let first = site.say(|machine, _| machine.take_adverts(&mail.adverts))?;
                let second = site.say(|machine, _| machine.take_encapsulations(&mail.encapsulations))?;
                for reply in [first, second] {
                    for encapsulation in &reply.encapsulations {
                        setup.take_encapsulation(pin, encapsulation)?;
                    }
                    for confirmation in &reply.confirmations {
                        setup.take_confirmation(pin, confirmation)?;
                    }
                }
                site.say(|machine, _| machine.take_confirmations(&mail.confirmations))?;
                let settled = site.machine.pairs_settled().expect("an epoch was opened above");
                setup.take_settled(&site.name, settled.with);
            }
        }
        let everybody: BTreeSet<_> = sites.iter().map(|site| site.name.clone()).collect();
        anyhow::ensure!(
            setup.selectable(&everybody).len() == everybody.len(),
            "every pair of sites agrees on a key"
        );
        Ok(())
    }

    /// The context of an attempt with everybody.
    pub(super) fn context(&self) -> anyhow::Result<Signed<Context>> {
        let advert = |site: &SiteName| self.setup.advert(site).expect("every site has advertised its keys");
        let context = Context::new(fields(&self.pin, advert)?)?;
        Ok(Signed::seal(&context, Principal::Coordinator, &self.coordinator))
    }
}
