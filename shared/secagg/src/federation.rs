//! A whole federation in memory, over the real machines on both sides. For tests.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use consilium_study::canonical::Canonical;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, SigningKey};

use crate::accumulator::{Accumulator, OpenedSeeds};
use crate::context::{Context, ContextFields, CtxHash, PROTOCOL_VERSION, Purpose, Selection};
use crate::coordinator::{CollectMasked, ConsistencyCheck, EpochSetup, Unmask};
use crate::layout::{CHUNK_WORDS, Layout};
use crate::message::{DrawCall, DrawFields, EpochOpening, Participant, Upload};
use crate::numbering::{Attempt, Epoch, RoundNumber};
use crate::pin::StudyPin;
use crate::quantiser::ClipNorm;
use crate::site::{Begun, RepeatBook, SiteMachine, SiteRefusal, Store, Unsent};
use crate::terms::Floors;
use crate::threshold::Thresholds;

/// What a site has on disk.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) chain: Option<Vec<u8>>,
    pub(crate) record: Option<Vec<u8>>,
    pub(crate) book: Option<Vec<u8>>,
}

impl Store for Disk {
    type Error = Infallible;

    fn save_chain(&mut self, _: &Hash, chain: &[u8]) -> Result<(), Infallible> {
        self.chain = Some(chain.to_vec());
        Ok(())
    }

    fn save_record(&mut self, _: &Hash, record: &[u8], book: Option<&[u8]>) -> Result<(), Infallible> {
        self.record = Some(record.to_vec());
        if let Some(book) = book {
            self.book = Some(book.to_vec());
        }
        Ok(())
    }
}

/// A site: its machine, its disk, its spool.
pub(crate) struct Node {
    pub(crate) name: SiteName,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) floors: Floors,
    pub(crate) machine: SiteMachine,
    pub(crate) book: RepeatBook,
    pub(crate) disk: Disk,
    pub(crate) spool: Vec<Vec<u8>>,
    /// Kill and restart the site after everything it does.
    pub(crate) restless: bool,
}

impl Node {
    /// Persists, and lets a message out.
    pub(crate) fn say<T>(
        &mut self,
        pin: &StudyPin,
        act: impl FnOnce(&mut SiteMachine, &mut RepeatBook) -> Result<Unsent<T>, SiteRefusal>,
    ) -> Result<T, SiteRefusal> {
        let unsent = act(&mut self.machine, &mut self.book);
        let proof = self.machine.persist(&mut self.book, &mut self.disk).unwrap();
        let message = unsent.map(|unsent| unsent.open(&proof).unwrap());
        if self.restless {
            self.restart(pin);
        }
        message
    }

    /// Forgets everything that is not on disk.
    pub(crate) fn restart(&mut self, pin: &StudyPin) {
        let Disk { chain, record, book } = &self.disk;
        self.machine = match record {
            Some(record) => SiteMachine::restore(
                pin.clone(),
                self.name.clone(),
                self.key.clone(),
                self.floors.clone(),
                record,
                chain.as_deref(),
            )
            .unwrap(),
            None => SiteMachine::new(pin.clone(), self.name.clone(), self.key.clone(), self.floors.clone())
                .unwrap(),
        };
        self.book = book.as_ref().map_or_else(RepeatBook::new, |bytes| RepeatBook::restore(bytes).unwrap());
    }

    /// Accepts a context, masks and seals.
    pub(crate) fn upload(
        &mut self,
        pin: &StudyPin,
        context: &Signed<Context>,
        vector: &[u32],
    ) -> Result<Upload, SiteRefusal> {
        match self.say(pin, |machine, book| machine.begin(context, book))? {
            Begun::Sealed(upload) => Ok(*upload),
            Begun::Mask(permit) => {
                let mut masker = self.machine.mask(permit, vector.to_vec())?;
                self.spool.clear();
                while let Some(chunk) = masker.next_chunk() {
                    self.spool.push(chunk.bytes.to_vec());
                }
                let masked = masker.finish().unwrap();
                self.say(pin, |machine, book| machine.seal(masked, book))
            }
        }
    }
}

pub(crate) struct Federation {
    pub(crate) pin: StudyPin,
    pub(crate) coordinator: Arc<SigningKey>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) setup: EpochSetup,
}

pub(crate) fn name(position: usize) -> SiteName {
    SiteName::new(format!("site-{position:03}")).unwrap()
}

impl Federation {
    /// `sites` sites whose pairs are settled, for vectors of this layout in every kind of sum.
    pub(crate) fn new(sites: usize, layout: &Layout) -> Self {
        Self::with(sites, layout, |_| Floors::default(), false)
    }

    pub(crate) fn with(
        sites: usize,
        layout: &Layout,
        floors: impl Fn(usize) -> Floors,
        restless: bool,
    ) -> Self {
        let mut federation = Self::unsettled(sites, layout, floors, restless);
        federation.settle();
        federation
    }

    /// Sites that have drawn `groups` groups.
    pub(crate) fn grouped(sites: usize, layout: &Layout, groups: u16) -> Self {
        let mut federation = Self::unsettled(sites, layout, |_| Floors::default(), false);
        federation.group_by(groups);
        federation.settle();
        federation.draw();
        federation
    }

    /// The study splits its sites.
    pub(crate) fn group_by(&mut self, groups: u16) {
        self.pin.groups = groups;
        for node in &mut self.nodes {
            node.restart(&self.pin);
        }
    }

    /// The call of a draw in which everybody takes part.
    pub(crate) fn call(&self) -> DrawFields {
        let participants = self.nodes.iter().map(|node| Participant {
            site: node.name.clone(),
            advert: self.setup.advert(&node.name).unwrap(),
        });
        let EpochOpening { study, epoch, .. } = *self.setup.statement();
        DrawFields { study, epoch, participants: participants.collect() }
    }

    pub(crate) fn sign_call(&self, call: DrawFields) -> Signed<DrawCall> {
        Signed::seal(&DrawCall::new(call).unwrap(), Principal::Coordinator, &self.coordinator)
    }

    /// Everybody draws groups.
    pub(crate) fn draw(&mut self) {
        let call = self.sign_call(self.call());
        let Self { pin, nodes, setup, .. } = self;
        setup.call_draw(pin, &call).unwrap();
        for node in &mut *nodes {
            let reveal = node.say(pin, |machine, _| machine.reveal(&call)).unwrap();
            setup.take_reveal(pin, &reveal).unwrap();
        }
        for node in &mut *nodes {
            let mail = setup.mail_for(&node.name);
            assert_eq!(node.machine.take_reveals(&mail.reveals), Ok(vec![]));
            node.machine.persist(&mut node.book, &mut node.disk).map(drop).unwrap();
        }
    }

    /// Sites that have not heard of an epoch yet.
    pub(crate) fn unsettled(
        sites: usize,
        layout: &Layout,
        floors: impl Fn(usize) -> Floors,
        restless: bool,
    ) -> Self {
        let coordinator = Arc::new(SigningKey::generate());
        let keys: Vec<_> = (0..sites).map(|_| Arc::new(SigningKey::generate())).collect();
        let purposes = [Purpose::Train, Purpose::Evaluate, Purpose::Statistics];
        let pin = StudyPin {
            study: Hash::of_bytes(b"study"),
            roster: Hash::of_bytes(b"roster"),
            coordinator: coordinator.verifying_key(),
            sites: keys.iter().enumerate().map(|(at, key)| (name(at), key.verifying_key())).collect(),
            rounds: 1000,
            initial_model: Hash::of_bytes(b"initial model"),
            min_honest: 0,
            clip_norm: ClipNorm::new(1.0).unwrap(),
            weight_cap: 64,
            noise: 0,
            groups: 1,
            control: false,
            layouts: purposes.into_iter().map(|purpose| (purpose, layout.clone())).collect(),
        };
        let nodes = keys
            .into_iter()
            .enumerate()
            .map(|(at, key)| Node {
                name: name(at),
                machine: SiteMachine::new(pin.clone(), name(at), key.clone(), floors(at)).unwrap(),
                key,
                floors: floors(at),
                book: RepeatBook::new(),
                disk: Disk::default(),
                spool: Vec::new(),
                restless,
            })
            .collect();
        let opening = opening(&pin, &coordinator, 1, 1);
        let setup = EpochSetup::new(&pin, &opening).unwrap();
        Self { pin, coordinator, nodes, setup }
    }

    /// Opens an epoch for all.
    pub(crate) fn open_epoch(&mut self, epoch: u32, first_attempt: u32) {
        let opening = opening(&self.pin, &self.coordinator, epoch, first_attempt);
        self.setup = EpochSetup::new(&self.pin, &opening).unwrap();
        self.settle();
    }

    /// Passes setup messages on until nobody has anything new to say.
    fn settle(&mut self) {
        self.advertise();
        self.settle_pairs();
    }

    /// Everybody makes keys.
    pub(crate) fn advertise(&mut self) {
        let Self { pin, nodes, setup, .. } = self;
        for node in &mut *nodes {
            let advert = node.say(pin, |machine, _| machine.open_epoch(setup.opening())).unwrap();
            setup.take_advert(pin, &advert).unwrap();
        }
    }

    /// All pairs agree.
    pub(crate) fn settle_pairs(&mut self) {
        let Self { pin, nodes, setup, .. } = self;
        for _ in 0..3 {
            for node in &mut *nodes {
                let mail = setup.mail_for(&node.name);
                let first = node.say(pin, |machine, _| machine.take_adverts(&mail.adverts)).unwrap();
                let second =
                    node.say(pin, |machine, _| machine.take_encapsulations(&mail.encapsulations)).unwrap();
                for reply in [first, second] {
                    assert_eq!(reply.refused, []);
                    for encapsulation in &reply.encapsulations {
                        setup.take_encapsulation(pin, encapsulation).unwrap();
                    }
                    for confirmation in &reply.confirmations {
                        setup.take_confirmation(pin, confirmation).unwrap();
                    }
                }
                let reply =
                    node.say(pin, |machine, _| machine.take_confirmations(&mail.confirmations)).unwrap();
                assert_eq!(reply.refused, []);
                setup.take_settled(&node.name, node.machine.pairs_settled().unwrap().with);
            }
        }
        let everybody = nodes.iter().map(|node| node.name.clone()).collect();
        assert_eq!(setup.selectable(&everybody).len(), nodes.len());
    }

    /// The fields of a context in which everybody is selected.
    pub(crate) fn fields(&self, attempt: u32) -> ContextFields {
        let everybody: BTreeSet<_> = self.nodes.iter().map(|node| node.name.clone()).collect();
        self.fields_of(attempt, &everybody)
    }

    pub(crate) fn fields_of(&self, attempt: u32, sites: &BTreeSet<SiteName>) -> ContextFields {
        let selected = sites.iter().map(|site| (site.clone(), self.setup.advert(site).unwrap()));
        let selection = Selection::new(selected).unwrap();
        ContextFields {
            version: PROTOCOL_VERSION,
            study: self.pin.study,
            roster: self.pin.roster,
            epoch: self.setup.statement().epoch,
            // The first round would have to start from the study's own model.
            round: RoundNumber::new(attempt + 1).unwrap(),
            attempt: Attempt::new(attempt).unwrap(),
            purpose: Purpose::Train,
            model: Hash::of_bytes(&attempt.to_le_bytes()),
            baseline: None,
            groups: self.pin.groups,
            grouping: self.setup.drawn().and_then(|drawn| drawn.grouping(&selection)),
            thresholds: Thresholds::new(self.pin.sites.len(), selection.len(), 0).unwrap(),
            selection,
            ring_bits: self.pin.layouts[&Purpose::Train].ring().bits(),
            layout: self.pin.layouts[&Purpose::Train].clone(),
            chunk_words: CHUNK_WORDS as u32,
            clip_norm: self.pin.clip_norm,
            weight_cap: self.pin.weight_cap,
            noise: 0,
            control: None,
        }
    }

    pub(crate) fn sign(&self, fields: ContextFields) -> Signed<Context> {
        Signed::seal(&Context::new(fields).unwrap(), Principal::Coordinator, &self.coordinator)
    }

    /// Everybody masks `vectors`, shape `[sites][words]`, and the coordinator has everything.
    pub(crate) fn collect(&mut self, context: &Signed<Context>, vectors: &[Vec<u32>]) -> CollectMasked {
        let mut phase = CollectMasked::new(&self.pin, context, BTreeSet::new()).unwrap();
        for (node, vector) in self.nodes.iter_mut().zip(vectors) {
            if phase.context().selection.index_of(&node.name).is_some() {
                let upload = node.upload(&self.pin, context, vector).unwrap();
                arrive(&self.pin, &mut phase, node, upload);
            }
        }
        for node in &mut self.nodes {
            if phase.context().selection.index_of(&node.name).is_some() {
                judge(&self.pin, &mut phase, node);
            }
        }
        phase
    }

    /// The survivors sign and everybody answers.
    pub(crate) fn open(&mut self, phase: ConsistencyCheck) -> Unmask {
        let ctx = phase.context().hash();
        let mut phase = phase;
        let (selection, survivors) = (phase.context().selection.clone(), phase.names());
        for node in self.nodes.iter_mut().filter(|node| survivors.contains(&node.name)) {
            sign(&self.pin, &ctx, &mut phase, node).unwrap();
        }
        let mut phase = phase.unmask().unwrap();
        for node in self.nodes.iter_mut().filter(|node| selection.index_of(&node.name).is_some()) {
            answer(&self.pin, &mut phase, node).unwrap();
        }
        phase
    }

    /// The sum of the spools of the survivors, with their masks removed.
    pub(crate) fn sum(
        &self,
        context: &Context,
        survivors: &BTreeSet<SiteName>,
        opened: &OpenedSeeds,
    ) -> Vec<u32> {
        let mut sum = Accumulator::new(&context.layout);
        for node in self.nodes.iter().filter(|node| survivors.contains(&node.name)) {
            for (index, chunk) in node.spool.iter().enumerate() {
                sum.add_chunk(index, chunk).unwrap();
            }
        }
        sum.remove_masks(context, opened, 2);
        sum.into_words()
    }
}

pub(crate) fn opening(
    pin: &StudyPin,
    coordinator: &SigningKey,
    epoch: u32,
    first_attempt: u32,
) -> Signed<EpochOpening> {
    let opening = EpochOpening {
        study: pin.study,
        roster: pin.roster,
        epoch: Epoch::new(epoch).unwrap(),
        first_attempt: Attempt::new(first_attempt).unwrap(),
        attempts: 100,
    };
    Signed::seal(&opening, Principal::Coordinator, coordinator)
}

/// An upload arrives completely.
pub(crate) fn arrive(pin: &StudyPin, phase: &mut CollectMasked, node: &Node, upload: Upload) {
    phase.take_upload(pin, &node.name, upload).unwrap();
    for (index, chunk) in node.spool.iter().enumerate() {
        phase.check_chunk(&node.name, index, chunk).unwrap();
    }
    phase.complete(&node.name).unwrap();
}

/// A site opens the envelopes that are there for it.
pub(crate) fn judge(pin: &StudyPin, phase: &mut CollectMasked, node: &mut Node) {
    let ctx = phase.context().hash();
    let (receipts, envelopes) = (phase.receipts_for(&node.name), phase.envelopes_for(&node.name));
    node.say(pin, |machine, _| machine.take_receipts(&ctx, &receipts)).unwrap();
    let verdicts = node.say(pin, |machine, _| machine.take_envelopes(&ctx, &envelopes)).unwrap();
    phase.take_verdicts(&node.name, &verdicts).unwrap();
}

pub(crate) fn sign(
    pin: &StudyPin,
    ctx: &CtxHash,
    phase: &mut ConsistencyCheck,
    node: &mut Node,
) -> Result<(), SiteRefusal> {
    let receipts = phase.receipts();
    node.say(pin, |machine, _| machine.take_receipts(ctx, &receipts))?;
    let signature = node.say(pin, |machine, book| machine.sign(ctx, phase.survivors(), book))?;
    phase.take_signature(pin, &node.name, &signature).unwrap();
    Ok(())
}

pub(crate) fn answer(pin: &StudyPin, phase: &mut Unmask, node: &mut Node) -> Result<(), SiteRefusal> {
    let (ctx, receipts) = (phase.context().hash(), phase.receipts());
    let envelopes = phase.envelopes_for(&node.name);
    node.say(pin, |machine, _| machine.take_receipts(&ctx, &receipts))?;
    node.say(pin, |machine, _| machine.take_envelopes(&ctx, &envelopes))?;
    let answer = node.say(pin, |machine, book| machine.answer(phase.request(), book))?;
    phase.take_answer(pin, &node.name, &answer).unwrap();
    Ok(())
}

/// A phase as it is after the coordinator was killed.
pub(crate) fn reload<T: Canonical>(phase: &T) -> T {
    T::from_canonical(&phase.to_canonical()).unwrap()
}

/// Vectors that look like nothing in particular.
pub(crate) fn vectors(sites: usize, words: usize, salt: u64) -> Vec<Vec<u32>> {
    let word = |site: usize, at: usize| {
        let hash =
            Hash::of_bytes(&[site.to_le_bytes(), at.to_le_bytes(), (salt as usize).to_le_bytes()].concat());
        u32::from_le_bytes(hash.as_bytes()[..4].try_into().unwrap())
    };
    (0..sites).map(|site| (0..words).map(|at| word(site, at)).collect()).collect()
}

/// The slow, obvious sum.
pub(crate) fn plain_sum(vectors: &[Vec<u32>], survivors: &BTreeSet<SiteName>) -> Vec<u32> {
    let mut sum = vec![0u32; vectors[0].len()];
    for (_, vector) in vectors.iter().enumerate().filter(|(site, _)| survivors.contains(&name(*site))) {
        for (total, word) in sum.iter_mut().zip(vector) {
            *total = total.wrapping_add(*word);
        }
    }
    sum
}

/// Disks of all sites, to come back to.
pub(crate) fn disks(federation: &Federation) -> BTreeMap<SiteName, Disk> {
    federation.nodes.iter().map(|node| (node.name.clone(), node.disk.clone())).collect()
}
