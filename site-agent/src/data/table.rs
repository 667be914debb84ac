//! The table beside a folder of images: who is in the cohort, and with which label.
//!
//! CSV in UTF-8 with a header. `path` and `label` are required; `patient`, `split` and `site` are
//! optional; other columns are passed over. Blanks around a value do not count.

use std::io::Read;

use csv::{ReaderBuilder, StringRecord, Trim};

use super::local::{LocalPath, LocalText, Patient};

/// Most bytes of a table.
const LONGEST: u64 = 256 << 20;

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its line, for people; the header is on line 1.
    pub line: u64,
    /// The file, with `.` parts taken out.
    pub path: LocalPath,
    /// Whether the path stays inside the folder as far as its text can tell.
    pub stays_inside: bool,
    /// The label as written.
    pub label: LocalText,
    /// The patient.
    pub patient: Option<Patient>,
    /// The split as written.
    pub split: Option<LocalText>,
    /// The site as written.
    pub site: Option<LocalText>,
}

/// Why a table is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableDefect {
    /// The read failed half way.
    #[error("reading it failed")]
    Unreadable,
    /// Longer than any cohort needs.
    #[error("it is longer than 256 MiB")]
    TooLong,
    /// Not UTF-8.
    #[error("line {line} is not UTF-8; save the table as \"CSV UTF-8\"")]
    NotUtf8 {
        /// The line.
        line: u64,
    },
    /// A required column is not there.
    #[error("it has no column \"{column}\"; the first line must name the columns, separated by commas")]
    NoColumn {
        /// The column.
        column: &'static str,
    },
    /// A column is there twice.
    #[error("it has the column \"{column}\" twice")]
    DuplicateColumn {
        /// The column.
        column: &'static str,
    },
    /// A row has more or fewer values than the header.
    #[error("line {line} does not have as many values as the first line has columns")]
    Ragged {
        /// The line.
        line: u64,
    },
    /// A required value is empty.
    #[error("line {line} has no {column}")]
    EmptyValue {
        /// The line.
        line: u64,
        /// The column.
        column: &'static str,
    },
}

/// Reads a whole table.
pub fn read(from: impl Read) -> Result<Vec<Row>, TableDefect> {
    let mut bytes = Vec::new();
    from.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|_| TableDefect::Unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(TableDefect::TooLong);
    }
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(text);
    let columns = reader.headers().map_err(|error| defect(&error))?.clone();
    let find = |column: &'static str| -> Result<Option<usize>, TableDefect> {
        let mut places = columns.iter().enumerate().filter(|(_, name)| *name == column);
        let place = places.next().map(|(index, _)| index);
        if places.next().is_some() { Err(TableDefect::DuplicateColumn { column }) } else { Ok(place) }
    };
    let path = find("path")?.ok_or(TableDefect::NoColumn { column: "path" })?;
    let label = find("label")?.ok_or(TableDefect::NoColumn { column: "label" })?;
    let (patient, split, site) = (find("patient")?, find("split")?, find("site")?);
    let mut rows = Vec::new();
    let mut record = StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| defect(&error))? {
        let line = record.position().map_or(0, csv::Position::line);
        let required = |index: usize, column| match record.get(index) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(TableDefect::EmptyValue { line, column }),
        };
        let optional = |index: Option<usize>| {
            index.and_then(|index| record.get(index)).filter(|value| !value.is_empty())
        };
        let written = required(path, "path")?;
        let inside = inside(written);
        rows.push(Row {
            line,
            stays_inside: inside.is_some(),
            path: LocalPath::new(inside.unwrap_or_else(|| written.to_owned())),
            label: LocalText::new(required(label, "label")?),
            patient: optional(patient).map(Patient::new),
            split: optional(split).map(LocalText::new),
            site: optional(site).map(LocalText::new),
        });
    }
    Ok(rows)
}

/// The path without `.` parts, if it is relative and has no `..` part and no NUL.
fn inside(written: &str) -> Option<String> {
    if written.starts_with('/') || written.contains('\0') {
        return None;
    }
    let mut parts = Vec::new();
    for part in written.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    if parts.is_empty() { None } else { Some(parts.join("/")) }
}

fn defect(error: &csv::Error) -> TableDefect {
    let line = error.position().map_or(1, csv::Position::line);
    match error.kind() {
        csv::ErrorKind::Utf8 { .. } => TableDefect::NotUtf8 { line },
        csv::ErrorKind::UnequalLengths { .. } => TableDefect::Ragged { line },
        _ => TableDefect::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_are_found_by_name_in_any_order() {
        let text = "\u{FEFF}label, ward ,patient,path\nnormal,7, p1 ,./a//b.dcm\n\"sick\",8,,c.dcm\n";
        let rows = read(text.as_bytes()).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].path.reveal(), "a/b.dcm");
        assert_eq!(rows[0].label.reveal(), "normal");
        assert_eq!(rows[0].patient, Some(Patient::new("p1")));
        assert_eq!((rows[0].line, rows[1].line), (2, 3));
        assert!(rows[1].patient.is_none() && rows[1].split.is_none() && rows[1].site.is_none());
    }

    #[test]
    fn defects_name_line_and_column() {
        let refuse = |bytes: &[u8]| read(bytes).unwrap_err();
        assert_eq!(refuse(b"path;label\na;b\n"), TableDefect::NoColumn { column: "path" });
        assert_eq!(refuse(b"path\na\n"), TableDefect::NoColumn { column: "label" });
        assert_eq!(refuse(b""), TableDefect::NoColumn { column: "path" });
        assert_eq!(refuse(b"path,label,path\n"), TableDefect::DuplicateColumn { column: "path" });
        assert_eq!(refuse(b"path,label\na,b\na\n"), TableDefect::Ragged { line: 3 });
        assert_eq!(refuse(b"path,label\n,b\n"), TableDefect::EmptyValue { line: 2, column: "path" });
        assert_eq!(refuse(b"path,label\nM\xFCller,b\n"), TableDefect::NotUtf8 { line: 2 });
    }

    #[test]
    fn paths_that_leave_the_folder_are_marked() {
        for (path, stays) in [
            ("a/b", true),
            ("a/./b", true),
            ("..a/b..", true),
            ("../a", false),
            ("a/../../b", false),
            ("/etc/passwd", false),
            (".", false),
            ("a\0b", false),
        ] {
            assert_eq!(inside(path).is_some(), stays, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes[..]);
            let mut table = b"path,label,split\n".to_vec();
            table.extend(bytes);
            let _ = read(&table[..]);
        }
    }
}
