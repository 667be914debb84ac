//! A vector of many chunks over lines that break, and a member that lies about its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use consilium_proto::CHUNK;
use consilium_proto::v1::{UploadChunk, UploadName, UploadStateReply, UploadStateRequest, upload_reply};
use consilium_tests::{Fault, Lab, Line, Programs, Rogue, Study, free_port, wait_until};

const PROGRAMS: Programs = Programs {
    consilium: env!("CARGO_BIN_EXE_consilium-under-test"),
    coordinator: env!("CARGO_BIN_EXE_coordinator-under-test"),
    site_agent: env!("CARGO_BIN_EXE_site-agent-under-test"),
};
const PATIENCE: Duration = Duration::from_mins(3);
/// Bytes of a masked vector of the model below, at least: 11 million parameters, one word each.
const VECTOR: u64 = 44_000_000;

fn lab(fault: Fault) -> (Lab, Line) {
    let port = free_port().unwrap();
    let line = Line::new(port, fault).unwrap();
    let mut lab = Lab::reached_through(PROGRAMS, 3, Some((port, line.port()))).unwrap();
    // The operator's own line is a good one.
    std::fs::write(lab.path().join("consortium/address"), format!("127.0.0.1:{port}\n")).unwrap();
    lab.set_link_grace("60s").unwrap();
    lab.start_agents().unwrap();
    (lab, line)
}

fn study() -> Study {
    Study { rounds: 1, model: "resnet18", collect_timeout: "120s", ..Study::default() }
}

/// No connection carries a whole vector or model, so whoever began anew each time would never end.
#[test]
fn transfers_over_a_line_that_breaks_go_on_where_they_were() {
    let (lab, line) = lab(Fault::CutAfter(12_000_000));
    lab.launch(&study()).unwrap();
    lab.released("lungs", PATIENCE).unwrap();
    let status = lab.status("lungs").unwrap();
    let trained = &status["lines"][0];
    assert_eq!(trained["counted"], 3, "{status}");
    let up = trained["bytes_up"].as_u64().unwrap();
    assert!(up > 3 * VECTOR && up < 4 * VECTOR, "{up} bytes: little was sent twice");
    assert!(line.connections() > 3 * 6, "{} connections", line.connections());
}

#[test]
fn a_coordinator_of_eight_hospitals_needs_less_than_three_models() {
    let mut lab = Lab::new(PROGRAMS, 8).unwrap();
    lab.start_agents().unwrap();
    lab.launch_with_all(&study(), PATIENCE).unwrap();
    lab.released("lungs", PATIENCE).unwrap();
    assert_eq!(lab.status("lungs").unwrap()["lines"][0]["counted"], 8);
    let peak = lab.coordinator.as_ref().unwrap().peak_memory().unwrap();
    assert!(peak < 3 * VECTOR, "{} MB", peak / 1_000_000);
}

/// A power failure can leave a spool that is as long as it should be and holds something else.
#[test]
fn a_chunk_that_was_damaged_on_the_coordinators_disk_never_enters_the_sum() {
    let (mut lab, line) = lab(Fault::HoldAfter(VECTOR + 8_000_000));
    lab.launch(&study()).unwrap();
    let spools = || {
        let mut files = Vec::new();
        let mut folders = vec![lab.path().join("coordinator/data/uploads")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let metadata = entry.metadata().unwrap();
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else {
                    files.push((entry.path(), metadata.len()));
                }
            }
        }
        files
    };
    let some = |files: &[(_, u64)]| files.iter().filter(|(_, bytes)| *bytes > 2 * CHUNK as u64).count();
    assert!(wait_until(PATIENCE, || some(&spools()) > 0), "{}", lab.logs());
    let held = spools();
    lab.kill_coordinator().unwrap();
    let damaged = some(&held);
    for (path, _) in held.iter().filter(|(_, bytes)| *bytes > 2 * CHUNK as u64) {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0; 4096], CHUNK as u64 / 2).unwrap();
    }
    line.cut(Fault::None);
    lab.start_coordinator(&[]).unwrap();
    lab.released("lungs", PATIENCE).unwrap();
    assert_eq!(lab.status("lungs").unwrap()["lines"][0]["counted"], 3);
    let log = std::fs::read_to_string(lab.path().join("logs/coordinator.log")).unwrap();
    assert_eq!(log.matches("a spooled chunk is damaged").count(), damaged, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_an_upload_are_refused_and_the_true_one_goes_on() {
    // Everybody's line holds when some of the vector is there; then one agent dies.
    let (mut lab, line) = lab(Fault::HoldAfter(VECTOR + 8_000_000));
    lab.launch(&study()).unwrap();
    let rogue = Rogue::in_place_of(&lab, "a").unwrap();
    let mut client = rogue.connect().await.unwrap();
    let study = lab.status("lungs").unwrap()["study"].as_str().unwrap().to_owned();
    let study: Vec<u8> =
        (0..64).step_by(2).map(|at| u8::from_str_radix(&study[at..at + 2], 16).unwrap()).collect();
    let name = UploadName { study, attempt: 1 };
    let state = async |client: &mut SiteClient| {
        let request = UploadStateRequest { name: Some(name.clone()) };
        client.upload_state(request).await.unwrap().into_inner()
    };
    let mut before = UploadStateReply::default();
    for _ in 0..1000 {
        before = state(&mut client).await;
        if !before.closed && before.offset > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!before.closed && !before.complete && before.offset > 0, "{before:?}\n{}", lab.logs());
    // The line stands still, so the offset does too.
    tokio::time::sleep(Duration::from_millis(500)).await;
    lab.kill_agent("a").unwrap();
    let offset = state(&mut client).await.offset;
    assert!(offset > 0 && offset < VECTOR);

    let vector = std::fs::File::open(lab.spooled("a").unwrap()).unwrap();
    let truth = |offset: u64| {
        let mut bytes = vec![0; CHUNK];
        vector.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    };
    let mut flipped = truth(offset);
    flipped[CHUNK / 2] ^= 1;
    let next = offset + CHUNK as u64;
    let lies = [
        ("offset", 0, truth(0)),
        ("offset", next, truth(next)),
        ("offset", offset + 1, truth(offset + 1)),
        ("chunk", offset, flipped),
        ("chunk", offset, truth(offset)[..CHUNK / 2].to_vec()),
        ("chunk", offset, Vec::new()),
        ("chunk", offset, truth(next)),
        ("chunk", offset, [truth(offset), vec![0]].concat()),
    ];
    for (code, at, bytes) in lies {
        let (length, chunk) =
            (bytes.len(), UploadChunk { name: Some(name.clone()), offset: at, bytes: bytes.into() });
        let verdict = client.upload(tokio_stream::iter([chunk])).await.unwrap().into_inner().verdict;
        let Some(upload_reply::Verdict::Refused(refused)) = verdict else {
            panic!("{length} bytes at {at}: {verdict:?}");
        };
        assert_eq!(refused.code, code, "{length} bytes at {at}: {}", refused.reason);
        assert_eq!(state(&mut client).await.offset, offset, "nothing was kept");
    }
    // Cut off after one true chunk: that one is kept.
    let chunk = UploadChunk { name: Some(name.clone()), offset, bytes: truth(offset).into() };
    client.upload(tokio_stream::iter([chunk])).await.unwrap();
    assert_eq!(state(&mut client).await.offset, next);
    drop(client);

    line.cut(Fault::None);
    lab.start_agent("a", &[]).unwrap();
    let released =
        wait_until(PATIENCE, || lab.status("lungs").is_ok_and(|status| status["state"] == "released"));
    let status = lab.status("lungs").unwrap();
    assert!(released && status["lines"][0]["counted"] == 3, "{status}\n{}", lab.logs());
}

type SiteClient = consilium_proto::v1::site_client::SiteClient<tonic::transport::Channel>;
