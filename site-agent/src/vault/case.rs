//! One study as the running vault holds it: its record, its protocol machine, and what is under way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::Discriminant;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use consilium_rounds::message::{DirectiveId, Letter, SiteMessage};
use consilium_secagg::message::{Confirmation, Encapsulation};
use consilium_secagg::site::{MaskPermit, SiteMachine};
use consilium_study::canonical::Canonical;
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;

use super::consent;
use super::record::{Question, Reference, Stage, StudyRecord};
use super::speech::Saying;
use crate::journal::Event;
use crate::pipe::message::Upload;

/// Most directives of one study that wait for something that must come first.
const MOST_PARKED: usize = 256;

/// Most events of one kind that are written down once and not again.
const MOST_NOTED: usize = 256;

/// What a saying is about. A newer saying about the same takes its place; the order is the order of speaking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    Decision,
    Readiness,
    Advert,
    KeysLost,
    Encapsulations(usize),
    Confirmations(usize),
    PairsSettled,
    Reveal,
    Consent,
    Unbound,
    Alarm(usize),
    Progress,
    Masked(usize),
    Opened,
    Signature,
    Answer,
    Withdrawn,
    Declined(Hash),
}

impl Topic {
    /// Whether it belongs to one attempt and ends with it.
    const fn is_of_attempt(self) -> bool {
        match self {
            Self::Progress
            | Self::Masked(_)
            | Self::Opened
            | Self::Signature
            | Self::Answer
            | Self::Withdrawn
            | Self::Declined(_) => true,
            Self::Decision
            | Self::Readiness
            | Self::Advert
            | Self::KeysLost
            | Self::Encapsulations(_)
            | Self::Confirmations(_)
            | Self::PairsSettled
            | Self::Reveal
            | Self::Consent
            | Self::Unbound
            | Self::Alarm(_) => false,
        }
    }
}

/// What the worker does for a study.
pub(super) enum Doing {
    Nothing,
    /// The permit waits for a model.
    Fetching {
        permit: MaskPermit,
    },
    /// The vector is being made.
    Working {
        permit: MaskPermit,
        stop: Arc<AtomicBool>,
    },
    /// The vector is being masked into its spool.
    Spooling {
        busy: Duration,
        reference: Option<Reference>,
    },
}

/// One study.
pub(super) struct Case {
    pub(super) record: StudyRecord,
    pub(super) study: Arc<Study>,
    /// There while the site takes part and the study is not over.
    pub(super) machine: Option<SiteMachine>,
    pub(super) doing: Doing,
    /// The masked vector on offer, and the ids of the messages that announce it.
    pub(super) upload: Option<(Upload, Vec<Hash>)>,
    /// W3C trace context of the round.
    pub(super) parent: String,
    pub(super) encapsulations: BTreeMap<SiteName, Signed<Encapsulation>>,
    pub(super) confirmations: BTreeMap<SiteName, Signed<Confirmation>>,
    /// Since when the epoch's secret keys have been there, in milliseconds since 1970; until they are erased.
    pub(super) setup_keys_since: Option<u64>,
    /// The model that the coordinator wants to open with other survivors than these.
    pub(super) asked: Option<Question>,
    /// When to try reading the data again.
    pub(super) load_again: Option<Instant>,
    /// What keeps the site from going on, for its own screen.
    pub(super) trouble: Option<String>,
    sayings: BTreeMap<Topic, Saying>,
    noted: HashMap<Discriminant<Event>, BTreeSet<Hash>>,
    parked: Vec<(DirectiveId, Vec<u8>, String)>,
}

impl Case {
    pub(super) fn new(record: StudyRecord) -> Self {
        Self {
            study: Arc::new(record.plan().clone()),
            record,
            machine: None,
            doing: Doing::Nothing,
            upload: None,
            parent: String::new(),
            encapsulations: BTreeMap::new(),
            confirmations: BTreeMap::new(),
            setup_keys_since: None,
            asked: None,
            load_again: None,
            trouble: None,
            sayings: BTreeMap::new(),
            noted: HashMap::new(),
            parked: Vec::new(),
        }
    }

    /// Says something in place of what was said about the same topic. Returns the id of the message.
    pub(super) fn say(&mut self, topic: Topic, message: SiteMessage) -> Hash {
        let saying = saying(self.record.hash(), message, &self.parent);
        let id = saying.id();
        self.sayings.insert(topic, saying);
        id
    }

    /// Says a list in as many messages as it takes.
    pub(super) fn say_batches<T: Canonical>(
        &mut self,
        topic: fn(usize) -> Topic,
        batches: Vec<Vec<T>>,
        message: fn(Vec<T>) -> SiteMessage,
    ) {
        for (number, batch) in batches.into_iter().enumerate() {
            self.say(topic(number), message(batch));
        }
    }

    /// Whether it is said already.
    pub(super) fn says(&self, topic: Topic) -> bool {
        self.sayings.contains_key(&topic)
    }

    /// Whether an event has not come to pass yet since the vault was started. A directive may come any number of
    /// times, and a coordinator can make up as many as it likes: the first ones tell enough.
    pub(super) fn is_news(&mut self, event: &Event) -> bool {
        let noted = self.noted.entry(std::mem::discriminant(event)).or_default();
        noted.len() < MOST_NOTED && noted.insert(Hash::of_bytes(&event.to_canonical()))
    }

    /// Does not say it any more.
    pub(super) fn hush(&mut self, unwanted: impl Fn(&Topic) -> bool) {
        self.sayings.retain(|topic, _| !unwanted(topic));
    }

    /// Everything there is to say.
    pub(super) fn sayings(&self) -> impl Iterator<Item = &Saying> {
        self.sayings.values()
    }

    /// Stops what the worker does for an attempt.
    pub(super) fn stop_work(&mut self) {
        if let Doing::Working { stop, .. } = &self.doing {
            stop.store(true, Ordering::Relaxed);
        }
        self.doing = Doing::Nothing;
    }

    /// The attempt is over: nothing more is said or done about it.
    pub(super) fn leave_attempt(&mut self) {
        self.stop_work();
        self.upload = None;
        self.hush(|topic| topic.is_of_attempt());
    }

    /// Keeps a directive until something else has come. Says whether there was room.
    pub(super) fn park(&mut self, id: DirectiveId, bytes: &[u8], parent: &str) -> bool {
        if self.parked.iter().any(|(parked, ..)| *parked == id) {
            return true;
        }
        if self.parked.len() >= MOST_PARKED {
            return false;
        }
        self.parked.push((id, bytes.to_vec(), parent.to_owned()));
        true
    }

    /// The directives that waited; those that still have to wait are parked again.
    pub(super) fn take_parked(&mut self) -> Vec<(DirectiveId, Vec<u8>, String)> {
        std::mem::take(&mut self.parked)
    }

    /// What the site does or waits for, for its own screen.
    pub(super) fn in_words(&self) -> String {
        if let Some(trouble) = &self.trouble {
            return trouble.clone();
        }
        if let Some(Question { binding, sets }) = &self.asked {
            return format!(
                "is asked to open model {} again without some of {}: site-agent consent",
                binding.model.short(),
                consent::in_words(sets)
            );
        }
        match (self.record.stage(), &self.doing) {
            (Stage::Waiting, _) => "waits for a person: site-agent approve".into(),
            (Stage::Decided { .. }, _) => "reads its data".into(),
            (Stage::Refused { rule, .. }, _) => format!("refused by {rule}"),
            (Stage::Accepted(_), _) if self.record.is_over() => "over".into(),
            (Stage::Accepted(_), Doing::Nothing) if self.upload.is_some() => {
                "masked, and takes part in the sum".into()
            }
            (Stage::Accepted(_), Doing::Nothing) => "waits for the next attempt".into(),
            (Stage::Accepted(_), Doing::Fetching { .. }) => "waits for the model".into(),
            (Stage::Accepted(_), Doing::Working { .. }) => "trains or evaluates".into(),
            (Stage::Accepted(_), Doing::Spooling { .. }) => "masks".into(),
        }
    }
}

/// A message about a study, ready to be said.
pub(super) fn saying(study: Hash, message: SiteMessage, parent: &str) -> Saying {
    Saying::new(Letter { study, message }.to_bytes(), parent)
}
