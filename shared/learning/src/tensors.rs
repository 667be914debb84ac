//! The model's blocks as tensors for one pass, and their gradients back.

use std::ops::{Index, IndexMut, Range};

use burn::tensor::{Device, Gradients, Tensor, TensorData, Transaction};
use consilium_study::graph::{ModelGraph, ParameterSpec};

use crate::operation::fresh::copied;

/// A model in training, each block in memory of its own: a pass on the processor takes the blocks and hands them back, so that
/// the model is there once. Addressed by the range of a block in the flat vector.
#[derive(Debug)]
pub(crate) struct Blocks(Vec<(Range<usize>, Vec<f32>)>);

impl Blocks {
    /// Those of a flat vector of the graph's length.
    pub(crate) fn of(graph: &ModelGraph, model: &[f32]) -> Self {
        Self(graph.parameters().iter().map(|block| (block.range(), copied(&model[block.range()]))).collect())
    }

    /// The flat vector.
    pub(crate) fn flat(&self) -> Vec<f32> {
        let mut flat = Vec::with_capacity(self.0.last().map_or(0, |(range, _)| range.end));
        self.0.iter().for_each(|(_, values)| flat.extend_from_slice(values));
        flat
    }

    /// The values of each block. Where they are `moved` out, as for a device that computes in this memory, they are missing here
    /// until [`Leaves::give_back`]; else they are copied.
    pub(crate) fn lend(&mut self, moved: bool) -> impl Iterator<Item = Vec<f32>> {
        self.0.iter_mut().map(move |(_, values)| if moved { std::mem::take(values) } else { values.clone() })
    }

    fn place(&self, range: &Range<usize>) -> usize {
        self.0.binary_search_by_key(&range.start, |(range, _)| range.start).expect("the range of a block")
    }
}

impl Index<Range<usize>> for Blocks {
    type Output = [f32];

    fn index(&self, range: Range<usize>) -> &[f32] {
        &self.0[self.place(&range)].1
    }
}

impl IndexMut<Range<usize>> for Blocks {
    fn index_mut(&mut self, range: Range<usize>) -> &mut [f32] {
        let place = self.place(&range);
        &mut self.0[place].1
    }
}

/// One block of the model.
enum Leaf {
    Row(Tensor<1>),
    Matrix(Tensor<2>),
    Kernel(Tensor<4>),
}

impl Leaf {
    fn new(block: &ParameterSpec, values: Vec<f32>, device: &Device, track: bool) -> Self {
        let shape = match *block.shape() {
            // A kernel of three sides: see `operation::volume`.
            [one, two, depth, height, width] => vec![one, two * depth, height, width],
            ref shape => shape.to_vec(),
        };
        let sides = shape.len();
        let data = TensorData::new(values, shape);
        match sides {
            1 => Self::Row(Tensor::from_data(data, device).set_require_grad(track)),
            2 => Self::Matrix(Tensor::from_data(data, device).set_require_grad(track)),
            _ => Self::Kernel(Tensor::from_data(data, device).set_require_grad(track)),
        }
    }

    fn into_data(self) -> TensorData {
        match self {
            Self::Row(leaf) => leaf.into_data(),
            Self::Matrix(leaf) => leaf.into_data(),
            Self::Kernel(leaf) => leaf.into_data(),
        }
    }
}

/// The blocks of a model in the graph's order, each with whether it is frozen.
pub(crate) struct Leaves(Vec<(Leaf, bool)>);

impl Leaves {
    /// Blocks that take part in no differentiation.
    pub(crate) fn constant(graph: &ModelGraph, model: &[f32], device: &Device) -> Self {
        let leaf =
            |block| (Leaf::new(block, copied(&model[block.range()]), device, false), block.is_frozen());
        Self(graph.parameters().iter().map(leaf).collect())
    }

    /// Blocks whose trainable members collect gradients.
    pub(crate) fn tracked(
        graph: &ModelGraph,
        values: impl Iterator<Item = Vec<f32>>,
        device: &Device,
    ) -> Self {
        let leaf = |(block, values): (&ParameterSpec, _)| {
            (Leaf::new(block, values, device, block.is_trainable()), block.is_frozen())
        };
        Self(graph.parameters().iter().zip(values).map(leaf).collect())
    }

    /// Puts back what [`Blocks::lend`] gave out, when gradients have been taken.
    pub(crate) fn give_back(self, model: &mut Blocks) {
        for ((leaf, _), (_, values)) in self.0.into_iter().zip(&mut model.0) {
            if values.is_empty() {
                *values = leaf.into_data().try_into_vec().expect(OF_F32);
            }
        }
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
    use crate::interpret::{TrainingPass, logits};
    use crate::random::LocalSeed;
    use consilium_study::graph::{ModelSpec, Preset};
    use consilium_study::name::SiteName;

    /// A step takes the model out and puts it back, the same memory: the model is there once.
    #[test]
    fn lent_blocks_come_back_where_they_were() {
        let spec = ModelSpec::Preset { preset: Preset::CnnBn, norm: None, stem: None };
        let graph = spec.graph([1, 8, 8], 3).unwrap();
        let flat: Vec<f32> = (0..graph.len()).map(|at| (at % 97) as f32 / 970.0).collect();
        let device = Device::flex().autodiff();
        let mut model = Blocks::of(&graph, &flat);
        let places = |model: &Blocks| model.0.iter().map(|(_, values)| values.as_ptr()).collect::<Vec<_>>();
        let before = places(&model);
        let leaves = Leaves::tracked(&graph, model.lend(true), &device);
        assert!(model.0.iter().all(|(_, values)| values.is_empty()));
        let images = Tensor::<4>::ones([2, 1, 8, 8], &device);
        let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").unwrap(), round: 0 };
        let scores = logits(&graph, &leaves, images, &mut TrainingPass::new(&seed, 0));
        let slopes = leaves.gradient(&graph, scores.powi_scalar(2).sum().backward());
        assert!(slopes.flat(&graph).iter().any(|slope| *slope != 0.0));
        leaves.give_back(&mut model);
        assert_eq!(places(&model), before);
        assert_eq!(model.flat(), flat);
    }

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
            back.extend(values(&leaf.into_data()));
        }
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&model), bits(&back));
    }
}
