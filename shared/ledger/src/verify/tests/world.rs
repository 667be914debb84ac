//! A consortium of four sites and the ledger of one of its studies: one round, one evaluation, a release.

use consilium_identity::ConsortiumKey;
use consilium_identity::roster::{CoordinatorEntry, PersonEntry, SiteEntry};
use consilium_rounds::metrics::{Figures, TrainFigures};
use consilium_rounds::reason::Dropout;
use consilium_rounds::record::{
    Adoption, Course, Evaluated, Missing, OpenedSum, Proposed, Record as Happened, Release, ReleaseReason,
    Verdict,
};
use consilium_rounds::vector::{Ranges, evaluate_layout, train_layout};
use consilium_secagg::context::{ContextFields, PROTOCOL_VERSION, Purpose, Selection};
use consilium_secagg::layout::CHUNK_WORDS;
use consilium_secagg::message::{Receipt, ReceiptFields, SurvivorsSignature};
use consilium_secagg::numbering::{Attempt, Epoch, RoundNumber, SiteIndex};
use consilium_secagg::quantiser::ClipNorm;
use consilium_secagg::terms::Terms;
use consilium_secagg::threshold::Thresholds;
use consilium_study::document::{Draft, Plan};
use consilium_study::metric::Metric;
use consilium_study::statement::{Repeat, Rule, SiteTerms};

use super::*;
use crate::log::{Log, Step};
use crate::memory::Folder;
use crate::record::Sealed;
use consilium_secagg::message::Survivor;
use consilium_study::sign::SigningKey;

pub(super) const SITES: [&str; 4] = ["ada", "bonn", "chur", "dax"];

pub(super) struct World {
    pub(super) consortium: ConsortiumKey,
    pub(super) coordinator: SigningKey,
    pub(super) operator: SigningKey,
    pub(super) sites: Vec<SigningKey>,
    pub(super) roster: Roster,
    pub(super) study: Study,
}

pub(super) fn hash(text: &str) -> Hash {
    Hash::of_bytes(text.as_bytes())
}

pub(super) fn site(position: usize) -> SiteName {
    SITES[position].parse().unwrap()
}

fn attempt(number: u32) -> Attempt {
    Attempt::new(number).unwrap()
}

impl World {
    pub(super) fn new() -> Self {
        let consortium = ConsortiumKey::generate("rhine".parse().unwrap());
        let (coordinator, operator) = (SigningKey::generate(), SigningKey::generate());
        let sites: Vec<_> = SITES.iter().map(|_| SigningKey::generate()).collect();
        let entry = CoordinatorEntry {
            signing_key: coordinator.verifying_key(),
            tls_key: hash("tls"),
            issuing_key: hash("issuing"),
        };
        let person = PersonEntry {
            name: "olga".parse().unwrap(),
            signing_key: operator.verifying_key(),
            tls_key: hash("tls of olga"),
        };
        let mut roster = Roster::first("rhine".parse().unwrap(), entry, person).unwrap();
        for (position, key) in sites.iter().enumerate() {
            let entry = SiteEntry {
                name: site(position),
                signing_key: key.verifying_key(),
                tls_key: hash(SITES[position]),
                test: false,
            };
            roster = roster.with_site(entry).unwrap();
        }
        let study = Self::study_of("lungs", &(0..4).map(site).collect::<Vec<_>>());
        Self { consortium, coordinator, operator, sites, roster, study }
    }

    /// The same with another study.
    pub(super) fn with(mut self, change: impl FnOnce(&mut Plan)) -> Self {
        let mut plan = (*self.study.clone().into_draft()).clone();
        change(&mut plan);
        self.study = Draft::new(plan).unwrap().with_initial_model(hash("initial"));
        self
    }

    pub(super) fn study_of(name: &str, sites: &[SiteName]) -> Study {
        let toml = consilium_study::template::study_toml(&name.parse().unwrap(), sites);
        // The gate has tests of its own.
        let toml = toml.replace("\ngate = ", "\n# gate = ").replace("\ncount = 10 ", "\ncount = 1 ");
        Draft::from_toml(&toml).unwrap().with_initial_model(hash("initial"))
    }

    pub(super) fn roster_record(&self) -> Sealed {
        Record::Roster(self.consortium.sign(&self.roster)).into()
    }

    pub(super) fn told(&self, happened: &Happened) -> Sealed {
        Sealed::of(happened, self.study.hash(), &self.coordinator)
    }

    pub(super) fn proposal(&self, study: &Study, by: &str, key: &SigningKey) -> Sealed {
        let study = Signed::seal(study, by.parse().unwrap(), key);
        self.told(&Happened::Proposal { study, roster: self.roster.hash() })
    }

    pub(super) fn acceptance(&self, min_selection: u32) -> Acceptance {
        Acceptance {
            study: self.study.hash(),
            roster: self.roster.hash(),
            rule: Rule::new("approval = \"automatic\"").unwrap(),
            weight_class: 64,
            terms: SiteTerms {
                min_honest: 2,
                min_selection,
                min_change: None,
                repeat: Repeat::Ask,
                exact_weights: false,
                groups: false,
            },
        }
    }

    pub(super) fn accepts(&self, position: usize, min_selection: u32) -> Sealed {
        let signed = self.sign(position, &self.acceptance(min_selection));
        self.told(&Happened::Acceptance(signed))
    }

    pub(super) fn sign<T: Statement>(&self, position: usize, statement: &T) -> Signed<T> {
        Signed::seal(statement, Principal::Site(site(position)), &self.sites[position])
    }

    pub(super) fn epoch(&self) -> Sealed {
        let opening = EpochOpening {
            study: self.study.hash(),
            roster: self.roster.hash(),
            epoch: Epoch::new(1).unwrap(),
            first_attempt: attempt(1),
            attempts: 100,
        };
        let signed = Signed::seal(&opening, Principal::Coordinator, &self.coordinator);
        self.told(&Happened::Epoch(signed))
    }

    pub(super) fn fields(&self, number: u32, purpose: Purpose, model: Hash) -> ContextFields {
        ContextFields {
            version: PROTOCOL_VERSION,
            study: self.study.hash(),
            roster: self.roster.hash(),
            epoch: Epoch::new(1).unwrap(),
            round: RoundNumber::new(1).unwrap(),
            attempt: attempt(number),
            purpose,
            model,
            baseline: (purpose == Purpose::Evaluate).then(|| self.study.initial_model()),
            selection: Selection::new((0..4).map(|position| (site(position), hash("advert")))).unwrap(),
            groups: 1,
            thresholds: Thresholds::new(4, 4, 2).unwrap(),
            layout: match purpose {
                Purpose::Train => train_layout(&self.study, &Ranges::first(&self.study)).unwrap(),
                _ => evaluate_layout(&self.study),
            },
            chunk_words: CHUNK_WORDS as u32,
            ring_bits: 32,
            clip_norm: ClipNorm::new(self.study.aggregation.clip_norm.get()).unwrap(),
            weight_cap: self.study.aggregation.weight_cap,
            noise: 0,
            grouping: None,
            control: None,
        }
    }

    pub(super) fn context(&self, fields: ContextFields) -> Sealed {
        let context = Context::new(fields).unwrap();
        let signed = Signed::seal(&context, Principal::Coordinator, &self.coordinator);
        self.told(&Happened::Context(signed))
    }

    pub(super) fn receipt(context: &Context, position: usize, min_selection: u16) -> ReceiptFields {
        // Both ends of a pair have the same commitment.
        let pair = |peer: usize| hash(&format!("{} {}", position.min(peer), position.max(peer)));
        ReceiptFields {
            ctx: context.hash(),
            sender: SiteIndex::from_position(position).unwrap(),
            chunks: hash("chunks"),
            self_commitment: hash("self"),
            pair_commitments: (0..4).filter(|peer| *peer != position).map(pair).collect(),
            shares: hash("shares"),
            envelopes: vec![hash("envelope"); 4],
            terms: Terms { min_honest: 2, min_selection, min_change: 0, earlier: vec![], bound: vec![] },
            alarms: vec![],
        }
    }

    /// The survivors `0..3` with their receipts; `dax` did not upload.
    pub(super) fn proposed(&self, fields: &ContextFields) -> Proposed {
        let context = Context::new(fields.clone()).unwrap();
        let receipts: Vec<_> =
            (0..3).map(|position| Receipt::new(Self::receipt(&context, position, 3)).unwrap()).collect();
        Proposed {
            attempt: context.attempt,
            ctx: context.hash(),
            survivors: receipts.iter().enumerate().map(|(at, receipt)| (site(at), receipt.hash())).collect(),
            receipts: receipts.iter().enumerate().map(|(at, receipt)| self.sign(at, receipt)).collect(),
            missing: vec![Missing::new(site(3), Dropout::NoUpload)],
        }
    }

    pub(super) fn signatures(&self, proposed: &Proposed, count: usize) -> Vec<Signed<SurvivorsSignature>> {
        let members = proposed.survivors.iter().enumerate().map(|(at, (_, receipt))| Survivor {
            site: SiteIndex::from_position(at).unwrap(),
            receipt: *receipt,
        });
        let survivors = Survivors::new(members.collect()).unwrap();
        let said = SurvivorsSignature { ctx: proposed.ctx, survivors: survivors.hash() };
        (0..count).map(|at| self.sign(at, &said)).collect()
    }

    pub(super) fn agreement(&self, fields: &ContextFields, count: usize) -> Sealed {
        let proposed = self.proposed(fields);
        let signatures = self.signatures(&proposed, count);
        self.told(&Happened::Agreement { attempt: proposed.attempt, ctx: proposed.ctx, signatures })
    }

    pub(super) fn opened(&self, fields: &ContextFields, candidate: Option<Hash>) -> Sealed {
        self.opened_with(fields, candidate, None)
    }

    pub(super) fn opened_with(
        &self,
        fields: &ContextFields,
        candidate: Option<Hash>,
        moments: Option<[Hash; 2]>,
    ) -> Sealed {
        self.told(&Happened::Opened(OpenedSum { moments, ..Self::sum(fields, candidate) }))
    }

    /// An opened sum that keeps nothing beside the model.
    pub(super) fn sum(fields: &ContextFields, candidate: Option<Hash>) -> OpenedSum {
        OpenedSum {
            attempt: fields.attempt,
            ctx: Context::new(fields.clone()).unwrap().hash(),
            round: fields.round,
            purpose: fields.purpose,
            aggregate: hash("sum"),
            candidate,
            moments: None,
            control: None,
        }
    }

    pub(super) fn adoption(&self, fields: &ContextFields) -> Adoption {
        let figures = Figures {
            cases: 120,
            loss: 0.5,
            start_loss: Some(0.7),
            auroc: Some(0.91),
            accuracy: Some(0.85),
            balanced_accuracy: Some(0.84),
            brier: Some(0.2),
            calibration_error: Some(0.05),
            intervals: BTreeMap::from([(Metric::Auroc, [0.86, 0.96])]),
            ..Figures::default()
        };
        let ctx = Context::new(fields.clone()).unwrap().hash();
        Adoption {
            round: fields.round,
            start: self.study.initial_model(),
            candidate: hash("candidate"),
            verdict: Verdict::Adopted,
            trained: TrainFigures { loss: 0.6, weight: 192, clipped: 0, saturated: 0, update_norm: 1.0 },
            evaluated: Some(Evaluated { ctx, survivors: (0..3).map(site).collect(), figures }),
        }
    }

    pub(super) fn release(&self) -> Release {
        Release {
            study: self.study.hash(),
            model: hash("candidate"),
            reason: ReleaseReason::LastAdopted { round: RoundNumber::new(1).unwrap() },
            rounds: 1,
            participants: (0..3).map(site).collect(),
            absent: [site(3)].into(),
        }
    }

    pub(super) fn train(&self) -> ContextFields {
        self.fields(1, Purpose::Train, self.study.initial_model())
    }

    pub(super) fn evaluate(&self) -> ContextFields {
        self.fields(2, Purpose::Evaluate, hash("candidate"))
    }

    /// The whole story, in order. Entry numbers are in the comments; tests name them.
    pub(super) fn story(&self) -> Vec<Sealed> {
        let (train, evaluate) = (self.train(), self.evaluate());
        let proposed = |fields| self.told(&Happened::Proposed(self.proposed(fields)));
        let course = |course| Happened::Course { course, by: Principal::Coordinator };
        vec![
            self.roster_record(),                                               // 0
            self.proposal(&self.study, "operator/olga", &self.operator),        // 1
            self.accepts(0, 3),                                                 // 2
            self.accepts(1, 3),                                                 // 3
            self.accepts(2, 3),                                                 // 4
            self.accepts(3, 3),                                                 // 5
            self.epoch(),                                                       // 6
            self.context(train.clone()),                                        // 7
            proposed(&train),                                                   // 8
            self.agreement(&train, 3),                                          // 9
            self.opened(&train, Some(hash("candidate"))),                       // 10
            self.context(evaluate.clone()),                                     // 11
            proposed(&evaluate),                                                // 12
            self.agreement(&evaluate, 3),                                       // 13
            self.opened(&evaluate, None),                                       // 14
            self.told(&Happened::Adoption(Box::new(self.adoption(&evaluate)))), // 15
            self.told(&course(Course::Close)),                                  // 16
            self.told(&Happened::Release(self.release())),                      // 17
        ]
    }

    pub(super) fn folder(&self, story: &[Sealed]) -> Folder {
        let (mut log, steps) = Log::create("rhine".parse().unwrap(), &self.coordinator);
        let mut folder = Folder::default();
        folder.perform(steps);
        let blobs = story.iter().flat_map(|sealed| sealed.blobs.iter().cloned());
        folder.perform(blobs.map(Step::Keep));
        let records: Vec<_> = story.iter().map(|sealed| sealed.record.clone()).collect();
        folder.perform(log.append(&records, 1_000, &self.coordinator).unwrap().steps);
        folder
    }

    pub(super) fn verify(&self, story: &[Sealed]) -> Result<Report, Failure> {
        let folder = self.folder(story);
        verify(&folder, &folder, &self.consortium.anchor().key)
    }

    /// The entry and the words of the failure of a story that must fail.
    pub(super) fn failure(&self, story: &[Sealed]) -> (u64, String) {
        match self.verify(story) {
            Err(failure @ Failure::Entry { index, .. }) => (index, failure.to_string()),
            Err(other) => panic!("{other}"),
            Ok(report) => panic!("nothing was noticed:\n{report}"),
        }
    }
}
