//! Small cases that a small model learns in seconds.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::Context as _;
use image::GrayImage;
use npyz::WriterBuilder as _;
use npyz::npz::NpzWriter;

/// Side of a picture.
const SIDE: u64 = 8;

/// Writes an archive of 8 x 8 pictures: in class 1 the right half is brighter, and masks say which pixels are. `seed` makes
/// sites differ.
pub fn write_cases(path: &Path, train: u64, held_out: u64, seed: u64) -> anyhow::Result<()> {
    let mut writer = NpzWriter::create(path)?;
    part(&mut writer, "train", train, seed)?;
    part(&mut writer, "val", held_out, seed ^ 0x5555)
}

fn part(writer: &mut NpzWriter<BufWriter<File>>, name: &str, cases: u64, seed: u64) -> anyhow::Result<()> {
    let mut draw = draws(seed);
    let (mut images, mut masks) = (Vec::new(), Vec::new());
    for case in 0..cases {
        for pixel in 0..SIDE * SIDE {
            let bright = case % 2 == 1 && pixel % SIDE >= SIDE / 2;
            images.push((draw() % 120) as u8 + if bright { 90 } else { 30 });
            masks.push(u8::from(bright));
        }
    }
    let labels: Vec<u8> = (0..cases).map(|case| (case % 2) as u8).collect();
    let pictures = [cases, SIDE, SIDE];
    let arrays: [(&str, &[u64], Vec<u8>); 3] =
        [("images", &pictures, images), ("labels", &[cases, 1], labels), ("masks", &pictures, masks)];
    for (what, shape, values) in arrays {
        let mut array = writer
            .array(&format!("{name}_{what}"), Default::default())?
            .default_dtype()
            .shape(shape)
            .begin_nd()?;
        array.extend(values)?;
        array.finish()?;
    }
    Ok(())
}

/// Writes grey noise of 8 x 8, and a table that says how old each patient is and whether the label is 1, which it is beyond 60: the
/// pictures say nothing. Every fourth case is held out.
pub(crate) fn write_pictures(folder: &Path, cases: u64, seed: u64) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut draw = draws(seed);
    let mut table = String::from("path,label,age,patient,split\n");
    for case in 0..cases {
        let pixels = (0..SIDE * SIDE).map(|_| (draw() % 256) as u8).collect();
        let picture = GrayImage::from_raw(SIDE as u32, SIDE as u32, pixels).context("a picture")?;
        picture.save(folder.join(format!("{case}.png")))?;
        let age = 20 + draw() % 80;
        let (label, split) =
            (if age > 60 { "yes" } else { "no" }, if case % 4 == 0 { "val" } else { "train" });
        table.push_str(&format!("{case}.png,{label},{age},p{case},{split}\n"));
    }
    Ok(std::fs::write(folder.join("labels.csv"), table)?)
}

/// A linear congruential generator: nothing here has to be unpredictable.
fn draws(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}
