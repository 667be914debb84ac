//! The coordinator's side: two doors behind one port.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{ALPN_ENROLMENT, ALPN_MEMBERS, TlsError, provider};
use crate::certificate::{Leaf, Peer};
use crate::{CertificateRefusal, Chain, TlsKey, Trust};

/// TLS of the coordinator. Its own certificate can be exchanged while it runs.
pub struct ServerTls {
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
    own: Arc<OwnCertificate>,
}

/// One connection of a member: its configuration, and where the verdict on its certificate will stand.
pub struct Reception {
    /// For this connection only.
    pub config: Arc<ServerConfig>,
    /// Empty until the client has shown a certificate.
    pub verdict: Arc<Verdict>,
}

/// What was decided about the certificate of one connection. `rustls` itself keeps of a refusal only the alert.
#[derive(Debug, Default)]
pub struct Verdict(OnceLock<Result<Peer, CertificateRefusal>>);

impl Verdict {
    /// The decision. `None`: no certificate was shown, or the handshake did not come that far.
    pub fn get(&self) -> Option<&Result<Peer, CertificateRefusal>> {
        self.0.get()
    }
}

impl ServerTls {
    /// Starts with a certificate and its key.
    pub fn new(trust: Arc<Trust>, chain: &Chain, key: &TlsKey) -> Result<Self, TlsError> {
        let provider = provider();
        let own = OwnCertificate(RwLock::new(certified(&provider, chain, key)?));
        Ok(Self { trust, provider, own: Arc::new(own) })
    }

    /// Exchanges the certificate for another of the same key: new connections get the new one.
    pub fn replace_certificate(&self, chain: &Chain) -> Result<(), TlsError> {
        let mut own = self.own.0.write().unwrap_or_else(PoisonError::into_inner);
        if own.cert.first().and_then(|leaf| Leaf::parse(leaf).ok()).map(|leaf| leaf.key)
            != Some(chain.leaf().key)
        {
            return Err(TlsError::KeyMismatch);
        }
        *own = Arc::new(CertifiedKey::new(chain.certificates().to_vec(), Arc::clone(&own.key)));
        Ok(())
    }

    /// By what peers are judged.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// For a connection that offers the protocol of members: a certificate is demanded.
    pub fn member(&self) -> Reception {
        let verdict = Arc::new(Verdict::default());
        let verifier = MemberVerifier {
            trust: Arc::clone(&self.trust),
            provider: Arc::clone(&self.provider),
            verdict: Arc::clone(&verdict),
        };
        let builder = self.builder().with_client_cert_verifier(Arc::new(verifier));
        let own: Arc<dyn ResolvesServerCert> = self.own.clone();
        Reception { config: finish(builder.with_cert_resolver(own), ALPN_MEMBERS), verdict }
    }

    /// For a connection that offers the protocol of enrolment: no certificate is asked for.
    pub fn enrolment(&self) -> Arc<ServerConfig> {
        let own: Arc<dyn ResolvesServerCert> = self.own.clone();
        finish(self.builder().with_no_client_auth().with_cert_resolver(own), ALPN_ENROLMENT)
    }

    fn builder(&self) -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
        ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3")
    }
}

fn finish(mut config: ServerConfig, alpn: &[u8]) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

pub(super) fn certified(
    provider: &CryptoProvider,
    chain: &Chain,
    key: &TlsKey,
) -> Result<Arc<CertifiedKey>, TlsError> {
    if chain.leaf().key != key.public_key().hash() {
        return Err(TlsError::KeyMismatch);
    }
    let signer = provider
        .key_provider
        .load_private_key(key.private_der())
        .expect("the provider signs with keys on P-256");
    Ok(Arc::new(CertifiedKey::new(chain.certificates().to_vec(), signer)))
}

#[derive(Debug)]
struct OwnCertificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

struct MemberVerifier {
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
    verdict: Arc<Verdict>,
}

impl fmt::Debug for MemberVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemberVerifier")
    }
}

impl ClientCertVerifier for MemberVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Every client has one certificate for us, so hints would only tell strangers our name.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let judged = self.trust.judge(end_entity, intermediates, now);
        match self.verdict.0.get_or_init(|| judged) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(refusal) => Err(refusal.tls_error().into()),
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
