//! Keys that are not the peer's, rosters that are not the consortium's, and epochs that come again.

use consilium_identity::roster::SiteEntry;
use consilium_identity::{Roster, TlsKey};
use consilium_rounds::message::{Directive, SiteMessage};
use consilium_secagg::alarm::{Alarm, Occasion};
use consilium_secagg::message::{Advert, Confirmation, EpochOpening};
use consilium_secagg::numbering::{Attempt, Epoch};
use consilium_site_agent::journal::Event;
use consilium_study::canonical::Canonical as _;
use consilium_study::hash::Hash;
use consilium_study::name::Principal;
use consilium_study::sign::{Signed, SigningKey};

use crate::{Scene, forge, patient};

fn epoch(number: u32) -> Epoch {
    Epoch::new(number).unwrap()
}

/// An opening's hash, as alarms name it.
fn hash_of(opening: &EpochOpening) -> Hash {
    Hash::labelled("opening-hash", &opening.to_canonical())
}

impl Scene {
    /// With whom a site says to share keys in an epoch.
    fn settled(&self, site: &str, of: Epoch) -> Vec<String> {
        let settled = self.hostile.said(site).into_iter().rev().find_map(|message| match message {
            SiteMessage::PairsSettled { epoch, with } if epoch == of => Some(with),
            _ => None,
        });
        settled.unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    /// The tag that the real coordinator passes on from one site to another.
    fn tag(&self, from: &str, to: &str) -> Option<Signed<Confirmation>> {
        let tags = self.hostile.heard(to).into_iter().filter_map(|directive| match directive {
            Directive::Confirmations(list) => Some(list),
            _ => None,
        });
        tags.flatten().find(|tag| tag.claim().unwrap().from.as_str() == from)
    }

    fn opening(&self, site: &str) -> Signed<EpochOpening> {
        self.until("an epoch is opened", || {
            self.hostile.heard(site).into_iter().find_map(|directive| match directive {
                Directive::Opening(opening) => Some(opening),
                _ => None,
            })
        })
    }
}

#[test]
fn keys_that_are_not_the_peers_are_refused_and_written_down() {
    let mut scene = Scene::new(3);
    // The victim never hears b's true keys.
    scene.hostile.on_directive(|site, directive| match directive {
        Directive::Adverts(mut adverts) if site == "a" => {
            adverts.retain(|advert| advert.claim().unwrap().site.as_str() != "b");
            if adverts.is_empty() { vec![] } else { vec![Directive::Adverts(adverts)] }
        }
        other => vec![other],
    });
    scene.lab.start_agents().unwrap();
    scene.lab.launch(&patient(3)).unwrap();
    let true_one = scene.advert("b");
    let claimed = true_one.claim().unwrap();
    scene.until("a settles with c", || (scene.settled("a", epoch(1)) == ["c"]).then_some(()));
    let swapped = Advert { x25519: [9; 32].into(), ..claimed.clone() };
    let of = |site: &str| Principal::Site(site.parse().unwrap());
    let coordinators = &scene.hostile.identity().signing;
    let helper = forge::key_of(&scene.lab, "b");
    let stranger = Advert { site: "z".parse().unwrap(), ..claimed.clone() };
    let elsewhere = Advert { epoch: epoch(2), ..claimed.clone() };
    for (advert, reason) in [
        (Signed::seal(&swapped, of("b"), coordinators), "the advert signature of site/b does not match"),
        (
            Signed::seal(&swapped, Principal::Coordinator, coordinators),
            "signed by coordinator, but site/b must sign this",
        ),
        (
            Signed::seal(&stranger, of("z"), &SigningKey::generate()),
            "the advert signature of site/z does not match",
        ),
        (Signed::seal(&elsewhere, of("b"), &helper), "this statement belongs elsewhere"),
    ] {
        scene.hostile.tell("a", Directive::Adverts(vec![advert])).unwrap();
        scene.refuses("a", reason);
    }
    assert_eq!(scene.settled("a", epoch(1)), ["c"]);

    // The true keys are taken; then b helps the coordinator and signs others.
    scene.hostile.tell("a", Directive::Adverts(vec![true_one])).unwrap();
    scene.until("a settles with b", || (scene.settled("a", epoch(1)) == ["b", "c"]).then_some(()));
    let second = Signed::seal(&swapped, of("b"), &helper);
    scene.hostile.tell("a", Directive::Adverts(vec![second])).unwrap();
    let occasion = Occasion::Advert(epoch(1));
    scene.alarms("a", Alarm { occasion, first: claimed.hash(), second: swapped.hash() });
}

/// A pair whose ends do not have the same key is no pair; the tags beside a wrong one count.
#[test]
fn a_wrong_tag_settles_no_pair_and_hides_no_other() {
    let mut scene = Scene::new(3);
    scene.hostile.on_directive(|site, directive| match directive {
        Directive::Confirmations(_) if site == "a" => vec![],
        other => vec![other],
    });
    scene.lab.start_agents().unwrap();
    scene.lab.launch(&patient(3)).unwrap();
    let tag_of = |site: &str| scene.until("a is sent a tag", || scene.tag(site, "a"));
    let [of_b, of_c] = ["b", "c"].map(tag_of);
    let mut lie = of_b.claim().unwrap();
    lie.tag[0] ^= 1;
    let b = Principal::Site("b".parse().unwrap());
    let wrong = Signed::seal(&lie, b, &forge::key_of(&scene.lab, "b"));

    scene.hostile.tell("a", Directive::Confirmations(vec![wrong.clone(), of_c])).unwrap();
    let reason = "the tag of b does not confirm the key of the pair";
    scene.refuses_again("a", reason, 1);
    scene.until("a settles with c", || (scene.settled("a", epoch(1)) == ["c"]).then_some(()));
    scene.kill_and_start("a");
    scene.hostile.tell("a", Directive::Confirmations(vec![wrong])).unwrap();
    scene.until("a has not forgotten", || {
        let said = scene.hostile.said("a");
        let advert = said.iter().rposition(|message| matches!(message, SiteMessage::Advert(_)))?;
        said[advert..].iter().any(|message| matches!(message, SiteMessage::PairsSettled { .. })).then_some(())
    });
    assert_eq!(scene.settled("a", epoch(1)), ["c"]);

    scene.hostile.tell("a", Directive::Confirmations(vec![of_b])).unwrap();
    scene.until("a settles with b", || (scene.settled("a", epoch(1)) == ["b", "c"]).then_some(()));
    scene.hostile.on_directive(|_, directive| vec![directive]);
    scene.kill_and_start("a");
    scene.lab.released("lungs", crate::PATIENCE).unwrap();
}

#[test]
fn a_roster_that_the_consortium_did_not_sign_is_refused() {
    let mut scene = Scene::new(3);
    scene.hostile.on_directive(|site, directive| match directive {
        Directive::Proposal { .. } if site == "a" => vec![],
        other => vec![other],
    });
    scene.lab.start_agents().unwrap();
    scene.lab.launch(&patient(3)).unwrap();
    let (study, roster) = scene.until("the study is proposed", || {
        scene.hostile.heard("a").into_iter().find_map(|directive| match directive {
            Directive::Proposal { study, roster } => Some((study, roster)),
            _ => None,
        })
    });
    let honest = Signed::<Roster>::from_canonical(&roster).unwrap();
    let entry = SiteEntry {
        name: "z".parse().unwrap(),
        signing_key: SigningKey::generate().verifying_key(),
        tls_key: TlsKey::generate().public_key().hash(),
        test: false,
    };
    let grown = honest.claim().unwrap().with_site(entry).unwrap();
    let signed = Signed::seal(&grown, honest.signer().clone(), &scene.hostile.identity().signing);
    let forged = Directive::Proposal { study: study.clone(), roster: signed.to_canonical().into() };
    scene.hostile.tell("a", forged).unwrap();
    scene.refuses("a", &format!("the roster signature of {} does not match", honest.signer()));
    // The coordinator proposes no study either.
    let own = scene.hostile.sign(&study.claim().unwrap());
    scene.hostile.tell("a", Directive::Proposal { study: own, roster: roster.clone() }).unwrap();
    scene.refuses("a", "coordinator proposes no studies");
    let decided = |message: &SiteMessage| matches!(message, SiteMessage::Decision(_));
    assert!(!scene.hostile.said("a").iter().any(decided));
    scene.hostile.tell("a", Directive::Proposal { study, roster }).unwrap();
    scene.until("a decides", || scene.hostile.said("a").iter().any(decided).then_some(()));
}

#[test]
fn an_epoch_is_opened_once_and_an_old_one_never_again() {
    let mut scene = Scene::new(3);
    // Nothing begins: epochs are opened by the test.
    scene.hostile.on_directive(|_, directive| match directive {
        Directive::Begin { .. } => vec![],
        other => vec![other],
    });
    scene.launch(&patient(3));
    let first = scene.opening("a").claim().unwrap();
    let second = EpochOpening { attempts: first.attempts - 1, ..first.clone() };
    let opened = |opening: &EpochOpening| Directive::Opening(scene.hostile.sign(opening));
    scene.hostile.tell("a", opened(&second)).unwrap();
    let occasion = Occasion::Opening(epoch(1));
    scene.alarms("a", Alarm { occasion, first: hash_of(&first), second: hash_of(&second) });

    let of_another = EpochOpening { study: Hash::of_bytes(b"another study"), ..first.clone() };
    scene.hostile.tell("a", opened(&of_another)).unwrap();
    scene.refuses("a", "this statement belongs elsewhere");

    let next = EpochOpening { epoch: epoch(2), ..first.clone() };
    scene.hostile.tell("a", opened(&next)).unwrap();
    let epochs = |scene: &Scene| {
        let of = |message| match message {
            SiteMessage::Advert(advert) => Some(advert.claim().unwrap().epoch),
            _ => None,
        };
        scene.hostile.said("a").into_iter().filter_map(of).collect::<Vec<_>>()
    };
    scene.until("a makes keys", || (epochs(&scene) == [epoch(1), epoch(2)]).then_some(()));
    scene.hostile.tell("a", opened(&first)).unwrap();
    scene.until("a has lost those keys", || {
        scene.hostile.said("a").contains(&SiteMessage::KeysLost { epoch: epoch(1) }).then_some(())
    });
    assert_eq!(epochs(&scene), [epoch(1), epoch(2)], "no keys are made for it again");
}

/// A backup has no chain keys, so whoever was restored from one can neither repeat nor continue what it masked.
#[test]
fn an_agent_without_its_chain_keys_waits_for_the_next_epoch() {
    let mut scene = Scene::new(3);
    // The first attempt is masked and goes no further.
    scene.hostile.on_message(|_, message| match message {
        SiteMessage::Masked(_) => None,
        other => Some(other),
    });
    scene.launch(&patient(3));
    let first = scene.context("a", 1);
    scene.awaits_masked("a", 1);
    scene.lab.kill_agent("a").unwrap();
    let study = scene.hostile.study().unwrap().to_string();
    let folder = scene.lab.site_folder("a").join("vault/studies").join(study);
    for file in ["chain.keys", "chain.wrap"] {
        std::fs::remove_file(folder.join(file)).unwrap();
    }
    let before = scene.masked("a", 1).len();
    scene.hostile.on_message(|_, message| Some(message));
    // It hears of no attempt for a while.
    scene.hostile.on_directive(|site, directive| match directive {
        Directive::Begin { .. } if site == "a" => vec![],
        other => vec![other],
    });
    scene.lab.start_agent("a", &[]).unwrap();
    scene.until("a has lost its keys", || {
        scene.hostile.said("a").contains(&SiteMessage::KeysLost { epoch: epoch(1) }).then_some(())
    });
    scene
        .until("a has keys of the next epoch", || (scene.settled("a", epoch(2)) == ["b", "c"]).then_some(()));
    assert_eq!(scene.masked("a", 1).len(), before, "its vector is not announced again");
    let lost = Event::KeysLost { study: scene.hostile.study().unwrap(), epoch: 1 };
    assert!(scene.journal("a").contains(&lost), "the hospital is told, too: {:?}", scene.journal("a"));
    let again = forge::context(&scene.hostile, &first, |fields| fields.attempt = Attempt::new(50).unwrap());
    scene.hostile.tell("a", Directive::Begin { context: again }).unwrap();
    scene.refuses("a", "epoch 1 is over, or begins too early");
    // With the new keys it takes part again.
    scene.hostile.on_directive(|_, directive| vec![directive]);
    scene.kill_and_start("a");
    scene.lab.released("lungs", crate::PATIENCE).unwrap();
}
