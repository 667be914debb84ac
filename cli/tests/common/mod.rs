//! What tests of the command line share.

#![allow(dead_code, reason = "each of them uses a part of it")]

use std::path::Path;
use std::process::Command;

use npyz::WriterBuilder as _;
use npyz::npz::NpzWriter;
use serde_json::Value;

/// Runs the program in a folder, and returns its lines of JSON.
pub(crate) fn consilium(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_consilium"))
        .arg("--json")
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the program tells people.
pub(crate) fn said(folder: &Path, arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_consilium")).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the program says when it fails.
pub(crate) fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_consilium")).args(arguments).current_dir(folder).output().unwrap();
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// A MedMNIST archive of made-up pictures: 150 to train on, 60 to hold out, 60 to test; those of the second class are bright on their right.
pub(crate) fn write_archive(path: &Path, side: u64) {
    write_archive_tested(path, side, |label| label);
}

/// The same with other labels on the cases for testing.
pub(crate) fn write_archive_tested(path: &Path, side: u64, tested: fn(u8) -> u8) {
    let mut writer = NpzWriter::create(path).unwrap();
    for (part, cases) in [("train", 150u64), ("val", 60), ("test", 60)] {
        let pixels = side * side;
        let pixel = |case: u64, at: u64| {
            let noise = (case.wrapping_mul(pixels) + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57;
            noise as u8 + if case % 2 == 1 && at % side >= side / 2 { 90 } else { 30 }
        };
        let images: Vec<u8> =
            (0..cases).flat_map(|case| (0..pixels).map(move |at| pixel(case, at))).collect();
        let label = |case: u64| (case % 2) as u8;
        let label = |case| if part == "test" { tested(label(case)) } else { label(case) };
        let labels: Vec<u8> = (0..cases).map(label).collect();
        for (kind, values, shape) in
            [("images", images, vec![cases, side, side]), ("labels", labels, vec![cases, 1])]
        {
            let mut array = writer
                .array(&format!("{part}_{kind}"), Default::default())
                .unwrap()
                .default_dtype()
                .shape(&shape)
                .begin_nd()
                .unwrap();
            array.extend(values).unwrap();
            array.finish().unwrap();
        }
    }
}
