//! Tables whose rows are the cases.

use std::fs;

use consilium_learning::Pixels;
use consilium_site_agent::data::counts::Stage;
use consilium_site_agent::data::report::{Check, Explanation};
use consilium_site_agent::data::table::TableDefect;
use consilium_site_agent::data::{Case, Cohort, Criteria, LoadError, Source, load};
use consilium_study::data::Input;
use consilium_study::task::{Label, Task};

use super::{decoder, key, target};

fn inputs() -> Vec<Input> {
    vec![
        Input::Number { column: "age".into(), mean: 50.0, std: 10.0 },
        Input::Indicator { column: "pain".into(), is: "4".into() },
    ]
}

fn criteria(case: Case) -> Criteria {
    Criteria {
        labels: vec!["well".into(), "sick".into()],
        task: Task::Classification,
        range: None,
        case,
        holdout: 0.5,
    }
}

fn loaded(text: &str, site: Option<&str>) -> Result<Cohort, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("cases.csv");
    fs::write(&table, text).unwrap();
    let source = Source::Table { table, site: site.map(str::to_owned) };
    load(&source, &criteria(Case::Row(inputs())), &key(1), &mut decoder(), None, &mut |_| {})
}

#[test]
fn whole_rows_are_cases_and_the_others_are_accounted_for() {
    let cohort = loaded(
        "age,label,pain,ward,patient,split,site\n70,sick,4.0,a,p1,train,n\n45.5,well,3,a,p2,val,n\n,sick,4,a,p3,,n\n\
         60,sick,?,a,p4,,n\nold,sick,4,a,p5,,n\n60,dead,4,a,p6,,n\n60,sick,4,a,p7,test,n\n60,sick,4,a,p8,,s\n\
         30,well,1,a,p9,train,n\n31,well,1,a,p9,val,n\n",
        Some("n"),
    )
    .unwrap();
    assert_eq!(cohort.train.shape(), [2, 1, 1]);
    assert_eq!(
        (cohort.train.labels(), cohort.train.pixels()),
        (&[Label::Class(1)][..], &Pixels::Floats(vec![2.0, 1.0]))
    );
    assert_eq!(cohort.held_out.pixels(), &Pixels::Floats(vec![-0.45, 0.0]));
    let stopped: Vec<_> = cohort
        .quarantine
        .iter()
        .map(|case| (case.line.unwrap(), case.reason.code(), case.reached, case.column.as_deref().unwrap()))
        .collect();
    assert_eq!(
        stopped,
        [
            (4, "missing_value", Stage::Retrieved, "age"),
            (5, "missing_value", Stage::Retrieved, "pain"),
            (6, "not_a_number", Stage::Retrieved, "age"),
            (7, "unknown_label", Stage::Decoded, "label"),
            (8, "reserved_for_test", Stage::Found, "split"),
            (9, "other_site", Stage::Found, "site"),
            (10, "patient_on_both_sides", Stage::Labelled, "split"),
            (11, "patient_on_both_sides", Stage::Labelled, "split"),
        ]
    );
    assert_eq!((cohort.counts.found, cohort.counts.usable, cohort.counts.left_out), (8, 2, 2));

    let source = Source::Table { table: "cases.csv".into(), site: Some("n".into()) };
    let check = Check::of(&source, &criteria(Case::Row(inputs())), &cohort, "me").text();
    assert!(check.contains("not used: \"ward\". Used are the study's inputs, label"), "{check}");
    assert!(check.contains("row (table line 5, column pain: \"?\")"), "{check}");
    let explained = Explanation::of(&source, &criteria(Case::Row(inputs())), &cohort, "me");
    let lines: Vec<_> = explained.files.iter().map(|file| file.place.line.unwrap()).collect();
    assert_eq!(lines, (2..=11).collect::<Vec<_>>());
}

#[test]
fn patients_stay_together_and_equal_rows_are_two_cases() {
    let rows = (0..40).map(|row| format!("{},{},4,p{}\n", 20 + row, ["well", "sick"][row % 2], row / 4));
    let text = format!("age,label,pain,patient\n{}50,well,1,q\n50,well,1,q\n", rows.collect::<String>());
    let cohort = loaded(&text, None).unwrap();
    assert_eq!(cohort.counts.usable, 42);
    assert_eq!(cohort.counts.named_patients, 11);
    let mut sides = std::collections::BTreeMap::new();
    for case in cohort.used.iter().filter(|case| case.line < 42) {
        assert_eq!(*sides.entry((case.line - 2) / 4).or_insert(case.side), case.side);
    }
    assert!(cohort.counts.train > 0 && cohort.counts.held_out > 0);
}

#[test]
fn a_source_of_the_other_kind_says_what_to_write() {
    let no_column = loaded("age,label\n1,well\n", None).unwrap_err();
    assert_eq!(no_column, LoadError::Table(TableDefect::NoColumn { column: "pain".into() }));
    let source = Source::Table { table: "x".into(), site: None };
    let picture = criteria(Case::Picture(target(1, 4, 4)));
    let error = load(&source, &picture, &key(1), &mut decoder(), None, &mut |_| {}).unwrap_err();
    assert_eq!(error, LoadError::RowsForPictures);
    let source = Source::Npz { file: "x".into() };
    let row = criteria(Case::Row(inputs()));
    let error = load(&source, &row, &key(1), &mut decoder(), None, &mut |_| {}).unwrap_err();
    assert_eq!(error, LoadError::PicturesForRows);
    assert!(error.remedy("me").contains("kind = \"table\""));
}

#[test]
fn a_row_names_its_findings() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("cases.csv");
    fs::write(
        &table,
        "age,pain,label,split\n50,4,well|sick,train\n60,3,none,train\n70,3,sick,train\n40,3,sick|dead,train\n",
    )
    .unwrap();
    let findings = Criteria { task: Task::MultiLabel, ..criteria(Case::Row(inputs())) };
    let source = Source::Table { table, site: None };
    let cohort = load(&source, &findings, &key(1), &mut decoder(), None, &mut |_| {}).unwrap();
    assert_eq!(cohort.train.labels(), [0b11, 0b00, 0b10].map(Label::Findings));
    assert_eq!((cohort.quarantine.len(), cohort.quarantine[0].reason.code()), (1, "unknown_label"));
    let text = Explanation::of(&source, &findings, &cohort, "fl").text();
    assert!(text.contains("labelled well|sick") && text.contains("labelled none"), "{text}");
}
