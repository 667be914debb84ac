//! A whole federation in one process: the same machines, the same messages and the same masks as over the
//! wire, without wire and disk. `simulate` drives its studies with it, and the tests of this crate break it in
//! every way a network can.

mod federation;
mod site;

pub use federation::{Federation, Models, Stuck};
pub use site::{LocalSite, Reply, Trained, Work};
