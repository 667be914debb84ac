//! Small studies through the whole engine, on cases made here.

use std::collections::BTreeSet;

use consilium_learning::{Dataset, ModelFile, Pixels, initial};
use consilium_rounds::reason::{CandidateRefusal, Withdrawal};
use consilium_rounds::record::ReleaseReason;
use consilium_study::document::{AcceptanceGate, Draft};
use consilium_study::metric::Metric;
use consilium_study::name::SiteName;
use consilium_study::quantity::ClipNorm;

use super::bench::Crew;
use super::engine::{Simulation, simulate};
use super::hospitals::{Hospital, Hospitals};
use super::hostile::Hostile;
use crate::demo::progress::{Round, Story};
use crate::output::Output;

const SIDE: usize = 8;

fn draft(sites: usize, rounds: u32, seed: u64) -> Draft {
    let names: Vec<String> = (0..sites).map(|site| format!("\"{}\"", name(site))).collect();
    let text = format!(
        "format = 1\nname = \"small\"\ntitle = \"small\"\nsites = [{}]\nseed = {seed}\n\
         [data]\nlabels = [\"dark\", \"bright\"]\nchannels = 1\nheight = 8\nwidth = 8\nmean = 0.5\nstd = 0.25\n\
         [model]\npreset = \"logistic\"\n\
         [training]\noptimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 8\nepochs = 1\n\
         [rounds]\ncount = {rounds}\nquorum = 3\n\
         [aggregation]\nclip_norm = 0.5\nweight_cap = 64\n[evaluation]\nbins = 16\n",
        names.join(", ")
    );
    Draft::from_toml(&text).unwrap()
}

/// A small network whose layers are frozen or local as the lists say.
fn layered(lists: &str) -> Draft {
    let names = [0, 1, 2].map(|site| format!("\"{}\"", name(site))).join(", ");
    let text = format!(
        "format = 1\nname = \"small\"\ntitle = \"small\"\nsites = [{names}]\nseed = 1\n\
         [data]\nlabels = [\"dark\", \"bright\"]\nchannels = 1\nheight = 8\nwidth = 8\nmean = 0.5\nstd = 0.25\n\
         [model]\npreset = \"cnn-bn\"\n{lists}\n\
         [training]\noptimiser = \"sgd\"\nlearning_rate = 0.05\nbatch = 8\nepochs = 1\n\
         [rounds]\ncount = 3\nquorum = 3\n[aggregation]\nclip_norm = 2.0\nweight_cap = 64\n[evaluation]\nbins = 16\n"
    );
    Draft::from_toml(&text).unwrap()
}

fn name(site: usize) -> SiteName {
    SiteName::new(format!("s{site}")).unwrap()
}

/// Pictures whose right half is brighter in class 1.
fn cases(count: usize, seed: u64) -> Dataset {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % 120
    };
    let mut pixels = Vec::new();
    for case in 0..count {
        for pixel in 0..SIDE * SIDE {
            let bright = case % 2 == 1 && pixel % SIDE >= SIDE / 2;
            pixels.push(draw() as u8 + if bright { 90 } else { 30 });
        }
    }
    let labels = (0..count).map(|case| (case % 2) as u16).collect();
    Dataset::new([1, SIDE as u32, SIDE as u32], Pixels::Bytes(pixels), labels).unwrap()
}

fn hospitals(sites: usize) -> Hospitals {
    let hospital = |site: usize| {
        let seed = site as u64 + 1;
        Hospital { train: cases(20 + 15 * site, seed), held_out: cases(12, seed + 100) }
    };
    (0..sites).map(|site| (name(site), Ok(hospital(site)))).collect()
}

fn play(draft: Draft, hospitals: &Hospitals) -> anyhow::Result<Simulation> {
    attacked(draft, hospitals, None)
}

fn attacked(draft: Draft, hospitals: &Hospitals, hostile: Option<&Hostile>) -> anyhow::Result<Simulation> {
    let story = Story::new(Output { json: true }, std::time::Instant::now());
    simulate(draft, None, hospitals, &Crew::new()?, hostile, true, &story)
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
    let hospitals = hospitals(3);
    let first = play(draft(3, 2, 1), &hospitals).unwrap();
    let again = play(draft(3, 2, 1), &hospitals).unwrap();
    assert_eq!(first.released, again.released);
    assert_eq!(first.release.model, again.release.model);
    assert_ne!(first.released, play(draft(3, 2, 2), &hospitals).unwrap().released);
}

#[test]
fn the_masked_sum_is_the_plain_sum_and_next_to_plain_averaging() {
    let simulation = play(draft(3, 2, 1), &hospitals(3)).unwrap();
    assert_eq!(simulation.rounds.len(), 2);
    for round in &simulation.rounds {
        let plaintext = round.plaintext.unwrap();
        assert!(plaintext.identical);
        assert!(plaintext.relative_error <= 1e-5, "{}", plaintext.relative_error);
        assert!(plaintext.relative_error > 0.0, "integers cannot average exactly");
        assert!(round.missing.is_empty() && round.bytes_up > 0 && round.bytes_down > 0);
    }
}

#[test]
fn a_site_with_too_few_cases_is_a_dropout_and_the_rest_go_on() {
    let mut hospitals = hospitals(6);
    hospitals.insert(name(1), Err(Withdrawal::TooFewCases));
    let simulation = play(draft(6, 2, 1), &hospitals).unwrap();
    assert_eq!(simulation.rounds.len(), 2);
    assert_eq!(simulation.rounds[0].missing, [name(1)]);
    assert_eq!(simulation.release.participants.len(), 5);
    assert!(!simulation.release.participants.contains(&name(1)));
}

#[test]
fn without_held_out_cases_rounds_are_unevaluated_and_the_study_ends() {
    let mut hospitals = hospitals(4);
    for site in 1..4 {
        if let Some(Ok(hospital)) = hospitals.get_mut(&name(site)) {
            hospital.held_out = cases(0, 1);
        }
    }
    let simulation = play(draft(4, 2, 1), &hospitals).unwrap();
    let states: Vec<_> =
        simulation.rounds.iter().map(|round| serde_json::to_value(round).unwrap()["state"].clone()).collect();
    assert_eq!(states, ["unevaluated", "unevaluated"]);
}

#[test]
fn a_gate_that_too_few_can_judge_for_is_said_in_words() {
    let mut hospitals = hospitals(4);
    for site in 2..4 {
        if let Some(Ok(hospital)) = hospitals.get_mut(&name(site)) {
            hospital.held_out = cases(0, 1);
        }
    }
    let mut plan = (*draft(4, 2, 1)).clone();
    plan.evaluation.gate = Some(AcceptanceGate { max_loss_increase: 0.05, max_norm_growth: 1.5 });
    let error = play(Draft::new(plan).unwrap(), &hospitals).err().unwrap().to_string();
    let said = "the study cannot go on; it waits for enough ready sites, 2 of 3: s2, s3. s2 withdrew: holds out no case to evaluate \
                on. s3 withdrew: holds out no case to evaluate on. With evaluation.gate";
    assert!(error.starts_with(said) && error.contains("data.holdout"), "{error}");
}

#[test]
fn too_few_sites_with_cases_are_said_before_anything_runs() {
    let mut hospitals = hospitals(4);
    hospitals.insert(name(0), Err(Withdrawal::NoData));
    hospitals.insert(name(2), Err(Withdrawal::TooFewCases));
    let error = play(draft(4, 2, 1), &hospitals).err().unwrap().to_string();
    assert!(error.starts_with("2 of 4 sites have cases to train on"), "{error}");
}

/// Eight hospitals whose updates are far below the clip norm.
fn eight(rounds: u32, gate: Option<AcceptanceGate>) -> Draft {
    let mut plan = (*draft(8, rounds, 1)).clone();
    plan.aggregation.clip_norm = ClipNorm::new(50.0).unwrap();
    plan.evaluation.gate = gate;
    plan.evaluation.recommend = Metric::Loss;
    Draft::new(plan).unwrap()
}

fn told(simulation: &Simulation, key: &str) -> Vec<serde_json::Value> {
    let value = |round: &Round| serde_json::to_value(round).unwrap()[key].clone();
    simulation.rounds.iter().map(value).collect()
}

/// One hospital of eight, from the third round on. What does harm is refused; what passes does none.
#[test]
fn one_bad_hospital_of_eight_does_not_get_its_way() {
    let hospitals = hospitals(8);
    let gate = Some(AcceptanceGate { max_loss_increase: 0.05, max_norm_growth: 1.5 });
    let loss = |simulation: &Simulation| match &simulation.release.reason {
        ReleaseReason::BestEvaluated { evaluated, .. } => evaluated.figures.loss,
        reason => panic!("nothing was evaluated: {reason:?}"),
    };
    let honest = attacked(eight(6, gate), &hospitals, None).unwrap();
    assert_eq!(told(&honest, "state"), ["adopted"; 6]);
    let before = attacked(eight(2, gate), &hospitals, None).unwrap();
    for (factor, refused) in [(100, true), (-100, true), (-10, false), (10, false), (3, false), (-1, false)] {
        let hostile = format!("s7:{factor}").parse().unwrap();
        let simulation = attacked(eight(6, gate), &hospitals, Some(&hostile)).unwrap();
        let states = told(&simulation, "state");
        assert_eq!(states[..2], ["adopted"; 2], "{factor}");
        assert!(!refused || states[2..].iter().all(|state| state == "refused"), "{factor}: {states:?}");
        assert!(loss(&simulation) <= loss(&before), "{factor}: {states:?}, {}", loss(&simulation));
        // It is the gate that refuses them.
        let simulation = attacked(eight(3, None), &hospitals, Some(&hostile)).unwrap();
        assert_eq!(told(&simulation, "state"), ["adopted"; 3], "{factor}");
    }
    assert!(loss(&honest) < loss(&before));
}

#[test]
fn a_sum_that_nobody_may_send_is_refused_without_a_gate_too() {
    let hostile = "s7:100".parse().unwrap();
    let simulation = attacked(draft(8, 4, 1), &hospitals(8), Some(&hostile)).unwrap();
    assert_eq!(told(&simulation, "state"), ["adopted", "adopted", "refused", "refused"]);
    assert_eq!(told(&simulation, "cause")[2], CandidateRefusal::TooLong.text());
}

/// Masked sums are the plain ones, word for word, when only some blocks are in them; no model has a number that no sum
/// made; each hospital ends with layers of its own; and it all repeats itself.
#[test]
fn frozen_and_local_layers_are_in_no_sum_and_in_no_model() {
    let hospitals = hospitals(3);
    let whole = play(layered(""), &hospitals).unwrap();
    assert!(whole.own.is_empty());
    let draft = layered("frozen = [\"layers.0\"]\nlocal = [\"batch-norm\"]");
    let simulation = play(draft.clone(), &hospitals).unwrap();
    let again = play(draft.clone(), &hospitals).unwrap();
    assert_eq!((&simulation.released, &simulation.own), (&again.released, &again.own));
    for (round, of_whole) in simulation.rounds.iter().zip(&whole.rounds) {
        assert!(round.plaintext.unwrap().identical);
        let missing = draft.model.len() - draft.model.averaged_len();
        let blocks = draft.model.parameters().len() - draft.model.averaged().count();
        // Of three hospitals, and a count of saturated entries for each block; the context that names the blocks is shorter.
        let (fewer, want) = (of_whole.bytes_up - round.bytes_up, 3 * 4 * (missing + blocks) as u64);
        assert!((want..want + 3_000).contains(&fewer), "{fewer} {want}");
    }
    let model = ModelFile::from_bytes(&simulation.released).unwrap().model;
    let first = initial(&draft.model, draft.seed);
    assert_eq!(draft.model.altered(&first, &model), None);
    assert!(draft.model.averaged().all(|block| model[block.range()] != first[block.range()]));
    // From a trained model, its numbers stay in what is frozen.
    let trained: Vec<f32> = first.iter().map(|value| value + 0.01).collect();
    let story = Story::new(Output { json: true }, std::time::Instant::now());
    let start = Some(trained.clone());
    let later =
        simulate(draft.clone(), start, &hospitals, &Crew::new().unwrap(), None, false, &story).unwrap();
    let model = ModelFile::from_bytes(&later.released).unwrap().model;
    assert_eq!(draft.model.altered(&trained, &model), None);
    let bits = |own: &Vec<f32>| own.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let own: BTreeSet<_> = simulation.own.values().map(bits).collect();
    assert_eq!((simulation.own.len(), own.len()), (3, 3));
    assert!(simulation.own.values().all(|own| *own != draft.model.local_part(&first)));
}

/// FedBN (Li et al. 2021): where scanners differ, statistics that fit all sites fit none of them.
#[test]
fn local_normalisation_helps_where_pictures_differ_in_contrast_and_brightness() {
    let scanned = |count, seed, site: usize| {
        let plain = cases(count, seed);
        let Pixels::Bytes(pixels) = plain.pixels() else { panic!("they are bytes") };
        let change = |pixel: &u8| [*pixel / 8, 150 + *pixel / 3, *pixel][site];
        let pixels = Pixels::Bytes(pixels.iter().map(change).collect());
        Dataset::new(plain.shape(), pixels, plain.labels().to_vec()).unwrap()
    };
    let hospital = |site: usize| {
        let seed = site as u64 + 1;
        Hospital { train: scanned(48, seed, site), held_out: scanned(48, seed + 100, site) }
    };
    let hospitals: Hospitals = (0..3).map(|site| (name(site), Ok(hospital(site)))).collect();
    let auroc = |lists: &str| {
        let mut plan = (*layered(lists)).clone();
        plan.rounds.count = 8;
        match play(Draft::new(plan).unwrap(), &hospitals).unwrap().release.reason {
            ReleaseReason::BestEvaluated { evaluated, .. } => evaluated.figures.auroc.unwrap(),
            reason => panic!("nothing was evaluated: {reason:?}"),
        }
    };
    let (shared, own) = (auroc(""), auroc("local = [\"batch-norm\"]"));
    assert!(own > 0.95 && shared < 0.85, "{own} {shared}");
}

/// SCAFFOLD (Karimireddy et al. 2020): hospitals of which each has nearly one class alone train long between two rounds, and
/// drift to models that say that class too readily. With control variates the loss of all is a fifth lower, whatever the ring.
#[test]
fn control_variates_keep_hospitals_of_one_class_together() {
    let of_class = |count: usize, seed: u64, rare: u16| {
        let all = cases(4 * count, seed);
        let Pixels::Bytes(pixels) = all.pixels() else { panic!("they are bytes") };
        let mut kept: Vec<usize> = Vec::new();
        for (case, label) in all.labels().iter().enumerate() {
            // One of the rare class for every eight of the other.
            let is_rare = label.holds(usize::from(rare));
            if kept.len() < count && (!is_rare || kept.len().is_multiple_of(9)) {
                kept.push(case);
            }
        }
        let labels = kept.iter().map(|case| all.labels()[*case].class().unwrap()).collect();
        let pixels =
            kept.iter().flat_map(|case| pixels[case * SIDE * SIDE..][..SIDE * SIDE].to_vec()).collect();
        Dataset::new(all.shape(), Pixels::Bytes(pixels), labels).unwrap()
    };
    let hospital = |site: usize| Hospital {
        train: of_class(36, site as u64 + 1, (site % 2) as u16),
        held_out: cases(60, site as u64 + 101),
    };
    let hospitals: Hospitals = (0..4).map(|site| (name(site), Ok(hospital(site)))).collect();
    let loss = |strategy: &str, ring: u32| {
        let mut plan = (*draft(4, 12, 1)).clone();
        plan.training =
            toml::from_str("optimiser = \"sgd\"\nlearning_rate = 0.02\nbatch = 36\nsteps = 150").unwrap();
        plan.rounds.strategy = toml::from_str(&format!("kind = \"{strategy}\"")).unwrap();
        plan.aggregation.clip_norm = ClipNorm::new(20.0).unwrap();
        plan.aggregation.ring_bits = ring;
        plan.evaluation.recommend = Metric::Loss;
        let simulation = play(Draft::new(plan).unwrap(), &hospitals).unwrap();
        assert!(simulation.rounds.iter().all(|round| round.plaintext.unwrap().identical));
        match simulation.release.reason {
            ReleaseReason::BestEvaluated { evaluated, .. } => evaluated.figures.loss,
            reason => panic!("nothing was evaluated: {reason:?}"),
        }
    };
    let (plain, corrected, packed) = (loss("fedavg", 32), loss("scaffold", 32), loss("scaffold", 16));
    assert!(corrected < 0.9 * plain && packed < 0.9 * plain, "{plain} {corrected} {packed}");
}
