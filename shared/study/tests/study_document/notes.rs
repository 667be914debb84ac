//! What a study may say, and seldom means.

use consilium_study::check::notes;

use super::{FULL, draft, edited};

#[test]
fn what_is_lawful_and_seldom_meant_is_noted() {
    let of = |text: &str| -> Vec<String> {
        notes(&draft(text), 3).iter().map(|note| format!("{} {note}", note.key())).collect()
    };
    assert!(of(FULL).is_empty());
    let few = edited("minimum_cases = 10", "minimum_cases = 1");
    assert_eq!(
        of(&few),
        [
            "data.minimum_cases data.minimum_cases: a site with 1 of them holds out 0.20 cases on average, so that some hold out \
          none; with fewer than 3 sites that hold out a case no candidate is evaluated, and because of evaluation.gate the study \
          waits; write minimum_cases = 5 or more, or a larger holdout"
        ]
    );
    assert!(of(&edited("minimum_cases = 10", "minimum_cases = 5")).is_empty());
    let none = of(&edited("holdout = 0.2", "holdout = 0.0"));
    assert!(
        none.len() == 1 && none[0].starts_with("data.holdout ") && none[0].contains("holdout = 0.2"),
        "{none:?}"
    );
    // Without a gate a candidate is adopted unseen.
    let gate = "gate = { max_loss_increase = 0.1 }\n";
    for text in [few, edited("holdout = 0.2", "holdout = 0.0")] {
        assert!(of(&text.replace(gate, "")).is_empty());
    }
    for (patience, noted) in [(9, false), (10, true), (11, true)] {
        let text = edited("count = 10", &format!("count = 10\npatience = {patience}"));
        let found = of(&text);
        assert_eq!(found.iter().any(|note| note.starts_with("rounds.patience ")), noted, "{found:?}");
    }
}
