//! `site-agent approve`, `decline` and `consent`: a person's answer, left for the vault.

use anyhow::{Context as _, bail};
use consilium_study::canonical::Canonical as _;
use consilium_study::statement::{Repeat, Rule};
use serde_json::json;

use super::{configured, find_study};
use crate::folder::SiteFolder;
use crate::relay::board::now_ms;
use crate::store::{Disk, Kind, Store as _};
use crate::vault::board::{Asked, VaultStatus};
use crate::vault::consent::in_words;
use crate::vault::record::{Participation, PersonalAct, PersonalAnswer, Stage, StudyRecord};

/// Leaves the answer where the vault looks for it. The same answer twice is harmless.
pub(crate) fn run(
    folder: &SiteFolder,
    study: &str,
    person: &str,
    act: PersonalAct,
    json: bool,
) -> anyhow::Result<()> {
    let (_, folder) = configured(folder)?;
    let record = find_study(&folder, study)?;
    let name = &record.plan().name;
    if Rule::person(person).is_err() {
        bail!("\"--person\" takes one line that names a person");
    }
    let tell = |word: &str, again: bool, people: String| {
        if json {
            let line = json!({ "study": record.hash(), "name": name, "answer": word, "again": again });
            println!("{line}");
        } else {
            println!("{people}");
        }
    };
    match (record.stage(), act) {
        (Stage::Waiting | Stage::Decided { .. } | Stage::Refused { .. }, PersonalAct::Consent) => {
            bail!("this site does not take part in study {name}, so there is nothing to consent to")
        }
        (Stage::Decided { .. } | Stage::Accepted(_), PersonalAct::Approve) => {
            tell("approved", true, format!("study {name} was accepted already"));
            return Ok(());
        }
        (Stage::Refused { .. }, PersonalAct::Decline) => {
            tell("declined", true, format!("study {name} was declined already"));
            return Ok(());
        }
        _ if record.is_over() => bail!("study {name} is over"),
        (Stage::Waiting, PersonalAct::Approve)
        | (Stage::Waiting | Stage::Decided { .. } | Stage::Accepted(_), PersonalAct::Decline)
        | (Stage::Accepted(_), PersonalAct::Consent) => {}
        (Stage::Refused { .. }, PersonalAct::Approve) => bail!(
            "this site has refused study {name}; that is for good. `site-agent policy explain {name}` shows why; when the policy is another, ask the consortium to propose the study again under another name"
        ),
    }
    let asked = match act {
        PersonalAct::Consent => Some(question(&folder, &record)?),
        PersonalAct::Approve | PersonalAct::Decline => None,
    };
    let about = asked.as_ref().map(|asked| asked.question);
    let answer =
        PersonalAnswer { study: record.hash(), act, person: person.to_owned(), at_ms: now_ms(), about };
    let path = folder.study(&record.hash()).decision();
    Disk.replace(Kind::Decision, &path, &answer.to_canonical())?;
    let (word, words) = match act {
        PersonalAct::Approve => ("approved", "approved"),
        PersonalAct::Decline => ("declined", "declined"),
        PersonalAct::Consent => ("consented", "consented to what is asked in"),
    };
    let consent = asked.map_or_else(String::new, |Asked { model, survivors, .. }| {
        format!("model {} may be opened again with others than {}\n", model.short(), in_words(&survivors))
    });
    let study = record.hash();
    let story = "the running agent tells the coordinator";
    let leaves = match (record.stage(), act) {
        (Stage::Decided { .. } | Stage::Accepted(_), PersonalAct::Decline) => {
            "; this site takes no part in its further rounds, for good"
        }
        _ => "",
    };
    tell(
        word,
        false,
        format!("{consent}{words} study {name} ({}) as {person}; {story}{leaves}", study.short()),
    );
    Ok(())
}

/// What the running agent is asked about the repeat rule.
fn question(folder: &SiteFolder, record: &StudyRecord) -> anyhow::Result<Asked> {
    let name = &record.plan().name;
    if matches!(record.participation(), Some(Participation { acceptance, .. })
        if acceptance.claim().is_ok_and(|acceptance| acceptance.terms.repeat == Repeat::Never))
    {
        bail!(
            "this site accepted study {name} with policy.repeat = \"never\": nothing is opened again with others"
        );
    }
    crate::status::read::<VaultStatus>(&folder.vault_status())
        .and_then(|status| status.studies.into_iter().find(|study| study.study == record.hash())?.asked)
        .with_context(|| {
            format!("nobody asks this site anything about study {name} (`site-agent studies` shows what it waits for)")
        })
}
