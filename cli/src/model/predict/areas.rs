//! What a model of pixels says about a picture: how much of it each class is, and where.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use consilium_site_agent::data::Target;
use consilium_site_agent::data::mask::spread;
use consilium_site_agent::data::protocol::Facts;
use image::GrayImage;

use super::{Finding, Probabilities};

/// The likeliest class of each pixel, at the model's size.
pub(super) struct Areas<'a> {
    labels: &'a [String],
    classes: Vec<u8>,
}

impl<'a> Areas<'a> {
    /// From probabilities `[pixels, classes]`.
    pub(super) fn of(labels: &'a [String], scores: &[f32]) -> Self {
        let likeliest = |pixel: &[f32]| {
            let best = pixel.iter().enumerate().rev().max_by(|one, other| one.1.total_cmp(other.1));
            // At most 64 labels.
            best.map_or(0, |(class, _)| class as u8)
        };
        Self { labels, classes: scores.chunks_exact(labels.len()).map(likeliest).collect() }
    }

    /// The share of pixels of each class.
    pub(super) fn finding(&self, mask: Option<PathBuf>) -> Finding {
        let all = self.classes.len() as f32;
        let share = |class: usize| {
            let pixels = self.classes.iter().filter(|of| usize::from(**of) == class).count();
            pixels as f32 / all
        };
        let shares = self.labels.iter().enumerate().map(|(class, label)| (label.clone(), share(class)));
        Finding::Areas {
            areas: Probabilities(shares.collect()),
            mask: mask.map(|mask| mask.display().to_string()),
        }
    }
}

/// A folder of masks.
pub(super) struct Masks {
    folder: PathBuf,
    written: BTreeSet<PathBuf>,
}

impl Masks {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), written: BTreeSet::new() }
    }

    /// Writes the mask of a picture beside those of the others, under its name. It has the picture's size; where the picture's
    /// header turns it, the model's, because that is how it was seen.
    pub(super) fn write(
        &mut self,
        areas: &Areas<'_>,
        target: Target,
        name: &Path,
        picture: &Facts,
    ) -> anyhow::Result<PathBuf> {
        let mut file = name.as_os_str().to_owned();
        file.push(".png");
        let path = self.folder.join(file);
        if !self.written.insert(path.clone()) {
            bail!("two pictures would have their mask in {}; name their folders one by one", path.display());
        }
        let (height, width) = if picture.turned {
            (target.height(), target.width())
        } else {
            (picture.rows as usize, picture.columns as usize)
        };
        let mut values = spread(&areas.classes, target, height, width);
        if areas.labels.len() == 2 {
            for value in &mut values {
                *value *= u8::MAX;
            }
        }
        let image = GrayImage::from_raw(width as u32, height as u32, values)
            .context("a mask has as many values as its picture has pixels")?;
        let writing = || format!("writing {}", path.display());
        fs::create_dir_all(path.parent().unwrap_or(&self.folder)).with_context(writing)?;
        image.save(&path).with_context(writing)?;
        Ok(path)
    }
}
