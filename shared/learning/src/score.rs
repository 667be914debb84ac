//! What a model says about cases.

use burn::tensor::Device;
use consilium_study::graph::ModelGraph;

use consilium_study::preprocessing::Preprocessing;
use consilium_study::task::Task;

use crate::dataset::{Dataset, InvalidDataset};
use crate::interpret::{Cases, ScoringPass, logits};
use crate::loss::probabilities;
use crate::tensors::{Leaves, values};

/// Most cases scored together.
const BATCH: u64 = 64;
/// Values in the layers above which fewer are: 256 MiB in f32.
const BATCH_ACTIVATIONS: u64 = 1 << 26;

/// A probability per case and class, or per case and finding; or per pixel and class.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    classes: usize,
    /// Probabilities of one case.
    size: usize,
    values: Vec<f32>,
}

impl Scores {
    /// Number of cases.
    pub fn len(&self) -> usize {
        self.values.len() / self.size
    }

    /// Whether there is no case.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of classes or findings.
    pub const fn classes(&self) -> usize {
        self.classes
    }

    /// Probabilities of each case, in the order of the data. Those of classes sum to 1. Those of pixels follow each other,
    /// `[height, width, classes]`.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.size)
    }

    /// Probability of one class for each case.
    pub fn of_class(&self, class: usize) -> impl ExactSizeIterator<Item = f32> + '_ {
        self.iter().map(move |case| case[class])
    }
}

/// How a model's outputs become probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// What is asked of a case.
    pub task: Task,
    /// What outputs are divided by before (Guo et al. 2017); above 0.
    pub temperature: f64,
}

impl From<Task> for Link {
    fn from(task: Task) -> Self {
        Self { task, temperature: 1.0 }
    }
}

/// Why cases cannot be scored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// The model is not one of the graph.
    #[error("the model has {got} numbers, the graph has {want}")]
    WrongLength {
        /// Numbers of the model.
        got: usize,
        /// Numbers of the graph.
        want: usize,
    },
    /// The cases do not fit the graph.
    #[error(transparent)]
    Dataset(#[from] InvalidDataset),
}

/// Scores every case of `data`; its labels are not looked at. Running statistics are used, nothing is dropped or varied.
pub fn score(
    graph: &ModelGraph,
    preprocessing: Preprocessing,
    link: impl Into<Link>,
    model: &[f32],
    data: &Dataset,
) -> Result<Scores, ScoreError> {
    let size = graph.places() * graph.classes();
    let mut values = Vec::with_capacity(data.len() * size);
    score_each(graph, preprocessing, link, model, data, &mut |_, scores| values.extend_from_slice(scores))?;
    Ok(Scores { classes: graph.classes(), size, values })
}

/// The same without keeping anything: `each` gets the place of each case in the data and its probabilities, as in
/// [`Scores::iter`]. Those of pixels can be many.
pub fn score_each(
    graph: &ModelGraph,
    preprocessing: Preprocessing,
    link: impl Into<Link>,
    model: &[f32],
    data: &Dataset,
    each: &mut dyn FnMut(usize, &[f32]),
) -> Result<(), ScoreError> {
    if model.len() != graph.len() {
        return Err(ScoreError::WrongLength { got: model.len(), want: graph.len() });
    }
    data.check(graph)?;
    let link = link.into();
    let device = Device::flex();
    let leaves = Leaves::constant(graph, model, &device);
    let size = data.case_len();
    let together = (BATCH_ACTIVATIONS / graph.activations_per_case().max(1)).clamp(1, BATCH) as usize;
    for first in (0..data.len()).step_by(together) {
        let past = (first + together).min(data.len());
        let mut images = vec![0.0; (past - first) * size];
        for (case, image) in (first..past).zip(images.chunks_exact_mut(size)) {
            data.read(case, preprocessing, image);
        }
        let beside = (first..past).flat_map(|case| data.numbers(case)).copied().collect();
        let cases = Cases::of(graph, images, beside, &device);
        let scores = logits(graph, &leaves, cases, &mut ScoringPass);
        let scores = probabilities(&values(&scores.into_data()), graph.classes(), link);
        let of_cases = scores.chunks_exact(graph.places() * graph.classes());
        (first..past).zip(of_cases).for_each(|(case, scores)| each(case, scores));
    }
    Ok(())
}
