//! The enrolment service: the only one that is reached without a certificate.

use std::time::Duration;

use consilium_identity::enrolment::{Admission, Arrival, EnrolmentRefusal, EnrolmentRequest, accept_request};
use consilium_identity::invitation::{InvitationRecord, InvitationRefusal};
use consilium_proto::v1::enrolment_server::Enrolment;
use consilium_proto::v1::{
    CollectReply, CollectRequest, EnrolPending, EnrolRefused, EnrolReply, EnrolRequest, collect_reply,
    enrol_reply,
};
use consilium_study::canonical::Canonical;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;
use jiff::Timestamp;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use tonic::{Request, Response, Status};

use super::{Services, failed};
use crate::hub::Hub;
use crate::store::{StoreError, Table, Transaction};
use crate::study::{Fatal, now};

/// Longest request that is looked at.
const LONGEST: usize = 16 << 10;
/// How long a site that asks for its admission is kept waiting.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is known of a site that wants to join.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Application {
    /// Its request, as it came.
    #[n(0)]
    pub request: ByteVec,
    /// When it came, in milliseconds since 1970.
    #[n(1)]
    pub since_ms: u64,
    /// What the operator made of it.
    #[n(2)]
    pub admission: Option<ByteVec>,
    /// What was made of its last request before this one.
    #[n(3)]
    earlier: Option<ByteVec>,
}

impl Application {
    /// What is known of a site.
    pub fn load(hub: &Hub, site: &SiteName) -> Result<Option<Self>, StoreError> {
        let stored = hub.parts.store.get(Table::Enrolments, site.as_str().as_bytes())?;
        // Written by this program; a record that cannot be read counts as none, and the site asks again.
        Ok(stored.and_then(|bytes| Self::from_canonical(&bytes).ok()))
    }

    /// What the site was admitted with last, also while it asks again.
    pub fn granted(&self) -> Option<Admission> {
        self.admission
            .as_ref()
            .or(self.earlier.as_ref())
            .and_then(|bytes| Admission::from_canonical(bytes).ok())
    }

    /// Whether the certificate that it was admitted with last is revoked.
    pub fn is_revoked(&self, hub: &Hub) -> bool {
        self.granted().is_some_and(|admission| hub.trust.is_revoked(&admission.chain.leaf()))
    }
}

fn refused(refusal: &EnrolmentRefusal) -> EnrolRefused {
    EnrolRefused { code: refusal.code().to_owned(), reason: refusal.to_string() }
}

/// A request that was read, and its bytes.
struct Asked {
    signed: Signed<EnrolmentRequest>,
    claim: EnrolmentRequest,
    bytes: Vec<u8>,
}

impl Asked {
    fn read(bytes: Vec<u8>) -> Result<Self, Status> {
        let malformed = |_| Status::invalid_argument("this is no enrolment request");
        if bytes.len() > LONGEST {
            return Err(Status::invalid_argument("the enrolment request is too long"));
        }
        let signed = Signed::<EnrolmentRequest>::from_canonical(&bytes).map_err(malformed)?;
        let claim = signed.claim().map_err(malformed)?;
        Ok(Self { signed, claim, bytes })
    }

    fn pending(&self) -> Result<EnrolPending, Status> {
        let fingerprint =
            self.claim.fingerprint().map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(EnrolPending { fingerprint })
    }
}

/// Checks a request against its invitation and keeps it.
fn take(hub: &Hub, asked: &Asked) -> Result<Result<Arrival, EnrolmentRefusal>, Fatal> {
    let _changing = hub.membership();
    let site = asked.claim.site().as_str().as_bytes();
    let stored = hub.parts.store.get(Table::Invitations, site)?;
    let mut record = stored.and_then(|bytes| InvitationRecord::from_canonical(&bytes).ok());
    let consortium = &hub.trust.anchor().name;
    let arrival = match accept_request(consortium, record.as_mut(), &asked.signed, Timestamp::now()) {
        Ok(arrival) => arrival,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let (Arrival::First, Some(record)) = (arrival, record) {
        let known = Application::load(hub, asked.claim.site())?;
        let application = Application {
            request: asked.bytes.clone().into(),
            since_ms: now().as_millis(),
            admission: None,
            earlier: known.and_then(|known| known.admission.or(known.earlier)),
        };
        let transaction = Transaction::new().put(Table::Invitations, site, record.to_canonical()).put(
            Table::Enrolments,
            site,
            application.to_canonical(),
        );
        hub.record("enrolment", transaction, &[])?;
    }
    Ok(Ok(arrival))
}

#[tonic::async_trait]
impl Enrolment for Services {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let asked = Asked::read(request.into_inner().request)?;
        let taken = tokio::task::block_in_place(|| take(&self.hub, &asked));
        let verdict = match taken.map_err(|fatal| failed(&self.hub, &fatal))? {
            Ok(_) => enrol_reply::Verdict::Pending(asked.pending()?),
            Err(refusal) => {
                tracing::warn!(site = %asked.claim.site(), %refusal, "enrolment refused");
                enrol_reply::Verdict::Refused(refused(&refusal))
            }
        };
        Ok(Response::new(EnrolReply { verdict: Some(verdict) }))
    }

    async fn collect(&self, request: Request<CollectRequest>) -> Result<Response<CollectReply>, Status> {
        let asked = Asked::read(request.into_inner().request)?;
        let over = tokio::time::sleep(PATIENCE);
        tokio::pin!(over);
        loop {
            let woken = self.hub.admitted.notified();
            let known = Application::load(&self.hub, asked.claim.site())
                .map_err(|error| failed(&self.hub, &error.into()))?
                .filter(|application| application.request.as_slice() == asked.bytes);
            let verdict = match known {
                None => Some(collect_reply::Verdict::Refused(refused(&InvitationRefusal::Unknown.into()))),
                Some(Application { admission: Some(admission), .. }) => {
                    Some(collect_reply::Verdict::Admission(admission.into()))
                }
                Some(_) => None,
            };
            if let Some(verdict) = verdict {
                return Ok(Response::new(CollectReply { verdict: Some(verdict) }));
            }
            tokio::select! {
                () = woken => {}
                () = &mut over => {
                    let verdict = Some(collect_reply::Verdict::Pending(asked.pending()?));
                    return Ok(Response::new(CollectReply { verdict }));
                }
            }
        }
    }
}
