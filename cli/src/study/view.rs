//! The coordinator's JSON, read leniently: a newer coordinator may say more than this program knows.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::output::{bytes, table};
use crate::remote::{moment, plain};

/// Where a study stands.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct StatusView {
    /// Its name.
    pub name: String,
    /// Its state: proposed, open, running, paused, closed, released or stopped.
    pub state: String,
    /// The released model, in hexadecimal digits.
    #[serde(default)]
    pub released: Option<String>,
    /// The current round; 0 before the first.
    pub round: u32,
    /// Rounds in all.
    pub rounds: u32,
    /// `train` or `evaluate`, while something is summed.
    #[serde(default)]
    pub kind: Option<String>,
    /// The attempt that is running.
    #[serde(default)]
    pub attempt: Option<u32>,
    /// What the coordinator does.
    #[serde(default)]
    pub phase: String,
    /// Every site.
    #[serde(default)]
    pub sites: Vec<SiteView>,
    /// Every wait.
    #[serde(default)]
    pub waits: Vec<WaitView>,
    /// One line per round of each kind.
    #[serde(default)]
    pub lines: Vec<LineView>,
}

/// One site of a study.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SiteView {
    /// Its name.
    pub site: String,
    /// How far it has come.
    pub rung: String,
    /// Whether its connection is up.
    #[serde(default)]
    pub connected: bool,
    /// What it is doing.
    #[serde(default)]
    pub stage: Option<String>,
    /// Units done.
    #[serde(default)]
    pub done: u64,
    /// Units in all.
    #[serde(default)]
    pub total: u64,
    /// Why it is no part of the attempt.
    #[serde(default)]
    pub missing: Option<MissingView>,
    /// The rule or person that refused the study.
    #[serde(default)]
    pub refused_by: Option<String>,
}

/// Why a site is missing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MissingView {
    /// What the coordinator saw.
    pub dropout: String,
    /// The site's own reason.
    #[serde(default)]
    pub withdrawal: Option<String>,
    /// What the site refused the attempt for.
    #[serde(default)]
    pub decline: Option<String>,
}

/// Somebody waits.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct WaitView {
    /// For what.
    pub reason: Value,
    /// For whom.
    #[serde(default)]
    pub sites: Vec<String>,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
    /// Until when; none where only people or sites can end it.
    #[serde(default)]
    pub until: Option<u64>,
}

/// How a round of one kind went.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LineView {
    /// The round.
    pub round: u32,
    /// `train` or `evaluate`.
    pub kind: String,
    /// How it ended.
    pub state: String,
    /// Why, where it did not go as it should.
    #[serde(default)]
    pub cause: Option<String>,
    /// Loss.
    #[serde(default)]
    pub loss: Option<f64>,
    /// Area under the receiver operating characteristic.
    #[serde(default)]
    pub auroc: Option<f64>,
    /// The metric that picks the study's model, where it is neither of these.
    #[serde(default)]
    pub metric: Option<String>,
    /// That of the candidate.
    #[serde(default)]
    pub figure: Option<f64>,
    /// Sites in the Selection.
    pub selected: u32,
    /// Sites in the sum.
    pub counted: u32,
    /// Who was selected and is not in the sum.
    #[serde(default)]
    pub missing: Vec<String>,
    /// Bytes from sites.
    #[serde(default)]
    pub bytes_up: u64,
    /// Bytes to sites.
    #[serde(default)]
    pub bytes_down: u64,
    /// Duration.
    #[serde(default)]
    pub seconds: f64,
    /// Of that, what no site's own work explains.
    #[serde(default)]
    pub overhead_seconds: Option<f64>,
    /// Sites of the study that were not selected.
    #[serde(default)]
    pub absent: Vec<String>,
}

impl LineView {
    /// The figure that a line tells beside the loss, and its name.
    pub fn telling(&self) -> (&str, Option<f64>) {
        match &self.metric {
            Some(metric) => (metric, self.figure),
            None => ("auroc", self.auroc),
        }
    }
}

/// A round in one line, for people.
pub fn round_line(line: &LineView, rounds: u32) -> String {
    let figure = |value: Option<f64>, digits| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "-".to_owned(),
    };
    let width = rounds.to_string().len();
    let (metric, telling) = line.telling();
    let mut text = format!(
        "round {round:>width$}/{rounds}  {kind:<8}  {state:<11}  loss {loss:<6}  {metric} {telling:<6}  \
         counted {counted}/{selected}  {up:>8} up  {down:>8} down  {seconds:>6.1} s",
        round = line.round,
        kind = plain(&line.kind),
        state = plain(&line.state),
        loss = figure(line.loss, 4),
        metric = plain(metric),
        telling = figure(telling, 4),
        counted = line.counted,
        selected = line.selected,
        up = bytes(line.bytes_up),
        down = bytes(line.bytes_down),
        seconds = line.seconds,
    );
    if let Some(overhead) = line.overhead_seconds {
        text.push_str(&format!(" ({overhead:.1} s overhead)"));
    }
    for (word, sites) in [("missing", &line.missing), ("absent", &line.absent)] {
        if !sites.is_empty() {
            text.push_str(&format!("  {word} {}", plain(&sites.join(", "))));
        }
    }
    if let Some(cause) = &line.cause {
        text.push_str(&format!("  {}", plain(cause)));
    }
    text
}

/// Nothing follows this state any more.
fn is_over(state: &str) -> bool {
    matches!(state, "released" | "stopped")
}

impl StatusView {
    /// Reads the coordinator's JSON.
    pub fn read(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json)
    }

    /// What a person reads.
    pub fn people(&self, now_ms: u64) -> String {
        let (name, state) = (plain(&self.name), plain(&self.state));
        let mut text = format!("{name}: {state}, round {} of {}", self.round, self.rounds);
        if let Some(model) = &self.released {
            text.push_str(&format!(", model {}", plain(model)));
        }
        if let (Some(attempt), Some(kind)) = (self.attempt, &self.kind) {
            text.push_str(&format!("; attempt {attempt} ({}, {})", plain(kind), words(&self.phase)));
        }
        for wait in &self.waits {
            text.push_str(&format!("\n  waits for {}", wait.people(&self.name, now_ms)));
        }
        if self.waits.is_empty() && !is_over(&self.state) {
            text.push_str("\n  waits for nobody");
        }
        let rows: Vec<_> = self.sites.iter().map(SiteView::row).collect();
        text.push_str(&format!("\n\n{}", table(&["site", "is", "link", "doing"], &rows)));
        if !self.lines.is_empty() {
            text.push('\n');
        }
        for line in &self.lines {
            text.push_str(&format!("\n{}", round_line(line, self.rounds)));
        }
        text
    }
}

impl SiteView {
    fn row(&self) -> Vec<String> {
        let mut doing = match &self.stage {
            Some(stage) if self.total > 0 => {
                let share = 100.0 * self.done.min(self.total) as f64 / self.total as f64;
                format!("{} {share:.0} %", words(stage))
            }
            Some(stage) => words(stage),
            None => String::new(),
        };
        if let Some(missing) = &self.missing {
            doing = words(&missing.dropout);
            if let Some(said) = missing.withdrawal.as_ref().or(missing.decline.as_ref()) {
                doing.push_str(&format!(": {}", words(said)));
            }
        }
        if let Some(rule) = &self.refused_by {
            doing = format!("refused by {}", plain(rule));
        }
        let link = if self.connected { "up" } else { "down" };
        vec![plain(&self.site), words(&self.rung), link.to_owned(), doing]
    }
}

impl WaitView {
    /// For what, and for whom.
    pub(crate) fn awaited(&self, study: &str) -> String {
        let mut text = reason(&self.reason, &plain(study));
        if !self.sites.is_empty() {
            text.push_str(&format!(": {}", plain(&self.sites.join(", "))));
        }
        text
    }

    fn people(&self, study: &str, now_ms: u64) -> String {
        let mut text = self.awaited(study);
        if let Some(since) = moment(self.since) {
            text.push_str(&format!(", since {since} ({})", duration(now_ms.saturating_sub(self.since))));
        }
        match self.until.and_then(|until| Some((until, moment(until)?))) {
            Some((until, at)) => {
                text.push_str(&format!(", until {at} (in {})", duration(until.saturating_sub(now_ms))));
            }
            None => text.push_str(", without an end"),
        }
        text
    }
}

fn reason(reason: &Value, study: &str) -> String {
    if let Some(shortage) = reason.get("sites") {
        let number = |key: &str| shortage.get(key).and_then(Value::as_u64).unwrap_or_default();
        return match shortage.get("kind").and_then(Value::as_str) {
            Some("too_few") => format!("enough ready sites, {} of {}", number("ready"), number("needed")),
            Some("required") => "sites that the study cannot do without".to_owned(),
            Some("bound") => "sites that were in an earlier sum over this model".to_owned(),
            Some("too_few_groups") => {
                format!("enough ready sites for {} groups, {} are ready", number("groups"), number("ready"))
            }
            Some("regrouped") => "persons to allow that a model is summed again, in other groups".to_owned(),
            Some("too_small_change") => "survivors that differ enough from an earlier set".to_owned(),
            _ => "sites".to_owned(),
        };
    }
    match reason.as_str() {
        Some("stop") => {
            format!(
                "an operator, for it cannot begin any more; consilium study stop {study}, then propose it under another name. Lost to it are"
            )
        }
        Some("acceptances") => "sites to accept it".to_owned(),
        Some("start") => format!("an operator: consilium study start {study}"),
        Some("resume") => format!("an operator: consilium study resume {study}"),
        Some("consent") => {
            "a person at each of these sites to go on without them (site-agent consent)".to_owned()
        }
        Some("latecomers") => "sites that will be ready soon".to_owned(),
        Some("draw") => "nonces from which the groups are drawn".to_owned(),
        Some("retry") => "the pause after a failed attempt to end".to_owned(),
        Some("uploads") => "masked updates".to_owned(),
        Some("envelopes") => "verdicts on envelopes".to_owned(),
        Some("signatures") => "signatures over the survivors".to_owned(),
        Some("answers") => "shares and seeds".to_owned(),
        Some("sum") => "the coordinator's arithmetic".to_owned(),
        Some("release") => "the release to be written".to_owned(),
        Some(other) => words(other),
        None => "something this program does not know".to_owned(),
    }
}

/// A word of the wire, for people.
pub(super) fn words(word: &str) -> String {
    plain(word).replace('_', " ")
}

/// Whole seconds, in the two largest units.
fn duration(milliseconds: u64) -> String {
    let seconds = Duration::from_millis(milliseconds).as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests;
