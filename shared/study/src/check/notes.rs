//! What is lawful in a study and seldom meant.

use std::fmt;

use crate::document::Plan;

/// Something that an operator should read before proposing a study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    key: &'static str,
    what: String,
    instead: String,
}

impl Note {
    /// The key in `study.toml`, with its section.
    pub const fn key(&self) -> &'static str {
        self.key
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.what, self.instead)
    }
}

/// What should be read about `plan`, a round of which needs `sites` sites.
pub fn notes(plan: &Plan, sites: u32) -> Vec<Note> {
    held_out(plan, sites).into_iter().chain(patience(plan)).collect()
}

/// With a gate a candidate that nobody scores is not adopted, and waits.
fn held_out(plan: &Plan, sites: u32) -> Option<Note> {
    let (share, least) = (plan.data.holdout.get(), plan.data.minimum_cases);
    plan.evaluation.gate?;
    let waits = format!(
        "with fewer than {sites} sites that hold out a case no candidate is evaluated, and because of evaluation.gate the study waits"
    );
    if share <= 0.0 {
        return Some(Note {
            key: "data.holdout",
            what: format!("sites whose source has no split of its own hold out no case; {waits}"),
            instead: "unless every source has a split write a share above 0, for example holdout = 0.2, or leave the gate out"
                .into(),
        });
    }
    let expected = share * f64::from(least);
    (expected < 1.0).then(|| Note {
        key: "data.minimum_cases",
        what: format!(
            "a site with {least} of them holds out {expected:.2} cases on average, so that some hold out none; {waits}"
        ),
        instead: format!("write minimum_cases = {} or more, or a larger holdout", (1.0 / share).ceil()),
    })
}

/// So many rounds in a row have come to pass at the end of the study at the earliest.
fn patience(plan: &Plan) -> Option<Note> {
    let (patience, rounds) = (plan.rounds.patience?, plan.rounds.count);
    (patience >= rounds).then(|| Note {
        key: "rounds.patience",
        what: format!(
            "the study has {rounds} rounds, so that it never ends early after {patience} without a better model"
        ),
        instead: "write a smaller number, or leave it out".into(),
    })
}
