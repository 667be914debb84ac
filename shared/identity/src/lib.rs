//! Who is who in a consortium: names, certificates, the roster, invitations and TLS configurations.
//!
//! The root of all trust is one offline key, the [`ConsortiumKey`]. Everybody pins its public half together
//! with the consortium's name, as an [`Anchor`]. Names are URIs in certificates, as SPIFFE writes them
//! (`spiffe://<consortium>/site/<name>`); DNS names play no part in deciding who a peer is.
//!
//! **One key, not two.** The consortium's certificate authority key and its statement key are the same
//! Ed25519 key. Whoever holds either can add a site, so two keys would double what must be guarded and halve
//! nothing; one key gives one fingerprint to read over the telephone. The two uses cannot be mistaken for each
//! other: what X.509 signs starts with the byte `0x30`, a statement with the text `consilium/v1/`.
//!
//! **What a stolen coordinator can do.** The coordinator holds an issuing (intermediate) key, so that short
//! certificates renew themselves without the offline key. A certificate it issued counts only when name, role
//! and TLS public key stand on the [`roster::Roster`], which the consortium key alone can sign. So the issuing
//! key repeats what the consortium said and adds nothing: [`Trust::judge`](trust::Trust::judge) is where this
//! is checked, by sites and coordinator alike.
//!
//! This crate opens no file and no socket. Time is passed in, except where `rustls` asks its own clock.

pub mod address;
pub mod anchor;
pub mod authority;
pub mod certificate;
pub mod commission;
pub mod enrolment;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod hostile_bytes;
pub mod invitation;
pub mod issuing;
pub mod key;
mod moment;
pub mod revocation;
pub mod roster;
pub mod spiffe;
pub mod tls;
pub mod trust;

pub use anchor::Anchor;
pub use authority::ConsortiumKey;
pub use certificate::{Chain, Peer, Role, Serial};
pub use commission::{Commission, CoordinatorKeys, CoordinatorRequest};
pub use invitation::Invitation;
pub use issuing::IssuingKey;
pub use key::TlsKey;
pub use roster::Roster;
pub use trust::{CertificateRefusal, Trust};
