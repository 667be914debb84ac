//! `consilium audit verify`: the whole ledger, and what it proves.

use std::path::Path;

use anyhow::{Context as _, bail};
use consilium_ledger::Report;
use consilium_ledger::report::StudyReport;
use consilium_study::hash::Hash;
use serde::Serialize;

use super::folder::Bundle;
use crate::consortium::read_anchor;
use crate::output::Output;

/// What the ledger proves, and what lies beside it.
#[derive(Serialize)]
struct Verdict {
    verified: bool,
    #[serde(flatten)]
    report: Report,
    released: Vec<Found>,
}

/// A released model and where its bytes are.
#[derive(Serialize)]
struct Found {
    study: String,
    model: Hash,
    /// The file with these bytes; absent where only the blobs hold it, or nothing does.
    file: Option<String>,
    present: bool,
}

pub(super) fn run(root: &Path, key: Option<&Path>, output: Output) -> anyhow::Result<()> {
    let bundle = Bundle::open(root)?;
    let brought = key.is_some();
    let anchor = read_anchor(&key.map_or_else(|| bundle.key_file(), Path::to_owned))?;
    if let (Some(_), Ok(own)) = (key, read_anchor(&bundle.key_file()))
        && own.key != anchor.key
    {
        bail!(
            "the key in {} has the fingerprint {}, the one that you gave has {}: it is the wrong file, or the ledger is forged",
            root.display(),
            own.fingerprint(),
            anchor.fingerprint()
        );
    }
    let mut report = consilium_ledger::verify(&bundle.log(), &bundle, &anchor.key)
        .with_context(|| format!("the ledger in {} is not in order", root.display()))?;
    if report.consortium != anchor.name {
        bail!("the ledger is of consortium {}, the key is of {}", report.consortium, anchor.name);
    }
    if !brought {
        report.notices.push(format!(
            "the key came with the folder. Ask the consortium whether its fingerprint is {}",
            report.fingerprint
        ));
    }
    let released = find_released(&bundle, &report)?;
    output.show(&Verdict { verified: true, report, released }, people)?;
    Ok(())
}

/// Looks for the bytes of each released model. Every file in `models/` has to be what its name says.
fn find_released(bundle: &Bundle, report: &Report) -> anyhow::Result<Vec<Found>> {
    let models = bundle.models().context("reading the models")?;
    for (path, hash) in &models {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if promised(stem, report).is_some_and(|promised| !promised.contains(hash)) {
            bail!("{} was changed: it is not the model that its name and the ledger say", path.display());
        }
    }
    let mut found = Vec::new();
    for study in &report.studies {
        let Some(release) = &study.released else { continue };
        let file = models.iter().find(|(_, hash)| *hash == release.model);
        let present = file.is_some()
            || bundle.holds(&release.model).with_context(|| format!("reading model {}", release.model))?;
        let file = file.map(|(path, _)| path.display().to_string());
        found.push(Found { study: study.name.to_string(), model: release.model, file, present });
    }
    Ok(found)
}

/// The models that a file of this name may be: one named by its hash that one, `released` or the name of a study
/// a released one, `initial` one that a study began with. Other names promise nothing.
fn promised(stem: &str, report: &Report) -> Option<Vec<Hash>> {
    let released = |study: &StudyReport| study.released.as_ref().map(|release| release.model);
    if let Ok(hash) = stem.parse() {
        return Some(vec![hash]);
    }
    match stem {
        "released" => Some(report.studies.iter().filter_map(released).collect()),
        "initial" => Some(report.studies.iter().map(|study| study.initial_model).collect()),
        name => {
            let study = report.studies.iter().find(|study| study.name.as_str() == name)?;
            Some(released(study).into_iter().collect())
        }
    }
}

fn people(verdict: &Verdict) -> String {
    let line = |Found { study, model, file, present }: &Found| {
        let place = match (file, present) {
            (Some(file), _) => format!("{file} has exactly these bytes"),
            (None, true) => "its bytes are among the blobs".to_owned(),
            (None, false) => "its bytes are not in this folder".to_owned(),
        };
        format!("Released model of {study}, {}: {place}\n", model.short())
    };
    let released: String = verdict.released.iter().map(line).collect();
    format!("{}{released}\nVerified.", verdict.report)
}
