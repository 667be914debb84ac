use proptest::prelude::*;

use super::*;

fn shape(classes: u16, bins: u16) -> EvaluationShape {
    EvaluationShape::new(classes, bins, 0.5).unwrap()
}

/// Published examples of scikit-learn's documentation: `roc_auc_score`, `brier_score_loss`, `log_loss`,
/// `balanced_accuracy_score`.
#[test]
fn agrees_with_published_examples() {
    let auroc = exact::auroc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]);
    assert_eq!(auroc, Some(0.75));

    let rows = [[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.7, 0.3]];
    let figures = exact::figures(&rows, &[0, 1, 1, 0], 0.5).unwrap();
    // Theirs is of one column; both columns of a binary problem have the same error.
    assert!((figures.brier - 2.0 * 0.0375).abs() < 1e-7);

    let rows = [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]];
    let figures = exact::figures(&rows, &[1, 0, 0, 1], 0.5).unwrap();
    assert!((figures.loss - 0.21616).abs() < 1e-5);

    let predicted = [0, 1, 0, 0, 0, 1];
    let rows = predicted.map(|class| if class == 1 { [0.0, 1.0] } else { [1.0, 0.0] });
    let figures = exact::figures(&rows, &[0, 1, 0, 0, 1, 0], 0.5).unwrap();
    assert!((figures.balanced_accuracy - 0.625).abs() < 1e-12);
    assert_eq!((figures.sensitivity, figures.specificity), (Some(0.5), Some(0.75)));
}

#[test]
fn undefined_figures_are_absent() {
    assert_eq!(exact::auroc(&[0.3, 0.4], &[true, true]), None);
    assert_eq!(exact::figures::<[f32; 2]>(&[], &[], 0.5), None);
    assert_eq!(EvaluationCounts::new(shape(2, 8)).figures(), None);
    let mut counts = EvaluationCounts::new(shape(2, 8));
    counts.add(&[0.2, 0.8], &[0.5, 0.5], 1);
    let figures = counts.figures().unwrap();
    assert_eq!((figures.auroc, figures.specificity, figures.sensitivity), (None, None, Some(1.0)));
}

#[test]
fn a_model_of_nans_is_the_worst_not_a_crash() {
    let mut counts = EvaluationCounts::new(shape(3, 8));
    counts.add(&[f32::NAN; 3], &[0.2, 0.3, 0.5], 2);
    let figures = EvaluationCounts::from_words(shape(3, 8), &counts.to_words()).unwrap().figures().unwrap();
    assert_eq!((figures.loss, figures.brier, figures.accuracy), (LOSS_CLIP, 2.0, 0.0));
    assert!(figures.loss_increase().unwrap() > 0.0);
}

#[test]
fn counts_that_contradict_each_other_are_noticed() {
    let mut counts = EvaluationCounts::new(shape(2, 4));
    for case in 0..10 {
        let score = f32::from(case as u8) / 10.0;
        counts.add(&[1.0 - score, score], &[0.5, 0.5], usize::from(case > 5));
    }
    let words = counts.to_words();
    assert!(EvaluationCounts::from_words(shape(2, 4), &words).is_ok());
    assert!(EvaluationCounts::from_words(shape(2, 4), &words[1..]).is_err());
    let mut noticed = 0;
    for word in 0..words.len() {
        let mut changed = words.clone();
        changed[word] = changed[word].wrapping_add(1 << 31);
        noticed += usize::from(EvaluationCounts::from_words(shape(2, 4), &changed).is_err());
    }
    assert_eq!(noticed, words.len());
}

#[test]
fn sites_that_decline_are_counted_and_no_more_than_there_are_cases() {
    let mut sum = vec![0u32; shape(2, 4).words()];
    for declines in [true, false, true] {
        let mut counts = EvaluationCounts::new(shape(2, 4));
        counts.add(&[0.3, 0.7], &[0.5, 0.5], 1);
        if declines {
            counts.decline();
        }
        sum.iter_mut().zip(counts.to_words()).for_each(|(sum, word)| *sum += word);
    }
    let read = |words: &[u32]| EvaluationCounts::from_words(shape(2, 4), words);
    assert_eq!(read(&sum).unwrap().figures().unwrap().declines, 2);
    sum[1] = 4;
    assert!(read(&sum).is_err());
}

type Case = (Vec<f32>, usize);

/// Cases whose scores lie on bin centres, so that the histogram loses nothing.
fn cases(classes: usize, bins: u16) -> impl Strategy<Value = Vec<Vec<Case>>> {
    let case = (proptest::collection::vec(0..bins, classes), 0..classes).prop_map(move |(scores, label)| {
        (scores.into_iter().map(|bin| (f32::from(bin) + 0.5) / f32::from(bins)).collect(), label)
    });
    proptest::collection::vec(proptest::collection::vec(case, 0..20), 1..6)
}

fn federation(shape: EvaluationShape, sites: &[Vec<Case>]) -> EvaluationCounts {
    let mut sum = vec![0u32; shape.words()];
    for site in sites {
        let mut counts = EvaluationCounts::new(shape);
        for (row, label) in site {
            counts.add(row, row, *label);
        }
        for (total, word) in sum.iter_mut().zip(counts.to_words()) {
            *total = total.wrapping_add(word);
        }
    }
    EvaluationCounts::from_words(shape, &sum).unwrap()
}

proptest! {
    /// The figures of the federation are those of all its cases together, and nothing depends on who has which.
    #[test]
    fn federation_equals_pooled(sites in cases(2, 32)) {
        let pooled: Vec<Case> = sites.concat();
        let summed = federation(shape(2, 32), &sites).figures();
        let rows: Vec<&[f32]> = pooled.iter().map(|(row, _)| row.as_slice()).collect();
        let labels: Vec<usize> = pooled.iter().map(|(_, label)| *label).collect();
        let exact = exact::figures(&rows, &labels, 0.5);
        prop_assert_eq!(summed.is_some(), exact.is_some());
        if let (Some(summed), Some(exact)) = (summed, exact) {
            prop_assert_eq!(summed.auroc, exact.auroc);
            prop_assert!((summed.accuracy - exact.accuracy).abs() < 1e-12);
            prop_assert!((summed.balanced_accuracy - exact.balanced_accuracy).abs() < 1e-12);
            prop_assert_eq!(summed.sensitivity, exact.sensitivity);
            prop_assert_eq!(summed.specificity, exact.specificity);
            prop_assert!((summed.loss - exact.loss).abs() < 1e-5);
            prop_assert!((summed.brier - exact.brier).abs() < 1e-5);
            prop_assert!((summed.calibration_error - exact.calibration_error).abs() < 1e-4);
        }
    }

    /// The same for several classes, each against all others.
    #[test]
    fn several_classes(sites in cases(4, 16)) {
        let summed = federation(shape(4, 16), &sites).figures();
        let pooled: Vec<Case> = sites.concat();
        let rows: Vec<&[f32]> = pooled.iter().map(|(row, _)| row.as_slice()).collect();
        let labels: Vec<usize> = pooled.iter().map(|(_, label)| *label).collect();
        let exact = exact::figures(&rows, &labels, 0.5);
        prop_assert_eq!(summed.map(|figures| figures.auroc), exact.map(|figures| figures.auroc));
    }

    /// The exact AUROC is the share of pairs in the right order, ties half, counted pair by pair.
    #[test]
    fn auroc_counts_pairs(cases in proptest::collection::vec((0u8..12, any::<bool>()), 0..40)) {
        let scores: Vec<f32> = cases.iter().map(|(score, _)| f32::from(*score)).collect();
        let kinds: Vec<bool> = cases.iter().map(|(_, kind)| *kind).collect();
        let (mut right, mut pairs) = (0.0, 0.0);
        for (p, _) in cases.iter().filter(|(_, kind)| *kind) {
            for (n, _) in cases.iter().filter(|(_, kind)| !kind) {
                pairs += 1.0;
                right += match p.cmp(n) {
                    std::cmp::Ordering::Greater => 1.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Less => 0.0,
                };
            }
        }
        let auroc = exact::auroc(&scores, &kinds);
        prop_assert_eq!(auroc.is_some(), pairs > 0.0);
        if let Some(auroc) = auroc {
            prop_assert!((auroc - right / pairs).abs() < 1e-12);
        }
    }

    /// No words make decoding panic.
    #[test]
    fn any_words_are_refused_or_read(words in proptest::collection::vec(any::<u32>(), 0..120)) {
        let shape = shape(2, 4);
        prop_assert!(words.len() == shape.words() || EvaluationCounts::from_words(shape, &words).is_err());
        let mut exact = words;
        exact.resize(shape.words(), 0);
        if let Ok(counts) = EvaluationCounts::from_words(shape, &exact) {
            prop_assert_eq!(counts.to_words().len(), exact.len());
            counts.figures();
        }
    }
}
