//! `consilium.v1`: the wire types and services, generated from the `.proto` files beside this crate, and nothing else.

/// Version of the protocol that this build speaks; it also understands the one before.
pub const PROTOCOL: u32 = 1;

/// Largest message that either side accepts, in bytes.
pub const MAX_MESSAGE: usize = 2 << 20;

/// Length of the chunks of uploads and files, in bytes.
pub const CHUNK: usize = 1 << 20;

/// Application protocol name of the enrolment service; everything else speaks `h2`.
pub const ENROLMENT_ALPN: &[u8] = b"consilium-enrol/1";

/// The generated code.
#[allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("consilium.v1");

    /// Serialised descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
