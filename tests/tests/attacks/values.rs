//! A site that sends other numbers than it trained: huge ones, or any.

use std::path::{Path, PathBuf};

use consilium_rounds::message::SiteMessage;
use consilium_secagg::layout::CHUNK_BYTES;
use consilium_site_agent::journal::Event;
use consilium_tests::Study;

use crate::garbage::{chunk_leaf, root};
use crate::members::{LIAR, with_receipt};
use crate::statistics::{to_bytes, to_words};
use crate::{PATIENCE, Scene, forge, patient};

const HONEST: [&str; 3] = ["a", "b", "c"];

/// The vector that the liar sends in an attempt instead of the one that it masked.
fn lie(attempt: u64, honest: &[u8]) -> Vec<u8> {
    let mut words = to_words(honest);
    match attempt {
        // Anything.
        1 => {
            let mut word = 1_u32;
            for place in &mut words {
                word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *place = word;
            }
        }
        // An update as long as the ring has room for, in order but for that. The first word is the weight; behind the
        // update are a few words that count.
        2 => {
            let update = 1..PARAMETERS + 1;
            words[update].iter_mut().for_each(|word| *word = word.wrapping_add(1 << 30));
        }
        _ => {}
    }
    to_bytes(&words)
}

/// Of the model `logistic` over 8 x 8 pictures in two classes.
const PARAMETERS: usize = 2 * 64 + 2;

/// The masked vector that a vault has spooled.
fn spool(vault: &Path, attempt: u64) -> Vec<u8> {
    let study: PathBuf = std::fs::read_dir(vault.join("studies")).unwrap().next().unwrap().unwrap().path();
    std::fs::read(study.join(format!("spool-{attempt}"))).unwrap()
}

/// Under masks nobody can tell who sent it. What the others sent is summed as ever, and shown to nobody; a sum that is
/// none is taken again, and a candidate that no honest updates lead to is refused.
#[test]
fn random_and_huge_values_cost_a_round_and_tell_nothing() {
    let mut scene = Scene::new(4);
    let key = forge::key_of(&scene.lab, LIAR);
    let vault = scene.lab.site_folder(LIAR).join("vault");
    scene.hostile.on_message(move |site, message| match message {
        SiteMessage::Masked(mut masked) if site == LIAR && masked.attempt.get() <= 2 => {
            let attempt = u64::from(masked.attempt.get());
            let receipt = masked.upload.receipt.claim().unwrap();
            let sent = lie(attempt, &spool(&vault, attempt));
            let chunks = sent.chunks(CHUNK_BYTES).enumerate();
            masked.upload.chunks = chunks.map(|(index, bytes)| chunk_leaf(&receipt, index, bytes)).collect();
            let chunks = root(&masked.upload.chunks);
            Some(SiteMessage::Masked(with_receipt(&key, masked, |fields| fields.chunks = chunks)))
        }
        // Its own machine does not know the receipt that it is said to have signed.
        SiteMessage::Declined { .. } | SiteMessage::Alarm(_) if site == LIAR => None,
        other => Some(other),
    });
    scene.hostile.on_upload(
        move |site, attempt, bytes| {
            if site == LIAR { lie(attempt, &bytes) } else { bytes }
        },
    );
    scene.lab.start_agents().unwrap();
    scene.lab.launch_with_all(&Study { required: vec![], ..patient(4) }, PATIENCE).unwrap();
    scene.lab.released("lungs", PATIENCE).unwrap();

    let status = scene.lab.status("lungs").unwrap();
    let lines = status["lines"].as_array().unwrap();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            (line["state"].as_str().unwrap(), line["cause"].as_str(), line["counted"].as_u64().unwrap())
        })
        .collect();
    let no_sum = "the uploads or the recovered masks do not give a sum";
    let too_long = "its update is longer than any hospital may send";
    assert_eq!(
        told,
        [
            ("abandoned", Some(no_sum), 4),
            ("trained", None, 4),
            ("refused", Some(too_long), 4),
            ("trained", None, 4),
            ("adopted", None, 4),
        ],
        "{status}"
    );
    // The old model is kept: the next round starts from it.
    let model = |attempt| scene.context("a", attempt).claim().unwrap().model;
    let candidate = model(3);
    assert_eq!([model(2), model(4)], [model(1); 2]);
    assert!(candidate != model(1) && candidate != model(5));
    // Nobody is named, and each honest site signed and answered for one sum of each attempt, with all in it.
    for site in HONEST {
        let journal = scene.journal(site);
        let of = |kind: fn(&Event) -> Option<u32>| journal.iter().filter_map(kind).collect::<Vec<_>>();
        let signed = of(|event| match event {
            Event::Signed { attempt, .. } => Some(*attempt),
            _ => None,
        });
        let answered = of(|event| match event {
            Event::Answered { attempt, .. } => Some(*attempt),
            _ => None,
        });
        let blamed = of(|event| match event {
            Event::Alarm { .. } | Event::Guilty { .. } | Event::DirectiveRefused { .. } => Some(0),
            _ => None,
        });
        assert_eq!((&signed[..], &answered[..]), (&[1, 2, 3, 4, 5][..], &[1, 2, 3, 4, 5][..]), "{site}");
        assert!(blamed.is_empty(), "{journal:?}");
    }
    let told = scene.lab.consilium(&["audit", "verify", scene.lab.path().to_str().unwrap()]).unwrap();
    assert!(!told.contains("ALARM"), "{told}");
    assert!(scene.hostile.refused(LIAR).is_empty());
}
