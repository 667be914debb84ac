//! What a site has to hear: a pure function of the state, so that there is no outbox to lose.

use consilium_study::hash::Hash;
use consilium_study::name::SiteName;

use super::StudyMachine;
use super::run::{Life, Live, Phase, UploadState};
use super::sites::Standing;
use crate::message::{Directive, Letter, StudyState, in_batches};

impl StudyMachine {
    /// Everything that `site` has to hear now, in order. A shell sends what it has not sent on this connection
    /// yet (compare [`crate::message::DirectiveId`]s), and all of it on a new one; each letter is at most
    /// [`crate::message::MAX_MESSAGE`] long.
    pub fn directives_for(&self, site: &SiteName) -> Vec<Letter<Directive>> {
        let Some(record) = self.sites.get(site) else { return Vec::new() };
        let mut list = Vec::new();
        match &record.standing {
            Standing::Revoked => return Vec::new(),
            Standing::Silent | Standing::Deciding { .. } if !self.is_over() => {
                list.push(self.proposal());
                list.push(Directive::StudyState(self.state()));
            }
            Standing::Accepted(_) if !self.is_over() => {
                // Also to a site that has accepted: a vault that was restored asks its policy again.
                list.push(self.proposal());
                list.push(Directive::StudyState(self.state()));
                self.attempt_directives(site, &mut list);
            }
            Standing::Silent
            | Standing::Deciding { .. }
            | Standing::Accepted(_)
            | Standing::Refused(_)
            | Standing::Guilty => list.push(Directive::StudyState(self.state())),
        }
        let study = self.study_hash();
        list.into_iter().map(|message| Letter { study, message }).collect()
    }

    fn attempt_directives(&self, site: &SiteName, list: &mut Vec<Directive>) {
        if let Some(epoch) = &self.epoch
            && !epoch.lost.contains(site)
        {
            list.push(Directive::Opening(epoch.setup.opening().clone()));
            let mail = epoch.setup.mail_for(site);
            list.extend(in_batches(mail.adverts).into_iter().map(Directive::Adverts));
            list.extend(in_batches(mail.encapsulations).into_iter().map(Directive::Encapsulations));
            list.extend(in_batches(mail.confirmations).into_iter().map(Directive::Confirmations));
            list.extend(mail.call.map(Directive::Draw));
            list.extend(in_batches(mail.reveals).into_iter().map(Directive::Reveals));
        }
        list.extend(self.guilt.iter().map(|proof| Directive::Guilt(Box::new(proof.clone()))));
        if let Some(settled) = &self.settled {
            list.push(Directive::Settled(settled.clone()));
        }
        if let Some(live) = self.live_attempt()
            && live.members.contains_key(site)
        {
            member_directives(live, site, list);
        }
        if let Some((binding, asked)) = self.question()
            && asked.contains(site)
        {
            list.push(Directive::Bound(binding));
        }
    }

    fn proposal(&self) -> Directive {
        Directive::Proposal { study: self.signed.clone(), roster: self.roster.clone() }
    }

    /// Where the study stands.
    pub fn state(&self) -> StudyState {
        match &self.life {
            Life::Proposed => StudyState::Proposed,
            Life::Open => StudyState::Open,
            Life::Running(_) => StudyState::Running,
            Life::Paused { .. } => StudyState::Paused,
            Life::Closed { .. } => StudyState::Closed,
            Life::Released(release) => StudyState::Released { model: release.model },
            Life::Stopped { .. } => StudyState::Stopped,
        }
    }

    /// What names the study everywhere.
    pub fn study_hash(&self) -> Hash {
        self.study.hash()
    }
}

fn member_directives(live: &Live, site: &SiteName, list: &mut Vec<Directive>) {
    let ctx = live.ctx;
    let receipts = |receipts| {
        in_batches(receipts).into_iter().map(move |receipts| Directive::Receipts { ctx, receipts })
    };
    let envelopes = |envelopes| {
        in_batches(envelopes).into_iter().map(move |envelopes| Directive::Envelopes { ctx, envelopes })
    };
    match &live.phase {
        Phase::Collect(phase) => {
            if live.members.get(site).is_some_and(|member| !matches!(member.upload, UploadState::Gone(_))) {
                list.push(Directive::Begin { context: live.signed.clone() });
            }
            list.extend(receipts(phase.receipts_for(site)));
            list.extend(envelopes(phase.envelopes_for(site)));
        }
        Phase::Check { check, .. } => {
            list.extend(receipts(check.receipts()));
            list.extend(envelopes(check.envelopes_for(site)));
            if check.waits().contains(site) {
                list.push(Directive::Survivors { ctx, survivors: check.survivors().clone() });
            }
        }
        Phase::Unmask { unmask, .. } => {
            if unmask.waits().contains(site) {
                list.extend(receipts(unmask.receipts()));
                list.extend(envelopes(unmask.envelopes_for(site)));
                list.push(Directive::Unmask(unmask.request().clone()));
            }
        }
    }
}
