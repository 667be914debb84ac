//! Three stories about who is in one sum: the smallest attack that the consistency trip stops.
//!
//! `v`, `p` and `q` are honest and `m` helps. `p` is told that everybody is in, `q` that `v` is out, `v` that `p` is out.
//! Did each answer for its own story, the shares of `v`, `p` and `m` would open the self mask of `v`, and `v`, `q` and `m`
//! its pair seeds. That it works where the check is off is for the machines' own `split_view.rs`.

use consilium_rounds::message::{Directive, SiteMessage};
use consilium_secagg::alarm::{Alarm, Occasion};
use consilium_secagg::message::{Survivors, SurvivorsSignature, UnmaskRequest};
use consilium_study::name::Principal;
use consilium_study::sign::Signed;

use crate::survivors::without;
use crate::{Scene, forge, patient};

const V: &str = "a";
const P: &str = "b";
const Q: &str = "c";
const M: &str = "d";

#[test]
fn nobody_answers_where_each_is_told_another_story() {
    let mut scene = Scene::new(4);
    scene.hostile.on_directive(|_, directive| match directive {
        Directive::Survivors { .. } => vec![],
        other => vec![other],
    });
    // The real coordinator hears nothing of this, so the attempt stays open.
    scene.hostile.on_message(|_, message| match message {
        SiteMessage::Signature(_) | SiteMessage::Declined { .. } => None,
        other => Some(other),
    });
    scene.launch(&patient(4));
    let (ctx, everybody) = scene.survivors(V);
    let stories = [(V, without(&everybody, 1)), (P, everybody.clone()), (Q, without(&everybody, 0))];
    let helper = forge::key_of(&scene.lab, M);
    let mut signatures = Vec::new();
    for (site, story) in &stories {
        scene.hostile.tell(site, Directive::Survivors { ctx, survivors: story.clone() }).unwrap();
        signatures.push(scene.signature(site, story));
        let statement = SurvivorsSignature { ctx, survivors: story.hash() };
        signatures.push(Signed::seal(&statement, Principal::Site(M.parse().unwrap()), &helper));
    }

    // Whatever was signed is shown to everybody, twice; of each story there are two.
    signatures.extend(signatures.clone());
    let two_of_three = "2 valid signatures of survivors, and 3 are needed";
    let request =
        |story: &Survivors| UnmaskRequest { ctx, survivors: story.clone(), signatures: signatures.clone() };
    for (site, story) in &stories {
        scene.hostile.tell(site, Directive::Unmask(request(story))).unwrap();
        scene.refuses_again(site, two_of_three, 1);
    }
    // A crash makes nobody forget its story, nor take up another.
    let occasion = Occasion::Survivors(scene.context(V, 1).claim().unwrap().attempt);
    for (site, own) in &stories {
        scene.kill_and_start(site);
        for (_, other) in stories.iter().filter(|(_, other)| other != own) {
            scene.hostile.tell(site, Directive::Survivors { ctx, survivors: other.clone() }).unwrap();
            scene.alarms(site, Alarm { occasion, first: own.hash(), second: other.hash() });
            scene.hostile.tell(site, Directive::Unmask(request(other))).unwrap();
        }
        let again = UnmaskRequest { signatures: signatures[..6].to_vec(), ..request(own) };
        scene.hostile.tell(site, Directive::Unmask(again)).unwrap();
        scene.refuses_again(site, two_of_three, 2);
        assert_eq!(scene.refusals(site).len(), 4, "{:?}", scene.refusals(site));
    }
    assert!([V, P, Q].iter().all(|site| !scene.answered(site)));
}
