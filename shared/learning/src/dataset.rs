//! Cases in memory: pictures with their labels, as training and scoring read them.

use consilium_study::graph::ModelGraph;
use consilium_study::preprocessing::Preprocessing;
use consilium_study::task::{Label, Task};

/// Values of all pictures, case after case, each `[channels, height, width]`, in 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub enum Pixels {
    /// A byte per value, 255 being 1.
    Bytes(Vec<u8>),
    /// The values themselves; finite.
    Floats(Vec<f32>),
}

impl Pixels {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(values) => values.len(),
            Self::Floats(values) => values.len(),
        }
    }
}

/// Labelled cases of one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    shape: [u32; 3],
    pixels: Pixels,
    labels: Vec<Label>,
}

impl Dataset {
    /// Checks that there are as many pictures of `shape` (channels, height, width) as labels.
    pub fn new<L: Into<Label>>(
        shape: [u32; 3],
        pixels: Pixels,
        labels: Vec<L>,
    ) -> Result<Self, InvalidDataset> {
        let values = shape.iter().fold(1_u64, |all, &side| all.saturating_mul(u64::from(side)));
        let wanted = values.saturating_mul(labels.len() as u64);
        if pixels.len() as u64 != wanted {
            return Err(InvalidDataset::Length { got: pixels.len(), cases: labels.len(), shape });
        }
        if u32::try_from(labels.len()).is_err() {
            return Err(InvalidDataset::TooMany);
        }
        if let Pixels::Floats(values) = &pixels
            && values.iter().any(|value| !value.is_finite())
        {
            return Err(InvalidDataset::NotFinite);
        }
        Ok(Self { shape, pixels, labels: labels.into_iter().map(Into::into).collect() })
    }

    /// Number of cases.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no case.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Shape of a picture: channels, height, width.
    pub const fn shape(&self) -> [u32; 3] {
        self.shape
    }

    /// Values of all pictures, one after the other.
    pub const fn pixels(&self) -> &Pixels {
        &self.pixels
    }

    /// Label of every case.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// Number of cases of which each of `labels` labels is true.
    pub fn counts(&self, labels: usize) -> Vec<u32> {
        let count = |place| self.labels.iter().filter(|label| label.holds(place)).count();
        (0..labels).map(|place| u32::try_from(count(place)).expect("cases are numbered by u32")).collect()
    }

    /// Number of cases in each part that the task divides them into: its classes, or one part where a case may have any
    /// number of findings. They add up to the number of cases.
    pub fn parts(&self, task: Task, labels: usize) -> Vec<u32> {
        if task.is_exclusive() {
            self.counts(labels)
        } else {
            vec![u32::try_from(self.len()).expect("cases are numbered by u32")]
        }
    }

    /// The cases at `indices`, in that order.
    ///
    /// # Panics
    /// When an index is not below [`Dataset::len`].
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        fn pick<T: Copy>(values: &[T], size: usize, indices: &[usize]) -> Vec<T> {
            indices.iter().flat_map(|index| &values[index * size..][..size]).copied().collect()
        }
        let size = self.case_len();
        let pixels = match &self.pixels {
            Pixels::Bytes(values) => Pixels::Bytes(pick(values, size, indices)),
            Pixels::Floats(values) => Pixels::Floats(pick(values, size, indices)),
        };
        Self { shape: self.shape, pixels, labels: pick(&self.labels, 1, indices) }
    }

    /// Checks the cases against the model that is to read them, and that all are of one task.
    pub fn check(&self, graph: &ModelGraph) -> Result<(), InvalidDataset> {
        if self.shape != graph.input() {
            return Err(InvalidDataset::Shape { got: self.shape, want: graph.input() });
        }
        let classes = graph.classes();
        let fit = |task| self.labels.iter().position(|label| !label.fits(task, classes));
        match (fit(Task::Classification), fit(Task::MultiLabel)) {
            (None, _) | (_, None) => Ok(()),
            (Some(one), Some(other)) => {
                let case = one.max(other);
                Err(InvalidDataset::Label { case, label: self.labels[case], classes })
            }
        }
    }

    pub(crate) fn case_len(&self) -> usize {
        self.shape.iter().map(|&side| side as usize).product()
    }

    /// Writes case `index`, preprocessed, to `out`.
    pub(crate) fn read(&self, index: usize, preprocessing: Preprocessing, out: &mut [f32]) {
        let size = self.case_len();
        let (mean, deviation) = (preprocessing.mean() as f32, preprocessing.std() as f32);
        match &self.pixels {
            Pixels::Bytes(values) => {
                for (out, &value) in out.iter_mut().zip(&values[index * size..][..size]) {
                    *out = (f32::from(value) / 255.0 - mean) / deviation;
                }
            }
            Pixels::Floats(values) => {
                for (out, value) in out.iter_mut().zip(&values[index * size..][..size]) {
                    *out = (value - mean) / deviation;
                }
            }
        }
    }
}

/// Why values are not cases of a study.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDataset {
    /// The number of values is not cases times picture.
    #[error("{got} values are not {cases} pictures of {shape:?}")]
    Length {
        /// Number of values.
        got: usize,
        /// Number of labels.
        cases: usize,
        /// Shape of one picture.
        shape: [u32; 3],
    },
    /// Cases are numbered by u32.
    #[error("more than 4294967295 cases")]
    TooMany,
    /// A value is infinite or not a number.
    #[error("a picture holds a value that is not finite")]
    NotFinite,
    /// The model reads another shape.
    #[error("pictures have shape {got:?}, the model reads {want:?}")]
    Shape {
        /// Shape of the pictures.
        got: [u32; 3],
        /// What the model reads.
        want: [u32; 3],
    },
    /// A label that the model does not score, or that is of another task than those before.
    #[error(
        "case {case} has the label {label:?}, which is not one of the model's {classes}, or not as those before"
    )]
    Label {
        /// Number of the case.
        case: usize,
        /// Its label.
        label: Label,
        /// Number of classes.
        classes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_floats_read_alike() {
        let bytes = Dataset::new([1, 1, 2], Pixels::Bytes(vec![0, 255, 51, 102]), vec![0_u16, 1]).unwrap();
        let floats = Pixels::Floats(vec![0.0, 1.0, 51.0 / 255.0, 102.0 / 255.0]);
        let floats = Dataset::new([1, 1, 2], floats, vec![0_u16, 1]).unwrap();
        let preprocessing = Preprocessing::new(0.5, 0.25).unwrap();
        let read = |data: &Dataset| {
            let mut out = [0.0; 2];
            data.read(1, preprocessing, &mut out);
            out.map(f32::to_bits)
        };
        assert_eq!(read(&bytes), read(&floats));
        let turned = bytes.select(&[1, 0]);
        assert_eq!(
            (turned.labels(), read(&turned)),
            (&[Label::Class(1), Label::Class(0)][..], [-2.0, 2.0].map(f32::to_bits))
        );
        let mut first = [0.0; 2];
        bytes.read(0, preprocessing, &mut first);
        assert_eq!(first.map(f32::to_bits), [-2.0, 2.0].map(f32::to_bits));
    }

    #[test]
    fn lengths_and_values_are_checked() {
        let short = Dataset::new([1, 2, 2], Pixels::Bytes(vec![0; 7]), vec![0_u16, 1]);
        assert!(matches!(short, Err(InvalidDataset::Length { got: 7, .. })));
        let huge = Dataset::new([u32::MAX; 3], Pixels::Bytes(vec![]), vec![0_u16, 1]);
        assert!(matches!(huge, Err(InvalidDataset::Length { .. })));
        let nan = Dataset::new([1, 1, 1], Pixels::Floats(vec![f32::NAN]), vec![0_u16]);
        assert_eq!(nan, Err(InvalidDataset::NotFinite));
        let of =
            |labels: &[Label]| Dataset::new([1, 1, 1], Pixels::Bytes(vec![0; 3]), labels.to_vec()).unwrap();
        let graph = crate::testing::graph(consilium_study::graph::Preset::Logistic, None);
        let graph = ModelGraph::new([1, 1, 1], graph.layers().to_vec()).unwrap();
        let (class, findings) = (Label::Class, Label::Findings);
        assert_eq!(of(&[class(0), class(1), class(1)]).check(&graph), Ok(()));
        assert_eq!(of(&[findings(0), findings(3), findings(1)]).check(&graph), Ok(()));
        for (labels, case) in [
            ([class(0), class(2), class(1)], 1),
            ([findings(0), findings(3), findings(4)], 2),
            ([findings(0), class(1), findings(1)], 1),
            ([class(0), class(1), findings(1)], 2),
        ] {
            let refused = of(&labels).check(&graph).unwrap_err();
            assert!(matches!(refused, InvalidDataset::Label { case: at, .. } if at == case), "{refused}");
        }
        for (mean, std) in [(0.0, 0.0), (f64::NAN, 1.0), (0.0, f64::INFINITY), (0.0, 1e-300)] {
            assert!(Preprocessing::new(mean, std).is_err(), "{mean} {std}");
        }
    }
}
