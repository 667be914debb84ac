//! What one strict site asks of a sum is enforced by all who sign for it.

use consilium_rounds::message::{Directive, SiteMessage};
use consilium_rounds::reason::Decline;
use consilium_secagg::context::CtxHash;
use consilium_secagg::message::{Receipt, Survivor, Survivors};
use consilium_secagg::numbering::{Attempt, RoundNumber, SiteIndex};
use consilium_secagg::threshold::Thresholds;
use consilium_study::sign::Signed;

use crate::members::{LIAR, with_receipt};
use crate::survivors::without;
use crate::{Scene, forge, number, patient};

impl Scene {
    /// The real coordinator names survivors to nobody, and hears neither signatures nor refusals.
    fn names_no_survivors(&self) {
        self.hostile.on_directive(|_, directive| match directive {
            Directive::Survivors { .. } => vec![],
            other => vec![other],
        });
        self.hostile.on_message(|_, message| match message {
            SiteMessage::Signature(_) | SiteMessage::Declined { .. } => None,
            other => Some(other),
        });
    }

    /// Each of these sites is asked to sign for survivors, and refuses for this reason.
    fn none_signs(&self, sites: &[&str], (ctx, survivors): (CtxHash, &Survivors), reason: &str) {
        for site in sites {
            self.hostile.tell(site, Directive::Survivors { ctx, survivors: survivors.clone() }).unwrap();
            self.refuses(site, reason);
        }
    }
}

/// Three of four are enough for the protocol, and not for `c`.
#[test]
fn the_least_number_of_sites_of_one_binds_every_signer() {
    let mut scene = Scene::new(4);
    scene.lab.add_policy("c", "min_selection = 4").unwrap();
    scene.names_no_survivors();
    scene.launch(&patient(4));
    let (ctx, everybody) = scene.survivors("a");
    let three = without(&everybody, 3);
    let reason = "the terms of survivor 3 are not met: too few sites survived";
    scene.none_signs(&["a", "b", "c"], (ctx, &three), reason);
    scene.kill_and_start("a");
    scene.hostile.tell("a", Directive::Survivors { ctx, survivors: three }).unwrap();
    scene.until("a refuses after a crash, too", || {
        let terms = |message: &_| matches!(message, SiteMessage::Declined { reason: Decline::Terms, .. });
        (scene.hostile.said("a").iter().filter(|message| terms(message)).count() == 2).then_some(())
    });
    for site in ["a", "b", "c", "d"] {
        scene.hostile.tell(site, Directive::Survivors { ctx, survivors: everybody.clone() }).unwrap();
        scene.signature(site, &everybody);
    }
}

/// A site with a higher floor is not in a sum with a lower one; did it sign a receipt for one, nobody else would.
#[test]
fn the_least_number_of_honest_sites_of_one_binds_every_signer() {
    let mut scene = Scene::new(4);
    scene.lab.add_policy("c", "min_honest = 3").unwrap();
    // Nobody hears of the true attempts, and c never of what LIAR truly signed.
    scene.hostile.on_directive(|_, directive| match directive {
        Directive::Begin { .. } => vec![],
        other => vec![other],
    });
    scene.hostile.on_message(|_, message| match message {
        SiteMessage::Declined { .. } | SiteMessage::Masked(_) => None,
        other => Some(other),
    });
    scene.launch(&patient(4));
    let honest = scene.context("a", 1);
    assert_eq!(honest.claim().unwrap().thresholds.honest, 3, "the true context asks for what c asks for");
    let lower = forge::context(&scene.hostile, &honest, |fields| {
        fields.thresholds = Thresholds::new(4, 4, 2).unwrap();
    });
    for site in ["a", "b", "c", "d"] {
        scene.hostile.tell(site, Directive::Begin { context: lower.clone() }).unwrap();
    }
    scene.refuses("c", "policy.min_honest demands 3 honest sites, the context 2");
    scene.until("c says so", || {
        let thresholds =
            |message| matches!(message, SiteMessage::Declined { reason: Decline::Thresholds, .. });
        scene.hostile.said("c").into_iter().any(thresholds).then_some(())
    });

    let ctx = lower.claim().unwrap().hash();
    let key = forge::key_of(&scene.lab, LIAR);
    let masked = ["a", "b", LIAR].map(|site| scene.awaits_masked(site, 1));
    let [a, b, liar] = masked;
    let strict = with_receipt(&key, liar, |fields| fields.terms.min_honest = 3);
    let receipts = [a.upload.receipt, b.upload.receipt, strict.upload.receipt];
    let survivors = named(&receipts);
    for site in ["a", "b"] {
        scene.hostile.tell(site, Directive::Receipts { ctx, receipts: receipts.to_vec() }).unwrap();
    }
    let reason = "the terms of survivor 4 are not met: too few honest sites stand behind the sum";
    scene.none_signs(&["a", "b"], (ctx, &survivors), reason);
    assert!(!scene.took_part("c", 1));
}

/// The survivors of some receipts.
fn named(receipts: &[Signed<Receipt>]) -> Survivors {
    let of = receipts.iter().map(|receipt| receipt.claim().unwrap());
    Survivors::new(of.map(|receipt| Survivor { site: receipt.sender, receipt: receipt.hash() }).collect())
        .unwrap()
}

/// Of seven sites all are in the first sum and five in the second. Six in the third differ much from the second, and by
/// one from the first, so that the figures of that one could be told.
#[test]
fn an_interposed_sum_does_not_evade_the_least_change_that_one_site_asks_for() {
    let mut scene = Scene::new(7);
    scene.lab.add_policy("a", "min_change = 2").unwrap();
    let mut second = None;
    scene.hostile.on_directive(move |_, directive| {
        if let Directive::Begin { context } = &directive
            && number(context) == 2
        {
            second = Some(context.claim().unwrap().hash());
        }
        match directive {
            Directive::Begin { context } if number(&context) > 2 => vec![],
            Directive::Survivors { ctx, .. } if second == Some(ctx) => vec![],
            other => vec![other],
        }
    });
    scene.launch(&patient(7));
    let first = scene.context("a", 1);
    let evaluation = scene.context("a", 2).claim().unwrap();
    let ctx = evaluation.hash();
    let everybody = scene.until("survivors are named", || {
        scene.hostile.heard("a").into_iter().find_map(|directive| match directive {
            Directive::Survivors { ctx: of, survivors } if of == ctx => Some(survivors),
            _ => None,
        })
    });
    // From here on the real coordinator hears of nothing.
    scene.hostile.on_message(|_, _| None);
    let interposed = without(&without(&everybody, 6), 5);
    for site in ["a", "b", "c", "d", "e"] {
        scene.hostile.tell(site, Directive::Survivors { ctx, survivors: interposed.clone() }).unwrap();
        scene.signature(site, &interposed);
    }
    scene.kill_and_start("a");

    let third = forge::context(&scene.hostile, &first, |fields| {
        fields.attempt = Attempt::new(3).unwrap();
        fields.round = RoundNumber::new(2).unwrap();
        fields.model = evaluation.model;
    });
    let sites = ["a", "b", "c", "d", "e", "f", "g"];
    for site in sites {
        scene.hostile.tell(site, Directive::Begin { context: third.clone() }).unwrap();
    }
    let receipts = sites.map(|site| scene.awaits_masked(site, 3).upload.receipt);
    let ctx = third.claim().unwrap().hash();
    for site in sites {
        scene.hostile.tell(site, Directive::Receipts { ctx, receipts: receipts.to_vec() }).unwrap();
    }
    let all = named(&receipts);
    let without_e = without(&all, 4);
    assert!(!without_e.contains(SiteIndex::new(5).unwrap()));
    let reason = "the terms of survivor 1 are not met: the survivors differ too little from earlier ones";
    scene.none_signs(&["a", "b", "c", "d", "f", "g"], (ctx, &without_e), reason);
    // As in the first sum, or as far from it as the second.
    for site in sites {
        scene.hostile.tell(site, Directive::Survivors { ctx, survivors: all.clone() }).unwrap();
        scene.signature(site, &all);
    }
}
