//! Programs in Python that compute the same from the documents alone.

use std::fs::File;
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

/// A Python with the packages, made once below `temporary`. Where there can be none, says that a test is skipped and why.
pub fn python(packages: &Packages, temporary: &Path) -> Option<PathBuf> {
    let Packages { requirements, shows, .. } = packages;
    made(packages, &temporary.join(format!("{requirements}-venv")))
        .inspect_err(|why| {
            skipped(&format!(
                "python3 with the packages of {requirements} cannot be set up here, so {shows}: {why}"
            ));
        })
        .ok()
}

/// Says that a test is skipped, past the harness, which swallows what a passing test prints.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// One test makes it, those beside it wait: they are threads of one process, and processes beside one another.
fn made(packages: &Packages, venv: &Path) -> Result<PathBuf, String> {
    let making = File::create(venv.with_extension("lock")).map_err(|error| error.to_string())?;
    making.lock().map_err(|error| error.to_string())?;

    let python = venv.join("bin/python");
    let imported = || succeeds(&python, &["-c", packages.imports]);
    if imported().is_err() {
        succeeds(Path::new("python3"), &["-m", "venv", &venv.to_string_lossy()])?;
        succeeds(&python, &["-m", "pip", "install", "--quiet", "-r", packages.requirements])?;
        imported()?;
    }
    Ok(python)
}

/// Runs a program that has to end well; otherwise what it said.
fn succeeds(program: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = run(program, arguments).ok_or_else(|| format!("{} does not start", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} {} failed: {}", program.display(), arguments.join(" "), said.trim()))
}
