//! Sites that help nobody: what they send enters no sum, and the round goes on.

use consilium_rounds::message::{Directive, Masked, SiteMessage};
use consilium_secagg::message::{Receipt, ReceiptFields};
use consilium_study::name::Principal;
use consilium_study::sign::{Signed, SigningKey};
use consilium_tests::Study;
use serde_json::json;

use crate::{PATIENCE, Scene, forge, patient};

/// The site that lies.
pub(crate) const LIAR: &str = "d";

fn liar() -> Principal {
    Principal::Site(LIAR.parse().unwrap())
}

fn study(collect_timeout: &'static str) -> Study {
    Study { rounds: 1, required: vec![], collect_timeout, ..patient(4) }
}

/// The same announcement with another receipt, which the liar signs.
pub(crate) fn with_receipt(
    key: &SigningKey,
    mut masked: Masked,
    change: impl FnOnce(&mut ReceiptFields),
) -> Masked {
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
    scene.lab.launch_with_all(&study("25s"), PATIENCE).unwrap();
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
    assert_eq!(status["lines"][0]["missing"], json!([LIAR]), "{status}");
    assert_eq!(status["lines"][0]["counted"], 3);
}

/// Commitments that differ from those of two peers: of the pairs that do not fit it is in most.
#[test]
fn unequal_pair_commitments_cost_the_liar_its_place_and_nobody_else() {
    let mut scene = Scene::new(4);
    scene.lies_in_its_announcement(|key, masked| {
        with_receipt(key, masked, |fields| {
            let other = fields.chunks;
            fields.pair_commitments[..2].fill(other);
        })
    });
    scene.is_left_out();
}

/// An envelope that its holder cannot open, although it is the one that the receipt names.
#[test]
fn an_envelope_that_does_not_open_costs_its_dealer_its_place() {
    let mut scene = Scene::new(4);
    scene.lies_in_its_announcement(|key, mut masked| {
        let envelope = &mut masked.upload.envelopes[0];
        envelope.sealed[0] ^= 1;
        let (holder, hash) = (envelope.recipient, envelope.hash());
        with_receipt(key, masked, |fields| fields.envelopes[holder.position()] = hash)
    });
    scene.is_left_out();
}

/// A share that is not the one that was dealt names its holder, and another is used.
#[test]
fn a_wrong_share_names_its_holder_and_the_sum_is_opened_without_it() {
    let mut scene = Scene::new(4);
    let key = forge::key_of(&scene.lab, LIAR);
    scene.hostile.on_message(move |site, message| match message {
        SiteMessage::Answer(answer) if site == LIAR => {
            let mut said = answer.claim().unwrap();
            said.dealers[0].shares[0].share[0] ^= 1;
            Some(SiteMessage::Answer(Signed::seal(&said, liar(), &key)))
        }
        other => Some(other),
    });
    // Without the answer of one more site the liar's is needed.
    scene.hostile.on_directive(|site, directive| match directive {
        Directive::Unmask(_) if site == "a" => vec![],
        other => vec![other],
    });
    scene.lab.start_agents().unwrap();
    scene.lab.launch_with_all(&study("30s"), PATIENCE).unwrap();
    let refused = scene.until("the share is refused", || scene.hostile.refused(LIAR).first().cloned());
    let wrong = "the share that d gives back is not the one that site 1 dealt";
    assert_eq!(refused, ("refused".to_owned(), wrong.to_owned()));
    scene.hostile.on_directive(|_, directive| vec![directive]);
    scene.kill_and_start("a");
    scene.lab.released("lungs", PATIENCE).unwrap();
    let status = scene.lab.status("lungs").unwrap();
    assert_eq!(status["lines"][0]["counted"], 4, "its vector is in the sum: {status}");
}

impl Scene {
    /// The liar announces something else than its machine does.
    fn lies_in_its_announcement(&self, lie: impl Fn(&SigningKey, Masked) -> Masked + Send + 'static) {
        let key = forge::key_of(&self.lab, LIAR);
        self.hostile.on_message(move |site, message| match message {
            SiteMessage::Masked(masked) if site == LIAR => Some(SiteMessage::Masked(lie(&key, masked))),
            other => Some(other),
        });
    }

    /// Every round ends without the liar, and none is tried twice.
    fn is_left_out(&mut self) {
        self.lab.start_agents().unwrap();
        self.lab.launch_with_all(&study("30s"), PATIENCE).unwrap();
        self.lab.released("lungs", PATIENCE).unwrap();
        let status = self.lab.status("lungs").unwrap();
        let line = &status["lines"][0];
        assert_eq!((&line["missing"], &line["counted"]), (&json!([LIAR]), &json!(3)), "{status}");
        assert!(!status["lines"].as_array().unwrap().iter().any(|line| line["state"] == "abandoned"));
    }
}
