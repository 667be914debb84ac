//! What all kinds of convolution have in common: how they take part in burn's differentiation.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::normalisation::sum;
use super::unfold::Motion;
use super::{Tracked, flex, plain, sides, tracked, wide};

/// Which gradients are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) input: bool,
    pub(super) weight: bool,
}

/// A kind of convolution between given sides, as loops over slices.
pub(super) trait Kernel: Clone + Copy + Debug + Send + Sync + 'static {
    /// From the sides of input and weight.
    fn new(input: [usize; 4], weight: [usize; 4], motion: Motion) -> Self;

    /// Sides of the result: cases, filters, rows, columns.
    fn result(&self) -> [usize; 4];

    /// The result, each filter's bias added.
    fn forward(&self, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32>;

    /// The gradients of the input and of the weight, where they are wanted.
    fn backward(
        &self,
        input: &[f32],
        weight: &[f32],
        slope: &[f32],
        wanted: Wanted,
    ) -> (Option<Vec<f32>>, Option<Vec<f32>>);
}

/// Applies `weight` to `input` and adds `bias` `[filters]`, tracked where the weight is.
pub(super) fn apply<K: Kernel>(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    motion: Motion,
) -> Tensor<4> {
    let kernel = K::new(input.dims(), weight.dims(), motion);
    let bias = bias.unwrap_or_else(|| Tensor::zeros([kernel.result()[1]], &weight.device()));
    if !weight.is_autodiff() {
        let result = forward(&kernel, &plain(input), &plain(weight), &plain(bias));
        return Tensor::from_primitive::<Flex>(result);
    }
    let (input, weight, bias) = (tracked(input), tracked(weight), tracked(bias));
    let result = forward(&kernel, input.primitive(), weight.primitive(), bias.primitive());
    let nodes = [input.node(), weight.node(), bias.node()];
    let operation = Operation(PhantomData::<K>);
    let result = match operation.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut step) => {
            let (input, weight) = (step.checkpoint(&input), step.checkpoint(&weight));
            step.finish(State { input, weight, kernel }, result)
        }
        OpsKind::UnTracked(step) => step.finish(result),
    };
    Tensor::from_primitive::<Tracked>(result)
}

fn forward(kernel: &impl Kernel, input: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let (input, weight, bias) = (input.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
    flex(kernel.forward(input.storage(), weight.storage(), bias.storage()), &kernel.result())
}

#[derive(Debug)]
struct Operation<K>(PhantomData<K>);

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct State<K> {
    input: NodeId,
    weight: NodeId,
    kernel: K,
}

impl<K: Kernel> Backward<Flex, 3> for Operation<K> {
    type State = State<K>;

    fn backward(self, ops: Ops<State<K>, 3>, gradients: &mut Gradients, kept: &mut Checkpointer) {
        let [to_input, to_weight, to_bias] = ops.parents;
        let State { input, weight, kernel } = ops.state;
        let slope = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let input = kept.retrieve_node_output::<FlexTensor>(input).to_contiguous();
        let weight = kept.retrieve_node_output::<FlexTensor>(weight).to_contiguous();
        let wanted = Wanted { input: to_input.is_some(), weight: to_weight.is_some() };
        let (of_input, of_weight) =
            kernel.backward(input.storage(), weight.storage(), slope.storage(), wanted);
        if let (Some(node), Some(gradient)) = (to_input, of_input) {
            gradients.register::<Flex>(node.id, flex(gradient, &sides(&input)));
        }
        if let (Some(node), Some(gradient)) = (to_weight, of_weight) {
            gradients.register::<Flex>(node.id, flex(gradient, &sides(&weight)));
        }
        if let Some(node) = to_bias {
            let [_, filters, rows, columns] = kernel.result();
            let gradient = bias_gradient(filters, rows * columns, slope.storage());
            gradients.register::<Flex>(node.id, flex(gradient, &[filters]));
        }
    }
}

/// Sums over cases and places of `slope`, shape `[cases, filters, outputs]`.
pub(super) fn bias_gradient(filters: usize, outputs: usize, slope: &[f32]) -> Vec<f32> {
    let of_filter = |filter: usize| {
        let planes = slope.chunks_exact(outputs).skip(filter).step_by(filters);
        planes.map(|plane| if outputs == 1 { plane[0] } else { wide(|| sum(plane)) }).sum()
    };
    (0..filters).into_par_iter().map(of_filter).collect()
}
