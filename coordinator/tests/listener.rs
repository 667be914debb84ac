//! The listener and the dialling side together, over loopback.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::sync::Arc;
use std::time::Duration;

use consilium_client::{Credentials, DialError, MemberRefusal, Proxy, Target, dial};
use consilium_coordinator::listener::{Caller, Connections, Limits, http2, listen};
use consilium_identity::authority::lifetime;
use consilium_identity::revocation::{Revocation, Revocations};
use consilium_identity::roster::{CoordinatorEntry, PersonEntry, SiteEntry};
use consilium_identity::tls::{ClientTls, ServerTls};
use consilium_identity::{Chain, ConsortiumKey, Roster, TlsKey, Trust};
use consilium_study::name::Principal;
use consilium_study::sign::{Signed, SigningKey};
use jiff::Timestamp;
use rustls::{AlertDescription, NamedGroup};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const SHORT: Duration = Duration::from_secs(5);

/// A consortium with sites `a` and `b`.
struct Consortium {
    key: ConsortiumKey,
    roster: Signed<Roster>,
    coordinator: TlsKey,
    sites: [TlsKey; 2],
}

impl Consortium {
    fn new(name: &str) -> Self {
        let key = ConsortiumKey::generate(name.parse().unwrap());
        let [coordinator, operator, issuing, a, b] = std::array::from_fn(|_| TlsKey::generate());
        let signing = || SigningKey::generate().verifying_key();
        let entry = CoordinatorEntry {
            signing_key: signing(),
            tls_key: coordinator.public_key().hash(),
            issuing_key: issuing.public_key().hash(),
        };
        let person = PersonEntry {
            name: "ada".parse().unwrap(),
            signing_key: signing(),
            tls_key: operator.public_key().hash(),
        };
        let mut roster = Roster::first(name.parse().unwrap(), entry, person).unwrap();
        for (name, tls) in [("a", &a), ("b", &b)] {
            let (name, tls_key) = (name.parse().unwrap(), tls.public_key().hash());
            roster =
                roster.with_site(SiteEntry { name, signing_key: signing(), tls_key, test: false }).unwrap();
        }
        let roster = key.sign(&roster);
        Self { key, roster, coordinator, sites: [a, b] }
    }

    fn chain(&self, site: &str, key: &TlsKey, age: Duration) -> Chain {
        let principal = Principal::Site(site.parse().unwrap());
        self.key.certify(&key.public_key(), &principal, lifetime::SITE, Timestamp::now() - age).unwrap()
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::new(Trust::new(self.key.anchor(), &self.roster, Revocations::new()).unwrap())
    }

    /// Site 0 is `a`, site 1 is `b`.
    fn site(&self, index: usize) -> ClientTls {
        let key = &self.sites[index];
        let chain = self.chain(["a", "b"][index], key, Duration::ZERO);
        ClientTls::member(self.trust(), &chain, key).unwrap()
    }
}

/// A coordinator that serves nothing but health: services `members` and `newcomers`, each behind its door.
struct Coordinator {
    target: Target,
    trust: Arc<Trust>,
    connections: Connections,
}

impl Coordinator {
    async fn start(consortium: &Consortium, limits: Limits) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap().to_string().parse().unwrap();
        let trust = consortium.trust();
        let chain = consortium.key.certify_coordinator(
            &consortium.coordinator.public_key(),
            &["127.0.0.1".parse().unwrap()],
            Timestamp::now(),
        );
        let tls = ServerTls::new(Arc::clone(&trust), &chain, &consortium.coordinator).unwrap();
        let listener = listen(tcp, Arc::new(tls), limits);
        let (reporter, members) = tonic_health::server::health_reporter();
        reporter.set_service_status("members", tonic_health::ServingStatus::Serving).await;
        // Every call of a member says who calls.
        let named = |request: Request<()>| match request.extensions().get::<Caller>() {
            Some(caller) if caller.peer.site().is_ok() => Ok(request),
            _ => Err(Status::permission_denied("no caller")),
        };
        let members = tonic::service::interceptor::InterceptedService::new(members, named);
        tokio::spawn(http2().add_service(members).serve_with_incoming(listener.members));
        let (reporter, newcomers) = tonic_health::server::health_reporter();
        reporter.set_service_status("newcomers", tonic_health::ServingStatus::Serving).await;
        tokio::spawn(http2().add_service(newcomers).serve_with_incoming(listener.newcomers));
        Self { target: Target::direct(address), trust, connections: listener.connections }
    }

    async fn dial(&self, tls: &ClientTls) -> Result<Channel, DialError> {
        tokio::time::timeout(SHORT, dial(&self.target, tls)).await.expect("dialling ends")
    }

    async fn refusal(&self, tls: &ClientTls) -> MemberRefusal {
        match self.dial(tls).await {
            Err(DialError::Refused { refusal, .. }) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }
}

async fn check(channel: &Channel, service: &str) -> Result<(), Status> {
    let request = HealthCheckRequest { service: service.into() };
    HealthClient::new(channel.clone()).check(request).await.map(|_| ())
}

#[tokio::test]
async fn members_are_let_in_by_name_over_hybrid_key_exchange() {
    let consortium = Consortium::new("north");
    let coordinator = Coordinator::start(&consortium, Limits::default()).await;
    let channel = coordinator.dial(&consortium.site(0)).await.unwrap();
    check(&channel, "members").await.unwrap();
    let callers = coordinator.connections.callers();
    assert_eq!(callers.len(), 1);
    assert_eq!(callers[0].peer.principal().to_string(), "site/a");
    assert_eq!(callers[0].key_exchange, Some(NamedGroup::X25519MLKEM768));
    // When the connection ends, so does the entry.
    drop(channel);
    wait_until(|| coordinator.connections.callers().is_empty()).await;
}

#[tokio::test]
async fn bad_certificates_are_refused_each_with_its_own_error() {
    let consortium = Consortium::new("north");
    let coordinator = Coordinator::start(&consortium, Limits::default()).await;
    let member = |chain: &Chain, key| ClientTls::member(consortium.trust(), chain, key).unwrap();
    let key = &consortium.sites[0];
    let old = consortium.chain("a", key, Duration::from_hours(24 * 31));
    assert_eq!(coordinator.refusal(&member(&old, key)).await, MemberRefusal::Expired);
    let south = Consortium::new("south");
    let foreign = south.chain("a", &south.sites[0], Duration::ZERO);
    assert_eq!(coordinator.refusal(&member(&foreign, &south.sites[0])).await, MemberRefusal::Foreign);
    let own = consortium.chain("z", key, Duration::ZERO);
    assert_eq!(coordinator.refusal(&member(&own, key)).await, MemberRefusal::NotOnRoster);
    let good = consortium.chain("a", key, Duration::ZERO);
    coordinator.trust.revoke(Revocation::of(&good.leaf(), Timestamp::now()));
    assert_eq!(coordinator.refusal(&member(&good, key)).await, MemberRefusal::Revoked);
    assert!(coordinator.connections.callers().is_empty());
    // A site of another consortium that trusts its own coordinator notices whom it has reached.
    let lost = coordinator.dial(&south.site(0)).await.unwrap_err().to_string();
    assert!(lost.contains("consortium north") && lost.contains("belongs to south"), "{lost}");
}

#[tokio::test]
async fn without_a_certificate_nothing_but_enrolment_is_reached() {
    let consortium = Consortium::new("north");
    let coordinator = Coordinator::start(&consortium, Limits::default()).await;
    let newcomer = ClientTls::enrolment(&consortium.key.anchor());
    let channel = coordinator.dial(&newcomer).await.unwrap();
    check(&channel, "newcomers").await.unwrap();
    assert_eq!(check(&channel, "members").await.unwrap_err().code(), Code::NotFound);

    let mut config = (**newcomer.config()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(coordinator.target.address.to_string()).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut io = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let error = io.read(&mut [0; 16]).await.unwrap_err();
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    assert_eq!(alert, Some(&rustls::Error::AlertReceived(AlertDescription::CertificateRequired)));
}

/// A ClientHello as TLS 1.2 has it, written by hand: our build of the library could not send one.
#[tokio::test]
async fn tls_1_2_is_refused() {
    let consortium = Consortium::new("north");
    let coordinator = Coordinator::start(&consortium, Limits::default()).await;
    let mut extensions = vec![0x00, 0x0a, 0, 4, 0, 2, 0, 0x17]; // supported_groups: P-256
    extensions.extend([0x00, 0x0d, 0, 4, 0, 2, 4, 3]); // signature_algorithms: ECDSA, SHA-256
    extensions.extend([0x00, 0x10, 0, 5, 0, 3, 2, b'h', b'2']); // ALPN: h2
    let mut hello = vec![3, 3];
    hello.extend([7; 32]); // random
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]); // no session; ECDHE-ECDSA-AES128-GCM; no compression
    hello.extend([0, extensions.len() as u8]);
    hello.extend(extensions);
    let mut record = vec![0x16, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    let mut tcp = TcpStream::connect(coordinator.target.address.to_string()).await.unwrap();
    tcp.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(SHORT, tcp.read_to_end(&mut answer)).await.unwrap().unwrap();
    // One fatal alert, number 70: protocol_version (RFC 8446, section 6).
    assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 70]);
}

#[tokio::test]
async fn revoking_cuts_a_live_connection_and_no_other() {
    let consortium = Consortium::new("north");
    let coordinator = Coordinator::start(&consortium, Limits::default()).await;
    let (a, b) = (consortium.site(0), consortium.site(1));
    let channel = coordinator.dial(&a).await.unwrap();
    let untouched = coordinator.dial(&b).await.unwrap();
    let request = HealthCheckRequest { service: "members".into() };
    let mut watch = HealthClient::new(channel.clone()).watch(request).await.unwrap().into_inner();
    watch.message().await.unwrap().expect("the state is told at once");

    let caller =
        coordinator.connections.callers().into_iter().find(|c| c.peer.site().unwrap().as_str() == "a");
    let leaf = consortium.chain("a", &consortium.sites[0], Duration::ZERO).leaf();
    assert_eq!(leaf.key, caller.unwrap().peer.key(), "another serial number, the same key");
    assert_eq!(coordinator.connections.cut_refused(&coordinator.trust, Timestamp::now()), 0);
    coordinator.trust.revoke(Revocation::of(&leaf, Timestamp::now()));
    assert_eq!(coordinator.connections.cut_refused(&coordinator.trust, Timestamp::now()), 1);

    let ended = tokio::time::timeout(SHORT, watch.message()).await.expect("the stream ends at once");
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(check(&channel, "members").await.unwrap_err().code(), Code::Unavailable);
    check(&untouched, "members").await.unwrap();
    assert_eq!(coordinator.refusal(&a).await, MemberRefusal::Revoked);
    wait_until(|| coordinator.connections.callers().len() == 1).await;
    // By serial number alone.
    let serial = coordinator.connections.callers()[0].peer.serial().clone();
    assert_eq!((coordinator.connections.cut(&serial), coordinator.connections.cut(&serial)), (1, 0));
    assert!(check(&untouched, "members").await.is_err());
}

#[tokio::test]
async fn strangers_that_say_nothing_hold_no_place_for_long() {
    let consortium = Consortium::new("north");
    let limits = Limits { handshake: Duration::from_millis(200), handshakes: 2, ..Limits::default() };
    let coordinator = Coordinator::start(&consortium, limits).await;
    let address = coordinator.target.address.to_string();
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let mut garbage = TcpStream::connect(&address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let channel = coordinator.dial(&consortium.site(0)).await.unwrap();
    check(&channel, "members").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(SHORT, silent.read_to_end(&mut rest)).await.expect("closed in time").unwrap();
    assert!(rest.is_empty());
    let closed = tokio::time::timeout(SHORT, garbage.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "closed in time");
}

#[tokio::test]
async fn newcomers_are_few_and_stay_briefly() {
    let consortium = Consortium::new("north");
    let limits = Limits { newcomers: 1, newcomer_life: Duration::from_millis(500), ..Limits::default() };
    let coordinator = Coordinator::start(&consortium, limits).await;
    let newcomer = ClientTls::enrolment(&consortium.key.anchor());
    let first = coordinator.dial(&newcomer).await.unwrap();
    check(&first, "newcomers").await.unwrap();
    assert!(coordinator.dial(&newcomer).await.is_err(), "there is one place");
    check(&coordinator.dial(&consortium.site(0)).await.unwrap(), "members").await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(check(&first, "newcomers").await.is_err(), "its time is over");
    let next = coordinator.dial(&newcomer).await.expect("its place is free");
    check(&next, "newcomers").await.unwrap();
}

#[tokio::test]
async fn a_proxy_with_credentials_is_passed() {
    let consortium = Consortium::new("north");
    let coordinator = Coordinator::start(&consortium, Limits::default()).await;
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap().to_string().parse().unwrap();
    let proxy = tokio::spawn(async move {
        let (stream, _) = tcp.accept().await.unwrap();
        let mut inner = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            inner.read_line(&mut line).await.unwrap();
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let to = lines[0].split(' ').nth(1).unwrap().to_owned();
        let mut out = TcpStream::connect(to).await.unwrap();
        inner.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n").await.unwrap();
        let _ = copy_bidirectional(&mut inner, &mut out).await;
        lines
    });
    let credentials = Some(Credentials::new("it", "secret").unwrap());
    let target = Target { proxy: Some(Proxy { address, credentials }), ..coordinator.target.clone() };
    let channel = dial(&target, &consortium.site(0)).await.unwrap();
    check(&channel, "members").await.unwrap();
    drop(channel);
    let lines = tokio::time::timeout(SHORT, proxy).await.unwrap().unwrap();
    assert!(lines.contains(&"Proxy-Authorization: Basic aXQ6c2VjcmV0".to_owned()), "{lines:?}");
}

async fn wait_until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SHORT, waiting).await.expect("it happens soon");
}
