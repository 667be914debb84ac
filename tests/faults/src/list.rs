//! The list: every check, as the text that is taken out of its file and the test that must notice.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// The checks of one file of `list`, all noticed by tests of one package.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    /// Whose tests run.
    pub(crate) package: String,
    /// Tests that are left out because they take long: names that contain one of these.
    #[serde(default)]
    pub(crate) skip: Vec<String>,
    /// Integration tests that run beside the unit tests: names of files in `tests`.
    #[serde(default)]
    pub(crate) integration: Vec<String>,
    #[serde(rename = "fault")]
    pub(crate) faults: Vec<Fault>,
}

/// One check, and how it is taken away.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    /// Whose check it is and what it checks.
    pub(crate) name: String,
    /// From the root of the repository.
    pub(crate) file: String,
    /// The first line of the block that `find` stands in, where the file alone is not enough.
    pub(crate) within: Option<String>,
    /// Stands there once.
    pub(crate) find: String,
    pub(crate) replace: String,
    /// A test that fails without the check. Without it all tests of the package run.
    pub(crate) test: Option<String>,
    /// Why no test can fail: another check refuses the same.
    pub(crate) redundant: Option<String>,
}

impl Fault {
    /// The file without the check.
    pub(crate) fn plant(&self, text: &str) -> anyhow::Result<String> {
        let block = self.within.as_ref().map_or(Ok(0..text.len()), |head| {
            let start = only(text, head)?;
            let line = &text[text[..start].rfind('\n').map_or(0, |end| end + 1)..];
            let indent = &line[..line.len() - line.trim_start_matches(' ').len()];
            let end = text[start..].find(&format!("\n{indent}}}")).map_or(text.len(), |end| start + end);
            anyhow::Ok(start..end)
        });
        let block = block.with_context(|| format!("{}: {}", self.name, self.file))?;
        let at = only(&text[block.clone()], &self.find)
            .with_context(|| format!("{}: {}", self.name, self.file))?;
        let at = block.start + at;
        Ok([&text[..at], &self.replace, &text[at + self.find.len()..]].concat())
    }
}

/// Where `part` stands in `text`, if it stands there once.
fn only(text: &str, part: &str) -> anyhow::Result<usize> {
    let places: Vec<usize> = text.match_indices(part).map(|(at, _)| at).collect();
    ensure!(places.len() == 1, "`{part}` stands there {} times", places.len());
    Ok(places[0])
}

/// The repository that this program was built from.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All parts, by the names of their files.
pub(crate) fn read() -> anyhow::Result<Vec<Part>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("list");
    let mut files =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    let part = |file: &PathBuf| {
        let text = std::fs::read_to_string(file)?;
        toml::from_str(&text).with_context(|| file.display().to_string())
    };
    files.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_check_of_the_list_stands_in_its_file_once() {
        let mut wrong = Vec::new();
        for fault in read().unwrap().iter().flat_map(|part| &part.faults) {
            let text = std::fs::read_to_string(root().join(&fault.file)).expect(&fault.file);
            match fault.plant(&text) {
                Ok(planted) if planted == text => wrong.push(format!("{}: changes nothing", fault.name)),
                Ok(_) => {}
                Err(error) => wrong.push(format!("{error:#}")),
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn names_differ_and_every_check_has_its_test_or_its_reason() {
        let mut names = BTreeSet::new();
        for fault in read().unwrap().iter().flat_map(|part| &part.faults) {
            assert!(names.insert(fault.name.clone()), "{} stands twice in the list", fault.name);
            assert!(fault.test.is_some() != fault.redundant.is_some(), "{}", fault.name);
        }
        assert!(names.len() > 100);
    }

    /// The functions of all files below a folder, named as a test program names its tests. Below `tests` the first part of
    /// a path is the program.
    fn functions(folder: &Path, modules: &[String]) -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        let of = |path: PathBuf| {
            let mut modules = modules.to_vec();
            modules.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
            if path.is_dir() {
                return functions(&path, &modules);
            }
            let (mut inline, mut found) = (None, BTreeSet::new());
            for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
                if line == "}" {
                    inline = None;
                } else if let Some(name) = line.strip_prefix("mod ").and_then(|it| it.strip_suffix(" {")) {
                    inline = Some(name.to_owned());
                }
                let function = line.trim_start().trim_start_matches("async ").strip_prefix("fn ");
                if let Some((name, _)) = function.and_then(|rest| rest.split_once('(')) {
                    let parts = modules[1..].iter().chain(&inline).map(String::as_str);
                    let parts = parts.filter(|part| !["lib", "main", "mod"].contains(part)).chain([name]);
                    found.insert(parts.collect::<Vec<_>>().join("::"));
                }
            }
            found
        };
        entries.flat_map(of).collect()
    }

    #[test]
    fn the_tests_of_the_list_are_there() {
        for part in read().unwrap() {
            let (package, _) = part.faults[0].file.split_once("/src/").unwrap();
            let mut there = functions(&root().join(package).join("tests"), &[]);
            there.extend(functions(&root().join(package).join("src"), &["src".to_owned()]));
            for fault in &part.faults {
                let Some(test) = &fault.test else { continue };
                assert!(there.contains(test), "{}: {test}", fault.name);
            }
        }
    }

    #[test]
    fn a_fault_is_planted_in_its_block_only() {
        let text = "fn a() {\n    if x {\n        y();\n    }\n}\n\nfn b() {\n    y();\n}\n";
        let fault = |within: Option<&str>| Fault {
            name: "n".into(),
            file: "f".into(),
            within: within.map(Into::into),
            find: "y();".into(),
            replace: "z();".into(),
            test: None,
            redundant: None,
        };
        assert!(fault(None).plant(text).is_err(), "it stands there twice");
        assert!(fault(Some("fn c()")).plant(text).is_err());
        assert_eq!(fault(Some("fn b()")).plant(text).unwrap(), text.replace("\n    y();", "\n    z();"));
        assert_eq!(fault(Some("fn a()")).plant(text).unwrap(), text.replacen("y();", "z();", 1));
    }
}
