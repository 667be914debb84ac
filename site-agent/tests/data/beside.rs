//! Pictures with numbers beside them, from the table that names their files.

use std::fs;

use consilium_learning::Pixels;
use consilium_site_agent::data::counts::Stage;
use consilium_site_agent::data::report::Check;
use consilium_site_agent::data::table::TableDefect;
use consilium_site_agent::data::{Case, Cohort, Criteria, LoadError, Room, Source, load};
use consilium_study::data::Input;
use consilium_study::task::{Label, Task};
use dicom_dictionary_std::uids;

use super::{decoder, file, grey, key, target};

fn criteria() -> Criteria {
    let inputs = vec![
        Input::Number { column: "age".into(), mean: 50.0, std: 10.0 },
        Input::Indicator { column: "pain".into(), is: "4".into() },
    ];
    Criteria {
        labels: vec!["well".into(), "sick".into()],
        task: Task::Classification,
        range: None,
        case: Case::PictureAndRow(target(1, 2, 2), inputs),
        holdout: 0.5,
    }
}

/// A folder with pictures `a` to `h`, of which the last two are alike, and this table.
fn folder(table: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, name) in ('a'..='h').enumerate() {
        let values = [0, 10, 20, 30 + (number as u16).min(6)];
        let path = folder.path().join(name.to_string());
        fs::write(path, file(grey(2, 2, &values), uids::EXPLICIT_VR_LITTLE_ENDIAN)).unwrap();
    }
    fs::write(folder.path().join("labels.csv"), table).unwrap();
    folder
}

fn source(folder: &tempfile::TempDir) -> Source {
    let (folder, table) = (folder.path().to_owned(), folder.path().join("labels.csv"));
    Source::Dicom { folder, table, site: None }
}

fn loaded(table: &str) -> Result<Cohort, LoadError> {
    load(&source(&folder(table)), &criteria(), &key(1), &mut decoder(), None, &mut |_| {})
}

const TABLE: &str = "path,age,label,pain,ward,split\n\
    a,70,sick,4.0,n,train\nb,45.5,well,3,n,train\nc,,sick,4,n,train\nd,60,sick,?,n,train\ne,old,sick,4,n,train\nf,60,dead,4,n,train\n";

#[test]
fn each_picture_has_the_numbers_of_its_row_and_none_is_guessed() {
    let cohort = loaded(TABLE).unwrap();
    assert_eq!(cohort.train.labels(), [Label::Class(1), Label::Class(0)]);
    assert_eq!((cohort.train.shape(), cohort.train.columns()), ([1, 2, 2], 2));
    assert_eq!((cohort.train.numbers(0), cohort.train.numbers(1)), (&[2.0, 1.0][..], &[-0.45, 0.0][..]));
    assert_eq!((cohort.held_out.len(), cohort.held_out.columns()), (0, 2));
    let Pixels::Floats(pixels) = cohort.train.pixels() else { panic!("decoded pictures are floats") };
    assert_eq!(pixels.len(), 8);
    let stopped: Vec<_> = cohort
        .quarantine
        .iter()
        .filter(|case| case.line.is_some())
        .map(|case| (case.path.reveal(), case.reason.code(), case.reached, case.column.as_deref().unwrap()))
        .collect();
    assert_eq!(
        stopped,
        [
            ("c", "missing_value", Stage::Decoded, "age"),
            ("d", "missing_value", Stage::Decoded, "pain"),
            ("e", "not_a_number", Stage::Decoded, "age"),
            ("f", "unknown_label", Stage::Decoded, "label"),
        ]
    );
    let check = Check::of(&source(&folder(TABLE)), &criteria(), &cohort, "me").text();
    assert!(check.contains("not used: \"ward\". Used are path, the study's inputs, label"), "{check}");
    assert!(check.contains("d (table line 5, column pain: \"?\")"), "{check}");
}

/// Pixels come out of the cache whatever stands beside them; a cohort is another one when a number is.
#[test]
fn the_fingerprint_knows_the_numbers_and_the_cache_does_not() {
    let folder = folder(TABLE);
    let place = tempfile::tempdir().unwrap();
    let room = Room::new(place.path(), u64::MAX);
    let cache = room.open().unwrap();
    let (criteria, mut decoder) = (criteria(), decoder());
    let mut fingerprint = |table: &str| {
        fs::write(folder.path().join("labels.csv"), table).unwrap();
        let cohort = load(&source(&folder), &criteria, &key(1), &mut decoder, Some(&cache), &mut |_| {});
        (cohort.unwrap().fingerprint, room.used().unwrap())
    };
    let first = fingerprint(TABLE);
    assert_eq!(first, fingerprint(TABLE));
    let other = fingerprint(&TABLE.replace("45.5", "45.6"));
    assert!(other.0 != first.0 && other.1 == first.1 && first.1 > 0);
}

#[test]
fn one_picture_with_two_rows_of_numbers_contradicts_itself() {
    for (rows, code) in [("60,well,4", "duplicate_content"), ("61,well,4", "conflicting_duplicate")] {
        let (age, rest) = rows.split_once(',').unwrap();
        let cohort = loaded(&format!("path,age,label,pain\ng,60,well,4\nh,{age},{rest}\n")).unwrap();
        let codes: Vec<_> = cohort
            .quarantine
            .iter()
            .filter(|case| case.line.is_some())
            .map(|case| case.reason.code())
            .collect();
        assert!(!codes.is_empty() && codes.iter().all(|got| *got == code), "{codes:?}");
    }
}

#[test]
fn a_source_without_the_columns_says_so() {
    let error = loaded("path,age,label\na,1,well\n").unwrap_err();
    assert_eq!(error, LoadError::Table(TableDefect::NoColumn { column: "pain".into() }));
    let archive = Source::Npz { file: "x".into() };
    let error = load(&archive, &criteria(), &key(1), &mut decoder(), None, &mut |_| {}).unwrap_err();
    assert_eq!(error, LoadError::NoColumnsInArchive);
    assert!(error.remedy("me").contains("a column for each of the study's inputs"), "{}", error.remedy("me"));
    let rows = Source::Table { table: "x".into(), site: None };
    let error = load(&rows, &criteria(), &key(1), &mut decoder(), None, &mut |_| {}).unwrap_err();
    assert_eq!(error, LoadError::RowsForPictures);
}
