//! Open invitations in the operator's folder. Their texts are secrets: whoever has one can ask to join in the
//! invited site's name, and the operator's machine needs it to check the request.

use std::fs;
use std::io;

use anyhow::Context as _;
use consilium_files::write_secret;
use consilium_identity::Invitation;
use consilium_study::name::SiteName;
use zeroize::Zeroizing;

use crate::consortium::Consortium;

const FOLDER: &str = "invitations";

/// Keeps an invitation until its site is admitted.
pub(super) fn keep(consortium: &Consortium, invitation: &Invitation) -> anyhow::Result<()> {
    let path = consortium.path(FOLDER).join(invitation.site().as_str());
    write_secret(&path, invitation.to_text().as_bytes())
}

/// The open invitation of a site.
pub(super) fn find(consortium: &Consortium, site: &SiteName) -> anyhow::Result<Option<Invitation>> {
    let path = consortium.path(FOLDER).join(site.as_str());
    let about = || format!("reading {}", path.display());
    match fs::read_to_string(&path).map(Zeroizing::new) {
        Ok(text) => Ok(Some(text.parse().with_context(about)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(about),
    }
}

/// Removes the invitation of a site; none is fine.
pub(super) fn remove(consortium: &Consortium, site: &SiteName) -> anyhow::Result<()> {
    let path = consortium.path(FOLDER).join(site.as_str());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// All open invitations, in the order of names.
pub(super) fn all(consortium: &Consortium) -> anyhow::Result<Vec<Invitation>> {
    let folder = consortium.path(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", folder.display())),
    };
    let mut sites = Vec::new();
    for entry in entries {
        // A file that was being written when the machine stopped has no site's name.
        sites.extend(entry?.file_name().to_str().and_then(|name| SiteName::new(name).ok()));
    }
    sites.sort();
    sites.iter().filter_map(|site| find(consortium, site).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::consortium::init::{InitArgs, make};
    use jiff::Timestamp;

    #[test]
    fn an_invitation_is_kept_in_secret_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("north");
        make(&InitArgs {
            folder: root.clone(),
            name: "north".parse().unwrap(),
            address: "127.0.0.1:8443".parse().unwrap(),
            operator: "ann".parse().unwrap(),
            request: None,
            fingerprint: None,
        })
        .unwrap();
        let consortium = Consortium::at(&root).unwrap();
        let site: SiteName = "charite".parse().unwrap();
        assert!(all(&consortium).unwrap().is_empty() && find(&consortium, &site).unwrap().is_none());

        let expires = Timestamp::now() + std::time::Duration::from_hours(1);
        let address = consortium.address().unwrap();
        let invitation = Invitation::new(consortium.anchor().clone(), address, site.clone(), expires);
        keep(&consortium, &invitation).unwrap();
        let path = consortium.path(FOLDER).join("charite");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let found = find(&consortium, &site).unwrap().unwrap();
        assert_eq!(found.to_text().as_str(), invitation.to_text().as_str());
        assert_eq!(all(&consortium).unwrap().len(), 1);

        fs::write(&path, "consilium-invite:cut").unwrap();
        assert!(find(&consortium, &site).is_err(), "a damaged file is not passed over");
        remove(&consortium, &site).unwrap();
        remove(&consortium, &site).unwrap();
        assert!(find(&consortium, &site).unwrap().is_none());
    }
}
