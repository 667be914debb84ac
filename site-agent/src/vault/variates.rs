//! A site's control variate: which one a training begins with, and what is kept of it.
//!
//! From its variate, the mean and the model a site's last update can be computed. Like its cases it lies on the hospital's own
//! machine, readable by the vault alone, and goes when the study is over; nothing of it is ever sent.

use consilium_rounds::control::{NoVariate, OwnVariate, correction};
use consilium_rounds::reason::{Decline, Withdrawal};
use consilium_secagg::numbering::Attempt;
use consilium_secagg::quantiser::{DecodeError, decode};
use consilium_study::canonical::Canonical as _;
use zeroize::Zeroizing;

use super::limits::{distance, longest_control};
use super::work::{AttemptJob, Bench, Halt, Task};
use crate::store::Kind;

/// What a training's steps are corrected by.
#[derive(Default)]
pub(super) struct Correction<'a> {
    /// The site's variate that is in the mean, and the attempt that made it.
    before: Option<(Attempt, &'a [f32])>,
    /// What is added to each gradient, shape `[params]`; none where there is no mean.
    pub(super) entries: Option<Vec<f32>>,
}

impl Bench {
    /// What this site keeps of its variate; none before its first training, and in a study without them.
    pub(super) fn own_variate(&self, job: &AttemptJob) -> Result<Option<OwnVariate>, Halt> {
        let (study, path) = (&job.study, job.folder.control_variate());
        if !study.rounds.strategy.keeps_control() {
            return Ok(None);
        }
        let bytes = self.store.read(Kind::ControlVariate, &path).map_err(|error| {
            tracing::error!(study = study.hash().short(), %error, "the control variate cannot be read");
            Halt::Withdraw(Withdrawal::TrainingFailed)
        })?;
        let own = bytes.and_then(|bytes| {
            OwnVariate::from_canonical(&bytes).ok().or_else(|| {
                tracing::error!(file = %path.display(), "the control variate was altered, and is not used");
                None
            })
        });
        Ok(own.filter(|own| own.is_of(study)))
    }
}

impl Task<'_> {
    /// What the context says that this site's steps are to be corrected by.
    pub(super) fn correction(&self) -> Result<Correction<'_>, Halt> {
        let context = &self.job.context;
        let Some(control) = &context.control else { return Ok(Correction::default()) };
        let place =
            context.selection.index_of(self.site).ok_or(Halt::Withdraw(Withdrawal::TrainingFailed))?;
        let before = OwnVariate::at_start(self.variate, context, place).map_err(|why| match why {
            NoVariate::Lost(_) => {
                tracing::error!(study = self.study.hash().short(), "{why}; all sites begin without variates");
                Halt::Withdraw(Withdrawal::VariateLost)
            }
            NoVariate::SameRound(_) | NoVariate::SecondMean => Halt::Decline(
                Decline::Context,
                format!("declines an attempt: {why}. Tell the consortium: the coordinator may be lying"),
            ),
        })?;
        let mean = self.read(self.file(&control.mean)?)?;
        let (length, most) =
            (distance(self.study, &mean, &vec![0.0; mean.len()]), longest_control(self.study, context.round));
        if length.is_nan() || length > most {
            let words = format!(
                "declines control variates that no honest sum leads to: their mean has length {length:.3}, and updates of \
                 this study make it {most:.3} at most. Tell the consortium: the coordinator may be lying"
            );
            return Err(Halt::Decline(Decline::Model, words));
        }
        let entries = correction(&self.study.model, &mean, before.map(|(_, own)| own));
        Ok(Correction { before, entries: Some(entries) })
    }

    /// What the site keeps after a training of which these words are summed; none in a study without variates.
    pub(super) fn next_variate(
        &self,
        correction: &Correction<'_>,
        words: &[u32],
    ) -> Result<Option<Box<OwnVariate>>, DecodeError> {
        if !self.study.rounds.strategy.keeps_control() {
            return Ok(None);
        }
        // A sum over this site alone: what its update counts for in any other.
        let sent = Zeroizing::new(decode(&self.job.context, words.to_vec())?.update);
        let (before, entries) = (correction.before, correction.entries.as_deref());
        let after = OwnVariate::after(self.study, &self.job.context, before, entries, &sent);
        Ok(Some(Box::new(after)))
    }
}
