//! `coordinator init` and `coordinator install`: keys that are made where they serve, and the consortium's answer.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use consilium_identity::address::Address;
use consilium_identity::commission::{CheckedRequest, configuration};
use consilium_identity::{Anchor, Commission, CoordinatorKeys, CoordinatorRequest};
use consilium_study::canonical::Canonical;
use consilium_study::sign::Signed;
use jiff::Timestamp;
use serde::Serialize;

use crate::config::Config;
use crate::identity::read_keys;

/// What `coordinator init` made.
#[derive(Debug, Serialize)]
pub struct Made {
    /// The file for the operator.
    pub request: PathBuf,
    /// What both machines show.
    pub fingerprint: String,
    /// The configuration to serve with.
    pub config: PathBuf,
}

/// Makes keys and configuration in a folder, and the request for the operator. The keys of an earlier call are
/// kept, and its request is shown again.
pub fn init(folder: &Path, address: &Address) -> anyhow::Result<Made> {
    let (request, config) = (folder.join("coordinator.request"), folder.join("coordinator.toml"));
    let identity = folder.join("identity");
    if identity.join("consortium.pub").exists() {
        bail!("{} serves a consortium already; choose another folder", folder.display());
    }
    if !request.exists() {
        let keys = CoordinatorKeys::generate();
        for (name, bytes) in keys.files() {
            write(&identity.join(name), &bytes, 0o600)?;
        }
        write(&config, configuration(address, "ledger").as_bytes(), 0o644)?;
        // Last: from now on these keys may be known to somebody.
        write(&request, &CoordinatorRequest::new(&keys, address.clone()).to_canonical(), 0o644)?;
    }
    let asked = read_request(&request)?;
    if asked.address() != address {
        bail!(
            "{} asks for the address {} already; choose another folder for {address}",
            request.display(),
            asked.address()
        );
    }
    Ok(Made { fingerprint: asked.fingerprint(), request, config })
}

fn read_request(path: &Path) -> anyhow::Result<CheckedRequest> {
    let about = || format!("reading {}", path.display());
    let signed = Signed::from_canonical(&fs::read(path).with_context(about)?).with_context(about)?;
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

/// Takes up a commission, after all of it was checked against the keys made here.
pub fn install(commission: &Path, config: &Path) -> anyhow::Result<Installed> {
    let folder = Config::load(config)?.identity;
    let about = || format!("reading {}", commission.display());
    let bytes = fs::read(commission).with_context(about)?;
    let given = Commission::from_canonical(&bytes).with_context(about)?;
    given
        .verify(&read_keys(&folder)?, Timestamp::now())
        .with_context(|| format!("{} was not taken up; nothing was changed", commission.display()))?;
    if let Ok(line) = fs::read_to_string(folder.join("consortium.pub"))
        && line.parse::<Anchor>().ok().as_ref() != Some(&given.anchor)
    {
        bail!("this coordinator serves another consortium: {}", line.trim_end());
    }
    for (name, bytes) in given.files() {
        write(&folder.join(name), &bytes, 0o644)?;
    }
    Ok(Installed { consortium: given.anchor.name.to_string(), fingerprint: given.anchor.fingerprint() })
}

/// Writes a file that is whole or absent.
fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let folder = path.parent().expect("a file lies in a folder");
    let attempt = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let permissions = fs::Permissions::from_mode(mode);
        let mut file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        fs::File::open(folder)?.sync_all()
    };
    attempt().with_context(|| format!("writing {}", path.display()))
}
