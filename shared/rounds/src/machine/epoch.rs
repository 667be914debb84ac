//! Key setup: who has settled pair keys with whom, and when a new generation is needed.
//!
//! Setup is per pair and incremental: a site that accepts late settles its pairs in the running epoch and is
//! selected from the next round on. An epoch ends when its attempts are used up, when a site has lost its
//! keys, when a late site cannot settle any more, or when its draw of groups is of no use; the next is opened between
//! rounds only.

use std::collections::{BTreeMap, BTreeSet};

use consilium_secagg::context::Purpose;
use consilium_secagg::coordinator::EpochSetup;
use consilium_secagg::message::EpochOpening;
use consilium_secagg::numbering::{Attempt, Epoch};
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, SigningKey};
use minicbor::{Decode, Encode};

use super::{Effects, StudyMachine};
use crate::record::Record;
use crate::time::Timestamp;

/// The current generation of pair keys.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct EpochState {
    #[n(0)]
    pub(crate) opening: EpochOpening,
    #[n(1)]
    pub(crate) since: Timestamp,
    #[n(2)]
    pub(crate) setup: EpochSetup,
    /// With whom each site has said that it shares confirmed keys. Only grows within an epoch, because messages
    /// may overtake each other.
    #[n(3)]
    pub(crate) settled: BTreeMap<SiteName, BTreeSet<SiteName>>,
    /// Sites that cannot use this epoch any more.
    #[n(4)]
    pub(crate) lost: BTreeSet<SiteName>,
    /// When the draw of groups was called.
    #[n(5)]
    pub(crate) called: Option<Timestamp>,
}

impl EpochState {
    pub(crate) fn has_settled(&self, site: &SiteName, with: &SiteName) -> bool {
        let lost = |site| self.lost.contains(site);
        self.setup.is_settled(site, with) && !lost(site) && !lost(with)
    }
}

impl StudyMachine {
    /// Whether the next attempt needs another generation of keys.
    pub(super) fn epoch_is_due(&self, now: Timestamp) -> bool {
        let Some(epoch) = &self.epoch else { return true };
        let next = Attempt::new(self.next_attempt);
        if !next.is_ok_and(|next| epoch.opening.serves(next)) {
            return true;
        }
        let lost = epoch.lost.iter().any(|site| self.sites[site].can_settle(now));
        // A site that came after the opening and could not settle needs another; one that was there from the
        // beginning would fail again.
        let late = self.unsettled(now).into_iter().any(|site| {
            let since = self.settling_since(&site, epoch);
            since > epoch.since && since.after_human(self.study.rounds.setup_timeout) <= now
        });
        lost || late || self.draw_is_spent(now)
    }

    /// Opens the next generation.
    pub(super) fn open_epoch(&mut self, now: Timestamp, key: &SigningKey, effects: &mut Effects) {
        // Epochs are numbered by their first attempt: both only grow, also above the state of a backup.
        if let Some(epoch) = &self.epoch {
            self.next_attempt = self.next_attempt.max(epoch.opening.epoch.get() + 1);
        }
        let opening = EpochOpening {
            study: self.study.hash(),
            roster: self.roster_hash,
            epoch: Epoch::new(self.next_attempt).expect("attempts are numbered from 1"),
            first_attempt: Attempt::new(self.next_attempt).expect("attempts are numbered from 1"),
            attempts: self.study.rounds.attempts_per_epoch,
        };
        let signed = Signed::seal(&opening, Principal::Coordinator, key);
        let setup = EpochSetup::new(&self.pin(), &signed).expect("our own opening fits our own study");
        effects.record(Record::Epoch(signed));
        let (settled, lost) = (BTreeMap::new(), BTreeSet::new());
        self.epoch = Some(EpochState { opening, since: now, setup, settled, lost, called: None });
    }

    /// Since when a site has had the chance to settle its keys.
    pub(super) fn settling_since(&self, site: &SiteName, epoch: &EpochState) -> Timestamp {
        let record = &self.sites[site];
        let accepted = record.accepted().map_or(epoch.since, |accepted| accepted.since);
        let up = match record.link {
            super::sites::Link::Up { since } => since,
            super::sites::Link::Never | super::sites::Link::Down { .. } => epoch.since,
        };
        epoch.since.max(accepted).max(up).max(record.may_settle_since())
    }

    /// Available sites that have not settled keys with all other available ones.
    pub(super) fn unsettled(&self, now: Timestamp) -> Vec<SiteName> {
        let available: BTreeSet<SiteName> = self.available(now).cloned().collect();
        let mut settled = available.clone();
        let epoch = self.epoch.as_ref();
        super::select::drop_unsettled(
            &mut settled,
            |one, other| epoch.is_some_and(|epoch| epoch.has_settled(one, other)),
            &self.study.rounds.required,
        );
        available.difference(&settled).cloned().collect()
    }

    /// Sites that can be asked now.
    pub(super) fn available(&self, now: Timestamp) -> impl Iterator<Item = &SiteName> {
        let purpose = self.purpose();
        self.sites.iter().filter(move |(_, record)| record.is_available(purpose, now)).map(|(site, _)| site)
    }

    /// What is summed next.
    pub(super) fn purpose(&self) -> Purpose {
        self.run().map_or(Purpose::Train, |run| run.step.purpose())
    }
}
