//! Heart disease in four hospitals (Janosi et al. 1988, UCI): FLamby's Fed-Heart-Disease (Ogier du Terrail et al. 2022).
//!
//! Logistic regression on thirteen inputs: eight columns and two one-hot columns without their first value; the three columns
//! that are mostly empty are left out, and so are rows that are not whole. Fifteen rounds of a hundred local steps, batches of
//! four, SGD; the test patients are FLamby's. Other than there, inputs are brought to a common scale, which is part of the
//! study: FLamby trains on raw columns.

mod split;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use consilium_files::write_public;
use consilium_study::metric::Metric;

use super::experiment::{Aim, Arm, Dealt, Experiment, Least, Way};
use crate::partition::Partition;

const HOSPITALS: [&str; 4] = ["cleveland", "hungarian", "switzerland", "va"];
const COLUMNS: [&str; 10] =
    ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak"];
/// What a row of the files has: the columns above, three that are not used, and the label.
const FIELDS: usize = 14;
/// Rounds, unless the command says otherwise.
const ROUNDS: u32 = 15;
const SEEDS: u64 = 5;

/// Mean and standard deviation over the training rows of all hospitals.
const INPUTS: &str = r#"inputs = [
    { column = "age", mean = 53.0, std = 9.6 },
    { column = "sex", mean = 0.76, std = 0.43 },
    { column = "trestbps", mean = 133.0, std = 19.0 },
    { column = "chol", mean = 220.0, std = 94.0 },
    { column = "fbs", mean = 0.15, std = 0.36 },
    { column = "thalach", mean = 139.0, std = 26.0 },
    { column = "exang", mean = 0.39, std = 0.49 },
    { column = "oldpeak", mean = 0.94, std = 1.07 },
    { column = "cp", is = "2" },
    { column = "cp", is = "3" },
    { column = "cp", is = "4" },
    { column = "restecg", is = "1" },
    { column = "restecg", is = "2" },
]"#;

pub(super) fn experiment(rounds: Option<u32>) -> Experiment {
    let rounds = rounds.unwrap_or(ROUNDS);
    let dealt = || Dealt::by(Partition::By("hospital".to_owned()));
    let fedavg = "strategy = { kind = \"fedavg\" }";
    let arm = |name: &str, way: Way, strategy: &str, rounds: u32| {
        Arm::new(name.to_owned(), way, study(rounds, strategy), SEEDS)
    };
    let arms = vec![
        arm("pooled", Way::Pooled(dealt()), fedavg, rounds),
        arm("fedavg", Way::Federated(dealt()), fedavg, rounds),
        arm(
            "fedavgm",
            Way::Federated(dealt()),
            "strategy = { kind = \"fedavgm\", server_momentum = 0.5 }",
            rounds,
        ),
        arm(
            "fedadam",
            Way::Federated(dealt()),
            "strategy = { kind = \"fedadam\", server_learning_rate = 0.03 }",
            rounds,
        ),
        arm("fedprox", Way::Federated(dealt()), "strategy = { kind = \"fedprox\", mu = 0.1 }", rounds),
        arm("fedavg-longer", Way::Federated(dealt()), fedavg, 4 * rounds),
        arm("alone", Way::Alone(dealt()), fedavg, rounds),
    ];
    let aim = |arm: &str, least: f64, whose: &'static str| Aim {
        arm: arm.to_owned(),
        measure: Metric::Accuracy,
        least: Least::Published(least, whose),
    };
    let aims = vec![
        aim("fedavg", 0.748, "FLamby's FedAvg"),
        aim("fedavgm", 0.779, "FLamby's best strategy"),
        aim("fedadam", 0.779, "FLamby's best strategy"),
        aim("fedprox", 0.779, "FLamby's best strategy"),
        aim("pooled", 0.795, "pooled training"),
    ];
    Experiment {
        name: "heart-disease".to_owned(),
        about: format!(
            "Heart disease, four hospitals, FLamby's task and test patients: logistic regression on 13 inputs, {rounds} rounds of \
             100 local steps, batch 4, SGD"
        ),
        arms,
        aims,
    }
}

fn study(rounds: u32, strategy: &str) -> String {
    format!(
        r#"format = 1
name = "heart-disease"
title = "Heart disease in four hospitals"
sites = ["cleveland", "hungarian", "switzerland", "va"]
seed = 0

[data]
labels = ["healthy", "disease"]
{INPUTS}
holdout = 0.0
# Most rows of two hospitals lack a value; FLamby leaves them out.
smallest_usable_share = 0.25

[model]
preset = "logistic"

[training]
optimiser = "sgd"
learning_rate = 0.01
batch = 4
steps = 100

[rounds]
count = {rounds}
quorum = 4
{strategy}

[aggregation]
weight = "examples"

[evaluation]
recommend = "accuracy"
"#
    )
}

/// Writes UCI's four files as one table with the columns of the study.
pub(super) fn prepare(data: &Path, into: &Path) -> anyhow::Result<PathBuf> {
    let mut table = format!("{},label,hospital,split\n", COLUMNS.join(","));
    for hospital in HOSPITALS {
        let path = data.join(format!("processed.{hospital}.data"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        for (number, line) in text.lines().enumerate() {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            ensure!(
                fields.len() == FIELDS,
                "{}, line {}: {} values in place of {FIELDS}",
                path.display(),
                number + 1,
                fields.len()
            );
            let label = if fields[FIELDS - 1] == "0" { "healthy" } else { "disease" };
            let is_test = u16::try_from(number + 1)
                .is_ok_and(|line| split::test_lines(hospital).binary_search(&line).is_ok());
            let split = if is_test { "test" } else { "train" };
            writeln!(table, "{},{label},{hospital},{split}", fields[..COLUMNS.len()].join(","))?;
        }
    }
    let path = into.join("heart-disease.csv");
    write_public(&path, table.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_has_the_published_sizes_and_is_ascending() {
        let sizes = HOSPITALS.map(|hospital| split::test_lines(hospital).len());
        assert_eq!(sizes, [104, 89, 16, 45]);
        assert!(HOSPITALS.iter().all(|hospital| split::test_lines(hospital).is_sorted_by(|a, b| a < b)));
    }
}
