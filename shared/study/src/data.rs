//! What a case of a study is: a picture, a row of a table, or a picture with such a row beside it.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::canonical::is_default;
use crate::graph::{CaseShape, Shape};
use crate::preprocessing::Window;
use crate::quantity::Share;
use crate::task::{Range, Task};

/// What a case is, and how it becomes numbers.
///
/// A case is a picture of `[channels, height, width]`, with `depth` a volume of `[channels, depth, height, width]`, or with
/// `inputs` a row of so many numbers, `[inputs, 1, 1]`. Where cases are
/// rows, the size of a picture, mean and standard deviation are not written, because they follow. Where they are written, and
/// `inputs` too, that row lies beside each picture: [`Data::beside`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Encode, Decode)]
#[serde(try_from = "Section", into = "Section")]
#[cbor(map)]
pub struct Data {
    /// Names of the classes, or of the findings; the position is the number. Of a regression the name of what is measured.
    #[n(0)]
    pub labels: Vec<String>,
    /// Colour channels of an image.
    #[n(1)]
    pub channels: u32,
    /// Rows the image is brought to.
    #[n(2)]
    pub height: u32,
    /// Columns the image is brought to.
    #[n(3)]
    pub width: u32,
    /// Subtracted from every pixel value, which lies between 0 and 1.
    #[n(4)]
    pub mean: f64,
    /// Then divided by this.
    #[n(5)]
    pub std: f64,
    /// Share of patients held out for evaluation, where the source has no split of its own.
    #[n(6)]
    pub holdout: Share,
    /// A site with fewer labelled, usable cases does not upload.
    #[n(7)]
    pub minimum_cases: u32,
    /// A site withdraws from a round when a smaller share of its items is usable.
    #[n(8)]
    pub smallest_usable_share: Share,
    /// Where cases are rows: what is taken from each.
    #[n(9)]
    pub inputs: Option<Vec<Input>>,
    /// What is asked about a case.
    #[n(10)]
    #[cbor(skip_if = "is_default")]
    pub task: Task,
    /// Of a regression: between which values a case lies.
    #[n(11)]
    pub range: Option<Range>,
    /// Where cases are volumes: slices of each.
    #[n(12)]
    pub depth: Option<u32>,
    /// Of volumes in files of a scanner's values: which of these are black and white. Without it, each file's own.
    #[n(13)]
    pub window: Option<Window>,
    /// Where numbers lie beside pictures or volumes: what is taken from the row of each.
    #[n(14)]
    pub beside: Option<Vec<Input>>,
}

impl Data {
    /// The shape of a case.
    pub fn case(&self) -> Shape {
        let Self { channels, height, width, .. } = *self;
        match self.depth {
            None => [channels, height, width].into(),
            Some(depth) => [channels, depth, height, width].into(),
        }
    }

    /// What a model reads of a case.
    pub fn model_input(&self) -> CaseShape {
        let columns = self.beside.as_ref().map_or(0, Vec::len);
        CaseShape::new(self.case(), u32::try_from(columns).unwrap_or(u32::MAX))
    }

    /// What is taken from a row of a table: of one that is a case, or of one that lies beside a picture.
    pub fn columns(&self) -> &[Input] {
        self.inputs.as_ref().or(self.beside.as_ref()).map_or(&[], Vec::as_slice)
    }
}

/// One number of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Encode, Decode)]
#[serde(try_from = "InputSection", into = "InputSection")]
pub enum Input {
    /// `(value - mean) / std` of a column of numbers.
    #[n(0)]
    Number {
        /// Name of the column.
        #[n(0)]
        column: String,
        /// What is subtracted.
        #[n(1)]
        mean: f64,
        /// What is divided by.
        #[n(2)]
        std: f64,
    },
    /// 1 where a column holds this text, 0 where it holds another. Texts that are both numbers are compared as such.
    #[n(1)]
    Indicator {
        /// Name of the column.
        #[n(0)]
        column: String,
        /// The text.
        #[n(1)]
        is: String,
    },
}

/// Why a row gives no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Nothing stands there, or one of the marks for that: `?`, `NA`, `NaN`, `null`, in upper or lower case.
    Missing,
    /// It is no finite number, or further from the mean than a million standard deviations.
    NotANumber,
}

/// Furthest from 0 that an input may be.
const FURTHEST: f64 = 1e6;

impl Input {
    /// The columns that these are taken from, each once, in the order of its first input.
    pub fn columns(inputs: &[Self]) -> Vec<&str> {
        let mut once = Vec::new();
        for column in inputs.iter().map(Self::column) {
            if !once.contains(&column) {
                once.push(column);
            }
        }
        once
    }

    /// The column it is taken from.
    pub fn column(&self) -> &str {
        match self {
            Self::Number { column, .. } | Self::Indicator { column, .. } => column,
        }
    }

    /// The number that a text of its column gives.
    pub fn of(&self, text: &str) -> Result<f32, Unusable> {
        let text = text.trim();
        if text.is_empty() || ["?", "na", "nan", "null"].iter().any(|mark| text.eq_ignore_ascii_case(mark)) {
            return Err(Unusable::Missing);
        }
        let number = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
        match self {
            Self::Number { mean, std, .. } => {
                let value = (number(text).ok_or(Unusable::NotANumber)? - mean) / std;
                if value.abs() <= FURTHEST { Ok(value as f32) } else { Err(Unusable::NotANumber) }
            }
            Self::Indicator { is, .. } => {
                let same = text == is || number(text).is_some_and(|value| number(is) == Some(value));
                Ok(if same { 1.0 } else { 0.0 })
            }
        }
    }
}

/// `[data]` as written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    labels: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<Window>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    std: Option<f64>,
    #[serde(default = "default_holdout")]
    holdout: Share,
    #[serde(default = "default_minimum_cases")]
    minimum_cases: u32,
    #[serde(default = "default_smallest_usable_share")]
    smallest_usable_share: Share,
    #[serde(skip_serializing_if = "Option::is_none")]
    inputs: Option<Vec<Input>>,
    #[serde(default)]
    task: Task,
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<Range>,
}

fn default_holdout() -> Share {
    Share::constant(0.2)
}

fn default_minimum_cases() -> u32 {
    10
}

fn default_smallest_usable_share() -> Share {
    Share::constant(0.9)
}

/// An input as written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InputSection {
    column: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    std: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is: Option<String>,
}

/// Why keys of `[data]` do not go together.
#[derive(Debug, thiserror::Error)]
enum Mismatch {
    #[error(
        "`{0}` is missing: cases are pictures with `channels`, `height`, `width`, `mean` and `std`, where `inputs` may lie \
         beside them, or rows with `inputs` and none of these"
    )]
    NoPicture(&'static str),
    #[error("an input has either `is`, or `mean` and `std`; \"{0}\" has both")]
    NumberOrText(String),
    #[error("input \"{0}\" has `mean` or `std` alone; write both, or neither for 0 and 1")]
    HalfScale(String),
}

impl TryFrom<Section> for Data {
    type Error = Mismatch;

    fn try_from(section: Section) -> Result<Self, Mismatch> {
        let Section { labels, channels, depth, window, height, width, mean, std, .. } = section;
        let Section { holdout, minimum_cases, smallest_usable_share, inputs, task, range, .. } = section;
        let of_pictures = [channels, depth, height, width].iter().any(Option::is_some)
            || [mean, std].iter().any(Option::is_some)
            || window.is_some();
        let (inputs, beside) = if of_pictures { (None, inputs) } else { (inputs, None) };
        let ([channels, height, width], mean, std) = match &inputs {
            None => {
                let side = |value: Option<u32>, key| value.ok_or(Mismatch::NoPicture(key));
                let scale = |value: Option<f64>, key| value.ok_or(Mismatch::NoPicture(key));
                let sides = [side(channels, "channels")?, side(height, "height")?, side(width, "width")?];
                (sides, scale(mean, "mean")?, scale(std, "std")?)
            }
            Some(inputs) => ([u32::try_from(inputs.len()).unwrap_or(u32::MAX), 1, 1], 0.0, 1.0),
        };
        Ok(Self {
            labels,
            channels,
            height,
            width,
            mean,
            std,
            holdout,
            minimum_cases,
            smallest_usable_share,
            inputs,
            task,
            range,
            depth,
            window,
            beside,
        })
    }
}

impl From<Data> for Section {
    fn from(data: Data) -> Self {
        let Data { labels, channels, height, width, mean, std, depth, window, .. } = data;
        let Data { holdout, minimum_cases, smallest_usable_share, inputs, beside, task, range, .. } = data;
        let is_picture = inputs.is_none();
        Self {
            labels,
            channels: is_picture.then_some(channels),
            depth,
            window,
            height: is_picture.then_some(height),
            width: is_picture.then_some(width),
            mean: is_picture.then_some(mean),
            std: is_picture.then_some(std),
            holdout,
            minimum_cases,
            smallest_usable_share,
            inputs: inputs.or(beside),
            task,
            range,
        }
    }
}

impl TryFrom<InputSection> for Input {
    type Error = Mismatch;

    fn try_from(section: InputSection) -> Result<Self, Mismatch> {
        let InputSection { column, mean, std, is } = section;
        match (is, mean, std) {
            (Some(is), None, None) => Ok(Self::Indicator { column, is }),
            (Some(_), _, _) => Err(Mismatch::NumberOrText(column)),
            (None, None, None) => Ok(Self::Number { column, mean: 0.0, std: 1.0 }),
            (None, Some(mean), Some(std)) => Ok(Self::Number { column, mean, std }),
            (None, _, _) => Err(Mismatch::HalfScale(column)),
        }
    }
}

impl From<Input> for InputSection {
    fn from(input: Input) -> Self {
        match input {
            Input::Number { column, mean, std } => {
                Self { column, mean: Some(mean), std: Some(std), is: None }
            }
            Input::Indicator { column, is } => Self { column, mean: None, std: None, is: Some(is) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonical;

    fn read(text: &str) -> Result<Data, String> {
        toml::from_str(&format!("labels = [\"no\", \"yes\"]\n{text}")).map_err(|error| error.to_string())
    }

    const ROW: &str = "inputs = [{ column = \"age\", mean = 50.0, std = 10.0 }, { column = \"sex\" }, { column = \"pain\", is = \"4\" }]";

    #[test]
    fn rows_have_the_size_of_their_inputs_and_come_back() {
        let data = read(ROW).unwrap();
        assert_eq!([data.channels, data.height, data.width], [3, 1, 1]);
        assert_eq!((data.mean.to_bits(), data.std.to_bits()), (0.0_f64.to_bits(), 1.0_f64.to_bits()));
        assert_eq!(Data::from_canonical(&data.to_canonical()), Ok(data.clone()));
        let again = toml::to_string(&data).unwrap();
        assert_eq!(toml::from_str::<Data>(&again).unwrap(), data);
        assert!(!again.contains("channels"), "{again}");
    }

    #[test]
    fn numbers_lie_beside_a_picture_whose_size_is_written() {
        let picture = "channels = 1\nheight = 4\nwidth = 6\nmean = 0.5\nstd = 0.25";
        let (alone, rows) = (read(picture).unwrap(), read(ROW).unwrap());
        for (size, shape) in [
            (picture.to_owned(), Shape::Image([1, 4, 6])),
            (format!("{picture}\ndepth = 8"), Shape::Volume([1, 8, 4, 6])),
        ] {
            let both = read(&format!("{size}\n{ROW}")).unwrap();
            assert_eq!((&both.inputs, &both.beside), (&None, &rows.inputs));
            assert_eq!(both.model_input(), CaseShape::new(shape, 3));
            assert_eq!((both.columns(), alone.columns()), (rows.columns(), &[][..]));
            assert_eq!(Data::from_canonical(&both.to_canonical()), Ok(both.clone()));
            assert_eq!(toml::from_str::<Data>(&toml::to_string(&both).unwrap()).unwrap(), both);
        }
        assert_eq!(alone.model_input(), [1, 4, 6].into());
        assert_eq!(rows.model_input(), [3, 1, 1].into());
    }

    #[test]
    fn keys_that_do_not_go_together_are_refused_by_name() {
        for (text, named) in [
            ("channels = 1\nheight = 4\nwidth = 4\nmean = 0.5", "`std` is missing"),
            ("channels = 1\ninputs = [{ column = \"a\" }]", "`height` is missing"),
            ("std = 1.0\ninputs = [{ column = \"a\" }]", "`channels` is missing"),
            ("depth = 4\ninputs = [{ column = \"a\" }]", "`channels` is missing"),
            ("window = [0, 1]\ninputs = [{ column = \"a\" }]", "`channels` is missing"),
            ("inputs = [{ column = \"a\", is = \"1\", std = 1.0 }]", "\"a\" has both"),
            ("inputs = [{ column = \"a\", std = 1.0 }]", "\"a\" has `mean` or `std` alone"),
            ("inputs = [{ column = \"a\", log = true }]", "log"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn texts_become_numbers_or_a_reason() {
        let Some([age, sex, pain]) =
            read(ROW).unwrap().inputs.and_then(|inputs| <[Input; 3]>::try_from(inputs).ok())
        else {
            panic!("three inputs were written");
        };
        for (input, text, number) in [
            (&age, "70", Ok(2.0)),
            (&age, " 45.5 ", Ok(-0.45)),
            (&age, "?", Err(Unusable::Missing)),
            (&age, "", Err(Unusable::Missing)),
            (&age, "NaN", Err(Unusable::Missing)),
            (&age, "inf", Err(Unusable::NotANumber)),
            (&age, "old", Err(Unusable::NotANumber)),
            (&age, "1e300", Err(Unusable::NotANumber)),
            (&sex, "1.0", Ok(1.0)),
            (&pain, "4", Ok(1.0)),
            (&pain, "4.0", Ok(1.0)),
            (&pain, "3", Ok(0.0)),
            (&pain, "none", Ok(0.0)),
            (&pain, "na", Err(Unusable::Missing)),
        ] {
            assert_eq!(input.of(text), number, "{text}");
        }
    }
}
