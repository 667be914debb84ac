//! Sites that help nobody: what they send enters no sum, and the round goes on.

use std::time::Duration;

use consilium_rounds::message::{Masked, SiteMessage};
use consilium_secagg::message::{Envelope, Receipt, ReceiptFields};
use consilium_study::name::Principal;
use consilium_study::sign::{Signed, SigningKey};
use consilium_tests::Study;

use crate::{PATIENCE, Scene, forge, patient};

/// The site that lies.
const LIAR: &str = "d";

fn liar() -> Principal {
    Principal::Site(LIAR.parse().unwrap())
}

fn study(name: &'static str, collect_timeout: &'static str) -> Study {
    Study { name, rounds: 1, required: vec![], collect_timeout, ..patient(4) }
}

/// The same announcement with another receipt, which the liar signs.
fn with_receipt(key: &SigningKey, mut masked: Masked, change: impl FnOnce(&mut ReceiptFields)) -> Masked {
    let mut fields = (*masked.upload.receipt.claim().unwrap()).clone();
    change(&mut fields);
    masked.upload.receipt = Signed::seal(&Receipt::new(fields).unwrap(), liar(), key);
    masked
}

#[test]
fn foreign_flipped_and_cut_vectors_are_refused_and_the_round_goes_on() {
    let mut scene = Scene::new(4);
    scene.lab.start_agents().unwrap();
    let (mut of_a, mut tried) = (None, 0);
    scene.hostile.on_upload(move |site, mut bytes| match site {
        "a" => {
            of_a = Some(bytes.clone());
            bytes
        }
        LIAR => {
            tried += 1;
            match (tried, &of_a) {
                (1, _) => bytes[7] ^= 1,
                (2, _) => bytes.truncate(bytes.len() / 2),
                (3, _) => bytes.swap(0, 4),
                (4, _) => bytes.extend([0; 4]),
                (_, Some(foreign)) => bytes.clone_from(foreign),
                (_, None) => bytes.fill(0),
            }
            bytes
        }
        _ => bytes,
    });
    scene.lab.launch_with_all(&study("lungs", "20s"), PATIENCE).unwrap();
    for tries in 1..=5 {
        scene.until("the vector is refused", || (scene.hostile.refused(LIAR).len() >= tries).then_some(()));
        // It would try again by itself, later.
        scene.kill_and_start(LIAR);
    }
    let wrong = ("chunk".to_owned(), "chunk 0 is not the one that the receipt names".to_owned());
    let refused = scene.hostile.refused(LIAR);
    let long = ("too_long".to_owned(), refused[3].1.clone());
    assert_eq!(refused[..5], [wrong.clone(), wrong.clone(), wrong.clone(), long, wrong]);
    scene.lab.released("lungs", PATIENCE).unwrap();
    let status = scene.lab.status("lungs").unwrap();
    assert_eq!(status["lines"][0]["missing"], serde_json::json!([LIAR]), "{status}");
    assert_eq!(status["lines"][0]["counted"], 3);
}

#[test]
fn unequal_commitments_slandered_envelopes_and_wrong_shares_cost_the_liar_and_nobody_else() {
    let mut scene = Scene::new(4);
    scene.lab.start_agents().unwrap();

    // Commitments that differ from those of two peers: of the pairs that do not fit it is in most.
    let key = forge::key_of(&scene.lab, LIAR);
    scene.hostile.on_message(move |site, message| match message {
        SiteMessage::Masked(masked) if site == LIAR => {
            Some(SiteMessage::Masked(with_receipt(&key, masked, |fields| {
                fields.pair_commitments[0] = fields.chunks;
                fields.pair_commitments[1] = fields.chunks;
            })))
        }
        other => Some(other),
    });
    scene.lab.launch_with_all(&study("unequal", "30s"), PATIENCE).unwrap();
    scene.is_left_out_of("unequal");

    // An envelope that its holder cannot open.
    let key = forge::key_of(&scene.lab, LIAR);
    scene.hostile.on_message(move |site, message| match message {
        SiteMessage::Masked(mut masked) if site == LIAR => {
            let envelope: &mut Envelope = &mut masked.upload.envelopes[0];
            envelope.sealed[0] ^= 1;
            let (holder, hash) = (envelope.recipient, envelope.hash());
            Some(SiteMessage::Masked(with_receipt(&key, masked, |fields| {
                fields.envelopes[holder.position()] = hash;
            })))
        }
        other => Some(other),
    });
    scene.lab.launch_with_all(&study("sealed", "30s"), PATIENCE).unwrap();
    scene.is_left_out_of("sealed");

    // A share that is not the one that was dealt names its holder, and another is used.
    let key = forge::key_of(&scene.lab, LIAR);
    let before = scene.hostile.refused(LIAR).len();
    scene.hostile.on_message(move |site, message| match message {
        SiteMessage::Answer(answer) if site == LIAR => {
            let mut said = answer.claim().unwrap();
            said.dealers[0].shares[0].share[0] ^= 1;
            Some(SiteMessage::Answer(Signed::seal(&said, liar(), &key)))
        }
        other => Some(other),
    });
    scene.lab.launch_with_all(&study("shares", "30s"), PATIENCE).unwrap();
    scene.lab.released("shares", PATIENCE).unwrap();
    let refused = scene.hostile.refused(LIAR);
    let wrong = "the share that d gives back is not the one that site 1 dealt".to_owned();
    assert!(refused[before..].contains(&("refused".to_owned(), wrong)), "{refused:?}");
    let status = scene.lab.status("shares").unwrap();
    assert_eq!(status["lines"][0]["counted"], 4, "its vector is in the sum: {status}");
}

impl Scene {
    /// Every round ends without the liar and is not tried twice.
    fn is_left_out_of(&self, study: &str) {
        self.lab.released(study, PATIENCE + Duration::from_mins(1)).unwrap();
        let status = self.lab.status(study).unwrap();
        let line = &status["lines"][0];
        assert_eq!(line["missing"], serde_json::json!([LIAR]), "{status}");
        assert_eq!(line["counted"], 3, "{status}");
    }
}
