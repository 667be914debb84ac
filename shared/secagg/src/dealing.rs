//! Dealing shares: rows, leaves, envelopes (design, section 3, MaskedInput).
//!
//! A dealer shares one secret per site of the Selection: its self-mask seed (under its own index) and its seed
//! with each other site. Holder `k` gets a *row*: the k-th share of each secret. Each share is a leaf, salted and
//! bound to ctx, dealer, holder and secret; each row has a Merkle root, and the root over all rows stands in the
//! dealer's receipt. So a holder can check what it received, and later nobody can give back another share.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use consilium_study::hash::Hash;
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};
use zeroize::{Zeroize, Zeroizing};

use crate::context::CtxHash;
use crate::merkle;
use crate::message::{DealerShares, Envelope, OpenedShare, Receipt, ReceiptFields};
use crate::numbering::SiteIndex;
use crate::secret::{MaskSeed, PairKey, hash_parts, hkdf, labelled, random};
use crate::shamir::{self, Share};
use crate::threshold::Thresholds;

/// The shares that one holder has of one dealer, opened and found to match the dealer's receipt.
pub(crate) struct Row {
    ctx: CtxHash,
    dealer: SiteIndex,
    holder: SiteIndex,
    shares: Vec<Share>,
    salt: Zeroizing<[u8; 32]>,
    path: Vec<Hash>,
}

/// What stands in an envelope.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Contents {
    /// The shares, joined, in the order of the secrets they belong to.
    #[n(0)]
    shares: ByteVec,
    /// Salts of the leaves follow from it.
    #[n(1)]
    salt: ByteArray<32>,
    /// From the row to the root.
    #[n(2)]
    path: Vec<Hash>,
}

impl Drop for Contents {
    fn drop(&mut self) {
        self.shares.as_mut_slice().zeroize();
        self.salt.as_mut_slice().zeroize();
    }
}

/// Why an envelope is reported as bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadEnvelope;

fn salt_of(
    row: &[u8; 32],
    ctx: &CtxHash,
    dealer: SiteIndex,
    holder: SiteIndex,
    about: SiteIndex,
) -> [u8; 16] {
    let long = hkdf(&[], row, "share-salt", &(ctx, dealer, holder, about));
    long[..16].try_into().expect("16 of 32 bytes")
}

/// The leaf of one share.
pub(crate) fn leaf(ctx: &CtxHash, dealer: SiteIndex, holder: SiteIndex, opened: &OpenedShare) -> Hash {
    hash_parts("share-leaf", &(ctx, dealer, holder, opened.about, &opened.salt, &opened.share))
}

impl Row {
    fn opened(&self, position: usize) -> OpenedShare {
        let about = SiteIndex::from_position(position).expect("a row has a share per site of a Selection");
        let salt = salt_of(&self.salt, &self.ctx, self.dealer, self.holder, about);
        OpenedShare { about, share: (*self.shares[position]).into(), salt: salt.into() }
    }

    /// Shares and salt, for test vectors.
    #[cfg(test)]
    pub(crate) fn parts(&self) -> (&[Share], &[u8; 32]) {
        (&self.shares, &self.salt)
    }

    fn leaves(&self) -> Vec<Hash> {
        (0..self.shares.len())
            .map(|position| leaf(&self.ctx, self.dealer, self.holder, &self.opened(position)))
            .collect()
    }

    /// Gives back the shares about some secrets (rising), with what proves them.
    pub(crate) fn give(&self, about: &[SiteIndex]) -> DealerShares {
        let positions: Vec<usize> = about.iter().map(|index| index.position()).collect();
        DealerShares {
            dealer: self.dealer,
            shares: positions.iter().map(|position| self.opened(*position)).collect(),
            row: merkle::prove(&self.leaves(), &positions),
            path: self.path.clone(),
        }
    }

    /// Opens an envelope and checks it against its dealer's receipt, whose signature was checked before.
    pub(crate) fn open(key: &PairKey, envelope: &Envelope, receipt: &Receipt) -> Result<Self, BadEnvelope> {
        let Envelope { ctx, sender, recipient, sealed } = envelope;
        let mut bytes = Zeroizing::new(sealed.to_vec());
        let plain = seal_key(key, ctx, *sender, *recipient)
            .open_in_place(nonce(), associated(receipt, *recipient), &mut bytes)
            .map_err(|_| BadEnvelope)?;
        let contents: Contents = minicbor::decode(plain).map_err(|_| BadEnvelope)?;
        let (shares, rest) = contents.shares.as_chunks::<32>();
        let sites = receipt.envelopes.len();
        if shares.len() != sites || !rest.is_empty() {
            return Err(BadEnvelope);
        }
        let row = Self {
            ctx: *ctx,
            dealer: *sender,
            holder: *recipient,
            shares: shares.iter().map(|share| Zeroizing::new(*share)).collect(),
            salt: Zeroizing::new(*contents.salt),
            path: contents.path.clone(),
        };
        let root = merkle::root(&row.leaves());
        match merkle::climb(sites, &[(recipient.position(), root)], &row.path) {
            Some(root) if root == receipt.shares => Ok(row),
            _ => Err(BadEnvelope),
        }
    }
}

/// Whether shares that a holder gives back are the ones that the dealer's receipt commits to.
pub(crate) fn shares_match(receipt: &Receipt, holder: SiteIndex, given: &DealerShares) -> bool {
    let sites = receipt.envelopes.len();
    let leaves: Vec<_> = given
        .shares
        .iter()
        .map(|opened| (opened.about.position(), leaf(&receipt.ctx, receipt.sender, holder, opened)))
        .collect();
    merkle::climb(sites, &leaves, &given.row)
        .and_then(|row| merkle::climb(sites, &[(holder.position(), row)], &given.path))
        .is_some_and(|root| root == receipt.shares)
}

/// What a dealer makes from its seeds.
pub(crate) struct Dealt {
    pub(crate) self_commitment: Hash,
    pub(crate) pair_commitments: Vec<Hash>,
    pub(crate) shares: Hash,
    /// One per site of the Selection, the dealer's own included.
    pub(crate) envelopes: Vec<Envelope>,
}

/// Deals `seeds` (in the order of indices, the dealer's self-mask seed at its own place) to everybody.
/// `keys` are the pair keys of the attempt in the same order, the dealer's own key at its own place.
pub(crate) fn deal(
    ctx: &CtxHash,
    dealer: SiteIndex,
    thresholds: &Thresholds,
    seeds: &[MaskSeed],
    keys: &[PairKey],
) -> Dealt {
    let (rows, root) = rows(ctx, dealer, thresholds, seeds);
    let sites: Vec<SiteIndex> = rows.iter().map(|row| row.holder).collect();
    let commitments = sites.iter().zip(seeds).map(|(site, seed)| seed.commitment(ctx, dealer, *site));
    let (own, pairs): (Vec<_>, Vec<_>) =
        sites.iter().zip(commitments).partition(|(site, _)| **site == dealer);
    let mut dealt = Dealt {
        self_commitment: own[0].1,
        pair_commitments: pairs.into_iter().map(|(_, commitment)| commitment).collect(),
        shares: root,
        envelopes: Vec::with_capacity(rows.len()),
    };
    dealt.envelopes = rows.iter().zip(keys).map(|(row, key)| seal(key, row, &dealt)).collect();
    dealt
}

/// A row of shares for every site, and the root over them.
fn rows(ctx: &CtxHash, dealer: SiteIndex, thresholds: &Thresholds, seeds: &[MaskSeed]) -> (Vec<Row>, Hash) {
    let sites: Vec<SiteIndex> = (0..seeds.len())
        .map(|position| SiteIndex::from_position(position).expect("a Selection has at most 200 sites"))
        .collect();
    let shared: Vec<Vec<Share>> = seeds.iter().map(|seed| shamir::split(seed, thresholds)).collect();
    let mut rows: Vec<Row> = sites
        .iter()
        .map(|holder| Row {
            ctx: *ctx,
            dealer,
            holder: *holder,
            shares: shared.iter().map(|shares| shares[holder.position()].clone()).collect(),
            salt: random(),
            path: Vec::new(),
        })
        .collect();
    let roots: Vec<Hash> = rows.iter().map(|row| merkle::root(&row.leaves())).collect();
    for (position, row) in rows.iter_mut().enumerate() {
        row.path = merkle::prove(&roots, &[position]);
    }
    (rows, merkle::root(&roots))
}

/// What a dealer sends that commits to its seeds and shares others.
#[cfg(test)]
pub(crate) fn deal_garbage(
    honest: &Dealt,
    ctx: &CtxHash,
    dealer: SiteIndex,
    thresholds: &Thresholds,
    keys: &[PairKey],
) -> Dealt {
    let garbage: Vec<MaskSeed> = keys.iter().map(|_| MaskSeed::random()).collect();
    let (rows, shares) = rows(ctx, dealer, thresholds, &garbage);
    let mut dealt = Dealt {
        self_commitment: honest.self_commitment,
        pair_commitments: honest.pair_commitments.clone(),
        shares,
        envelopes: Vec::new(),
    };
    dealt.envelopes = rows.iter().zip(keys).map(|(row, key)| seal(key, row, &dealt)).collect();
    dealt
}

fn seal(key: &PairKey, row: &Row, dealt: &Dealt) -> Envelope {
    // Large enough from the start: a buffer that grows would leave shares behind in freed memory.
    let mut shares = Vec::with_capacity(row.shares.len() * 32);
    row.shares.iter().for_each(|share| shares.extend_from_slice(share.as_slice()));
    let contents = Contents { shares: shares.into(), salt: (*row.salt).into(), path: row.path.clone() };
    let mut sealed = Vec::with_capacity(contents.shares.len() + row.path.len() * 34 + 128);
    minicbor::encode(&contents, &mut sealed).expect("encoding into a vector cannot fail");
    seal_key(key, &row.ctx, row.dealer, row.holder)
        .seal_in_place_append_tag(
            nonce(),
            associated_data(
                &row.ctx,
                row.dealer,
                row.holder,
                &dealt.self_commitment,
                &dealt.pair_commitments,
            ),
            &mut sealed,
        )
        .expect("an envelope is far shorter than AES-GCM-SIV allows");
    Envelope { ctx: row.ctx, sender: row.dealer, recipient: row.holder, sealed: sealed.into() }
}

/// One key seals one message, so the nonce is constant; with SIV even a second sealing would not break it.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn seal_key(key: &PairKey, ctx: &CtxHash, sender: SiteIndex, recipient: SiteIndex) -> LessSafeKey {
    let bytes = key.seal_key(ctx, sender, recipient);
    LessSafeKey::new(
        UnboundKey::new(&AES_256_GCM_SIV, bytes.as_slice()).expect("an AES-256 key has 32 bytes"),
    )
}

fn associated(receipt: &ReceiptFields, recipient: SiteIndex) -> Aad<Vec<u8>> {
    let ReceiptFields { ctx, sender, self_commitment, pair_commitments, .. } = receipt;
    associated_data(ctx, *sender, recipient, self_commitment, pair_commitments)
}

fn associated_data(
    ctx: &CtxHash,
    sender: SiteIndex,
    recipient: SiteIndex,
    self_commitment: &Hash,
    pair_commitments: &[Hash],
) -> Aad<Vec<u8>> {
    Aad::from(labelled("share-seal", &(ctx, sender, recipient, self_commitment, pair_commitments)))
}

#[cfg(test)]
mod tests {
    use consilium_study::canonical::Canonical;

    use super::*;
    use crate::terms::Terms;

    /// Whether a holder takes a row, committed to by its dealer, that was changed before.
    fn is_taken(change: impl Fn(&mut Row), more: &[u8]) -> bool {
        let ctx = CtxHash::from_canonical(&Hash::of_bytes(b"ctx").to_canonical()).unwrap();
        let [dealer, holder] = [1, 2].map(|index| SiteIndex::new(index).unwrap());
        let (key, hash) = (PairKey::random(), Hash::of_bytes(b"hash"));
        let seeds: Vec<MaskSeed> = (0..4).map(|_| MaskSeed::random()).collect();
        let (mut rows, _) = rows(&ctx, dealer, &Thresholds::new(4, 4, 0).unwrap(), &seeds);
        rows.iter_mut().for_each(change);
        let roots: Vec<Hash> = rows.iter().map(|row| merkle::root(&row.leaves())).collect();
        let mut row = rows.swap_remove(holder.position());
        row.path = merkle::prove(&roots, &[holder.position()]);
        let fields = ReceiptFields {
            ctx,
            sender: dealer,
            chunks: hash,
            self_commitment: hash,
            pair_commitments: vec![hash; 3],
            shares: merkle::root(&roots),
            envelopes: vec![hash; 4],
            terms: Terms {
                min_honest: 0,
                min_selection: 0,
                min_change: 0,
                earlier: Vec::new(),
                bound: Vec::new(),
            },
            alarms: Vec::new(),
        };
        let mut shares: Vec<u8> = row.shares.iter().flat_map(|share| share.to_vec()).collect();
        shares.extend_from_slice(more);
        let contents = Contents { shares: shares.into(), salt: (*row.salt).into(), path: row.path.clone() };
        let mut sealed = minicbor::to_vec(&contents).unwrap();
        seal_key(&key, &ctx, dealer, holder)
            .seal_in_place_append_tag(nonce(), associated(&fields, holder), &mut sealed)
            .unwrap();
        let envelope = Envelope { ctx, sender: dealer, recipient: holder, sealed: sealed.into() };
        Row::open(&key, &envelope, &Receipt::new(fields).unwrap()).is_ok()
    }

    /// A holder that took fewer would have nothing to give back when it is asked.
    #[test]
    fn a_row_has_one_whole_share_for_each_site() {
        assert!(is_taken(|_| (), &[]));
        assert!(!is_taken(|row| drop(row.shares.pop()), &[]));
        assert!(!is_taken(|row| row.shares.push(Zeroizing::new([7; 32])), &[]));
        assert!(!is_taken(|_| (), &[7]));
    }
}
