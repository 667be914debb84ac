//! What a site noticed that no honest coordinator does.

use consilium_study::hash::Hash;
use minicbor::{Decode, Encode};

use crate::numbering::{Attempt, Epoch};

/// What was asked for twice, and differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Occasion {
    /// Two openings of one epoch.
    #[n(0)]
    Opening(#[n(0)] Epoch),
    /// Two adverts of one site in one epoch.
    #[n(1)]
    Advert(#[n(0)] Epoch),
    /// Two encapsulations for one pair in one epoch.
    #[n(2)]
    Encapsulation(#[n(0)] Epoch),
    /// Two contexts for one attempt.
    #[n(3)]
    Context(#[n(0)] Attempt),
    /// Two receipts of one site in one attempt.
    #[n(4)]
    Receipt(#[n(0)] Attempt),
    /// Two sets of survivors for one attempt.
    #[n(5)]
    Survivors(#[n(0)] Attempt),
    /// Other survivors for a starting model that was opened before.
    #[n(6)]
    Repeat(#[n(0)] Attempt),
    /// Another model for a round that was opened before.
    #[n(7)]
    Model(#[n(0)] Attempt),
    /// Two draws of groups in one epoch.
    #[n(8)]
    Draw(#[n(0)] Epoch),
    /// Two nonces of one site in one epoch.
    #[n(9)]
    Reveal(#[n(0)] Epoch),
}

/// Two statements that cannot both be honest, by their hashes. The site keeps it in its journal and repeats
/// it in its next receipts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct Alarm {
    /// What happened.
    #[n(0)]
    pub occasion: Occasion,
    /// What the site had accepted.
    #[n(1)]
    pub first: Hash,
    /// What it was then asked to accept.
    #[n(2)]
    pub second: Hash,
}
