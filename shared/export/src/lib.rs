//! Released models for other programs, and weights of other programs to start from.
//!
//! Pure functions between a model file and the bytes of another format: [`onnx`] writes every graph, [`torchvision`]
//! writes and reads the graphs that torchvision has names for. No tensor library computes anything here: the numbers are copied, and
//! the layers are named in the other format's words. That the other programs then compute the same is shown by
//! the tests of the whole system, with these programs.

pub mod onnx;
pub mod torchvision;

pub use onnx::to_onnx;
pub use torchvision::{NotInTorchvision, NotTaken, Taken, from_torchvision, to_torchvision};
