//! Rows of tables: each number becomes an input as it does at a site, and a row that lacks one is not scored.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use consilium_learning::{Link, ModelFile};
use consilium_site_agent::data::reason::Reason;
use consilium_study::data::Input;
use csv::{ReaderBuilder, StringRecord, Trim};

use super::{Counts, Finding, Line, TOGETHER, scores_of};
use crate::output::Output;

/// Scores the rows of some tables.
pub(super) fn run(
    file: &ModelFile,
    inputs: &[Input],
    temperature: f64,
    tables: &[PathBuf],
    output: Output,
) -> anyhow::Result<()> {
    let link = Link { task: file.identity.task, temperature };
    let mut counts = Counts::default();
    for table in tables {
        let about = || format!("reading {}", table.display());
        let opened = File::open(table).with_context(about)?;
        let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(opened);
        let columns = columns(reader.headers().with_context(about)?, inputs).with_context(about)?;
        let (mut records, mut numbers) = (reader.records(), 1..);
        loop {
            let together: Vec<StringRecord> =
                records.by_ref().take(TOGETHER).collect::<Result<_, _>>().with_context(about)?;
            if together.is_empty() {
                break;
            }
            for finding in findings(file, link, inputs, &columns, &together)? {
                let count = match finding {
                    Finding::Unreadable { .. } => &mut counts.failed,
                    _ => &mut counts.scored,
                };
                *count += 1;
                let line = Line { file: table.display().to_string(), row: numbers.next(), finding };
                output.show(&line, Line::people)?;
            }
        }
    }
    output.show(&counts, |Counts { scored, failed, .. }| format!("{scored} scored, {failed} not read"))?;
    let Counts { scored, failed, .. } = counts;
    if failed > 0 {
        bail!("{failed} of {} rows could not be read", scored + failed);
    }
    if scored == 0 {
        bail!("there is no row");
    }
    Ok(())
}

/// The column of each input.
pub(super) fn columns(header: &StringRecord, inputs: &[Input]) -> anyhow::Result<Vec<usize>> {
    inputs.iter().map(|input| column(header, input.column())).collect()
}

/// The place of a column.
pub(super) fn column(header: &StringRecord, name: &str) -> anyhow::Result<usize> {
    let mut places = header.iter().enumerate().filter(|(_, column)| *column == name);
    match (places.next(), places.next()) {
        (Some((place, _)), None) => Ok(place),
        (Some(_), Some(_)) => bail!("it has the column \"{name}\" twice"),
        (None, _) => {
            bail!("it has no column \"{name}\"; the first line must name the columns, separated by commas")
        }
    }
}

/// What comes of some rows.
fn findings(
    file: &ModelFile,
    link: Link,
    inputs: &[Input],
    columns: &[usize],
    rows: &[StringRecord],
) -> anyhow::Result<Vec<Finding>> {
    let read: Vec<_> = rows.iter().map(|row| numbers(inputs, columns, row)).collect();
    let usable: Vec<f32> = read.iter().flatten().flatten().copied().collect();
    let scores = scores_of(file, link, usable, Vec::new(), read.iter().flatten().count())?;
    let mut scores = scores.iter();
    let finding = |read| match read {
        Ok(_) => Finding::scored(&file.identity, scores.next().expect("one for each usable row")),
        Err(finding) => finding,
    };
    Ok(read.into_iter().map(finding).collect())
}

/// The numbers of a row, or why it gives none and by which column.
pub(super) fn numbers(inputs: &[Input], columns: &[usize], row: &StringRecord) -> Result<Vec<f32>, Finding> {
    let number = |(input, column): (&Input, &usize)| {
        input.of(row.get(*column).unwrap_or("")).map_err(|unusable| {
            let reason = Reason::of_row(unusable);
            let explanation = format!("{} (column {})", reason.explain(), input.column());
            Finding::Unreadable { reason: reason.code(), explanation }
        })
    };
    inputs.iter().zip(columns).map(number).collect()
}
