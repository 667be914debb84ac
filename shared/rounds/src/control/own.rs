//! What a site keeps of its control variate, and which one a training begins with.

use consilium_secagg::context::Context;
use consilium_secagg::numbering::{Attempt, RoundNumber, SiteIndex};
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use minicbor::{Decode, Encode};

use super::{own_after, reach};

/// A site's variate after its last training, and the one that this training began with.
///
/// Which of the two is in the mean, the site cannot know: an attempt may be given up, opened without it, or make a model that
/// is refused. The next context says it. Both are kept until then, and with them the training that they come from, so that a
/// round that is trained again begins with what it began with the first time, and gives the same update.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct OwnVariate {
    /// The study.
    #[n(0)]
    pub study: Hash,
    /// The attempt that was trained in last.
    #[n(1)]
    pub attempt: Attempt,
    /// Its round.
    #[n(2)]
    pub round: RoundNumber,
    /// The model that it started from.
    #[n(3)]
    pub start: Hash,
    /// The mean that it was corrected by; none where there was none.
    #[n(4)]
    pub mean: Option<Hash>,
    /// What it began with; none where the mean had no variate of this site.
    #[n(5)]
    pub before: Option<Before>,
    /// What it made of that, entries of the averaged blocks in their order.
    #[n(6)]
    pub after: Vec<f32>,
}

/// A variate that was in the mean when the last training began.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Before {
    /// The attempt that made it.
    #[n(0)]
    pub attempt: Attempt,
    /// Its entries.
    #[n(1)]
    pub variate: Vec<f32>,
}

/// Why a site trains nothing on what a context says of its variate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoVariate {
    /// Nobody is to blame but a disk, or a backup.
    #[error("the control variate of attempt {0} is counted for this site, and it is not here")]
    Lost(Attempt),
    /// The round has not come to an end, so nothing of it can be counted.
    #[error("attempt {0} is said to be counted, and its round goes on")]
    SameRound(Attempt),
    /// A second mean would make a second update of one round.
    #[error("this round was trained from this model with another mean of control variates")]
    SecondMean,
}

impl OwnVariate {
    /// What a training begins with, where the mean has a variate of this site. `own` is what the site keeps.
    pub fn at_start<'o>(
        own: Option<&'o Self>,
        context: &Context,
        site: SiteIndex,
    ) -> Result<Option<(Attempt, &'o [f32])>, NoVariate> {
        let Some(control) = &context.control else { return Ok(None) };
        if let Some(own) = own
            && (own.round, own.start) == (context.round, context.model)
            && own.mean != Some(control.mean)
        {
            return Err(NoVariate::SecondMean);
        }
        let Some(counted) = control.counted(site) else { return Ok(None) };
        let own = own.ok_or(NoVariate::Lost(counted))?;
        if own.attempt == counted {
            return if own.round < context.round {
                Ok(Some((counted, &own.after)))
            } else {
                Err(NoVariate::SameRound(counted))
            };
        }
        match &own.before {
            Some(before) if before.attempt == counted => Ok(Some((counted, &before.variate))),
            _ => Err(NoVariate::Lost(counted)),
        }
    }

    /// What the site keeps after a training that began with `before`, was corrected by `correction`, shape `[params]`, and of
    /// which the update `sent` is summed.
    pub fn after(
        study: &Study,
        context: &Context,
        before: Option<(Attempt, &[f32])>,
        correction: Option<&[f32]>,
        sent: &[f32],
    ) -> Self {
        let before = before.map(|(attempt, variate)| Before { attempt, variate: variate.to_vec() });
        Self {
            study: study.hash(),
            attempt: context.attempt,
            round: context.round,
            start: context.model,
            mean: context.control.as_ref().map(|control| control.mean),
            before,
            after: own_after(&study.model, reach(study, context.round), correction, sent),
        }
    }

    /// Whether these are numbers for this study.
    pub fn is_of(&self, study: &Study) -> bool {
        let length = study.model.averaged_len();
        let fits = |part: &[f32]| part.len() == length && part.iter().all(|value| value.is_finite());
        let before = self.before.as_ref();
        self.study == study.hash() && before.is_none_or(|before| fits(&before.variate)) && fits(&self.after)
    }
}
