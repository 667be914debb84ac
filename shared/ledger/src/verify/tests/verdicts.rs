//! Models come from sums, and verdicts from the rules of their study.

use consilium_rounds::record::Evaluated;
use consilium_study::document::AcceptanceGate;

use super::*;

#[test]
fn models_come_from_sums_and_verdicts_from_the_gate() {
    let world = World::new();
    let replace = |at: usize, with: &Happened| {
        let mut story = world.story();
        story[at] = world.told(with);
        world.failure(&story).1
    };
    let good = world.adoption(&world.evaluate());
    let change = |change: &dyn Fn(&mut Adoption)| {
        let mut adoption = good.clone();
        change(&mut adoption);
        replace(15, &Happened::Adoption(Box::new(adoption)))
    };
    assert!(
        change(&|adoption| adoption.candidate = hash("other")).contains("did not evaluate this candidate")
    );
    assert!(
        change(&|adoption| (adoption.candidate, adoption.evaluated) = (hash("other"), None))
            .contains("its candidate is")
    );
    assert!(change(&|adoption| adoption.start = hash("other")).contains("its starting model is"));
    assert!(change(&|adoption| adoption.evaluated = None).contains("it was not evaluated"));
    assert!(
        change(&|adoption| adoption.verdict = Verdict::Refused(CandidateRefusal::LossIncrease))
            .contains("the gate is off")
    );
    assert!(
        change(&|adoption| drop(adoption.evaluated.as_mut().unwrap().survivors.pop_first()))
            .contains("figures")
    );
    let mut release = world.release();
    release.model = hash("unheard of");
    assert!(replace(17, &Happened::Release(release)).contains("no entry before it leads there"));
    let mut release = world.release();
    release.participants.insert(site(3));
    assert!(replace(17, &Happened::Release(release)).contains("participants it names"));
    // A study is closed when its rounds are done.
    let mut story = world.story();
    story.remove(15);
    assert_eq!(
        world.failure(&story),
        (
            15,
            "entry 15 (course): it is closed after 0 of 1 rounds, and nothing in the study ends it early"
                .into()
        )
    );
    // After the release, and while paused, nothing begins.
    let mut story = world.story();
    let more = world.fields(3, Purpose::Train, world.study.initial_model());
    story.push(world.context(more));
    assert_eq!(world.failure(&story), (18, "entry 18 (context): the study is released".into()));
    let course = |course| world.told(&Happened::Course { course, by: Principal::Coordinator });
    let mut story = world.story();
    story.insert(7, course(Course::Pause));
    assert_eq!(world.failure(&story), (8, "entry 8 (context): the study is paused".into()));
    story.insert(8, course(Course::Resume));
    assert!(world.verify(&story).is_ok());
    // Keys are settled before the first round, also where an operator has put that off.
    let mut story = world.story();
    let epoch = story.iter().position(|said| said.record.kind() == crate::Kind::Epoch).unwrap();
    story.insert(epoch, course(Course::Pause));
    story.insert(epoch + 2, course(Course::Resume));
    assert!(world.verify(&story).is_ok());
}

/// A verdict on the candidate of a story's first round.
fn said(verdict: Verdict, evaluated: Option<Evaluated>) -> Adoption {
    let world = World::new();
    Adoption { verdict, evaluated, ..world.adoption(&world.evaluate()) }
}

fn gate(max_loss_increase: f64) -> AcceptanceGate {
    AcceptanceGate { max_loss_increase, max_norm_growth: 1.5 }
}

#[test]
fn the_gate_decides_by_losses_and_lengths() {
    let adopted = Verdict::Adopted;
    let refused = Verdict::Refused(CandidateRefusal::LossIncrease);
    let longer = Verdict::Refused(CandidateRefusal::NormGrowth);
    let world = World::new();
    let mut evaluated = world.adoption(&world.evaluate()).evaluated.unwrap();
    for (loss, limit, length, verdict, fine) in [
        (0.7, 0.0, 1.0, adopted, true),
        (0.71, 0.0, 1.0, adopted, false),
        (0.71, 0.0, 1.0, refused, true),
        (0.79, 0.1, 1.0, adopted, true),
        (0.79, 0.1, 1.0, refused, false),
        (f64::NAN, 0.1, 1.0, adopted, false),
        (0.7, 0.1, 1.6, adopted, false),
        (0.7, 0.1, 1.6, refused, false),
        (0.7, 0.1, 1.6, longer, true),
        (0.7, 0.1, 1.4, longer, false),
    ] {
        let mut before = said(adopted, None);
        before.trained.update_norm = 1.0;
        evaluated.figures.loss = loss;
        let mut said = said(verdict, Some(evaluated.clone()));
        said.trained.update_norm = length;
        let trained = &evaluated.survivors.clone();
        let (gate, before) = (&gate(limit), &[before]);
        let rule =
            models::Rule { trained, fewest: 3, declined: false, too_long: false, gate: Some(gate), before };
        assert_eq!(models::judge(&said, &rule).is_ok(), fine, "{loss} {limit} {length} {verdict:?}");
        evaluated.figures.loss = 0.7;
    }
}

#[test]
fn what_too_few_would_train_from_is_refused_and_nothing_else_is_for_that() {
    let declined = Verdict::Refused(CandidateRefusal::TooFewWilling);
    let world = World::new();
    let mut evaluated = world.adoption(&world.evaluate()).evaluated.unwrap();
    // Three evaluated it. The fourth only trained it, and nobody knows of a reason why it should not again.
    for (trained, declines, verdict, fine) in [
        (3, 0, Verdict::Adopted, true),
        (3, 0, declined, false),
        (3, 1, Verdict::Adopted, false),
        (3, 1, declined, true),
        (4, 1, Verdict::Adopted, true),
        (4, 1, declined, false),
        (4, 2, declined, true),
        (4, u32::MAX, declined, true),
    ] {
        evaluated.figures.declines = declines;
        for gate in [None, Some(&gate(0.1))] {
            let trained = &(0..trained).map(site).collect();
            let rule =
                models::Rule { trained, fewest: 3, declined: false, too_long: false, gate, before: &[] };
            let verdict = models::judge(&said(verdict, Some(evaluated.clone())), &rule);
            assert_eq!(verdict.is_ok(), fine, "{declines} of {trained:?}");
        }
    }
    // Longer than any hospital may send: refused for that, whatever else.
    let everybody = (0..4).map(site).collect();
    let rule = models::Rule {
        trained: &everybody,
        fewest: 3,
        declined: false,
        too_long: true,
        gate: None,
        before: &[],
    };
    let long = Verdict::Refused(CandidateRefusal::TooLong);
    for (verdict, too_long, fine) in
        [(long, true, true), (long, false, false), (Verdict::Adopted, true, false)]
    {
        let rule = models::Rule { too_long, ..rule };
        evaluated.figures.declines = 0;
        assert_eq!(models::judge(&said(verdict, Some(evaluated.clone())), &rule).is_ok(), fine);
    }
    let nobody = BTreeSet::new();
    let rule = models::Rule {
        trained: &nobody,
        fewest: 3,
        declined: false,
        too_long: false,
        gate: None,
        before: &[],
    };
    assert!(models::judge(&said(declined, None), &rule).is_err());
    // After such a refusal nothing is adopted unseen from the same starting model.
    let unseen = said(Verdict::Unevaluated(Unevaluated::NoQuorum), None);
    let contradiction = said(Verdict::Refused(CandidateRefusal::BadCounts), None);
    for (declined, seen) in [(false, false), (true, true)] {
        let rule = models::Rule { declined, ..rule };
        assert_eq!(models::judge(&unseen, &rule).is_err(), seen);
        assert_eq!(models::judge(&contradiction, &rule).is_ok(), seen);
    }
}
