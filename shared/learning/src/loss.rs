//! Cross-entropy and focal loss, and softmax outside of tensors.

use burn::tensor::{Tensor, TensorData, activation};
use consilium_study::loss::Loss;
use consilium_study::recipe::Training;

/// Least distance of a probability from 1 in the focal loss: powers of it below 1 have a slope that f32 holds.
const LEAST_DISTANCE: f32 = 1e-7;

/// What the cases of a batch are.
pub(crate) struct Targets {
    /// Class of each case.
    pub(crate) labels: Vec<u16>,
    /// What they were mixed with, if they were.
    pub(crate) mixed: Option<Mixed>,
}

/// The second half of mixed cases.
pub(crate) struct Mixed {
    /// Class of what each case was mixed with.
    pub(crate) labels: Vec<u16>,
    /// Share of the case itself; the other has the rest.
    pub(crate) share: f64,
}

impl Targets {
    /// Class and share of what each case is made of, case after case.
    fn parts(&self) -> impl Iterator<Item = (usize, usize, f64)> {
        let share = self.mixed.as_ref().map_or(1.0, |mixed| mixed.share);
        let own = self.labels.iter().map(move |&label| (label, share));
        let others =
            self.mixed.iter().flat_map(|mixed| mixed.labels.iter().map(|&label| (label, 1.0 - mixed.share)));
        let numbered = |(case, (label, share))| (case, usize::from(label), share);
        own.enumerate().map(numbered).chain(others.enumerate().map(numbered))
    }
}

/// Mean over the batch of the recipe's loss, each case counted by its class's weight.
///
/// `logits` is `[cases, classes]`. The mean divides by the sum of the weights, as PyTorch does, so a batch of one class has
/// the same loss whatever that class weighs. A mixed case has the loss of both its classes, each by its share (Zhang et
/// al. 2018).
pub(crate) fn loss(logits: Tensor<2>, targets: &Targets, recipe: &Training) -> Tensor<1> {
    let [cases, classes] = logits.dims();
    let shares = shares(targets, classes, recipe.class_weights(), recipe.label_smoothing());
    let shares = Tensor::from_data(TensorData::new(shares, [cases, classes]), &logits.device());
    let logarithms = activation::log_softmax(logits, 1);
    match recipe.loss() {
        Loss::CrossEntropy => (logarithms * shares).sum(),
        Loss::Focal { gamma } => {
            let distance = (-logarithms.clone().exp() + 1.0).clamp_min(LEAST_DISTANCE);
            (logarithms * distance.powf_scalar(gamma as f32) * shares).sum()
        }
    }
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

/// Softmax of each row of `classes` scores, in f64 and rounded once.
pub(crate) fn probabilities(logits: &[f32], classes: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(classes) {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = row.iter().map(|&score| f64::from(score - highest).exp()).collect();
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
    use proptest::prelude::*;

    fn recipe(text: &str) -> Training {
        toml::from_str(&format!("optimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 4\nepochs = 1\n{text}"))
            .unwrap()
    }

    fn plain(labels: &[u16]) -> Targets {
        Targets { labels: labels.to_vec(), mixed: None }
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
        let targets = plain(&[1, 0, 1]);
        let p = probabilities(&logits, 2);
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
    /// times it, by its weights; for mixed cases both of its values by their shares.
    #[test]
    fn agrees_with_published_software() {
        let focal = |gamma: f64| format!("loss = {{ kind = \"focal\", gamma = {gamma:?} }}");
        let mixed = || Some(Mixed { labels: vec![1, 0, 1, 2], share: 0.3 });
        for (text, mixed, plain, weighted) in [
            (String::new(), None, 1.754_885_666_7, 1.346_805_978_1),
            ("label_smoothing = 0.1".to_owned(), None, 1.752_802_333_4, 1.370_873_255_0),
            ("label_smoothing = 0.3".to_owned(), None, 1.748_635_666_7, 1.419_007_808_9),
            (focal(0.5), None, 1.610_802_634_9, 1.180_872_443_8),
            (focal(2.0), None, 1.354_851_661_2, 0.880_536_151_1),
            (focal(5.0), None, 1.125_094_481_8, 0.614_067_644_8),
            (String::new(), mixed(), 1.579_885_666_7, 1.759_938_004_6),
            ("label_smoothing = 0.1".to_owned(), mixed(), 1.595_302_333_4, 1.742_692_078_9),
        ] {
            let targets = Targets { labels: LABELS.to_vec(), mixed };
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
            text in prop::sample::select(vec![
                "", "label_smoothing = 0.2", "loss = { kind = \"focal\", gamma = 0.5 }",
                "loss = { kind = \"focal\", gamma = 3.0 }",
            ]),
        ) {
            let mixed = share.map(|share| Mixed { labels: others, share });
            let targets = Targets { labels, mixed };
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

    /// However sure the model is, loss and slopes are numbers.
    #[test]
    fn a_sure_model_has_a_finite_loss() {
        let sure = [200.0, -200.0, 0.0, -200.0, 200.0, 0.0];
        for text in ["", "label_smoothing = 0.1", "loss = { kind = \"focal\", gamma = 0.01 }"] {
            for labels in [[0, 1], [1, 0], [2, 2]] {
                let (loss, slopes) = loss_of(&sure, &plain(&labels), text);
                assert!(
                    loss.is_finite() && slopes.iter().all(|slope| slope.is_finite()),
                    "{text}: {loss} {slopes:?}"
                );
            }
        }
    }
}
