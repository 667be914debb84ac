//! Two stories about who is in one sum.

use consilium_rounds::message::{Directive, SiteMessage};
use consilium_secagg::alarm::{Alarm, Occasion};
use consilium_secagg::context::CtxHash;
use consilium_secagg::message::{Envelope, Survivors, SurvivorsSignature, UnmaskRequest};
use consilium_secagg::numbering::SiteIndex;
use consilium_study::sign::Signed;

use crate::members::{LIAR, with_receipt};
use crate::{Scene, forge, patient};

impl Scene {
    /// The survivors that the real coordinator names.
    pub(crate) fn survivors(&self, site: &str) -> (CtxHash, Survivors) {
        self.until("survivors are named", || {
            self.hostile.heard(site).into_iter().find_map(|directive| match directive {
                Directive::Survivors { ctx, survivors } => Some((ctx, survivors)),
                _ => None,
            })
        })
    }

    /// Waits for a site's signature on these survivors.
    pub(crate) fn signature(&self, site: &str, survivors: &Survivors) -> Signed<SurvivorsSignature> {
        self.until(&format!("{site} signs"), || {
            self.hostile.said(site).into_iter().find_map(|message| match message {
                SiteMessage::Signature(signed) if signed.claim().unwrap().survivors == survivors.hash() => {
                    Some(signed)
                }
                _ => None,
            })
        })
    }

    /// Whether a site has given any shares.
    pub(crate) fn answered(&self, site: &str) -> bool {
        self.hostile.said(site).iter().any(|message| matches!(message, SiteMessage::Answer(_)))
    }
}

/// Four sites who are told of the true survivors, and a real coordinator that hears no signature: so the attempt stays
/// open.
fn unheard_signatures() -> (Scene, CtxHash, Survivors) {
    let mut scene = Scene::new(4);
    scene.hostile.on_message(|_, message| match message {
        SiteMessage::Signature(_) => None,
        other => Some(other),
    });
    scene.launch(&patient(4));
    let (ctx, survivors) = scene.survivors("a");
    (scene, ctx, survivors)
}

/// The same survivors without the one at a position.
pub(crate) fn without(survivors: &Survivors, position: usize) -> Survivors {
    let mut members = survivors.members().to_vec();
    members.remove(position);
    Survivors::new(members).unwrap()
}

/// One site is told that everybody is in; the others, that it is not. Their signatures are real and are enough, so
/// with its shares for the second story the coordinator would have both kinds for one vector.
#[test]
fn a_second_set_of_survivors_is_an_alarm_also_after_a_crash_and_with_enough_signatures() {
    let mut scene = Scene::new(4);
    scene.hostile.on_directive(|site, directive| match directive {
        Directive::Survivors { .. } if site != "a" => vec![],
        other => vec![other],
    });
    // The real coordinator hears no signature, so the attempt stays open.
    scene.hostile.on_message(|_, message| match message {
        SiteMessage::Signature(_) => None,
        other => Some(other),
    });
    scene.launch(&patient(4));
    let (ctx, everybody) = scene.survivors("a");
    scene.signature("a", &everybody);
    let without_d = without(&everybody, 3);
    let without_a = without(&everybody, 0);
    let attempt = scene.context("a", 1).claim().unwrap().attempt;
    let alarm = |second: &Survivors| Alarm {
        occasion: Occasion::Survivors(attempt),
        first: everybody.hash(),
        second: second.hash(),
    };

    scene.hostile.tell("a", Directive::Survivors { ctx, survivors: without_d.clone() }).unwrap();
    scene.alarms("a", alarm(&without_d));
    scene.kill_and_start("a");

    let others = ["b", "c", "d"];
    for site in others {
        scene.hostile.tell(site, Directive::Survivors { ctx, survivors: without_a.clone() }).unwrap();
    }
    let signatures = others.map(|site| scene.signature(site, &without_a)).to_vec();
    let request = UnmaskRequest { ctx, survivors: without_a.clone(), signatures };
    for site in ["a", "b"] {
        scene.hostile.tell(site, Directive::Unmask(request.clone())).unwrap();
    }
    scene.alarms("a", alarm(&without_a));
    let refused = [&without_d, &without_a]
        .map(|second| format!("asked for a second time, and differently: {:?}", alarm(second)));
    assert_eq!(scene.refusals("a"), refused);
    // Nothing was wrong with the request but what the site had signed.
    scene.until("b answers", || scene.answered("b").then_some(()));
    assert!(!scene.answered("a"));
}

/// Signatures of too few, or of one site many times, open nothing.
#[test]
fn shares_are_given_for_enough_signatures_only() {
    let (scene, ctx, survivors) = unheard_signatures();
    let [a, b, c] = ["a", "b", "c"].map(|site| scene.signature(site, &survivors));
    let tell = |signatures| {
        let request = UnmaskRequest { ctx, survivors: survivors.clone(), signatures };
        scene.hostile.tell("a", Directive::Unmask(request)).unwrap();
    };
    tell(vec![a.clone(), b.clone()]);
    scene.refuses("a", "2 valid signatures of survivors, and 3 are needed");
    tell(vec![b.clone(), b.clone(), b.clone()]);
    scene.refuses("a", "1 valid signatures of survivors, and 3 are needed");
    assert!(!scene.answered("a"));
    tell(vec![a, b, c]);
    scene.until("a answers", || scene.answered("a").then_some(()));
}

/// A second receipt of a peer, and envelopes that are not those of the first.
#[test]
fn second_receipts_and_foreign_envelopes_are_refused() {
    let (scene, ctx, survivors) = unheard_signatures();
    scene.signature("a", &survivors);
    let masked = scene.awaits_masked(LIAR, 1);
    let first = masked.upload.receipt.claim().unwrap().hash();

    // One for somebody else, and one that is said to be another's.
    let for_b = masked.upload.envelopes[1].clone();
    let of_c = Envelope { sender: SiteIndex::new(3).unwrap(), ..masked.upload.envelopes[0].clone() };
    for (envelope, sender) in [(for_b, 4), (of_c, 3)] {
        let envelopes = vec![envelope];
        scene.hostile.tell("a", Directive::Envelopes { ctx, envelopes }).unwrap();
        let reason = format!("this envelope of site {sender} is not the one its receipt names");
        scene.refuses("a", &reason);
    }

    let key = forge::key_of(&scene.lab, LIAR);
    let lie = with_receipt(&key, masked, |fields| fields.chunks = fields.shares).upload.receipt;
    let second = lie.claim().unwrap().hash();
    scene.hostile.tell("a", Directive::Receipts { ctx, receipts: vec![lie] }).unwrap();
    let attempt = scene.context("a", 1).claim().unwrap().attempt;
    scene.alarms("a", Alarm { occasion: Occasion::Receipt(attempt), first, second });
}
