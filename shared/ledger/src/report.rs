//! What an auditor learns from a ledger that was found in order.

use std::collections::BTreeSet;
use std::fmt;

use consilium_rounds::control::Step;
use consilium_rounds::metrics::Figures;
use consilium_study::hash::Hash;
use consilium_study::metric::Metric;
use consilium_study::model_file::ModelIdentity;
use consilium_study::name::{ConsortiumName, SiteName, StudyName};
use serde::Serialize;

use crate::card::Card;
use crate::describe::{counted, names};

/// Who trained what, as far as the ledger proves it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Whose ledger.
    pub consortium: ConsortiumName,
    /// Fingerprint of the consortium's key, to compare with what others were told.
    pub fingerprint: String,
    /// Entries in the ledger.
    pub entries: u64,
    /// Root over them: two auditors with the same root have seen the same ledger.
    pub root: Hash,
    /// The sites of the latest roster.
    pub sites: Vec<SiteName>,
    /// Sites that an operator revoked.
    pub revoked: Vec<SiteName>,
    /// The studies, in the order of their proposals.
    pub studies: Vec<StudyReport>,
    /// What somebody noticed that should not happen.
    pub alarms: Vec<AlarmReport>,
    /// What is not wrong and yet worth knowing.
    pub notices: Vec<String>,
}

/// One study.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyReport {
    /// Its name.
    pub name: StudyName,
    /// Its title.
    pub title: String,
    /// The hash that sites accepted.
    pub study: Hash,
    /// Who proposed it.
    pub proposed_by: String,
    /// Where it stands.
    pub state: StudyState,
    /// Who takes part, and by which rule.
    pub accepted: Vec<Decision>,
    /// Who does not, and by which rule.
    pub refused: Vec<Decision>,
    /// The model it began with.
    pub initial_model: Hash,
    /// What its models are of.
    #[serde(skip)]
    pub identity: ModelIdentity,
    /// Every attempt to open a sum.
    pub attempts: Vec<AttemptReport>,
    /// The rounds that made a model.
    pub rounds: Vec<RoundReport>,
    /// The model it stands at.
    pub model: Hash,
    /// What it released.
    pub released: Option<ReleaseReport>,
    /// How the mean of control variates went on, of a strategy that keeps one.
    #[serde(skip)]
    pub controls: Vec<ControlReport>,
}

/// A sum that brought the mean of control variates forward: what the files have to agree with.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlReport {
    /// The model that the round started from.
    pub start: Hash,
    /// The model that the sum made.
    pub candidate: Hash,
    /// The mean that steps were corrected by; none where there was none.
    pub before: Option<Hash>,
    /// The mean that the sum made.
    pub after: Hash,
    /// What leads from one to the other.
    pub step: Step,
}

/// Where a study stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StudyState {
    /// Attempts may begin.
    Open,
    /// An operator paused it.
    Paused,
    /// An operator stopped it.
    Stopped,
    /// All its rounds are done; it recommends a model next.
    Closed,
    /// It is over and has recommended a model.
    Released,
}

/// A site's decision about a study.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The site.
    pub site: SiteName,
    /// The rule or person that decided.
    pub rule: String,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttemptReport {
    /// Its number.
    pub attempt: u32,
    /// The round it belongs to.
    pub round: u32,
    /// `train`, `evaluate` or `statistics`.
    pub purpose: &'static str,
    /// The model it was about.
    pub model: Hash,
    /// Who was invited.
    pub selected: Vec<SiteName>,
    /// Whose update is in the sum.
    pub counted: Vec<SiteName>,
    /// Whose is not, and why.
    pub missing: Vec<Absence>,
    /// Groups that were summed apart; 1 where everybody was summed together.
    pub groups: u16,
    /// At least so many honest sites are behind the sum, or behind each group's but for the accepted chance of a bad draw,
    /// if no more sites than assumed help the coordinator.
    pub honest_behind_sum: u16,
    /// How it ended.
    pub outcome: String,
    /// Hash of the opened sum.
    pub aggregate: Option<Hash>,
    /// The model that training made of it.
    pub candidate: Option<Hash>,
}

/// A selected site whose update is not in the sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Absence {
    /// The site.
    pub site: SiteName,
    /// Why.
    pub reason: String,
}

/// What a round made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoundReport {
    /// Its number.
    pub round: u32,
    /// The model it started from.
    pub start: Hash,
    /// The model it made.
    pub candidate: Hash,
    /// What became of that.
    pub verdict: String,
    /// What all sites together measured.
    pub figures: Option<Figures>,
}

/// A release.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReleaseReport {
    /// The round whose model it is.
    pub round: u32,
    /// The model.
    pub model: Hash,
    /// Sites whose updates are in it.
    pub participants: Vec<SiteName>,
    /// What the card beside the model has to say.
    pub card: Card,
}

/// An alarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AlarmReport {
    /// The entry.
    pub entry: u64,
    /// Whom it is about, or who noticed.
    pub site: SiteName,
    /// What was noticed.
    pub what: String,
}

impl Report {
    /// Every model that the ledger names: begun with, made, adopted, refused or released; and means of control variates.
    pub fn models(&self) -> BTreeSet<Hash> {
        let mut models = BTreeSet::new();
        for study in &self.studies {
            models.extend([study.initial_model, study.model]);
            for attempt in &study.attempts {
                models.insert(attempt.model);
                models.extend(attempt.candidate);
            }
            models.extend(study.released.as_ref().map(|release| release.model));
            models.extend(study.controls.iter().map(|control| control.after));
        }
        models
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { consortium, fingerprint, entries, root, .. } = self;
        writeln!(
            f,
            "Ledger of consortium {consortium} (key {fingerprint}): {}, all in order.",
            counted(*entries, "entry", "entries")
        )?;
        writeln!(f, "Root: {root}")?;
        writeln!(f, "Sites: {}", names(&self.sites))?;
        if !self.revoked.is_empty() {
            writeln!(f, "Revoked: {}", names(&self.revoked))?;
        }
        for study in &self.studies {
            writeln!(f, "\n{study}")?;
        }
        for alarm in &self.alarms {
            writeln!(f, "ALARM in entry {}, {}: {}", alarm.entry, alarm.site, alarm.what)?;
        }
        self.notices.iter().try_for_each(|notice| writeln!(f, "Note: {notice}"))
    }
}

impl fmt::Display for StudyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Study {} \"{}\", {}, proposed by {}",
            self.name, self.title, self.state, self.proposed_by
        )?;
        writeln!(f, "  document {}", self.study)?;
        writeln!(f, "  began with model {}", self.initial_model)?;
        for Decision { site, rule } in &self.accepted {
            writeln!(f, "  {site} takes part: {rule}")?;
        }
        for Decision { site, rule } in &self.refused {
            writeln!(f, "  {site} does not take part: {rule}")?;
        }
        for attempt in &self.attempts {
            writeln!(f, "  {attempt}")?;
        }
        for round in &self.rounds {
            writeln!(f, "  {round}")?;
        }
        let hides = if self.attempts.iter().any(|attempt| attempt.groups > 1) {
            "Sums over groups hide single updates by masks: a weaker promise than a sum over everybody."
        } else {
            "Each sum hides single updates by masks."
        };
        writeln!(f, "  {hides} No noise was added: no formal guarantee.")?;
        match &self.released {
            Some(release) => write!(
                f,
                "  released the model of round {}: {}, trained by {}",
                release.round,
                release.model,
                names(&release.participants)
            ),
            None => write!(f, "  stands at model {}; nothing is released", self.model),
        }
    }
}

impl fmt::Display for AttemptReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, attempt, purpose, counted, selected, outcome, groups, .. } = self;
        write!(f, "round {round}, attempt {attempt} ({purpose}): ")?;
        if counted.is_empty() {
            write!(f, "selected {}", names(selected))?;
        } else {
            write!(f, "{} of {} counted: {}", counted.len(), selected.len(), names(counted))?;
        }
        if *groups > 1 {
            write!(f, "; in {groups} groups that were summed apart")?;
        }
        for Absence { site, reason } in &self.missing {
            write!(f, "; {site} is missing ({reason})")?;
        }
        write!(f, "; {outcome}")
    }
}

impl fmt::Display for RoundReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {}: model {} {}", self.round, self.candidate.short(), self.verdict)?;
        let Some(figures) = &self.figures else { return Ok(()) };
        write!(f, "; {} held-out cases", figures.cases)?;
        for (name, metric) in [
            ("loss", Metric::Loss),
            ("accuracy", Metric::Accuracy),
            ("AUROC", Metric::Auroc),
            ("kappa", Metric::Kappa),
            ("Dice", Metric::Dice),
            ("MAE", Metric::Mae),
            ("RMSE", Metric::Rmse),
            ("R2", Metric::R2),
        ] {
            let Some(figure) = figures.get(metric) else { continue };
            write!(f, ", {name} {figure:.4}")?;
            if let Some([low, high]) = figures.intervals.get(&metric) {
                write!(f, " (95 %: {low:.3} to {high:.3})")?;
            }
            if let Some(start) = figures.start_loss.filter(|_| metric == Metric::Loss) {
                write!(f, ", before {start:.4}")?;
            }
        }
        let Some(temperature) = figures.temperature else { return Ok(()) };
        write!(f, ", temperature {temperature:.2}")
    }
}

impl fmt::Display for StudyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Closed => "closed",
            Self::Released => "released",
        })
    }
}
