//! `coordinator init` and `coordinator install`: keys that are made where they serve, and the consortium's answer.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use consilium_files::{read_at_most, write_public};
use consilium_identity::address::Address;
use consilium_identity::commission::{CheckedRequest, LONGEST_FILE, configuration};
use consilium_identity::{Anchor, Commission, CoordinatorRequest};
use consilium_study::canonical::Canonical;
use consilium_study::fingerprint;
use consilium_study::sign::Signed;
use jiff::Timestamp;
use serde::Serialize;

use crate::config::Config;
use crate::durable::durable;
use crate::identity::{read_anchor, read_keys, read_or_make_keys};

/// What `coordinator init` made or found.
#[derive(Debug, Serialize)]
pub struct Made {
    /// The file for the operator.
    pub request: PathBuf,
    /// What both machines show.
    pub fingerprint: String,
    /// The configuration to serve with.
    pub config: PathBuf,
    /// Whether keys were made; those of an earlier call are kept.
    pub new: bool,
}

/// Makes keys and configuration in a folder, and the request for the operator. What is there already is kept.
pub fn init(folder: &Path, address: &Address) -> anyhow::Result<Made> {
    let (request, config) = (folder.join("coordinator.request"), folder.join("coordinator.toml"));
    if !config.try_exists().with_context(|| format!("reading {}", config.display()))? {
        durable("config", || write_public(&config, configuration(address, "ledger").as_bytes()))?;
    }
    let identity = Config::load(&config)?.identity;
    if let Some(anchor) = read_anchor(&identity)? {
        bail!("{} serves the consortium {} already; choose another folder", folder.display(), anchor.name);
    }
    let (keys, new) = read_or_make_keys(&identity)?;
    let own = CoordinatorRequest::new(&keys, address.clone());
    let own_fingerprint = CheckedRequest::new(&own)?.fingerprint();
    if !request.try_exists().with_context(|| format!("reading {}", request.display()))? {
        // Last: from now on these keys may be known to somebody.
        durable("request", || write_public(&request, &own.to_canonical()))?;
    }
    let asked = read_request(&request)?;
    if asked.address() != address {
        bail!(
            "{} asks for the address {} already; remove it to ask for {address}",
            request.display(),
            asked.address()
        );
    }
    if asked.fingerprint() != own_fingerprint {
        bail!(
            "{} is not of the keys in {}; remove it and type this again",
            request.display(),
            identity.display()
        );
    }
    Ok(Made { fingerprint: own_fingerprint, request, config, new })
}

fn read_request(path: &Path) -> anyhow::Result<CheckedRequest> {
    let about = || format!("reading {}", path.display());
    let signed = Signed::from_canonical(&read_at_most(path, LONGEST_FILE)?).with_context(about)?;
    CheckedRequest::new(&signed).with_context(about)
}

/// Whose coordinator this is from now on.
#[derive(Debug, Serialize)]
pub struct Installed {
    /// The consortium.
    pub consortium: String,
    /// Of its key.
    pub fingerprint: String,
}

/// Takes up a commission, after all of it was checked against the keys made here and a person has compared the
/// consortium's fingerprint: `read_out`, or at the terminal.
pub fn install(commission: &Path, config: &Path, read_out: Option<&str>) -> anyhow::Result<Installed> {
    let folder = Config::load(config)?.identity;
    let bytes = read_at_most(commission, LONGEST_FILE)?;
    let given =
        Commission::from_canonical(&bytes).with_context(|| format!("reading {}", commission.display()))?;
    given
        .verify(&read_keys(&folder)?, Timestamp::now())
        .with_context(|| format!("{} was not taken up; nothing was changed", commission.display()))?;
    match read_anchor(&folder)? {
        None => agree(&given.anchor, read_out)?,
        Some(anchor) if anchor == given.anchor => {}
        Some(anchor) => bail!(
            "this coordinator serves another consortium, {} with the fingerprint {}, and no coordinator serves two. \
             Make another one: coordinator init DIR --address HOST:PORT",
            anchor.name,
            anchor.fingerprint()
        ),
    }
    for (name, bytes) in given.files() {
        let path = folder.join(name);
        // What is there is the same or, for a certificate, newer.
        if !path.try_exists().with_context(|| format!("reading {}", path.display()))? {
            durable("commission", || write_public(&path, &bytes))?;
        }
    }
    Ok(Installed { consortium: given.anchor.name.to_string(), fingerprint: given.anchor.fingerprint() })
}

/// An answer that was exchanged on its way would put this coordinator into somebody else's hands.
fn agree(anchor: &Anchor, read_out: Option<&str>) -> anyhow::Result<()> {
    let (name, fingerprint) = (&anchor.name, anchor.fingerprint());
    match read_out {
        Some(read_out) if fingerprint::is_same(read_out, &fingerprint) => Ok(()),
        Some(read_out) => bail!(
            "the fingerprint does not match: the operator's is {}, the answer is of consortium {name} with \
             {fingerprint}. It may have been exchanged on its way; nothing was changed",
            read_out.escape_debug()
        ),
        None if !io::stdin().is_terminal() => bail!(
            "the answer is of consortium {name} with the fingerprint {fingerprint}. There is no terminal to ask on: \
             have the operator read out the one that `consilium init` has shown, then add: --fingerprint TEXT"
        ),
        None => {
            eprint!(
                "The answer is of consortium {name} with the fingerprint\n\n  {fingerprint}\n\n\
                 Has `consilium init` shown the operator the same? Type yes to serve it: "
            );
            io::stderr().flush()?;
            let mut answer = String::new();
            io::stdin().lock().read_line(&mut answer)?;
            let same = matches!(answer.trim(), "yes" | "y" | "Yes" | "YES");
            ensure!(same, "the answer was not yes; nothing was changed");
            Ok(())
        }
    }
}
