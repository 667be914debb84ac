//! Giving each hospital of the demo its own data.
//!
//! Without `--data`, synthetic DICOM series. With a MedMNIST archive, its `train` and `val` parts are dealt out
//! and its `test` part goes to no site. With a folder of images and its table, patients are dealt out; a
//! fifth of them, or the rows whose `split` is `test`, goes to no site.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use consilium_site_agent::data::Source;
use consilium_study::graph::Shape;
use consilium_study::name::SiteName;
use consilium_study::task::Task;
use consilium_study::weight::WeightRule;
use npyz::WriterBuilder as _;
use npyz::npz::{NpzArchive, NpzWriter};

use super::synthetic;
use super::table::{Files, Table};
use crate::partition::{Partition, deal};

/// How hospitals learn together from one kind of collection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recipe {
    /// The `[training]` section.
    pub training: &'static str,
    /// How far the next model follows the mean update.
    pub server_learning_rate: f64,
    /// What an update counts in the mean.
    pub weight: WeightRule,
}

/// A few hundred small pictures at each hospital: several passes a round.
const SYNTHETIC_RECIPE: Recipe = Recipe {
    training: "optimiser = \"adam\"\nlearning_rate = 0.001\nschedule = \"cosine\"\nbatch = 16\nepochs = 10\naugment = { crop = 2 }",
    server_learning_rate: 1.0,
    weight: WeightRule::Coarse,
};
/// Thousands of pictures: four passes a round. Batches are small, because under averaging it is steps that are scarce:
/// hospitals train side by side, so a round has fewer steps in a row than pooled training, and going further along
/// the mean makes up for a little of that. Dealt out by Dirichlet, some hospitals have next to no case of one class.
pub(crate) const ARCHIVE_RECIPE: Recipe = Recipe {
    training: "optimiser = \"sgd\"\nlearning_rate = 0.008\nmomentum = 0.9\nweight_decay = 0.001\nschedule = \"cosine\"\nbatch = 8\nepochs = 4\naugment = { crop = 3 }",
    server_learning_rate: 1.5,
    weight: WeightRule::Effective,
};
/// Patients of an average hospital in the synthetic demo, and side of a picture.
const SYNTHETIC: (u64, u16) = (320, 28);
/// Patients in the synthetic test, whom no site gets.
const SYNTHETIC_TEST: u64 = 400;
/// Fewest cases of a site.
const LEAST: usize = 20;

/// What the hospitals have, and what nobody has.
#[derive(Debug)]
pub(crate) struct Dealt {
    /// Each hospital's own data.
    pub sites: BTreeMap<SiteName, Source>,
    /// Cases that no hospital gets.
    pub test: Source,
    /// What a case is.
    pub collection: Collection,
}

/// What is needed to write a study about the cases.
#[derive(Debug, Clone)]
pub(crate) struct Collection {
    /// Where they come from, in words.
    pub title: String,
    /// Names of the classes, or of the findings.
    pub labels: Vec<String>,
    /// Which of the two they are.
    pub task: Task,
    /// Shape of a case.
    pub shape: Shape,
    /// Mean and standard deviation of pixel values between 0 and 1.
    pub statistics: (f64, f64),
    /// Training cases of the largest site.
    pub largest: usize,
    /// Cases of the smallest site.
    pub smallest: usize,
    /// What suits them.
    pub recipe: Recipe,
}

/// Where the dealer writes.
pub(crate) struct Places<'a> {
    /// `site → its data folder`.
    pub sites: &'a BTreeMap<SiteName, PathBuf>,
    /// The folder of the test cases.
    pub test: &'a Path,
}

/// Writes synthetic hospitals.
pub(crate) fn synthetic(places: &Places<'_>, seed: u64) -> anyhow::Result<Dealt> {
    let (patients, side) = SYNTHETIC;
    let hospitals = synthetic::hospitals(seed, places.sites.len());
    let (mut largest, mut smallest) = (0, usize::MAX);
    let mut sites = BTreeMap::new();
    for ((name, folder), hospital) in places.sites.iter().zip(&hospitals) {
        let written = hospital.write(folder, patients, side)?;
        let pictures = usize::try_from(written.pictures)?;
        (largest, smallest) = (largest.max(pictures), smallest.min(pictures));
        sites.insert(name.clone(), Files::Dicom.source(PathBuf::from("data")));
    }
    synthetic::write_test(&hospitals, places.test, SYNTHETIC_TEST, side)?;
    let test = Files::Dicom.source(places.test.to_owned());
    let collection = Collection {
        title: "Synthetic chest pictures with a faint finding".to_owned(),
        labels: synthetic::LABELS.map(str::to_owned).to_vec(),
        task: Task::Classification,
        shape: [1, u32::from(side), u32::from(side)].into(),
        statistics: (0.5, 0.25),
        largest,
        smallest,
        recipe: SYNTHETIC_RECIPE,
    };
    Ok(Dealt { sites, test, collection })
}

/// One part of a MedMNIST archive.
struct Part {
    cases: usize,
    images: Vec<u8>,
    labels: Vec<u8>,
    /// Numbers in a label: one, or a 0 or 1 for each finding; none where pictures have masks only.
    numbers: usize,
    /// Class of each pixel, where pictures have masks.
    masks: Vec<u8>,
    /// Shape of one picture.
    shape: Vec<u64>,
}

impl Part {
    fn read(archive: &mut NpzArchive<std::io::BufReader<File>>, part: &str) -> anyhow::Result<Self> {
        type Array = (Vec<u8>, Vec<u64>);
        let mut array = |kind: &str| -> anyhow::Result<Option<Array>> {
            let name = format!("{part}_{kind}");
            let Some(file) = archive.by_name(&name)? else { return Ok(None) };
            let shape = file.shape().to_vec();
            let values = file.into_vec().with_context(|| format!("the array {name} does not hold bytes"))?;
            Ok(Some((values, shape)))
        };
        let images = array("images")?;
        let (images, shape) = images.with_context(|| format!("the archive has no array {part}_images"))?;
        let (labels, masks) = (array("labels")?, array("masks")?);
        if labels.is_none() && masks.is_none() {
            bail!("the archive has neither {part}_labels nor {part}_masks");
        }
        if !(3..=4).contains(&shape.len()) {
            bail!("the array {part}_images does not hold pictures");
        }
        let cases = usize::try_from(shape[0])?;
        let (labels, label_shape) = labels.unwrap_or_else(|| (Vec::new(), vec![shape[0]]));
        let numbers = labels.len().checked_div(cases).unwrap_or(1);
        let fit = matches!(*label_shape, [_] | [_, _]) && numbers * cases == labels.len();
        if !fit || label_shape[0] != shape[0] {
            bail!("the part \"{part}\" does not hold one label per picture");
        }
        let (masks, mask_shape) = masks.unwrap_or_else(|| (Vec::new(), shape[..3].to_vec()));
        if mask_shape != shape[..3] {
            bail!("the part \"{part}\" does not hold one mask per picture, of its size");
        }
        Ok(Self { cases, images, labels, numbers, masks, shape: shape[1..].to_vec() })
    }

    fn len(&self) -> usize {
        self.cases
    }

    /// Pixels of a mask; none where there are no masks.
    fn places(&self) -> usize {
        if self.masks.is_empty() { 0 } else { (self.shape[0] * self.shape[1]) as usize }
    }

    /// The label of each picture.
    fn each_label(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.cases).map(|case| &self.labels[case * self.numbers..][..self.numbers])
    }

    fn select(&self, wanted: impl Fn(usize) -> bool) -> Self {
        let size: usize = self.shape.iter().product::<u64>() as usize;
        let chosen: Vec<usize> = (0..self.len()).filter(|case| wanted(*case)).collect();
        let pick = |all: &[u8], size: usize| -> Vec<u8> {
            chosen.iter().flat_map(|case| &all[case * size..][..size]).copied().collect()
        };
        Self {
            cases: chosen.len(),
            images: pick(&self.images, size),
            labels: pick(&self.labels, self.numbers),
            numbers: self.numbers,
            masks: pick(&self.masks, self.places()),
            shape: self.shape.clone(),
        }
    }

    fn write(&self, to: &mut NpzWriter<BufWriter<File>>, part: &str) -> anyhow::Result<()> {
        let cases = self.len() as u64;
        let mut array = |kind: &str, shape: &[u64], values: &[u8]| -> anyhow::Result<()> {
            let name = format!("{part}_{kind}");
            let mut array = to.array(&name, Default::default())?.default_dtype().shape(shape).begin_nd()?;
            array.extend(values)?;
            Ok(array.finish()?)
        };
        let shape: Vec<u64> = std::iter::once(cases).chain(self.shape.iter().copied()).collect();
        array("images", &shape, &self.images)?;
        if self.numbers > 0 {
            array("labels", &[cases, self.numbers as u64], &self.labels)?;
        }
        if self.places() > 0 {
            array("masks", &shape[..3], &self.masks)?;
        }
        Ok(())
    }
}

/// Deals a MedMNIST archive out, by classes or sets of findings where the task has them.
pub(crate) fn archive(
    file: &Path,
    partition: &Partition,
    places: &Places<'_>,
    seed: u64,
    task: Task,
) -> anyhow::Result<Dealt> {
    let reading = || format!("reading {}", file.display());
    let mut archive = NpzArchive::open(file).with_context(|| {
        format!("{} is no folder with labels.csv and cannot be read as an archive (.npz)", file.display())
    })?;
    let [train, val, test] = ["train", "val", "test"].map(|part| Part::read(&mut archive, part));
    let (train, val, test) =
        (train.with_context(reading)?, val.with_context(reading)?, test.with_context(reading)?);
    let alpha = match partition {
        Partition::Iid => None,
        Partition::Dirichlet(alpha) => Some(*alpha),
        Partition::By(_) => bail!("an archive has no columns to deal by; use iid or dirichlet:A"),
    };
    if task.is_labelled() && train.numbers == 0 {
        bail!(
            "{} has masks and no labels; try `consilium simulate` with a study of task = \"segmentation\"",
            file.display()
        );
    }
    // Sets of findings are dealt like classes.
    let kinds: BTreeSet<&[u8]> = train.each_label().chain(val.each_label()).collect();
    let kinds: BTreeMap<&[u8], u16> = kinds.into_iter().zip(0..).collect();
    let classes = |part: &Part| -> Vec<u16> {
        part.each_label().map(|label| if task.is_labelled() { kinds[label] } else { 0 }).collect()
    };
    let count = places.sites.len();
    let of_train = deal(&classes(&train), count, alpha, LEAST, seed)?;
    // What a site is scored on is what its patients are like; so `val` is dealt in the proportions of `train`.
    let of_val = deal_alike(&classes(&train), &of_train, &classes(&val), count);
    let (mut largest, mut smallest) = (0, usize::MAX);
    let mut sites = BTreeMap::new();
    for (number, (name, folder)) in places.sites.iter().enumerate() {
        std::fs::create_dir_all(folder)?;
        let own = train.select(|case| of_train[case] == number);
        let held_out = val.select(|case| of_val[case] == number);
        (largest, smallest) = (largest.max(own.len()), smallest.min(own.len() + held_out.len()));
        let mut writer = NpzWriter::create(folder.join("cases.npz"))?;
        own.write(&mut writer, "train")?;
        held_out.write(&mut writer, "val")?;
        sites.insert(name.clone(), Source::Npz { file: PathBuf::from("data/cases.npz") });
    }
    std::fs::create_dir_all(places.test)?;
    let path = places.test.join("cases.npz");
    test.write(&mut NpzWriter::create(&path)?, "train")?;
    let collection = Collection {
        title: format!("Cases of {}", file.file_name().unwrap_or_default().to_string_lossy()),
        labels: label_names(file, &train),
        task: if train.numbers > 1 { Task::MultiLabel } else { Task::Classification },
        shape: shape_of(&train.shape),
        statistics: statistics(&train.images),
        largest,
        smallest,
        recipe: ARCHIVE_RECIPE,
    };
    Ok(Dealt { sites, test: Source::Npz { file: path }, collection })
}

/// Deals a folder of images, DICOM or NIfTI files with a `labels.csv` out: patients stay together.
pub(crate) fn folder(
    folder: &Path,
    partition: &Partition,
    places: &Places<'_>,
    seed: u64,
) -> anyhow::Result<Dealt> {
    let table = Table::of_folder(folder)?;
    if table.labels.is_empty() {
        bail!(
            "{} has masks and no labels; try `consilium simulate` with a study of task = \"segmentation\"",
            folder.display()
        );
    }
    let groups = table.patients();
    let (for_test, for_sites): (Vec<_>, Vec<_>) =
        groups.into_iter().partition(|group| table.is_test(group, seed));
    let assigned = assign(&table, &for_sites, partition, places.sites.len(), seed)?;
    let names: Vec<SiteName> = places.sites.keys().cloned().collect();
    let hands = assigned.into_iter().map(|site| names[site].clone()).zip(for_sites).collect();
    hand_out(&table, folder, hands, for_test, places)
}

/// Deals groups of rows out: the number of a site for each.
pub(crate) fn assign(
    table: &Table,
    groups: &[Vec<usize>],
    partition: &Partition,
    sites: usize,
    seed: u64,
) -> anyhow::Result<Vec<usize>> {
    let classes: Vec<u16> = groups.iter().map(|group| table.class(group[0])).collect();
    match partition {
        Partition::Iid => Ok(deal(&classes, sites, None, 1, seed)?),
        Partition::Dirichlet(alpha) => Ok(deal(&classes, sites, Some(*alpha), 1, seed)?),
        Partition::By(column) => table.by_column(column, groups, sites),
    }
}

/// Copies each site's rows with their images to its folder, and those of the test to theirs.
pub(crate) fn hand_out(
    table: &Table,
    folder: &Path,
    hands: Vec<(SiteName, Vec<usize>)>,
    for_test: Vec<Vec<usize>>,
    places: &Places<'_>,
) -> anyhow::Result<Dealt> {
    let files = if table.names_files() { Some(table.files(folder)?) } else { None };
    let source = |folder: &str| match files {
        Some(files) => files.source(PathBuf::from(folder)),
        None => rows_of(folder),
    };
    let mut rows: BTreeMap<SiteName, Vec<usize>> = BTreeMap::new();
    for (site, group) in hands {
        rows.entry(site).or_default().extend(group);
    }
    let mut sites = BTreeMap::new();
    let (mut largest, mut smallest) = (0, usize::MAX);
    for (name, to) in places.sites {
        let rows = rows.remove(name).unwrap_or_default();
        (largest, smallest) = (largest.max(rows.len()), smallest.min(rows.len()));
        table.copy(folder, to, &rows)?;
        sites.insert(name.clone(), source("data"));
    }
    let test_rows: Vec<usize> = for_test.into_iter().flatten().collect();
    table.copy(folder, places.test, &test_rows)?;
    let collection = Collection {
        title: format!("Images of {}", folder.file_name().unwrap_or_default().to_string_lossy()),
        labels: table.labels.clone(),
        task: Task::Classification,
        shape: match files {
            Some(Files::Nifti) => [1, 32, 32, 32].into(),
            _ => [1, 64, 64].into(),
        },
        statistics: (0.5, 0.25),
        largest,
        smallest,
        recipe: SYNTHETIC_RECIPE,
    };
    let test = source(places.test.to_str().context("the test folder's path is text")?);
    Ok(Dealt { sites, test, collection })
}

fn rows_of(folder: &str) -> Source {
    Source::Table { table: PathBuf::from(folder).join("labels.csv"), site: None }
}

/// A source whose relative paths start at `root`.
pub(crate) fn rooted(mut source: Source, root: &Path) -> Source {
    for path in source.paths_mut() {
        *path = root.join(&*path);
    }
    source
}

/// Deals held-out cases in the proportions in which training cases of their class were dealt.
fn deal_alike(classes: &[u16], dealt: &[usize], held_out: &[u16], sites: usize) -> Vec<usize> {
    let mut shares: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (class, site) in classes.iter().zip(dealt) {
        shares.entry(*class).or_insert_with(|| vec![0; sites])[*site] += 1;
    }
    let mut seen: BTreeMap<u16, usize> = BTreeMap::new();
    let totals = held_out.iter().fold(BTreeMap::<u16, usize>::new(), |mut totals, class| {
        *totals.entry(*class).or_default() += 1;
        totals
    });
    held_out
        .iter()
        .map(|class| {
            let number = seen.entry(*class).or_default();
            // The middle of this case's slot, among all training cases of the class.
            let place = (*number as f64 + 0.5) / totals[class] as f64;
            *number += 1;
            let Some(shares) = shares.get(class) else { return 0 };
            let whole = shares.iter().sum::<usize>() as f64;
            let mut before = 0.0;
            shares
                .iter()
                .position(|share| {
                    before += *share as f64 / whole;
                    place <= before
                })
                .unwrap_or(sites - 1)
        })
        .collect()
}

fn shape_of(shape: &[u64]) -> Shape {
    let side = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    match shape {
        [height, width, 3] => [3, side(*height), side(*width)].into(),
        [depth, height, width] => [1, side(*depth), side(*height), side(*width)].into(),
        [height, width] => [1, side(*height), side(*width)].into(),
        _ => [1, 1, 1].into(),
    }
}

fn label_names(file: &Path, train: &Part) -> Vec<String> {
    if train.numbers > 1 {
        return (0..train.numbers).map(|finding| format!("finding-{finding}")).collect();
    }
    let classes = usize::from(train.labels.iter().copied().max().unwrap_or(0)) + 1;
    let pneumonia = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pneumonia"));
    if pneumonia && classes == 2 {
        vec!["normal".to_owned(), "pneumonia".to_owned()]
    } else {
        (0..classes.max(2)).map(|class| format!("class-{class}")).collect()
    }
}

/// Mean and standard deviation, rounded so that the study reads well.
fn statistics(images: &[u8]) -> (f64, f64) {
    let count = images.len().max(1) as f64;
    let mean = images.iter().map(|value| f64::from(*value)).sum::<f64>() / count / 255.0;
    let square = images.iter().map(|value| (f64::from(*value) / 255.0 - mean).powi(2)).sum::<f64>() / count;
    let round = |value: f64| (value * 1e4).round() / 1e4;
    (round(mean), round(square.sqrt()).max(0.01))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_cases_follow_the_training_cases() {
        let classes: Vec<u16> = (0..400).map(|case| u16::from(case < 200)).collect();
        // Class 1 lies at site 0 only; class 0 half and half.
        let dealt: Vec<usize> = (0..400).map(|case| usize::from(case >= 200 && case % 2 == 0)).collect();
        let held_out: Vec<u16> = (0..40).map(|case| u16::from(case < 20)).collect();
        let assigned = deal_alike(&classes, &dealt, &held_out, 2);
        assert!(assigned[..20].iter().all(|site| *site == 0));
        assert_eq!(assigned[20..].iter().filter(|site| **site == 1).count(), 10);
    }

    #[test]
    fn statistics_are_those_of_values_between_0_and_1() {
        assert_eq!(statistics(&[0, 255]), (0.5, 0.5));
    }
}
