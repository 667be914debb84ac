//! Control variates of a study: whose are in their mean, and when it begins anew.

use std::collections::BTreeSet;

use consilium_secagg::context::Purpose;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;

use super::StudyMachine;
use super::run::{Live, Summing};
use crate::control::{Controlled, Variates};

impl StudyMachine {
    /// The variates in the mean after a sum over these members; none where the study keeps no mean.
    pub(super) fn next_variates(&self, live: &Live, survivors: &BTreeSet<SiteName>) -> Option<Variates> {
        let keeps = live.context.purpose == Purpose::Train && self.study.rounds.strategy.keeps_control();
        // The weight of a member is missing only where an attempt was begun by a program that knew no such strategy.
        let weight = |site: &SiteName| live.members.get(site).and_then(|member| member.weight).unwrap_or(1);
        let sites = survivors.iter().map(|site| (site.clone(), weight(site)));
        keeps.then(|| {
            let so_far = self.control.as_ref().map(|control| control.variates.clone()).unwrap_or_default();
            so_far.after(live.context.attempt, sites)
        })
    }

    /// What stands beside the candidate of a sum.
    pub(super) fn next_control(summing: &Summing, mean: Option<Hash>) -> Option<Controlled> {
        Some(Controlled { mean: mean?, variates: summing.job.variates.clone()? })
    }

    /// A site cannot go on from the variate that is counted for it: what others corrected by it would stand against nothing,
    /// in every round to come. The next training begins without variates, at every site.
    pub(super) fn lose_variates(&mut self) {
        self.variates_lost = true;
    }

    /// A training is about to begin.
    pub(super) fn begin_variates_anew(&mut self) {
        if std::mem::take(&mut self.variates_lost) {
            self.control = None;
        }
    }
}
