//! The whole system, as its users run it: real programs, real sockets, real kill -9.
//!
//! A [`Lab`] is a consortium in a temporary folder. It is made with the command line, as the handbook says, and
//! every process in it dies with it.

mod data;
mod lab;
mod line;
mod process;
pub mod reference;
mod rogue;

pub use data::write_cases;
pub use lab::{Lab, Programs, Study, free_port};
pub use line::{Fault, Line};
pub use process::{Running, wait_until};
pub use rogue::Rogue;
