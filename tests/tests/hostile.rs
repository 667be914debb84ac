//! A member that lies, and a disk that rots: neither stops a round, and what they send enters no sum.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::time::Duration;

use consilium_proto::v1::{
    AcknowledgeRequest, AttendRequest, DeliverRequest, FetchRequest, UploadChunk, UploadName,
    UploadStateRequest, deliver_reply, upload_reply,
};
use consilium_tests::{Lab, Programs, Rogue, Study, wait_until};
use tonic::Code;

const PROGRAMS: Programs = Programs {
    consilium: env!("CARGO_BIN_EXE_consilium-under-test"),
    coordinator: env!("CARGO_BIN_EXE_coordinator-under-test"),
    site_agent: env!("CARGO_BIN_EXE_site-agent-under-test"),
};
const PATIENCE: Duration = Duration::from_secs(90);
/// More than any directive, less than the sum of what the member below tries to make the coordinator keep.
const MOST_MEMORY_MIB: u64 = 160;

fn bytes_of_hash(text: &str) -> Vec<u8> {
    (0..64).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn a_member_that_lies_is_refused_and_the_others_finish() {
    let mut lab = Lab::new(PROGRAMS, 3).unwrap();
    let rogue = Rogue::enrol(&lab, "rogue").await.unwrap();
    lab.start_agents().unwrap();
    let sites = ["a", "b", "c", "rogue"].map(str::to_owned).to_vec();
    lab.launch(&Study { rounds: 40, sites: Some(sites), ..Study::default() }).unwrap();
    let study = bytes_of_hash(lab.status("lungs").unwrap()["study"].as_str().unwrap());
    let mut client = rogue.connect().await.unwrap();

    // A stream that is read never, and 100 more that replace each other.
    let attend = || AttendRequest { protocol: consilium_proto::PROTOCOL, agent: "x".repeat(1 << 20) };
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(client.attend(attend()).await.unwrap());
    }
    let other = AttendRequest { protocol: u32::MAX, agent: String::new() };
    assert_eq!(client.attend(other).await.unwrap_err().code(), Code::FailedPrecondition);

    // Messages that are none, that are cut off, or that are too long.
    let real = streams.last_mut().unwrap().get_mut().message().await.unwrap().unwrap().body;
    let mut bodies: Vec<Vec<u8>> = (0..real.len()).step_by(97).map(|end| real[..end].to_vec()).collect();
    bodies.extend([
        Vec::new(),
        real,
        vec![0x9f; 1 << 20],
        vec![0xff; 1 << 10],
        vec![0xbb, 255, 255, 255, 255],
    ]);
    for body in bodies {
        let length = body.len();
        let verdict = client.deliver(DeliverRequest { body }).await.unwrap().into_inner().verdict;
        assert!(matches!(verdict, Some(deliver_reply::Verdict::Refused(_))), "{length}: {verdict:?}");
    }
    let too_long = client.deliver(DeliverRequest { body: vec![0; 8 << 20] }).await.unwrap_err();
    assert!(matches!(too_long.code(), Code::OutOfRange | Code::ResourceExhausted), "{too_long}");
    let ids = (0..40_000).map(|id: u32| id.to_be_bytes().repeat(8)).collect();
    client.acknowledge(AcknowledgeRequest { ids }).await.unwrap();

    // Uploads of attempts that are not its own, at places that are none.
    for attempt in [0, 1, 2, u64::MAX] {
        let name = Some(UploadName { study: study.clone(), attempt });
        let state = client.upload_state(UploadStateRequest { name: name.clone() }).await;
        assert!(state.is_err() || state.unwrap().into_inner().closed);
        for offset in [0, 1, 1 << 20, u64::MAX] {
            let chunk = UploadChunk { name: name.clone(), offset, bytes: vec![1; 1 << 20].into() };
            let chunks = vec![chunk.clone(), chunk];
            let reply = client.upload(tokio_stream::iter(chunks)).await;
            let taken = reply.is_ok_and(|reply| match reply.into_inner().verdict {
                Some(upload_reply::Verdict::State(state)) => !state.closed,
                Some(upload_reply::Verdict::Refused(_)) | None => false,
            });
            assert!(!taken, "attempt {attempt}, offset {offset}");
        }
    }
    let name = Some(UploadName { study: vec![7; 3], attempt: 1 });
    assert!(client.upload_state(UploadStateRequest { name }).await.is_err());

    // Files that are not there, or not its business, or beyond their end.
    for hash in [vec![], vec![1; 32], study, vec![0; 1 << 20]] {
        let fetched = client.fetch(FetchRequest { hash, offset: u64::MAX }).await;
        assert!(fetched.is_err());
    }

    lab.released("lungs", PATIENCE).unwrap();
    let coordinator = lab.coordinator.as_mut().unwrap();
    assert!(coordinator.runs());
    let peak = coordinator.peak_memory().unwrap() >> 20;
    assert!(peak < MOST_MEMORY_MIB, "{peak} MiB");
    drop(streams);
}

#[test]
fn a_masked_vector_that_rotted_on_disk_is_refused_and_the_round_goes_on_without_it() {
    for (study, rot) in [("flipped", flip as fn(&Path)), ("truncated", truncate)] {
        let mut lab = Lab::new(PROGRAMS, 4).unwrap();
        // The coordinator dies before it has kept the first vector, so every vector is sent once more.
        lab.kill_coordinator().unwrap();
        let mut doomed =
            lab.spawn_coordinator(&[("CONSILIUM_CRASH_AT", "coordinator.upload.before")]).unwrap();
        doomed.ready().unwrap();
        lab.start_agents().unwrap();
        lab.launch(&Study { name: study, rounds: 2, collect_timeout: "5s", ..Study::default() }).unwrap();
        assert!(wait_until(PATIENCE, || !doomed.runs()));
        let (victim, spool) =
            lab.sites().iter().find_map(|site| Some((site.clone(), lab.spooled(site)?))).unwrap();
        rot(&spool);
        lab.start_coordinator(&[]).unwrap();
        lab.released(study, PATIENCE).unwrap();
        let status = lab.status(study).unwrap();
        let lines = status["lines"].as_array().unwrap();
        assert_eq!(lines[0]["missing"], serde_json::json!([victim]), "{study}: {lines:?} {}", lab.logs());
        assert_eq!(lines[0]["counted"], 3);
    }
}

fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

fn truncate(file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
}
