//! The local pipe between the process that sees patients and the process that sees the network.
//!
//! A frame is four bytes of big-endian length and that many bytes of canonical CBOR, at most
//! [`MAX_FRAME`]. Nothing else crosses: the messages are the closed lists of [`message`]. Both ends
//! treat the other as hostile. A relay that was taken over can hold frames back and nothing more:
//! a frame that is too long, cut short or not canonical ends the connection, and the supervisor
//! starts a fresh relay.

pub mod message;

use std::io::{self, Read, Write};

use consilium_study::canonical::{Canonical, NotCanonical};

/// Most bytes of one frame: a chunk of 1 MiB, its description, and room.
pub const MAX_FRAME: usize = 2 << 20;

/// Why the pipe cannot be read or written any more.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The other process is gone.
    #[error("the other end of the pipe is closed")]
    Closed,
    /// The other end died in the middle of a frame.
    #[error("the pipe ended inside a frame")]
    Cut,
    /// A frame announces more than [`MAX_FRAME`] bytes, or a message of ours would.
    #[error("a frame of {length} bytes is over the limit of {MAX_FRAME}")]
    TooLong {
        /// Announced length.
        length: usize,
    },
    /// The frame holds no message of the expected kind.
    #[error("a frame holds no message: {0}")]
    Message(#[from] NotCanonical),
    /// The operating system refused.
    #[error("the pipe failed: {0}")]
    Io(#[from] io::Error),
}

/// Reads one frame. Memory grows with the bytes that arrive, never with the announced length.
pub fn read_frame(from: &mut impl Read) -> Result<Vec<u8>, PipeError> {
    let mut length = [0; 4];
    let mut filled = 0;
    while filled < length.len() {
        match from.read(&mut length[filled..]) {
            Ok(0) if filled == 0 => return Err(PipeError::Closed),
            Ok(0) => return Err(PipeError::Cut),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let length = announced_length(length)?;
    let mut frame = Vec::new();
    from.take(length as u64).read_to_end(&mut frame)?;
    if frame.len() < length { Err(PipeError::Cut) } else { Ok(frame) }
}

/// Writes one frame and flushes it.
pub fn write_frame(to: &mut impl Write, frame: &[u8]) -> Result<(), PipeError> {
    to.write_all(&frame_head(frame)?)?;
    to.write_all(frame)?;
    to.flush()?;
    Ok(())
}

/// The length that the head of a frame announces, if it is allowed.
pub fn announced_length(head: [u8; 4]) -> Result<usize, PipeError> {
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_FRAME { Err(PipeError::TooLong { length }) } else { Ok(length) }
}

/// The four bytes before a frame.
pub fn frame_head(frame: &[u8]) -> Result<[u8; 4], PipeError> {
    match u32::try_from(frame.len()) {
        Ok(length) if frame.len() <= MAX_FRAME => Ok(length.to_be_bytes()),
        _ => Err(PipeError::TooLong { length: frame.len() }),
    }
}

/// Reads one message.
pub fn receive<M: Canonical>(from: &mut impl Read) -> Result<M, PipeError> {
    Ok(M::from_canonical(&read_frame(from)?)?)
}

/// Writes one message.
pub fn send<M: Canonical>(to: &mut impl Write, message: &M) -> Result<(), PipeError> {
    write_frame(to, &message.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::message::{FromRelay, FromVault};
    use super::*;
    use consilium_study::hash::Hash;
    use proptest::prelude::*;

    #[test]
    fn messages_survive_the_pipe_in_order() {
        let sent = [
            FromVault::Want { hash: Hash::of_bytes(b"a"), offset: 7 },
            FromVault::Acknowledge { directive: Hash::of_bytes(b"b") },
        ];
        let mut pipe = Vec::new();
        for message in &sent {
            send(&mut pipe, message).unwrap();
        }
        let mut from = pipe.as_slice();
        for message in sent {
            assert_eq!(receive::<FromVault>(&mut from).unwrap(), message);
        }
        assert!(matches!(receive::<FromVault>(&mut from), Err(PipeError::Closed)));
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_on_both_sides() {
        let head = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
        assert!(matches!(read_frame(&mut head.as_slice()), Err(PipeError::TooLong { .. })));
        let long = vec![0; MAX_FRAME + 1];
        assert!(matches!(write_frame(&mut Vec::new(), &long), Err(PipeError::TooLong { .. })));
    }

    #[test]
    fn a_frame_cut_at_any_byte_is_noticed() {
        let mut pipe = Vec::new();
        send(&mut pipe, &FromRelay::Link(message::Link::Down)).unwrap();
        for cut in 1..pipe.len() {
            assert!(matches!(read_frame(&mut &pipe[..cut]), Err(PipeError::Cut)), "cut at {cut}");
        }
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        // The largest allowed announcement with three bytes behind it: the buffer holds three bytes.
        let mut bytes = u32::try_from(MAX_FRAME).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(b"abc");
        assert!(matches!(read_frame(&mut bytes.as_slice()), Err(PipeError::Cut)));
    }

    proptest! {
        /// No bytes of a taken-over relay panic the vault, and what decodes is canonical.
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = FromRelay::from_canonical(&bytes) {
                prop_assert_eq!(message.to_canonical(), bytes.clone());
            }
            if let Ok(message) = FromVault::from_canonical(&bytes) {
                prop_assert_eq!(message.to_canonical(), bytes.clone());
            }
            let mut from = bytes.as_slice();
            while receive::<FromRelay>(&mut from).is_ok() {}
        }

        /// One flipped bit in a real message is refused or is another message, never a panic.
        #[test]
        fn flipped_bits_never_panic(bit in 0_usize..600, payload in proptest::collection::vec(any::<u8>(), 0..60)) {
            let message = FromRelay::Blob {
                hash: Hash::of_bytes(b"x"), offset: 3, bytes: payload.into(), last: true,
            };
            let mut bytes = message.to_canonical();
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(FromRelay::from_canonical(&bytes).ok(), Some(message));
        }
    }
}
