//! Rules about what a study asks: which labels, losses, figures and models go with which task.

use super::{Findings, MAX_LABELS};
use crate::document::{Data, Plan};
use crate::loss::Loss;
use crate::metric::Metric;
use crate::recipe::Sampling;
use crate::task::{BETWEEN_FINDINGS, Task, is_no_finding};
use crate::weight::WeightRule;

/// Every rule about a task that does not hold.
pub(super) fn rules(plan: &Plan, f: &mut Findings) {
    range(&plan.data, f);
    let dense = plan.data.task.is_dense();
    if plan.model.is_dense() != dense {
        let (what, remedy) = if dense {
            (
                "the case as a whole",
                "write preset = \"unet2d\", or end the layers in an image of the picture's size",
            )
        } else {
            (
                "each pixel",
                "end the layers in a row (flatten or global-average-pool, and linear), or write task = \"segmentation\"",
            )
        };
        let task = plan.data.task.name();
        let last = plan.model.last();
        f.require(false, "model", || format!("{last}, which scores {what}, and the task is {task}"), remedy);
    }
    let task = plan.data.task;
    let metric = plan.evaluation.recommend;
    let metrics: Vec<&str> =
        Metric::ALL.into_iter().filter(|metric| metric.is_of(task)).map(Metric::name).collect();
    f.require(
        metric.is_of(task),
        "evaluation.recommend",
        || format!("\"{metric}\" is no figure of a study whose task is {}", task.name()),
        format!("name one of {}, or another task under [data]", metrics.join(", ")),
    );
    f.require(
        plan.training.loss() != Loss::EarthMover || task == Task::Ordinal,
        "training.loss",
        || format!("\"earth-mover\" is about grades, and the task is {}", task.name()),
        "write task = \"ordinal\" under [data] if the labels are grades in ascending order, or name another loss",
    );
    f.require(
        !plan.training.loss().has_dice() || task.is_dense(),
        "training.loss",
        || format!("a Dice loss compares areas of a picture, and the task is {}", task.name()),
        "write task = \"segmentation\" under [data] if each picture has a mask, or name another loss",
    );
    f.require(
        plan.training.loss().has_values() == (task == Task::Regression),
        "training.loss",
        || {
            let compares =
                if task == Task::Regression { "classes and no values" } else { "values and no classes" };
            format!(
                "\"{}\" compares {compares}, and the task is {}",
                plan.training.loss().name(),
                task.name()
            )
        },
        losses(task),
    );
    f.require(
        plan.training.sampling() != Sampling::Balanced || task.is_exclusive(),
        "training.sampling",
        || {
            format!(
                "cases of a study whose task is {} are of no class that could come as often as others",
                task.name()
            )
        },
        // A value has no class that could weigh more.
        if task == Task::Regression { "leave it out" } else { "leave it out, and set class_weights" },
    );
    f.require(
        plan.aggregation.weight != WeightRule::Effective || task.is_exclusive(),
        "aggregation.weight",
        || format!("effective cases are of classes that exclude each other, and the task is {}", task.name()),
        "write weight = \"coarse\"",
    );
    f.require(
        !plan.evaluation.calibrate || task.is_labelled(),
        "evaluation.calibrate",
        || format!("a temperature is fitted to probabilities of cases, and the task is {}", task.name()),
        "leave it out",
    );
    f.require(
        plan.training.class_weights().is_none() || task != Task::Regression,
        "training.class_weights",
        || "a value is of no class".into(),
        "leave them out",
    );
    if task.is_dense() {
        segmentation(plan, f);
    }
}

/// The losses that a study of this task may name.
const fn losses(task: Task) -> &'static str {
    match task {
        Task::Regression => {
            "leave it out, which is \"squared-error\", or write \"absolute-error\" or { kind = \"huber\", delta = 0.1 }"
        }
        Task::Segmentation => {
            "leave it out, which is \"cross-entropy\", or write \"dice\", \"dice-cross-entropy\" or { kind = \"focal\", gamma = 2.0 }"
        }
        Task::Ordinal => {
            "leave it out, which is \"cross-entropy\", or write \"earth-mover\" or { kind = \"focal\", gamma = 2.0 }"
        }
        Task::Classification | Task::MultiLabel => {
            "leave it out, which is \"cross-entropy\", or write { kind = \"focal\", gamma = 2.0 }"
        }
    }
}

/// Findings that could not be written side by side in a table.
pub(super) fn findings(labels: &[String], f: &mut Findings) {
    for label in labels.iter().take(MAX_LABELS) {
        f.require(
            !label.contains(BETWEEN_FINDINGS),
            "data.labels",
            || format!("in a table {BETWEEN_FINDINGS} stands between the findings of a case, and \"{label}\" has one in its name"),
            "give the finding a name without it",
        );
        f.require(
            !is_no_finding(label),
            "data.labels",
            || format!("in a table \"{label}\" is what is written of a case without any finding"),
            "leave it out, as a case may have none of the labels, or give the finding another name",
        );
    }
}

/// What goes with cases as wholes only.
fn segmentation(plan: &Plan, f: &mut Findings) {
    f.require(
        plan.data.inputs.is_none(),
        "data.inputs",
        || "a row of a table has no pixels that could be of a class".into(),
        "leave `inputs` out and describe pictures, or name another task",
    );
    f.require(
        plan.data.beside.is_none(),
        "data.inputs",
        || "a row beside a picture says nothing of where in it something is, and is read by no model of pixels".into(),
        "leave `inputs` out, or name another task",
    );
    f.require(
        plan.data.depth.is_none(),
        "data.depth",
        || "masks are of pictures, and the cases are volumes".into(),
        "leave `depth` out, or name another task",
    );
    f.require(
        plan.training.augment().mixup <= 0.0,
        "training.augment.mixup",
        || "a mixture of two pictures has no mask".into(),
        "leave it out",
    );
    let recipe = &plan.training;
    f.require(
        recipe.loss() != Loss::Dice || recipe.class_weights().is_none(),
        "training.class_weights",
        || "areas count alike in \"dice\", whatever the weights of classes".into(),
        "leave them out, or write loss = \"dice-cross-entropy\", where they are of the cross-entropy",
    );
}

/// Values have a range, and nothing else has one.
fn range(data: &Data, f: &mut Findings) {
    match data.range {
        None => f.require(
            data.task != Task::Regression,
            "data.range",
            || "a regression says between which values its cases lie".into(),
            "write the lowest and the highest, for example range = [0.0, 120.0] for an age in years",
        ),
        Some(range) => {
            f.require(
                data.task == Task::Regression,
                "data.range",
                || format!("values lie in a range, and the task is {}", data.task.name()),
                "leave it out, or write task = \"regression\"",
            );
            f.require(
                range.is_lawful(),
                "data.range",
                || format!("nothing lies between {} and {}", range.low, range.high),
                "write the lowest value and then the highest, for example range = [0.0, 120.0]",
            );
        }
    }
}
