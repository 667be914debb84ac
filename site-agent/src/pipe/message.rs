//! The messages that cross the local pipe: two closed lists.

use consilium_study::hash::Hash;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// What the vault says to the relay.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FromVault {
    /// First message of a vault that just started: it knows of no earlier message, so the relay
    /// tells it the state of the link and asks the coordinator for every directive again.
    #[n(0)]
    Hello,
    /// Fetch this file from this offset on.
    #[n(1)]
    Want {
        /// SHA-256 of the file.
        #[n(0)]
        hash: Hash,
        /// First byte still missing.
        #[n(1)]
        offset: u64,
    },
    /// Deliver this message to the coordinator and report the verdict.
    #[n(2)]
    Say {
        /// SHA-256 of the message.
        #[n(0)]
        id: Hash,
        /// Canonical bytes of a site's message.
        #[n(1)]
        message: ByteVec,
        /// W3C trace context of the round; empty where there is none.
        #[n(2)]
        parent: String,
    },
    /// A masked vector waits in the spool and its receipt has been delivered: upload it.
    #[n(3)]
    UploadReady {
        /// Which vector.
        #[n(0)]
        upload: Upload,
        /// W3C trace context of the round; empty where there is none.
        #[n(1)]
        parent: String,
    },
    /// One chunk of a spool, as asked for; no bytes if there is no such chunk any more.
    #[n(4)]
    Chunk {
        /// Which vector.
        #[n(0)]
        upload: Upload,
        /// Which chunk, from 0.
        #[n(1)]
        index: u32,
        /// Its bytes.
        #[n(2)]
        bytes: ByteVec,
    },
    /// A directive has been taken in.
    #[n(5)]
    Acknowledge {
        /// Its id.
        #[n(0)]
        directive: Hash,
    },
    /// A finished piece of work, for the round's trace. Holds times and a name out of a closed list.
    #[n(6)]
    Span(#[n(0)] Span),
}

/// A masked vector in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct Upload {
    /// The study.
    #[n(0)]
    pub study: Hash,
    /// The attempt it was made for.
    #[n(1)]
    pub attempt: u32,
    /// Length in bytes.
    #[n(2)]
    pub length: u64,
}

/// A finished piece of the vault's work.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Span {
    /// What was done.
    #[n(0)]
    pub work: Work,
    /// W3C trace context of the round it belongs to.
    #[n(1)]
    pub parent: String,
    /// Start, in nanoseconds since 1970.
    #[n(2)]
    pub start_ns: u64,
    /// End, in nanoseconds since 1970.
    #[n(3)]
    pub end_ns: u64,
    /// The attempt.
    #[n(4)]
    pub attempt: u32,
}

/// Kinds of work that a trace shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Work {
    /// Local training.
    #[n(0)]
    Train,
    /// Scoring held-out cases.
    #[n(1)]
    Evaluate,
    /// Clipping, quantising, masking and spooling.
    #[n(2)]
    Mask,
    /// Opening the envelopes of other sites.
    #[n(3)]
    OpenEnvelopes,
    /// Checking the survivors and signing them.
    #[n(4)]
    SignSurvivors,
    /// Giving shares.
    #[n(5)]
    Answer,
}

impl Work {
    /// Name of the span.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "vault.train",
            Self::Evaluate => "vault.evaluate",
            Self::Mask => "vault.mask",
            Self::OpenEnvelopes => "vault.open_envelopes",
            Self::SignSurvivors => "vault.sign_survivors",
            Self::Answer => "vault.answer",
        }
    }
}

/// What the relay says to the vault. Nothing in it is believed without a signature or a hash.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FromRelay {
    /// A directive of the coordinator.
    #[n(0)]
    Directive {
        /// Canonical bytes of the directive.
        #[n(0)]
        bytes: ByteVec,
        /// W3C trace context of the round; empty where the coordinator exports no traces.
        #[n(1)]
        parent: String,
    },
    /// A part of a file that the vault wants.
    #[n(1)]
    Blob {
        /// SHA-256 of the whole file.
        #[n(0)]
        hash: Hash,
        /// Where the part begins.
        #[n(1)]
        offset: u64,
        /// The part.
        #[n(2)]
        bytes: ByteVec,
        /// Nothing follows.
        #[n(3)]
        last: bool,
    },
    /// Hand out a chunk of a spool.
    #[n(2)]
    ReadChunk {
        /// Which vector.
        #[n(0)]
        upload: Upload,
        /// Which chunk, from 0.
        #[n(1)]
        index: u32,
    },
    /// The coordinator's answer to a message.
    #[n(3)]
    Said {
        /// SHA-256 of the message.
        #[n(0)]
        id: Hash,
        /// The answer.
        #[n(1)]
        verdict: Verdict,
    },
    /// How an upload ended.
    #[n(4)]
    Uploaded {
        /// Which vector.
        #[n(0)]
        upload: Upload,
        /// The answer.
        #[n(1)]
        verdict: Verdict,
    },
    /// Whether the coordinator can be reached.
    #[n(5)]
    Link(#[n(0)] Link),
}

/// The coordinator's answer to something that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Verdict {
    /// Recorded, now or earlier.
    #[n(0)]
    Recorded,
    /// Refused for good.
    #[n(1)]
    Refused {
        /// Stable code.
        #[n(0)]
        code: String,
    },
}

/// State of the connection to the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Link {
    /// The relay is connected. What was said before may not have arrived.
    #[n(0)]
    Up,
    /// The relay is not connected.
    #[n(1)]
    Down,
}
