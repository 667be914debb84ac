//! A matrix times rows, with its gradient: the products of a convolution of one by one, without its images.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::fresh::zeros;
use super::kernel::{self, Kernel, Wanted};
use super::product::{Matrix, Target, multiply};
use super::unfold::Motion;
use super::{anywhere, on_flex};

/// `rows` `[cases, inputs]` times the transpose of `weight` `[outputs, inputs]`, and `bias` `[outputs]` added.
pub(crate) fn linear(rows: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    if !on_flex(&rows) {
        return anywhere::linear(rows, weight, bias);
    }
    let ([cases, inputs], [outputs, _]) = (rows.dims(), weight.dims());
    let (rows, weight) = (rows.reshape([cases, inputs, 1, 1]), weight.reshape([outputs, inputs, 1, 1]));
    let motion = Motion { stride: 1, padding: 0, dilation: 1 };
    kernel::apply::<Linear>(rows, weight, bias, motion).reshape([cases, outputs])
}

#[derive(Clone, Copy, Debug)]
struct Linear {
    cases: usize,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// How many of `rows` a thread takes.
    fn share(rows: usize) -> usize {
        rows.div_ceil(rayon::current_num_threads()).max(1)
    }
}

impl Kernel for Linear {
    fn new([cases, inputs, ..]: [usize; 4], [outputs, ..]: [usize; 4], _: Motion) -> Self {
        Self { cases, inputs, outputs }
    }

    fn result(&self) -> [usize; 4] {
        [self.cases, self.outputs, 1, 1]
    }

    /// Shared out by outputs: the matrix is what is long, and each row of it is read once.
    fn forward(&self, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let Self { cases, inputs, outputs } = *self;
        let share = Self::share(outputs);
        let rows = Matrix::new(input, cases, inputs).transposed();
        let parts: Vec<Vec<f32>> = weight
            .par_chunks(share * inputs)
            .map(|weight| {
                let count = weight.len() / inputs;
                let mut sums = vec![0.0; count * cases];
                multiply(Matrix::new(weight, count, inputs), rows, &mut sums, cases, Target::Replace);
                sums
            })
            .collect();
        let sums: Vec<&[f32]> = parts.iter().flat_map(|part| part.chunks_exact(cases)).collect();
        let of_case = |case: usize| sums.iter().zip(bias).map(move |(sums, bias)| sums[case] + bias);
        (0..cases).flat_map(of_case).collect()
    }

    fn backward(
        &self,
        input: &[f32],
        weight: &[f32],
        slope: &[f32],
        wanted: Wanted,
    ) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
        let Self { cases, inputs, outputs } = *self;
        let of_input = wanted.input.then(|| {
            let mut gradient = zeros(cases * inputs);
            let share = Self::share(cases);
            let parts = gradient.par_chunks_mut(share * inputs).zip(slope.par_chunks(share * outputs));
            parts.for_each(|(gradient, slope)| {
                let slope = Matrix::new(slope, slope.len() / outputs, outputs);
                multiply(slope, Matrix::new(weight, outputs, inputs), gradient, inputs, Target::Replace);
            });
            gradient
        });
        let of_weight = wanted.weight.then(|| {
            let mut gradient = zeros(outputs * inputs);
            let share = Self::share(outputs);
            gradient.par_chunks_mut(share * inputs).enumerate().for_each(|(part, gradient)| {
                let count = gradient.len() / inputs;
                let slope = Matrix::apart(&slope[part * share..], cases, count, outputs).transposed();
                multiply(slope, Matrix::new(input, cases, inputs), gradient, inputs, Target::Replace);
            });
            gradient
        });
        (of_input, of_weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::testing::{assert_close, leaf, numbers, values_of};
    use burn::tensor::Device;
    use proptest::prelude::*;

    /// Result and gradients of `sum(result * mask)`.
    fn with_gradients(
        [cases, inputs, outputs]: [usize; 3],
        apply: impl Fn(Tensor<2>, Tensor<2>, Tensor<1>) -> Tensor<2>,
    ) -> [Vec<f32>; 4] {
        let device = Device::flex().autodiff();
        let (rows, weight): (Tensor<2>, Tensor<2>) =
            (leaf(&device, [cases, inputs], 1), leaf(&device, [outputs, inputs], 2));
        let bias: Tensor<1> = leaf(&device, [outputs], 3);
        let result = apply(rows.clone(), weight.clone(), bias.clone());
        let mask = Tensor::<2>::from_data(numbers(&[cases, outputs], 4), &device);
        let gradients = (result.clone() * mask).sum().backward();
        [
            values_of(result),
            values_of(rows.grad(&gradients).unwrap()),
            values_of(weight.grad(&gradients).unwrap()),
            values_of(bias.grad(&gradients).unwrap()),
        ]
    }

    proptest! {
        /// Ours and burn's agree in the result and in all three gradients, whatever the sides and the threads.
        #[test]
        fn agrees_with_burn(sides in [1_usize..40, 1_usize..40, 1_usize..40], threads in 1_usize..4) {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let ours = pool.install(|| with_gradients(sides, |x, w, b| linear(x, w, Some(b))));
            let burns = with_gradients(sides, |x, w, b| anywhere::linear(x, w, Some(b)));
            for (ours, burns) in ours.iter().zip(&burns) {
                assert_close(ours, burns, 1e-6);
            }
        }
    }

    #[test]
    fn scoring_gives_what_training_gives() {
        let run =
            |device: &Device| values_of(linear(leaf(device, [5, 70], 1), leaf(device, [9, 70], 2), None));
        assert_eq!(run(&Device::flex()), run(&Device::flex().autodiff()));
    }
}
