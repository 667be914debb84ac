//! Programs in Python that compute the same from the documents alone.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of this package.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs a program in the folder of the references; none if it cannot start.
pub fn run(program: &Path, arguments: &[&str]) -> Option<Output> {
    Command::new(program).args(arguments).current_dir(folder("reference")).output().ok()
}

/// A Python with the pinned packages, made once below `temporary`. Where there can be none, says that a test is skipped.
pub fn python(temporary: &Path) -> Option<PathBuf> {
    let python = made(&temporary.join("reference-venv"));
    if python.is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: python3 with blake3, cryptography and numpy cannot be set up here, so nothing is computed a second time"
        );
    }
    python
}

fn made(venv: &Path) -> Option<PathBuf> {
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
