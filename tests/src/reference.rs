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

/// Pinned packages that programs in Python need.
pub struct Packages {
    /// Their file in the folder of the references.
    pub requirements: &'static str,
    /// What imports all of them.
    pub imports: &'static str,
    /// What cannot be shown without them.
    pub shows: &'static str,
}

/// What the second implementation of the protocol needs.
pub const PROTOCOL: Packages = Packages {
    requirements: "requirements.txt",
    imports: "import numpy, blake3; from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV",
    shows: "nothing is computed a second time",
};

/// What computes exported models.
pub const ONNX: Packages = Packages {
    requirements: "onnx-requirements.txt",
    imports: "import numpy, onnx, onnxruntime",
    shows: "no exported model is computed by another program",
};

/// A Python with the packages, made once below `temporary`. Where there can be none, says that a test is skipped.
pub fn python(packages: &Packages, temporary: &Path) -> Option<PathBuf> {
    let python = made(packages, &temporary.join(format!("{}-venv", packages.requirements)));
    if python.is_none() {
        skipped(&format!(
            "python3 with the packages of {} cannot be set up here, so {}",
            packages.requirements, packages.shows
        ));
    }
    python
}

/// Says that a test is skipped, past the harness, which swallows what a passing test prints.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

fn made(packages: &Packages, venv: &Path) -> Option<PathBuf> {
    let python = venv.join("bin/python");
    let is_ready = || run(&python, &["-c", packages.imports]).is_some_and(|output| output.status.success());
    if !is_ready() {
        run(Path::new("python3"), &["-m", "venv", venv.to_str()?])?;
        run(&python, &["-m", "pip", "install", "--quiet", "-r", packages.requirements])?;
    }
    is_ready().then_some(python)
}
