//! Dealing shares of nothing: the bytes of docs/specification.md, made by hand, because no machine makes them.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use consilium_secagg::message::{Envelope, Receipt};
use consilium_secagg::numbering::SiteIndex;
use consilium_study::hash::{Hash, Hasher};
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

/// `"consilium/v1/" ‖ label ‖ 0x00 ‖` the CBOR of `parts`.
fn labelled(label: &str, parts: &impl Encode<()>) -> Vec<u8> {
    let mut bytes = [b"consilium/v1/", label.as_bytes(), &[0]].concat();
    minicbor::encode(parts, &mut bytes).unwrap();
    bytes
}

fn hkdf(ikm: &[u8], label: &str, parts: &impl Encode<()>) -> [u8; 32] {
    let mut out = [0; 32];
    let info = labelled(label, parts);
    Salt::new(HKDF_SHA256, &[]).extract(ikm).expand(&[&info], HKDF_SHA256).unwrap().fill(&mut out).unwrap();
    out
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key).unwrap())
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// What of a chain file is needed here.
#[derive(Decode)]
#[cbor(map)]
struct Chain {
    #[n(3)]
    epoch: Option<EpochChain>,
}

#[derive(Decode)]
#[cbor(map)]
struct EpochChain {
    #[n(6)]
    pairs: Vec<Pair>,
}

#[derive(Decode)]
#[cbor(map)]
struct Pair {
    #[n(0)]
    peer: String,
    #[n(1)]
    key: ByteArray<32>,
}

/// The keys of an attempt that a site shares with its peers, in the order of their names.
pub(crate) struct Seals(Vec<[u8; 32]>);

impl Seals {
    /// From the vault of a site that has masked and is in one study.
    pub(crate) fn of(vault: &Path, peers: &[&str]) -> Self {
        let folder = std::fs::read_dir(vault.join("studies")).unwrap().next().unwrap().unwrap();
        let study: Hash = folder.file_name().to_str().unwrap().parse().unwrap();
        let read = |file: &str| std::fs::read(folder.path().join(file)).unwrap();
        let (mut sealed, wraps) = (read("chain.keys"), read("chain.wrap"));
        let place = usize::from(sealed.remove(0)) * 32;
        let key = wraps[place..place + 32].try_into().unwrap();
        let chain = cipher(key).open_in_place(nonce(), Aad::from(*study.as_bytes()), &mut sealed).unwrap();
        let pairs = minicbor::decode::<Chain>(chain).unwrap().epoch.unwrap().pairs;
        let of = |peer: &&str| *pairs.iter().find(|pair| pair.peer == **peer).unwrap().key;
        Self(peers.iter().map(of).collect())
    }
}

/// What stands in an envelope.
#[derive(Encode)]
#[cbor(map)]
struct Contents {
    #[n(0)]
    shares: ByteVec,
    #[n(1)]
    salt: ByteArray<32>,
    #[n(2)]
    path: Vec<Hash>,
}

/// Shares that lead nowhere, for the peers of the last site of a Selection: the root over all of them, and an envelope
/// for each peer.
pub(crate) fn deal(receipt: &Receipt, Seals(keys): &Seals) -> (Hash, Vec<Envelope>) {
    let (ctx, dealer) = (receipt.ctx, receipt.sender);
    let sites: Vec<_> =
        (1..=receipt.envelopes.len()).map(|site| SiteIndex::new(site as u8).unwrap()).collect();
    assert_eq!((sites.last(), sites.len()), (Some(&dealer), keys.len() + 1), "the dealer is the last");
    // What no polynomial gives, although everybody could compute it.
    let share =
        |holder: SiteIndex, about: SiteIndex| *Hash::of_bytes(&[holder.get(), about.get()]).as_bytes();
    let salt = |holder: SiteIndex| *Hash::of_bytes(&[holder.get()]).as_bytes();
    let leaf = |holder: SiteIndex, about: SiteIndex| {
        let salt = hkdf(&salt(holder), "share-salt", &(ctx, dealer, holder, about));
        let salt = ByteArray::<16>::from(<[u8; 16]>::try_from(&salt[..16]).unwrap());
        let parts = (ctx, dealer, holder, about, salt, ByteArray::from(share(holder, about)));
        Hash::of_bytes(&labelled("share-leaf", &parts))
    };
    let rows: Vec<Hash> = sites
        .iter()
        .map(|holder| root(&sites.iter().map(|about| leaf(*holder, *about)).collect::<Vec<_>>()))
        .collect();
    let seal = |(holder, key): (&SiteIndex, &[u8; 32])| {
        let contents = Contents {
            shares: sites.iter().flat_map(|about| share(*holder, *about)).collect::<Vec<_>>().into(),
            salt: salt(*holder).into(),
            path: path(&rows, holder.position()),
        };
        let mut sealed = minicbor::to_vec(contents).unwrap();
        let key = hkdf(key, "share-seal", &(ctx, dealer, *holder));
        let named = (ctx, dealer, *holder, receipt.self_commitment, receipt.pair_commitments.clone());
        let associated = Aad::from(labelled("share-seal", &named));
        cipher(&key).seal_in_place_append_tag(nonce(), associated, &mut sealed).unwrap();
        Envelope { ctx, sender: dealer, recipient: *holder, sealed: sealed.into() }
    };
    (root(&rows), sites.iter().zip(keys).map(seal).collect())
}

/// The hashes of envelopes as a receipt names them, that for the dealer itself as before.
pub(crate) fn hashes(receipt: &Receipt, envelopes: &[Envelope]) -> Vec<Hash> {
    let mut hashes = receipt.envelopes.clone();
    for envelope in envelopes {
        hashes[envelope.recipient.position()] = envelope.hash();
    }
    hashes
}

/// Where a Merkle tree of at least two leaves is cut (RFC 6962, section 2.1).
fn cut(leaves: &[Hash]) -> usize {
    leaves.len().next_power_of_two() / 2
}

/// The root of a Merkle tree.
pub(crate) fn root(leaves: &[Hash]) -> Hash {
    if let [leaf] = leaves {
        return *leaf;
    }
    let (left, right) = leaves.split_at(cut(leaves));
    let mut hasher = Hasher::labelled("merkle-node");
    hasher.update(root(left).as_bytes());
    hasher.update(root(right).as_bytes());
    hasher.finish()
}

/// What leads from one leaf to the root, from left to right.
fn path(leaves: &[Hash], position: usize) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(cut(leaves));
    if position < left.len() {
        [path(left, position), vec![root(right)]].concat()
    } else {
        [vec![root(left)], path(right, position - left.len())].concat()
    }
}

/// The leaf of a chunk of a masked vector.
pub(crate) fn chunk_leaf(receipt: &Receipt, index: usize, bytes: &[u8]) -> Hash {
    let digest = Hash::from_bytes(blake3::hash(bytes).into());
    Hash::of_bytes(&labelled("masked-chunk", &(receipt.ctx, receipt.sender, index as u64, digest)))
}
