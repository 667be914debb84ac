//! The same operations in burn's own, which run on every device.
//!
//! Those beside this file are written for `flex`; on a GPU burn's kernels take their place. Nothing here knows which
//! device it runs on, so the tests hold each of these against ours on the processor.

use burn::tensor::ops::{ConvOptions, ConvTransposeOptions, MaxPoolOptions};
use burn::tensor::{Int, Tensor, activation, module};
use consilium_study::graph::{Convolution, Pool, TransposedConvolution};

use super::normalisation::{EPSILON, Sets, Then};

/// As [`super::convolution::conv2d`].
pub(super) fn conv2d(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    layer: &Convolution,
) -> Tensor<4> {
    let [stride, padding, dilation] = [layer.stride, layer.padding, layer.dilation].map(|it| it as usize);
    let options = ConvOptions::new([stride; 2], [padding; 2], [dilation; 2], layer.groups as usize);
    module::conv2d(input, weight, bias, options)
}

/// As [`super::linear::linear`].
pub(super) fn linear(rows: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let sums = rows.matmul(weight.transpose());
    match bias {
        Some(bias) => sums + bias.unsqueeze(),
        None => sums,
    }
}

/// As [`super::transposed::transposed_conv2d`].
pub(super) fn transposed_conv2d(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    layer: &TransposedConvolution,
) -> Tensor<4> {
    let [stride, padding] = [layer.stride, layer.padding].map(|it| it as usize);
    let options = ConvTransposeOptions::new([stride; 2], [padding; 2], [0; 2], [1; 2], 1);
    module::conv_transpose2d(input, weight, bias, options)
}

/// As [`super::pooling::max_pool`]; whether a value that is no number wins is the device's affair.
pub(super) fn max_pool(input: Tensor<4>, pool: &Pool) -> Tensor<4> {
    let mut options = MaxPoolOptions::new([pool.size as usize; 2]);
    options.stride = [pool.stride() as usize; 2];
    options.padding = [(pool.padding as usize, pool.padding as usize); 2];
    module::max_pool2d(input, options)
}

/// As [`super::planes::pick`].
pub(super) fn pick(input: Tensor<4>, taken: &[Option<usize>]) -> Tensor<4> {
    let [cases, planes, height, width] = input.dims();
    let device = input.device();
    let zeros = Tensor::zeros([cases, 1, height, width], &device);
    let places: Vec<i64> = taken.iter().map(|place| place.unwrap_or(planes).cast_signed() as i64).collect();
    Tensor::cat(vec![input, zeros], 1).select(1, Tensor::<1, Int>::from_data(places.as_slice(), &device))
}

/// As [`super::planes::largest`]; whether a value that is no number wins is the device's affair.
pub(super) fn largest(input: Tensor<4>, taken: Vec<usize>, window: usize) -> Tensor<4> {
    let [cases, _, height, width] = input.dims();
    let windows = taken.len() / window;
    let taken: Vec<_> = taken.into_iter().map(Some).collect();
    let under = pick(input, &taken).reshape([cases, windows, window, height, width]);
    under.max_dim(2).reshape([cases, windows, height, width])
}

/// As [`super::normalisation::normalise`]; the moments, biased and `[sets]`, stay on the device.
pub(super) fn normalise(
    input: Tensor<4>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    sets: Sets,
    then: Then,
) -> (Tensor<4>, [Tensor<1>; 2]) {
    let shape @ [cases, channels, height, width] = input.dims();
    let rows = match sets {
        Sets::Channels => input.swap_dims(0, 1).reshape([channels, cases * height * width]),
        Sets::Groups(groups) => input.reshape([cases * groups, channels / groups * height * width]),
    };
    let means = rows.clone().mean_dim(1);
    let centred = rows - means.clone();
    let variances = (centred.clone() * centred.clone()).mean_dim(1);
    let normal = centred / (variances.clone() + EPSILON).sqrt();
    let normal = match sets {
        Sets::Channels => normal.reshape([channels, cases, height, width]).swap_dims(0, 1),
        Sets::Groups(_) => normal.reshape(shape),
    };
    let moments = [means, variances].map(|moments| moments.detach().flatten(0, 1));
    (finish(normal, scale, shift, then), moments)
}

/// As [`super::normalisation::normalise_by`].
pub(super) fn normalise_by(
    input: Tensor<4>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    [mean, variance]: [Tensor<1>; 2],
    then: Then,
) -> Tensor<4> {
    let inverse = (variance + EPSILON).sqrt().recip();
    finish((input - per_channel(mean)) * per_channel(inverse), scale, shift, then)
}

/// As [`super::layer_norm::layer_norm`].
pub(super) fn layer_norm(input: Tensor<4>, scale: Tensor<1>, shift: Tensor<1>) -> Tensor<4> {
    let mean = input.clone().mean_dim(1);
    let centred = input - mean;
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    finish(centred / (variance + EPSILON).sqrt(), scale, shift, Then::Keep)
}

fn finish(normal: Tensor<4>, scale: Tensor<1>, shift: Tensor<1>, then: Then) -> Tensor<4> {
    let result = normal * per_channel(scale) + per_channel(shift);
    if then == Then::Rectify { activation::relu(result) } else { result }
}

/// `values` `[channels]` beside images.
fn per_channel(values: Tensor<1>) -> Tensor<4> {
    let channels = values.dims()[0];
    values.reshape([1, channels, 1, 1])
}
