//! Rectified values: what is negative becomes zero, and its slope too. Of a sum of two, in one pass.
//!
//! A value that is no number stays one, so that divergence stays visible. Going back needs of each value one bit: whether it is
//! above zero.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::{Tensor, activation};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fresh::copied;
use super::{Tracked, TrackedTensor, flex, on_flex, plain, sides, tracked, wide};

/// Values that a thread takes at once; a multiple of eight.
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
        return Tensor::from_primitive::<Flex>(forward([plain(input)]));
    }
    record([tracked(input)])
}

/// `max(one + other, 0)`, both `[cases, channels, height, width]`.
pub(crate) fn rectify_sum(one: Tensor<4>, other: Tensor<4>) -> Tensor<4> {
    if !on_flex(&one) {
        return activation::relu(one + other);
    }
    if !one.is_autodiff() {
        return Tensor::from_primitive::<Flex>(forward([plain(one), plain(other)]));
    }
    record([tracked(one), tracked(other)])
}

/// The result, and how it is differentiated.
fn record<const N: usize>(terms: [TrackedTensor; N]) -> Tensor<4> {
    let nodes = terms.each_ref().map(TrackedTensor::node);
    let result = forward(terms.map(TrackedTensor::into_primitive));
    let result = match Rectifier.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(step) => step.finish(Signs::of(&result), result),
        OpsKind::UnTracked(step) => step.finish(result),
    };
    Tensor::from_primitive::<Tracked>(result)
}

#[derive(Debug)]
struct Rectifier;

impl<const N: usize> Backward<Flex, N> for Rectifier {
    type State = Signs;

    fn backward(self, ops: Ops<Signs, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let mut gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        ops.state.filter(gradient.storage_mut());
        for node in ops.parents.into_iter().flatten() {
            gradients.register::<Flex>(node.id, gradient.clone());
        }
    }
}

/// Which values of a result are above zero: a bit each, the first of eight the lowest.
#[derive(Clone, Debug)]
struct Signs(Vec<u8>);

impl Signs {
    fn of(result: &FlexTensor) -> Self {
        let values = result.storage::<f32>();
        let mut bits = vec![0; values.len().div_ceil(8)];
        bits.par_chunks_mut(SHARE / 8).zip(values.par_chunks(SHARE)).for_each(|(bits, values)| {
            wide(|| {
                let (eights, rest) = values.as_chunks::<8>();
                let (whole, last) = bits.split_at_mut(eights.len());
                for (bits, eight) in whole.iter_mut().zip(eights) {
                    *bits = pack(eight);
                }
                if let [bits] = last {
                    *bits = pack(rest);
                }
            });
        });
        Self(bits)
    }

    /// Leaves of `slopes` those of these values, and zero for the others.
    fn filter(&self, slopes: &mut [f32]) {
        slopes.par_chunks_mut(SHARE).zip(self.0.par_chunks(SHARE / 8)).for_each(|(slopes, bits)| {
            wide(|| {
                let (eights, rest) = slopes.as_chunks_mut::<8>();
                let (whole, last) = bits.split_at(eights.len());
                for (eight, bits) in eights.iter_mut().zip(whole) {
                    keep(eight, *bits);
                }
                if let [bits] = last {
                    keep(rest, *bits);
                }
            });
        });
    }
}

/// The bits of at most eight values.
#[inline(always)]
fn pack(values: &[f32]) -> u8 {
    values.iter().enumerate().fold(0, |bits, (at, value)| bits | u8::from(*value > 0.0) << at)
}

/// Clears the slopes, at most eight, whose bits are not set.
#[inline(always)]
fn keep(slopes: &mut [f32], bits: u8) {
    for (at, slope) in slopes.iter_mut().enumerate() {
        *slope = if bits >> at & 1 == 1 { *slope } else { 0.0 };
    }
}

/// In place of the first term, where nothing else needs it.
fn forward<const N: usize>(terms: [FlexTensor; N]) -> FlexTensor {
    let mut terms = terms.map(|term| term.to_contiguous()).into_iter();
    let mut first = terms.next().expect("a sum has a term");
    let others: Vec<FlexTensor> = terms.collect();
    if !first.is_unique() {
        first = flex(copied(first.storage()), &sides(&first));
    }
    first.storage_mut::<f32>().par_chunks_mut(SHARE).enumerate().for_each(|(at, out)| {
        wide(|| {
            for more in &others {
                let more = &more.storage::<f32>()[at * SHARE..];
                out.iter_mut().zip(more).for_each(|(out, more)| *out += more);
            }
            for out in out.iter_mut() {
                *out = rectified(*out);
            }
        });
    });
    first
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

    /// Numbers of values that no share and no eight divides.
    #[test]
    fn each_value_has_its_bit() {
        for length in [1, 7, 8, 9, SHARE - 1, SHARE, SHARE + 13] {
            let values: Vec<f32> = (0..length).map(|at| ((at * 37) % 11) as f32 - 5.0).collect();
            let mut slopes: Vec<f32> = (0..length).map(|at| at as f32 + 1.0).collect();
            let want: Vec<f32> = values
                .iter()
                .zip(&slopes)
                .map(|(value, slope)| if *value > 0.0 { *slope } else { 0.0 })
                .collect();
            Signs::of(&flex(values, &[length])).filter(&mut slopes);
            assert_eq!(slopes, want, "{length}");
        }
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
