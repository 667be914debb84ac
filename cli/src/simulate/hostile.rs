//! A hospital that sends what it likes, to see what the study's acceptance gate makes of it.

use std::str::FromStr;

use consilium_secagg::context::{Context, Purpose};
use consilium_study::name::SiteName;

/// The first round in which it does: until then it is like the others, and the gate learns what is usual.
const FROM: u32 = 3;

/// One hospital whose vector is its honest one times a factor, past every clipping and range.
#[derive(Clone, Debug, PartialEq)]
pub struct Hostile {
    site: SiteName,
    factor: f64,
}

/// A text that names no hostile hospital.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write SITE:FACTOR, for example site-3:-10")]
pub struct InvalidHostile;

impl FromStr for Hostile {
    type Err = InvalidHostile;

    fn from_str(text: &str) -> Result<Self, InvalidHostile> {
        let (site, factor) = text.rsplit_once(':').ok_or(InvalidHostile)?;
        let factor: f64 = factor.parse().map_err(|_| InvalidHostile)?;
        if !factor.is_finite() {
            return Err(InvalidHostile);
        }
        Ok(Self { site: site.parse().map_err(|_| InvalidHostile)?, factor })
    }
}

impl Hostile {
    /// Who.
    pub fn site(&self) -> &SiteName {
        &self.site
    }

    /// Changes the vector of `site`, if that is the hostile one.
    pub(crate) fn tamper(&self, site: &SiteName, context: &Context, words: &mut [u32]) {
        let acts = context.purpose == Purpose::Train && context.round.get() >= FROM;
        if !acts || *site != self.site {
            return;
        }
        // Saturating: a number that wrapped around would only be noise.
        for word in &mut words[context.layout.update()] {
            *word = (f64::from(word.cast_signed()) * self.factor) as i32 as u32;
        }
        for word in &mut words[context.layout.exact_words()..] {
            let lanes = [*word, *word >> 16].map(|lane| {
                let times = f64::from((lane as u16).cast_signed()) * self.factor;
                u32::from((times as i16).cast_unsigned())
            });
            *word = lanes[0] | lanes[1] << 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_and_a_number_are_read_and_nothing_else() {
        let hostile: Hostile = "site-3:-10".parse().unwrap();
        assert_eq!((hostile.site().as_str(), hostile.factor), ("site-3", -10.0));
        for text in ["", "site-3", "site-3:", "site-3:much", "site-3:inf", ":3", "A B:3"] {
            assert_eq!(text.parse::<Hostile>(), Err(InvalidHostile), "{text}");
        }
    }
}
