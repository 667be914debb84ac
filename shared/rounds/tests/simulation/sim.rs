//! A federation with a network that loses, doubles and reorders, and processes that die: everything is decided
//! by a seed, time is a number.

use std::collections::{BTreeMap, BTreeSet};

use consilium_rounds::local::{LocalSite, Reply, Work as _};
use consilium_rounds::message::{Directive, DirectiveId, Letter, SiteMessage, StudyState};
use consilium_rounds::metrics::TrainCounts;
use consilium_rounds::record::{Record, ReleaseReason, Verdict};
use consilium_rounds::sum::{Sum, sum};
use consilium_rounds::vector::study_pin;
use consilium_rounds::{
    Act, Effect, Event, Notice, Proposal, Refused, StudyMachine, SumRefused, Summed, Timestamp, Timing,
};
use consilium_secagg::context::{Context, Purpose};
use consilium_secagg::layout::CHUNK_WORDS;
use consilium_secagg::numbering::Attempt;
use consilium_secagg::quantiser::{ClippedUpdate, RoundingKey, encode, encode_counts};
use consilium_secagg::ring::add_plain;
use consilium_study::document::Draft;
use consilium_study::graph::Treatment;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::{Signed, SigningKey};
use consilium_study::statement::{Repeat, SiteTerms};

use crate::parts::{Dice, OneHot, hash_of_model, name, operator};

/// What is on its way to the coordinator.
#[derive(Clone)]
pub(crate) enum Packet {
    Say(SiteMessage),
    Upload { attempt: Attempt, chunks: Vec<Vec<u8>> },
}

pub(crate) struct SimSite {
    pub(crate) local: LocalSite,
    pub(crate) work: OneHot,
    pub(crate) up: bool,
    pub(crate) sent: BTreeSet<DirectiveId>,
}

/// What can go wrong, each once in so many steps; 0 is never.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) lose_request: usize,
    pub(crate) lose_reply: usize,
    pub(crate) repeat_directive: usize,
    pub(crate) site_crash: usize,
    pub(crate) site_leaves: usize,
    pub(crate) coordinator_crash: usize,
    pub(crate) time_jumps: usize,
    /// Something that was said before is said again, however long ago.
    pub(crate) replay: usize,
}

pub(crate) struct Sim {
    pub(crate) machine: StudyMachine,
    pub(crate) key: SigningKey,
    pub(crate) sites: Vec<SimSite>,
    pub(crate) network: Vec<(usize, Packet)>,
    pub(crate) uploads: BTreeMap<(Attempt, SiteName), Vec<Vec<u8>>>,
    pub(crate) models: BTreeMap<Hash, Vec<f32>>,
    pub(crate) records: Vec<Record>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) jobs: Vec<Effect>,
    pub(crate) now: u64,
    pub(crate) dice: Dice,
    /// Everything that was ever said to the coordinator.
    pub(crate) said: Vec<(usize, SiteMessage)>,
}

impl Sim {
    pub(crate) fn new(seed: u64, sites: usize, text: &str) -> Self {
        Self::with_floors(seed, sites, text, |_| 3)
    }

    /// Each site with the smallest Selection that it takes part in.
    pub(crate) fn with_floors(seed: u64, sites: usize, text: &str, floor: impl Fn(usize) -> u32) -> Self {
        let draft = Draft::from_toml(text).unwrap();
        let mut start = vec![0.0f32; draft.model.len()];
        for block in draft.model.parameters().iter().filter(|block| block.treatment() != Treatment::Averaged)
        {
            start[block.range()].fill(0.75);
        }
        let initial = hash_of_model(&start);
        let study = draft.with_initial_model(initial);
        let (person, key) = (SigningKey::generate(), SigningKey::generate());
        let keys: Vec<SigningKey> = (0..sites).map(|_| SigningKey::generate()).collect();
        let verifying: BTreeMap<_, _> =
            keys.iter().enumerate().map(|(site, key)| (name(site), key.verifying_key())).collect();
        let roster_hash = Hash::of_bytes(b"roster");
        let proposal = Proposal {
            study: Signed::seal(&study, operator(), &person),
            operator: (operator(), person.verifying_key()),
            roster: b"roster".to_vec(),
            roster_hash,
            keys: verifying.clone(),
            coordinator: key.verifying_key(),
            timing: Timing::default(),
        };
        let pin =
            study_pin(&study, roster_hash, key.verifying_key(), |site| verifying.get(site).copied()).unwrap();
        let terms = |site: usize| SiteTerms {
            min_honest: 0,
            min_selection: floor(site),
            min_change: None,
            repeat: Repeat::Ask,
            exact_weights: false,
            groups: study.aggregation.groups.is_some(),
        };
        let sites = keys
            .into_iter()
            .enumerate()
            .map(|(position, key)| SimSite {
                local: LocalSite::new(
                    name(position),
                    key,
                    study.clone(),
                    pin.clone(),
                    terms(position),
                    1 << position.min(4),
                ),
                work: OneHot {
                    study: study.clone(),
                    position,
                    length: |round| 0.25 * round as f32,
                    worse: false,
                    declines: false,
                    blind: false,
                    leaves: None,
                    variate: None,
                    means: BTreeMap::new(),
                },
                up: false,
                sent: BTreeSet::new(),
            })
            .collect();
        let now = 1_000;
        let (machine, effects) = StudyMachine::propose(proposal, Timestamp::from_millis(now)).unwrap();
        let mut sim = Self {
            machine,
            key,
            sites,
            network: Vec::new(),
            uploads: BTreeMap::new(),
            models: BTreeMap::from([(initial, start)]),
            records: Vec::new(),
            notices: Vec::new(),
            refused: Vec::new(),
            jobs: Vec::new(),
            now,
            dice: Dice::new(seed),
            said: Vec::new(),
        };
        sim.take(effects);
        sim
    }

    pub(crate) fn connect_all(&mut self) {
        for site in 0..self.sites.len() {
            self.connect(site);
        }
    }

    pub(crate) fn connect(&mut self, site: usize) {
        self.sites[site].up = true;
        self.sites[site].sent.clear();
        self.event(Event::Connected(name(site)));
    }

    /// The line breaks: whatever was on it is gone.
    pub(crate) fn disconnect(&mut self, site: usize) {
        self.sites[site].up = false;
        self.network.retain(|(from, _)| *from != site);
        self.event(Event::Disconnected(name(site)));
    }

    pub(crate) fn act(&mut self, act: Act) {
        self.event(Event::Operator { by: operator(), act });
    }

    pub(crate) fn event(&mut self, event: Event) {
        let (machine, effects) =
            self.machine.clone().handle(event, Timestamp::from_millis(self.now), &self.key);
        self.machine = machine;
        self.take(effects);
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Record(record) => {
                    self.check(&record);
                    self.records.push(*record);
                }
                Effect::Notify(notice) => self.notices.push(notice),
                Effect::Refuse { refusal, .. } => self.refused.push(refusal),
                Effect::DiscardUploads { attempt, .. } => self.uploads.retain(|(of, _), _| *of != attempt),
                job @ (Effect::Sum(_) | Effect::Publish(_)) => self.jobs.push(job),
                Effect::RefuseAct(_) => {}
            }
        }
    }

    /// The process dies after a commit: jobs and connections are gone, the state is what was stored.
    pub(crate) fn crash_coordinator(&mut self) {
        let stored = self.machine.to_bytes();
        self.jobs.clear();
        self.network.clear();
        let restored = StudyMachine::from_bytes(&stored).unwrap();
        assert!(restored == self.machine, "the state is not what was stored");
        let (machine, effects) = restored.resume(Timestamp::from_millis(self.now));
        self.machine = machine;
        self.take(effects);
        for site in 0..self.sites.len() {
            if self.sites[site].up {
                self.connect(site);
            }
        }
    }

    /// One thing happens. Returns false when there is nothing to do but wait.
    pub(crate) fn step(&mut self, faults: &Faults) -> bool {
        self.mishap(faults);
        // Tries one thing after the other, in random order, until something happens.
        let mut order: Vec<usize> = (0..self.sites.len() + self.network.len() + self.jobs.len()).collect();
        while !order.is_empty() {
            let choice = order.swap_remove(self.dice.below(order.len()));
            let (sites, packets) = (self.sites.len(), self.network.len());
            if choice < sites {
                let Some(letter) = self.unheard(choice) else { continue };
                self.deliver(choice, &letter, faults);
            } else if choice < sites + packets {
                let mut at = choice - sites;
                if faults.lose_request == 0 {
                    // A quiet network keeps the order of each sender.
                    let sender = self.network[at].0;
                    at = self.network.iter().position(|(from, _)| *from == sender).unwrap_or(at);
                }
                let (from, packet) = self.network.remove(at);
                self.arrive(from, packet, faults);
            } else {
                let job = self.jobs.remove(choice - sites - packets);
                self.perform(&job);
            }
            return true;
        }
        false
    }

    /// A stream keeps its order: the first directive that was not sent on this connection.
    fn unheard(&self, site: usize) -> Option<Letter<Directive>> {
        let SimSite { up, sent, .. } = &self.sites[site];
        let fresh = |letter: &Letter<Directive>| !sent.contains(&DirectiveId::of(&letter.to_bytes()));
        if *up { self.machine.directives_for(&name(site)).into_iter().find(fresh) } else { None }
    }

    fn mishap(&mut self, faults: &Faults) {
        let happens = |dice: &mut Dice, chances: usize| chances > 0 && dice.one_in(chances);
        if happens(&mut self.dice, faults.coordinator_crash) {
            self.crash_coordinator();
        }
        if happens(&mut self.dice, faults.site_crash) {
            let site = self.dice.below(self.sites.len());
            self.sites[site].local.restart();
            self.disconnect(site);
            self.connect(site);
        }
        if happens(&mut self.dice, faults.site_leaves) {
            let site = self.dice.below(self.sites.len());
            if self.sites[site].up { self.disconnect(site) } else { self.connect(site) }
        }
        if happens(&mut self.dice, faults.time_jumps) {
            self.now += 1 + self.dice.below(40_000) as u64;
            self.event(Event::Tick);
        }
        if happens(&mut self.dice, faults.replay) && !self.said.is_empty() {
            let (from, message) = self.said[self.dice.below(self.said.len())].clone();
            if self.sites[from].up {
                self.event(Event::Message { from: name(from), message });
            }
        }
        if happens(&mut self.dice, faults.repeat_directive) {
            let site = self.dice.below(self.sites.len());
            self.sites[site].sent.clear();
        }
    }

    fn deliver(&mut self, site: usize, letter: &Letter<Directive>, faults: &Faults) {
        let bytes = letter.to_bytes();
        let arrived = Letter::<Directive>::from_bytes(&bytes).unwrap();
        let SimSite { local, work, sent, .. } = &mut self.sites[site];
        sent.insert(DirectiveId::of(&bytes));
        for reply in local.hear(&arrived.message, work) {
            let packet = match reply {
                Reply::Say(message) => Packet::Say(message),
                Reply::Upload { attempt, chunks } => Packet::Upload { attempt, chunks },
                Reply::Again => {
                    self.sites[site].sent.remove(&DirectiveId::of(&bytes));
                    continue;
                }
                // Directives of an attempt that the site has left behind are refused, as they should be.
                Reply::Refused(_) => continue,
            };
            // A message that got lost is said again until it is answered: it comes later.
            if faults.lose_reply > 0 && self.dice.one_in(faults.lose_reply) {
                self.network.push((site, packet.clone()));
            }
            self.network.push((site, packet));
        }
    }

    fn arrive(&mut self, from: usize, packet: Packet, faults: &Faults) {
        if faults.lose_request > 0 && self.dice.one_in(faults.lose_request) {
            self.network.push((from, packet));
            return;
        }
        match packet {
            Packet::Say(message) => {
                let letter = Letter { study: self.machine.study_hash(), message };
                let message = Letter::<SiteMessage>::from_bytes(&letter.to_bytes()).unwrap().message;
                self.said.push((from, message.clone()));
                self.event(Event::Message { from: name(from), message });
            }
            Packet::Upload { attempt, chunks } => {
                if let Some(expected) = self.machine.expects_upload(&name(from), attempt) {
                    assert_eq!(expected.bytes, chunks.iter().map(Vec::len).sum::<usize>() as u64);
                    for (index, chunk) in chunks.iter().enumerate() {
                        self.machine.check_chunk(&name(from), attempt, index, chunk).unwrap();
                    }
                    self.uploads.insert((attempt, name(from)), chunks);
                    self.event(Event::Uploaded { from: name(from), attempt });
                } else if self.machine.status().attempt == Some(attempt.get())
                    && !self.machine.has_upload(&name(from), attempt)
                    && self.network.iter().any(|(site, packet)| {
                        *site == from && matches!(packet, Packet::Say(SiteMessage::Masked(_)))
                    })
                {
                    // Its receipt is still on the way.
                    self.network.push((from, Packet::Upload { attempt, chunks }));
                }
            }
        }
    }

    fn perform(&mut self, job: &Effect) {
        match job {
            Effect::Sum(job) => {
                let study = self.machine.study();
                let model = |hash: &Hash, block: usize| {
                    let range = study.model.parameters()[block].range();
                    self.models.get(hash).map(|model| model[range].to_vec()).ok_or(())
                };
                let attempt = job.context.attempt;
                let uploads = &self.uploads;
                let read = |site: &SiteName, index: usize| {
                    uploads.get(&(attempt, site.clone())).and_then(|chunks| chunks.get(index)).ok_or(())
                };
                let outcome = match sum(study, job, 2, read, model) {
                    Ok(Sum::Train { aggregate, candidate, figures, largest, moments, control }) => {
                        assert_eq!(aggregate, self.plain_sum(&job.context, &job.survivors));
                        let mut keep = |model: Vec<f32>| {
                            let hash = hash_of_model(&model);
                            self.models.insert(hash, model);
                            hash
                        };
                        let candidate = keep(candidate);
                        let control = control.map(|mean| {
                            let hash = keep(mean.clone());
                            self.sites
                                .iter_mut()
                                .for_each(|site| drop(site.work.means.insert(hash, mean.clone())));
                            hash
                        });
                        let moments = moments.map(|moments| moments.map(keep));
                        Ok(Summed::Train { aggregate, candidate, figures, largest, moments, control })
                    }
                    Ok(Sum::Evaluate { aggregate, figures }) => {
                        assert_eq!(aggregate, self.plain_sum(&job.context, &job.survivors));
                        Ok(Summed::Evaluate { aggregate, figures: figures.unwrap() })
                    }
                    // The uploads of a job that was given out twice are gone after the first.
                    Err(_) => Err(SumRefused),
                };
                self.event(Event::Summed { attempt, outcome });
            }
            Effect::Publish(_) => self.event(Event::Published),
            _ => unreachable!("only jobs are kept"),
        }
    }

    /// The theorem: what was opened is the plain sum over the survivors, of each group by itself, word for word.
    fn plain_sum(&mut self, context: &Context, survivors: &BTreeMap<SiteName, Hash>) -> Hash {
        let mut totals: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
        for site in survivors.keys() {
            let group = context.group_of(context.selection.index_of(site).unwrap());
            let total = totals.entry(group).or_insert_with(|| vec![0; context.layout.words()]);
            let position = (0..self.sites.len()).find(|position| name(*position) == *site).unwrap();
            let work = &mut self.sites[position].work;
            let vector = match context.purpose {
                Purpose::Train => {
                    let trained = work.train(context).unwrap();
                    let update =
                        ClippedUpdate::clip(trained.update, &context.layout, context.clip_norm).unwrap();
                    let weight = 1 << position.min(4);
                    let rounding = RoundingKey::new(self.machine.study().seed, site, context.round);
                    encode(context, weight, update, &TrainCounts::new(0.5, weight).to_words(), &rounding)
                        .unwrap()
                }
                _ => encode_counts(context, &work.evaluate(context).unwrap().to_words()).unwrap(),
            };
            add_plain(&context.layout, total, &vector);
        }
        assert!(context.layout.words() <= CHUNK_WORDS);
        let bytes: Vec<u8> = totals.values().flatten().flat_map(|word| word.to_le_bytes()).collect();
        Hash::of_bytes(&bytes)
    }

    /// What holds for every record, whatever happened.
    fn check(&self, record: &Record) {
        match record {
            Record::Context(context) => {
                let attempt = context.claim().unwrap().attempt;
                let before = self.records.iter().filter_map(|record| match record {
                    Record::Context(context) => Some(context.claim().unwrap().attempt),
                    _ => None,
                });
                assert!(
                    before.max().is_none_or(|before| before < attempt),
                    "attempt {attempt} was used before"
                );
            }
            Record::Alarm { site, alarm } => panic!("{site} raised {alarm:?} about an honest coordinator"),
            Record::Guilty { dealer, .. } => panic!("{dealer} is honest"),
            _ => {}
        }
    }

    /// Steps with faults, then in peace until the study is over or only a named wait is left.
    pub(crate) fn settle(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.is_over() {
                return;
            }
            if !self.step(&Faults::default()) {
                match self.machine.deadline() {
                    Some(deadline) => {
                        self.now = self.now.max(deadline.as_millis());
                        self.event(Event::Tick);
                    }
                    None => return,
                }
            }
        }
        panic!("no end in sight: {:#?}", self.machine.status());
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.machine.state(), StudyState::Released { .. } | StudyState::Stopped)
    }

    pub(crate) fn contexts(&self) -> Vec<Context> {
        let contexts = self.records.iter().filter_map(|record| match record {
            Record::Context(context) => Some(context.claim().unwrap()),
            _ => None,
        });
        contexts.collect()
    }

    /// Every run of the protocol names the same survivors for the same model and purpose.
    pub(crate) fn repeat_rule_holds(&self) {
        let contexts: BTreeMap<_, _> = self
            .contexts()
            .into_iter()
            .map(|context| (context.hash(), (context.model, context.purpose)))
            .collect();
        let mut opened: BTreeMap<(Hash, Purpose), BTreeSet<SiteName>> = BTreeMap::new();
        for record in &self.records {
            if let Record::Proposed(proposed) = record {
                let survivors: BTreeSet<_> =
                    proposed.survivors.iter().map(|(site, _)| site.clone()).collect();
                let before = opened.entry(contexts[&proposed.ctx]).or_insert_with(|| survivors.clone());
                assert_eq!(*before, survivors, "another set for the same starting model");
            }
        }
    }

    /// The study ended with one complete release.
    pub(crate) fn ends_released_once(&self) {
        assert!(matches!(self.machine.state(), StudyState::Released { .. }), "{:#?}", self.machine.status());
        let releases: Vec<_> =
            self.records.iter().filter(|record| matches!(record, Record::Release(_))).collect();
        assert_eq!(releases.len(), 1);
        let release = self.machine.release().unwrap();
        assert!(self.models.contains_key(&release.model), "the released model exists");
        assert!(matches!(
            release.reason,
            ReleaseReason::BestEvaluated { .. } | ReleaseReason::LastAdopted { .. }
        ));
        let mut model = self.machine.study().initial_model();
        for adoption in self.machine.adoptions() {
            assert_eq!(adoption.start, model, "each round starts from the model adopted before");
            if !matches!(adoption.verdict, Verdict::Refused(_)) {
                model = adoption.candidate;
            }
        }
        self.repeat_rule_holds();
    }
}
