use super::*;

use consilium_rounds::reason::CandidateRefusal;
use consilium_rounds::status::{Kind, LineState, RoundLine};
use consilium_study::metric::Metric;

fn line() -> RoundLine {
    RoundLine {
        round: 3,
        kind: Kind::Train,
        state: LineState::Trained,
        loss: Some(0.41239),
        auroc: None,
        metric: None,
        figure: None,
        selected: 4,
        counted: 4,
        missing: Vec::new(),
        bytes_up: 6_900_000,
        bytes_down: 1_700_000,
        seconds: 2.34,
        overhead_seconds: Some(0.41),
        absent: Vec::new(),
    }
}

fn read(line: &RoundLine) -> LineView {
    serde_json::from_str(&serde_json::to_string(line).unwrap()).unwrap()
}

#[test]
fn a_round_is_one_line() {
    assert_eq!(
        round_line(&read(&line()), 10),
        "round  3/10  train     trained      loss 0.4124  auroc -       counted 4/4    6.9 MB up    1.7 MB down     \
         2.3 s (0.4 s overhead)"
    );
    let mut view = read(&RoundLine {
        kind: Kind::Evaluate,
        state: LineState::Adopted,
        auroc: Some(0.95),
        overhead_seconds: None,
        counted: 3,
        ..line()
    });
    view.missing = vec!["b\x1b[2J".into()];
    view.absent = vec!["c".into(), "d".into()];
    assert_eq!(
        round_line(&view, 10),
        "round  3/10  evaluate  adopted      loss 0.4124  auroc 0.9500  counted 3/4    6.9 MB up    1.7 MB down     \
         2.3 s  missing b[2J  absent c, d"
    );
}

#[test]
fn a_study_that_picks_by_another_metric_shows_that() {
    let line = RoundLine { metric: Some(Metric::Dice), figure: Some(0.8125), ..line() };
    let text = round_line(&read(&line), 10);
    assert!(text.contains("loss 0.4124  dice 0.8125  counted 4/4") && !text.contains("auroc"), "{text}");
}

#[test]
fn a_round_says_why_its_candidate_was_refused() {
    let refused = RoundLine { state: LineState::Refused(CandidateRefusal::TooFewWilling), ..line() };
    let text = round_line(&read(&refused), 10);
    assert!(text.contains("refused") && text.ends_with("too few hospitals would train from it"), "{text}");
}

#[test]
fn every_wait_names_who_for_whom_since_and_until() {
    let status = StatusView::read(
        r#"{"study":"00","name":"lungs","state":"running","round":2,"rounds":10,"kind":"train","attempt":5,
            "phase":"collect_masked","model":"00","sites":[
              {"site":"a","rung":"training","connected":true,"stage":"training","done":1,"total":4,"missing":null},
              {"site":"b","rung":"away","connected":false,"stage":null,"done":0,"total":0,
               "missing":{"site":"b","dropout":"withdrew","withdrawal":"no_data"}}],
            "waits":[
              {"reason":"uploads","sites":["a"],"since":1700000000000,"until":1700007200000},
              {"reason":{"sites":{"kind":"too_few","ready":2,"needed":3}},"sites":["b"],"since":1700000000000,"until":null},
              {"reason":"start","sites":[],"since":1700000000000,"until":null}],
            "lines":[]}"#,
    )
    .unwrap();
    assert_eq!(
        status.people(1_700_000_061_000),
        "lungs: running, round 2 of 10; attempt 5 (train, collect masked)\n  \
         waits for masked updates: a, since 2023-11-14T22:13:20Z (1 min 1 s), until 2023-11-15T00:13:20Z (in 1 h 58 min)\n  \
         waits for enough ready sites, 2 of 3: b, since 2023-11-14T22:13:20Z (1 min 1 s), without an end\n  \
         waits for an operator: consilium study start lungs, since 2023-11-14T22:13:20Z (1 min 1 s), without an end\n\n\
         site  is        link  doing\n\
         a     training  up    training 25 %\n\
         b     away      down  withdrew: no data"
    );
}

#[test]
fn durations_have_two_units() {
    let second = 1000;
    assert_eq!(duration(59 * second), "59 s");
    assert_eq!(duration(61 * second), "1 min 1 s");
    assert_eq!(duration(7_260 * second), "2 h 1 min");
    assert_eq!(duration(90_000 * second), "1 d 1 h");
}
