//! A federation of real vaults without wire and processes: the coordinator's machine, four cores with their files
//! on disk, and a network that repeats what it carries. A core may be dropped at any message and opened
//! again from its files, which is what a kill leaves behind.

mod checks;
mod hostile_bytes;
mod mortal;
mod tests;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};

use consilium_identity::roster::{CoordinatorEntry, PersonEntry, SiteEntry};
use consilium_identity::{ConsortiumKey, Roster};
use consilium_learning::{Dataset, ModelFile, ModelIdentity, Pixels, Preprocessing, initial};
use consilium_rounds::message::{DirectiveId, Letter, SiteMessage, StudyState};
use consilium_rounds::sum::{Sum, sum};
use consilium_rounds::{Act, Effect, Event, Proposal, StudyMachine, SumRefused, Summed, Timestamp, Timing};
use consilium_secagg::layout::CHUNK_BYTES;
use consilium_study::canonical::Canonical as _;
use consilium_study::document::{Draft, Study};
use consilium_study::hash::Hash;
use consilium_study::model_file::ModelReader;
use consilium_study::name::SiteName;
use consilium_study::policy::Policy;
use consilium_study::sign::{Signed, SigningKey};

use self::mortal::Mortal;
use super::core::Core;
use super::identity::Identity;
use super::trainer::Trainer;
use super::work::{Bench, Job, Worker};
use crate::config::OnGpuLoss;
use crate::data::{Cohort, Counts, Decoder, Room, Source, SplitKey};
use crate::folder::SiteFolder;
use crate::pipe::message::{FromRelay, FromVault, Link, Upload, Verdict};
use crate::store::Disk;

const SITES: [&str; 4] = ["a", "b", "c", "d"];

fn study_text() -> String {
    "format = 1\nname = \"trial\"\ntitle = \"trial\"\nsites = [\"a\", \"b\", \"c\", \"d\"]\nseed = 1\n\
     [data]\nlabels = [\"no\", \"yes\"]\nchannels = 1\nheight = 8\nwidth = 8\nmean = 0.5\nstd = 0.5\n\
     [model]\npreset = \"logistic\"\n\
     [training]\noptimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 8\nepochs = 1\n\
     [rounds]\ncount = 2\nquorum = 3\n\
     [evaluation]\nbins = 16\n"
        .to_owned()
}

/// Pictures of two classes in turn, of which one is bright.
fn pictures(cases: usize, shift: usize, bright: u16) -> Dataset {
    let labels: Vec<u16> = (0..cases).map(|case| (case % 2) as u16).collect();
    let pixels = (0..cases * 64)
        .map(|at| {
            let noise = ((at * 7919 + shift * 104_729) % 97) as f32 / 97.0;
            let bright = f32::from(u8::from(labels[at / 64] == bright));
            (0.3 * bright + 0.6 * noise).min(1.0)
        })
        .collect();
    Dataset::new([1, 8, 8], Pixels::Floats(pixels), labels).unwrap()
}

/// Pictures whose brightness tells the class, a little harder at each site.
fn cohort(position: usize) -> Cohort {
    let (train, held_out) = (pictures(40, position, 1), pictures(20, position + 10, 1));
    let counts = Counts {
        found: 60,
        retrieved: 60,
        decoded: 60,
        labelled: 60,
        usable: 60,
        train: 40,
        held_out: 20,
        named_patients: 60,
        ..Counts::default()
    };
    let fingerprint = Hash::of_bytes(b"cohort");
    let (used, quarantine) = (Vec::new(), Vec::new());
    Cohort { train, held_out, counts, columns: None, used, quarantine, fingerprint }
}

struct Site {
    name: SiteName,
    disk: Arc<Mortal>,
    _dir: tempfile::TempDir,
    folder: SiteFolder,
    policy: Policy,
    identity: Identity,
    seed: [u8; 32],
    core: Core,
    jobs: Receiver<Job>,
    worker: Worker,
    acknowledged: BTreeSet<DirectiveId>,
    trained: BTreeMap<u32, u32>,
}

impl Site {
    fn open(
        name: &str,
        dir: tempfile::TempDir,
        identity: Identity,
        key: &SigningKey,
        policy: &str,
        study: &Study,
    ) -> Self {
        let folder = SiteFolder::new(dir.path());
        let policy = Policy::from_toml(policy).unwrap();
        let minimum = policy.clone();
        let disk = Arc::new(Mortal::default());
        let bench = Bench {
            site: identity.site.clone(),
            source: Source::Npz { file: PathBuf::from("unused") },
            split: SplitKey::new([0; 32]),
            decoder: Decoder::new(std::process::Command::new("false")),
            cache: Room::new(folder.cache(), 0),
            store: disk.clone(),
            minimum_cases: Box::new(move |study| minimum.minimum_cases(study)),
            trap_factor: policy.trap_factor(),
            trainer: Trainer::new(None, OnGpuLoss::DropOut),
        };
        let position = SITES.iter().position(|site| *site == name).unwrap();
        let worker = Worker { bench, cohorts: BTreeMap::from([(study.hash(), cohort(position))]) };
        let (sender, jobs) = channel();
        let seed = *key.to_seed();
        let core = Core::open(
            folder.clone(),
            disk.clone(),
            policy.clone(),
            identity.clone(),
            SigningKey::from_seed(seed.into()),
            sender,
        )
        .unwrap();
        let (acknowledged, trained) = (BTreeSet::new(), BTreeMap::new());
        let name = name.parse().unwrap();
        Self {
            name,
            disk,
            _dir: dir,
            folder,
            policy,
            identity,
            seed,
            core,
            jobs,
            worker,
            acknowledged,
            trained,
        }
    }

    /// What a kill and a new start leave.
    fn crash(&mut self) {
        let (sender, jobs) = channel();
        self.disk.last.store(0, Ordering::Relaxed);
        self.core = Core::open(
            self.folder.clone(),
            self.disk.clone(),
            self.policy.clone(),
            Identity::read(&Disk, &self.folder).unwrap_or_else(|_| self.identity.clone()),
            SigningKey::from_seed(self.seed.into()),
            sender,
        )
        .unwrap();
        self.jobs = jobs;
        self.acknowledged.clear();
        self.core.frame(FromRelay::Link(Link::Up)).unwrap();
    }

    /// Takes a frame; a vault that cannot write dies and is started again.
    fn frame(&mut self, frame: FromRelay) {
        if self.core.frame(frame).is_err() {
            self.crash();
        }
    }

    /// Does all heavy work that waits. Says whether there was any.
    fn work(&mut self) -> bool {
        let mut any = false;
        while let Ok(job) = self.jobs.try_recv() {
            any = true;
            if let Job::Attempt(job) = &job {
                *self.trained.entry(job.context.attempt.get()).or_default() += 1;
            }
            let outcomes = std::cell::RefCell::new(Vec::new());
            self.worker.perform(job, &|outcome| outcomes.borrow_mut().push(outcome));
            for outcome in outcomes.into_inner() {
                if self.core.outcome(outcome).is_err() {
                    self.crash();
                    return true;
                }
            }
        }
        any
    }
}

/// A folder in memory where there is one: these tests flush thousands of files.
fn memory_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

struct Federation {
    machine: StudyMachine,
    consortium: ConsortiumKey,
    key: SigningKey,
    now: u64,
    sites: Vec<Site>,
    models: BTreeMap<Hash, Vec<u8>>,
    uploads: BTreeMap<(u32, SiteName), Vec<u8>>,
    identity: ModelIdentity,
    said: usize,
    crash_after: Option<usize>,
    refused: Vec<String>,
    /// Sites without a connection.
    away: BTreeSet<usize>,
}

impl Federation {
    fn new(policy: &str) -> Self {
        Self::of(&study_text(), policy)
    }

    fn of(study: &str, policy: &str) -> Self {
        let draft = Draft::from_toml(study).unwrap();
        let data = &draft.data;
        let identity = ModelIdentity {
            graph: draft.model.clone(),
            preprocessing: Preprocessing::new(data.mean, data.std).unwrap(),
            labels: data.labels.clone(),
            inputs: None,
            task: data.task,
            range: None,
            beside: None,
        };
        let file =
            ModelFile { identity: identity.clone(), origin: None, model: initial(&draft.model, draft.seed) };
        let bytes = file.to_bytes();
        let study = draft.with_initial_model(Hash::of_bytes(&bytes));
        let consortium = ConsortiumKey::generate("trial".parse().unwrap());
        let (key, operator) = (SigningKey::generate(), SigningKey::generate());
        let hash = |text: &str| Hash::of_bytes(text.as_bytes());
        let mut roster = Roster::first(
            "trial".parse().unwrap(),
            CoordinatorEntry {
                signing_key: key.verifying_key(),
                tls_key: hash("coordinator"),
                issuing_key: hash("issuing"),
            },
            PersonEntry {
                name: "o".parse().unwrap(),
                signing_key: operator.verifying_key(),
                tls_key: hash("operator"),
            },
        )
        .unwrap();
        let keys: Vec<SigningKey> = SITES.iter().map(|_| SigningKey::generate()).collect();
        for (site, key) in SITES.iter().zip(&keys) {
            let entry = SiteEntry {
                name: site.parse().unwrap(),
                signing_key: key.verifying_key(),
                tls_key: hash(site),
                test: false,
            };
            roster = roster.with_site(entry).unwrap();
        }
        let signed: Signed<Roster> = consortium.sign(&roster);
        let proposal = Proposal {
            study: Signed::seal(&study, "operator/o".parse().unwrap(), &operator),
            operator: ("operator/o".parse().unwrap(), operator.verifying_key()),
            roster: signed.to_canonical(),
            roster_hash: roster.hash(),
            keys: SITES
                .iter()
                .zip(&keys)
                .map(|(site, key)| (site.parse().unwrap(), key.verifying_key()))
                .collect(),
            coordinator: key.verifying_key(),
            timing: Timing::default(),
        };
        let sites = SITES
            .iter()
            .zip(&keys)
            .map(|(site, key)| {
                let identity = Identity {
                    anchor: consortium.anchor(),
                    site: site.parse().unwrap(),
                    roster: signed.clone(),
                };
                Site::open(site, memory_folder(), identity, key, policy, &study)
            })
            .collect();
        let now = 1_000_000;
        let (machine, effects) = StudyMachine::propose(proposal, Timestamp::from_millis(now)).unwrap();
        let models = BTreeMap::from([(study.initial_model(), bytes)]);
        let mut federation = Self {
            machine,
            consortium,
            key,
            now,
            sites,
            models,
            uploads: BTreeMap::new(),
            identity,
            said: 0,
            crash_after: None,
            refused: Vec::new(),
            away: BTreeSet::new(),
        };
        federation.perform(effects);
        for site in 0..SITES.len() {
            let name = federation.sites[site].name.clone();
            federation.sites[site].frame(FromRelay::Link(Link::Up));
            federation.tell(Event::Connected(name));
        }
        federation
    }

    fn tell(&mut self, event: Event) {
        self.now += 10;
        let now = Timestamp::from_millis(self.now);
        let machine = StudyMachine::from_bytes(&self.machine.to_bytes()).unwrap();
        let (machine, effects) = machine.handle(event, now, &self.key);
        self.machine = machine;
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Sum(job) => {
                    let attempt = job.context.attempt;
                    let model = |hash: &Hash, block: usize| {
                        let mut file = ModelReader::open(Cursor::new(&self.models[hash])).unwrap();
                        Ok(file.block(block).unwrap())
                    };
                    let read = |site: &SiteName, index: usize| {
                        let upload = self.uploads.get(&(attempt.get(), site.clone())).ok_or("missing")?;
                        let past = upload.len().min((index + 1) * CHUNK_BYTES);
                        Ok::<_, &str>(&upload[index * CHUNK_BYTES..past])
                    };
                    let outcome = match sum(self.machine.study(), &job, 1, read, model).unwrap() {
                        Sum::Train { aggregate, candidate, figures, largest, moments, control } => {
                            let mut keep = |model| {
                                let identity = self.identity.clone();
                                let bytes = ModelFile { identity, origin: None, model }.to_bytes();
                                let hash = Hash::of_bytes(&bytes);
                                self.models.insert(hash, bytes);
                                hash
                            };
                            let candidate = keep(candidate);
                            let control = control.map(&mut keep);
                            let moments = moments.map(|moments| moments.map(keep));
                            Ok(Summed::Train { aggregate, candidate, figures, largest, moments, control })
                        }
                        Sum::Evaluate { aggregate, figures } => figures
                            .map(|figures| Summed::Evaluate { aggregate, figures })
                            .map_err(|_| SumRefused),
                    };
                    self.tell(Event::Summed { attempt, outcome });
                }
                Effect::Publish(_) => self.tell(Event::Published),
                Effect::Refuse { site, refusal } => self.refused.push(format!("{site}: {refusal}")),
                Effect::Record(_)
                | Effect::DiscardUploads { .. }
                | Effect::RefuseAct(_)
                | Effect::Notify(_) => {}
            }
        }
    }

    fn disconnect(&mut self, site: usize) {
        self.away.insert(site);
        self.tell(Event::Disconnected(self.sites[site].name.clone()));
    }

    fn reconnect(&mut self, site: usize) {
        self.away.remove(&site);
        self.sites[site].acknowledged.clear();
        self.sites[site].frame(FromRelay::Link(Link::Up));
        self.tell(Event::Connected(self.sites[site].name.clone()));
    }

    /// One pass over all sites. Says whether anything happened.
    fn pass(&mut self) -> bool {
        let mut any = false;
        for site in (0..self.sites.len()).filter(|site| !self.away.contains(site)).collect::<Vec<_>>() {
            let name = self.sites[site].name.clone();
            for letter in self.machine.directives_for(&name) {
                let bytes = letter.to_bytes();
                if !self.sites[site].acknowledged.contains(&DirectiveId::of(&bytes)) {
                    let directive = FromRelay::Directive { bytes: bytes.into(), parent: String::new() };
                    // The network repeats: a directive that comes twice is answered as it was the first time.
                    self.sites[site].frame(directive.clone());
                    self.sites[site].frame(directive);
                }
            }
            any |= self.sites[site].work();
            for message in self.sites[site].core.speak() {
                any |= !matches!(message, FromVault::Acknowledge { .. } | FromVault::Hello);
                self.carry(site, message);
                self.said += 1;
                if self.crash_after == Some(self.said) {
                    self.sites[site].crash();
                    any = true;
                    break;
                }
            }
        }
        any
    }

    fn carry(&mut self, site: usize, message: FromVault) {
        let from = self.sites[site].name.clone();
        match message {
            FromVault::Hello | FromVault::Span(_) | FromVault::Chunk { .. } => {}
            FromVault::Acknowledge { directive } => {
                self.sites[site].acknowledged.insert(DirectiveId::from_hash(directive));
            }
            FromVault::Want { hash, offset } => {
                let bytes = self.models[&hash][offset as usize..].to_vec();
                let blob = FromRelay::Blob { hash, offset, bytes: bytes.into(), last: true };
                self.sites[site].frame(blob);
            }
            FromVault::Say { id, message, .. } => {
                let letter = Letter::<SiteMessage>::from_bytes(&message).unwrap();
                let before = self.refused.len();
                self.tell(Event::Message { from, message: letter.message });
                let verdict = if self.refused.len() == before {
                    Verdict::Recorded
                } else {
                    Verdict::Refused { code: "refused".into() }
                };
                self.sites[site].frame(FromRelay::Said { id, verdict });
            }
            FromVault::UploadReady { upload, .. } => self.upload(site, upload),
        }
    }

    fn upload(&mut self, site: usize, upload: Upload) {
        let from = self.sites[site].name.clone();
        let attempt = consilium_secagg::numbering::Attempt::new(upload.attempt).unwrap();
        let mut bytes = Vec::new();
        let mut index = 0;
        while (bytes.len() as u64) < upload.length {
            self.sites[site].frame(FromRelay::ReadChunk { upload, index });
            let chunk = self.sites[site].core.out.pop();
            let Some(FromVault::Chunk { bytes: chunk, .. }) = chunk else { panic!("a chunk was asked for") };
            if self.machine.expects_upload(&from, attempt).is_some() {
                self.machine.check_chunk(&from, attempt, index as usize, &chunk).unwrap();
            }
            bytes.extend_from_slice(&chunk);
            index += 1;
        }
        if self.machine.expects_upload(&from, attempt).is_some() {
            self.uploads.insert((upload.attempt, from.clone()), bytes);
            self.tell(Event::Uploaded { from, attempt });
        }
        self.sites[site].frame(FromRelay::Uploaded { upload, verdict: Verdict::Recorded });
    }

    /// Runs until the study is released, letting time pass where everybody waits.
    fn run(&mut self) {
        self.tell(Event::Operator { by: "operator/o".parse().unwrap(), act: Act::Start });
        for _ in 0..3_000 {
            if matches!(self.machine.state(), StudyState::Released { .. }) {
                return;
            }
            if !self.pass() {
                self.now = self.machine.deadline().map_or(self.now, Timestamp::as_millis).max(self.now) + 1;
                for site in &mut self.sites {
                    site.frame(FromRelay::Link(Link::Up));
                }
                self.tell(Event::Tick);
            }
        }
        panic!("the study does not end: {:#?}\nrefused: {:#?}", self.machine.status(), self.refused);
    }

    fn released(&self) -> Hash {
        match self.machine.state() {
            StudyState::Released { model } => model,
            state => panic!("{state:?}"),
        }
    }
}
