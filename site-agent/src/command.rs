//! The commands that people at the hospital run. They read what the running agent has written down and
//! change nothing, except `approve` and `decline`, which leave one file for the vault.

pub(crate) mod answer;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod journal;
pub(crate) mod policy;
pub(crate) mod status;
pub(crate) mod studies;

use anyhow::{Context as _, bail};

use crate::config::Config;
use crate::folder::SiteFolder;
use crate::store::Disk;
use crate::vault::record::{self, StudyRecord};

/// A site's folder with its parts where `site.toml` puts them.
pub(crate) fn configured(folder: &SiteFolder) -> anyhow::Result<(Config, SiteFolder)> {
    let config = Config::load(folder)?;
    let folder = config.folder(folder);
    Ok((config, folder))
}

/// The one study that a person means by a name or the first digits of a hash.
pub(crate) fn find_study(folder: &SiteFolder, text: &str) -> anyhow::Result<StudyRecord> {
    let all = record::read_all(&Disk, folder).context("cannot read the studies of this site")?;
    let meant = |study: &StudyRecord| {
        study.plan().name.as_str() == text || (text.len() >= 6 && study.hash().to_string().starts_with(text))
    };
    let mut found: Vec<_> = all.into_iter().filter(meant).collect();
    match (found.pop(), found.is_empty()) {
        (Some(study), true) => Ok(study),
        (None, _) => bail!("this site has heard of no study \"{text}\"; `site-agent studies` lists them"),
        (Some(_), false) => {
            bail!(
                "\"{text}\" means several studies; give the first digits of the hash that `site-agent studies` shows"
            )
        }
    }
}

/// A moment for people.
pub(crate) fn moment(ms: u64) -> String {
    i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map_or_else(
        || "at no known time".to_owned(),
        |moment| moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}
