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

/// What the liar's vector becomes on its way, beside another site's.
type Lie = fn(&mut Vec<u8>, &[u8]);

/// None of these cost it its place: what is right in the end is counted.
#[test]
fn foreign_flipped_and_cut_vectors_are_refused_until_the_right_one_comes() {
    let wrong = ("chunk", "chunk 0 is not the one that the receipt names");
    let lies: [(Lie, _); 5] = [
        (|own, _| own[7] ^= 1, wrong),
        (|own, _| own.truncate(own.len() / 2), wrong),
        (|own, _| own.swap(0, 4), wrong),
        (|own, _| own.extend([0; 4]), ("too_long", "the vector has 544 bytes")),
        (|own, foreign| foreign.clone_into(own), wrong),
    ];
    let mut scene = Scene::new(4);
    scene.lab.start_agents().unwrap();
    scene.sends_instead(|own| own.fill(0));
    scene.lab.launch_with_all(&study("10m"), PATIENCE).unwrap();
    let of_a = scene.until("the vector of another", || scene.hostile.upload("a", 1));
    for (lie, answer) in lies {
        // It would try again by itself, later.
        scene.lab.kill_agent(LIAR).unwrap();
        let foreign = of_a.clone();
        scene.sends_instead(move |own| lie(own, &foreign));
        let before = scene.hostile.refused(LIAR).len();
        scene.lab.start_agent(LIAR, &[]).unwrap();
        let refused = || scene.hostile.refused(LIAR).get(before).cloned();
        let (code, reason) = scene.until("the vector is refused", refused);
        assert_eq!((code.as_str(), reason.as_str()), answer);
    }
    scene.sends_instead(|_| ());
    scene.kill_and_start(LIAR);
    scene.lab.released("lungs", PATIENCE).unwrap();
    assert_eq!(scene.lab.status("lungs").unwrap()["lines"][0]["counted"], 4);
}

/// The round goes on without a site whose vector never comes right.
#[test]
fn a_vector_that_is_never_right_is_left_out() {
    let mut scene = Scene::new(4);
    scene.lab.start_agents().unwrap();
    scene.sends_instead(|own| own.fill(0));
    scene.lab.launch_with_all(&study("15s"), PATIENCE).unwrap();
    scene.lab.released("lungs", PATIENCE).unwrap();
    assert!(!scene.hostile.refused(LIAR).is_empty());
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
    /// The liar sends something else than its machine does.
    fn sends_instead(&self, lie: impl Fn(&mut Vec<u8>) + Send + 'static) {
        self.hostile.on_upload(move |site, _, mut bytes| {
            if site == LIAR {
                lie(&mut bytes);
            }
            bytes
        });
    }

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
