//! Rules about pictures and volumes: what a site can bring its files to.

use super::Findings;
use crate::data::Data;
use crate::shape::Shape;

/// Longest side of a picture, and of a slice of a volume.
pub const MAX_SIDE: u32 = 1024;
/// Most slices of a volume.
pub const MAX_DEPTH: u32 = 512;
/// Most values of a volume: 64 MiB in f32, which is what a decoder of files may answer.
pub const MAX_VOLUME: u64 = 1 << 24;

/// Why no site can bring its files to a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a picture has 1 or 3 channels and 1 to {MAX_SIDE} pixels a side, a volume 1 to {MAX_DEPTH} grey slices of such sides and at \
     most {MAX_VOLUME} values; asked for is {0}"
)]
pub struct Unreadable(pub Shape);

/// Whether sites can bring their files to this shape. A row is none of a file.
pub fn readable(case: Shape) -> Result<(), Unreadable> {
    let faults = faults(case);
    if faults.is_empty() { Ok(()) } else { Err(Unreadable(case)) }
}

/// The keys of what cannot be, each with what to write.
fn faults(case: Shape) -> Vec<(&'static str, String)> {
    let (depth, [channels, height, width]) = match case {
        Shape::Image(sides) => (None, sides),
        Shape::Volume([channels, depth, height, width]) => (Some(depth), [channels, height, width]),
        Shape::Row(_) => return vec![("data.inputs", "name the columns of a row".into())],
    };
    let has = |side: u32, most: u32| (1..=most).contains(&side);
    let fits =
        has(height, MAX_SIDE) && has(width, MAX_SIDE) && depth.is_none_or(|depth| has(depth, MAX_DEPTH));
    let pixels = format!("write a number from 1 to {MAX_SIDE}");
    let all = [
        (
            depth.is_none() && !matches!(channels, 1 | 3),
            "data.channels",
            "write channels = 1 for grey pictures, or channels = 3 for those in colour".into(),
        ),
        (depth.is_some() && channels != 1, "data.channels", "write channels = 1".into()),
        (!has(height, MAX_SIDE), "data.height", pixels.clone()),
        (!has(width, MAX_SIDE), "data.width", pixels),
        (
            depth.is_some_and(|depth| !has(depth, MAX_DEPTH)),
            "data.depth",
            format!("write a number from 1 to {MAX_DEPTH}"),
        ),
        (
            // The values of a volume with other faults say nothing more.
            depth.is_some() && fits && channels == 1 && case.values() > MAX_VOLUME,
            "data.depth",
            "ask for fewer slices, or for smaller ones".into(),
        ),
    ];
    all.into_iter().filter(|(wrong, ..)| *wrong).map(|(_, key, instead)| (key, instead)).collect()
}

/// Every rule about pictures and volumes that does not hold.
pub(super) fn rules(data: &Data, f: &mut Findings) {
    if data.inputs.is_none() {
        for (key, instead) in faults(data.case()) {
            f.require(false, key, || Unreadable(data.case()).to_string(), instead);
        }
    }
    f.require(
        data.depth.is_none() || data.inputs.is_none(),
        "data.depth",
        || "a row of a table has no slices".into(),
        "leave `depth` or `inputs` out",
    );
    if let Some(window) = data.window {
        f.require(
            window.is_lawful(),
            "data.window",
            || format!("nothing lies between {} and {}", window.low, window.high),
            "write what is black and then what is white, for example window = [-1000, 400] for lungs in CT",
        );
        f.require(
            data.depth.is_some(),
            "data.window",
            || "a window is of volumes; pictures have that of their files".into(),
            "leave it out, or say how many slices a volume has with `depth`",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grey_and_colour_of_sane_sizes() {
        for case in [[1, 28, 28], [3, 1024, 1]] {
            assert_eq!(readable(case.into()), Ok(()));
        }
        for case in [[0, 1, 1], [2, 8, 8], [4, 8, 8], [1, 0, 8], [1, 8, 1025], [1, 65_544, 8]] {
            assert_eq!(readable(case.into()), Err(Unreadable(case.into())));
        }
        for case in [[1, 512, 128, 256], [1, 1, 1, 1], [1, 16, 1024, 1024]] {
            assert_eq!(readable(case.into()), Ok(()));
        }
        for case in [[1, 512, 129, 256], [1, 513, 8, 8], [1, 0, 8, 8], [3, 8, 8, 8], [1, 1, 1, 1025]] {
            assert_eq!(readable(case.into()), Err(Unreadable(case.into())));
        }
        assert!(readable(Shape::Row(3)).is_err());
    }
}
