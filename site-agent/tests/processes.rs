//! The agent as processes: what the kernel sees, and what is left after a kill.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use consilium_identity::enrolment::{Admission, EnrolmentRequest, Terms, admit};
use consilium_identity::roster::{CoordinatorEntry, PersonEntry};
use consilium_identity::{ConsortiumKey, Invitation, Roster};
use consilium_site_agent::enrol::{Membership, make_keys};
use consilium_site_agent::folder::SiteFolder;
use consilium_study::hash::Hash;
use consilium_study::sign::SigningKey;
use jiff::{SignedDuration, Timestamp};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(20);

/// A site that was admitted to a consortium whose coordinator cannot be reached.
fn enrolled() -> (tempfile::TempDir, SiteFolder) {
    let dir = tempfile::tempdir().unwrap();
    let folder = SiteFolder::new(dir.path());
    fs::write(folder.config(), "[source]\nkind = \"npz\"\nfile = \"none.npz\"\n").unwrap();
    let now = Timestamp::now();
    let consortium = ConsortiumKey::generate("trial".parse().unwrap());
    let hash = |text: &str| Hash::of_bytes(text.as_bytes());
    let roster = Roster::first(
        "trial".parse().unwrap(),
        CoordinatorEntry {
            signing_key: SigningKey::generate().verifying_key(),
            tls_key: hash("coordinator"),
            issuing_key: hash("issuing"),
        },
        PersonEntry {
            name: "o".parse().unwrap(),
            signing_key: SigningKey::generate().verifying_key(),
            tls_key: hash("operator"),
        },
    )
    .unwrap();
    // A port of this machine that nobody listens on.
    let address = "127.0.0.1:9".parse().unwrap();
    let later = now + SignedDuration::from_hours(1);
    let invitation = Invitation::new(consortium.anchor(), address, "a".parse().unwrap(), later);
    let (tls, signing) = make_keys(&folder).unwrap();
    let request = EnrolmentRequest::new(&invitation, &tls.request(), &signing);
    let terms = Terms { test: true, replace: false };
    let admission: Admission =
        admit(&consortium, &invitation, &request, &consortium.sign(&roster), terms, now).unwrap();
    Membership {
        anchor: consortium.anchor(),
        site: "a".parse().unwrap(),
        coordinator: invitation.coordinator().clone(),
        admission,
    }
    .write(&folder)
    .unwrap();
    (dir, folder)
}

fn agent(arguments: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_site-agent"));
    command.args(arguments).arg("--dir").arg(dir).stdin(Stdio::null());
    command
}

/// A running agent that is killed when the test fails.
struct Running {
    child: Child,
    folder: SiteFolder,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(folder: &SiteFolder) -> Self {
        let child =
            agent(&["run"], folder.root()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let running = Self { child, folder: folder.clone() };
        wait_for("both parts", || running.part("vault").is_some() && running.part("relay").is_some());
        running
    }

    fn part(&self, name: &str) -> Option<i32> {
        let text = fs::read_to_string(self.folder.processes()).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        i32::try_from(value.get(name)?.as_i64()?).ok()
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_alive(pid: i32) -> bool {
    // A zombie has no executable any more.
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn descriptors(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        .collect()
}

#[test]
fn the_vault_has_no_socket_and_the_relay_no_file_of_the_vault() {
    let (_dir, folder) = enrolled();
    let running = Running::start(&folder);
    let (vault, relay) = (running.part("vault").unwrap(), running.part("relay").unwrap());
    wait_for("the vault's lock", || descriptors(vault).iter().any(|path| path.ends_with("vault/lock")));
    assert!(descriptors(vault).iter().all(|path| !path.starts_with("socket:")), "{:?}", descriptors(vault));
    let inside = folder.vault().to_string_lossy().into_owned();
    assert!(descriptors(relay).iter().all(|path| !path.starts_with(&inside)), "{:?}", descriptors(relay));
}

#[test]
fn a_killed_part_comes_back_and_the_other_lives_on() {
    let (_dir, folder) = enrolled();
    let running = Running::start(&folder);
    for (killed, survivor) in [("vault", "relay"), ("relay", "vault")] {
        let (before, other) = (running.part(killed).unwrap(), running.part(survivor).unwrap());
        signal(before, Signal::KILL);
        wait_for(killed, || running.part(killed).is_some_and(|now| now != before));
        assert_eq!(running.part(survivor), Some(other), "the {survivor} was not touched");
        assert!(is_alive(other));
    }
}

#[test]
fn nothing_outlives_the_agent_however_it_ends() {
    for ending in [Signal::TERM, Signal::INT, Signal::KILL] {
        let (_dir, folder) = enrolled();
        let mut running = Running::start(&folder);
        let parts = [running.part("vault").unwrap(), running.part("relay").unwrap()];
        signal(i32::try_from(running.child.id()).unwrap(), ending);
        let status = running.child.wait().unwrap();
        assert_eq!(status.success(), ending != Signal::KILL, "{ending:?}: {status}");
        wait_for("the parts to end", || parts.iter().all(|part| !is_alive(*part)));
        // And the lock was the kernel's, so the next one starts.
        drop(Running::start(&folder));
    }
}

#[test]
fn a_second_agent_is_refused() {
    let (_dir, folder) = enrolled();
    let _running = Running::start(&folder);
    let second = agent(&["run"], folder.root()).output().unwrap();
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("another agent already runs"), "{text}");
}

#[test]
fn status_tells_the_cause_and_the_exit_code_tells_scripts() {
    let (_dir, folder) = enrolled();
    let stopped = agent(&["status"], folder.root()).output().unwrap();
    assert!(!stopped.status.success());
    assert!(String::from_utf8_lossy(&stopped.stdout).contains("not running"));
    let _running = Running::start(&folder);
    wait_for("the relay's first try", || {
        let output = agent(&["status", "--json"], folder.root()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        !output.status.success() && text.contains("cannot reach 127.0.0.1:9")
    });
}

#[test]
fn commands_work_without_an_agent_and_say_what_to_do() {
    let (_dir, folder) = enrolled();
    let journal = agent(&["journal"], folder.root()).output().unwrap();
    assert!(journal.status.success());
    assert!(String::from_utf8_lossy(&journal.stdout).contains("enrolled"));
    let studies = agent(&["studies"], folder.root()).output().unwrap();
    assert!(studies.status.success());
    let approve = agent(&["approve", "nothing"], folder.root()).output().unwrap();
    assert!(!approve.status.success());
    assert!(String::from_utf8_lossy(&approve.stderr).contains("site-agent studies"));
    let doctor = agent(&["doctor", "--json"], folder.root()).output().unwrap();
    assert!(!doctor.status.success());
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("\"what\":\"coordinator\",\"well\":false"), "{text}");
    let empty = tempfile::tempdir().unwrap();
    let run = agent(&["run"], empty.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&run.stderr).contains("site-agent enrol"), "{run:?}");
}
