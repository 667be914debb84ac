//! HTTP CONNECT (RFC 9110, section 9.3.6): asking a hospital's proxy for a tunnel.
//!
//! What runs inside the tunnel is our TLS, so the proxy sees addresses and amounts. Credentials go to the proxy in
//! the clear, as the Basic scheme has it (RFC 7617).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use consilium_identity::address::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::error::DialError;

/// Longest answer of a proxy that is read.
const LONGEST_ANSWER: usize = 8 << 10;

/// A proxy that opens tunnels.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: Address,
    /// What it wants to know first.
    pub credentials: Option<Credentials>,
}

/// Name and password for a proxy.
#[derive(Clone)]
pub struct Credentials {
    // As it stands in the header: base64 of "user:password".
    basic: Zeroizing<String>,
}

/// A user name for which there is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a user name for a proxy has no colon in it")]
pub struct InvalidUserName;

impl Credentials {
    /// Credentials of the Basic scheme.
    pub fn new(user: &str, password: &str) -> Result<Self, InvalidUserName> {
        if user.contains(':') {
            return Err(InvalidUserName);
        }
        let mut pair = Zeroizing::new(String::with_capacity(user.len() + password.len() + 1));
        pair.push_str(user);
        pair.push(':');
        pair.push_str(password);
        let mut basic = Zeroizing::new(String::with_capacity(pair.len() * 4 / 3 + 4));
        STANDARD.encode_string(pair.as_bytes(), &mut basic);
        Ok(Self { basic })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// Asks for a tunnel to `to`.
pub(crate) async fn open(mut tcp: TcpStream, proxy: &Proxy, to: &Address) -> Result<TcpStream, DialError> {
    let broken =
        |error: std::io::Error| DialError::ProxyBroke { proxy: proxy.address.clone(), kind: error.kind() };
    tcp.write_all(request(proxy, to).as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    // One byte at a time: what follows the answer belongs to TLS.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == LONGEST_ANSWER {
            return Err(DialError::NotAProxy { proxy: proxy.address.clone() });
        }
        answer.push(tcp.read_u8().await.map_err(broken)?);
    }
    match status(&answer) {
        Some(200..=299) => Ok(tcp),
        Some(407) => Err(DialError::ProxyCredentials {
            proxy: proxy.address.clone(),
            given: proxy.credentials.is_some(),
        }),
        Some(status) => {
            Err(DialError::ProxyRefused { proxy: proxy.address.clone(), address: to.clone(), status })
        }
        None => Err(DialError::NotAProxy { proxy: proxy.address.clone() }),
    }
}

fn request(proxy: &Proxy, to: &Address) -> Zeroizing<String> {
    let basic = proxy.credentials.as_ref().map_or("", |credentials| credentials.basic.as_str());
    // Reserved whole, so that credentials are not left behind in a smaller buffer.
    let mut request = Zeroizing::new(String::with_capacity(basic.len() + 1024));
    for part in ["CONNECT ", &to.to_string(), " HTTP/1.1\r\nHost: ", &to.to_string(), "\r\n"] {
        request.push_str(part);
    }
    if !basic.is_empty() {
        for part in ["Proxy-Authorization: Basic ", basic, "\r\n"] {
            request.push_str(part);
        }
    }
    request.push_str("\r\n");
    request
}

/// The status in `HTTP/1.1 200 Connection established`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let version = words.next()?;
    let status = words.next().filter(|status| status.len() == 3)?;
    if version.starts_with("HTTP/1.") { status.parse().ok() } else { None }
}

#[cfg(test)]
mod hostile_bytes {
    use consilium_fuzz::{Target, run};

    use super::status;

    #[test]
    fn a_proxys_answer_is_a_status_or_nothing() {
        let answers = ["HTTP/1.1 200 Connection established\r\n\r\n", "HTTP/1.0 407 No\r\nA: b\r\n\r\n"];
        run([Target::new(
            "client-proxy-answer",
            |bytes| status(bytes).is_some_and(|status| status < 1000),
            answers.map(|answer| answer.as_bytes().to_vec()),
        )]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_request_is_as_the_standards_write_it() {
        let address: Address = "coordinator.example.org:443".parse().unwrap();
        // RFC 7617, section 2: the example pair.
        let credentials = Some(Credentials::new("Aladdin", "open sesame").unwrap());
        let proxy = Proxy { address: "proxy.example.org:3128".parse().unwrap(), credentials };
        assert_eq!(
            request(&proxy, &address).as_str(),
            "CONNECT coordinator.example.org:443 HTTP/1.1\r\nHost: coordinator.example.org:443\r\n\
             Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
        );
        assert!(!format!("{proxy:?}").contains("QWxh"));
        assert_eq!(Credentials::new("a:b", "c").unwrap_err(), InvalidUserName);
    }

    #[test]
    fn statuses_are_read_strictly() {
        assert_eq!(status(b"HTTP/1.1 200 Connection established\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 407 \r\n\r\n"), Some(407));
        for bad in ["HTTP/2 200\r\n\r\n", "SSH-2.0\r\n\r\n", "HTTP/1.1 20\r\n\r\n", "\r\n\r\n"] {
            assert_eq!(status(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = status(&bytes);
        }
    }
}
