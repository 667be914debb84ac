//! The same figures from the scores themselves, for tables about data that may be seen.

use consilium_study::metric::Metric;
use consilium_study::task::{Label, Task};

use super::counts::{argmax, likelier, loss, squared_error};
use super::figures::{area, area_interval, mean, share};
use super::shape::{CONFIDENCE_BINS, bin};
use super::{Figures, interval};

/// Area under the ROC curve of `scores`, where `positive[i]` tells the kind of case `i`: the share of
/// (positive, negative) pairs in the right order, ties counted half. `None` unless both kinds occur.
pub fn auroc(scores: &[f32], positive: &[bool]) -> Option<f64> {
    let (positives, negatives) = by_score(scores, positive);
    area(&positives, &negatives)
}

/// How many cases of each kind have each score that occurs, from low to high.
fn by_score(scores: &[f32], positive: &[bool]) -> (Vec<u32>, Vec<u32>) {
    assert_eq!(scores.len(), positive.len(), "one kind per score");
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let count =
        |cases: &[usize], kind: bool| cases.iter().filter(|case| positive[**case] == kind).count() as u32;
    order
        .chunk_by(|a, b| scores[*a].total_cmp(&scores[*b]).is_eq())
        .map(|tied| (count(tied, true), count(tied, false)))
        .unzip()
}

/// Figures over cases given as probabilities (one row per case, one column per class or finding) and labels of one task.
/// `None` when there is no case. Kappa, temperature and the intervals of other figures than the AUROC are of counts alone.
pub fn figures<R: AsRef<[f32]>>(
    probabilities: &[R],
    labels: &[Label],
    task: Task,
    operating_point: f64,
) -> Option<Figures> {
    assert_eq!(probabilities.len(), labels.len(), "one label per case");
    let columns = probabilities.first()?.as_ref().len();
    let cases = labels.len() as f64;
    let rows = || probabilities.iter().map(AsRef::as_ref).zip(labels.iter().copied());
    let scored = if columns == 2 && task.is_exclusive() { 1..2 } else { 0..columns };
    let is_positive = |row: &[f32], class: usize| f64::from(row[class]) >= operating_point;
    // Right answers among those cases of which one label is true, or is not.
    let share_right = |class: usize, holds: bool, is_right: &dyn Fn(&[f32]) -> bool| {
        let of_kind = rows().filter(|(_, label)| label.holds(class) == holds);
        let (all, right) =
            of_kind.fold((0, 0), |(all, right), (row, _)| (all + 1, right + u64::from(is_right(row))));
        share(right, all)
    };
    let sensitivity = |class| share_right(class, true, &|row| is_positive(row, class));
    let specificity = |class| share_right(class, false, &|row| !is_positive(row, class));
    let curve = |class: usize| {
        let scores: Vec<f32> = rows().map(|(row, _)| row[class]).collect();
        let positive: Vec<bool> = labels.iter().map(|label| label.holds(class)).collect();
        by_score(&scores, &positive)
    };
    let curves: Vec<_> = scored.clone().map(curve).collect();
    let areas = || curves.iter().filter_map(|(positives, negatives)| area(positives, negatives));
    let limits = curves.iter().filter(|(positives, negatives)| area(positives, negatives).is_some());
    let limits = interval::of_mean(limits.map(|(positives, negatives)| area_interval(positives, negatives)));
    let (accuracy, balanced_accuracy) = if task.is_exclusive() {
        let right = rows().filter(|(row, label)| label.holds(argmax(row))).count();
        let recall = |class| share_right(class, true, &|row| argmax(row) == class);
        (right as f64 / cases, mean((0..columns).filter_map(recall)))
    } else {
        let right =
            |class: usize| rows().filter(move |(row, label)| is_positive(row, class) == label.holds(class));
        let right: usize = (0..columns).map(|class| right(class).count()).sum();
        let both = (0..columns).flat_map(|class| [sensitivity(class), specificity(class)]);
        (right as f64 / cases / columns as f64, mean(both.flatten()))
    };
    Some(Figures {
        cases: labels.len() as u64,
        loss: rows().map(|(row, label)| loss(row, label)).sum::<f64>() / cases,
        auroc: mean(areas()),
        accuracy: Some(accuracy),
        balanced_accuracy,
        sensitivity: mean(scored.clone().filter_map(sensitivity)),
        specificity: mean(scored.filter_map(specificity)),
        brier: Some(rows().map(|(row, label)| squared_error(row, label)).sum::<f64>() / cases),
        calibration_error: Some(calibration_error(rows())),
        intervals: limits.map(|limits| (Metric::Auroc, limits)).into_iter().collect(),
        ..Figures::default()
    })
}

fn calibration_error<'r>(rows: impl Iterator<Item = (&'r [f32], Label)>) -> f64 {
    let mut gaps = [0.0; CONFIDENCE_BINS];
    let mut answers = 0.0;
    let mut answer = |confidence: f64, is_right: bool| {
        gaps[bin(confidence, CONFIDENCE_BINS)] += f64::from(u8::from(is_right)) - confidence;
        answers += 1.0;
    };
    for (row, label) in rows {
        if label.class().is_some() {
            let prediction = argmax(row);
            answer(row[prediction].into(), label.holds(prediction));
        } else {
            for (finding, &probability) in row.iter().enumerate() {
                let (confidence, is_there) = likelier(probability);
                answer(confidence, is_there == label.holds(finding));
            }
        }
    }
    gaps.iter().map(|gap: &f64| gap.abs()).sum::<f64>() / answers
}
