//! Certificates renew themselves on the connection that they opened.

use consilium_identity::Chain;
use consilium_proto::v1::RenewRequest;
use consilium_proto::v1::site_client::SiteClient;
use jiff::Timestamp;
use tonic::transport::Channel;

use super::Dialler;
use super::credential::Credential;
use crate::folder::SiteFolder;
use crate::store::Disk;

/// Asks for a new certificate when a third of the present one's life is left. Returns the new chain, written
/// down. A failure is tried again on the next connection; the present certificate serves until its end.
pub(super) async fn if_due(
    mut client: SiteClient<Channel>,
    dialler: &Dialler,
    folder: &SiteFolder,
) -> Option<Chain> {
    let old = dialler.credential().chain.leaf();
    if Timestamp::now() < old.renew_at() {
        return None;
    }
    let reply = match client.renew(RenewRequest {}).await {
        Ok(reply) => reply.into_inner(),
        Err(status) => {
            tracing::warn!(code = ?status.code(), "the certificate was not renewed; it will be tried again");
            return None;
        }
    };
    let new = Chain::new(reply.chain.into_iter().map(Into::into).collect());
    let new = match new {
        // The coordinator's word is not enough: same name, same key, a longer life.
        Ok(new)
            if new.leaf().id == old.id
                && new.leaf().key == old.key
                && new.leaf().not_after > old.not_after =>
        {
            new
        }
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
