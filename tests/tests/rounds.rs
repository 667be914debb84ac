//! Rounds with real processes: they go on when a hospital is lost, and end with a model that verifies.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use consilium_tests::{Lab, Programs, Study, wait_until};

const PROGRAMS: Programs = Programs {
    consilium: env!("CARGO_BIN_EXE_consilium-under-test"),
    coordinator: env!("CARGO_BIN_EXE_coordinator-under-test"),
    site_agent: env!("CARGO_BIN_EXE_site-agent-under-test"),
};
/// The name of [`Study::default`].
const STUDY: &str = "lungs";
const PATIENCE: Duration = Duration::from_secs(90);

fn lab() -> Lab {
    let mut lab = Lab::new(PROGRAMS, 4).unwrap();
    lab.start_agents().unwrap();
    lab
}

fn trained_lines(status: &serde_json::Value) -> Vec<serde_json::Value> {
    let lines = status["lines"].as_array().cloned().unwrap_or_default();
    lines.into_iter().filter(|line| line["state"] == "trained").collect()
}

#[test]
fn four_hospitals_train_and_the_ledger_verifies_until_a_byte_is_flipped() {
    let lab = lab();
    lab.launch(&Study::default()).unwrap();
    lab.released("lungs", PATIENCE).unwrap();
    let status = lab.status("lungs").unwrap();
    let lines = trained_lines(&status);
    assert_eq!(lines.len(), 3);
    let loss = |line: &serde_json::Value| line["loss"].as_f64().unwrap();
    assert!(loss(&lines[2]) < loss(&lines[0]), "the loss fell: {lines:?}");
    assert!(lines.iter().all(|line| line["counted"] == 4 && line["bytes_up"].as_u64().unwrap() > 0));

    let folder = lab.path().to_str().unwrap();
    let told = lab.consilium(&["audit", "verify", folder]).unwrap();
    assert!(told.contains("lungs"), "{told}");
    // Any byte of any file of the log.
    let mut files = Vec::new();
    let mut open = vec![lab.path().join("ledger")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    for file in files {
        let whole = std::fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        std::fs::write(&file, flipped).unwrap();
        let verdict = lab.consilium(&["audit", "verify", folder]);
        std::fs::write(&file, whole).unwrap();
        assert!(verdict.is_err(), "a flipped byte in {} was not noticed", file.display());
    }
    lab.consilium(&["audit", "verify", folder]).unwrap();

    // What the consortium hands over, as the auditor's page says, and nothing beside it.
    let bundle = lab.path().join("bundle");
    let copy = |from: &str, to: &str| {
        let mut copy = std::process::Command::new("cp");
        assert!(copy.arg("-r").arg(lab.path().join(from)).arg(bundle.join(to)).status().unwrap().success());
    };
    std::fs::create_dir(&bundle).unwrap();
    copy("ledger", "ledger");
    copy("consortium/consortium.pub", "consortium.pub");
    copy("coordinator/data/blobs", "blobs");
    assert_eq!(lab.consilium(&["audit", "verify", bundle.to_str().unwrap()]).unwrap(), told);
}

/// Frozen layers are in no upload, each hospital keeps its own local ones and puts them into the released model, and neither keeps
/// the ledger from verifying.
#[test]
fn layers_that_are_frozen_or_local_do_not_travel() {
    let lab = lab();
    let plain = Study { name: "plain", model: "cnn-bn", ..Study::default() };
    let treated = Study { layers: "frozen = [\"layers.0\"]\nlocal = [\"batch-norm\"]\n", ..plain.clone() };
    let treated = Study { name: STUDY, rounds: 30, ..treated };
    lab.launch(&treated).unwrap();
    let own_layers = || {
        let studies = lab.path().join("sites/a/vault/studies");
        let folders = std::fs::read_dir(studies).unwrap();
        folders.filter(|folder| folder.as_ref().unwrap().path().join("local.layers").exists()).count()
    };
    lab.wait_for(STUDY, PATIENCE, |status| !trained_lines(status).is_empty()).unwrap();
    assert!(wait_until(PATIENCE, || own_layers() == 1), "a hospital keeps its own");
    lab.released(STUDY, PATIENCE).unwrap();
    let released = lab.path().join("released.safetensors").to_str().unwrap().to_owned();
    let told = lab.consilium(&["--json", "model", "export", STUDY, "-o", &released]).unwrap();
    let exported: serde_json::Value = serde_json::from_str(&told).unwrap();
    let own_model = |site: &str| {
        let file = lab.path().join(format!("{site}.safetensors")).to_str().unwrap().to_owned();
        // The hospital hears of the release a moment after the consortium.
        let mut told = Err(anyhow::anyhow!("it was not asked"));
        wait_until(PATIENCE, || {
            told = lab.site_agent(site, &["--json", "model", STUDY, &released, "-o", &file]);
            told.is_ok()
        });
        let told: serde_json::Value = serde_json::from_str(&told.unwrap()).unwrap();
        assert_eq!(told["tuned_from"], exported["model"], "{told}");
        let shown = lab.consilium(&["model", "convert", &file, "--to", &format!("{file}.onnx")]);
        assert!(shown.is_ok(), "{shown:?}");
        told["hash"].as_str().unwrap().to_owned()
    };
    assert_ne!(own_model("a"), own_model("b"), "each hospital has its own");
    assert_eq!(own_layers(), 1, "and keeps what it is made of");
    let error = lab.site_agent("a", &["model", STUDY, &released, "-o", &released]).unwrap_err();
    assert!(format!("{error:#}").contains("is there already"), "{error:#}");
    lab.launch(&plain).unwrap();
    lab.released("plain", PATIENCE).unwrap();
    let up = |study: &str| trained_lines(&lab.status(study).unwrap())[1]["bytes_up"].as_u64().unwrap();
    assert!(up(STUDY) < up("plain"), "{} {}", up(STUDY), up("plain"));
    lab.consilium(&["audit", "verify", lab.path().to_str().unwrap()]).unwrap();
    let shown = lab.consilium(&["model", "show", STUDY]).unwrap();
    assert!(shown.contains("local"), "{shown}");
}

/// Studies for which a hospital keeps a control variate.
fn variates(lab: &Lab, site: &str) -> usize {
    let studies = lab.path().join("sites").join(site).join("vault/studies");
    let folders = std::fs::read_dir(studies).unwrap();
    folders.filter(|folder| folder.as_ref().unwrap().path().join("control.variate").exists()).count()
}

/// Each hospital keeps its control variate until the study is over, goes on with it after a kill, and the ledger with their means
/// verifies.
#[test]
fn control_variates_are_kept_and_their_means_verify() {
    let mut lab = lab();
    let training = "optimiser = \"sgd\"\nlearning_rate = 0.05\nbatch = 16\nsteps = 8\n";
    let strategy = "strategy = { kind = \"scaffold\" }\n";
    lab.launch(&Study { training, strategy, rounds: 20, collect_timeout: "10s", ..Study::default() })
        .unwrap();
    lab.wait_for(STUDY, PATIENCE, |status| trained_lines(status).len() >= 2).unwrap();
    assert!(wait_until(PATIENCE, || variates(&lab, "a") == 1), "a hospital keeps its own");
    lab.kill_agent("d").unwrap();
    lab.start_agent("d", &[]).unwrap();
    lab.released(STUDY, PATIENCE).unwrap();
    let status = lab.status(STUDY).unwrap();
    let lines = trained_lines(&status);
    assert_eq!(lines.last().unwrap()["counted"], 4, "it was counted again: {status}");
    let loss = |line: &serde_json::Value| line["loss"].as_f64().unwrap();
    assert!(loss(&lines[19]) < loss(&lines[0]), "the loss fell: {lines:?}");
    assert!(
        wait_until(PATIENCE, || ["a", "b", "c", "d"].iter().all(|site| variates(&lab, site) == 0)),
        "they go with the study"
    );
    let told = lab.consilium(&["audit", "verify", lab.path().to_str().unwrap()]).unwrap();
    assert!(told.contains(STUDY), "{told}");
}

/// Grades have kappa and a temperature, with intervals, in the ledger and on the card.
#[test]
fn grades_are_measured_by_kappa_and_calibrated_by_all() {
    let lab = lab();
    let data = "task = \"ordinal\"\n";
    let evaluation = "recommend = \"kappa\"\ncalibrate = true\n";
    lab.launch(&Study { data, evaluation, ..Study::default() }).unwrap();
    lab.released(STUDY, PATIENCE).unwrap();
    let folder = lab.path().to_str().unwrap();
    let told = lab.consilium(&["audit", "verify", folder]).unwrap();
    assert!(told.contains(", kappa ") && told.contains(", temperature "), "{told}");
    assert!(told.contains("(95 %: "), "{told}");
}

/// Masks are measured by the Dice coefficient, in the lines of the study, in the ledger and on the card.
#[test]
fn masks_are_learned_and_measured() {
    let lab = lab();
    let data = "task = \"segmentation\"\n";
    lab.launch(&Study { data, model: "unet2d", ..Study::default() }).unwrap();
    lab.released(STUDY, PATIENCE).unwrap();
    let status = lab.status(STUDY).unwrap();
    let lines = status["lines"].as_array().unwrap();
    let measured: Vec<_> = lines.iter().filter(|line| line["kind"] == "evaluate").collect();
    assert_eq!(measured.len(), 3);
    assert!(measured.iter().all(|line| line["metric"] == "dice" && line["figure"].is_f64()), "{status}");
    let folder = lab.path().to_str().unwrap();
    let told = lab.consilium(&["audit", "verify", folder]).unwrap();
    assert!(told.contains(", Dice ") && told.contains("(95 %: "), "{told}");
    let shown = lab.consilium(&["model", "show", STUDY]).unwrap();
    assert!(shown.contains(", dice ") && shown.contains("(segmentation)"), "{shown}");
}

/// The pictures are noise and the label follows from the age beside them: who reads both learns it. The model that is released names
/// the column, and scores a table.
#[test]
fn numbers_beside_pictures_are_learned_and_scored() {
    let mut lab = Lab::new(PROGRAMS, 4).unwrap();
    lab.give_pictures().unwrap();
    lab.start_agents().unwrap();
    let data = "inputs = [{ column = \"age\", mean = 60.0, std = 10.0 }]\n";
    let training = "optimiser = \"adam\"\nlearning_rate = 0.05\nbatch = 16\nepochs = 2\n";
    lab.launch(&Study { data, training, rounds: 6, ..Study::default() }).unwrap();
    let model = lab.released(STUDY, PATIENCE).unwrap();
    let folder = lab.path();
    let card = folder.join(format!("coordinator/data/blobs/{model}.card.json"));
    let card: serde_json::Value = serde_json::from_slice(&std::fs::read(card).unwrap()).unwrap();
    assert_eq!(card["columns"], serde_json::json!(["age"]));
    let told = lab.consilium(&["audit", "verify", folder.to_str().unwrap()]).unwrap();
    assert!(told.contains(STUDY), "{told}");
    let shown = lab.consilium(&["model", "show", STUDY]).unwrap();
    assert!(shown.contains("numbers from the columns age"), "{shown}");
    let file = folder.join("model.safetensors").to_str().unwrap().to_owned();
    lab.consilium(&["model", "export", STUDY, "--output", &file]).unwrap();
    let table = lab.site_folder("a").join("data/labels.csv");
    let predicted = lab.consilium(&["--json", "model", "predict", &file, table.to_str().unwrap()]).unwrap();
    let written = std::fs::read_to_string(&table).unwrap();
    let is_right = |(line, row): (&str, &str)| {
        let answer: serde_json::Value = serde_json::from_str(line).unwrap();
        let score = answer["probabilities"]["yes"].as_f64().unwrap();
        (score > 0.5) == row.contains(",yes,")
    };
    let right = predicted.lines().zip(written.lines().skip(1)).filter(|pair| is_right(*pair)).count();
    assert!(right > 90, "{right} of 120: {predicted}");
}

#[test]
fn a_hospital_killed_in_mid_round_is_a_dropout_and_comes_back() {
    let mut lab = lab();
    // So many rounds that they are not over before the kill, on a busy machine too.
    lab.launch(&Study { rounds: 40, collect_timeout: "5s", ..Study::default() }).unwrap();
    lab.wait_for("lungs", PATIENCE, |status| !trained_lines(status).is_empty()).unwrap();
    lab.kill_agent("d").unwrap();
    let missed = |status: &serde_json::Value| {
        trained_lines(status)
            .iter()
            .filter(|line| line["missing"] == serde_json::json!(["d"]) || line["selected"] == 3)
            .count()
    };
    lab.wait_for("lungs", PATIENCE, |status| missed(status) >= 2).unwrap();
    lab.start_agent("d", &[]).unwrap();
    lab.released("lungs", PATIENCE).unwrap();
    let status = lab.status("lungs").unwrap();
    assert_eq!(trained_lines(&status).len(), 40);
    assert_eq!(trained_lines(&status).last().unwrap()["counted"], 4, "it was counted again: {status}");
}

#[test]
fn below_the_quorum_the_study_waits_and_says_for_whom() {
    let mut lab = lab();
    lab.launch(&Study { rounds: 40, collect_timeout: "3s", ..Study::default() }).unwrap();
    lab.wait_for("lungs", PATIENCE, |status| !trained_lines(status).is_empty()).unwrap();
    lab.kill_agent("c").unwrap();
    lab.kill_agent("d").unwrap();
    // For whom depends on where the kill fell: for both before a round's survivors are signed, afterwards for those
    // of them whose answers are owed. It is never for a site that is there, and it outlasts the round's deadline.
    let waits_for_the_killed = |status: &serde_json::Value| {
        let waits = status["waits"].as_array().unwrap();
        let sites: BTreeSet<_> = waits
            .iter()
            .flat_map(|wait| wait["sites"].as_array().unwrap())
            .map(|site| site.as_str().unwrap())
            .collect();
        let since = waits.iter().filter_map(|wait| wait["since"].as_u64()).min();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let past_the_deadline = since.is_some_and(|since| u128::from(since) + 5_000 < now);
        past_the_deadline && !sites.is_empty() && sites.iter().all(|site| ["c", "d"].contains(site))
    };
    lab.wait_for("lungs", PATIENCE, waits_for_the_killed).unwrap();
    lab.start_agents().unwrap();
    lab.released("lungs", PATIENCE).unwrap();
}

#[test]
fn a_study_that_was_paused_before_its_sites_came_waits_and_its_ledger_verifies() {
    let mut lab = Lab::new(PROGRAMS, 3).unwrap();
    lab.launch(&Study { rounds: 2, ..Study::default() }).unwrap();
    lab.consilium(&["study", "pause", STUDY]).unwrap();
    lab.start_agents().unwrap();
    let held = |status: &serde_json::Value| status["waits"][0]["reason"] == "resume";
    let status = lab.wait_for(STUDY, PATIENCE, held).unwrap();
    assert!(trained_lines(&status).is_empty(), "{status}");
    lab.consilium(&["study", "resume", STUDY]).unwrap();
    lab.released(STUDY, PATIENCE).unwrap();
    lab.consilium(&["audit", "verify", lab.path().to_str().unwrap()]).unwrap();
}

#[test]
fn what_was_opened_in_one_study_is_opened_with_others_when_persons_agree() {
    let lab = lab();
    let three = Some(lab.sites()[..3].to_vec());
    lab.launch(&Study { name: "pilot", sites: three, rounds: 1, ..Study::default() }).unwrap();
    lab.released("pilot", PATIENCE).unwrap();
    // The same seed and data: it starts from the same model, which a, b and c have opened without d.
    lab.launch(&Study { rounds: 1, ..Study::default() }).unwrap();
    let asks = |status: &serde_json::Value| {
        let waits = status["waits"].as_array().unwrap();
        let asked = waits.iter().find(|wait| wait["reason"] == "consent");
        asked.is_some_and(|wait| wait["sites"] == serde_json::json!(["a", "b", "c"]))
    };
    lab.wait_for(STUDY, PATIENCE, asks).unwrap();
    for site in ["a", "b", "c"] {
        let consent = || lab.site_agent(site, &["consent", STUDY, "--person", "Dr. Example"]).is_ok();
        assert!(wait_until(PATIENCE, consent), "{site} was not asked");
    }
    lab.released(STUDY, PATIENCE).unwrap();
    let report = lab.consilium(&["audit", "verify", lab.path().to_str().unwrap()]).unwrap();
    assert!(report.contains("a person there allowed model"), "{report}");
    // The evaluation compares with the same model; without a gate nobody is asked for that.
    let status = lab.status(STUDY).unwrap();
    assert_eq!(status["lines"].as_array().unwrap().last().unwrap()["state"], "unevaluated", "{status}");
}

#[test]
fn pause_and_stop_work_and_the_same_order_twice_is_harmless() {
    let lab = lab();
    lab.launch(&Study { rounds: 500, ..Study::default() }).unwrap();
    lab.wait_for("lungs", PATIENCE, |status| !trained_lines(status).is_empty()).unwrap();
    lab.consilium(&["study", "pause", "lungs"]).unwrap();
    lab.consilium(&["study", "pause", "lungs"]).unwrap();
    assert_eq!(lab.status("lungs").unwrap()["state"], "paused");
    lab.consilium(&["study", "resume", "lungs"]).unwrap();
    let before = trained_lines(&lab.status("lungs").unwrap()).len();
    lab.wait_for("lungs", PATIENCE, |status| trained_lines(status).len() > before).unwrap();
    lab.consilium(&["study", "stop", "lungs", "--reason", "enough"]).unwrap();
    let _ = lab.consilium(&["study", "stop", "lungs", "--reason", "enough"]);
    assert_eq!(lab.status("lungs").unwrap()["state"], "stopped");
}

#[test]
fn the_vault_holds_no_socket_and_nothing_outlives_its_agent() {
    let mut lab = lab();
    lab.launch(&Study { rounds: 500, ..Study::default() }).unwrap();
    lab.wait_for("lungs", PATIENCE, |status| !trained_lines(status).is_empty()).unwrap();
    let agent = lab.agents["a"].pid();
    let children = children_of(agent);
    let vault = children.iter().find(|(_, line)| line.contains("vault")).expect("a vault runs").0;
    let relay = children.iter().find(|(_, line)| line.contains("relay")).expect("a relay runs").0;
    let sockets = |pid: u32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    };
    assert_eq!(sockets(vault), 0);
    // The test can fail: the relay does hold one.
    assert!(sockets(relay) > 0);
    lab.kill_agent("a").unwrap();
    let gone = wait_until(Duration::from_secs(5), || {
        [vault, relay].iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    });
    assert!(gone, "vault or relay outlived the agent");
}

/// Revoked in mid-study: its live connection is cut, the others go on, the list says so, and a fresh start of
/// its agent does not get in.
#[test]
fn a_revoked_hospital_is_cut_off_and_the_others_go_on() {
    let mut lab = lab();
    lab.launch(&Study { rounds: 6, ..Study::default() }).unwrap();
    let trained = |status: &serde_json::Value| !trained_lines(status).is_empty();
    lab.wait_for(STUDY, PATIENCE, trained).unwrap();
    let told = lab.consilium(&["--json", "site", "revoke", "d"]).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(told["connections_cut"].as_u64() >= Some(1), "{told}");
    lab.released(STUDY, PATIENCE).unwrap();
    let status = lab.status(STUDY).unwrap();
    assert_eq!(trained_lines(&status).last().unwrap()["counted"], 3, "{status}");
    let sites = lab.consilium(&["site", "list"]).unwrap();
    let line = sites.lines().find(|line| line.starts_with("d ")).unwrap();
    assert!(line.contains("revoked"), "{sites}");
    // No further study can be proposed to it.
    let refusal = lab.launch(&Study { name: "hearts", ..Study::default() }).unwrap_err().to_string();
    assert!(refusal.contains("d is revoked") && refusal.contains("consilium site invite d"), "{refusal}");
    // A fresh start of its agent does not get in, and its own log says why.
    lab.kill_agent("d").unwrap();
    lab.start_agent("d", &[]).unwrap();
    let own_log = || std::fs::read_to_string(lab.path().join("logs/d.log")).unwrap_or_default();
    assert!(wait_until(PATIENCE, || own_log().contains("revoked")), "{}", own_log());
    lab.consilium(&["audit", "verify", lab.path().to_str().unwrap()]).unwrap();
}

/// A person may change their mind: the site stops at once and for good, and the others go on.
#[test]
fn a_hospital_leaves_a_study_that_it_had_accepted() {
    let lab = lab();
    // So many rounds that they are not over before the answer is heard.
    lab.launch(&Study { rounds: 40, ..Study::default() }).unwrap();
    lab.wait_for(STUDY, PATIENCE, |status| !trained_lines(status).is_empty()).unwrap();
    let told = lab.site_agent("d", &["decline", STUDY, "--person", "Dr. Dorn"]).unwrap();
    assert!(told.contains("for good"), "{told}");
    lab.released(STUDY, PATIENCE).unwrap();
    let status = lab.status(STUDY).unwrap();
    assert_eq!(trained_lines(&status).last().unwrap()["counted"], 3, "{status}");
    assert_eq!(status["sites"][3]["rung"], "refused", "{status}");
    let studies = lab.site_agent("d", &["studies"]).unwrap();
    assert!(studies.contains("refused"), "{studies}");
    let verdict = lab.consilium(&["audit", "verify", lab.path().to_str().unwrap()]).unwrap();
    assert!(verdict.contains("Dr. Dorn"), "{verdict}");
    let again = lab.site_agent("d", &["decline", STUDY, "--person", "Dr. Dorn"]).unwrap();
    assert!(again.contains("declined already"), "{again}");
    let too_late = lab.site_agent("c", &["decline", STUDY, "--person", "Dr. Cohn"]).unwrap_err().to_string();
    assert!(too_late.contains("is over"), "{too_late}");
}

/// Children of a process, with their command lines.
fn children_of(parent: u32) -> Vec<(u32, String)> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let after_name = stat.rsplit_once(')')?.1;
        let of = after_name.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ");
        (of == parent).then_some((pid, line))
    })
    .collect()
}
