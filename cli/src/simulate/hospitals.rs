//! The simulated hospitals: their names, their data, and what they can do with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::ensure;
use consilium_learning::Dataset;
use consilium_rounds::reason::Withdrawal;
use consilium_site_agent::contribution::{criteria, enough};
use consilium_site_agent::data::{Source, SplitKey, load as load_source};
use consilium_study::document::{Draft, Plan, least_honest};
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;

use super::setting::Dealing;
use crate::demo::arms::decoder;
use crate::demo::deal::{self, Dealt, Places, rooted};
use crate::demo::progress::Story;
use crate::demo::table::Table;
use crate::partition::Partition;

/// Longest part of a site's name that comes from a value of a column.
const LONGEST_VALUE: usize = 40;

/// Where everybody's cases are.
pub(super) struct Shared {
    sites: BTreeMap<SiteName, Source>,
    /// Cases of no site.
    pub(super) test: Option<Source>,
    /// Values of the column that cases are dealt by which no site has, because all their patients are kept for testing.
    pub(super) test_only: Vec<SiteName>,
}

/// A hospital that can take part.
pub(crate) struct Hospital {
    pub(crate) train: Dataset,
    pub(crate) held_out: Dataset,
}

/// Every site of the study: its cases, or why it sits every round out.
pub(crate) type Hospitals = BTreeMap<SiteName, Result<Hospital, Withdrawal>>;

/// Deals the data out below `root`, and writes the sites' names into the plan where they are others.
pub(super) fn deal(plan: &mut Plan, dealing: &Dealing<'_>, root: &Path) -> anyhow::Result<Shared> {
    let test = root.join("test");
    if dealing.data.is_dir() {
        return deal_table(Table::of_folder(dealing.data)?, plan, dealing, root, &test);
    }
    if plan.data.inputs.is_some() {
        return deal_table(Table::of_cases(dealing.data)?, plan, dealing, root, &test);
    }
    ensure!(
        plan.data.beside.is_none(),
        "the study reads numbers beside each picture, and {} is no folder: name one with --data that holds the pictures and \
         labels.csv, with the columns path, label and those of the study's inputs",
        dealing.data.display()
    );
    let count = dealing.sites.map_or(plan.sites.len(), usize::from);
    name_sites(plan, numbered(&plan.sites, count));
    let folders = folders(&plan.sites, root);
    let places = Places { sites: &folders, test: &test };
    let dealt = deal::archive(dealing.data, dealing.partition, &places, plan.seed, plan.data.task)?;
    Ok(Shared { sites: dealt.sites, test: Some(dealt.test), test_only: Vec::new() })
}

fn deal_table(
    mut table: Table,
    plan: &mut Plan,
    dealing: &Dealing<'_>,
    root: &Path,
    test: &Path,
) -> anyhow::Result<Shared> {
    if plan.data.task.is_exclusive() {
        table.relabel(&plan.data.labels);
    } else if !plan.data.task.is_labelled() {
        table.pass_over_labels();
    }
    let by_column = matches!(dealing.partition, Partition::By(_));
    // Values of a column may have one patient each: without a split in the table, all patients stay with them.
    let keeps_test = table.names_test() || !by_column || dealing.keeps_test;
    let (for_test, for_sites): (Vec<_>, Vec<_>) =
        table.patients().into_iter().partition(|group| keeps_test && table.is_test(group, plan.seed));
    let most = dealing.sites.map(usize::from);
    let (names, test_only) = match dealing.partition {
        Partition::By(column) => {
            let values = |groups| -> anyhow::Result<Vec<String>> {
                Ok(table.values(column, groups)?.into_iter().map(|(value, _)| value).collect())
            };
            let of_sites = values(&for_sites)?;
            let others = values(&for_test)?.into_iter().filter(|value| !of_sites.contains(value));
            let others: Vec<String> = others.collect();
            let names = named_after(of_sites.into_iter(), most);
            let mut taken = names.iter().cloned().collect();
            let test_only = others.iter().map(|value| own_name(value, &mut taken)).collect();
            (names, test_only)
        }
        Partition::Iid | Partition::Dirichlet(_) => {
            (numbered(&plan.sites, most.unwrap_or(plan.sites.len())), Vec::new())
        }
    };
    let count = most.unwrap_or(names.len());
    let assigned = deal::assign(&table, &for_sites, dealing.partition, count, plan.seed)?;
    name_sites(plan, names.clone());
    let folders = folders(&plan.sites, root);
    let hands = assigned.into_iter().map(|site| names[site].clone()).zip(for_sites).collect();
    let has_test = !for_test.is_empty();
    let Dealt { sites, test, .. } =
        deal::hand_out(&table, dealing.data, hands, for_test, &Places { sites: &folders, test })?;
    Ok(Shared { sites, test: has_test.then_some(test), test_only })
}

fn folders(sites: &[SiteName], root: &Path) -> BTreeMap<SiteName, PathBuf> {
    sites.iter().map(|site| (site.clone(), folder(root, site).join("data"))).collect()
}

fn folder(root: &Path, site: &SiteName) -> PathBuf {
    root.join("sites").join(site.as_str())
}

/// The study's own names if there are as many as needed, else numbers.
fn numbered(sites: &[SiteName], count: usize) -> Vec<SiteName> {
    if sites.len() == count {
        return sites.to_vec();
    }
    let name = |number| SiteName::new(format!("site-{number:03}")).expect("a word and digits are a name");
    (1..=count).map(name).collect()
}

/// Names made of the values of a column, the last `others` where there are more values than sites.
fn named_after(values: impl ExactSizeIterator<Item = String>, most: Option<usize>) -> Vec<SiteName> {
    let all = values.len();
    let own = match most {
        Some(most) if most < all => most - 1,
        _ => all,
    };
    let mut taken = BTreeSet::new();
    let mut names: Vec<SiteName> = values.take(own).map(|value| own_name(&value, &mut taken)).collect();
    if own < all {
        names.push(own_name("others", &mut taken));
    }
    names
}

/// A text as a name: other characters become dashes, and a name that is taken gets a number.
fn own_name(text: &str, taken: &mut BTreeSet<SiteName>) -> SiteName {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    let dashed: String = text.chars().map(plain).collect();
    let parts: Vec<&str> = dashed.split('-').filter(|part| !part.is_empty()).collect();
    let mut word: String = parts.join("-").chars().take(LONGEST_VALUE).collect();
    if word.is_empty() {
        "unnamed".clone_into(&mut word);
    }
    let numbers = std::iter::once(word.clone()).chain((2..).map(|number| format!("{word}-{number}")));
    let mut names =
        numbers.map(|name| SiteName::new(name).expect("it begins with a letter or digit and is short"));
    let name = names.find(|name| !taken.contains(name)).expect("numbers do not end");
    taken.insert(name.clone());
    name
}

/// Makes these the study's sites. A floor of honest sites that follows from their number follows the new one.
fn name_sites(plan: &mut Plan, mut names: Vec<SiteName>) {
    names.sort();
    let honest = &mut plan.aggregation.min_honest;
    if *honest == least_honest(plan.sites.len()) {
        *honest = least_honest(names.len());
    }
    plan.sites = names;
}

/// Reads everybody's cases, with the loader and the limits of an agent.
pub(super) fn load(draft: &Draft, shared: &Shared, root: &Path, story: &Story) -> anyhow::Result<Hospitals> {
    let (criteria, mut decoder) = (criteria(draft)?, decoder()?);
    let mut hospitals = BTreeMap::new();
    for (site, source) in &shared.sites {
        let source = rooted(source.clone(), &folder(root, site));
        // The keys of hospitals are secret; these have to be the same in every run.
        let key = Hash::labelled("simulated-split", format!("{} {site}", draft.seed).as_bytes());
        let mut progress = |at: consilium_site_agent::data::Progress| {
            story.progress(&format!("{site} reads its cases: {} of {}", at.done, at.total));
        };
        let key = SplitKey::new(*key.as_bytes());
        let hospital = match load_source(&source, &criteria, &key, &mut decoder, None, &mut progress) {
            Ok(cohort) => enough(draft, draft.data.minimum_cases, &cohort.counts)
                .map(|()| Hospital { train: cohort.train, held_out: cohort.held_out }),
            Err(error) => {
                story.tell(&format!("{site}: {error}"));
                Err(Withdrawal::NoData)
            }
        };
        match &hospital {
            Ok(Hospital { train, held_out }) => {
                story.tell(&format!(
                    "{site}: {} cases to train on, {} held out",
                    train.len(),
                    held_out.len()
                ));
            }
            Err(cause) => story.tell(&format!("{site} sits out: {cause}")),
        }
        hospitals.insert(site.clone(), hospital);
    }
    Ok(hospitals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_names_of_their_own() {
        let values = ["South Korea", "south  korea", "Zürich", "…", "Malta"].map(str::to_owned);
        let names = named_after(values.clone().into_iter(), None);
        let texts: Vec<_> = names.iter().map(SiteName::as_str).collect();
        assert_eq!(texts, ["south-korea", "south-korea-2", "z-rich", "unnamed", "malta"]);
        let names = named_after(values.into_iter(), Some(3));
        assert_eq!(
            names.iter().map(SiteName::as_str).collect::<Vec<_>>(),
            ["south-korea", "south-korea-2", "others"]
        );
    }
}
