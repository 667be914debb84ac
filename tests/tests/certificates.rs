//! Certificates renew themselves, also on a connection that lasts and after a night that was too long; invitations and
//! certificates that do not count are refused, each with its own words.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use consilium_identity::address::Host;
use consilium_identity::authority::lifetime;
use consilium_identity::{Chain, ConsortiumKey, Invitation, TlsKey};
use consilium_tests::{Lab, Programs, wait_until};
use jiff::Timestamp;

const PROGRAMS: Programs = Programs {
    consilium: env!("CARGO_BIN_EXE_consilium-under-test"),
    coordinator: env!("CARGO_BIN_EXE_coordinator-under-test"),
    site_agent: env!("CARGO_BIN_EXE_site-agent-under-test"),
};
const PATIENCE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// A laboratory whose certificates a test makes as if time had passed.
struct Aged {
    lab: Lab,
    key: ConsortiumKey,
}

impl Aged {
    fn new() -> Self {
        let lab = Lab::new(PROGRAMS, 1).unwrap();
        let key = std::fs::read_to_string(lab.path().join("consortium/consortium.key")).unwrap();
        Self { key: ConsortiumKey::from_pem("lab".parse().unwrap(), &key).unwrap(), lab }
    }

    /// The folder of a party, with its certificate and key.
    fn folder(&self, party: &str) -> PathBuf {
        match party {
            "coordinator" => self.lab.path().join("coordinator/identity"),
            "operator" => self.lab.path().join("consortium/operator"),
            site => self.lab.site_folder(site).join("relay"),
        }
    }

    /// Exchanges a party's certificate for one that was made some time ago.
    fn age(&self, party: &str, age: Duration) {
        let folder = self.folder(party);
        let key = std::fs::read_to_string(folder.join("tls.key")).unwrap();
        let key = TlsKey::from_pem(&key).unwrap().public_key();
        let then = Timestamp::now() - age;
        let chain = match party {
            "coordinator" => {
                self.key.certify_coordinator(&key, &["127.0.0.1".parse::<Host>().unwrap()], then)
            }
            "operator" => {
                let operator = "operator/operator".parse().unwrap();
                self.key.certify(&key, &operator, lifetime::PERSON, then).unwrap()
            }
            site => {
                let site = format!("site/{site}").parse().unwrap();
                self.key.certify(&key, &site, lifetime::SITE, then).unwrap()
            }
        };
        std::fs::write(folder.join("certificate.pem"), chain.to_pem()).unwrap();
    }

    /// How long a party's certificate lives from now on, in days.
    fn days_left(&self, party: &str) -> i64 {
        let pem = std::fs::read_to_string(self.folder(party).join("certificate.pem")).unwrap();
        let ends = Chain::from_pem(&pem).unwrap().leaf().not_after;
        ends.duration_since(Timestamp::now()).as_hours() / 24
    }

    fn log(&self, site: &str) -> String {
        std::fs::read_to_string(self.lab.path().join(format!("logs/{site}.log"))).unwrap_or_default()
    }
}

fn hide(file: &Path) -> PathBuf {
    let hidden = file.with_extension("hidden");
    std::fs::rename(file, &hidden).unwrap();
    hidden
}

#[test]
fn a_coordinator_that_was_off_for_too_long_renews_its_certificate_and_is_believed() {
    let mut aged = Aged::new();
    aged.lab.kill_coordinator().unwrap();
    aged.age("coordinator", DAY * 100);
    assert!(aged.days_left("coordinator") < 0);
    aged.lab.start_coordinator(&[]).unwrap();
    assert!(wait_until(PATIENCE, || aged.days_left("coordinator") >= 29), "it was not renewed");
    aged.lab.start_agents().unwrap();
    let connected = || aged.lab.consilium(&["site", "list"]).is_ok_and(|list| list.contains("connected"));
    assert!(wait_until(PATIENCE, connected), "{}", aged.log("a"));
}

#[test]
fn a_site_renews_its_certificate_on_a_connection_that_lasts() {
    let mut aged = Aged::new();
    // Two thirds of its life of 30 days and an hour, which began an hour early, are over in six seconds.
    aged.age("a", (DAY * 20).checked_sub(Duration::from_secs(20 * 60 + 6)).unwrap());
    let before = aged.days_left("a");
    aged.lab.start_agents().unwrap();
    assert!(wait_until(PATIENCE, || aged.days_left("a") >= 29), "{before} days: {}", aged.log("a"));
    let log = aged.log("a");
    assert_eq!(log.matches("connected coordinator=").count(), 1, "on the same connection: {log}");
}

#[test]
fn an_operators_certificate_is_renewed_by_any_command_and_made_anew_after_its_end() {
    let aged = Aged::new();
    let list = || aged.lab.consilium(&["site", "list"]);
    aged.age("operator", DAY * 80);
    list().unwrap();
    assert!(aged.days_left("operator") >= 89, "renewed by the coordinator");
    aged.age("operator", DAY * 100);
    let key = aged.lab.path().join("consortium/consortium.key");
    let hidden = hide(&key);
    let refusal = list().unwrap_err().to_string();
    assert!(refusal.contains("ended at") && refusal.contains("bring it back"), "{refusal}");
    std::fs::rename(hidden, key).unwrap();
    list().unwrap();
    assert!(aged.days_left("operator") >= 89, "made anew with the consortium's key");
}

/// What `site-agent run` says of a certificate that does not count, and how the coordinator logs it.
#[test]
fn expired_foreign_and_revoked_certificates_are_told_apart() {
    let mut aged = Aged::new();
    aged.age("a", DAY * 31);
    aged.lab.start_agents().unwrap();
    assert!(wait_until(PATIENCE, || aged.log("a").contains("expired")), "{}", aged.log("a"));
    aged.lab.kill_agent("a").unwrap();

    // A certificate of another consortium of the same name.
    let own = std::mem::replace(&mut aged.key, ConsortiumKey::generate("lab".parse().unwrap()));
    aged.age("a", Duration::ZERO);
    std::fs::remove_file(aged.lab.path().join("logs/a.log")).unwrap();
    aged.lab.start_agents().unwrap();
    let foreign = || aged.log("a").contains("foreign certificate");
    assert!(wait_until(PATIENCE, foreign), "{}", aged.log("a"));
    aged.lab.kill_agent("a").unwrap();

    aged.key = own;
    aged.age("a", Duration::ZERO);
    aged.lab.consilium(&["site", "revoke", "a", "--yes"]).unwrap();
    std::fs::remove_file(aged.lab.path().join("logs/a.log")).unwrap();
    aged.lab.start_agents().unwrap();
    assert!(wait_until(PATIENCE, || aged.log("a").contains("revoked")), "{}", aged.log("a"));
}

/// An invitation that is used again, came too late, or is of another consortium: `site-agent enrol` says which.
#[test]
fn expired_replayed_and_foreign_invitations_are_told_apart() {
    let aged = Aged::new();
    let other = Lab::new(PROGRAMS, 0).unwrap();
    let invite = |lab: &Lab, site: &str, more: &[&str]| {
        let printed = lab.consilium(&[&["--json", "site", "invite", site], more].concat()).unwrap();
        let told: serde_json::Value = serde_json::from_str(&printed).unwrap();
        told["invitation"].as_str().unwrap().to_owned()
    };
    let enrol = |site: &str, invitation: &str| {
        let enrolled = aged.lab.site_agent(site, &["enrol", invitation, "--no-wait"]);
        enrolled.map_or_else(|refusal| refusal.to_string(), |_| String::new())
    };
    let good = invite(&aged.lab, "b", &[]);
    assert_eq!(enrol("b", &good), "");
    // The same line on another machine, with other keys.
    let replayed = enrol("b-again", &good);
    assert!(replayed.contains("used"), "{replayed}");

    let short = invite(&aged.lab, "c", &["--valid", "1s"]);
    std::thread::sleep(Duration::from_millis(2_100));
    let expired = enrol("c", &short);
    assert!(expired.contains("expired"), "{expired}");

    // Of a consortium whose coordinator was at this address before.
    let invitation: Invitation = invite(&other, "d", &[]).parse().unwrap();
    let here = format!("127.0.0.1:{}", aged.lab.port()).parse().unwrap();
    let moved =
        Invitation::new(invitation.anchor().clone(), here, "d".parse().unwrap(), invitation.expires());
    let foreign = enrol("d", &moved.to_text());
    assert!(foreign.contains("consortium"), "{foreign}");
    assert_eq!(enrol("b", &good), "", "and the first one is still waited for");
}

#[test]
fn a_site_that_asks_anew_can_still_be_revoked() {
    let mut aged = Aged::new();
    aged.lab.start_agents().unwrap();
    let connected =
        |aged: &Aged| aged.lab.consilium(&["site", "list"]).is_ok_and(|list| list.contains("connected"));
    assert!(wait_until(PATIENCE, || connected(&aged)), "{}", aged.log("a"));
    let printed = aged.lab.consilium(&["--json", "site", "invite", "a", "--anew"]).unwrap();
    let told: serde_json::Value = serde_json::from_str(&printed).unwrap();
    // On another machine: the one that runs has not asked.
    aged.lab.site_agent("a-anew", &["enrol", told["invitation"].as_str().unwrap(), "--no-wait"]).unwrap();
    let revoked = aged.lab.consilium(&["--json", "site", "revoke", "a", "--yes"]).unwrap();
    let revoked: serde_json::Value = serde_json::from_str(&revoked).unwrap();
    assert!(revoked["connections_cut"].as_u64() >= Some(1), "{revoked}");
    assert!(wait_until(PATIENCE, || aged.log("a").contains("revoked")), "{}", aged.log("a"));
}
