//! The coordinator's own certificate: renewed with its issuing key while a third of its life is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use consilium_files::write_public;
use consilium_identity::issuing::RenewalRefusal;
use consilium_identity::tls::{ServerTls, TlsError};
use consilium_identity::{Chain, IssuingKey, Roster};
use jiff::Timestamp;

use crate::durable::durable;
use crate::hub::Hub;

/// Longest time between two looks, also for a clock that is set. A failure is tried again then.
const LOOK: Duration = Duration::from_hours(1);

/// The certificate, its file, and the server that shows it.
pub struct OwnCertificate {
    file: PathBuf,
    chain: Chain,
    tls: Arc<ServerTls>,
}

/// Why the certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum NotRenewed {
    /// The issuing key does not.
    #[error(transparent)]
    Refused(#[from] RenewalRefusal),
    /// The new one cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It cannot be kept.
    #[error("{0:#}")]
    File(anyhow::Error),
}

impl OwnCertificate {
    /// The certificate of an identity folder, as `tls` shows it.
    pub fn new(identity: &Path, chain: Chain, tls: Arc<ServerTls>) -> Self {
        Self { file: identity.join("certificate.pem"), chain, tls }
    }

    /// The server that shows it.
    pub fn tls(&self) -> Arc<ServerTls> {
        Arc::clone(&self.tls)
    }

    /// Renews it if it is time, also after its end: what counts is the roster.
    pub fn renew_if_due(
        &mut self,
        issuing: &IssuingKey,
        roster: &Roster,
        now: Timestamp,
    ) -> Result<(), NotRenewed> {
        if now < self.chain.leaf().renew_at() {
            return Ok(());
        }
        let renewed = issuing.renew(roster, &self.chain.certificates()[0], now)?;
        durable("certificate", || write_public(&self.file, renewed.to_pem().as_bytes()))
            .map_err(NotRenewed::File)?;
        self.tls.replace_certificate(&renewed)?;
        tracing::info!(until = %renewed.leaf().not_after, "the coordinator's certificate was renewed");
        self.chain = renewed;
        Ok(())
    }

    /// Keeps it alive until the coordinator stops.
    pub async fn keep(mut self, hub: Arc<Hub>) {
        loop {
            let now = Timestamp::now();
            if let Err(error) = self.renew_if_due(&hub.issuing, &hub.trust.roster(), now) {
                let until = self.chain.leaf().not_after;
                tracing::error!(%error, %until, "the coordinator's certificate was not renewed; it is tried again");
            }
            let due = Duration::try_from(self.chain.leaf().renew_at().duration_since(now)).unwrap_or(LOOK);
            tokio::select! {
                () = tokio::time::sleep(due.clamp(Duration::from_secs(1), LOOK)) => {}
                () = hub.stop.cancelled() => return,
            }
        }
    }
}
