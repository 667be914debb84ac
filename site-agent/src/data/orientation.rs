//! One orientation for every picture.
//!
//! A header says towards which side of the patient rows and columns run: `PatientOrientation`
//! (0020,0020) on radiographs, `ImageOrientationPatient` (0020,0037) on slices. From either we turn the
//! picture so that, of the two body axes in it,
//! - seen from the front (left-right and head-feet): right is the patient's left, down is the feet;
//! - seen along the body (left-right and front-back): right is the patient's left, down is the back;
//! - seen from the side (front-back and head-feet): right is the back, down is the feet.
//!
//! That is how radiologists hang them. Where a header says nothing (or nonsense, or both axes alike) the
//! picture stays as it is stored, which is how its device shows it.

use minicbor::{Decode, Encode};

use super::picture::Picture;

/// A direction in the patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Left,
    Right,
    Front,
    Back,
    Head,
    Feet,
}

/// One of the body's three axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Axis {
    LeftRight,
    FrontBack,
    HeadFeet,
}

impl Direction {
    fn axis(self) -> Axis {
        match self {
            Self::Left | Self::Right => Axis::LeftRight,
            Self::Front | Self::Back => Axis::FrontBack,
            Self::Head | Self::Feet => Axis::HeadFeet,
        }
    }

    /// Of one value of `PatientOrientation`: its first letter is the main direction.
    fn from_letters(letters: &str) -> Option<Self> {
        match letters.trim().bytes().next()? {
            b'L' => Some(Self::Left),
            b'R' => Some(Self::Right),
            b'A' => Some(Self::Front),
            b'P' => Some(Self::Back),
            b'H' => Some(Self::Head),
            b'F' => Some(Self::Feet),
            _ => None,
        }
    }

    /// Of direction cosines in patient coordinates (x to the left, y to the back, z to the head).
    fn from_cosines(cosines: &[f64]) -> Option<Self> {
        let (index, largest) =
            cosines.iter().copied().enumerate().max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs()))?;
        if !largest.is_finite() || largest.abs() < 0.5 {
            return None; // unit vectors have a component of at least 0.57
        }
        Some(match (index, largest > 0.0) {
            (0, true) => Self::Left,
            (0, false) => Self::Right,
            (1, true) => Self::Back,
            (1, false) => Self::Front,
            (_, true) => Self::Head,
            (_, false) => Self::Feet,
        })
    }
}

/// What has to be done to a picture: exchange the axes, then reverse columns or rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Turn {
    #[n(0)]
    transpose: bool,
    #[n(1)]
    mirror_columns: bool,
    #[n(2)]
    mirror_rows: bool,
}

impl Turn {
    /// From the direction along a row and the direction down a column. `None` if both lie on one axis.
    fn new(across: Direction, down: Direction) -> Option<Self> {
        if across.axis() == down.axis() {
            return None;
        }
        // Left-right always runs across and head-feet always down; front-back takes what is free.
        let transpose = across.axis() == Axis::HeadFeet || down.axis() == Axis::LeftRight;
        let (across, down) = if transpose { (down, across) } else { (across, down) };
        Some(Self {
            transpose,
            mirror_columns: !matches!(across, Direction::Left | Direction::Back),
            mirror_rows: !matches!(down, Direction::Feet | Direction::Back),
        })
    }

    /// From the values of the two attributes; the slice geometry is the more precise one and goes first.
    pub fn from_header(cosines: Option<&[f64]>, letters: Option<&[String]>) -> Option<Self> {
        let of_slice = cosines.filter(|values| values.len() == 6).and_then(|values| {
            Self::new(Direction::from_cosines(&values[..3])?, Direction::from_cosines(&values[3..])?)
        });
        of_slice.or_else(|| {
            let [across, down] = letters? else { return None };
            Self::new(Direction::from_letters(across)?, Direction::from_letters(down)?)
        })
    }

    /// Whether it moves any pixel.
    pub fn changes(self) -> bool {
        self.transpose || self.mirror_columns || self.mirror_rows
    }

    /// The turned picture.
    pub fn apply(self, picture: &Picture) -> Picture {
        let (height, width) = if self.transpose {
            (picture.width(), picture.height())
        } else {
            (picture.height(), picture.width())
        };
        picture.rearranged(height, width, |row, column| {
            let row = if self.mirror_rows { height - 1 - row } else { row };
            let column = if self.mirror_columns { width - 1 - column } else { column };
            if self.transpose { (column, row) } else { (row, column) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LETTERS: [(&str, [f64; 3]); 6] = [
        ("L", [1.0, 0.0, 0.0]),
        ("R", [-1.0, 0.0, 0.0]),
        ("P", [0.0, 1.0, 0.0]),
        ("A", [0.0, -1.0, 0.0]),
        ("H", [0.0, 0.0, 1.0]),
        ("F", [0.0, 0.0, -1.0]),
    ];

    /// The value of the asymmetric phantom at a place in the patient; every coordinate is -1 or 1.
    fn phantom(place: [f64; 3]) -> f32 {
        ((place[0] + 1.0) + (place[1] + 1.0) * 2.0 + (place[2] + 1.0) * 4.0) as f32 / 16.0
    }

    /// A 2 x 2 picture of the phantom as a device with these directions stores it.
    fn stored(across: [f64; 3], down: [f64; 3]) -> Picture {
        let mut values = Vec::new();
        for row in [-1.0, 1.0] {
            for column in [-1.0, 1.0] {
                let place = std::array::from_fn(|axis| across[axis] * column + down[axis] * row);
                values.push(phantom(place));
            }
        }
        Picture::new(1, 2, 2, values).unwrap()
    }

    #[test]
    fn an_asymmetric_phantom_comes_out_the_same_from_every_orientation() {
        let mut seen = 0;
        for (across_letter, across) in LETTERS {
            for (down_letter, down) in LETTERS {
                let cosines = [across, down].concat();
                let letters = [across_letter.to_owned(), down_letter.to_owned()];
                let turn = Turn::from_header(Some(&cosines), None);
                assert_eq!(turn, Turn::from_header(None, Some(&letters)));
                let Some(turn) = turn else { continue };
                seen += 1;
                let used: Vec<usize> =
                    (0..3).filter(|&axis| across[axis] != 0.0 || down[axis] != 0.0).collect();
                let wanted = match used[..] {
                    [0, 2] => stored([1.0, 0.0, 0.0], [0.0, 0.0, -1.0]),
                    [0, 1] => stored([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
                    [1, 2] => stored([0.0, 1.0, 0.0], [0.0, 0.0, -1.0]),
                    _ => unreachable!("two different axes"),
                };
                assert_eq!(turn.apply(&stored(across, down)), wanted, "{across_letter}\\{down_letter}");
            }
        }
        assert_eq!(seen, 24, "6 directions across, 4 down for each");
    }

    #[test]
    fn pictures_that_are_not_square_are_turned_too() {
        // Rows run to the feet, columns to the patient's left: rows and columns are exchanged.
        let turn = Turn::from_header(None, Some(&["F".into(), "L".into()])).unwrap();
        let picture = Picture::new(1, 2, 3, vec![0.0, 0.1, 0.2, 0.3, 0.4, 0.5]).unwrap();
        let turned = turn.apply(&picture);
        assert_eq!((turned.height(), turned.width()), (3, 2));
        assert_eq!(turned.values(), [0.0, 0.3, 0.1, 0.4, 0.2, 0.5]);
    }

    #[test]
    fn nonsense_leaves_the_picture_as_stored() {
        for letters in
            [vec![], vec!["L".to_owned()], vec!["L".into(), "R".into()], vec!["X".into(), "F".into()]]
        {
            assert_eq!(Turn::from_header(None, Some(&letters)), None);
        }
        for cosines in [vec![1.0], vec![0.0; 6], vec![f64::NAN; 6], vec![1.0, 0.0, 0.0, 1.0, 0.0, 0.0]] {
            assert_eq!(Turn::from_header(Some(&cosines), None), None);
        }
    }
}
