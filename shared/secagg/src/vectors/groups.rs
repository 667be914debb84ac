//! Plans and draws of groups, as published.

use std::collections::BTreeMap;

use consilium_study::canonical::Canonical;
use consilium_study::grouping::GroupPlan;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use serde_json::{Value, json};

use super::{hex, unhex};
use crate::grouping::{Drawn, commitment};
use crate::message::{DrawCall, DrawFields, Participant, Reveal};
use crate::numbering::Epoch;
use crate::secret::random;

/// Participants, groups, `c`, `h`.
const PLANS: [(usize, u16, u16, u16); 12] = [
    (12, 2, 3, 3),
    (11, 2, 3, 3),
    (24, 3, 7, 3),
    (23, 3, 7, 3),
    (24, 3, 7, 4),
    (28, 3, 9, 3),
    (45, 5, 14, 3),
    (60, 4, 19, 3),
    (60, 5, 19, 3),
    (199, 7, 66, 3),
    (200, 66, 66, 3),
    (9, 3, 0, 2),
];

fn plan((participants, groups, corrupt, honest): (usize, u16, u16, u16)) -> Value {
    let plan = GroupPlan::new(participants, groups, corrupt, honest).ok();
    let each = |of: fn(GroupPlan, u16) -> u16| {
        plan.map(|plan| (0..groups).map(|group| of(plan, group)).collect::<Vec<_>>())
    };
    json!({
        "participants": participants, "groups": groups, "corrupt": corrupt, "honest": honest,
        "sizes": each(GroupPlan::size), "floors": each(GroupPlan::floor),
    })
}

fn draw(sites: &[&str], groups: u16, nonce: impl Fn(usize) -> [u8; 32]) -> Value {
    let (study, epoch) = (Hash::of_bytes(b"study"), Epoch::new(7).unwrap());
    let participants = sites
        .iter()
        .map(|site| Participant { site: site.parse().unwrap(), advert: Hash::of_bytes(site.as_bytes()) });
    let call = DrawCall::new(DrawFields { study, epoch, participants: participants.collect() }).unwrap();
    let reveals: Vec<Reveal> = sites
        .iter()
        .enumerate()
        .map(|(at, site)| Reveal {
            study,
            epoch,
            site: site.parse().unwrap(),
            draw: call.hash(),
            nonce: nonce(at).into(),
        })
        .collect();
    told(&call, &reveals, groups)
}

fn told(call: &DrawCall, reveals: &[Reveal], groups: u16) -> Value {
    let known: BTreeMap<&SiteName, &Reveal> = reveals.iter().map(|reveal| (&reveal.site, reveal)).collect();
    let drawn = Drawn::new(
        call,
        groups,
        |site| known.get(site).map(|reveal| commitment(reveal)),
        |site| known.get(site).copied(),
    );
    let drawn = drawn.unwrap();
    let of = |reveal: &Reveal| (reveal.site.to_string(), drawn.group_of(&reveal.site).unwrap());
    json!({
        "call": hex(&call.to_canonical()), "groups": groups,
        "reveals": reveals.iter().map(|reveal| hex(&reveal.to_canonical())).collect::<Vec<_>>(),
        "commitments": reveals.iter().map(|reveal| hex(commitment(reveal).as_bytes())).collect::<Vec<_>>(),
        "seed": hex(drawn.seed().as_bytes()),
        "group": reveals.iter().map(of).collect::<BTreeMap<_, _>>(),
    })
}

pub(super) fn make() -> Value {
    json!({
        "format": "consilium-secagg-groups/1",
        "plans": PLANS.map(plan),
        "draws": [
            draw(&["a", "b", "c"], 3, |at| [0x1a + at as u8; 32]),
            draw(&["aachen", "bern", "charite", "dax", "essen", "fulda", "gent"], 3, |_| *random()),
        ],
    })
}

pub(super) fn check(file: &Value) {
    let number = |value: &Value| value.as_u64().unwrap() as u16;
    for case in file["plans"].as_array().unwrap() {
        let [participants, groups, corrupt, honest] =
            ["participants", "groups", "corrupt", "honest"].map(|key| number(&case[key]));
        assert_eq!(plan((participants.into(), groups, corrupt, honest)), *case);
    }
    for case in file["draws"].as_array().unwrap() {
        let call = DrawCall::from_canonical(&unhex(&case["call"])).unwrap();
        let reveals = case["reveals"].as_array().unwrap().iter();
        let reveals: Vec<_> = reveals.map(|reveal| Reveal::from_canonical(&unhex(reveal)).unwrap()).collect();
        assert_eq!(told(&call, &reveals, number(&case["groups"])), *case);
    }
}
