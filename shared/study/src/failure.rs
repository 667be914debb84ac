//! How every program says why it failed.

use std::error::Error;
use std::io;
use std::process::ExitCode;

/// What a shell shows for a program that was ended because its reader had gone.
const NOBODY_READS: u8 = 141;

/// From here on, a program whose output nobody reads any more (`… | head`) leaves without a complaint, and without
/// success.
pub fn leave_when_nobody_reads() {
    let complain = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to std") && text.contains("Broken pipe") {
            std::process::exit(NOBODY_READS.into());
        }
        complain(panic);
    }));
}

/// Says on standard error why a program failed, in words or as the JSON object `{"error": …}`, and returns how it
/// ends.
pub fn report(error: &(dyn Error + 'static), json: bool) -> ExitCode {
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::from(NOBODY_READS);
    }
    let text = in_words(error);
    if json {
        eprintln!("{}", serde_json::json!({ "error": text }));
    } else {
        eprintln!("error: {text}");
    }
    ExitCode::FAILURE
}

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
