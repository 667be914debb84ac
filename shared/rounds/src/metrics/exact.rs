//! The same figures from the scores themselves, for tables about data that may be seen.

use super::counts::{CONFIDENCE_BINS, argmax, bin, squared_error};
use super::figures::{mean, share};
use super::{Figures, LOSS_CLIP};

/// Area under the ROC curve of `scores`, where `positive[i]` tells the kind of case `i`: the share of
/// (positive, negative) pairs in the right order, ties counted half. `None` unless both kinds occur.
pub fn auroc(scores: &[f32], positive: &[bool]) -> Option<f64> {
    assert_eq!(scores.len(), positive.len(), "one kind per score");
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let (mut doubled, mut below, mut start) = (0u128, 0u128, 0);
    while start < order.len() {
        let first = scores[order[start]];
        let tied = order[start..].iter().take_while(|case| scores[**case].total_cmp(&first).is_eq()).count();
        let end = start + tied;
        let positives = order[start..end].iter().filter(|case| positive[**case]).count() as u128;
        let negatives = (end - start) as u128 - positives;
        doubled += positives * (2 * below + negatives);
        below += negatives;
        start = end;
    }
    let positives = scores.len() as u128 - below;
    (positives > 0 && below > 0).then(|| doubled as f64 / (2.0 * positives as f64 * below as f64))
}

/// Figures over cases given as probabilities (one row per case, one column per class) and true classes.
/// `None` when there is no case.
pub fn figures<R: AsRef<[f32]>>(
    probabilities: &[R],
    labels: &[usize],
    operating_point: f64,
) -> Option<Figures> {
    assert_eq!(probabilities.len(), labels.len(), "one label per case");
    let classes = probabilities.first()?.as_ref().len();
    let cases = labels.len() as f64;
    let rows = || probabilities.iter().map(AsRef::as_ref).zip(labels.iter().copied());
    let scored = if classes == 2 { 1..2 } else { 0..classes };
    let predictions: Vec<usize> = rows().map(|(row, _)| argmax(row)).collect();
    let hits = |class: Option<usize>| {
        let of_class =
            labels.iter().zip(&predictions).filter(|(label, _)| class.is_none_or(|c| **label == c));
        let (all, right) = of_class.fold((0, 0), |(all, right), (label, prediction)| {
            (all + 1, right + u64::from(label == prediction))
        });
        share(right, all)
    };
    let called = |class: usize, positive: bool| {
        let (all, right) = rows().filter(|(_, label)| (*label == class) == positive).fold(
            (0, 0),
            |(all, right), (row, _)| {
                (all + 1, right + u64::from((f64::from(row[class]) >= operating_point) == positive))
            },
        );
        share(right, all)
    };
    let class_auroc = |class: usize| {
        let scores: Vec<f32> = rows().map(|(row, _)| row[class]).collect();
        let positive: Vec<bool> = labels.iter().map(|label| *label == class).collect();
        auroc(&scores, &positive)
    };
    Some(Figures {
        cases: labels.len() as u64,
        loss: rows().map(|(row, label)| clipped_loss(row[label])).sum::<f64>() / cases,
        start_loss: None,
        auroc: mean(scored.clone().filter_map(class_auroc)),
        accuracy: hits(None).expect("there is a case"),
        balanced_accuracy: mean((0..classes).filter_map(|class| hits(Some(class))))
            .expect("a case has a class"),
        sensitivity: mean(scored.clone().filter_map(|class| called(class, true))),
        specificity: mean(scored.filter_map(|class| called(class, false))),
        brier: rows().map(|(row, label)| squared_error(row, label)).sum::<f64>() / cases,
        calibration_error: calibration_error(rows()),
        declines: 0,
    })
}

fn clipped_loss(probability: f32) -> f64 {
    let loss = -f64::from(probability).ln();
    if loss.is_nan() { LOSS_CLIP } else { loss.clamp(0.0, LOSS_CLIP) }
}

fn calibration_error<'r>(rows: impl Iterator<Item = (&'r [f32], usize)>) -> f64 {
    let mut gaps = [0.0; CONFIDENCE_BINS];
    let mut cases = 0.0;
    for (row, label) in rows {
        let prediction = argmax(row);
        let confidence = f64::from(row[prediction]);
        gaps[bin(confidence, CONFIDENCE_BINS)] += f64::from(u8::from(prediction == label)) - confidence;
        cases += 1.0;
    }
    gaps.iter().map(|gap: &f64| gap.abs()).sum::<f64>() / cases
}
