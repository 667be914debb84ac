//! A member with valid keys that says whatever a test wants.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use consilium_client::{Target, dial};
use consilium_identity::enrolment::{Admission, EnrolmentRequest};
use consilium_identity::revocation::Revocations;
use consilium_identity::tls::ClientTls;
use consilium_identity::{Chain, Invitation, TlsKey, Trust};
use consilium_proto::v1::enrolment_client::EnrolmentClient;
use consilium_proto::v1::site_client::SiteClient;
use consilium_proto::v1::{CollectRequest, EnrolRequest, collect_reply};
use consilium_study::canonical::Canonical as _;
use consilium_study::sign::{Signed, SigningKey};
use jiff::Timestamp;
use tonic::transport::Channel;

use crate::lab::Lab;
use crate::process::wait_until;

/// A site that is a member of a laboratory's consortium and runs no agent.
pub struct Rogue {
    tls: ClientTls,
    target: Target,
}

impl Rogue {
    /// Enrols a new site under this name, and has it admitted.
    pub async fn enrol(lab: &Lab, site: &str) -> anyhow::Result<Self> {
        let printed = lab.consilium(&["--json", "site", "invite", site])?;
        let invited: serde_json::Value = serde_json::from_str(&printed)?;
        let invitation: Invitation = invited["invitation"].as_str().context("an invitation")?.parse()?;
        let (key, signing) = (TlsKey::generate(), SigningKey::generate());
        let request = EnrolmentRequest::new(&invitation, &key.request(), &signing).to_canonical();
        let target = Target::direct(invitation.coordinator().clone());
        let newcomer = ClientTls::enrolment(invitation.anchor());
        let mut client = EnrolmentClient::new(dial(&target, &newcomer).await?);
        client.enrol(EnrolRequest { request: request.clone() }).await?;
        let admit = || lab.consilium(&["site", "admit", site, "--yes"]).is_ok();
        if !wait_until(Duration::from_secs(20), admit) {
            bail!("{site} was not admitted");
        }
        let reply = client.collect(CollectRequest { request }).await?.into_inner();
        let Some(collect_reply::Verdict::Admission(admission)) = reply.verdict else {
            bail!("no admission but {reply:?}");
        };
        let admission = Admission::from_canonical(&admission)?;
        admission.verify(&invitation, &key, &signing.verifying_key(), Timestamp::now())?;
        let trust = Trust::new(invitation.anchor().clone(), &admission.roster, Revocations::new())?;
        Ok(Self { tls: ClientTls::member(Arc::new(trust), &admission.chain, &key)?, target })
    }

    /// Takes the place of a site of the laboratory, with its keys.
    pub fn in_place_of(lab: &Lab, site: &str) -> anyhow::Result<Self> {
        let read = |name: &str| std::fs::read_to_string(lab.site_folder(site).join("relay").join(name));
        let (key, chain) =
            (TlsKey::from_pem(&read("tls.key")?)?, Chain::from_pem(&read("certificate.pem")?)?);
        let text = std::fs::read_to_string(lab.path().join("consortium/consortium.pub"))?;
        let roster = Signed::from_canonical(&std::fs::read(lab.path().join("consortium/roster"))?)?;
        let trust = Trust::new(text.trim_end().parse()?, &roster, Revocations::new())?;
        let target = Target::direct(format!("127.0.0.1:{}", lab.port()).parse()?);
        Ok(Self { tls: ClientTls::member(Arc::new(trust), &chain, &key)?, target })
    }

    /// A connection with this site's certificate.
    pub async fn dial(&self) -> anyhow::Result<Channel> {
        Ok(dial(&self.target, &self.tls).await?)
    }

    /// The same, for the calls of a site.
    pub async fn connect(&self) -> anyhow::Result<SiteClient<Channel>> {
        Ok(SiteClient::new(self.dial().await?))
    }
}
