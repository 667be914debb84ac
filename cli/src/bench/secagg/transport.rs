//! A masked vector over the network: the product's own listener, dialling and messages against a bare TLS stream.
//!
//! Both run over loopback, with the same certificates and cipher, between two processes that are set up as a coordinator
//! and as a site's relay are. The receiving end counts bytes and keeps nothing, so that neither disk nor checks are in it.

use std::convert::Infallible;
use std::io::{self, BufRead as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use consilium_client::{Target, dial};
use consilium_coordinator::listener::{Limits, http2, listen};
use consilium_identity::authority::lifetime;
use consilium_identity::revocation::Revocations;
use consilium_identity::roster::{CoordinatorEntry, PersonEntry, SiteEntry};
use consilium_identity::tls::{ClientTls, ServerTls};
use consilium_identity::{ConsortiumKey, Roster, TlsKey, Trust};
use consilium_memory::{Freed, settle};
use consilium_proto::v1::site_client::SiteClient;
use consilium_proto::v1::{UploadChunk, UploadReply, UploadStateReply, upload_reply};
use consilium_study::name::{ConsortiumName, Principal};
use consilium_study::sign::SigningKey;
use jiff::Timestamp;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;
use tonic::codegen::{BoxFuture, Bytes, Service, http};
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

/// Which end of the transport a process is.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(in crate::bench) enum End {
    /// Takes uploads, until nothing more can come from whoever started it.
    Coordinator,
    /// Uploads, and prints how long it took.
    Relay,
}

/// Keys that both ends know about.
#[derive(Serialize, Deserialize)]
struct Keys {
    consortium: String,
    coordinator: String,
    site: String,
}

/// Where the coordinator listens.
#[derive(Serialize, Deserialize)]
struct Addresses {
    grpc: SocketAddr,
    bare: SocketAddr,
}

/// Measures both ways between two processes of their own, started as units of a coordinator and of a site start them.
pub(super) fn measure() -> anyhow::Result<Transport> {
    let keys = Keys {
        consortium: ConsortiumKey::generate(name()?).to_pem().to_string(),
        coordinator: TlsKey::generate().to_pem().to_string(),
        site: TlsKey::generate().to_pem().to_string(),
    };
    let mut coordinator = start("coordinator")?;
    let told = ask(&mut coordinator, &keys).and_then(|addresses: Addresses| {
        let mut relay = start("relay")?;
        let told = ask(&mut relay, &(keys, addresses));
        finish(relay, told)
    });
    finish(coordinator, told)
}

fn start(end: &str) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "transport-end", end]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Freed::GoesBack.tune(&mut command).spawn()
}

/// Tells a process a line, and reads one.
fn ask<T: DeserializeOwned>(child: &mut Child, tell: &impl Serialize) -> anyhow::Result<T> {
    let input = child.stdin.as_mut().context("a pipe was asked for")?;
    writeln!(input, "{}", serde_json::to_string(tell)?)?;
    let mut line = String::new();
    io::BufReader::new(child.stdout.as_mut().context("a pipe was asked for")?).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Closes the input of a process, which ends it, and waits. What it said against itself comes before what was missed.
fn finish<T>(child: Child, told: anyhow::Result<T>) -> anyhow::Result<T> {
    let output = child.wait_with_output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "an upload cannot be measured: {}", error.trim_end());
    told
}

/// Is one of the two ends.
pub(in crate::bench) fn run_end(end: End) -> anyhow::Result<()> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    match end {
        End::Coordinator => {
            settle(Freed::GoesBack);
            // The other core is the relay's.
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let ends = Ends::new(&serde_json::from_str(&line)?)?;
            let addresses = runtime.block_on(runtime.spawn(receive(ends)))??;
            println!("{}", serde_json::to_string(&addresses)?);
            io::copy(&mut io::stdin(), &mut io::sink())?;
            Ok(())
        }
        End::Relay => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (keys, addresses): (Keys, Addresses) = serde_json::from_str(&line)?;
            let transport = runtime.block_on(send(&Ends::new(&keys)?, &addresses))?;
            println!("{}", serde_json::to_string(&transport)?);
            Ok(())
        }
    }
}

fn name() -> anyhow::Result<ConsortiumName> {
    Ok("bench".parse()?)
}

/// The certificates of a coordinator and of one site.
struct Ends {
    server: Arc<ServerTls>,
    client: ClientTls,
}

impl Ends {
    fn new(keys: &Keys) -> anyhow::Result<Self> {
        let key = ConsortiumKey::from_pem(name()?, &keys.consortium)?;
        let [coordinator, site] = [TlsKey::from_pem(&keys.coordinator)?, TlsKey::from_pem(&keys.site)?];
        // Nobody speaks for these: each end has its own.
        let [person, issuing] = std::array::from_fn(|_| TlsKey::generate());
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
        let roster = key.sign(&Roster::first(name()?, entry, person)?.with_site(member)?);
        let trust = Arc::new(Trust::new(key.anchor(), &roster, Revocations::new())?);
        let now = Timestamp::now();
        let chain = key.certify_coordinator(&coordinator.public_key(), &["127.0.0.1".parse()?], now);
        let server = Arc::new(ServerTls::new(Arc::clone(&trust), &chain, &coordinator)?);
        let principal = Principal::Site("site".parse()?);
        let chain = key.certify(&site.public_key(), &principal, lifetime::SITE, now)?;
        Ok(Self { server, client: ClientTls::member(trust, &chain, &site)? })
    }
}

/// Listens for both ways, for as long as the process lives.
async fn receive(ends: Ends) -> io::Result<Addresses> {
    let [grpc, bare] = [TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?];
    let addresses = Addresses { grpc: grpc.local_addr()?, bare: bare.local_addr()? };
    let [grpc, mut bare] = [grpc, bare].map(|tcp| listen(tcp, Arc::clone(&ends.server), Limits::default()));
    tokio::spawn(http2().add_service(Sink).serve_with_incoming(grpc.members));
    tokio::spawn(async move {
        while let Some(Ok(mut stream)) = bare.members.next().await {
            let mut buffer = vec![0; consilium_proto::CHUNK];
            let mut left = LENGTH;
            while left > 0 {
                match stream.read(&mut buffer).await? {
                    0 => break,
                    length => left -= length,
                }
            }
            stream.write_all(&[1]).await?;
            stream.flush().await?;
        }
        io::Result::Ok(())
    });
    Ok(addresses)
}

/// Uploads both ways, in turns.
async fn send(ends: &Ends, addresses: &Addresses) -> anyhow::Result<Transport> {
    let chunks: Vec<Bytes> =
        vec![7; LENGTH].chunks(consilium_proto::CHUNK).map(Bytes::copy_from_slice).collect();
    let (mut grpc, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        bare.push(send_bare(ends, addresses.bare, &chunks).await?);
        grpc.push(send_grpc(ends, addresses.grpc, chunks.clone()).await?);
    }
    let best = |times: Vec<Duration>| {
        let mut times = times.into_iter();
        best(TIMES, || times.next().unwrap_or(Duration::MAX))
    };
    Ok(Transport { grpc: best(grpc), bare: best(bare) })
}

/// The same bytes through TLS alone.
async fn send_bare(ends: &Ends, address: SocketAddr, chunks: &[Bytes]) -> anyhow::Result<Duration> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::clone(ends.client.config()));
    let mut stream = connector.connect(ServerName::IpAddress(address.ip().into()), tcp).await?;
    let began = Instant::now();
    for chunk in chunks {
        stream.write_all(chunk).await?;
    }
    stream.flush().await?;
    stream.read_u8().await?;
    Ok(began.elapsed())
}

/// As a relay sends it to a coordinator.
async fn send_grpc(ends: &Ends, address: SocketAddr, chunks: Vec<Bytes>) -> anyhow::Result<Duration> {
    let channel = dial(&Target::direct(address.to_string().parse()?), &ends.client).await?;
    let mut client = SiteClient::new(channel);
    let mut end = 0;
    let chunks = chunks.into_iter().map(move |bytes| {
        let offset = end;
        end += bytes.len() as u64;
        UploadChunk { name: None, offset, bytes }
    });
    let began = Instant::now();
    let reply = client.upload(tokio_stream::iter(chunks)).await?.into_inner();
    let spent = began.elapsed();
    let verdict = reply.verdict.context("an upload is answered")?;
    anyhow::ensure!(
        matches!(&verdict, upload_reply::Verdict::State(state) if state.offset == LENGTH as u64),
        "bytes were lost: {verdict:?}"
    );
    Ok(spent)
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
