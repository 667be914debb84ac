//! Strangers' bytes: logs, entries, checkpoints and proofs are read or refused, and nothing panics.

use std::sync::OnceLock;

use consilium_fuzz::{Target, run};
use consilium_study::canonical::Canonical;

use super::*;
use crate::bundle;
use crate::checkpoint::ClaimedCheckpoint;
use crate::entry::{Entry, Kind};
use crate::memory::Folder;
use crate::parts::Parts;
use crate::path::Named;
use crate::record::Record;
use crate::statement::Account;
use crate::tree::{Tree, check_consistency, check_inclusion, leaf_hash};

fn entry(bytes: &[u8]) -> bool {
    let _ = Entry::glimpse(bytes);
    let Ok(entry) = Entry::parse(bytes) else { return false };
    assert_eq!(entry.to_canonical(), bytes);
    let _ = (entry.statement_hash(), entry.statement(&Folder::default()));
    true
}

fn checkpoint(bytes: &[u8]) -> bool {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    let Ok(claimed) = ClaimedCheckpoint::parse(bytes) else { return false };
    let key = KEY.get_or_init(SigningKey::generate).verifying_key();
    assert!(claimed.verify(&claimed.claim().origin, &key).is_err(), "nobody signed with this key");
    true
}

/// The first byte says how many entries there should be.
fn entries(bytes: &[u8]) -> bool {
    let Some((count, bytes)) = bytes.split_first() else { return false };
    let Ok((entries, rest)) = bundle::decode(bytes, (*count).into()) else { return false };
    assert_eq!([bundle::encode(&entries), rest.to_vec()].concat(), bytes);
    true
}

fn path(bytes: &[u8]) -> bool {
    let Some(named) = std::str::from_utf8(bytes).ok().and_then(Named::parse) else { return false };
    assert_eq!(named.path().as_bytes(), bytes);
    true
}

/// A statement and, before it, its kind; read and told to people as an auditor's listing does.
fn record(bytes: &[u8]) -> bool {
    let Some((kind, statement)) = bytes.split_first() else { return false };
    let Ok(kind) = Kind::from_canonical(&[*kind]) else { return false };
    let Ok(record) = Record::read(kind, statement) else { return false };
    assert_eq!((record.kind(), record.to_statement()), (kind, statement.to_vec()));
    assert!(!record.summary().is_empty() && !record.details().is_empty());
    true
}

/// Size, index or older size, roots, then the hashes of a proof.
fn proof(bytes: &[u8]) -> bool {
    let (numbers, hashes) = bytes.split_at_checked(16).unwrap_or((&[0; 16], bytes));
    let number = |at: usize| u64::from_le_bytes(numbers[at..at + 8].try_into().unwrap());
    let hashes: Vec<_> = hashes.as_chunks::<32>().0.iter().map(|hash| Hash::from_bytes(*hash)).collect();
    let [root, other, proof @ ..] = &hashes[..] else { return false };
    let (size, place) = (number(0), number(8));
    check_inclusion(proof, size, *root, place, *other).is_ok()
        | check_consistency(proof, place, *other, size, *root).is_ok()
}

/// A whole log of which one file is another: the first byte says which.
fn folder(bytes: &[u8]) -> bool {
    let (folder, consortium) = known();
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let mut changed = folder.clone();
    let files = changed.files.len();
    let which = usize::from(*which) % (files + changed.blobs.len());
    let mut all = changed.files.values_mut().chain(changed.blobs.values_mut());
    *all.nth(which).unwrap() = bytes.to_vec();
    let same = changed == *folder;
    let verified = verify(&changed, &changed, &consortium.anchor().key);
    // Other bytes of a blob, a bundle or a tile have another hash; the checkpoint may gain signatures of others.
    assert!(verified.is_err() || same || changed.files["checkpoint"] != folder.files["checkpoint"]);
    let _ = LogReader::open(&changed).map(|reader| reader.check_folder());
    verified.is_ok()
}

static KNOWN: OnceLock<(Folder, ConsortiumKey)> = OnceLock::new();

fn known() -> &'static (Folder, ConsortiumKey) {
    KNOWN.get().expect("the targets were made first")
}

#[test]
fn strangers_bytes_are_read_or_refused() {
    let world = World::new();
    let story = world.story();
    let log = world.folder(&story);
    let statements: Vec<Vec<u8>> = story
        .iter()
        .map(|sealed| [sealed.record.kind().to_canonical(), sealed.record.to_statement()].concat())
        .collect();
    let accounts = story.iter().filter_map(|sealed| match &sealed.record {
        Record::Account(_, signed) => Some(signed.claim().unwrap()),
        _ => None,
    });
    let reader = LogReader::open(&log).unwrap();
    let entry_bytes: Vec<_> = reader.entries().map(|entry| entry.unwrap().1.to_canonical()).collect();
    let bundles = log.files.iter().filter(|(path, _)| path.contains("entries"));
    let mut tree = Tree::new();
    let leaves: Vec<_> = (0..20_u8).map(|number| leaf_hash(&[number])).collect();
    for leaf in &leaves {
        tree.push(*leaf).unwrap();
    }
    let joined = |size: u64, place: u64, root: Hash, other: Hash, proof: Vec<Hash>| {
        let hashes = [root, other].into_iter().chain(proof);
        let numbers = [size.to_le_bytes(), place.to_le_bytes()].concat();
        numbers.into_iter().chain(hashes.flat_map(|hash| *hash.as_bytes())).collect::<Vec<u8>>()
    };
    let order =
        Order { signed_at_ms: 5, act: Act::Course { study: world.study.hash(), course: Course::Close } };
    KNOWN.get_or_init(|| (log.clone(), world.consortium));
    run([
        Target::new("ledger-entry", entry, entry_bytes),
        Target::new("ledger-checkpoint", checkpoint, [log.files["checkpoint"].clone()]),
        Target::new(
            "ledger-bundle",
            entries,
            bundles.map(|(_, bytes)| [&[story.len() as u8], &bytes[..]].concat()),
        ),
        Target::new(
            "ledger-path",
            path,
            ["tile/0/x001/x234/067", "tile/entries/273.p/112", "checkpoint"]
                .map(|path| path.as_bytes().to_vec()),
        ),
        // People are shown every number of a layout on a line of its own.
        Target::new("ledger-record", record, statements).holding(1 << 20),
        Target::canonical::<Account>("ledger-account", accounts),
        Target::canonical::<Order>("ledger-order", [order]),
        Target::canonical::<Vec<Signed<Receipt>>>("ledger-receipts", [world_receipts(&story)]),
        Target::canonical::<Parts>("ledger-parts", [Parts::of(&world_receipts(&story)).0]),
        Target::new(
            "ledger-proof",
            proof,
            [
                joined(20, 7, tree.root(), leaves[7], tree.inclusion(7, 20).unwrap()),
                joined(20, 11, tree.root(), tree.root_of(11).unwrap(), tree.consistency(11, 20).unwrap()),
            ],
        ),
        Target::new(
            "ledger-folder",
            folder,
            log.files
                .values()
                .chain(log.blobs.values())
                .enumerate()
                .map(|(which, bytes)| [&[which as u8], &bytes[..]].concat()),
        )
        .holding(4 << 20)
        .slow(20),
    ]);
}

fn world_receipts(story: &[Sealed]) -> Vec<Signed<Receipt>> {
    let blob = story.iter().flat_map(|sealed| &sealed.blobs).next().unwrap();
    Canonical::from_canonical(&blob.bytes).unwrap()
}
