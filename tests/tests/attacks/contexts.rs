//! Contexts that lie, and second contexts.

use std::collections::BTreeSet;

use consilium_rounds::message::{Directive, Settled, SettledAs, SiteMessage};
use consilium_rounds::reason::{Abandonment, Decline};
use consilium_secagg::alarm::{Alarm, Occasion};
use consilium_secagg::context::{Context, ContextFields, Purpose, Selection};
use consilium_secagg::numbering::{Attempt, Epoch};
use consilium_secagg::threshold::Thresholds;
use consilium_site_agent::journal::Event;
use consilium_study::hash::Hash;
use consilium_study::name::Principal;
use consilium_study::sign::{Signed, SigningKey};
use consilium_tests::Study;

use crate::{Scene, forge, number, patient};

/// Of five sites in the roster one may be corrupt, three honest ones stand behind a sum, so four take part at least.
#[test]
fn a_selection_around_a_victim_and_every_other_lie_in_a_context_is_refused() {
    let mut scene = Scene::new(5);
    // The victim does not hear of the true attempt, which waits for it.
    scene.hostile.on_directive(|site, directive| match directive {
        Directive::Begin { .. } if site == "a" => vec![],
        other => vec![other],
    });
    // Nor does that hear that the victim refuses, and so go on without it.
    scene.hostile.on_message(|_, message| match message {
        SiteMessage::Declined { .. } => None,
        other => Some(other),
    });
    scene.launch(&patient(5));
    let honest = scene.context("a", 1);
    let forged = |change: &dyn Fn(&mut ContextFields)| forge::context(&scene.hostile, &honest, change);
    let among_friends = |fields: &mut ContextFields| {
        fields.selection = forge::without(&fields.selection, &["d", "e"]);
    };
    let stated = honest.claim().unwrap().thresholds;
    let nobody = SigningKey::generate();
    let lies = [
        (
            forged(&|fields| {
                among_friends(fields);
                fields.thresholds = Thresholds { selected: 3, threshold: 3, ..stated };
            }),
            "4 sites would have to agree, and only 3 are selected",
            Decline::Thresholds,
        ),
        (
            forged(&|fields| {
                among_friends(fields);
                fields.thresholds = Thresholds::new(3, 3, 0).unwrap();
            }),
            "it counts another number of sites in the roster",
            Decline::Roster,
        ),
        (
            forged(&|fields| fields.thresholds = Thresholds { threshold: 2, ..stated }),
            "the thresholds are not those of the formula",
            Decline::Thresholds,
        ),
        (
            forged(&|fields| fields.selection = with_other(&fields.selection, "e", ("z", None))),
            "it selects a site that the study does not name",
            Decline::Context,
        ),
        (
            forged(&|fields| {
                let made = Hash::of_bytes(b"keys that are not e's");
                fields.selection = with_other(&fields.selection, "e", ("e", Some(made)));
            }),
            "the Selection names another advert of e",
            Decline::Epoch,
        ),
        (
            forged(&|fields| {
                fields.selection = forge::without(&fields.selection, &["a"]);
                fields.thresholds = Thresholds::new(5, 4, 0).unwrap();
            }),
            "this site is not in the Selection",
            Decline::NotSelected,
        ),
        (
            forged(&|fields| fields.model = Hash::of_bytes(b"a trap")),
            "its first round does not start from the study's model",
            Decline::Context,
        ),
        (
            forged(&|fields| fields.thresholds = Thresholds { honest: 2, threshold: 3, ..stated }),
            "the thresholds are not those of the formula",
            Decline::Thresholds,
        ),
        (forged(&|fields| fields.weight_cap /= 2), "its largest weight is not the study's", Decline::Context),
        (
            Signed::seal(&honest.claim().unwrap(), Principal::Coordinator, &nobody),
            "the context signature of coordinator does not match",
            Decline::Signature,
        ),
    ];
    for (context, reason, word) in lies {
        scene.hostile.tell("a", Directive::Begin { context }).unwrap();
        scene.refuses("a", reason);
        scene.until("a says so", || (scene.declined("a") == Some(word)).then_some(()));
    }
    assert!(!scene.took_part("a", 1));
    // The number was not used up: it is the lies that were refused.
    scene.hostile.tell("a", Directive::Begin { context: honest }).unwrap();
    scene.awaits_masked("a", 1);
}

/// The Selection with another name or advert in place of one.
fn with_other(selection: &Selection, instead_of: &str, (site, advert): (&str, Option<Hash>)) -> Selection {
    let members = selection.members().iter().map(|member| {
        if member.site.as_str() == instead_of {
            (site.parse().unwrap(), advert.unwrap_or(member.advert))
        } else {
            (member.site.clone(), member.advert)
        }
    });
    Selection::new(members).unwrap()
}

/// Two contexts for one attempt are a two-time pad, were the second accepted; so is a vector that is masked anew after
/// a crash.
#[test]
fn a_second_context_for_an_attempt_is_an_alarm_and_sealed_bytes_never_change() {
    let mut scene = Scene::new(3);
    // The attempt stays open: no vector reaches the real coordinator, which gives up after a while, unheard.
    scene.hostile.on_message(|_, message| match message {
        SiteMessage::Masked(_) => None,
        other => Some(other),
    });
    scene.hostile.on_directive(only_attempt_1);
    scene.launch(&Study { collect_timeout: "15s", ..patient(3) });
    let honest = scene.context("a", 1);
    let masked = scene.awaits_masked("a", 1);
    let vector = scene.hostile.upload("a", 1).unwrap();
    let second = |change: &dyn Fn(&mut ContextFields)| forge::context(&scene.hostile, &honest, change);
    let for_counts = second(&|fields| fields.purpose = Purpose::Statistics);
    let for_a_twin = second(&|fields| fields.model = Hash::of_bytes(b"another model"));
    let alarm = |context: &Signed<Context>| Alarm {
        occasion: Occasion::Context(honest.claim().unwrap().attempt),
        first: hash(&honest),
        second: hash(context),
    };
    let alarms = [alarm(&for_counts), alarm(&for_a_twin)];

    scene.hostile.tell("a", Directive::Begin { context: for_counts }).unwrap();
    scene.alarms("a", alarms[0]);
    scene.kill_and_start("a");
    scene.hostile.tell("a", Directive::Begin { context: for_a_twin }).unwrap();
    scene.alarms("a", alarms[1]);
    let reasons = alarms.map(|alarm| format!("asked for a second time, and differently: {alarm:?}"));
    assert_eq!(scene.refusals("a"), reasons);

    // What was sealed before the crash is what is sent after it.
    let said = scene.until("a announces again", || {
        let said = scene.masked("a", 1);
        (said.len() > 1).then_some(said)
    });
    assert!(said.iter().all(|again| *again == masked));
    assert_eq!(scene.hostile.upload("a", 1), Some(vector));

    // Peers carry it: the next receipt repeats both.
    scene.hostile.on_directive(|_, directive| vec![directive]);
    scene.kill_and_start("a");
    let next = scene.until("a masks in the next attempt", || {
        let later = scene.hostile.said("a").into_iter().rev().find_map(|message| match message {
            SiteMessage::Masked(masked) if masked.attempt.get() > 1 => Some(masked),
            _ => None,
        });
        later.map(|masked| masked.upload.receipt.claim().unwrap())
    });
    assert_eq!(next.alarms, alarms);
    // And the real coordinator's ledger shows them to everybody.
    let told = scene.lab.consilium(&["audit", "verify", scene.lab.path().to_str().unwrap()]).unwrap();
    let lines: BTreeSet<_> = told.lines().filter(|line| line.contains("ALARM")).collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(lines.iter().all(|line| line.contains(", a: two contexts for attempt 1")), "{told}");
}

/// Nothing is heard of how the first attempt ended, nor of a second.
fn only_attempt_1(_: &str, directive: Directive) -> Vec<Directive> {
    match directive {
        Directive::Settled(_) => vec![],
        Directive::Begin { context } if number(&context) > 1 => vec![],
        other => vec![other],
    }
}

/// What is over stays over: contexts of an earlier attempt start nothing, nor does one of another epoch.
#[test]
fn contexts_of_old_attempts_and_of_other_epochs_start_nothing() {
    let mut scene = Scene::new(3);
    // The third attempt trains for the second round; the fourth never begins.
    scene.hostile.on_directive(|_, directive| match directive {
        Directive::Begin { context } if number(&context) > 3 => vec![],
        other => vec![other],
    });
    scene.launch(&patient(3));
    let first = scene.context("a", 1);
    let third = scene.context("a", 3);
    scene.awaits_masked("a", 3);
    let before = scene.masked("a", 1).len();
    let other_model =
        forge::context(&scene.hostile, &first, |fields| fields.model = third.claim().unwrap().model);
    let of_next_epoch = forge::context(&scene.hostile, &third, |fields| {
        fields.attempt = Attempt::new(9).unwrap();
        fields.epoch = Epoch::new(2).unwrap();
    });
    for context in [&first, &other_model, &of_next_epoch] {
        scene.hostile.tell("a", Directive::Begin { context: context.clone() }).unwrap();
    }
    // Directives keep their order, so the others were looked at before.
    scene.refuses("a", "epoch 2 is over, or begins too early");
    assert_eq!(scene.masked("a", 1).len(), before, "the first attempt is not taken up again");
    assert!(!scene.took_part("a", 9));
    assert_eq!(scene.passed_over("a"), [&first, &other_model].map(|context| (1, hash(context))));
}

/// The coordinator does not sign that an attempt is over, so a site does not rely on it.
#[test]
fn a_second_context_after_an_attempt_was_reported_over_is_an_alarm_all_the_same() {
    let mut scene = Scene::new(3);
    // No vector reaches the real coordinator, so that the attempt stays open.
    scene.hostile.on_message(|_, message| match message {
        SiteMessage::Masked(_) => None,
        other => Some(other),
    });
    scene.hostile.on_directive(only_attempt_1);
    scene.launch(&patient(3));
    let honest = scene.context("a", 1);
    scene.awaits_masked("a", 1);
    let claimed = honest.claim().unwrap();
    let over = Settled {
        attempt: Attempt::new(5).unwrap(),
        ctx: claimed.hash(),
        outcome: SettledAs::Abandoned(Abandonment::BelowQuorum),
        model: claimed.model,
        candidate: None,
    };
    scene.hostile.tell("a", Directive::Settled(over)).unwrap();
    scene.kill_and_start("a");
    let for_a_twin =
        forge::context(&scene.hostile, &honest, |fields| fields.model = Hash::of_bytes(b"another model"));
    let unheard = forge::context(&scene.hostile, &honest, |fields| fields.attempt = Attempt::new(4).unwrap());
    for context in [&for_a_twin, &unheard, &for_a_twin, &unheard] {
        scene.hostile.tell("a", Directive::Begin { context: context.clone() }).unwrap();
    }
    let alarm = Alarm {
        occasion: Occasion::Context(claimed.attempt),
        first: hash(&honest),
        second: hash(&for_a_twin),
    };
    scene.alarms("a", alarm);
    scene.until("a passes the other over", || (!scene.passed_over("a").is_empty()).then_some(()));
    assert!(!scene.took_part("a", 4));
    assert_eq!(scene.passed_over("a"), [(4, hash(&unheard))]);
    assert_eq!(scene.refusals("a"), [format!("asked for a second time, and differently: {alarm:?}")]);
}

impl Scene {
    /// The contexts that a site wrote down to have done nothing about, with the attempts they are of.
    fn passed_over(&self, site: &str) -> Vec<(u32, Hash)> {
        let passed_over = |event| match event {
            Event::ContextPassedOver { attempt, context, .. } => Some((attempt, context)),
            _ => None,
        };
        self.journal(site).into_iter().filter_map(passed_over).collect()
    }

    /// The last reason by which a site declined something.
    fn declined(&self, site: &str) -> Option<Decline> {
        self.hostile.said(site).into_iter().rev().find_map(|message| match message {
            SiteMessage::Declined { reason, .. } => Some(reason),
            _ => None,
        })
    }
}

fn hash(context: &Signed<Context>) -> Hash {
    *context.claim().unwrap().hash().hash()
}
