//! Two stories about who is in one sum.

use consilium_rounds::message::{Directive, SiteMessage};
use consilium_secagg::alarm::{Alarm, Occasion};
use consilium_secagg::context::CtxHash;
use consilium_secagg::message::{Survivors, SurvivorsSignature, UnmaskRequest};
use consilium_study::sign::Signed;

use crate::{Scene, patient};

impl Scene {
    /// The survivors that the real coordinator names.
    fn survivors(&self, site: &str) -> (CtxHash, Survivors) {
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
    let mut scene = Scene::new(4);
    scene.hostile.on_message(|_, message| match message {
        SiteMessage::Signature(_) => None,
        other => Some(other),
    });
    scene.launch(&patient(4));
    let (ctx, survivors) = scene.survivors("a");
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
