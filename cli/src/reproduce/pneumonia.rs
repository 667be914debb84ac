//! PneumoniaMNIST (Kermany et al. 2018, Yang et al. 2023): children's chest X-rays at 28x28, normal or pneumonia.
//!
//! The recipe is the one of MedMNIST v2: Adam with 1e-3, batches of 128, the rate a tenth of it after half of the training
//! and again after three quarters, no augmentation, the best epoch by AUROC on `val`. In the federation four sites have a
//! batch of a quarter of that and one pass a round: as many steps in a row as the pooled trainer makes, over the same cases
//! the same number of times.

use consilium_study::metric::Metric;

use super::experiment::{Aim, Arm, Dealt, Experiment, Least, Way};
use crate::partition::Partition;

/// Passes over the cases, unless the command says otherwise. The publication has 100.
const EPOCHS: u32 = 20;
const BATCH: u32 = 128;
const SITES: u32 = 4;

pub(super) fn experiment(epochs: Option<u32>) -> Experiment {
    let epochs = epochs.unwrap_or(EPOCHS);
    let (mut arms, mut aims) = (Vec::new(), Vec::new());
    for (model, seeds) in [("small-cnn", 5), ("resnet18", 3)] {
        let mut arm = |name: &str, way: Way| {
            let batch = if matches!(way, Way::Pooled(_)) { BATCH } else { BATCH / SITES };
            let name = format!("{model}/{name}");
            arms.push(Arm::new(name.clone(), way, study(model, epochs, batch), seeds));
            name
        };
        let dealt = Dealt::by;
        let pooled = arm("pooled", Way::Pooled(dealt(Partition::Iid)));
        let iid = arm("federated-iid", Way::Federated(dealt(Partition::Iid)));
        let skewed = arm("federated-dirichlet", Way::Federated(dealt(Partition::Dirichlet(0.5))));
        if model == "small-cnn" {
            arm("alone-dirichlet", Way::Alone(dealt(Partition::Dirichlet(0.5))));
            arm("finetuned-dirichlet", Way::Finetuned(dealt(Partition::Dirichlet(0.5))));
        } else {
            let published = "MedMNIST v2, ResNet-18 (28), 100 epochs";
            for (measure, least) in [(Metric::Auroc, 0.944), (Metric::Accuracy, 0.854)] {
                aims.push(Aim { arm: pooled.clone(), measure, least: Least::Published(least, published) });
            }
        }
        for (arm, below) in [(iid, 0.01), (skewed, 0.03)] {
            aims.push(Aim { arm, measure: Metric::Auroc, least: Least::Below(below, pooled.clone()) });
        }
    }
    Experiment {
        name: "pneumoniamnist".to_owned(),
        about: format!(
            "PneumoniaMNIST, official test split, {epochs} passes over the cases (published: 100), the recipe of MedMNIST v2"
        ),
        arms,
        aims,
    }
}

fn study(model: &str, epochs: u32, batch: u32) -> String {
    format!(
        r#"format = 1
name = "pneumoniamnist"
title = "PneumoniaMNIST, as published"
sites = ["site-1", "site-2", "site-3", "site-4"]
seed = 0

[data]
labels = ["normal", "pneumonia"]
channels = 1
height = 28
width = 28
mean = 0.5
std = 0.5

[model]
preset = "{model}"

[training]
optimiser = "adam"
learning_rate = 0.001
schedule = {{ milestones = {{ at = [0.5, 0.75], factor = 0.1 }} }}
batch = {batch}
epochs = 1

[rounds]
count = {epochs}
quorum = 4

[aggregation]
clip_norm = 200.0
weight = "examples"

[evaluation]
recommend = "auroc"
"#
    )
}
