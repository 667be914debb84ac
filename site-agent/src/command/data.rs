//! `site-agent data check|explain`: the hospital's data with the eyes of a study. For this screen only.

use std::ops::Deref as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use consilium_study::document::Draft;

use super::{configured, find_study};
use crate::data::report::{Check, Explanation};
use crate::data::{Cache, Decoder, LoadError, access, load};
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
    let cache = Cache::open(&folder.cache())?;
    let user = access::user_name();
    let loaded = load(&config.source, &criteria, &key, &mut decoder, Some(&cache), &mut |_| {});
    let cohort = loaded.map_err(|error: LoadError| anyhow::anyhow!("{error}. {}", error.remedy(&user)))?;
    match (explain, json) {
        (true, true) => println!("{}", serde_json::to_string(&Explanation::of(&criteria, &cohort, &user))?),
        (true, false) => print!("{}", Explanation::of(&criteria, &cohort, &user).text()),
        (false, true) => {
            println!("{}", serde_json::to_string(&Check::of(&config.source, &criteria, &cohort, &user))?);
        }
        (false, false) => print!("{}", Check::of(&config.source, &criteria, &cohort, &user).text()),
    }
    Ok(if cohort.counts.usable > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
