//! One connection to the coordinator, from `Attend` to its end.
//!
//! Nothing is remembered from one connection to the next: the vault says again what was not answered,
//! and the coordinator repeats what was not acknowledged.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use consilium_proto::v1::site_client::SiteClient;
use consilium_proto::v1::{
    AcknowledgeRequest, AttendRequest, DeliverRequest, Directive, HeartbeatRequest, deliver_reply,
};
use consilium_study::hash::Hash;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::board::Board;
use super::pipe::VaultPipe;
use super::trace::Traces;
use super::transfer;
use crate::pipe::message::{FromRelay, FromVault, Link, Upload, Verdict};

/// How often the coordinator hears that this site is alive.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);

/// Longest wait for the answer to a heartbeat or a message.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why a connection ended.
pub(super) enum Ended {
    /// The vault is gone for good: the agent stops.
    Stopped,
    /// The coordinator cut the connection or refused.
    Cut(Status),
}

/// A message on its way.
struct Delivery {
    id: Hash,
    message: Vec<u8>,
    parent: String,
}

/// What happens besides the stream of directives, each in a task of its own.
struct Session<'a> {
    client: SiteClient<Channel>,
    vault: mpsc::Sender<FromRelay>,
    traces: &'a Traces,
    tasks: JoinSet<Result<(), Status>>,
    deliveries: mpsc::UnboundedSender<Delivery>,
    acknowledgements: mpsc::UnboundedSender<Hash>,
    /// Where the chunks of each running upload go.
    uploads: BTreeMap<Upload, mpsc::Sender<(u32, Vec<u8>)>>,
    /// The running fetch of each file.
    fetches: BTreeMap<Hash, tokio::task::AbortHandle>,
}

/// Serves the vault over one connection until it ends.
pub(super) async fn serve(
    client: SiteClient<Channel>,
    pipe: &mut VaultPipe,
    board: &Board,
    traces: &Traces,
) -> Ended {
    let mut attending = match attend(client.clone()).await {
        Ok(stream) => stream,
        Err(status) => return Ended::Cut(status),
    };
    board.connected();
    if pipe.to.send(FromRelay::Link(Link::Up)).await.is_err() {
        return Ended::Stopped;
    }
    let mut session = Session::start(client, pipe.to.clone(), traces);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let ended = loop {
        tokio::select! {
            message = pipe.from.recv() => match message {
                None => break Ended::Stopped,
                Some(FromVault::Hello) => {
                    // A fresh vault knows nothing of this connection: start over on the same channel.
                    session.forget();
                    match attend(session.client.clone()).await {
                        Ok(stream) => attending = stream,
                        Err(status) => break Ended::Cut(status),
                    }
                    if pipe.to.send(FromRelay::Link(Link::Up)).await.is_err() {
                        break Ended::Stopped;
                    }
                }
                Some(message) => session.handle(message),
            },
            directive = attending.message() => match directive {
                Ok(Some(directive)) => {
                    if !forward(directive, &pipe.to).await {
                        break Ended::Stopped;
                    }
                }
                Ok(None) => break Ended::Cut(Status::unavailable("the directive stream ended")),
                Err(status) => break Ended::Cut(status),
            },
            _ = heartbeat.tick() => session.beat(board.heard()),
            Some(done) = session.tasks.join_next() => match done {
                Ok(Err(status)) => break Ended::Cut(status),
                Ok(Ok(())) => {}
                Err(error) if error.is_cancelled() => {}
                Err(error) => break Ended::Cut(Status::internal(format!("a task of the relay failed: {error}"))),
            },
        }
    };
    session.tasks.shutdown().await;
    ended
}

async fn attend(mut client: SiteClient<Channel>) -> Result<Streaming<Directive>, Status> {
    let request = AttendRequest {
        protocol: consilium_proto::PROTOCOL,
        agent: concat!("site-agent ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    match tokio::time::timeout(PATIENCE, client.attend(request)).await {
        Ok(reply) => Ok(reply?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("the coordinator does not answer")),
    }
}

async fn forward(directive: Directive, vault: &mpsc::Sender<FromRelay>) -> bool {
    let Directive { body, traceparent, .. } = directive;
    if body.len() > consilium_proto::CHUNK + 4096 {
        tracing::warn!(bytes = body.len(), "the coordinator sent a directive that is too long");
        return true;
    }
    let parent = if traceparent.len() <= 64 { traceparent } else { String::new() };
    vault.send(FromRelay::Directive { bytes: body.into(), parent }).await.is_ok()
}

impl<'a> Session<'a> {
    fn start(client: SiteClient<Channel>, vault: mpsc::Sender<FromRelay>, traces: &'a Traces) -> Self {
        let (deliveries, queue) = mpsc::unbounded_channel();
        let (acknowledgements, ids) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(deliver(client.clone(), queue, vault.clone(), traces.clone()));
        tasks.spawn(acknowledge(client.clone(), ids));
        let (uploads, fetches) = (BTreeMap::new(), BTreeMap::new());
        Self { client, vault, traces, tasks, deliveries, acknowledgements, uploads, fetches }
    }

    /// The vault is a new one: what ran for the old one ends.
    fn forget(&mut self) {
        let traces = self.traces;
        self.tasks.abort_all();
        *self = Self::start(self.client.clone(), self.vault.clone(), traces);
    }

    fn handle(&mut self, message: FromVault) {
        match message {
            FromVault::Hello => self.forget(),
            FromVault::Want { hash, offset } => {
                let task =
                    self.tasks.spawn(transfer::fetch(self.client.clone(), hash, offset, self.vault.clone()));
                if let Some(earlier) = self.fetches.insert(hash, task) {
                    earlier.abort();
                }
                self.fetches.retain(|_, task| !task.is_finished());
            }
            FromVault::Say { id, message, parent } => {
                // An error means that the task has ended, and with it soon this connection.
                let _ = self.deliveries.send(Delivery { id, message: message.into(), parent });
            }
            FromVault::Acknowledge { directive } => {
                let _ = self.acknowledgements.send(directive);
            }
            FromVault::UploadReady { upload, parent } => {
                let (sender, chunks) = mpsc::channel(1);
                self.uploads.retain(|_, chunks| !chunks.is_closed());
                self.uploads.insert(upload, sender);
                let (client, vault, traces) = (self.client.clone(), self.vault.clone(), self.traces.clone());
                self.tasks.spawn(async move {
                    let began = SystemTime::now();
                    transfer::upload(client, upload, chunks, vault).await?;
                    traces.relay("relay.upload", &parent, began, SystemTime::now());
                    Ok(())
                });
            }
            FromVault::Chunk { upload, index, bytes } => {
                if let Some(chunks) = self.uploads.get(&upload) {
                    // Each chunk was asked for and one is on its way at a time, so there is room.
                    let _ = chunks.try_send((index, bytes.into()));
                }
            }
            FromVault::Span(span) => self.traces.vault(&span),
        }
    }

    fn beat(&mut self, heard: impl FnOnce() + Send + 'static) {
        let mut client = self.client.clone();
        self.tasks.spawn(async move {
            match tokio::time::timeout(PATIENCE, client.heartbeat(HeartbeatRequest {})).await {
                Ok(reply) => {
                    reply?;
                    heard();
                    Ok(())
                }
                Err(_) => Err(Status::deadline_exceeded("the coordinator does not answer heartbeats")),
            }
        });
    }
}

/// Delivers messages one after the other, in the order in which the vault said them.
async fn deliver(
    mut client: SiteClient<Channel>,
    mut queue: mpsc::UnboundedReceiver<Delivery>,
    vault: mpsc::Sender<FromRelay>,
    traces: Traces,
) -> Result<(), Status> {
    while let Some(Delivery { id, message, parent }) = queue.recv().await {
        let began = SystemTime::now();
        let reply = tokio::time::timeout(PATIENCE, client.deliver(DeliverRequest { body: message }))
            .await
            .map_err(|_| Status::deadline_exceeded("the coordinator does not answer a message"))??;
        traces.relay("relay.deliver", &parent, began, SystemTime::now());
        let verdict = match reply.into_inner().verdict {
            Some(deliver_reply::Verdict::Recorded(_)) => Verdict::Recorded,
            Some(deliver_reply::Verdict::Refused(refused)) => Verdict::Refused { code: refused.code },
            None => return Err(Status::internal("a message was answered with nothing")),
        };
        if vault.send(FromRelay::Said { id, verdict }).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Acknowledges directives, several at once where they come close together.
async fn acknowledge(
    mut client: SiteClient<Channel>,
    mut ids: mpsc::UnboundedReceiver<Hash>,
) -> Result<(), Status> {
    let mut batch = Vec::new();
    while ids.recv_many(&mut batch, 256).await > 0 {
        let ids = batch.drain(..).map(|id| id.as_bytes().to_vec()).collect();
        client.acknowledge(AcknowledgeRequest { ids }).await?;
    }
    Ok(())
}
