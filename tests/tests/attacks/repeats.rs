//! A sum that was opened, and is to be opened again without the victim.

use consilium_rounds::message::{Directive, Settled, SettledAs, SiteMessage};
use consilium_rounds::reason::{Abandonment, Decline};
use consilium_secagg::alarm::{Alarm, Occasion};
use consilium_secagg::context::{Context, ContextFields};
use consilium_secagg::message::{Survivor, Survivors};
use consilium_secagg::numbering::Attempt;
use consilium_secagg::threshold::Thresholds;
use consilium_study::hash::Hash;
use consilium_study::sign::Signed;

use crate::survivors::without;
use crate::{Scene, forge, number, patient};

/// All but the victim, whose vector would be the difference of two sums.
const OTHERS: [&str; 3] = ["a", "b", "c"];

impl Scene {
    /// So many sums were opened, with everybody, and nobody was told of the end of the last. From now on nobody hears
    /// the real coordinator, nor it them. Returns the context of the last.
    fn opened(&mut self, sums: u32) -> Signed<Context> {
        let mut last = None;
        self.hostile.on_directive(move |site, directive| {
            if let Directive::Begin { context } = &directive
                && number(context) == sums
            {
                last = Some(context.claim().unwrap().hash());
            }
            match directive {
                Directive::Settled(settled) if settled.attempt.get() >= sums => vec![],
                Directive::Begin { context } if number(&context) > sums => vec![],
                // Three signatures open the sum, and without c there are two until the others have signed.
                Directive::Survivors { ctx, .. } if last == Some(ctx) && (site == "c" || site == "d") => {
                    vec![]
                }
                other => vec![other],
            }
        });
        self.launch(&patient(4));
        let ctx = self.context("c", sums).claim().unwrap().hash();
        let survivors = self.until("survivors are named", || {
            self.hostile.heard("c").into_iter().find_map(|directive| match directive {
                Directive::Survivors { ctx: named, survivors } if named == ctx => Some(survivors),
                _ => None,
            })
        });
        for site in ["a", "b"] {
            self.signature(site, &survivors);
        }
        self.hostile.tell("c", Directive::Survivors { ctx, survivors }).unwrap();
        self.context("a", sums + 1);
        self.hostile.on_directive(|_, _| vec![]);
        self.hostile.on_message(|_, _| None);
        self.context("a", sums)
    }

    /// What a retry of the first attempt says.
    fn retry(
        &self,
        first: &Signed<Context>,
        attempt: u32,
        change: impl FnOnce(&mut ContextFields),
    ) -> Signed<Context> {
        forge::context(&self.hostile, first, |fields| {
            fields.attempt = Attempt::new(attempt).unwrap();
            change(fields);
        })
    }
}

fn without_the_victim(fields: &mut ContextFields) {
    fields.selection = forge::without(&fields.selection, &["d"]);
    fields.thresholds = Thresholds::new(4, 3, 0).unwrap();
}

#[test]
fn a_round_that_was_opened_and_called_abandoned_is_not_opened_again_without_the_victim() {
    let mut scene = Scene::new(4);
    let first = scene.opened(1);
    let claimed = first.claim().unwrap();
    let settled = Settled {
        attempt: claimed.attempt,
        ctx: claimed.hash(),
        outcome: SettledAs::Abandoned(Abandonment::BelowQuorum),
        model: claimed.model,
        candidate: None,
    };
    let smaller = scene.retry(&first, 2, without_the_victim);
    for site in OTHERS {
        scene.hostile.tell(site, Directive::Settled(settled.clone())).unwrap();
        scene.hostile.tell(site, Directive::Begin { context: smaller.clone() }).unwrap();
        scene.refuses(site, "this model was opened with other survivors");
        assert!(!scene.took_part(site, 2));
        scene.until("the site says that it is for the repeat rule", || {
            let repeats = |message| matches!(message, SiteMessage::Declined { reason: Decline::Repeat, .. });
            scene.hostile.said(site).into_iter().any(repeats).then_some(())
        });
    }

    // With everybody selected they take part, for nobody may be missing; whoever is called missing costs the signatures.
    let again = scene.retry(&first, 3, |_| {});
    let sites = ["a", "b", "c", "d"];
    for site in sites {
        scene.hostile.tell(site, Directive::Begin { context: again.clone() }).unwrap();
    }
    let receipts = sites.map(|site| scene.awaits_masked(site, 3).upload.receipt).to_vec();
    let ctx = again.claim().unwrap().hash();
    let named = receipts.iter().map(|receipt| receipt.claim().unwrap());
    let everybody = Survivors::new(
        named.map(|receipt| Survivor { site: receipt.sender, receipt: receipt.hash() }).collect(),
    );
    let everybody = everybody.unwrap();
    let three = without(&everybody, 3);
    for site in OTHERS {
        scene.hostile.tell(site, Directive::Receipts { ctx, receipts: receipts.clone() }).unwrap();
        scene.hostile.tell(site, Directive::Survivors { ctx, survivors: three.clone() }).unwrap();
        scene.refuses(
            site,
            "the terms of survivor 1 are not met: this starting model was opened with other survivors",
        );
    }
    // The same sum again is nothing new to anybody.
    for site in OTHERS {
        scene.hostile.tell(site, Directive::Survivors { ctx, survivors: everybody.clone() }).unwrap();
        scene.signature(site, &everybody);
    }
}

/// The same numbers in another file, so that the book of opened models does not know it.
#[test]
fn a_twin_of_the_model_does_not_get_around_the_repeat_rule() {
    let mut scene = Scene::new(4);
    let evaluation = scene.opened(2);
    for number in 0..2_u8 {
        let twin = Hash::of_bytes(&[number]);
        let smaller = scene.retry(&evaluation, 3, |fields| {
            without_the_victim(fields);
            fields.model = twin;
        });
        scene.hostile.tell("a", Directive::Begin { context: smaller }).unwrap();
        let occasion = Occasion::Model(Attempt::new(3).unwrap());
        scene.alarms("a", Alarm { occasion, first: evaluation.claim().unwrap().model, second: twin });
        assert!(!scene.took_part("a", 3));
        scene.kill_and_start("a");
    }
}
