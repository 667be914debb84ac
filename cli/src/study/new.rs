//! `consilium study new`: a complete study with every key explained.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use consilium_files::write_public;
use consilium_study::name::{SiteName, StudyName};
use consilium_study::template::study_toml;
use serde::Serialize;

use crate::consortium::{Consortium, Location};
use crate::output::Output;

#[derive(Serialize)]
struct Written {
    study: StudyName,
    file: PathBuf,
    sites: Vec<SiteName>,
}

pub(super) fn run(
    location: &Location,
    name: &StudyName,
    sites: Vec<SiteName>,
    file: Option<PathBuf>,
    output: Output,
) -> anyhow::Result<()> {
    let sites = if sites.is_empty() { members(location)? } else { sites };
    let file = file.unwrap_or_else(|| PathBuf::from(format!("{name}.toml")));
    new(name, &sites, &file)?;
    let written = Written { study: name.clone(), file, sites };
    output.show(&written, |Written { study, file, sites }| {
        let file = file.display();
        let sites = match sites.len() {
            0 => "It names no site yet; a study has at least 3.".to_owned(),
            count => format!("It names {count} sites."),
        };
        format!(
            "Wrote the study {study} to {file}. {sites}\nEdit it, then type: consilium study check {file}"
        )
    })?;
    Ok(())
}

/// The sites of the consortium, where there is one.
fn members(location: &Location) -> anyhow::Result<Vec<SiteName>> {
    let Ok(consortium) = Consortium::open(location) else { return Ok(Vec::new()) };
    let (_, roster) = consortium.roster()?;
    Ok(roster.sites().iter().map(|entry| entry.name.clone()).collect())
}

/// Writes a study to start from. A file that differs is never touched.
pub fn new(name: &StudyName, sites: &[SiteName], file: &Path) -> anyhow::Result<()> {
    write(file, &study_toml(name, sites))
}

/// Whether a study file is there already as it would be written. One that differs is an error.
pub(super) fn is_there(file: &Path, text: &str) -> anyhow::Result<bool> {
    match std::fs::read_to_string(file) {
        Ok(known) if known == text => Ok(true),
        Ok(_) => bail!("{} is there already and differs; choose another place", file.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

/// Writes a study file. One that differs is never touched.
pub(super) fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    if is_there(file, text)? {
        return Ok(());
    }
    // The folder of a bare name is the one we are in.
    let path = if file.parent().is_some_and(|folder| folder.as_os_str().is_empty()) {
        Path::new(".").join(file)
    } else {
        file.to_owned()
    };
    write_public(&path, text.as_bytes())
}
