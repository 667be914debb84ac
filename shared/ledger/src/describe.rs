//! What a record says, in a line for people, before any signature is checked.

use std::fmt::Debug;

use consilium_rounds::record::{Course, Release, Verdict};
use consilium_secagg::alarm::{Alarm, Occasion};
use consilium_secagg::context::{Context, Purpose};
use consilium_study::name::SiteName;
use consilium_study::sign::{Signed, Statement};

use crate::record::Record;
use crate::statement::{Account, Act, Event, Order};

/// What a dealer is guilty of.
pub(crate) const GUILTY: &str = "its shares do not lead to the seed it committed to; it is left out";

/// The purpose of an attempt as a word.
pub(crate) const fn purpose(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Train => "train",
        Purpose::Evaluate => "evaluate",
        Purpose::Statistics => "statistics",
    }
}

/// Names of sites with commas between them.
pub(crate) fn names<'s>(sites: impl IntoIterator<Item = &'s SiteName>) -> String {
    let names: Vec<_> = sites.into_iter().map(SiteName::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// A number of things, in words.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

impl Record {
    /// What it says, in one line. Nothing is checked here: a forged record has a summary too.
    pub fn summary(&self) -> String {
        match self {
            Self::Roster(signed) => claim(signed, |roster| {
                let sites = names(roster.sites().iter().map(|entry| &entry.name));
                format!("version {} of the roster; sites: {sites}", roster.version())
            }),
            Self::Enrolment(signed) => claim(signed, |request| {
                let fingerprint = request.fingerprint().unwrap_or_else(|_| "none".to_owned());
                format!("{} asks to join with fingerprint {fingerprint}", request.site())
            }),
            Self::Study(signed) => claim(signed, |study| {
                format!("study {} for {}, document {}", study.name, names(&study.sites), study.hash().short())
            }),
            Self::Acceptance(signed) => {
                claim(signed, |said| format!("takes part in study {}: {}", said.study.short(), said.rule))
            }
            Self::Refusal(signed) => claim(signed, |said| {
                format!("does not take part in study {}: {}", said.study.short(), said.rule)
            }),
            Self::Readiness(signed) => {
                claim(signed, |said| format!("gated counts for study {}", said.study.short()))
            }
            Self::Epoch(signed) => claim(signed, |said| {
                format!(
                    "epoch {} of study {}, from attempt {}",
                    said.epoch,
                    said.study.short(),
                    said.first_attempt
                )
            }),
            Self::Context(signed) => claim(signed, context),
            Self::Account(_, signed) => claim(signed, account),
            Self::Order(signed) => claim(signed, order),
        }
    }

    /// Everything it says, field by field.
    pub fn details(&self) -> String {
        match self {
            Self::Roster(signed) => fields(signed),
            Self::Enrolment(signed) => fields(signed),
            Self::Study(signed) => fields(signed),
            Self::Acceptance(signed) => fields(signed),
            Self::Refusal(signed) => fields(signed),
            Self::Readiness(signed) => fields(signed),
            Self::Epoch(signed) => fields(signed),
            Self::Context(signed) => fields(signed),
            Self::Account(_, signed) => fields(signed),
            Self::Order(signed) => fields(signed),
        }
    }
}

fn claim<T: Statement>(signed: &Signed<T>, say: impl FnOnce(&T) -> String) -> String {
    signed.claim().map_or_else(|error| format!("unreadable: {error}"), |said| say(&said))
}

fn fields<T: Statement + Debug>(signed: &Signed<T>) -> String {
    claim(signed, |said| format!("{said:#?}"))
}

fn context(said: &Context) -> String {
    format!(
        "round {}, attempt {} ({}) of study {} from model {}; selected: {}",
        said.round,
        said.attempt,
        purpose(said.purpose),
        said.study.short(),
        said.model.short(),
        names(said.selection.members().iter().map(|member| &member.site)),
    )
}

fn account(said: &Account) -> String {
    match &said.event {
        Event::Course { course: now, by } => {
            format!("study {} {} (by {by})", said.study.short(), course(now))
        }
        Event::Survivors { context, survivors, missing, .. } => format!(
            "context {}: survivors {}; missing: {}",
            context.hash().short(),
            names(survivors.iter().map(|(site, _)| site)),
            names(missing.iter().map(|missing| &missing.site)),
        ),
        Event::Agreement { context, signatures } => {
            let signed = counted(signatures.count.into(), "survivor", "survivors");
            format!("context {}: {signed} signed", context.hash().short())
        }
        Event::Opened(sum) => {
            let made = sum.candidate.map(|model| format!("; it makes model {}", model.short()));
            format!(
                "round {}, attempt {} ({}): sum {} was opened{}",
                sum.round,
                sum.attempt,
                purpose(sum.purpose),
                sum.aggregate.short(),
                made.unwrap_or_default()
            )
        }
        Event::Abandoned { context, cause, .. } => {
            format!("context {}: no sum: {cause}", context.hash().short())
        }
        Event::Adoption(adoption) => {
            format!(
                "round {}: model {} {}",
                adoption.round,
                adoption.candidate.short(),
                verdict(adoption.verdict)
            )
        }
        Event::Release(Release { model, participants, .. }) => {
            format!("releases model {}, trained by {}", model.short(), names(participants))
        }
        Event::Alarm { site, alarm } => format!("{site} noticed: {}", sight(alarm)),
        Event::Guilty { dealer, .. } => format!("{dealer}: {GUILTY}"),
        Event::Draw(proof) => {
            let sites = counted(proof.reveals.len() as u64, "site", "sites");
            format!("groups were drawn by {sites} of study {}", said.study.short())
        }
        Event::Consent { site, model, .. } => {
            format!("a person at {site} allowed other survivors for starting model {}", model.short())
        }
    }
}

fn order(said: &Order) -> String {
    match &said.act {
        Act::Course { study, course: now } => format!("study {} {}", study.short(), course(now)),
        Act::DeclareLost { study, attempt } => {
            format!("attempt {attempt} of study {} is lost", study.short())
        }
        Act::Revoke { site } => format!("speak with {site} no more"),
    }
}

fn course(course: &Course) -> String {
    match course {
        Course::Open => "is open: enough sites have accepted".to_owned(),
        Course::Start => "is started".to_owned(),
        Course::Pause => "is paused".to_owned(),
        Course::Resume => "is resumed".to_owned(),
        Course::Stop { reason } => format!("is stopped: {}", reason.escape_debug()),
        Course::Close => "is closed: all rounds are done".to_owned(),
        Course::Restored { above } => format!("goes on above attempt {above} after a restore"),
    }
}

/// What became of a candidate, in words.
pub(crate) fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Adopted => "was adopted".to_owned(),
        Verdict::Unevaluated(cause) => format!("was adopted unevaluated: {cause}"),
        Verdict::Refused(cause) => format!("was refused: {cause}"),
    }
}

/// What an alarm is about, in words.
pub(crate) fn sight(alarm: &Alarm) -> String {
    match alarm.occasion {
        Occasion::Opening(epoch) => format!("two openings of epoch {epoch}"),
        Occasion::Advert(epoch) => format!("two adverts of one site in epoch {epoch}"),
        Occasion::Encapsulation(epoch) => format!("two encapsulations for one pair in epoch {epoch}"),
        Occasion::Context(attempt) => format!("two contexts for attempt {attempt}"),
        Occasion::Receipt(attempt) => format!("two receipts of one site in attempt {attempt}"),
        Occasion::Survivors(attempt) => format!("two sets of survivors for attempt {attempt}"),
        Occasion::Repeat(attempt) => {
            format!("other survivors in attempt {attempt} for a starting model opened before")
        }
        Occasion::Draw(epoch) => format!("two draws of groups in epoch {epoch}"),
        Occasion::Reveal(epoch) => format!("two nonces of one site in the draw of epoch {epoch}"),
        Occasion::Model(attempt) => format!("another model in attempt {attempt} for a round opened before"),
    }
}
