//! The published test vectors against the reference in Python, which was written from `docs/specification.md` alone.

use std::path::Path;

use consilium_tests::reference::{PROTOCOL, folder, python, run};

#[test]
fn an_independent_implementation_agrees_with_every_vector() {
    let Some(python) = python(&PROTOCOL, Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let mut files: Vec<String> = std::fs::read_dir(folder("vectors"))
        .expect("tests/vectors")
        .map(|entry| entry.expect("a file").path().display().to_string())
        .collect();
    files.sort();
    assert_eq!(files.len(), 8, "{files:?}");
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
