//! Whoever drops out and whenever: unmasking gives exactly the plain sum over the survivors, or nothing.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::hash::Hash;
use consilium_study::name::SiteName;

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
    /// It announces its vector and no chunk arrives: it is gone in the middle of the upload.
    Announcing,
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
        !matches!(self, Self::Never | Self::Announcing | Self::WithoutVector)
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
        match seen {
            Seen::Never => {}
            Seen::WithoutVector => {
                node.say(pin, |machine, book| machine.begin(&context, book)).unwrap();
            }
            Seen::Announcing => {
                let upload = node.upload(pin, &context, input).unwrap();
                phase.take_upload(pin, &node.name, upload).unwrap();
            }
            Seen::Uploading | Seen::Judging | Seen::Signing | Seen::Always => {
                let upload = node.upload(pin, &context, input).unwrap();
                arrive(pin, &mut phase, node, upload);
            }
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

/// A federation whose pairs are settled, to run patterns on, each from the same state.
struct Trial {
    federation: Federation,
    settled: BTreeMap<SiteName, Disk>,
    inputs: Vec<Vec<u32>>,
    threshold: usize,
}

impl Trial {
    fn new(sites: usize) -> Self {
        let layout = Layout::of_counts(4);
        let federation = Federation::new(sites, &layout);
        Self {
            settled: disks(&federation),
            inputs: vectors(sites, layout.words(), 7),
            threshold: usize::from(federation.fields(1).thresholds.threshold),
            federation,
        }
    }

    /// Runs one pattern; says whether there was a sum.
    fn check(&mut self, seen: &[Seen]) -> bool {
        for node in &mut self.federation.nodes {
            node.disk = Disk::clone(&self.settled[&node.name]);
            node.restart(&self.federation.pin);
        }
        let sum = run(&mut self.federation, 1, seen, &self.inputs);
        assert_eq!(sum, expected(seen, self.threshold, &self.inputs), "{seen:?}");
        sum.is_some()
    }
}

/// The kinds of loss; the rest of the sites are there to the end.
const LOST: [Seen; 6] =
    [Seen::Never, Seen::Announcing, Seen::Uploading, Seen::Judging, Seen::Signing, Seen::WithoutVector];

/// Every way of losing at most `most` of `sites` sites.
fn patterns(sites: usize, most: usize) -> Vec<Vec<Seen>> {
    let Some(others) = sites.checked_sub(1) else { return vec![Vec::new()] };
    let with = |seen: Seen, most| {
        let mut all = patterns(others, most);
        for pattern in &mut all {
            pattern.push(seen);
        }
        all
    };
    let lost = LOST.into_iter().filter(|_| most > 0).flat_map(|seen| with(seen, most - 1));
    lost.chain(with(Seen::Always, most)).collect()
}

/// Every way of losing `sites` sites, up to all of them where the protocol then gives nothing.
#[test]
fn every_dropout_pattern_of_three_and_four_sites() {
    for (sites, count) in [(3, 7_usize.pow(3)), (4, 7_usize.pow(4))] {
        let mut trial = Trial::new(sites);
        let patterns = patterns(sites, sites);
        assert_eq!(patterns.len(), count);
        let sums = patterns.iter().filter(|seen| trial.check(seen)).count();
        assert!(sums > 0 && sums < count);
    }
}

/// Every pattern of `sites` sites in which no phase lacks more than `sites - t` of them: the sum is there and
/// exact. A site without a vector answers and one that has signed need not, so up to `2 (sites - t)` sites are
/// lost somewhere.
fn every_tolerated_pattern(sites: usize, threshold: usize, count: usize) {
    let mut trial = Trial::new(sites);
    assert_eq!(trial.threshold, threshold);
    let tolerated: Vec<_> = patterns(sites, 2 * (sites - threshold))
        .into_iter()
        .filter(|seen| expected(seen, threshold, &trial.inputs).is_some())
        .collect();
    assert_eq!(tolerated.len(), count);
    for seen in tolerated {
        assert!(trial.check(&seen), "{seen:?}");
    }
}

#[test]
fn every_tolerated_dropout_pattern_of_five_sites() {
    every_tolerated_pattern(5, 4, 51);
}

#[test]
fn every_tolerated_dropout_pattern_of_six_sites() {
    every_tolerated_pattern(6, 5, 67);
}

#[test]
fn every_tolerated_dropout_pattern_of_seven_sites() {
    every_tolerated_pattern(7, 5, 2059);
}

#[test]
fn every_tolerated_dropout_pattern_of_eight_sites() {
    every_tolerated_pattern(8, 6, 3157);
}

/// One site more than may be lost is lost in some phase: there is no sum, and nobody panics.
#[test]
fn one_loss_too_many_gives_nothing() {
    for sites in 5..=8 {
        let mut trial = Trial::new(sites);
        for lost in LOST {
            let mut seen = vec![Seen::Always; sites];
            seen[..=sites - trial.threshold].fill(lost);
            assert!(!trial.check(&seen), "{seen:?}");
        }
    }
}

/// Random patterns, mostly at the edge of what is tolerated.
#[test]
fn random_dropout_patterns_of_up_to_a_hundred_sites() {
    for (sites, runs) in [(10, 16), (16, 10), (33, 3), (64, 1), (100, 1)] {
        let mut trial = Trial::new(sites);
        let tolerated = sites - trial.threshold;
        let mut sums = 0;
        for run in 0..runs {
            let mut draws = Draws::new(&[b"dropouts".as_slice(), &[sites as u8, run]].concat());
            // Every other run loses as many as it can; of the others some lose one too many.
            let most = if run % 2 == 0 { tolerated } else { draws.below(tolerated + 2) };
            let mut seen = vec![Seen::Always; sites];
            for _ in 0..most {
                seen[draws.below(sites)] = LOST[draws.below(LOST.len())];
            }
            sums += usize::from(trial.check(&seen));
        }
        assert!(sums > 0, "{sites} sites");
    }
}

/// Numbers that are the same in every run of the tests.
struct Draws(Hash);

impl Draws {
    fn new(seed: &[u8]) -> Self {
        Self(Hash::of_bytes(seed))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = Hash::of_bytes(self.0.as_bytes());
        let word = u64::from_le_bytes(self.0.as_bytes()[..8].try_into().unwrap());
        (word % bound as u64) as usize
    }
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
