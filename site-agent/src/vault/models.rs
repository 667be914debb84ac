//! Models by hash: fetched in pieces through the relay, believed only when the hash is right.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_study::hash::{Hash, Hasher};

use crate::pipe::message::FromVault;
use crate::store::{Kind, Store, StoreError};

/// The models this site holds and those it wants.
pub(crate) struct Models {
    store: Arc<dyn Store>,
    folder: PathBuf,
    wanted: BTreeMap<Hash, Wanted>,
}

struct Wanted {
    /// Most bytes the file may have.
    limit: u64,
    /// Bytes that are here.
    have: u64,
    /// Whether the relay has been asked since it was last connected.
    asked: bool,
}

/// What a piece did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// More is to come, or the piece was not wanted.
    Waiting,
    /// The file is whole and its hash is right.
    Complete,
    /// The file was whole, and wrong: it is wanted again from the start.
    Wrong,
}

impl Models {
    pub(crate) fn new(store: Arc<dyn Store>, folder: PathBuf) -> Self {
        Self { store, folder, wanted: BTreeMap::new() }
    }

    /// Where a model is, if it is here.
    pub(crate) fn find(&self, hash: &Hash) -> Option<PathBuf> {
        Some(self.place(hash)).filter(|path| path.exists())
    }

    /// Asks for a model of at most `limit` bytes, unless it is here or asked for.
    pub(crate) fn want(&mut self, hash: Hash, limit: u64) {
        if self.find(&hash).is_none() && !self.wanted.contains_key(&hash) {
            let have = std::fs::metadata(self.part(&hash)).map_or(0, |metadata| metadata.len());
            self.wanted.insert(hash, Wanted { limit, have, asked: false });
        }
    }

    /// Bytes that are here of a model that is asked for; none for any other.
    pub(crate) fn have(&self, hash: &Hash) -> Option<u64> {
        self.wanted.get(hash).map(|wanted| wanted.have)
    }

    /// The requests that the relay has not been given. After `forget_requests`, all of them.
    pub(crate) fn requests(&mut self) -> Vec<FromVault> {
        let unasked = self.wanted.iter_mut().filter(|(_, wanted)| !wanted.asked);
        unasked
            .map(|(hash, wanted)| {
                wanted.asked = true;
                FromVault::Want { hash: *hash, offset: wanted.have }
            })
            .collect()
    }

    /// The relay is a new one, or has a new connection.
    pub(crate) fn forget_requests(&mut self) {
        self.wanted.values_mut().for_each(|wanted| wanted.asked = false);
    }

    /// Takes a piece in. Pieces that were not asked for, or do not follow, are ignored.
    pub(crate) fn piece(
        &mut self,
        hash: &Hash,
        offset: u64,
        bytes: &[u8],
        last: bool,
    ) -> Result<Piece, StoreError> {
        let (part, place) = (self.part(hash), self.place(hash));
        let Some(wanted) = self.wanted.get_mut(hash) else { return Ok(Piece::Waiting) };
        if offset != wanted.have {
            return Ok(Piece::Waiting);
        }
        let length = wanted.have + bytes.len() as u64;
        if length <= wanted.limit {
            if !bytes.is_empty() {
                self.store.append(Kind::PartialModel, &part, bytes)?;
                wanted.have = length;
            }
            if !last {
                return Ok(Piece::Waiting);
            }
            let got = hash_file(&part).map_err(|source| StoreError {
                act: "read",
                kind: Kind::PartialModel,
                path: part.clone(),
                source,
            })?;
            if got == *hash {
                self.store.promote(Kind::Model, &part, &place)?;
                self.wanted.remove(hash);
                return Ok(Piece::Complete);
            }
        }
        self.store.remove(Kind::PartialModel, &part)?;
        *wanted = Wanted { limit: wanted.limit, have: 0, asked: false };
        Ok(Piece::Wrong)
    }

    /// Removes what is neither in `keep` nor wanted for it.
    pub(crate) fn retain(&mut self, keep: &[Hash]) -> Result<(), StoreError> {
        self.wanted.retain(|hash, _| keep.contains(hash));
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let stem = Path::new(&name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if !stem.parse().is_ok_and(|hash| keep.contains(&hash)) {
                self.store.remove(Kind::Model, &entry.path())?;
            }
        }
        Ok(())
    }

    fn place(&self, hash: &Hash) -> PathBuf {
        self.folder.join(hash.to_string())
    }

    fn part(&self, hash: &Hash) -> PathBuf {
        self.folder.join(format!("{hash}.part"))
    }
}

fn hash_file(path: &Path) -> io::Result<Hash> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut file = File::open(path)?;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Disk;

    fn models() -> (tempfile::TempDir, Models) {
        let dir = tempfile::tempdir().unwrap();
        let models = Models::new(Arc::new(Disk), dir.path().join("models"));
        (dir, models)
    }

    #[test]
    fn a_model_arrives_in_pieces_and_survives_a_restart() {
        let (dir, mut models) = models();
        let hash = Hash::of_bytes(b"abcdef");
        models.want(hash, 100);
        assert_eq!(models.requests(), [FromVault::Want { hash, offset: 0 }]);
        models.want(hash, 100);
        assert_eq!(models.requests(), [], "asked for already");
        models.forget_requests();
        assert_eq!(models.requests(), [FromVault::Want { hash, offset: 0 }]);
        assert_eq!(models.piece(&hash, 0, b"abc", false).unwrap(), Piece::Waiting);
        let mut again = Models::new(Arc::new(Disk), dir.path().join("models"));
        again.want(hash, 100);
        assert_eq!(again.requests(), [FromVault::Want { hash, offset: 3 }]);
        assert_eq!(again.piece(&hash, 0, b"abc", false).unwrap(), Piece::Waiting, "heard already");
        assert_eq!(again.piece(&hash, 3, b"def", true).unwrap(), Piece::Complete);
        assert_eq!(std::fs::read(again.find(&hash).unwrap()).unwrap(), b"abcdef");
        again.want(hash, 100);
        assert_eq!(again.requests(), []);
    }

    #[test]
    fn wrong_and_overlong_files_are_thrown_away_and_wanted_again() {
        let (_dir, mut models) = models();
        let hash = Hash::of_bytes(b"abcdef");
        models.want(hash, 6);
        models.requests();
        assert_eq!(models.piece(&hash, 0, b"abcdeX", true).unwrap(), Piece::Wrong);
        assert_eq!(models.requests(), [FromVault::Want { hash, offset: 0 }]);
        assert_eq!(models.piece(&hash, 0, b"abcdefg", false).unwrap(), Piece::Wrong);
        assert_eq!(models.find(&hash), None);
        assert_eq!(
            models.piece(&hash, 0, b"abcdef", true).unwrap(),
            Piece::Complete,
            "nothing is left of them"
        );
        let other = Hash::of_bytes(b"x");
        assert_eq!(models.piece(&other, 0, b"x", true).unwrap(), Piece::Waiting, "nobody asked");
    }

    #[test]
    fn what_no_study_needs_is_removed() {
        let (_dir, mut models) = models();
        let (a, b) = (Hash::of_bytes(b"a"), Hash::of_bytes(b"b"));
        for (hash, bytes) in [(a, b"a"), (b, b"b")] {
            models.want(hash, 1);
            models.piece(&hash, 0, bytes, true).unwrap();
        }
        models.want(Hash::of_bytes(b"c"), 1);
        models.retain(&[b]).unwrap();
        assert_eq!(models.requests(), []);
        assert!(models.find(&a).is_none() && models.find(&b).is_some());
    }
}
