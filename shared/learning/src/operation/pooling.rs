//! Pooling over windows, with its gradient.
//!
//! Largest values are found along whole rows of outputs, and for two by two windows without a branch
//! in the loop; burn scans window by window, which took a third of a small network's training time.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;
use burn::tensor::ops::AvgPoolOptions;
use burn_flex::FlexTensor;
use consilium_study::graph::Pool;
use rayon::prelude::*;

use super::fresh::zeros;
use super::{Tracked, anywhere, flex, on_flex, plain, sides, tracked, wide};

/// Mean of each window of `input` `[cases, channels, height, width]`. Padding counts as zeros.
pub(crate) fn average_pool(input: Tensor<4>, pool: &Pool) -> Tensor<4> {
    let mut options = AvgPoolOptions::new([pool.size as usize; 2]);
    options.stride = [pool.stride() as usize; 2];
    options.padding = [(pool.padding as usize, pool.padding as usize); 2];
    burn::tensor::module::avg_pool2d(input, options)
}

/// Largest value of each window of `input` `[cases, channels, height, width]`. Of equal values the
/// first gets the gradient; a value that is no number wins, so that divergence stays visible; padding never wins.
pub(crate) fn max_pool(input: Tensor<4>, pool: &Pool) -> Tensor<4> {
    if !on_flex(&input) {
        return anywhere::max_pool(input, pool);
    }
    if !input.is_autodiff() {
        let input = plain(input);
        let map = Map::new(sides(&input), pool);
        return Tensor::from_primitive::<Flex>(map.forward(&input).0);
    }
    let input = tracked(input);
    let map = Map::new(sides(input.primitive()), pool);
    let (result, winners) = map.forward(input.primitive());
    let result = match MaxPool.prepare::<NoCheckpointing>([input.node()]).compute_bound().stateful() {
        OpsKind::Tracked(step) => step.finish(State { map, winners }, result),
        OpsKind::UnTracked(step) => step.finish(result),
    };
    Tensor::from_primitive::<Tracked>(result)
}

#[derive(Debug)]
struct MaxPool;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct State {
    map: Map,
    /// For each output the place in its window that won, row by row.
    winners: Vec<u32>,
}

impl Backward<Flex, 1> for MaxPool {
    type State = State;

    fn backward(self, ops: Ops<State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [to_input] = ops.parents;
        let State { map, winners } = ops.state;
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        if let Some(node) = to_input {
            let gradient = map.input_gradient(slope.storage(), &winners);
            gradients.register::<Flex>(node.id, flex(gradient, &map.input));
        }
    }
}

/// Sides of a pooling.
#[derive(Clone, Copy, Debug)]
struct Map {
    input: [usize; 4],
    size: usize,
    stride: usize,
    padding: usize,
    rows: usize,
    columns: usize,
}

impl Map {
    fn new(input: [usize; 4], pool: &Pool) -> Self {
        let (size, stride) = (pool.size as usize, pool.stride() as usize);
        let padding = pool.padding as usize;
        let side = |side: usize| (side + 2 * padding - size) / stride + 1;
        Self { input, size, stride, padding, rows: side(input[2]), columns: side(input[3]) }
    }

    /// Values of an input channel and of an output channel.
    fn planes(&self) -> (usize, usize) {
        (self.input[2] * self.input[3], self.rows * self.columns)
    }

    fn forward(&self, input: &FlexTensor) -> (FlexTensor, Vec<u32>) {
        let [cases, channels, _, width] = self.input;
        let (plane, pooled) = self.planes();
        let input = input.to_contiguous();
        let mut out = zeros(cases * channels * pooled);
        let mut winners = vec![0; out.len()];
        let outputs = out.par_chunks_exact_mut(pooled).zip(winners.par_chunks_exact_mut(pooled));
        outputs.zip(input.storage::<f32>().par_chunks_exact(plane)).for_each(|((out, winners), plane)| {
            wide(|| {
                let lines = out.chunks_exact_mut(self.columns).zip(winners.chunks_exact_mut(self.columns));
                for (row, (out, winners)) in lines.enumerate() {
                    if self.halves() {
                        halve(&plane[row * self.stride * width..], width, out, winners);
                    } else {
                        self.slide(plane, row, out, winners);
                    }
                }
            });
        });
        (flex(out, &[cases, channels, self.rows, self.columns]), winners)
    }

    /// Whether windows of two by two lie side by side: the pooling of nearly every network.
    const fn halves(&self) -> bool {
        self.size == 2 && self.stride == 2 && self.padding == 0
    }

    /// The place of the input at place `within` of window number `window`, along one side; none where it is padding.
    #[inline(always)]
    fn place(&self, window: usize, within: usize, side: usize) -> Option<usize> {
        (window * self.stride + within).checked_sub(self.padding).filter(|&place| place < side)
    }

    /// One row of outputs, place by place of the window.
    #[inline(always)]
    fn slide(&self, plane: &[f32], row: usize, out: &mut [f32], winners: &mut [u32]) {
        let [.., height, width] = self.input;
        out.fill(f32::NEG_INFINITY);
        // Where nothing is larger than minus infinity, the first place that is no padding wins.
        let first = |window: usize| self.padding.saturating_sub(window * self.stride);
        for (column, winner) in winners.iter_mut().enumerate() {
            *winner = (first(row) * self.size + first(column)) as u32;
        }
        for place in 0..self.size * self.size {
            let (down, right) = (place / self.size, place % self.size);
            let Some(line) = self.place(row, down, height) else { continue };
            // The first window with an input there; the last has one, too, or the input ends before it.
            let skipped = self.padding.saturating_sub(right).div_ceil(self.stride);
            let Some(start) = self.place(skipped, right, width) else { continue };
            let values = plane[line * width..][..width][start..].iter().step_by(self.stride);
            let outputs = out.iter_mut().zip(winners.iter_mut()).skip(skipped);
            for ((out, winner), &value) in outputs.zip(values) {
                if value > *out || value.is_nan() {
                    (*out, *winner) = (value, place as u32);
                }
            }
        }
    }

    fn input_gradient(&self, slope: &[f32], winners: &[u32]) -> Vec<f32> {
        let (plane, pooled) = self.planes();
        let [.., width] = self.input;
        let mut gradient = zeros(self.input.iter().product());
        let slopes = slope.par_chunks_exact(pooled).zip(winners.par_chunks_exact(pooled));
        gradient.par_chunks_exact_mut(plane).zip(slopes).for_each(|(out, (slope, winners))| {
            wide(|| {
                let lines = slope.chunks_exact(self.columns).zip(winners.chunks_exact(self.columns));
                for (row, (slope, winners)) in lines.enumerate() {
                    if self.halves() {
                        spread(slope, winners, width, &mut out[row * self.stride * width..]);
                        continue;
                    }
                    for (column, (slope, &place)) in slope.iter().zip(winners).enumerate() {
                        let (down, right) = (place as usize / self.size, place as usize % self.size);
                        let line = row * self.stride + down - self.padding;
                        out[line * width + column * self.stride + right - self.padding] += slope;
                    }
                }
            });
        });
        gradient
    }
}

/// One row of outputs of two by two windows, without a branch in the loop.
#[inline(always)]
fn halve(input: &[f32], width: usize, out: &mut [f32], winners: &mut [u32]) {
    let (upper, lower) = (input[..width].as_chunks::<2>().0, input[width..2 * width].as_chunks::<2>().0);
    for (((out, winner), upper), lower) in out.iter_mut().zip(winners).zip(upper).zip(lower) {
        let (mut best, mut place) = (upper[0], 0);
        for (value, at) in [(upper[1], 1), (lower[0], 2), (lower[1], 3)] {
            let wins = value > best || value.is_nan();
            best = if wins { value } else { best };
            place = if wins { at } else { place };
        }
        (*out, *winner) = (best, place);
    }
}

/// The gradient of [`halve`]: each slope to the place that won.
#[inline(always)]
fn spread(slope: &[f32], winners: &[u32], width: usize, out: &mut [f32]) {
    let (upper, lower) = out[..2 * width].split_at_mut(width);
    let outputs = upper.as_chunks_mut::<2>().0.iter_mut().zip(lower.as_chunks_mut::<2>().0);
    for ((upper, lower), (&slope, &place)) in outputs.zip(slope.iter().zip(winners)) {
        let at = |which: u32| if place == which { slope } else { 0.0 };
        (*upper, *lower) = ([at(0), at(1)], [at(2), at(3)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::testing::{leaf, numbers, values_of};
    use burn::tensor::Device;
    use proptest::prelude::*;

    fn with_gradient(shape: [usize; 4], pool: impl Fn(Tensor<4>) -> Tensor<4>) -> [Vec<f32>; 2] {
        let device = Device::flex().autodiff();
        let input: Tensor<4> = leaf(&device, shape, 1);
        let result = pool(input.clone());
        let mask = Tensor::<4>::from_data(numbers(&result.dims(), 4), &device);
        let gradients = (result.clone() * mask).sum().backward();
        [values_of(result), values_of(input.grad(&gradients).expect("the input is a leaf"))]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Ours and burn's agree in the result and in the gradient, overlapping windows included.
        #[test]
        fn agrees_with_burn(
            (cases, channels) in (1_usize..4, 1_usize..4),
            (size, stride, padding) in (1_usize..5, 1_usize..5, 0_usize..3),
            (height, width) in (4_usize..12, 4_usize..12),
        ) {
            prop_assume!(padding <= size / 2);
            let pool = Pool { size: size as u32, stride: Some(stride as u32), padding: padding as u32 };
            let shape = [cases, channels, height, width];
            let ours = with_gradient(shape, |input| max_pool(input, &pool));
            let burns = with_gradient(shape, |input| anywhere::max_pool(input, &pool));
            prop_assert_eq!(&ours[0], &burns[0]);
            // Overlapping windows add their gradients in another order.
            crate::operation::testing::assert_close(&ours[1], &burns[1], 1e-6);
        }
    }

    /// Windows of three, two apart, over five by five: each mean is of nine places, four of them zeros in a corner.
    #[test]
    fn padding_counts_in_a_mean_and_never_is_the_largest() {
        let pool = Pool { size: 3, stride: Some(2), padding: 1 };
        let image = || {
            let values = (1..=25).map(|value| -(value as f32)).collect();
            let data = burn::tensor::TensorData::new::<f32, _>(values, [1, 1, 5, 5]);
            Tensor::<4>::from_data(data, &Device::flex())
        };
        let means = values_of(average_pool(image(), &pool));
        let nine = [-16.0, -33.0, -28.0, -69.0, -117.0, -87.0, -76.0, -123.0, -88.0];
        for (mean, sum) in means.iter().zip(nine) {
            assert!((mean - sum / 9.0).abs() < 1e-5, "{means:?}");
        }
        let largest = values_of(max_pool(image(), &pool));
        assert_eq!(largest, [-1.0, -2.0, -4.0, -6.0, -7.0, -9.0, -16.0, -17.0, -19.0]);
    }

    /// The gradient goes to a place of the image, never to padding.
    #[test]
    fn where_all_is_minus_infinity_the_first_value_gets_the_gradient() {
        let pool = Pool { size: 3, stride: Some(2), padding: 1 };
        let device = Device::flex().autodiff();
        let data = burn::tensor::TensorData::new(vec![f32::NEG_INFINITY; 9], [1, 1, 3, 3]);
        let input: Tensor<4> = Tensor::from_data(data, &device).set_require_grad(true);
        let gradients = max_pool(input.clone(), &pool).sum().backward();
        let gradient = values_of(input.grad(&gradients).unwrap());
        assert_eq!(gradient, [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_no_number_wins_and_scoring_gives_what_training_gives() {
        let pool = Pool { size: 2, stride: None, padding: 0 };
        let run = |device: &Device| {
            let data = burn::tensor::TensorData::new(vec![1.0, f32::NAN, 5.0, 2.0, 7.0, 7.0], [1, 1, 2, 3]);
            values_of(max_pool(Tensor::from_data(data, device), &pool))
        };
        assert!(run(&Device::flex())[0].is_nan());
        assert!(run(&Device::flex().autodiff())[0].is_nan());
    }
}
