mod groups;
mod hostile_bytes;
mod verdicts;
mod world;

use consilium_identity::enrolment::EnrolmentRequest;
use consilium_identity::roster::SiteEntry;
use consilium_identity::{ConsortiumKey, Invitation, TlsKey};
use consilium_rounds::reason::{Abandonment, CandidateRefusal, Unevaluated};
use consilium_rounds::record::{Course, OpenedSum, Record as Happened, Verdict};
use consilium_secagg::context::Purpose;
use consilium_secagg::control::{Control, Counted};
use consilium_secagg::guilt::DealerGuilt;
use consilium_secagg::message::Receipt;
use consilium_secagg::numbering::{Attempt, RoundNumber, SiteIndex};
use consilium_secagg::terms::RosterSet;
use consilium_study::document::{Draft, Plan};
use consilium_study::name::ConsortiumName;
use consilium_study::quantity::{Adaptivity, ServerLearningRate};
use consilium_study::sign::SigningKey;
use consilium_study::strategy::{SecondMoment, Strategy};

use super::*;
use crate::record::Sealed;
use crate::statement::{Act, Order};
use world::{World, hash, site};

#[test]
fn a_good_story_tells_who_trained_what() {
    let world = World::new();
    let report = world.verify(&world.story()).unwrap();
    let study = &report.studies[0];
    assert_eq!(study.state, StudyState::Released);
    assert_eq!((study.attempts.len(), study.rounds.len(), study.accepted.len()), (2, 1, 4));
    assert_eq!(study.attempts[0].counted, [site(0), site(1), site(2)]);
    assert_eq!(study.attempts[0].missing[0].site, site(3));
    assert_eq!(study.released.as_ref().unwrap().model, hash("candidate"));
    assert_eq!(report.models(), [world.study.initial_model(), hash("candidate")].into());
    let text = report.to_string();
    for words in [
        "Ledger of consortium rhine",
        "18 entries, all in order",
        "ada takes part: approval = \"automatic\"",
        "round 1, attempt 1 (train): 3 of 4 counted: ada, bonn, chur; dax is missing (no complete upload",
        "was adopted; 120 held-out cases, loss 0.5000, before 0.7000, accuracy 0.8500, AUROC 0.9100",
        "no formal guarantee",
        "trained by ada, bonn, chur",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    assert!(
        report.notices.iter().all(|notice| notice.contains("begins with version 5")),
        "{:?}",
        report.notices
    );
}

#[test]
fn every_beginning_of_a_story_is_in_order() {
    let world = World::new();
    let story = world.story();
    for length in 1..story.len() {
        let report = world.verify(&story[..length]).unwrap_or_else(|failure| panic!("{length}: {failure}"));
        assert_eq!(report.entries, length as u64);
        let made = report.models().contains(&hash("candidate"));
        assert_eq!(made, length > 10, "the model is made in entry 10");
    }
    assert!(matches!(world.verify(&[]), Err(Failure::Empty)));
}

/// Without any one entry, the story breaks at an entry after it, or loses what that entry told.
#[test]
fn no_entry_can_be_left_out_unnoticed() {
    let world = World::new();
    let story = world.story();
    let whole = world.verify(&story).unwrap();
    for left_out in 0..story.len() {
        let mut less = story.clone();
        less.remove(left_out);
        match world.verify(&less) {
            Err(Failure::Entry { index, .. }) => assert!(index >= left_out as u64, "{left_out}"),
            Err(other) => panic!("{left_out}: {other}"),
            // The closing is told again by the release.
            Ok(report) => {
                assert!(left_out == 16 || report.studies != whole.studies, "{left_out} was not missed");
            }
        }
    }
}

#[test]
fn foreign_signers_are_refused() {
    let world = World::new();
    let stranger = SigningKey::generate();
    let good = world.story();
    let replace = |at: usize, with: Sealed| {
        let mut story = good.clone();
        story[at] = with;
        world.failure(&story)
    };
    // A key of nobody, in the name of an operator; an operator who is not on the roster.
    let forged = world.proposal(&world.study, "operator/olga", &stranger);
    assert_eq!(
        replace(1, forged),
        (1, "entry 1 (study): the study signature of operator/olga does not match".into())
    );
    let unknown = world.proposal(&world.study, "operator/otto", &world.operator);
    assert_eq!(replace(1, unknown), (1, "entry 1 (study): operator/otto is not on the roster".into()));
    let site_proposes = world.proposal(&world.study, "site/ada", &world.sites[0]);
    assert!(replace(1, site_proposes).1.contains("it takes an operator"));
    // The coordinator makes an acceptance.
    let acceptance = world.acceptance(3);
    for (signer, key) in [("site/ada", &world.coordinator), ("site/ada", &world.sites[1])] {
        let forged = Record::Acceptance(Signed::seal(&acceptance, signer.parse().unwrap(), key)).into();
        assert!(replace(2, forged).1.contains("signature of site/ada does not match"));
    }
    let by_coordinator = Signed::seal(&acceptance, Principal::Coordinator, &world.coordinator);
    assert!(replace(2, Record::Acceptance(by_coordinator).into()).1.contains("it takes a site"));
    // A site tells what only the coordinator may tell.
    let told = Sealed::of(
        &Happened::Adoption(Box::new(world.adoption(&world.evaluate()))),
        world.study.hash(),
        &world.sites[0],
    );
    assert!(replace(15, told).1.contains("account signature of coordinator does not match"));
    // Another consortium's roster.
    let other = World::new();
    assert!(replace(0, other.roster_record()).1.contains("roster signature of consortium does not match"));
    // The right ledger under the wrong key.
    let folder = world.folder(&good);
    let failure = verify(&folder, &folder, &other.consortium.anchor().key).unwrap_err();
    assert!(matches!(failure, Failure::Entry { index: 0, .. }), "{failure}");
}

#[test]
fn the_checkpoint_must_be_signed_by_the_coordinator_of_the_roster() {
    let world = World::new();
    let mut folder = world.folder(&world.story());
    let claim = LogReader::open(&folder).unwrap().claim().clone();
    let forged = claim.sign(&SigningKey::generate());
    folder.files.insert("checkpoint".to_owned(), forged);
    let failure = verify(&folder, &folder, &world.consortium.anchor().key).unwrap_err();
    assert!(failure.to_string().starts_with("checkpoint: the signature"), "{failure}");
    let elbe: ConsortiumName = "elbe".parse().unwrap();
    let renamed = crate::Checkpoint { origin: elbe, ..claim }.sign(&world.coordinator);
    folder.files.insert("checkpoint".to_owned(), renamed);
    let failure = verify(&folder, &folder, &world.consortium.anchor().key).unwrap_err();
    assert_eq!(failure.to_string(), "checkpoint: it is of the log of elbe, not of rhine");
    assert_eq!((failure.entry(), failure.kind()), (None, None));
}

/// Moments decide the next model, so none may be missing, and none may be made up.
#[test]
fn moments_stand_where_the_strategy_keeps_them() {
    let moments = Some([hash("first"), hash("second")]);
    let adaptive = |plan: &mut Plan| {
        plan.rounds.strategy = Strategy::Adaptive {
            rule: SecondMoment::Adam,
            server_learning_rate: ServerLearningRate::default(),
            tau: Adaptivity::default(),
        };
    };
    for (world, kept) in [(World::new(), false), (World::new().with(adaptive), true)] {
        for given in [None, moments] {
            let (train, evaluate) = (world.train(), world.evaluate());
            let mut story = world.story();
            story[10] = world.opened_with(&train, Some(hash("candidate")), given);
            assert_eq!(world.verify(&story).is_ok(), kept == given.is_some(), "{kept} {given:?}");
            story[10] = world.opened_with(&train, Some(hash("candidate")), moments.filter(|_| kept));
            story[14] = world.opened_with(&evaluate, None, given);
            assert_eq!(world.verify(&story).is_ok(), given.is_none(), "{kept} {given:?}");
        }
    }
}

/// A mean of control variates stands beside each model of a strategy that keeps one, and the next training names the one beside
/// the adopted model, with the attempt of each member's variate in it, or none.
#[test]
fn control_variates_are_those_beside_the_adopted_model() {
    let corrects = |plan: &mut Plan| {
        plan.rounds.strategy =
            Strategy::Scaffold { server_learning_rate: ServerLearningRate::new(0.5).unwrap() };
        let text = consilium_study::template::study_toml(&plan.name, &plan.sites)
            .replace("\"adam\"", "\"sgd\"")
            .replace("learning_rate = 0.001", "learning_rate = 0.1")
            .replace("epochs = 1 ", "steps = 5 ");
        plan.training = Draft::from_toml(&text).unwrap().training.clone();
        plan.rounds.count = 2;
    };
    for (world, keeps) in [(World::new(), false), (World::new().with(corrects), true)] {
        for given in [None, Some(hash("mean"))] {
            let mut story = world.story();
            story.truncate(16);
            let sum = World::sum(&world.train(), Some(hash("candidate")));
            story[10] = world.told(&Happened::Opened(OpenedSum { control: given, ..sum }));
            assert_eq!(world.verify(&story).is_ok(), keeps == given.is_some(), "{keeps} {given:?}");
        }
    }
    let world = World::new().with(corrects);
    let mut story = world.story();
    story.truncate(16);
    let made =
        OpenedSum { control: Some(hash("mean")), ..World::sum(&world.train(), Some(hash("candidate"))) };
    story[10] = world.told(&Happened::Opened(made));
    let report = world.verify(&story).unwrap();
    let [control] = &report.studies[0].controls[..] else { panic!("one sum") };
    assert_eq!((control.start, control.candidate), (hash("initial"), hash("candidate")));
    assert_eq!((control.before, control.after), (None, hash("mean")));
    assert!((control.step.share - 1.0).abs() < 1e-12 && (control.step.reach - 0.5).abs() < 1e-12);
    assert!((control.step.server_rate - 0.5).abs() < 1e-12);
    assert!(report.models().contains(&hash("mean")));
    // The second round. `dax` was not counted in the first.
    let counted = |sites: &[u8], attempt: u32| {
        let of = |site: &u8| Counted {
            site: SiteIndex::new(*site).unwrap(),
            attempt: Attempt::new(attempt).unwrap(),
        };
        sites.iter().map(of).collect::<Vec<_>>()
    };
    let next = |control: Option<Control>| {
        let mut fields = world.fields(3, Purpose::Train, hash("candidate"));
        (fields.round, fields.control) = (round(2), control);
        let mut story = story.clone();
        story.push(world.context(fields));
        world.verify(&story).map_err(|failure| failure.to_string())
    };
    let named = |mean: &str, counted| Some(Control { mean: hash(mean), counted });
    assert!(next(named("mean", counted(&[1, 2, 3], 1))).is_ok());
    assert!(next(None).is_ok(), "all begin anew");
    for wrong in [
        named("other", counted(&[1, 2, 3], 1)),
        named("mean", counted(&[1, 2], 1)),
        named("mean", counted(&[1, 2, 3, 4], 1)),
        named("mean", counted(&[1, 2, 3], 2)),
    ] {
        assert!(next(wrong).unwrap_err().contains("control variates"));
    }
}

#[test]
fn contexts_are_only_for_what_sites_accepted() {
    let world = World::new().with(|plan| plan.rounds.count = 2);
    let train = world.train();
    let with = |change: &dyn Fn(&mut consilium_secagg::context::ContextFields)| {
        let mut fields = train.clone();
        change(&mut fields);
        let mut story = world.story();
        story.truncate(7);
        story.push(world.context(fields));
        world.failure(&story).1
    };
    assert!(with(&|fields| fields.model = hash("trap")).contains("does not start from the study's model"));
    let later = |fields: &mut consilium_secagg::context::ContextFields| {
        (fields.round, fields.model) = (round(2), hash("trap"));
    };
    assert!(with(&later).contains("starting model"));
    assert!(with(&|fields| fields.roster = hash("other")).contains("not in the ledger"));
    assert!(with(&|fields| fields.study = hash("other")).contains("nobody proposed"));
    assert!(with(&|fields| fields.weight_cap *= 2).contains("largest weight is not"));
    assert!(with(&|fields| fields.noise = 1).contains("noise"));
    assert!(with(&|fields| fields.round = round(11)).contains("a round that the study does not have"));
    let larger_roster = consilium_secagg::threshold::Thresholds::new(5, 4, 2).unwrap();
    assert!(with(&|fields| fields.thresholds = larger_roster).contains("number of sites in the roster"));
    assert!(
        with(&|fields| *fields = world.fields(1, Purpose::Evaluate, hash("x"))).contains("no entry before")
    );
    // A site that refused, one that never answered, one that asks for more.
    let mut story = world.story();
    story.remove(5);
    assert_eq!(
        world.failure(&story),
        (6, "entry 6 (context): dax has not accepted this study with this roster".into())
    );
    let mut story = world.story();
    let refusal = consilium_study::statement::Refusal {
        study: world.study.hash(),
        rule: consilium_study::statement::Rule::new("changed our mind").unwrap(),
    };
    story.insert(6, Record::Refusal(world.sign(3, &refusal)).into());
    assert_eq!(world.failure(&story).0, 8);
    let mut story = world.story();
    story[5] = world.accepts(3, 5);
    assert_eq!(
        world.failure(&story),
        (7, "entry 7 (context): the terms of dax ask for more sites than this".into())
    );
    // An attempt number used twice.
    let mut story = world.story();
    let mut again = world.train();
    again.round = round(2);
    story.insert(8, world.context(again));
    assert!(world.failure(&story).1.contains("attempt 1 comes after 1"));
}

fn round(number: u32) -> RoundNumber {
    RoundNumber::new(number).unwrap()
}

#[test]
fn sums_need_enough_survivors_receipts_and_signatures() {
    let world = World::new();
    let train = world.train();
    let context = Context::new(train.clone()).unwrap();
    let replace = |at: usize, with: Sealed| {
        let mut story = world.story();
        story[at] = with;
        world.failure(&story)
    };
    let signed = replace(9, world.agreement(&train, 2));
    assert_eq!(signed, (9, "entry 9 (agreement): 2 survivors signed, and it takes 3".into()));
    // One survivor's signature three times is one signature.
    let proposed = world.proposed(&train);
    let one = world.signatures(&proposed, 1);
    let thrice = Happened::Agreement {
        attempt: proposed.attempt,
        ctx: proposed.ctx,
        signatures: [one.clone(), one.clone(), one].concat(),
    };
    assert!(replace(9, world.told(&thrice)).1.contains("1 survivor signed"));
    // Signatures for the other attempt.
    let foreign = Happened::Agreement {
        attempt: proposed.attempt,
        ctx: proposed.ctx,
        signatures: world.signatures(&world.proposed(&world.evaluate()), 3),
    };
    assert!(replace(9, world.told(&foreign)).1.contains("is not about this attempt"));
    // The missing site is forgotten; a survivor's receipt is another one; pairs do not match; terms are broken.
    let mut forgotten = proposed.clone();
    forgotten.missing.clear();
    assert!(replace(8, world.told(&Happened::Proposed(forgotten))).1.contains("are not the Selection"));
    let mut swapped = proposed.clone();
    swapped.survivors[0].1 = hash("another receipt");
    assert!(replace(8, world.told(&Happened::Proposed(swapped))).1.contains("the receipt of ada"));
    for (change, words) in
        [(0, "different pair seeds"), (1, "the terms of ada ask for more"), (2, "is not about this attempt")]
    {
        let mut fields = World::receipt(&context, 0, 3);
        match change {
            0 => fields.pair_commitments[1] = hash("odd"),
            1 => fields.terms.min_selection = 4,
            _ => fields.ctx = Context::new(world.evaluate()).unwrap().hash(),
        }
        let receipt = Receipt::new(fields).unwrap();
        let mut changed = proposed.clone();
        changed.survivors[0].1 = receipt.hash();
        changed.receipts[0] = world.sign(0, &receipt);
        let failure = replace(8, world.told(&Happened::Proposed(changed))).1;
        assert!(failure.contains(words), "{failure}");
    }
    // Other survivors than ada has signed for before; survivors too near to earlier ones.
    for bound in [true, false] {
        let mut fields = World::receipt(&context, 0, 3);
        if bound {
            fields.terms.bound = vec![(0..4).map(site).collect()];
        } else {
            fields.terms.min_change = 2;
            let all = (0..4).map(site).collect();
            fields.terms.earlier = vec![RosterSet::of(&world.study.sites, &all)];
        }
        let receipt = Receipt::new(fields).unwrap();
        let mut changed = proposed.clone();
        changed.survivors[0].1 = receipt.hash();
        changed.receipts[0] = world.sign(0, &receipt);
        let failure = replace(8, world.told(&Happened::Proposed(changed))).1;
        assert!(failure.contains("not those that ada has signed for before"), "{failure}");
    }
    // A receipt signed with another site's key.
    let mut forged = proposed.clone();
    let receipt = Receipt::new(World::receipt(&context, 0, 3)).unwrap();
    forged.receipts[0] = Signed::seal(&receipt, Principal::Site(site(0)), &world.sites[1]);
    assert!(
        replace(8, world.told(&Happened::Proposed(forged)))
            .1
            .contains("signature of site/ada does not match")
    );
    // Opened without agreement; opened twice; abandoned by the coordinator alone after survivors were proposed.
    let mut story = world.story();
    story.remove(9);
    assert!(world.failure(&story).1.contains("no survivors have agreed"));
    let mut story = world.story();
    story.insert(11, world.opened(&train, Some(hash("another"))));
    assert!(world.failure(&story).1.contains("ended before"));
    let abandoned = |cause| {
        world.told(&Happened::Abandoned {
            attempt: train.attempt,
            ctx: context.hash(),
            cause,
            missing: vec![],
            by: Some("operator/olga".parse().unwrap()),
        })
    };
    // A guilty dealer ends it, too, but not without a proof.
    for cause in [Abandonment::BelowQuorum, Abandonment::Paused, Abandonment::GuiltyDealer] {
        assert!(replace(9, abandoned(cause)).1.contains("can only be declared lost"), "{cause}");
    }
    let mut story = world.story();
    story.truncate(9);
    story.push(abandoned(Abandonment::Restored));
    world.verify(&story).unwrap();
    let mut story = world.story();
    story.truncate(9);
    story.push(abandoned(Abandonment::DeclaredLost));
    let report = world.verify(&story).unwrap();
    assert!(
        report.notices.iter().any(|notice| notice.contains("coordinator's word")),
        "{:?}",
        report.notices
    );
    let order = Order {
        signed_at_ms: 5,
        act: Act::DeclareLost { study: world.study.hash(), attempt: train.attempt },
    };
    let order = Signed::seal(&order, "operator/olga".parse().unwrap(), &world.operator);
    story.insert(9, Record::Order(order).into());
    let report = world.verify(&story).unwrap();
    assert!(
        !report.notices.iter().any(|notice| notice.contains("coordinator's word")),
        "{:?}",
        report.notices
    );
}

#[test]
fn a_second_study_of_one_name_and_a_second_acceptance_are_refused() {
    let world = World::new();
    let mut story = world.story();
    let fewer = World::study_of("lungs", &[site(0), site(1), site(2)]);
    story.insert(2, world.proposal(&fewer, "operator/olga", &world.operator));
    assert!(world.failure(&story).1.contains("a study called lungs was proposed before"));
    let mut story = world.story();
    story.insert(6, world.accepts(3, 4));
    assert!(world.failure(&story).1.contains("dax has accepted this study before"));
    let mut story = world.story();
    let strangers = World::study_of("knees", &["ada", "bonn", "zug"].map(|name| name.parse().unwrap()));
    story[1] = world.proposal(&strangers, "operator/olga", &world.operator);
    assert!(world.failure(&story).1.contains("site/zug is not on the roster"));
}

#[test]
fn a_dealer_is_guilty_by_proof_alone() {
    let world = World::new();
    let context = Context::new(world.train()).unwrap();
    let proof = DealerGuilt {
        context: Signed::seal(&context, Principal::Coordinator, &world.coordinator),
        receipt: world.sign(0, &Receipt::new(World::receipt(&context, 0, 3)).unwrap()),
        about: SiteIndex::from_position(0).unwrap(),
        shares: vec![],
    };
    let mut story = world.story();
    story.insert(10, world.told(&Happened::Guilty { dealer: site(0), proof: Box::new(proof) }));
    let (entry, failure) = world.failure(&story);
    assert!(entry == 10 && failure.contains("(guilty): the proof of guilt proves nothing"), "{failure}");
}

#[test]
fn a_missing_or_changed_blob_names_the_entry() {
    let world = World::new();
    let folder = world.folder(&world.story());
    assert!(!folder.blobs.is_empty());
    let key = world.consortium.anchor().key;
    for hash in folder.blobs.keys() {
        let mut less = folder.clone();
        less.blobs.remove(hash);
        let failure = verify(&less, &less, &key).unwrap_err().to_string();
        assert!(failure.starts_with("entry ") && failure.contains("is missing"), "{failure}");
        let mut changed = folder.clone();
        changed.blobs.get_mut(hash).unwrap()[9] ^= 4;
        let failure = verify(&changed, &changed, &key).unwrap_err().to_string();
        assert!(failure.starts_with("entry ") && failure.contains("was changed"), "{failure}");
    }
}

/// A coordinator that owns the log's key rewrites one statement's bytes and signs the log anew.
#[test]
fn a_rewritten_statement_does_not_pass_under_a_new_checkpoint() {
    let world = World::new();
    let story = world.story();
    let key = world.consortium.anchor().key;
    let mut next = 0_usize;
    for index in 0..story.len() {
        for at in (0..story[index].record.to_statement().len()).step_by(61) {
            next += 1;
            let mut statements: Vec<_> =
                story.iter().map(|sealed| (sealed.record.kind(), sealed.record.to_statement())).collect();
            statements[index].1[at] ^= 1 << (next % 8);
            let (mut log, steps) = crate::Log::create("rhine".parse().unwrap(), &world.coordinator);
            let mut folder = world.folder(&story);
            folder.files.clear();
            folder.perform(steps);
            folder.perform(log.append_statements(statements, 1, &world.coordinator).unwrap().steps);
            match verify(&folder, &folder, &key) {
                Err(Failure::Entry { index: named, .. }) => assert_eq!(named, index as u64),
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("entry {index}, byte {at} was not noticed"),
            }
        }
    }
}

/// The consortium's key alone puts nobody on the roster: each site has asked, and proved that it holds its keys.
#[test]
fn nobody_joins_with_keys_that_were_not_asked_with() {
    let world = World::new();
    let (tls, signing) = (TlsKey::generate(), SigningKey::generate());
    let asks = |consortium: &ConsortiumKey, tls: &TlsKey, signing: &SigningKey| -> Sealed {
        let address = "127.0.0.1:1".parse().unwrap();
        let end = jiff::Timestamp::MAX;
        let invitation = Invitation::new(consortium.anchor(), address, "eve".parse().unwrap(), end);
        Record::Enrolment(EnrolmentRequest::new(&invitation, &tls.request(), signing)).into()
    };
    let named = |roster: &Roster, tls: &TlsKey, signing: &SigningKey| {
        let entry = SiteEntry {
            name: "eve".parse().unwrap(),
            signing_key: signing.verifying_key(),
            tls_key: tls.public_key().hash(),
            test: false,
        };
        roster.with_site(entry.clone()).or_else(|_| roster.with_site_replaced(entry)).unwrap()
    };
    let record = |roster: &Roster| -> Sealed { Record::Roster(world.consortium.sign(roster)).into() };
    let next = named(&world.roster, &tls, &signing);
    let story = |more: Vec<Sealed>| [vec![world.roster_record()], more].concat();

    let asked = asks(&world.consortium, &tls, &signing);
    assert!(world.verify(&story(vec![asked.clone(), record(&next)])).is_ok());
    let unasked = (
        1,
        "entry 1 (roster): it names eve with keys that the site did not ask to join with before it".into(),
    );
    assert_eq!(world.failure(&story(vec![record(&next), asked.clone()])), unasked);
    let other = TlsKey::generate();
    let with_other = asks(&world.consortium, &other, &signing);
    assert_eq!(world.failure(&story(vec![with_other.clone(), record(&next)])).0, 2);
    // Keys that replace lost ones are asked with too.
    let replaced = named(&next, &other, &signing);
    let begun = vec![asked, record(&next)];
    assert_eq!(world.failure(&story([begun.clone(), vec![record(&replaced)]].concat())).0, 3);
    assert!(world.verify(&story([begun, vec![with_other, record(&replaced)]].concat())).is_ok());
    let elsewhere = asks(&ConsortiumKey::generate("weser".parse().unwrap()), &tls, &signing);
    assert_eq!(world.failure(&story(vec![elsewhere])).1, "entry 1 (enrolment): it asks to join weser");
}
