use consilium_study::metric::Metric;
use consilium_study::task::{Label, Range, Task};
use proptest::prelude::*;
use std::f64::consts::LN_2;

use super::counts::Detail;
use super::labelled::LabelledCounts;
use super::*;

fn shape(classes: u16, bins: u16) -> EvaluationShape {
    EvaluationShape::new(classes, bins, 0.5).unwrap()
}

fn labelled(counts: &mut EvaluationCounts) -> &mut LabelledCounts {
    let Detail::Labelled(counts) = &mut counts.detail else { panic!("not labelled") };
    counts
}

fn of_classes<R: AsRef<[f32]>>(rows: &[R], classes: &[u16]) -> Option<Figures> {
    let labels: Vec<Label> = classes.iter().copied().map(Label::Class).collect();
    exact::figures(rows, &labels, Task::Classification, 0.5)
}

/// Published examples of scikit-learn's documentation: `roc_auc_score`, `brier_score_loss`, `log_loss`,
/// `balanced_accuracy_score`.
#[test]
fn agrees_with_published_examples() {
    let auroc = exact::auroc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]);
    assert_eq!(auroc, Some(0.75));

    let rows = [[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.7, 0.3]];
    let figures = of_classes(&rows, &[0, 1, 1, 0]).unwrap();
    // Theirs is of one column; both columns of a binary problem have the same error.
    assert!((figures.brier.unwrap() - 2.0 * 0.0375).abs() < 1e-7);

    let rows = [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]];
    let figures = of_classes(&rows, &[1, 0, 0, 1]).unwrap();
    assert!((figures.loss - 0.21616).abs() < 1e-5);

    let predicted = [0, 1, 0, 0, 0, 1];
    let rows = predicted.map(|class| if class == 1 { [0.0, 1.0] } else { [1.0, 0.0] });
    let figures = of_classes(&rows, &[0, 1, 0, 0, 1, 0]).unwrap();
    assert!((figures.balanced_accuracy.unwrap() - 0.625).abs() < 1e-12);
    assert_eq!((figures.sensitivity, figures.specificity), (Some(0.5), Some(0.75)));
}

#[test]
fn undefined_figures_are_absent() {
    assert_eq!(exact::auroc(&[0.3, 0.4], &[true, true]), None);
    assert_eq!(of_classes::<[f32; 2]>(&[], &[]), None);
    assert_eq!(EvaluationCounts::new(shape(2, 8)).figures(), None);
    let mut counts = EvaluationCounts::new(shape(2, 8));
    counts.add(&[0.2, 0.8], LN_2, Label::Class(1));
    let figures = counts.figures().unwrap();
    assert_eq!((figures.auroc, figures.specificity, figures.sensitivity), (None, None, Some(1.0)));
}

#[test]
fn a_model_of_nans_is_the_worst_not_a_crash() {
    let mut counts = EvaluationCounts::new(shape(3, 8));
    counts.add(&[f32::NAN; 3], LN_2, Label::Class(2));
    let figures = EvaluationCounts::from_words(shape(3, 8), &counts.to_words()).unwrap().figures().unwrap();
    assert_eq!((figures.loss, figures.brier, figures.accuracy), (LOSS_CLIP, Some(2.0), Some(0.0)));
    assert!(figures.loss_increase().unwrap() > 0.0);
}

#[test]
fn counts_that_contradict_each_other_are_noticed() {
    let mut counts = EvaluationCounts::new(shape(2, 4));
    for case in 0..10 {
        let score = f32::from(case as u8) / 10.0;
        counts.add(&[1.0 - score, score], LN_2, Label::Class(u16::from(case > 5)));
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

/// By hand: the first finding is told surely and rightly, the second is missed by a little, the third is not there.
#[test]
fn findings_are_measured_each_by_itself() {
    let shape = shape(3, 16).of_task(Task::MultiLabel);
    let mut counts = EvaluationCounts::new(shape);
    counts.add(&[0.8, 0.45, 0.3], loss(&[0.5; 3], Label::Findings(0b011)), Label::Findings(0b011));
    let figures = counts.figures().unwrap();
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-4, "{got} {want}");
    close(figures.loss, -(0.8_f64.ln() + 0.45_f64.ln() + 0.7_f64.ln()) / 3.0);
    close(figures.start_loss.unwrap(), 2_f64.ln());
    close(figures.brier.unwrap(), 2.0 * (0.2_f64.powi(2) + 0.55_f64.powi(2) + 0.3_f64.powi(2)) / 3.0);
    close(figures.accuracy.unwrap(), 2.0 / 3.0);
    // Confidences of 0.8, 0.55 (that it is not there, wrongly) and 0.7.
    let bins = labelled(&mut counts).confidence.iter().enumerate().filter(|(_, bin)| bin.cases > 0);
    assert_eq!(bins.map(|(place, bin)| (place, bin.correct)).collect::<Vec<_>>(), [(8, 0), (11, 1), (12, 1)]);
    close(figures.calibration_error.unwrap(), (0.2 + 0.55 + 0.3) / 3.0);
}

/// Two wrong answers without any confidence fill a bin of which one fewer contradicts nothing but the number of cases.
#[test]
fn each_finding_of_each_case_is_an_answer() {
    let shape = shape(2, 16).of_task(Task::MultiLabel);
    let mut counts = EvaluationCounts::new(shape);
    counts.add(&[0.5, 0.5], LN_2, Label::Findings(0));
    let read = |counts: &EvaluationCounts| EvaluationCounts::from_words(shape, &counts.to_words());
    assert!(read(&counts).is_ok());
    let bin = labelled(&mut counts).confidence.iter_mut().find(|bin| bin.cases == 2).unwrap();
    bin.cases -= 1;
    assert_eq!(read(&counts), Err(MalformedCounts::Inconsistent("the confidence diagram")));
}

#[test]
fn sites_that_decline_are_counted_and_no_more_than_there_are_cases() {
    let mut sum = vec![0u32; shape(2, 4).words()];
    for declines in [true, false, true] {
        let mut counts = EvaluationCounts::new(shape(2, 4));
        counts.add(&[0.3, 0.7], LN_2, Label::Class(1));
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

/// Probabilities of three classes that are sure of these.
fn sure(classes: &[usize]) -> Vec<f32> {
    classes
        .iter()
        .flat_map(|class| (0..3).map(move |place| if place == *class { 0.8 } else { 0.1 }))
        .collect()
}

/// By hand: the first picture shares one pixel of class 1 of five in all, and one of class 2 of four; the second has class 1 in
/// its mask only and class 2 nowhere.
#[test]
fn areas_are_compared_picture_by_picture() {
    let shape = shape(3, 16).of_task(Task::Segmentation);
    let mut sites = [(); 2].map(|()| EvaluationCounts::new(shape));
    sites[0].add(&sure(&[0, 1, 1, 2, 2]), 2.0, &[0, 1, 0, 2, 1][..]);
    sites[1].add(&sure(&[0, 0, 0, 0, 0]), 1.0, &[0, 0, 1, 1, 0][..]);
    let mut sum = vec![0u32; shape.words()];
    for site in &sites {
        sum.iter_mut().zip(site.to_words()).for_each(|(sum, word)| *sum += word);
    }
    let figures = EvaluationCounts::from_words(shape, &sum).unwrap().figures().unwrap();
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-4, "{got} {want}");
    let (first, second) = ([2.0 / 4.0, 0.0], 2.0 / 3.0);
    close(figures.dice.unwrap(), f64::midpoint(f64::midpoint(first[0], first[1]), second));
    let (right, wrong) = (-0.8_f64.ln(), -0.1_f64.ln());
    close(figures.loss, f64::midpoint((3.0 * right + 2.0 * wrong) / 5.0, (3.0 * right + 2.0 * wrong) / 5.0));
    close(figures.start_loss.unwrap(), 1.5);
    assert_eq!((figures.cases, figures.auroc, figures.accuracy, figures.brier), (2, None, None, None));
    // One class was seen in one picture only, so nothing says how far its pictures differ.
    assert!(!figures.intervals.contains_key(&Metric::Dice));
}

#[test]
fn areas_have_the_limits_of_a_mean_over_pictures() {
    let shape = shape(2, 16).of_task(Task::Segmentation);
    let mut counts = EvaluationCounts::new(shape);
    // Dice coefficients 1, 2/3 and 0.
    for prediction in [[1, 1, 0], [1, 0, 0], [0, 0, 1]] {
        let scores: Vec<f32> =
            prediction.into_iter().flat_map(|class| [1.0 - class as f32, class as f32]).collect();
        counts.add(&scores, 0.0, &[1, 1, 0][..]);
    }
    let figures = EvaluationCounts::from_words(shape, &counts.to_words()).unwrap().figures().unwrap();
    let (mean, deviation) = (5.0 / 9.0, (7.0_f64 / 27.0).sqrt());
    assert!((figures.dice.unwrap() - mean).abs() < 1e-4);
    let [low, high] = figures.intervals[&Metric::Dice];
    let half = 1.959_963_985 * deviation / 3.0_f64.sqrt();
    assert!(
        (low - (mean - half).max(0.0)).abs() < 1e-4 && (high - (mean + half).min(1.0)).abs() < 1e-4,
        "{low} {high}"
    );
}

#[test]
fn errors_are_told_in_the_unit_of_the_labels() {
    let range = Range { low: 20.0, high: 100.0 };
    let shape = shape(1, 16).of_task(Task::Regression).in_range(Some(range));
    let mut counts = EvaluationCounts::new(shape);
    // 8 and 16 off, and one beyond the end, which counts as the end.
    for (output, value) in [(0.5, 68.0), (0.25, 24.0), (7.0, 100.0)] {
        counts.add(&[output], 0.5, Label::Value(range.measure(value).unwrap()));
    }
    let figures = EvaluationCounts::from_words(shape, &counts.to_words()).unwrap().figures().unwrap();
    assert!((figures.mae.unwrap() - 8.0).abs() < 1e-4 && (figures.loss - 0.1).abs() < 1e-4);
    assert!((figures.rmse.unwrap() - (320.0_f64 / 3.0).sqrt()).abs() < 1e-4);
    let distances = [68.0, 24.0, 100.0].map(|value: f64| (value - 64.0).powi(2)).iter().sum::<f64>();
    assert!((figures.r2.unwrap() - (1.0 - 320.0 / distances)).abs() < 1e-5);
    let [low, high] = figures.intervals[&Metric::Mae];
    let half = 1.959_963_985 * 8.0 / 3.0_f64.sqrt();
    assert!(low.abs() < 1e-9 && (high - (8.0 + half)).abs() < 1e-3, "{low} {high}");
    assert_eq!((figures.accuracy, figures.auroc, figures.dice), (None, None, None));
}

type Case = (Vec<f32>, Label);

const KAPPA: f64 = 0.715_392_388_009_430_8;
const KAPPA_DEVIATION: f64 = 0.072_451_636_925_821;

/// A matrix of three grades, and what scikit-learn 1.9 (`cohen_kappa_score` with `weights="quadratic"`) says of it; its
/// standard deviation as statsmodels 0.15 has it (`cohens_kappa` with `weights="quadratic"`).
#[test]
fn kappa_is_the_published_one() {
    let shape = shape(3, 4).of_task(Task::Ordinal);
    let mut counts = EvaluationCounts::new(shape);
    for (label, row) in [[20, 5, 1], [4, 10, 6], [1, 3, 15]].into_iter().enumerate() {
        for (grade, count) in row.into_iter().enumerate() {
            let mut scores = [0.1; 3];
            scores[grade] = 0.8;
            (0..count).for_each(|_| counts.add(&scores, LN_2, Label::Class(label as u16)));
        }
    }
    let figures = counts.figures().unwrap();
    assert!((figures.kappa.unwrap() - KAPPA).abs() < 1e-9, "{:?}", figures.kappa);
    let half = 1.959_963_984_540_054 * KAPPA_DEVIATION;
    let [low, high] = figures.intervals[&Metric::Kappa];
    assert!((low - (KAPPA - half)).abs() < 1e-9 && (high - (KAPPA + half)).abs() < 1e-9, "{low} {high}");
    labelled(&mut counts).shape = shape.of_task(Task::Classification);
    assert_eq!(counts.figures().unwrap().kappa, None);
}

/// Cases whose scores lie on bin centres, so that the histogram loses nothing.
fn cases(task: Task, columns: usize, bins: u16) -> impl Strategy<Value = Vec<Vec<Case>>> {
    let numbers = (proptest::collection::vec(0..bins, columns), 0..1_u16 << columns);
    let case = numbers.prop_map(move |(scores, number)| {
        let label = match task {
            Task::Classification | Task::Ordinal => Label::Class(number % columns as u16),
            Task::MultiLabel => Label::Findings(number.into()),
            Task::Segmentation | Task::Regression => unreachable!("these are counted in other ways"),
        };
        (scores.into_iter().map(|bin| (f32::from(bin) + 0.5) / f32::from(bins)).collect(), label)
    });
    proptest::collection::vec(proptest::collection::vec(case, 0..20), 1..6)
}

fn federation(shape: EvaluationShape, sites: &[Vec<Case>]) -> EvaluationCounts {
    let mut sum = vec![0u32; shape.words()];
    for site in sites {
        let mut counts = EvaluationCounts::new(shape);
        for (row, label) in site {
            counts.add(row, loss(row, *label), *label);
        }
        for (total, word) in sum.iter_mut().zip(counts.to_words()) {
            *total = total.wrapping_add(word);
        }
    }
    EvaluationCounts::from_words(shape, &sum).unwrap()
}

fn assert_pooled(shape: EvaluationShape, sites: &[Vec<Case>]) -> Result<(), TestCaseError> {
    let pooled: Vec<Case> = sites.concat();
    let summed = federation(shape, sites).figures();
    let rows: Vec<&[f32]> = pooled.iter().map(|(row, _)| row.as_slice()).collect();
    let labels: Vec<Label> = pooled.iter().map(|(_, label)| *label).collect();
    let exact = exact::figures(&rows, &labels, shape.task(), 0.5);
    prop_assert_eq!(summed.is_some(), exact.is_some());
    let (Some(summed), Some(exact)) = (summed, exact) else { return Ok(()) };
    prop_assert_eq!(summed.auroc, exact.auroc);
    let limits = exact.intervals.get(&Metric::Auroc);
    prop_assert_eq!(summed.intervals.get(&Metric::Auroc), limits);
    if let (Some(auroc), Some([low, high])) = (exact.auroc, limits) {
        prop_assert!(*low <= auroc && auroc <= *high);
    }
    prop_assert!((summed.accuracy.unwrap() - exact.accuracy.unwrap()).abs() < 1e-12);
    prop_assert!((summed.balanced_accuracy.unwrap() - exact.balanced_accuracy.unwrap()).abs() < 1e-12);
    prop_assert_eq!(summed.sensitivity, exact.sensitivity);
    prop_assert_eq!(summed.specificity, exact.specificity);
    prop_assert!((summed.loss - exact.loss).abs() < 1e-5);
    prop_assert!((summed.brier.unwrap() - exact.brier.unwrap()).abs() < 1e-5);
    prop_assert!((summed.calibration_error.unwrap() - exact.calibration_error.unwrap()).abs() < 1e-4);
    // Rows of classes do not sum to 1 here, as those of a model do.
    if let Some(loss) = summed.calibrated_loss.filter(|_| !shape.task().is_exclusive()) {
        prop_assert!(loss <= summed.loss + 1e-3, "{} {}", loss, summed.loss);
    }
    for (metric, [low, high]) in &summed.intervals {
        let figure = summed.get(*metric).unwrap();
        prop_assert!(
            *low <= figure + 1e-9 && figure <= *high + 1e-9,
            "{}: {} {} {}",
            metric,
            low,
            figure,
            high
        );
    }
    Ok(())
}

proptest! {
    /// The figures of the federation are those of all its cases together, and nothing depends on who has which.
    #[test]
    fn federation_equals_pooled(sites in cases(Task::Classification, 2, 32)) {
        assert_pooled(shape(2, 32), &sites)?;
    }

    /// The same for several classes, each against all others.
    #[test]
    fn several_classes(sites in cases(Task::Ordinal, 4, 16)) {
        assert_pooled(shape(4, 16).of_task(Task::Ordinal).calibrated(true), &sites)?;
    }

    /// The same for findings.
    #[test]
    fn several_findings(sites in cases(Task::MultiLabel, 3, 16)) {
        assert_pooled(shape(3, 16).of_task(Task::MultiLabel).calibrated(true), &sites)?;
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
