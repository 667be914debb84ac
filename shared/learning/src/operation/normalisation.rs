//! Batch and group normalisation: the same arithmetic over different sets of values.
//!
//! A set is what shares a mean and a variance: one channel over all cases for a batch (Ioffe and
//! Szegedy 2015), a group of channels of one case for a group (Wu and He 2018). Planes, the images
//! of single channels, are summed one by one in a fixed order, whatever the number of threads.

mod planes;

use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::strategy::{
    BalancedCheckpointing, CheckpointStrategy, NoCheckpointing,
};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

pub(super) use self::planes::{sum, sum_of_pairs};

use self::planes::Map;
use super::rectifier::rectified;
use super::{LARGE, Tracked, TrackedTensor, anywhere, flex, on_flex, plain, sides, tracked};
use crate::tensors::values;

/// Added to a variance before its root.
pub(super) const EPSILON: f32 = 1e-5;

/// Which values share a mean and a variance.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sets {
    /// A channel over all cases.
    Channels,
    /// So many groups of channels of one case.
    Groups(usize),
}

/// Mean and biased variance of each set.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    pub(crate) means: Vec<f32>,
    pub(crate) variances: Vec<f32>,
}

impl Moments {
    /// Waits for the device that has them.
    fn of([means, variances]: [Tensor<1>; 2]) -> Self {
        Self { means: values(&means.into_data()), variances: values(&variances.into_data()) }
    }
}

/// Moments where they were computed. To read those of a GPU is to wait for it.
pub(crate) enum Measured {
    Here(Moments),
    /// Means and variances, `[sets]`.
    Elsewhere(Box<[Tensor<1>; 2]>),
}

impl Measured {
    pub(crate) fn read(self) -> Moments {
        match self {
            Self::Here(moments) => moments,
            Self::Elsewhere(moments) => Moments::of(*moments),
        }
    }
}

/// What happens to each value afterwards, in the same pass over memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing.
    Keep,
    /// What is negative becomes zero.
    Rectify,
}

impl Then {
    #[inline(always)]
    fn of(self, value: f32) -> f32 {
        if self == Self::Rectify { rectified(value) } else { value }
    }
}

/// Normalises `input` `[cases, channels, height, width]` over `sets`, then scales and shifts each
/// channel by `scale` and `shift`, both `[channels]`.
pub(crate) fn normalise(
    input: Tensor<4>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    sets: Sets,
    then: Then,
) -> (Tensor<4>, Measured) {
    if !on_flex(&input) {
        let (result, moments) = anywhere::normalise(input, scale, shift, sets, then);
        return (result, Measured::Elsewhere(Box::new(moments)));
    }
    if !scale.is_autodiff() {
        let input = plain(input).to_contiguous();
        let map = Map::new(sides(&input), sets, then);
        let moments = map.moments(input.storage());
        let result = map.forward(&input, &plain(scale), &plain(shift), &moments);
        return (Tensor::from_primitive::<Flex>(result), Measured::Here(moments));
    }
    let (result, moments) = differentiate(input, [scale, shift], sets, then, None);
    (result, Measured::Here(moments))
}

/// Normalises by mean and variance of earlier batches, both `[channels]`, which are constants.
pub(crate) fn normalise_by(
    input: Tensor<4>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    statistics: [Tensor<1>; 2],
    then: Then,
) -> Tensor<4> {
    if !on_flex(&input) {
        return anywhere::normalise_by(input, scale, shift, statistics, then);
    }
    let moments = &Moments::of(statistics);
    if scale.is_autodiff() {
        return differentiate(input, [scale, shift], Sets::Channels, then, Some(moments)).0;
    }
    let input = plain(input).to_contiguous();
    let map = Map::new(sides(&input), Sets::Channels, then);
    Tensor::from_primitive::<Flex>(map.forward(&input, &plain(scale), &plain(shift), moments))
}

/// On tensors that take part in differentiation; with the moments of `input` where none are `given`.
///
/// A large result is made again when the layer behind it goes back: a pass over memory is cheap beside a convolution, and there
/// is such a result for every second that a residual network keeps.
fn differentiate(
    input: Tensor<4>,
    [scale, shift]: [Tensor<1>; 2],
    sets: Sets,
    then: Then,
    given: Option<&Moments>,
) -> (Tensor<4>, Moments) {
    let (input, scale, shift) = (tracked(input), tracked(scale), tracked(shift));
    let values = input.primitive().to_contiguous();
    let map = Map::new(sides(&values), sets, then);
    let moments = given.cloned().unwrap_or_else(|| map.moments(values.storage()));
    let parents = [input, scale, shift];
    let record = if values.storage::<f32>().len() < LARGE {
        record::<NoCheckpointing>
    } else {
        record::<BalancedCheckpointing>
    };
    (record(&parents, values, map, &moments, given.is_some()), moments)
}

/// The result, and how it is differentiated.
fn record<C: CheckpointStrategy>(
    parents: &[TrackedTensor; 3],
    values: FlexTensor,
    map: Map,
    moments: &Moments,
    given: bool,
) -> Tensor<4> {
    let [_, scale, shift] = parents;
    let result = map.forward(&values, scale.primitive(), shift.primitive(), moments);
    drop(values);
    let nodes = parents.each_ref().map(TrackedTensor::node);
    let again = Again { nodes: nodes.each_ref().map(NodeGuard::id), map, moments: moments.clone() };
    let operation = Normalisation.prepare::<C>(nodes).memory_bound().retro_forward(again).parents(parents);
    let result = match operation.stateful() {
        OpsKind::Tracked(mut step) => {
            let [input, scale, shift] = parents.each_ref().map(|parent| step.checkpoint(parent));
            step.finish(State { input, scale, shift, map, moments: moments.clone(), given }, result)
        }
        OpsKind::UnTracked(step) => step.finish(result),
    };
    Tensor::from_primitive::<Tracked>(result)
}

/// Makes a result again, out of input, scale and shift.
#[derive(Debug)]
struct Again {
    nodes: [NodeId; 3],
    map: Map,
    moments: Moments,
}

impl RetroForward for Again {
    fn forward(&self, states: &mut BackwardStates, result: NodeId) {
        let [input, scale, shift] = self.nodes.map(|node| states.get_state::<FlexTensor>(&node));
        states.save(result, self.map.forward(&input.to_contiguous(), &scale, &shift, &self.moments));
    }
}

#[derive(Debug)]
struct Normalisation;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct State {
    input: NodeId,
    scale: NodeId,
    shift: NodeId,
    map: Map,
    moments: Moments,
    /// Whether the moments are constants and no functions of the input.
    given: bool,
}

impl Backward<Flex, 3> for Normalisation {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, gradients: &mut Gradients, kept: &mut Checkpointer) {
        let [to_input, to_scale, to_shift] = ops.parents;
        let State { input, scale, shift, map, moments, given } = ops.state;
        let mut slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let input = kept.retrieve_node_output::<FlexTensor>(input).to_contiguous();
        let scale = kept.retrieve_node_output::<FlexTensor>(scale).to_contiguous();
        let shift = kept.retrieve_node_output::<FlexTensor>(shift).to_contiguous();
        let lines = map.lines(scale.storage(), shift.storage(), &moments);
        let sums = map.slope_sums(input.storage(), slope.storage(), &lines);
        if let Some(node) = to_input {
            // Moments that are constants have no slope for the input to go through.
            let through_moments = if given { vec![(0.0, 0.0); sums.len()] } else { sums.clone() };
            map.input_gradient(input.storage(), slope.storage_mut(), &lines, &through_moments);
            gradients.register::<Flex>(node.id, slope);
        }
        if let Some(node) = to_scale {
            let gradient = map.per_channel(sums.iter().map(|sum| sum.1));
            gradients.register::<Flex>(node.id, flex(gradient, &[map.channels]));
        }
        if let Some(node) = to_shift {
            let gradient = map.per_channel(sums.iter().map(|sum| sum.0));
            gradients.register::<Flex>(node.id, flex(gradient, &[map.channels]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::testing::{assert_close, leaf, numbers, values_of, with_gradients};
    use burn::tensor::Device;

    /// The definition is in burn's elementary operations, which know their own gradients.
    #[test]
    fn sets_agree_with_the_definition() {
        for (shape, sets) in [
            ([3, 4, 5, 3], Sets::Groups(2)),
            ([2, 6, 4, 8], Sets::Groups(6)),
            ([1, 3, 1, 2], Sets::Groups(1)),
            ([2, 8, 7, 7], Sets::Groups(4)),
            ([3, 4, 5, 3], Sets::Channels),
            ([8, 2, 4, 8], Sets::Channels),
            ([7, 3, 1, 1], Sets::Channels),
        ] {
            for then in [Then::Keep, Then::Rectify] {
                let shapes = (shape, [shape[1]], shape[1]);
                let ours = with_gradients(shapes, |x, s, b| normalise(x, s, b, sets, then).0);
                let definition = with_gradients(shapes, |x, s, b| anywhere::normalise(x, s, b, sets, then).0);
                for (ours, definition) in ours.iter().zip(&definition) {
                    assert_close(ours, definition, 2e-5);
                }
            }
        }
    }

    /// By statistics that are constants, whether they are the batch's own or not.
    #[test]
    fn given_statistics_agree_with_the_definition() {
        let shapes = ([3, 4, 5, 3], [4], 4);
        let statistics = |x: &Tensor<4>| {
            let of = |seed| Tensor::<1>::from_data(numbers(&[4], seed), &x.device());
            [of(5), of(6).square() + 0.1]
        };
        for then in [Then::Keep, Then::Rectify] {
            let ours = with_gradients(shapes, |x, s, b| {
                let given = statistics(&x);
                normalise_by(x, s, b, given, then)
            });
            let definition = with_gradients(shapes, |x, s, b| {
                let given = statistics(&x);
                anywhere::normalise_by(x, s, b, given, then)
            });
            for (ours, definition) in ours.iter().zip(&definition) {
                assert_close(ours, definition, 2e-5);
            }
        }
    }

    /// Both ways measure the same moments.
    #[test]
    fn moments_agree_with_the_definition() {
        let device = Device::flex().autodiff();
        for sets in [Sets::Channels, Sets::Groups(2)] {
            let run = |ours: bool| {
                let (x, s, b) =
                    (leaf(&device, [3, 4, 5, 3], 1), leaf(&device, [4], 2), leaf(&device, [4], 3));
                if ours {
                    normalise(x, s, b, sets, Then::Keep).1.read()
                } else {
                    Moments::of(anywhere::normalise(x, s, b, sets, Then::Keep).1)
                }
            };
            let (ours, definition) = (run(true), run(false));
            assert_close(&ours.means, &definition.means, 1e-6);
            assert_close(&ours.variances, &definition.variances, 1e-6);
        }
    }

    /// Rectified in the same pass is rectified afterwards, gradients included.
    #[test]
    fn rectifying_in_one_pass_is_rectifying_afterwards() {
        for sets in [Sets::Channels, Sets::Groups(2)] {
            let shape = [3, 4, 5, 3];
            let fused = with_gradients((shape, [shape[1]], shape[1]), |x, s, b| {
                normalise(x, s, b, sets, Then::Rectify).0
            });
            let apart = with_gradients((shape, [shape[1]], shape[1]), |x, s, b| {
                burn::tensor::activation::relu(normalise(x, s, b, sets, Then::Keep).0)
            });
            assert_eq!(fused[0], apart[0]);
            for (fused, apart) in fused.iter().zip(&apart) {
                assert_close(fused, apart, 1e-6);
            }
        }
    }

    /// What is made again is what was there, so gradients are the same to the bit.
    #[test]
    fn a_result_that_is_made_again_gives_the_same_gradients() {
        let device = Device::flex().autodiff();
        let run = |record: fn(&[TrackedTensor; 3], FlexTensor, Map, &Moments, bool) -> Tensor<4>| {
            let (x, s, b) = (leaf(&device, [3, 4, 5, 3], 1), leaf(&device, [4], 2), leaf(&device, [4], 3));
            let values = tracked(x.clone()).primitive().to_contiguous();
            let map = Map::new(sides(&values), Sets::Channels, Then::Rectify);
            let moments = map.moments(values.storage());
            let parents = [tracked(x.clone()), tracked(s.clone()), tracked(b.clone())];
            let normal = record(&parents, values, map, &moments, false);
            // Squares need it going back, from both sides.
            let gradients = (normal.clone() * normal.clone() * normal).sum().backward();
            let missing = "every leaf has a gradient";
            [
                values_of(x.grad(&gradients).expect(missing)),
                values_of(s.grad(&gradients).expect(missing)),
                values_of(b.grad(&gradients).expect(missing)),
            ]
        };
        assert_eq!(run(record::<NoCheckpointing>), run(record::<BalancedCheckpointing>));
    }

    #[test]
    fn moments_of_earlier_batches_normalise_alike() {
        let device = Device::flex();
        let (input, scale, shift) =
            (|| leaf(&device, [4, 2, 3, 3], 1), || leaf(&device, [2], 2), || leaf(&device, [2], 3));
        for then in [Then::Keep, Then::Rectify] {
            let (result, moments) = normalise(input(), scale(), shift(), Sets::Channels, then);
            let Moments { means, variances } = moments.read();
            let given = [means, variances].map(|values| Tensor::from_floats(&*values, &device));
            let again = normalise_by(input(), scale(), shift(), given, then);
            assert_eq!(values_of(result), values_of(again));
        }
    }

    #[test]
    fn moments_are_those_of_the_batch_and_scoring_gives_what_training_gives() {
        let run = |device: &Device| {
            let (input, ones) = (leaf(device, [4, 2, 3, 3], 1), Tensor::ones([2], device));
            normalise(input, ones, Tensor::zeros([2], device), Sets::Channels, Then::Keep)
        };
        let (plain, moments) = run(&Device::flex());
        let moments = moments.read();
        let (tracked, _) = run(&Device::flex().autodiff());
        assert_eq!(values_of(plain), values_of(tracked));
        let input: Vec<f32> = numbers(&[4, 2, 3, 3], 1).try_to_vec().unwrap();
        for channel in 0..2 {
            let values: Vec<f64> = (input.chunks_exact(9).enumerate())
                .filter(|(plane, _)| plane % 2 == channel)
                .flat_map(|(_, plane)| plane.iter().map(|&value| f64::from(value)))
                .collect();
            let mean = values.iter().sum::<f64>() / 36.0;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 36.0;
            assert!((f64::from(moments.means[channel]) - mean).abs() < 1e-6);
            assert!((f64::from(moments.variances[channel]) - variance).abs() < 1e-6);
        }
    }
}
