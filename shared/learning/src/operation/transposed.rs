//! Transposed convolution, with its gradient: what is the gradient of a convolution there is the result here, and the other
//! way round.

use burn::tensor::Tensor;
use consilium_study::graph::TransposedConvolution;
use rayon::prelude::*;

use super::convolution::{convolve, input_gradient, weight_gradient};
use super::kernel::{self, Kernel, Wanted};
use super::unfold::{Motion, Windows};
use super::{anywhere, on_flex};

/// Spreads `input` `[cases, channels, height, width]` by `weight` `[channels, filters, kernel, kernel]` and adds `bias`
/// `[filters]`.
pub(crate) fn transposed_conv2d(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    layer: &TransposedConvolution,
) -> Tensor<4> {
    if !on_flex(&input) {
        return anywhere::transposed_conv2d(input, weight, bias, layer);
    }
    let motion = Motion { stride: layer.stride as usize, padding: layer.padding as usize, dilation: 1 };
    kernel::apply::<Transposed>(input, weight, bias, motion)
}

/// The convolution whose transpose this is: from our output, shape `[cases, filters, height, width]`, to our input.
#[derive(Clone, Copy, Debug)]
struct Transposed(Windows);

impl Kernel for Transposed {
    fn new(input: [usize; 4], weight: [usize; 4], motion: Motion) -> Self {
        let ([cases, _, rows, columns], [_, filters, kernel, _]) = (input, weight);
        let side = |side: usize| (side - 1) * motion.stride + kernel - 2 * motion.padding;
        Self(Windows::new([cases, filters, side(rows), side(columns)], weight, motion))
    }

    fn result(&self) -> [usize; 4] {
        let Windows { images, channels, height, width, .. } = self.0;
        [images, channels, height, width]
    }

    fn forward(&self, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let Windows { channels, height, width, .. } = self.0;
        let mut results = input_gradient(&self.0, weight, input);
        results.par_chunks_exact_mut(height * width).enumerate().for_each(|(index, plane)| {
            let bias = bias[index % channels];
            for value in plane {
                *value += bias;
            }
        });
        results
    }

    fn backward(
        &self,
        input: &[f32],
        weight: &[f32],
        slope: &[f32],
        wanted: Wanted,
    ) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
        let none = vec![0.0; self.0.filters];
        let of_input = wanted.input.then(|| convolve(&self.0, slope, weight, &none));
        (of_input, wanted.weight.then(|| weight_gradient(&self.0, slope, input)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::testing::{assert_close, leaf, numbers, values_of, with_gradients};
    use burn::tensor::Device;
    use proptest::prelude::*;

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
            let layer = TransposedConvolution {
                filters: filters as u32, kernel: kernel as u32, stride: stride as u32,
                padding: padding as u32, bias: true,
            };
            let shapes = ([cases, channels, height, width], [channels, filters, kernel, kernel], filters);
            let ours = with_gradients(shapes, |x, w, b| transposed_conv2d(x, w, Some(b), &layer));
            let values = |shape: &[usize], seed| crate::tensors::values(&numbers(shape, seed));
            let (input, weight, bias) = (values(&shapes.0, 1), values(&shapes.1, 2), values(&[filters], 3));
            let definition = by_definition((shapes.0, shapes.1), [stride, padding], [&input, &weight, &bias]);
            assert_close(&ours[0], &definition, 1e-6);
            let burns = with_gradients(shapes, |x, w, b| anywhere::transposed_conv2d(x, w, Some(b), &layer));
            for (ours, burns) in ours.iter().zip(&burns) {
                assert_close(ours, burns, 1e-5);
            }
        }
    }

    #[test]
    fn scoring_gives_what_training_gives() {
        let layer = TransposedConvolution { filters: 3, kernel: 3, stride: 2, padding: 1, bias: false };
        let run = |device: &Device| {
            let (input, weight) = (leaf(device, [2, 2, 4, 5], 1), leaf(device, [2, 3, 3, 3], 2));
            values_of(transposed_conv2d(input, weight, None, &layer))
        };
        assert_eq!(run(&Device::flex()), run(&Device::flex().autodiff()));
    }
}
