//! Opening a sum: the consistency check and the answer (design, section 3).

use std::collections::BTreeSet;

use consilium_study::canonical::Canonical;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;

use super::record::{AttemptRecord, OpenedRound, Opening, Own};
use super::{Missing, RepeatBook, SiteMachine, SiteRefusal, Unsent};
use crate::alarm::Occasion;
use crate::consistency::{self, Inconsistent, counts_as};
use crate::context::{Context, CtxHash};
use crate::message::{
    Answer, DealerShares, OpenedSeed, Receipt, Survivors, SurvivorsSignature, UnmaskRequest,
};
use crate::numbering::SiteIndex;
use crate::pin::StudyPin;
use crate::terms::RosterSet;

impl SiteMachine {
    /// Checks survivors and signs them: these, and no others, for this attempt and this starting model.
    pub fn sign(
        &mut self,
        ctx: &CtxHash,
        survivors: &Survivors,
        book: &mut RepeatBook,
    ) -> Result<Unsent<Signed<SurvivorsSignature>>, SiteRefusal> {
        self.same_survivors(ctx, survivors)?;
        let attempt = self.attempt(ctx)?;
        if let Opening::Bound(_, Some(signature), _) = &attempt.opening {
            return Ok(self.unsent(signature.clone()));
        }
        let me = self.my_index(&attempt.context)?;
        Self::check_own_receipt(attempt, me, survivors)?;
        if !survivors.contains(me) {
            return Err(SiteRefusal::NotSurvivor);
        }
        self.check_survivors(attempt, survivors)?;
        self.check_book(ctx, survivors, book)?;
        let statement = SurvivorsSignature { ctx: *ctx, survivors: survivors.hash() };
        let signature = self.sign_statement(&statement);
        self.bind(ctx, survivors, book)?;
        if let Some(AttemptRecord { opening: Opening::Bound(_, place, _), .. }) = &mut self.record.attempt {
            *place = Some(signature.clone());
        }
        self.touch();
        Ok(self.unsent(signature))
    }

    /// Gives back shares and seeds, once `t` survivors have signed. A member of the Selection that did not
    /// survive answers too: it neither signs nor gives seeds of its own.
    pub fn answer(
        &mut self,
        request: &UnmaskRequest,
        book: &mut RepeatBook,
    ) -> Result<Unsent<Signed<Answer>>, SiteRefusal> {
        let UnmaskRequest { ctx, survivors, signatures } = request;
        self.same_survivors(ctx, survivors)?;
        let attempt = self.attempt(ctx)?;
        if let Opening::Bound(_, _, Some(answer)) = &attempt.opening {
            return Ok(self.unsent(answer.clone()));
        }
        let context = &attempt.context;
        let me = self.my_index(context)?;
        Self::check_own_receipt(attempt, me, survivors)?;
        self.check_signatures(context, survivors, signatures)?;
        self.check_book(ctx, survivors, book)?;
        let answer = self.sign_statement(&self.make_answer(ctx, me, survivors)?);
        self.bind(ctx, survivors, book)?;
        if let Some(AttemptRecord { opening: Opening::Bound(_, _, place), .. }) = &mut self.record.attempt {
            *place = Some(answer.clone());
        }
        self.touch();
        Ok(self.unsent(answer))
    }

    /// Other survivors than those written down are an alarm, whatever else is asked.
    fn same_survivors(&mut self, ctx: &CtxHash, survivors: &Survivors) -> Result<(), SiteRefusal> {
        let attempt = self.attempt(ctx)?;
        let selection = &attempt.context.selection;
        if let Some(stranger) = survivors.indices().find(|index| selection.member(*index).is_none()) {
            return Err(SiteRefusal::Inconsistent(Inconsistent::Foreign(stranger)));
        }
        let number = attempt.context.attempt;
        if let Opening::Bound(first, _, _) = &attempt.opening
            && first != survivors
        {
            let (first, second) = (first.hash(), survivors.hash());
            return Err(self.alarm(Occasion::Survivors(number), first, second));
        }
        Ok(())
    }

    /// Where survivors name this site, they name the receipt that it signed.
    fn check_own_receipt(
        attempt: &AttemptRecord,
        me: SiteIndex,
        survivors: &Survivors,
    ) -> Result<(), SiteRefusal> {
        match (survivors.receipt(me), &attempt.own) {
            (None, _) => Ok(()),
            (Some(_), Own::Unsealed) => Err(SiteRefusal::OtherReceipt),
            (Some(named), Own::Sealed(..)) => {
                if attempt.receipts.get(&me).map(|receipt| receipt.hash()) == Some(*named) {
                    Ok(())
                } else {
                    Err(SiteRefusal::OtherReceipt)
                }
            }
        }
    }

    fn check_survivors(&self, attempt: &AttemptRecord, survivors: &Survivors) -> Result<(), SiteRefusal> {
        let context = &attempt.context;
        for index in survivors.indices() {
            if !attempt.receipts.contains_key(&index) {
                return Err(SiteRefusal::NotYet(Missing::Receipt(index)));
            }
        }
        let receipts = |index| attempt.receipts.get(&index).map(|held| -> &Receipt { held });
        consistency::check(&self.pin, context, survivors, receipts, &self.record.guilty)
            .map_err(SiteRefusal::Inconsistent)
    }

    /// The repeat rule as this site knows it now; its receipt may be older than what it signed elsewhere.
    fn check_book(
        &mut self,
        ctx: &CtxHash,
        survivors: &Survivors,
        book: &RepeatBook,
    ) -> Result<(), SiteRefusal> {
        let attempt = self.attempt(ctx)?;
        let number = attempt.context.attempt;
        let sites = StudyPin::names_of(&attempt.context, survivors.indices());
        let broken = book
            .binding(&attempt.context)
            .into_iter()
            .find(|bound| !counts_as(&sites, bound, &self.record.guilty));
        match broken {
            None => Ok(()),
            Some(bound) => {
                let (first, second) = (set_hash(bound), set_hash(&sites));
                Err(self.alarm(Occasion::Repeat(number), first, second))
            }
        }
    }

    /// Signatures of at least `t` distinct survivors on exactly these survivors.
    fn check_signatures(
        &self,
        context: &Context,
        survivors: &Survivors,
        signatures: &[Signed<SurvivorsSignature>],
    ) -> Result<(), SiteRefusal> {
        let want = usize::from(context.thresholds.threshold);
        let got = valid_signers(&self.pin, context, survivors, signatures).len();
        if got < want { Err(SiteRefusal::Signatures { got, want }) } else { Ok(()) }
    }

    fn make_answer(
        &self,
        ctx: &CtxHash,
        me: SiteIndex,
        survivors: &Survivors,
    ) -> Result<Answer, SiteRefusal> {
        let attempt = self.attempt(ctx)?;
        let context = &attempt.context;
        let mut dealers: Vec<DealerShares> = Vec::with_capacity(survivors.len());
        for member in survivors.members() {
            let dealer = member.site;
            // The shares must be those of the receipt that counts.
            match attempt.receipts.get(&dealer) {
                None => return Err(SiteRefusal::NotYet(Missing::Receipt(dealer))),
                Some(receipt) if receipt.hash() != member.receipt => {
                    return Err(SiteRefusal::Inconsistent(Inconsistent::Receipt(dealer)));
                }
                Some(_) => {}
            }
            if attempt.verdicts.get(&dealer) == Some(&false) {
                continue;
            }
            // Its self-mask seed, and its seeds with those who are gone. Seeds between two who are gone stay closed.
            let about = opened_of(context, survivors, dealer);
            dealers.push(self.open_row(ctx, dealer)?.give(&about));
        }
        let mut seeds = Vec::new();
        if survivors.contains(me) {
            for dropped in dropped_peers(context, survivors, me) {
                let seed = self.pair_key(context, dropped)?.mask_seed(ctx);
                seeds.push(OpenedSeed { dropped, seed: (*seed.as_bytes()).into() });
            }
        }
        Ok(Answer { ctx: *ctx, survivors: survivors.hash(), holder: me, dealers, seeds })
    }

    /// Writes down that this attempt is opened with these survivors.
    fn bind(
        &mut self,
        ctx: &CtxHash,
        survivors: &Survivors,
        book: &mut RepeatBook,
    ) -> Result<(), SiteRefusal> {
        let attempt = self.attempt(ctx)?;
        let context = &attempt.context;
        let sites = StudyPin::names_of(context, survivors.indices());
        book.bind(context, &sites);
        let (round, purpose, model) = (context.round, context.purpose, context.model);
        let opened = self.record.opened.take().filter(|opened| opened.round == round);
        let opened = self.record.opened.insert(opened.unwrap_or_else(|| OpenedRound::new(round)));
        opened.models.entry(purpose).or_insert(model);
        let set = RosterSet::of(&self.pin.names(), &sites);
        if let Some(epoch) = &mut self.record.epoch {
            epoch.earlier.insert(set);
        }
        if let Some(attempt) = &mut self.record.attempt
            && matches!(attempt.opening, Opening::Closed)
        {
            attempt.opening = Opening::Bound(survivors.clone(), None, None);
        }
        Ok(())
    }
}

/// Members outside the survivors whose mask stands in the vector of `survivor`.
pub(crate) fn dropped_peers(context: &Context, survivors: &Survivors, survivor: SiteIndex) -> Vec<SiteIndex> {
    let dropped = |peer: &SiteIndex| !survivors.contains(*peer) && context.share_a_mask(survivor, *peer);
    context.selection.indices().filter(dropped).collect()
}

/// What is opened of a survivor's seeds, in order: with each such member, and under its own index the self-mask seed.
pub(crate) fn opened_of(context: &Context, survivors: &Survivors, survivor: SiteIndex) -> Vec<SiteIndex> {
    let mut about = dropped_peers(context, survivors, survivor);
    about.push(survivor);
    about.sort_unstable();
    about
}

/// The distinct survivors whose signatures on exactly these survivors are valid.
pub(crate) fn valid_signers(
    pin: &StudyPin,
    context: &Context,
    survivors: &Survivors,
    signatures: &[Signed<SurvivorsSignature>],
) -> BTreeSet<SiteIndex> {
    let statement = SurvivorsSignature { ctx: context.hash(), survivors: survivors.hash() };
    survivors
        .indices()
        .filter(|index| {
            context.selection.site(*index).is_some_and(|site| {
                let signer = consilium_study::name::Principal::Site(site.clone());
                signatures
                    .iter()
                    .filter(|signature| *signature.signer() == signer)
                    .any(|signature| pin.of_site(signature, site).is_ok_and(|held| *held == statement))
            })
        })
        .collect()
}

fn set_hash(sites: &BTreeSet<SiteName>) -> Hash {
    Hash::labelled("site-set", &sites.to_canonical())
}

#[cfg(test)]
mod split_view;
