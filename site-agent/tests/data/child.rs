//! The child's limits, and what the parent makes of children that misbehave.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use consilium_site_agent::data::Decoder;
use consilium_site_agent::data::protocol::Format;
use consilium_site_agent::data::reason::{Defect, Reason};
use dicom_dictionary_std::uids;

use super::{decoder, file, grey, target};

fn picture() -> Vec<u8> {
    file(grey(2, 2, &[0, 1, 2, 3]), uids::EXPLICIT_VR_LITTLE_ENDIAN)
}

#[test]
fn a_child_has_no_environment_no_files_and_a_memory_limit() {
    let mut decoder = decoder();
    decoder.decode(Format::Dicom, target(1, 2, 2), picture()).unwrap();
    let child = decoder.child_id().unwrap();
    assert_eq!(fs::read(format!("/proc/{child}/environ")).unwrap(), b"");
    let limits = fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
    for (name, most) in [
        ("Max address space", 512 << 20),
        ("Max core file size", 0),
        ("Max file size", 0),
        ("Max processes", 0),
    ] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers, [most, most], "{line}");
    }
    for descriptor in fs::read_dir(format!("/proc/{child}/fd")).unwrap() {
        let link = fs::read_link(descriptor.unwrap().path()).unwrap();
        let link = link.to_string_lossy();
        assert!(link.starts_with("pipe:") || link == "/dev/null", "{link}");
    }
    drop(decoder);
    assert!(!fs::exists(format!("/proc/{child}")).unwrap(), "the child ends with its decoder");
}

#[test]
fn a_child_that_hangs_is_killed_and_replaced() {
    let mut command = Command::new("/bin/sleep");
    command.arg("60");
    let mut decoder = Decoder::new(command).with_time_limit(Duration::from_millis(50));
    let start = Instant::now();
    // Longer than any pipe's buffer, so writing hangs as well.
    let outcome = decoder.decode(Format::Dicom, target(1, 2, 2), vec![0; 4 << 20]);
    assert_eq!(outcome.unwrap_err(), Reason::TooSlow);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(decoder.child_id(), None);
}

#[test]
fn a_child_that_spins_is_killed_after_its_processor_time() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "while :; do :; done"]);
    let mut decoder = Decoder::new(command).with_time_limit(Duration::from_millis(100));
    let start = Instant::now();
    let outcome = decoder.decode(Format::Dicom, target(1, 2, 2), picture());
    assert_eq!(outcome.unwrap_err(), Reason::TooSlow);
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn children_that_die_or_talk_nonsense_have_failed() {
    // `cat` sends the request back; `yes` sends something else altogether.
    for program in ["/bin/false", "/bin/cat", "/usr/bin/yes", "/no/such/program"] {
        let mut decoder = Decoder::new(Command::new(program));
        for _ in 0..2 {
            let outcome = decoder.decode(Format::Dicom, target(1, 2, 2), picture());
            assert_eq!(outcome.unwrap_err(), Reason::DecoderFailed, "{program}");
        }
    }
}

#[test]
fn a_child_that_runs_out_of_memory_has_met_something_too_large() {
    // What Rust does when an allocation fails.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "kill -ABRT $$"]);
    let outcome = Decoder::new(command).decode(Format::Dicom, target(1, 2, 2), picture());
    assert_eq!(outcome.unwrap_err(), Reason::TooLarge);
}

#[test]
fn sizes_are_refused_before_they_are_allocated() {
    let mut decoder = decoder();
    // 65,535 x 65,535 pixels of 16 bits, declared over eight bytes of pixel data.
    let huge = file(grey(u16::MAX, u16::MAX, &[0; 4]), uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let outcome = decoder.decode(Format::Dicom, target(1, 8, 8), huge);
    assert_eq!(outcome.unwrap_err(), Reason::TooLarge);
    let short = file(grey(100, 100, &[0; 4]), uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let outcome = decoder.decode(Format::Dicom, target(1, 8, 8), short);
    assert_eq!(outcome.unwrap_err(), Reason::Malformed(Defect::PixelLength));
    let outcome = decoder.decode(Format::Dicom, target(1, 8, 8), vec![0; (64 << 20) + 1]);
    assert_eq!(outcome.unwrap_err(), Reason::TooLarge);
}
