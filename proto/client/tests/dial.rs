//! What can stand between a hospital and its coordinator, and what the hospital is told about it.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::sync::Arc;
use std::time::Duration;

use consilium_client::{Credentials, DialError, Proxy, Stage, Target, dial};
use consilium_identity::ConsortiumKey;
use consilium_identity::address::Address;
use consilium_identity::tls::{ClientTls, ServerRefusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn refused(target: Target) -> DialError {
    let anchor = ConsortiumKey::generate("north".parse().unwrap()).anchor();
    dial(&target, &ClientTls::enrolment(&anchor)).await.expect_err("no coordinator is there")
}

fn target(address: Address) -> Target {
    Target { timeout: Duration::from_millis(500), ..Target::direct(address) }
}

/// A server that treats each connection in one way.
async fn serve<F>(mut each: impl FnMut(TcpStream) -> F + Send + 'static) -> Address
where
    F: Future<Output = ()> + Send + 'static,
{
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap().to_string().parse().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            tokio::spawn(each(stream));
        }
    });
    address
}

/// A proxy that reads the request and answers with a line.
async fn proxy(answer: &'static str) -> Address {
    serve(move |mut stream| async move {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(answer.as_bytes()).await;
        std::future::pending::<()>().await;
    })
    .await
}

fn through(address: Address, credentials: Option<Credentials>) -> Target {
    let proxy = Some(Proxy { address, credentials });
    Target { proxy, ..target("coordinator.example.org:443".parse().unwrap()) }
}

#[tokio::test]
async fn a_closed_port_and_an_unknown_name_are_told_apart() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed: Address = tcp.local_addr().unwrap().to_string().parse().unwrap();
    drop(tcp);
    let error = refused(target(closed.clone())).await;
    assert!(matches!(error, DialError::Unreachable { .. }), "{error}");
    // RFC 6761: names below `invalid` never resolve.
    let error = refused(target("coordinator.invalid:443".parse().unwrap())).await;
    let unknown =
        matches!(error, DialError::UnknownHost { .. } | DialError::TooSlow { stage: Stage::Resolve, .. });
    assert!(unknown, "{error}");
    let error = refused(through(closed, None)).await;
    assert!(matches!(error, DialError::ProxyUnreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_one_is_called_that() {
    let plain = serve(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        std::future::pending::<()>().await;
    });
    let error = refused(target(plain.await)).await;
    assert!(matches!(error, DialError::NotTls { .. }), "{error}");
    let silent = serve(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    let error = refused(target(silent.await)).await;
    assert!(matches!(error, DialError::TooSlow { stage: Stage::Handshake, .. }), "{error}");
    let hanging_up = serve(|mut stream| async move {
        // Read first, so that the connection ends in good order and not by a reset.
        let _ = stream.read(&mut [0; 4096]).await;
    });
    let error = refused(target(hanging_up.await)).await;
    assert!(matches!(error, DialError::Closed { .. }), "{error}");
    // A server that knows TLS 1.2 only answers a TLS 1.3 hello with this alert.
    let old = serve(|mut stream| async move {
        let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, 70]).await;
        std::future::pending::<()>().await;
    });
    let error = refused(target(old.await)).await;
    assert!(matches!(error, DialError::OldTls { .. }), "{error}");
}

#[tokio::test]
async fn intercepted_tls_is_refused_and_the_issuer_named() {
    let mut params = rcgen::CertificateParams::new(vec!["coordinator.example.org".into()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Clinic Web Gateway");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialized_der().to_vec().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], private)
        .unwrap();
    config.alpn_protocols = vec![b"consilium-enrol/1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let gateway = serve(move |stream| {
        let handshake = acceptor.accept(stream);
        async move {
            let _ = handshake.await;
        }
    });
    let error = refused(target(gateway.await)).await;
    let DialError::Server { refusal: ServerRefusal::Intercepted { issuer }, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(issuer, "CN=Clinic Web Gateway");
    assert!(error.to_string().contains("intercepted") && error.to_string().contains(issuer.as_str()));
}

#[tokio::test]
async fn each_mood_of_a_proxy_has_its_own_error() {
    let given = Some(Credentials::new("it", "wrong").unwrap());
    let wants = proxy("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    for (credentials, text) in [(None, "wants a user name"), (given, "refuses the user name")] {
        let error = refused(through(wants.clone(), credentials)).await;
        assert!(matches!(error, DialError::ProxyCredentials { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    let error = refused(through(proxy("HTTP/1.1 403 Forbidden\r\n\r\n").await, None)).await;
    assert!(matches!(error, DialError::ProxyRefused { status: 403, .. }), "{error}");
    let error = refused(through(proxy("SSH-2.0-OpenSSH\r\n\r\n").await, None)).await;
    assert!(matches!(error, DialError::NotAProxy { .. }), "{error}");
    let error = refused(through(proxy("HTTP/1.1 200 OK\r\n").await, None)).await;
    assert!(matches!(error, DialError::TooSlow { stage: Stage::Proxy, .. }), "{error}");
    let endless = serve(|mut stream| async move { while stream.write_all(&[b'x'; 1024]).await.is_ok() {} });
    let error = refused(through(endless.await, None)).await;
    assert!(matches!(error, DialError::NotAProxy { .. }), "{error}");
}
