//! `consilium site list` and `show`: members, requests that wait, open invitations.

use anyhow::bail;
use consilium_identity::enrolment::EnrolmentRequest;
use consilium_proto::v1::{ListEnrolmentsRequest, ListSitesRequest};
use consilium_study::canonical::Canonical;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;
use jiff::Timestamp;
use serde::Serialize;

use super::invitations;
use crate::consortium::Consortium;
use crate::output::{Output, table};
use crate::remote::{Remote, moment, plain, refused};

/// One site: a member, one that asks to be, or one that was invited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its name.
    pub site: String,
    /// `invited`, `invitation expired`, `asks to join`, or how far a member has come.
    pub state: String,
    /// More about the state.
    pub detail: String,
    /// When it was heard last.
    pub last_heard: Option<String>,
    /// Version of its agent.
    pub agent: String,
    /// What was, or has to be, compared with the hospital.
    pub fingerprint: String,
    /// A test machine.
    pub test: bool,
    /// The key it signs with, as the roster names it.
    pub signing_key: Option<String>,
}

/// All sites in the order of names. A member that asks again, with new keys, is listed twice.
pub async fn list(consortium: &Consortium) -> anyhow::Result<Vec<Line>> {
    let mut remote = Remote::open(consortium).await?;
    let (_, roster) = remote.roster().await?;
    let members = remote.client.list_sites(ListSitesRequest {}).await.map_err(refused)?.into_inner().sites;
    let mut lines: Vec<Line> = members
        .into_iter()
        .map(|member| {
            let entry = SiteName::new(member.name.as_str()).ok();
            let entry = entry.and_then(|name| roster.site(&name));
            Line {
                site: plain(&member.name),
                state: plain(&member.rung),
                detail: plain(&member.detail),
                last_heard: moment(member.last_heard_ms),
                agent: plain(&member.agent),
                fingerprint: plain(&member.fingerprint),
                test: entry.is_some_and(|entry| entry.test),
                signing_key: entry.map(|entry| entry.signing_key.to_string()),
            }
        })
        .collect();
    let waiting =
        remote.client.list_enrolments(ListEnrolmentsRequest {}).await.map_err(refused)?.into_inner();
    for waiting in waiting.enrolments {
        lines.push(Line {
            state: "asks to join".into(),
            detail: moment(waiting.since_ms).map(|since| format!("since {since}")).unwrap_or_default(),
            fingerprint: fingerprint(&waiting.request),
            ..Line::named(&plain(&waiting.site))
        });
    }
    let now = Timestamp::now();
    for invitation in invitations::all(consortium)? {
        let site = invitation.site().as_str();
        if lines.iter().any(|line| line.site == site && line.state == "asks to join") {
            continue;
        }
        let state = if invitation.check(now).is_ok() { "invited" } else { "invitation expired" };
        let detail = format!("until {}", invitation.expires());
        lines.push(Line { state: state.into(), detail, ..Line::named(site) });
    }
    lines.sort_by(|a, b| (&a.site, &a.state).cmp(&(&b.site, &b.state)));
    Ok(lines)
}

impl Line {
    fn named(site: &str) -> Self {
        Self {
            site: site.to_owned(),
            state: String::new(),
            detail: String::new(),
            last_heard: None,
            agent: String::new(),
            fingerprint: String::new(),
            test: false,
            signing_key: None,
        }
    }

    fn people(&self) -> String {
        let Self { site, state, detail, last_heard, agent, fingerprint, test, signing_key } = self;
        let mut text = format!("{site}{}: {state}", if *test { " (test machine)" } else { "" });
        let mut line = |name: &str, value: &str| {
            if !value.is_empty() {
                text.push_str(&format!("\n  {name:<12} {value}"));
            }
        };
        line("detail", detail);
        line("last heard", last_heard.as_deref().unwrap_or_default());
        line("agent", agent);
        line("fingerprint", fingerprint);
        line("signing key", signing_key.as_deref().unwrap_or_default());
        match state.as_str() {
            "asks to join" => text.push_str(&format!("\nAdmit it with: consilium site admit {site}")),
            "invited" => text.push_str(&format!("\nPrint the line again with: consilium site invite {site}")),
            "invitation expired" => {
                text.push_str(&format!("\nInvite it again with: consilium site invite {site}"));
            }
            _ => {}
        }
        text
    }
}

/// Computed here, from the request itself: the coordinator's word for it would be worth nothing.
fn fingerprint(request: &[u8]) -> String {
    let request = Signed::<EnrolmentRequest>::from_canonical(request).ok();
    let fingerprint = request.and_then(|request| request.claim().ok()?.fingerprint().ok());
    fingerprint.unwrap_or_else(|| "unreadable".to_owned())
}

pub(super) fn print(lines: &[Line], output: Output) -> anyhow::Result<()> {
    if output.json {
        return Ok(lines.iter().try_for_each(|line| output.show(line, Line::people))?);
    }
    if lines.is_empty() {
        output.tell("No sites yet. Invite one with: consilium site invite NAME");
        return Ok(());
    }
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            let name = if line.test { format!("{} (test)", line.site) } else { line.site.clone() };
            let heard = line.last_heard.clone().unwrap_or_default();
            vec![name, line.state.clone(), line.detail.clone(), heard, line.agent.clone()]
        })
        .collect();
    output.tell(table(&["site", "state", "detail", "last heard", "agent"], &rows));
    let asking: Vec<_> = lines.iter().filter(|line| line.state == "asks to join").collect();
    for line in asking {
        output.tell(format!("{} asks to join; admit it with: consilium site admit {0}", line.site));
    }
    Ok(())
}

pub(super) async fn show(consortium: &Consortium, site: &SiteName, output: Output) -> anyhow::Result<()> {
    let lines = list(consortium).await?;
    let lines: Vec<_> = lines.iter().filter(|line| line.site == site.as_str()).collect();
    if lines.is_empty() {
        bail!("there is no site {site}; `consilium site list` shows all");
    }
    lines.into_iter().try_for_each(|line| output.show(line, Line::people))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_says_what_to_type_next() {
        let mut line = Line { state: "asks to join".into(), fingerprint: "0a-1b".into(), ..Line::named("a") };
        assert_eq!(
            line.people(),
            "a: asks to join\n  fingerprint  0a-1b\nAdmit it with: consilium site admit a"
        );
        line.state = "ready".into();
        line.test = true;
        assert_eq!(line.people(), "a (test machine): ready\n  fingerprint  0a-1b");
    }

    #[test]
    fn the_keys_of_a_line_are_stable() {
        let text = serde_json::to_string(&Line::named("a")).unwrap();
        assert_eq!(
            text,
            r#"{"site":"a","state":"","detail":"","last_heard":null,"agent":"","fingerprint":"","test":false,"signing_key":null}"#
        );
        assert_eq!(fingerprint(b"nonsense"), "unreadable");
    }
}
