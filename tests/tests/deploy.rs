//! What whoever deploys meets first: sample configurations, and what the programs say when something is wrong.

use std::path::Path;
use std::process::{Command, Output};

use consilium_tests::{Running, free_port};
use serde_json::Value;

#[test]
fn every_sample_configuration_is_valid() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    consilium_coordinator::config::Config::load(&deploy.join("coordinator.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(deploy.join("site.toml"), folder.path().join("site.toml")).unwrap();
    let site = consilium_site_agent::folder::SiteFolder::new(folder.path());
    consilium_site_agent::config::Config::load(&site).unwrap();
}

#[test]
fn under_json_a_failure_is_one_object_and_a_cause_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("site.toml"), "nonsense = 1\n").unwrap();
    std::fs::write(folder.path().join("coordinator.toml"), "nonsense = 1\n").unwrap();
    let programs: [(&str, &[&str]); 3] = [
        (env!("CARGO_BIN_EXE_consilium-under-test"), &["study", "list"]),
        (env!("CARGO_BIN_EXE_coordinator-under-test"), &["check-config", "--config", "coordinator.toml"]),
        (env!("CARGO_BIN_EXE_site-agent-under-test"), &["status"]),
    ];
    for (program, arguments) in programs {
        let fail = |more: &[&str]| {
            let mut command = Command::new(program);
            let output = command.current_dir(folder.path()).args(arguments).args(more).output().unwrap();
            assert!(!output.status.success() && output.stdout.is_empty(), "{program}: {output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        let text = fail(&[]);
        assert!(text.starts_with("error: ") && text.matches("unknown field").count() <= 1, "{text}");
        let object: Value = serde_json::from_str(&fail(&["--json"])).unwrap();
        assert_eq!(format!("error: {}\n", object["error"].as_str().unwrap()), text);
    }
}

fn consilium(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consilium-under-test"));
    command.current_dir(folder).arg("--json").args(arguments).output().expect("the program starts")
}

fn coordinator(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator-under-test"));
    command.current_dir(folder).arg("--json").args(arguments).output().expect("the program starts")
}

fn said(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one object")
}

fn why_not(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let object: Value = serde_json::from_slice(&output.stderr).expect("one object");
    object["error"].as_str().expect("a text").to_owned()
}

/// Two machines, two folders: what travels is a request and an answer, and neither holds a key.
#[test]
fn a_coordinator_takes_office_and_its_keys_stay_where_they_were_made() {
    let (office, server) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (office, server) = (office.path(), server.path());
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let init = ["init", "c", "--address", &address];
    let made = said(&coordinator(server, &init));
    assert_eq!(made, said(&coordinator(server, &init)), "the keys of an earlier call are kept");
    let check = ["check-config", "--config", "c/coordinator.toml"];
    assert!(why_not(&coordinator(server, &check)).contains("no commission yet"));

    let carry = |from: &Path, to: &Path| std::fs::copy(from, to).unwrap();
    carry(&server.join("c/coordinator.request"), &office.join("request"));
    let found = ["init", "rhine", "--name", "rhine", "--request", "request"];
    assert!(why_not(&consilium(office, &found)).contains("compare"));
    let mismatch = [&found[..], &["--fingerprint", "0123-4567-89ab-cdef-0123"]].concat();
    assert!(why_not(&consilium(office, &mismatch)).contains("does not match"));
    assert!(!office.join("rhine").exists(), "nothing was made");
    let match_ = [&found[..], &["--fingerprint", made["fingerprint"].as_str().unwrap()]].concat();
    let consortium = said(&consilium(office, &match_));
    assert_eq!(consortium["address"].as_str(), Some(address.as_str()));

    // The answer to another coordinator is not taken up; the right one is, as often as it is brought.
    said(&coordinator(server, &["init", "other", "--address", &address]));
    carry(&office.join("rhine/coordinator.commission"), &server.join("answer"));
    let elsewhere = coordinator(server, &["install", "answer", "--config", "other/coordinator.toml"]);
    assert!(why_not(&elsewhere).contains("other keys"));
    for _ in 0..2 {
        let installed = said(&coordinator(server, &["install", "answer", "--config", "c/coordinator.toml"]));
        assert_eq!(installed["fingerprint"], consortium["fingerprint"]);
    }
    assert_eq!(said(&coordinator(server, &check))["consortium"], "rhine");

    let mut serve = Command::new(env!("CARGO_BIN_EXE_coordinator-under-test"));
    serve.current_dir(server).args(["serve", "--config", "c/coordinator.toml"]);
    let mut running = Running::start(serve, &server.join("log")).unwrap();
    running.ready().unwrap();
    let asked = consilium(office, &["site", "list", "--dir", "rhine"]);
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let keys = ["tls.key", "signing.key", "issuing.key"];
    for key in keys.map(|name| std::fs::read(server.join("c/identity").join(name)).unwrap()) {
        for file in files(office) {
            let bytes = std::fs::read(&file).unwrap();
            assert!(!bytes.windows(key.len()).any(|window| window == key), "{}", file.display());
        }
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("a file").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
