//! Certificates renew themselves on the connection that they opened, however long it lasts.

use std::time::Duration;

use consilium_identity::Chain;
use consilium_identity::certificate::Leaf;
use consilium_proto::v1::RenewRequest;
use consilium_proto::v1::site_client::SiteClient;
use jiff::Timestamp;
use tonic::transport::Channel;

use super::board::Board;
use super::credential::Credential;
use crate::folder::SiteFolder;
use crate::store::Disk;

/// Longest time between two looks, also for a clock that is set. A failure is tried again then.
const LOOK: Duration = Duration::from_hours(1);
/// Longest wait for the coordinator's answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// Keeps a certificate alive for as long as a connection lasts: when a third of its life is left it is exchanged
/// for a new one. The next connection is opened with it. Never returns.
pub(super) async fn keep(
    client: SiteClient<Channel>,
    chain: &mut Chain,
    folder: &SiteFolder,
    board: &Board,
) -> std::convert::Infallible {
    loop {
        let now = Timestamp::now();
        if now >= chain.leaf().renew_at()
            && let Some(new) = renew(client.clone(), &chain.leaf(), folder).await
        {
            board.certificate_expires(&new.leaf().not_after);
            *chain = new;
        }
        let due = Duration::try_from(chain.leaf().renew_at().duration_since(now)).unwrap_or(LOOK);
        tokio::time::sleep(due.clamp(Duration::from_secs(1), LOOK)).await;
    }
}

/// Asks for a new certificate. Returns the new chain, written down; the present certificate serves until its end.
async fn renew(mut client: SiteClient<Channel>, old: &Leaf, folder: &SiteFolder) -> Option<Chain> {
    let reply = match tokio::time::timeout(PATIENCE, client.renew(RenewRequest {})).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => {
            tracing::warn!(code = ?status.code(), "the certificate was not renewed; it will be tried again");
            return None;
        }
        Err(_) => {
            tracing::warn!("the coordinator does not renew the certificate; it will be tried again");
            return None;
        }
    };
    let new = match Chain::new(reply.chain.into_iter().map(Into::into).collect()) {
        // The coordinator's word is not enough.
        Ok(new) if new.leaf().renews(old) => new,
        Ok(_) | Err(_) => {
            tracing::warn!("the coordinator renewed the certificate wrongly; the present one stays");
            return None;
        }
    };
    match Credential::write_chain(&Disk, folder, &new) {
        Ok(()) => {
            tracing::info!(until = %new.leaf().not_after, "the certificate was renewed");
            Some(new)
        }
        Err(error) => {
            tracing::warn!("the renewed certificate cannot be written: {error:#}");
            None
        }
    }
}
