//! What the relay holds: a TLS key, a certificate, and whom to connect to.

use anyhow::Context as _;
use consilium_identity::address::Address;
use consilium_identity::{Anchor, Chain, Roster, TlsKey};
use consilium_study::canonical::Canonical as _;
use consilium_study::sign::Signed;
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use crate::folder::SiteFolder;
use crate::store::{Kind, Store};

/// Whom the relay connects to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Destination {
    /// The consortium and its key.
    #[n(0)]
    pub(crate) anchor: Anchor,
    /// The roster of enrolment, which names the coordinator's keys.
    #[n(1)]
    pub(crate) roster: Signed<Roster>,
    /// Where the coordinator listens.
    #[n(2)]
    pub(crate) address: Address,
}

/// Everything the relay needs to connect.
pub(crate) struct Credential {
    pub(crate) destination: Destination,
    pub(crate) key: TlsKey,
    pub(crate) chain: Chain,
}

impl Credential {
    /// Reads the relay's folder.
    pub(crate) fn read(store: &dyn Store, folder: &SiteFolder) -> anyhow::Result<Self> {
        let missing = || format!("{} is not enrolled", folder.root().display());
        let destination = store.read(Kind::Identity, &folder.relay_destination())?.with_context(missing)?;
        let destination = Destination::from_canonical(&destination)
            .with_context(|| format!("{} was altered", folder.relay_destination().display()))?;
        let key = read_key(store, folder)?.with_context(missing)?;
        let chain = store.read(Kind::Certificate, &folder.relay_certificate())?.with_context(missing)?;
        let chain = Chain::from_pem(&String::from_utf8_lossy(&chain))
            .with_context(|| format!("{} holds no certificate", folder.relay_certificate().display()))?;
        Ok(Self { destination, key, chain })
    }

    /// Replaces the certificate by a renewed one.
    pub(crate) fn write_chain(store: &dyn Store, folder: &SiteFolder, chain: &Chain) -> anyhow::Result<()> {
        Ok(store.replace(Kind::Certificate, &folder.relay_certificate(), chain.to_pem().as_bytes())?)
    }
}

/// Reads the TLS key, if it was made.
pub(crate) fn read_key(store: &dyn Store, folder: &SiteFolder) -> anyhow::Result<Option<TlsKey>> {
    let path = folder.relay_key();
    let Some(bytes) = store.read(Kind::PrivateKey, &path)? else { return Ok(None) };
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is no PEM file", path.display()))?;
    let key = TlsKey::from_pem(text).with_context(|| format!("{} holds no key", path.display()))?;
    Ok(Some(key))
}
