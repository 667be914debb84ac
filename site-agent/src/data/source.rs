//! Where a site's cases come from, and what a study asks of them.

use std::path::PathBuf;

use consilium_study::check::{Unreadable, readable};
use consilium_study::data::Input;
use consilium_study::graph::Shape;
use consilium_study::preprocessing::Window;
use consilium_study::task::{BETWEEN_FINDINGS, Label, NO_FINDINGS, Range, Task, is_no_finding};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::reason::Reason;

/// Where the cases are: the `[data]` table of a site's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A MedMNIST archive. Its `train` arrays are trained on, its `val` arrays are the held-out
    /// cases, and its `test` arrays are never read.
    Npz {
        /// The archive.
        file: PathBuf,
    },
    /// PNG and JPEG files with a table beside them.
    Images {
        /// The folder; every path in the table is relative to it.
        folder: PathBuf,
        /// CSV with the columns `path,label` and, if wanted, `patient,split,site`. Where pixels have classes, `mask` stands in
        /// place of `label`: the path of a PNG file. Where a study reads numbers beside pictures, theirs, too; so it is below.
        table: PathBuf,
        /// With a `site` column: the rows that are ours.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
    },
    /// DICOM files with a table beside them.
    Dicom {
        /// The folder; every path in the table is relative to it.
        folder: PathBuf,
        /// CSV with the columns `path,label` and, if wanted, `patient,split,site`.
        table: PathBuf,
        /// With a `site` column: the rows that are ours.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
    },
    /// NIfTI files, each a volume, with a table beside them, for studies with `depth`.
    Nifti {
        /// The folder; every path in the table is relative to it.
        folder: PathBuf,
        /// CSV with the columns `path,label` and, if wanted, `patient,split,site`.
        table: PathBuf,
        /// With a `site` column: the rows that are ours.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
    },
    /// A table whose rows are the cases, for studies with `inputs`.
    Table {
        /// CSV with the column `label`, those of the study's inputs and, if wanted, `patient,split,site`.
        table: PathBuf,
        /// With a `site` column: the rows that are ours.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
    },
}

impl Source {
    /// The site whose rows are ours, where the table holds several.
    pub fn site(&self) -> Option<&str> {
        match self {
            Self::Npz { .. } => None,
            Self::Images { site, .. }
            | Self::Dicom { site, .. }
            | Self::Nifti { site, .. }
            | Self::Table { site, .. } => site.as_deref(),
        }
    }

    /// Where it lies: a folder before its table.
    pub fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Npz { file } => vec![file],
            Self::Images { folder, table, .. }
            | Self::Dicom { folder, table, .. }
            | Self::Nifti { folder, table, .. } => vec![folder, table],
            Self::Table { table, .. } => vec![table],
        }
    }

    /// One word for the kind of source.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Npz { .. } => "npz",
            Self::Images { .. } => "images",
            Self::Dicom { .. } => "dicom",
            Self::Nifti { .. } => "nifti",
            Self::Table { .. } => "table",
        }
    }
}

/// The size and channels every picture is brought to, or the size of every volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Target {
    #[n(0)]
    channels: u8,
    #[n(1)]
    height: u16,
    #[n(2)]
    width: u16,
    #[n(3)]
    depth: Option<u16>,
    #[n(4)]
    window: Option<Window>,
}

impl Target {
    /// The size of a picture.
    pub fn new(channels: u32, height: u32, width: u32) -> Result<Self, Unreadable> {
        Self::of([channels, height, width].into(), None)
    }

    /// The size of cases of this shape; which values are black and white in a volume.
    pub fn of(shape: Shape, window: Option<Window>) -> Result<Self, Unreadable> {
        readable(shape)?;
        let (depth, [channels, height, width]) = match shape {
            Shape::Image(sides) => (None, sides),
            Shape::Volume([channels, depth, height, width]) => (Some(depth), [channels, height, width]),
            Shape::Row(_) => return Err(Unreadable(shape)),
        };
        let depth = depth.map(|depth| depth as u16);
        Ok(Self { channels: channels as u8, height: height as u16, width: width as u16, depth, window })
    }

    /// The same size through the constructor: for values that came over a pipe.
    pub fn checked(self) -> Result<Self, Unreadable> {
        let [channels, height, width] = [self.channels.into(), self.height.into(), self.width.into()];
        let shape = match self.depth {
            None => Shape::Image([channels, height, width]),
            Some(depth) => Shape::Volume([channels, depth.into(), height, width]),
        };
        match self.window {
            Some(window) if !window.is_lawful() => Err(Unreadable(shape)),
            window => Self::of(shape, window),
        }
    }

    /// 1 for grey, 3 for red, green and blue.
    pub fn channels(self) -> usize {
        self.channels.into()
    }

    /// Slices, where cases are volumes.
    pub fn depth(self) -> Option<usize> {
        self.depth.map(usize::from)
    }

    /// Which values of a volume are black and white.
    pub fn window(self) -> Option<Window> {
        self.window
    }

    /// Rows.
    pub fn height(self) -> usize {
        self.height.into()
    }

    /// Columns.
    pub fn width(self) -> usize {
        self.width.into()
    }

    /// Channels or slices, rows and columns.
    pub fn shape(self) -> [u32; 3] {
        [self.depth.unwrap_or(self.channels.into()).into(), self.height.into(), self.width.into()]
    }

    /// Number of values of a case.
    pub fn values(self) -> usize {
        self.shape().iter().map(|&side| side as usize).product()
    }
}

/// What a case of a study is.
#[derive(Debug, Clone, PartialEq)]
pub enum Case {
    /// A picture or a volume of this size.
    Picture(Target),
    /// A row of a table, and what is taken from it.
    Row(Vec<Input>),
    /// A picture or a volume, and what is taken from the row that names its file.
    PictureAndRow(Target, Vec<Input>),
}

impl Case {
    /// Of a study whose cases are rows with these inputs, or have this shape behind this window, and beside them these inputs.
    pub fn of(
        rows: Option<&Vec<Input>>,
        (shape, window): (Shape, Option<Window>),
        beside: Option<&Vec<Input>>,
    ) -> Result<Self, Unreadable> {
        Ok(match (rows, beside) {
            (Some(inputs), _) => Self::Row(inputs.clone()),
            (None, None) => Self::Picture(Target::of(shape, window)?),
            (None, Some(inputs)) => Self::PictureAndRow(Target::of(shape, window)?, inputs.clone()),
        })
    }
}

/// What a study asks of a case.
#[derive(Debug, Clone, PartialEq)]
pub struct Criteria {
    /// Names of the classes or findings, in the order of the model's outputs.
    pub labels: Vec<String>,
    /// Whether a case has one of them, or any number.
    pub task: Task,
    /// Of a regression: between which values a case lies.
    pub range: Option<Range>,
    /// What a case is.
    pub case: Case,
    /// Share of patients held out where the source has no split of its own, from 0 to below 1.
    pub holdout: f64,
}

impl Criteria {
    /// The label that a text of a table stands for: a class, or findings with `|` between them, or `none`.
    pub(super) fn label_of_text(&self, text: &str) -> Option<Label> {
        let place = |name: &str| self.labels.iter().position(|label| label == name);
        match self.task {
            Task::Classification | Task::Ordinal => {
                return Some(Label::Class(u16::try_from(place(text)?).ok()?));
            }
            Task::Segmentation => return Some(Label::Mask),
            Task::Regression => return self.value(text.parse().ok()?),
            Task::MultiLabel => {}
        }
        if place(text).is_none() && is_no_finding(text) {
            return Some(Label::Findings(0));
        }
        // A study has at most 64 labels.
        let bit = |name: &str| 1_u64.checked_shl(u32::try_from(place(name.trim())?).ok()?);
        let set = text.split(BETWEEN_FINDINGS).try_fold(0, |set, name| Some(set | bit(name)?))?;
        Some(Label::Findings(set))
    }

    fn value(&self, value: f64) -> Option<Label> {
        Some(Label::Value(self.range?.measure(value)?))
    }

    /// Why a text or numbers are no label.
    pub(super) fn unlabelled(&self) -> Reason {
        if self.task == Task::Regression { Reason::OutOfRange } else { Reason::UnknownLabel }
    }

    /// How many numbers an archive has for the label of a case; that of a mask does not matter.
    pub(super) fn numbers_in_label(&self) -> Option<usize> {
        match self.task {
            Task::Classification | Task::Ordinal | Task::Regression => Some(1),
            Task::MultiLabel => Some(self.labels.len()),
            Task::Segmentation => None,
        }
    }

    /// The label that the numbers of an archive stand for: that of a class, or 0 or 1 for each finding.
    pub(super) fn label_of_numbers(&self, numbers: &[u16]) -> Option<Label> {
        let label = match self.task {
            Task::Classification | Task::Ordinal => {
                let &[class] = numbers else { return None };
                Label::Class(class)
            }
            Task::MultiLabel => {
                let bit = |(place, number): (usize, &u16)| {
                    let bit = u64::from(*number).checked_shl(u32::try_from(place).ok()?);
                    (*number <= 1).then_some(bit).flatten()
                };
                let set = numbers.iter().enumerate().try_fold(0, |set, number| Some(set | bit(number)?))?;
                Label::Findings(set)
            }
            Task::Segmentation => Label::Mask,
            Task::Regression => {
                let &[value] = numbers else { return None };
                self.value(value.into())?
            }
        };
        label.fits(self.task, self.labels.len()).then_some(label)
    }

    /// A label in words, as a table has it.
    pub(super) fn words(&self, label: Label) -> String {
        match (label, self.range) {
            (Label::Mask, _) => return "by its mask".to_owned(),
            (Label::Value(measure), Some(range)) => return format!("{:.6}", range.value(measure.share())),
            _ => {}
        }
        let names = self.labels.iter().enumerate().filter(|(place, _)| label.holds(*place));
        let names: Vec<&str> = names.map(|(_, name)| name.as_str()).collect();
        if names.is_empty() { NO_FINDINGS[0].to_owned() } else { names.join(&BETWEEN_FINDINGS.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grey_and_colour_of_sane_sizes() {
        assert!(Target::new(1, 28, 28).is_ok());
        assert!(Target::new(3, 1024, 1).is_ok());
        let volume = |sides: [u32; 4]| Target::of(sides.into(), None).map(Target::shape);
        assert_eq!(volume([1, 512, 128, 256]), Ok([512, 128, 256]));
        for sides in [[1, 512, 129, 256], [1, 513, 8, 8], [1, 0, 8, 8], [3, 8, 8, 8]] {
            assert!(volume(sides).is_err(), "{sides:?}");
        }
        for (channels, height, width) in [(0, 1, 1), (2, 8, 8), (1, 0, 8), (1, 8, 1025), (1, 65_544, 8)] {
            assert!(Target::new(channels, height, width).is_err());
        }
    }

    #[test]
    fn labels_are_read_as_the_task_has_them() {
        let of = |task| Criteria {
            labels: ["mass", "nodule", "effusion"].map(str::to_owned).to_vec(),
            task,
            range: None,
            case: Case::Row(Vec::new()),
            holdout: 0.0,
        };
        let (classes, findings) = (of(Task::Classification), of(Task::MultiLabel));
        for (text, class, set) in [
            ("mass", Some(0), Some(0b001)),
            ("effusion", Some(2), Some(0b100)),
            ("effusion|mass", None, Some(0b101)),
            ("mass | nodule|effusion", None, Some(0b111)),
            ("none", None, Some(0)),
            ("No Finding", None, Some(0)),
            ("none|mass", None, None),
            ("mass|", None, None),
            ("masses", None, None),
            ("Mass", None, None),
        ] {
            assert_eq!(classes.label_of_text(text), class.map(Label::Class), "{text}");
            assert_eq!(findings.label_of_text(text), set.map(Label::Findings), "{text}");
            if let Some(label) = findings.label_of_text(text) {
                assert_eq!(findings.label_of_text(&findings.words(label)), Some(label));
            }
        }
        assert_eq!(classes.label_of_numbers(&[2]), Some(Label::Class(2)));
        assert_eq!(findings.label_of_numbers(&[1, 0, 1]), Some(Label::Findings(0b101)));
        for numbers in [&[3][..], &[0, 1], &[]] {
            assert_eq!(classes.label_of_numbers(numbers), None, "{numbers:?}");
        }
        for numbers in [&[0, 0, 0, 1][..], &[0, 2, 0], &[1; 70]] {
            assert_eq!(findings.label_of_numbers(numbers), None, "{numbers:?}");
        }
    }

    #[test]
    fn a_value_is_a_number_in_its_range() {
        let range = Range { low: 0.0, high: 120.0 };
        let ages = Criteria {
            labels: vec!["age".to_owned()],
            task: Task::Regression,
            range: Some(range),
            case: Case::Row(Vec::new()),
            holdout: 0.0,
        };
        for (text, value) in
            [("30", Some(30.0)), ("7.5", Some(7.5)), ("121", None), ("-1", None), ("old", None)]
        {
            assert_eq!(
                ages.label_of_text(text),
                value.map(|value| Label::Value(range.measure(value).unwrap())),
                "{text}"
            );
        }
        assert_eq!(ages.words(ages.label_of_text("7.5").unwrap()), "7.500000");
        assert_eq!(ages.label_of_numbers(&[30]), ages.label_of_text("30"));
        assert_eq!((ages.label_of_numbers(&[121]), ages.label_of_numbers(&[1, 1])), (None, None));
        assert_eq!(ages.unlabelled(), Reason::OutOfRange);
    }

    #[test]
    fn a_source_with_an_unknown_key_is_refused() {
        let good = "kind = \"dicom\"\nfolder = \"a\"\ntable = \"a/labels.csv\"\n";
        assert_eq!(toml::from_str::<Source>(good).unwrap().kind(), "dicom");
        assert!(toml::from_str::<Source>(&format!("{good}shuffle = true\n")).is_err());
    }
}
