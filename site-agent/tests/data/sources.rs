//! Whole cohorts: labels joined, cases split and counted, everything accounted for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use consilium_site_agent::data::counts::Stage;
use consilium_site_agent::data::protocol::ArchiveDefect;
use consilium_site_agent::data::report::{Check, Explanation};
use consilium_site_agent::data::split::Side;
use consilium_site_agent::data::table::TableDefect;
use consilium_site_agent::data::{
    Cache, Case, Cohort, Criteria, Decoder, LoadError, Room, Source, Target, load,
};
use consilium_study::task::{Label, Task};
use dicom_core::VR;
use dicom_dictionary_std::{tags, uids};
use proptest::prelude::*;

use super::{data_folder, decoder, file, grey, key, put, target};

fn criteria() -> Criteria {
    Criteria {
        labels: vec!["normal".into(), "sick".into()],
        task: Task::Classification,
        range: None,
        case: Case::Picture(target(1, 4, 4)),
        holdout: 0.3,
    }
}

fn loaded(source: &Source, cache: Option<&Cache>, decoder: &mut Decoder) -> Result<Cohort, LoadError> {
    load(source, &criteria(), &key(7), decoder, cache, &mut |_| {})
}

/// A picture that differs from all others; with a patient in its header if one is given.
fn picture(number: u16, patient: Option<&str>) -> Vec<u8> {
    let values: Vec<u16> = (0..16).map(|pixel| pixel * 10 + number * (pixel % 3)).collect();
    let mut object = grey(4, 4, &values);
    if let Some(patient) = patient {
        put(&mut object, tags::PATIENT_ID, VR::LO, patient);
    }
    file(object, uids::EXPLICIT_VR_LITTLE_ENDIAN)
}

struct Hospital {
    folder: tempfile::TempDir,
    table: String,
}

impl Hospital {
    fn new(columns: &str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), table: format!("{columns}\n") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn row(&mut self, row: &str) {
        self.table.push_str(row);
        self.table.push('\n');
    }

    fn source(&self) -> Source {
        fs::write(self.path("labels.csv"), &self.table).unwrap();
        Source::Dicom { folder: self.folder.path().to_owned(), table: self.path("labels.csv"), site: None }
    }

    fn load(&self) -> Cohort {
        loaded(&self.source(), None, &mut decoder()).unwrap()
    }
}

/// A hospital with forty good pictures of twenty patients.
fn healthy() -> Hospital {
    let mut hospital = Hospital::new("path,label,patient");
    for number in 0..40 {
        let label = if number % 3 == 0 { "sick" } else { "normal" };
        hospital.put(&format!("{}/{number}.dcm", number % 4), &picture(number, None));
        hospital.row(&format!("{}/{number}.dcm,{label},p{}", number % 4, number / 2));
    }
    hospital
}

#[test]
fn a_clean_folder_is_used_whole_and_split_by_patient() {
    let hospital = healthy();
    let cohort = hospital.load();
    assert!(cohort.quarantine.is_empty());
    let counts = cohort.counts;
    assert_eq!((counts.found, counts.usable, counts.named_patients, counts.unnamed_cases), (40, 40, 20, 0));
    assert_eq!(counts.train + counts.held_out, 40);
    assert_eq!(cohort.train.len() as u64, counts.train);
    assert_eq!(cohort.held_out.len() as u64, counts.held_out);
    assert!(counts.held_out > 0 && counts.train > 0);
    let mut sides: BTreeMap<String, BTreeSet<Side>> = BTreeMap::new();
    for used in &cohort.used {
        let number: u32 = used.path.reveal()[2..].trim_end_matches(".dcm").parse().unwrap();
        sides.entry(format!("p{}", number / 2)).or_default().insert(used.side);
    }
    assert!(sides.values().all(|sides| sides.len() == 1), "no patient is on two sides");
}

/// A misspelt column is passed over like any other, so that it is passed over has to be said.
#[test]
fn columns_that_are_not_used_and_a_split_by_file_are_told() {
    let told = |hospital: &Hospital| {
        let (source, cohort) = (hospital.source(), hospital.load());
        let check = Check::of(&source, &criteria(), &cohort, "fl").text();
        (check, Explanation::of(&source, &criteria(), &cohort, "fl").text())
    };
    let mut hospital = healthy();
    let (check, explanation) = told(&hospital);
    assert!(!check.contains("not used") && !explanation.contains("by file"), "{check}{explanation}");
    let columns = "path,label,patient\n";
    hospital.table = format!("path,label,patinet\x1b\n{}", &hospital.table[columns.len()..]);
    let (check, explanation) = told(&hospital);
    for text in [check, explanation] {
        assert!(text.contains("that are not used: \"patinet\u{FFFD}\"."), "{text}");
        assert!(text.contains("has no column \"patient\". 40 cases name no patient"), "{text}");
        assert!(text.contains("their split is by file"), "{text}");
    }
    // Nobody says which site's rows are ours.
    hospital.table = hospital.table.replacen("patinet\x1b", "site", 1);
    let check = Check::of(&hospital.source(), &criteria(), &hospital.load(), "fl");
    assert_eq!(check.table.unwrap().unused_columns, ["site"]);
}

#[test]
fn the_order_of_rows_does_not_show() {
    let mut hospital = healthy();
    let first = hospital.load().fingerprint;
    let mut rows: Vec<&str> = hospital.table.lines().collect();
    rows[1..].reverse();
    hospital.table = rows.join("\n");
    assert_eq!(hospital.load().fingerprint, first);
}

/// A case goes wrong in every way there is; the rest is as if it had never been there.
#[test]
fn unusable_files_are_named_counted_and_change_nothing_else() {
    let clean = healthy().load();
    let mut hospital = healthy();
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), picture(900, None)).unwrap();
    hospital.put("x/unlisted.dcm", &picture(901, None));
    hospital.put("x/readme.txt", b"not an image, not listed: nobody asks for it");
    for (name, bytes) in [
        ("x/empty.dcm", vec![]),
        ("x/cut.dcm", picture(902, None)[..400].to_vec()),
        ("x/text.dcm", b"hello".to_vec()),
        ("x/label.dcm", picture(903, None)),
        ("x/twice.dcm", picture(904, None)),
        ("x/copy.dcm", picture(5, None)),
        ("x/jpeg2000.dcm", file(grey(2, 2, &[0; 4]), "1.2.840.10008.1.2.4.90")),
    ] {
        hospital.put(name, &bytes);
        let label = if name == "x/label.dcm" { "Sick" } else { "normal" };
        hospital.row(&format!("{name},{label},q"));
    }
    symlink(outside.path(), hospital.path("x/out.dcm")).unwrap();
    symlink("gone", hospital.path("x/broken.dcm")).unwrap();
    for row in [
        "x/out.dcm,normal,q",
        "x/broken.dcm,normal,q",
        "x/missing.dcm,normal,q",
        "../escape.dcm,normal,q",
        "/etc/passwd,normal,q",
        "x/./twice.dcm,normal,q",
        "x,normal,q",
    ] {
        hospital.row(row);
    }
    let cohort = hospital.load();
    let outcomes: BTreeMap<&str, (&str, Stage, Option<&str>)> = cohort
        .quarantine
        .iter()
        .map(|case| (case.path.reveal(), (case.reason.code(), case.reached, case.column.as_deref())))
        .collect();
    let expected = [
        ("../escape.dcm", ("outside_folder", Stage::Found, Some("path"))),
        ("/etc/passwd", ("outside_folder", Stage::Found, Some("path"))),
        ("x", ("not_a_file", Stage::Found, None)),
        ("x/broken.dcm", ("broken_link", Stage::Found, None)),
        ("x/copy.dcm", ("conflicting_duplicate", Stage::Labelled, Some("label"))),
        ("1/5.dcm", ("conflicting_duplicate", Stage::Labelled, Some("label"))),
        ("x/cut.dcm", ("malformed", Stage::Retrieved, None)),
        ("x/empty.dcm", ("empty", Stage::Retrieved, None)),
        ("x/jpeg2000.dcm", ("unsupported_syntax", Stage::Retrieved, None)),
        ("x/label.dcm", ("unknown_label", Stage::Decoded, Some("label"))),
        ("x/missing.dcm", ("unmatched_label", Stage::Found, Some("path"))),
        ("x/out.dcm", ("outside_folder", Stage::Found, None)),
        ("x/text.dcm", ("malformed", Stage::Retrieved, None)),
        ("x/twice.dcm", ("duplicate_row", Stage::Found, Some("path"))),
        ("x/unlisted.dcm", ("unmatched_image", Stage::Found, Some("path"))),
    ];
    assert_eq!(outcomes, BTreeMap::from(expected));

    // The stages add up, and what is trained on is what is counted.
    let counts = cohort.counts;
    assert_eq!(counts.found, 39 + 15);
    assert_eq!(counts.retrieved, 39 + 7);
    assert_eq!(counts.decoded, 39 + 3);
    assert_eq!(counts.labelled, 39 + 2);
    assert_eq!(counts.usable, 39);
    assert_eq!((cohort.train.len() + cohort.held_out.len()) as u64, counts.usable);

    // The same cases as the clean hospital's, save the one that is in doubt now.
    let of = |cohort: &Cohort| -> Vec<(String, Side, Label)> {
        let used = cohort.used.iter().filter(|case| case.path.reveal() != "1/5.dcm");
        used.map(|case| (case.path.reveal().to_owned(), case.side, case.label)).collect()
    };
    assert_eq!(of(&cohort), of(&clean));

    // Every file has its line on the screen, and the report says where to look.
    let explanation = Explanation::of(&hospital.source(), &criteria(), &cohort, "fl");
    let files: BTreeSet<&str> = explanation.files.iter().map(|file| file.place.file.as_str()).collect();
    assert_eq!(files.len(), explanation.files.len(), "each file once");
    assert_eq!(explanation.files.len() as u64, counts.found);
    let check = Check::of(&hospital.source(), &criteria(), &cohort, "fl");
    let text = check.text();
    assert!(text.contains("x/label.dcm (table line 45, column label: \"Sick\")"), "{text}");
    assert!(text.contains("1.2.840.10008.1.2.4.90"), "{text}");
    let json = serde_json::to_value(&check).unwrap();
    assert_eq!(json["counts"]["usable"], 39);
    assert_eq!(json["classes"][0]["label"], "normal");
}

#[test]
fn a_copy_that_agrees_counts_once() {
    let mut hospital = healthy();
    hospital.put("x/copy.dcm", &picture(5, None));
    hospital.row("x/copy.dcm,normal,p2");
    let cohort = hospital.load();
    let codes: Vec<_> =
        cohort.quarantine.iter().map(|case| (case.path.reveal(), case.reason.code())).collect();
    assert_eq!(codes, [("x/copy.dcm", "duplicate_content")]);
    assert_eq!(cohort.fingerprint, healthy().load().fingerprint);
}

#[test]
fn a_written_split_is_obeyed_and_a_patient_on_both_sides_is_not_used() {
    let mut hospital = Hospital::new("path,label,patient,split");
    for (number, row) in [
        "normal,a,train",
        "sick,a,",
        "normal,b,val",
        "sick,c,train",
        "normal,c,val",
        "sick,d,test",
        "sick,e,late",
    ]
    .into_iter()
    .enumerate()
    {
        hospital.put(&format!("{number}.dcm"), &picture(number as u16, None));
        hospital.row(&format!("{number}.dcm,{row}"));
    }
    let cohort = hospital.load();
    let used: Vec<_> = cohort.used.iter().map(|case| (case.path.reveal(), case.side)).collect();
    assert_eq!(used, [("0.dcm", Side::Train), ("1.dcm", Side::Train), ("2.dcm", Side::HeldOut)]);
    let codes: Vec<_> =
        cohort.quarantine.iter().map(|case| (case.path.reveal(), case.reason.code())).collect();
    let expected = [
        ("3.dcm", "patient_on_both_sides"),
        ("4.dcm", "patient_on_both_sides"),
        ("5.dcm", "reserved_for_test"),
        ("6.dcm", "unknown_split"),
    ];
    assert_eq!(codes, expected);
    assert_eq!((cohort.counts.found, cohort.counts.left_out), (6, 1));
}

#[test]
fn the_header_names_the_patient_where_the_table_does_not() {
    let mut hospital = Hospital::new("path,label,patient");
    for (number, patient) in [(0, Some("h1")), (1, Some("h1")), (2, None), (3, Some("h2"))] {
        hospital.put(&format!("{number}.dcm"), &picture(number, patient));
        let named = if number == 3 { "t1" } else { "" };
        hospital.row(&format!("{number}.dcm,normal,{named}"));
    }
    let cohort = hospital.load();
    assert_eq!(cohort.counts.named_patients, 2, "h1 and t1");
    assert_eq!(cohort.counts.unnamed_cases, 1);
    assert_eq!(cohort.counts.patients_for_gates(), 3);
    assert_eq!(cohort.used[0].side, cohort.used[1].side);
}

#[test]
fn rows_of_other_sites_are_not_even_read() {
    let mut hospital = Hospital::new("path,label,site");
    hospital.put("a.dcm", &picture(1, None));
    hospital.row("a.dcm,normal,north");
    hospital.row("b.dcm,normal,south");
    let Source::Dicom { folder, table, .. } = hospital.source() else { unreachable!() };
    let source = Source::Dicom { folder, table, site: Some("north".into()) };
    let cohort = loaded(&source, None, &mut decoder()).unwrap();
    assert_eq!((cohort.counts.found, cohort.counts.usable, cohort.counts.left_out), (1, 1, 1));
    let plain = healthy();
    let Source::Dicom { folder, table, .. } = plain.source() else { unreachable!() };
    let source = Source::Dicom { folder, table, site: Some("north".into()) };
    assert_eq!(loaded(&source, None, &mut decoder()).unwrap_err(), LoadError::NoSiteColumn);
}

#[test]
fn the_second_load_decodes_nothing() {
    let hospital = healthy();
    let place = tempfile::tempdir().unwrap();
    let cache = Room::new(place.path().join("cache"), u64::MAX).open().unwrap();
    let source = hospital.source();
    let first = loaded(&source, Some(&cache), &mut decoder()).unwrap();
    // A decoder that can decode nothing.
    let mut broken = Decoder::new(Command::new("/bin/false"));
    let second = loaded(&source, Some(&cache), &mut broken).unwrap();
    assert_eq!(second.fingerprint, first.fingerprint);
    assert_eq!(second.counts, first.counts);
    assert_eq!(loaded(&source, None, &mut broken).unwrap().counts.usable, 0);
}

#[test]
fn sources_that_are_not_there_say_so() {
    let nowhere = PathBuf::from("/no/such/place");
    let mut decoder = decoder();
    let dicom = Source::Dicom { folder: nowhere.clone(), table: nowhere.clone(), site: None };
    let error = loaded(&dicom, None, &mut decoder).unwrap_err();
    assert!(matches!(error, LoadError::Folder(_)));
    let npz = Source::Npz { file: nowhere };
    assert!(matches!(loaded(&npz, None, &mut decoder).unwrap_err(), LoadError::ArchiveFile(_)));
    let mut hospital = Hospital::new("file,label");
    hospital.row("a,b");
    let error = loaded(&hospital.source(), None, &mut decoder).unwrap_err();
    assert_eq!(error, LoadError::Table(TableDefect::NoColumn { column: "path".into() }));
    let none = Hospital::new("path,label").load();
    assert_eq!((none.counts.found, none.counts.usable_share()), (0, 0.0));
}

fn archive(file: &Path, criteria: &Criteria) -> Result<Cohort, LoadError> {
    let source = Source::Npz { file: file.to_owned() };
    load(&source, criteria, &key(1), &mut decoder(), None, &mut |_| {})
}

#[test]
fn medmnist_archives_are_read_stored_and_deflated() {
    let Some(folder) = data_folder("pneumoniamnist") else { return };
    let criteria = Criteria { case: Case::Picture(target(1, 28, 28)), ..criteria() };
    for (name, train, val) in [
        ("pneumoniamnist.npz", [1214, 3494], [135, 389]),
        ("pneumoniamnist_site_imbalanced.npz", [388, 3494], [135, 389]),
        ("pneumoniamnist_balanced.npz", [1214, 1214], [135, 135]),
    ] {
        let cohort = archive(&folder.join(name), &criteria).unwrap();
        assert_eq!(cohort.train.counts(2), train, "{name}");
        assert_eq!(cohort.held_out.counts(2), val, "{name}");
        assert!(cohort.quarantine.is_empty());
        assert_eq!(cohort.train.shape(), [1, 28, 28]);
    }
    // Labels the study does not have are set aside, each with its place.
    let narrow = Criteria { labels: vec!["normal".into()], ..criteria };
    let cohort = archive(&folder.join("pneumoniamnist_balanced.npz"), &narrow).unwrap();
    assert_eq!((cohort.counts.found, cohort.counts.usable), (2428 + 270, 1214 + 135));
    assert!(
        cohort
            .quarantine
            .iter()
            .any(|case| case.path.reveal() == "train_images[0]" || case.path.reveal() == "train_images[1]")
    );
}

#[test]
fn a_colour_archive_is_read_channel_by_channel() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("colour.npz");
    let mut npz = npyz::npz::NpzWriter::create(&path).unwrap();
    write_array(&mut npz, "train_images", &[1, 2, 2, 3], &(0..12).map(|byte| byte * 20).collect::<Vec<u8>>());
    write_array(&mut npz, "train_labels", &[1], &[1]);
    drop(npz);
    let colour = Criteria { case: Case::Picture(target(3, 2, 2)), holdout: 0.0, ..criteria() };
    let cohort = archive(&path, &colour).unwrap();
    assert_eq!(cohort.train.len(), 1);
    let planes = [0, 60, 120, 180, 20, 80, 140, 200, 40, 100, 160, 220];
    let values = planes.map(|byte: u8| f32::from(byte) / 255.0).to_vec();
    let pixels = consilium_learning::Pixels::Floats(values);
    assert_eq!(cohort.train, consilium_learning::Dataset::new([3, 2, 2], pixels, vec![1_u16]).unwrap());
}

/// A study of volumes and one of pictures take neither's archive for its own.
#[test]
fn an_archive_of_volumes_is_read_slice_by_slice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volumes.npz");
    let values: Vec<u8> = (0..16).map(|byte| byte * 10).collect();
    let mut npz = npyz::npz::NpzWriter::create(&path).unwrap();
    write_array(&mut npz, "train_images", &[2, 2, 2, 2], &values);
    write_array(&mut npz, "train_labels", &[2, 1], &[1, 0]);
    drop(npz);
    let of = |depth: u32| {
        let target = Target::of([1, depth, 2, 2].into(), None).unwrap();
        Criteria { case: Case::Picture(target), holdout: 0.0, ..criteria() }
    };
    let cohort = archive(&path, &of(2)).unwrap();
    let pixels = values.iter().map(|&byte| f32::from(byte) / 255.0).collect();
    let pixels = consilium_learning::Pixels::Floats(pixels);
    assert_eq!(cohort.train, consilium_learning::Dataset::new([2, 2, 2], pixels, vec![1_u16, 0]).unwrap());
    assert_eq!(archive(&path, &of(3)).unwrap().train.shape(), [3, 2, 2]);
    let pictures = Criteria { case: Case::Picture(target(1, 2, 2)), ..of(2) };
    let other = LoadError::Archive(ArchiveDefect::OtherCases);
    assert_eq!(archive(&path, &pictures).unwrap_err(), other);
    let path = folder.path().join("pictures.npz");
    let mut npz = npyz::npz::NpzWriter::create(&path).unwrap();
    write_array(&mut npz, "train_images", &[2, 2, 4], &values);
    write_array(&mut npz, "train_labels", &[2, 1], &[1, 0]);
    drop(npz);
    assert_eq!(archive(&path, &of(2)).unwrap_err(), other);
    let hospital = Hospital::new("path,label");
    let error = load(&hospital.source(), &of(2), &key(1), &mut decoder(), None, &mut |_| {}).unwrap_err();
    assert_eq!(error, LoadError::PicturesForVolumes);
}

#[test]
fn an_archive_of_findings_has_a_number_for_each() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("findings.npz");
    let mut npz = npyz::npz::NpzWriter::create(&path).unwrap();
    write_array(&mut npz, "train_images", &[4, 2, 2], &(0..16).map(|byte| byte * 10).collect::<Vec<u8>>());
    write_array(&mut npz, "train_labels", &[4, 3], &[0, 0, 0, 1, 0, 1, 1, 2, 0, 0, 1, 0]);
    drop(npz);
    let labels = ["mass", "nodule", "effusion"].map(str::to_owned).to_vec();
    let findings = Criteria {
        labels,
        task: Task::MultiLabel,
        range: None,
        case: Case::Picture(target(1, 2, 2)),
        holdout: 0.0,
    };
    let cohort = archive(&path, &findings).unwrap();
    assert_eq!(cohort.train.labels(), [0b000, 0b101, 0b010].map(Label::Findings));
    let [unknown] = &cohort.quarantine[..] else { panic!("one label is no set of findings") };
    assert_eq!(unknown.path.reveal(), "train_images[2]");
    assert_eq!(unknown.written.as_ref().unwrap().reveal(), "1 2 0");
    let check = Check::of(&Source::Npz { file: path.clone() }, &findings, &cohort, "fl");
    let counts: Vec<_> = check.classes.iter().map(|class| (class.label.as_str(), class.train)).collect();
    assert_eq!(counts, [("mass", 1), ("nodule", 1), ("effusion", 1)]);
    // Neither kind of labels is taken for the other.
    let other = LoadError::Archive(ArchiveDefect::OtherTask);
    assert_eq!(archive(&path, &criteria()).unwrap_err(), other);
    let two = Criteria { labels: criteria().labels, ..findings };
    assert_eq!(archive(&path, &two).unwrap_err(), other);
}

pub(super) type Writer = npyz::npz::NpzWriter<std::io::BufWriter<fs::File>>;

pub(super) fn write_array(npz: &mut Writer, name: &str, shape: &[u64], bytes: &[u8]) {
    use npyz::WriterBuilder;
    let mut writer =
        npz.array(name, Default::default()).unwrap().default_dtype().shape(shape).begin_nd().unwrap();
    writer.extend(bytes.iter().copied()).unwrap();
    writer.finish().unwrap();
}

#[test]
fn archives_that_are_none_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    let refuse = |arrays: &[(&str, &[u64], &[u8])]| {
        let mut npz = npyz::npz::NpzWriter::create(&path).unwrap();
        for (name, shape, bytes) in arrays {
            write_array(&mut npz, name, shape, bytes);
        }
        drop(npz);
        archive(&path, &criteria()).unwrap_err()
    };
    let images: (&str, &[u64], &[u8]) = ("train_images", &[1, 2, 2], &[0; 4]);
    assert_eq!(refuse(&[images]), LoadError::Archive(ArchiveDefect::MissingArray));
    let two = ("train_labels", &[2][..], &[0; 2][..]);
    assert_eq!(refuse(&[images, two]), LoadError::Archive(ArchiveDefect::LabelShape));
    let flat = ("train_images", &[1, 4][..], &[0; 4][..]);
    let one = ("train_labels", &[1, 1][..], &[0; 1][..]);
    assert_eq!(refuse(&[flat, one]), LoadError::Archive(ArchiveDefect::ImageShape));
    assert_eq!(
        refuse(&[images, one, ("val_labels", &[1][..], &[0; 1][..])]),
        LoadError::Archive(ArchiveDefect::MissingArray)
    );
    fs::write(&path, b"PK nothing").unwrap();
    assert_eq!(archive(&path, &criteria()).unwrap_err(), LoadError::Archive(ArchiveDefect::NotAnArchive));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// A damaged archive is refused or read; neither hangs, and nothing panics on our side.
    #[test]
    fn damaged_archives_never_panic(cut in 0.0_f64..1.0, place in 0.0_f64..1.0, byte: u8) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let mut npz = npyz::npz::NpzWriter::create(&path).unwrap();
        write_array(&mut npz, "train_images", &[3, 2, 2], &[9; 12]);
        write_array(&mut npz, "train_labels", &[3, 1], &[0, 1, 0]);
        drop(npz);
        let mut bytes = fs::read(&path).unwrap();
        let index = ((bytes.len() - 1) as f64 * place) as usize;
        bytes[index] = byte;
        if cut < 0.3 {
            bytes.truncate((bytes.len() as f64 * cut * 3.0) as usize);
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(cohort) = archive(&path, &criteria()) {
            prop_assert!(cohort.counts.found <= 3);
        }
    }
}
