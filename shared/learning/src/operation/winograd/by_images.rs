//! Each thread takes some images, a group of them at a time.

use rayon::prelude::*;

use super::layout::Layout;
use super::transform::{
    fold_inputs, fold_kernels, transform_inputs, transform_kernels, transform_outputs, transform_slopes,
};
use super::{Gradients, Tiles};
use crate::operation::product::{Target, multiply};
use crate::operation::scratch;
use crate::operation::unfold::Windows;

impl<const OUT: usize, const READ: usize> Tiles<OUT, READ> {
    pub(super) fn forward_by_images(&self, input: &[f32], weight: &[f32], bias: &[f32], results: &mut [f32]) {
        let (image, result, of_kernels) = (self.windows.image(), self.windows.result(), self.kernels());
        let groups = results.par_chunks_mut(self.group * result).zip(input.par_chunks(self.group * image));
        self.with_kernels(weight, |kernels| {
            groups.for_each(|(results, images)| {
                self.with_scratch(results.len(), |group, [inputs, products, padded, covered]| {
                    transform_inputs(self, images, 0, group.inputs, inputs, padded);
                    for place in 0..Self::PLACES {
                        let kernel = of_kernels.matrix(kernels, place);
                        let input = group.inputs.matrix(inputs, place);
                        let product = &mut products[place * group.outputs.place..];
                        multiply(kernel, input, product, group.outputs.row, Target::Replace);
                    }
                    let results = results.chunks_exact_mut(result).collect();
                    transform_outputs(self, group.outputs, products, covered, bias, results);
                });
            });
        });
    }

    pub(super) fn backward_by_images(
        &self,
        input: &[f32],
        weight: &[f32],
        slope: &[f32],
        (to_input, to_weight): Gradients,
    ) {
        let Windows { images, channels, filters, .. } = self.windows;
        let (image, result) = (self.windows.image(), self.windows.result());
        let share = images.div_ceil(rayon::current_num_threads()).max(1);
        let shares = images.div_ceil(share);
        let sum = if to_weight.is_some() { Self::PLACES * filters * channels } else { 0 };
        let weight = if to_input.is_some() { weight } else { &[] };
        let gradients = parts(to_input.unwrap_or_default(), share * image, shares);
        self.with_kernels(weight, |kernels| {
            scratch::with([shares * sum], |[sums]| {
                gradients
                    .into_par_iter()
                    .zip(parts(sums, sum, shares))
                    .zip(input.par_chunks(share * image))
                    .zip(slope.par_chunks(share * result))
                    .for_each(|(((gradient, sum), input), slope)| {
                        self.backward_of_share(kernels, input, slope, gradient, sum);
                    });
                if let Some(gradient) = to_weight {
                    let parts: Vec<&[f32]> = sums.chunks_exact(sum).collect();
                    let filters = gradient.par_chunks_exact_mut(9 * channels).enumerate();
                    filters.for_each(|(filter, gradient)| {
                        fold_kernels::<OUT, READ>(&parts, filter, self.kernel_sums(), gradient);
                    });
                }
            });
        });
    }

    /// One thread's images: `gradient` of the input and `sum` of the transformed kernels', either of which may be empty.
    fn backward_of_share(
        &self,
        kernels: &[f32],
        input: &[f32],
        slope: &[f32],
        gradient: &mut [f32],
        sum: &mut [f32],
    ) {
        let (image, result) = (self.windows.image(), self.windows.result());
        let (of_kernels, of_sums) = (self.kernels(), self.kernel_sums());
        let groups = input.chunks(self.group * image).zip(slope.chunks(self.group * result));
        for (number, (images, slope)) in groups.enumerate() {
            self.with_scratch(slope.len(), |group, [inputs, slopes, padded, covered]| {
                transform_slopes(self, slope, 0, group.outputs, slopes, covered);
                if !sum.is_empty() {
                    transform_inputs(self, images, 0, group.inputs, inputs, padded);
                    let target = if number == 0 { Target::Replace } else { Target::Add };
                    for place in 0..Self::PLACES {
                        let slope = group.outputs.matrix(slopes, place);
                        let input = group.inputs.matrix(inputs, place).transposed();
                        multiply(slope, input, &mut sum[place * of_sums.place..], of_sums.row, target);
                    }
                }
                if !gradient.is_empty() {
                    for place in 0..Self::PLACES {
                        let kernel = of_kernels.matrix(kernels, place).transposed();
                        let slope = group.outputs.matrix(slopes, place);
                        let input = &mut inputs[place * group.inputs.place..];
                        multiply(kernel, slope, input, group.inputs.row, Target::Replace);
                    }
                    let gradient = &mut gradient[number * self.group * image..][..images.len()];
                    let gradient = gradient.chunks_exact_mut(image).collect();
                    fold_inputs(self, group.inputs, inputs, padded, gradient);
                }
            });
        }
    }

    /// Lends transformed inputs and outputs of a group with so many `outputs`, and their planes.
    fn with_scratch(&self, outputs: usize, work: impl FnOnce(Group, [&mut [f32]; 4])) {
        let Windows { channels, filters, .. } = self.windows;
        let images = outputs / self.windows.result();
        let of = |rows| Layout::by_places(rows, images * self.tiles);
        let group = Group { inputs: of(channels), outputs: of(filters) };
        let transforms = [channels, filters].map(|rows| rows * images * self.tiles * Self::PLACES);
        let planes = [&self.padded, &self.covered].map(|grid| grid.length(images));
        scratch::with([transforms[0], transforms[1], planes[0], planes[1]], |buffers| work(group, buffers));
    }

    /// Threads transform them together.
    fn kernels(&self) -> Layout {
        Layout::by_rows(self.windows.filters, self.windows.channels, Self::PLACES)
    }

    /// Each thread has its own.
    fn kernel_sums(&self) -> Layout {
        Layout::by_places(self.windows.filters, self.windows.channels)
    }

    /// Lends the transforms of the kernels of `weight`.
    fn with_kernels(&self, weight: &[f32], work: impl FnOnce(&[f32])) {
        let channels = self.windows.channels;
        let layout = Layout { rows: 1, ..self.kernels() };
        scratch::with([weight.len() / 9 * Self::PLACES], |[kernels]| {
            kernels
                .par_chunks_exact_mut(layout.row)
                .zip(weight.par_chunks_exact(9 * channels))
                .for_each(|(kernels, weight)| transform_kernels::<OUT, READ>(weight, 0, layout, kernels));
            work(kernels);
        });
    }
}

/// Where a group's transforms lie.
struct Group {
    inputs: Layout,
    outputs: Layout,
}

/// `values` in parts of `length`, or as many empty ones.
fn parts(values: &mut [f32], length: usize, count: usize) -> Vec<&mut [f32]> {
    if values.is_empty() {
        (0..count).map(|_| Default::default()).collect()
    } else {
        values.chunks_mut(length).collect()
    }
}
