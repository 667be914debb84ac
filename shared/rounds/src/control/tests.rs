use consilium_secagg::context::{Context, ContextFields, PROTOCOL_VERSION, Purpose};
use consilium_secagg::layout::CHUNK_WORDS;
use consilium_secagg::numbering::{Epoch, SiteIndex};
use consilium_secagg::quantiser::ClipNorm;
use consilium_secagg::threshold::Thresholds;
use consilium_study::canonical::Canonical as _;
use consilium_study::document::Draft;
use consilium_study::template::study_toml;
use proptest::prelude::*;

use super::*;
use crate::vector::{Ranges, train_layout};

/// A batch normalisation with its statistics, a frozen and a local layer, and one that is averaged.
const MODEL: &str = "layers = [\n{ kind = \"conv2d\", filters = 2, kernel = 3 },\n{ kind = \"batch-norm\" },\n{ kind = \"conv2d\", filters = 1, kernel = 3 },\n{ kind = \"flatten\" },\n{ kind = \"linear\", outputs = 2 }]\nfrozen = [\"layers.0\"]\nlocal = [\"layers.2\"]\n";

fn study(sites: usize, steps: u32) -> Study {
    let sites: Vec<_> = (0..sites).map(name).collect();
    let text = study_toml(&"s".parse().unwrap(), &sites)
        .replace(
            "# strategy = { kind = \"fedavg\", server_learning_rate = 1.0 }",
            "strategy = { kind = \"scaffold\" }",
        )
        .replace("\"adam\"", "\"sgd\"")
        .replace("epochs = 1 ", &format!("steps = {steps} "))
        .replace("preset = \"small-cnn\"", MODEL)
        .replace("height = 28", "height = 6")
        .replace("width = 28", "width = 6");
    Draft::from_toml(&text)
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
        .with_initial_model(hash("initial"))
}

fn name(site: usize) -> SiteName {
    format!("s{site}").parse().unwrap()
}

fn hash(text: &str) -> Hash {
    Hash::of_bytes(text.as_bytes())
}

fn attempt(number: usize) -> Attempt {
    Attempt::new(u32::try_from(number).unwrap()).unwrap()
}

fn context(study: &Study, number: usize, round: u32, control: Option<Control>) -> Context {
    let selection = Selection::new(study.sites.iter().map(|site| (site.clone(), hash("advert")))).unwrap();
    Context::new(ContextFields {
        version: PROTOCOL_VERSION,
        study: study.hash(),
        roster: hash("roster"),
        epoch: Epoch::new(1).unwrap(),
        round: RoundNumber::new(round).unwrap(),
        attempt: attempt(number),
        purpose: Purpose::Train,
        model: hash(&format!("model of round {round}")),
        baseline: None,
        groups: 1,
        thresholds: Thresholds::new(selection.len(), selection.len(), 0).unwrap(),
        selection,
        layout: train_layout(study, &Ranges::first(study)).unwrap(),
        chunk_words: CHUNK_WORDS as u32,
        ring_bits: 32,
        clip_norm: ClipNorm::new(1.0).unwrap(),
        weight_cap: 64,
        noise: 0,
        grouping: None,
        control,
    })
    .unwrap()
}

/// Weighted mean of the sites' variates that are in `c`, shape `[averaged]`.
fn mean_of(sites: &[Site], variates: &Variates) -> Vec<f64> {
    let all: u32 = variates.0.values().map(|variate| variate.weight).sum();
    let mut mean = Vec::new();
    for (site, variate) in &variates.0 {
        let site = &sites[site.as_str()[1..].parse::<usize>().unwrap()];
        let own = site.own.as_ref().unwrap();
        let entries =
            if own.attempt == variate.attempt { &own.after } else { &own.before.as_ref().unwrap().variate };
        mean.resize(entries.len(), 0.0);
        for (mean, entry) in mean.iter_mut().zip(entries) {
            *mean += f64::from(variate.weight) / f64::from(all) * f64::from(*entry);
        }
    }
    mean
}

struct Site {
    weight: u32,
    own: Option<OwnVariate>,
}

/// What becomes of an attempt, for which everybody trains.
#[derive(Clone, Debug)]
struct Course {
    /// Whose updates are summed; below three, nobody's.
    survivors: Vec<bool>,
    adopted: bool,
    updates: Vec<f32>,
}

fn courses() -> impl Strategy<Value = Vec<Course>> {
    let course = (
        proptest::collection::vec(proptest::bool::weighted(0.7), 5),
        proptest::bool::weighted(0.7),
        proptest::collection::vec(-1.0_f32..1.0, 5),
    );
    let course = course.prop_map(|(survivors, adopted, updates)| Course { survivors, adopted, updates });
    proptest::collection::vec(course, 1..20)
}

proptest! {
    /// Whoever survives, whatever is given up or refused: `c` is the mean of the variates that sites go on from.
    #[test]
    fn the_mean_is_that_of_the_sites_variates(courses in courses()) {
        let study = study(5, 4);
        let mut sites: Vec<Site> = [1, 2, 4, 8, 16].map(|weight| Site { weight, own: None }).into();
        let (mut control, mut round): (Option<(Controlled, Vec<f32>)>, _) = (None, 1);
        for (number, course) in courses.into_iter().enumerate() {
            let selection = context(&study, number + 1, round, None).selection.clone();
            let named = control.as_ref().map(|(control, _)| control.named(&selection));
            let context = context(&study, number + 1, round, named);
            let mut sum = vec![0.0; study.model.averaged_len()];
            let counted = |site: &(usize, &bool)| *site.1;
            let survivors: Vec<usize> = course.survivors.iter().enumerate().filter(counted).map(|(site, _)| site).collect();
            let weight: u32 = survivors.iter().map(|site| sites[*site].weight).sum();
            for (index, site) in sites.iter_mut().enumerate() {
                let own = site.own.take();
                let place = context.selection.index_of(&name(index)).unwrap();
                let before = OwnVariate::at_start(own.as_ref(), &context, place).unwrap();
                let correction = control.as_ref().map(|(_, mean)| {
                    correction(&study.model, mean, before.map(|(_, variate)| variate))
                });
                let entry = |at: usize| course.updates[index] * (at % 7) as f32 / 7.0;
                let update: Vec<f32> = (0..sum.len()).map(entry).collect();
                if survivors.contains(&index) {
                    for (sum, entry) in sum.iter_mut().zip(&update) {
                        *sum += f64::from(site.weight) / f64::from(weight) * f64::from(*entry);
                    }
                }
                site.own = Some(OwnVariate::after(&study, &context, before, correction.as_deref(), &update));
            }
            if survivors.len() < 3 {
                continue;
            }
            // The round is over, adopted or refused.
            round += 1;
            if !course.adopted {
                continue;
            }
            let so_far = control.as_ref().map(|(control, _)| control.variates.clone()).unwrap_or_default();
            let weights = survivors.iter().map(|site| (name(*site), sites[*site].weight));
            let variates = so_far.after(context.attempt, weights);
            let mean = study.model.spread(sum.iter().map(|entry| *entry as f32).collect());
            let share = variates.share(context.attempt);
            let reach = reach(&study, context.round);
            let mut next = Vec::new();
            for block in study.model.parameters() {
                let before = control.as_ref().map(|(_, mean)| &mean[block.range()]);
                next.extend(next_mean(block, share, reach, before, &mean[block.range()]));
            }
            let averaged = study.model.compact(next.clone());
            for (got, want) in averaged.iter().zip(mean_of(&sites, &variates)) {
                prop_assert!((f64::from(*got) - want).abs() < 1e-5 / reach, "{got} {want}");
            }
            for block in study.model.parameters().iter().filter(|block| !is_controlled(block)) {
                prop_assert!(next[block.range()].iter().all(|entry| *entry == 0.0), "{}", block.name());
            }
            control = Some((Controlled { mean: hash(&format!("{number}")), variates }, next));
        }
    }

    /// An auditor with the files of models comes to the same `c`, and to no other.
    #[test]
    fn the_mean_follows_from_the_models(
        (start, mean, before) in (-2.0_f32..2.0, -0.1_f32..0.1, -5.0_f32..5.0),
        share in 0.01_f64..1.0,
        server_rate in 0.1_f64..2.0,
        begins in proptest::bool::ANY,
    ) {
        let study = study(3, 4);
        let graph = &study.model;
        let step = Step { share: if begins { 1.0 } else { share }, reach: reach(&study, RoundNumber::new(1).unwrap()), server_rate };
        let vary = |base: f32| -> Vec<f32> { (0..graph.len()).map(|at| base * (1.0 + at as f32 / 100.0)).collect() };
        let (start, mean, before) = (vary(start), vary(mean), Some(vary(before)).filter(|_| !begins));
        let (mut candidate, mut after) = (start.clone(), Vec::new());
        for block in graph.parameters() {
            let before = before.as_ref().map(|before| &before[block.range()]);
            after.extend(next_mean(block, step.share, step.reach, before, &mean[block.range()]));
            if block.treatment() == Treatment::Averaged {
                for at in block.range() {
                    candidate[at] = (f64::from(start[at]) + server_rate * f64::from(mean[at])) as f32;
                }
            }
        }
        let found = |after: &[f32]| strays(graph, step, (&start, &candidate), before.as_deref(), after);
        prop_assert_eq!(found(&after), None);
        for block in graph.parameters() {
            let at = block.range().start;
            let mut other = after.clone();
            // As much as a coordinator can hope to hide, and what is no number.
            for wrong in [other[at] + 1e-3 * (1.0 + other[at].abs()), f32::NAN] {
                other[at] = wrong;
                prop_assert_eq!(found(&other), Some(at), "{}", block.name());
            }
        }
    }
}

/// Two sites with gradients 3 and 1 at every step, of weights 1 and 3: after a round each knows its own, `c` their mean, and
/// the second round goes along the mean at both.
#[test]
fn two_rounds_by_hand() {
    let study = study(3, 4);
    let graph = &study.model;
    let reach = reach(&study, RoundNumber::new(1).unwrap());
    let rate = study.training.learning_rate();
    assert!((reach - 4.0 * rate).abs() < 1e-12);
    let update = |gradient: f64| vec![(-reach * gradient) as f32; graph.averaged_len()];
    let (one, other) =
        (own_after(graph, reach, None, &update(3.0)), own_after(graph, reach, None, &update(1.0)));
    let block = graph.averaged().find(|block| is_controlled(block)).unwrap();
    let mean = next_mean(block, 1.0, reach, None, &vec![(-reach * 1.5) as f32; block.len()]);
    let near = |got: f32, want: f32| assert!((got - want).abs() < 1e-5, "{got} {want}");
    near(mean[0], 1.5);
    let mut whole = vec![0.0; graph.len()];
    whole[block.range()].copy_from_slice(&mean);
    let at = block.range().start;
    for (own, gradient) in [(&one, 3.0), (&other, 1.0)] {
        near(graph.spread(own.clone())[at], gradient);
        let corrected = correction(graph, &whole, Some(own));
        near(corrected[at] + gradient, 1.5);
        // The same gradient again: the same variate.
        let sent = vec![(-reach * 1.5) as f32; graph.averaged_len()];
        near(graph.spread(own_after(graph, reach, Some(&corrected), &sent))[at], gradient);
    }
    assert!(
        correction(graph, &whole, None).iter().all(|entry| *entry == 0.0),
        "a newcomer begins with the mean"
    );
    // Only the second comes back, with a gradient of 5: its share of three quarters is new.
    let mean = next_mean(block, 0.75, reach, Some(&mean), &vec![(-reach * 5.5) as f32; block.len()]);
    near(mean[0], 0.25 * 1.5 + 0.75 * 5.5);
}

#[test]
fn the_share_of_a_sum_is_by_weight_among_all_that_have_trained() {
    let first = Variates::default().after(attempt(3), [(name(0), 4), (name(1), 2)]);
    assert!((first.share(attempt(3)) - 1.0).abs() < f64::EPSILON);
    let second = first.after(attempt(5), [(name(1), 2), (name(2), 2)]);
    assert!((second.share(attempt(5)) - 0.5).abs() < f64::EPSILON);
    assert!((second.share(attempt(3)) - 0.5).abs() < f64::EPSILON, "only the first site is left of it");
    assert!(second.share(attempt(4)).abs() < f64::EPSILON);
}

/// A site goes on from the variate that is counted, and trains nothing where the context contradicts what it knows.
#[test]
fn a_site_takes_the_variate_that_is_counted_or_none() {
    let study = study(3, 4);
    let entries = study.model.averaged_len();
    let named = |mean: &str, of: Option<usize>| {
        let site = SiteIndex::new(1).unwrap();
        let counted = of.map(|of| Counted { site, attempt: attempt(of) }).into_iter().collect();
        Some(Control { mean: hash(mean), counted })
    };
    let start = |own: Option<&OwnVariate>, context: &Context| {
        let begun = OwnVariate::at_start(own, context, SiteIndex::new(1).unwrap());
        begun.map(|begun| begun.map(|(attempt, variate)| (attempt.get(), variate[0])))
    };
    let train = |own: Option<&OwnVariate>, context: &Context, gradient: f32| {
        let before = OwnVariate::at_start(own, context, SiteIndex::new(1).unwrap()).unwrap();
        let sent = vec![(-reach(&study, context.round) * f64::from(gradient)) as f32; entries];
        OwnVariate::after(&study, context, before, None, &sent)
    };
    // Two attempts of the first round, nothing counted: both begin without.
    let first = train(None, &context(&study, 1, 1, None), 1.0);
    let again = train(Some(&first), &context(&study, 2, 1, None), 1.0);
    assert_eq!((again.before.clone(), &again.after), (None, &first.after));
    // The second counts.
    let second_round = context(&study, 4, 2, named("c", Some(2)));
    assert_eq!(start(Some(&again), &second_round), Ok(Some((2, again.after[0]))));
    let third = train(Some(&again), &second_round, 3.0);
    // That attempt dies: the round begins once more with what it began with.
    let retried = context(&study, 5, 2, named("c", Some(2)));
    assert_eq!(start(Some(&third), &retried), Ok(Some((2, again.after[0]))));
    let fourth = train(Some(&third), &retried, 3.0);
    assert_eq!((&fourth.before, &fourth.after), (&third.before, &third.after));
    // Refused: the next round begins with it, too. Adopted: with what came of it.
    assert_eq!(
        start(Some(&fourth), &context(&study, 8, 3, named("c", Some(2)))),
        Ok(Some((2, again.after[0])))
    );
    assert_eq!(
        start(Some(&fourth), &context(&study, 8, 3, named("d", Some(5)))),
        Ok(Some((5, fourth.after[0])))
    );
    // All variates are forgotten, or this site's was never counted.
    assert_eq!(start(Some(&fourth), &context(&study, 8, 3, None)), Ok(None));
    assert_eq!(start(Some(&fourth), &context(&study, 8, 3, named("d", None))), Ok(None));
    for (own, context, why) in [
        (None, context(&study, 8, 3, named("d", Some(5))), NoVariate::Lost(attempt(5))),
        (Some(&fourth), context(&study, 8, 3, named("d", Some(4))), NoVariate::Lost(attempt(4))),
        (Some(&fourth), context(&study, 8, 2, named("c", Some(5))), NoVariate::SameRound(attempt(5))),
        (Some(&fourth), context(&study, 8, 2, named("d", Some(2))), NoVariate::SecondMean),
    ] {
        assert_eq!(start(own, &context), Err(why));
    }
}

#[test]
fn what_is_kept_is_of_one_study_and_finite() {
    let study = study(3, 4);
    let sent = vec![0.5; study.model.averaged_len()];
    let first = OwnVariate::after(&study, &context(&study, 1, 1, None), None, None, &sent);
    let own =
        OwnVariate { before: Some(Before { attempt: attempt(1), variate: first.after.clone() }), ..first };
    assert!(own.is_of(&study));
    assert_eq!(OwnVariate::from_canonical(&own.to_canonical()), Ok(own.clone()));
    let mut infinite = own.clone();
    infinite.after[3] = f32::INFINITY;
    let mut short = own.clone();
    short.before.as_mut().unwrap().variate.pop();
    for wrong in [infinite, short, OwnVariate { study: hash("other"), ..own }] {
        assert!(!wrong.is_of(&study));
    }
}
