//! One port, two doors: members with a certificate, newcomers without.
//!
//! The ClientHello is read first. Who offers the enrolment protocol (ALPN `consilium-enrol/1`) is not asked for
//! a certificate and reaches the enrolment router alone; everybody else must show a member's certificate before
//! a single byte of HTTP is read. tonic's own TLS allows version 1.2 and takes no verifier, so `rustls` is used
//! directly, and tonic gets finished streams.
//!
//! Every member's connection can be cut. Revoking is: write the record, [`Trust::revoke`], then
//! [`Connections::cut_refused`]. A connection that finishes its handshake in between is caught as well, because
//! it is registered before its certificate is judged for the last time. A sweep ends the connections whose
//! certificate has run out or whose member has left the roster.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use consilium_identity::certificate::{Peer, Serial};
use consilium_identity::tls::{ALPN_ENROLMENT, ServerTls};
use consilium_identity::{CertificateRefusal, Trust};
use jiff::Timestamp;
use rustls::NamedGroup;
use rustls::crypto::SupportedKxGroup;
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};

/// HTTP/2 pings keep idle connections alive through firewalls, and find dead ones.
const PING: Duration = Duration::from_secs(20);
/// How much of one upload, and of all uploads of a connection, may be under way unread: two chunks. Every hospital may
/// have so much in memory here.
const WINDOWS: (u32, u32) = (2 << 20, 2 << 20);
/// Longest HTTP/2 frame: a quarter of a chunk, rather than sixty-four pieces of it.
const FRAME: u32 = 256 << 10;
/// How often live connections are judged again without an occasion.
const SWEEP: Duration = Duration::from_secs(15);
/// Finished handshakes that wait to be served.
const BACKLOG: usize = 64;

/// What strangers may take up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a handshake may take, from the first byte to the last.
    pub handshake: Duration,
    /// How many handshakes may be under way; further connections wait in the kernel's queue.
    pub handshakes: usize,
    /// How many enrolment connections may be open.
    pub newcomers: usize,
    /// How long an enrolment connection may live.
    pub newcomer_life: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            handshakes: 256,
            newcomers: 32,
            newcomer_life: Duration::from_mins(10),
        }
    }
}

/// The two doors, each a stream for `serve_with_incoming`, and the members that are connected.
pub struct Listener {
    /// Members' connections.
    pub members: ReceiverStream<Result<MemberStream, Infallible>>,
    /// Newcomers' connections.
    pub newcomers: ReceiverStream<Result<NewcomerStream, Infallible>>,
    /// The members' connections that are open.
    pub connections: Connections,
}

/// Starts accepting. It ends when both streams of the [`Listener`] are dropped.
pub fn listen(tcp: TcpListener, tls: Arc<ServerTls>, limits: Limits) -> Listener {
    let (members, members_out) = mpsc::channel(BACKLOG);
    let (newcomers, newcomers_out) = mpsc::channel(BACKLOG);
    let connections = Connections::default();
    let door = Door {
        tls,
        limits,
        connections: connections.clone(),
        members,
        newcomers,
        newcomer_permits: Arc::new(Semaphore::new(limits.newcomers)),
    };
    tokio::spawn(sweep(Arc::clone(door.tls.trust()), connections.clone(), door.members.downgrade()));
    tokio::spawn(accept(tcp, Arc::new(door)));
    Listener {
        members: ReceiverStream::new(members_out),
        newcomers: ReceiverStream::new(newcomers_out),
        connections,
    }
}

/// A tonic server with the settings that belong to this listener.
pub fn http2() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .max_concurrent_streams(64)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_frame_size(FRAME)
}

struct Door {
    tls: Arc<ServerTls>,
    limits: Limits,
    connections: Connections,
    members: mpsc::Sender<Result<MemberStream, Infallible>>,
    newcomers: mpsc::Sender<Result<NewcomerStream, Infallible>>,
    newcomer_permits: Arc<Semaphore>,
}

async fn accept(tcp: TcpListener, door: Arc<Door>) {
    let handshakes = Arc::new(Semaphore::new(door.limits.handshakes));
    loop {
        let permit = Arc::clone(&handshakes).acquire_owned().await.expect("nobody closes this semaphore");
        let accepted = tokio::select! {
            accepted = tcp.accept() => accepted,
            () = closed(&door) => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                let door = Arc::clone(&door);
                tokio::spawn(async move {
                    let outcome = door.receive(stream, remote).await;
                    drop(permit);
                    match outcome {
                        Ok(()) => {}
                        Err(HandshakeFailure::Closed) => {
                            debug!(%remote, "connection closed before TLS began");
                        }
                        Err(reason) => warn!(%remote, %reason, "connection refused"),
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, usually: accepting again at once would only spin.
                warn!(kind = ?error.kind(), "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn closed(door: &Door) {
    door.members.closed().await;
    door.newcomers.closed().await;
}

/// Why a connection was not let in.
#[derive(Debug, thiserror::Error)]
enum HandshakeFailure {
    #[error("the peer closed the connection before TLS began")]
    Closed,
    #[error("the TLS handshake took too long")]
    TooSlow,
    #[error("{0}")]
    Certificate(CertificateRefusal),
    #[error("no client certificate was shown")]
    NoCertificate,
    #[error("the client does not speak HTTP/2")]
    Protocol,
    #[error("too many enrolment connections are open")]
    NewcomersFull,
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    #[error("the connection broke during the handshake ({0:?})")]
    Broken(io::ErrorKind),
}

impl HandshakeFailure {
    fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(rustls::Error::NoApplicationProtocol) => Self::Protocol,
            Some(error) => Self::Tls(error.clone()),
            None => Self::Broken(error.kind()),
        }
    }
}

impl Door {
    async fn receive(&self, stream: TcpStream, remote: SocketAddr) -> Result<(), HandshakeFailure> {
        let deadline = Instant::now() + self.limits.handshake;
        stream.set_nodelay(true).map_err(|error| HandshakeFailure::of(&error))?;
        let hello = timeout_at(deadline, LazyConfigAcceptor::new(Acceptor::default(), stream))
            .await
            .map_err(|_| HandshakeFailure::TooSlow)?
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => HandshakeFailure::Closed,
                _ => HandshakeFailure::of(&error),
            })?;
        let enrols = hello
            .client_hello()
            .alpn()
            .is_some_and(|mut protocols| protocols.any(|protocol| protocol == ALPN_ENROLMENT));
        if enrols {
            let permit = Arc::clone(&self.newcomer_permits)
                .try_acquire_owned()
                .map_err(|_| HandshakeFailure::NewcomersFull)?;
            let io = finish(hello.into_stream(self.tls.enrolment()), deadline).await?;
            let over = Box::pin(sleep(self.limits.newcomer_life));
            let newcomer = NewcomerStream { io, over, remote, _permit: permit };
            // A send fails when the coordinator is closing; the connection then closes with it.
            let _ = self.newcomers.send(Ok(newcomer)).await;
            return Ok(());
        }
        let reception = self.tls.member();
        let finished = finish(hello.into_stream(reception.config), deadline).await;
        let (io, peer) = match (finished, reception.verdict.get()) {
            (_, Some(Err(refusal))) => return Err(HandshakeFailure::Certificate(refusal.clone())),
            (Err(failure), _) => return Err(failure),
            (Ok(_), None) => return Err(HandshakeFailure::NoCertificate),
            (Ok(io), Some(Ok(peer))) => (io, peer.clone()),
        };
        if io.get_ref().1.alpn_protocol().is_none() {
            return Err(HandshakeFailure::Protocol);
        }
        let (_, session) = io.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        let caller = Caller {
            peer: Arc::new(peer),
            certificate: Arc::new(shown.ok_or(HandshakeFailure::NoCertificate)?.clone()),
            key_exchange: session.negotiated_key_exchange_group().map(SupportedKxGroup::name),
            remote,
        };
        let (entry, cut) = self.connections.register(&caller);
        self.tls.trust().recheck(&caller.peer, Timestamp::now()).map_err(HandshakeFailure::Certificate)?;
        info!(
            %remote,
            peer = %caller.peer.principal(),
            serial = %caller.peer.serial(),
            key_exchange = ?caller.key_exchange,
            "member connected"
        );
        let member = MemberStream { io, cut: Box::pin(cut.cancelled_owned()), caller, _entry: entry };
        let _ = self.members.send(Ok(member)).await;
        Ok(())
    }
}

async fn finish(
    handshake: tokio_rustls::Accept<TcpStream>,
    deadline: Instant,
) -> Result<TlsStream<TcpStream>, HandshakeFailure> {
    timeout_at(deadline, handshake)
        .await
        .map_err(|_| HandshakeFailure::TooSlow)?
        .map_err(|error| HandshakeFailure::of(&error))
}

async fn sweep<T>(trust: Arc<Trust>, connections: Connections, alive: mpsc::WeakSender<T>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while alive.upgrade().is_some() {
        ticks.tick().await;
        connections.cut_refused(&trust, Timestamp::now());
    }
}

/// Who is at the other end of a member's connection. Every request carries it as an extension.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The member.
    pub peer: Arc<Peer>,
    /// The certificate it showed, for renewal.
    pub certificate: Arc<CertificateDer<'static>>,
    /// The key exchange that was agreed on.
    pub key_exchange: Option<NamedGroup>,
    /// Where it came from.
    pub remote: SocketAddr,
}

/// The members' connections that are open, by number.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    next: u64,
    live: BTreeMap<u64, (Caller, CancellationToken)>,
}

impl Connections {
    fn register(&self, caller: &Caller) -> (Registered, CancellationToken) {
        let cut = CancellationToken::new();
        let mut open = self.open();
        let number = open.next;
        open.next += 1;
        open.live.insert(number, (caller.clone(), cut.clone()));
        drop(open);
        (Registered { number, connections: self.clone() }, cut)
    }

    /// Cuts the connections that were opened with one certificate. Returns how many.
    pub fn cut(&self, serial: &Serial) -> usize {
        self.cut_where(|caller| (caller.peer.serial() == serial).then_some("certificate named"))
    }

    /// Judges all connections again and cuts those whose certificate counts no more. Returns how many.
    pub fn cut_refused(&self, trust: &Trust, now: Timestamp) -> usize {
        self.cut_where(|caller| trust.recheck(&caller.peer, now).err())
    }

    /// Who is connected.
    pub fn callers(&self) -> Vec<Caller> {
        self.open().live.values().map(|(caller, _)| caller.clone()).collect()
    }

    fn cut_where<R: std::fmt::Display>(&self, reason: impl Fn(&Caller) -> Option<R>) -> usize {
        let mut cut = 0;
        for (caller, token) in self.open().live.values().filter(|(_, token)| !token.is_cancelled()) {
            if let Some(reason) = reason(caller) {
                warn!(peer = %caller.peer.principal(), remote = %caller.remote, %reason, "connection cut");
                token.cancel();
                cut += 1;
            }
        }
        cut
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // An entry is put in or taken out whole, so a panic elsewhere leaves the table sound.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a connection off the table when it ends.
struct Registered {
    number: u64,
    connections: Connections,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.open().live.remove(&self.number);
    }
}

/// A member's connection. It fails when it is cut.
pub struct MemberStream {
    io: TlsStream<TcpStream>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    caller: Caller,
    _entry: Registered,
}

impl Connected for MemberStream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

/// A newcomer's connection. It fails when its time is over.
pub struct NewcomerStream {
    io: TlsStream<TcpStream>,
    over: Pin<Box<tokio::time::Sleep>>,
    remote: SocketAddr,
    _permit: OwnedSemaphorePermit,
}

/// Where a newcomer came from. Every enrolment request carries it as an extension.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer {
    /// Its address.
    pub remote: SocketAddr,
}

impl Connected for NewcomerStream {
    type ConnectInfo = Newcomer;

    fn connect_info(&self) -> Newcomer {
        Newcomer { remote: self.remote }
    }
}

macro_rules! stream_until {
    ($stream:ident, $end:ident) => {
        impl $stream {
            /// Registers for the end and says whether it has come.
            fn ended(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
                match self.$end.as_mut().poll(cx) {
                    Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
                    Poll::Pending => Ok(()),
                }
            }
        }

        impl AsyncRead for $stream {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                self.ended(cx)?;
                Pin::new(&mut self.io).poll_read(cx, buffer)
            }
        }

        impl AsyncWrite for $stream {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.ended(cx)?;
                Pin::new(&mut self.io).poll_write(cx, bytes)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.ended(cx)?;
                Pin::new(&mut self.io).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
                Poll::Ready(Ok(()))
            }
        }
    };
}

stream_until!(MemberStream, cut);
stream_until!(NewcomerStream, over);
