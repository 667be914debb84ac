//! Drawing groups, where a study sums groups: once per epoch, among the sites that could begin a round.

use std::collections::BTreeSet;

use consilium_secagg::context::{Context, Purpose};
use consilium_secagg::grouping::Drawn;
use consilium_secagg::message::{DrawCall, DrawFields, Participant};
use consilium_study::document::{colluders, least_honest};
use consilium_study::grouping::{GroupPlan, Groups};
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, SigningKey};

use super::StudyMachine;
use super::select::{Selected, Shortage};
use super::sites::RestAfter;
use crate::time::Timestamp;

/// How far the draw of an epoch is.
pub(super) enum Draw<'m> {
    /// The next sum is over everybody.
    None,
    /// Nobody was asked yet.
    Due(Groups),
    /// Nonces are still to come.
    Called,
    /// The groups are known.
    Drawn(Groups, &'m Drawn),
}

impl StudyMachine {
    /// How far the draw for the next sum is.
    pub(super) fn draw(&self) -> Draw<'_> {
        let (Some(groups), Purpose::Train) = (self.study.aggregation.groups, self.purpose()) else {
            return Draw::None;
        };
        let setup = self.epoch.as_ref().map(|epoch| &epoch.setup);
        match setup.and_then(|setup| Some((setup.call()?, setup.drawn()))) {
            None => Draw::Due(groups),
            Some((_, None)) => Draw::Called,
            Some((_, Some(drawn))) => Draw::Drawn(groups, drawn),
        }
    }

    /// Participants that have not given their nonce.
    pub(super) fn hidden(&self) -> Vec<SiteName> {
        match self.draw() {
            Draw::Called => self.epoch.as_ref().map(|epoch| epoch.setup.hidden()).unwrap_or_default(),
            Draw::None | Draw::Due(_) | Draw::Drawn(..) => Vec::new(),
        }
    }

    /// Until when nonces are waited for.
    pub(super) fn draw_deadline(&self) -> Option<Timestamp> {
        let called = self.epoch.as_ref()?.called?;
        matches!(self.draw(), Draw::Called).then(|| called.after_human(self.study.rounds.setup_timeout))
    }

    /// Names the participants: everybody who could begin the round.
    pub(super) fn call_draw(&mut self, selected: &Selected, now: Timestamp, key: &SigningKey) {
        let pin = self.pin();
        let Some(epoch) = &mut self.epoch else { return };
        let participants = selected
            .sites
            .iter()
            .filter_map(|site| Some(Participant { site: site.clone(), advert: epoch.setup.advert(site)? }));
        let fields =
            DrawFields { study: pin.study, epoch: epoch.opening.epoch, participants: participants.collect() };
        let call = DrawCall::new(fields).expect("a Selection has its sites in order, each once");
        let signed = Signed::seal(&call, Principal::Coordinator, key);
        epoch.setup.call_draw(&pin, &signed).expect("our own call fits our own study");
        epoch.called = Some(now);
    }

    /// Leaves sites alone that keep their nonce to themselves. Says whether there were any.
    pub(super) fn rest_the_hidden(&mut self, now: Timestamp) -> bool {
        if self.draw_deadline().is_none_or(|deadline| deadline > now) {
            return false;
        }
        let (hidden, timing) = (self.hidden(), self.timing);
        let mut any = false;
        for site in hidden {
            if let Some(record) = self.sites.get_mut(&site).filter(|record| record.can_settle(now)) {
                record.rest(RestAfter::Setup, now, &timing);
                any = true;
            }
        }
        any
    }

    /// Whether the epoch's draw is of no use any more: somebody has kept a nonce back, or so many are gone that no round
    /// can begin, and with another draw one could.
    pub(super) fn draw_is_spent(&self, now: Timestamp) -> bool {
        match self.draw() {
            Draw::None | Draw::Due(_) => false,
            Draw::Called => self.draw_deadline().is_some_and(|deadline| deadline <= now),
            Draw::Drawn(groups, _) => {
                let stuck = matches!(
                    self.choose(now),
                    Err(Shortage::TooFew { .. } | Shortage::TooFewGroups { .. } | Shortage::Required { .. })
                );
                stuck
                    && self
                        .choose_undrawn(now)
                        .is_ok_and(|selected| can_split(groups, selected.sites.len(), &selected))
            }
        }
    }

    /// Of `ready` sites those whose groups are there with enough of them to be in a sum.
    pub(super) fn in_whole_groups(&self, drawn: &Drawn, ready: &BTreeSet<SiteName>) -> BTreeSet<SiteName> {
        let sites = self.study.sites.len();
        let honest = least_honest(sites).max(self.study.aggregation.min_honest);
        let groups = self.study.aggregation.groups.map_or(1, |groups| groups.count);
        let plan = GroupPlan::new(
            drawn.participants().count(),
            groups as u16,
            colluders(sites) as u16,
            honest as u16,
        );
        let Ok(plan) = plan else { return BTreeSet::new() };
        let here = |group| ready.iter().filter(|site| drawn.group_of(site) == Some(group)).count();
        let whole = |group: u16| here(group) >= usize::from(plan.floor(group));
        ready.iter().filter(|site| drawn.group_of(site).is_some_and(whole)).cloned().collect()
    }

    /// Whether so many groups are among `survivors` that the study's rule can be applied to them.
    pub(super) fn enough_groups(&self, context: &Context, survivors: &BTreeSet<SiteName>) -> bool {
        let Some(groups) = self.study.aggregation.groups.filter(|_| context.grouping.is_some()) else {
            return true;
        };
        let present: BTreeSet<u16> = survivors
            .iter()
            .filter_map(|site| Some(context.group_of(context.selection.index_of(site)?)))
            .collect();
        groups.trimmed(present.len()).is_some()
    }
}

/// Whether the groups of so many participants keep what the members of a Selection ask for.
pub(super) fn can_split(groups: Groups, participants: usize, selected: &Selected) -> bool {
    let count = u16::try_from(groups.count).unwrap_or(u16::MAX);
    let thresholds = selected.thresholds;
    GroupPlan::new(participants, count, thresholds.corrupt, thresholds.honest).is_ok()
}
