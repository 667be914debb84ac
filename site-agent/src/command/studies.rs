//! `site-agent studies`.

use anyhow::Context as _;
use consilium_secagg::threshold::Thresholds;
use consilium_study::document::{Plan, Rounds};
use consilium_study::forecast::CoreTime;
use serde_json::json;

use super::{configured, list, moment};
use crate::folder::SiteFolder;
use crate::store::Disk;
use crate::vault::record::{self, Stage, StudyRecord};

/// Lists every study this site has heard of, with what it waits for.
pub(crate) fn run(folder: &SiteFolder, json: bool) -> anyhow::Result<()> {
    let (_, folder) = configured(folder)?;
    let studies = record::read_all(&Disk, &folder).context("cannot read the studies of this site")?;
    for study in &studies {
        let plan = study.plan();
        if json {
            let line = json!({
                "study": study.hash(), "name": plan.name, "title": plan.title, "operator": study.operator().to_string(),
                "sites": plan.sites, "heard_ms": study.heard_ms(), "stage": study.stage().name(),
                "rule": study.rule().map(|rule| rule.as_str().to_owned()), "state": study.state(),
                "strategy": plan.rounds.strategy, "rounds": plan.rounds.count,
            });
            println!("{line}");
            continue;
        }
        println!("{}  {}  {}  {}", study.hash().short(), plan.name, study.stage().name(), plan.title);
        println!("    signed by {}, heard of {}", study.operator(), moment(study.heard_ms()));
        println!("{}", list("    sites:", plan.sites.iter()));
        println!("    {}", training(plan));
        println!("    {}", guarantee(study));
        match study.stage() {
            Stage::Waiting => println!("    waits for a person: site-agent approve {}", plan.name),
            Stage::Decided { .. } => println!("    waits for the data to be read"),
            Stage::Refused { .. } | Stage::Accepted(_) => {
                if let Some(rule) = study.rule() {
                    println!("    by {rule}");
                }
            }
        }
    }
    if studies.is_empty() && !json {
        println!("this site has heard of no study");
    }
    Ok(())
}

/// How models come about, and what that takes here.
fn training(plan: &Plan) -> String {
    let Rounds { count, strategy, .. } = &plan.rounds;
    format!("{count} rounds, strategy {strategy}; a round takes {}", CoreTime::of(plan))
}

/// The line that a person reads before a study is accepted.
fn guarantee(study: &StudyRecord) -> String {
    let plan = study.plan();
    let sites = plan.sites.len();
    match Thresholds::new(sites, sites, u16::try_from(plan.aggregation.min_honest).unwrap_or(u16::MAX)) {
        Ok(it) => format!(
            "{sites} sites: an opened sum holds at least {} honest ones, though {} help the coordinator; {} may drop out",
            it.honest_behind_a_sum(),
            it.corrupt,
            it.dropouts()
        ),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use consilium_study::document::Draft;
    use consilium_study::template::study_toml;

    use super::*;

    #[test]
    fn a_person_sees_how_sums_become_models_and_what_that_takes() {
        let sites = ["a", "b", "c"].map(|site| site.parse().unwrap());
        let text = study_toml(&"lungs".parse().unwrap(), &sites);
        let strategy = "[rounds]\nstrategy = { kind = \"fedprox\", mu = 0.01 }\n";
        let draft = Draft::from_toml(&text.replace("[rounds]\n", strategy)).unwrap();
        let told = training(&draft);
        assert!(
            told.starts_with("10 rounds, strategy ") && told.contains(&draft.rounds.strategy.to_string()),
            "{told}"
        );
        assert!(
            told.contains("fedprox") && told.ends_with("; a round takes about 1s of one core for 1000 cases"),
            "{told}"
        );
    }
}
