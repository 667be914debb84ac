//! What the demo says at its end.

use std::path::PathBuf;

use consilium_study::name::SiteName;
use serde::Serialize;

use super::arms::Outcome;
use crate::output::{bytes, table};

/// The last line of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Final {
    #[serde(rename = "final")]
    is_final: bool,
    /// Of the released model on the test cases, exact.
    pub auroc: f64,
    /// The same model's share of right answers.
    pub accuracy: f64,
    /// Training rounds.
    pub rounds: u32,
    /// Hospitals.
    pub sites: usize,
    /// From sites.
    pub bytes_up: u64,
    /// To sites.
    pub bytes_down: u64,
    /// From the start of the demo to this line.
    pub seconds: f64,
    /// Each hospital alone, in the order of names.
    pub local_only_auroc: Vec<f64>,
    /// One model on all cases together; nothing where it was not trained.
    pub pooled_auroc: Option<f64>,
    /// The same, its share of right answers.
    pub pooled_accuracy: Option<f64>,
    /// All rounds together, from their beginning to their end.
    pub round_seconds: f64,
    /// Of these, what the slowest hospital's own work does not explain: masks, transport, sums, waiting for who is
    /// gone.
    pub overhead_seconds: f64,
    /// The model's numbers, four bytes each.
    pub model_bytes: u64,
    /// The coordinator's peak memory, where the kernel tells.
    pub coordinator_peak_bytes: Option<u64>,
    /// Seed of study and partition.
    pub seed: u64,
    /// The hospital that was killed, if one was.
    pub killed: Option<SiteName>,
    /// Where the released model lies, if the folder is kept.
    pub model: Option<PathBuf>,
}

/// All arms of the comparison.
pub(super) struct Comparison {
    /// The released model.
    pub federated: Outcome,
    /// Training on everything, if it was wanted.
    pub pooled: Option<Outcome>,
    /// Each hospital alone, if it was wanted.
    pub alone: Vec<(SiteName, Outcome)>,
}

/// What the demo measured besides the comparison.
pub(super) struct Run {
    /// Hospitals.
    pub sites: usize,
    /// Training rounds.
    pub rounds: u32,
    /// From and to sites.
    pub traffic: (u64, u64),
    /// From the start of the demo.
    pub seconds: f64,
    /// What the rounds cost.
    pub cost: Cost,
    /// Seed of study and partition.
    pub seed: u64,
    /// The hospital that was killed, if one was.
    pub killed: Option<SiteName>,
    /// Where the released model lies, if the folder is kept.
    pub model: Option<PathBuf>,
}

/// From so many bytes on, a model is what the coordinator's memory is for.
const LARGE_MODEL: u64 = 10_000_000;

/// Time and memory of the rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Wall time of all rounds, in seconds.
    pub seconds: f64,
    /// Wall time of each round less its slowest hospital's own work, in seconds.
    pub overhead: f64,
    /// Bytes of a model.
    pub model: u64,
    /// Peak memory of the coordinator in bytes, where the kernel tells.
    pub coordinator_peak: Option<u64>,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = 100.0 * self.overhead / self.seconds.max(f64::MIN_POSITIVE);
        write!(
            f,
            "Rounds took {:.1} s; the federation's share is {:.1} s ({share:.0} %)",
            self.seconds, self.overhead
        )?;
        let Some(peak) = self.coordinator_peak else { return Ok(()) };
        write!(f, ", the coordinator's peak memory {}", bytes(peak))?;
        // A small model is a small part of it.
        if self.model < LARGE_MODEL {
            return Ok(());
        }
        let models = peak as f64 / self.model as f64;
        write!(f, ": {models:.2} models of {}", bytes(self.model))
    }
}

impl Comparison {
    /// The last line for programs.
    pub(super) fn summary(&self, run: &Run) -> Final {
        Final {
            is_final: true,
            auroc: self.federated.auroc,
            accuracy: self.federated.accuracy,
            rounds: run.rounds,
            sites: run.sites,
            bytes_up: run.traffic.0,
            bytes_down: run.traffic.1,
            seconds: (run.seconds * 10.0).round() / 10.0,
            local_only_auroc: self.alone.iter().map(|(_, outcome)| outcome.auroc).collect(),
            pooled_auroc: self.pooled.as_ref().map(|pooled| pooled.auroc),
            pooled_accuracy: self.pooled.as_ref().map(|pooled| pooled.accuracy),
            round_seconds: run.cost.seconds,
            overhead_seconds: run.cost.overhead,
            model_bytes: run.cost.model,
            coordinator_peak_bytes: run.cost.coordinator_peak,
            seed: run.seed,
            killed: run.killed.clone(),
            model: run.model.clone(),
        }
    }

    /// The table for people.
    pub(super) fn table(&self) -> String {
        let row = |name: String, outcome: &Outcome, work: [String; 2]| {
            let name = match outcome.diverged {
                0 => name,
                rounds => format!("{name} ({rounds} rounds diverged)"),
            };
            let figures = [format!("{:.3}", outcome.auroc), format!("{:.3}", outcome.accuracy)];
            [vec![name], figures.to_vec(), work.to_vec()].concat()
        };
        let work = |steps: u64, passes: u64| [steps.to_string(), passes.to_string()];
        // What the federation did is what each hospital does alone, taken together.
        let together = match &self.alone[..] {
            [] => ["-".to_owned(), "-".to_owned()],
            alone => work(
                alone.iter().map(|(_, one)| one.steps).sum(),
                alone.iter().map(|(_, one)| one.passes).sum(),
            ),
        };
        let mut rows = vec![row("federated, only sums seen".to_owned(), &self.federated, together)];
        if let Some(pooled) = &self.pooled {
            let name = "pooled, all images in one place".to_owned();
            rows.push(row(name, pooled, work(pooled.steps, pooled.passes)));
        }
        rows.extend(
            self.alone
                .iter()
                .map(|(site, one)| row(format!("{site} alone"), one, work(one.steps, one.passes))),
        );
        table(&["trained", "AUROC", "accuracy", "steps", "images seen"], &rows)
    }
}

/// One line about traffic.
pub(super) fn traffic(up: u64, down: u64) -> String {
    format!("{} from the hospitals, {} to them", bytes(up), bytes(down))
}
