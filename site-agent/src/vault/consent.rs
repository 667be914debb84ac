//! The repeat rule between the coordinator and a person: a model is opened again with the same survivors, or
//! when somebody at the site has said yes. What the person reads comes from this site's own book.

use consilium_rounds::message::{Binding, SiteMessage};
use consilium_rounds::reason::Decline;
use consilium_secagg::context::Context;
use consilium_secagg::site::{NeverRepeat, RepeatBook};
use consilium_secagg::terms;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::statement::Repeat;

use super::case::{Case, Topic};
use super::core::{Core, Taken};
use super::record::Question;
use crate::journal::Event;

impl Core {
    /// The coordinator would open a model again, and survivors of an earlier sum are missing. Whoever has not
    /// written them down is free and says so; whoever has asks a person.
    pub(super) fn bound(&mut self, study: Hash, binding: Binding) -> Taken {
        let Some(case) = self.cases.get_mut(&study) else { return Taken::Done };
        let question = question(&self.book, binding);
        if !question.sets.is_empty() {
            if repeat_of(case) == Repeat::Never {
                let why = NeverRepeat.to_string();
                return Taken::Refused { reason: Decline::Policy, attempt: None, why };
            }
            case.asked = Some(question);
            return Taken::Done;
        }
        let binding = question.binding;
        let given = case.record.participation().and_then(|participation| participation.consent.as_ref());
        let id = if given == Some(&binding) {
            case.say(Topic::Consent, SiteMessage::Consent(binding))
        } else {
            case.say(Topic::Unbound, SiteMessage::Unbound(binding))
        };
        // Who asks again has not heard the answer, whatever was recorded once.
        self.speech.forget(&id);
        Taken::Done
    }

    /// A person lets a model be opened once more, with other survivors than before. The leave is written down
    /// first: after a crash the person's file is still there and the rest is done again.
    pub(super) fn consent(&mut self, study: Hash, person: String, question: Question) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        if case.machine.is_none() || repeat_of(case) == Repeat::Never {
            return Ok(());
        }
        let Question { binding, sets } = question;
        self.note(Event::Consented { study, person, model: binding.model, instead_of: sets })?;
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        if let Some(participation) = case.record.participation_mut() {
            participation.consent = Some(binding.clone());
        }
        case.record.write(&*self.store, &self.folder)?;
        self.book.consent(binding.purpose, binding.model, binding.baseline, terms::Repeat::Ask)?;
        if let Some(machine) = &mut case.machine {
            let _ = self.keeping.persist(machine, &mut self.book)?;
        }
        case.asked = None;
        let id = case.say(Topic::Consent, SiteMessage::Consent(binding));
        self.speech.forget(&id);
        Ok(())
    }

    /// Survivors are written down again: what a person allowed before was for this once.
    pub(super) fn spend_consent(&mut self, study: Hash) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        case.asked = None;
        case.hush(|topic| matches!(topic, Topic::Consent | Topic::Unbound));
        let participation = case.record.participation_mut();
        if participation.is_some_and(|participation| participation.consent.take().is_some()) {
            case.record.write(&*self.store, &self.folder)?;
        }
        Ok(())
    }
}

/// What the site accepted the study with.
fn repeat_of(case: &Case) -> Repeat {
    case.record.accepted_terms().map_or(Repeat::Never, |terms| terms.repeat)
}

/// What a person would have to allow, by this site's own book.
fn question(book: &RepeatBook, binding: Binding) -> Question {
    let sets = book.sets_for(binding.purpose, binding.model, binding.baseline);
    let sets = sets.into_iter().map(|set| set.iter().cloned().collect()).collect();
    Question { binding, sets }
}

/// The same for an attempt that the repeat rule is in the way of.
pub(super) fn question_about(book: &RepeatBook, context: &Context) -> Option<Question> {
    let (model, purpose, baseline) = (context.model, context.purpose, context.baseline);
    let mut question = question(book, Binding { model, purpose, baseline, survivors: Vec::new() });
    question.binding.survivors.clone_from(question.sets.first()?);
    Some(question)
}

/// Survivors as people read them.
pub(crate) fn in_words(sets: &[Vec<SiteName>]) -> String {
    let words = |set: &Vec<SiteName>| set.iter().map(SiteName::as_str).collect::<Vec<_>>().join(", ");
    sets.iter().map(words).collect::<Vec<_>>().join("; and ")
}
