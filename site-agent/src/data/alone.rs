//! Pictures of no cohort: files and folders that a person names, read and decoded as a cohort's are.
//!
//! There is no table, so nothing is known of a file but its path, which the person who named it may see.

use std::path::{Path, PathBuf};

use super::access::{Root, read_file};
use super::decoder::{Decoded, Decoder};
use super::folder::{ListError, walk};
use super::protocol::Format;
use super::reason::Reason;
use super::source::Target;

/// Why a file or a folder gives no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// There is nothing of this name.
    #[error("it is not there")]
    Missing,
    /// The file cannot be read or decoded.
    #[error("{}", .0.explain())]
    File(Reason),
    /// The folder cannot be listed.
    #[error(transparent)]
    Folder(#[from] ListError),
}

impl Unreadable {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::File(reason) => reason.code(),
            Self::Folder(ListError::Unreadable) => "folder_unreadable",
            Self::Folder(ListError::TooMany) => "folder_too_large",
        }
    }
}

impl From<Reason> for Unreadable {
    fn from(reason: Reason) -> Self {
        if reason == Reason::Missing { Self::Missing } else { Self::File(reason) }
    }
}

/// The files below a folder, in the order of their paths; hidden ones and links to other folders are passed over.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>, Unreadable> {
    let root = Root::open(folder)?;
    let mut files = Vec::new();
    walk(&root, &mut |file, _, kind| {
        // A link that leads nowhere is one that cannot be read.
        if kind.is_file() || kind.is_symlink() && !file.is_dir() {
            let inside = file.strip_prefix(root.path()).expect("a walk stays below its root");
            files.push(folder.join(inside));
        }
    })?;
    files.sort();
    Ok(files)
}

/// Reads a file and brings it to a study's size, as the loader of a cohort does. What it is, its first bytes say.
pub fn decode_file(path: &Path, target: Target, decoder: &mut Decoder) -> Result<Decoded, Unreadable> {
    let bytes = read_file(path)?;
    if bytes.is_empty() {
        return Err(Reason::Empty.into());
    }
    let begins = |format: &Format| format.begins(&bytes);
    let format = [Format::Dicom, Format::Nifti].into_iter().find(begins).unwrap_or(Format::Raster);
    Ok(decoder.decode(format, target, bytes)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_is_its_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("b/c")).unwrap();
        for name in ["b/c/1.png", "b/2.png", "a.dcm", ".hidden", "b/.hidden"] {
            fs::write(at(name), b"bytes").unwrap();
        }
        symlink("a.dcm", at("link")).unwrap();
        symlink("gone", at("lost")).unwrap();
        symlink("b", at("loop")).unwrap();
        let want = ["a.dcm", "b/2.png", "b/c/1.png", "link", "lost"].map(at);
        assert_eq!(files_below(folder.path()).unwrap(), want);
        assert_eq!(files_below(&at("none")), Err(Unreadable::Missing));
    }

    #[test]
    fn what_cannot_be_read_has_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let mut decoder = Decoder::new(std::process::Command::new("false"));
        let target = Target::new(1, 8, 8).unwrap();
        fs::write(folder.path().join("empty"), b"").unwrap();
        symlink("gone", folder.path().join("lost")).unwrap();
        let mut code =
            |name: &str| decode_file(&folder.path().join(name), target, &mut decoder).unwrap_err().code();
        assert_eq!(
            [code("none"), code("empty"), code("lost"), code(".")],
            ["missing", "empty", "broken_link", "not_a_file"]
        );
    }
}
