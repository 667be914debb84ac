//! What training makes small: cross-entropy, focal loss, the squared earth mover's distance, the Dice loss and errors of
//! values; and what becomes of a model's outputs outside of tensors.

use burn::tensor::{Tensor, TensorData, activation};
use consilium_study::loss::Loss;
use consilium_study::recipe::Training;
use consilium_study::task::{Label, Task};

use crate::score::Link;

/// Least distance of a probability from 1 in the focal loss: powers of it below 1 have a slope that f32 holds.
const LEAST_DISTANCE: f32 = 1e-7;

/// Added to both sides of the fraction in the Dice loss, so that a class that is nowhere is found where nothing is said
/// to be of it.
const DICE_SMOOTHING: f64 = 1e-5;

/// What the cases of a batch are.
pub(crate) struct Targets {
    /// Label of each case, all of one task; or class of each of its pixels, case after case.
    pub(crate) labels: Vec<Label>,
    /// Number of cases.
    pub(crate) cases: usize,
    /// What they were mixed with, if they were.
    pub(crate) mixed: Option<Mixed>,
}

/// The second half of mixed cases.
pub(crate) struct Mixed {
    /// Label of what each case was mixed with.
    pub(crate) labels: Vec<Label>,
    /// Share of the case itself; the other has the rest.
    pub(crate) share: f64,
}

impl Targets {
    /// What the cases are made of: labels of all of them, and the share that these have.
    fn halves(&self) -> impl Iterator<Item = (&[Label], f64)> {
        let share = self.mixed.as_ref().map_or(1.0, |mixed| mixed.share);
        let other = self.mixed.as_ref().map(|mixed| (&mixed.labels[..], 1.0 - mixed.share));
        std::iter::once((&self.labels[..], share)).chain(other)
    }

    /// Class and share of what each case is made of, case after case. Nothing of cases with findings.
    fn parts(&self) -> impl Iterator<Item = (usize, usize, f64)> {
        self.halves().flat_map(|(labels, share)| {
            let classes = labels.iter().enumerate();
            classes.filter_map(move |(case, label)| Some((case, usize::from(label.class()?), share)))
        })
    }
}

/// Mean over the batch of the recipe's loss, each case or pixel counted by its class's weight, or each finding by its own.
///
/// `logits` is `[cases, classes]`, or of pixels `[cases * pixels, classes]`. The mean divides by the sum of the weights, as PyTorch does, so a batch of one class has
/// the same loss whatever that class weighs. A mixed case has the loss of both its labels, each by its share (Zhang et
/// al. 2018).
pub(crate) fn loss(logits: Tensor<2>, targets: &Targets, recipe: &Training) -> Tensor<1> {
    match targets.labels.first() {
        Some(Label::Findings(_)) => return loss_of_findings(logits, targets, recipe),
        Some(Label::Value(_)) => return loss_of_values(logits, targets, recipe.loss()),
        _ => {}
    }
    let [_, classes] = logits.dims();
    let weights = recipe.class_weights();
    match recipe.loss() {
        // The check of a study keeps errors of values to cases that have one.
        Loss::CrossEntropy | Loss::SquaredError | Loss::AbsoluteError | Loss::Huber { .. } => {
            let shares = like(&logits, shares(targets, classes, weights, recipe.label_smoothing()));
            (activation::log_softmax(logits, 1) * shares).sum()
        }
        Loss::Focal { gamma } => {
            let shares = like(&logits, shares(targets, classes, weights, 0.0));
            let logarithms = activation::log_softmax(logits, 1);
            let distance = (-logarithms.clone().exp() + 1.0).clamp_min(LEAST_DISTANCE);
            (logarithms * distance.powf_scalar(gamma as f32) * shares).sum()
        }
        Loss::EarthMover => earth_mover(logits, targets, weights),
        Loss::Dice => dice(logits, targets),
        Loss::DiceCrossEntropy => {
            let shares = like(&logits, shares(targets, classes, weights, recipe.label_smoothing()));
            (activation::log_softmax(logits.clone(), 1) * shares).sum() + dice(logits, targets)
        }
    }
}

/// One minus the soft Dice coefficient (Milletari, Navab and Ahmadi 2016, without their squares), as a mean over pictures and
/// over all classes but the first.
fn dice(logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
    let [all, classes] = logits.dims();
    let (cases, pixels) = (targets.cases, all / targets.cases);
    let mut truth = vec![0.0_f32; all * classes];
    for (pixel, class, _) in targets.parts() {
        truth[pixel * classes + class] = 1.0;
    }
    let truth = like(&logits, truth).reshape([cases, pixels, classes]);
    let probabilities = activation::softmax(logits, 1).reshape([cases, pixels, classes]);
    let shared = (probabilities.clone() * truth.clone()).sum_dim(1);
    let both = probabilities.sum_dim(1) + truth.sum_dim(1);
    let coefficients = (shared * 2.0 + DICE_SMOOTHING) / (both + DICE_SMOOTHING);
    -coefficients.slice([0..cases, 0..1, 1..classes]).mean() + 1.0
}

/// Numbers as a tensor of the same shape and in the same place.
fn like(tensor: &Tensor<2>, numbers: Vec<f32>) -> Tensor<2> {
    Tensor::from_data(TensorData::new(numbers, tensor.dims()), &tensor.device())
}

/// Factors of `ln p` in the loss, shape `[cases, classes]`: minus each label's weight by the sum of all. Of a label, the share
/// `smoothing` goes to all classes evenly, each by its own weight, as PyTorch does it.
fn shares(targets: &Targets, classes: usize, weights: Option<&[f64]>, smoothing: f64) -> Vec<f32> {
    let weight = |class: usize| weights.map_or(1.0, |weights| weights[class]);
    let total: f64 = targets.parts().map(|(_, label, share)| weight(label) * share).sum();
    let mut shares = vec![0.0; targets.labels.len() * classes];
    for (case, label, share) in targets.parts() {
        let row = &mut shares[case * classes..][..classes];
        row[label] -= weight(label) * share * (1.0 - smoothing) / total;
        if smoothing > 0.0 {
            for (class, value) in row.iter_mut().enumerate() {
                *value -= weight(class) * share * smoothing / classes as f64 / total;
            }
        }
    }
    shares.into_iter().map(|share: f64| share as f32).collect()
}

/// The squared earth mover's distance between two distributions over grades is the sum of the squared differences of their
/// cumulative sums.
fn earth_mover(logits: Tensor<2>, targets: &Targets, weights: Option<&[f64]>) -> Tensor<1> {
    let [cases, classes] = logits.dims();
    let device = logits.device();
    let sums_up_to: Vec<f32> =
        (0..classes * classes).map(|place| f32::from(u8::from(place / classes <= place % classes))).collect();
    let sums_up_to = Tensor::<2>::from_data(TensorData::new(sums_up_to, [classes, classes]), &device);
    let cumulated = activation::softmax(logits, 1).matmul(sums_up_to);
    let weight = |class: usize| weights.map_or(1.0, |weights| weights[class]);
    let total: f64 = targets.parts().map(|(_, label, share)| weight(label) * share).sum();
    let halves = targets.halves().map(|(labels, share)| {
        let classes_of = || labels.iter().filter_map(|label| label.class()).map(usize::from);
        let steps = classes_of().flat_map(|class| (0..classes).map(move |k| f32::from(u8::from(k >= class))));
        let factors = classes_of().map(|class| (weight(class) * share / total) as f32);
        let factors = TensorData::new(factors.collect::<Vec<f32>>(), [cases, 1]);
        let distances = cumulated.clone() - like(&cumulated, steps.collect());
        (distances.clone() * distances * Tensor::<2>::from_data(factors, &device)).sum()
    });
    halves.reduce(|one, other| one + other).expect("a batch has cases")
}

/// Binary cross-entropy or the focal loss of each finding, by the findings' weights, as a mean over cases and findings.
fn loss_of_findings(logits: Tensor<2>, targets: &Targets, recipe: &Training) -> Tensor<1> {
    let [cases, findings] = logits.dims();
    let weight = |place: usize| recipe.class_weights().map_or(1.0, |weights| weights[place]);
    let total = cases as f64 * (0..findings).map(weight).sum::<f64>();
    let smoothing = recipe.label_smoothing();
    // Shares of "there" and "not there", which are 1 together before weights.
    let mut there = vec![0.0_f64; cases * findings];
    for (labels, share) in targets.halves() {
        for (row, label) in there.chunks_exact_mut(findings).zip(labels) {
            for (place, value) in row.iter_mut().enumerate() {
                let holds = if label.holds(place) { 1.0 } else { 0.0 };
                *value += share * (holds * (1.0 - smoothing) + smoothing / 2.0);
            }
        }
    }
    let factor = |place: usize| -weight(place % findings) / total;
    let positive = there.iter().enumerate().map(|(place, share)| (share * factor(place)) as f32).collect();
    let negative =
        there.iter().enumerate().map(|(place, share)| ((1.0 - share) * factor(place)) as f32).collect();
    let (positive, negative) = (like(&logits, positive), like(&logits, negative));
    let (present, absent) = (activation::log_sigmoid(logits.clone()), activation::log_sigmoid(-logits));
    match recipe.loss() {
        Loss::Focal { gamma } => {
            // How far from 1 a probability is, is the probability of the opposite.
            let far = |logarithm: &Tensor<2>| {
                logarithm.clone().exp().clamp_min(LEAST_DISTANCE).powf_scalar(gamma as f32)
            };
            (present.clone() * far(&absent) * positive + absent * far(&present) * negative).sum()
        }
        _ => (present * positive + absent * negative).sum(),
    }
}

/// Mean over the batch of what an output is away from the place of the true value, in one of three measures.
fn loss_of_values(outputs: Tensor<2>, targets: &Targets, loss: Loss) -> Tensor<1> {
    let mut truth = vec![0.0_f64; targets.cases];
    for (labels, share) in targets.halves() {
        for (value, label) in truth.iter_mut().zip(labels) {
            if let Label::Value(measure) = label {
                *value += share * measure.share();
            }
        }
    }
    let truth = like(&outputs, truth.into_iter().map(|value| value as f32).collect());
    let apart = outputs - truth;
    match loss {
        Loss::AbsoluteError => apart.abs().mean(),
        Loss::Huber { delta } => {
            // With c = min(|d|, delta) it is c (|d| - c / 2).
            let apart = apart.abs();
            let close = apart.clone().clamp_max(delta as f32);
            (close.clone() * (apart - close * 0.5)).mean()
        }
        _ => (apart.clone() * apart).mean(),
    }
}

/// What a model says, from rows of `classes` outputs, in f64 and rounded once: the softmax of a row, or of findings the
/// logistic function of each output, all divided by the temperature. Outputs of a regression stay as they are.
pub(crate) fn probabilities(logits: &[f32], classes: usize, link: Link) -> Vec<f32> {
    let Link { task, temperature } = link;
    if task == Task::Regression {
        return logits.to_vec();
    }
    if !task.has_classes() {
        let logistic = |score: f32| 1.0 / (1.0 + (-f64::from(score) / temperature).exp());
        return logits.iter().map(|&score| logistic(score) as f32).collect();
    }
    let mut out = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(classes) {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> =
            row.iter().map(|&score| (f64::from(score - highest) / temperature).exp()).collect();
        let total: f64 = powers.iter().sum();
        out.extend(powers.iter().map(|power| (power / total) as f32));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::values;
    use burn::tensor::Device;
    use consilium_study::task::Range;
    use proptest::prelude::*;

    fn recipe(text: &str) -> Training {
        toml::from_str(&format!("optimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 4\nepochs = 1\n{text}"))
            .unwrap()
    }

    fn of_classes(labels: &[u16]) -> Targets {
        Targets {
            labels: labels.iter().copied().map(Label::Class).collect(),
            cases: labels.len(),
            mixed: None,
        }
    }

    fn mixed_with(labels: &[u16], share: f64) -> Mixed {
        Mixed { labels: of_classes(labels).labels, share }
    }

    /// Loss, and its slopes by the logits.
    fn loss_of(logits: &[f32], targets: &Targets, text: &str) -> (f64, Vec<f32>) {
        let shape = [targets.labels.len(), logits.len() / targets.labels.len()];
        let data = TensorData::new(logits.to_vec(), shape);
        let logits = Tensor::<2>::from_data(data, &Device::flex().autodiff()).require_grad();
        let loss = loss(logits.clone(), targets, &recipe(text));
        let value: f32 = loss.clone().into_scalar();
        let slopes = logits.grad(&loss.backward()).expect("the loss depends on its logits");
        (f64::from(value), values(&slopes.into_data()))
    }

    #[test]
    fn agrees_with_the_logarithm_of_softmax() {
        let logits = [1.0, -2.0, 0.5, 3.0, 1000.0, 999.0];
        let targets = of_classes(&[1, 0, 1]);
        let p = probabilities(&logits, 2, Task::Classification.into());
        assert!((p[4] - 0.731_058_6).abs() < 1e-6, "no overflow: {p:?}");
        let each: Vec<f64> = [p[1], p[2], p[5]].iter().map(|&p| -f64::from(p).ln()).collect();
        let mean = each.iter().sum::<f64>() / 3.0;
        assert!((loss_of(&logits, &targets, "").0 - mean).abs() < 1e-5);
        // Class 1 counts threefold: two cases of it, one of class 0.
        let weighted = (3.0 * each[0] + each[1] + 3.0 * each[2]) / 7.0;
        assert!((loss_of(&logits, &targets, "class_weights = [1.0, 3.0]").0 - weighted).abs() < 1e-5);
    }

    const LOGITS: [f32; 12] = [1.0, -1.75, 0.5, 3.0, 0.25, -1.0, 0.0, 0.5, 2.0, -1.5, 1.0, 0.75];
    const LABELS: [u16; 4] = [0, 2, 1, 1];
    const WEIGHTS: &str = "class_weights = [1.0, 2.0, 0.5]\n";

    /// Without and with weights: PyTorch's `cross_entropy` in f64 with `label_smoothing`; for the focal loss `(1 - p)^γ`
    /// times it, by its weights; the earth mover's distance written out there; for mixed cases both values by their shares.
    #[test]
    fn agrees_with_published_software() {
        let focal = |gamma: f64| format!("loss = {{ kind = \"focal\", gamma = {gamma:?} }}");
        let mixed = || Some(mixed_with(&[1, 0, 1, 2], 0.3));
        let earth_mover = || "loss = \"earth-mover\"".to_owned();
        for (text, mixed, plain, weighted) in [
            (String::new(), None, 1.754_885_666_7, 1.346_805_978_1),
            ("label_smoothing = 0.1".to_owned(), None, 1.752_802_333_4, 1.370_873_255_0),
            ("label_smoothing = 0.3".to_owned(), None, 1.748_635_666_7, 1.419_007_808_9),
            (focal(0.5), None, 1.610_802_634_9, 1.180_872_443_8),
            (focal(2.0), None, 1.354_851_661_2, 0.880_536_151_1),
            (focal(5.0), None, 1.125_094_481_8, 0.614_067_644_8),
            (String::new(), mixed(), 1.579_885_666_7, 1.759_938_004_6),
            ("label_smoothing = 0.1".to_owned(), mixed(), 1.595_302_333_4, 1.742_692_078_9),
            (earth_mover(), None, 0.710_513_955_4, 0.483_789_803_9),
            (earth_mover(), mixed(), 0.456_079_542_3, 0.432_787_962_7),
        ] {
            let targets = Targets { mixed, ..of_classes(&LABELS) };
            let got = loss_of(&LOGITS, &targets, &text).0;
            assert!((got - plain).abs() < 1e-6, "{text}: {got}, not {plain}");
            let got = loss_of(&LOGITS, &targets, &format!("{WEIGHTS}{text}")).0;
            assert!((got - weighted).abs() < 1e-6, "{text}, weighted: {got}, not {weighted}");
        }
    }

    proptest! {
        /// Every loss has the slopes that differences of it have.
        #[test]
        fn slopes_are_differences(
            logits in prop::collection::vec(-3.0_f32..3.0, 12),
            labels in prop::collection::vec(0_u16..3, 4),
            others in prop::collection::vec(0_u16..3, 4),
            share in prop::option::of(0.0..=1.0),
            are_findings in any::<bool>(),
            text in prop::sample::select(vec![
                "", "label_smoothing = 0.2", "loss = { kind = \"focal\", gamma = 0.5 }",
                "loss = { kind = \"focal\", gamma = 3.0 }", "loss = \"earth-mover\"",
                "loss = \"dice\"", "loss = \"dice-cross-entropy\"",
            ]),
        ) {
            // Areas are of two pictures of two pixels, and are not mixed.
            let (share, cases) = if text.contains("dice") { (None, 2) } else { (share, 4) };
            let mut targets = Targets {
                mixed: share.map(|share| mixed_with(&others, share)), cases, ..of_classes(&labels)
            };
            if are_findings {
                let all = targets.labels.iter_mut().chain(targets.mixed.iter_mut().flat_map(|mixed| &mut mixed.labels));
                // Each class stands for another set.
                all.for_each(|label| *label = Label::Findings([0b000, 0b101, 0b110][usize::from(label.class().unwrap())]));
            }
            let text = format!("{WEIGHTS}{text}");
            let slopes = loss_of(&logits, &targets, &text).1;
            for (index, slope) in slopes.into_iter().enumerate() {
                let moved = |by: f32| {
                    let mut moved = logits.clone();
                    moved[index] += by;
                    loss_of(&moved, &targets, &text).0
                };
                let difference = (moved(0.02) - moved(-0.02)) / 0.04;
                prop_assert!((difference - f64::from(slope)).abs() < 1e-3, "{}: {} {}", text, difference, slope);
            }
        }
    }

    /// Six pixels of two pictures.
    const MASKS: [u16; 12] = [0, 1, 1, 2, 0, 0, 1, 1, 0, 0, 0, 1];

    /// MONAI's `DiceLoss` without the background, of a softmax, and PyTorch's `cross_entropy` beside it, in f64.
    #[test]
    fn losses_of_areas_agree_with_published_software() {
        let logits: Vec<f32> =
            (0..36).map(|at| (6.0 * (f64::from((at * 7919 + 13) % 2003) / 2003.0 - 0.5)) as f32).collect();
        let of =
            |masks: &[u16], text: &str| loss_of(&logits, &Targets { cases: 2, ..of_classes(masks) }, text).0;
        let mut one_empty = MASKS;
        one_empty[6..].fill(0);
        let both = "loss = \"dice-cross-entropy\"";
        for (masks, text, want) in [
            (MASKS, "loss = \"dice\"".to_owned(), 0.759_005_483_4),
            (one_empty, "loss = \"dice\"".to_owned(), 0.876_278_137_7),
            (MASKS, String::new(), 1.415_085_650_3),
            (MASKS, both.to_owned(), 2.174_091_133_7),
            (MASKS, format!("{WEIGHTS}{both}"), 2.052_474_074_6),
            (MASKS, format!("{WEIGHTS}{both}\nlabel_smoothing = 0.1"), 2.031_485_380_1),
        ] {
            let got = of(&masks, &text);
            assert!((got - want).abs() < 1e-6, "{text}: {got}, not {want}");
        }
    }

    /// PyTorch's `mse_loss`, `l1_loss` and `huber_loss` in f64; of mixed cases the target is mixed.
    #[test]
    fn errors_of_values_agree_with_published_software() {
        let outputs = [0.1, 0.9, 0.45, -0.5];
        let range = Range { low: 0.0, high: 8.0 };
        let of = |values: [f64; 4]| values.map(|value| Label::Value(range.measure(value).unwrap())).to_vec();
        let huber = |delta: f64| format!("loss = {{ kind = \"huber\", delta = {delta:?} }}");
        let (own, other) = ([1.0, 6.0, 4.0, 0.0], [8.0, 0.0, 2.0, 1.0]);
        for (text, mixed, want) in [
            ("loss = \"squared-error\"".to_owned(), false, 0.068_906_25),
            ("loss = \"absolute-error\"".to_owned(), false, 0.181_25),
            (huber(0.1), false, 0.014_140_625),
            (huber(1.0), false, 0.034_453_125),
            ("loss = \"squared-error\"".to_owned(), true, 0.335_800_781_3),
        ] {
            let mixed = mixed.then(|| Mixed { labels: of(other), share: 0.25 });
            let targets = Targets { labels: of(own), cases: 4, mixed };
            let got = loss_of(&outputs, &targets, &text).0;
            assert!((got - want).abs() < 1e-6, "{text}: {got}, not {want}");
        }
    }

    proptest! {
        #[test]
        fn slopes_of_errors_are_differences(
            outputs in prop::collection::vec(-0.5_f32..1.5, 4),
            values in prop::collection::vec(0.0..1.0, 4),
            text in prop::sample::select(vec![
                "loss = \"squared-error\"", "loss = \"absolute-error\"", "loss = { kind = \"huber\", delta = 0.2 }",
            ]),
        ) {
            let range = Range { low: 0.0, high: 1.0 };
            // Away from the kink of the absolute error.
            prop_assume!(outputs.iter().zip(&values).all(|(output, value): (&f32, &f64)| (f64::from(*output) - value).abs() > 0.01));
            let labels = values.iter().map(|value| Label::Value(range.measure(*value).unwrap())).collect();
            let targets = Targets { labels, cases: 4, mixed: None };
            let slopes = loss_of(&outputs, &targets, text).1;
            for (index, slope) in slopes.into_iter().enumerate() {
                let moved = |by: f32| {
                    let mut moved = outputs.clone();
                    moved[index] += by;
                    loss_of(&moved, &targets, text).0
                };
                let difference = (moved(0.005) - moved(-0.005)) / 0.01;
                prop_assert!((difference - f64::from(slope)).abs() < 2e-3, "{}: {} {}", text, difference, slope);
            }
        }
    }

    fn of_findings(sets: &[u64]) -> Targets {
        Targets {
            labels: sets.iter().copied().map(Label::Findings).collect(),
            cases: sets.len(),
            mixed: None,
        }
    }

    const SETS: [u64; 4] = [0b000, 0b101, 0b111, 0b010];

    /// Without and with weights: PyTorch's `binary_cross_entropy_with_logits` in f64, of smoothed and of mixed targets, and
    /// `(1 - p)^γ` times it.
    #[test]
    fn losses_of_findings_agree_with_published_software() {
        let focal = |gamma: f64| format!("loss = {{ kind = \"focal\", gamma = {gamma:?} }}");
        let mixed = || Some(Mixed { labels: of_findings(&[0b111, 0b001, 0b000, 0b011]).labels, share: 0.3 });
        for (text, mixed, plain, weighted) in [
            (String::new(), None, 0.631_754_119_0, 0.541_355_916_1),
            ("label_smoothing = 0.1".to_owned(), None, 0.657_795_785_7, 0.574_838_059_0),
            (String::new(), mixed(), 0.821_337_452_4, 0.803_855_916_1),
            (focal(0.5), None, 0.476_366_154_7, 0.386_786_454_0),
            (focal(2.0), None, 0.236_853_832_9, 0.171_019_246_7),
            (focal(2.0), mixed(), 0.400_385_355_5, 0.379_349_069_1),
        ] {
            let targets = Targets { mixed, ..of_findings(&SETS) };
            let got = loss_of(&LOGITS, &targets, &text).0;
            assert!((got - plain).abs() < 1e-6, "{text}: {got}, not {plain}");
            let got = loss_of(&LOGITS, &targets, &format!("{WEIGHTS}{text}")).0;
            assert!((got - weighted).abs() < 1e-6, "{text}, weighted: {got}, not {weighted}");
        }
    }

    #[test]
    fn findings_have_probabilities_of_their_own() {
        let p = probabilities(&[0.0, 2.0, -800.0, 800.0], 2, Task::MultiLabel.into());
        assert_eq!((p[0], p[2], p[3]), (0.5, 0.0, 1.0));
        assert!((p[1] - 0.880_797_1).abs() < 1e-6);
    }

    #[test]
    fn a_temperature_divides_outputs() {
        for task in [Task::Classification, Task::MultiLabel] {
            let (cold, warm) = (Link::from(task), Link { task, temperature: 2.0 });
            let divided = probabilities(&[0.5, -1.5, 2.5, 1.0], 2, cold);
            assert_eq!(probabilities(&[1.0, -3.0, 5.0, 2.0], 2, warm), divided);
        }
    }

    /// However sure the model is, loss and slopes are numbers.
    #[test]
    fn a_sure_model_has_a_finite_loss() {
        let sure = [200.0, -200.0, 0.0, -200.0, 200.0, 0.0];
        let losses = [
            "",
            "label_smoothing = 0.1",
            "loss = { kind = \"focal\", gamma = 0.01 }",
            "loss = \"earth-mover\"",
            "loss = \"dice\"",
            "loss = \"dice-cross-entropy\"",
        ];
        let classes = [[0, 1], [1, 0], [2, 2]].map(|labels| of_classes(&labels));
        let sets = [[0b000, 0b111], [0b001, 0b110]].map(|sets| of_findings(&sets));
        for text in losses {
            for targets in classes.iter().chain(&sets) {
                let (loss, slopes) = loss_of(&sure, targets, text);
                assert!(
                    loss.is_finite() && slopes.iter().all(|slope| slope.is_finite()),
                    "{text}: {loss} {slopes:?}"
                );
            }
        }
    }
}
