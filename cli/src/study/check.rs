//! `consilium study check`: everything that can be known about a study before anybody is asked.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use consilium_identity::Roster;
use consilium_secagg::grouping::MAX_DRAWS;
use consilium_secagg::threshold::Thresholds;
use consilium_study::document::{Draft, InvalidStudy};
use consilium_study::forecast::Forecast;
use consilium_study::grouping::{Combine, Groups};
use consilium_study::name::{SiteName, StudyName};
use consilium_study::strategy::Strategy;
use consilium_study::weight::WeightRule;
use serde::Serialize;

use super::probe::{Probe, probe};
use crate::consortium::{Consortium, Location};
use crate::output::Output;

/// A study that passed.
#[derive(Debug, Serialize)]
pub struct Check {
    /// Always true: a study with problems has no such figures.
    pub ok: bool,
    /// Its name.
    pub study: StudyName,
    /// Its sites.
    pub sites: Vec<SiteName>,
    /// Those of them that are no members of the consortium yet; none where no consortium is at hand.
    pub not_members: Vec<SiteName>,
    /// How sums become models, and what a site counts in them.
    pub strategy: Strategy,
    /// What a site's update counts.
    pub weight: WeightRule,
    /// The layers with numbers, by the names that `model.frozen` and `model.local` take, and how they are treated.
    pub layers: Vec<String>,
    /// Numbers in the model.
    pub parameters: u64,
    /// Bytes of the model.
    pub model_bytes: u64,
    /// Multiply-adds that scoring one case takes.
    pub multiply_adds_per_case: u64,
    /// Seconds of one core that training takes a site in a round, for 1000 cases unless the recipe counts `steps`.
    pub core_seconds_per_round: u64,
    /// Bytes to a site in a round.
    pub down_per_round: u64,
    /// Bytes from a site in a round.
    pub up_per_round: u64,
    /// Most bytes of memory that training takes at a site.
    pub site_memory: u64,
    /// Of those, activations of a batch.
    pub activation_memory: u64,
    /// What an opened sum guarantees when all sites are selected.
    pub guarantee: Guarantee,
    /// What is lawful, and should be read before the study is proposed.
    pub notes: Vec<Found>,
    /// What one step of training showed.
    pub probe: Probe,
    #[serde(skip)]
    forecast: String,
}

/// What an opened sum guarantees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Guarantee {
    /// `N`: sites of the study.
    pub sites: u32,
    /// `c`: sites that may help the coordinator.
    pub corrupt: u32,
    /// `t`: sites that have to agree before a sum is opened.
    pub threshold: u32,
    /// `h`: least number of honest sites behind an opened sum.
    pub honest: u32,
    /// Least number of survivors of a round: `t`, or the study's quorum.
    pub needed: u32,
    /// The smallest Selection that can open a sum.
    pub smallest_selection: u32,
    /// Where groups are summed apart: what a group's sum guarantees instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupGuarantee>,
}

/// What the sum over a group guarantees, when all sites are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GroupGuarantee {
    /// Number of groups.
    pub count: u32,
    /// How their means are combined.
    pub combine: Combine,
    /// Values left out at each end.
    pub trim: u32,
    /// Sites in the smallest group.
    pub size: u32,
    /// Survivors that the smallest group needs to be in a sum.
    pub floor: u32,
    /// Honest sites behind its sum, the site itself among them.
    pub honest: u32,
    /// The chance, for one site and one draw, that there are fewer.
    pub chance: f64,
}

impl GroupGuarantee {
    fn of(draft: &Draft, groups: Groups) -> anyhow::Result<Self> {
        let plan = draft.group_plan(groups)?;
        let last = plan.groups() - 1;
        Ok(Self {
            count: groups.count,
            combine: groups.combine,
            trim: groups.trim,
            size: plan.size(last).into(),
            floor: plan.floor(last).into(),
            honest: plan.honest().into(),
            chance: plan.chance(),
        })
    }

    fn people(&self) -> String {
        let Self { count, combine, trim, size, floor, honest, chance } = self;
        let rule = match combine {
            Combine::Median => "their median is taken".to_owned(),
            Combine::TrimmedMean => format!("their mean without the {trim} largest and smallest is taken"),
        };
        format!(
            "\ngroups       sums are over {count} groups of {size} or more sites, drawn by all of them; in each coordinate\n             \
             {rule}. Behind a group's sum are h = {honest} honest sites, but for a chance of\n             \
             {chance:.1e} for a site in one draw (at most 1e-3 is accepted, and a site takes part in {MAX_DRAWS} draws);\n             \
             a group is in a round with at least {floor} of {size} sites, or not at all. Each site has to allow it"
        )
    }
}

impl Guarantee {
    /// For Selections of the study's sites.
    pub fn of(draft: &Draft) -> anyhow::Result<Self> {
        let count = draft.sites.len();
        let min_honest = u16::try_from(draft.aggregation.min_honest)?;
        let of = |selected| Thresholds::new(count, selected, min_honest);
        let all = of(count).context("aggregation.min_honest")?;
        let smallest = (draft.rounds.quorum as usize..=count).find(|&selected| of(selected).is_ok());
        let threshold = u32::from(all.threshold);
        Ok(Self {
            sites: all.roster.into(),
            corrupt: all.corrupt.into(),
            threshold,
            honest: all.honest_behind_a_sum().into(),
            needed: threshold.max(draft.rounds.quorum),
            smallest_selection: smallest.map_or(all.roster.into(), |selected| selected as u32),
            groups: draft.aggregation.groups.map(|groups| GroupGuarantee::of(draft, groups)).transpose()?,
        })
    }

    /// What a person reads.
    pub fn people(&self) -> String {
        let Self { sites, corrupt, threshold, honest, needed, smallest_selection, groups } = self;
        let helpers = match corrupt {
            0 => "no site helps the coordinator (c = 0)".to_owned(),
            _ => format!("at most c = {corrupt} of the {sites} sites help the coordinator"),
        };
        let opened = if groups.is_some() { "a sum over everybody (an evaluation)" } else { "an opened sum" };
        format!(
            "guarantee    what {opened} guarantees: at least h = {honest} honest sites are in it, as long as\n             \
             {helpers}; t = {threshold} sites have to agree before a sum is opened\n\
             dropouts     with all {sites} sites selected, {lost} may drop out of a round; a round needs at least \
             {smallest_selection} ready sites{groups}",
            lost = sites - needed,
            groups = groups.as_ref().map(GroupGuarantee::people).unwrap_or_default(),
        )
    }
}

/// Checks a study that was read; with a roster, whether its sites are members, too.
pub fn check(draft: &Draft, roster: Option<&Roster>) -> anyhow::Result<Check> {
    let not_members = roster.map_or_else(Vec::new, |roster| strangers(draft, roster));
    let guarantee = Guarantee::of(draft)?;
    let notes = consilium_study::check::notes(draft, guarantee.smallest_selection);
    let forecast = Forecast::of(draft);
    let probe = probe(draft)?;
    Ok(Check {
        ok: true,
        study: draft.name.clone(),
        sites: draft.sites.clone(),
        not_members,
        strategy: draft.rounds.strategy,
        weight: draft.aggregation.weight,
        layers: draft.model.layers_in_words(),
        parameters: forecast.parameters,
        model_bytes: forecast.model.bytes(),
        multiply_adds_per_case: forecast.multiply_adds,
        core_seconds_per_round: forecast.core_time.time.as_millis() / 1000,
        down_per_round: forecast.down_per_round.bytes(),
        up_per_round: forecast.up_per_round.bytes(),
        site_memory: forecast.site_memory.bytes(),
        activation_memory: forecast.activation_memory.bytes(),
        notes: notes.into_iter().map(|note| Found::of(note.key(), &note)).collect(),
        guarantee,
        probe,
        forecast: forecast.to_string(),
    })
}

impl Check {
    /// What a person reads.
    pub fn people(&self) -> String {
        let Self { study, sites, not_members, strategy, weight, layers, forecast, guarantee, .. } = self;
        let Self { notes, probe, .. } = self;
        let Probe { cases, loss, seconds } = probe;
        format!(
            "{study}: every rule holds\n\
             sites        {count} ({names}){strangers}\n\
             strategy     {strategy}; weight {weight}\n\
             layers       {layers}\n\
             {forecast}\n\
             {guarantee}\n\
             model        trains: one step with {cases} made-up cases took {seconds:.2} s here, loss {loss:.3}{notes}",
            count = sites.len(),
            names = names(sites),
            strangers = match not_members.as_slice() {
                [] => String::new(),
                [first, ..] => format!(
                    "\n             no members yet: {}. Invite them first: consilium site invite {first}",
                    names(not_members)
                ),
            },
            weight = weight.name(),
            layers = lines_of(layers),
            guarantee = guarantee.people(),
            notes = notes
                .iter()
                .map(|note| format!("\nnote         {}", note.problem))
                .collect::<Vec<_>>()
                .concat(),
        )
    }
}

/// A list in lines of a screen.
fn lines_of(items: &[String]) -> String {
    let mut text = String::new();
    let mut column = 0;
    for (index, item) in items.iter().enumerate() {
        let item = if index + 1 < items.len() { format!("{item},") } else { item.clone() };
        if column > 0 && column + 1 + item.len() > 100 {
            text += "\n             ";
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        column += item.len();
        text += &item;
    }
    text
}

/// The sites of a study that the roster does not name.
pub(super) fn strangers(draft: &Draft, roster: &Roster) -> Vec<SiteName> {
    draft.sites.iter().filter(|site| roster.site(site).is_none()).cloned().collect()
}

/// Sites as people list them.
pub(super) fn names(sites: &[SiteName]) -> String {
    sites.iter().map(SiteName::as_str).collect::<Vec<_>>().join(", ")
}

/// Reads a study file.
pub(crate) fn read(file: &Path) -> anyhow::Result<Draft> {
    parse(file, &text(file)?)
}

/// The study that a file's text is.
pub(crate) fn parse(file: &Path, text: &str) -> anyhow::Result<Draft> {
    match Draft::from_toml(text) {
        Ok(draft) => Ok(draft),
        Err(error) => bail!("{} is no study yet:\n{}", file.display(), numbered(&error)),
    }
}

/// The text of a study file.
pub(crate) fn text(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            anyhow!("there is no file {}; write a study with: consilium study new NAME", file.display())
        }
        _ => anyhow!(error).context(format!("reading {}", file.display())),
    })
}

fn numbered(error: &InvalidStudy) -> String {
    match error.problems() {
        [] => format!("  {error}"),
        problems => problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n"),
    }
}

#[derive(Serialize)]
struct Failed {
    ok: bool,
    problems: Vec<Found>,
}

/// What was found about a key of a study.
#[derive(Debug, Serialize)]
pub struct Found {
    /// The key, with its section; none where it is about the whole file.
    pub key: Option<String>,
    /// What a person reads of it.
    pub problem: String,
}

impl Found {
    fn of(key: &str, found: &impl ToString) -> Self {
        Self { key: Some(key.to_owned()), problem: found.to_string() }
    }
}

pub(super) fn run(location: &Location, file: &Path, output: Output) -> anyhow::Result<()> {
    if output.json
        && let Err(error) = Draft::from_toml(&text(file)?)
    {
        let problems = match error.problems() {
            [] => vec![Found { key: error.key(), problem: error.to_string() }],
            problems => problems.iter().map(|problem| Found::of(problem.key(), problem)).collect(),
        };
        output.show(&Failed { ok: false, problems }, |_| String::new())?;
    }
    let draft = read(file)?;
    // Without a consortium at hand a study can be written and checked, too.
    let roster = Consortium::open(location).and_then(|consortium| consortium.roster()).ok();
    let roster = roster.as_ref().map(|(_, roster)| &**roster);
    output.show(&check(&draft, roster)?, Check::people)?;
    output.tell(format!("\nPropose it with: consilium study propose {}", file.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::new;

    fn names(count: usize) -> Vec<SiteName> {
        (0..count).map(|at| format!("s{at:02}").parse().unwrap()).collect()
    }

    fn written(count: usize) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lungs.toml");
        new(&"lungs".parse().unwrap(), &names(count), &file).unwrap();
        (folder, file)
    }

    #[test]
    fn what_new_writes_passes_and_trains() {
        let (_folder, file) = written(4);
        let checked = check(&read(&file).unwrap(), None).unwrap();
        let guarantee = Guarantee {
            sites: 4,
            corrupt: 1,
            threshold: 3,
            honest: 2,
            needed: 3,
            smallest_selection: 3,
            groups: None,
        };
        assert_eq!(checked.guarantee, guarantee);
        assert!((0.1..3.0).contains(&checked.probe.loss), "{:?}", checked.probe);
        let text = checked.people();
        assert!(text.contains("h = 2 honest sites") && text.contains("no formal guarantee"), "{text}");
        assert!(text.contains("4.24 million multiply-adds"), "{text}");
        let json = serde_json::to_value(&checked).unwrap();
        assert_eq!(json["multiply_adds_per_case"], 4_240_128);
        // The same again is harmless; a changed file is not overwritten.
        new(&"lungs".parse().unwrap(), &names(4), &file).unwrap();
        assert!(new(&"lungs".parse().unwrap(), &names(5), &file).is_err());
    }

    #[test]
    fn what_is_seldom_meant_is_noted() {
        let (_folder, file) = written(4);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(check(&read(&file).unwrap(), None).unwrap().notes.is_empty());
        let draft = Draft::from_toml(&text.replace("# minimum_cases = 10 ", "minimum_cases = 4 ")).unwrap();
        let checked = check(&draft, None).unwrap();
        assert_eq!(checked.notes[0].key.as_deref(), Some("data.minimum_cases"));
        assert!(checked.people().contains("\nnote         data.minimum_cases: a site with 4 of them"));
    }

    #[test]
    fn every_number_of_sites_has_a_guarantee() {
        for count in 3..=40 {
            let (_folder, file) = written(count);
            let Guarantee { sites, corrupt, threshold, honest, needed, smallest_selection, .. } =
                Guarantee::of(&read(&file).unwrap()).unwrap();
            assert_eq!(honest, threshold - corrupt);
            assert!(3 * corrupt < sites && honest >= 2 && needed <= sites, "{count}");
            assert!(smallest_selection <= sites);
        }
    }

    #[test]
    fn groups_are_explained_or_refused_with_their_chance() {
        let with = |count: usize, groups: &str| {
            let (_folder, file) = written(count);
            let text = std::fs::read_to_string(&file).unwrap();
            let text = text.replace("[aggregation]\n", &format!("[aggregation]\ngroups = {groups}\n"));
            std::fs::write(&file, text).unwrap();
            read(&file)
        };
        let draft = with(36, "{ count = 3 }").unwrap();
        let guarantee = Guarantee::of(&draft).unwrap();
        let groups = guarantee.groups.unwrap();
        assert_eq!((groups.size, groups.floor, groups.honest), (12, 10, 3));
        assert!(groups.chance > 0.0 && groups.chance <= 1e-3);
        assert!(guarantee.people().contains("with at least 10 of 12 sites"), "{}", guarantee.people());
        for (count, groups, word) in [
            (12, "{ count = 3 }", "in a million"),
            (24, "{ count = 2 }", "aggregation.groups.count"),
            (24, "{ count = 3, trim = 1 }", "aggregation.groups.trim"),
            (45, "{ count = 5, combine = \"trimmed-mean\", trim = 3 }", "aggregation.groups.trim"),
            (45, "{ count = 5, combine = \"krum\" }", "cannot run under masks"),
        ] {
            let error = with(count, groups).unwrap_err().to_string();
            assert!(error.contains(word), "{groups} of {count}: {error}");
        }
    }

    #[test]
    fn every_problem_is_said_with_its_key() {
        let (_folder, file) = written(2);
        let text = std::fs::read_to_string(&file).unwrap().replace("count = 10 ", "count = 0 ");
        std::fs::write(&file, text).unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("  sites: ") && error.contains("  rounds.count: "), "{error}");
    }

    #[test]
    fn both_kinds_of_normalisation_train() {
        let (_folder, file) = written(3);
        let template = std::fs::read_to_string(&file).unwrap();
        for norm in ["batch", "group"] {
            let model = format!("preset = \"small-cnn\"\nnorm = \"{norm}\"");
            let text = template.replace("preset = \"small-cnn\"", &model);
            assert!(probe(&Draft::from_toml(&text).unwrap()).unwrap().loss.is_finite());
        }
    }
}
