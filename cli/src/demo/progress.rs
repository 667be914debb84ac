//! What the demo tells while it runs: lines that stay, and one that is redrawn on a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Instant;

use consilium_study::name::SiteName;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::output::{Output, bytes};

/// Tells the story: to standard output for people, to standard error beside JSON.
#[derive(Clone)]
pub(crate) struct Story {
    output: Output,
    started: Instant,
    live: bool,
    /// Lines that would stay are redrawn like the others.
    hushed: bool,
    unheard: Option<mpsc::UnboundedSender<io::Error>>,
}

impl Story {
    /// A story that counts seconds from `started`. When nobody can read it any more, the program ends as after a
    /// `println!`.
    pub(crate) fn new(output: Output, started: Instant) -> Self {
        let live = !output.json && io::stderr().is_terminal();
        Self { output, started, live, hushed: false, unheard: None }
    }

    /// The same, of which nothing stays: for a part of something larger.
    pub(crate) fn hushed(self) -> Self {
        Self { hushed: true, ..self }
    }

    /// The same for whoever has to clean up before the program ends: they hear why nobody can read it any more.
    pub(crate) fn with_an_end(
        output: Output,
        started: Instant,
    ) -> (Self, mpsc::UnboundedReceiver<io::Error>) {
        let (sender, unheard) = mpsc::unbounded_channel();
        (Self { unheard: Some(sender), ..Self::new(output, started) }, unheard)
    }

    /// A line that stays.
    pub(crate) fn tell(&self, text: &str) {
        if self.hushed {
            return self.progress(text);
        }
        self.clear();
        let line = format!("{:6.1} s  {text}", self.started.elapsed().as_secs_f64());
        if self.output.json {
            // For people beside the program that reads; they may have gone.
            let _ = writeln!(io::stderr(), "{line}");
        } else {
            self.print(&line);
        }
    }

    /// A line of standard output.
    fn print(&self, line: &str) {
        let Some(unheard) = &self.unheard else { return println!("{line}") };
        if let Err(error) = writeln!(io::stdout(), "{line}") {
            // Whoever has stopped listening is leaving already.
            let _ = unheard.send(error);
        }
    }

    /// What is going on, redrawn in place where there is a terminal.
    pub(crate) fn progress(&self, text: &str) {
        if self.live {
            let short: String = text.chars().take(100).collect();
            let mut terminal = io::stderr().lock();
            let _ = write!(terminal, "\r\x1b[2K{:6.1} s  {short}", self.started.elapsed().as_secs_f64());
            let _ = terminal.flush();
        }
    }

    /// Takes the redrawn line away.
    pub(crate) fn clear(&self) {
        if self.live {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }

    /// A finished round.
    pub(crate) fn round(&self, round: &Round, rounds: u32) -> anyhow::Result<()> {
        if self.output.json && !self.hushed {
            self.print(&serde_json::to_string(round)?);
            return Ok(());
        }
        let figure =
            |value: Option<f64>| value.map_or_else(|| "    –".to_owned(), |value| format!("{value:.3}"));
        let named = |word: &str, sites: &[SiteName]| match sites {
            [] => String::new(),
            sites => {
                format!("   {word}: {}", sites.iter().map(SiteName::as_str).collect::<Vec<_>>().join(", "))
            }
        };
        let (missing, absent) = (named("missing", &round.missing), named("absent", &round.absent));
        let (loss_of, loss) = round.telling_loss();
        let (metric, telling) = match &round.metric {
            Some(metric) => (metric.as_str(), round.figure),
            None => ("AUROC", round.auroc),
        };
        let cause = round.cause.as_ref().map(|cause| format!("   {cause}")).unwrap_or_default();
        self.tell(&format!(
            "round {:>2}/{rounds}  {:<11} {loss_of} {}  {metric} {}  sites {}/{}  up {:>8}  down {:>8}  {:.1} s (overhead {:.2} s){missing}{absent}{cause}",
            round.round,
            round.state,
            figure(loss),
            figure(telling),
            round.counted,
            round.selected,
            bytes(round.bytes_up),
            bytes(round.bytes_down),
            round.seconds,
            round.overhead_seconds.unwrap_or(0.0),
        ));
        if let Some(Plaintext { relative_error, identical }) = round.plaintext {
            let same = if identical { "equals" } else { "DIFFERS FROM" };
            self.tell(&format!(
                "             the opened sum {same} the plain sum; relative error to plain averaging {relative_error:.1e}"
            ));
        }
        Ok(())
    }
}

/// One round of training with the evaluation of its candidate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    /// Its number.
    pub round: u32,
    kind: &'static str,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    /// Of the training.
    loss: Option<f64>,
    /// Of the candidate, over the held-out cases.
    candidate_loss: Option<f64>,
    auroc: Option<f64>,
    /// The metric that picks the study's model, where it is neither of these, and that of the candidate.
    #[serde(skip_serializing_if = "Option::is_none")]
    metric: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    figure: Option<f64>,
    selected: u64,
    counted: u64,
    /// Members of the Selection whose update is not in the sum.
    pub missing: Vec<SiteName>,
    /// Sites of the study that were not in the Selection.
    pub absent: Vec<SiteName>,
    /// From sites.
    pub bytes_up: u64,
    /// To sites.
    pub bytes_down: u64,
    /// From its beginning to its end.
    pub seconds: f64,
    /// Of these, what the slowest site's own work does not explain.
    pub overhead_seconds: Option<f64>,
    /// How the sum compares with plain averaging. Only a simulation can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<Plaintext>,
}

/// What a simulation that sees every update says about a masked sum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Plaintext {
    /// L2 norm of the difference to plain averaging of the same updates, by the norm of the latter.
    pub relative_error: f64,
    /// Whether the opened sum is, bit for bit, the plain sum of the same integers.
    pub identical: bool,
}

impl Round {
    /// A round from the line of its training. `None` for other events.
    pub(crate) fn of_training(line: &Value) -> Option<Self> {
        if line["kind"] != "train" || line["state"] != "trained" {
            return None;
        }
        let names = |key: &str| {
            let names = line[key].as_array().into_iter().flatten();
            names.filter_map(|name| SiteName::new(name.as_str()?).ok()).collect()
        };
        Some(Self {
            round: u32::try_from(line["round"].as_u64()?).ok()?,
            kind: "train",
            state: "trained".to_owned(),
            cause: None,
            loss: line["loss"].as_f64(),
            candidate_loss: None,
            auroc: None,
            metric: line["metric"].as_str().map(str::to_owned),
            figure: None,
            selected: line["selected"].as_u64()?,
            counted: line["counted"].as_u64()?,
            missing: names("missing"),
            absent: names("absent"),
            bytes_up: line["bytes_up"].as_u64()?,
            bytes_down: line["bytes_down"].as_u64()?,
            seconds: line["seconds"].as_f64()?,
            overhead_seconds: line["overhead_seconds"].as_f64(),
            plaintext: None,
        })
    }

    /// The loss that the round's line shows: where a candidate was refused, what it was refused for.
    fn telling_loss(&self) -> (&'static str, Option<f64>) {
        if self.state == "refused" { ("held-out loss", self.candidate_loss) } else { ("loss", self.loss) }
    }

    /// Whose updates are in the sum, of all `sites` of the study.
    pub(crate) fn counted(&self, sites: &[SiteName]) -> Vec<SiteName> {
        let is_out = |site: &SiteName| self.missing.contains(site) || self.absent.contains(site);
        sites.iter().filter(|site| !is_out(site)).cloned().collect()
    }

    /// The same with what became of its candidate. `false` for lines of other rounds.
    pub(crate) fn conclude(&mut self, line: &Value) -> bool {
        let concludes = matches!(line["state"].as_str(), Some("adopted" | "refused" | "unevaluated"));
        if line["kind"] != "evaluate" || !concludes || line["round"] != self.round {
            return false;
        }
        line["state"].as_str().unwrap_or_default().clone_into(&mut self.state);
        self.cause = line["cause"].as_str().map(str::to_owned);
        self.candidate_loss = line["loss"].as_f64();
        self.auroc = line["auroc"].as_f64();
        self.figure = line["figure"].as_f64();
        self.bytes_up += line["bytes_up"].as_u64().unwrap_or(0);
        self.bytes_down += line["bytes_down"].as_u64().unwrap_or(0);
        self.seconds += line["seconds"].as_f64().unwrap_or(0.0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_round_is_its_training_and_its_evaluation() {
        let train = json!({"round": 2, "kind": "train", "state": "trained", "loss": 0.5, "auroc": null, "selected": 3,
            "counted": 2, "missing": ["b"], "absent": ["d"], "bytes_up": 10, "bytes_down": 20, "seconds": 1.5, "overhead_seconds": 0.5});
        let mut round = Round::of_training(&train).unwrap();
        let evaluate = json!({"round": 2, "kind": "evaluate", "state": "adopted", "loss": 0.4, "auroc": 0.9,
            "selected": 3, "counted": 3, "missing": [], "bytes_up": 1, "bytes_down": 2, "seconds": 0.5});
        assert!(!round.conclude(&train) && round.conclude(&evaluate));
        assert_eq!(round.telling_loss(), ("loss", Some(0.5)));
        let shown = serde_json::to_value(&round).unwrap();
        assert_eq!(shown["state"], "adopted");
        assert_eq!((shown["bytes_up"].as_u64(), shown["auroc"].as_f64()), (Some(11), Some(0.9)));
        assert_eq!((&shown["missing"], &shown["absent"]), (&json!(["b"]), &json!(["d"])));
        let sites = ["a", "b", "c", "d"].map(|name| SiteName::new(name).unwrap());
        assert_eq!(round.counted(&sites), [sites[0].clone(), sites[2].clone()]);
    }

    /// The training of a refused round may look as good as ever.
    #[test]
    fn a_refused_round_shows_what_it_was_refused_for() {
        let train = json!({"round": 2, "kind": "train", "state": "trained", "loss": 0.5, "selected": 3, "counted": 3,
            "bytes_up": 10, "bytes_down": 20, "seconds": 1.5});
        let mut round = Round::of_training(&train).unwrap();
        let evaluate = json!({"round": 2, "kind": "evaluate", "state": "refused", "cause": "too long", "loss": 7.5,
            "auroc": 0.4, "selected": 3, "counted": 3, "missing": [], "bytes_up": 1, "bytes_down": 2, "seconds": 0.5});
        assert!(round.conclude(&evaluate));
        assert_eq!(round.telling_loss(), ("held-out loss", Some(7.5)));
        let shown = serde_json::to_value(&round).unwrap();
        assert_eq!((shown["loss"].as_f64(), shown["candidate_loss"].as_f64()), (Some(0.5), Some(7.5)));
    }
}
