//! Files that are whole or absent, and secret ones that only their owner reads.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

/// Writes a file that anybody may read.
pub fn write_public(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write(path, bytes, 0o644)
}

/// Writes a file that only its owner may read.
pub fn write_secret(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write(path, bytes, 0o600)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let folder = path.parent().expect("a file lies in a folder");
    let attempt = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(mode))
            .tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        std::fs::File::open(folder)?.sync_all()
    };
    attempt().with_context(|| format!("writing {}", path.display()))
}

/// Writes the seed of a signing key.
pub fn write_seed(path: &Path, seed: &Zeroizing<[u8; 32]>) -> anyhow::Result<()> {
    write_secret(path, seed.as_slice())
}

/// Reads the seed of a signing key, and refuses one that others can read.
pub fn read_seed(path: &Path) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let about = || format!("reading {}", path.display());
    let mode = std::fs::metadata(path).with_context(about)?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!("{0} can be read by others. Run: chmod 600 {0}", path.display());
    }
    let bytes = Zeroizing::new(std::fs::read(path).with_context(about)?);
    let seed = <[u8; 32]>::try_from(bytes.as_slice());
    seed.map(Zeroizing::new)
        .ok()
        .with_context(|| format!("{} is not a signing key of 32 bytes", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/key");
        write_seed(&path, &Zeroizing::new([7; 32])).unwrap();
        assert_eq!(read_seed(&path).unwrap().as_slice(), [7; 32]);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read_seed(&path).unwrap_err().to_string().contains("chmod 600"));
    }
}
