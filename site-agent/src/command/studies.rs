//! `site-agent studies`.

use anyhow::Context as _;
use consilium_secagg::threshold::Thresholds;
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
            });
            println!("{line}");
            continue;
        }
        println!("{}  {}  {}  {}", study.hash().short(), plan.name, study.stage().name(), plan.title);
        println!("    signed by {}, heard of {}", study.operator(), moment(study.heard_ms()));
        println!("{}", list("    sites:", plan.sites.iter()));
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
