//! Three by three convolution with fewer multiplications: Winograd's F(2x2, 3x3) and F(4x4, 3x3), as Lavin and Gray 2016 use them.
//!
//! A tile of two by two outputs needs four by four inputs, one of four by four needs six by six. With kernel `g` and input `d`,
//! transformed to `U = G g Gᵀ` and `V = Bᵀ d B`, the outputs are `Aᵀ (U ⊙ V) A`: 16 multiplications where the definition has 36,
//! or 36 where it has 144. Summed over channels, each place of a tile is a matrix product over all tiles. Gradients are the
//! transposes of these maps, with the same products.

mod by_channels;
mod by_images;
mod form;
mod layout;
mod transform;

use super::fresh::zeros;
use super::kernel::Wanted;
use super::unfold::Windows;
use transform::Grid;

/// Tiles that make a product fast; more leave the cache.
const TILES: usize = 128;
/// Below so many channels or filters the transformations take as many operations as the products save.
const LEAST: usize = 32;
/// Tiles whose products take as long as transforming a kernel.
const KERNEL: usize = 32;
/// Images for which the larger tiles have to pay. Not those at hand: one form's error or the other's, whatever is scored beside a
/// case.
const IMAGES: usize = 32;

/// A convolution for which tiles pay.
pub(super) enum Winograd {
    Two(Tiles<2, 4>),
    Four(Tiles<4, 6>),
}

impl Winograd {
    pub(super) fn of(windows: Windows) -> Option<Self> {
        let Windows { channels, filters, kernel, stride, padding, dilation, rows, columns, .. } = windows;
        let fits = kernel == 3 && stride == 1 && dilation == 1;
        let pays = fits && padding <= 2 && channels >= LEAST && filters >= LEAST;
        let cost = |side: usize| {
            let tiles = rows.div_ceil(side) * columns.div_ceil(side);
            (side + 2).pow(2) * (IMAGES * tiles + KERNEL)
        };
        pays.then(|| {
            if cost(4) < cost(2) { Self::Four(Tiles::new(windows)) } else { Self::Two(Tiles::new(windows)) }
        })
    }

    /// Convolves all images of `input` and adds each filter's bias.
    pub(super) fn forward(&self, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        match self {
            Self::Two(tiles) => tiles.forward(input, weight, bias),
            Self::Four(tiles) => tiles.forward(input, weight, bias),
        }
    }

    /// The gradients of the input, where it is wanted, and of the weight.
    pub(super) fn backward(
        &self,
        input: &[f32],
        weight: &[f32],
        slope: &[f32],
        wanted: Wanted,
    ) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
        match self {
            Self::Two(tiles) => tiles.backward(input, weight, slope, wanted),
            Self::Four(tiles) => tiles.backward(input, weight, slope, wanted),
        }
    }
}

/// Sides of a convolution in tiles of `OUT` by `OUT` outputs, which read `READ` by `READ` inputs.
#[derive(Clone, Debug)]
pub(super) struct Tiles<const OUT: usize, const READ: usize> {
    windows: Windows,
    /// Tiles of an image.
    tiles: usize,
    /// Images transformed together.
    group: usize,
    /// How the work is shared out.
    shares: Shares,
    /// Inputs with their padding.
    padded: Grid,
    /// Outputs, as many as the tiles cover.
    covered: Grid,
}

/// What a thread takes.
#[derive(Clone, Copy, Debug)]
enum Shares {
    /// Some images, all channels of which fit a cache with the kernels.
    Images,
    /// Some channels or filters of all images: few tiles, whose kernels are longer than they.
    Channels,
}

impl<const OUT: usize, const READ: usize> Tiles<OUT, READ> {
    /// Places of a transformed tile.
    const PLACES: usize = READ * READ;

    fn new(windows: Windows) -> Self {
        let Windows { images, channels, filters, .. } = windows;
        let tiles = windows.rows.div_ceil(OUT) * windows.columns.div_ceil(OUT);
        let long = channels * filters >= TILES * (channels + filters);
        if long && images * tiles <= 4 * TILES {
            return Self::shared_out(windows, images, Shares::Channels);
        }
        let per_thread = images.div_ceil(rayon::current_num_threads()).max(1);
        Self::shared_out(windows, TILES.div_ceil(tiles).clamp(1, per_thread), Shares::Images)
    }

    fn shared_out(windows: Windows, group: usize, shares: Shares) -> Self {
        let (down, across) = (windows.rows.div_ceil(OUT), windows.columns.div_ceil(OUT));
        let grid = |more, margin| Grid::new([group, down, across], OUT, more, margin);
        let (padded, covered) = (grid(READ - OUT, windows.padding), grid(0, 0));
        Self { windows, tiles: down * across, group, shares, padded, covered }
    }

    fn forward(&self, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let mut results = zeros(self.windows.images * self.windows.result());
        match self.shares {
            Shares::Images => self.forward_by_images(input, weight, bias, &mut results),
            Shares::Channels => self.forward_by_channels(input, weight, bias, &mut results),
        }
        results
    }

    fn backward(
        &self,
        input: &[f32],
        weight: &[f32],
        slope: &[f32],
        wanted: Wanted,
    ) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
        let mut to_input = wanted.input.then(|| zeros(input.len()));
        let mut to_weight = wanted.weight.then(|| zeros(weight.len()));
        let wanted = (to_input.as_deref_mut(), to_weight.as_deref_mut());
        match self.shares {
            Shares::Images => self.backward_by_images(input, weight, slope, wanted),
            Shares::Channels => self.backward_by_channels(input, weight, slope, wanted),
        }
        (to_input, to_weight)
    }
}

/// The gradients to write, of input and weight.
type Gradients<'a> = (Option<&'a mut [f32]>, Option<&'a mut [f32]>);

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

    fn agree<const OUT: usize, const READ: usize>(
        windows: Windows,
        group: usize,
        shares: Shares,
        tolerance: f64,
    ) {
        let tiles = Tiles::<OUT, READ>::shared_out(windows, group, shares);
        let Windows { images, channels, filters, .. } = windows;
        let (input, weight) = (values(&[images, windows.image()], 1), values(&[filters, channels * 9], 2));
        let (slope, bias) = (values(&[images, windows.result()], 3), vec![0.0; filters]);
        let [result, to_input, to_weight] = by_definition(&windows, &input, &weight, &slope);
        assert_close(&tiles.forward(&input, &weight, &bias), &result, tolerance);
        let both = Wanted { input: true, weight: true };
        let (got_input, got_weight) = tiles.backward(&input, &weight, &slope, both);
        assert_close(&got_input.unwrap(), &to_input, tolerance);
        assert_close(&got_weight.unwrap(), &to_weight, tolerance);
        let (none, alone) = tiles.backward(&input, &weight, &slope, Wanted { input: false, ..both });
        assert!(none.is_none());
        assert_close(&alone.unwrap(), &to_weight, tolerance);
        let (alone, none) = tiles.backward(&input, &weight, &slope, Wanted { weight: false, ..both });
        assert!(none.is_none());
        assert_close(&alone.unwrap(), &to_input, tolerance);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Result and gradients are those of the definition in f64, whatever the sides and the groups.
        #[test]
        fn agrees_with_the_definition(
            (images, channels, filters) in (1_usize..5, 1_usize..40, 1_usize..6),
            (height, width, padding) in (3_usize..15, 3_usize..15, 0_usize..3),
            group in 1_usize..4,
        ) {
            let motion = Motion { stride: 1, padding, dilation: 1 };
            let windows = Windows::new([images, channels, height, width], [filters, channels, 3, 3], motion);
            for (group, shares) in [(group, Shares::Images), (images, Shares::Channels)] {
                agree::<2, 4>(windows, group, shares, 5e-7);
                agree::<4, 6>(windows, group, shares, 3e-6);
            }
        }
    }

    fn of(channels: usize, side: usize, stride: usize) -> Option<Winograd> {
        let motion = Motion { stride, padding: 1, dilation: 1 };
        Winograd::of(Windows::new([2, channels, side, side], [channels, channels, 3, 3], motion))
    }

    #[test]
    fn tiles_and_shares_are_those_that_pay() {
        assert!(matches!(of(64, 28, 1), Some(Winograd::Four(Tiles { shares: Shares::Images, .. }))));
        assert!(matches!(of(256, 7, 1), Some(Winograd::Four(Tiles { shares: Shares::Channels, .. }))));
        assert!(matches!(of(64, 2, 1), Some(Winograd::Two(Tiles { shares: Shares::Images, .. }))));
        assert!(matches!(of(256, 2, 1), Some(Winograd::Two(Tiles { shares: Shares::Channels, .. }))));
        assert!(of(31, 28, 1).is_none() && of(64, 28, 2).is_none());
        let motion = Motion { stride: 1, padding: 1, dilation: 1 };
        let many = Windows::new([64, 256, 16, 16], [256, 256, 3, 3], motion);
        assert!(matches!(Winograd::of(many), Some(Winograd::Four(Tiles { shares: Shares::Images, .. }))));
    }
}
