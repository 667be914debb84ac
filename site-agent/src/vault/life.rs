//! What a study's life brings: attempts that are over, pauses, and the end.

use consilium_rounds::message::{Settled, SettledAs, StudyState};
use consilium_study::hash::Hash;

use super::case::Case;
use super::core::{Core, Taken};
use super::record::Stage;
use super::work::Job;
use crate::journal::Event;
use crate::store::Kind;

impl Core {
    /// An attempt is over.
    pub(super) fn settled(&mut self, study: Hash, settled: Settled) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let attempt = settled.attempt;
        let outcome = match settled.outcome {
            SettledAs::Opened => "its sum was opened".to_owned(),
            SettledAs::Abandoned(reason) => reason.text().to_owned(),
        };
        if !case.record.set_settled(settled) {
            return Ok(Taken::Done);
        }
        case.record.write(&*self.store, &self.folder)?;
        let current = case.machine.as_ref().and_then(|machine| machine.current());
        if current.is_some_and(|(context, ..)| context.attempt <= attempt) {
            case.leave_attempt();
        }
        self.note(Event::Settled { study, attempt: attempt.get(), outcome })?;
        let spool = self.spool(&study, attempt);
        self.store.remove(Kind::Spool, &spool)?;
        self.drop_models()?;
        Ok(Taken::Done)
    }

    /// Where the study stands. It can only make this site do less.
    pub(super) fn study_state(&mut self, study: Hash, state: StudyState) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        if !case.record.set_state(state) {
            return Ok(Taken::Done);
        }
        case.record.write(&*self.store, &self.folder)?;
        self.note(Event::StudyState { study, state: format!("{state:?}") })?;
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        if case.record.is_over() {
            self.forget_study(study)?;
            self.forget_pictures()?;
        } else if case.record.may_work() {
            self.go_on(study)?;
        } else {
            case.stop_work();
        }
        Ok(Taken::Done)
    }

    /// A study that is over: its keys are erased, its cases and spools let go. Of one that released a model the site's own
    /// layers stay, for the hospital to use that model with.
    pub(super) fn forget_study(&mut self, study: Hash) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        case.leave_attempt();
        case.hush(|_| true);
        case.machine = None;
        case.asked = None;
        case.trouble = None;
        let is_released = case.record.state().released().is_some();
        let begun = case.record.participation().and_then(|participation| participation.begun.clone());
        if let Some(begun) = begun {
            let spool = self.spool(&study, begun.claim()?.attempt);
            self.store.remove(Kind::Spool, &spool)?;
        }
        if !is_released {
            self.store.remove(Kind::LocalLayers, &self.folder.study(&study).local_layers())?;
        }
        self.store.remove(Kind::ControlVariate, &self.folder.study(&study).control_variate())?;
        self.keeping.erase_keys(&study)?;
        self.jobs.send(Job::Forget(study))?;
        self.drop_models()
    }

    /// Decoded pictures are for studies that this site has accepted; without one they go.
    pub(super) fn forget_pictures(&self) -> anyhow::Result<()> {
        let reads = |case: &Case| {
            let takes_part = matches!(case.record.stage(), Stage::Decided { .. } | Stage::Accepted(_));
            takes_part && !case.record.is_over()
        };
        if !self.cases.values().any(reads) {
            self.jobs.send(Job::EmptyCache)?;
        }
        Ok(())
    }

    /// Lets go of models that no study needs any more.
    fn drop_models(&mut self) -> anyhow::Result<()> {
        let mut keep = Vec::new();
        for case in self.cases.values().filter(|case| case.machine.is_some()) {
            keep.push(case.study.initial_model());
            if let Some(settled) = case.record.settled() {
                keep.push(settled.model);
                keep.extend(settled.candidate);
            }
            keep.extend(
                case.record
                    .participation()
                    .and_then(|participation| participation.reference)
                    .map(|last| last.model),
            );
            if let Some((context, ..)) = case.machine.as_ref().and_then(|machine| machine.current()) {
                keep.push(context.model);
                keep.extend(context.baseline);
                keep.extend(context.control.as_ref().map(|control| control.mean));
            }
        }
        Ok(self.models.retain(&keep)?)
    }
}
