//! Models on their way in: what the coordinator hears of it, and the attempts that wait for them.

use std::time::Instant;

use consilium_rounds::message::{Progress, SiteMessage, Stage};
use consilium_secagg::context::Context;
use consilium_study::document::Study;
use consilium_study::hash::Hash;

use super::case::{Case, Doing, Topic};
use super::core::Core;
use super::proposal::model_limit;
use super::work::TELL_AFTER;

/// The models of an attempt: the one that it is about, what that is compared with, what its steps are corrected by, and, where
/// layers of all models are those of the initial one, that.
pub(super) fn models_of(study: &Study, context: &Context) -> Vec<Hash> {
    let initial = study.model.has_fixed().then(|| study.initial_model());
    let control = context.control.as_ref().map(|control| control.mean);
    std::iter::once(context.model).chain(context.baseline).chain(control).chain(initial).collect()
}

impl Core {
    /// How much of an attempt's models is here.
    pub(super) fn say_fetching(&mut self, study: Hash) {
        let Some(case) = self.cases.get_mut(&study) else { return };
        let Some((context, ..)) = case.machine.as_ref().and_then(|machine| machine.current()) else { return };
        let limit = model_limit(&case.study);
        let wanted = models_of(&case.study, context);
        let (done, total) = wanted.into_iter().fold((0, 0), |(done, total), hash| {
            (done + self.models.have(&hash).unwrap_or(limit), total + limit)
        });
        let progress = Progress { attempt: context.attempt, stage: Stage::Fetching, done, total };
        case.say(Topic::Progress, SiteMessage::Progress(progress));
    }

    /// More of a model is here. The coordinator hears it now and then: a slow line is no dropout.
    pub(super) fn model_grows(&mut self) {
        if self.told_fetching.is_some_and(|at| at.elapsed() < TELL_AFTER) {
            return;
        }
        self.told_fetching = Some(Instant::now());
        let waits = |case: &Case| matches!(case.doing, Doing::Fetching { .. });
        let studies: Vec<Hash> =
            self.cases.iter().filter(|(_, case)| waits(case)).map(|(study, _)| *study).collect();
        for study in studies {
            self.say_fetching(study);
        }
    }

    /// A model is here: attempts that waited for it start.
    pub(super) fn model_arrived(&mut self) -> anyhow::Result<()> {
        let studies: Vec<Hash> = self.cases.keys().copied().collect();
        for study in studies {
            if let Some(case) = self.cases.get_mut(&study)
                && matches!(case.doing, Doing::Fetching { .. })
                && let Doing::Fetching { permit } = std::mem::replace(&mut case.doing, Doing::Nothing)
            {
                self.start(study, permit)?;
            }
        }
        Ok(())
    }
}
