//! The calls of the agents, passed on by a coordinator that lies.

use std::pin::Pin;

use consilium_coordinator::listener::Caller;
use consilium_proto::v1::site_server::Site;
use consilium_proto::v1::{
    AcknowledgeReply, AcknowledgeRequest, AttendRequest, DeliverReply, DeliverRequest,
    Directive as WireDirective, FetchChunk, FetchRequest, HeartbeatReply, HeartbeatRequest, Recorded,
    RenewReply, RenewRequest, UploadChunk, UploadReply, UploadStateReply, UploadStateRequest, deliver_reply,
    upload_reply,
};
use consilium_rounds::message::{Letter, SiteMessage};
use consilium_study::hash::Hash;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::hostile::{Shared, State, to_wire};

/// What agents call.
pub(crate) struct Wire {
    shared: Shared,
}

impl Wire {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared }
    }
}

/// The site at the other end.
fn site<T>(request: &Request<T>) -> Result<String, Status> {
    let caller = request.extensions().get::<Caller>();
    let name = caller.and_then(|caller| caller.peer.site().ok());
    name.map(ToString::to_string).ok_or_else(|| Status::permission_denied("sites only"))
}

/// What a site's message becomes, and whether it goes on.
fn script_message(state: &mut State, from: &str, letter: Letter<SiteMessage>) -> Option<Vec<u8>> {
    let Letter { study, message } = letter;
    state.said.push((from.to_owned(), message.clone()));
    let announced = match &message {
        SiteMessage::Masked(masked) => Some(u64::from(masked.attempt.get())),
        _ => None,
    };
    let changed = (state.on_message)(from, message);
    if let (None, Some(attempt)) = (&changed, announced) {
        state.kept.insert((from.to_owned(), attempt));
    }
    changed.map(|message| Letter { study, message }.to_bytes())
}

#[tonic::async_trait]
impl Site for Wire {
    type AttendStream = ReceiverStream<Result<WireDirective, Status>>;
    type FetchStream = Pin<Box<dyn Stream<Item = Result<FetchChunk, Status>> + Send>>;

    async fn attend(&self, request: Request<AttendRequest>) -> Result<Response<Self::AttendStream>, Status> {
        let site = site(&request)?;
        let mut client = self.shared.upstream(&site, true).await?;
        let mut upstream = client.attend(request.into_inner()).await?.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        self.shared.lock().streams.insert(site.clone(), sender.clone());
        let shared = self.shared.clone();
        tokio::spawn(async move {
            while let Ok(Some(directive)) = upstream.message().await {
                let Ok(letter) = Letter::from_bytes(&directive.body) else { continue };
                let told = {
                    let mut state = shared.lock();
                    state.heard.push((site.clone(), letter.clone()));
                    let study = letter.study;
                    let changed = (state.on_directive)(&site, letter.message);
                    changed.into_iter().map(move |message| Letter { study, message })
                };
                for letter in told {
                    if sender.send(Ok(to_wire(&letter))).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeReply>, Status> {
        let site = site(&request)?;
        self.shared.lock().acknowledged.extend(request.get_ref().ids.iter().cloned());
        let mut client = self.shared.upstream(&site, false).await?;
        client.acknowledge(request.into_inner()).await
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        let mut client = self.shared.upstream(&site(&request)?, false).await?;
        client.heartbeat(request.into_inner()).await
    }

    async fn deliver(&self, request: Request<DeliverRequest>) -> Result<Response<DeliverReply>, Status> {
        let site = site(&request)?;
        let letter = Letter::<SiteMessage>::from_bytes(&request.into_inner().body)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let body = script_message(&mut self.shared.lock(), &site, letter);
        let Some(body) = body else {
            let verdict = Some(deliver_reply::Verdict::Recorded(Recorded {}));
            return Ok(Response::new(DeliverReply { verdict }));
        };
        let mut client = self.shared.upstream(&site, false).await?;
        let reply = client.deliver(DeliverRequest { body }).await?;
        if let Some(deliver_reply::Verdict::Refused(refused)) = &reply.get_ref().verdict {
            self.shared.lock().refused.push((site, refused.code.clone(), refused.reason.clone()));
        }
        Ok(reply)
    }

    async fn upload_state(
        &self,
        request: Request<UploadStateRequest>,
    ) -> Result<Response<UploadStateReply>, Status> {
        let site = site(&request)?;
        let attempt = request.get_ref().name.as_ref().map_or(0, |name| name.attempt);
        if self.shared.lock().kept.contains(&(site.clone(), attempt)) {
            return Ok(Response::new(UploadStateReply { offset: 0, complete: false, closed: false }));
        }
        let mut client = self.shared.upstream(&site, false).await?;
        client.upload_state(request.into_inner()).await
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReply>, Status> {
        let site = site(&request)?;
        let mut chunks = request.into_inner();
        let mut name = None;
        let (mut offset, mut bytes) = (None, Vec::new());
        while let Some(chunk) = chunks.message().await? {
            name = name.or(chunk.name);
            offset = offset.or(Some(chunk.offset));
            bytes.extend_from_slice(&chunk.bytes);
        }
        let attempt = name.as_ref().map_or(0, |name| name.attempt);
        let key = (site.clone(), attempt);
        let (kept, sent, _on_its_way) = {
            let mut state = self.shared.lock();
            state.uploads.insert(key.clone(), bytes.clone());
            let sent = (state.on_upload)(&site, attempt, bytes);
            (state.kept.contains(&key), sent, state.on_its_way.clone())
        };
        if kept {
            let state = UploadStateReply { offset: sent.len() as u64, complete: true, closed: false };
            return Ok(Response::new(UploadReply { verdict: Some(upload_reply::Verdict::State(state)) }));
        }
        let mut offset = offset.unwrap_or_default();
        let mut sent_chunks = Vec::new();
        for chunk in sent.chunks(consilium_proto::CHUNK) {
            sent_chunks.push(UploadChunk { name: name.take(), offset, bytes: chunk.to_vec().into() });
            offset += chunk.len() as u64;
        }
        let mut client = self.shared.upstream(&site, false).await?;
        let reply = client.upload(tokio_stream::iter(sent_chunks)).await?;
        if let Some(upload_reply::Verdict::Refused(refused)) = &reply.get_ref().verdict {
            self.shared.lock().refused.push((site, refused.code.clone(), refused.reason.clone()));
        }
        Ok(reply)
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let site = site(&request)?;
        let FetchRequest { hash, offset } = request.get_ref();
        let hash = <[u8; 32]>::try_from(hash.as_slice()).ok().map(Hash::from_bytes);
        let own = hash.and_then(|hash| self.shared.lock().files.get(&hash).cloned());
        if let Some(file) = own {
            let rest = file.get(*offset as usize..).unwrap_or_default();
            let chunk = FetchChunk { length: file.len() as u64, bytes: rest.to_vec().into() };
            return Ok(Response::new(Box::pin(tokio_stream::iter([Ok(chunk)]))));
        }
        let mut client = self.shared.upstream(&site, false).await?;
        let reply = client.fetch(request.into_inner()).await?;
        Ok(Response::new(Box::pin(reply.into_inner())))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let mut client = self.shared.upstream(&site(&request)?, false).await?;
        client.renew(request.into_inner()).await
    }
}
