//! What operators order and read, and auditors read.

use std::fs::File;
use std::io::Write as _;

use consilium_identity::certificate::Leaf;
use consilium_identity::enrolment::{Admission, EnrolmentRequest};
use consilium_identity::invitation::InvitationRecord;
use consilium_identity::revocation::Revocation;
use consilium_identity::roster;
use consilium_ledger::record::Record;
use consilium_ledger::statement::{Act as OrderedAct, Order};
use consilium_proto::v1::operator_server::Operator;
use consilium_proto::v1::{
    AdmitReply, AdmitRequest, BlobChunk, ControlReply, ControlRequest, FetchBlobRequest, FetchLedgerReply,
    FetchLedgerRequest, InviteReply, InviteRequest, ListEnrolmentsReply, ListEnrolmentsRequest,
    ListSitesReply, ListSitesRequest, ListStudiesReply, ListStudiesRequest, PendingEnrolment, ProposeReply,
    ProposeRequest, PutBlobReply, RevokeReply, RevokeRequest, RosterReply, RosterRequest, ShowStudyReply,
    ShowStudyRequest, SiteStatus, StudyStatus, WatchEvent, WatchRequest,
};
use consilium_rounds::record::Course;
use consilium_rounds::{Act, Event, Proposal, StudyMachine};
use consilium_study::canonical::Canonical;
use consilium_study::document::Study;
use consilium_study::model_file::ModelReader;
use consilium_study::name::{Principal, SiteName, StudyName};
use consilium_study::sign::{Signed, Statement, Verified, VerifyingKey};
use jiff::Timestamp;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::enrolment::Application;
use super::{Services, caller, failed, hash, pieces};
use crate::hub::Hub;
use crate::store::{Table, Transaction};
use crate::study::{Refusal, StudyHandle, now};

/// Longest file that an operator may store: a model of a billion parameters.
const LONGEST_BLOB: u64 = 4 << 30;
/// An order is carried out when it was signed at most so long ago, so that an old one cannot be sent again.
const ORDER_LIFE_MS: u64 = 10 * 60 * 1000;

/// Requires an operator's certificate.
fn operator<T>(hub: &Hub, request: &Request<T>) -> Result<(), Status> {
    let caller = caller(hub, request)?;
    caller.peer.operator().map(|_| ()).map_err(|wrong| Status::permission_denied(wrong.to_string()))
}

/// Requires an operator's or an auditor's certificate.
fn reader<T>(hub: &Hub, request: &Request<T>) -> Result<(), Status> {
    let caller = caller(hub, request)?;
    caller.peer.reader().map(|_| ()).map_err(|wrong| Status::permission_denied(wrong.to_string()))
}

/// Checks a statement that an operator of the roster must have signed.
fn signed_by_operator<T: Statement>(
    hub: &Hub,
    signed: &Signed<T>,
) -> Result<(Verified<T>, Principal, VerifyingKey), Status> {
    let signer = signed.signer().clone();
    let key = match &signer {
        Principal::Operator(_) => hub.trust.roster().signing_key(&signer),
        _ => None,
    };
    let key =
        key.ok_or_else(|| Status::permission_denied(format!("{signer} is no operator on the roster")))?;
    let verified =
        signed.verify(&signer, &key).map_err(|error| Status::permission_denied(error.to_string()))?;
    Ok((verified, signer, key))
}

fn order(hub: &Hub, bytes: &[u8]) -> Result<(Verified<Order>, Principal, Signed<Order>), Status> {
    let signed = decode::<Signed<Order>>("order", bytes)?;
    let (order, by, _) = signed_by_operator(hub, &signed)?;
    if now().as_millis().abs_diff(order.signed_at_ms) > ORDER_LIFE_MS {
        return Err(Status::failed_precondition(
            "this order was signed more than ten minutes ago or from now; check the clock and give it again",
        ));
    }
    Ok((order, by, signed))
}

fn decode<T: Canonical>(what: &str, bytes: &[u8]) -> Result<T, Status> {
    T::from_canonical(bytes).map_err(|error| Status::invalid_argument(format!("this is no {what}: {error}")))
}

fn study_named(hub: &Hub, name: &str) -> Result<StudyHandle, Status> {
    let name = StudyName::new(name).map_err(|error| Status::invalid_argument(error.to_string()))?;
    hub.study_named(&name).ok_or_else(|| {
        Status::not_found(format!("there is no study {name}; `consilium study list` shows all"))
    })
}

fn status_of(machine: &StudyMachine) -> StudyStatus {
    let status = machine.status();
    StudyStatus {
        name: status.name.to_string(),
        hash: status.study.as_bytes().to_vec(),
        state: status.state.name().to_owned(),
        round: status.round,
        rounds: status.rounds,
        json: serde_json::to_string(&status).unwrap_or_default(),
        released: status.released.map(|model| model.as_bytes().to_vec()).unwrap_or_default(),
    }
}

fn control_error(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Stopping => Status::unavailable(refusal.to_string()),
        Refusal::Act(_) | Refusal::Message(_) => Status::failed_precondition(refusal.to_string()),
    }
}

fn site_status(hub: &Hub, site: &SiteName) -> SiteStatus {
    let seen = hub.presence.sighting(site);
    // The rung of the study that got furthest with this site.
    let rungs = hub.studies().into_iter().filter(|study| study.sites.contains(site)).filter_map(|study| {
        let status = study.machine().status();
        let site = status.sites.into_iter().find(|known| known.site == *site)?;
        Some((site.rung, status.name))
    });
    let best = rungs.max_by_key(|(rung, _)| *rung);
    let application = Application::load(hub, site).ok().flatten();
    let revoked = application.as_ref().is_some_and(|known| known.is_revoked(hub));
    let request =
        application.and_then(|known| Signed::<EnrolmentRequest>::from_canonical(&known.request).ok());
    let fingerprint = request.and_then(|request| request.claim().ok()?.fingerprint().ok());
    let (rung, detail) = match best {
        _ if revoked => ("revoked".to_owned(), String::new()),
        Some((rung, study)) => {
            let rung = serde_json::to_value(rung).ok().and_then(|rung| rung.as_str().map(str::to_owned));
            (rung.unwrap_or_default(), format!("study {study}"))
        }
        None if seen.connected => ("connected".to_owned(), String::new()),
        None if seen.last_heard_ms > 0 => ("silent".to_owned(), String::new()),
        None => ("enrolled".to_owned(), "not heard since the coordinator started".to_owned()),
    };
    SiteStatus {
        name: site.to_string(),
        rung,
        detail,
        last_heard_ms: seen.last_heard_ms,
        agent: seen.agent,
        fingerprint: fingerprint.unwrap_or_default(),
    }
}

impl Services {
    fn commit(&self, name: &str, transaction: Transaction, statements: &[Record]) -> Result<(), Status> {
        tokio::task::block_in_place(|| self.hub.record(name, transaction, statements))
            .map_err(|fatal| failed(&self.hub, &fatal))
    }

    fn admit_site(&self, bytes: &[u8]) -> Result<(), Status> {
        let admission = decode::<Admission>("admission", bytes)?;
        let _changing = self.hub.membership();
        let next = roster::verify(self.hub.trust.anchor(), &admission.roster)
            .map_err(|error| Status::permission_denied(error.to_string()))?;
        let current = self.hub.trust.roster();
        if next.hash() != current.hash() {
            current.follow(&next).map_err(|error| Status::failed_precondition(error.to_string()))?;
        }
        let leaf = admission.chain.leaf();
        let Principal::Site(site) = &leaf.id.principal else {
            return Err(Status::invalid_argument("the certificate is not a site's"));
        };
        let named = next.site(site).is_some_and(|entry| entry.tls_key == leaf.key);
        let application =
            Application::load(&self.hub, site).map_err(|error| failed(&self.hub, &error.into()))?;
        let (true, Some(mut application)) = (named, application) else {
            return Err(Status::failed_precondition(format!(
                "{site} has not asked to be admitted with this key; `consilium site list` shows who waits"
            )));
        };
        let asked = decode::<Signed<EnrolmentRequest>>("request", &application.request)?;
        application.admission = Some(bytes.to_vec().into());
        let transaction = Hub::set_roster(&admission.roster).put(
            Table::Enrolments,
            site.as_str().as_bytes(),
            application.to_canonical(),
        );
        let statements = [Record::Enrolment(asked), Record::Roster(admission.roster.clone())];
        self.commit("admission", transaction, &statements)?;
        self.hub
            .trust
            .adopt(&admission.roster)
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        tracing::info!(%site, "site admitted");
        self.hub.admitted.notify_waiters();
        Ok(())
    }

    fn revoke_site(&self, site: &SiteName, signed: Signed<Order>) -> Result<usize, Status> {
        let _changing = self.hub.membership();
        let known = Application::load(&self.hub, site).map_err(|error| failed(&self.hub, &error.into()))?;
        let admission = known.and_then(|known| known.granted());
        let admission = admission.ok_or_else(|| Status::not_found(format!("{site} was never admitted")))?;
        let leaf: Leaf = admission.chain.leaf();
        let revocation = Revocation::of(&leaf, Timestamp::now());
        let transaction = Transaction::new().put(
            Table::Revocations,
            revocation.serial.as_bytes(),
            revocation.to_canonical(),
        );
        self.commit("revocation", transaction, &[Record::Order(signed)])?;
        self.hub.trust.revoke(revocation);
        let cut =
            self.hub.connections.get().map_or(0, |open| open.cut_refused(&self.hub.trust, Timestamp::now()));
        tracing::warn!(%site, cut, "site revoked");
        Ok(cut)
    }

    /// Checks a study and its initial model, and lets it run.
    fn propose_study(&self, bytes: &[u8]) -> Result<Vec<u8>, Status> {
        let signed = decode::<Signed<Study>>("signed study", bytes)?;
        let (study, operator, key) = signed_by_operator(&self.hub, &signed)?;
        let study_hash = study.hash();
        let _changing = self.hub.membership();
        if self.hub.study(&study_hash).is_some() {
            return Ok(study_hash.as_bytes().to_vec());
        }
        if self.hub.study_named(&study.name).is_some() {
            return Err(Status::already_exists(format!(
                "there is another study {}; give this one another name",
                study.name
            )));
        }
        for site in &study.sites {
            let known =
                Application::load(&self.hub, site).map_err(|error| failed(&self.hub, &error.into()))?;
            if known.is_some_and(|known| known.is_revoked(&self.hub)) {
                return Err(Status::failed_precondition(format!(
                    "{site} is revoked and can take part in nothing. Leave it out of the study, or admit its new \
                     machine first: consilium site invite {site}"
                )));
            }
        }
        let path = self.hub.parts.blobs.path(&study.initial_model());
        let model = File::open(path).map_err(|_| {
            Status::failed_precondition(
                "the study's initial model was not stored; `consilium study propose` stores it first",
            )
        })?;
        tokio::task::block_in_place(|| ModelReader::open(model)?.check(&study.model_identity())).map_err(
            |error| Status::failed_precondition(format!("the initial model does not fit the study: {error}")),
        )?;
        let proposal = Proposal {
            study: signed,
            operator: (operator, key),
            roster: self.hub.signed_roster().map_err(|error| failed(&self.hub, &error.into()))?,
            roster_hash: self.hub.trust.roster().hash(),
            keys: self.hub.site_keys(),
            coordinator: self.hub.parts.key.verifying_key(),
            timing: self.hub.timing,
        };
        let (machine, effects) = StudyMachine::propose(proposal, now())
            .map_err(|refused| Status::failed_precondition(refused.to_string()))?;
        tokio::task::block_in_place(|| self.hub.run_study(machine, effects, Vec::new()))
            .map_err(|fatal| failed(&self.hub, &fatal))?;
        Ok(study_hash.as_bytes().to_vec())
    }
}

#[tonic::async_trait]
impl Operator for Services {
    type FetchBlobStream = ReceiverStream<Result<BlobChunk, Status>>;
    type WatchStream = ReceiverStream<Result<WatchEvent, Status>>;

    async fn invite(&self, request: Request<InviteRequest>) -> Result<Response<InviteReply>, Status> {
        operator(&self.hub, &request)?;
        let record = decode::<InvitationRecord>("invitation record", &request.into_inner().record)?;
        if record.consortium != self.hub.trust.anchor().name || record.used_by.is_some() {
            return Err(Status::invalid_argument("this is no new invitation of this consortium"));
        }
        let site = record.site.as_str().as_bytes();
        let _changing = self.hub.membership();
        let known =
            self.hub.parts.store.get(Table::Invitations, site).map_err(|e| failed(&self.hub, &e.into()))?;
        let known = known.and_then(|bytes| InvitationRecord::from_canonical(&bytes).ok());
        // The same invitation once more, because the answer was lost: it stays used if it was.
        if known.is_none_or(|known| known.id != record.id) {
            let transaction = Transaction::new().put(Table::Invitations, site, record.to_canonical());
            self.commit("invitation", transaction, &[])?;
        }
        Ok(Response::new(InviteReply {}))
    }

    async fn list_enrolments(
        &self,
        request: Request<ListEnrolmentsRequest>,
    ) -> Result<Response<ListEnrolmentsReply>, Status> {
        reader(&self.hub, &request)?;
        let known =
            self.hub.parts.store.scan(Table::Enrolments, &[]).map_err(|e| failed(&self.hub, &e.into()))?;
        let waiting = known.into_iter().filter_map(|(site, bytes)| {
            let application = Application::from_canonical(&bytes).ok()?;
            application.admission.is_none().then(|| PendingEnrolment {
                site: String::from_utf8_lossy(&site).into_owned(),
                request: application.request.into(),
                since_ms: application.since_ms,
            })
        });
        Ok(Response::new(ListEnrolmentsReply { enrolments: waiting.collect() }))
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitReply>, Status> {
        operator(&self.hub, &request)?;
        self.admit_site(&request.into_inner().admission)?;
        Ok(Response::new(AdmitReply {}))
    }

    async fn list_sites(
        &self,
        request: Request<ListSitesRequest>,
    ) -> Result<Response<ListSitesReply>, Status> {
        reader(&self.hub, &request)?;
        let roster = self.hub.trust.roster();
        let sites = roster.sites().iter().map(|entry| site_status(&self.hub, &entry.name)).collect();
        Ok(Response::new(ListSitesReply { sites }))
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeReply>, Status> {
        operator(&self.hub, &request)?;
        let (order, _, signed) = order(&self.hub, &request.into_inner().order)?;
        let OrderedAct::Revoke { site } = &order.act else {
            return Err(Status::invalid_argument("this order revokes nobody"));
        };
        let cut = self.revoke_site(site, signed)?;
        for study in self.hub.studies().into_iter().filter(|study| study.sites.contains(site)) {
            study.tell(Event::Revoked(site.clone())).await.map_err(|refusal| control_error(&refusal))?;
        }
        Ok(Response::new(RevokeReply { connections_cut: u32::try_from(cut).unwrap_or(u32::MAX) }))
    }

    async fn roster(&self, request: Request<RosterRequest>) -> Result<Response<RosterReply>, Status> {
        reader(&self.hub, &request)?;
        let roster = self.hub.signed_roster().map_err(|error| failed(&self.hub, &error.into()))?;
        Ok(Response::new(RosterReply { roster }))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<BlobChunk>>,
    ) -> Result<Response<PutBlobReply>, Status> {
        operator(&self.hub, &request)?;
        let mut chunks = request.into_inner();
        let disk = |_| Status::resource_exhausted("the coordinator has no room for this file");
        let mut wanted = None;
        let mut writer = self.hub.parts.blobs.writer().map_err(disk)?;
        while let Some(chunk) = chunks.message().await? {
            if wanted.is_none() {
                wanted = Some(hash(&chunk.hash)?);
            }
            if writer.length() + chunk.bytes.len() as u64 > LONGEST_BLOB {
                return Err(Status::invalid_argument("the file is too long"));
            }
            tokio::task::block_in_place(|| writer.write_all(&chunk.bytes)).map_err(disk)?;
        }
        let length = writer.length();
        let got = tokio::task::block_in_place(|| writer.finish()).map_err(disk)?;
        if wanted != Some(got) {
            self.hub.parts.blobs.remove(&got).map_err(disk)?;
            return Err(Status::data_loss("the file arrived with another hash; send it again"));
        }
        Ok(Response::new(PutBlobReply { length }))
    }

    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        reader(&self.hub, &request)?;
        let FetchBlobRequest { hash: wanted, offset } = request.into_inner();
        let wanted = hash(&wanted)?;
        Ok(Response::new(pieces(self.hub.parts.blobs.clone(), wanted, offset, move |bytes, length| {
            BlobChunk { hash: wanted.as_bytes().to_vec(), length, bytes }
        })))
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        operator(&self.hub, &request)?;
        let study = self.propose_study(&request.into_inner().study)?;
        Ok(Response::new(ProposeReply { study }))
    }

    async fn list_studies(
        &self,
        request: Request<ListStudiesRequest>,
    ) -> Result<Response<ListStudiesReply>, Status> {
        reader(&self.hub, &request)?;
        let studies = self.hub.studies().iter().map(|study| status_of(&study.machine())).collect();
        Ok(Response::new(ListStudiesReply { studies }))
    }

    async fn show_study(
        &self,
        request: Request<ShowStudyRequest>,
    ) -> Result<Response<ShowStudyReply>, Status> {
        reader(&self.hub, &request)?;
        let machine = study_named(&self.hub, &request.into_inner().name)?.machine();
        let study = machine.signed_study().to_canonical();
        Ok(Response::new(ShowStudyReply { status: Some(status_of(&machine)), study }))
    }

    async fn control(&self, request: Request<ControlRequest>) -> Result<Response<ControlReply>, Status> {
        operator(&self.hub, &request)?;
        let (order, by, signed) = order(&self.hub, &request.into_inner().order)?;
        let (study, act) = match order.into_inner().act {
            OrderedAct::Course { study, course } => {
                let act = match course {
                    Course::Start => Act::Start,
                    Course::Pause => Act::Pause,
                    Course::Resume => Act::Resume,
                    Course::Stop { reason } => Act::Stop { reason },
                    Course::Restored { above } => Act::Restored { above },
                    Course::Open | Course::Close => {
                        return Err(Status::invalid_argument("a study opens and closes by its own rules"));
                    }
                };
                (study, act)
            }
            OrderedAct::DeclareLost { study, attempt } => (study, Act::DeclareLost { attempt }),
            OrderedAct::Revoke { .. } => return Err(Status::invalid_argument("this order is about a site")),
        };
        let study =
            self.hub.study(&study).ok_or_else(|| Status::not_found("there is no study of this hash"))?;
        study
            .order(Event::Operator { by, act }, vec![Record::Order(signed)])
            .await
            .map_err(|refusal| control_error(&refusal))?;
        Ok(Response::new(ControlReply { status: Some(status_of(&study.machine())) }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        reader(&self.hub, &request)?;
        let WatchRequest { study, mut from } = request.into_inner();
        let study = study_named(&self.hub, &study)?;
        let hub = std::sync::Arc::clone(&self.hub);
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            let mut more = study.events();
            loop {
                let until = *more.borrow_and_update();
                while from < until {
                    let key = [study.hash.as_bytes().as_slice(), &from.to_be_bytes()].concat();
                    let Ok(Some(bytes)) = hub.parts.store.get(Table::Events, &key) else { return };
                    let json = String::from_utf8_lossy(&bytes).into_owned();
                    if sender.send(Ok(WatchEvent { number: from, json })).await.is_err() {
                        return;
                    }
                    from += 1;
                }
                tokio::select! {
                    changed = more.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                    () = hub.stop.cancelled() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_ledger(
        &self,
        request: Request<FetchLedgerRequest>,
    ) -> Result<Response<FetchLedgerReply>, Status> {
        reader(&self.hub, &request)?;
        let path = request.into_inner().path;
        let file = tokio::task::block_in_place(|| self.hub.parts.ledger.file(&path))
            .map_err(|_| Status::unavailable("the ledger cannot be read at the moment"))?;
        let found = file.is_some();
        Ok(Response::new(FetchLedgerReply { found, bytes: file.unwrap_or_default() }))
    }
}
