//! `consilium site invite`: one line of text for one machine of one hospital.

use std::time::Duration;

use anyhow::bail;
use consilium_identity::Invitation;
use consilium_proto::v1::{InviteRequest, ListEnrolmentsRequest};
use consilium_study::canonical::Canonical;
use consilium_study::name::SiteName;
use consilium_study::quantity::HumanDuration;
use jiff::Timestamp;
use serde::Serialize;

use super::invitations;
use crate::consortium::Consortium;
use crate::remote::{Remote, refused};

/// Longest life of an invitation.
const LONGEST: Duration = Duration::from_hours(30 * 24);

/// An invitation as it is handed over.
#[derive(Debug, Serialize)]
pub struct Invited {
    site: SiteName,
    /// The line. A secret until it is used.
    invitation: String,
    expires: String,
    coordinator: String,
    /// Whether the same line was printed before.
    again: bool,
    /// Whether a member of this name exists, whose place the newcomer would take.
    member: bool,
}

impl Invited {
    /// What a person reads.
    pub fn people(&self) -> String {
        let Self { site, invitation, expires, coordinator, again, member } = self;
        let which = if *again { "The open invitation" } else { "Invitation" };
        let replace = if *member { " --replace" } else { "" };
        format!(
            "{which} of {site}, for one machine, until {expires}:\n\
             \n  {invitation}\n\
             \nHand this line over in a way you trust: whoever has it can ask to join in the name of {site}.\n\
             The hospital's machine has to reach {coordinator}. There, type:\n\
             \n  site-agent enrol {invitation}\n\
             \nCompare the fingerprint that it shows by telephone, then type here:\n\
             \n  consilium site admit {site}{replace}"
        )
    }
}

/// Invites a site. An invitation that is open already is given again.
pub async fn invite(
    consortium: &Consortium,
    site: &SiteName,
    valid: HumanDuration,
) -> anyhow::Result<Invitation> {
    let mut remote = Remote::open(consortium).await?;
    Ok(open(consortium, &mut remote, site, valid, false).await?.0)
}

pub(super) async fn invite_again(
    consortium: &Consortium,
    site: &SiteName,
    valid: HumanDuration,
    anew: bool,
) -> anyhow::Result<Invited> {
    let mut remote = Remote::open(consortium).await?;
    let (_, roster) = remote.roster().await?;
    let (invitation, again) = open(consortium, &mut remote, site, valid, anew).await?;
    Ok(Invited {
        site: site.clone(),
        invitation: invitation.to_text().to_string(),
        expires: invitation.expires().to_string(),
        coordinator: invitation.coordinator().to_string(),
        again,
        member: roster.site(site).is_some(),
    })
}

/// The open invitation of a site, or a new one; and whether it is an old one.
async fn open(
    consortium: &Consortium,
    remote: &mut Remote,
    site: &SiteName,
    valid: HumanDuration,
    anew: bool,
) -> anyhow::Result<(Invitation, bool)> {
    if valid.get() > LONGEST {
        bail!("an invitation is of use for at most 30 days; {valid} is longer");
    }
    let now = Timestamp::now();
    let known = invitations::find(consortium, site)?.filter(|known| !anew && known.check(now).is_ok());
    let again = known.is_some();
    let invitation = if let Some(known) = known {
        known
    } else {
        let address = consortium.address()?;
        let fresh = Invitation::new(consortium.anchor().clone(), address, site.clone(), now + valid.get());
        // Kept before it is sent: an invitation that the coordinator has and this machine lost admits nobody.
        invitations::keep(consortium, &fresh)?;
        fresh
    };
    // Telling the coordinator again would open an invitation that was used.
    if !(again && has_asked(remote, site).await?) {
        let record = invitation.record().to_canonical();
        remote.client.invite(InviteRequest { record }).await.map_err(refused)?;
    }
    Ok((invitation, again))
}

async fn has_asked(remote: &mut Remote, site: &SiteName) -> anyhow::Result<bool> {
    let reply = remote.client.list_enrolments(ListEnrolmentsRequest {}).await.map_err(refused)?;
    Ok(reply.into_inner().enrolments.iter().any(|waiting| waiting.site == site.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_every_next_step() {
        let mut invited = Invited {
            site: "charite".parse().unwrap(),
            invitation: "consilium-invite:AAAA".into(),
            expires: "2026-01-01T00:00:00Z".into(),
            coordinator: "fl.example.org:443".into(),
            again: false,
            member: false,
        };
        let text = invited.people();
        assert!(text.contains("\n  site-agent enrol consilium-invite:AAAA\n"), "{text}");
        assert!(text.ends_with("consilium site admit charite"), "{text}");
        assert!(text.contains("fl.example.org:443") && text.contains("2026-01-01T00:00:00Z"), "{text}");
        invited.member = true;
        assert!(invited.people().ends_with("consilium site admit charite --replace"));
    }
}
