//! What the parts of a running coordinator share.

use std::sync::{Arc, Mutex};

use consilium_study::sign::SigningKey;

use crate::blobs::Blobs;
use crate::ledger::Ledger;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::uploads::Uploads;

/// Stores, ledger and the coordinator's signing key.
pub struct Parts {
    /// Records.
    pub store: Box<dyn Store>,
    /// Models and long statements.
    pub blobs: Blobs,
    /// Masked vectors on their way in.
    pub uploads: Uploads,
    /// The append-only log.
    pub ledger: Ledger,
    /// Signs contexts, accounts and checkpoints.
    pub key: Arc<SigningKey>,
    /// Number of the latest statement that was put down for the ledger.
    pub sequence: Mutex<u64>,
    /// Traces and counters.
    pub telemetry: Telemetry,
}
