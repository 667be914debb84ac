//! A signed statement that was checked, kept together with what it says.

use std::fmt;
use std::ops::Deref;

use consilium_study::name::Principal;
use consilium_study::sign::{SignatureError, Signed, Statement, VerifyingKey};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// A statement whose signature was checked. Encoded as the signed statement; decoding trusts the store it
/// comes from, so this type stands in states, never in messages.
#[derive(Clone, PartialEq)]
pub(crate) struct Held<T> {
    signed: Signed<T>,
    value: T,
}

impl<T: Statement> Held<T> {
    /// Checks signer and signature.
    pub(crate) fn check(
        signed: &Signed<T>,
        signer: &Principal,
        key: &VerifyingKey,
    ) -> Result<Self, SignatureError> {
        let value = signed.verify(signer, key)?.into_inner();
        Ok(Self { signed: signed.clone(), value })
    }

    /// The statement as it travels.
    pub(crate) fn signed(&self) -> &Signed<T> {
        &self.signed
    }
}

impl<T: Statement> fmt::Debug for Held<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.signed.fmt(f)
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T, C> Encode<C> for Held<T> {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        self.signed.encode(e, ctx)
    }
}

impl<'b, T: Statement, C> Decode<'b, C> for Held<T> {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let signed = Signed::<T>::decode(d, ctx)?;
        let value = signed.claim().map_err(|error| decode::Error::message(error.to_string()))?;
        Ok(Self { signed, value })
    }
}
