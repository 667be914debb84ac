//! `consilium init`: a new consortium, with everything its coordinator needs.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use consilium_identity::address::Address;
use consilium_identity::authority::lifetime;
use consilium_identity::commission::{CheckedRequest, commission, configuration};
use consilium_identity::roster::PersonEntry;
use consilium_identity::{ConsortiumKey, CoordinatorKeys, CoordinatorRequest, TlsKey, certificate};
use consilium_study::canonical::Canonical;
use consilium_study::name::{ConsortiumName, PersonName, Principal};
use consilium_study::sign::{Signed, SigningKey};
use jiff::Timestamp;
use serde::Serialize;

use super::{is_same_fingerprint, write_anchor, write_public, write_secret, write_seed};
use crate::output::{self, Output};

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
    /// Request of a coordinator on another machine, from `coordinator init`; its keys stay there
    #[arg(long, value_name = "FILE", conflicts_with = "address")]
    pub request: Option<PathBuf>,
    /// Fingerprint that the coordinator's machine shows; without it the terminal is asked
    #[arg(long, value_name = "TEXT", requires = "request")]
    pub fingerprint: Option<String>,
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
    /// The answer to a coordinator on another machine.
    commission: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &InitArgs, output: Output) -> anyhow::Result<()> {
    let made = make(args)?;
    output.show(&made, |made| {
        let next = match &made.commission {
            None => format!(
                "The coordinator's keys were made here, for a coordinator on this machine (for another machine see \
                 `coordinator init`). Start it:\n\
                 \n  coordinator serve --config {}/coordinator/coordinator.toml",
                made.folder.display()
            ),
            Some(file) => format!(
                "Send {} to the coordinator's machine, where somebody types:\n\
                 \n  coordinator install coordinator.commission --config DIR/coordinator.toml",
                file.display()
            ),
        };
        format!(
            "Made the consortium {name} in {folder}\n\
             \n  fingerprint  {fingerprint}   (every hospital compares this)\n\
             \nKeep {folder}/consortium/consortium.key offline: it alone can admit a hospital.\n\
             {next}\n\
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
    let office = Office::open(args)?;
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

    let entry = PersonEntry {
        name: args.operator.clone(),
        signing_key: operator.signing.verifying_key(),
        tls_key: operator.tls.public_key().hash(),
    };
    let given = commission(&key, &office.request, entry, now)?;
    let answer = args.folder.join("coordinator.commission");
    match &office.keys {
        None => write_public(&answer, &given.to_canonical())?,
        Some(keys) => {
            let folder = args.folder.join("coordinator");
            for (name, bytes) in keys.files() {
                write_secret(&folder.join("identity").join(name), &bytes)?;
            }
            for (name, bytes) in given.files() {
                write_public(&folder.join("identity").join(name), &bytes)?;
            }
            let text = configuration(office.request.address(), "../ledger");
            write_public(&folder.join("coordinator.toml"), text.as_bytes())?;
        }
    }

    let address = office.request.address();
    write_public(&consortium.join("consortium.pem"), certificate::to_pem(&key.certificate(now)).as_bytes())?;
    write_public(&consortium.join("roster"), &given.roster.to_canonical())?;
    write_public(&consortium.join("address"), format!("{address}\n").as_bytes())?;
    write_secret(&consortium.join("consortium.key"), key.to_pem().as_bytes())?;
    // Last: from now on the folder holds a consortium.
    write_anchor(&consortium.join("consortium.pub"), &anchor)?;
    Ok(Made {
        consortium: args.name.to_string(),
        folder: args.folder.clone(),
        fingerprint: anchor.fingerprint(),
        address: address.to_string(),
        commission: office.keys.is_none().then_some(answer),
    })
}

/// The coordinator that is to be commissioned, and its keys if it is to run on this machine.
struct Office {
    request: CheckedRequest,
    keys: Option<CoordinatorKeys>,
}

impl Office {
    fn open(args: &InitArgs) -> anyhow::Result<Self> {
        let Some(path) = &args.request else {
            let keys = CoordinatorKeys::generate();
            let request = CoordinatorRequest::new(&keys, args.address.clone());
            return Ok(Self { request: CheckedRequest::new(&request)?, keys: Some(keys) });
        };
        let about = || format!("reading {}", path.display());
        let bytes = std::fs::read(path).with_context(about)?;
        let request = Signed::from_canonical(&bytes).with_context(about)?;
        let request = CheckedRequest::new(&request).with_context(about)?;
        agree(&request, args)?;
        Ok(Self { request, keys: None })
    }
}

/// A request that was exchanged on its way would put somebody else in the coordinator's place.
fn agree(request: &CheckedRequest, args: &InitArgs) -> anyhow::Result<()> {
    let (fingerprint, address) = (request.fingerprint(), request.address());
    match &args.fingerprint {
        Some(read_out) if is_same_fingerprint(read_out, &fingerprint) => Ok(()),
        Some(read_out) => bail!(
            "the fingerprint does not match: the coordinator's is {}, the request has {fingerprint}. \
             It may have been exchanged on its way; nothing was made",
            read_out.escape_debug()
        ),
        None if !io::stdin().is_terminal() => bail!(
            "the coordinator at {address} has the fingerprint {fingerprint}. There is no terminal to ask on: compare \
             it with the one that its machine shows, then add: --fingerprint {fingerprint}"
        ),
        None => {
            let same = output::ask(&format!(
                "The coordinator at {address} has the fingerprint\n\n  {fingerprint}\n\n\
                 Does its machine show the same? Type yes to make the consortium"
            ))?;
            anyhow::ensure!(same, "the answer was not yes; nothing was made");
            Ok(())
        }
    }
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
