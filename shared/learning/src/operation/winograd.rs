//! Three by three convolution with fewer multiplications: F(2x2, 3x3) of Winograd, as Lavin and Gray 2016 use it.
//!
//! A tile of two by two outputs needs four by four inputs. With kernel `g` and input `d`, transformed to `U = G g Gᵀ` and
//! `V = Bᵀ d B`, the outputs are `Aᵀ (U ⊙ V) A`: 16 multiplications where the definition has 36. Summed over channels, each
//! of the 16 places is a matrix product over all tiles. Gradients are the transposes of these maps, with the same products.

mod transform;

use rayon::prelude::*;

use super::kernel::Wanted;
use super::product::{Matrix, Target, multiply};
use super::scratch;
use super::unfold::Windows;
use transform::{
    fold_inputs, kernel_gradient_of_filter, kernels_of_filter, transform_inputs, transform_outputs,
    transform_slopes,
};

/// Places of a transformed tile.
const PLACES: usize = 16;
/// Tiles that make a product fast; more leave the cache.
const TILES: usize = 128;
/// Below so many channels or filters the transformations take as many operations as the products save.
const LEAST: usize = 32;

/// Sides of a convolution in tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    windows: Windows,
    down: usize,
    across: usize,
    /// Images transformed together.
    group: usize,
}

impl Tiles {
    /// The tiles of a convolution for which they pay.
    pub(super) fn of(windows: Windows) -> Option<Self> {
        let Windows { channels, filters, kernel, stride, padding, dilation, .. } = windows;
        let fits = kernel == 3 && stride == 1 && dilation == 1;
        let pays = fits && padding <= 2 && channels >= LEAST && filters >= LEAST;
        pays.then(|| Self::new(windows))
    }

    fn new(windows: Windows) -> Self {
        let (down, across) = (windows.rows.div_ceil(2), windows.columns.div_ceil(2));
        let per_thread = windows.images.div_ceil(rayon::current_num_threads()).max(1);
        let group = TILES.div_ceil(down * across).clamp(1, per_thread);
        Self { windows, down, across, group }
    }

    /// Tiles of an image.
    const fn tiles(&self) -> usize {
        self.down * self.across
    }

    /// Numbers beside the matrices: planes of a channel and some lines.
    const fn scratch(&self, tiles: usize) -> usize {
        self.planes(tiles) + 6 * tiles
    }

    /// Convolves all images of `input` and adds each filter's bias.
    pub(super) fn forward(&self, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let Windows { images, channels, filters, .. } = self.windows;
        let kernels = self.kernels(weight);
        let mut results = vec![0.0; images * self.windows.result()];
        results
            .par_chunks_mut(self.group * self.windows.result())
            .zip(input.par_chunks(self.group * self.windows.image()))
            .for_each(|(results, images)| {
                let tiles = results.len() / self.windows.result() * self.tiles();
                let lengths = [PLACES * channels * tiles, PLACES * filters * tiles, self.scratch(tiles)];
                scratch::with(lengths, |[inputs, products, plane]| {
                    transform_inputs(self, images, tiles, inputs, plane);
                    for place in 0..PLACES {
                        let kernel = Matrix::new(&kernels[place * filters * channels..], filters, channels);
                        let input = Matrix::new(&inputs[place * channels * tiles..], channels, tiles);
                        let product = &mut products[place * filters * tiles..][..filters * tiles];
                        multiply(kernel, input, product, Target::Replace);
                    }
                    transform_outputs(self, products, tiles, plane, bias, results);
                });
            });
        results
    }

    /// The gradients of the input, where it is wanted, and of the weight.
    pub(super) fn backward(
        &self,
        input: &[f32],
        weight: &[f32],
        slope: &[f32],
        wanted: Wanted,
    ) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
        let Windows { images, channels, filters, .. } = self.windows;
        let kernels = if wanted.input { self.kernels(weight) } else { Vec::new() };
        let share = images.div_ceil(rayon::current_num_threads()).max(1);
        let mut to_input = vec![0.0; if wanted.input { input.len() } else { 0 }];
        let gradients: Vec<&mut [f32]> = if wanted.input {
            to_input.chunks_mut(share * self.windows.image()).collect()
        } else {
            input.chunks(share * self.windows.image()).map(|_| Default::default()).collect()
        };
        let parts: Vec<Vec<f32>> = gradients
            .into_par_iter()
            .zip(input.par_chunks(share * self.windows.image()))
            .zip(slope.par_chunks(share * self.windows.result()))
            .map(|((gradient, input), slope)| {
                let mut sum = vec![0.0; if wanted.weight { PLACES * filters * channels } else { 0 }];
                self.backward_of_share(&kernels, input, slope, gradient, &mut sum);
                sum
            })
            .collect();
        let to_weight = wanted.weight.then(|| self.kernel_gradient(&parts));
        (wanted.input.then_some(to_input), to_weight)
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
        let Windows { channels, filters, .. } = self.windows;
        let (image, result) = (self.windows.image(), self.windows.result());
        let groups = input.chunks(self.group * image).zip(slope.chunks(self.group * result));
        for (number, (images, slope)) in groups.enumerate() {
            let tiles = slope.len() / result * self.tiles();
            let lengths = [PLACES * channels * tiles, PLACES * filters * tiles, self.scratch(tiles)];
            scratch::with(lengths, |[inputs, slopes, plane]| {
                transform_slopes(self, slope, tiles, plane, slopes);
                let slope = |place: usize| Matrix::new(&slopes[place * filters * tiles..], filters, tiles);
                if !sum.is_empty() {
                    transform_inputs(self, images, tiles, inputs, plane);
                    for place in 0..PLACES {
                        let input = Matrix::new(&inputs[place * channels * tiles..], channels, tiles);
                        let sum = &mut sum[place * filters * channels..][..filters * channels];
                        multiply(slope(place), input.transposed(), sum, Target::Add);
                    }
                }
                if !gradient.is_empty() {
                    for place in 0..PLACES {
                        let kernel = Matrix::new(&kernels[place * filters * channels..], filters, channels);
                        let input = &mut inputs[place * channels * tiles..][..channels * tiles];
                        multiply(kernel.transposed(), slope(place), input, Target::Replace);
                    }
                    let gradient = &mut gradient[number * self.group * image..][..images.len()];
                    fold_inputs(self, inputs, tiles, plane, gradient);
                }
            });
        }
    }

    /// `U = G g Gᵀ` of all kernels, shape `[places, filters, channels]`.
    fn kernels(&self, weight: &[f32]) -> Vec<f32> {
        let Windows { channels, filters, .. } = self.windows;
        let mut out = vec![0.0; PLACES * filters * channels];
        let mut rows: Vec<Vec<&mut [f32]>> = (0..filters).map(|_| Vec::with_capacity(PLACES)).collect();
        for (at, row) in out.chunks_exact_mut(channels).enumerate() {
            rows[at % filters].push(row);
        }
        let kernels = weight.par_chunks_exact(9 * channels);
        rows.into_par_iter()
            .zip(kernels)
            .for_each(|(mut rows, kernels)| kernels_of_filter(&mut rows, kernels));
        out
    }

    /// `Gᵀ S G` of the sum of `parts`, each `[places, filters, channels]`: the weight's gradient.
    fn kernel_gradient(&self, parts: &[Vec<f32>]) -> Vec<f32> {
        let Windows { channels, filters, .. } = self.windows;
        let mut out = vec![0.0; filters * channels * 9];
        let filters = out.par_chunks_exact_mut(9 * channels).enumerate();
        filters.for_each(|(filter, out)| kernel_gradient_of_filter(self, parts, filter, out));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::testing::{assert_close, numbers};
    use crate::operation::unfold::Motion;
    use proptest::prelude::*;

    fn values(shape: &[usize], seed: usize) -> Vec<f32> {
        crate::tensors::values(&numbers(shape, seed))
    }

    /// A convolution by its definition, in f64, and the gradients of `sum(result * slope)`.
    fn by_definition(windows: &Windows, input: &[f32], weight: &[f32], slope: &[f32]) -> [Vec<f32>; 3] {
        let Windows { images, channels, height, width, filters, rows, columns, padding, .. } = *windows;
        let mut result = vec![0.0_f64; slope.len()];
        let (mut to_input, mut to_weight) = (vec![0.0_f64; input.len()], vec![0.0_f64; weight.len()]);
        for image in 0..images {
            for filter in 0..filters {
                for row in 0..rows {
                    for column in 0..columns {
                        let at_result = ((image * filters + filter) * rows + row) * columns + column;
                        for channel in 0..channels {
                            for place in 0..9 {
                                let y = (row + place / 3).checked_sub(padding).filter(|y| *y < height);
                                let x = (column + place % 3).checked_sub(padding).filter(|x| *x < width);
                                let (Some(y), Some(x)) = (y, x) else { continue };
                                let at_input = ((image * channels + channel) * height + y) * width + x;
                                let at_weight = (filter * channels + channel) * 9 + place;
                                let (value, factor) =
                                    (f64::from(input[at_input]), f64::from(weight[at_weight]));
                                let slope = f64::from(slope[at_result]);
                                result[at_result] += value * factor;
                                to_input[at_input] += factor * slope;
                                to_weight[at_weight] += value * slope;
                            }
                        }
                    }
                }
            }
        }
        [result, to_input, to_weight].map(|values| values.into_iter().map(|value| value as f32).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Result and gradients are those of the definition in f64, whatever the sides and the groups.
        #[test]
        fn agrees_with_the_definition(
            (images, channels, filters) in (1_usize..5, 1_usize..6, 1_usize..6),
            (height, width, padding) in (3_usize..12, 3_usize..12, 0_usize..3),
            group in 1_usize..4,
        ) {
            let motion = Motion { stride: 1, padding, dilation: 1 };
            let windows = Windows::new([images, channels, height, width], [filters, channels, 3, 3], motion);
            let mut tiles = Tiles::new(windows);
            tiles.group = group;
            let (input, weight) = (values(&[images, windows.image()], 1), values(&[filters, channels * 9], 2));
            let (slope, bias) = (values(&[images, windows.result()], 3), vec![0.0; filters]);
            let [result, to_input, to_weight] = by_definition(&windows, &input, &weight, &slope);
            assert_close(&tiles.forward(&input, &weight, &bias), &result, 5e-7);
            let both = Wanted { input: true, weight: true };
            let (got_input, got_weight) = tiles.backward(&input, &weight, &slope, both);
            assert_close(&got_input.unwrap(), &to_input, 5e-7);
            assert_close(&got_weight.unwrap(), &to_weight, 5e-7);
            let (none, alone) = tiles.backward(&input, &weight, &slope, Wanted { input: false, ..both });
            prop_assert!(none.is_none());
            assert_close(&alone.unwrap(), &to_weight, 5e-7);
            let (alone, none) = tiles.backward(&input, &weight, &slope, Wanted { weight: false, ..both });
            prop_assert!(none.is_none());
            assert_close(&alone.unwrap(), &to_input, 5e-7);
        }
    }
}
