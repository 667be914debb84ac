//! `site-agent journal`.

use std::fmt::Write as _;

use super::{configured, moment};
use crate::folder::SiteFolder;
use crate::journal::{self, Record};
use crate::store::Disk;

/// Prints the journal after checking its chain.
pub(crate) fn run(folder: &SiteFolder, json: bool) -> anyhow::Result<()> {
    let (_, folder) = configured(folder)?;
    let records = journal::read(&Disk, &folder.journal())?;
    for record in &records {
        if json {
            println!("{}", serde_json::to_string(record)?);
        } else {
            println!(
                "{:>5}  {}  {}",
                record.sequence,
                moment(record.at.max(0) as u64 * 1000),
                in_words(record)?
            );
        }
    }
    if !json {
        match records.last() {
            Some(last) => println!("{} records, chain unbroken, head {}", records.len(), last.hash()),
            None => println!("the journal is empty"),
        }
    }
    Ok(())
}

/// `accepted study=1234abcd rule="…"`: the record's own fields, with hashes cut to what people compare.
fn in_words(record: &Record) -> anyhow::Result<String> {
    let serde_json::Value::Object(mut fields) = serde_json::to_value(&record.event)? else {
        anyhow::bail!("an event is an object");
    };
    let name = fields.remove("event").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    let mut line = name.replace('_', " ");
    for (key, value) in fields {
        let text = match value {
            serde_json::Value::String(text) if text.len() == 64 && !text.contains(' ') => {
                text[..8].to_owned()
            }
            other => other.to_string(),
        };
        write!(line, "  {key}={text}")?;
    }
    Ok(line)
}
