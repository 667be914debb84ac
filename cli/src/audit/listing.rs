//! `consilium audit log` and `show`: what stands in the ledger, entry by entry.
//!
//! Both compare every byte of the log with the root in its checkpoint. Who signed what is checked by `verify`.

use std::path::Path;

use anyhow::Context as _;
use consilium_ledger::record::Record;
use consilium_ledger::{Entry, Kind, LogReader};
use consilium_study::hash::Hash;
use jiff::Timestamp;
use serde::Serialize;

use super::folder::Bundle;
use crate::output::{Output, table};

/// One entry, as `log` lists it.
#[derive(Serialize)]
struct Line {
    entry: u64,
    recorded_at: String,
    kind: Kind,
    signer: String,
    summary: String,
}

/// One entry, as `show` prints it.
#[derive(Serialize)]
struct Page {
    #[serde(flatten)]
    line: Line,
    /// Plain hash of the signed statement, and how long that is.
    statement: Hash,
    bytes: u64,
    /// The blob that holds the statement, if it does not stand in the entry.
    blob: Option<Hash>,
    /// Size and root of the log, and the hashes that lead from the entry to the root (RFC 9162, 2.1.3).
    log_size: u64,
    root: Hash,
    leaf: Hash,
    proof: Vec<Hash>,
    /// What the statement says.
    says: String,
}

pub(super) fn log(root: &Path, output: Output) -> anyhow::Result<()> {
    let bundle = Bundle::open(root)?;
    let files = bundle.log();
    let reader =
        LogReader::open(&files).with_context(|| format!("reading the ledger in {}", root.display()))?;
    let mut lines = Vec::new();
    for entry in reader.entries() {
        let (index, entry) = entry?;
        let line = line(index, &entry, read(&entry, &bundle).as_ref());
        if output.json {
            output.show(&line, |_| String::new())?;
        } else {
            lines.push(line);
        }
    }
    let rows: Vec<_> = lines
        .into_iter()
        .map(|Line { entry, recorded_at, kind, signer, summary }| {
            vec![entry.to_string(), recorded_at, kind.to_string(), signer, summary]
        })
        .collect();
    output.tell(table(&["entry", "recorded", "kind", "signer", "what"], &rows));
    Ok(())
}

pub(super) fn show(root: &Path, index: u64, output: Output) -> anyhow::Result<()> {
    let bundle = Bundle::open(root)?;
    let files = bundle.log();
    let reader =
        LogReader::open(&files).with_context(|| format!("reading the ledger in {}", root.display()))?;
    let entry = reader.entry(index)?;
    let record = read(&entry, &bundle);
    let size = reader.size();
    let page = Page {
        line: line(index, &entry, record.as_ref()),
        statement: entry.statement_hash(),
        bytes: entry.statement_length(),
        blob: entry.kept_in(),
        log_size: size,
        root: reader.tree().root(),
        leaf: reader.tree().leaf(index).context("the entry was just read")?,
        proof: reader.tree().inclusion(index, size).context("the entry was just read")?,
        says: match &record {
            Ok(record) => record.details(),
            Err(error) => format!("{error:#}"),
        },
    };
    output.show(&page, |page| {
        let Line { entry, recorded_at, kind, signer, summary } = &page.line;
        let proof: Vec<String> = page.proof.iter().map(|hash| format!("\n  {hash}")).collect();
        let proof = proof.concat();
        format!(
            "entry {entry}: {kind} by {signer}, recorded {recorded_at}\n{summary}\n\n{says}\n\n\
             statement {statement}, {bytes} bytes\n\
             leaf {leaf}; these hashes lead to root {root} of a log of size {size}:{proof}",
            says = page.says,
            statement = page.statement,
            bytes = page.bytes,
            leaf = page.leaf,
            root = page.root,
            size = page.log_size,
        )
    })?;
    Ok(())
}

fn read(entry: &Entry, bundle: &Bundle) -> anyhow::Result<Record> {
    Ok(Record::read(entry.kind(), &entry.statement(bundle)?)?)
}

fn line(entry: u64, read: &Entry, record: Result<&Record, &anyhow::Error>) -> Line {
    let at = i64::try_from(read.recorded_at_ms()).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    Line {
        entry,
        recorded_at: at.map_or_else(|| "unknown".to_owned(), |at| format!("{at:.3}")),
        kind: read.kind(),
        signer: record.map_or_else(|_| "unknown".to_owned(), |record| record.signer().to_string()),
        summary: match record {
            Ok(record) => record.summary(),
            Err(error) => format!("{error:#}"),
        },
    }
}
