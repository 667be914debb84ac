//! Why a connection did not come about, and what to do: every text names one thing to check.

use std::fmt;
use std::io;

use consilium_identity::address::Address;
use consilium_identity::tls::ServerRefusal;
use rustls::AlertDescription;

use crate::tunnel::Proxy;

/// Why the coordinator was not reached, or did not let the caller in.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DialError {
    /// The name does not resolve.
    #[error("{address} is not known to the name server; check the spelling, or ask the network team for DNS")]
    UnknownHost {
        /// Where it was dialled.
        address: Address,
    },
    /// No TCP connection.
    #[error("cannot reach {address} ({kind}); is the coordinator running, and is this outbound port open?")]
    Unreachable {
        /// Where it was dialled.
        address: Address,
        /// What the operating system said.
        kind: io::ErrorKind,
    },
    /// A step took too long.
    #[error("no answer from {address} while {stage}; {}", stage.advice())]
    TooSlow {
        /// What was waited for.
        stage: Stage,
        /// Where it was dialled.
        address: Address,
    },
    /// The proxy is not there.
    #[error("cannot reach the proxy {proxy}: {}", cause.of_a_proxy())]
    ProxyUnreachable {
        /// The proxy.
        proxy: Address,
        /// What went wrong on the way to it.
        cause: Box<DialError>,
    },
    /// The proxy hung up.
    #[error("the proxy {proxy} broke off ({kind}) when asked for a tunnel")]
    ProxyBroke {
        /// The proxy.
        proxy: Address,
        /// What the operating system said.
        kind: io::ErrorKind,
    },
    /// Not a proxy.
    #[error("{proxy} did not answer as an HTTP proxy does; check the proxy's address and port")]
    NotAProxy {
        /// What was taken for a proxy.
        proxy: Address,
    },
    /// The proxy wants credentials, or other ones.
    #[error(
        "the proxy {proxy} {}; ask the network team",
        if *given { "refuses the user name and password it was given" } else { "wants a user name and password" }
    )]
    ProxyCredentials {
        /// The proxy.
        proxy: Address,
        /// Whether credentials were sent.
        given: bool,
    },
    /// The proxy opens no tunnel.
    #[error(
        "the proxy {proxy} refuses a tunnel to {address} (status {status}); ask the network team to allow CONNECT to it"
    )]
    ProxyRefused {
        /// The proxy.
        proxy: Address,
        /// Where the tunnel should have led.
        address: Address,
        /// What it answered.
        status: u16,
    },
    /// The server is not believed: intercepted, of another consortium, expired.
    #[error("{address}: {refusal}")]
    Server {
        /// Where it was dialled.
        address: Address,
        /// Why.
        refusal: ServerRefusal,
    },
    /// The server does not believe us.
    #[error("the coordinator at {address} refuses this connection: {refusal}")]
    Refused {
        /// Where it was dialled.
        address: Address,
        /// Why.
        refusal: MemberRefusal,
    },
    /// What answers is too old, or only pretends to be TLS.
    #[error(
        "{address} does not offer TLS 1.3; a proxy that inspects TLS is probably in between: ask for an exemption"
    )]
    OldTls {
        /// Where it was dialled.
        address: Address,
    },
    /// What answers is not TLS.
    #[error("{address} answers, but not with TLS; check address and port")]
    NotTls {
        /// Where it was dialled.
        address: Address,
    },
    /// No agreement on HTTP/2.
    #[error(
        "{address} answers, but does not offer HTTP/2 for this purpose; check that it is the coordinator's address"
    )]
    NotHttp2 {
        /// Where it was dialled.
        address: Address,
    },
    /// Hung up without a word.
    #[error(
        "{address} closed the connection without a reason; a firewall may drop it, or the coordinator is stopping"
    )]
    Closed {
        /// Where it was dialled.
        address: Address,
    },
    /// The network broke.
    #[error(
        "the connection to {address} broke off during the TLS handshake ({kind}); a firewall may drop it"
    )]
    Broken {
        /// Where it was dialled.
        address: Address,
        /// What the operating system said.
        kind: io::ErrorKind,
    },
    /// Any other TLS error.
    #[error("TLS with {address} failed: {error}")]
    Tls {
        /// Where it was dialled.
        address: Address,
        /// What the library says.
        error: rustls::Error,
    },
}

/// What was waited for when time ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The name server.
    Resolve,
    /// TCP.
    Connect,
    /// The proxy's answer.
    Proxy,
    /// TLS.
    Handshake,
    /// The coordinator's first frame.
    Answer,
}

impl Stage {
    fn advice(self) -> &'static str {
        match self {
            Self::Resolve => "ask the network team whether this machine may ask the name server",
            Self::Connect => {
                "a firewall probably drops it: ask for this outbound address and port to be opened"
            }
            Self::Proxy => "ask the network team whether the proxy allows CONNECT to it",
            Self::Handshake => "a firewall that inspects TLS may hold it: ask for an exemption",
            Self::Answer => "a proxy that does not pass HTTP/2 may hold it, or the coordinator is overloaded",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "looking up its name",
            Self::Connect => "connecting",
            Self::Proxy => "asking the proxy for a tunnel",
            Self::Handshake => "agreeing on TLS",
            Self::Answer => "waiting for its first answer",
        })
    }
}

/// Why the coordinator does not let a caller in, as its TLS alert says. Its log says more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberRefusal {
    /// The certificate is revoked.
    #[error(
        "the certificate of this machine is revoked; if that is a mistake, ask the operator for a new invitation"
    )]
    Revoked,
    /// The certificate has expired.
    #[error(
        "the certificate of this machine expired, or its clock is wrong; ask the operator for a new invitation"
    )]
    Expired,
    /// The certificate is of another consortium.
    #[error(
        "foreign certificate: it is not of the coordinator's consortium; check which coordinator this machine belongs to"
    )]
    Foreign,
    /// The roster does not name this caller with this key.
    #[error(
        "this machine is not on the consortium's roster, or stands there with another key; ask the operator"
    )]
    NotOnRoster,
    /// No certificate was shown.
    #[error("it demands a certificate and none was shown; enrol first")]
    NoCertificate,
    /// The certificate is damaged or of the wrong kind.
    #[error("the certificate of this machine cannot be read or is of the wrong kind; enrol again")]
    Unfit,
    /// Another alert.
    #[error("TLS alert {0:?}; the coordinator's log has the reason")]
    Alert(AlertDescription),
}

impl From<AlertDescription> for MemberRefusal {
    fn from(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateRevoked => Self::Revoked,
            AlertDescription::CertificateExpired => Self::Expired,
            AlertDescription::UnknownCA => Self::Foreign,
            AlertDescription::AccessDenied => Self::NotOnRoster,
            AlertDescription::CertificateRequired => Self::NoCertificate,
            AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => Self::Unfit,
            other => Self::Alert(other),
        }
    }
}

impl DialError {
    /// What went wrong on the way to a proxy, and what to check there.
    fn of_a_proxy(&self) -> String {
        match self {
            Self::UnknownHost { .. } => {
                "it is not known to the name server; check the spelling, or ask the network team for its name".into()
            }
            Self::Unreachable { kind, .. } => {
                format!("{kind}; check its address and port, or ask the network team whether it is running")
            }
            Self::TooSlow { stage: Stage::Connect, .. } => {
                "no answer; check its address and port, or ask the network team whether this machine may use it".into()
            }
            other => other.to_string(),
        }
    }

    pub(crate) fn at_proxy(self, proxy: &Proxy) -> Self {
        Self::ProxyUnreachable { proxy: proxy.address.clone(), cause: Box::new(self) }
    }

    /// Explains what a TLS stream failed with.
    pub(crate) fn of_tls(error: &io::Error, address: &Address) -> Self {
        let address = address.clone();
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => Self::Closed { address },
                kind => Self::Broken { address, kind },
            };
        };
        if let Some(refusal) = ServerRefusal::of(error) {
            return Self::Server { address, refusal: refusal.clone() };
        }
        match error {
            rustls::Error::PeerIncompatible(_)
            | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::OldTls { address },
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Self::NotHttp2 { address }
            }
            rustls::Error::InvalidMessage(_) => Self::NotTls { address },
            rustls::Error::AlertReceived(alert) => Self::Refused { address, refusal: (*alert).into() },
            error => Self::Tls { address, error: error.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_proxy_is_not_looked_for_at_the_coordinator() {
        let address: Address = "localhost:1".parse().unwrap();
        let proxy = Proxy { address: address.clone(), credentials: None };
        for error in [
            DialError::UnknownHost { address: address.clone() },
            DialError::Unreachable { address: address.clone(), kind: io::ErrorKind::ConnectionRefused },
            DialError::TooSlow { address: address.clone(), stage: Stage::Connect },
            DialError::TooSlow { address: address.clone(), stage: Stage::Resolve },
        ] {
            let text = error.at_proxy(&proxy).to_string();
            assert!(text.starts_with("cannot reach the proxy localhost:1: "), "{text}");
            assert!(!text.contains("coordinator") && text.contains("network team"), "{text}");
        }
    }
}
