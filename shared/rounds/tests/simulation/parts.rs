//! What the simulation is made of: chance, a study, and sites with one-hot updates.

use std::collections::BTreeMap;

use consilium_rounds::control::{NoVariate, OwnVariate, correction};
use consilium_rounds::local::{Trained, Work};
use consilium_rounds::metrics::EvaluationCounts;
use consilium_rounds::reason::Withdrawal;
use consilium_rounds::vector::evaluation_shape;
use consilium_secagg::context::Context;
use consilium_secagg::numbering::Attempt;
use consilium_study::document::Study;
use consilium_study::hash::{Hash, Hasher};
use consilium_study::name::{Principal, SiteName};
use consilium_study::task::Label;

/// Whatever is decided by chance.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// The entry that everybody moves; no site has this position.
pub(crate) const SHARED: usize = 33;

/// One-hot updates: whoever is counted twice or not at all shows.
pub(crate) struct OneHot {
    pub(crate) study: Study,
    pub(crate) position: usize,
    /// Length of its update in a round.
    pub(crate) length: fn(u32) -> f32,
    /// Loss of the candidate minus loss of the start, in steps.
    pub(crate) worse: bool,
    /// It declines candidates as starting models.
    pub(crate) declines: bool,
    /// It has no held-out cases.
    pub(crate) blind: bool,
    /// Why it leaves whenever it is to train.
    pub(crate) leaves: Option<Withdrawal>,
    /// Its control variate, in a study that has them, and their means by hash.
    pub(crate) variate: Option<OwnVariate>,
    pub(crate) means: BTreeMap<Hash, Vec<f32>>,
}

impl OneHot {
    /// The variate that a training begins with.
    fn at_start(&self, context: &Context) -> Result<Option<(Attempt, &[f32])>, NoVariate> {
        let site = context.selection.index_of(&name(self.position)).unwrap();
        OwnVariate::at_start(self.variate.as_ref(), context, site)
    }
}

impl Work for OneHot {
    fn train(&mut self, context: &Context) -> Result<Trained, Withdrawal> {
        if let Some(why) = self.leaves {
            return Err(why);
        }
        self.at_start(context).map_err(|_| Withdrawal::VariateLost)?;
        let mut update = vec![0.0; context.layout.entries()];
        update[self.position] = (self.length)(context.round.get());
        // What everybody finds, so that no rule makes the model that there was.
        update[SHARED] = 0.125;
        Ok(Trained { update, mean_loss: 0.5, busy_ms: 10 })
    }

    fn sent(&mut self, context: &Context, sent: &[f32]) {
        let (graph, before) = (&self.study.model, self.at_start(context).unwrap());
        let own = before.map(|(_, own)| own);
        let control = context.control.as_ref();
        let correction = control.map(|control| correction(graph, &self.means[&control.mean], own));
        self.variate = Some(OwnVariate::after(&self.study, context, before, correction.as_deref(), sent));
    }

    fn evaluate(&mut self, _: &Context) -> Result<EvaluationCounts, Withdrawal> {
        if self.blind {
            return Err(Withdrawal::NothingHeldOut);
        }
        let mut counts = EvaluationCounts::new(evaluation_shape(&self.study));
        if self.declines {
            counts.decline();
        }
        for case in 0..=self.position {
            let candidate = if self.worse { [0.5, 0.5] } else { [0.2, 0.8] };
            counts.add(&candidate, 0.51, Label::Class(1));
            counts.add(&[0.7, 0.3], 0.7, Label::Class((case % 2) as u16));
        }
        Ok(counts)
    }
}

pub(crate) fn study_text(sites: usize, rounds: u32, extra: &str, gate: &str) -> String {
    let names: Vec<String> = (0..sites).map(|site| format!("\"{}\"", name(site))).collect();
    format!(
        "format = 1\nname = \"sim\"\ntitle = \"simulation\"\nsites = [{}]\nseed = 1\n\
         [data]\nlabels = [\"no\", \"yes\"]\nchannels = 1\nheight = 4\nwidth = 4\nmean = 0.5\nstd = 0.5\n\
         [model]\npreset = \"logistic\"\n\
         [training]\noptimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 4\nepochs = 1\n\
         [rounds]\ncount = {rounds}\nquorum = 3\ncollect_timeout = \"60s\"\nevaluate_timeout = \"30s\"\nsetup_timeout = \"20s\"\n{extra}\n\
         [evaluation]\nbins = 16\n{gate}\n",
        names.join(", ")
    )
}

pub(crate) fn name(site: usize) -> SiteName {
    SiteName::new(format!("s{site:02}")).unwrap()
}

pub(crate) fn hash_of_model(parameters: &[f32]) -> Hash {
    let mut hasher = Hasher::new();
    for entry in parameters {
        hasher.update(&entry.to_le_bytes());
    }
    hasher.finish()
}

pub(crate) fn operator() -> Principal {
    "operator/o".parse().unwrap()
}
