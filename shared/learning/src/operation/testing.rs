//! What tests of operations share.

use burn::tensor::{Device, Tensor, TensorData};

use crate::random::Draws;

/// Numbers between -1 and 1.
pub(crate) fn numbers(shape: &[usize], seed: usize) -> TensorData {
    let mut draws = Draws::initial(7, seed);
    let values = (0..shape.iter().product::<usize>()).map(|_| 2.0 * draws.unit() - 1.0).collect();
    TensorData::new::<f32, _>(values, shape.to_vec())
}

/// A tensor of such numbers that collects its gradient where the device can.
pub(crate) fn leaf<const D: usize>(device: &Device, shape: [usize; D], seed: usize) -> Tensor<D> {
    Tensor::from_data(numbers(&shape, seed), device).set_require_grad(device.is_autodiff())
}

pub(crate) fn values_of<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    crate::tensors::values(&tensor.into_data())
}

/// The difference is at most `share` of the norm, or of 1: where terms of that size cancel, what is
/// left has no more digits.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f32], share: f64) {
    assert_eq!(got.len(), want.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let size = norm(&mut want.iter().map(|&value| f64::from(value)));
    let error = norm(&mut got.iter().zip(want).map(|(&got, &want)| f64::from(got) - f64::from(want)));
    assert!(error <= share * size.max(1.0), "off by {error} of {size}");
}

/// Result and the three gradients of `sum(result * mask)`, from leaves of these shapes.
pub(crate) fn with_gradients<const D: usize>(
    shapes: ([usize; 4], [usize; D], usize),
    apply: impl Fn(Tensor<4>, Tensor<D>, Tensor<1>) -> Tensor<4>,
) -> [Vec<f32>; 4] {
    with_gradients_on(&Device::flex().autodiff(), shapes, apply)
}

/// The same on a device that tracks.
pub(crate) fn with_gradients_on<const D: usize>(
    device: &Device,
    (first, second, third): ([usize; 4], [usize; D], usize),
    apply: impl Fn(Tensor<4>, Tensor<D>, Tensor<1>) -> Tensor<4>,
) -> [Vec<f32>; 4] {
    let (first, second) = (leaf(device, first, 1), leaf(device, second, 2));
    let third: Tensor<1> = leaf(device, [third], 3);
    let result = apply(first.clone(), second.clone(), third.clone());
    let mask = Tensor::<4>::from_data(numbers(&result.dims(), 4), device);
    let gradients = (result.clone() * mask).sum().backward();
    let missing = "every leaf has a gradient";
    [
        values_of(result),
        values_of(first.grad(&gradients).expect(missing)),
        values_of(second.grad(&gradients).expect(missing)),
        values_of(third.grad(&gradients).expect(missing)),
    ]
}
