//! Synthetic chest pictures for the demo, as DICOM files in a folder per hospital with a `labels.csv`.
//!
//! Nobody's body is in them: `chest` draws lungs, ribs and a heart, and in some a faint patch, the
//! *finding*, that a model has to learn to see. Hospitals differ as real ones do: in scanner (depth, sign,
//! photometric interpretation, rescale, window, orientation, blur, noise), in the number of patients, in
//! how many of them have the finding, and in where and how large it usually is. Everything follows from one
//! seed: the same seed writes the same bytes.
//!
//! How hard the task is stands in `difficulty` and nowhere else. With the demo's recipe and seed 1, one model on
//! all hospitals' pictures together reached an AUROC of 0.96 on pictures nobody trained on, the federation 0.91
//! and the median hospital alone 0.69: so it shows whether working together helps (`tests/tests/demo.rs` holds it).

mod chest;
mod draws;
mod file;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use chest::Findings;
use draws::Draws;

/// The classes, in the order of the model's outputs.
pub const LABELS: [&str; 2] = ["normal", "finding"];
/// The site's share of patients that `labels.csv` marks as held out.
const HELD_OUT_SHARE: f64 = 0.2;
/// The share of patients with a second picture.
const SECOND_PICTURE_SHARE: f64 = 0.25;
/// The smallest and the largest side of a picture.
pub const SIDES: std::ops::RangeInclusive<u16> = 28..=64;

/// All that makes the task easy or hard. Shades run from 0 to 1.
pub(crate) mod difficulty {
    /// How much brighter than lung the middle of a finding is.
    pub(crate) const FINDING_STRENGTH: (f64, f64) = (0.10, 0.40);
    /// Standard deviation of a finding's outline, in picture widths.
    pub(crate) const FINDING_RADIUS: (f64, f64) = (0.045, 0.10);
    /// Every picture has this many small bright spots that mean nothing, at most.
    pub(crate) const MOST_LOOKALIKES: u64 = 3;
    /// Their strength.
    pub(crate) const LOOKALIKE_STRENGTH: (f64, f64) = (0.05, 0.22);
    /// Their radius, in picture widths.
    pub(crate) const LOOKALIKE_RADIUS: (f64, f64) = (0.012, 0.03);
    /// Standard deviation of a scanner's noise.
    pub(crate) const NOISE: (f64, f64) = (0.015, 0.05);
    /// Exponent of a scanner's contrast.
    pub(crate) const GAMMA: (f64, f64) = (0.75, 1.35);
    /// Share of patients with the finding at a hospital.
    pub(crate) const PREVALENCE: (f64, f64) = (0.25, 0.6);
    /// Patients of a hospital, as a share of the number asked for.
    pub(crate) const SIZE: (f64, f64) = (0.6, 1.4);
    /// How strongly a hospital's findings prefer its usual place, from 0 (not) to 1 (always there).
    pub(crate) const PREFERENCE: f64 = 0.7;
}

/// A hospital of the demo: its scanner and its patients' usual findings.
#[derive(Debug, Clone)]
pub struct Hospital {
    seed: u64,
    number: u64,
    scanner: file::Scanner,
    findings: Findings,
    prevalence: f64,
    size: f64,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Pictures.
    pub pictures: u64,
    /// Pictures with the finding.
    pub findings: u64,
    /// Patients.
    pub patients: u64,
}

/// Why nothing, or not everything, was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The folder or a file in it cannot be written.
    #[error("writing the synthetic pictures failed")]
    File(#[from] io::Error),
    /// The side is outside [`SIDES`].
    #[error("a synthetic picture has 28 to 64 pixels a side, not {0}")]
    Side(u16),
}

/// The hospitals of one demo.
pub fn hospitals(seed: u64, count: usize) -> Vec<Hospital> {
    (0..count as u64)
        .map(|number| {
            let mut draws = Draws::new(seed, "hospital", &[number]);
            Hospital {
                seed,
                number,
                scanner: file::Scanner::draw(&mut draws, number),
                findings: Findings::draw(&mut draws, number),
                prevalence: draws.between(difficulty::PREVALENCE),
                size: draws.between(difficulty::SIZE),
            }
        })
        .collect()
}

impl Hospital {
    /// Writes this hospital's data folder: about `patients` patients, pictures of `side` x `side`, and
    /// `labels.csv`, which holds a fifth of the patients out.
    pub fn write(&self, folder: &Path, patients: u64, side: u16) -> Result<Written, WriteError> {
        let patients = ((patients as f64 * self.size).round() as u64).max(1);
        let mut table = Table::new(folder, side)?;
        for patient in 0..patients {
            let mut draws = Draws::new(self.seed, "patient", &[self.number, patient]);
            let split = if draws.unit() < HELD_OUT_SHARE { "val" } else { "train" };
            self.write_patient(&mut table, &format!("P{patient:05}"), split, draws)?;
        }
        table.finish(patients)
    }

    fn write_patient(
        &self,
        table: &mut Table<'_>,
        name: &str,
        split: &str,
        mut draws: Draws,
    ) -> Result<(), WriteError> {
        let has_finding = draws.unit() < self.prevalence;
        let body = chest::Body::draw(&mut draws);
        let finding = has_finding.then(|| self.findings.one(&mut draws));
        let pictures = if draws.unit() < SECOND_PICTURE_SHARE { 2 } else { 1 };
        for picture in 1..=pictures {
            let shades = body.picture(table.side.into(), finding, &mut draws);
            let path = format!("{name}/{picture}.dcm");
            let bytes = self.scanner.file(&shades, table.side, name, picture, &mut draws);
            table.add(&path, &bytes, has_finding, name, split)?;
        }
        Ok(())
    }
}

/// Writes the final test: as many patients from each hospital, about `patients` in all, whom no site ever
/// gets. The table has no split.
pub fn write_test(
    hospitals: &[Hospital],
    folder: &Path,
    patients: u64,
    side: u16,
) -> Result<Written, WriteError> {
    let mut table = Table::new(folder, side)?;
    let each = patients.div_ceil(hospitals.len().max(1) as u64);
    for hospital in hospitals {
        for patient in 0..each {
            let draws = Draws::new(hospital.seed, "test-patient", &[hospital.number, patient]);
            hospital.write_patient(&mut table, &format!("T{}-{patient:05}", hospital.number), "", draws)?;
        }
    }
    table.finish(each * hospitals.len() as u64)
}

/// A data folder on its way: pictures and the table that names them.
struct Table<'a> {
    folder: &'a Path,
    side: u16,
    rows: String,
    pictures: u64,
    findings: u64,
}

impl<'a> Table<'a> {
    fn new(folder: &'a Path, side: u16) -> Result<Self, WriteError> {
        if !SIDES.contains(&side) {
            return Err(WriteError::Side(side));
        }
        Ok(Self { folder, side, rows: "path,label,patient,split\n".into(), pictures: 0, findings: 0 })
    }

    fn add(&mut self, path: &str, bytes: &[u8], finding: bool, patient: &str, split: &str) -> io::Result<()> {
        let file = self.folder.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(file, bytes)?;
        let label = LABELS[usize::from(finding)];
        let _ = writeln!(self.rows, "{path},{label},{patient},{split}");
        self.pictures += 1;
        self.findings += u64::from(finding);
        Ok(())
    }

    fn finish(self, patients: u64) -> Result<Written, WriteError> {
        fs::create_dir_all(self.folder)?;
        fs::write(self.folder.join("labels.csv"), self.rows)?;
        Ok(Written { pictures: self.pictures, findings: self.findings, patients })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_study::hash::{Hash, Hasher};

    fn fingerprint(folder: &Path) -> Hash {
        let mut files = Vec::new();
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { open.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        let mut hasher = Hasher::new();
        for file in files {
            hasher.update(file.strip_prefix(folder).unwrap().as_os_str().as_encoded_bytes());
            hasher.update(&fs::read(&file).unwrap());
        }
        hasher.finish()
    }

    fn written(seed: u64, number: usize) -> (Hash, Written) {
        let folder = tempfile::tempdir().unwrap();
        let written = hospitals(seed, 4)[number].write(folder.path(), 12, 28).unwrap();
        (fingerprint(folder.path()), written)
    }

    #[test]
    fn one_seed_writes_one_set_of_bytes() {
        assert_eq!(written(1, 0), written(1, 0));
        assert_ne!(written(1, 0).0, written(2, 0).0);
        assert_ne!(written(1, 0).0, written(1, 1).0);
    }

    #[test]
    fn hospitals_differ_in_size_scanner_and_prevalence() {
        let all = hospitals(1, 6);
        for (first, second) in all.iter().zip(&all[1..]) {
            assert!((first.prevalence - second.prevalence).abs() > 1e-3);
            assert!((first.size - second.size).abs() > 1e-3);
            assert_ne!(first.scanner, second.scanner);
        }
        let hospital = &all[0];
        assert_eq!(hospitals(1, 2)[0].scanner, hospital.scanner, "more hospitals change none");
    }

    #[test]
    fn sides_out_of_range_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for side in [0, 27, 65, u16::MAX] {
            let refused = hospitals(1, 1)[0].write(folder.path(), 1, side);
            assert!(matches!(refused, Err(WriteError::Side(refused)) if refused == side));
        }
    }

    #[test]
    fn the_test_is_drawn_from_every_hospital_and_from_no_site_folder() {
        let folder = tempfile::tempdir().unwrap();
        let hospitals = hospitals(3, 3);
        let test = write_test(&hospitals, &folder.path().join("test"), 30, 28).unwrap();
        assert_eq!(test.patients, 30);
        assert!(test.findings > 0 && test.findings < test.pictures);
        let table = fs::read_to_string(folder.path().join("test/labels.csv")).unwrap();
        assert_eq!(table.lines().count() as u64, test.pictures + 1);
        assert!(table.lines().skip(1).all(|row| row.ends_with(',')), "no split");
    }
}
