//! The table of a folder that is dealt out: `labels.csv`, or a `metadata.csv` as collections of chest pictures
//! have it. Or a table by itself, whose rows are the cases.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};
use consilium_site_agent::data::Source;
use consilium_site_agent::data::protocol::Format;
use consilium_study::hash::Hash;

/// Share of patients that go to no site, where the table says nothing, as one in so many.
const TEST_ONE_IN: u64 = 5;

/// A table of images or of cases, with the place of each column that matters.
pub(crate) struct Table {
    header: csv::StringRecord,
    rows: Vec<csv::StringRecord>,
    /// The column of the files; none where rows are cases.
    path: Option<usize>,
    /// The column of the labels; none where pixels have them.
    label: Option<usize>,
    /// The column of the files with masks.
    mask: Option<usize>,
    patient: Option<usize>,
    /// The column of the split, if it names any row for testing.
    test_split: Option<usize>,
    /// All labels; the position is the class. In alphabetical order, unless a study gave another. None without a column of
    /// them.
    pub labels: Vec<String>,
}

/// Said of a folder that nobody can read cases from, with what somebody may have meant.
fn no_table(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_data = |path: &PathBuf| path.extension().is_some_and(|end| end == "npz" || end == "csv");
    let meant = files.filter(is_data).min().map(|file| format!("; or was {} meant?", file.display()));
    format!(
        "{} has neither labels.csv nor metadata.csv (columns path,label and, if wanted, patient,split){}",
        folder.display(),
        meant.unwrap_or_default()
    )
}

impl Table {
    /// Reads `labels.csv`, or `metadata.csv` where there is none.
    pub(crate) fn of_folder(folder: &Path) -> anyhow::Result<Self> {
        let found = ["labels.csv", "metadata.csv"]
            .map(|name| folder.join(name))
            .into_iter()
            .find(|path| path.exists());
        let found = found.with_context(|| no_table(folder))?;
        Self::read(&found, true)
    }

    /// Reads a table whose rows are the cases.
    pub(crate) fn of_cases(path: &Path) -> anyhow::Result<Self> {
        Self::read(path, false)
    }

    /// Reads a table with the columns `path,label` or `path,mask` and, if wanted, `patient,split`. Other names of these
    /// columns are brought to ours.
    fn read(path: &Path, names_files: bool) -> anyhow::Result<Self> {
        let about = || format!("reading {}", path.display());
        let mut reader = csv::Reader::from_path(path).with_context(about)?;
        let mut header = reader.headers().with_context(about)?.clone();
        let mut rows = reader.records().collect::<Result<Vec<_>, _>>().with_context(about)?;
        bring_to_ours(&mut header, &mut rows);
        let column = |name: &str| header.iter().position(|column| column == name);
        let needed =
            |name: &str| column(name).with_context(|| format!("{} has no column {name}", path.display()));
        let of_path = if names_files { Some(needed("path")?) } else { None };
        let mask = column("mask").filter(|_| names_files);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for named in of_path.into_iter().chain(mask) {
            for (number, row) in rows.iter_mut().enumerate() {
                let below = below(folder, &row[named])
                    .with_context(|| format!("{}, row {}", path.display(), number + 1))?;
                *row = replaced(row, named, &below);
            }
        }
        let of_label = if mask.is_some() { column("label") } else { Some(needed("label")?) };
        let patient = column("patient");
        let test_split = column("split").filter(|column| rows.iter().any(|row| &row[*column] == "test"));
        let written = of_label.iter().flat_map(|column| rows.iter().map(|row| row[*column].to_owned()));
        let mut labels: Vec<String> = written.collect();
        labels.sort();
        labels.dedup();
        if labels.len() < 2 && mask.is_none() {
            bail!("{} names fewer than two classes", path.display());
        }
        Ok(Self { header, rows, path: of_path, label: of_label, mask, patient, test_split, labels })
    }

    /// Brings what is written as labels to the classes of a study: the longest class that begins the text, upper
    /// and lower case alike, else the class named `other`, if there is one. Texts of no class stay as they are.
    pub(crate) fn relabel(&mut self, classes: &[String]) {
        let Some(label) = self.label else { return };
        let other = classes.iter().find(|class| class.eq_ignore_ascii_case("other"));
        for row in &mut self.rows {
            let text = row[label].to_lowercase();
            let begins = classes.iter().filter(|class| text.starts_with(&class.to_lowercase()));
            if let Some(class) = begins.max_by_key(|class| class.len()).or(other) {
                *row = replaced(row, label, class);
            }
        }
        self.labels = classes.to_vec();
    }

    /// Deals all rows out alike: what stands as their label is of no class.
    pub(crate) fn pass_over_labels(&mut self) {
        (self.label, self.labels) = (None, Vec::new());
    }

    /// Whether the table itself says which rows are for testing.
    pub(crate) fn names_test(&self) -> bool {
        self.test_split.is_some()
    }

    /// Whether rows name files; else they are the cases themselves.
    pub(crate) fn names_files(&self) -> bool {
        self.path.is_some()
    }

    /// Rows of each patient; a row without a patient is its own.
    pub(crate) fn patients(&self) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<(bool, String), Vec<usize>> = BTreeMap::new();
        for (number, row) in self.rows.iter().enumerate() {
            let patient = self.patient.map(|column| &row[column]).filter(|patient| !patient.is_empty());
            let key =
                patient.map_or_else(|| (false, self.name(number)), |patient| (true, patient.to_owned()));
            groups.entry(key).or_default().push(number);
        }
        groups.into_values().collect()
    }

    /// Whether a patient goes to no site: by the table's own split if that names any for testing, else by a hash of who
    /// it is.
    pub(crate) fn is_test(&self, group: &[usize], seed: u64) -> bool {
        if let Some(column) = self.test_split {
            return group.iter().any(|row| &self.rows[*row][column] == "test");
        }
        let row = group[0];
        let who = self.patient.map_or_else(|| self.name(row), |column| self.rows[row][column].to_owned());
        let key = format!("{seed} {who}");
        let hash = Hash::labelled("demo-test", key.as_bytes());
        u64::from(hash.as_bytes()[0]) * TEST_ONE_IN < 256
    }

    /// A row by its file, or by its number.
    fn name(&self, row: usize) -> String {
        self.path.map_or_else(|| format!("{row:010}"), |column| self.rows[row][column].to_owned())
    }

    /// Class of a row; all are of one where there are no labels.
    pub(crate) fn class(&self, row: usize) -> u16 {
        let written = self.label.map(|column| &self.rows[row][column]);
        let found = self.labels.iter().position(|label| Some(label.as_str()) == written);
        u16::try_from(found.unwrap_or(0)).unwrap_or(u16::MAX)
    }

    /// The values of a column with the number of groups that have each, the most frequent first.
    pub(crate) fn values(&self, name: &str, groups: &[Vec<usize>]) -> anyhow::Result<Vec<(String, usize)>> {
        let column = self.column(name)?;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for group in groups {
            *counts.entry(self.rows[group[0]][column].to_owned()).or_default() += 1;
        }
        let mut order: Vec<(String, usize)> = counts.into_iter().collect();
        order.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(order)
    }

    /// The groups by the values of a column: the most frequent values get a site each, the others share the last.
    pub(crate) fn by_column(
        &self,
        name: &str,
        groups: &[Vec<usize>],
        sites: usize,
    ) -> anyhow::Result<Vec<usize>> {
        let column = self.column(name)?;
        let order = self.values(name, groups)?;
        if order.len() < sites {
            bail!("the column {name} has {} values, fewer than {sites} sites", order.len());
        }
        let place =
            |text: &str| order.iter().position(|(value, _)| value == text).unwrap_or(0).min(sites - 1);
        Ok(groups.iter().map(|group| place(&self.rows[group[0]][column])).collect())
    }

    fn column(&self, name: &str) -> anyhow::Result<usize> {
        let column = self.header.iter().position(|column| column == name);
        column.with_context(|| format!("the table has no column {name} to deal by"))
    }

    /// What the files in a folder are. A folder of several kinds is refused.
    pub(crate) fn files(&self, folder: &Path) -> anyhow::Result<Files> {
        let mut found: Option<(Files, PathBuf)> = None;
        for (row, column) in self.rows.iter().filter_map(|row| Some((row, self.path?))) {
            let path = folder.join(&row[column]);
            // What is not there is told by the site that would have it.
            let Some(kind) = present(Files::of(&path), &path, "reading")? else { continue };
            match &found {
                None => found = Some((kind, path)),
                Some((first, of)) if *first != kind => bail!(
                    "{} is {} and {} is {}; a folder that is dealt out holds one kind",
                    of.display(),
                    first.name(),
                    path.display(),
                    kind.name()
                ),
                Some(_) => {}
            }
        }
        Ok(found.map_or(Files::Images, |(kind, _)| kind))
    }

    /// Copies rows and, where they have any, their images into a folder of their own. What is for testing there is no longer
    /// marked as such, because a loader passes over what is.
    pub(crate) fn copy(&self, from: &Path, to: &Path, rows: &[usize]) -> anyhow::Result<()> {
        std::fs::create_dir_all(to)?;
        let mut writer = csv::Writer::from_path(to.join("labels.csv"))?;
        writer.write_record(&self.header)?;
        for row in rows {
            let row = &self.rows[*row];
            match self.test_split.filter(|column| &row[*column] == "test") {
                Some(column) => writer.write_record(&replaced(row, column, ""))?,
                None => writer.write_record(row)?,
            }
            for column in self.path.into_iter().chain(self.mask) {
                let (source, target) = (from.join(&row[column]), to.join(&row[column]));
                if let Some(folder) = target.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                present(copy_new(&source, &target), &source, "copying")?;
            }
        }
        writer.flush()?;
        Ok(())
    }
}

/// A path in a table as one below the table's folder, so that its copy lies below another.
fn below(folder: &Path, written: &str) -> anyhow::Result<String> {
    let path = Path::new(written);
    let of_folder = |folder: &Path| path.strip_prefix(folder).ok().filter(|_| path.is_absolute());
    let inside = of_folder(folder).or_else(|| of_folder(&folder.canonicalize().ok()?)).unwrap_or(path);
    let stays = inside.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    match inside.to_str() {
        Some(inside) if stays => Ok(inside.to_owned()),
        _ => bail!("{written} is not below {}; name files from there, as in images/1.png", folder.display()),
    }
}

/// What was done with a file; nothing where it is not there.
fn present<T>(done: io::Result<T>, file: &Path, act: &str) -> anyhow::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{act} {}", file.display())),
    }
}

/// Copies a file to where none is: one that several rows name is there after the first.
fn copy_new(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    match File::create_new(to) {
        Ok(mut target) => io::copy(&mut source, &mut target).map(drop),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// What files a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// PNG and JPEG.
    Images,
    Dicom,
    Nifti,
}

impl Files {
    /// By the first bytes of one of them, or for DICOM by its name.
    fn of(path: &Path) -> io::Result<Self> {
        let mut start = Vec::new();
        File::open(path)?.take(132).read_to_end(&mut start)?;
        let extension = path.extension().unwrap_or_default();
        let is_named = extension.eq_ignore_ascii_case("dcm") || extension.eq_ignore_ascii_case("dicom");
        Ok(if Format::Dicom.begins(&start) || is_named {
            Self::Dicom
        } else if Format::Nifti.begins(&start) {
            Self::Nifti
        } else {
            Self::Images
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Images => "a picture",
            Self::Dicom => "DICOM",
            Self::Nifti => "NIfTI",
        }
    }

    /// Such a folder, with its table beside the files.
    pub(crate) fn source(self, folder: PathBuf) -> Source {
        let (table, site) = (folder.join("labels.csv"), None);
        match self {
            Self::Images => Source::Images { folder, table, site },
            Self::Dicom => Source::Dicom { folder, table, site },
            Self::Nifti => Source::Nifti { folder, table, site },
        }
    }
}

/// Gives columns with other common names ours, and puts a column of folders before file names.
fn bring_to_ours(header: &mut csv::StringRecord, rows: &mut [csv::StringRecord]) {
    const ALIASES: [(&str, &str); 3] = [("filename", "path"), ("finding", "label"), ("patientid", "patient")];
    let column = |header: &csv::StringRecord, name: &str| header.iter().position(|column| column == name);
    for (alias, ours) in ALIASES {
        let Some(place) = column(header, alias).filter(|_| column(header, ours).is_none()) else { continue };
        *header = replaced(header, place, ours);
        if alias == "filename"
            && let Some(folder) = column(header, "folder")
        {
            for row in rows.iter_mut().filter(|row| !row[folder].is_empty()) {
                let path = format!("{}/{}", &row[folder], &row[place]);
                *row = replaced(row, place, &path);
            }
        }
    }
}

fn replaced(record: &csv::StringRecord, place: usize, text: &str) -> csv::StringRecord {
    record.iter().enumerate().map(|(at, field)| if at == place { text } else { field }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patients_stay_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.csv");
        std::fs::write(
            &path,
            "path,label,patient,country\na.png,x,p1,es\nb.png,y,p2,it\nc.png,x,p1,es\nd.png,y,,fr\n",
        )
        .unwrap();
        let table = Table::read(&path, true).unwrap();
        let groups = table.patients();
        assert_eq!(groups, [vec![3], vec![0, 2], vec![1]]);
        assert_eq!((table.class(0), table.class(1)), (0, 1));
        assert_eq!(table.by_column("country", &groups, 2).unwrap(), [1, 0, 1]);
        assert!(table.by_column("country", &groups, 4).is_err());
    }

    /// A collection's own files are never written to, wherever its table points.
    #[test]
    fn files_are_copied_from_below_the_table_and_to_below_the_copy() {
        let all = tempfile::tempdir().unwrap();
        let (from, to) = (all.path().join("from"), all.path().join("one/to"));
        std::fs::create_dir_all(from.join("in")).unwrap();
        std::fs::write(from.join("in/a.png"), "picture").unwrap();
        std::fs::write(all.path().join("b.png"), "other").unwrap();
        let read = |path: &str| {
            std::fs::write(from.join("labels.csv"), format!("path,label\n{path},x\nin/a.png,y\n")).unwrap();
            Table::of_folder(&from)
        };
        let whole = from.join("in/a.png");
        let missing = "in/missing.png";
        for path in ["in/a.png", "./in/a.png", whole.to_str().unwrap(), missing] {
            let table = read(path).unwrap();
            table.files(&from).unwrap();
            table.copy(&from, &to, &[0, 1]).unwrap();
            assert_eq!(std::fs::read_to_string(&whole).unwrap(), "picture", "{path}");
            assert_eq!(std::fs::read_to_string(to.join("in/a.png")).unwrap(), "picture", "{path}");
            std::fs::remove_dir_all(&to).unwrap();
        }
        for path in ["../b.png", "in/../../b.png", all.path().join("b.png").to_str().unwrap()] {
            let Err(error) = read(path) else { panic!("{path} was taken") };
            assert!(format!("{error:#}").contains("row 1: "), "{error:#}");
        }
    }

    #[test]
    fn some_patients_are_for_testing_whatever_the_split_names() {
        let folder = tempfile::tempdir().unwrap();
        let tested = |split: fn(usize) -> &'static str| {
            let rows = (0..100).map(|case| format!("{case}.png,{},{}\n", case % 2, split(case)));
            let text = format!("path,label,split\n{}", rows.collect::<String>());
            std::fs::write(folder.path().join("labels.csv"), text).unwrap();
            let table = Table::of_folder(folder.path()).unwrap();
            let groups = table.patients();
            groups.iter().filter(|group| table.is_test(group, 1)).count()
        };
        assert_eq!(tested(|case| if case < 7 { "test" } else { "train" }), 7);
        let by_hash = tested(|case| if case < 7 { "val" } else { "train" });
        assert!((10..30).contains(&by_hash), "{by_hash}");
    }

    #[test]
    fn files_are_known_by_their_first_bytes_or_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let table = |rows: &str| {
            put("labels.csv", format!("path,label\n{rows}").as_bytes());
            Table::of_folder(folder.path()).unwrap().files(folder.path())
        };
        put("marked", &[&[0; 128][..], b"DICM\x02\x00"].concat());
        put("old.DCM", b"\x08\x00");
        put("a.png", b"\x89PNG");
        put("a.nii", b"\x5c\x01\x00\x00");
        put("b.nii.gz", b"\x1f\x8b\x08\x00");
        assert_eq!(table("marked,x\nold.DCM,y\n").unwrap(), Files::Dicom);
        assert_eq!(table("a.png,x\na.png,y\n").unwrap(), Files::Images);
        assert_eq!(table("a.nii,x\nb.nii.gz,y\n").unwrap(), Files::Nifti);
        for both in ["a.png,x\nmarked,y\n", "marked,x\na.nii,y\n"] {
            let both = table(both).unwrap_err().to_string();
            assert!(both.contains("one kind"), "{both}");
        }
    }

    #[test]
    fn other_names_and_labels_are_brought_to_ours() {
        let folder = tempfile::tempdir().unwrap();
        let text =
            "patientid,finding,folder,filename\n7,\"COVID-19, ARDS\",images,a.jpg\n8,Varicella,,b.jpg\n";
        std::fs::write(folder.path().join("metadata.csv"), text).unwrap();
        let mut table = Table::of_folder(folder.path()).unwrap();
        table.relabel(&["other".into(), "covid-19".into()]);
        assert_eq!((table.class(0), table.class(1)), (1, 0));
        assert_eq!((table.name(0), table.name(1)), ("images/a.jpg".to_owned(), "b.jpg".to_owned()));
        assert_eq!(table.patients(), [vec![0], vec![1]]);
        assert_eq!(&table.rows[1][table.label.unwrap()], "other");
    }
}
