//! `consilium init`: a new consortium, with everything its coordinator needs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::bail;
use consilium_identity::address::{Address, Host};
use consilium_identity::authority::lifetime;
use consilium_identity::roster::{CoordinatorEntry, PersonEntry};
use consilium_identity::{ConsortiumKey, Roster, TlsKey, certificate};
use consilium_study::canonical::Canonical;
use consilium_study::name::{ConsortiumName, PersonName, Principal};
use consilium_study::sign::SigningKey;
use jiff::Timestamp;
use serde::Serialize;

use super::{write_anchor, write_public, write_secret, write_seed};
use crate::output::Output;

/// Make a new consortium: its offline key, the coordinator's configuration, an operator's credential
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// Folder to make
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Name of the consortium, for example `north-sea`
    #[arg(long)]
    pub name: ConsortiumName,
    /// Where sites will reach the coordinator, for example coordinator.example.org:443
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "HOST:PORT")]
    pub address: Address,
    /// Name of the operator who runs this command
    #[arg(long, default_value = "operator")]
    pub operator: PersonName,
}

/// What was made.
#[derive(Debug, Serialize)]
pub struct Made {
    consortium: String,
    folder: PathBuf,
    fingerprint: String,
    address: String,
}

/// Runs the command.
pub fn run(args: &InitArgs, output: Output) -> anyhow::Result<()> {
    let made = make(args)?;
    output.show(&made, |made| {
        format!(
            "Made the consortium {name} in {folder}\n\
             \n  fingerprint  {fingerprint}   (every hospital compares this)\n\
             \nKeep {folder}/consortium/consortium.key offline: it alone can admit a hospital.\n\
             Carry {folder}/coordinator to the coordinator's machine, leave no copy, and start it:\n\
             \n  coordinator serve --config {folder}/coordinator/coordinator.toml\n\
             \nThen invite the first hospital; with the first line every other command finds the folder as it is typed:\n\
             \n  export CONSILIUM_DIR={absolute}\n  consilium site invite NAME",
            name = made.consortium,
            folder = made.folder.display(),
            absolute = std::path::absolute(&made.folder).unwrap_or_else(|_| made.folder.clone()).display(),
            fingerprint = made.fingerprint,
        )
    })?;
    Ok(())
}

/// Makes the folder. An existing consortium is never touched.
pub fn make(args: &InitArgs) -> anyhow::Result<Made> {
    let consortium = args.folder.join("consortium");
    if consortium.join("consortium.pub").exists() {
        bail!("{} holds a consortium already; choose another folder", args.folder.display());
    }
    let now = Timestamp::now();
    let key = ConsortiumKey::generate(args.name.clone());
    let anchor = key.anchor();

    let operator = Credential::generate();
    let operator_name = Principal::Operator(args.operator.clone());
    let chain = key.certify(&operator.tls.public_key(), &operator_name, lifetime::PERSON, now)?;
    let folder = consortium.join("operator");
    operator.write(&folder)?;
    write_public(&folder.join("name"), format!("{}\n", args.operator).as_bytes())?;
    write_public(&folder.join("certificate.pem"), chain.to_pem().as_bytes())?;

    let coordinator = Credential::generate();
    let issuing = TlsKey::generate();
    let roster = Roster::first(
        args.name.clone(),
        CoordinatorEntry {
            signing_key: coordinator.signing.verifying_key(),
            tls_key: coordinator.tls.public_key().hash(),
            issuing_key: issuing.public_key().hash(),
        },
        PersonEntry {
            name: args.operator.clone(),
            signing_key: operator.signing.verifying_key(),
            tls_key: operator.tls.public_key().hash(),
        },
    )?;
    let roster = key.sign(&roster).to_canonical();
    let addresses = std::slice::from_ref(args.address.host());
    let chain = key.certify_coordinator(&coordinator.tls.public_key(), addresses, now);
    let folder = args.folder.join("coordinator/identity");
    coordinator.write(&folder)?;
    write_public(&folder.join("certificate.pem"), chain.to_pem().as_bytes())?;
    write_secret(&folder.join("issuing.key"), issuing.to_pem().as_bytes())?;
    let certificate = key.certify_issuing(&issuing.public_key(), now);
    write_public(&folder.join("issuing.pem"), certificate::to_pem(&certificate).as_bytes())?;
    write_anchor(&folder.join("consortium.pub"), &anchor)?;
    write_public(&folder.join("roster"), &roster)?;
    write_config(&args.folder.join("coordinator/coordinator.toml"), &args.address)?;

    write_public(&consortium.join("consortium.pem"), certificate::to_pem(&key.certificate(now)).as_bytes())?;
    write_public(&consortium.join("roster"), &roster)?;
    write_public(&consortium.join("address"), format!("{}\n", args.address).as_bytes())?;
    write_secret(&consortium.join("consortium.key"), key.to_pem().as_bytes())?;
    // Last: from now on the folder holds a consortium.
    write_anchor(&consortium.join("consortium.pub"), &anchor)?;
    Ok(Made {
        consortium: args.name.to_string(),
        folder: args.folder.clone(),
        fingerprint: anchor.fingerprint(),
        address: args.address.to_string(),
    })
}

/// The two keys of a party: one opens connections, one signs statements.
struct Credential {
    tls: TlsKey,
    signing: SigningKey,
}

impl Credential {
    fn generate() -> Self {
        Self { tls: TlsKey::generate(), signing: SigningKey::generate() }
    }

    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        write_secret(&folder.join("tls.key"), self.tls.to_pem().as_bytes())?;
        write_seed(&folder.join("signing.key"), &self.signing.to_seed())
    }
}

/// Listens on the address that the sites are told, if it is one of this kind of machine; else on all.
fn write_config(path: &Path, address: &Address) -> anyhow::Result<()> {
    let listen = match address.host() {
        Host::Ip(ip) if ip.is_loopback() => SocketAddr::new(*ip, address.port()),
        Host::Name(_) | Host::Ip(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()),
    };
    let text = format!(
        "# The coordinator's configuration. Paths are relative to this file.\n\
         listen = \"{listen}\"\n\
         identity = \"identity\"\n\
         data = \"data\"\n\
         ledger = \"../ledger\"\n\
         \n\
         # Traces and metrics go nowhere unless this is set.\n\
         # [telemetry]\n\
         # otlp = \"http://127.0.0.1:4317\"\n"
    );
    write_public(path, text.as_bytes())
}
