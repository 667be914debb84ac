//! A site's policy against studies: what decides, and that the stricter value wins.

use std::collections::BTreeSet;

use consilium_study::document::{Draft, Study, colluders, least_honest};
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::policy::{Approval, Clause, Decision, InvalidPolicy, Policy};
use consilium_study::statement::Repeat;
use consilium_study::template::study_toml;
use proptest::prelude::*;

fn name(text: &str) -> SiteName {
    text.parse().expect("a site name")
}

fn sites(count: usize) -> Vec<SiteName> {
    (0..count).map(|n| name(&format!("site-{n:02}"))).collect()
}

fn operator() -> Principal {
    "operator/ada".parse().expect("an operator")
}

/// A study over `count` sites, with lines for its `[aggregation]` and its smallest number of cases.
fn study(count: usize, aggregation: &str, minimum_cases: u32) -> Study {
    let text = study_toml(&"lungs".parse().expect("a study name"), &sites(count))
        .replace("[aggregation]\n", &format!("[aggregation]\n{aggregation}\n"))
        .replace("std = 0.17\n", &format!("std = 0.17\nminimum_cases = {minimum_cases}\n"));
    let draft = Draft::from_toml(&text).unwrap_or_else(|error| panic!("{error}"));
    draft.with_initial_model(Hash::of_bytes(b"weights"))
}

fn judge(policy: &str, study: &Study) -> Decision {
    let roster = study.sites.iter().cloned().collect();
    policy_of(policy).judge(study, &operator(), &name("site-00"), &roster).decision()
}

fn policy_of(text: &str) -> Policy {
    Policy::from_toml(text).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(decision: &Decision) -> &str {
    match decision {
        Decision::Refuse(rule) => rule.as_str(),
        Decision::Accept(_) | Decision::AskPerson => "",
    }
}

const ADA: &str = "operators = [\"operator/ada\"]\n";

#[test]
fn an_empty_policy_lets_nobody_in() {
    let study = study(4, "", 10);
    assert_eq!(refusal(&judge("", &study)), "policy.operators");
    assert_eq!(judge(ADA, &study), Decision::AskPerson);
    let automatic = judge(&format!("{ADA}approval = \"automatic\""), &study);
    assert!(matches!(&automatic, Decision::Accept(rule) if rule.as_str() == "policy.approval = automatic"));
}

#[test]
fn every_clause_can_refuse() {
    let plain = study(4, "", 10);
    let exact = study(4, "weight = \"examples\"", 10);
    let grouped = study(24, "groups = { count = 3 }", 10);
    let cases = [
        ("operators = [\"operator/bob\"]", &plain, "policy.operators"),
        ("known_sites = [\"site-01\", \"site-77\"]", &plain, "policy.known_sites"),
        ("min_selection = 5", &plain, "policy.min_selection"),
        ("min_honest = 4", &plain, "policy.min_honest"),
        ("max_clip_norm = 9.9", &plain, "policy.max_clip_norm"),
        ("max_core_time = \"999ms\"", &plain, "policy.max_core_time"),
        ("exact_weights = false", &exact, "policy.exact_weights"),
        ("groups = false", &grouped, "policy.groups"),
    ];
    for (line, study, rule) in cases {
        let text = if line.starts_with("operators") { line.to_owned() } else { format!("{ADA}{line}") };
        assert_eq!(refusal(&judge(&text, study)), rule, "{line}");
    }
    assert_eq!(judge(&format!("{ADA}exact_weights = true"), &exact), Decision::AskPerson);
    assert_eq!(judge(&format!("{ADA}groups = true"), &grouped), Decision::AskPerson);
    assert!(!policy_of(ADA).terms(&grouped).groups && policy_of("groups = true").terms(&grouped).groups);
    assert_eq!(
        judge(&format!("{ADA}min_honest = 3\nmax_clip_norm = 10\nmax_core_time = \"1s\""), &plain),
        Decision::AskPerson
    );

    let policy = policy_of(ADA);
    let roster: BTreeSet<_> = plain.sites.iter().cloned().collect();
    let smaller: BTreeSet<_> = plain.sites[..3].iter().cloned().collect();
    let foreign = policy.judge(&plain, &operator(), &name("elsewhere"), &roster);
    assert_eq!(refusal(&foreign.decision()), "policy.member");
    let unknown = policy.judge(&plain, &operator(), &name("site-00"), &smaller);
    assert_eq!(refusal(&unknown.decision()), "policy.roster");
    let by_site = policy.judge(&plain, &"site/ada".parse().unwrap(), &name("site-00"), &roster);
    assert_eq!(refusal(&by_site.decision()), "policy.operators", "a site is no operator, whatever its name");
}

#[test]
fn the_explanation_shows_each_clause() {
    let study = study(4, "", 10);
    let roster = study.sites.iter().cloned().collect();
    let policy = policy_of(&format!("{ADA}min_selection = 5\nmin_cases = 40"));
    let verdict = policy.judge(&study, &operator(), &name("site-01"), &roster);
    assert_eq!(
        verdict.to_string(),
        "met      operators = [\"operator/ada\"]: the study is signed by operator/ada\n\
         met      member = site-01: the study names this site\n\
         met      roster = the consortium's: all 4 sites are in the consortium's roster\n\
         met      known_sites = []: the study names all of them\n\
         REFUSED  min_selection = 5: the study names 4 sites\n\
         met      min_honest = the study's: 2 apply; of 4 sites 1 may help the coordinator\n\
         met      max_clip_norm = any: the study clips to 10\n\
         met      max_core_time = any: a round takes about 1s of one core for 1000 cases\n\
         met      exact_weights = false: the study weighs by \"coarse\"\n\
         met      groups = false: everybody is summed together\n\
         met      min_cases = 40: 40 apply; the study asks for 10\n\
         refused by min_selection"
    );
}

#[test]
fn a_bad_policy_is_not_loaded() {
    for bad in [
        "min_selection = 2",
        "min_selection = 201",
        "min_honest = 1",
        "min_change = 0",
        "trap_factor = 0.5",
        "trap_factor = nan",
        "min_cases = 0",
        "count_floor = 9",
        "max_clip_norm = 0.0",
        "max_clip_norm = nan",
        "max_core_time = 5",
        "max_core_time = \"0s\"",
        "operators = [\"ada\"]",
        "operators = [\"site/ada\"]",
        "approval = \"always\"",
        "repeat = \"yes\"",
        "known_sites = [\"A B\"]",
        "surprise = 1",
    ] {
        let error = Policy::from_toml(bad).expect_err(bad).to_string();
        assert!(error.contains(bad.split(' ').next().unwrap()), "{bad}: {error}");
    }
    assert!(matches!(Policy::from_toml("operators = [\"ada\"]"), Err(InvalidPolicy::Operator(_))));
}

#[test]
fn one_letter_off_in_any_key_is_an_error() {
    let lines = [
        "operators = []",
        "approval = \"manual\"",
        "known_sites = []",
        "min_selection = 3",
        "min_honest = 2",
        "max_clip_norm = 1.0",
        "max_core_time = \"2h\"",
        "exact_weights = false",
        "groups = false",
        "repeat = \"ask\"",
        "min_change = 1",
        "trap_factor = 3.0",
        "min_cases = 1",
        "count_floor = 10",
    ];
    let whole = policy_of(&lines.join("\n"));
    assert_eq!((whole.approval(), whole.trap_factor()), (Approval::Manual, 3.0));
    for line in lines {
        let key = line.split(' ').next().unwrap();
        for at in 0..key.len() {
            let mut letters = line.as_bytes().to_vec();
            letters[at] = if letters[at] == b'x' { b'y' } else { b'x' };
            let wrong = String::from_utf8(letters).unwrap();
            assert!(Policy::from_toml(&wrong).is_err(), "{wrong}");
        }
    }
}

proptest! {
    /// In each field the stricter of study and policy holds; a study is refused exactly when a floor
    /// cannot be kept; and a refusal names the first clause that is not met, and no other.
    #[test]
    fn the_stricter_value_wins(
        count in 3_usize..20,
        study_cases in 1_u32..100,
        study_honest in 0_u32..20,
        clip in 1_u32..20,
        exact_study: bool,
        policy_honest in prop::option::of(2_u32..20),
        min_selection in 3_u32..20,
        min_change in prop::option::of(1_u32..5),
        max_clip in prop::option::of(1_u32..20),
        exact_policy: bool,
        min_cases in 1_u32..100,
        never: bool,
    ) {
        let most = count as u32 - colluders(count);
        let study_honest = (least_honest(count) + study_honest).min(most);
        let weight = if exact_study { "examples" } else { "coarse" };
        let study = study(
            count,
            &format!("clip_norm = {clip}\nmin_honest = {study_honest}\nweight = \"{weight}\""),
            study_cases,
        );
        let line = |key: &str, value: Option<u32>| value.map_or_else(String::new, |value| format!("{key} = {value}\n"));
        let policy = policy_of(&format!(
            "{ADA}min_selection = {min_selection}\nexact_weights = {exact_policy}\nmin_cases = {min_cases}\n\
             repeat = \"{}\"\n{}{}{}",
            if never { "never" } else { "ask" },
            line("min_honest", policy_honest),
            line("min_change", min_change),
            line("max_clip_norm", max_clip),
        ));

        let terms = policy.terms(&study);
        let honest = study_honest.max(policy_honest.unwrap_or(0));
        prop_assert_eq!(terms.min_honest, honest);
        prop_assert_eq!(terms.min_selection, min_selection);
        prop_assert_eq!(terms.min_change, min_change);
        prop_assert_eq!(terms.repeat, if never { Repeat::Never } else { Repeat::Ask });
        prop_assert_eq!(terms.exact_weights, exact_policy);
        prop_assert_eq!(policy.minimum_cases(&study), study_cases.max(min_cases));

        let broken: Vec<&str> = [
            ("min_selection", count < min_selection as usize),
            ("min_honest", honest > most),
            ("max_clip_norm", max_clip.is_some_and(|most| clip > most)),
            ("exact_weights", exact_study && !exact_policy),
        ]
        .into_iter()
        .filter_map(|(rule, broken)| broken.then_some(rule))
        .collect();
        let roster = study.sites.iter().cloned().collect();
        let verdict = policy.judge(&study, &operator(), &name("site-00"), &roster);
        let unmet: Vec<&str> =
            verdict.clauses().iter().filter(|clause| !clause.is_met()).map(Clause::rule).collect();
        prop_assert_eq!(&unmet, &broken);
        let decided = verdict.decision();
        if let Some(rule) = broken.first() {
            prop_assert_eq!(refusal(&decided), format!("policy.{rule}"));
        } else {
            prop_assert_eq!(decided, Decision::AskPerson);
        }
        prop_assert_eq!(verdict.to_string().matches("refused by").count(), usize::from(!broken.is_empty()));
    }
}
