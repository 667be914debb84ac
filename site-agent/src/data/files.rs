//! Cohorts from a folder and a table.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use consilium_study::data::Input;
use consilium_study::hash::Hash;
use consilium_study::task::Label;

use super::access::{Root, open_file};
use super::cache::Cache;
use super::cohort::{Assembly, Cohort, LoadError, Progress, Quarantined, Used};
use super::counts::Stage;
use super::decoder::{Decoded, Decoder};
use super::folder::unknown_images;
use super::local::{LocalPath, LocalText, Patient};
use super::mask;
use super::protocol::{Facts, Format};
use super::reason::Reason;
use super::source::{Criteria, Target};
use super::split::{Side, SplitKey, Subject};
use super::table::{self, Columns, Row, Table};

/// Where to look.
pub(super) struct Place<'a> {
    pub(super) folder: &'a Path,
    pub(super) table: &'a Path,
    pub(super) site: Option<&'a str>,
    pub(super) format: Format,
    /// What every picture is brought to.
    pub(super) target: Target,
    /// What is taken from each row, beside the picture.
    pub(super) inputs: &'a [Input],
}

/// Why a case stops, and where in the table to look.
struct Stop {
    reached: Stage,
    reason: Reason,
    column: Option<Cow<'static, str>>,
    written: Option<LocalText>,
}

impl Stop {
    fn new(reached: Stage, reason: Reason) -> Self {
        Self { reached, reason, column: None, written: None }
    }

    fn at(
        column: impl Into<Cow<'static, str>>,
        reached: Stage,
        reason: Reason,
        written: Option<&LocalText>,
    ) -> Self {
        Self { reached, reason, column: Some(column.into()), written: written.cloned() }
    }
}

/// A case that is decoded and labelled.
struct Candidate {
    line: u64,
    content: Hash,
    label: Label,
    /// Class of each pixel, where the case has a mask.
    mask: Vec<u8>,
    /// The numbers beside it.
    beside: Vec<f32>,
    patient: Option<Patient>,
    written_side: Option<Side>,
    decoded: Decoded,
}

pub(super) fn load(
    place: &Place<'_>,
    criteria: &Criteria,
    key: &SplitKey,
    decoder: &mut Decoder,
    cache: Option<&Cache>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Cohort, LoadError> {
    let root = Root::open(place.folder).map_err(LoadError::Folder)?;
    let table = open_file(place.table).map_err(LoadError::TableFile)?;
    let masks = criteria.task.is_dense();
    let content = if masks { table::Content::Masks } else { table::Content::Files(place.inputs) };
    let Table { rows, columns } = table::read(table, content)?;
    if place.site.is_some() && !rows.is_empty() && rows.iter().all(|row| row.site.is_none()) {
        return Err(LoadError::NoSiteColumn);
    }
    let mut listed: BTreeMap<LocalPath, Vec<Row>> = BTreeMap::new();
    let masks: BTreeSet<LocalPath> = rows.iter().filter_map(|row| row.mask.clone()).collect();
    for row in rows {
        listed.entry(row.path.clone()).or_default().push(row);
    }
    let unknown =
        unknown_images(&root, place.format, &|path| listed.contains_key(path) || masks.contains(path))?;

    let mut loader = Loader { place, criteria, root, decoder, cache };
    let mut candidates = BTreeMap::new();
    let mut stops = BTreeMap::new();
    for path in unknown {
        stops.insert(path, (None, Stop::at("path", Stage::Found, Reason::NotInTable, None)));
    }
    let total = listed.len() as u64;
    for (done, (path, rows)) in listed.iter().enumerate() {
        progress(Progress { done: done as u64, total });
        match loader.candidate(path, rows) {
            Ok(candidate) => {
                candidates.insert(path.clone(), candidate);
            }
            Err(stop) => {
                stops.insert(path.clone(), (rows.first().map(|row| row.line), stop));
            }
        }
    }
    progress(Progress { done: total, total });
    for (path, reason, column) in contradictions(&candidates) {
        if let Some(candidate) = candidates.remove(&path) {
            stops.insert(path, (Some(candidate.line), Stop::at(column, Stage::Labelled, reason, None)));
        }
    }
    Ok(assemble(place, criteria, key, columns, candidates, stops))
}

struct Loader<'a> {
    place: &'a Place<'a>,
    criteria: &'a Criteria,
    root: Root,
    decoder: &'a mut Decoder,
    cache: Option<&'a Cache>,
}

impl Loader<'_> {
    /// Takes a file of the table as far as it goes. What the table says is looked at before the file,
    /// so that nothing is read that is not ours.
    fn candidate(&mut self, path: &LocalPath, rows: &[Row]) -> Result<Candidate, Stop> {
        let [row] = rows else {
            return Err(Stop::at("path", Stage::Found, Reason::DuplicateRow, None));
        };
        let written_side = row
            .side(self.place.site)
            .map_err(|(reason, column, written)| Stop::at(column, Stage::Found, reason, written))?;
        if !row.stays_inside {
            return Err(Stop::at("path", Stage::Found, Reason::OutsideFolder, None));
        }
        let bytes = self.root.read(path).map_err(|reason| match reason {
            Reason::Missing => Stop::at("path", Stage::Found, reason, None),
            reason => Stop::new(Stage::Found, reason),
        })?;
        if bytes.is_empty() {
            return Err(Stop::new(Stage::Retrieved, Reason::Empty));
        }
        let content = Hash::of_bytes(&bytes);
        let format = self.place.format;
        let decoded =
            self.decode(format, content, bytes).map_err(|reason| Stop::new(Stage::Retrieved, reason))?;
        let beside = row
            .numbers(self.place.inputs)
            .map_err(|(reason, column, written)| Stop::at(column, Stage::Decoded, reason, Some(written)))?;
        let Some(label) = self.criteria.label_of_text(row.label.reveal()) else {
            let reason = self.criteria.unlabelled();
            return Err(Stop::at("label", Stage::Decoded, reason, Some(&row.label)));
        };
        let mask = match &row.mask {
            Some(mask) => self.mask(mask, &decoded.facts).map_err(|reason| {
                Stop::at("mask", Stage::Decoded, reason, Some(&LocalText::new(mask.reveal())))
            })?,
            None => Vec::new(),
        };
        let patient = row.patient.clone().or_else(|| decoded.facts.patient.clone());
        Ok(Candidate { line: row.line, content, label, mask, beside, patient, written_side, decoded })
    }

    /// The class of each pixel of a picture at the study's size.
    fn mask(&mut self, path: &LocalPath, picture: &Facts) -> Result<Vec<u8>, Reason> {
        let bytes = self.root.read(path)?;
        if picture.turned {
            return Err(Reason::MaskOfTurned);
        }
        let mask = self.decode(Format::Mask, Hash::of_bytes(&bytes), bytes)?;
        if (mask.facts.rows, mask.facts.columns) != (picture.rows, picture.columns) {
            return Err(Reason::MaskSize);
        }
        // They came divided by 255.
        let values = mask.values.iter().map(|value| (value * 255.0).round() as u8).collect();
        mask::classes(values, self.criteria.labels.len()).ok_or(Reason::MaskClass)
    }

    fn decode(&mut self, format: Format, content: Hash, bytes: Vec<u8>) -> Result<Decoded, Reason> {
        let target = self.place.target;
        if let Some(decoded) = self.cache.and_then(|cache| cache.get(format, target, content)) {
            return Ok(decoded);
        }
        let decoded = self.decoder.decode(format, target, bytes)?;
        if let Some(cache) = self.cache {
            // A full disk costs time in the next round and nothing else.
            let _ = cache.put(format, target, content, &decoded);
        }
        Ok(decoded)
    }
}

/// Candidates that contradict others: the same content twice, or one patient on both sides.
fn contradictions(candidates: &BTreeMap<LocalPath, Candidate>) -> Vec<(LocalPath, Reason, &'static str)> {
    let mut stopped = BTreeMap::new();
    let mut by_content: BTreeMap<Hash, Vec<(&LocalPath, &Candidate)>> = BTreeMap::new();
    let mut sides: BTreeMap<&Patient, BTreeSet<Side>> = BTreeMap::new();
    for (path, candidate) in candidates {
        by_content.entry(candidate.content).or_default().push((path, candidate));
        if let (Some(patient), Some(side)) = (&candidate.patient, candidate.written_side) {
            sides.entry(patient).or_default().insert(side);
        }
    }
    for (path, candidate) in candidates {
        if candidate
            .patient
            .as_ref()
            .and_then(|patient| sides.get(patient))
            .is_some_and(|sides| sides.len() > 1)
        {
            stopped.insert(path, (Reason::PatientOnBothSides, "split"));
        }
    }
    for same in by_content.into_values().filter(|same| same.len() > 1) {
        let meaning = |candidate: &Candidate| {
            (candidate.label, candidate.mask.clone(), candidate.patient.clone(), candidate.written_side)
        };
        let agree = same.iter().all(|(_, candidate)| {
            meaning(candidate) == meaning(same[0].1) && candidate.beside == same[0].1.beside
        });
        for (position, (path, _)) in same.iter().enumerate() {
            if !agree {
                stopped.insert(path, (Reason::ConflictingDuplicate, "label"));
            } else if position > 0 {
                stopped.entry(path).or_insert((Reason::DuplicateContent, "path"));
            }
        }
    }
    stopped.into_iter().map(|(path, (reason, column))| (path.clone(), reason, column)).collect()
}

fn assemble(
    place: &Place<'_>,
    criteria: &Criteria,
    key: &SplitKey,
    columns: Columns,
    candidates: BTreeMap<LocalPath, Candidate>,
    stops: BTreeMap<LocalPath, (Option<u64>, Stop)>,
) -> Cohort {
    let mut assembly = Assembly::new(place.target.shape(), place.inputs.len());
    // A patient with some rows on a written side has that side for all.
    let written: BTreeMap<Patient, Side> = candidates
        .values()
        .filter_map(|candidate| Some((candidate.patient.clone()?, candidate.written_side?)))
        .collect();
    let mut used = Vec::new();
    for (path, candidate) in candidates {
        let Candidate { line, content, label, mask, beside, patient, written_side, decoded } = candidate;
        let subject = patient.as_ref().map_or(Subject::Unnamed(&content), Subject::Patient);
        let side = written_side
            .or_else(|| written.get(patient.as_ref()?).copied())
            .unwrap_or_else(|| key.side(subject, criteria.holdout));
        assembly.add(side, label, patient.as_ref(), (&decoded.values, &beside), &mask);
        used.push(Used { path, line, side, label, facts: Some(decoded.facts) });
    }
    let mut quarantine = Vec::new();
    for (path, (line, Stop { reached, reason, column, written })) in stops {
        if reason.is_choice() {
            assembly.counts.left_out += 1;
        } else {
            assembly.counts.note(reached);
        }
        quarantine.push(Quarantined { path, line, column, reached, reason, written });
    }
    assembly.finish(Some(columns), used, quarantine)
}
