//! Pictures with numbers beside them: a table names each file, and has the columns of the study's inputs.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use consilium_study::data::Input;
use csv::{ReaderBuilder, Trim};

use super::Found;
use super::rows::{column, columns, numbers};

/// The table of a folder.
const LABELS: &str = "labels.csv";

/// The files that the tables name, each with the numbers of its row or why there are none.
pub(super) fn find(model: &Path, inputs: &[Input], paths: &[PathBuf]) -> anyhow::Result<VecDeque<Found>> {
    let mut found = VecDeque::new();
    for path in paths {
        let table = if path.is_dir() { path.join(LABELS) } else { path.clone() };
        let is_table = table.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
        if !is_table || !table.exists() {
            let what = if path.is_dir() { "has no labels.csv" } else { "is no table (.csv)" };
            let mut names: Vec<&str> = inputs.iter().map(Input::column).collect();
            names.dedup();
            bail!(
                "{} {what}, and this model reads numbers beside each picture. Write a table with the columns path,{}: a row \
                 for each picture, its path below the table's folder. Then: consilium model predict {} TABLE.csv",
                path.display(),
                names.join(","),
                model.display()
            );
        }
        found.extend(rows(&table, inputs).with_context(|| format!("reading {}", table.display()))?);
    }
    Ok(found)
}

fn rows(table: &Path, inputs: &[Input]) -> anyhow::Result<Vec<Found>> {
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_path(table)?;
    let header = reader.headers()?;
    let (of_path, columns) = (column(header, "path")?, columns(header, inputs)?);
    let folder = table.parent().unwrap_or(Path::new(""));
    let mut found = Vec::new();
    for row in reader.records() {
        let row = row?;
        let name = PathBuf::from(row.get(of_path).unwrap_or(""));
        let file = Found::new(folder.join(&name), name, true);
        found.push(match numbers(inputs, &columns, &row) {
            Ok(beside) => Found { beside, ..file },
            Err(finding) => Found { refused: Some(finding), ..file },
        });
    }
    Ok(found)
}
