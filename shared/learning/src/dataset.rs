//! Cases in memory: pictures with their labels, and rows of numbers beside them, as training and scoring read them.

use consilium_study::graph::ModelGraph;
use consilium_study::preprocessing::Preprocessing;
use consilium_study::task::{Label, Task};

/// Values of all cases, one after the other, each `[channels, height, width]`, or `[slices, height, width]` of volumes, in 0 to 1.
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
    /// Class of each pixel, case after case, each `[height, width]`; empty where cases are labelled as wholes.
    masks: Vec<u8>,
    /// Numbers beside each case.
    columns: usize,
    /// These numbers, shape `[cases, columns]`, as the model gets them.
    beside: Vec<f32>,
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
        let labels: Vec<Label> = labels.into_iter().map(Into::into).collect();
        if let Some(case) = labels.iter().position(|label| *label == Label::Mask) {
            return Err(InvalidDataset::NoMask { case });
        }
        Ok(Self { shape, pixels, labels, masks: Vec::new(), columns: 0, beside: Vec::new() })
    }

    /// The same of pictures with masks: the class of each pixel, case after case, each `[height, width]`.
    pub fn with_masks(shape: [u32; 3], pixels: Pixels, masks: Vec<u8>) -> Result<Self, InvalidDataset> {
        let places = shape[1] as usize * shape[2] as usize;
        let cases = masks.len() / places.max(1);
        if cases * places != masks.len() {
            return Err(InvalidDataset::MaskLength { got: masks.len(), places });
        }
        let whole = Self::new(shape, pixels, vec![0_u16; cases])?;
        Ok(Self { labels: vec![Label::Mask; cases], masks, ..whole })
    }

    /// The same cases with `columns` numbers beside each, shape `[cases, columns]`.
    pub fn beside(self, columns: usize, numbers: Vec<f32>) -> Result<Self, InvalidDataset> {
        if numbers.len() as u64 != (columns as u64).saturating_mul(self.len() as u64) {
            return Err(InvalidDataset::NumbersLength { got: numbers.len(), cases: self.len(), columns });
        }
        if numbers.iter().any(|number| !number.is_finite()) {
            return Err(InvalidDataset::NumberNotFinite);
        }
        Ok(Self { columns, beside: numbers, ..self })
    }

    /// Number of cases.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no case.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Shape of a case: channels or slices, height, width.
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

    /// Class of each pixel of case `index`, shape `[height, width]`; empty where cases are labelled as wholes.
    pub fn mask(&self, index: usize) -> &[u8] {
        let places = self.places();
        if self.masks.is_empty() { &[] } else { &self.masks[index * places..][..places] }
    }

    /// How many numbers lie beside each case.
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// The numbers beside case `index`.
    pub fn numbers(&self, index: usize) -> &[f32] {
        &self.beside[index * self.columns..][..self.columns]
    }

    /// Number of cases of which each of `labels` labels is true, or in whose masks it is.
    pub fn counts(&self, labels: usize) -> Vec<u32> {
        let count = |place: usize| {
            let holds = |case: &usize| {
                let is_class = |class: &u8| usize::from(*class) == place;
                self.labels[*case].holds(place) || self.mask(*case).iter().any(is_class)
            };
            (0..self.len()).filter(holds).count()
        };
        (0..labels).map(|place| u32::try_from(count(place)).expect("cases are numbered by u32")).collect()
    }

    /// Number of cases in each part that the task divides them into: its classes, or one part where a case may have any
    /// number of findings or has a mask. They add up to the number of cases.
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
        let masks =
            if self.masks.is_empty() { Vec::new() } else { pick(&self.masks, self.places(), indices) };
        let (labels, beside) = (pick(&self.labels, 1, indices), pick(&self.beside, self.columns, indices));
        Self { shape: self.shape, pixels, labels, masks, columns: self.columns, beside }
    }

    /// Checks the cases against the model that is to read them, and that all are of one task.
    pub fn check(&self, graph: &ModelGraph) -> Result<(), InvalidDataset> {
        if self.shape != graph.input() {
            return Err(InvalidDataset::Shape { got: self.shape, want: graph.input() });
        }
        if self.columns != graph.columns() {
            return Err(InvalidDataset::Columns { got: self.columns, want: graph.columns() });
        }
        let classes = graph.classes();
        let misfit = |task| self.labels.iter().position(|label| !label.fits(task, classes));
        let tasks: &[Task] = if graph.is_dense() {
            &[Task::Segmentation]
        } else {
            &[Task::Classification, Task::MultiLabel, Task::Regression]
        };
        // None where there is a task that all labels fit.
        let misfits: Option<Vec<usize>> = tasks.iter().map(|task| misfit(*task)).collect();
        if let Some(case) = misfits.and_then(|misfits| misfits.into_iter().max()) {
            return Err(InvalidDataset::Label { case, label: self.labels[case], classes });
        }
        match self.masks.iter().position(|class| usize::from(*class) >= classes) {
            None => Ok(()),
            Some(place) => {
                let (case, class) = (place / self.places(), self.masks[place]);
                Err(InvalidDataset::MaskClass { case, class, classes })
            }
        }
    }

    /// Number of pixels of a mask.
    fn places(&self) -> usize {
        self.shape[1] as usize * self.shape[2] as usize
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
    /// The number of numbers is not cases times columns.
    #[error("{got} numbers are not {columns} beside each of {cases} cases")]
    NumbersLength {
        /// Number of numbers.
        got: usize,
        /// Number of cases.
        cases: usize,
        /// Numbers beside each.
        columns: usize,
    },
    /// A number beside a case is infinite or not a number.
    #[error("a number beside a picture is not finite")]
    NumberNotFinite,
    /// The model reads more or fewer numbers beside a case.
    #[error("{got} numbers lie beside each picture, the model reads {want}")]
    Columns {
        /// Numbers beside each case.
        got: usize,
        /// What the model reads.
        want: usize,
    },
    /// A case that has a mask comes without one.
    #[error("case {case} has a mask, and there is none beside the pictures")]
    NoMask {
        /// Number of the case.
        case: usize,
    },
    /// The number of classes of pixels is not one of whole masks.
    #[error("{got} classes of pixels are no masks of {places} pixels each")]
    MaskLength {
        /// Number of classes.
        got: usize,
        /// Pixels of a picture.
        places: usize,
    },
    /// A pixel of a class that the model does not score.
    #[error("a pixel of case {case} is of class {class}, and the model scores {classes}")]
    MaskClass {
        /// Number of the case.
        case: usize,
        /// The class of the pixel.
        class: u8,
        /// Number of classes.
        classes: usize,
    },
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
    use consilium_study::graph::{CaseShape, ModelSpec, Preset};
    use proptest::prelude::*;

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
        let graph = crate::testing::graph(Preset::Logistic, None);
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
        let cases = |pixels: usize, masks: Vec<u8>| {
            Dataset::with_masks([1, 2, 2], Pixels::Bytes(vec![0; pixels]), masks)
        };
        let dense = r#"layers = [{ kind = "conv2d", filters = 3, kernel = 1 }]"#;
        let dense = toml::from_str::<consilium_study::graph::ModelSection>(dense).unwrap();
        let dense = dense.graph([1, 2, 2], 3).unwrap();
        let two = cases(8, vec![0, 1, 2, 0, 1, 1, 1, 2]).unwrap();
        assert_eq!(two.check(&dense), Ok(()));
        assert_eq!(
            (two.len(), two.mask(1), two.parts(Task::Segmentation, 3)),
            (2, &[1, 1, 1, 2][..], vec![2])
        );
        assert_eq!(two.select(&[1, 1, 0]).mask(2), [0, 1, 2, 0]);
        let fourth = cases(8, vec![0, 1, 2, 0, 1, 3, 1, 2]).unwrap().check(&dense);
        assert_eq!(fourth, Err(InvalidDataset::MaskClass { case: 1, class: 3, classes: 3 }));
        assert_eq!(cases(8, vec![0; 7]), Err(InvalidDataset::MaskLength { got: 7, places: 4 }));
        assert!(matches!(cases(4, vec![0; 8]), Err(InvalidDataset::Length { cases: 2, .. })));
        assert!(matches!(two.check(&graph), Err(InvalidDataset::Shape { .. })));
        let whole = Dataset::new([1, 2, 2], Pixels::Bytes(vec![0; 4]), vec![0_u16]).unwrap();
        assert!(matches!(whole.check(&dense), Err(InvalidDataset::Label { case: 0, .. })));
        let alone = Dataset::new([1, 2, 2], Pixels::Bytes(vec![0; 4]), vec![Label::Mask]);
        assert_eq!(alone, Err(InvalidDataset::NoMask { case: 0 }));
        for (mean, std) in [(0.0, 0.0), (f64::NAN, 1.0), (0.0, f64::INFINITY), (0.0, 1e-300)] {
            assert!(Preprocessing::new(mean, std).is_err(), "{mean} {std}");
        }
    }

    #[test]
    fn numbers_beside_cases_are_checked_as_cases_are() {
        let three = || Dataset::new([1, 1, 1], Pixels::Bytes(vec![0, 1, 2]), vec![0_u16, 1, 0]).unwrap();
        for (columns, numbers) in [(2, 5), (2, 7), (0, 1), (usize::MAX, 6)] {
            let refused = three().beside(columns, vec![0.5; numbers]);
            let want = InvalidDataset::NumbersLength { got: numbers, cases: 3, columns };
            assert_eq!(refused, Err(want));
        }
        for bad in [f32::NAN, f32::INFINITY] {
            let refused = three().beside(1, vec![0.0, bad, 0.0]);
            assert_eq!(refused, Err(InvalidDataset::NumberNotFinite));
        }
        let logistic = |columns| {
            let graph = ModelSpec::Preset { preset: Preset::Logistic, norm: None, stem: None };
            graph.graph(CaseShape::new([1, 1, 1], columns), 2).unwrap()
        };
        let two = three().beside(2, vec![0.5; 6]).unwrap();
        assert_eq!(two.check(&logistic(2)), Ok(()));
        assert_eq!(two.check(&logistic(3)), Err(InvalidDataset::Columns { got: 2, want: 3 }));
        assert_eq!(two.check(&logistic(0)), Err(InvalidDataset::Columns { got: 2, want: 0 }));
        assert_eq!(three().check(&logistic(2)), Err(InvalidDataset::Columns { got: 0, want: 2 }));
        // No case at all has its columns all the same.
        assert_eq!(two.select(&[]).check(&logistic(2)), Ok(()));
    }

    proptest! {
        /// Whatever is selected in whatever order, numbers stay with their pictures.
        #[test]
        fn numbers_go_with_their_pictures(
            cases in 1_usize..20, columns in 0_usize..4, picked in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        ) {
            let pixels = (0..cases * 2).map(|place| (place / 2) as f32).collect();
            let numbers = (0..cases * columns).map(|place| (place / columns.max(1)) as f32).collect();
            let all = Dataset::new([1, 1, 2], Pixels::Floats(pixels), vec![0_u16; cases]).unwrap();
            let all = all.beside(columns, numbers).unwrap();
            let picked: Vec<usize> = picked.iter().map(|index| index.index(cases)).collect();
            let some = all.select(&picked);
            prop_assert_eq!((some.len(), some.columns()), (picked.len(), columns));
            let Pixels::Floats(pixels) = some.pixels() else { panic!("these cases are floats") };
            for (place, case) in picked.into_iter().enumerate() {
                let same = pixels[2 * place..][..2].iter().chain(some.numbers(place));
                prop_assert!(same.clone().all(|value| value.to_bits() == (case as f32).to_bits()));
                prop_assert_eq!(same.count(), 2 + columns);
            }
        }
    }
}
