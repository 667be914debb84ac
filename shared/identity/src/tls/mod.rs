//! TLS as it is used here: version 1.3 and nothing older, hybrid post-quantum key exchange first.
//!
//! Sessions are never resumed. A resumed session would skip the certificate check, and with it a revocation.

mod client;
mod server;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use client::{ClientTls, ServerRefusal};
pub use server::{Reception, ServerTls, Verdict};

/// Application protocol (ALPN) of members: HTTP/2, with a certificate.
pub const ALPN_MEMBERS: &[u8] = b"h2";
/// Application protocol of enrolment: HTTP/2 as well, without a certificate, and with one service only.
pub const ALPN_ENROLMENT: &[u8] = b"consilium-enrol/1";

/// Why a TLS configuration cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// Certificate and private key do not belong together.
    #[error("the certificate is for another private key")]
    KeyMismatch,
}

/// The one provider of cryptography: aws-lc-rs with the key exchanges this design allows, in this order.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![X25519MLKEM768, X25519, SECP256R1];
    Arc::new(provider)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Consortium, Keys, now};
    use crate::revocation::Revocation;
    use crate::{CertificateRefusal, Trust};
    use rustls::{
        AlertDescription, ClientConnection, HandshakeKind, NamedGroup, ServerConfig, ServerConnection,
    };

    struct Outcome {
        client: Result<(), rustls::Error>,
        server: Result<(), rustls::Error>,
        group: Option<NamedGroup>,
        alpn: Option<Vec<u8>>,
    }

    /// A handshake in memory: bytes are carried to and fro until neither side has any.
    fn shake(client: &Arc<rustls::ClientConfig>, server: &Arc<ServerConfig>) -> Outcome {
        let name = "localhost".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
        let (mut client_said, mut server_said) = (Ok(()), Ok(()));
        while client.wants_write() || server.wants_write() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            if server_said.is_ok() {
                server_said = server.process_new_packets().map(|_| ());
            }
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            if client_said.is_ok() {
                client_said = client.process_new_packets().map(|_| ());
            }
        }
        if client_said.is_ok() && server_said.is_ok() {
            assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(client.tls13_tickets_received(), 0);
        }
        Outcome {
            client: client_said,
            server: server_said,
            group: client.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name),
            alpn: client.alpn_protocol().map(<[u8]>::to_vec),
        }
    }

    struct Scene {
        consortium: Consortium,
        site: Keys,
        trust: Arc<Trust>,
        server: ServerTls,
    }

    fn scene() -> Scene {
        let mut consortium = Consortium::new("north");
        let site = consortium.add_site("a");
        let trust = Arc::new(consortium.trust());
        let chain = consortium.coordinator_chain();
        let server = ServerTls::new(Arc::clone(&trust), &chain, &consortium.coordinator.tls).unwrap();
        Scene { consortium, site, trust, server }
    }

    impl Scene {
        fn client_of(&self, consortium: &Consortium, principal: &str, keys: &Keys, age: u64) -> ClientTls {
            let at = now() - std::time::Duration::from_hours(24 * age);
            let chain = consortium.certify(principal, keys, at);
            ClientTls::member(Arc::clone(&self.trust), &chain, &keys.tls).unwrap()
        }

        fn refused(&self, client: &ClientTls) -> (CertificateRefusal, AlertDescription) {
            let reception = self.server.member();
            let outcome = shake(client.config(), &reception.config);
            assert!(outcome.server.is_err());
            let Err(rustls::Error::AlertReceived(alert)) = outcome.client else {
                panic!("the client was told nothing: {:?}", outcome.client)
            };
            let verdict = reception.verdict.get().expect("a certificate was shown").clone();
            (verdict.expect_err("the handshake failed for the certificate"), alert)
        }
    }

    #[test]
    fn members_agree_on_hybrid_key_exchange_every_time_anew() {
        let scene = scene();
        let client = scene.client_of(&scene.consortium, "site/a", &scene.site, 0);
        for _ in 0..2 {
            let reception = scene.server.member();
            let outcome = shake(client.config(), &reception.config);
            assert_eq!((outcome.client, outcome.server), (Ok(()), Ok(())));
            assert_eq!(outcome.group, Some(NamedGroup::X25519MLKEM768));
            assert_eq!(outcome.alpn.as_deref(), Some(ALPN_MEMBERS));
            let peer = reception.verdict.get().unwrap().clone().unwrap();
            assert_eq!(peer.principal().to_string(), "site/a");
        }
    }

    #[test]
    fn bad_certificates_get_their_own_alerts_and_reasons() {
        let scene = scene();
        let expired = scene.refused(&scene.client_of(&scene.consortium, "site/a", &scene.site, 31));
        assert!(matches!(
            expired,
            (CertificateRefusal::Expired { .. }, AlertDescription::CertificateExpired)
        ));
        let south = Consortium::new("south");
        let foreign = scene.refused(&scene.client_of(&south, "site/a", &scene.site, 0));
        assert!(matches!(foreign, (CertificateRefusal::OtherConsortium { .. }, AlertDescription::UnknownCA)));
        let unlisted = scene.refused(&scene.client_of(&scene.consortium, "site/b", &Keys::new(), 0));
        assert!(matches!(unlisted, (CertificateRefusal::NotOnRoster { .. }, AlertDescription::AccessDenied)));
        let chain = scene.consortium.certify("site/a", &scene.site, now());
        scene.trust.revoke(Revocation::of(&chain.leaf(), now()));
        let revoked = scene.refused(&scene.client_of(&scene.consortium, "site/a", &scene.site, 0));
        assert!(matches!(
            revoked,
            (CertificateRefusal::Revoked { .. }, AlertDescription::CertificateRevoked)
        ));
    }

    #[test]
    fn without_a_certificate_there_is_enrolment_and_nothing_else() {
        let scene = scene();
        let newcomer = ClientTls::enrolment(&scene.consortium.key.anchor());
        let outcome = shake(newcomer.config(), &scene.server.enrolment());
        assert_eq!((outcome.client, outcome.server), (Ok(()), Ok(())));
        assert_eq!(outcome.alpn.as_deref(), Some(ALPN_ENROLMENT));
        // The members' door: neither under its own protocol name nor under the newcomer's.
        let wrong_door = shake(newcomer.config(), &scene.server.member().config);
        assert_eq!(wrong_door.server, Err(rustls::Error::NoApplicationProtocol));
        let mut config = (**newcomer.config()).clone();
        config.alpn_protocols = vec![ALPN_MEMBERS.to_vec()];
        let reception = scene.server.member();
        let bare = shake(&Arc::new(config), &reception.config);
        assert_eq!(bare.server, Err(rustls::Error::NoCertificatesPresented));
        assert!(reception.verdict.get().is_none());
    }

    #[test]
    fn callers_know_their_coordinator_from_others() {
        let scene = scene();
        let member = scene.client_of(&scene.consortium, "site/a", &scene.site, 0);
        let newcomer = ClientTls::enrolment(&scene.consortium.key.anchor());
        let refusal = |server: &ServerTls| {
            let by_member = shake(member.config(), &server.member().config).client.unwrap_err();
            let by_newcomer = shake(newcomer.config(), &server.enrolment()).client.unwrap_err();
            let refusal = ServerRefusal::of(&by_member).expect("a refusal of ours").clone();
            assert_eq!(ServerRefusal::of(&by_newcomer), Some(&refusal));
            refusal
        };
        let serve = |chain: &crate::Chain, key: &crate::TlsKey| {
            ServerTls::new(Arc::clone(&scene.trust), chain, key).unwrap()
        };
        let south = Consortium::new("south");
        let other = refusal(&serve(&south.coordinator_chain(), &south.coordinator.tls));
        assert!(matches!(other, ServerRefusal::OtherConsortium { .. }));
        let twin = Consortium::new("north");
        let forged = refusal(&serve(&twin.coordinator_chain(), &twin.coordinator.tls));
        assert_eq!(forged, ServerRefusal::Intercepted { issuer: "CN=north".into() });
        let site = scene.consortium.certify("site/a", &scene.site, now());
        let posing = refusal(&serve(&site, &scene.site.tls));
        assert_eq!(posing, ServerRefusal::NotCoordinator("site/a".parse().unwrap()));
        assert_eq!(
            ServerTls::new(Arc::clone(&scene.trust), &site, &crate::TlsKey::generate()).err(),
            Some(TlsError::KeyMismatch)
        );
    }

    #[test]
    fn an_exchanged_certificate_is_used_from_the_next_connection_on() {
        let scene = scene();
        let own = scene.consortium.coordinator_chain();
        let issuing = &scene.consortium.issuing;
        let renewed = issuing.renew(&scene.trust.roster(), &own.certificates()[0], now()).unwrap();
        scene.server.replace_certificate(&renewed).unwrap();
        let of_other_key = scene.consortium.certify("site/a", &scene.site, now());
        assert_eq!(scene.server.replace_certificate(&of_other_key), Err(TlsError::KeyMismatch));
        let client = scene.client_of(&scene.consortium, "site/a", &scene.site, 0);
        let outcome = shake(client.config(), &scene.server.member().config);
        assert_eq!((outcome.client, outcome.server), (Ok(()), Ok(())));
    }
}
