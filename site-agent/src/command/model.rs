//! `site-agent model`: a released model with this site's own layers in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use consilium_learning::{ModelFile, Origin};
use consilium_study::graph::Treatment;
use consilium_study::hash::Hash;
use serde::Serialize;

use super::{configured, find_study};
use crate::contribution::put_own;
use crate::folder::SiteFolder;
use crate::store::{Disk, Kind, Store as _};
use crate::vault::own_layers;
use crate::vault::record::StudyRecord;

/// A model that was written.
#[derive(Debug, Serialize)]
pub(crate) struct OwnModel {
    /// The study.
    study: Hash,
    /// Plain hash of the released file.
    tuned_from: Hash,
    /// The round that the released model comes from.
    round: u32,
    /// The round whose training left this site's layers.
    layers_of_round: u32,
    /// The layers.
    layers: Vec<String>,
    /// Where the model lies.
    file: PathBuf,
    /// Its plain hash.
    hash: Hash,
}

impl OwnModel {
    pub(crate) fn people(&self) -> String {
        let Self { round, layers_of_round, layers, file, .. } = self;
        let rounds = if round == layers_of_round {
            format!("both of round {round}")
        } else {
            format!(
                "the model of round {round} with the layers of round {layers_of_round}, the last that was trained here"
            )
        };
        format!(
            "Wrote {}: {rounds}.\nThis site's own layers: {}.\nThey were trained on your cases alone: treat the file as you treat \
             them. Use it with: consilium model predict {}",
            file.display(),
            layers.join(", "),
            file.display()
        )
    }
}

/// Writes a study's released model with this site's own layers in it, as no other site has it.
pub(crate) fn run(
    folder: &SiteFolder,
    study: &str,
    released: &Path,
    output: &Path,
    json: bool,
) -> anyhow::Result<()> {
    let (_, folder) = configured(folder)?;
    let record = find_study(&folder, study)?;
    let written = write(&folder, &record, released, output)?;
    if json {
        println!("{}", serde_json::to_string(&written)?);
    } else {
        println!("{}", written.people());
    }
    Ok(())
}

pub(crate) fn write(
    folder: &SiteFolder,
    record: &StudyRecord,
    released: &Path,
    output: &Path,
) -> anyhow::Result<OwnModel> {
    let (study, plan) = (record.hash(), record.plan());
    let (name, shown) = (&plan.name, released.display());
    let layers = plan.model.names(Treatment::Local);
    ensure!(
        !layers.is_empty(),
        "in {name} no site has layers of its own: use {shown} as it is, with consilium model predict"
    );
    let Some(model) = record.state().released() else {
        bail!("{name} has released no model; it is {}", record.state().name());
    };
    ensure!(!output.exists(), "{} is there already; choose another name", output.display());
    let bytes = fs::read(released).with_context(|| format!("reading {shown}"))?;
    ensure!(
        Hash::of_bytes(&bytes) == model,
        "{shown} is not the model that {name} released: ask the consortium for the file of SHA-256 {model}, \
         which `consilium model export {name}` writes"
    );
    let mut file = ModelFile::from_bytes(&bytes).with_context(|| format!("reading {shown}"))?;
    let own = own_layers::read(&Disk, &folder.study(&study).local_layers(), plan)?;
    let Some(own) = own else {
        bail!(
            "this site has no layers of its own for {name}: it trained in no round, or left the study. Train them on your cases \
             with: consilium model finetune {shown}"
        );
    };
    // A study that adopted nothing releases what it started from, which need not be of any study.
    let origin = file.origin.unwrap_or(Origin { study, round: 0, tuned_from: None });
    put_own(&file.identity.graph, &mut file.model, Some(&own.after));
    file.origin = Some(Origin { tuned_from: Some(model), ..origin });
    let bytes = file.to_bytes();
    Disk.replace(Kind::OwnModel, output, &bytes)?;
    Ok(OwnModel {
        study,
        tuned_from: model,
        round: origin.round,
        layers_of_round: own.round.get(),
        layers,
        file: output.to_owned(),
        hash: Hash::of_bytes(&bytes),
    })
}
