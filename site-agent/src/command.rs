//! The commands that people at the hospital run. They read what the running agent has written down and
//! change nothing, except `approve` and `decline`, which leave one file for the vault.

pub(crate) mod answer;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod journal;
pub(crate) mod model;
pub(crate) mod policy;
pub(crate) mod status;
pub(crate) mod studies;

use anyhow::{Context as _, bail};
use consilium_study::name::SiteName;

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

/// Names in lines of at most 100 letters behind `heading`; further lines begin below the first name.
pub(crate) fn list<'n>(heading: &str, names: impl Iterator<Item = &'n SiteName>) -> String {
    const WIDEST: usize = 100;
    let margin = heading.chars().count() + 1;
    let (mut text, mut at) = (heading.to_owned(), margin - 1);
    let mut names = names.map(SiteName::as_str).peekable();
    while let Some(name) = names.next() {
        let comma = if names.peek().is_some() { "," } else { "" };
        if at > margin && at + 1 + name.len() + comma.len() > WIDEST {
            text.push('\n');
            text.push_str(&" ".repeat(margin - 1));
            at = margin - 1;
        }
        text.push(' ');
        text.push_str(name);
        text.push_str(comma);
        at += 1 + name.len() + comma.len();
    }
    text
}

/// A moment for people.
pub(crate) fn moment(ms: u64) -> String {
    i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map_or_else(
        || "at no known time".to_owned(),
        |moment| moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_whole_in_lines_that_a_terminal_holds() {
        let names: Vec<SiteName> = (0..40).map(|number| format!("site-{number}").parse().unwrap()).collect();
        let text = list("    sites:", names.iter());
        assert!(text.lines().count() > 3 && text.lines().all(|line| line.len() <= 100), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("           site-")), "{text}");
        let all: Vec<&str> = text.split_whitespace().skip(1).map(|name| name.trim_end_matches(',')).collect();
        assert_eq!(all, names.iter().map(SiteName::as_str).collect::<Vec<_>>());
        assert_eq!(list("sites:", names[..2].iter()), "sites: site-0, site-1");
    }
}
