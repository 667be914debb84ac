//! Layers over depth, height and width, made of those over height and width.
//!
//! A volume is kept as its slices, `[cases * depth, channels, height, width]`, so a layer that knows no depth takes it as it
//! is. A kernel of three sides is one of two over slices that lie beneath each other as channels: the same products, in
//! convolutions that are quick already. The other way, through burn's own, would be a second set of operations to keep exact.

use burn::tensor::Tensor;
use consilium_study::graph::{Convolution, Pool, TransposedConvolution};

use super::convolution::conv2d;
use super::planes::{largest, pick};
use super::pooling::{average_pool, max_pool};
use super::transposed::transposed_conv2d;

/// Slices of volumes.
#[derive(Clone)]
pub(crate) struct Volumes {
    /// Those of a case follow each other: `[cases * depth, channels, height, width]`. Pictures are volumes of one slice.
    pub(crate) slices: Tensor<4>,
    /// Slices of a case.
    pub(crate) depth: usize,
}

impl Volumes {
    /// Slices after a layer that works on each on its own.
    pub(crate) fn map(self, layer: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Self {
        Self { slices: layer(self.slices), depth: self.depth }
    }

    /// Cases.
    pub(crate) fn cases(&self) -> usize {
        self.slices.dims()[0] / self.depth
    }

    /// Each case as one tall image, `[cases, channels, depth * height, width]`: what a layer that looks at cases as wholes, and
    /// not at where places lie, may take for a volume.
    pub(crate) fn tall(self) -> Tensor<4> {
        if self.depth == 1 {
            return self.slices;
        }
        let (cases, depth) = (self.cases(), self.depth);
        let [_, channels, height, width] = self.slices.dims();
        let volumes = self.slices.reshape([cases, depth, channels, height, width]);
        volumes.swap_dims(1, 2).reshape([cases, channels, depth * height, width])
    }

    /// The way back from [`Self::tall`].
    pub(crate) fn from_tall(tall: Tensor<4>, depth: usize) -> Self {
        if depth == 1 {
            return Self { slices: tall, depth };
        }
        let [cases, channels, rows, width] = tall.dims();
        let volumes = tall.reshape([cases, channels, depth, rows / depth, width]);
        let slices = volumes.swap_dims(1, 2).reshape([cases * depth, channels, rows / depth, width]);
        Self { slices, depth }
    }

    /// Mean of each channel over all places, `[cases, channels]`.
    pub(crate) fn means(&self) -> Tensor<2> {
        let (cases, depth) = (self.cases(), self.depth);
        let [slices, channels, height, width] = self.slices.dims();
        let of_slices = self.slices.clone().reshape([slices, channels, height * width]).mean_dim(2);
        if depth == 1 {
            return of_slices.reshape([cases, channels]);
        }
        of_slices.reshape([cases, depth, channels]).mean_dim(1).reshape([cases, channels])
    }

    /// Each channel of each case times one of `factors`, `[cases, channels]`.
    pub(crate) fn scaled(self, factors: Tensor<2>) -> Self {
        let depth = self.depth;
        let [cases, channels] = factors.dims();
        let factors = factors.reshape([cases, 1, channels]).expand([cases, depth, channels]);
        let factors = factors.reshape([cases * depth, channels, 1, 1]);
        self.map(|slices| slices * factors)
    }

    /// The slices under each of a row of windows, `[cases * windows, window, channels, height, width]`: `under` names them,
    /// window after window of so many places, and none for a slice of zeros.
    fn under(self, window: usize, under: &[Option<usize>]) -> Tensor<5> {
        let [_, channels, height, width] = self.slices.dims();
        let windows = self.cases() * under.len() / window;
        let of_slice = |slice: &Option<usize>| {
            let first = slice.map(|slice| slice * channels);
            (0..channels).map(move |channel| first.map(|first| first + channel))
        };
        let taken = under.iter().flat_map(of_slice).collect();
        pick(self.cases_of_planes(), taken).reshape([windows, window, channels, height, width])
    }

    /// The slices under windows as so many more channels, `[cases * windows, channels * window, height, width]`.
    fn stacked(self, window: usize, under: &[Option<usize>]) -> Tensor<4> {
        let [_, channels, height, width] = self.slices.dims();
        let windows = self.cases() * under.len() / window;
        let place = |slice: Option<usize>, channel| slice.map(|slice| slice * channels + channel);
        let of_window = |slices: &[Option<usize>]| by_channel(channels, slices, place);
        let taken = under.chunks_exact(window).flat_map(of_window).collect();
        pick(self.cases_of_planes(), taken).reshape([windows, channels * window, height, width])
    }

    /// All planes of a case in a row, slice by slice: `[cases, depth * channels, height, width]`.
    fn cases_of_planes(self) -> Tensor<4> {
        let (cases, depth) = (self.cases(), self.depth);
        let [_, channels, height, width] = self.slices.dims();
        self.slices.reshape([cases, depth * channels, height, width])
    }
}

/// Convolves volumes with `weight` `[filters, channels / groups * kernel, kernel, kernel]`, the second side of which is
/// channels and the kernel's depth, and adds `bias` `[filters]`.
pub(crate) fn conv3d(
    input: Volumes,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    layer: &Convolution,
) -> Volumes {
    let [kernel, stride, padding, dilation] =
        [layer.kernel, layer.stride, layer.padding, layer.dilation].map(|it| it as usize);
    let depth = input.depth;
    let after = (depth + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
    let under: Vec<Option<usize>> = (0..after)
        .flat_map(|at| (0..kernel).map(move |tap| at * stride + tap * dilation))
        .map(|place| place.checked_sub(padding).filter(|place| *place < depth))
        .collect();
    Volumes { slices: conv2d(input.stacked(kernel, &under), weight, bias, layer), depth: after }
}

/// Spreads volumes by `weight` `[channels, filters * kernel, kernel, kernel]`, the second side of which is filters and the
/// kernel's depth, and adds `bias` `[filters]`.
pub(crate) fn transposed_conv3d(
    input: Volumes,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    layer: &TransposedConvolution,
) -> Volumes {
    let [kernel, stride, padding] = [layer.kernel, layer.stride, layer.padding].map(|it| it as usize);
    let (channels, filters) = (weight.dims()[0], layer.filters as usize);
    let depth = input.depth;
    let after = (depth - 1) * stride + kernel - 2 * padding;
    // A slice of the output gets what each tap of the kernel makes of the slice that it spreads to there.
    let from = |at: usize, tap: usize| {
        let place = (at + padding).checked_sub(tap).filter(|place| place.is_multiple_of(stride))?;
        Some(place / stride).filter(|place| *place < depth)
    };
    let under: Vec<Option<usize>> =
        (0..after).flat_map(|at| (0..kernel).map(move |tap| from(at, tap))).collect();
    let weight = weight.reshape([channels, filters, kernel, kernel, kernel]).swap_dims(1, 2);
    let weight = weight.reshape([channels * kernel, filters, kernel, kernel]);
    Volumes { slices: transposed_conv2d(input.stacked(kernel, &under), weight, bias, layer), depth: after }
}

/// Largest value of each window. Padding never wins.
pub(crate) fn max_pool3d(input: Volumes, pool: &Pool) -> Volumes {
    let (depth, input) = (input.depth, input.map(|slices| max_pool(slices, pool)));
    let ([_, channels, height, width], cases, size) =
        (input.slices.dims(), input.cases(), pool.size as usize);
    // Half of a window at most is padding, so the slice at the rim lies under it, too.
    let under: Vec<_> =
        places(depth, pool).map(|place| place.clamp(0, depth.cast_signed() - 1) as usize).collect();
    let of_window =
        |slices: &[usize]| by_channel(channels, slices, |slice, channel| slice * channels + channel);
    let taken = under.chunks_exact(size).flat_map(of_window).collect();
    let depth = under.len() / size;
    let slices = largest(input.cases_of_planes(), taken, size);
    Volumes { slices: slices.reshape([cases * depth, channels, height, width]), depth }
}

/// Mean of each window. Padding counts as zeros.
pub(crate) fn average_pool3d(input: Volumes, pool: &Pool) -> Volumes {
    let (depth, input) = (input.depth, input.map(|slices| average_pool(slices, pool)));
    let inside = |place: isize| usize::try_from(place).ok().filter(|place| *place < depth);
    let under: Vec<_> = places(depth, pool).map(inside).collect();
    let (depth, windows) = (under.len() / pool.size as usize, input.under(pool.size as usize, &under));
    let [slices, _, channels, height, width] = windows.dims();
    Volumes { slices: windows.mean_dim(1).reshape([slices, channels, height, width]), depth }
}

/// Where the windows of a pool lie over depth, place after place.
fn places(depth: usize, pool: &Pool) -> impl Iterator<Item = isize> {
    let [size, stride, padding] =
        [pool.size, pool.stride(), pool.padding].map(|it| (it as usize).cast_signed());
    let after = (depth.cast_signed() + 2 * padding - size) / stride + 1;
    (0..after).flat_map(move |at| (0..size).map(move |tap| at * stride + tap - padding))
}

/// What `of` says of each slice and channel, all slices of a channel first.
fn by_channel<S: Copy, T>(channels: usize, slices: &[S], of: impl Fn(S, usize) -> T) -> Vec<T> {
    let pairs = (0..channels).flat_map(|channel| slices.iter().map(move |slice| (*slice, channel)));
    pairs.map(|(slice, channel)| of(slice, channel)).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
    use burn::tensor::{Device, module};

    use super::*;
    use crate::operation::testing::{assert_close, leaf, numbers, values_of};

    /// `[cases, channels, depth, height, width]` as slices.
    fn volumes(whole: Tensor<5>) -> Volumes {
        let [cases, channels, depth, height, width] = whole.dims();
        let slices = whole.swap_dims(1, 2).reshape([cases * depth, channels, height, width]);
        Volumes { slices, depth }
    }

    /// And back.
    fn whole(volumes: Volumes) -> Tensor<5> {
        let (cases, depth) = (volumes.cases(), volumes.depth);
        let [_, channels, height, width] = volumes.slices.dims();
        volumes.slices.reshape([cases, depth, channels, height, width]).swap_dims(1, 2)
    }

    /// Result, and gradients by input, weight and bias of a sum in which each value counts another time.
    fn with_gradients(
        (input, weight, bias): ([usize; 5], [usize; 5], usize),
        apply: impl Fn(Tensor<5>, Tensor<5>, Tensor<1>) -> Tensor<5>,
    ) -> [Vec<f32>; 4] {
        let device = Device::flex().autodiff();
        let (input, weight, bias) =
            (leaf(&device, input, 1), leaf(&device, weight, 2), leaf(&device, [bias], 3));
        let result = apply(input.clone(), weight.clone(), bias.clone());
        let slopes = Tensor::<5>::from_data(numbers(&result.dims(), 4), &device);
        let gradients = (result.clone() * slopes).sum().backward();
        let missing = "every leaf has a gradient";
        [
            values_of(result),
            values_of(input.grad(&gradients).expect(missing)),
            values_of(weight.grad(&gradients).expect(missing)),
            values_of(bias.grad(&gradients).expect(missing)),
        ]
    }

    fn same(
        shapes: ([usize; 5], [usize; 5], usize),
        ours: impl Fn(Tensor<5>, Tensor<5>, Tensor<1>) -> Tensor<5>,
        theirs: impl Fn(Tensor<5>, Tensor<5>, Tensor<1>) -> Tensor<5>,
    ) {
        let (ours, theirs) = (with_gradients(shapes, ours), with_gradients(shapes, theirs));
        for (one, other) in ours.iter().zip(&theirs) {
            assert_close(one, other, 2e-5);
        }
    }

    /// The second and third side as one.
    fn folded(weight: Tensor<5>) -> Tensor<4> {
        let [one, two, kernel, ..] = weight.dims();
        weight.reshape([one, two * kernel, kernel, kernel])
    }

    #[test]
    fn convolutions_are_burns() {
        for (kernel, stride, padding, dilation, groups) in [
            (3, 1, 1, 1, 1),
            (3, 2, 1, 1, 1),
            (2, 1, 0, 2, 2),
            (1, 2, 0, 1, 1),
            (3, 1, 2, 2, 4),
            (5, 3, 4, 1, 1),
        ] {
            let layer = Convolution { filters: 4, kernel, stride, padding, groups, bias: true, dilation };
            let [side, stride, padding, dilation, groups] =
                [kernel, stride, padding, dilation, groups].map(|it| it as usize);
            let shapes = ([2, 4, 6, 7, 8], [4, 4 / groups, side, side, side], 4);
            same(
                shapes,
                |input, weight, bias| whole(conv3d(volumes(input), folded(weight), Some(bias), &layer)),
                |input, weight, bias| {
                    let options = ConvOptions::new([stride; 3], [padding; 3], [dilation; 3], groups);
                    module::conv3d(input, weight, Some(bias), options)
                },
            );
        }
    }

    #[test]
    fn transposed_convolutions_are_burns() {
        for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (4, 3, 2), (1, 2, 0)] {
            let layer = TransposedConvolution { filters: 3, kernel, stride, padding, bias: true };
            let [side, stride, padding] = [kernel, stride, padding].map(|it| it as usize);
            same(
                ([2, 4, 3, 4, 5], [4, 3, side, side, side], 3),
                |input, weight, bias| {
                    whole(transposed_conv3d(volumes(input), folded(weight), Some(bias), &layer))
                },
                |input, weight, bias| {
                    let options = ConvTransposeOptions::new([stride; 3], [padding; 3], [0; 3], [1; 3], 1);
                    module::conv_transpose3d(input, weight, Some(bias), options)
                },
            );
        }
    }

    /// Windows one by one.
    fn slowly(input: &[f32], sides: [usize; 5], pool: &Pool, of: impl Fn(&[f32], usize) -> f32) -> Vec<f32> {
        let [cases, channels, depth, height, width] = sides;
        let [size, stride, padding] = [pool.size, pool.stride(), pool.padding].map(|it| it as usize);
        let after = |side: usize| (side + 2 * padding - size) / stride + 1;
        let mut out = Vec::new();
        for plane in 0..cases * channels {
            for (z, y, x) in (0..after(depth))
                .flat_map(|z| (0..after(height)).flat_map(move |y| (0..after(width)).map(move |x| (z, y, x))))
            {
                let mut window = Vec::new();
                let along = |at: usize, side: usize| {
                    (at * stride..at * stride + size)
                        .filter_map(move |place| place.checked_sub(padding).filter(|place| *place < side))
                };
                for z in along(z, depth) {
                    for y in along(y, height) {
                        window.extend(
                            along(x, width).map(|x| input[((plane * depth + z) * height + y) * width + x]),
                        );
                    }
                }
                out.push(of(&window, size.pow(3)));
            }
        }
        out
    }

    #[test]
    fn pools_are_largest_values_and_means_of_their_windows() {
        let sides = [2, 3, 6, 7, 5];
        let input = numbers(&sides, 1);
        let values = crate::tensors::values(&input);
        for (size, stride, padding) in
            [(2, None, 0), (3, Some(2), 1), (3, Some(1), 1), (2, Some(3), 1), (5, None, 2)]
        {
            let pool = Pool { size, stride, padding };
            let at = || volumes(Tensor::from_data(input.clone(), &Device::flex()));
            let largest =
                slowly(&values, sides, &pool, |window, _| window.iter().copied().fold(f32::MIN, f32::max));
            assert_close(&values_of(whole(max_pool3d(at(), &pool))), &largest, 1e-6);
            let means =
                slowly(&values, sides, &pool, |window, count| window.iter().sum::<f32>() / count as f32);
            assert_close(&values_of(whole(average_pool3d(at(), &pool))), &means, 1e-5);
        }
    }

    /// The gradient of a largest value goes where it stood. All values differ.
    #[test]
    fn a_pools_gradient_goes_to_the_largest() {
        let sides = [1, 2, 5, 6, 4];
        let values = crate::tensors::values(&numbers(&sides, 1));
        for (size, stride, padding) in [(2, None, 0), (3, Some(2), 1), (3, Some(1), 1)] {
            let pool = Pool { size, stride, padding };
            let device = Device::flex().autodiff();
            let input = leaf::<5>(&device, sides, 1);
            let largest = whole(max_pool3d(volumes(input.clone()), &pool));
            let slopes = Tensor::<5>::from_data(numbers(&largest.dims(), 4), &device);
            let gradients = (largest.clone() * slopes.clone()).sum().backward();
            let mut wanted = vec![0.0; values.len()];
            for (largest, slope) in values_of(largest).into_iter().zip(values_of(slopes)) {
                let place = values.iter().position(|value| value.to_bits() == largest.to_bits()).unwrap();
                wanted[place] += slope;
            }
            let got = values_of(input.grad(&gradients).expect("a leaf has a gradient"));
            assert_close(&got, &wanted, 1e-6);
        }
    }

    /// Divergence stays visible.
    #[test]
    fn no_number_wins_in_a_pool() {
        let mut values = vec![0.0; 64];
        values[21] = f32::NAN;
        let input = burn::tensor::TensorData::new(values, [1, 1, 4, 4, 4]);
        let pool = Pool { size: 2, stride: None, padding: 0 };
        let largest = max_pool3d(volumes(Tensor::from_data(input, &Device::flex())), &pool);
        assert_eq!(values_of(whole(largest)).iter().filter(|value| value.is_nan()).count(), 1);
    }

    #[test]
    fn a_tall_image_holds_the_same_places() {
        let input = Tensor::<5>::from_data(numbers(&[2, 3, 4, 5, 2], 1), &Device::flex());
        let tall = volumes(input.clone()).tall();
        assert_eq!(values_of(tall.clone()), values_of(input.clone()));
        assert_eq!(values_of(whole(Volumes::from_tall(tall, 4))), values_of(input.clone()));
        let means = input.clone().reshape([2, 3, 40]).mean_dim(2);
        assert_close(&values_of(volumes(input).means()), &values_of(means), 1e-6);
    }
}
