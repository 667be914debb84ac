//! The messages with which an epoch's groups are drawn; see [`crate::grouping`].

use std::ops::Deref;

use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::Statement;
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

use super::InvalidMessage;
use crate::numbering::{Epoch, MAX_SITES};

/// A site in a draw.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Participant {
    /// Who.
    #[n(0)]
    pub site: SiteName,
    /// Hash of its advert, which commits to its nonce.
    #[n(1)]
    pub advert: Hash,
}

/// The coordinator names who takes part in an epoch's draw of groups, before anybody reveals a nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawCall(pub(super) DrawFields);

/// The parts of a [`DrawCall`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DrawFields {
    /// Hash of the signed study.
    #[n(0)]
    pub study: Hash,
    /// The epoch.
    #[n(1)]
    pub epoch: Epoch,
    /// The participants in the order of their names, each once.
    #[n(2)]
    pub participants: Vec<Participant>,
}

impl DrawCall {
    /// Checks that the participants stand in order, each once.
    pub fn new(fields: DrawFields) -> Result<Self, InvalidMessage> {
        let participants = &fields.participants;
        if participants.len() > MAX_SITES || participants.windows(2).any(|pair| pair[0].site >= pair[1].site)
        {
            return Err(InvalidMessage(
                "participants of a draw stand in the order of their names, each once",
            ));
        }
        Ok(Self(fields))
    }

    /// What reveals name.
    pub fn hash(&self) -> Hash {
        Hash::of_value("draw-hash", self)
    }

    /// The hash of a participant's advert.
    pub fn advert_of(&self, site: &SiteName) -> Option<Hash> {
        let position = self.participants.binary_search_by(|participant| participant.site.cmp(site)).ok()?;
        Some(self.participants[position].advert)
    }
}

impl Deref for DrawCall {
    type Target = DrawFields;

    fn deref(&self) -> &DrawFields {
        &self.0
    }
}

impl Statement for DrawCall {
    const LABEL: &'static str = "draw-call";
}

/// A participant gives the nonce that its advert commits to. Once per epoch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Reveal {
    /// Hash of the signed study.
    #[n(0)]
    pub study: Hash,
    /// The epoch.
    #[n(1)]
    pub epoch: Epoch,
    /// Whose.
    #[n(2)]
    pub site: SiteName,
    /// Hash of the call.
    #[n(3)]
    pub draw: Hash,
    /// The nonce.
    #[n(4)]
    pub nonce: ByteArray<32>,
}

impl Statement for Reveal {
    const LABEL: &'static str = "reveal";
}
