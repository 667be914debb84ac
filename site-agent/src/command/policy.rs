//! `site-agent policy explain STUDY`.

use std::process::ExitCode;

use serde_json::json;

use super::{configured, find_study, list};
use crate::folder::SiteFolder;
use crate::store::Disk;
use crate::vault::identity::Identity;

/// Shows each clause of the policy with its verdict. Exits with 1 where the policy refuses.
pub(crate) fn run(folder: &SiteFolder, study: &str, json: bool) -> anyhow::Result<ExitCode> {
    let (config, folder) = configured(folder)?;
    let identity = Identity::read(&Disk, &folder)?;
    let record = find_study(&folder, study)?;
    let verdict = config.policy.judge(
        record.plan(),
        record.operator(),
        &identity.site,
        &record.roster_sites(&identity.anchor)?,
    );
    if json {
        for clause in verdict.clauses() {
            let line = json!({
                "study": record.hash(), "rule": clause.rule(), "setting": clause.setting(),
                "found": clause.found(), "met": clause.is_met(),
            });
            println!("{line}");
        }
    } else {
        println!("study {} ({}), signed by {}", record.plan().name, record.hash().short(), record.operator());
        println!("{}", list("sites:", record.plan().sites.iter()));
        println!("{verdict}");
    }
    Ok(if verdict.deciding().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
