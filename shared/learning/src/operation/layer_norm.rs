//! Layer normalisation, with its gradient: over the features of a row (Ba et al. 2016), or over the channels of an image at
//! each of its places, as in ConvNeXt (Liu et al. 2022).
//!
//! Both are one arithmetic: a row is an image of one place. Channels are gone through one after another, all places of one
//! at once, so sums are in the same order whatever the number of threads.

use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fresh::zeros;
use super::normalisation::EPSILON;
use super::{Tracked, anywhere, flex, on_flex, plain, sides, tracked, wide};

/// Normalises `input` `[cases, channels, height, width]` over its channels at each place, then scales and shifts each
/// channel by `scale` and `shift`, both `[channels]`.
pub(crate) fn layer_norm(input: Tensor<4>, scale: Tensor<1>, shift: Tensor<1>) -> Tensor<4> {
    if !on_flex(&input) {
        return anywhere::layer_norm(input, scale, shift);
    }
    if !scale.is_autodiff() {
        let input = plain(input).to_contiguous();
        let map = Map::new(sides(&input));
        let moments = map.moments(input.storage());
        return Tensor::from_primitive::<Flex>(map.forward(&input, &plain(scale), &plain(shift), &moments));
    }
    let (input, scale, shift) = (tracked(input), tracked(scale), tracked(shift));
    let values = input.primitive().to_contiguous();
    let map = Map::new(sides(&values));
    let moments = map.moments(values.storage());
    let result = map.forward(&values, scale.primitive(), shift.primitive(), &moments);
    let nodes = [input.node(), scale.node(), shift.node()];
    let result = match LayerNorm.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut step) => {
            let (input, scale) = (step.checkpoint(&input), step.checkpoint(&scale));
            step.finish(State { input, scale, map, moments }, result)
        }
        OpsKind::UnTracked(step) => step.finish(result),
    };
    Tensor::from_primitive::<Tracked>(result)
}

#[derive(Debug)]
struct LayerNorm;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct State {
    input: NodeId,
    scale: NodeId,
    map: Map,
    moments: Moments,
}

impl Backward<Flex, 3> for LayerNorm {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, gradients: &mut Gradients, kept: &mut Checkpointer) {
        let [to_input, to_scale, to_shift] = ops.parents;
        let State { input, scale, map, moments } = ops.state;
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let input = kept.retrieve_node_output::<FlexTensor>(input).to_contiguous();
        let scale = kept.retrieve_node_output::<FlexTensor>(scale).to_contiguous();
        if let Some(node) = to_input {
            let gradient = map.input_gradient(input.storage(), slope.storage(), scale.storage(), &moments);
            gradients.register::<Flex>(node.id, flex(gradient, &sides(&input)));
        }
        if let Some(node) = to_scale {
            let gradient = map.scale_gradient(input.storage(), slope.storage(), &moments);
            gradients.register::<Flex>(node.id, flex(gradient, &[map.channels]));
        }
        if let Some(node) = to_shift {
            let gradient = super::kernel::bias_gradient(map.channels, map.plane, slope.storage());
            gradients.register::<Flex>(node.id, flex(gradient, &[map.channels]));
        }
    }
}

/// Mean of each place of each case, and one over its standard deviation; both `[cases, places]`.
#[derive(Clone, Debug)]
struct Moments {
    means: Vec<f32>,
    inverses: Vec<f32>,
}

/// Sides of the input.
#[derive(Clone, Copy, Debug)]
struct Map {
    channels: usize,
    plane: usize,
}

impl Map {
    fn new([_, channels, height, width]: [usize; 4]) -> Self {
        Self { channels, plane: height * width }
    }

    /// Values of a case.
    const fn case(&self) -> usize {
        self.channels * self.plane
    }

    /// Two passes: the variance around the mean, not the difference of two large numbers.
    fn moments(&self, input: &[f32]) -> Moments {
        let places = input.len() / self.channels;
        let (mut means, mut inverses) = (vec![0.0; places], vec![0.0; places]);
        let planes = means.par_chunks_exact_mut(self.plane).zip(inverses.par_chunks_exact_mut(self.plane));
        planes.zip(input.par_chunks_exact(self.case())).for_each(|((means, inverses), values)| {
            wide(|| {
                let count = self.channels as f64;
                let mut sums = vec![0.0_f64; self.plane];
                for values in values.chunks_exact(self.plane) {
                    sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += f64::from(value));
                }
                means.iter_mut().zip(&sums).for_each(|(mean, sum)| *mean = (sum / count) as f32);
                sums.fill(0.0);
                for values in values.chunks_exact(self.plane) {
                    for ((sum, &value), &mean) in sums.iter_mut().zip(values).zip(&*means) {
                        *sum += f64::from((value - mean) * (value - mean));
                    }
                }
                for (inverse, sum) in inverses.iter_mut().zip(&sums) {
                    *inverse = 1.0 / ((sum / count) as f32 + EPSILON).sqrt();
                }
            });
        });
        Moments { means, inverses }
    }

    fn forward(
        &self,
        input: &FlexTensor,
        scale: &FlexTensor,
        shift: &FlexTensor,
        moments: &Moments,
    ) -> FlexTensor {
        let (scale, shift) = (scale.to_contiguous(), shift.to_contiguous());
        let (scale, shift) = (scale.storage::<f32>(), shift.storage::<f32>());
        let values = input.storage::<f32>();
        let mut out = zeros(values.len());
        let planes = out.par_chunks_exact_mut(self.plane).zip(values.par_chunks_exact(self.plane));
        planes.enumerate().for_each(|(index, (out, values))| {
            let (scale, shift) = (scale[index % self.channels], shift[index % self.channels]);
            let (means, inverses) = self.places(moments, index);
            wide(|| {
                for ((out, &value), (&mean, &inverse)) in
                    out.iter_mut().zip(values).zip(means.iter().zip(inverses))
                {
                    *out = (value - mean) * inverse * scale + shift;
                }
            });
        });
        flex(out, &sides(input))
    }

    /// The moments for a plane; planes are numbered case by case.
    fn places<'a>(&self, moments: &'a Moments, index: usize) -> (&'a [f32], &'a [f32]) {
        let start = index / self.channels * self.plane;
        (&moments.means[start..][..self.plane], &moments.inverses[start..][..self.plane])
    }

    fn input_gradient(&self, input: &[f32], slope: &[f32], scale: &[f32], moments: &Moments) -> Vec<f32> {
        let mut out = zeros(input.len());
        let cases = out.par_chunks_exact_mut(self.case()).zip(input.par_chunks_exact(self.case()));
        cases.zip(slope.par_chunks_exact(self.case())).enumerate().for_each(
            |(case, ((out, values), slope))| {
                let (means, inverses) = self.places(moments, case * self.channels);
                wide(|| {
                    // Per place: the mean of the scaled slope, and of it times the normalised input.
                    let (mut levels, mut tilts) = (vec![0.0_f64; self.plane], vec![0.0_f64; self.plane]);
                    let planes =
                        || values.chunks_exact(self.plane).zip(slope.chunks_exact(self.plane)).zip(scale);
                    for ((values, slope), &scale) in planes() {
                        let sums = levels.iter_mut().zip(&mut tilts);
                        let places = values.iter().zip(slope).zip(means.iter().zip(inverses));
                        for ((level, tilt), ((&value, &slope), (&mean, &inverse))) in sums.zip(places) {
                            let slope = f64::from(scale * slope);
                            *level += slope;
                            *tilt += slope * f64::from((value - mean) * inverse);
                        }
                    }
                    let count = self.channels as f64;
                    let mean = |sums: Vec<f64>| sums.iter().map(|sum| (sum / count) as f32).collect();
                    let (levels, tilts): (Vec<f32>, Vec<f32>) = (mean(levels), mean(tilts));
                    for (out, ((values, slope), &scale)) in out.chunks_exact_mut(self.plane).zip(planes()) {
                        let places = values.iter().zip(slope).zip(means.iter().zip(inverses));
                        let places = places.zip(levels.iter().zip(&tilts));
                        for (out, (((&value, &slope), (&mean, &inverse)), (&level, &tilt))) in
                            out.iter_mut().zip(places)
                        {
                            let normal = (value - mean) * inverse;
                            *out = inverse * (scale * slope - level - normal * tilt);
                        }
                    }
                });
            },
        );
        out
    }

    fn scale_gradient(&self, input: &[f32], slope: &[f32], moments: &Moments) -> Vec<f32> {
        let planes = input.par_chunks_exact(self.plane).zip(slope.par_chunks_exact(self.plane));
        let sums = planes.enumerate().map(|(index, (values, slope))| {
            let (means, inverses) = self.places(moments, index);
            let terms = values.iter().zip(slope).zip(means.iter().zip(inverses));
            terms.map(|((value, slope), (mean, inverse))| (value - mean) * inverse * slope).sum()
        });
        let sums: Vec<f32> = sums.collect();
        let mut gradient = vec![0.0; self.channels];
        for (index, sum) in sums.into_iter().enumerate() {
            gradient[index % self.channels] += sum;
        }
        gradient
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::testing::{assert_close, leaf, values_of, with_gradients};
    use burn::tensor::Device;

    /// The definition is in burn's elementary operations, which know their own gradients.
    #[test]
    fn agrees_with_the_definition() {
        for shape in [[3, 4, 5, 3], [2, 6, 4, 8], [5, 37, 1, 1], [1, 2, 1, 2], [2, 8, 7, 7]] {
            let (ours, definition) = (
                with_gradients((shape, [shape[1]], shape[1]), layer_norm),
                with_gradients((shape, [shape[1]], shape[1]), anywhere::layer_norm),
            );
            for (ours, definition) in ours.iter().zip(&definition) {
                assert_close(ours, definition, 2e-5);
            }
        }
    }

    #[test]
    fn scoring_gives_what_training_gives() {
        let run = |device: &Device| {
            values_of(layer_norm(leaf(device, [2, 3, 4, 5], 1), leaf(device, [3], 2), leaf(device, [3], 3)))
        };
        assert_eq!(run(&Device::flex()), run(&Device::flex().autodiff()));
    }
}
