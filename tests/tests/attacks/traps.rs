//! A starting model that makes single cases show in the update, shown to everybody.

use consilium_rounds::message::{Directive, SiteMessage};
use consilium_rounds::reason::Decline;
use consilium_secagg::numbering::Attempt;

use crate::{Scene, forge, number, patient};

#[test]
fn a_trap_model_is_declined_by_every_site_by_its_own_check() {
    let mut scene = Scene::new(3);
    // Nobody hears of the second round but from the test, nor does the real coordinator hear of what becomes of it.
    scene.hostile.on_directive(|_, directive| match directive {
        Directive::Begin { context } if number(&context) > 2 => vec![],
        other => vec![other],
    });
    scene.hostile.on_message(|_, message| match message {
        SiteMessage::Declined { .. } => None,
        other => Some(other),
    });
    scene.launch(&patient(3));
    let honest = scene.context("a", 3);
    let mut trap = scene.model(honest.claim().unwrap().model);
    for (position, weight) in trap.model.iter_mut().enumerate() {
        *weight = if position % 2 == 0 { 1e4 } else { -1e4 };
    }
    let model = scene.hostile.serve(trap.to_bytes());
    let context = forge::context(&scene.hostile, &honest, |fields| fields.model = model);
    for site in ["a", "b", "c"] {
        scene.hostile.tell(site, Directive::Begin { context: context.clone() }).unwrap();
    }
    for site in ["a", "b", "c"] {
        let declined = scene.until("the trap is declined", || {
            scene.hostile.said(site).into_iter().find_map(|message| match message {
                SiteMessage::Declined { attempt, reason, .. } => Some((attempt.map(Attempt::get), reason)),
                _ => None,
            })
        });
        assert_eq!(declined, (Some(3), Decline::Model));
        let noted = scene.refusals(site);
        assert_eq!(noted.len(), 1, "{noted:?}");
        assert!(noted[0].starts_with("declines a starting model that no honest sum leads to: it is "));
        assert!(scene.masked(site, 3).is_empty());
    }
    // From the true model they train.
    let again = forge::context(&scene.hostile, &honest, |fields| fields.attempt = Attempt::new(5).unwrap());
    scene.hostile.on_message(|_, _| None);
    scene.hostile.tell("a", Directive::Begin { context: again }).unwrap();
    scene.awaits_masked("a", 5);
}
