//! Control variates: what sites corrected their steps by, and how their mean went on.

use std::collections::BTreeMap;

use consilium_rounds::control::{Controlled, Step, Variates, reach};
use consilium_rounds::record::OpenedSum;
use consilium_secagg::context::Context;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;

use super::{AttemptWalk, Fault, StudyWalk};
use crate::report::ControlReport;

/// What a sum does to the mean, as far as it is known when its attempt begins.
pub(super) struct Correction {
    /// The variates in the mean that steps are corrected by; none where all begin anew.
    so_far: Variates,
    /// What each selected site counts.
    weights: BTreeMap<SiteName, u32>,
}

impl StudyWalk {
    /// Steps are corrected by the mean beside the model that the study stands at, and the context says whose variates are in
    /// it; or by nothing, as when a site has lost its own.
    pub(super) fn correction(&self, context: &Context) -> Result<Correction, Fault> {
        let weight = |site: &SiteName| self.accepted.get(site).map_or(1, |said| said.weight_class);
        let members = context.selection.members().iter();
        let weights = members.map(|member| (member.site.clone(), weight(&member.site))).collect();
        let so_far = match &context.control {
            None => Variates::default(),
            Some(control) => {
                let known = self.control.as_ref().filter(|known| known.named(&context.selection) == *control);
                known.ok_or(Fault::Control)?.variates.clone()
            }
        };
        Ok(Correction { so_far, weights })
    }

    /// What an auditor with the files can hold the mean against.
    pub(super) fn note_control(&mut self, context: &Context, candidate: Hash, made: &Controlled) {
        self.report.controls.push(ControlReport {
            start: context.model,
            candidate,
            before: context.control.as_ref().map(|control| control.mean),
            after: made.mean,
            step: Step {
                share: made.variates.share(context.attempt),
                reach: reach(&self.study, context.round),
                server_rate: self.study.rounds.strategy.server_learning_rate().get(),
            },
        });
    }
}

impl AttemptWalk {
    /// The mean beside the candidate of this sum, where the strategy keeps one, and nowhere else.
    pub(super) fn control_of(&self, sum: &OpenedSum, keeps: bool) -> Result<Option<Controlled>, Fault> {
        if sum.control.is_some() != (sum.candidate.is_some() && keeps) {
            return Err(Fault::WrongEnd(
                "a mean of control variates stands beside the models of a strategy that keeps one, and nowhere else",
            ));
        }
        let Correction { so_far, weights } = &self.correction;
        let counted = self.report.counted.iter();
        let counted = counted.map(|site| (site.clone(), weights.get(site).copied().unwrap_or(1)));
        let variates = so_far.clone().after(self.context.attempt, counted);
        Ok(sum.control.map(|mean| Controlled { mean, variates }))
    }
}
