//! What whoever deploys meets first: sample configurations, and what the programs say when something is wrong.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output};

use consilium_tests::{Running, free_port};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
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
fn the_coordinators_unit_sets_what_its_uploads_are_measured_with() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let unit = std::fs::read_to_string(deploy.join("systemd/consilium-coordinator.service")).unwrap();
    let tunables = consilium_memory::Freed::GoesBack.tunables();
    assert!(unit.contains(&format!("\nEnvironment=GLIBC_TUNABLES={tunables}\n")), "{unit}");
}

/// Each program with a command that cannot succeed where there is nothing.
const FAILING: [(&str, &[&str]); 3] = [
    (env!("CARGO_BIN_EXE_consilium-under-test"), &["study", "list"]),
    (env!("CARGO_BIN_EXE_coordinator-under-test"), &["check-config", "--config", "coordinator.toml"]),
    (env!("CARGO_BIN_EXE_site-agent-under-test"), &["status"]),
];

/// A pipe whose reader has gone.
fn unread() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn whoever_stops_reading_gets_no_complaint_and_no_success() {
    let folder = tempfile::tempdir().unwrap();
    for (program, arguments) in FAILING {
        let mut command = Command::new(program);
        let status = command.current_dir(folder.path()).args(arguments).stderr(unread()).status().unwrap();
        assert_eq!(status.code(), Some(141), "{program}");
    }
    let mut init = Command::new(env!("CARGO_BIN_EXE_consilium-under-test"));
    init.current_dir(folder.path()).args(["init", "rhine", "--name", "rhine", "--address", "127.0.0.1:7443"]);
    init.stdout(unread());
    let output = init.stderr(std::process::Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), b"".as_slice()));
    assert!(folder.path().join("rhine/coordinator/coordinator.toml").is_file(), "the work itself was done");
}

#[test]
fn under_json_a_failure_is_one_object_and_a_cause_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("site.toml"), "nonsense = 1\n").unwrap();
    std::fs::write(folder.path().join("coordinator.toml"), "nonsense = 1\n").unwrap();
    for (program, arguments) in FAILING {
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

/// The operator's machine and the coordinator's: what travels between them is a request and an answer.
struct Machines {
    office: tempfile::TempDir,
    server: tempfile::TempDir,
    address: String,
}

impl Machines {
    fn new() -> Self {
        let folder = || tempfile::tempdir().expect("a folder");
        let address = format!("127.0.0.1:{}", free_port().expect("a port"));
        Self { office: folder(), server: folder(), address }
    }

    fn consilium(&self, arguments: &[&str]) -> Output {
        consilium(self.office.path(), arguments)
    }

    fn coordinator(&self, arguments: &[&str]) -> Output {
        coordinator(self.server.path(), arguments)
    }

    fn init(&self, folder: &str) -> Output {
        self.coordinator(&["init", folder, "--address", &self.address])
    }

    /// Makes a consortium for the coordinator in `folder` and brings the answer back as `answer-NAME`.
    fn found(&self, name: &str, folder: &str) -> Value {
        let made = said(&self.init(folder));
        carry(
            &self.server.path().join(folder).join("coordinator.request"),
            &self.office.path().join("request"),
        );
        let fingerprint = made["fingerprint"].as_str().expect("a text");
        let request = ["init", name, "--name", name, "--request", "request", "--fingerprint", fingerprint];
        let consortium = said(&self.consilium(&request));
        let answer = self.office.path().join(name).join("consortium/coordinator.commission");
        carry(&answer, &self.server.path().join(format!("answer-{name}")));
        consortium
    }

    fn install(&self, name: &str, folder: &str, fingerprint: &Value) -> Output {
        let (answer, config) = (format!("answer-{name}"), format!("{folder}/coordinator.toml"));
        let fingerprint = fingerprint.as_str().expect("a text");
        self.coordinator(&["install", &answer, "--config", &config, "--fingerprint", fingerprint])
    }
}

fn carry(from: &Path, to: &Path) {
    std::fs::copy(from, to).expect("a copy");
}

#[test]
fn a_coordinator_takes_office_and_its_keys_stay_where_they_were_made() {
    let machines = Machines::new();
    let (office, server) = (machines.office.path(), machines.server.path());
    let made = said(&machines.init("c"));
    let check = ["check-config", "--config", "c/coordinator.toml"];
    assert!(why_not(&machines.coordinator(&check)).contains("no commission yet"));

    carry(&server.join("c/coordinator.request"), &office.join("request"));
    let found = ["init", "rhine", "--name", "rhine", "--request", "request"];
    let unasked = why_not(&machines.consilium(&found));
    assert!(unasked.contains("--fingerprint TEXT"), "{unasked}");
    let mismatch = [&found[..], &["--fingerprint", "0123-4567-89ab-cdef-0123"]].concat();
    assert!(why_not(&machines.consilium(&mismatch)).contains("does not match"));
    assert!(!office.join("rhine").exists(), "nothing was made");
    let consortium = machines.found("rhine", "c");
    assert_eq!(consortium["address"].as_str(), Some(machines.address.as_str()));
    assert_eq!(consortium, machines.found("rhine", "c"), "an answer that was lost is found again");

    // Only the consortium that a person has compared, and only for these keys, as often as it is brought.
    let config = ["--config", "c/coordinator.toml"];
    let unasked = why_not(&machines.coordinator(&[&["install", "answer-rhine"], &config[..]].concat()));
    assert!(unasked.contains("--fingerprint TEXT"), "{unasked}");
    assert!(why_not(&machines.install("rhine", "c", &made["fingerprint"])).contains("does not match"));
    said(&machines.init("other"));
    let other = why_not(&machines.install("rhine", "other", &consortium["fingerprint"]));
    assert!(other.contains("other keys"), "{other}");
    for _ in 0..2 {
        let installed = said(&machines.install("rhine", "c", &consortium["fingerprint"]));
        assert_eq!(installed["fingerprint"], consortium["fingerprint"]);
    }
    assert_eq!(said(&machines.coordinator(&check))["consortium"], "rhine");

    let mut serve = Command::new(env!("CARGO_BIN_EXE_coordinator-under-test"));
    serve.current_dir(server).args(["serve", "--config", "c/coordinator.toml"]);
    let mut running = Running::start(serve, &server.join("log")).unwrap();
    running.ready().unwrap();
    let asked = machines.consilium(&["site", "list", "--dir", "rhine"]);
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    for name in ["tls.key", "signing.key", "issuing.key"] {
        let file = server.join("c/identity").join(name);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        // The secret itself: the seed, or the number in the middle of a PKCS#8 file on P-256.
        let bytes = std::fs::read(&file).unwrap();
        let secret = PrivatePkcs8KeyDer::from_pem_slice(&bytes)
            .map_or_else(|_| bytes.clone(), |key| key.secret_pkcs8_der()[36..68].to_vec());
        assert_eq!(secret.len(), 32);
        for file in files(office) {
            let bytes = std::fs::read(&file).unwrap();
            assert!(!bytes.windows(32).any(|window| window == secret), "{}", file.display());
        }
    }
}

/// Whatever was made is kept, and what is half there is said.
#[test]
fn a_coordinator_is_not_made_twice() {
    let machines = Machines::new();
    let server = machines.server.path();
    let own_config = "listen = \"127.0.0.1:9\"\nidentity = \"keys\"\ndata = \"data\"\nledger = \"ledger\"\n";
    std::fs::create_dir(server.join("c")).unwrap();
    std::fs::write(server.join("c/coordinator.toml"), own_config).unwrap();
    let made = said(&machines.init("c"));
    assert_eq!(std::fs::read_to_string(server.join("c/coordinator.toml")).unwrap(), own_config);
    // Moved away with the request, the same keys ask again.
    std::fs::remove_file(server.join("c/coordinator.request")).unwrap();
    let again = said(&machines.init("c"));
    assert_eq!((&again["fingerprint"], &again["new"]), (&made["fingerprint"], &Value::Bool(false)));
    let elsewhere = machines.coordinator(&["init", "c", "--address", "c.example.org:443"]);
    assert!(why_not(&elsewhere).contains("already"));
    // A request whose keys are gone is not shown as one of these keys.
    std::fs::rename(server.join("c/keys/tls.key"), server.join("c/keys/tls.kept")).unwrap();
    assert!(why_not(&machines.init("c")).contains("is not of the keys"));
    std::fs::rename(server.join("c/keys/tls.kept"), server.join("c/keys/tls.key")).unwrap();

    let rhine = machines.found("rhine", "c");
    said(&machines.install("rhine", "c", &rhine["fingerprint"]));
    assert!(why_not(&machines.init("c")).contains("serves the consortium rhine already"));
    // Another consortium for the same keys does not take it over.
    let fingerprint = made["fingerprint"].as_str().unwrap();
    let weser = ["init", "weser", "--name", "weser", "--request", "request", "--fingerprint", fingerprint];
    let weser = said(&machines.consilium(&weser));
    let answer = machines.office.path().join("weser/consortium/coordinator.commission");
    carry(&answer, &server.join("answer-weser"));
    let taken = why_not(&machines.install("weser", "c", &weser["fingerprint"]));
    assert!(taken.contains("serves another consortium, rhine"), "{taken}");
}

/// Killed between any two of its writes, the same command completes what it began.
#[test]
fn init_and_install_go_on_where_they_were_killed() {
    let machines = Machines::new();
    let server = machines.server.path();
    // Each run makes one write more than the run before it.
    let killed = |arguments: &[&str], writes: &[&str]| {
        for write in writes {
            for moment in ["before", "after"] {
                let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator-under-test"));
                command.current_dir(server).args(arguments);
                let point = format!("coordinator.{write}.{moment}");
                let status = command.env("CONSILIUM_CRASH_AT", &point).output().unwrap().status;
                assert_eq!(status.signal(), Some(9), "{point}");
            }
        }
    };
    let init = ["init", "c", "--address", &machines.address];
    killed(&init, &["config", "identity-key", "identity-key", "identity-key", "request"]);
    let rhine = machines.found("rhine", "c");
    let fingerprint = rhine["fingerprint"].as_str().unwrap();
    let install = ["install", "answer-rhine", "--config", "c/coordinator.toml", "--fingerprint", fingerprint];
    killed(&install, &["commission"; 4]);
    let check = said(&machines.coordinator(&["check-config", "--config", "c/coordinator.toml"]));
    assert_eq!(check["consortium"], "rhine");
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("a file").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
