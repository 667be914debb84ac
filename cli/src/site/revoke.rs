//! `consilium site revoke`: nobody speaks with this machine any more.

use consilium_ledger::statement::{Act, Order};
use consilium_proto::v1::RevokeRequest;
use consilium_study::canonical::Canonical;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;
use serde::Serialize;

use super::invitations;
use crate::consortium::Consortium;
use crate::remote::{Remote, now_ms, refused};

/// A site that was revoked.
#[derive(Debug, Serialize)]
pub struct Revoked {
    /// The site.
    pub site: SiteName,
    /// Connections that were open.
    pub connections_cut: u32,
}

impl Revoked {
    /// What a person reads.
    pub fn people(&self) -> String {
        let Self { site, connections_cut } = self;
        format!(
            "Revoked {site}; open connections that were cut: {connections_cut}.\n\
             Running rounds go on without it where enough sites are left. To let a new machine take its place:\n\
             \n  consilium site invite {site}\n  consilium site admit {site} --replace\n\n\
             and there, in a new folder with a copy of site.toml: site-agent enrol INVITATION --dir FOLDER"
        )
    }
}

/// What the person at the terminal is asked first.
pub(super) fn question(site: &SiteName) -> String {
    format!(
        "Revoking {site} is for good: its machine is cut off at once, and comes back only with new keys, after \
         another invitation. Type yes to revoke it"
    )
}

/// Revokes a site's certificate. Signed by the operator, so that the ledger tells who did it.
pub async fn revoke(consortium: &Consortium, site: &SiteName) -> anyhow::Result<Revoked> {
    let mut remote = Remote::open(consortium).await?;
    let order = Order { signed_at_ms: now_ms(), act: Act::Revoke { site: site.clone() } };
    let operator = remote.operator();
    let order = Signed::seal(&order, operator.principal(), operator.key()).to_canonical();
    let reply = remote.client.revoke(RevokeRequest { order }).await.map_err(refused)?.into_inner();
    // An invitation that is still open must not bring the same machine back.
    invitations::remove(consortium, site)?;
    Ok(Revoked { site: site.clone(), connections_cut: reply.connections_cut })
}
