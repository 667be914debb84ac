//! Models on their way in: what the coordinator hears of it, and the attempts that wait for them.

use std::time::Instant;

use consilium_rounds::message::{Progress, SiteMessage, Stage};
use consilium_study::hash::Hash;

use super::case::{Case, Doing, Topic};
use super::core::Core;
use super::proposal::model_limit;
use super::work::TELL_AFTER;

impl Core {
    /// How much of an attempt's models is here.
    pub(super) fn say_fetching(&mut self, study: Hash) {
        let Some(case) = self.cases.get_mut(&study) else { return };
        let Some((context, ..)) = case.machine.as_ref().and_then(|machine| machine.current()) else { return };
        let limit = model_limit(&case.study);
        let wanted = std::iter::once(context.model).chain(context.baseline);
        let (done, total) = wanted.fold((0, 0), |(done, total), hash| {
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
