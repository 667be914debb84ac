//! The operator's certificate: kept alive while it is used, and made anew with the consortium's key once it has ended.

use anyhow::{Context as _, ensure};
use consilium_files::write_public;
use consilium_identity::authority::lifetime;
use consilium_identity::{Chain, TlsKey};
use consilium_proto::v1::RenewRequest;
use consilium_proto::v1::site_client::SiteClient;
use jiff::Timestamp;
use tonic::transport::Channel;

use super::plain;
use crate::consortium::{Consortium, Operator};

const CERTIFICATE: &str = "certificate.pem";

/// Reads certificate and key. A certificate that has ended is made anew, which takes the consortium's key.
pub(super) fn read(consortium: &Consortium, operator: &Operator) -> anyhow::Result<(Chain, TlsKey)> {
    let chain: Chain = read_file(operator, CERTIFICATE, Chain::from_pem)?;
    let key: TlsKey = read_file(operator, "tls.key", TlsKey::from_pem)?;
    let (ended, now) = (chain.leaf().not_after, Timestamp::now());
    if now < ended {
        return Ok((chain, key));
    }
    let again = consortium
        .key()
        .with_context(|| format!("the operator's certificate ended at {ended}, and a new one is not made"))?
        .certify(&key.public_key(), &operator.principal(), lifetime::PERSON, now)?;
    keep(operator, &again)?;
    Ok((again, key))
}

/// Exchanges the certificate for a new one when a third of its life is left.
pub(super) async fn renew_if_due(channel: Channel, operator: &Operator, chain: &Chain) -> anyhow::Result<()> {
    let old = chain.leaf();
    if Timestamp::now() < old.renew_at() {
        return Ok(());
    }
    let about = || format!("the operator's certificate ends at {} and was not renewed", old.not_after);
    let reply = SiteClient::new(channel).renew(RenewRequest {}).await;
    let reply = reply.map_err(|status| anyhow::anyhow!(plain(status.message()))).with_context(about)?;
    let new =
        Chain::new(reply.into_inner().chain.into_iter().map(Into::into).collect()).with_context(about)?;
    // The coordinator's word is not enough.
    ensure!(new.leaf().renews(&old), "{}: the coordinator sent another one", about());
    keep(operator, &new)
}

fn keep(operator: &Operator, chain: &Chain) -> anyhow::Result<()> {
    write_public(&operator.path(CERTIFICATE), chain.to_pem().as_bytes())
}

fn read_file<T, E>(
    operator: &Operator,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let path = operator.path(name);
    let about = || format!("reading {}", path.display());
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(&path).with_context(about)?);
    parse(&text).with_context(about)
}
