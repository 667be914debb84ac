//! Invitations: how a hospital's machine learns where to go and whom to believe, and proves that it was asked.
//!
//! An invitation is one line of text, short-lived and for one use. It carries the consortium's [`Anchor`], so
//! the first connection is already pinned, and a one-time secret. The operator's machine keeps the secret;
//! the coordinator gets an [`InvitationRecord`] without it. So the coordinator can tell a known invitation from
//! an unknown, used or late one, and still cannot exchange the keys a site sends: the operator's machine
//! checks their MAC when it admits the site.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use consilium_study::canonical::Canonical;
use consilium_study::hash::Hash;
use consilium_study::name::{ConsortiumName, SiteName};
use jiff::Timestamp;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Anchor;
use crate::address::Address;
use crate::moment::whole_second;

const PREFIX: &str = "consilium-invite:";
/// Bytes of checksum, so that a slip in copying is called that and not an unknown invitation.
const CHECKSUM: usize = 4;
/// Longest line that is read.
const LONGEST: usize = 2048;

/// The one-time secret of an invitation.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    fn mac(&self, label: &str, bytes: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        for part in [b"consilium/v1/".as_slice(), label.as_bytes(), &[0], bytes] {
            context.update(part);
        }
        context.sign()
    }

    fn tag(&self, label: &str, bytes: &[u8]) -> Hash {
        let tag = self.mac(label, bytes);
        Hash::from_bytes(tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<C> Encode<C> for Secret {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Secret {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let bytes = d.bytes()?;
        bytes.try_into().map(Self).map_err(|_| decode::Error::message("an invitation's secret has 32 bytes"))
    }
}

/// An invitation of one site. Its text is a secret until it is used.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Invitation {
    /// The consortium and its key.
    #[n(0)]
    anchor: Anchor,
    /// Where the coordinator listens.
    #[n(1)]
    coordinator: Address,
    /// Who is invited.
    #[n(2)]
    site: SiteName,
    /// Proof that a request comes from whoever got this.
    #[n(3)]
    secret: Secret,
    /// When it stops being of use.
    #[cbor(n(4), with = "crate::moment")]
    expires: Timestamp,
}

impl Invitation {
    /// A new invitation, with a secret from the operating system's randomness.
    pub fn new(anchor: Anchor, coordinator: Address, site: SiteName, expires: Timestamp) -> Self {
        let mut secret = Secret([0; 32]);
        SystemRandom::new().fill(&mut secret.0).expect("the operating system has randomness");
        Self { anchor, coordinator, site, secret, expires: whole_second(expires) }
    }

    /// The line of text that is handed to the site.
    pub fn to_text(&self) -> Zeroizing<String> {
        let body = Zeroizing::new(self.to_canonical());
        let mut bytes = Zeroizing::new(Vec::with_capacity(body.len() + CHECKSUM));
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&checksum(&body));
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + bytes.len() * 4 / 3 + 4));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        text
    }

    /// The consortium and its key.
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// Where the coordinator listens.
    pub fn coordinator(&self) -> &Address {
        &self.coordinator
    }

    /// Who is invited.
    pub fn site(&self) -> &SiteName {
        &self.site
    }

    /// When it stops being of use.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// What the coordinator is told.
    pub fn record(&self) -> InvitationRecord {
        InvitationRecord {
            id: self.id(),
            consortium: self.anchor.name.clone(),
            site: self.site.clone(),
            expires: self.expires,
            used_by: None,
        }
    }

    /// Refuses an invitation that is over: asked by the site before it makes keys.
    pub fn check(&self, now: Timestamp) -> Result<(), InvitationRefusal> {
        if now > self.expires {
            return Err(InvitationRefusal::Expired { site: self.site.clone(), at: self.expires });
        }
        Ok(())
    }

    /// The public name of this invitation.
    pub fn id(&self) -> Hash {
        self.secret.tag("invitation-id", &[])
    }

    /// Binds what a site asks for to this invitation.
    pub(crate) fn mac(&self, request: &[u8]) -> Hash {
        self.secret.tag("enrolment-mac", request)
    }
}

/// A text that is no invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInvitation {
    /// Something else altogether.
    #[error("an invitation is one line that begins with consilium-invite:")]
    NotAnInvitation,
    /// Cut short or mistyped.
    #[error("the invitation is incomplete or has a typing mistake; copy the whole line again")]
    Damaged,
}

impl FromStr for Invitation {
    type Err = InvalidInvitation;

    fn from_str(text: &str) -> Result<Self, InvalidInvitation> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(InvalidInvitation::NotAnInvitation)?;
        if body.len() > LONGEST {
            return Err(InvalidInvitation::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| InvalidInvitation::Damaged)?;
        let bytes = Zeroizing::new(bytes);
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(InvalidInvitation::Damaged)?;
        if *sum != checksum(body) {
            return Err(InvalidInvitation::Damaged);
        }
        Self::from_canonical(body).map_err(|_| InvalidInvitation::Damaged)
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    *Hash::labelled("invitation-checksum", body).as_bytes().first_chunk().expect("a hash is longer")
}

/// What the coordinator knows of an invitation: not its secret.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct InvitationRecord {
    /// The invitation.
    #[n(0)]
    pub id: Hash,
    /// The consortium.
    #[n(1)]
    pub consortium: ConsortiumName,
    /// Who is invited.
    #[n(2)]
    pub site: SiteName,
    /// When it stops being of use.
    #[cbor(n(3), with = "crate::moment")]
    pub expires: Timestamp,
    /// Hash of the request that used it.
    #[n(4)]
    pub used_by: Option<Hash>,
}

/// Why an invitation, or a request made with it, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvitationRefusal {
    /// Too late.
    #[error("the invitation of {site} expired at {at}; ask the operator for a new one")]
    Expired {
        /// Who was invited.
        site: SiteName,
        /// When it ended.
        at: Timestamp,
    },
    /// Used before, with other keys.
    #[error("the invitation of {site} was used before; if that was not you, tell the operator at once")]
    Replayed {
        /// Who was invited.
        site: SiteName,
    },
    /// Of another consortium.
    #[error("foreign invitation: it is for consortium {got}, and this is {want}")]
    Foreign {
        /// Its consortium.
        got: ConsortiumName,
        /// The consortium that was asked.
        want: ConsortiumName,
    },
    /// Nobody here has heard of it.
    #[error("this invitation is unknown here; was it withdrawn, or was the coordinator set up anew?")]
    Unknown,
}

impl InvitationRefusal {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "expired",
            Self::Replayed { .. } => "replayed",
            Self::Foreign { .. } => "foreign",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConsortiumKey;
    use proptest::prelude::*;

    fn invitation() -> Invitation {
        let anchor = ConsortiumKey::generate("north".parse().unwrap()).anchor();
        let expires = Timestamp::from_second(1_800_000_000).unwrap();
        Invitation::new(anchor, "localhost:443".parse().unwrap(), "charite".parse().unwrap(), expires)
    }

    #[test]
    fn the_line_survives_being_copied() {
        let sent = invitation();
        let text = sent.to_text();
        assert_eq!(text.lines().count(), 1);
        let got: Invitation = format!("  {}\n", text.as_str()).parse().unwrap();
        assert_eq!(got.to_canonical(), sent.to_canonical());
        assert_eq!(got.record(), sent.record());
    }

    #[test]
    fn every_slip_in_copying_is_called_that() {
        let text = invitation().to_text();
        for at in PREFIX.len()..text.len() {
            let cut = &text[..at];
            assert_eq!(cut.parse::<Invitation>().unwrap_err(), InvalidInvitation::Damaged, "cut at {at}");
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(changed.parse::<Invitation>().unwrap_err(), InvalidInvitation::Damaged, "at {at}");
        }
        assert_eq!("hello".parse::<Invitation>().unwrap_err(), InvalidInvitation::NotAnInvitation);
    }

    #[test]
    fn neither_the_record_nor_a_debug_print_holds_the_secret() {
        let invitation = invitation();
        let secret = invitation.secret.0;
        let record = invitation.record().to_canonical();
        assert!(!record.windows(32).any(|window| window == secret));
        assert!(format!("{invitation:?}").contains("Secret(..)"));
    }

    #[test]
    fn an_invitation_ends_at_its_end() {
        let invitation = invitation();
        assert_eq!(invitation.check(invitation.expires()), Ok(()));
        let late = invitation.expires() + std::time::Duration::from_secs(1);
        assert_eq!(invitation.check(late).unwrap_err().code(), "expired");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(consilium-invite:)?[A-Za-z0-9_=-]{0,120}") {
            let _ = text.parse::<Invitation>();
        }
    }
}
