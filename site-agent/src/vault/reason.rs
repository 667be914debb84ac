//! What the coordinator is told when the protocol's machine refuses.

use consilium_rounds::reason::Decline;
use consilium_secagg::Inconsistent;
use consilium_secagg::alarm::Occasion;
use consilium_secagg::context::InvalidContext;
use consilium_secagg::pin::PinMismatch;
use consilium_secagg::site::SiteRefusal;
use consilium_study::sign::SignatureError;

/// The reason for a refusal, out of the closed list that both sides know.
pub(super) fn decline_of(refusal: &SiteRefusal) -> Decline {
    match refusal {
        SiteRefusal::Signature(SignatureError::Body(_)) => Decline::Malformed,
        SiteRefusal::Signature(_) => Decline::Signature,
        SiteRefusal::Context(InvalidContext::Thresholds(_) | InvalidContext::Formula)
        | SiteRefusal::MinHonest { .. } => Decline::Thresholds,
        SiteRefusal::Alarm(alarm) => match alarm.occasion {
            Occasion::Opening(_) | Occasion::Advert(_) | Occasion::Encapsulation(_) => Decline::Epoch,
            Occasion::Draw(_) | Occasion::Reveal(_) => Decline::Groups,
            Occasion::Context(_) => Decline::Attempt,
            Occasion::Model(_) => Decline::Model,
            Occasion::Receipt(_) => Decline::Receipts,
            Occasion::Survivors(_) => Decline::SecondSurvivors,
            Occasion::Repeat(_) => Decline::Repeat,
        },
        SiteRefusal::NotYet(_)
        | SiteRefusal::StaleEpoch(_)
        | SiteRefusal::BadKey { .. }
        | SiteRefusal::WrongTag(_)
        | SiteRefusal::OutsideEpoch(_)
        | SiteRefusal::OtherAdvert(_)
        | SiteRefusal::NoPairKey(_) => Decline::Epoch,
        SiteRefusal::Superseded(_) | SiteRefusal::RoundOver(_) | SiteRefusal::UnknownAttempt => {
            Decline::Attempt
        }
        SiteRefusal::Pin(PinMismatch::Roster | PinMismatch::RosterSize) => Decline::Roster,
        SiteRefusal::Pin(_)
        | SiteRefusal::Context(_)
        | SiteRefusal::Foreign
        | SiteRefusal::VectorLength { .. }
        | SiteRefusal::AlreadySealed => Decline::Context,
        SiteRefusal::NotInDraw
        | SiteRefusal::Groups(_)
        | SiteRefusal::TooManyDraws
        | SiteRefusal::WrongReveal(_)
        | SiteRefusal::OtherGroups => Decline::Groups,
        SiteRefusal::MinSelection { .. } => Decline::TooFewSites,
        SiteRefusal::UnknownSelection(_) => Decline::UnknownSites,
        SiteRefusal::NotSelected => Decline::NotSelected,
        SiteRefusal::RepeatRule => Decline::Repeat,
        SiteRefusal::Inconsistent(Inconsistent::Terms { .. }) => Decline::Terms,
        SiteRefusal::ForeignEnvelope(_)
        | SiteRefusal::NotSurvivor
        | SiteRefusal::OtherReceipt
        | SiteRefusal::Inconsistent(_) => Decline::Receipts,
        SiteRefusal::Signatures { .. } => Decline::Signatures,
    }
}
