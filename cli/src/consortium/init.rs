//! `consilium init`: a new consortium, and its answer to a coordinator.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use consilium_files::{publish_folder, read_at_most, write_public, write_secret};
use consilium_identity::address::Address;
use consilium_identity::authority::lifetime;
use consilium_identity::commission::{CheckedRequest, LONGEST_FILE, commission, configuration};
use consilium_identity::roster::PersonEntry;
use consilium_identity::{
    Anchor, Commission, ConsortiumKey, CoordinatorKeys, CoordinatorRequest, TlsKey, certificate,
};
use consilium_study::canonical::Canonical;
use consilium_study::fingerprint;
use consilium_study::name::{ConsortiumName, PersonName, Principal};
use consilium_study::sign::{Signed, SigningKey};
use jiff::Timestamp;
use serde::Serialize;

use crate::output::{self, Output};

/// Make a new consortium: its offline key, an operator's credential, and what its coordinator needs
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

impl Made {
    fn of(args: &InitArgs, anchor: &Anchor, address: &Address, elsewhere: bool) -> Self {
        Self {
            consortium: anchor.name.to_string(),
            folder: args.folder.clone(),
            fingerprint: anchor.fingerprint(),
            address: address.to_string(),
            commission: elsewhere.then(|| args.folder.join("consortium").join(ANSWER)),
        }
    }
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
                 \n  coordinator install coordinator.commission --config SERVER/coordinator.toml",
                file.display()
            ),
        };
        format!(
            "Made the consortium {name} in {folder}\n\
             \n  fingerprint  {fingerprint}   (the coordinator's machine and every hospital compare this)\n\
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

/// Makes the folder. An existing consortium is never touched; the answer to a request that it has answered is shown
/// again.
pub fn make(args: &InitArgs) -> anyhow::Result<Made> {
    let (consortium, coordinator) = (args.folder.join("consortium"), args.folder.join("coordinator"));
    if is_there(&consortium)? {
        return again(args, &consortium);
    }
    if args.request.is_none() && is_there(&coordinator)? {
        bail!(
            "{} is there, and the consortium that it serves is not. If it was moved away, bring it back; if this \
             command was interrupted, remove {0} and type it again; else choose another folder",
            coordinator.display()
        );
    }
    let office = Office::open(args)?;
    let now = Timestamp::now();
    let key = ConsortiumKey::generate(args.name.clone());
    std::fs::create_dir_all(&args.folder).with_context(|| format!("making {}", args.folder.display()))?;
    // Each folder appears whole: whoever stops this command leaves no office without its key.
    let stage = tempfile::Builder::new()
        .prefix(".consilium-init-")
        .tempdir_in(&args.folder)
        .with_context(|| format!("making a folder in {}", args.folder.display()))?;
    let entry = write_operator(&stage.path().join("consortium/operator"), &key, args, now)?;
    let given = commission(&key, &office.request, entry, now)?;
    let staged = stage.path().join("consortium");
    let address = office.request.address();
    let anchor = format!("{}\n", key.anchor());
    write_public(&staged.join("consortium.pem"), certificate::to_pem(&key.certificate(now)).as_bytes())?;
    write_public(&staged.join("roster"), &given.roster.to_canonical())?;
    write_public(&staged.join("address"), format!("{address}\n").as_bytes())?;
    write_public(&staged.join(ANSWER), &given.to_canonical())?;
    write_secret(&staged.join("consortium.key"), key.to_pem().as_bytes())?;
    write_public(&staged.join("consortium.pub"), anchor.as_bytes())?;
    if let Some(keys) = &office.keys {
        let staged = stage.path().join("coordinator");
        for (name, bytes) in keys.files() {
            write_secret(&staged.join("identity").join(name), &bytes)?;
        }
        for (name, bytes) in given.files() {
            write_public(&staged.join("identity").join(name), &bytes)?;
        }
        write_public(&staged.join("coordinator.toml"), configuration(address, "../ledger").as_bytes())?;
        publish_folder(&staged, &coordinator)?;
    }
    publish_folder(&staged, &consortium)?;
    Ok(Made::of(args, &key.anchor(), address, office.keys.is_none()))
}

/// Where the answer to the coordinator's request lies in the consortium's folder.
const ANSWER: &str = "coordinator.commission";

/// The consortium is there. If it was made for this very request, its answer may have been lost on the way.
fn again(args: &InitArgs, consortium: &Path) -> anyhow::Result<Made> {
    let taken = || anyhow!("{} holds a consortium already; choose another folder", args.folder.display());
    let Some(request) = &args.request else { return Err(taken()) };
    let request = read_request(request)?;
    let answer = read_at_most(&consortium.join(ANSWER), LONGEST_FILE)?;
    let given = Commission::from_canonical(&answer).context("reading the answer that was given")?;
    if given.anchor.name != args.name || !given.is_for(&request.entry()) {
        return Err(taken());
    }
    Ok(Made::of(args, &given.anchor, request.address(), true))
}

fn is_there(path: &Path) -> anyhow::Result<bool> {
    path.try_exists().with_context(|| format!("reading {}", path.display()))
}

/// Writes the operator's credential, and returns how the operator stands on the roster.
fn write_operator(
    folder: &Path,
    key: &ConsortiumKey,
    args: &InitArgs,
    now: Timestamp,
) -> anyhow::Result<PersonEntry> {
    let (tls, signing) = (TlsKey::generate(), SigningKey::generate());
    let principal = Principal::Operator(args.operator.clone());
    let chain = key.certify(&tls.public_key(), &principal, lifetime::PERSON, now)?;
    write_secret(&folder.join("tls.key"), tls.to_pem().as_bytes())?;
    write_secret(&folder.join("signing.key"), signing.to_seed().as_slice())?;
    write_public(&folder.join("name"), format!("{}\n", args.operator).as_bytes())?;
    write_public(&folder.join("certificate.pem"), chain.to_pem().as_bytes())?;
    Ok(PersonEntry {
        name: args.operator.clone(),
        signing_key: signing.verifying_key(),
        tls_key: tls.public_key().hash(),
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
        let request = read_request(path)?;
        agree(&request, args)?;
        Ok(Self { request, keys: None })
    }
}

fn read_request(path: &Path) -> anyhow::Result<CheckedRequest> {
    let about = || format!("reading {}", path.display());
    let request = Signed::from_canonical(&read_at_most(path, LONGEST_FILE)?).with_context(about)?;
    CheckedRequest::new(&request).with_context(about)
}

/// A request that was exchanged on its way would put somebody else in the coordinator's place.
fn agree(request: &CheckedRequest, args: &InitArgs) -> anyhow::Result<()> {
    let (fingerprint, address) = (request.fingerprint(), request.address());
    match &args.fingerprint {
        Some(read_out) if fingerprint::is_same(read_out, &fingerprint) => Ok(()),
        Some(read_out) => bail!(
            "the fingerprint does not match: the coordinator's is {}, the request has {fingerprint}. \
             It may have been exchanged on its way; nothing was made",
            read_out.escape_debug()
        ),
        None if !io::stdin().is_terminal() => bail!(
            "the coordinator at {address} has the fingerprint {fingerprint}. There is no terminal to ask on: compare \
             it with the one that its machine shows, then add: --fingerprint TEXT"
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
