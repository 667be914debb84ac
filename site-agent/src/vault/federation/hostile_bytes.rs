//! What reaches a vault through its pipe, and what it reads back from its own files: read or refused, without a panic and
//! without a vault that ends.

use std::cell::RefCell;
use std::mem::discriminant;
use std::path::Path;

use consilium_fuzz::{Target, canonical, run};
use consilium_rounds::message::{Directive, Letter};
use consilium_rounds::{Act, Event};
use consilium_study::canonical::Canonical;
use consilium_study::hash::Hash;

use super::{Federation, SITES};
use crate::config::{self, Config};
use crate::folder::SiteFolder;
use crate::journal;
use crate::pipe::message::{FromRelay, FromVault, Link, Span, Upload, Verdict, Work};
use crate::pipe::{receive, send};
use crate::relay::credential::Destination;
use crate::store::{Disk, Kind, Store as _};
use crate::vault::chainfile;
use crate::vault::identity::Identity;
use crate::vault::record::{PersonalAct, PersonalAnswer, StudyRecord};

fn frames<M: Canonical>(bytes: &[u8]) -> bool {
    let (mut from, mut taken) = (bytes, Vec::new());
    while let Ok(message) = receive::<M>(&mut from) {
        send(&mut taken, &message).unwrap();
    }
    assert!(bytes.starts_with(&taken), "a frame has two spellings");
    !taken.is_empty()
}

fn records(bytes: &[u8]) -> bool {
    journal::parse(bytes).is_ok_and(|(records, whole)| {
        assert!(whole <= bytes.len());
        !records.is_empty()
    })
}

/// A sealed chain behind the keys that open it.
fn chain(bytes: &[u8]) -> bool {
    let (keys, sealed) = bytes.split_at(bytes.len().min(64));
    let _ = chainfile::open(sealed, keys, &Hash::of_bytes(b"study"));
    !sealed.is_empty()
}

fn site_toml(bytes: &[u8]) -> bool {
    Config::parse(&String::from_utf8_lossy(bytes), &SiteFolder::new("/site")).is_ok()
}

thread_local! {
    /// A federation in the middle of an attempt.
    static RUNNING: RefCell<Option<Federation>> = const { RefCell::new(None) };
}

/// A letter of a hostile coordinator, given to a vault that holds an attempt with all its secrets.
fn vault(bytes: &[u8]) -> bool {
    RUNNING.with_borrow_mut(|federation| {
        let core = &mut federation.as_mut().expect("the targets were made first").sites[0].core;
        let directive = FromRelay::Directive { bytes: bytes.to_vec().into(), parent: String::new() };
        core.frame(directive).expect("a letter does not end the vault");
        drop(core.speak());
    });
    Letter::<Directive>::from_bytes(bytes).is_ok()
}

/// One letter of each kind, up to the first request to unmask, which nobody has heard yet.
fn running() -> (Federation, Vec<Vec<u8>>) {
    let mut federation = Federation::new("approval = \"automatic\"\noperators = [\"operator/o\"]\n");
    federation.tell(Event::Operator { by: "operator/o".parse().unwrap(), act: Act::Start });
    let mut heard: Vec<Letter<Directive>> = Vec::new();
    loop {
        for letter in federation.machine.directives_for(&SITES[0].parse().unwrap()) {
            if heard.iter().all(|known| discriminant(&known.message) != discriminant(&letter.message)) {
                heard.push(letter);
            }
        }
        if heard.iter().any(|letter| matches!(letter.message, Directive::Unmask(_))) {
            return (federation, heard.iter().map(Letter::to_bytes).collect());
        }
        assert!(federation.pass(), "{heard:#?}");
    }
}

fn framed<M: Canonical>(messages: &[M]) -> Vec<u8> {
    let mut pipe = Vec::new();
    for message in messages {
        send(&mut pipe, message).unwrap();
    }
    pipe
}

fn file(kind: Kind, path: &Path) -> Vec<u8> {
    Disk.read(kind, path).unwrap().unwrap()
}

#[test]
fn strangers_bytes_are_read_or_refused() {
    let (federation, letters) = running();
    let site = &federation.sites[0];
    let study = federation.machine.study_hash();
    let files = site.folder.study(&study);
    let hash = Hash::of_bytes(b"x");
    let upload = Upload { study, attempt: 1, length: 9 };
    let from_relay = [
        FromRelay::Directive { bytes: letters[0].clone().into(), parent: String::new() },
        FromRelay::Blob { hash, offset: 3, bytes: vec![1, 2, 3].into(), last: true },
        FromRelay::ReadChunk { upload, index: 0 },
        FromRelay::Said { id: hash, verdict: Verdict::Refused { code: "late".into() } },
        FromRelay::Uploaded { upload, verdict: Verdict::Recorded },
        FromRelay::Link(Link::Up),
    ];
    let span = Span { work: Work::Mask, parent: "00-ab".into(), start_ns: 1, end_ns: 2, attempt: 1 };
    let from_vault = [
        FromVault::Hello,
        FromVault::Want { hash, offset: 7 },
        FromVault::Say { id: hash, message: vec![4, 5].into(), parent: String::new() },
        FromVault::UploadReady { upload, parent: String::new() },
        FromVault::Chunk { upload, index: 0, bytes: vec![6].into() },
        FromVault::Span(span),
    ];
    let answer = PersonalAnswer {
        study,
        act: PersonalAct::Consent,
        person: "ada".into(),
        at_ms: 9,
        about: Some(hash),
    };
    let identity = site.identity.clone();
    let destination = Destination {
        anchor: identity.anchor.clone(),
        roster: identity.roster.clone(),
        address: "localhost:443".parse().unwrap(),
    };
    let sealed =
        [file(Kind::ChainWrap, &files.chain_wrap()), file(Kind::ChainKeys, &files.chain_keys())].concat();
    let journal = file(Kind::Journal, &site.folder.journal());
    let record = file(Kind::Study, &files.record());
    RUNNING.set(Some(federation));
    run([
        Target::new("vault-from-relay", frames::<FromRelay>, [framed(&from_relay)]),
        Target::new("relay-from-vault", frames::<FromVault>, [framed(&from_vault)]),
        Target::new("vault-journal", records, [journal]),
        Target::new("vault-record", |bytes| StudyRecord::from_bytes(bytes).is_ok(), [record]),
        Target::new("vault-chain", chain, [sealed]),
        Target::new("vault-answer", canonical::<PersonalAnswer>, [answer.to_canonical()]),
        Target::new("vault-identity", canonical::<Identity>, [identity.to_canonical()]),
        Target::new("relay-destination", canonical::<Destination>, [destination.to_canonical()]),
        Target::new("site-toml", site_toml, [config::TEMPLATE.as_bytes().to_vec()]),
        Target::new("vault-letter", vault, letters).holding(8 << 20).slow(10),
    ]);
    RUNNING.take();
}
