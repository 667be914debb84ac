//! `data check` and `data explain`: what became of the hospital's files, for its own screen.
//!
//! These texts name files, so they are printed for the person at the site and go nowhere else. What is
//! told outside is made from [`Counts`] through the disclosure gate.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use consilium_learning::Dataset;
use serde::Serialize;

use super::cohort::{Cohort, Quarantined};
use super::counts::{Counts, Stage};
use super::display::Shading;
use super::protocol::Facts;
use super::source::{Criteria, Source};
use super::split::Side;

/// The column that is used only where the source names a site.
const SITE: &str = "site";
/// At most this many places are shown for one kind of problem.
const MOST_PLACES: usize = 5;

/// The answer to "can we take part with this data?".
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// The kind of source.
    pub source: &'static str,
    /// Who this program runs as.
    pub user: String,
    /// How many cases reached which stage.
    pub counts: Counts,
    /// Usable share of what was found.
    pub usable_share: f64,
    /// Usable cases of each of the study's labels.
    pub classes: Vec<ClassCount>,
    /// What the table does not say; nothing for an archive.
    pub table: Option<TableNotes>,
    /// Kinds of problems, the most frequent first.
    pub problems: Vec<Problem>,
}

/// What a person has to know about the table: a column whose name is misspelt is passed over like any other, and
/// without its patients the split cannot keep their pictures together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableNotes {
    /// Columns that nothing is taken from.
    pub unused_columns: Vec<String>,
    /// Whether a column names the patients.
    pub patient_column: bool,
    /// Usable cases whose patient neither table nor file names: these are split file by file, or row by row.
    pub split_by_file: u64,
    /// Whether rows are the cases themselves.
    #[serde(skip)]
    of_cases: bool,
    /// Whether the study takes inputs from rows.
    #[serde(skip)]
    of_inputs: bool,
}

impl TableNotes {
    /// Looks at the columns. A `site` column is used only where the source names a site.
    fn of(source: &Source, cohort: &Cohort) -> Option<Self> {
        let columns = cohort.columns.as_ref()?;
        let mut unused: Vec<String> = columns.unknown.iter().map(|name| name.reveal().to_owned()).collect();
        if columns.site && source.site().is_none() {
            unused.push(SITE.to_owned());
        }
        let (patient_column, split_by_file) = (columns.patient, cohort.counts.unnamed_cases);
        let of_cases = matches!(source, Source::Table { .. });
        let of_inputs = columns.inputs;
        Some(Self { unused_columns: unused, patient_column, split_by_file, of_cases, of_inputs })
    }

    /// For a terminal; empty where there is nothing to say.
    fn text(&self) -> String {
        let mut text = String::new();
        if !self.unused_columns.is_empty() {
            let names = self.unused_columns.iter().map(|name| format!("\"{}\"", printable(name)));
            let names = names.collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                text,
                "Columns of the table that are not used: {names}. Used are {}, label, patient and split, and site \
                 where site.toml names one under [source].",
                match (self.of_cases, self.of_inputs) {
                    (true, _) => "the study's inputs",
                    (false, true) => "path, the study's inputs",
                    (false, false) => "path",
                }
            );
        }
        if self.split_by_file > 0 {
            let column = if self.patient_column { "" } else { "The table has no column \"patient\". " };
            let _ = writeln!(
                text,
                "{column}{} cases name no patient: their split is by {}, and {} of one patient can be on \
                 both sides.",
                self.split_by_file,
                if self.of_cases { "row" } else { "file" },
                if self.of_cases { "rows" } else { "pictures" },
            );
        }
        text
    }
}

/// Usable cases of one label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The label.
    pub label: String,
    /// Cases trained on.
    pub train: usize,
    /// Cases held out.
    pub held_out: usize,
}

/// One kind of problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A stable word.
    pub kind: &'static str,
    /// What is the matter, about one file.
    pub explanation: String,
    /// What a person can do.
    pub remedy: String,
    /// Left out on purpose.
    pub by_choice: bool,
    /// How many cases.
    pub cases: usize,
    /// The first of them.
    pub first: Vec<Place>,
}

/// Where a problem is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line of the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The column of the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<Cow<'static, str>>,
    /// What stands there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written: Option<String>,
}

impl Place {
    fn of(case: &Quarantined) -> Self {
        Self {
            file: case.path.reveal().to_owned(),
            line: case.line,
            column: case.column.clone(),
            written: case.written.as_ref().map(|written| written.reveal().to_owned()),
        }
    }
}

impl Check {
    /// Sums a cohort up. `user` is who this program runs as ([`super::access::user_name`]).
    pub fn of(source: &Source, criteria: &Criteria, cohort: &Cohort, user: &str) -> Self {
        let counts = |cases: &Dataset| cases.counts(criteria.labels.len());
        let sides = counts(&cohort.train).into_iter().zip(counts(&cohort.held_out));
        let classes = criteria.labels.iter().zip(sides).map(|(label, (train, held_out))| ClassCount {
            label: label.clone(),
            train: train as usize,
            held_out: held_out as usize,
        });
        // Reasons with details (which defect, which syntax) are kinds of their own.
        let mut kinds: BTreeMap<_, Vec<&Quarantined>> = BTreeMap::new();
        for case in &cohort.quarantine {
            kinds.entry(&case.reason).or_default().push(case);
        }
        let mut problems: Vec<Problem> = kinds
            .into_iter()
            .map(|(reason, cases)| Problem {
                kind: reason.code(),
                explanation: reason.explain(),
                remedy: reason.remedy(user),
                by_choice: reason.is_choice(),
                cases: cases.len(),
                first: cases.iter().take(MOST_PLACES).map(|case| Place::of(case)).collect(),
            })
            .collect();
        problems.sort_by_key(|problem| (problem.by_choice, usize::MAX - problem.cases));
        Self {
            source: source.kind(),
            user: user.to_owned(),
            counts: cohort.counts,
            usable_share: cohort.counts.usable_share(),
            classes: classes.collect(),
            table: TableNotes::of(source, cohort),
            problems,
        }
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let counts = &self.counts;
        for stage in Stage::ALL {
            let _ = writeln!(text, "{:<10} {:>8}", stage.name(), counts.at(stage));
        }
        let _ = writeln!(
            text,
            "\n{} to train on, {} held out; {} named patients, {} cases without a name.",
            counts.train, counts.held_out, counts.named_patients, counts.unnamed_cases
        );
        for class in &self.classes {
            let _ = writeln!(
                text,
                "  {}: {} to train on, {} held out",
                printable(&class.label),
                class.train,
                class.held_out
            );
        }
        text.push_str(&self.table.as_ref().map(TableNotes::text).unwrap_or_default());
        if self.problems.is_empty() {
            let _ = writeln!(text, "\nEvery file is used.");
        }
        for problem in &self.problems {
            let Problem { kind, cases, explanation, remedy, .. } = problem;
            let _ = writeln!(text, "\n{kind}: {cases} not used, because {explanation}.\n  {remedy}");
            for place in &problem.first {
                let _ = writeln!(text, "  - {}", place.text());
            }
            if problem.cases > problem.first.len() {
                let _ = writeln!(text, "  - and {} more", problem.cases - problem.first.len());
            }
        }
        text
    }
}

impl Place {
    fn text(&self) -> String {
        let mut text = printable(&self.file);
        if let Some(line) = self.line {
            let _ = write!(text, " (table line {line}");
            if let Some(column) = &self.column {
                let _ = write!(text, ", column {column}");
            }
            if let Some(written) = &self.written {
                let _ = write!(text, ": \"{}\"", printable(written));
            }
            text.push(')');
        }
        text
    }
}

/// Every file, and what became of it. The classes partition what was found and listed.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// All files, in the order of their paths.
    pub files: Vec<Explained>,
    /// What the table does not say; nothing for an archive.
    pub table: Option<TableNotes>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// How far it came.
    pub reached: Stage,
    /// `train`, `held_out`, or the word for why it is not used.
    pub outcome: &'static str,
    /// One sentence.
    pub explanation: String,
    /// What a person can do; empty for files in use.
    pub remedy: String,
}

impl Explanation {
    /// Accounts for every file of a cohort.
    pub fn of(source: &Source, criteria: &Criteria, cohort: &Cohort, user: &str) -> Self {
        let used = cohort.used.iter().map(|case| {
            let label = criteria.words(case.label);
            Explained {
                place: Place {
                    file: case.path.reveal().to_owned(),
                    line: Some(case.line),
                    column: None,
                    written: None,
                },
                reached: Stage::Usable,
                outcome: match case.side {
                    Side::Train => "train",
                    Side::HeldOut => "held_out",
                },
                explanation: match &case.facts {
                    Some(facts) => format!("labelled {label}; {}", seen(facts)),
                    None => format!("labelled {label}"),
                },
                remedy: String::new(),
            }
        });
        let unused = cohort.quarantine.iter().map(|case| Explained {
            place: Place::of(case),
            reached: case.reached,
            outcome: case.reason.code(),
            explanation: case.reason.explain(),
            remedy: case.reason.remedy(user),
        });
        let mut files: Vec<Explained> = used.chain(unused).collect();
        files.sort_by(|a, b| (&a.place.file, a.place.line).cmp(&(&b.place.file, b.place.line)));
        Self { files, table: TableNotes::of(source, cohort) }
    }

    /// For a terminal: a line per file, and what is to be said of the table.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for file in &self.files {
            let _ = writeln!(
                text,
                "{:<22} {}: {}. {}",
                file.outcome,
                file.place.text(),
                printable(&file.explanation),
                file.remedy
            );
        }
        text.push_str(&self.table.as_ref().map(TableNotes::text).unwrap_or_default());
        text
    }
}

/// What was seen of a file.
fn seen(facts: &Facts) -> String {
    let shading = match facts.shading {
        Shading::Window => "shown in the window of its header",
        Shading::OwnRange => "shown from its darkest to its brightest value",
        Shading::FullRange => "shown in the full range of its format",
        Shading::StudyWindow => "shown in the window of the study",
        Shading::Percentiles => "shown from its 0.5th to its 99.5th percentile",
    };
    let turned = if facts.turned { ", turned to the common orientation" } else { "" };
    let Facts { format, rows, columns, bits, .. } = facts;
    format!("{format} of {rows} x {columns} pixels and {bits} bits, {shading}{turned}")
}

/// Text of a file or table without control characters, which could steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{FFFD}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_patients_or_with_unused_columns_is_told_of() {
        let mut notes = TableNotes {
            unused_columns: Vec::new(),
            patient_column: true,
            split_by_file: 0,
            of_cases: false,
            of_inputs: false,
        };
        assert_eq!(notes.text(), "");
        notes.split_by_file = 3;
        assert!(notes.text().starts_with("3 cases name no patient: their split is by file"));
        notes.patient_column = false;
        notes.unused_columns = vec!["patinet".into(), "a\x1bb".into()];
        let text = notes.text();
        assert!(text.contains("not used: \"patinet\", \"a\u{FFFD}b\"."), "{text}");
        assert!(text.contains("The table has no column \"patient\". 3 cases"), "{text}");
    }

    #[test]
    fn a_hostile_name_cannot_steer_the_terminal() {
        let place = Place {
            file: "a\x1b[2Jb".into(),
            line: Some(3),
            column: Some("label".into()),
            written: Some("x\ny".into()),
        };
        assert_eq!(place.text(), "a\u{FFFD}[2Jb (table line 3, column label: \"x\u{FFFD}y\")");
    }
}
