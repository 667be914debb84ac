//! What a site's relay says and hears.

use std::io;
use std::time::{Duration, Instant};

use consilium_proto::v1::site_server::Site;
use consilium_proto::v1::{
    AcknowledgeReply, AcknowledgeRequest, AttendRequest, DeliverReply, DeliverRequest, Directive, FetchChunk,
    FetchRequest, HeartbeatReply, HeartbeatRequest, Recorded, Refused, RenewReply, RenewRequest, UploadChunk,
    UploadName as WireName, UploadReply, UploadStateReply, UploadStateRequest, deliver_reply, upload_reply,
};
use consilium_rounds::Event;
use consilium_rounds::message::{DirectiveId, Letter, SiteMessage};
use consilium_rounds::{ExpectedUpload, StudyMachine};
use consilium_secagg::layout::CHUNK_BYTES;
use consilium_secagg::numbering::Attempt;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use jiff::Timestamp;
use tokio_stream::wrappers::ReceiverStream;

use tonic::{Request, Response, Status, Streaming};

use super::{Services, caller, hash, pieces};
use crate::attend;
use crate::hub::Hub;
use crate::study::{Refusal, StudyHandle, attempt_number, now};
use crate::uploads::UploadName;

/// How often the study hears at most that an upload grows. Each time is a commit.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// The site at the other end.
fn site<T>(hub: &Hub, request: &Request<T>) -> Result<SiteName, Status> {
    let caller = caller(hub, request)?;
    let site = caller.peer.site().map_err(|wrong| Status::permission_denied(wrong.to_string()))?.clone();
    hub.presence.heard(&site);
    Ok(site)
}

/// An upload that is being received.
struct Receiving {
    study: StudyHandle,
    attempt: Attempt,
    site: SiteName,
}

impl Receiving {
    fn find(hub: &Hub, site: SiteName, name: Option<WireName>) -> Result<Self, Status> {
        let name = name.ok_or_else(|| Status::invalid_argument("an upload needs a name"))?;
        let study = study_of(hub, &site, &name.study)?;
        let attempt = attempt_number(name.attempt)
            .ok_or_else(|| Status::invalid_argument("this is no number of an attempt"))?;
        Ok(Self { study, attempt, site })
    }

    fn name(&self, expected: &ExpectedUpload) -> UploadName {
        let attempt = u64::from(self.attempt.get());
        UploadName { study: self.study.hash, attempt, vector: expected.vector }
    }

    fn state(&self, hub: &Hub) -> UploadStateReply {
        let machine = self.study.machine();
        let complete = machine.has_upload(&self.site, self.attempt);
        match machine.expects_upload(&self.site, self.attempt) {
            Some(expected) if !complete => {
                let offset = hub.parts.uploads.offset(&self.name(&expected), expected.bytes);
                UploadStateReply { offset, complete, closed: false }
            }
            _ => UploadStateReply { offset: 0, complete, closed: !complete },
        }
    }

    /// Whether the chunks that were there before this stream are still what was written. If not, the vector is thrown
    /// away and comes anew.
    fn still_holds(&self, hub: &Hub, name: &UploadName, chunks: usize) -> io::Result<bool> {
        let machine = self.study.machine();
        let check = |index, bytes: &[u8]| machine.check_chunk(&self.site, self.attempt, index, bytes).is_ok();
        let Some(index) = hub.parts.uploads.first_damaged(name, chunks, check)? else { return Ok(true) };
        tracing::warn!(site = %self.site, attempt = self.attempt.get(), index, "a spooled chunk is damaged; its vector comes anew");
        hub.parts.uploads.discard(name)?;
        Ok(false)
    }

    /// Takes chunks in until the vector is complete.
    async fn receive(
        &self,
        hub: &Hub,
        first: UploadChunk,
        mut rest: Streaming<UploadChunk>,
    ) -> Result<upload_reply::Verdict, Status> {
        let Some(expected) = self.study.machine().expects_upload(&self.site, self.attempt) else {
            return Ok(upload_reply::Verdict::State(self.state(hub)));
        };
        let disk = |error: io::Error| {
            tracing::error!(%error, "an upload cannot be written");
            Status::resource_exhausted("the coordinator has no room for this upload")
        };
        let name = self.name(&expected);
        let mut spool = hub.parts.uploads.appender(&name, expected.bytes).map_err(disk)?;
        let found = spool.offset() as usize / CHUNK_BYTES;
        let mut chunk = Some(first);
        let mut told = Instant::now();
        while let Some(UploadChunk { offset, bytes, .. }) = chunk {
            if offset != spool.offset() {
                return Ok(refuse("offset", format!("the next byte is {}, not {offset}", spool.offset())));
            }
            if spool.offset() + bytes.len() as u64 > expected.bytes {
                return Ok(refuse("too_long", format!("the vector has {} bytes", expected.bytes)));
            }
            let index = usize::try_from(offset).unwrap_or(usize::MAX) / CHUNK_BYTES;
            let machine = self.study.machine();
            let written = tokio::task::block_in_place(|| {
                if offset % CHUNK_BYTES as u64 != 0 {
                    return Ok(Err("a chunk begins at a multiple of 1 MiB".to_owned()));
                }
                if let Err(refusal) = machine.check_chunk(&self.site, self.attempt, index, &bytes) {
                    return Ok(Err(refusal.to_string()));
                }
                spool.append(&bytes).map(Ok)
            });
            if let Err(reason) = written.map_err(disk)? {
                tracing::warn!(site = %self.site, attempt = self.attempt.get(), index, reason, "chunk refused");
                hub.parts.telemetry.counters.message_refused();
                return Ok(refuse("chunk", reason));
            }
            hub.presence.heard(&self.site);
            hub.parts.telemetry.counters.uploaded(bytes.len() as u64);
            self.study.count_up(bytes.len() as u64);
            if spool.offset() == expected.bytes {
                let whole = tokio::task::block_in_place(|| {
                    spool.finish()?;
                    self.still_holds(hub, &name, found)
                });
                if !whole.map_err(disk)? {
                    return Ok(upload_reply::Verdict::State(self.state(hub)));
                }
                let event = Event::Uploaded { from: self.site.clone(), attempt: self.attempt };
                return Ok(match self.study.tell(event).await {
                    Ok(()) => upload_reply::Verdict::State(self.state(hub)),
                    Err(Refusal::Stopping) => return Err(Status::unavailable(Refusal::Stopping.to_string())),
                    Err(refusal) => refuse("upload", refusal.to_string()),
                });
            }
            if told.elapsed() >= TELL_AFTER {
                told = Instant::now();
                let (from, bytes) = (self.site.clone(), spool.offset());
                let event = Event::Receiving { from, attempt: self.attempt, bytes, of: expected.bytes };
                if let Err(refusal) = self.study.tell(event).await {
                    return Ok(refuse("upload", refusal.to_string()));
                }
            }
            chunk = rest.message().await?;
        }
        Ok(upload_reply::Verdict::State(self.state(hub)))
    }
}

fn refuse(code: &str, reason: String) -> upload_reply::Verdict {
    upload_reply::Verdict::Refused(Refused { code: code.to_owned(), reason })
}

/// A study, if it names the site that asks: what other studies there are is nobody's business.
fn study_of(hub: &Hub, site: &SiteName, study: &[u8]) -> Result<StudyHandle, Status> {
    hub.study(&hash(study)?)
        .filter(|study| study.sites.contains(site))
        .ok_or_else(|| Status::not_found("no study of this hash names this site"))
}

/// Whether sites of a study work with a file: a model, or the mean of control variates beside it.
fn names_file(machine: &StudyMachine, file: &Hash) -> bool {
    *file == machine.model()
        || *file == machine.study().initial_model()
        || machine.control() == Some(*file)
        || machine.candidate().is_some_and(|(candidate, _)| candidate == *file)
        || machine.adoptions().iter().any(|adoption| adoption.candidate == *file)
}

#[tonic::async_trait]
impl Site for Services {
    type AttendStream = ReceiverStream<Result<Directive, Status>>;
    type FetchStream = ReceiverStream<Result<FetchChunk, Status>>;

    async fn attend(&self, request: Request<AttendRequest>) -> Result<Response<Self::AttendStream>, Status> {
        let site = site(&self.hub, &request)?;
        let AttendRequest { protocol, agent } = request.into_inner();
        let spoken = consilium_proto::PROTOCOL;
        if protocol > spoken {
            return Err(Status::failed_precondition(format!(
                "this agent speaks version {protocol} of the protocol and the coordinator {spoken}: the coordinator must be upgraded first"
            )));
        }
        if protocol + 1 < spoken {
            return Err(Status::failed_precondition(format!(
                "this agent speaks version {protocol} of the protocol and the coordinator {spoken}: upgrade the agent"
            )));
        }
        Ok(Response::new(attend::open(&self.hub, site, agent.chars().take(80).collect())))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeReply>, Status> {
        let site = site(&self.hub, &request)?;
        let ids = request.into_inner().ids;
        let ids = ids.iter().filter_map(|id| hash(id).ok()).map(DirectiveId::from_hash);
        self.hub.presence.acknowledge(&site, ids);
        Ok(Response::new(AcknowledgeReply {}))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        site(&self.hub, &request)?;
        Ok(Response::new(HeartbeatReply { coordinator_time_ms: now().as_millis() }))
    }

    async fn deliver(&self, request: Request<DeliverRequest>) -> Result<Response<DeliverReply>, Status> {
        let from = site(&self.hub, &request)?;
        let body = request.into_inner().body;
        let refused = |code: &str, reason: String| {
            deliver_reply::Verdict::Refused(Refused { code: code.to_owned(), reason })
        };
        let verdict = match Letter::<SiteMessage>::from_bytes(&body) {
            Err(error) => {
                self.hub.parts.telemetry.counters.message_refused();
                refused("malformed", error.to_string())
            }
            Ok(Letter { study, message }) => match study_of(&self.hub, &from, study.as_bytes()) {
                Err(status) => refused("unknown_study", status.message().to_owned()),
                Ok(study) => {
                    study.count_up(body.len() as u64);
                    match study.tell(Event::Message { from, message }).await {
                        Ok(()) => deliver_reply::Verdict::Recorded(Recorded {}),
                        Err(Refusal::Stopping) => {
                            return Err(Status::unavailable(Refusal::Stopping.to_string()));
                        }
                        Err(refusal) => refused("refused", refusal.to_string()),
                    }
                }
            },
        };
        Ok(Response::new(DeliverReply { verdict: Some(verdict) }))
    }

    async fn upload_state(
        &self,
        request: Request<UploadStateRequest>,
    ) -> Result<Response<UploadStateReply>, Status> {
        let site = site(&self.hub, &request)?;
        let receiving = Receiving::find(&self.hub, site, request.into_inner().name)?;
        Ok(Response::new(receiving.state(&self.hub)))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReply>, Status> {
        let site = site(&self.hub, &request)?;
        let mut chunks = request.into_inner();
        let first =
            chunks.message().await?.ok_or_else(|| Status::invalid_argument("an upload needs a name"))?;
        let receiving = Receiving::find(&self.hub, site, first.name.clone())?;
        let verdict = receiving.receive(&self.hub, first, chunks).await?;
        Ok(Response::new(UploadReply { verdict: Some(verdict) }))
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let site = site(&self.hub, &request)?;
        let FetchRequest { hash: wanted, offset } = request.into_inner();
        let wanted = hash(&wanted)?;
        // A site gets the files of its studies that it works with, and no other.
        let study = self
            .hub
            .studies()
            .into_iter()
            .find(|study| study.sites.contains(&site) && names_file(&study.machine(), &wanted))
            .ok_or_else(|| Status::not_found("no study of this site names this file"))?;
        Ok(Response::new(pieces(self.hub.parts.blobs.clone(), wanted, offset, move |bytes, length| {
            study.count_down(bytes.len() as u64);
            FetchChunk { length, bytes: bytes.into() }
        })))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let caller = caller(&self.hub, &request)?;
        let roster = self.hub.trust.roster();
        let chain = self
            .hub
            .issuing
            .renew(&roster, &caller.certificate, Timestamp::now())
            .map_err(|refusal| Status::failed_precondition(refusal.to_string()))?;
        tracing::info!(peer = %caller.peer.principal(), "certificate renewed");
        let chain = chain.certificates().iter().map(|certificate| certificate.to_vec()).collect();
        Ok(Response::new(RenewReply { chain }))
    }
}
