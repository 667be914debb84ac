//! The flat vector as tensors for one pass, and gradients back as a flat vector.

use std::ops::Range;

use burn::tensor::{Device, Gradients, Tensor, TensorData, Transaction};
use consilium_study::graph::{ModelGraph, ParameterSpec};

use crate::operation::fresh::copied;

/// One block of the model.
enum Leaf {
    Row(Tensor<1>),
    Matrix(Tensor<2>),
    Kernel(Tensor<4>),
}

/// The blocks of a model in the graph's order, each with whether it is frozen.
pub(crate) struct Leaves(Vec<(Leaf, bool)>);

impl Leaves {
    /// Blocks that take part in no differentiation.
    pub(crate) fn constant(graph: &ModelGraph, model: &[f32], device: &Device) -> Self {
        Self::build(graph, model, device, false)
    }

    /// Blocks whose trainable members collect gradients.
    pub(crate) fn tracked(graph: &ModelGraph, model: &[f32], device: &Device) -> Self {
        Self::build(graph, model, device, true)
    }

    fn build(graph: &ModelGraph, model: &[f32], device: &Device, track: bool) -> Self {
        let leaf = |block: &ParameterSpec| {
            let shape = match *block.shape() {
                // A kernel of three sides: see `operation::volume`.
                [one, two, depth, height, width] => vec![one, two * depth, height, width],
                ref shape => shape.to_vec(),
            };
            let sides = shape.len();
            let data = TensorData::new(copied(&model[block.range()]), shape);
            let track = track && block.is_trainable();
            let leaf = match sides {
                1 => Leaf::Row(Tensor::from_data(data, device).set_require_grad(track)),
                2 => Leaf::Matrix(Tensor::from_data(data, device).set_require_grad(track)),
                _ => Leaf::Kernel(Tensor::from_data(data, device).set_require_grad(track)),
            };
            (leaf, block.is_frozen())
        };
        Self(graph.parameters().iter().map(leaf).collect())
    }

    /// Hands the blocks out, first to last.
    pub(crate) fn cursor(&self) -> Cursor<'_> {
        Cursor(self.0.iter())
    }

    /// Gradients of the trainable blocks; zero where the loss does not depend on one. All are read at once, so that a GPU is
    /// waited for once.
    pub(crate) fn gradient(&self, graph: &ModelGraph, mut gradients: Gradients) -> Slopes {
        let (mut reading, mut known) = (Transaction::default(), Vec::new());
        for ((leaf, _), block) in self.0.iter().zip(graph.parameters()) {
            let gradient: Option<Tensor<1>> = match leaf {
                Leaf::Row(leaf) => leaf.grad_remove(&mut gradients),
                Leaf::Matrix(leaf) => leaf.grad_remove(&mut gradients).map(|it| it.flatten(0, 1)),
                Leaf::Kernel(leaf) => leaf.grad_remove(&mut gradients).map(|it| it.flatten(0, 3)),
            };
            if block.is_trainable() {
                known.push((block.range(), gradient.is_some()));
            }
            if let Some(gradient) = gradient {
                reading = reading.register(gradient);
            }
        }
        let mut read = reading.execute().into_iter();
        let slopes = known.into_iter().map(|(range, known)| {
            let data = if known { read.next() } else { None };
            let slopes = match data {
                Some(data) => data.try_into_vec().expect(OF_F32),
                None => vec![0.0; range.len()],
            };
            (range, slopes)
        });
        Slopes(slopes.collect())
    }
}

/// Slopes of the trainable blocks, each with where it lies in the flat vector, in the graph's order.
pub(crate) struct Slopes(pub(crate) Vec<(Range<usize>, Vec<f32>)>);

impl Slopes {
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (Range<usize>, &[f32])> {
        self.0.iter().map(|(range, slopes)| (range.clone(), slopes.as_slice()))
    }

    pub(crate) fn blocks_mut(&mut self) -> impl Iterator<Item = (Range<usize>, &mut [f32])> {
        self.0.iter_mut().map(|(range, slopes)| (range.clone(), slopes.as_mut_slice()))
    }

    /// A flat vector, with zeros for what is not trainable.
    #[cfg(test)]
    pub(crate) fn flat(&self, graph: &ModelGraph) -> Vec<f32> {
        let mut flat = vec![0.0; graph.len()];
        for (range, slopes) in self.blocks() {
            flat[range].copy_from_slice(slopes);
        }
        flat
    }
}

/// The values of a tensor.
pub(crate) fn values(data: &TensorData) -> Vec<f32> {
    data.try_to_vec().expect(OF_F32)
}

const OF_F32: &str = "tensors of this crate hold f32";

/// Walks over the blocks of a model. Layers take theirs in the order in which the graph names them,
/// so the kinds below cannot differ from what a checked graph has.
pub(crate) struct Cursor<'a>(std::slice::Iter<'a, (Leaf, bool)>);

const SAME_ORDER: &str = "the graph names its blocks in the order in which its layers take them";

impl Cursor<'_> {
    /// Whether the next block is frozen.
    pub(crate) fn is_at_frozen(&self) -> bool {
        self.0.as_slice().first().is_some_and(|(_, frozen)| *frozen)
    }

    pub(crate) fn row(&mut self) -> Tensor<1> {
        match self.0.next() {
            Some((Leaf::Row(leaf), _)) => leaf.clone(),
            _ => unreachable!("{SAME_ORDER}"),
        }
    }

    pub(crate) fn matrix(&mut self) -> Tensor<2> {
        match self.0.next() {
            Some((Leaf::Matrix(leaf), _)) => leaf.clone(),
            _ => unreachable!("{SAME_ORDER}"),
        }
    }

    pub(crate) fn kernel(&mut self) -> Tensor<4> {
        match self.0.next() {
            Some((Leaf::Kernel(leaf), _)) => leaf.clone(),
            _ => unreachable!("{SAME_ORDER}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_study::graph::{ModelSpec, Preset};

    #[test]
    fn a_flat_vector_comes_back_bit_for_bit() {
        let spec = ModelSpec::Preset { preset: Preset::CnnBn, norm: None, stem: None };
        let graph = spec.graph([1, 8, 8], 3).unwrap();
        // All kinds of bits, signed zeros, subnormals and infinities among them.
        let model: Vec<f32> =
            (0..graph.len() as u32).map(|bits| f32::from_bits(bits.wrapping_mul(0x9e37_79b9))).collect();
        let leaves = Leaves::constant(&graph, &model, &Device::flex());
        let mut back = Vec::new();
        for (leaf, _) in leaves.0 {
            back.extend(values(&match leaf {
                Leaf::Row(leaf) => leaf.into_data(),
                Leaf::Matrix(leaf) => leaf.into_data(),
                Leaf::Kernel(leaf) => leaf.into_data(),
            }));
        }
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&model), bits(&back));
    }
}
