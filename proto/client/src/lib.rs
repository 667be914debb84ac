//! Dialling the coordinator: one outbound connection, through a proxy if there is one, and an answer in plain
//! words when it does not come about.
//!
//! A [`dial`] is over only when the coordinator has accepted the caller. With TLS 1.3 a client's handshake ends
//! before the server has judged its certificate, and a refusal arrives as an alert on the first read. So the
//! dial waits for the coordinator's first HTTP/2 frame, and the reason is known before a call is made.
//!
//! The channel lives as long as its connection. When that ends, calls fail and the caller dials again: each
//! new connection is judged, and explained, like the first.

mod error;
mod stream;
mod tunnel;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use consilium_identity::address::{Address, Host};
use consilium_identity::tls::ClientTls;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

pub use error::{DialError, MemberRefusal, Stage};
pub use tunnel::{Credentials, Proxy};

use stream::Begun;

/// Idle connections are pinged, so that firewalls keep them and dead ones are noticed.
const PING: Duration = Duration::from_secs(20);
/// How much of one answer, and of all answers together, may be under way unread.
const WINDOWS: (u32, u32) = (2 << 20, 8 << 20);

/// Where to dial, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// The coordinator.
    pub address: Address,
    /// The proxy on the way, if the hospital has one.
    pub proxy: Option<Proxy>,
    /// How long everything may take until the coordinator has accepted.
    pub timeout: Duration,
}

impl Target {
    /// A coordinator that is reached directly, within 15 seconds.
    pub fn direct(address: Address) -> Self {
        Self { address, proxy: None, timeout: Duration::from_secs(15) }
    }
}

/// Connects to the coordinator. What kind of caller this is, a member or a newcomer, is in `tls`.
pub async fn dial(target: &Target, tls: &ClientTls) -> Result<Channel, DialError> {
    let deadline = Instant::now() + target.timeout;
    let late = |stage| move |_| DialError::TooSlow { stage, address: target.address.clone() };
    let tcp = match &target.proxy {
        None => connect(&target.address, deadline).await?,
        Some(proxy) => {
            let tcp = connect(&proxy.address, deadline).await.map_err(|error| error.at_proxy(proxy))?;
            let opened = timeout_at(deadline, tunnel::open(tcp, proxy, &target.address));
            opened.await.map_err(late(Stage::Proxy))??
        }
    };
    let server = target.address.host().server_name();
    let handshake = TlsConnector::from(Arc::clone(tls.config())).connect(server, tcp);
    let mut io = timeout_at(deadline, handshake)
        .await
        .map_err(late(Stage::Handshake))?
        .map_err(|error| DialError::of_tls(&error, &target.address))?;
    if io.get_ref().1.alpn_protocol() != Some(tls.protocol()) {
        return Err(DialError::NotHttp2 { address: target.address.clone() });
    }
    let first = timeout_at(deadline, first_bytes(&mut io, &target.address));
    let first = first.await.map_err(late(Stage::Answer))??;
    channel(Begun::new(first, io), target, deadline).await
}

async fn connect(address: &Address, deadline: Instant) -> Result<TcpStream, DialError> {
    let late = |stage| move |_| DialError::TooSlow { stage, address: address.clone() };
    let sockets: Vec<_> = match address.host() {
        Host::Ip(ip) => vec![(*ip, address.port()).into()],
        Host::Name(name) => timeout_at(deadline, tokio::net::lookup_host((name.as_str(), address.port())))
            .await
            .map_err(late(Stage::Resolve))?
            .map_err(|_| DialError::UnknownHost { address: address.clone() })?
            .collect(),
    };
    let tcp = timeout_at(deadline, TcpStream::connect(sockets.as_slice()))
        .await
        .map_err(late(Stage::Connect))?
        .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
        .map_err(|error| DialError::Unreachable { address: address.clone(), kind: error.kind() })?;
    Ok(tcp)
}

/// Waits for the coordinator's first frame: it comes once the handshake was accepted, and not before.
async fn first_bytes(io: &mut TlsStream<TcpStream>, address: &Address) -> Result<Vec<u8>, DialError> {
    let mut first = vec![0; 256];
    match io.read(&mut first).await {
        Ok(0) => Err(DialError::Closed { address: address.clone() }),
        Ok(length) => {
            first.truncate(length);
            Ok(first)
        }
        Err(error) => Err(DialError::of_tls(&error, address)),
    }
}

async fn channel(
    io: Begun<TlsStream<TcpStream>>,
    target: &Target,
    deadline: Instant,
) -> Result<Channel, DialError> {
    // The connector is given plain "http", because the stream it gets is encrypted already; requests say "https".
    let uri = |scheme: &str| -> Uri {
        format!("{scheme}://{}", target.address).parse().expect("an address is the authority of a URI")
    };
    let once = Arc::new(Mutex::new(Some(io)));
    let connector = tower::service_fn(move |_: Uri| {
        let io = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(io.map(TokioIo::new).ok_or(ConnectionOver))
    });
    Endpoint::from(uri("http"))
        .origin(uri("https"))
        .connect_timeout(deadline.saturating_duration_since(Instant::now()))
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .connect_with_connector(connector)
        .await
        .map_err(|_| DialError::Closed { address: target.address.clone() })
}

/// A call on a channel whose connection has ended.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the coordinator has ended; dial again")]
struct ConnectionOver;
