//! What all kinds of convolution have in common: how they take part in burn's differentiation.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::strategy::{
    BalancedCheckpointing, CheckpointStrategy, NoCheckpointing,
};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::normalisation::sum;
use super::unfold::Motion;
use super::{Tracked, TrackedTensor, flex, plain, sides, tracked, wide};

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

    /// Whether the result is so large, and so cheap, that it is made again on the way back and not kept.
    fn is_made_again(&self) -> bool {
        false
    }

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
    let biased = bias.is_some();
    let bias = bias.unwrap_or_else(|| Tensor::zeros([kernel.result()[1]], &weight.device()));
    if !weight.is_autodiff() {
        let result = forward(&kernel, &plain(input), &plain(weight), &plain(bias));
        return Tensor::from_primitive::<Flex>(result);
    }
    let parents = [tracked(input), tracked(weight), tracked(bias)];
    let record = if kernel.is_made_again() {
        record::<K, BalancedCheckpointing>
    } else {
        record::<K, NoCheckpointing>
    };
    record(kernel, &parents, biased)
}

/// The result, and how it is differentiated. Where it is not `biased`, the last parent is a constant of zeros.
fn record<K: Kernel, C: CheckpointStrategy>(
    kernel: K,
    parents: &[TrackedTensor; 3],
    biased: bool,
) -> Tensor<4> {
    let [input, weight, bias] = parents;
    let result = forward(&kernel, input.primitive(), weight.primitive(), bias.primitive());
    let nodes = parents.each_ref().map(TrackedTensor::node);
    let again = Again { input: nodes[0].id(), weight: nodes[1].id(), bias: bias.primitive().clone(), kernel };
    // A result is kept after all if one of these is a constant.
    let needed = if biased { &parents[..] } else { &parents[..2] };
    let operation = Operation(PhantomData::<K>).prepare::<C>(nodes);
    let result = match operation.memory_bound().retro_forward(again).parents(needed).stateful() {
        OpsKind::Tracked(mut step) => {
            let (input, weight) = (step.checkpoint(input), step.checkpoint(weight));
            step.finish(State { input, weight, kernel }, result)
        }
        OpsKind::UnTracked(step) => step.finish(result),
    };
    Tensor::from_primitive::<Tracked>(result)
}

/// Makes a result again, out of input, weight and bias.
#[derive(Debug)]
struct Again<K> {
    input: NodeId,
    weight: NodeId,
    bias: FlexTensor,
    kernel: K,
}

impl<K: Kernel> RetroForward for Again<K> {
    fn forward(&self, states: &mut BackwardStates, result: NodeId) {
        let [input, weight] = [&self.input, &self.weight].map(|node| states.get_state::<FlexTensor>(node));
        states.save(result, forward(&self.kernel, &input, &weight, &self.bias));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    use crate::operation::testing::{leaf, values_of};
    use crate::operation::unfold::Windows;
    use burn::tensor::Device;

    /// What is made again is what was there, so gradients are the same to the bit.
    #[test]
    fn a_result_that_is_made_again_gives_the_same_gradients() {
        let device = Device::flex().autodiff();
        let motion = Motion { stride: 2, padding: 0, dilation: 1 };
        for biased in [true, false] {
            let run = |record: fn(Counted, &[TrackedTensor; 3], bool) -> Tensor<4>| {
                let (x, w) = (leaf(&device, [3, 4, 5, 3], 1), leaf(&device, [2, 4, 1, 1], 2));
                let b = if biased { leaf(&device, [2], 3) } else { Tensor::zeros([2], &device) };
                let kernel = Counted::new(x.dims(), w.dims(), motion);
                let before = FORWARDS.get();
                let parents = [tracked(x.clone()), tracked(w.clone()), tracked(b.clone())];
                let result = record(kernel, &parents, biased);
                // Squares need it going back, from both sides.
                let gradients = (result.clone() * result.clone() * result).sum().backward();
                let missing = "every leaf has a gradient";
                let slopes = [
                    values_of(x.grad(&gradients).expect(missing)),
                    values_of(w.grad(&gradients).expect(missing)),
                ];
                (slopes, b.grad(&gradients).map(values_of), FORWARDS.get() - before)
            };
            let (kept, bias_of_kept, once) = run(record::<_, NoCheckpointing>);
            let (again, bias_of_again, twice) = run(record::<_, BalancedCheckpointing>);
            assert_eq!((kept, bias_of_kept), (again, bias_of_again));
            assert_eq!((once, twice), (1, 2));
        }
    }

    thread_local! {
        static FORWARDS: Cell<u32> = const { Cell::new(0) };
    }

    /// Windows that count how often they go forward.
    #[derive(Clone, Copy, Debug)]
    struct Counted(Windows);

    impl Kernel for Counted {
        fn new(input: [usize; 4], weight: [usize; 4], motion: Motion) -> Self {
            Self(Windows::new(input, weight, motion))
        }

        fn result(&self) -> [usize; 4] {
            Kernel::result(&self.0)
        }

        fn forward(&self, input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
            FORWARDS.set(FORWARDS.get() + 1);
            self.0.forward(input, weight, bias)
        }

        fn backward(
            &self,
            input: &[f32],
            weight: &[f32],
            slope: &[f32],
            wanted: Wanted,
        ) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
            self.0.backward(input, weight, slope, wanted)
        }
    }
}
