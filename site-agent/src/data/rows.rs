//! Cohorts from a table whose rows are the cases.
//!
//! A row is used when everything that the study takes from it is there: nothing is filled in. Two rows with the same numbers
//! are two cases; where rows name patients, a patient's rows stay on one side of the split.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use consilium_study::data::Input;
use consilium_study::hash::Hasher;
use consilium_study::task::Label;

use super::access::open_file;
use super::cohort::{Assembly, Cohort, LoadError, Quarantined, Used};
use super::counts::Stage;
use super::local::{LocalText, Patient};
use super::reason::Reason;
use super::source::Criteria;
use super::split::{Side, SplitKey, Subject};
use super::table::{self, Content, Row, Table};

/// Why a row is not used, how far it came, and where to look.
struct Stop {
    reached: Stage,
    reason: Reason,
    column: Cow<'static, str>,
    written: Option<LocalText>,
}

/// A row that can be used.
struct Candidate {
    row: Row,
    label: Label,
    written_side: Option<Side>,
    values: Vec<f32>,
}

pub(super) fn load(
    file: &Path,
    site: Option<&str>,
    inputs: &[Input],
    criteria: &Criteria,
    key: &SplitKey,
) -> Result<Cohort, LoadError> {
    let table = open_file(file).map_err(LoadError::TableFile)?;
    let Table { rows, columns } = table::read(table, Content::Cases(inputs))?;
    if site.is_some() && !rows.is_empty() && rows.iter().all(|row| row.site.is_none()) {
        return Err(LoadError::NoSiteColumn);
    }
    // At most `MAX_INPUTS`, by the check of the study.
    let mut assembly = Assembly::new([inputs.len() as u32, 1, 1], 0);
    let (mut candidates, mut stops) = (Vec::new(), Vec::new());
    for row in rows {
        match candidate(&row, site, inputs, criteria) {
            Ok((label, written_side, values)) => {
                candidates.push(Candidate { row, label, written_side, values });
            }
            Err(stop) => stops.push((row, stop)),
        }
    }
    let mut sides: BTreeMap<Patient, BTreeSet<Side>> = BTreeMap::new();
    for Candidate { row, written_side, .. } in &candidates {
        if let (Some(patient), Some(side)) = (&row.patient, written_side) {
            sides.entry(patient.clone()).or_default().insert(*side);
        }
    }
    let mut used = Vec::new();
    for Candidate { row, label, written_side, values } in candidates {
        let written = row.patient.as_ref().and_then(|patient| sides.get(patient));
        if written.is_some_and(|sides| sides.len() > 1) {
            let (reached, reason) = (Stage::Labelled, Reason::PatientOnBothSides);
            stops.push((row, Stop { reached, reason, column: "split".into(), written: None }));
            continue;
        }
        let content = content(&values);
        let subject = row.patient.as_ref().map_or(Subject::Unnamed(&content), Subject::Patient);
        let side = written_side
            .or_else(|| written.and_then(|sides| sides.first().copied()))
            .unwrap_or_else(|| key.side(subject, criteria.holdout));
        assembly.add(side, label, row.patient.as_ref(), (&values, &[]), &[]);
        used.push(Used { path: row.path, line: row.line, side, label, facts: None });
    }
    stops.sort_by_key(|(row, _)| row.line);
    let mut quarantine = Vec::new();
    for (row, Stop { reached, reason, column, written }) in stops {
        if reason.is_choice() {
            assembly.counts.left_out += 1;
        } else {
            assembly.counts.note(reached);
        }
        let (path, line, column) = (row.path, Some(row.line), Some(column));
        quarantine.push(Quarantined { path, line, column, reached, reason, written });
    }
    Ok(assembly.finish(Some(columns), used, quarantine))
}

/// A row's label, its side if one is written, and its numbers.
fn candidate(
    row: &Row,
    site: Option<&str>,
    inputs: &[Input],
    criteria: &Criteria,
) -> Result<(Label, Option<Side>, Vec<f32>), Stop> {
    let stop = |reached, reason, column: &'static str, written: Option<&LocalText>| Stop {
        reached,
        reason,
        column: column.into(),
        written: written.cloned(),
    };
    let written_side =
        row.side(site).map_err(|(reason, column, written)| stop(Stage::Found, reason, column, written))?;
    let values = row.numbers(inputs).map_err(|(reason, column, written)| Stop {
        reached: Stage::Retrieved,
        reason,
        column: column.into(),
        written: Some(written.clone()),
    })?;
    match criteria.label_of_text(row.label.reveal()) {
        Some(label) => Ok((label, written_side, values)),
        None => Err(stop(Stage::Decoded, criteria.unlabelled(), "label", Some(&row.label))),
    }
}

/// A name for the numbers of a row.
fn content(values: &[f32]) -> consilium_study::hash::Hash {
    let mut hasher = Hasher::labelled("decoded-row");
    for value in values {
        hasher.update(&value.to_le_bytes());
    }
    hasher.finish()
}
