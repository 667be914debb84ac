//! Secure aggregation: the coordinator learns the sum of the surviving sites' vectors and nothing else about
//! any of them, although sites drop out, the coordinator lies and some sites help it.
//!
//! Lineage: double masking by Bonawitz et al. 2017; one key setup for many rounds by Ma et al. 2023
//! (Flamingo); masks bound to the received model against model inconsistency (Pasquini et al. 2022);
//! differencing over rounds (Lam et al. 2021, So et al. 2023). **The composition is our own. It went through
//! one hostile reading, whose findings are built in, and through no outside review.** It is written to make
//! such a review easy: the crate is pure (no sockets, files or clock), each file holds one idea, and
//! each refusal has a name.
//!
//! # The flow of calls
//!
//! At a site, one [`site::SiteMachine`] per study and one [`site::RepeatBook`] for all studies. Every method that
//! lets something out returns an [`site::Unsent`], which only [`site::SiteMachine::persist`] opens: the state is
//! durable before a byte leaves. Every method may be called again with the same input and gives the same bytes.
//! Persist after a refusal too: it may have raised an alarm.
//!
//! ```text
//! let mut site = SiteMachine::new(pin, name, key, floors)?;   // or restore(pin, name, key, floors, &record, chain)
//! EpochOpening    unsent = site.open_epoch(&opening)?                    Signed<Advert>
//! Adverts         unsent = site.take_adverts(&adverts)?                  SetupReply { encapsulations, confirmations }
//! Encapsulations  unsent = site.take_encapsulations(&list)?              SetupReply
//! Confirmations   unsent = site.take_confirmations(&list)?               SetupReply { refused }; site.pairs_settled()
//! DrawCall        unsent = site.reveal(&call)?                           Signed<Reveal>, where a study sums groups
//! Reveals         refused = site.take_reveals(&reveals)?                 the groups follow once all are known
//! (24 h later)    site.erase_setup_keys()
//! Begin           unsent = site.begin(&context, &book)?                  Begun::Mask(permit) | Begun::Sealed(upload)
//!   train, then   vector = quantiser::encode(...)?
//!                 masker = site.mask(permit, vector)?; while let Some(chunk) = masker.next_chunk() { spool.write(chunk) }
//!   flush spool,  unsent = site.seal(masker.finish()?, &book)?           Upload { receipt, envelopes, chunks }
//! Receipts        unsent = site.take_receipts(&ctx, &receipts)?          Vec<DealerVerdict> (all so far)
//! Envelopes       unsent = site.take_envelopes(&ctx, &envelopes)?        Vec<DealerVerdict> (all so far)
//! Survivors       unsent = site.sign(&ctx, &survivors, &mut book)?       Signed<SurvivorsSignature>
//! Unmask          unsent = site.answer(&request, &mut book)?             Signed<Answer>
//! always          proof = site.persist(&mut book, &mut store)?; message = unsent.open(&proof)?
//! ```
//!
//! At the coordinator the phases are types, each serialisable as canonical CBOR; leaving one consumes it.
//! Masked vectors are never inside: the shell keeps them and [`accumulator::Accumulator`] adds them.
//!
//! ```text
//! let mut setup = EpochSetup::new(&pin, opening)?;
//! setup.take_advert(&pin, advert)?  take_encapsulation(..)?  take_confirmation(..)?  take_settled(&site, &with)
//! setup.mail_for(&site) -> SetupMail { adverts, encapsulations, confirmations };  setup.selectable(&ready)
//!
//! let mut phase = CollectMasked::new(&pin, &signed_context, guilty)?;
//! phase.take_upload(&pin, &site, upload)?     phase.check_chunk(&site, index, &bytes)?    phase.complete(&site)?
//! phase.take_verdicts(&site, &verdicts)?      phase.receipts_for(&site)  phase.envelopes_for(&site)  phase.waits()
//! let mut phase = phase.close(&pin, quorum)?;            // ConsistencyCheck: from here on the attempt counts as opened
//! phase.survivors()  phase.receipts()         phase.take_signature(&pin, &site, signature)?
//! let mut phase = phase.unmask()?;                       // Unmask
//! phase.request()    phase.take_answer(&pin, &site, answer)?   phase.waits()
//! let opened = phase.recover()?;                         // OpenedSeeds, or who is to blame, with proof
//!
//! let mut sum = Accumulator::new(&context.layout);
//! for site in survivors { for (index, chunk) in spool { sum.add_chunk(index, chunk)? } }
//! sum.remove_masks(&context, &opened, threads);  let aggregate = quantiser::decode(&context, sum.into_words())?;
//! ```

pub mod accumulator;
mod agreement;
pub mod alarm;
mod chain;
mod clip;
mod consistency;
pub mod context;
pub mod control;
pub mod coordinator;
mod dealing;
pub mod floor;
pub mod grouping;
pub mod guilt;
mod held;
pub mod layout;
mod mask;
pub mod masker;
mod merkle;
pub mod message;
pub mod numbering;
pub mod packed;
pub mod pin;
pub mod quantiser;
pub mod ring;
pub mod rotation;
mod secret;
mod shamir;
pub mod site;
pub mod terms;
pub mod threshold;

pub use agreement::BadKey;
pub use consistency::{Inconsistent, UnmetTerms};

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod dropouts;
#[cfg(test)]
mod federation;
#[cfg(test)]
mod hostile_bytes;
#[cfg(test)]
mod vectors;
