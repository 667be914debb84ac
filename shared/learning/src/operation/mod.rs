//! Operations of our own on burn's `flex` backend, each with its gradient.
//!
//! flex is exact but leaves time around its matrix products: weight gradients become products nine
//! columns wide, layouts are copied one value at a time, normalisation makes six passes. Operations
//! here are plugged in through burn's extension interface and take part in its automatic
//! differentiation like any other; each is tested against burn's own.
//!
//! All tensors here are f32 on `flex`, because this crate makes no others.

pub(crate) mod convolution;
pub(crate) mod normalisation;
pub(crate) mod pooling;

mod product;
mod scratch;
#[cfg(test)]
pub(crate) mod testing;
mod unfold;

use burn::backend::{Autodiff, BackendTypes, Flex};
use burn::tensor::{Bytes, DType, Shape, Tensor};
use burn_flex::{FlexTensor, Layout};

type Tracked = Autodiff<Flex>;
type TrackedTensor = <Tracked as BackendTypes>::FloatTensorPrimitive;

const ON_FLEX: &str =
    "this crate makes tensors on flex alone, and an operation's inputs are all tracked or none";

/// A flex tensor that owns `values`, shape `shape`.
fn flex(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    let layout = Layout::contiguous(Shape::from(shape.to_vec()));
    FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
}

/// The sides of an image tensor: cases, channels, height, width.
fn sides(tensor: &FlexTensor) -> [usize; 4] {
    let shape = tensor.layout().shape();
    [shape[0], shape[1], shape[2], shape[3]]
}

fn plain<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    tensor.try_into_primitive::<Flex>().expect(ON_FLEX)
}

fn tracked<const D: usize>(tensor: Tensor<D>) -> TrackedTensor {
    tensor.try_into_primitive::<Tracked>().expect(ON_FLEX)
}
