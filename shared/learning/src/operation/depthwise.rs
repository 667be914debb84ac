//! Depthwise convolution, with its gradient: each filter sees one channel (Howard et al. 2017).
//!
//! There is no sum over channels, so nothing is gained by a matrix product: for each place of the kernel whole rows of the
//! image are multiplied by one weight. Sums of the weight gradient are taken filter by filter, in the same order whatever the
//! number of threads.

use std::ops::Range;

use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::convolution::bias_gradient;
use super::normalisation::sum_of_pairs;
use super::unfold::{Motion, Windows};
use super::{Tracked, flex, plain, sides, tracked, wide};

/// Convolves each channel of `input` `[cases, channels, height, width]` with its own kernels in `weight`
/// `[filters, 1, kernel, kernel]`, `filters / channels` of them, and adds `bias` `[filters]`.
pub(super) fn depthwise(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    motion: Motion,
) -> Tensor<4> {
    let bias = bias.unwrap_or_else(|| Tensor::zeros([weight.dims()[0]], &weight.device()));
    if !weight.is_autodiff() {
        let result = forward(&plain(input), &plain(weight), &plain(bias), motion);
        return Tensor::from_primitive::<Flex>(result);
    }
    let (input, weight, bias) = (tracked(input), tracked(weight), tracked(bias));
    let result = forward(input.primitive(), weight.primitive(), bias.primitive(), motion);
    let nodes = [input.node(), weight.node(), bias.node()];
    let result = match Depthwise.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut step) => {
            let (input, weight) = (step.checkpoint(&input), step.checkpoint(&weight));
            step.finish(State { input, weight, motion }, result)
        }
        OpsKind::UnTracked(step) => step.finish(result),
    };
    Tensor::from_primitive::<Tracked>(result)
}

#[derive(Debug)]
struct Depthwise;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct State {
    input: NodeId,
    weight: NodeId,
    motion: Motion,
}

impl Backward<Flex, 3> for Depthwise {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, gradients: &mut Gradients, kept: &mut Checkpointer) {
        let [to_input, to_weight, to_bias] = ops.parents;
        let State { input, weight, motion } = ops.state;
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let input = kept.retrieve_node_output::<FlexTensor>(input).to_contiguous();
        let weight = kept.retrieve_node_output::<FlexTensor>(weight).to_contiguous();
        let map = Map::new(sides(&input), sides(&weight), motion);
        if let Some(node) = to_input {
            let gradient = map.input_gradient(weight.storage(), slope.storage());
            gradients.register::<Flex>(node.id, flex(gradient, &sides(&input)));
        }
        if let Some(node) = to_weight {
            let gradient = map.weight_gradient(input.storage(), slope.storage());
            gradients.register::<Flex>(node.id, flex(gradient, &sides(&weight)));
        }
        if let Some(node) = to_bias {
            let gradient = bias_gradient(map.filters, map.windows.outputs(), slope.storage());
            gradients.register::<Flex>(node.id, flex(gradient, &[map.filters]));
        }
    }
}

fn forward(input: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor, motion: Motion) -> FlexTensor {
    let (input, weight, bias) = (input.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
    let map = Map::new(sides(&input), sides(&weight), motion);
    let results = map.forward(input.storage(), weight.storage(), bias.storage());
    let Windows { images, rows, columns, .. } = map.windows;
    flex(results, &[images, map.filters, rows, columns])
}

/// Sides of a depthwise convolution.
struct Map {
    /// Of one channel and one filter.
    windows: Windows,
    channels: usize,
    filters: usize,
}

impl Map {
    fn new(input: [usize; 4], weight: [usize; 4], motion: Motion) -> Self {
        let ([images, channels, height, width], [filters, _, kernel, _]) = (input, weight);
        let windows = Windows::new([images, 1, height, width], [1, 1, kernel, kernel], motion);
        Self { windows, channels, filters }
    }

    /// Filters of a channel.
    const fn share(&self) -> usize {
        self.filters / self.channels
    }

    /// Calls `each` for every place of the kernel and every row of outputs that meets the image there, with the number of the
    /// place, the outputs in their plane, and the first of their inputs in its plane.
    #[inline(always)]
    fn each_stretch(&self, mut each: impl FnMut(usize, Range<usize>, usize)) {
        let Windows { stride, padding, width, columns, .. } = self.windows;
        for (place, _, down, right) in self.windows.each_place() {
            let (first, past) = self.windows.covered(right);
            let (upper, lower) = self.windows.covered_rows(down);
            if first == past {
                continue;
            }
            for row in upper..lower {
                let input = (row * stride + down - padding) * width + first * stride + right - padding;
                each(place, row * columns + first..row * columns + past, input);
            }
        }
    }

    fn forward(&self, values: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let Windows { images, stride, .. } = self.windows;
        let (plane, outputs, places) = (self.windows.image(), self.windows.outputs(), self.windows.places());
        let mut results = vec![0.0; images * self.filters * outputs];
        results.par_chunks_exact_mut(outputs).enumerate().for_each(|(index, out)| {
            let (case, filter) = (index / self.filters, index % self.filters);
            let plane = &values[(case * self.channels + filter / self.share()) * plane..][..plane];
            let kernel = &weight[filter * places..][..places];
            wide(|| {
                out.fill(bias[filter]);
                self.each_stretch(
                    #[inline(always)]
                    |place, outputs, input| {
                        let (out, factor) = (&mut out[outputs], kernel[place]);
                        if stride == 1 {
                            let values = &plane[input..][..out.len()];
                            out.iter_mut().zip(values).for_each(|(out, value)| *out += factor * value);
                        } else {
                            let values = plane[input..].iter().step_by(stride);
                            out.iter_mut().zip(values).for_each(|(out, value)| *out += factor * value);
                        }
                    },
                );
            });
        });
        results
    }

    fn input_gradient(&self, weight: &[f32], slope: &[f32]) -> Vec<f32> {
        let Windows { images, stride, .. } = self.windows;
        let (plane, outputs, places) = (self.windows.image(), self.windows.outputs(), self.windows.places());
        let mut gradient = vec![0.0; images * self.channels * plane];
        gradient.par_chunks_exact_mut(plane).enumerate().for_each(|(index, plane)| {
            let first = index * self.share();
            for filter in first..first + self.share() {
                let slope = &slope[filter * outputs..][..outputs];
                let kernel = &weight[filter % self.filters * places..][..places];
                wide(|| {
                    self.each_stretch(
                        #[inline(always)]
                        |place, outputs, input| {
                            let (slope, factor) = (&slope[outputs], kernel[place]);
                            if stride == 1 {
                                let line = &mut plane[input..][..slope.len()];
                                line.iter_mut().zip(slope).for_each(|(out, slope)| *out += factor * slope);
                            } else {
                                let line = plane[input..].iter_mut().step_by(stride);
                                line.zip(slope).for_each(|(out, slope)| *out += factor * slope);
                            }
                        },
                    );
                });
            }
        });
        gradient
    }

    fn weight_gradient(&self, values: &[f32], slope: &[f32]) -> Vec<f32> {
        let Windows { images, stride, .. } = self.windows;
        let (plane, outputs, places) = (self.windows.image(), self.windows.outputs(), self.windows.places());
        let mut gradient = vec![0.0; self.filters * places];
        gradient.par_chunks_exact_mut(places).enumerate().for_each(|(filter, gradient)| {
            for case in 0..images {
                let plane = &values[(case * self.channels + filter / self.share()) * plane..][..plane];
                let slope = &slope[(case * self.filters + filter) * outputs..][..outputs];
                wide(|| {
                    self.each_stretch(
                        #[inline(always)]
                        |place, outputs, input| {
                            let slope = &slope[outputs];
                            gradient[place] += if stride == 1 {
                                let values = &plane[input..][..slope.len()];
                                sum_of_pairs(values, slope, |value, slope| value * slope)
                            } else {
                                let values = plane[input..].iter().step_by(stride);
                                values.zip(slope).map(|(value, slope)| value * slope).sum()
                            };
                        },
                    );
                });
            }
        });
        gradient
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::testing::{assert_close, leaf, numbers, values_of};
    use burn::tensor::Device;
    use burn::tensor::ops::ConvOptions;
    use proptest::prelude::*;

    /// Result and the three gradients of `sum(result * mask)`.
    fn with_gradients(
        shapes: ([usize; 4], [usize; 4]),
        convolve: impl Fn(Tensor<4>, Tensor<4>, Tensor<1>) -> Tensor<4>,
    ) -> [Vec<f32>; 4] {
        let device = Device::flex().autodiff();
        let (input, weight) = (leaf(&device, shapes.0, 1), leaf(&device, shapes.1, 2));
        let bias: Tensor<1> = leaf(&device, [shapes.1[0]], 3);
        let result = convolve(input.clone(), weight.clone(), bias.clone());
        let mask = Tensor::<4>::from_data(numbers(&result.dims(), 4), &device);
        let gradients = (result.clone() * mask).sum().backward();
        let of = |gradient: Option<Tensor<4>>| values_of(gradient.unwrap());
        let (input, weight) = (of(input.grad(&gradients)), of(weight.grad(&gradients)));
        [values_of(result), input, weight, values_of(bias.grad(&gradients).unwrap())]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Ours and burn's agree in the result and in all three gradients, whatever the sides.
        #[test]
        fn agrees_with_burn(
            (cases, channels, share) in (1_usize..4, 1_usize..5, 1_usize..4),
            (kernel, stride, padding, dilation) in (1_usize..5, 1_usize..4, 0_usize..4, 1_usize..4),
            (height, width) in (5_usize..24, 5_usize..24),
        ) {
            let extent = dilation * (kernel - 1) + 1;
            prop_assume!(padding < extent && extent <= height.min(width) + 2 * padding);
            let shapes = ([cases, channels, height, width], [channels * share, 1, kernel, kernel]);
            let ours = with_gradients(shapes, |x, w, b| {
                depthwise(x, w, Some(b), Motion { stride, padding, dilation })
            });
            let burns = with_gradients(shapes, |x, w, b| {
                let options = ConvOptions::new([stride; 2], [padding; 2], [dilation; 2], channels);
                burn::tensor::module::conv2d(x, w, Some(b), options)
            });
            for (ours, burns) in ours.iter().zip(&burns) {
                assert_close(ours, burns, 1e-5);
            }
        }
    }

    #[test]
    fn scoring_gives_what_training_gives() {
        let run = |device: &Device| {
            let (input, weight) = (leaf(device, [2, 3, 7, 5], 1), leaf(device, [6, 1, 3, 3], 2));
            values_of(depthwise(input, weight, None, Motion { stride: 2, padding: 1, dilation: 1 }))
        };
        assert_eq!(run(&Device::flex()), run(&Device::flex().autodiff()));
    }
}
