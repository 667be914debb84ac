//! The site's side of the protocol: one [`SiteMachine`] per study, one [`RepeatBook`] for all.
//!
//! ```text
//! epoch:    open_epoch → take_adverts → take_encapsulations → take_confirmations       (setup.rs)
//! groups:   reveal → take_reveals, where a study sums groups                           (draw.rs)
//! attempt:  begin → mask … seal → take_receipts, take_envelopes                        (attempt.rs)
//! opening:  sign → answer                                                              (opening.rs)
//! ```
//!
//! What must hold: a site accepts one context per attempt, with rising numbers, and signs for one set of
//! survivors per attempt and per starting model. Both are written down before anything leaves
//! ([`persist::Unsent`]), so a crash between any two lines changes nothing.

mod attempt;
mod book;
mod draw;
mod opening;
mod persist;
mod record;
mod refusal;
mod setup;

use std::collections::BTreeSet;
use std::sync::Arc;

use consilium_study::canonical::{Canonical, NotCanonical};
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, SigningKey, Statement};

pub use attempt::{Begun, MaskPermit};
pub use book::{NeverRepeat, RepeatBook};
pub(crate) use opening::{dropped_peers, opened_of};
pub use persist::{OtherState, Persisted, Store, Unsent};
pub use refusal::{Missing, SiteRefusal};
pub use setup::{PairsSettled, SetupReply};

use crate::alarm::{Alarm, Occasion};
use crate::chain::Chain;
use crate::context::{Context, CtxHash, Purpose};
use crate::guilt::{DealerGuilt, NoGuilt};
use crate::numbering::{Attempt, Epoch};
use crate::pin::StudyPin;
use crate::secret::random;
use crate::terms::{Floors, Terms};
use persist::Stamp;
use record::{Opening, Own, Record};

/// Most alarms that a site keeps.
const MAX_KEPT_ALARMS: usize = 256;

/// One study at one site.
pub struct SiteMachine {
    pin: StudyPin,
    me: SiteName,
    key: Arc<SigningKey>,
    floors: Floors,
    record: Record,
    chain: Chain,
    /// The version that the store has, if it has one.
    saved: Option<u64>,
}

/// Why a machine cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The study does not name this site.
    #[error("the study does not name {0}")]
    NotInRoster(SiteName),
    /// The record is damaged.
    #[error("the record of this study cannot be read: {0}")]
    Record(#[from] NotCanonical),
    /// The record belongs to another study or site.
    #[error("the record belongs to another study, roster or site")]
    Foreign,
}

/// How far the site is in its attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteStage {
    /// The context was accepted; the vector is not sealed.
    Accepted,
    /// The vector is sealed and may be uploaded.
    Sealed,
    /// Survivors were signed or written down.
    Bound,
    /// The answer was given.
    Answered,
}

impl SiteMachine {
    /// A site that has no state in this study yet.
    pub fn new(
        pin: StudyPin,
        me: SiteName,
        key: Arc<SigningKey>,
        floors: Floors,
    ) -> Result<Self, RestoreError> {
        if !pin.sites.contains_key(&me) {
            return Err(RestoreError::NotInRoster(me));
        }
        let instance = *random();
        let record = Record {
            study: pin.study,
            roster: pin.roster,
            site: me.clone(),
            instance: instance.into(),
            version: 0,
            last_epoch: None,
            epoch: None,
            highest: None,
            attempt: None,
            alarms: Vec::new(),
            guilty: BTreeSet::new(),
            opened: None,
            book: 0,
            draws: 0,
        };
        let chain = Chain { instance, version: 0, epoch: None };
        Ok(Self { pin, me, key, floors, record, chain, saved: None })
    }

    /// The machine as it was last persisted, from the bytes that the store was given.
    ///
    /// Where the chain file is missing or does not belong to the record (an agent restored from a backup), the
    /// pair keys are gone: the attempt is dead and the site waits for the next epoch. So it does with a chain from
    /// another write than the record's: with a later one an older record would have forgotten what it signed. See
    /// also [`Self::goes_with`].
    pub fn restore(
        pin: StudyPin,
        me: SiteName,
        key: Arc<SigningKey>,
        floors: Floors,
        record: &[u8],
        chain: Option<&[u8]>,
    ) -> Result<Self, RestoreError> {
        let mut machine = Self::new(pin, me, key, floors)?;
        let record = Record::from_canonical(record)?;
        let mine = &machine.record;
        if record.study != mine.study || record.roster != mine.roster || record.site != mine.site {
            return Err(RestoreError::Foreign);
        }
        let chain = chain
            .and_then(|bytes| Chain::from_bytes(bytes, &record.study).ok())
            .filter(|chain| chain.instance == *record.instance && chain.version == record.version);
        machine.record = record;
        if let Some(chain) = chain {
            machine.saved = Some(chain.version);
            machine.chain = chain;
        } else {
            // The instance that `new` drew is one that no file carries.
            machine.record.instance = machine.chain.instance.into();
            machine.record.epoch = None;
            machine.record.attempt = None;
            machine.touch();
        }
        Ok(machine)
    }

    /// Whether the repeat book is the one that this machine was last written with, or a later one. An older book was
    /// restored from a backup or lost: it has forgotten survivors that this site signed.
    pub fn goes_with(&self, book: &RepeatBook) -> bool {
        self.record.book <= book.version()
    }

    /// Writes the state, if the store does not have it yet: chain first, then record and book. The proof opens
    /// the [`Unsent`] messages that follow from exactly this state.
    pub fn persist<S: Store>(&mut self, book: &mut RepeatBook, store: &mut S) -> Result<Persisted, S::Error> {
        let unsaved_book = book.unsaved();
        if self.saved != Some(self.record.version) || unsaved_book.is_some() {
            self.chain.version = self.record.version;
            self.record.book = book.version();
            store.save_chain(&self.record.study, &self.chain.to_bytes(&self.record.study))?;
            store.save_record(&self.record.study, &self.record.to_canonical(), unsaved_book.as_deref())?;
            self.saved = Some(self.record.version);
            book.saved();
        }
        Ok(Persisted(self.stamp()))
    }

    fn stamp(&self) -> Stamp {
        Stamp { study: self.record.study, instance: *self.record.instance, version: self.record.version }
    }

    fn unsent<T>(&self, message: T) -> Unsent<T> {
        Unsent::new(message, self.stamp())
    }

    /// Marks the state as changed. Called before a message is stamped.
    fn touch(&mut self) {
        self.record.version += 1;
    }

    fn sign_statement<T: Statement>(&self, statement: &T) -> Signed<T> {
        Signed::seal(statement, Principal::Site(self.me.clone()), &self.key)
    }

    /// Keeps an alarm and refuses.
    fn alarm(&mut self, occasion: Occasion, first: Hash, second: Hash) -> SiteRefusal {
        let alarm = Alarm { occasion, first, second };
        // A coordinator can make up as many second stories as it likes; the first ones tell enough.
        if !self.record.alarms.contains(&alarm) && self.record.alarms.len() < MAX_KEPT_ALARMS {
            self.record.alarms.push(alarm);
            self.touch();
        }
        SiteRefusal::Alarm(alarm)
    }

    /// The keys, for test vectors.
    #[cfg(test)]
    pub(crate) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// What this site noticed so far, oldest first. Belongs into its journal.
    pub fn alarms(&self) -> &[Alarm] {
        &self.record.alarms
    }

    /// Replaces what the site's policy demands. Binds later attempts; receipts that were signed stay.
    pub fn set_floors(&mut self, floors: Floors) {
        self.floors = floors;
    }

    /// The epoch whose keys this site has. None before the first, and after the keys were lost.
    pub fn epoch(&self) -> Option<Epoch> {
        self.record.epoch.as_ref().map(|epoch| epoch.opening.epoch)
    }

    /// The last epoch that was opened here, where its keys were lost. None once a later one is open.
    pub fn lost_epoch(&self) -> Option<Epoch> {
        self.record.last_epoch.filter(|_| self.record.epoch.is_none())
    }

    /// The attempt that the site is in, and how far it is.
    pub fn current(&self) -> Option<(&Context, CtxHash, SiteStage)> {
        let attempt = self.record.attempt.as_ref()?;
        let stage = match (&attempt.own, &attempt.opening) {
            (_, Opening::Bound(_, _, Some(_))) => SiteStage::Answered,
            (_, Opening::Bound(..)) => SiteStage::Bound,
            (Own::Sealed(..), Opening::Closed) => SiteStage::Sealed,
            (Own::Unsealed, Opening::Closed) => SiteStage::Accepted,
        };
        Some((&attempt.context, attempt.context.hash(), stage))
    }

    /// The highest attempt that was accepted.
    pub fn highest_attempt(&self) -> Option<Attempt> {
        self.record.highest
    }

    /// What this site demands of the survivors where `model` is summed for `purpose`. The coordinator hears it
    /// before it selects, and proposes only what all can sign.
    pub fn terms(&self, model: &Hash, purpose: Purpose, book: &RepeatBook) -> Terms {
        self.terms_with(book.bound(model, purpose).into_iter().collect())
    }

    fn terms_with(&self, bound: Vec<&BTreeSet<SiteName>>) -> Terms {
        let earlier = match &self.record.epoch {
            Some(epoch) if self.floors.min_change > 0 => epoch.earlier.iter().cloned().collect(),
            _ => Vec::new(),
        };
        Terms {
            min_honest: self.floors.min_honest,
            min_selection: self.floors.min_selection,
            min_change: self.floors.min_change,
            earlier,
            bound: bound.into_iter().map(|set| set.iter().cloned().collect()).collect(),
        }
    }

    /// Takes a proof of a dealer's guilt from the ledger: from now on survivors without that dealer count as
    /// the same set. Returns the dealer.
    pub fn take_guilt(&mut self, proof: &DealerGuilt) -> Result<SiteName, NoGuilt> {
        let dealer = proof.check(&self.pin)?;
        if self.record.guilty.insert(dealer.clone()) {
            self.touch();
        }
        Ok(dealer)
    }
}
