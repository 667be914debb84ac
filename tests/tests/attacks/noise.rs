//! What is left without the whole protocol is noise; and the test for noise can fail.

use consilium_rounds::message::{Directive, SiteMessage};
use consilium_secagg::layout::{Block, BlockKind, Layout};
use consilium_tests::Study;

use crate::statistics::{is_uniform, to_bytes, to_words};
use crate::{PATIENCE, Scene, forge, number, patient};

/// The sites that see the truth; the victim is `a`.
const OTHERS: [&str; 3] = ["b", "c", "d"];
const ALL: [&str; 4] = ["a", "b", "c", "d"];

/// A model with enough parameters for a test of frequencies, and rounds that go on without the victim.
fn study(rounds: u32) -> Study {
    Study { model: "small-cnn", rounds, required: vec![], collect_timeout: "8s", ..patient(4) }
}

impl Scene {
    /// Nothing that the victim masks in an attempt gets to the real coordinator, nor does the attempt's true context
    /// get to the victim.
    fn split_off_in(&self, attempt: u32) {
        self.hostile.on_directive(move |site, directive| match directive {
            Directive::Begin { context } if site == "a" && number(&context) == attempt => vec![],
            other => vec![other],
        });
        self.hostile.on_message(move |site, message| match message {
            SiteMessage::Masked(masked) if site == "a" && masked.attempt.get() == attempt => None,
            other => Some(other),
        });
    }

    /// The others have opened their sum, which says something; with the vector of the victim, who was shown a lie, it
    /// says nothing. This is all that a coordinator gets: too few saw the lie to open the victim's own mask. That the
    /// masks of pairs do not cancel either, is for the tests of `masker.rs`, which can take that one off.
    fn leaves_noise(&self, attempt: u32) {
        self.awaits_masked("a", attempt);
        self.context("b", attempt + 1);
        let context = self.context("b", attempt);
        let masks = self.opened_masks(&context, &OTHERS);
        let honest = self.sum(&context, &OTHERS, &masks);
        assert!(!is_uniform(&to_bytes(&honest)), "the sum of those who saw the same is plain");
        let with_victim = self.sum(&context, &ALL, &masks);
        assert!(is_uniform(&to_bytes(&with_victim)), "the masks of the victim do not cancel");
    }
}

/// Another range for the numbers of one site would show it in finer steps.
#[test]
fn a_site_that_is_shown_other_parameters_leaves_noise() {
    let mut scene = Scene::new(4);
    scene.split_off_in(1);
    scene.lab.start_agents().unwrap();
    scene.lab.launch_with_all(&study(1), PATIENCE).unwrap();
    let honest = scene.context("a", 1);
    let context = forge::context(&scene.hostile, &honest, |fields| {
        let counts = fields.layout.counts().len() as u32;
        let finer = fields.layout.blocks().iter().map(|block| match block.kind {
            BlockKind::Update => Block { range_exponent: block.range_exponent - 1, ..*block },
            BlockKind::Statistics => *block,
        });
        fields.layout = Layout::new(finer.collect(), counts).unwrap();
    });
    scene.hostile.tell("a", Directive::Begin { context }).unwrap();
    scene.leaves_noise(1);
}

/// The same numbers in another file: not even that is the same model.
#[test]
fn a_site_that_is_shown_another_model_leaves_noise() {
    let mut scene = Scene::new(4);
    scene.split_off_in(3);
    scene.lab.start_agents().unwrap();
    scene.lab.launch_with_all(&study(2), PATIENCE).unwrap();
    let honest = scene.context("a", 3);
    let mut twin = scene.model(honest.claim().unwrap().model);
    twin.origin = None;
    let model = scene.hostile.serve(twin.to_bytes());
    let context = forge::context(&scene.hostile, &honest, |fields| fields.model = model);
    scene.hostile.tell("a", Directive::Begin { context }).unwrap();
    scene.leaves_noise(3);
}

/// One masked vector shows nothing. Were the masks any weaker, this test would see it.
#[test]
fn a_masked_vector_is_noise_and_under_weaker_masks_it_is_not() {
    let mut scene = Scene::new(4);
    scene.lab.start_agents().unwrap();
    scene.lab.launch_with_all(&Study { model: "small-cnn", ..patient(4) }, PATIENCE).unwrap();
    scene.context("a", 2);
    let context = scene.context("a", 1);
    let vectors = ALL.map(|site| scene.hostile.upload(site, 1).unwrap());
    for vector in &vectors {
        assert!(is_uniform(vector));
    }
    // No two are under one mask, nor does half of the masks cancel.
    for (position, vector) in vectors.iter().enumerate() {
        for other in &vectors[..position] {
            assert!(is_uniform(&joined(vector, other, u32::wrapping_sub)));
            assert!(is_uniform(&joined(vector, other, u32::wrapping_add)));
        }
    }

    let plain = to_bytes(&scene.sum(&context, &ALL, &scene.opened_masks(&context, &ALL)));
    let mask = &vectors[0];
    let weaker = |weaken: &dyn Fn(usize, u32) -> u32| {
        let mask: Vec<_> =
            to_words(mask).into_iter().enumerate().map(|(at, word)| weaken(at, word)).collect();
        joined(&plain, &to_bytes(&mask), u32::wrapping_add)
    };
    let first = to_words(mask);
    assert!(is_uniform(&weaker(&|_, word| word)), "under such a mask it is noise");
    assert!(!is_uniform(&weaker(&|_, _| 0)), "none");
    assert!(!is_uniform(&weaker(&|_, _| first[0])), "one word for all");
    assert!(!is_uniform(&weaker(&|at, _| first[at % 16])), "a stream that repeats after 64 bytes");
    assert!(!is_uniform(&weaker(&|_, word| word & 0xffff)), "16 bits");
    assert!(!is_uniform(&weaker(&|_, word| word & 0x7fff_ffff)), "31 bits");
    let used_twice = joined(&weaker(&|_, word| word), mask, u32::wrapping_sub);
    assert!(!is_uniform(&used_twice), "a mask of which a second use is known");
}

fn joined(a: &[u8], b: &[u8], join: impl Fn(u32, u32) -> u32) -> Vec<u8> {
    let words = to_words(a).into_iter().zip(to_words(b));
    to_bytes(&words.map(|(a, b)| join(a, b)).collect::<Vec<_>>())
}
