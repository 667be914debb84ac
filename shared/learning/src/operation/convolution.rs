//! Convolution as unfolding and one wide matrix product, with its gradient.
//!
//! Covers ungrouped convolutions; grouped ones go to burn. Sums of the weight gradient are taken per
//! thread over neighbouring images and then over threads in order, so they are the same bytes for
//! the same number of threads.

use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;
use burn_flex::FlexTensor;
use consilium_study::graph::Conv2d;
use rayon::prelude::*;

use super::product::{Matrix, Target, multiply};
use super::scratch;
use super::unfold::Windows;
use super::winograd::{Tiles, Wanted};
use super::{Tracked, flex, plain, sides, tracked};

/// Convolves `input` `[cases, channels, height, width]` with `weight`
/// `[filters, channels / groups, kernel, kernel]` and adds `bias` `[filters]`.
pub(crate) fn conv2d(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    layer: &Conv2d,
) -> Tensor<4> {
    let (stride, padding) = (layer.stride as usize, layer.padding as usize);
    if layer.groups != 1 {
        let options = ConvOptions::new([stride; 2], [padding; 2], [1; 2], layer.groups as usize);
        return burn::tensor::module::conv2d(input, weight, bias, options);
    }
    let bias = bias.unwrap_or_else(|| Tensor::zeros([weight.dims()[0]], &weight.device()));
    if !weight.is_autodiff() {
        let result = forward(&plain(input), &plain(weight), &plain(bias), stride, padding);
        return Tensor::from_primitive::<Flex>(result);
    }
    let (input, weight, bias) = (tracked(input), tracked(weight), tracked(bias));
    let result = forward(input.primitive(), weight.primitive(), bias.primitive(), stride, padding);
    let nodes = [input.node(), weight.node(), bias.node()];
    let result = match Convolution.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut step) => {
            let (input, weight) = (step.checkpoint(&input), step.checkpoint(&weight));
            step.finish(State { input, weight, stride, padding }, result)
        }
        OpsKind::UnTracked(step) => step.finish(result),
    };
    Tensor::from_primitive::<Tracked>(result)
}

#[derive(Debug)]
struct Convolution;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct State {
    input: NodeId,
    weight: NodeId,
    stride: usize,
    padding: usize,
}

impl Backward<Flex, 3> for Convolution {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, gradients: &mut Gradients, kept: &mut Checkpointer) {
        let [to_input, to_weight, to_bias] = ops.parents;
        let State { input, weight, stride, padding } = ops.state;
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let input = kept.retrieve_node_output::<FlexTensor>(input).to_contiguous();
        let weight = kept.retrieve_node_output::<FlexTensor>(weight).to_contiguous();
        let windows = Windows::new(sides(&input), sides(&weight), stride, padding);
        let wanted = Wanted { input: to_input.is_some(), weight: to_weight.is_some() };
        let (of_input, of_weight) =
            backward(&windows, input.storage(), weight.storage(), slope.storage(), wanted);
        if let (Some(node), Some(gradient)) = (to_input, of_input) {
            gradients.register::<Flex>(node.id, flex(gradient, &sides(&input)));
        }
        if let (Some(node), Some(gradient)) = (to_weight, of_weight) {
            gradients.register::<Flex>(node.id, flex(gradient, &sides(&weight)));
        }
        if let Some(node) = to_bias {
            let gradient = bias_gradient(&windows, slope.storage());
            gradients.register::<Flex>(node.id, flex(gradient, &[windows.filters]));
        }
    }
}

fn forward(
    input: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    stride: usize,
    padding: usize,
) -> FlexTensor {
    let (input, weight, bias) = (input.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
    let windows = Windows::new(sides(&input), sides(&weight), stride, padding);
    let (values, weight, bias) = (input.storage::<f32>(), weight.storage::<f32>(), bias.storage::<f32>());
    let shape = [windows.images, windows.filters, windows.rows, windows.columns];
    if let Some(tiles) = Tiles::of(windows) {
        return flex(tiles.forward(values, weight, bias), &shape);
    }
    let mut results = vec![0.0; windows.images * windows.result()];
    results
        .par_chunks_mut(windows.group * windows.result())
        .zip(values.par_chunks(windows.group * windows.image()))
        .for_each(|(results, images)| {
            let count = results.len() / windows.result();
            let wide = count * windows.outputs();
            scratch::with([windows.places() * wide, windows.filters * wide], |[unfolded, products]| {
                windows.unfold(images, count, unfolded);
                let weight = Matrix::new(weight, windows.filters, windows.places());
                let unfolded = Matrix::new(unfolded, windows.places(), wide);
                multiply(weight, unfolded, products, Target::Replace);
                windows.scatter(products, count, bias, results);
            });
        });
    flex(results, &shape)
}

/// The gradients of the input and of the weight, where they are wanted.
fn backward(
    windows: &Windows,
    input: &[f32],
    weight: &[f32],
    slope: &[f32],
    wanted: Wanted,
) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
    if let Some(tiles) = Tiles::of(*windows) {
        return tiles.backward(input, weight, slope, wanted);
    }
    let of_input = wanted.input.then(|| input_gradient(windows, weight, slope));
    (of_input, wanted.weight.then(|| weight_gradient(windows, input, slope)))
}

fn input_gradient(windows: &Windows, weight: &[f32], slope: &[f32]) -> Vec<f32> {
    let mut gradient = vec![0.0; windows.images * windows.image()];
    gradient
        .par_chunks_mut(windows.group * windows.image())
        .zip(slope.par_chunks(windows.group * windows.result()))
        .for_each(|(images, slope)| {
            let count = slope.len() / windows.result();
            let wide = count * windows.outputs();
            scratch::with([windows.places() * wide, windows.filters * wide], |[unfolded, gathered]| {
                windows.gather(slope, count, gathered);
                let weight = Matrix::new(weight, windows.filters, windows.places()).transposed();
                let gathered = Matrix::new(gathered, windows.filters, wide);
                multiply(weight, gathered, unfolded, Target::Replace);
                windows.fold(unfolded, count, images);
            });
        });
    gradient
}

fn weight_gradient(windows: &Windows, input: &[f32], slope: &[f32]) -> Vec<f32> {
    let share = windows.images.div_ceil(rayon::current_num_threads()).max(1);
    let parts: Vec<Vec<f32>> = input
        .par_chunks(share * windows.image())
        .zip(slope.par_chunks(share * windows.result()))
        .map(|(input, slope)| {
            let mut sum = vec![0.0; windows.filters * windows.places()];
            let groups = input.chunks(windows.group * windows.image());
            for (images, slope) in groups.zip(slope.chunks(windows.group * windows.result())) {
                let count = slope.len() / windows.result();
                let wide = count * windows.outputs();
                scratch::with([windows.places() * wide, windows.filters * wide], |[unfolded, gathered]| {
                    windows.unfold(images, count, unfolded);
                    windows.gather(slope, count, gathered);
                    let gathered = Matrix::new(gathered, windows.filters, wide);
                    let unfolded = Matrix::new(unfolded, windows.places(), wide).transposed();
                    multiply(gathered, unfolded, &mut sum, Target::Add);
                });
            }
            sum
        })
        .collect();
    let mut sum = vec![0.0; windows.filters * windows.places()];
    for part in parts {
        sum.iter_mut().zip(&part).for_each(|(sum, value)| *sum += value);
    }
    sum
}

fn bias_gradient(windows: &Windows, slope: &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0; windows.filters];
    for (index, plane) in slope.chunks_exact(windows.outputs()).enumerate() {
        sums[index % windows.filters] += super::normalisation::sum(plane);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::testing::{assert_close, leaf, numbers, values_of};
    use burn::tensor::Device;
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
            (cases, channels, filters) in (1_usize..5, 1_usize..5, 1_usize..6),
            (kernel, stride, padding) in (1_usize..5, 1_usize..4, 0_usize..3),
            (height, width) in (5_usize..12, 5_usize..12),
        ) {
            prop_assume!(padding < kernel);
            let layer = Conv2d {
                filters: filters as u32, kernel: kernel as u32, stride: stride as u32,
                padding: padding as u32, groups: 1, bias: true,
            };
            let shapes = ([cases, channels, height, width], [filters, channels, kernel, kernel]);
            let ours = with_gradients(shapes, |x, w, b| conv2d(x, w, Some(b), &layer));
            let options = || ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1);
            let burns = with_gradients(shapes, |x, w, b| burn::tensor::module::conv2d(x, w, Some(b), options()));
            for (ours, burns) in ours.iter().zip(&burns) {
                assert_close(ours, burns, 1e-5);
            }
        }
    }

    #[test]
    fn grouped_convolutions_go_to_burn() {
        let layer = Conv2d { filters: 4, kernel: 3, stride: 1, padding: 1, groups: 2, bias: true };
        let ours = with_gradients(([2, 4, 6, 6], [4, 2, 3, 3]), |x, w, b| conv2d(x, w, Some(b), &layer));
        // Two groups by hand: each half of the filters sees its half of the channels.
        let half = Conv2d { filters: 2, groups: 1, ..layer };
        let halves = with_gradients(([2, 4, 6, 6], [4, 2, 3, 3]), |x, w, b| {
            let part = |at: usize| {
                conv2d(
                    x.clone().narrow(1, 2 * at, 2),
                    w.clone().narrow(0, 2 * at, 2),
                    Some(b.clone().narrow(0, 2 * at, 2)),
                    &half,
                )
            };
            Tensor::cat(vec![part(0), part(1)], 1)
        });
        for (ours, halves) in ours.iter().zip(&halves) {
            assert_close(ours, halves, 1e-5);
        }
    }

    #[test]
    fn scoring_gives_what_training_gives() {
        let layer = Conv2d { filters: 3, kernel: 3, stride: 2, padding: 1, groups: 1, bias: false };
        let run = |device: &Device| {
            values_of(conv2d(leaf(device, [2, 2, 7, 5], 1), leaf(device, [3, 2, 3, 3], 2), None, &layer))
        };
        assert_eq!(run(&Device::flex()), run(&Device::flex().autodiff()));
    }
}
