//! `site-agent enrol INVITATION`: makes this site's keys on the spot and asks to be admitted.
//!
//! The keys never travel. What travels is a request that binds them to the invitation; a person at the
//! consortium compares its fingerprint with the one shown here. Every step can be repeated: the same
//! command goes on where it stopped.
//!
//! A request cannot be made a second time, and the coordinator takes one for each invitation. So a request rests
//! in a file of its invitation's name; when the coordinator has taken it, it becomes the one that the site waits
//! for, and the one before keeps a file of its own until the site is a member. A wrong invitation spoils nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use consilium_client::{Target, dial};
use consilium_identity::address::Address;
use consilium_identity::enrolment::{Admission, EnrolmentRequest};
use consilium_identity::tls::ClientTls;
use consilium_identity::{Anchor, Invitation, TlsKey};
use consilium_proto::v1::enrolment_client::EnrolmentClient;
use consilium_proto::v1::{CollectRequest, EnrolRequest, collect_reply, enrol_reply};
use consilium_study::canonical::Canonical as _;
use consilium_study::name::{ConsortiumName, SiteName};
use consilium_study::sign::{Signed, SigningKey};
use jiff::Timestamp;
use minicbor::{Decode, Encode};
use serde::Serialize;
use tonic::transport::Channel;

use crate::config::{Config, ConfigError, Coordinator, TEMPLATE};
use crate::folder::SiteFolder;
use crate::journal::{Event, Journal};
use crate::relay::credential::{Credential, Destination, read_key};
use crate::store::{Disk, Kind, Store as _};
use crate::vault::identity::{Identity, read_signing_key};

/// How long to wait between two questions whether somebody has admitted this site.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How long a command that does not wait gives the coordinator to answer.
const A_MOMENT: Duration = Duration::from_secs(1);

/// What a step of the enrolment has reached.
#[derive(Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Step<'a> {
    /// The request has arrived; a person at the consortium has to admit it.
    Asked { site: &'a SiteName, consortium: &'a ConsortiumName, fingerprint: String },
    /// Nobody has admitted the site yet, and the command does not wait.
    Pending { site: &'a SiteName },
    /// The site is a member.
    Enrolled { site: &'a SiteName, consortium: &'a ConsortiumName, consortium_fingerprint: String },
}

impl<'a> Step<'a> {
    fn enrolled(site: &'a SiteName, anchor: &'a Anchor) -> Self {
        Self::Enrolled { site, consortium: &anchor.name, consortium_fingerprint: anchor.fingerprint() }
    }
}

/// Where the enrolment says how far it is.
#[derive(Clone, Copy)]
struct Teller {
    json: bool,
}

impl Teller {
    /// Prints a step: as JSON, or as the text for people.
    fn tell(self, step: &Step<'_>, people: impl FnOnce() -> String) {
        if self.json {
            println!("{}", serde_json::json!(step));
        } else {
            println!("{}", people());
        }
    }
}

/// Enrols the site. With `wait`, until somebody has admitted it; with `json`, it says so as JSON.
pub fn run(invitation: &str, folder: &SiteFolder, wait: bool, json: bool) -> anyhow::Result<()> {
    let teller = Teller { json };
    let invitation: Invitation = invitation.parse()?;
    Disk::make_folder(folder.root()).with_context(|| format!("cannot make {}", folder.root().display()))?;
    let (folder, reach) = match Config::load(folder) {
        Ok(config) => (config.folder(folder), config.coordinator),
        Err(ConfigError::Missing { path }) => {
            Disk.replace(Kind::Config, &path, TEMPLATE.as_bytes())?;
            if !json {
                println!(
                    "wrote {}: say there where the data is and what this site agrees to",
                    path.display()
                );
            }
            (folder.clone(), Coordinator::default())
        }
        Err(error) => return Err(error.into()),
    };
    if folder.identity().exists() {
        let identity = Identity::read(&Disk, &folder)?;
        if identity.anchor == *invitation.anchor() && identity.site == *invitation.site() {
            let Identity { anchor, site, .. } = &identity;
            teller.tell(&Step::enrolled(site, anchor), || {
                format!("{site} is enrolled in {} already", anchor.name)
            });
            return Ok(());
        }
        bail!(
            "this folder belongs to {} of {}; enrol in another folder",
            identity.site,
            identity.anchor.name
        );
    }
    let target = reach.target(invitation.coordinator())?;
    let application = Application::prepare(&folder, &invitation)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(application.submit(&folder, &invitation, &target, wait, teller))
}

/// A request for admission as it rests in its file.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Asked {
    /// Whom the site asks.
    #[n(0)]
    consortium: ConsortiumName,
    /// What it sends.
    #[n(1)]
    request: Signed<EnrolmentRequest>,
}

impl Asked {
    /// Reads a request, if it is there.
    fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let Some(bytes) = Disk.read(Kind::Identity, path)? else { return Ok(None) };
        let asked = Self::from_canonical(&bytes)
            .with_context(|| format!("{} was altered; remove it", path.display()))?;
        Ok(Some(asked))
    }
}

/// The keys of a site that asks, and its request.
struct Application {
    tls: TlsKey,
    signing: SigningKey,
    request: Signed<EnrolmentRequest>,
}

impl Application {
    /// Makes keys and request, or finds those that an earlier run made.
    fn prepare(folder: &SiteFolder, invitation: &Invitation) -> anyhow::Result<Self> {
        let (waiting, id) = (folder.enrolment_request(), invitation.id());
        let asked = Asked::read(&waiting)?;
        if let Some(Asked { consortium, request }) = &asked {
            let site = request.claim()?.site().clone();
            if (&site, consortium) != (invitation.site(), &invitation.anchor().name) {
                bail!(
                    "this folder has asked to join {consortium} as {site}; use another folder, or remove {} to \
                     give that up",
                    waiting.display()
                );
            }
        }
        let aside = folder.enrolment_request_of(&id);
        if let Some(tls) = read_key(&Disk, folder)? {
            for Asked { request, .. } in [Asked::read(&aside)?, asked].into_iter().flatten() {
                if request.claim()?.invitation() == id {
                    return Ok(Self { tls, signing: read_signing_key(&Disk, folder)?, request });
                }
            }
        }
        invitation.check(Timestamp::now())?;
        // A new invitation needs a new request; the keys can stay.
        let (tls, signing) = make_keys(folder)?;
        let request = EnrolmentRequest::new(invitation, &tls.request(), &signing);
        let asked = Asked { consortium: invitation.anchor().name.clone(), request: request.clone() };
        Disk.replace(Kind::Identity, &aside, &asked.to_canonical())?;
        Ok(Self { tls, signing, request })
    }

    /// The coordinator has taken the request: it is the one that this site waits for. One of an earlier
    /// invitation is put aside first; after a crash in between each is found under its invitation.
    fn wait_for(&self, folder: &SiteFolder) -> anyhow::Result<()> {
        let (waiting, id) = (folder.enrolment_request(), self.request.claim()?.invitation());
        let aside = folder.enrolment_request_of(&id);
        if !aside.exists() {
            return Ok(());
        }
        if let Some(Asked { request, .. }) = Asked::read(&waiting)? {
            let earlier = request.claim()?.invitation();
            if earlier != id {
                Disk.promote(Kind::Identity, &waiting, &folder.enrolment_request_of(&earlier))?;
            }
        }
        Ok(Disk.promote(Kind::Identity, &aside, &waiting)?)
    }

    /// Sends the request, shows the fingerprint, and collects the admission.
    async fn submit(
        self,
        folder: &SiteFolder,
        invitation: &Invitation,
        target: &Target,
        wait: bool,
        teller: Teller,
    ) -> anyhow::Result<()> {
        let tls = ClientTls::enrolment(invitation.anchor());
        let channel = dial(target, &tls).await.with_context(|| {
            format!("if a proxy is the way out, name it under [coordinator] in {}", folder.config().display())
        })?;
        let mut client = EnrolmentClient::new(channel);
        let request = self.request.to_canonical();
        let reply = client.enrol(EnrolRequest { request: request.clone() }).await?.into_inner();
        let shown = self.request.claim()?.fingerprint()?;
        match reply.verdict {
            Some(enrol_reply::Verdict::Pending(pending)) if pending.fingerprint == shown => {}
            Some(enrol_reply::Verdict::Pending(_)) => {
                bail!(
                    "the coordinator shows another fingerprint for this request; do not go on, and tell the operator"
                )
            }
            Some(enrol_reply::Verdict::Refused(refused)) => {
                bail!("refused ({}): {}", refused.code, refused.reason)
            }
            None => bail!("the coordinator answered with nothing"),
        }
        self.wait_for(folder)?;
        let (site, consortium) = (invitation.site(), &invitation.anchor().name);
        teller.tell(&Step::Asked { site, consortium, fingerprint: shown.clone() }, || {
            format!(
                "{site} asks to join {consortium}\nfingerprint: {shown}\n\
                 the operator runs `consilium site admit {site}` and compares this fingerprint"
            )
        });
        loop {
            let answer = collect(&mut client, &request);
            let admission = if wait {
                answer.await?
            } else {
                // The coordinator keeps the question until there is news, which is what this command does not want.
                tokio::time::timeout(A_MOMENT, answer).await.unwrap_or(Ok(None))?
            };
            if let Some(admission) = admission {
                return self.finish(folder, invitation, admission, teller);
            }
            if !wait {
                teller.tell(&Step::Pending { site }, || {
                    "nobody has admitted this site yet; run the same command again later".to_owned()
                });
                return Ok(());
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Checks the admission and writes down who this site is. The vault's identity comes last: it is what
    /// says that enrolment is complete.
    fn finish(
        self,
        folder: &SiteFolder,
        invitation: &Invitation,
        admission: Admission,
        teller: Teller,
    ) -> anyhow::Result<()> {
        admission
            .verify(invitation, &self.tls, &self.signing.verifying_key(), Timestamp::now())
            .context("what the coordinator sent as this site's admission is not believed")?;
        let membership = Membership {
            anchor: invitation.anchor().clone(),
            site: invitation.site().clone(),
            coordinator: invitation.coordinator().clone(),
            admission,
        };
        membership.write(folder)?;
        forget_requests(folder)?;
        let operators = membership.operators()?;
        let Membership { anchor, site, .. } = membership;
        teller.tell(&Step::enrolled(&site, &anchor), || {
            format!(
                "{site} is a member of {} (consortium fingerprint {})\n\
                 next, in {}: say where the cases are ([source]) and whose studies may run here, for example\n\n  \
                 [policy]\n  operators = [{operators}]\n\nthen: site-agent run --dir {}",
                anchor.name,
                anchor.fingerprint(),
                folder.config().display(),
                folder.root().display()
            )
        });
        Ok(())
    }
}

/// Removes every request for admission: the site is a member.
fn forget_requests(folder: &SiteFolder) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder.relay())?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("enrolment") {
            Disk.remove(Kind::Identity, &entry.path())?;
        }
    }
    Ok(())
}

/// The keys of this site: those that are here, or new ones.
pub fn make_keys(folder: &SiteFolder) -> anyhow::Result<(TlsKey, SigningKey)> {
    let tls = if let Some(key) = read_key(&Disk, folder)? {
        key
    } else {
        let key = TlsKey::generate();
        Disk.replace(Kind::PrivateKey, &folder.relay_key(), key.to_pem().as_bytes())?;
        key
    };
    let signing = if folder.signing_key().exists() {
        read_signing_key(&Disk, folder)?
    } else {
        let key = SigningKey::generate();
        Disk.replace(Kind::PrivateKey, &folder.signing_key(), key.to_seed().as_slice())?;
        key
    };
    Ok((tls, signing))
}

/// What enrolment ends with: who this site is, and whom it believes. The admission was verified.
pub struct Membership {
    /// The consortium and its key.
    pub anchor: Anchor,
    /// This site.
    pub site: SiteName,
    /// Where the coordinator listens.
    pub coordinator: Address,
    /// Certificate and roster.
    pub admission: Admission,
}

impl Membership {
    /// The consortium's operators, as `policy.operators` takes them.
    fn operators(&self) -> anyhow::Result<String> {
        let roster = self.admission.roster.claim()?;
        let names = roster.operators().iter().map(|person| format!("\"operator/{}\"", person.name));
        Ok(names.collect::<Vec<_>>().join(", "))
    }

    /// Writes both parts of the agent down; the vault's last, because it says that enrolment is complete.
    pub fn write(&self, folder: &SiteFolder) -> anyhow::Result<()> {
        let Self { anchor, site, coordinator, admission } = self;
        let roster = admission.roster.clone();
        let destination =
            Destination { anchor: anchor.clone(), roster: roster.clone(), address: coordinator.clone() };
        Credential::write_chain(&Disk, folder, &admission.chain)?;
        Disk.replace(Kind::Identity, &folder.relay_destination(), &destination.to_canonical())?;
        let event = Event::Enrolled { consortium: anchor.name.clone(), site: site.clone() };
        Journal::open(std::sync::Arc::new(Disk), folder.journal())?
            .record(event, Timestamp::now().as_second())?;
        Identity { anchor: anchor.clone(), site: site.clone(), roster }.write(&Disk, folder)
    }
}

async fn collect(client: &mut EnrolmentClient<Channel>, request: &[u8]) -> anyhow::Result<Option<Admission>> {
    let reply = client.collect(CollectRequest { request: request.to_vec() }).await?.into_inner();
    match reply.verdict {
        Some(collect_reply::Verdict::Pending(_)) => Ok(None),
        Some(collect_reply::Verdict::Refused(refused)) => {
            bail!("refused ({}): {}", refused.code, refused.reason)
        }
        Some(collect_reply::Verdict::Admission(bytes)) => {
            Ok(Some(Admission::from_canonical(&bytes).context("the admission does not decode")?))
        }
        None => bail!("the coordinator answered with nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitations(consortium: &str, site: &str, count: usize) -> Vec<Invitation> {
        let anchor = consilium_identity::ConsortiumKey::generate(consortium.parse().unwrap()).anchor();
        let expires = Timestamp::now() + Duration::from_hours(1);
        let (address, site) =
            ("localhost:443".parse::<Address>().unwrap(), site.parse::<SiteName>().unwrap());
        (0..count).map(|_| Invitation::new(anchor.clone(), address.clone(), site.clone(), expires)).collect()
    }

    fn folder() -> (tempfile::TempDir, SiteFolder) {
        let place = tempfile::tempdir().unwrap();
        let folder = SiteFolder::new(place.path());
        (place, folder)
    }

    /// The request that a run with this invitation would send.
    fn sent(folder: &SiteFolder, invitation: &Invitation) -> Vec<u8> {
        Application::prepare(folder, invitation).unwrap().request.to_canonical()
    }

    /// The request that the site waits for.
    fn waiting(folder: &SiteFolder) -> Vec<u8> {
        Asked::read(&folder.enrolment_request()).unwrap().unwrap().request.to_canonical()
    }

    /// A run whose request the coordinator takes.
    fn taken(folder: &SiteFolder, invitation: &Invitation) -> Vec<u8> {
        let application = Application::prepare(folder, invitation).unwrap();
        application.wait_for(folder).unwrap();
        assert_eq!(waiting(folder), application.request.to_canonical());
        application.request.to_canonical()
    }

    #[test]
    fn an_invitation_of_another_site_does_not_spoil_a_request() {
        let (_place, folder) = folder();
        let first = &invitations("north", "eve1", 1)[0];
        let request = taken(&folder, first);
        for (consortium, site) in [("north", "eve2"), ("south", "eve1")] {
            let other = &invitations(consortium, site, 1)[0];
            let refusal = Application::prepare(&folder, other).err().unwrap().to_string();
            assert!(refusal.contains("to join north as eve1"), "{refusal}");
            assert!(refusal.contains("enrolment.cbor"), "{refusal}");
        }
        assert_eq!(sent(&folder, first), request);
    }

    #[test]
    fn what_the_coordinator_has_not_taken_replaces_nothing_and_is_sent_again() {
        let (_place, folder) = folder();
        let both = invitations("north", "eve1", 2);
        let first = taken(&folder, &both[0]);
        let second = sent(&folder, &both[1]);
        assert_ne!(first, second);
        assert_eq!(waiting(&folder), first);
        assert_eq!((sent(&folder, &both[0]), sent(&folder, &both[1])), (first, second));
    }

    #[test]
    fn a_new_invitation_of_the_same_site_takes_over_and_the_old_request_stays_the_same() {
        let (_place, folder) = folder();
        let both = invitations("north", "eve1", 2);
        let first = taken(&folder, &both[0]);
        let second = taken(&folder, &both[1]);
        assert_eq!(taken(&folder, &both[1]), second);
        assert_eq!(taken(&folder, &both[0]), first);
        assert_eq!(taken(&folder, &both[1]), second);
    }

    #[test]
    fn a_crash_between_the_two_renames_loses_no_request() {
        let (_place, folder) = folder();
        let both = invitations("north", "eve1", 2);
        let first = taken(&folder, &both[0]);
        let second = sent(&folder, &both[1]);
        // The first rename of `wait_for`, and then the power fails.
        std::fs::rename(folder.enrolment_request(), folder.enrolment_request_of(&both[0].id())).unwrap();
        assert_eq!(sent(&folder, &both[0]), first);
        assert_eq!(taken(&folder, &both[1]), second);
    }

    #[test]
    fn a_member_keeps_no_request() {
        let (_place, folder) = folder();
        for invitation in &invitations("north", "eve1", 3) {
            taken(&folder, invitation);
        }
        forget_requests(&folder).unwrap();
        let left: Vec<_> = std::fs::read_dir(folder.relay()).unwrap().flatten().collect();
        assert!(left.iter().all(|entry| entry.path() == folder.relay_key()), "{left:?}");
    }
}
