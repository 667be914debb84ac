//! `site-agent data check|explain`: the hospital's data with the eyes of a study. For this screen only.

use std::ops::Deref as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use consilium_rounds::reason::Withdrawal;
use consilium_study::document::{Draft, Plan};
use serde::Serialize;

use super::{configured, find_study};
use crate::contribution::enough;
use crate::data::report::{Check, Explanation};
use crate::data::{Counts, Decoder, LoadError, access, load};
use crate::folder::SiteFolder;
use crate::program::Program;
use crate::vault::cases::{criteria, read_split_key};

/// Loads the source as the vault would and prints what became of it.
pub(crate) fn run(
    folder: &SiteFolder,
    study: &str,
    explain: bool,
    json: bool,
    program: &Program,
) -> anyhow::Result<ExitCode> {
    let (config, folder) = configured(folder)?;
    let plan = if Path::new(study).extension().is_some_and(|extension| extension == "toml") {
        let text = std::fs::read_to_string(study).with_context(|| format!("cannot read {study}"))?;
        Draft::from_toml(&text)?.deref().clone()
    } else {
        find_study(&folder, study)?.plan().deref().clone()
    };
    let criteria = criteria(&plan)?;
    let key = read_split_key(&folder)?;
    let mut decoder = Decoder::new(program.command(["decode"]));
    // Without it files are decoded again, and the counts are the same.
    let cache = config.cache(&folder).open().ok();
    let user = access::user_name();
    let loaded = load(&config.source, &criteria, &key, &mut decoder, cache.as_ref(), &mut |_| {});
    let cohort = loaded.map_err(|error: LoadError| anyhow::anyhow!("{error}. {}", error.remedy(&user)))?;
    let hindrance = hindrance(&plan, config.policy.minimum_cases(&plan), &cohort.counts);
    match (explain, json) {
        (true, true) => {
            let explanation = Explanation::of(&config.source, &criteria, &cohort, &user);
            println!("{}", serde_json::to_string(&explanation)?);
        }
        (true, false) => print!("{}", Explanation::of(&config.source, &criteria, &cohort, &user).text()),
        (false, true) => {
            let check = Check::of(&config.source, &criteria, &cohort, &user);
            println!("{}", serde_json::to_string(&Told { check, hindrance: hindrance.as_deref() })?);
        }
        (false, false) => {
            print!("{}", Check::of(&config.source, &criteria, &cohort, &user).text());
            if let Some(hindrance) = &hindrance {
                println!("{hindrance}");
            }
        }
    }
    Ok(if hindrance.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a program reads.
#[derive(Serialize)]
struct Told<'h> {
    #[serde(flatten)]
    check: Check,
    /// Why these cases would not take part.
    hindrance: Option<&'h str>,
}

/// Why a site with these cases would not take part in the study.
fn hindrance(plan: &Plan, least: u32, counts: &Counts) -> Option<String> {
    match enough(plan, least, counts) {
        Ok(()) if counts.train > 0 => None,
        Err(Withdrawal::TooFewUsable) => Some(format!(
            "this site would sit rounds out: {:.2} of the items are usable, and the study asks for {}",
            counts.usable_share(),
            plan.data.smallest_usable_share.get()
        )),
        Ok(()) | Err(_) => Some(format!(
            "this site would refuse the study, for good: {} usable cases, {} to train on; {least} are asked for",
            counts.usable, counts.train
        )),
    }
}
