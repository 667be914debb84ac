//! Cross-entropy, and softmax outside of tensors.

use burn::tensor::{Tensor, TensorData, activation};

/// Mean over the batch of `-ln p(label)`, each case counted by its class's weight.
///
/// `logits` is `[cases, classes]`. The mean divides by the sum of the weights, as PyTorch does, so a
/// batch of one class has the same loss whatever that class weighs.
pub(crate) fn cross_entropy(logits: Tensor<2>, labels: &[u16], weights: Option<&[f64]>) -> Tensor<1> {
    let [cases, classes] = logits.dims();
    let weight = |label: u16| weights.map_or(1.0, |weights| weights[usize::from(label)]);
    let total: f64 = labels.iter().map(|&label| weight(label)).sum();
    let mut shares = vec![0.0_f32; cases * classes];
    for (case, &label) in labels.iter().enumerate() {
        shares[case * classes + usize::from(label)] = (-weight(label) / total) as f32;
    }
    let shares = Tensor::from_data(TensorData::new(shares, [cases, classes]), &logits.device());
    (activation::log_softmax(logits, 1) * shares).sum()
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
    use burn::tensor::Device;

    fn loss_of(logits: &[f32], labels: &[u16], weights: Option<&[f64]>) -> f32 {
        let shape = [labels.len(), logits.len() / labels.len()];
        let logits = Tensor::from_data(TensorData::new(logits.to_vec(), shape), &Device::flex());
        cross_entropy(logits, labels, weights).into_scalar()
    }

    #[test]
    fn agrees_with_the_logarithm_of_softmax() {
        let logits = [1.0, -2.0, 0.5, 3.0, 1000.0, 999.0];
        let labels = [1, 0, 1];
        let p = probabilities(&logits, 2);
        assert!((p[4] - 0.731_058_6).abs() < 1e-6, "no overflow: {p:?}");
        let each: Vec<f64> = [p[1], p[2], p[5]].iter().map(|&p| -f64::from(p).ln()).collect();
        let mean = each.iter().sum::<f64>() / 3.0;
        assert!((f64::from(loss_of(&logits, &labels, None)) - mean).abs() < 1e-5);
        // Class 1 counts threefold: two cases of it, one of class 0.
        let weighted = (3.0 * each[0] + each[1] + 3.0 * each[2]) / 7.0;
        assert!((f64::from(loss_of(&logits, &labels, Some(&[1.0, 3.0]))) - weighted).abs() < 1e-5);
    }
}
