//! What is in a data folder.

use std::collections::BTreeSet;
use std::fs::{self, File, FileType};
use std::io::Read;
use std::path::Path;

use super::access::Root;
use super::local::LocalPath;
use super::protocol::Format;

/// Deepest folder that is looked into.
const DEEPEST: u32 = 32;
/// Most names that are looked at. A cohort is smaller; a wrong folder (`/`) is larger.
pub const MOST_NAMES: usize = 4_000_000;

/// Why a folder could not be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Some folder in it could not be read.
    #[error("a folder in it cannot be read")]
    Unreadable,
    /// There is more in it than any cohort has.
    #[error("it holds more than {MOST_NAMES} names or is nested deeper than {DEEPEST} folders")]
    TooMany,
}

/// The images in a folder that `known` does not name, told by their first bytes. Files that are no
/// images, hidden files and links to other folders are passed over.
pub fn unknown_images(
    root: &Root,
    format: Format,
    known: &dyn Fn(&LocalPath) -> bool,
) -> Result<BTreeSet<LocalPath>, ListError> {
    let mut images = BTreeSet::new();
    walk(root, &mut |file, path, kind| {
        if kind.is_file() && !known(&path) && is_image(file, format) {
            images.insert(path);
        }
    })?;
    Ok(images)
}

/// Shows `each` everything in a folder and in those below it that is no folder itself and not hidden: where it lies, its
/// path in the folder and what it is. Links are not followed.
pub(super) fn walk(root: &Root, each: &mut dyn FnMut(&Path, LocalPath, FileType)) -> Result<(), ListError> {
    let mut seen = 0;
    let mut open = vec![(root.path().to_path_buf(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(|_| ListError::Unreadable)? {
            let entry = entry.map_err(|_| ListError::Unreadable)?;
            seen += 1;
            if seen > MOST_NAMES || depth > DEEPEST {
                return Err(ListError::TooMany);
            }
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') {
                continue;
            }
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().map_err(|_| ListError::Unreadable)?;
            if kind.is_dir() {
                open.push((entry.path(), format!("{path}/"), depth + 1));
            } else {
                each(&entry.path(), LocalPath::new(path), kind);
            }
        }
    }
    Ok(())
}

/// Whether the first bytes are those of an image. A file that cannot be opened is none we know of.
fn is_image(path: &Path, format: Format) -> bool {
    let mut start = Vec::new();
    let Ok(file) = File::open(path) else { return false };
    file.take(132).read_to_end(&mut start).is_ok() && format.begins(&start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_that_nobody_named_are_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let mut dicom = vec![0; 128];
        dicom.extend(b"DICM");
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        for name in ["known", "a/b/unknown", ".hidden"] {
            fs::write(folder.path().join(name), &dicom).unwrap();
        }
        fs::write(folder.path().join("labels.csv"), "path,label\n").unwrap();
        fs::write(folder.path().join("x.png"), b"\x89PNG\r\n\x1a\n").unwrap();
        let root = Root::open(folder.path()).unwrap();
        let known = |path: &LocalPath| path.reveal() == "known";
        let names = |format| -> Vec<String> {
            let images = unknown_images(&root, format, &known).unwrap();
            images.iter().map(|path| path.reveal().to_owned()).collect()
        };
        assert_eq!(names(Format::Dicom), ["a/b/unknown"]);
        assert_eq!(names(Format::Raster), ["x.png"]);
    }
}
