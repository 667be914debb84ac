//! The coordinator's side of an attempt: [`CollectMasked`] → [`ConsistencyCheck`] → [`Unmask`] → a sum.
//!
//! ```text
//! CollectMasked ──close──► ConsistencyCheck ──unmask──► Unmask ──recover──► OpenedSeeds ──► Accumulator
//!    │ until here an attempt may be given up and     │ from here on the attempt counts as opened: no deadline, and
//!    │ another begun with another Selection          │ only a statement in the ledger declares it lost
//! ```
//!
//! Each phase knows exactly what it needs, is canonical CBOR for the store, and leaving it consumes it. Nothing
//! here is trusted by a site: each checks for itself.

mod close;
mod collect;
mod refusal;
mod setup;
mod unmask;

pub use close::{ConsistencyCheck, NotClosed};
pub use collect::{CollectMasked, CollectWaits};
pub use refusal::CoordinatorRefusal;
pub use setup::{EpochSetup, SetupMail};
pub use unmask::{NotRecovered, Unmask};
