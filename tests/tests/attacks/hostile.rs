//! A coordinator that lies: it has the real one's keys, stands between it and the agents, and changes what it likes.
//!
//! Every call of an agent goes on to the real coordinator under that agent's own certificate, so whatever a script
//! leaves alone is the product itself, on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use consilium_coordinator::identity::Identity;
use consilium_coordinator::listener::{Limits, http2, listen};
use consilium_identity::Trust;
use consilium_identity::revocation::Revocations;
use consilium_identity::tls::ServerTls;
use consilium_proto::v1::Directive as WireDirective;
use consilium_proto::v1::site_client::SiteClient;
use consilium_proto::v1::site_server::SiteServer;
use consilium_rounds::message::{Directive, DirectiveId, Letter, SiteMessage};
use consilium_study::hash::Hash;
use consilium_study::name::Principal;
use consilium_study::sign::{Signed, Statement};
use consilium_tests::{Lab, Rogue, wait_until};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::transport::Channel;

use crate::PATIENCE;
use crate::wire::Wire;

/// What becomes of a directive on its way to a site: whatever is returned is told instead.
pub(crate) type OnDirective = dyn FnMut(&str, Directive) -> Vec<Directive> + Send;
/// What becomes of a site's message: without one it is answered "recorded" and goes no further.
pub(crate) type OnMessage = dyn FnMut(&str, SiteMessage) -> Option<SiteMessage> + Send;
/// What becomes of the bytes of a masked vector that a site sends in an attempt.
pub(crate) type OnUpload = dyn FnMut(&str, u64, Vec<u8>) -> Vec<u8> + Send;

/// The script, and everything that was seen.
pub(crate) struct State {
    pub(crate) on_directive: Box<OnDirective>,
    pub(crate) on_message: Box<OnMessage>,
    pub(crate) on_upload: Box<OnUpload>,
    /// The real coordinator, as each site reaches it.
    pub(crate) upstream: BTreeMap<String, SiteClient<Channel>>,
    /// Where directives for a connected site go.
    pub(crate) streams: BTreeMap<String, mpsc::Sender<Result<WireDirective, Status>>>,
    /// Directives that some site has taken in.
    pub(crate) acknowledged: BTreeSet<Vec<u8>>,
    /// What the real coordinator told each site.
    pub(crate) heard: Vec<(String, Letter<Directive>)>,
    /// What each site said.
    pub(crate) said: Vec<(String, SiteMessage)>,
    /// Attempts whose announcement went no further: their vectors do not either.
    pub(crate) kept: BTreeSet<(String, u64)>,
    /// Masked vectors as they came, by site and attempt.
    pub(crate) uploads: BTreeMap<(String, u64), Vec<u8>>,
    /// Held once more by each vector that is on its way to the real coordinator.
    pub(crate) on_its_way: Arc<()>,
    /// What the real coordinator refused, with its code and reason.
    pub(crate) refused: Vec<(String, String, String)>,
    /// Files that only this coordinator has.
    pub(crate) files: BTreeMap<Hash, Vec<u8>>,
}

/// The state, shared between the test and the tasks that serve the agents.
#[derive(Clone)]
pub(crate) struct Shared {
    state: Arc<Mutex<State>>,
    rogues: Arc<BTreeMap<String, Rogue>>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A script that panicked has failed its test already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The real coordinator, for a site; `anew` on a connection of its own.
    pub(crate) async fn upstream(&self, site: &str, anew: bool) -> Result<SiteClient<Channel>, Status> {
        let known = self.lock().upstream.get(site).cloned();
        if let (Some(client), false) = (known, anew) {
            return Ok(client);
        }
        let rogue = self.rogues.get(site).ok_or_else(|| Status::permission_denied("nobody of this lab"))?;
        let client = rogue.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        self.lock().upstream.insert(site.to_owned(), client.clone());
        Ok(client)
    }
}

/// The coordinator that lies.
pub(crate) struct HostileCoordinator {
    shared: Shared,
    identity: Identity,
    _runtime: Runtime,
}

impl HostileCoordinator {
    /// Stands between a laboratory's coordinator and the agents that are started from now on.
    pub(crate) fn between(lab: &Lab) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let identity = Identity::read(&lab.path().join("coordinator/identity"))?;
        let rogues = lab.sites().iter().map(|site| Ok((site.clone(), Rogue::in_place_of(lab, site)?)));
        let shared = Shared {
            state: Arc::new(Mutex::new(State {
                on_directive: Box::new(|_, directive| vec![directive]),
                on_message: Box::new(|_, message| Some(message)),
                on_upload: Box::new(|_, _, bytes| bytes),
                upstream: BTreeMap::new(),
                streams: BTreeMap::new(),
                acknowledged: BTreeSet::new(),
                heard: Vec::new(),
                said: Vec::new(),
                kept: BTreeSet::new(),
                uploads: BTreeMap::new(),
                on_its_way: Arc::new(()),
                refused: Vec::new(),
                files: BTreeMap::new(),
            })),
            rogues: Arc::new(rogues.collect::<anyhow::Result<_>>()?),
        };
        let roster = std::fs::read(lab.path().join("consortium/roster"))?;
        let roster = consilium_study::canonical::Canonical::from_canonical(&roster)?;
        let trust = Trust::new(identity.anchor.clone(), &roster, Revocations::new())?;
        let tls = ServerTls::new(Arc::new(trust), &identity.chain, &identity.tls)?;
        let tcp = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let port = tcp.local_addr()?.port();
        let service = SiteServer::new(Wire::new(shared.clone()));
        let service = service.max_decoding_message_size(consilium_proto::MAX_MESSAGE);
        runtime.spawn(async move {
            let doors = listen(tcp, Arc::new(tls), Limits::default());
            // Nobody enrols here.
            drop(doors.newcomers);
            http2().add_service(service).serve_with_incoming(doors.members).await
        });
        for site in lab.sites() {
            let config = lab.site_folder(site).join("site.toml");
            let text = std::fs::read_to_string(&config)?;
            let told = format!("[coordinator]\naddress = \"127.0.0.1:{port}\"\n");
            std::fs::write(&config, text.replace("[coordinator]\n", &told))?;
        }
        Ok(Self { shared, identity, _runtime: runtime })
    }

    /// From now on directives become what `script` makes of them. What was told before is not told again.
    pub(crate) fn on_directive(
        &self,
        script: impl FnMut(&str, Directive) -> Vec<Directive> + Send + 'static,
    ) {
        self.shared.lock().on_directive = Box::new(script);
    }

    /// From now on messages of sites become what `script` makes of them.
    pub(crate) fn on_message(
        &self,
        script: impl FnMut(&str, SiteMessage) -> Option<SiteMessage> + Send + 'static,
    ) {
        self.shared.lock().on_message = Box::new(script);
    }

    /// From now on masked vectors become what `script` makes of them; those on their way are answered first.
    pub(crate) fn on_upload(&self, script: impl FnMut(&str, u64, Vec<u8>) -> Vec<u8> + Send + 'static) {
        let mut script: Option<Box<OnUpload>> = Some(Box::new(script));
        let set = wait_until(PATIENCE, || {
            let mut state = self.shared.lock();
            if Arc::strong_count(&state.on_its_way) == 1 {
                state.on_upload = script.take().expect("set once");
            }
            script.is_none()
        });
        assert!(set, "a vector is never answered");
    }

    /// Serves a file by its hash, which it returns.
    pub(crate) fn serve(&self, bytes: Vec<u8>) -> Hash {
        let hash = Hash::of_bytes(&bytes);
        self.shared.lock().files.insert(hash, bytes);
        hash
    }

    /// Signs as the coordinator.
    pub(crate) fn sign<T: Statement>(&self, statement: &T) -> Signed<T> {
        Signed::seal(statement, Principal::Coordinator, &self.identity.signing)
    }

    /// What a coordinator knows about itself and the consortium.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Tells a site something until it has taken it in, whether or not it does what it was asked.
    pub(crate) fn tell(&self, site: &str, directive: Directive) -> anyhow::Result<()> {
        let study = self.study().context("a study that the sites were told of")?;
        let wire = to_wire(&Letter { study, message: directive });
        self.shared.lock().acknowledged.remove(&wire.id);
        for _ in 0..30 {
            // A stream may be one that the agent has just left for another, so silence says nothing.
            let stream = self.shared.lock().streams.get(site).cloned();
            let sent = stream.is_some_and(|stream| stream.blocking_send(Ok(wire.clone())).is_ok());
            let heard = || self.shared.lock().acknowledged.contains(&wire.id);
            if wait_until(Duration::from_millis(if sent { 2_000 } else { 100 }), heard) {
                return Ok(());
            }
        }
        anyhow::bail!("{site} does not listen")
    }

    /// The study that the sites were told of.
    pub(crate) fn study(&self) -> Option<Hash> {
        self.shared.lock().heard.last().map(|(_, letter)| letter.study)
    }

    /// What the real coordinator told a site, in order.
    pub(crate) fn heard(&self, site: &str) -> Vec<Directive> {
        let state = self.shared.lock();
        let of_site = state.heard.iter().filter(|(to, _)| to == site);
        of_site.map(|(_, letter)| letter.message.clone()).collect()
    }

    /// What a site said, in order.
    pub(crate) fn said(&self, site: &str) -> Vec<SiteMessage> {
        let state = self.shared.lock();
        state.said.iter().filter(|(from, _)| from == site).map(|(_, message)| message.clone()).collect()
    }

    /// The masked vector that a site sent in an attempt.
    pub(crate) fn upload(&self, site: &str, attempt: u64) -> Option<Vec<u8>> {
        self.shared.lock().uploads.get(&(site.to_owned(), attempt)).cloned()
    }

    /// What the real coordinator refused of a site: codes and reasons.
    pub(crate) fn refused(&self, site: &str) -> Vec<(String, String)> {
        let state = self.shared.lock();
        let of_site = state.refused.iter().filter(|(from, ..)| from == site);
        of_site.map(|(_, code, reason)| (code.clone(), reason.clone())).collect()
    }
}

/// A directive as it travels.
pub(crate) fn to_wire(letter: &Letter<Directive>) -> WireDirective {
    let body = letter.to_bytes();
    let id = DirectiveId::of(&body).hash().as_bytes().to_vec();
    WireDirective { id, body, traceparent: String::new() }
}
