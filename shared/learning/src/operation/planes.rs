//! Planes of channels, copied to where the next layer looks for them, or the largest values of several, with their gradients.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fresh::zeros;
use super::{Tracked, anywhere, flex, on_flex, plain, sides, tracked, wide};

/// Of each case of `input` `[cases, planes, height, width]` the planes that `taken` names, one after the other, and zeros where
/// it names none: `[cases, taken, height, width]`.
pub(super) fn pick(input: Tensor<4>, taken: Vec<Option<usize>>) -> Tensor<4> {
    if !on_flex(&input) {
        return anywhere::pick(input, &taken);
    }
    if !input.is_autodiff() {
        let input = plain(input);
        return Tensor::from_primitive::<Flex>(Picking::new(sides(&input), taken).forward(&input));
    }
    let input = tracked(input);
    let picking = Picking::new(sides(input.primitive()), taken);
    let result = picking.forward(input.primitive());
    let result = match Pick.prepare::<NoCheckpointing>([input.node()]).compute_bound().stateful() {
        OpsKind::Tracked(step) => step.finish(Arc::new(picking), result),
        OpsKind::UnTracked(step) => step.finish(result),
    };
    Tensor::from_primitive::<Tracked>(result)
}

/// Of each case of `input` `[cases, planes, height, width]` the largest values, place by place, of every `window` planes that
/// `taken` names: `[cases, taken / window, height, width]`. Of equal values the first gets the gradient; a value that is no number
/// wins, so that divergence stays visible.
pub(super) fn largest(input: Tensor<4>, taken: Vec<usize>, window: usize) -> Tensor<4> {
    if !on_flex(&input) {
        return anywhere::largest(input, taken, window);
    }
    let taken = taken.into_iter().map(Some).collect();
    if !input.is_autodiff() {
        let input = plain(input);
        let picking = Picking::new(sides(&input), taken);
        return Tensor::from_primitive::<Flex>(picking.largest(&input, window).0);
    }
    let input = tracked(input);
    let picking = Picking::new(sides(input.primitive()), taken);
    let (result, winners) = picking.largest(input.primitive(), window);
    let result = match Largest.prepare::<NoCheckpointing>([input.node()]).compute_bound().stateful() {
        OpsKind::Tracked(step) => step.finish(Arc::new((picking, winners)), result),
        OpsKind::UnTracked(step) => step.finish(result),
    };
    Tensor::from_primitive::<Tracked>(result)
}

#[derive(Debug)]
struct Pick;

impl Backward<Flex, 1> for Pick {
    type State = Arc<Picking>;

    fn backward(self, ops: Ops<Arc<Picking>, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [to_input] = ops.parents;
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        if let Some(node) = to_input {
            let gradient = ops.state.input_gradient(slope.storage());
            gradients.register::<Flex>(node.id, flex(gradient, &ops.state.input));
        }
    }
}

#[derive(Debug)]
struct Largest;

impl Backward<Flex, 1> for Largest {
    /// And the number in its window of the plane that won, place by place.
    type State = Arc<(Picking, Vec<u32>)>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [to_input] = ops.parents;
        let (picking, winners) = &*ops.state;
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        if let Some(node) = to_input {
            let gradient = picking.gradient_of_largest(slope.storage(), winners);
            gradients.register::<Flex>(node.id, flex(gradient, &picking.input));
        }
    }
}

/// Which planes go where.
#[derive(Debug)]
struct Picking {
    input: [usize; 4],
    taken: Vec<Option<usize>>,
}

impl Picking {
    fn new(input: [usize; 4], taken: Vec<Option<usize>>) -> Self {
        Self { input, taken }
    }

    fn plane(&self) -> usize {
        self.input[2] * self.input[3]
    }

    /// Where each plane of a case goes.
    fn copies(&self) -> Vec<Vec<usize>> {
        let mut copies = vec![Vec::new(); self.input[1]];
        for (at, taken) in self.taken.iter().enumerate() {
            if let Some(taken) = taken {
                copies[*taken].push(at);
            }
        }
        copies
    }

    fn forward(&self, input: &FlexTensor) -> FlexTensor {
        let [cases, planes, height, width] = self.input;
        let (plane, input) = (self.plane(), input.to_contiguous());
        let values: &[f32] = input.storage();
        let mut out = zeros(cases * self.taken.len() * plane);
        out.par_chunks_exact_mut(plane).enumerate().for_each(|(at, out)| {
            let case = at / self.taken.len();
            if let Some(taken) = self.taken[at % self.taken.len()] {
                out.copy_from_slice(&values[(case * planes + taken) * plane..][..plane]);
            }
        });
        flex(out, &[cases, self.taken.len(), height, width])
    }

    /// Each plane gets the sum of the slopes of its copies, in their order.
    fn input_gradient(&self, slope: &[f32]) -> Vec<f32> {
        let [cases, planes, ..] = self.input;
        let (plane, copies) = (self.plane(), self.copies());
        let mut gradient = zeros(cases * planes * plane);
        gradient.par_chunks_exact_mut(plane).enumerate().for_each(|(at, out)| {
            let case = at / planes;
            for copy in &copies[at % planes] {
                let slope = &slope[(case * self.taken.len() + copy) * plane..][..plane];
                wide(|| out.iter_mut().zip(slope).for_each(|(out, slope)| *out += slope));
            }
        });
        gradient
    }

    fn largest(&self, input: &FlexTensor, window: usize) -> (FlexTensor, Vec<u32>) {
        let [cases, planes, height, width] = self.input;
        let (plane, input) = (self.plane(), input.to_contiguous());
        let values: &[f32] = input.storage();
        let windows = self.taken.len() / window;
        let mut out = zeros(cases * windows * plane);
        let mut winners = vec![0; out.len()];
        let outputs = out.par_chunks_exact_mut(plane).zip(winners.par_chunks_exact_mut(plane));
        outputs.enumerate().for_each(|(at, (out, winners))| {
            let case = at / windows;
            let under = self.taken[at % windows * window..][..window].iter().flatten();
            let mut under = under.map(|taken| &values[(case * planes + taken) * plane..][..plane]);
            out.copy_from_slice(under.next().expect("a window has a plane"));
            for (number, values) in (1_u32..).zip(under) {
                wide(|| {
                    for ((out, winner), &value) in out.iter_mut().zip(winners.iter_mut()).zip(values) {
                        let wins = value > *out || value.is_nan();
                        *out = if wins { value } else { *out };
                        *winner = if wins { number } else { *winner };
                    }
                });
            }
        });
        (flex(out, &[cases, windows, height, width]), winners)
    }

    /// Each plane gets the slopes of the places where it won.
    fn gradient_of_largest(&self, slope: &[f32], winners: &[u32]) -> Vec<f32> {
        let [cases, planes, ..] = self.input;
        let (plane, copies) = (self.plane(), self.copies());
        let windows = slope.len() / plane / cases.max(1);
        let window = self.taken.len() / windows.max(1);
        let mut gradient = zeros(cases * planes * plane);
        gradient.par_chunks_exact_mut(plane).enumerate().for_each(|(at, out)| {
            let case = at / planes;
            for copy in &copies[at % planes] {
                let (first, number) = ((case * windows + copy / window) * plane, (copy % window) as u32);
                let slopes = slope[first..][..plane].iter().zip(&winners[first..][..plane]);
                wide(|| {
                    for (out, (&slope, &winner)) in out.iter_mut().zip(slopes) {
                        *out += if winner == number { slope } else { 0.0 };
                    }
                });
            }
        });
        gradient
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    use super::*;
    use crate::operation::testing::{leaf, numbers, values_of};

    /// The result, and the gradient of a sum in which each value counts another time.
    fn with_gradient(sides: [usize; 4], of: impl Fn(Tensor<4>) -> Tensor<4>) -> (Vec<f32>, Vec<f32>) {
        let input = leaf(&Device::flex().autodiff(), sides, 1);
        let result = of(input.clone());
        let slopes = Tensor::<4>::from_data(numbers(&result.dims(), 2), &result.device());
        let gradients = (result.clone() * slopes).sum().backward();
        (values_of(result), input.grad(&gradients).map(values_of).unwrap_or_default())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Whatever is taken, how often and in which order: as burn's own selection, in result and gradient.
        #[test]
        fn picks_as_burn_selects(
            (cases, planes, height, width) in (1_usize..4, 1_usize..5, 1_usize..5, 1_usize..5),
            taken in prop::collection::vec(prop::option::of(0_usize..5), 1..9),
        ) {
            let taken: Vec<_> = taken.into_iter().map(|place| place.filter(|place| *place < planes)).collect();
            let sides = [cases, planes, height, width];
            let ours = with_gradient(sides, |input| pick(input, taken.clone()));
            let burns = with_gradient(sides, |input| anywhere::pick(input, &taken));
            prop_assert_eq!(&ours.0, &burns.0);
            for (one, other) in ours.1.iter().zip(&burns.1) {
                prop_assert!((one - other).abs() < 1e-5, "{} {}", one, other);
            }
            let scored = pick(leaf(&Device::flex(), sides, 1), taken.clone());
            prop_assert_eq!(values_of(scored), ours.0);
        }

        /// The same of the largest under windows, which may share planes and name one twice.
        #[test]
        fn the_largest_are_burns(
            (cases, planes, height, width) in (1_usize..4, 1_usize..5, 1_usize..5, 1_usize..5),
            window in 1_usize..4,
            taken in prop::collection::vec(0_usize..5, 4..9),
        ) {
            let taken: Vec<_> = taken.into_iter().map(|place| place % planes).collect();
            let taken = taken[..taken.len() / window * window].to_vec();
            let sides = [cases, planes, height, width];
            let ours = with_gradient(sides, |input| largest(input, taken.clone(), window));
            let burns = with_gradient(sides, |input| anywhere::largest(input, taken.clone(), window));
            prop_assert_eq!(&ours.0, &burns.0);
            for (one, other) in ours.1.iter().zip(&burns.1) {
                prop_assert!((one - other).abs() < 1e-5, "{} {}", one, other);
            }
            let scored = largest(leaf(&Device::flex(), sides, 1), taken, window);
            prop_assert_eq!(values_of(scored), ours.0);
        }
    }

    #[test]
    fn what_is_no_number_wins() {
        let data = TensorData::new(vec![1.0, f32::NAN, f32::NAN, 2.0, 3.0, 0.0], [1, 3, 1, 2]);
        let input = Tensor::from_data(data, &Device::flex());
        let result = values_of(largest(input, vec![0, 1, 2], 3));
        assert!(result.iter().all(|value| value.is_nan()), "{result:?}");
    }
}
