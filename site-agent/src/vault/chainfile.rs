//! The chain file: pair keys under a key of its own that is replaced with every write.
//!
//! The ratchet forgets keys by writing new ones over them, but a file system keeps old blocks. So the chain is
//! sealed under a fresh key each time, and that key's 32 bytes are overwritten in place when the next chain is
//! written: what may be left of an old chain cannot be opened. On flash and on file systems that copy on write
//! this is best effort.
//!
//! `chain.wrap` has two places for keys, and the first byte of a chain says which one it uses. A write has two
//! halves, because the protocol's record is written in between: [`prepare`] puts the new chain beside the old one,
//! [`commit`] lets it take its place and wipes the old key. A crash leaves both chains, and [`candidates`] returns
//! both; only one of them fits the record, which has the version of its chain in it.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use consilium_study::hash::Hash;
use zeroize::Zeroizing;

use crate::folder::StudyFolder;
use crate::store::{Kind, Store, StoreError};

const KEY_BYTES: usize = 32;

/// The bytes of a chain.
pub(super) type Chain = Zeroizing<Vec<u8>>;

/// Which of two chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The one that is in place.
    Current,
    /// The one that was to take its place.
    Next,
}

/// Writes the next chain of a study beside the current one.
pub(super) fn prepare(
    store: &dyn Store,
    files: &StudyFolder,
    study: &Hash,
    chain: &[u8],
) -> Result<(), StoreError> {
    let place = 1 - place_of_current(store, files)?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    SystemRandom::new().fill(key.as_mut_slice()).expect("the operating system has randomness");
    let mut sealed = Zeroizing::new(Vec::with_capacity(chain.len() + 64));
    sealed.extend_from_slice(chain);
    cipher(&key)
        .seal_in_place_append_tag(nonce(), associated(study), &mut *sealed)
        .expect("a chain is far shorter than AES-GCM-SIV allows");
    sealed.insert(0, place);
    store.overwrite(Kind::ChainWrap, &files.chain_wrap(), offset(place), key.as_slice())?;
    store.replace(Kind::ChainKeys, &files.next_chain_keys(), &sealed)
}

/// Lets the next chain take the current one's place, and wipes the key of the one before.
pub(super) fn commit(store: &dyn Store, files: &StudyFolder) -> Result<(), StoreError> {
    let before = place_of_current(store, files)?;
    store.promote(Kind::ChainKeys, &files.next_chain_keys(), &files.chain_keys())?;
    store.overwrite(Kind::ChainWrap, &files.chain_wrap(), offset(before), &[0; KEY_BYTES])
}

/// Throws the next chain away: the record that goes with it was never written.
pub(super) fn abandon(store: &dyn Store, files: &StudyFolder) -> Result<(), StoreError> {
    store.remove(Kind::ChainKeys, &files.next_chain_keys())
}

/// The chains of a study that can be opened: none where the keys are gone, two after a crash.
pub(super) fn candidates(
    store: &dyn Store,
    files: &StudyFolder,
    study: &Hash,
) -> Result<Vec<(Which, Chain)>, StoreError> {
    let Some(keys) = store.read(Kind::ChainWrap, &files.chain_wrap())?.map(Zeroizing::new) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for (which, path) in [(Which::Current, files.chain_keys()), (Which::Next, files.next_chain_keys())] {
        let sealed = store.read(Kind::ChainKeys, &path)?;
        found.extend(sealed.and_then(|sealed| open(&sealed, &keys, study)).map(|chain| (which, chain)));
    }
    Ok(found)
}

/// The place of the key that the current chain uses.
fn place_of_current(store: &dyn Store, files: &StudyFolder) -> Result<u8, StoreError> {
    let current = store.read(Kind::ChainKeys, &files.chain_keys())?;
    Ok(u8::from(current.and_then(|bytes| bytes.first().copied()) != Some(0)))
}

pub(super) fn open(sealed: &[u8], keys: &[u8], study: &Hash) -> Option<Chain> {
    let (place @ (0 | 1), sealed) = sealed.split_first()? else { return None };
    let start = usize::from(*place) * KEY_BYTES;
    let key: &[u8; KEY_BYTES] = keys.get(start..start + KEY_BYTES)?.try_into().ok()?;
    let mut bytes = Zeroizing::new(sealed.to_vec());
    let length = cipher(key).open_in_place(nonce(), associated(study), &mut bytes).ok()?.len();
    bytes.truncate(length);
    Some(bytes)
}

/// Erases the chain of a study: first its key.
pub(super) fn erase(store: &dyn Store, files: &StudyFolder) -> Result<(), StoreError> {
    if files.chain_wrap().exists() {
        store.overwrite(Kind::ChainWrap, &files.chain_wrap(), 0, &[0; 2 * KEY_BYTES])?;
    }
    store.remove(Kind::ChainKeys, &files.next_chain_keys())?;
    store.remove(Kind::ChainKeys, &files.chain_keys())?;
    store.remove(Kind::ChainWrap, &files.chain_wrap())
}

fn offset(place: u8) -> u64 {
    u64::from(place) * KEY_BYTES as u64
}

fn cipher(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key).expect("an AES-256 key has 32 bytes"))
}

/// Every key seals one chain, so the nonce is constant.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn associated(study: &Hash) -> Aad<[u8; 32]> {
    Aad::from(*study.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::SiteFolder;
    use crate::store::Disk;

    fn opened(files: &StudyFolder, study: &Hash) -> Vec<(Which, Vec<u8>)> {
        let found = candidates(&Disk, files, study).unwrap();
        found.into_iter().map(|(which, chain)| (which, chain.to_vec())).collect()
    }

    #[test]
    fn the_last_chain_opens_and_the_ones_before_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let study = Hash::of_bytes(b"study");
        let files = SiteFolder::new(dir.path()).study(&study);
        assert_eq!(opened(&files, &study), []);
        let mut old = Vec::new();
        for number in 0..5_u8 {
            prepare(&Disk, &files, &study, &[number; 100]).unwrap();
            commit(&Disk, &files).unwrap();
            assert_eq!(opened(&files, &study), [(Which::Current, vec![number; 100])]);
            old.push(std::fs::read(files.chain_keys()).unwrap());
        }
        let keys = std::fs::read(files.chain_wrap()).unwrap();
        for (number, sealed) in old.iter().enumerate() {
            assert_eq!(open(sealed, &keys, &study).is_some(), number == 4);
        }
        assert!(open(&old[4], &keys, &Hash::of_bytes(b"other")).is_none());
        let same_place = dir.path().join("same-place");
        std::fs::hard_link(files.chain_wrap(), &same_place).unwrap();
        erase(&Disk, &files).unwrap();
        assert_eq!(std::fs::read(same_place).unwrap(), [0; 64], "overwritten where they lie");
        assert_eq!(opened(&files, &study), []);
        erase(&Disk, &files).unwrap();
    }

    #[test]
    fn after_a_crash_between_the_halves_both_chains_open() {
        let dir = tempfile::tempdir().unwrap();
        let study = Hash::of_bytes(b"study");
        let files = SiteFolder::new(dir.path()).study(&study);
        prepare(&Disk, &files, &study, b"first").unwrap();
        commit(&Disk, &files).unwrap();
        prepare(&Disk, &files, &study, b"second").unwrap();
        let both = [(Which::Current, b"first".to_vec()), (Which::Next, b"second".to_vec())];
        assert_eq!(opened(&files, &study), both);
        // The record was not written: the new chain goes, and another can be prepared.
        abandon(&Disk, &files).unwrap();
        prepare(&Disk, &files, &study, b"third").unwrap();
        assert_eq!(opened(&files, &study)[1].1, b"third");
        // The record was written: the new chain stays.
        commit(&Disk, &files).unwrap();
        assert_eq!(opened(&files, &study), [(Which::Current, b"third".to_vec())]);
    }

    #[test]
    fn damaged_files_give_no_chain_and_no_panic() {
        let study = Hash::of_bytes(b"study");
        for sealed in [&[][..], &[0], &[2; 40], &[1; 40]] {
            for keys in [&[][..], &[0; 31], &[0; 64]] {
                assert!(open(sealed, keys, &study).is_none());
            }
        }
    }
}
