//! Whoever drops out and whenever: unmasking gives exactly the plain sum over the survivors, or nothing.

use std::collections::BTreeSet;

use crate::coordinator::{CollectMasked, NotClosed};
use crate::federation::{
    Disk, Federation, answer, arrive, disks, judge, name, plain_sum, reload, sign, vectors,
};
use crate::layout::{CHUNK_WORDS, Layout};

/// When a site is last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    /// Never: it is offline from the start.
    Never,
    /// Its masked vector arrives, then it is gone.
    Uploading,
    /// It judges its envelopes, then it is gone.
    Judging,
    /// It signs the survivors, then it is gone.
    Signing,
    /// Its training failed: it uploads nothing, but judges and answers.
    WithoutVector,
    /// To the end.
    Always,
}

impl Seen {
    fn uploads(self) -> bool {
        !matches!(self, Self::Never | Self::WithoutVector)
    }
    fn judges(self) -> bool {
        self >= Self::Judging
    }
    fn signs(self) -> bool {
        matches!(self, Self::Signing | Self::Always)
    }
    fn answers(self) -> bool {
        self >= Self::WithoutVector
    }
}

/// Runs an attempt; gives the sum, if the protocol gives one.
fn run(federation: &mut Federation, attempt: u32, seen: &[Seen], inputs: &[Vec<u32>]) -> Option<Vec<u32>> {
    let context = federation.sign(federation.fields(attempt));
    let Federation { pin, nodes, .. } = federation;
    let mut phase = CollectMasked::new(pin, &context, BTreeSet::new()).unwrap();
    for ((node, seen), input) in nodes.iter_mut().zip(seen).zip(inputs) {
        if seen.uploads() {
            let upload = node.upload(pin, &context, input).unwrap();
            arrive(pin, &mut phase, node, upload);
        } else if *seen == Seen::WithoutVector {
            node.say(pin, |machine, book| machine.begin(&context, book)).unwrap();
        }
    }
    let mut phase = reload(&phase);
    for (node, _) in nodes.iter_mut().zip(seen).filter(|(_, seen)| seen.judges()) {
        judge(pin, &mut phase, node);
    }
    let uploaded = seen.iter().filter(|seen| seen.uploads()).count();
    let mut phase = match phase.close(pin, 0) {
        Ok(phase) => reload(&phase),
        Err((_, NotClosed::BelowQuorum { got, want })) => {
            assert!(got == uploaded && got < want);
            return None;
        }
        Err((_, NotClosed::Terms(terms))) => panic!("{terms}"),
    };
    assert_eq!(phase.survivors().len(), uploaded);
    let (survivors, ctx) = (phase.names(), phase.context().hash());
    for (node, _) in nodes.iter_mut().zip(seen).filter(|(_, seen)| seen.signs()) {
        sign(pin, &ctx, &mut phase, node).unwrap();
    }
    let mut phase = reload(&reload(&phase).unmask().ok()?);
    for (node, _) in nodes.iter_mut().zip(seen).filter(|(_, seen)| seen.answers()) {
        answer(pin, &mut phase, node).unwrap();
    }
    let phase = reload(&phase);
    let opened = phase.recover().ok()?;
    Some(federation.sum(phase.context(), &survivors, &opened))
}

/// What the sum has to be, if there has to be one.
fn expected(seen: &[Seen], threshold: usize, inputs: &[Vec<u32>]) -> Option<Vec<u32>> {
    let count = |what: fn(Seen) -> bool| seen.iter().filter(|seen| what(**seen)).count();
    let enough = [count(Seen::uploads), count(Seen::signs), count(Seen::answers)];
    let survivors =
        seen.iter().enumerate().filter(|(_, seen)| seen.uploads()).map(|(at, _)| name(at)).collect();
    enough.iter().all(|sites| *sites >= threshold).then(|| plain_sum(inputs, &survivors))
}

/// Every pattern over `kinds` for `sites` sites, each from the same settled state. Patterns in which more than `most`
/// sites are not there to the end are left out.
fn exhaust(sites: usize, kinds: &[Seen], most: usize) {
    let layout = Layout::of_counts(4);
    let mut federation = Federation::new(sites, &layout);
    let settled = disks(&federation);
    let inputs = vectors(sites, layout.words(), 7);
    let threshold = usize::from(federation.fields(1).thresholds.threshold);
    let mut sums = 0;
    for pattern in 0..kinds.len().pow(sites as u32) {
        let seen: Vec<Seen> =
            (0..sites).map(|site| kinds[pattern / kinds.len().pow(site as u32) % kinds.len()]).collect();
        if seen.iter().filter(|seen| **seen != Seen::Always).count() > most {
            continue;
        }
        for node in &mut federation.nodes {
            node.disk = Disk::clone(&settled[&node.name]);
            node.restart(&federation.pin);
        }
        let sum = run(&mut federation, 1, &seen, &inputs);
        assert_eq!(sum, expected(&seen, threshold, &inputs), "{seen:?}");
        sums += usize::from(sum.is_some());
    }
    assert!(sums > 0);
}

const ALL: [Seen; 6] =
    [Seen::Never, Seen::Uploading, Seen::Judging, Seen::Signing, Seen::WithoutVector, Seen::Always];

#[test]
fn every_dropout_pattern_of_three_sites() {
    exhaust(3, &ALL, 3);
}

#[test]
fn every_dropout_pattern_of_four_sites() {
    exhaust(4, &ALL, 4);
}

#[test]
fn dropout_patterns_of_five_sites() {
    exhaust(5, &ALL, 3);
}

#[test]
fn dropout_patterns_of_six_sites() {
    exhaust(6, &ALL, 3);
}

/// Every site and the coordinator are killed and restarted after everything they do.
#[test]
fn restarts_at_every_step_change_nothing() {
    let layout = Layout::of_counts(4);
    let mut federation = Federation::with(5, &layout, |_| crate::terms::Floors::default(), true);
    let inputs = vectors(5, layout.words(), 3);
    let patterns = [
        [Seen::Always; 5],
        [Seen::Always, Seen::Signing, Seen::Always, Seen::Always, Seen::Always],
        [Seen::WithoutVector, Seen::Always, Seen::Always, Seen::Always, Seen::Always],
        [Seen::Always, Seen::Always, Seen::Always, Seen::Never, Seen::Always],
    ];
    for (attempt, seen) in (1..).zip(patterns) {
        let sum = run(&mut federation, attempt, &seen, &inputs);
        assert_eq!(sum, expected(&seen, 4, &inputs), "{seen:?}");
        assert!(sum.is_some());
    }
}

/// Attempts of one epoch may leave gaps; the chains of all sites meet again.
#[test]
fn missed_attempts_are_skipped() {
    let layout = Layout::of_counts(4);
    let mut federation = Federation::new(4, &layout);
    let inputs = vectors(4, layout.words(), 5);
    let away = [Seen::Always, Seen::Always, Seen::Never, Seen::Always];
    for (attempt, seen) in [(1, [Seen::Always; 4]), (2, away), (9, away), (40, [Seen::Always; 4])] {
        assert_eq!(
            run(&mut federation, attempt, &seen, &inputs),
            expected(&seen, 3, &inputs),
            "attempt {attempt}"
        );
    }
    federation.open_epoch(2, 41);
    assert!(run(&mut federation, 140, &[Seen::Always; 4], &inputs).is_some());
}

#[test]
fn vectors_of_several_chunks_stream() {
    let layout = Layout::of_counts(CHUNK_WORDS as u32 * 2 + 5);
    let mut federation = Federation::new(4, &layout);
    let inputs: Vec<Vec<u32>> = (0..4u32)
        .map(|site| (0..layout.words() as u32).map(|at| at.wrapping_mul(site + 7)).collect())
        .collect();
    let seen = [Seen::Always, Seen::Never, Seen::Always, Seen::Always];
    assert_eq!(run(&mut federation, 1, &seen, &inputs), expected(&seen, 3, &inputs));
    assert_eq!(federation.nodes[0].spool.len(), 3);
}
