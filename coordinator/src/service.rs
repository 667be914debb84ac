//! The gRPC services: wire types become domain types here, once, fallibly.

pub mod enrolment;
pub mod operator;
pub mod site;

use std::sync::Arc;

use consilium_study::hash::Hash;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use crate::blobs::Blobs;
use crate::hub::Hub;
use crate::listener::Caller;
use crate::study::Fatal;

/// Who calls, judged again: a certificate may have been revoked since the handshake.
fn caller<T>(hub: &Hub, request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    let caller = caller.ok_or_else(|| Status::unauthenticated("a member's certificate is needed"))?;
    hub.trust
        .recheck(&caller.peer, Timestamp::now())
        .map_err(|refusal| Status::permission_denied(refusal.to_string()))?;
    Ok(caller)
}

fn hash(bytes: &[u8]) -> Result<Hash, Status> {
    let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| Status::invalid_argument("a hash has 32 bytes"))?;
    Ok(Hash::from_bytes(bytes))
}

/// The peer is told that something failed here, and not what: the reason is in the coordinator's log.
fn failed(hub: &Hub, fatal: &Fatal) -> Status {
    tracing::error!(error = %fatal, "the coordinator cannot record; it stops");
    hub.stop.cancel();
    Status::unavailable("the coordinator cannot write to its disk")
}

/// Reads a piece of a blob without holding up other tasks.
async fn read_piece(blobs: &Blobs, hash: Hash, offset: u64) -> Result<(Vec<u8>, u64), Status> {
    let blobs = blobs.clone();
    let read =
        tokio::task::spawn_blocking(move || blobs.read_at(&hash, offset, consilium_proto::CHUNK)).await;
    match read {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Status::not_found("there is no file with this hash"))
        }
        _ => Err(Status::unavailable("the file cannot be read at the moment")),
    }
}

/// The pieces of a blob from `offset` on, as replies made of their bytes and the blob's length. One is read ahead of the
/// network, for each of the many hospitals that fetch a model at the same time.
fn pieces<T: Send + 'static>(
    blobs: Blobs,
    hash: Hash,
    mut offset: u64,
    mut reply: impl FnMut(Vec<u8>, u64) -> T + Send + 'static,
) -> ReceiverStream<Result<T, Status>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok(place) = sender.reserve().await {
            let piece = read_piece(&blobs, hash, offset).await;
            let (read, done) = piece.as_ref().map_or((0, true), |(bytes, length)| {
                let read = bytes.len() as u64;
                (read, offset + read >= *length)
            });
            offset += read;
            place.send(piece.map(|(bytes, length)| reply(bytes, length)));
            if done {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// The three services over one hub.
#[derive(Clone)]
pub struct Services {
    hub: Arc<Hub>,
}

impl Services {
    /// Services of a running coordinator.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }
}
