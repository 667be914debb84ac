//! An attempt up to the point where survivors are proposed (design, section 3, MaskedInput).

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::canonical::Canonical;
use consilium_study::name::SiteName;
use consilium_study::sign::{SignatureError, Signed};
use zeroize::Zeroizing;

use super::record::{AttemptRecord, Opening, Own};
use super::{Missing, RepeatBook, SiteMachine, SiteRefusal, Unsent};
use crate::alarm::Occasion;
use crate::consistency::{counts_as, fits};
use crate::context::{Context, ContextFields, CtxHash};
use crate::dealing::Row;
use crate::held::Held;
use crate::masker::{MaskedVector, Masker};
use crate::message::{DealerVerdict, Envelope, MAX_ALARMS, Receipt, ReceiptFields, Upload};
use crate::numbering::SiteIndex;
use crate::secret::PairKey;

/// Permission to mask one vector: the context was accepted and written down.
#[derive(Debug, PartialEq, Eq)]
pub struct MaskPermit(CtxHash);

/// What a site does in an attempt that it accepted.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// It trains, masks and seals.
    Mask(MaskPermit),
    /// It did so before: the spool and these bytes are sent again.
    Sealed(Box<Upload>),
}

impl SiteMachine {
    /// Accepts the context of an attempt. Ends every earlier attempt and erases its keys.
    pub fn begin(
        &mut self,
        context: &Signed<Context>,
        book: &RepeatBook,
    ) -> Result<Unsent<Begun>, SiteRefusal> {
        let context = self.pin.of_coordinator(context).map_err(|error| no_context(context, error))?;
        if context.study != self.pin.study {
            return Err(SiteRefusal::Foreign);
        }
        if let Some(current) = &self.record.attempt
            && current.context.attempt == context.attempt
        {
            let (first, second) = (current.context.hash(), context.hash());
            if first != second {
                let occasion = Occasion::Context(context.attempt);
                return Err(self.alarm(occasion, *first.hash(), *second.hash()));
            }
            return Ok(self.unsent(match &current.own {
                Own::Unsealed => Begun::Mask(MaskPermit(first)),
                Own::Sealed(upload, _) => Begun::Sealed(Box::new(upload.clone())),
            }));
        }
        if self.record.highest.is_some_and(|highest| context.attempt <= highest) {
            return Err(SiteRefusal::Superseded(context.attempt));
        }
        self.check_context(&context)?;
        self.check_round(&context)?;
        self.check_repeat(&context, book)?;
        let chain = self.chain.epoch.as_mut().ok_or(SiteRefusal::NotYet(Missing::Epoch))?;
        if !chain.advance(context.attempt) {
            return Err(SiteRefusal::Superseded(context.attempt));
        }
        let ctx = context.hash();
        self.record.highest = Some(context.attempt);
        self.record.attempt = Some(AttemptRecord {
            context,
            own: Own::Unsealed,
            receipts: BTreeMap::new(),
            envelopes: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            opening: Opening::Closed,
        });
        self.touch();
        Ok(self.unsent(Begun::Mask(MaskPermit(ctx))))
    }

    /// Every field is the study's, this site's own epoch's, or recomputed.
    fn check_context(&self, context: &Context) -> Result<(), SiteRefusal> {
        self.pin.check(context)?;
        let epoch = self.record.epoch.as_ref().ok_or(SiteRefusal::NotYet(Missing::Epoch))?;
        if context.epoch != epoch.opening.epoch {
            return Err(SiteRefusal::StaleEpoch(context.epoch));
        }
        if !epoch.opening.serves(context.attempt) {
            return Err(SiteRefusal::OutsideEpoch(context.attempt));
        }
        let (got, want) = (context.thresholds.honest, self.floors.min_honest);
        if got < want {
            return Err(SiteRefusal::MinHonest { got, want });
        }
        let (got, want) = (context.selection.len(), usize::from(self.floors.min_selection));
        if got < want {
            return Err(SiteRefusal::MinSelection { got, want });
        }
        let selected = |site: &&SiteName| context.selection.index_of(site).is_some();
        if let Some(missing) = self.floors.known_sites.iter().find(|site| !selected(site)) {
            return Err(SiteRefusal::UnknownSelection(missing.clone()));
        }
        if !selected(&&self.me) {
            return Err(SiteRefusal::NotSelected);
        }
        for member in context.selection.members() {
            let advert = if member.site == self.me {
                epoch.advert.hash()
            } else {
                let pair = epoch.pairs.get(&member.site);
                let settled = self.chain.epoch.as_ref().is_some_and(|chain| chain.is_settled(&member.site));
                match pair {
                    Some(pair) if settled => pair.advert.hash(),
                    _ => return Err(SiteRefusal::NoPairKey(member.site.clone())),
                }
            };
            if advert != member.advert {
                return Err(SiteRefusal::OtherAdvert(member.site.clone()));
            }
        }
        self.check_groups(context)
    }

    /// One round sums about one model. Training repeats itself within a round, so two files with the same numbers, or
    /// nearly, would let the coordinator open the round a second time with other survivors, around the repeat rule.
    fn check_round(&mut self, context: &Context) -> Result<(), SiteRefusal> {
        let Some(opened) = &self.record.opened else { return Ok(()) };
        if context.round < opened.round {
            return Err(SiteRefusal::RoundOver(context.round));
        }
        match opened.models.get(&context.purpose) {
            Some(model) if context.round == opened.round && *model != context.model => {
                let first = *model;
                Err(self.alarm(Occasion::Model(context.attempt), first, context.model))
            }
            _ => Ok(()),
        }
    }

    /// Refuses early where the repeat rule stands against this Selection: whoever is in it is to survive, and those
    /// survivors this site could not sign.
    fn check_repeat(&self, context: &Context, book: &RepeatBook) -> Result<(), SiteRefusal> {
        let selected = context.selection.members().iter().map(|member| member.site.clone()).collect();
        let same = |bound: &BTreeSet<SiteName>| counts_as(&selected, bound, &self.record.guilty);
        let repeats = book.binding(context).into_iter().all(same) && book.repeats_groups(context);
        if repeats { Ok(()) } else { Err(SiteRefusal::RepeatRule) }
    }

    pub(super) fn attempt(&self, ctx: &CtxHash) -> Result<&AttemptRecord, SiteRefusal> {
        match &self.record.attempt {
            Some(attempt) if attempt.context.hash() == *ctx => Ok(attempt),
            _ => Err(SiteRefusal::UnknownAttempt),
        }
    }

    pub(super) fn my_index(&self, context: &Context) -> Result<SiteIndex, SiteRefusal> {
        context.selection.index_of(&self.me).ok_or(SiteRefusal::NotSelected)
    }

    /// The key of the attempt that this site shares with a member, or has for itself.
    pub(crate) fn pair_key(&self, context: &Context, index: SiteIndex) -> Result<&PairKey, SiteRefusal> {
        let chain = self.chain.epoch.as_ref().ok_or(SiteRefusal::NotYet(Missing::Epoch))?;
        let site = context.selection.site(index).ok_or(SiteRefusal::Foreign)?;
        if chain.at() != context.attempt {
            return Err(SiteRefusal::Superseded(context.attempt));
        }
        if *site == self.me {
            return Ok(chain.own());
        }
        chain.key(site).ok_or_else(|| SiteRefusal::NoPairKey(site.clone()))
    }

    /// Starts masking `vector`, with a fresh self-mask seed. A spool that was not sealed is thrown away first.
    #[expect(clippy::needless_pass_by_value, reason = "a permit serves once")]
    pub fn mask(&self, permit: MaskPermit, vector: Vec<u32>) -> Result<Masker, SiteRefusal> {
        let mut vector = Zeroizing::new(vector);
        let MaskPermit(ctx) = permit;
        let attempt = self.attempt(&ctx)?;
        if matches!(attempt.own, Own::Sealed(..)) {
            return Err(SiteRefusal::AlreadySealed);
        }
        let context = &*attempt.context;
        let (got, want) = (vector.len(), context.layout.words());
        if got != want {
            return Err(SiteRefusal::VectorLength { got, want });
        }
        let keys = context
            .selection
            .indices()
            .map(|index| self.pair_key(context, index).cloned())
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Masker::new(context.clone(), self.my_index(context)?, keys, std::mem::take(&mut *vector)))
    }

    /// Signs for a masked vector. **The spool must be flushed before this is called**; once the state is
    /// persisted, its bytes are the only ones this attempt will ever see.
    pub fn seal(&mut self, masked: MaskedVector, book: &RepeatBook) -> Result<Unsent<Upload>, SiteRefusal> {
        let attempt = self.attempt(&masked.ctx)?;
        if matches!(attempt.own, Own::Sealed(..)) {
            return Err(SiteRefusal::AlreadySealed);
        }
        let context = &attempt.context;
        let me = self.my_index(context)?;
        let alarms = &self.record.alarms;
        let receipt = Receipt::new(ReceiptFields {
            ctx: masked.ctx,
            sender: me,
            chunks: masked.root(),
            self_commitment: masked.dealt.self_commitment,
            pair_commitments: masked.dealt.pair_commitments,
            shares: masked.dealt.shares,
            envelopes: masked.dealt.envelopes.iter().map(Envelope::hash).collect(),
            terms: self.terms_with(book.binding(context)),
            alarms: alarms[alarms.len().saturating_sub(MAX_ALARMS)..].to_vec(),
        })
        .expect("a dealer speaks to each site of its Selection once");
        let signed = self.sign_statement(&receipt);
        let held = self.pin.of_site(&signed, &self.me)?;
        let (own, others): (Vec<_>, Vec<_>) =
            masked.dealt.envelopes.into_iter().partition(|envelope| envelope.recipient == me);
        let own = own.into_iter().next().expect("a dealer deals to itself too");
        let upload = Upload { receipt: signed, envelopes: others, chunks: masked.chunks };
        let attempt = self.record.attempt.as_mut().ok_or(SiteRefusal::UnknownAttempt)?;
        attempt.receipts.insert(me, held);
        attempt.own = Own::Sealed(upload.clone(), own);
        self.touch();
        Ok(self.unsent(upload))
    }

    /// Takes receipts of other members. Returns what is known of all dealers so far.
    pub fn take_receipts(
        &mut self,
        ctx: &CtxHash,
        receipts: &[Signed<Receipt>],
    ) -> Result<Unsent<Vec<DealerVerdict>>, SiteRefusal> {
        let mut refused = None;
        for receipt in receipts {
            if let Err(refusal) = self.take_receipt(ctx, receipt) {
                refused = Some(graver(refused, refusal));
            }
        }
        self.open_envelopes(ctx)?;
        refused.map_or_else(|| self.verdicts(ctx), Err)
    }

    /// Takes envelopes for this site. Returns what is known of all dealers so far.
    pub fn take_envelopes(
        &mut self,
        ctx: &CtxHash,
        envelopes: &[Envelope],
    ) -> Result<Unsent<Vec<DealerVerdict>>, SiteRefusal> {
        let mut refused = None;
        for envelope in envelopes {
            if let Err(refusal) = self.take_envelope(ctx, envelope) {
                refused = Some(graver(refused, refusal));
            }
        }
        self.open_envelopes(ctx)?;
        refused.map_or_else(|| self.verdicts(ctx), Err)
    }

    fn verdicts(&self, ctx: &CtxHash) -> Result<Unsent<Vec<DealerVerdict>>, SiteRefusal> {
        let verdicts = &self.attempt(ctx)?.verdicts;
        Ok(self.unsent(
            verdicts.iter().map(|(dealer, good)| DealerVerdict { dealer: *dealer, good: *good }).collect(),
        ))
    }

    fn take_receipt(&mut self, ctx: &CtxHash, signed: &Signed<Receipt>) -> Result<(), SiteRefusal> {
        let attempt = self.attempt(ctx)?;
        let context = &attempt.context;
        let sender = signed.claim().map_err(SignatureError::from)?.sender;
        let site = context.selection.site(sender).ok_or(SiteRefusal::Foreign)?;
        let receipt: Held<Receipt> = self.pin.of_site(signed, site)?;
        if receipt.ctx != *ctx || !fits(&receipt, context) {
            return Err(SiteRefusal::Foreign);
        }
        if let Some(known) = attempt.receipts.get(&sender) {
            let (first, second) = (known.hash(), receipt.hash());
            if first != second {
                let occasion = Occasion::Receipt(context.attempt);
                return Err(self.alarm(occasion, first, second));
            }
            return Ok(());
        }
        if *site == self.me {
            // Signed with this site's key, and not by this machine.
            return Err(SiteRefusal::OtherReceipt);
        }
        let attempt = self.record.attempt.as_mut().ok_or(SiteRefusal::UnknownAttempt)?;
        attempt.receipts.insert(sender, receipt);
        self.touch();
        Ok(())
    }

    fn take_envelope(&mut self, ctx: &CtxHash, envelope: &Envelope) -> Result<(), SiteRefusal> {
        let attempt = self.attempt(ctx)?;
        let me = self.my_index(&attempt.context)?;
        let foreign = SiteRefusal::ForeignEnvelope(envelope.sender);
        let selected = attempt.context.selection.member(envelope.sender).is_some();
        if envelope.ctx != *ctx || envelope.recipient != me || envelope.sender == me || !selected {
            return Err(foreign);
        }
        let receipt = attempt
            .receipts
            .get(&envelope.sender)
            .ok_or(SiteRefusal::NotYet(Missing::Receipt(envelope.sender)))?;
        if receipt.envelope(me) != Some(&envelope.hash()) {
            return Err(foreign);
        }
        let attempt = self.record.attempt.as_mut().ok_or(SiteRefusal::UnknownAttempt)?;
        if attempt.envelopes.insert(envelope.sender, envelope.clone()).is_none() {
            self.touch();
        }
        Ok(())
    }

    /// Opens the envelopes that have no verdict yet.
    fn open_envelopes(&mut self, ctx: &CtxHash) -> Result<(), SiteRefusal> {
        let attempt = self.attempt(ctx)?;
        let new: BTreeSet<SiteIndex> = attempt
            .envelopes
            .keys()
            .filter(|dealer| !attempt.verdicts.contains_key(dealer))
            .copied()
            .collect();
        for dealer in new {
            let good = self.open_row(ctx, dealer).is_ok();
            let attempt = self.record.attempt.as_mut().ok_or(SiteRefusal::UnknownAttempt)?;
            attempt.verdicts.insert(dealer, good);
            self.touch();
        }
        Ok(())
    }

    /// The shares that `dealer` dealt to this site. Opened when they are needed and dropped again.
    pub(super) fn open_row(&self, ctx: &CtxHash, dealer: SiteIndex) -> Result<Row, SiteRefusal> {
        let attempt = self.attempt(ctx)?;
        let me = self.my_index(&attempt.context)?;
        let envelope = match &attempt.own {
            Own::Sealed(_, own) if dealer == me => Some(own),
            _ => attempt.envelopes.get(&dealer),
        };
        let envelope = envelope.ok_or(SiteRefusal::NotYet(Missing::Envelope(dealer)))?;
        let receipt = attempt.receipts.get(&dealer).ok_or(SiteRefusal::NotYet(Missing::Receipt(dealer)))?;
        let key = self.pair_key(&attempt.context, dealer)?;
        Row::open(key, envelope, receipt).map_err(|_| SiteRefusal::ForeignEnvelope(dealer))
    }
}

/// Why what the coordinator signed is no context: the field, where it is one that does not fit the others.
fn no_context(signed: &Signed<Context>, error: SignatureError) -> SiteRefusal {
    if let SignatureError::Body(_) = error
        && let Ok(stated) = Signed::<ContextFields>::from_canonical(&signed.to_canonical())
        && let Ok(fields) = stated.claim()
        && let Err(invalid) = Context::new(fields)
    {
        return SiteRefusal::Context(invalid);
    }
    SiteRefusal::Signature(error)
}

/// Of the refusals of a batch the one that is told: an alarm, which belongs into the journal, before all others.
fn graver(before: Option<SiteRefusal>, now: SiteRefusal) -> SiteRefusal {
    match before {
        Some(alarm @ SiteRefusal::Alarm(_)) => alarm,
        _ => now,
    }
}
