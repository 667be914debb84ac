//! Chest X-rays of many countries (Cohen et al. 2020): a federation in which most sites have one class and a handful of
//! pictures.
//!
//! It shows that such a federation runs to its end, and how little it can say: seventeen countries, of which ten have at most
//! three pictures, and some sixty patients in all. `minimum_cases = 1` and no acceptance gate, because fewer sites than the
//! threshold hold a case out.

use super::experiment::{Arm, Dealt, Experiment, Way};
use crate::partition::Partition;

const ROUNDS: u32 = 10;
const SEEDS: u64 = 5;

pub(super) fn experiment(rounds: Option<u32>) -> Experiment {
    let rounds = rounds.unwrap_or(ROUNDS);
    let dealt = |keeps_test| Dealt { keeps_test, ..Dealt::by(Partition::By("country".to_owned())) };
    let arm = |name: &str, way: Way, seeds: u64| Arm::new(name.to_owned(), way, study(rounds), seeds);
    Experiment {
        name: "covid-cxr-sites".to_owned(),
        about: format!(
            "Chest X-rays by country: COVID-19 against other findings, {rounds} rounds, split by patient. With a dozen test \
             patients a figure says little: what can be concluded is that sites with one class, and sites with one picture, take \
             part to the end without breaking a sum; not which training is better, and nothing about patients elsewhere: \
             country, device and finding go together in this collection, so a model can tell countries apart and look right."
        ),
        arms: vec![
            arm("all-cases", Way::Federated(dealt(false)), 1),
            arm("federated", Way::Federated(dealt(true)), SEEDS),
            arm("pooled", Way::Pooled(dealt(true)), SEEDS),
        ],
        aims: Vec::new(),
    }
}

fn study(rounds: u32) -> String {
    format!(
        r#"format = 1
name = "covid-cxr-sites"
title = "COVID-19 in chest X-rays of many countries"
sites = ["a", "b", "c"]
seed = 0

[data]
labels = ["other", "covid-19"]
channels = 1
height = 64
width = 64
mean = 0.5
std = 0.25
minimum_cases = 1

[model]
preset = "small-cnn"
norm = "group"

[training]
optimiser = "sgd"
learning_rate = 0.01
momentum = 0.9
batch = 8
steps = 10
augment = {{ flip = true, crop = 4 }}

[rounds]
count = {rounds}
quorum = 3

[aggregation]
weight_cap = 64

[evaluation]
recommend = "auroc"
"#
    )
}
