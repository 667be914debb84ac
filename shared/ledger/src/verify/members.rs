//! Who belongs to the consortium, what is proposed, and who takes part.

use std::collections::{BTreeMap, BTreeSet};

use consilium_identity::Roster;
use consilium_identity::enrolment::{EnrolmentRefusal, EnrolmentRequest};
use consilium_identity::roster::{self, Change};
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::Signed;
use consilium_study::statement::{Acceptance, Readiness, Refusal};

use super::{Fault, StudyWalk, Walk};
use crate::report::{StudyReport, StudyState};

impl Walk {
    pub(super) fn roster_entry(&mut self, signed: &Signed<Roster>) -> Result<(), Fault> {
        if self.latest.is_none() {
            // The key signed whose ledger this is. If the checkpoint says otherwise, that is its fault.
            self.anchor.name = self.anchor.verify(signed)?.into_inner().consortium().clone();
        }
        let next = roster::verify(&self.anchor, signed)?.into_inner();
        if let Ok(known) = self.roster() {
            for (party, change) in known.follow(&next)? {
                if let (Principal::Site(site), Change::Added | Change::Replaced) = (party, change) {
                    self.has_asked(&site, &next)?;
                }
            }
        } else if next.version() > 1 {
            let version = next.version();
            self.report.notices.push(format!("the ledger begins with version {version} of the roster"));
        }
        self.latest = Some(next.hash());
        self.rosters.insert(next.hash(), next);
        Ok(())
    }

    pub(super) fn enrolment(&mut self, signed: &Signed<EnrolmentRequest>) -> Result<(), Fault> {
        let request = EnrolmentRequest::verify(signed)?.into_inner();
        if *request.consortium() != self.anchor.name {
            return Err(Fault::AskedElsewhere(request.consortium().clone()));
        }
        let tls_key = request.csr().map_err(EnrolmentRefusal::from)?.key().hash();
        self.asked.insert((request.site().clone(), tls_key, request.signing_key()));
        Ok(())
    }

    /// Nobody is put on the roster with keys that nobody has proved to hold.
    fn has_asked(&self, site: &SiteName, next: &Roster) -> Result<(), Fault> {
        let entry = next.site(site).ok_or_else(|| Fault::NotOnRoster(Principal::Site(site.clone())))?;
        let known = self.roster()?.site(site);
        let same_keys = known
            .is_some_and(|known| (known.tls_key, known.signing_key) == (entry.tls_key, entry.signing_key));
        if same_keys || self.asked.contains(&(site.clone(), entry.tls_key, entry.signing_key)) {
            return Ok(());
        }
        Err(Fault::NotAsked(site.clone()))
    }

    pub(super) fn study(&mut self, signed: &Signed<Study>) -> Result<(), Fault> {
        if !matches!(signed.signer(), Principal::Operator(_)) {
            return Err(Fault::WrongRole { got: signed.signer().clone(), want: "an operator" });
        }
        let roster = self.roster()?;
        let study = Self::by_member(roster, signed)?.into_inner();
        if self.studies.values().any(|known| known.study.name == study.name) {
            return Err(Fault::SecondStudy(study.name.clone()));
        }
        if let Some(stranger) = study.sites.iter().find(|site| roster.site(site).is_none()) {
            return Err(Fault::NotOnRoster(Principal::Site(stranger.clone())));
        }
        let hash = study.hash();
        let model = study.initial_model();
        let report = StudyReport {
            name: study.name.clone(),
            title: study.title.clone(),
            study: hash,
            proposed_by: signed.signer().to_string(),
            state: StudyState::Open,
            accepted: Vec::new(),
            refused: Vec::new(),
            initial_model: model,
            identity: study.model_identity(),
            attempts: Vec::new(),
            rounds: Vec::new(),
            model,
            released: None,
            controls: Vec::new(),
        };
        let walk = StudyWalk {
            study,
            state: StudyState::Open,
            accepted: BTreeMap::new(),
            refused: BTreeMap::new(),
            epoch: None,
            drawn: None,
            contexts: Vec::new(),
            last_attempt: 0,
            model,
            control: None,
            adopted: BTreeSet::from([(0, model)]),
            candidate: None,
            adoptions: Vec::new(),
            declined: None,
            counted: BTreeSet::new(),
            guilty: BTreeSet::new(),
            report,
        };
        self.studies.insert(hash, walk);
        self.proposals.push(hash);
        Ok(())
    }

    pub(super) fn acceptance(&mut self, signed: &Signed<Acceptance>) -> Result<(), Fault> {
        let site = site_of(signed.signer())?;
        // The signature is checked with the roster that the site says it saw.
        let pinned = signed.claim()?.roster;
        let roster = self.rosters.get(&pinned).ok_or(Fault::UnknownRoster(pinned))?;
        let said = Self::by_member(roster, signed)?.into_inner();
        let study = self.decidable(&said.study, &site)?;
        if study.accepted.get(&site).is_some_and(|before| before.roster == said.roster) {
            return Err(Fault::SecondDecision(site));
        }
        study.refused.remove(&site);
        study.accepted.insert(site, said);
        Ok(())
    }

    pub(super) fn refusal(&mut self, signed: &Signed<Refusal>) -> Result<(), Fault> {
        let site = site_of(signed.signer())?;
        let said = Self::by_member(self.roster()?, signed)?.into_inner();
        let study = self.decidable(&said.study, &site)?;
        study.accepted.remove(&site);
        study.refused.insert(site, said.rule.to_string());
        Ok(())
    }

    pub(super) fn readiness(&mut self, signed: &Signed<Readiness>) -> Result<(), Fault> {
        let site = site_of(signed.signer())?;
        let said = Self::by_member(self.roster()?, signed)?.into_inner();
        self.decidable(&said.study, &site).map(|_| ())
    }

    fn decidable(&mut self, study: &Hash, site: &SiteName) -> Result<&mut StudyWalk, Fault> {
        let study = self.study_mut(study)?;
        if study.study.sites.contains(site) { Ok(study) } else { Err(Fault::NotInStudy(site.clone())) }
    }
}

fn site_of(signer: &Principal) -> Result<SiteName, Fault> {
    match signer {
        Principal::Site(name) => Ok(name.clone()),
        other => Err(Fault::WrongRole { got: other.clone(), want: "a site" }),
    }
}
