//! Transposed convolution, with its gradient: what is the gradient of a convolution there is the result here, and the other
//! way round.

use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use consilium_study::graph::TransposedConv2d;
use rayon::prelude::*;

use super::convolution::{bias_gradient, convolve, input_gradient, weight_gradient};
use super::unfold::{Motion, Windows};
use super::{Tracked, flex, plain, sides, tracked};

/// Spreads `input` `[cases, channels, height, width]` by `weight` `[channels, filters, kernel, kernel]` and adds `bias`
/// `[filters]`.
pub(crate) fn transposed_conv2d(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    layer: &TransposedConv2d,
) -> Tensor<4> {
    let motion = Motion { stride: layer.stride as usize, padding: layer.padding as usize, dilation: 1 };
    let bias = bias.unwrap_or_else(|| Tensor::zeros([weight.dims()[1]], &weight.device()));
    if !weight.is_autodiff() {
        let result = forward(&plain(input), &plain(weight), &plain(bias), motion);
        return Tensor::from_primitive::<Flex>(result);
    }
    let (input, weight, bias) = (tracked(input), tracked(weight), tracked(bias));
    let result = forward(input.primitive(), weight.primitive(), bias.primitive(), motion);
    let nodes = [input.node(), weight.node(), bias.node()];
    let result = match Transposed.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut step) => {
            let (input, weight) = (step.checkpoint(&input), step.checkpoint(&weight));
            step.finish(State { input, weight, motion }, result)
        }
        OpsKind::UnTracked(step) => step.finish(result),
    };
    Tensor::from_primitive::<Tracked>(result)
}

#[derive(Debug)]
struct Transposed;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct State {
    input: NodeId,
    weight: NodeId,
    motion: Motion,
}

impl Backward<Flex, 3> for Transposed {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, gradients: &mut Gradients, kept: &mut Checkpointer) {
        let [to_input, to_weight, to_bias] = ops.parents;
        let State { input, weight, motion } = ops.state;
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let input = kept.retrieve_node_output::<FlexTensor>(input).to_contiguous();
        let weight = kept.retrieve_node_output::<FlexTensor>(weight).to_contiguous();
        let windows = windows(sides(&input), sides(&weight), motion);
        if let Some(node) = to_input {
            let none = vec![0.0; windows.filters];
            let gradient = convolve(&windows, slope.storage(), weight.storage(), &none);
            gradients.register::<Flex>(node.id, flex(gradient, &sides(&input)));
        }
        if let Some(node) = to_weight {
            let gradient = weight_gradient(&windows, slope.storage(), input.storage());
            gradients.register::<Flex>(node.id, flex(gradient, &sides(&weight)));
        }
        if let Some(node) = to_bias {
            let gradient = bias_gradient(windows.channels, windows.height * windows.width, slope.storage());
            gradients.register::<Flex>(node.id, flex(gradient, &[windows.channels]));
        }
    }
}

/// The windows of the convolution whose transpose this is: from our output, shape `[cases, filters, height, width]`, to our
/// input.
fn windows(input: [usize; 4], weight: [usize; 4], motion: Motion) -> Windows {
    let ([cases, _, rows, columns], [_, filters, kernel, _]) = (input, weight);
    let side = |side: usize| (side - 1) * motion.stride + kernel - 2 * motion.padding;
    Windows::new([cases, filters, side(rows), side(columns)], weight, motion)
}

fn forward(input: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor, motion: Motion) -> FlexTensor {
    let (input, weight, bias) = (input.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
    let windows = windows(sides(&input), sides(&weight), motion);
    let mut results = input_gradient(&windows, weight.storage(), input.storage());
    let (plane, bias) = (windows.height * windows.width, bias.storage::<f32>());
    results.par_chunks_exact_mut(plane).enumerate().for_each(|(index, plane)| {
        let bias = bias[index % windows.channels];
        for value in plane {
            *value += bias;
        }
    });
    flex(results, &[windows.images, windows.channels, windows.height, windows.width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::testing::{assert_close, leaf, numbers, values_of};
    use burn::tensor::Device;
    use burn::tensor::ops::ConvTransposeOptions;
    use proptest::prelude::*;

    /// Result and the three gradients of `sum(result * mask)`.
    fn with_gradients(
        shapes: ([usize; 4], [usize; 4]),
        spread: impl Fn(Tensor<4>, Tensor<4>, Tensor<1>) -> Tensor<4>,
    ) -> [Vec<f32>; 4] {
        let device = Device::flex().autodiff();
        let (input, weight) = (leaf(&device, shapes.0, 1), leaf(&device, shapes.1, 2));
        let bias: Tensor<1> = leaf(&device, [shapes.1[1]], 3);
        let result = spread(input.clone(), weight.clone(), bias.clone());
        let mask = Tensor::<4>::from_data(numbers(&result.dims(), 4), &device);
        let gradients = (result.clone() * mask).sum().backward();
        let of = |gradient: Option<Tensor<4>>| values_of(gradient.unwrap());
        let (input, weight) = (of(input.grad(&gradients)), of(weight.grad(&gradients)));
        [values_of(result), input, weight, values_of(bias.grad(&gradients).unwrap())]
    }

    /// Every value of the input times the kernel, added where its window lies.
    fn by_definition(
        ([cases, channels, height, width], [_, filters, kernel, _]): ([usize; 4], [usize; 4]),
        [stride, padding]: [usize; 2],
        [input, weight, bias]: [&[f32]; 3],
    ) -> Vec<f32> {
        let side = |side: usize| (side - 1) * stride + kernel - 2 * padding;
        let (rows, columns) = (side(height), side(width));
        let mut out: Vec<f64> = Vec::new();
        for plane in 0..cases * filters {
            out.extend(std::iter::repeat_n(f64::from(bias[plane % filters]), rows * columns));
        }
        for (at, value) in input.iter().enumerate() {
            let (case, channel) = (at / (channels * height * width), at / (height * width) % channels);
            let (row, column) = (at / width % height, at % width);
            for place in 0..filters * kernel * kernel {
                let (filter, down, right) =
                    (place / (kernel * kernel), place / kernel % kernel, place % kernel);
                let row = (row * stride + down).checked_sub(padding).filter(|&row| row < rows);
                let column = (column * stride + right).checked_sub(padding).filter(|&at| at < columns);
                let (Some(row), Some(column)) = (row, column) else { continue };
                out[((case * filters + filter) * rows + row) * columns + column] +=
                    f64::from(*value) * f64::from(weight[channel * filters * kernel * kernel + place]);
            }
        }
        out.into_iter().map(|value| value as f32).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// The result is the definition's, and so are burn's result and gradients, whatever the sides.
        #[test]
        fn agrees_with_the_definition_and_with_burn(
            (cases, channels, filters) in (1_usize..4, 1_usize..5, 1_usize..5),
            (kernel, stride, padding) in (1_usize..5, 1_usize..4, 0_usize..3),
            (height, width) in (2_usize..7, 2_usize..7),
        ) {
            prop_assume!(padding < kernel && 2 * padding < (height.min(width) - 1) * stride + kernel);
            let layer = TransposedConv2d {
                filters: filters as u32, kernel: kernel as u32, stride: stride as u32,
                padding: padding as u32, bias: true,
            };
            let shapes = ([cases, channels, height, width], [channels, filters, kernel, kernel]);
            let ours = with_gradients(shapes, |x, w, b| transposed_conv2d(x, w, Some(b), &layer));
            let values = |shape: &[usize], seed| crate::tensors::values(&numbers(shape, seed));
            let (input, weight, bias) = (values(&shapes.0, 1), values(&shapes.1, 2), values(&[filters], 3));
            let definition = by_definition(shapes, [stride, padding], [&input, &weight, &bias]);
            assert_close(&ours[0], &definition, 1e-6);
            let burns = with_gradients(shapes, |x, w, b| {
                let options = ConvTransposeOptions::new([stride; 2], [padding; 2], [0; 2], [1; 2], 1);
                burn::tensor::module::conv_transpose2d(x, w, Some(b), options)
            });
            for (ours, burns) in ours.iter().zip(&burns) {
                assert_close(ours, burns, 1e-5);
            }
        }
    }

    #[test]
    fn scoring_gives_what_training_gives() {
        let layer = TransposedConv2d { filters: 3, kernel: 3, stride: 2, padding: 1, bias: false };
        let run = |device: &Device| {
            let (input, weight) = (leaf(device, [2, 2, 4, 5], 1), leaf(device, [2, 3, 3, 3], 2));
            values_of(transposed_conv2d(input, weight, None, &layer))
        };
        assert_eq!(run(&Device::flex()), run(&Device::flex().autodiff()));
    }
}
