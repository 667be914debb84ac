//! What a coordinator can compute from everything that it was given.

use std::collections::BTreeSet;

use consilium_identity::Roster;
use consilium_identity::roster;
use consilium_rounds::message::{Directive, SiteMessage};
use consilium_rounds::vector::study_pin;
use consilium_secagg::accumulator::{Accumulator, OpenedSeeds};
use consilium_secagg::context::Context;
use consilium_secagg::coordinator::CollectMasked;
use consilium_secagg::layout::CHUNK_BYTES;
use consilium_secagg::pin::StudyPin;
use consilium_study::canonical::Canonical as _;
use consilium_study::hash::Hash;
use consilium_study::model_file::ModelFile;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;

use crate::{Scene, number};

impl Scene {
    /// The study as the coordinator pins it.
    pub(crate) fn pin(&self) -> StudyPin {
        let (study, signed) = self.until("the study is proposed", || {
            self.hostile.heard("a").into_iter().find_map(|directive| match directive {
                Directive::Proposal { study, roster } => Some((study, roster)),
                _ => None,
            })
        });
        let identity = self.hostile.identity();
        let signed = Signed::<Roster>::from_canonical(&signed).unwrap();
        let roster = roster::verify(&identity.anchor, &signed).unwrap();
        let key_of = |site: &SiteName| roster.site(site).map(|entry| entry.signing_key);
        let coordinator = identity.signing.verifying_key();
        study_pin(&study.claim().unwrap(), roster.hash(), coordinator, key_of).unwrap()
    }

    /// The masks that survivors opened in an attempt.
    pub(crate) fn opened_masks(&self, context: &Signed<Context>, survivors: &[&str]) -> OpenedSeeds {
        let (pin, attempt) = (self.pin(), number(context));
        let ctx = context.claim().unwrap().hash();
        let names: Vec<SiteName> = survivors.iter().map(|site| site.parse().unwrap()).collect();
        let mut collect = CollectMasked::new(&pin, context, BTreeSet::new()).unwrap();
        for (site, name) in survivors.iter().zip(&names) {
            collect.take_upload(&pin, name, self.awaits_masked(site, attempt).upload).unwrap();
            collect.complete(name).unwrap();
        }
        let mut check = collect.close(&pin, 0).map_err(|(_, reason)| reason).unwrap();
        for (site, name) in survivors.iter().zip(&names) {
            for message in self.hostile.said(site) {
                if let SiteMessage::Signature(signature) = message
                    && signature.claim().unwrap().ctx == ctx
                {
                    check.take_signature(&pin, name, &signature).unwrap();
                }
            }
        }
        let mut unmask = check.unmask().map_err(|check| check.missing()).unwrap();
        for (site, name) in survivors.iter().zip(&names) {
            for message in self.hostile.said(site) {
                if let SiteMessage::Answer(answer) = message
                    && answer.claim().unwrap().ctx == ctx
                {
                    unmask.take_answer(&pin, name, &answer).unwrap();
                }
            }
        }
        unmask.recover().unwrap()
    }

    /// The sum of masked vectors of an attempt, less these masks.
    pub(crate) fn sum(&self, context: &Signed<Context>, sites: &[&str], masks: &OpenedSeeds) -> Vec<u32> {
        let attempt = u64::from(number(context));
        let context = context.claim().unwrap();
        let mut sum = Accumulator::new(&context.layout);
        for site in sites {
            let vector = self.hostile.upload(site, attempt).unwrap();
            for (index, chunk) in vector.chunks(CHUNK_BYTES).enumerate() {
                sum.add_chunk(index, chunk).unwrap();
            }
        }
        sum.remove_masks(&context, masks, 1);
        sum.into_words()
    }

    /// A model that the real coordinator has.
    pub(crate) fn model(&self, hash: Hash) -> ModelFile {
        let file = self.lab.path().join("coordinator/data/blobs").join(hash.to_string());
        ModelFile::from_bytes(&std::fs::read(file).unwrap()).unwrap()
    }
}
