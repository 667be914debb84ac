//! A MedMNIST archive of made-up pictures.

use std::path::Path;

use npyz::WriterBuilder as _;
use npyz::npz::NpzWriter;

/// 150 pictures to train on, 60 to hold out, 60 to test; those of the second class are bright on their right.
pub(crate) fn write_archive(path: &Path, side: u64) {
    let mut writer = NpzWriter::create(path).unwrap();
    for (part, cases) in [("train", 150u64), ("val", 60), ("test", 60)] {
        let pixels = side * side;
        let pixel = |case: u64, at: u64| {
            let noise = (case.wrapping_mul(pixels) + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57;
            noise as u8 + if case % 2 == 1 && at % side >= side / 2 { 90 } else { 30 }
        };
        let images: Vec<u8> =
            (0..cases).flat_map(|case| (0..pixels).map(move |at| pixel(case, at))).collect();
        let labels: Vec<u8> = (0..cases).map(|case| (case % 2) as u8).collect();
        for (kind, values, shape) in
            [("images", images, vec![cases, side, side]), ("labels", labels, vec![cases, 1])]
        {
            let mut array = writer
                .array(&format!("{part}_{kind}"), Default::default())
                .unwrap()
                .default_dtype()
                .shape(&shape)
                .begin_nd()
                .unwrap();
            array.extend(values).unwrap();
            array.finish().unwrap();
        }
    }
}
