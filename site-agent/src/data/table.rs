//! The table beside a folder of images: who is in the cohort, and with which label. Or the cohort itself, where cases are
//! rows.
//!
//! CSV in UTF-8 with a header. `label` is required, or `mask` where pixels have classes, and `path` or the columns of a study's
//! inputs, or both where they lie beside pictures; `patient`, `split` and `site` are optional; other columns are passed over, and `data check` names them. Blanks around
//! a value do not count.

use std::borrow::Cow;
use std::io::Read;

use consilium_study::data::Input;
use csv::{Position, ReaderBuilder, StringRecord, Trim};

use super::local::{LocalPath, LocalText, Patient};
use super::reason::Reason;
use super::split::Side;

/// Most bytes of a table.
const LONGEST: u64 = 256 << 20;

/// A whole table.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its rows, in their order.
    pub rows: Vec<Row>,
    /// What its columns are.
    pub columns: Columns,
}

/// What the columns of a table are.
#[derive(Debug, Clone)]
pub struct Columns {
    /// Whether one names the patients.
    pub patient: bool,
    /// Whether one names the sites.
    pub site: bool,
    /// Whether inputs of the study are taken from some.
    pub inputs: bool,
    /// The names of all others, which mean nothing here.
    pub unknown: Vec<LocalText>,
}

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its line, for people; the header is on line 1.
    pub line: u64,
    /// The file, with `.` parts taken out; of a row without one the word `row`.
    pub path: LocalPath,
    /// Whether the path stays inside the folder as far as its text can tell.
    pub stays_inside: bool,
    /// The label as written; empty where there is a mask.
    pub label: LocalText,
    /// The file with its mask.
    pub mask: Option<LocalPath>,
    /// The patient.
    pub patient: Option<Patient>,
    /// The split as written.
    pub split: Option<LocalText>,
    /// The site as written.
    pub site: Option<LocalText>,
    /// What stands in the columns of the inputs, in their order.
    pub values: Vec<LocalText>,
}

impl Row {
    /// The side that is written, if one is, of a row that is ours. Otherwise why not, with the column and what stands there.
    pub(super) fn side(
        &self,
        site: Option<&str>,
    ) -> Result<Option<Side>, (Reason, &'static str, Option<&LocalText>)> {
        if let Some(site) = site
            && self.site.as_ref().is_none_or(|written| written.reveal() != site)
        {
            return Err((Reason::OtherSite, "site", self.site.as_ref()));
        }
        let split = self.split.as_ref();
        match split.map(LocalText::reveal) {
            None => Ok(None),
            Some("train") => Ok(Some(Side::Train)),
            Some("val") => Ok(Some(Side::HeldOut)),
            Some("test") => Err((Reason::ReservedForTest, "split", split)),
            Some(_) => Err((Reason::UnknownSplit, "split", split)),
        }
    }

    /// The numbers of the inputs that the table was read for. Otherwise why there is none, with the column and what stands there.
    pub(super) fn numbers(&self, inputs: &[Input]) -> Result<Vec<f32>, (Reason, String, &LocalText)> {
        let mut numbers = Vec::with_capacity(inputs.len());
        for (input, written) in inputs.iter().zip(&self.values) {
            let number = input.of(written.reveal());
            numbers.push(number.map_err(|why| (Reason::of_row(why), input.column().to_owned(), written))?);
        }
        Ok(numbers)
    }
}

/// What the rows of a table are.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// One file each, and beside it these inputs.
    Files(&'a [Input]),
    /// One file each, and one with its mask.
    Masks,
    /// The cases themselves, with these inputs.
    Cases(&'a [Input]),
}

/// Why a table is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
        column: Cow<'static, str>,
    },
    /// A column is there twice.
    #[error("it has the column \"{column}\" twice")]
    DuplicateColumn {
        /// The column.
        column: Cow<'static, str>,
    },
    /// A row has more or fewer values than the header.
    #[error("line {line} does not have as many values as the first line has columns")]
    Ragged {
        /// The line.
        line: u64,
    },
}

/// Reads a whole table.
pub fn read(from: impl Read, content: Content<'_>) -> Result<Table, TableDefect> {
    let mut bytes = Vec::new();
    from.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|_| TableDefect::Unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(TableDefect::TooLong);
    }
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(text);
    let mut lines = Lines { text, at: 0, line: 1 };
    let columns = reader.headers().map_err(|error| defect(&error, &mut lines))?.clone();
    let find = |column: Cow<'static, str>| -> Result<Option<usize>, TableDefect> {
        let mut places = columns.iter().enumerate().filter(|(_, name)| *name == column);
        let place = places.next().map(|(index, _)| index);
        if places.next().is_some() { Err(TableDefect::DuplicateColumn { column }) } else { Ok(place) }
    };
    let needed = |column: Cow<'static, str>| match find(column.clone())? {
        Some(place) => Ok(place),
        None => Err(TableDefect::NoColumn { column }),
    };
    let path = match content {
        Content::Files(_) | Content::Masks => Some(needed("path".into())?),
        Content::Cases(_) => None,
    };
    let inputs: Vec<usize> = match content {
        Content::Files(inputs) | Content::Cases(inputs) => {
            let columns = inputs.iter().map(|input| needed(input.column().to_owned().into()));
            columns.collect::<Result<_, _>>()?
        }
        Content::Masks => Vec::new(),
    };
    let (label, mask) = match content {
        Content::Masks => (None, Some(needed("mask".into())?)),
        Content::Files(_) | Content::Cases(_) => (Some(needed("label".into())?), None),
    };
    let (patient, split, site) = (find("patient".into())?, find("split".into())?, find("site".into())?);
    let known = [path, label, mask, patient, split, site];
    let unknown = columns
        .iter()
        .enumerate()
        .filter(|(index, _)| !known.contains(&Some(*index)) && !inputs.contains(index));
    let unknown = unknown.map(|(_, name)| LocalText::new(name)).collect();
    let mut rows = Vec::new();
    let mut record = StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| defect(&error, &mut lines))? {
        let line = lines.of(record.position());
        // Left empty, it is no file and no label of the study, which is found out where others are read.
        let needed = |index: usize| record.get(index).unwrap_or("");
        let optional = |index: Option<usize>| {
            index.and_then(|index| record.get(index)).filter(|value| !value.is_empty())
        };
        let (path, stays_inside) = match path {
            Some(path) => {
                let written = needed(path);
                let inside = inside(written);
                (inside.clone().unwrap_or_else(|| written.to_owned()), inside.is_some())
            }
            None => ("row".to_owned(), true),
        };
        let mask = mask.map(needed);
        rows.push(Row {
            line,
            stays_inside,
            path: LocalPath::new(path),
            label: LocalText::new(label.map_or("", needed)),
            // A path that leaves the folder stays as it is written, and is refused when it is opened.
            mask: mask.map(|mask| LocalPath::new(inside(mask).unwrap_or_else(|| mask.to_owned()))),
            patient: optional(patient).map(Patient::new),
            split: optional(split).map(LocalText::new),
            site: optional(site).map(LocalText::new),
            values: inputs.iter().map(|place| LocalText::new(record.get(*place).unwrap_or(""))).collect(),
        });
    }
    let columns =
        Columns { patient: patient.is_some(), site: site.is_some(), inputs: !inputs.is_empty(), unknown };
    Ok(Table { rows, columns })
}

/// Counts lines as an editor does. The reader's own count stands before the second half of a CR LF, and before
/// blank lines, when a record begins.
struct Lines<'t> {
    text: &'t [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line of the record that was read last.
    fn of(&mut self, position: Option<&Position>) -> u64 {
        let start = position.and_then(|position| usize::try_from(position.byte()).ok()).unwrap_or(0);
        while let Some(&byte) = self.text.get(self.at)
            && (self.at < start || matches!(byte, b'\r' | b'\n'))
        {
            self.at += 1;
            let ends_here = byte == b'\n' || byte == b'\r' && self.text.get(self.at) != Some(&b'\n');
            self.line += u64::from(ends_here);
        }
        self.line
    }
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
    if parts.is_empty() && !written.is_empty() { None } else { Some(parts.join("/")) }
}

fn defect(error: &csv::Error, lines: &mut Lines<'_>) -> TableDefect {
    let line = lines.of(error.position());
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
        let Table { rows, columns } = read(text.as_bytes(), Content::Files(&[])).unwrap();
        assert_eq!(columns.unknown, [LocalText::new("ward")]);
        assert!(columns.patient && !columns.site);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].path.reveal(), "a/b.dcm");
        assert_eq!(rows[0].label.reveal(), "normal");
        assert_eq!(rows[0].patient, Some(Patient::new("p1")));
        assert_eq!((rows[0].line, rows[1].line), (2, 3));
        assert!(rows[1].patient.is_none() && rows[1].split.is_none() && rows[1].site.is_none());
    }

    #[test]
    fn defects_name_line_and_column() {
        let refuse = |bytes: &[u8]| read(bytes, Content::Files(&[])).unwrap_err();
        assert_eq!(refuse(b"path;label\na;b\n"), TableDefect::NoColumn { column: "path".into() });
        assert_eq!(refuse(b"path\na\n"), TableDefect::NoColumn { column: "label".into() });
        assert_eq!(refuse(b""), TableDefect::NoColumn { column: "path".into() });
        assert_eq!(refuse(b"path,label,path\n"), TableDefect::DuplicateColumn { column: "path".into() });
        assert_eq!(refuse(b"path,label\na,b\na\n"), TableDefect::Ragged { line: 3 });
        assert_eq!(refuse(b"path,label\nM\xFCller,b\n"), TableDefect::NotUtf8 { line: 2 });
    }

    /// One row that nobody filled in costs that row.
    #[test]
    fn what_is_left_empty_is_there_as_nothing() {
        let rows = read(&b"path,label\n,b\na,\nc,b\n"[..], Content::Files(&[])).unwrap().rows;
        let written: Vec<_> = rows.iter().map(|row| (row.path.reveal(), row.label.reveal())).collect();
        assert_eq!(written, [("", "b"), ("a", ""), ("c", "b")]);
        assert!(rows.iter().all(|row| row.stays_inside));
        let rows = read(&b"path,mask\na,\n"[..], Content::Masks).unwrap().rows;
        assert_eq!(rows[0].mask.as_ref().unwrap().reveal(), "");
    }

    #[test]
    fn lines_are_those_of_an_editor_whatever_ends_them() {
        let text = "path,label\n\na,x\nb,\"x\n y\"\nc,x\n";
        for end in ["\n", "\r\n", "\r"] {
            for start in ["", "\u{FEFF}"] {
                let text = format!("{start}{}", text.replace('\n', end));
                let rows = read(text.as_bytes(), Content::Files(&[])).unwrap().rows;
                assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [3, 4, 6], "{text:?}");
                let ragged = read(format!("{text}d{end}").as_bytes(), Content::Files(&[])).unwrap_err();
                assert_eq!(ragged, TableDefect::Ragged { line: 7 }, "{text:?}");
            }
        }
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
            let _ = read(&bytes[..], Content::Files(&[]));
            let mut table = b"path,label,split\n".to_vec();
            table.extend(bytes);
            let _ = read(&table[..], Content::Files(&[]));
        }
    }
}
