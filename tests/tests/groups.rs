//! Two dozen hospitals by real processes: groups that they draw together, sums in the packed ring, a median.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use consilium_tests::{Lab, Programs, Study};

const PROGRAMS: Programs = Programs {
    consilium: env!("CARGO_BIN_EXE_consilium-under-test"),
    coordinator: env!("CARGO_BIN_EXE_coordinator-under-test"),
    site_agent: env!("CARGO_BIN_EXE_site-agent-under-test"),
};
const PATIENCE: Duration = Duration::from_mins(5);

#[test]
fn two_dozen_hospitals_draw_groups_and_release_a_model_that_verifies() {
    let mut lab = Lab::new(PROGRAMS, 24).unwrap();
    for site in lab.sites() {
        lab.add_policy(site, "groups = true").unwrap();
    }
    lab.start_agents().unwrap();
    let study = Study {
        rounds: 2,
        aggregation: "groups = { count = 3, combine = \"median\" }\nring_bits = 16\n",
        collect_timeout: "120s",
        ..Study::default()
    };
    lab.launch_with_all(&study, PATIENCE).unwrap();
    // One dies while the others train, and comes back: without it its group would stay out, and the round with it.
    lab.wait_for("lungs", PATIENCE, |status| status["attempt"] == 1).unwrap();
    lab.kill_agent("c").unwrap();
    lab.start_agent("c", &[]).unwrap();
    lab.released("lungs", PATIENCE).unwrap();

    let told = lab.consilium(&["audit", "verify", lab.path().to_str().unwrap()]).unwrap();
    let counted = told.lines().filter(|line| line.contains("(train): 24 of 24 counted")).collect::<Vec<_>>();
    assert_eq!(counted.len(), 2, "{told}");
    assert!(counted.iter().all(|line| line.contains("in 3 groups that were summed apart")), "{told}");
    assert!(told.contains("a weaker promise than a sum over everybody"), "{told}");
    let log = lab.consilium(&["audit", "log", lab.path().to_str().unwrap()]).unwrap();
    assert_eq!(log.matches("groups were drawn by 24 sites").count(), 1, "{log}");
}
