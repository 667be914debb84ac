//! The published test vectors against the reference in Python, which was written from `docs/specification.md` alone.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn run(program: &Path, arguments: &[&str]) -> Option<Output> {
    Command::new(program).args(arguments).current_dir(folder("reference")).output().ok()
}

/// A Python with the pinned packages, made once below the target folder.
fn python() -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reference-venv");
    let python = venv.join("bin/python");
    let is_ready = || {
        let imports =
            "import numpy, blake3; from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV";
        run(&python, &["-c", imports]).is_some_and(|output| output.status.success())
    };
    if !is_ready() {
        run(Path::new("python3"), &["-m", "venv", venv.to_str()?])?;
        run(&python, &["-m", "pip", "install", "--quiet", "-r", "requirements.txt"])?;
    }
    is_ready().then_some(python)
}

#[test]
fn an_independent_implementation_agrees_with_every_vector() {
    let Some(python) = python() else {
        let mut error = std::io::stderr();
        let _ = writeln!(
            error,
            "SKIPPED: python3 with blake3, cryptography and numpy cannot be set up here, so the vectors are not checked by the reference"
        );
        return;
    };
    let mut files: Vec<String> = std::fs::read_dir(folder("vectors"))
        .expect("tests/vectors")
        .map(|entry| entry.expect("a file").path().display().to_string())
        .collect();
    files.sort();
    assert_eq!(files.len(), 7, "{files:?}");
    let mut check = vec!["-B", "check.py"];
    check.extend(files.iter().map(String::as_str));
    for arguments in [&check[..], &["-B", "check.py", "--examples"]] {
        let output = run(&python, arguments).expect("python runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    // It can fail: one nibble of a sum.
    let text = std::fs::read_to_string(folder("vectors/round-train.json")).expect("a file");
    let at = text.find("\"sum\": \"").expect("a sum") + 9;
    let other = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
    let mut changed = text;
    changed.replace_range(at..=at, other);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("changed-vectors.json");
    std::fs::write(&file, changed).expect("written");
    let output = run(&python, &["-B", "check.py", file.to_str().expect("text")]).expect("python runs");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
}
