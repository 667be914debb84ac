//! Convolution as unfolding and one wide matrix product, with its gradient.
//!
//! Covers ungrouped convolutions, dilated or not, and their transposes; depthwise ones are [`depthwise`]'s, other
//! grouped ones go to burn. Sums of the weight gradient are taken per
//! thread over neighbouring images and then over threads in order, so they are the same bytes for
//! the same number of threads.

use burn::tensor::Tensor;
use consilium_study::graph::Convolution;
use rayon::prelude::*;

use super::LARGE;
use super::anywhere;
use super::depthwise::depthwise;
use super::fresh::zeros;
use super::kernel::{self, Kernel, Wanted};
use super::on_flex;
use super::product::{Matrix, Target, multiply};
use super::scratch;
use super::unfold::{Motion, Windows};
use super::winograd::Winograd;

/// Convolves `input` `[cases, channels, height, width]` with `weight`
/// `[filters, channels / groups, kernel, kernel]` and adds `bias` `[filters]`.
pub(crate) fn conv2d(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    layer: &Convolution,
) -> Tensor<4> {
    let is_depthwise = layer.groups != 1 && layer.groups as usize == input.dims()[1];
    if !on_flex(&input) || layer.groups != 1 && !is_depthwise {
        return anywhere::conv2d(input, weight, bias, layer);
    }
    let [stride, padding, dilation] = [layer.stride, layer.padding, layer.dilation].map(|it| it as usize);
    let motion = Motion { stride, padding, dilation };
    if is_depthwise {
        depthwise(input, weight, bias, motion)
    } else {
        kernel::apply::<Windows>(input, weight, bias, motion)
    }
}

impl Kernel for Windows {
    fn new(input: [usize; 4], weight: [usize; 4], motion: Motion) -> Self {
        Self::new(input, weight, motion)
    }

    fn result(&self) -> [usize; 4] {
        [self.images, self.filters, self.rows, self.columns]
    }

    /// The shortcut around a block that halves the sides: one product for each input channel and value.
    fn is_made_again(&self) -> bool {
        self.kernel == 1 && self.stride > 1 && self.images * self.result() >= LARGE
    }

    fn forward(&self, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        convolve(self, input, weight, bias)
    }

    fn backward(
        &self,
        input: &[f32],
        weight: &[f32],
        slope: &[f32],
        wanted: Wanted,
    ) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
        if let Some(winograd) = Winograd::of(*self) {
            return winograd.backward(input, weight, slope, wanted);
        }
        let of_input = wanted.input.then(|| input_gradient(self, weight, slope));
        (of_input, wanted.weight.then(|| weight_gradient(self, input, slope)))
    }
}

/// Convolves all images of `values` and adds each filter's bias.
pub(super) fn convolve(windows: &Windows, values: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    if let Some(winograd) = Winograd::of(*windows) {
        return winograd.forward(values, weight, bias);
    }
    let mut results = zeros(windows.images * windows.result());
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
                multiply(weight, unfolded, products, wide, Target::Replace);
                windows.scatter(products, count, bias, results);
            });
        });
    results
}

pub(super) fn input_gradient(windows: &Windows, weight: &[f32], slope: &[f32]) -> Vec<f32> {
    let mut gradient = zeros(windows.images * windows.image());
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
                multiply(weight, gathered, unfolded, wide, Target::Replace);
                windows.fold(unfolded, count, images);
            });
        });
    gradient
}

pub(super) fn weight_gradient(windows: &Windows, input: &[f32], slope: &[f32]) -> Vec<f32> {
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
                    multiply(gathered, unfolded, &mut sum, windows.places(), Target::Add);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::testing::{assert_close, leaf, values_of, with_gradients};
    use burn::tensor::Device;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Ours and burn's agree in the result and in all three gradients, whatever the sides.
        #[test]
        fn agrees_with_burn(
            (cases, channels, filters) in (1_usize..5, 1_usize..5, 1_usize..6),
            (kernel, stride, padding, dilation) in (1_usize..5, 1_usize..4, 0_usize..5, 1_usize..4),
            (height, width) in (5_usize..12, 5_usize..12),
        ) {
            let extent = dilation * (kernel - 1) + 1;
            prop_assume!(padding < extent && extent <= height.min(width) + 2 * padding);
            let layer = Convolution {
                filters: filters as u32, kernel: kernel as u32, stride: stride as u32,
                padding: padding as u32, groups: 1, bias: true, dilation: dilation as u32,
            };
            let shapes = ([cases, channels, height, width], [filters, channels, kernel, kernel], filters);
            let ours = with_gradients(shapes, |x, w, b| conv2d(x, w, Some(b), &layer));
            let burns = with_gradients(shapes, |x, w, b| anywhere::conv2d(x, w, Some(b), &layer));
            for (ours, burns) in ours.iter().zip(&burns) {
                assert_close(ours, burns, 1e-5);
            }
        }
    }

    /// Depthwise is as many groups as channels.
    #[test]
    fn each_group_sees_its_channels_alone() {
        for (groups, filters, dilation) in [(2, 4, 1), (4, 4, 1), (4, 8, 1), (4, 4, 2)] {
            let layer =
                Convolution { filters, kernel: 3, stride: 2, padding: 1, groups, bias: true, dilation };
            let (share, per_group) = (4 / groups as usize, (filters / groups) as usize);
            let shapes = ([2, 4, 7, 6], [filters as usize, share, 3, 3], filters as usize);
            let ours = with_gradients(shapes, |x, w, b| conv2d(x, w, Some(b), &layer));
            let one = Convolution { filters: filters / groups, groups: 1, ..layer };
            let parts = with_gradients(shapes, |x, w, b| {
                let part = |group: usize| {
                    conv2d(
                        x.clone().narrow(1, group * share, share),
                        w.clone().narrow(0, group * per_group, per_group),
                        Some(b.clone().narrow(0, group * per_group, per_group)),
                        &one,
                    )
                };
                Tensor::cat((0..groups as usize).map(part).collect(), 1)
            });
            for (ours, parts) in ours.iter().zip(&parts) {
                assert_close(ours, parts, 1e-5);
            }
        }
    }

    #[test]
    fn scoring_gives_what_training_gives() {
        let layer =
            Convolution { filters: 3, kernel: 3, stride: 2, padding: 1, groups: 1, bias: false, dilation: 1 };
        let run = |device: &Device| {
            values_of(conv2d(leaf(device, [2, 2, 7, 5], 1), leaf(device, [3, 2, 3, 3], 2), None, &layer))
        };
        assert_eq!(run(&Device::flex()), run(&Device::flex().autodiff()));
    }
}
