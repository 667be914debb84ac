//! How every program says why it failed.

use std::error::Error;

/// An error with its causes on one line. Some errors name their cause in their own text; it is not said twice.
pub fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !words.contains(text.trim_end()) {
            words = format!("{words}: {text}");
        }
        next = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Trouble {
        #[error("the door is shut")]
        Shut,
        #[error("no way in: {0}. Knock")]
        Told(#[source] Box<Trouble>),
        #[error("no way in")]
        Untold(#[source] Box<Trouble>),
    }

    #[test]
    fn a_cause_is_said_once() {
        let shut = || Box::new(Trouble::Shut);
        assert_eq!(in_words(&Trouble::Told(shut())), "no way in: the door is shut. Knock");
        assert_eq!(in_words(&Trouble::Untold(shut())), "no way in: the door is shut");
        let both = Trouble::Untold(Box::new(Trouble::Told(shut())));
        assert_eq!(in_words(&both), "no way in: no way in: the door is shut. Knock");
    }
}
