//! Moments in signed values: whole seconds since 1970, so that a moment has one spelling.

use jiff::Timestamp;
use minicbor::decode::Error as DecodeError;
use minicbor::encode::{Error as EncodeError, Write};
use minicbor::{Decoder, Encoder};

pub(crate) fn encode<C, W: Write>(
    moment: &Timestamp,
    e: &mut Encoder<W>,
    _: &mut C,
) -> Result<(), EncodeError<W::Error>> {
    e.i64(moment.as_second())?.ok()
}

pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Timestamp, DecodeError> {
    Timestamp::from_second(d.i64()?).map_err(|_| DecodeError::message("a moment outside of the calendar"))
}

/// The moment without its fraction of a second.
pub(crate) fn whole_second(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).expect("a moment of the calendar stays in it")
}
