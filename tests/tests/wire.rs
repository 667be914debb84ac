//! What somebody on the line sees: TLS 1.3, and nothing else.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use consilium_tests::{Lab, Programs, Rogue, Study};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const PROGRAMS: Programs = Programs {
    consilium: env!("CARGO_BIN_EXE_consilium-under-test"),
    coordinator: env!("CARGO_BIN_EXE_coordinator-under-test"),
    site_agent: env!("CARGO_BIN_EXE_site-agent-under-test"),
};

/// Both directions of every connection.
type Recordings = Arc<Mutex<Vec<Arc<Mutex<[Vec<u8>; 2]>>>>>;

/// A proxy that passes everything on and writes it down. Returns its port.
fn recording_proxy(target: u16) -> (u16, Recordings) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let recordings = Recordings::default();
    let kept = Arc::clone(&recordings);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { continue };
            let recording = Arc::<Mutex<[Vec<u8>; 2]>>::default();
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&recording));
            let pairs =
                [(client.try_clone(), server.try_clone(), 0), (server.try_clone(), client.try_clone(), 1)];
            for (from, to, side) in pairs {
                let (mut from, mut to) = (from.unwrap(), to.unwrap());
                let recording = Arc::clone(&recording);
                std::thread::spawn(move || {
                    let mut buffer = [0; 16384];
                    while let Ok(length @ 1..) = from.read(&mut buffer) {
                        recording.lock().unwrap_or_else(PoisonError::into_inner)[side]
                            .extend(&buffer[..length]);
                        if to.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    (port, recordings)
}

/// Types and bodies of the whole TLS records in a recording.
fn records(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = bytes;
    let mut records = Vec::new();
    while rest.len() >= 5 {
        let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        let Some(body) = rest.get(5..5 + length) else { break };
        records.push((rest[0], body));
        rest = &rest[5 + length..];
    }
    records
}

/// The version that a ServerHello selects (RFC 8446, section 4.1.3).
fn selected_version(hello: &[u8]) -> Option<u16> {
    let session = usize::from(*hello.get(38)?);
    let mut extensions = hello.get(39 + session + 3 + 2..)?;
    while let [high, low, len_high, len_low, rest @ ..] = extensions {
        let length = usize::from(u16::from_be_bytes([*len_high, *len_low]));
        if u16::from_be_bytes([*high, *low]) == 43 {
            return Some(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?));
        }
        extensions = rest.get(length..)?;
    }
    None
}

#[test]
fn a_recording_proxy_sees_tls_1_3_only() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let (told, recordings) = recording_proxy(port);
    let mut lab = Lab::reached_through(PROGRAMS, 3, Some((port, told))).unwrap();
    lab.start_agents().unwrap();
    lab.launch(&Study { rounds: 2, ..Study::default() }).unwrap();
    lab.released("lungs", Duration::from_secs(90)).unwrap();

    let recordings = recordings.lock().unwrap();
    let mut handshakes = 0;
    for recording in recordings.iter() {
        let [up, down] = recording.lock().unwrap().clone();
        let (from_client, from_server) = (records(&up), records(&down));
        let Some((_, hello)) = from_server.first() else { continue };
        handshakes += 1;
        assert_eq!(selected_version(hello), Some(0x0304), "another version than TLS 1.3");
        for side in [&from_client, &from_server] {
            // One hello in the clear; then a record for old middleboxes (20) and encrypted ones (23).
            assert_eq!(side[0].0, 22);
            assert!(side[1..].iter().all(|(kind, _)| matches!(kind, 20 | 23)), "a record in the clear");
        }
        for bytes in [&up, &down] {
            // Names of parties stand in certificates, names of studies in messages.
            assert!(!bytes.windows(6).any(|window| window == b"spiffe"));
            assert!(!bytes.windows(5).any(|window| window == b"lungs"));
        }
    }
    assert!(handshakes >= 6, "three enrolments and three agents at least, not {handshakes}");
}

/// Tools find out by themselves what runs here and how it is, over a member's connection like everything else.
#[tokio::test]
async fn health_and_reflection_answer() {
    let lab = Lab::new(PROGRAMS, 1).unwrap();
    let channel = Rogue::in_place_of(&lab, "a").unwrap().dial().await.unwrap();
    let check = HealthCheckRequest { service: String::new() };
    let health = HealthClient::new(channel.clone()).check(check).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut replies = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::iter([list]))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(listed)) =
        replies.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list");
    };
    let names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["consilium.v1.Site", "consilium.v1.Operator", "consilium.v1.Enrolment"] {
        assert!(names.contains(&name), "{names:?}");
    }
}
