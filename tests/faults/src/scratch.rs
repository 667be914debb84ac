//! A copy of the working tree to plant faults in, with a build folder of its own. The tree itself is only read: a
//! run that is cut short leaves nothing behind in it, and the next one starts from a clean copy.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::list::Part;

/// A fault may make a test wait for ever.
const PATIENCE: Duration = Duration::from_mins(3);

pub(crate) struct Scratch {
    folder: PathBuf,
    tree: PathBuf,
}

/// A package's tests, built.
pub(crate) struct Tests {
    programs: Vec<PathBuf>,
    folder: PathBuf,
}

impl Scratch {
    /// Brings the copy up to date. What did not change is not written, so that it is not built again either.
    pub(crate) fn copy_of(root: &Path) -> anyhow::Result<Self> {
        let folder = root.join("target/faults");
        let tree = folder.join("tree");
        fs::create_dir_all(&tree)?;
        let (wanted, found) = (files(root)?, files(&tree)?);
        for old in found.difference(&wanted) {
            fs::remove_file(tree.join(old))?;
        }
        let scratch = Self { folder: folder.canonicalize()?, tree: tree.canonicalize()? };
        for file in &wanted {
            scratch.write(file, &fs::read(root.join(file))?)?;
        }
        Ok(scratch)
    }

    pub(crate) fn read(&self, file: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.tree.join(file)).with_context(|| file.to_owned())
    }

    /// Makes a file of the copy say this.
    pub(crate) fn write(&self, file: impl AsRef<Path>, text: &[u8]) -> anyhow::Result<()> {
        let path = self.tree.join(file);
        if fs::read(&path).ok().as_deref() != Some(text) {
            fs::create_dir_all(path.parent().expect("a file lies in a folder"))?;
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Builds a package's tests: what they link as in every build of this repository, the package itself without
    /// optimisation and by parts. Half a minute becomes two seconds, and its tests take as long as before.
    pub(crate) fn build(&self, part: &Part) -> anyhow::Result<Tests> {
        let package = &part.package;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut settings = vec!["incremental=true".to_owned(), "debug=false".to_owned()];
        for setting in ["opt-level=0", "codegen-units=256"] {
            settings.push(format!("package.{package}.{setting}"));
        }
        let built = Command::new(cargo)
            .args(["test", "--release", "--no-run", "--lib", "--package", package])
            .args(part.integration.iter().flat_map(|name| ["--test", name]))
            .args(settings.iter().flat_map(|it| ["--config".to_owned(), format!("profile.release.{it}")]))
            .args(["--locked", "--quiet", "--message-format", "json", "--target-dir"])
            .arg(self.folder.join("build"))
            .current_dir(&self.tree)
            .output()?;
        let lines = String::from_utf8_lossy(&built.stdout);
        let said: Vec<serde_json::Value> =
            lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if !built.status.success() {
            let errors = said.iter().filter(|it| it["message"]["level"] == "error");
            let errors: String = errors.filter_map(|it| it["message"]["rendered"].as_str()).collect();
            bail!("{errors}{}", String::from_utf8_lossy(&built.stderr));
        }
        let is_program =
            |it: &&serde_json::Value| it["executable"].is_string() && it["profile"]["test"] == true;
        let programs: Vec<_> = said.iter().filter(is_program).collect();
        let path = |value: &serde_json::Value| PathBuf::from(value.as_str().unwrap_or_default());
        let manifest = path(&programs.first().context("cargo named no test program")?["manifest_path"]);
        let folder = manifest.parent().context("cargo named no manifest")?.to_owned();
        Ok(Tests { programs: programs.iter().map(|it| path(&it["executable"])).collect(), folder })
    }

    /// Runs one test, or all but some, and names those that failed.
    pub(crate) fn run(
        &self,
        tests: &Tests,
        only: Option<&str>,
        skip: &[String],
    ) -> anyhow::Result<Vec<String>> {
        let (mut failed, mut any) = (Vec::new(), false);
        for program in &tests.programs {
            let mut command = Command::new(program);
            match only {
                Some(test) => command.args(["--exact", test]),
                None => command.args(skip.iter().flat_map(|part| ["--skip", part])),
            };
            let ran = self.watch(command.current_dir(&tests.folder))?;
            failed.extend(ran.failed);
            any |= ran.any;
        }
        ensure!(any, "there is no such test");
        failed.sort();
        Ok(failed)
    }

    /// Waits for a test program, but not for ever.
    fn watch(&self, command: &mut Command) -> anyhow::Result<Ran> {
        let log = self.folder.join("tests.log");
        let mut child =
            command.env("RUST_BACKTRACE", "0").stdout(File::create(&log)?).stderr(Stdio::null()).spawn()?;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if began.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                break None;
            }
            sleep(Duration::from_millis(10));
        };
        let log = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let failed = log.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
        let mut failed: Vec<String> = failed.map(str::to_owned).collect();
        match status {
            None => failed.push(format!("(no end after {} s)", PATIENCE.as_secs())),
            Some(status) if !status.success() && failed.is_empty() => failed.push(format!("({status})")),
            Some(_) => {}
        }
        let any = !failed.is_empty() || !log.contains("running 0 tests");
        Ok(Ran { failed, any })
    }
}

/// What a test program did.
struct Ran {
    failed: Vec<String>,
    /// Whether a test of it ran.
    any: bool,
}

/// The files below a folder that belong to the repository, by their paths.
fn files(root: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                if name != "target" && name != ".git" && name != "__pycache__" {
                    folders.push(entry.path());
                }
            } else if name != ".git" {
                found.insert(entry.path().strip_prefix(root)?.to_owned());
            }
        }
    }
    Ok(found)
}
