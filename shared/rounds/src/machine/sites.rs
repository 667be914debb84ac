//! What the coordinator knows of each site of a study.

use consilium_secagg::context::Purpose;
use consilium_study::hash::Hash;
use consilium_study::sign::{Signed, VerifyingKey};
use consilium_study::statement::{Acceptance, Readiness, Refusal, SiteTerms};
use minicbor::{Decode, Encode};

use super::timing::Timing;
use crate::record::Missing;
use crate::time::Timestamp;

/// One site of the study.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct SiteRecord {
    /// The key that its statements are signed with.
    #[n(0)]
    pub(crate) key: VerifyingKey,
    /// What it said to the study.
    #[n(1)]
    pub(crate) standing: Standing,
    /// Whether it is there.
    #[n(2)]
    pub(crate) link: Link,
    /// Its latest gated counts.
    #[n(3)]
    pub(crate) readiness: Option<Signed<Readiness>>,
    /// After keys that could not be settled, or were lost.
    #[n(4)]
    setup_rest: Rest,
    /// After it declined a training or withdrew from one.
    #[n(5)]
    train_rest: Rest,
    /// After it declined an evaluation or withdrew from one: a site without held-out cases still trains.
    #[n(6)]
    evaluate_rest: Rest,
    /// Why it was missing from the last attempt that selected it, if it was.
    #[n(7)]
    pub(crate) last_missing: Option<Missing>,
    /// What it declined to have summed, because it has signed other survivors for it in another study.
    #[n(8)]
    pub(crate) bound: Option<Summed>,
}

/// What a sum opens: the repeat rule asks for the same survivors when it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Summed {
    #[n(0)]
    pub(crate) purpose: Purpose,
    /// The starting model, or the candidate.
    #[n(1)]
    pub(crate) model: Hash,
    /// What a candidate is compared with.
    #[n(2)]
    pub(crate) baseline: Option<Hash>,
}

/// A while in which a site is not asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Rest {
    #[n(0)]
    until: Timestamp,
    /// How often in a row.
    #[n(1)]
    times: u32,
}

/// Why a site rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestAfter {
    /// Key setup.
    Setup,
    /// An attempt of this kind.
    Attempt(Purpose),
}

/// What a site said to a study.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) enum Standing {
    /// Nothing yet.
    #[n(0)]
    Silent,
    /// A person there has still to decide.
    #[n(1)]
    Deciding {
        /// Since when.
        #[n(0)]
        since: Timestamp,
    },
    /// It takes part.
    #[n(2)]
    Accepted(#[n(0)] Box<Accepted>),
    /// It does not.
    #[n(3)]
    Refused(#[n(0)] Signed<Refusal>),
    /// Its shares were proved not to fit its commitments: never selected again.
    #[n(4)]
    Guilty,
    /// Its certificate was revoked: never selected again.
    #[n(5)]
    Revoked,
}

/// An acceptance.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Accepted {
    #[n(0)]
    pub(crate) signed: Signed<Acceptance>,
    #[n(1)]
    pub(crate) terms: SiteTerms,
    #[n(2)]
    pub(crate) since: Timestamp,
}

/// Whether a site is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Link {
    /// Not since the study was proposed.
    #[n(0)]
    Never,
    /// Connected.
    #[n(1)]
    Up {
        /// Since when.
        #[n(0)]
        since: Timestamp,
    },
    /// It was, and is not.
    #[n(2)]
    Down {
        /// Since when.
        #[n(0)]
        since: Timestamp,
    },
}

impl SiteRecord {
    pub(crate) fn new(key: VerifyingKey) -> Self {
        Self {
            key,
            standing: Standing::Silent,
            link: Link::Never,
            readiness: None,
            setup_rest: Rest::default(),
            train_rest: Rest::default(),
            evaluate_rest: Rest::default(),
            last_missing: None,
            bound: None,
        }
    }

    pub(crate) fn accepted(&self) -> Option<&Accepted> {
        match &self.standing {
            Standing::Accepted(accepted) => Some(accepted),
            _ => None,
        }
    }

    /// What it counts, as it accepted.
    pub(crate) fn weight(&self) -> Option<u32> {
        Some(self.accepted()?.signed.claim().ok()?.weight_class)
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    /// Could settle keys now: accepted, connected, not resting.
    pub(crate) fn can_settle(&self, now: Timestamp) -> bool {
        self.accepted().is_some() && self.is_up() && self.setup_rest.until <= now
    }

    /// Can be asked now.
    pub(crate) fn is_available(&self, purpose: Purpose, now: Timestamp) -> bool {
        let rest = if purpose == Purpose::Train { self.train_rest } else { self.evaluate_rest };
        self.can_settle(now) && rest.until <= now
    }

    /// Since when it may settle keys again.
    pub(crate) fn may_settle_since(&self) -> Timestamp {
        self.setup_rest.until
    }

    /// When its rests end.
    pub(crate) fn rests_end(&self) -> [Timestamp; 3] {
        [self.setup_rest.until, self.train_rest.until, self.evaluate_rest.until]
    }

    /// Until when its return after a short absence, or its answer to the proposal, is waited for.
    pub(crate) fn expected_back(&self, timing: &Timing) -> Option<Timestamp> {
        match self.link {
            Link::Down { since } if self.accepted().is_some() => Some(since.after_human(timing.link_grace)),
            // It has just come, and a policy answers at once.
            Link::Up { since } if self.standing == Standing::Silent => {
                Some(since.after_human(timing.link_grace))
            }
            Link::Never | Link::Up { .. } | Link::Down { .. } => None,
        }
    }

    /// It said something. Whoever is not connected is not up for that (the message may have waited in a queue),
    /// but was there a moment ago.
    pub(crate) fn hear(&mut self, now: Timestamp) {
        if !self.is_up() {
            self.link = Link::Down { since: now };
        }
    }

    /// Its connection is up.
    pub(crate) fn connect(&mut self, now: Timestamp) {
        if !self.is_up() {
            self.link = Link::Up { since: now };
        }
    }

    pub(crate) fn disconnect(&mut self, now: Timestamp) {
        if self.is_up() {
            self.link = Link::Down { since: now };
        }
    }

    /// Leaves the site alone for a while, longer each time.
    pub(crate) fn rest(&mut self, after: RestAfter, now: Timestamp, timing: &Timing) {
        let rest = self.rest_after(after);
        rest.until = now.after(timing.rest.get() * 2u32.pow(rest.times.min(12)));
        rest.times += 1;
    }

    /// It was counted: the next rest is a short one again.
    pub(crate) fn was_counted(&mut self, purpose: Purpose) {
        self.last_missing = None;
        self.setup_rest.times = 0;
        self.rest_after(RestAfter::Attempt(purpose)).times = 0;
    }

    fn rest_after(&mut self, after: RestAfter) -> &mut Rest {
        match after {
            RestAfter::Setup => &mut self.setup_rest,
            RestAfter::Attempt(Purpose::Train) => &mut self.train_rest,
            RestAfter::Attempt(Purpose::Evaluate | Purpose::Statistics) => &mut self.evaluate_rest,
        }
    }
}
