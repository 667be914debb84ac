//! Rectified values: what is negative becomes zero, and its slope too. Of a sum of two, in one pass.
//!
//! A value that is no number stays one, so that divergence stays visible.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::{Tensor, activation};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{Tracked, flex, on_flex, plain, sides, tracked, wide};

/// Values that a thread takes at once.
const SHARE: usize = 1 << 14;

#[inline(always)]
pub(super) fn rectified(value: f32) -> f32 {
    if value <= 0.0 { 0.0 } else { value }
}

/// `max(input, 0)`, shape `[cases, channels, height, width]`.
pub(crate) fn rectify(input: Tensor<4>) -> Tensor<4> {
    if !on_flex(&input) {
        return activation::relu(input);
    }
    if !input.is_autodiff() {
        return Tensor::from_primitive::<Flex>(forward([&plain(input)]));
    }
    let input = tracked(input);
    let result = forward([input.primitive()]);
    let step = Rectifier.prepare::<NoCheckpointing>([input.node()]).compute_bound().stateful();
    finish(step, result)
}

/// `max(one + other, 0)`, both `[cases, channels, height, width]`.
pub(crate) fn rectify_sum(one: Tensor<4>, other: Tensor<4>) -> Tensor<4> {
    if !on_flex(&one) {
        return activation::relu(one + other);
    }
    if !one.is_autodiff() {
        return Tensor::from_primitive::<Flex>(forward([&plain(one), &plain(other)]));
    }
    let (one, other) = (tracked(one), tracked(other));
    let result = forward([one.primitive(), other.primitive()]);
    let step = Rectifier.prepare::<NoCheckpointing>([one.node(), other.node()]).compute_bound().stateful();
    finish(step, result)
}

fn finish<const N: usize>(
    step: OpsKind<Rectifier, Flex, FlexTensor, NoCheckpointing, N>,
    result: FlexTensor,
) -> Tensor<4> {
    let result = match step {
        OpsKind::Tracked(step) => step.finish(result.clone(), result),
        OpsKind::UnTracked(step) => step.finish(result),
    };
    Tensor::from_primitive::<Tracked>(result)
}

#[derive(Debug)]
struct Rectifier;

impl<const N: usize> Backward<Flex, N> for Rectifier {
    /// The result.
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let (result, slope_values) = (ops.state.storage::<f32>(), slope.storage::<f32>());
        let mut gradient = vec![0.0; result.len()];
        gradient
            .par_chunks_mut(SHARE)
            .zip(result.par_chunks(SHARE).zip(slope_values.par_chunks(SHARE)))
            .for_each(|(out, (result, slope))| {
                wide(|| {
                    for ((out, &result), &slope) in out.iter_mut().zip(result).zip(slope) {
                        *out = if result > 0.0 { slope } else { 0.0 };
                    }
                });
            });
        let gradient = flex(gradient, &sides(&ops.state));
        for node in ops.parents.into_iter().flatten() {
            gradients.register::<Flex>(node.id, gradient.clone());
        }
    }
}

fn forward<const N: usize>(terms: [&FlexTensor; N]) -> FlexTensor {
    let shape = sides(terms[0]);
    let terms = terms.map(FlexTensor::to_contiguous);
    let mut out = terms[0].storage::<f32>().to_vec();
    out.par_chunks_mut(SHARE).enumerate().for_each(|(at, out)| {
        wide(|| {
            for more in &terms[1..] {
                let more = &more.storage::<f32>()[at * SHARE..];
                out.iter_mut().zip(more).for_each(|(out, more)| *out += more);
            }
            for out in out.iter_mut() {
                *out = rectified(*out);
            }
        });
    });
    flex(out, &shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::testing::{leaf, numbers, values_of};
    use burn::tensor::Device;

    /// Result and gradients of `sum(result * mask)`.
    fn with_gradients(rectify: impl Fn(Tensor<4>, Tensor<4>) -> Tensor<4>) -> [Vec<f32>; 3] {
        let device = Device::flex().autodiff();
        let shape = [3, 5, 40, 40];
        let (one, other): (Tensor<4>, Tensor<4>) = (leaf(&device, shape, 1), leaf(&device, shape, 2));
        let result = rectify(one.clone(), other.clone());
        let gradients =
            (result.clone() * Tensor::<4>::from_data(numbers(&shape, 3), &device)).sum().backward();
        let of = |leaf: Tensor<4>| values_of(leaf.grad(&gradients).unwrap());
        [values_of(result), of(one), of(other)]
    }

    #[test]
    fn agrees_with_burn() {
        assert_eq!(with_gradients(rectify_sum), with_gradients(|one, other| activation::relu(one + other)));
        let one = |relu: fn(Tensor<4>) -> Tensor<4>| with_gradients(move |one, other| relu(one) + other);
        assert_eq!(one(rectify), one(activation::relu));
    }

    #[test]
    fn what_is_no_number_stays_so_and_scoring_gives_what_training_gives() {
        let run = |device: &Device| {
            let data = burn::tensor::TensorData::new(vec![f32::NAN, -1.0, 2.0, -0.0], [1, 1, 2, 2]);
            values_of(rectify(Tensor::from_data(data, device)))
        };
        let (plain, tracked) = (run(&Device::flex()), run(&Device::flex().autodiff()));
        assert!(plain[0].is_nan() && tracked[0].is_nan());
        assert_eq!((&plain[1..], &tracked[1..]), (&[0.0, 2.0, 0.0][..], &[0.0, 2.0, 0.0][..]));
    }
}
