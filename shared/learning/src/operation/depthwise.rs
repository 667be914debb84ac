//! Depthwise convolution, with its gradient: each filter sees one channel (Howard et al. 2017).
//!
//! There is no sum over channels, so nothing is gained by a matrix product: for each place of the kernel whole rows of the
//! image are multiplied by one weight. Sums of the weight gradient are taken filter by filter, in the same order whatever the
//! number of threads.

use std::ops::Range;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::fresh::zeros;
use super::kernel::{self, Kernel, Wanted};
use super::normalisation::sum_of_pairs;
use super::unfold::{Motion, Windows};
use super::wide;

/// Convolves each channel of `input` `[cases, channels, height, width]` with its own kernels in `weight`
/// `[filters, 1, kernel, kernel]`, `filters / channels` of them, and adds `bias` `[filters]`.
pub(super) fn depthwise(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    motion: Motion,
) -> Tensor<4> {
    kernel::apply::<Map>(input, weight, bias, motion)
}

/// Sides of a depthwise convolution.
#[derive(Clone, Copy, Debug)]
struct Map {
    /// Of one channel and one filter.
    windows: Windows,
    channels: usize,
    filters: usize,
}

impl Kernel for Map {
    fn new(input: [usize; 4], weight: [usize; 4], motion: Motion) -> Self {
        let ([images, channels, height, width], [filters, _, kernel, _]) = (input, weight);
        let windows = Windows::new([images, 1, height, width], [1, 1, kernel, kernel], motion);
        Self { windows, channels, filters }
    }

    fn result(&self) -> [usize; 4] {
        let Windows { images, rows, columns, .. } = self.windows;
        [images, self.filters, rows, columns]
    }

    fn forward(&self, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        self.convolve(input, weight, bias)
    }

    fn backward(
        &self,
        input: &[f32],
        weight: &[f32],
        slope: &[f32],
        wanted: Wanted,
    ) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
        let of_input = wanted.input.then(|| self.input_gradient(weight, slope));
        (of_input, wanted.weight.then(|| self.weight_gradient(input, slope)))
    }
}

impl Map {
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

    fn convolve(&self, values: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let Windows { images, stride, .. } = self.windows;
        let (plane, outputs, places) = (self.windows.image(), self.windows.outputs(), self.windows.places());
        let mut results = zeros(images * self.filters * outputs);
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
        let mut gradient = zeros(images * self.channels * plane);
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
    use crate::operation::testing::{assert_close, leaf, values_of, with_gradients};
    use burn::tensor::Device;
    use burn::tensor::ops::ConvOptions;
    use proptest::prelude::*;

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
            let shapes = ([cases, channels, height, width], [channels * share, 1, kernel, kernel], channels * share);
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
