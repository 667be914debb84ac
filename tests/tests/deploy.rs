//! What whoever deploys meets first: sample configurations, and what the programs say when something is wrong.

use std::path::Path;
use std::process::Command;

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
        let object: serde_json::Value = serde_json::from_str(&fail(&["--json"])).unwrap();
        assert_eq!(format!("error: {}\n", object["error"].as_str().unwrap()), text);
    }
}
