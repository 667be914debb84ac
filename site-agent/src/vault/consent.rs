//! The repeat rule between the coordinator and a person: a model is opened again with the same survivors, or
//! when somebody at the site has said yes.

use consilium_rounds::message::{Binding, SiteMessage};
use consilium_secagg::context::Context;
use consilium_secagg::site::{NeverRepeat, RepeatBook};
use consilium_secagg::terms;
use consilium_study::hash::Hash;
use consilium_study::statement::Repeat;

use super::case::Topic;
use super::core::{Core, Taken};
use crate::journal::Event;

impl Core {
    /// The coordinator would open a model again, and survivors of an earlier sum are missing. Whoever has not
    /// written them down is free and says so; whoever has asks a person.
    pub(super) fn bound(&mut self, study: Hash, binding: Binding) -> Taken {
        let Some(case) = self.cases.get_mut(&study) else { return Taken::Done };
        let given = case.record.participation().and_then(|participation| participation.consent.as_ref());
        if self.book.sets_of(&binding.model).next().is_some() {
            case.asked = Some(binding);
        } else if given != Some(&binding) {
            case.say(Topic::Unbound, SiteMessage::Unbound(binding));
        }
        Taken::Done
    }

    /// A person lets a model be opened once more, with other survivors than before. The leave is written down
    /// first: after a crash the person's file is still there and the rest is done again.
    pub(super) fn consent(&mut self, study: Hash, person: String, binding: Binding) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        case.asked = None;
        let repeat = match self.policy.terms(&case.study).repeat {
            Repeat::Ask => terms::Repeat::Ask,
            Repeat::Never => {
                tracing::warn!(study = study.short(), "{}", NeverRepeat);
                return Ok(());
            }
        };
        self.note(Event::Consented { study, person, model: binding.model })?;
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        if let Some(participation) = case.record.participation_mut() {
            participation.consent = Some(binding.clone());
        }
        case.record.write(&*self.store, &self.folder)?;
        self.book.consent(&binding.model, repeat)?;
        if let Some(machine) = &mut case.machine {
            let _ = self.keeping.persist(machine, &mut self.book)?;
        }
        case.say(Topic::Consent, SiteMessage::Consent(binding));
        Ok(())
    }
}

/// What a person would have to allow for this attempt, if the repeat rule is in its way.
pub(super) fn question(book: &RepeatBook, context: &Context) -> Option<Binding> {
    std::iter::once(context.model).chain(context.baseline).find_map(|model| {
        let survivors = book.sets_of(&model).next()?.iter().cloned().collect();
        Some(Binding { model, survivors })
    })
}
