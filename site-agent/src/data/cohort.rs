//! A site's cohort for one study: what is trained on, what is held out, and what became of the rest.

use std::borrow::Cow;
use std::collections::BTreeSet;

use consilium_learning::{Dataset, Pixels};
use consilium_study::hash::{Hash, Hasher};
use consilium_study::task::Label;

use super::cache::Cache;
use super::counts::{Counts, Stage};
use super::decoder::Decoder;
use super::folder::ListError;
use super::local::{LocalPath, LocalText, Patient};
use super::protocol::{ArchiveDefect, Facts, Format};
use super::reason::Reason;
use super::source::{Case, Criteria, Source};
use super::split::{Side, SplitKey};
use super::table::{Columns, TableDefect};
use super::{archive, files, rows};

/// The usable cases of a site, and an account of all others. The cases and the quarantine together
/// are everything that was found or listed.
#[derive(Debug, Clone)]
pub struct Cohort {
    /// The cases to train on, in the order of their paths (or of the archive).
    pub train: Dataset,
    /// The cases to evaluate on.
    pub held_out: Dataset,
    /// A name for exactly these cases in this order: pixels, the numbers beside them, labels and sides. It stays inside the
    /// site, because it would confirm a guess.
    pub fingerprint: Hash,
    /// How many cases reached which stage.
    pub counts: Counts,
    /// The columns of the table; an archive has none.
    pub columns: Option<Columns>,
    /// The usable cases of files, in the order of their paths, or of rows, in the order of their lines. Empty for an archive.
    pub used: Vec<Used>,
    /// Cases that are not used, in the order of their paths.
    pub quarantine: Vec<Quarantined>,
}

/// A usable case.
#[derive(Debug, Clone)]
pub struct Used {
    /// Its file, or the row that it is.
    pub path: LocalPath,
    /// Its line in the table.
    pub line: u64,
    /// Its side of the split.
    pub side: Side,
    /// Its label.
    pub label: Label,
    /// What was seen of the file; a row has none.
    pub facts: Option<Facts>,
}

/// A case that is not used.
#[derive(Debug, Clone)]
pub struct Quarantined {
    /// Its file.
    pub path: LocalPath,
    /// Its line in the table, if it has one.
    pub line: Option<u64>,
    /// The column of the table that is the matter, if one is.
    pub column: Option<Cow<'static, str>>,
    /// How far it came.
    pub reached: Stage,
    /// Why it is not used.
    pub reason: Reason,
    /// What stands in the table, where that is the matter.
    pub written: Option<LocalText>,
}

/// How far loading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Cases looked at.
    pub done: u64,
    /// Cases to look at.
    pub total: u64,
}

/// Why a source gives no cohort at all. The texts name no file and no patient.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The data folder cannot be opened.
    #[error("the data folder cannot be used: {}", told(.0))]
    Folder(Reason),
    /// The data folder cannot be listed.
    #[error("the data folder cannot be used: {0}")]
    List(#[from] ListError),
    /// The table cannot be opened.
    #[error("the table cannot be used: {}", told(.0))]
    TableFile(Reason),
    /// The table cannot be understood.
    #[error("the table cannot be used: {0}")]
    Table(#[from] TableDefect),
    /// The archive cannot be opened.
    #[error("the archive cannot be used: {}", told(.0))]
    ArchiveFile(Reason),
    /// The archive cannot be read.
    #[error("the archive cannot be used: {0}")]
    Archive(#[from] ArchiveDefect),
    /// The configuration names a site and the table has no column for it.
    #[error("the configuration asks for one site's rows, and the table has no column \"site\"")]
    NoSiteColumn,
    /// A table for a study of pictures.
    #[error("the study is about pictures, and the source is a table of numbers")]
    RowsForPictures,
    /// A table for a study of volumes.
    #[error("the study is about volumes, and the source is a table of numbers")]
    RowsForVolumes,
    /// Files of pictures for a study of volumes.
    #[error("the study is about volumes, and the source has files of pictures")]
    PicturesForVolumes,
    /// Volumes for a study of pictures.
    #[error("the study is about pictures, and the source has NIfTI files, which are volumes")]
    VolumesForPictures,
    /// An archive for a study of pictures with numbers beside them.
    #[error(
        "the study reads numbers beside each picture, and the source is an archive, which has no columns"
    )]
    NoColumnsInArchive,
    /// Pictures for a study of rows.
    #[error("the study is about rows of a table, and the source has pictures")]
    PicturesForRows,
}

/// Why a part of the source itself cannot be opened.
fn told(reason: &Reason) -> String {
    if *reason == Reason::Missing { "it is not there".to_owned() } else { reason.explain() }
}

impl LoadError {
    /// What a person can do. `user` is who this program runs as.
    pub fn remedy(&self, user: &str) -> String {
        match self {
            Self::Folder(reason) | Self::TableFile(reason) | Self::ArchiveFile(reason) => {
                part_remedy(reason, user)
            }
            Self::List(ListError::Unreadable) => format!("Let the user {user} read every folder in it."),
            Self::List(ListError::TooMany) => {
                "Name the folder of the cohort, not one far above it.".to_owned()
            }
            Self::Table(TableDefect::Unreadable) => part_remedy(&Reason::StorageUnreachable, user),
            Self::Table(_) | Self::NoSiteColumn => "Correct the table and try again.".to_owned(),
            Self::RowsForPictures | Self::VolumesForPictures => {
                "Name pictures under [source] in site.toml (kind = \"images\", \"dicom\" or \"npz\")."
                    .to_owned()
            }
            Self::PicturesForVolumes | Self::RowsForVolumes | Self::Archive(ArchiveDefect::OtherCases) => {
                "Name volumes under [source] in site.toml: NIfTI files (kind = \"nifti\"), or an archive whose \
                 train_images have the shape [n, depth, height, width] (kind = \"npz\")."
                    .to_owned()
            }
            Self::NoColumnsInArchive => {
                "Name a folder with a table under [source] in site.toml (kind = \"images\", \"dicom\" or \"nifti\"); the table \
                 names the files, and has a column for each of the study's inputs."
                    .to_owned()
            }
            Self::PicturesForRows => {
                "Name a table under [source] in site.toml: kind = \"table\", table = \"data/cases.csv\"."
                    .to_owned()
            }
            Self::Archive(ArchiveDefect::NoUnit) => {
                "Name NIfTI files under [source] in site.toml (kind = \"nifti\"), or ask the consortium for a study without `window`."
                    .to_owned()
            }
            Self::Archive(_) => "Fetch the archive again, or convert it to the MedMNIST layout.".to_owned(),
        }
    }
}

/// What a person can do about a part of the source that cannot be opened: no image has been looked at yet.
fn part_remedy(reason: &Reason, user: &str) -> String {
    match reason {
        Reason::NoPermission | Reason::WrongOwner => format!("Ask its owner to let the user {user} read it."),
        Reason::StorageUnreachable => format!("Check the mount with your storage team, then try again as {user}."),
        Reason::BrokenLink => reason.remedy(user),
        _ => "Correct the path under [source] in site.toml, or put it there; `site-agent doctor` shows the path.".to_owned(),
    }
}

/// Loads a source: lists, reads, decodes in the child, joins labels and splits.
///
/// The same files and table give the same cohort in the same order, whatever the folder's own order.
pub fn load(
    source: &Source,
    criteria: &Criteria,
    key: &SplitKey,
    decoder: &mut Decoder,
    cache: Option<&Cache>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Cohort, LoadError> {
    let (target, inputs) = match &criteria.case {
        Case::Picture(target) => (*target, &[][..]),
        Case::PictureAndRow(target, inputs) => (*target, inputs.as_slice()),
        Case::Row(inputs) => {
            return match source {
                Source::Table { table, site } => rows::load(table, site.as_deref(), inputs, criteria, key),
                _ => Err(LoadError::PicturesForRows),
            };
        }
    };
    match source {
        Source::Npz { .. } if !inputs.is_empty() => Err(LoadError::NoColumnsInArchive),
        Source::Npz { file } => archive::load(file, target, criteria, key, decoder),
        Source::Images { folder, table, site }
        | Source::Dicom { folder, table, site }
        | Source::Nifti { folder, table, site } => {
            let format = match source {
                Source::Nifti { .. } => Format::Nifti,
                Source::Dicom { .. } => Format::Dicom,
                _ => Format::Raster,
            };
            match (format, target.depth()) {
                (Format::Nifti, None) => return Err(LoadError::VolumesForPictures),
                (Format::Dicom | Format::Raster, Some(_)) => return Err(LoadError::PicturesForVolumes),
                _ => {}
            }
            let place = files::Place { folder, table, site: site.as_deref(), format, target, inputs };
            files::load(&place, criteria, key, decoder, cache, progress)
        }
        Source::Table { .. } => Err(match target.depth() {
            None => LoadError::RowsForPictures,
            Some(_) => LoadError::RowsForVolumes,
        }),
    }
}

/// Values, labels and masks of the cases on one side, and the numbers beside them.
#[derive(Default)]
struct Part {
    pixels: Vec<f32>,
    labels: Vec<Label>,
    masks: Vec<u8>,
    beside: Vec<f32>,
}

/// Cases on their way into the two data sets.
pub(super) struct Assembly {
    shape: [u32; 3],
    columns: usize,
    sides: [Part; 2],
    patients: BTreeSet<Patient>,
    pub(super) counts: Counts,
}

impl Assembly {
    /// Of cases of this shape, channels or slices, height, width, with so many numbers beside each.
    pub(super) fn new(shape: [u32; 3], columns: usize) -> Self {
        let (sides, patients, counts) = Default::default();
        Self { shape, columns, sides, patients, counts }
    }

    /// Adds a usable case with its values and the numbers beside them, and the classes of its pixels where it has a mask.
    pub(super) fn add(
        &mut self,
        side: Side,
        label: Label,
        patient: Option<&Patient>,
        (values, beside): (&[f32], &[f32]),
        mask: &[u8],
    ) {
        let part = &mut self.sides[usize::from(side == Side::HeldOut)];
        part.pixels.extend_from_slice(values);
        part.beside.extend_from_slice(beside);
        part.labels.push(label);
        part.masks.extend_from_slice(mask);
        self.counts.note(Stage::Usable);
        match side {
            Side::Train => self.counts.train += 1,
            Side::HeldOut => self.counts.held_out += 1,
        }
        match patient {
            Some(patient) => {
                self.patients.insert(patient.clone());
            }
            None => self.counts.unnamed_cases += 1,
        }
    }

    pub(super) fn finish(
        mut self,
        columns: Option<Columns>,
        used: Vec<Used>,
        quarantine: Vec<Quarantined>,
    ) -> Cohort {
        self.counts.named_patients = self.patients.len() as u64;
        let (shape, beside_each) = (self.shape, self.columns);
        let fingerprint = fingerprint(shape, &self.sides);
        let [train, held_out] = self.sides.map(|Part { pixels, labels, masks, beside }| {
            let pixels = Pixels::Floats(pixels);
            let cases = if masks.is_empty() {
                Dataset::new(shape, pixels, labels)
            } else {
                Dataset::with_masks(shape, pixels, masks)
            };
            let cases = cases.and_then(|cases| cases.beside(beside_each, beside));
            cases.expect("every case added one label or mask, as many finite values as the shape says, and its numbers")
        });
        Cohort { train, held_out, fingerprint, counts: self.counts, columns, used, quarantine }
    }
}

fn fingerprint(shape: [u32; 3], sides: &[Part; 2]) -> Hash {
    let mut hasher = Hasher::labelled("cohort");
    for number in shape {
        hasher.update(&number.to_le_bytes());
    }
    for Part { pixels, labels, masks, beside } in sides {
        hasher.update(&(labels.len() as u64).to_le_bytes());
        for label in labels {
            match label {
                Label::Class(class) => hasher.update(&class.to_le_bytes()),
                Label::Findings(set) => hasher.update(&set.to_le_bytes()),
                Label::Mask => hasher.update(&[]),
                Label::Value(measure) => hasher.update(&measure.share().to_le_bytes()),
            }
        }
        hasher.update(masks);
        for value in pixels.iter().chain(beside) {
            hasher.update(&value.to_le_bytes());
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_source_is_not_said_of_an_image() {
        let reasons =
            [Reason::NoPermission, Reason::WrongOwner, Reason::StorageUnreachable, Reason::NotAFile];
        let parts = reasons.into_iter().flat_map(|reason| {
            [
                LoadError::Folder(reason.clone()),
                LoadError::TableFile(reason.clone()),
                LoadError::ArchiveFile(reason),
            ]
        });
        for error in parts.chain([LoadError::Table(TableDefect::Unreadable)]) {
            let remedy = error.remedy("fl-agent");
            assert!(!remedy.contains("image") && !remedy.contains("Name a file"), "{error}. {remedy}");
        }
        let table = LoadError::TableFile(Reason::NoPermission).remedy("fl-agent");
        assert_eq!(table, "Ask its owner to let the user fl-agent read it.");
    }
}
