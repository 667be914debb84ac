//! The side that dials: sites, operators and auditors with a certificate, newcomers without.

use std::fmt;
use std::sync::Arc;

use consilium_study::name::{ConsortiumName, Principal};
use jiff::Timestamp;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::server::certified;
use super::{ALPN_ENROLMENT, ALPN_MEMBERS, TlsError, provider};
use crate::certificate::{UnreadableCertificate, issuer_of};
use crate::trust::{ChainChecker, Use, check_time, moment};
use crate::{Anchor, CertificateRefusal, Chain, TlsKey, Trust};

/// TLS of one kind of caller.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
}

/// Why a server is not believed. The texts go to a person at the hospital.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ServerRefusal {
    /// Someone in between opens the connection.
    #[error(
        "the connection is intercepted: the certificate seen was issued by \"{issuer}\", not by the consortium. \
         Ask the network team to exempt this connection from TLS inspection"
    )]
    Intercepted {
        /// Who issued the certificate that was shown.
        issuer: String,
    },
    /// A coordinator, of another consortium.
    #[error(
        "this is the coordinator of consortium {got}, and this machine belongs to {want}; check the address"
    )]
    OtherConsortium {
        /// Whose coordinator answered.
        got: ConsortiumName,
        /// Whose should have.
        want: ConsortiumName,
    },
    /// A member's certificate, and not the coordinator's.
    #[error("{0} answered where the coordinator should; nobody but the coordinator may")]
    NotCoordinator(Principal),
    /// Its certificate is over.
    #[error(
        "the coordinator's certificate expired at {at}; is this machine's clock right? Otherwise tell the operator"
    )]
    Expired {
        /// When it ended.
        at: Timestamp,
    },
    /// Its certificate has not begun.
    #[error("the coordinator's certificate is valid from {from} only; this machine's clock is probably slow")]
    NotYetValid {
        /// When it begins.
        from: Timestamp,
    },
    /// A chain of the consortium that does not count, for a reason that concerns the coordinator.
    #[error("the coordinator's certificate does not count: {0}")]
    Certificate(CertificateRefusal),
}

impl ServerRefusal {
    /// Finds the refusal inside of the error that a handshake ended with.
    pub fn of(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref()
            }
            _ => None,
        }
    }
}

impl ClientTls {
    /// For a member: shows its certificate, and judges the coordinator by chain and roster.
    pub fn member(trust: Arc<Trust>, chain: &Chain, key: &TlsKey) -> Result<Self, TlsError> {
        let provider = provider();
        let own = certified(&provider, chain, key)?;
        let builder = builder(&provider, Rule::Member(trust));
        let config = builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        Ok(Self { config: finish(config, ALPN_MEMBERS) })
    }

    /// For a newcomer: shows nothing, and judges the coordinator by the anchor of its invitation.
    pub fn enrolment(anchor: &Anchor) -> Self {
        let provider = provider();
        let rule = Rule::Newcomer(ChainChecker::new(anchor), anchor.name.clone());
        let config = builder(&provider, rule).with_no_client_auth();
        Self { config: finish(config, ALPN_ENROLMENT) }
    }

    /// The configuration to dial with.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// The application protocol that the server has to agree to.
    pub fn protocol(&self) -> &[u8] {
        self.config.alpn_protocols.first().expect("one protocol was set when this was made")
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientTls({})", String::from_utf8_lossy(self.protocol()))
    }
}

fn builder(
    provider: &Arc<CryptoProvider>,
    rule: Rule,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let verifier = CoordinatorVerifier { rule, provider: Arc::clone(provider) };
    ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
}

fn finish(mut config: ClientConfig, alpn: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

enum Rule {
    Member(Arc<Trust>),
    Newcomer(ChainChecker, ConsortiumName),
}

/// Accepts the coordinator of one consortium, by the URI in its certificate. The host name that was dialled
/// plays no part: only the coordinator can get such a certificate, and addresses change.
struct CoordinatorVerifier {
    rule: Rule,
    provider: Arc<CryptoProvider>,
}

impl CoordinatorVerifier {
    fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), ServerRefusal> {
        let (consortium, judged) = match &self.rule {
            Rule::Member(trust) => {
                let peer = trust.judge_coordinator(certificate, intermediates, now);
                (&trust.anchor().name, peer.map(|peer| peer.principal().clone()))
            }
            Rule::Newcomer(checker, consortium) => {
                let chain = checker.check(Use::Server, certificate, intermediates, now);
                let timely = chain.and_then(|chain| {
                    check_time(&chain.leaf, moment(now))?;
                    Ok(chain.leaf.id.principal)
                });
                (consortium, timely)
            }
        };
        match judged {
            Ok(Principal::Coordinator) => Ok(()),
            Ok(other) => Err(ServerRefusal::NotCoordinator(other)),
            Err(refusal) => Err(explain(refusal, certificate, consortium)),
        }
    }
}

fn explain(
    refusal: CertificateRefusal,
    certificate: &CertificateDer<'_>,
    consortium: &ConsortiumName,
) -> ServerRefusal {
    match refusal {
        CertificateRefusal::OtherConsortium { consortium: got } => {
            ServerRefusal::OtherConsortium { got, want: consortium.clone() }
        }
        CertificateRefusal::Unreadable(UnreadableCertificate::Name { issuer, .. }) => {
            ServerRefusal::Intercepted { issuer }
        }
        CertificateRefusal::Unsigned { .. } | CertificateRefusal::Unreadable(_) => {
            let issuer = issuer_of(certificate).unwrap_or_else(|| "(unreadable)".to_owned());
            ServerRefusal::Intercepted { issuer }
        }
        CertificateRefusal::Expired { at, .. } => ServerRefusal::Expired { at },
        CertificateRefusal::NotYetValid { from, .. } => ServerRefusal::NotYetValid { from },
        CertificateRefusal::Purpose { principal, .. } if principal != Principal::Coordinator => {
            ServerRefusal::NotCoordinator(principal)
        }
        other => ServerRefusal::Certificate(other),
    }
}

impl fmt::Debug for CoordinatorVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CoordinatorVerifier")
    }
}

impl ServerCertVerifier for CoordinatorVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.judge(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(refusal) => Err(CertificateError::Other(OtherError(Arc::new(refusal))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
