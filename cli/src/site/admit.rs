//! `consilium site admit`: the one act that needs the consortium's offline key.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, bail, ensure};
use consilium_identity::enrolment::{self, EnrolmentRefusal, EnrolmentRequest, Terms};
use consilium_identity::roster::{self, RosterError};
use consilium_proto::v1::{AdmitRequest, ListEnrolmentsRequest};
use consilium_study::canonical::Canonical;
use consilium_study::fingerprint;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;
use jiff::Timestamp;
use serde::Serialize;

use super::invitations;
use crate::consortium::Consortium;
use crate::output;
use crate::remote::{Remote, refused};

/// How it was made sure that the request comes from the hospital.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// The hospital has read this fingerprint out.
    Fingerprint(String),
    /// The person at the terminal is asked.
    Ask,
    /// The invitation alone has to do.
    Unseen,
}

/// A site that was admitted.
#[derive(Debug, Serialize)]
pub struct Admitted {
    /// The site.
    pub site: SiteName,
    /// What both sides saw; none for one that was a member already.
    pub fingerprint: Option<String>,
    /// Version of the roster that names it.
    pub roster: u32,
    /// Whether it was a member before.
    pub again: bool,
}

impl Admitted {
    /// What a person reads.
    pub fn people(&self) -> String {
        let Self { site, fingerprint, roster, again } = self;
        match fingerprint {
            Some(fingerprint) => format!(
                "Admitted {site} with fingerprint {fingerprint}; roster version {roster} names it.\n\
                 Its machine fetches its certificate by itself; see `consilium site list`."
            ),
            None if *again => format!("{site} is a member already; nothing waits to be admitted."),
            None => format!("{site} is a member."),
        }
    }
}

/// Admits a site that has asked. One that is a member, and has not asked again, is left as it is.
pub async fn admit(
    consortium: &Consortium,
    site: &SiteName,
    terms: Terms,
    agreement: Agreement,
) -> anyhow::Result<Admitted> {
    let mut remote = Remote::open(consortium).await?;
    let (current, roster) = remote.roster().await?;
    let waiting =
        remote.client.list_enrolments(ListEnrolmentsRequest {}).await.map_err(refused)?.into_inner();
    let Some(waiting) = waiting.enrolments.into_iter().find(|waiting| waiting.site == site.as_str()) else {
        if roster.site(site).is_some() {
            invitations::remove(consortium, site)?;
            return Ok(Admitted {
                site: site.clone(),
                fingerprint: None,
                roster: roster.version(),
                again: true,
            });
        }
        bail!(not_asked(consortium, site)?);
    };
    let request = Signed::<EnrolmentRequest>::from_canonical(&waiting.request)
        .with_context(|| format!("the request of {site} cannot be read"))?;
    let fingerprint = request.claim()?.fingerprint()?;
    let invitation = invitations::find(consortium, site)?.with_context(|| {
        format!(
            "the invitation of {site} is not in this folder, and without it the request cannot be checked. Admit \
             the site where it was invited, or invite it anew: consilium site invite {site} --anew"
        )
    })?;
    // Before anybody is asked anything: the key may be in a safe.
    let key = consortium.key()?;
    let question = (site.clone(), fingerprint.clone());
    tokio::task::spawn_blocking(move || agree(&agreement, &question.0, &question.1)).await??;

    let admission = enrolment::admit(&key, &invitation, &request, &current, terms, Timestamp::now())
        .map_err(|refusal| explain(site, refusal))?;
    let roster = roster::verify(consortium.anchor(), &admission.roster)?.version();
    remote.client.admit(AdmitRequest { admission: admission.to_canonical() }).await.map_err(refused)?;
    // If this machine stops before the next lines, the next command fetches the roster from the coordinator.
    consortium.keep_roster(&admission.roster)?;
    invitations::remove(consortium, site)?;
    Ok(Admitted { site: site.clone(), fingerprint: Some(fingerprint), roster, again: false })
}

fn not_asked(consortium: &Consortium, site: &SiteName) -> anyhow::Result<String> {
    Ok(match invitations::find(consortium, site)? {
        None => format!("{site} was not invited from here. Invite it first: consilium site invite {site}"),
        Some(_) => format!(
            "{site} has not asked to be admitted yet. On its machine, type `site-agent enrol` with the line that \
             `consilium site invite {site}` prints"
        ),
    })
}

fn explain(site: &SiteName, refusal: EnrolmentRefusal) -> anyhow::Error {
    let taken = matches!(refusal, EnrolmentRefusal::Roster(RosterError::Present(_)));
    let error = anyhow::Error::new(refusal);
    if taken {
        error.context(format!(
            "a site {site} with other keys is a member. If that machine lost its keys, type: \
             consilium site admit {site} --replace"
        ))
    } else {
        error.context(format!("{site} was not admitted"))
    }
}

fn agree(agreement: &Agreement, site: &SiteName, fingerprint: &str) -> anyhow::Result<()> {
    match agreement {
        Agreement::Unseen => Ok(()),
        Agreement::Fingerprint(read_out) if fingerprint::is_same(read_out, fingerprint) => Ok(()),
        Agreement::Fingerprint(read_out) => bail!(
            "the fingerprint does not match: the hospital's is {}, the request has {fingerprint}. \
             Somebody else may have asked in the name of {site}; it was not admitted",
            crate::remote::plain(read_out)
        ),
        Agreement::Ask if !io::stdin().is_terminal() => bail!(
            "{site} asks to join with fingerprint {fingerprint}. There is no terminal to ask on: compare it with \
             the one that the hospital sees, then type: consilium site admit {site} --fingerprint TEXT"
        ),
        Agreement::Ask => ask(site, fingerprint),
    }
}

fn ask(site: &SiteName, fingerprint: &str) -> anyhow::Result<()> {
    let same = output::ask(&format!(
        "{site} asks to join with fingerprint\n\n  {fingerprint}\n\n\
         Does the hospital's machine show the same? Type yes to admit it"
    ))?;
    ensure!(same, "{site} was not admitted");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_compared_as_people_read_it() {
        let shown = "01ab-23cd-45ef-6789-abcd";
        let site: SiteName = "charite".parse().unwrap();
        let agreed = |read_out: &str| agree(&Agreement::Fingerprint(read_out.into()), &site, shown);
        assert!(agreed("01AB 23cd 45ef 6789 ABCD").is_ok());
        for other in ["", "01ab", "01ab-23cd-45ef-6789-abce", "01ab-23cd-45ef-6789-abcd0"] {
            assert!(agreed(other).unwrap_err().to_string().contains("does not match"), "{other}");
        }
        assert!(agree(&Agreement::Unseen, &site, shown).is_ok());
    }
}
