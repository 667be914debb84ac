//! Uploads and downloads: in chunks, from where the last one stopped.

use consilium_proto::v1::site_client::SiteClient;
use consilium_proto::v1::{
    FetchRequest, UploadChunk, UploadName, UploadStateReply, UploadStateRequest, upload_reply,
};
use consilium_study::hash::Hash;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::pipe::message::{FromRelay, Upload, Verdict};

/// Length of a chunk on every way.
const CHUNK: usize = consilium_proto::CHUNK;

/// How long to wait before a file that the coordinator lacks is asked for again.
const LACKING: std::time::Duration = std::time::Duration::from_secs(5);

/// Sends a masked vector from where the coordinator has it to its end, and tells the vault how it ended.
pub(super) async fn upload(
    mut client: SiteClient<Channel>,
    upload: Upload,
    mut chunks: mpsc::Receiver<(u32, Vec<u8>)>,
    vault: mpsc::Sender<FromRelay>,
) -> Result<(), Status> {
    let name = UploadName { study: upload.study.as_bytes().to_vec(), attempt: upload.attempt.into() };
    let request = UploadStateRequest { name: Some(name.clone()) };
    let mut state = client.upload_state(request).await?.into_inner();
    let verdict = loop {
        if let Some(verdict) = settled(&state) {
            break verdict;
        }
        let before = state.offset;
        let (sender, receiver) = mpsc::channel(1);
        let feed = feed(upload, &name, before, &mut chunks, &vault, sender);
        let (reply, whole) = tokio::join!(client.upload(ReceiverStream::new(receiver)), feed);
        match reply?.into_inner().verdict {
            Some(upload_reply::Verdict::State(next)) => state = next,
            Some(upload_reply::Verdict::Refused(refused)) => break Verdict::Refused { code: refused.code },
            None => return Err(Status::internal("an upload was answered with nothing")),
        }
        if settled(&state).is_none() && (!whole || state.offset <= before) {
            break Verdict::Refused { code: "incomplete".into() };
        }
    };
    let _ = vault.send(FromRelay::Uploaded { upload, verdict }).await;
    Ok(())
}

fn settled(state: &UploadStateReply) -> Option<Verdict> {
    match state {
        UploadStateReply { complete: true, .. } => Some(Verdict::Recorded),
        UploadStateReply { closed: true, .. } => Some(Verdict::Refused { code: "closed".into() }),
        UploadStateReply { .. } => None,
    }
}

/// Pulls chunks from the vault, one ahead of the network. Returns whether the last one was sent.
async fn feed(
    upload: Upload,
    name: &UploadName,
    from: u64,
    chunks: &mut mpsc::Receiver<(u32, Vec<u8>)>,
    vault: &mpsc::Sender<FromRelay>,
    network: mpsc::Sender<UploadChunk>,
) -> bool {
    let mut offset = from - from % CHUNK as u64;
    let mut name = Some(name.clone());
    while offset < upload.length {
        let Ok(index) = u32::try_from(offset / CHUNK as u64) else { return false };
        if vault.send(FromRelay::ReadChunk { upload, index }).await.is_err() {
            return false;
        }
        let bytes = loop {
            match chunks.recv().await {
                Some((got, bytes)) if got == index => break bytes,
                Some(_) => {}
                None => return false,
            }
        };
        if bytes.is_empty() {
            return false;
        }
        let length = bytes.len() as u64;
        if network.send(UploadChunk { name: name.take(), offset, bytes: bytes.into() }).await.is_err() {
            return false;
        }
        offset += length;
    }
    true
}

/// Hands a file to the vault, piece by piece, from an offset on.
pub(super) async fn fetch(
    mut client: SiteClient<Channel>,
    hash: Hash,
    mut offset: u64,
    vault: mpsc::Sender<FromRelay>,
) -> Result<(), Status> {
    loop {
        let request = FetchRequest { hash: hash.as_bytes().to_vec(), offset };
        let mut stream = match client.fetch(request).await {
            Ok(reply) => reply.into_inner(),
            Err(status) if status.code() == Code::NotFound => {
                tracing::warn!(
                    file = hash.short(),
                    "the coordinator does not have a file that a study names"
                );
                tokio::time::sleep(LACKING).await;
                continue;
            }
            Err(status) => return Err(status),
        };
        let mut length = None;
        while let Some(chunk) = stream.message().await? {
            let length = *length.get_or_insert(chunk.length);
            // A frame of the local pipe holds one chunk, whatever the network sends at once.
            let mut pieces = chunk.bytes.chunks(CHUNK).peekable();
            while let Some(piece) = pieces.next() {
                let last = pieces.peek().is_none() && offset + piece.len() as u64 >= length;
                let blob = FromRelay::Blob { hash, offset, bytes: piece.to_vec().into(), last };
                offset += piece.len() as u64;
                if vault.send(blob).await.is_err() || last {
                    return Ok(());
                }
            }
        }
        if length.is_none_or(|length| offset >= length) {
            // Nothing was missing but the word that nothing was.
            let _ = vault.send(FromRelay::Blob { hash, offset, bytes: Vec::new().into(), last: true }).await;
            return Ok(());
        }
    }
}
