//! A masked vector over the network: the product's own listener, dialling and messages against a bare TLS stream.
//!
//! Both run over loopback, between two ends of this process, with the same certificates and cipher. The receiving end
//! counts bytes and keeps nothing, so that neither disk nor checks are in it.

use std::convert::Infallible;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use consilium_client::{Target, dial};
use consilium_coordinator::listener::{Limits, Listener, http2, listen};
use consilium_identity::authority::lifetime;
use consilium_identity::revocation::Revocations;
use consilium_identity::roster::{CoordinatorEntry, PersonEntry, SiteEntry};
use consilium_identity::tls::{ClientTls, ServerTls};
use consilium_identity::{ConsortiumKey, Roster, TlsKey, Trust};
use consilium_memory::{Freed, settle};
use consilium_proto::v1::site_client::SiteClient;
use consilium_proto::v1::{UploadChunk, UploadReply, UploadStateReply, upload_reply};
use consilium_study::name::Principal;
use consilium_study::sign::SigningKey;
use jiff::Timestamp;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{ClientStreamingService, Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::stopwatch::best;

/// Bytes of ten million words.
const LENGTH: usize = 40_000_000;
/// Measurements of each way, in turns.
const TIMES: usize = 15;

/// Seconds of both ways.
#[derive(Serialize, Deserialize)]
pub(super) struct Transport {
    /// Through gRPC.
    pub(super) grpc: f64,
    /// Through TLS alone.
    pub(super) bare: f64,
}

impl Transport {
    /// Rate of the one against the other.
    pub(super) fn ratio(&self) -> f64 {
        self.bare / self.grpc
    }
}

/// Measures both in a process of its own, started as a coordinator's unit starts one.
pub(super) fn measure() -> anyhow::Result<Transport> {
    let mut child = Command::new(std::env::current_exe()?);
    let output = Freed::GoesBack.tune(&mut child).args(["bench", "transport-case"]).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "an upload cannot be measured: {}", error.trim_end());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Measures both in this process and prints what [`measure`] reads. Each end has one thread, as a relay has.
pub(in crate::bench) fn run_case() -> anyhow::Result<()> {
    settle(Freed::GoesBack);
    let relay = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let coordinator = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ends = Ends::new()?;
    let (mut grpc, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        bare.push(relay.block_on(ends.bare(&coordinator))?);
        grpc.push(relay.block_on(ends.grpc(&coordinator))?);
    }
    let best = |times: Vec<Duration>| {
        let mut times = times.into_iter();
        best(TIMES, || times.next().unwrap_or(Duration::MAX))
    };
    let transport = Transport { grpc: best(grpc), bare: best(bare) };
    println!("{}", serde_json::to_string(&transport)?);
    Ok(())
}

/// The certificates of a coordinator and of one site.
struct Ends {
    server: Arc<ServerTls>,
    client: ClientTls,
}

impl Ends {
    fn new() -> anyhow::Result<Self> {
        let name: consilium_study::name::ConsortiumName = "bench".parse()?;
        let key = ConsortiumKey::generate(name.clone());
        let [coordinator, person, issuing, site] = std::array::from_fn(|_| TlsKey::generate());
        let signing_key = || SigningKey::generate().verifying_key();
        let entry = CoordinatorEntry {
            signing_key: signing_key(),
            tls_key: coordinator.public_key().hash(),
            issuing_key: issuing.public_key().hash(),
        };
        let tls_key = person.public_key().hash();
        let person = PersonEntry { name: "ada".parse()?, signing_key: signing_key(), tls_key };
        let tls_key = site.public_key().hash();
        let member = SiteEntry { name: "site".parse()?, signing_key: signing_key(), tls_key, test: false };
        let roster = key.sign(&Roster::first(name, entry, person)?.with_site(member)?);
        let trust = Arc::new(Trust::new(key.anchor(), &roster, Revocations::new())?);
        let now = Timestamp::now();
        let chain = key.certify_coordinator(&coordinator.public_key(), &["127.0.0.1".parse()?], now);
        let server = Arc::new(ServerTls::new(Arc::clone(&trust), &chain, &coordinator)?);
        let principal = Principal::Site("site".parse()?);
        let chain = key.certify(&site.public_key(), &principal, lifetime::SITE, now)?;
        Ok(Self { server, client: ClientTls::member(trust, &chain, &site)? })
    }

    async fn listen(&self, coordinator: &Runtime) -> anyhow::Result<(std::net::SocketAddr, Listener)> {
        let tls = Arc::clone(&self.server);
        coordinator
            .spawn(async move {
                let tcp = TcpListener::bind("127.0.0.1:0").await?;
                Ok((tcp.local_addr()?, listen(tcp, tls, Limits::default())))
            })
            .await?
    }

    /// The same bytes through TLS alone.
    async fn bare(&self, coordinator: &Runtime) -> anyhow::Result<Duration> {
        let (address, mut listener) = self.listen(coordinator).await?;
        let receiver = coordinator.spawn(async move {
            let Some(Ok(mut stream)) = listener.members.next().await else { return Ok(()) };
            let mut buffer = vec![0; consilium_proto::CHUNK];
            let mut left = LENGTH;
            while left > 0 {
                match stream.read(&mut buffer).await? {
                    0 => break,
                    length => left -= length,
                }
            }
            stream.write_all(&[1]).await?;
            stream.flush().await
        });
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(self.client.config()));
        let mut stream = connector.connect(ServerName::IpAddress(address.ip().into()), tcp).await?;
        let chunks = chunks();
        let began = Instant::now();
        for chunk in &chunks {
            stream.write_all(chunk).await?;
        }
        stream.flush().await?;
        stream.read_u8().await?;
        let spent = began.elapsed();
        receiver.await??;
        Ok(spent)
    }

    /// As a relay sends it to a coordinator.
    async fn grpc(&self, coordinator: &Runtime) -> anyhow::Result<Duration> {
        let (address, listener) = self.listen(coordinator).await?;
        let server = coordinator.spawn(http2().add_service(Sink).serve_with_incoming(listener.members));
        let channel = dial(&Target::direct(address.to_string().parse()?), &self.client).await?;
        let mut client = SiteClient::new(channel);
        let mut offset = 0;
        let chunks: Vec<_> = chunks()
            .into_iter()
            .map(|bytes| {
                let chunk = UploadChunk { name: None, offset, bytes: bytes.into() };
                offset += chunk.bytes.len() as u64;
                chunk
            })
            .collect();
        let began = Instant::now();
        let reply = client.upload(tokio_stream::iter(chunks)).await?.into_inner();
        let spent = began.elapsed();
        server.abort();
        let verdict = reply.verdict.context("an upload is answered")?;
        anyhow::ensure!(
            matches!(&verdict, upload_reply::Verdict::State(state) if state.offset == LENGTH as u64),
            "bytes were lost: {verdict:?}"
        );
        Ok(spent)
    }
}

fn chunks() -> Vec<Vec<u8>> {
    vec![7; LENGTH].chunks(consilium_proto::CHUNK).map(<[u8]>::to_vec).collect()
}

/// A coordinator that takes uploads and keeps nothing.
#[derive(Clone)]
struct Sink;

impl NamedService for Sink {
    const NAME: &'static str = "consilium.v1.Site";
}

impl Service<http::Request<tonic::body::Body>> for Sink {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<UploadReply, UploadChunk>::default();
            Ok(Grpc::new(codec).client_streaming(Self, request).await)
        })
    }
}

impl ClientStreamingService<UploadChunk> for Sink {
    type Response = UploadReply;
    type Future = BoxFuture<Response<UploadReply>, Status>;

    fn call(&mut self, request: Request<Streaming<UploadChunk>>) -> Self::Future {
        Box::pin(async move {
            let mut stream = request.into_inner();
            let mut offset = 0;
            while let Some(chunk) = stream.message().await? {
                offset += chunk.bytes.len() as u64;
            }
            let state = UploadStateReply { offset, complete: true, closed: false };
            Ok(Response::new(UploadReply { verdict: Some(upload_reply::Verdict::State(state)) }))
        })
    }
}
