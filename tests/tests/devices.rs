//! Hospitals whose `site.toml` names a GPU, with real processes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use consilium_tests::{Lab, Programs, Study};

const PROGRAMS: Programs = Programs {
    consilium: env!("CARGO_BIN_EXE_consilium-under-test"),
    coordinator: env!("CARGO_BIN_EXE_coordinator-under-test"),
    site_agent: env!("CARGO_BIN_EXE_site-agent-under-test"),
};
const PATIENCE: Duration = Duration::from_mins(3);

/// Writes lines before the first section of a hospital's `site.toml`.
fn begin_with(lab: &Lab, site: &str, lines: &str) {
    let config = lab.site_folder(site).join("site.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{lines}\n{text}")).unwrap();
}

fn log(lab: &Lab, site: &str) -> String {
    std::fs::read_to_string(lab.path().join(format!("logs/{site}.log"))).unwrap()
}

fn trained_lines(lab: &Lab) -> Vec<serde_json::Value> {
    let status = lab.status("lungs").unwrap();
    let lines = status["lines"].as_array().cloned().unwrap_or_default();
    lines.into_iter().filter(|line| line["state"] == "trained").collect()
}

/// No machine has ten thousand GPUs, and the usual build knows of none: one hospital is out with the cause, in every round
/// anew, and one trains on its processor.
#[test]
fn a_hospital_whose_gpu_is_not_there_is_out_with_the_cause_or_uses_its_processor() {
    let mut lab = Lab::new(PROGRAMS, 4).unwrap();
    begin_with(&lab, "a", "device = \"gpu:9999\"");
    begin_with(&lab, "b", "device = \"gpu:9999\"\non_gpu_loss = \"cpu\"");
    lab.start_agents().unwrap();
    lab.launch_with_all(&Study { rounds: 2, ..Study::default() }, PATIENCE).unwrap();
    lab.released("lungs", PATIENCE).unwrap();
    let lines = trained_lines(&lab);
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["counted"] == 3), "{lines:?}");
    let journal = lab.site_agent("a", &["journal"]).unwrap();
    assert!(journal.contains("NoDevice"), "{journal}");
    assert!(!lab.site_agent("b", &["journal"]).unwrap().contains("NoDevice"));
    for site in ["a", "b"] {
        assert!(log(&lab, site).contains("the GPU did not train"), "{}", log(&lab, site));
    }
    let doctor = lab.site_agent("b", &["doctor"]).unwrap_err().to_string();
    assert!(doctor.contains("doctor"), "it exits with a failure: {doctor}");
}

/// On the first GPU, else on Vulkan's software device, in the vault's child.
#[cfg(feature = "wgpu")]
#[test]
fn a_hospital_trains_on_a_gpu() {
    let mut lab = Lab::new(PROGRAMS, 4).unwrap();
    let found = ["gpu", "gpu:software"].into_iter().find(|device| {
        begin_with(&lab, "a", &format!("device = \"{device}\""));
        let checks = std::process::Command::new(PROGRAMS.site_agent)
            .args(["--json", "doctor", "--dir"])
            .arg(lab.site_folder("a"))
            .output()
            .unwrap();
        let checks = String::from_utf8(checks.stdout).unwrap();
        let is_well = checks.lines().any(|line| {
            let check: serde_json::Value = serde_json::from_str(line).unwrap();
            check["what"] == "device" && check["well"] == true
        });
        if !is_well {
            let config = lab.site_folder("a").join("site.toml");
            let text = std::fs::read_to_string(&config).unwrap();
            std::fs::write(&config, text.split_once('\n').unwrap().1).unwrap();
        }
        is_well
    });
    let Some(device) = found else {
        println!("SKIPPED: no Vulkan device");
        return;
    };
    lab.start_agents().unwrap();
    lab.launch_with_all(&Study { rounds: 2, model: "small-cnn", ..Study::default() }, PATIENCE).unwrap();
    lab.released("lungs", PATIENCE).unwrap();
    let lines = trained_lines(&lab);
    assert!(lines.len() == 2 && lines.iter().all(|line| line["counted"] == 4), "{lines:?}");
    assert_eq!(log(&lab, "a").matches("trains on a GPU").count(), 2, "on {device}: {}", log(&lab, "a"));
    let journal = lab.site_agent("a", &["journal"]).unwrap();
    assert!(!journal.contains("NoDevice") && !journal.contains("Unrepeatable"), "{journal}");
}
