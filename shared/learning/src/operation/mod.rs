//! Operations of our own on burn's `flex` backend, each with its gradient.
//!
//! flex is exact but leaves time around its matrix products: weight gradients become products nine
//! columns wide, layouts are copied one value at a time, normalisation makes six passes. Operations
//! here are plugged in through burn's extension interface and take part in its automatic
//! differentiation like any other; each is tested against burn's own.
//!
//! All tensors here are f32. Those on a GPU go to [`anywhere`] instead: burn's own operations, whose kernels are written for it.

#![expect(
    clippy::inline_always,
    reason = "only what is inlined into `wide` is compiled for wide instructions"
)]

/// A function whose loops are too long for the compiler to move into [`wide`]: its body is compiled for each kind of vector
/// unit, and the one of this processor runs.
macro_rules! wide_fn {
    ($(#[$about:meta])* $sight:vis fn $name:ident<$life:lifetime, $($side:ident),*>($($argument:ident: $type:ty),*) $body:block) => {
        $(#[$about])*
        $sight fn $name<$life, $(const $side: usize),*>($($argument: $type),*) {
            struct Call<$life, $(const $side: usize),*> {
                $($argument: $type),*
            }
            impl<$life, $(const $side: usize),*> pulp::NullaryFnOnce for Call<$life, $($side),*> {
                type Output = ();

                #[inline(always)]
                fn call(self) {
                    let Self { $($argument),* } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Call::<$life, $($side),*> { $($argument),* });
        }
    };
}

pub(crate) mod convolution;
pub(crate) mod fresh;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod normalisation;
pub(crate) mod pooling;
pub(crate) mod rectifier;
pub(crate) mod scratch;
pub(crate) mod transposed;
pub(crate) mod volume;

mod anywhere;
mod depthwise;
mod kernel;
mod planes;
mod product;
#[cfg(test)]
pub(crate) mod testing;
mod unfold;
mod winograd;

use burn::backend::{Autodiff, BackendTypes, Flex};
use burn::tensor::{Bytes, DType, Device, Shape, Tensor};
use burn_flex::{FlexTensor, Layout};

type Tracked = Autodiff<Flex>;
type TrackedTensor = <Tracked as BackendTypes>::FloatTensorPrimitive;

/// Runs loops with the widest instructions that this processor has. Each value is computed as without them; only more at once.
pub(crate) fn wide<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Values from which on a result that is cheap to make again is not kept for the way back.
const LARGE: usize = 1 << 20;

const ON_FLEX: &str = "tensors elsewhere go another way, and an operation's inputs are all tracked or none";

/// Whether operations of our own can run where `tensor` lies.
fn on_flex<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.device() == Device::flex()
}

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
