//! `consilium audit verify`: the whole ledger, and what it proves.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, bail};
use consilium_ledger::card::Card;
use consilium_ledger::report::{ControlReport, ReleaseReport, StudyReport};
use consilium_ledger::verify::Failure;
use consilium_ledger::{Kind, Report};
use consilium_rounds::control::strays;
use consilium_study::failure::in_words;
use consilium_study::hash::Hash;
use consilium_study::model_file::ModelFile;
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

/// Why nothing is proved, for programs.
#[derive(Serialize)]
pub(super) struct Refused {
    verified: bool,
    /// The entry at fault and what it is said to be, where one is.
    entry: Option<u64>,
    kind: Option<Kind>,
    reason: String,
}

impl Refused {
    pub(super) fn of(error: &anyhow::Error) -> Self {
        let failure = error.downcast_ref::<Failure>();
        Self {
            verified: false,
            entry: failure.and_then(Failure::entry),
            kind: failure.and_then(Failure::kind),
            reason: in_words(error.as_ref()),
        }
    }
}

pub(super) fn run(root: &Path, key: Option<&Path>, output: Output) -> anyhow::Result<()> {
    match check(root, key) {
        Ok(verdict) => Ok(output.show(&verdict, people)?),
        Err(error) => {
            // People read the error itself.
            if output.json {
                output.show(&Refused::of(&error), |_| String::new())?;
            }
            Err(error)
        }
    }
}

fn check(root: &Path, key: Option<&Path>) -> anyhow::Result<Verdict> {
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
    let held = check_blobs(&bundle, &report)?;
    check_cards(&bundle, &report)?;
    let unseen = check_fixed_layers(&bundle, &report)?;
    report.notices.extend(unseen);
    let unseen = check_controls(&bundle, &report)?;
    report.notices.extend(unseen);
    let released = find_released(&bundle, &report, &held)?;
    Ok(Verdict { verified: true, report, released })
}

/// Which of the models that the ledger names are among the blobs. A file with the name of one has to be that.
fn check_blobs(bundle: &Bundle, report: &Report) -> anyhow::Result<BTreeSet<Hash>> {
    let mut held = BTreeSet::new();
    for model in report.models() {
        let files = bundle.among_blobs(&model.to_string());
        for (path, hash) in files.with_context(|| format!("reading model {model}"))? {
            if hash != model {
                bail!(
                    "blob {model} was changed: the bytes of {} do not have the hash it is named by",
                    path.display()
                );
            }
            held.insert(model);
        }
    }
    Ok(held)
}

/// The card of a released model has to be, byte for byte, what the ledger leads to. Where two studies released one
/// model, the card is of either.
fn check_cards(bundle: &Bundle, report: &Report) -> anyhow::Result<()> {
    let releases: Vec<_> = report.studies.iter().filter_map(|study| study.released.as_ref()).collect();
    for ReleaseReport { model, .. } in &releases {
        let same = releases.iter().filter(|release| release.model == *model);
        let cards = same.map(|release| card_hash(&release.card)).collect::<serde_json::Result<Vec<_>>>()?;
        let files = bundle.among_blobs(&format!("{model}.card.json"));
        for (path, hash) in files.with_context(|| format!("reading the card of model {model}"))? {
            if !cards.contains(&hash) {
                bail!("card {} was changed: it is not what the ledger says of this model", path.display());
            }
        }
    }
    Ok(())
}

/// Models of a study with frozen or local layers have the initial model's numbers there, bit for bit. Looks at all whose
/// bytes are in the folder; returns what has to be said of studies of which the initial model is not.
pub(super) fn check_fixed_layers(bundle: &Bundle, report: &Report) -> anyhow::Result<Vec<String>> {
    let mut unseen = Vec::new();
    for study in report.studies.iter().filter(|study| study.identity.graph.has_fixed()) {
        let read = |model: Hash| read_model(bundle, study, model);
        let Some(initial) = read(study.initial_model)? else {
            unseen.push(format!(
                "the initial model of {} is not in this folder, so nobody has looked whether the layers that it freezes or \
                 leaves to its sites are as they were",
                study.name
            ));
            continue;
        };
        let made = study.attempts.iter().filter_map(|attempt| attempt.candidate);
        for model in made.chain([study.model]).chain(study.released.as_ref().map(|release| release.model)) {
            if let Some(block) =
                read(model)?.as_deref().and_then(|model| study.identity.graph.altered(&initial, model))
            {
                bail!(
                    "model {model} of {} was not made by its rules: {} is {} and not as in the initial model",
                    study.name,
                    block.name(),
                    block.treatment().name()
                );
            }
        }
    }
    Ok(unseen)
}

/// The mean of control variates beside a model follows from that model, the one before and the mean before. Looks at each whose
/// files are all in the folder; returns what has to be said of studies of which some are not.
pub(super) fn check_controls(bundle: &Bundle, report: &Report) -> anyhow::Result<Vec<String>> {
    let mut unseen = Vec::new();
    for study in &report.studies {
        let mut missing = 0;
        for ControlReport { start, candidate, before, after, step } in &study.controls {
            let read = |model: Hash| read_model(bundle, study, model);
            let before = match before {
                Some(before) => read(*before)?.map(Some),
                None => Some(None),
            };
            let (Some(from), Some(to), Some(before), Some(made)) =
                (read(*start)?, read(*candidate)?, before, read(*after)?)
            else {
                missing += 1;
                continue;
            };
            let graph = &study.identity.graph;
            if let Some(entry) = strays(graph, *step, (&from, &to), before.as_deref(), &made) {
                bail!(
                    "the mean of control variates {after} of {} was not made by its rules: entry {entry} is {}, and the models \
                     around it say otherwise",
                    study.name,
                    made[entry]
                );
            }
        }
        if missing > 0 {
            unseen.push(format!(
                "of {missing} means of control variates of {} not all files are in this folder, so nobody has looked whether \
                 they follow from its models",
                study.name
            ));
        }
    }
    Ok(unseen)
}

/// The numbers of a model of a study; none where its bytes are not in the folder.
fn read_model(bundle: &Bundle, study: &StudyReport, model: Hash) -> anyhow::Result<Option<Vec<f32>>> {
    let Some(path) = bundle.find_model(model).with_context(|| format!("reading model {model}"))? else {
        return Ok(None);
    };
    let file = File::open(&path).with_context(|| format!("reading {}", path.display()))?;
    let numbers = ModelFile::read(file).and_then(|file| file.expect(&study.identity));
    numbers.map(Some).with_context(|| format!("model {model} is not one of {}", study.name))
}

/// Plain hash of the file that a card is.
fn card_hash(card: &Card) -> serde_json::Result<Hash> {
    Ok(Hash::of_bytes(&serde_json::to_vec_pretty(card)?))
}

/// Looks for the bytes of each released model. Every file in `models/` has to be what its name says.
fn find_released(bundle: &Bundle, report: &Report, held: &BTreeSet<Hash>) -> anyhow::Result<Vec<Found>> {
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
        let present = file.is_some() || held.contains(&release.model);
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
