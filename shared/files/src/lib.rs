//! Files that are whole or absent, secret ones that only their owner reads, and strangers' files of bounded length.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
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
    let attempt = || -> io::Result<()> {
        make_folder(folder)?;
        let permissions = Permissions::from_mode(mode);
        let mut file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(folder)?.sync_all()
    };
    attempt().with_context(|| format!("writing {}", path.display()))
}

/// Makes a folder and those above it, so that a power cut does not take them away again.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new("/"));
    make_folder(parent)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    File::open(parent)?.sync_all()
}

/// Gives a folder that is complete its name. Nothing may have that name yet.
pub fn publish_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    let attempt = || -> io::Result<()> {
        File::open(from)?.sync_all()?;
        fs::rename(from, to)?;
        File::open(to.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    attempt().with_context(|| format!("making {}", to.display()))
}

/// Reads a file that a stranger may have made: longer than `limit` is refused before it fills the memory.
pub fn read_at_most(path: &Path, limit: u64) -> anyhow::Result<Vec<u8>> {
    let attempt = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = attempt().with_context(|| format!("reading {}", path.display()))?;
    if bytes.len() as u64 > limit {
        bail!("{} is longer than the {limit} bytes that such a file can have", path.display());
    }
    Ok(bytes)
}

/// Refuses a secret file that others can read.
pub fn require_private(path: &Path) -> anyhow::Result<()> {
    let mode =
        fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!("{0} can be read by others. Run: chmod 600 {0}", path.display());
    }
    Ok(())
}

/// Reads the 32 bytes of a signing key, and refuses a file that others can read.
pub fn read_seed(path: &Path) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    require_private(path)?;
    let bytes = Zeroizing::new(fs::read(path).with_context(|| format!("reading {}", path.display()))?);
    seed(&bytes).with_context(|| format!("{} is not a signing key of 32 bytes", path.display()))
}

/// The seed in a file's bytes, without a copy that stays behind.
pub fn seed(bytes: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let mut seed = Zeroizing::new([0; 32]);
    (bytes.len() == seed.len()).then(|| {
        seed.copy_from_slice(bytes);
        seed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/sub/key");
        write_secret(&path, &[7; 32]).unwrap();
        assert_eq!(read_seed(&path).unwrap().as_slice(), [7; 32]);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(read_seed(&path).unwrap_err().to_string().contains("chmod 600"));
        write_secret(&path, &[7; 31]).unwrap();
        assert!(read_seed(&path).unwrap_err().to_string().contains("32 bytes"));
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        let error = read_at_most(Path::new("/dev/zero"), 1000).unwrap_err();
        assert_eq!(error.to_string(), "/dev/zero is longer than the 1000 bytes that such a file can have");
        let folder = tempfile::tempdir().unwrap();
        write_public(&folder.path().join("file"), &[1; 1000]).unwrap();
        assert_eq!(read_at_most(&folder.path().join("file"), 1000).unwrap(), [1; 1000]);
    }

    #[test]
    fn a_folder_appears_whole_and_over_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write_public(&at("part/file"), b"x").unwrap();
        publish_folder(&at("part"), &at("whole")).unwrap();
        assert!(at("whole/file").is_file() && !at("part").exists());
        write_public(&at("part/file"), b"y").unwrap();
        assert!(publish_folder(&at("part"), &at("whole")).is_err());
        assert_eq!(fs::read(at("whole/file")).unwrap(), b"x");
    }
}
