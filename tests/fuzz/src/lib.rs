//! Runs parsers of strangers' bytes over changed inputs, a bounded number of times and always the same way.
//!
//! A target is a plain `fn(&[u8]) -> bool` that says whether it took the bytes; it panics where something that must
//! hold does not. Each crate lists its own targets in a test and hands them to [`run`] together with honest bytes;
//! more lie under `tests/fuzz/corpus/<target>`. [`run`] fails where
//!
//! - a target panics,
//! - it holds more memory at once than [`most_memory`] allows for the length of its input,
//! - it takes nothing of what it was given unchanged: then it tests nothing.
//!
//! An input that fails is written into the corpus; give the file a name that says what was wrong, and keep it.
//!
//! Linking this crate counts the allocations of the whole test program, which costs nothing that can be measured.

mod allocation;
mod change;

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use consilium_study::canonical::Canonical;

pub use crate::change::Draws;

/// The variable that says how many changed inputs each target gets.
const ITERATIONS: &str = "CONSILIUM_FUZZ_ITERATIONS";
/// So many without it.
const FEW: u64 = 20_000;
/// Length of seeds up to which they get all of them.
const USUAL: usize = 2048;
/// Cuts of one honest input; those of a longer one are spread evenly.
const CUTS: usize = 256;
/// No input is that slow, on the slowest of machines.
const STUCK: Duration = Duration::from_secs(20);

/// A parser of strangers' bytes, with honest bytes to begin from.
pub struct Target {
    name: &'static str,
    parse: fn(&[u8]) -> bool,
    seeds: Vec<Vec<u8>>,
    extra: usize,
    rarity: u64,
}

impl Target {
    /// A target. Its name is that of a folder in the corpus.
    pub fn new(
        name: &'static str,
        parse: fn(&[u8]) -> bool,
        seeds: impl IntoIterator<Item = Vec<u8>>,
    ) -> Self {
        Self { name, parse, seeds: seeds.into_iter().collect(), extra: 0, rarity: 1 }
    }

    /// Canonical bytes of `T`, beginning with those of the values.
    pub fn canonical<T: Canonical>(name: &'static str, values: impl IntoIterator<Item = T>) -> Self {
        Self::new(name, canonical::<T>, values.into_iter().map(|value| value.to_canonical()))
    }

    /// Text of `T`, beginning with these.
    pub fn text<T: FromStr + Display + PartialEq>(name: &'static str, texts: &[&str]) -> Self {
        Self::new(name, text::<T>, texts.iter().map(|text| text.as_bytes().to_vec()))
    }

    /// What it may hold beyond [`most_memory`], where it has a stated limit of its own.
    #[must_use]
    pub const fn holding(mut self, extra: usize) -> Self {
        self.extra = extra;
        self
    }

    /// A slow target gets one change where others get `rarity`.
    #[must_use]
    pub const fn slow(mut self, rarity: u64) -> Self {
        self.rarity = rarity;
        self
    }
}

/// Takes the canonical bytes of a `T` and nothing else: what decodes has these bytes again.
pub fn canonical<T: Canonical>(bytes: &[u8]) -> bool {
    let Ok(value) = T::from_canonical(bytes) else { return false };
    assert!(value.to_canonical() == bytes, "what was decoded has other bytes");
    true
}

/// Takes a text that reads as a `T`, and nothing else: it is written so that it reads as the same again.
pub fn text<T: FromStr + Display + PartialEq>(bytes: &[u8]) -> bool {
    let Some(value) = read::<T>(bytes) else { return false };
    let written = value.to_string();
    assert!(read(written.as_bytes()) == Some(value), "{written} reads as something else");
    true
}

fn read<T: FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Most bytes that a target may hold at once beside an input of this length.
pub const fn most_memory(length: usize) -> usize {
    64 * length + (1 << 20)
}

/// Runs targets over their seeds, cuts and changes of them, and bytes that lie about lengths.
///
/// # Panics
/// Where a target fails; see the crate's documentation.
pub fn run(targets: impl IntoIterator<Item = Target>) {
    let wanted = std::env::var(ITERATIONS).ok();
    let iterations = match &wanted {
        Some(number) => number.parse().unwrap_or_else(|_| panic!("{ITERATIONS} is a number")),
        None => FEW,
    };
    for target in targets {
        let began = Instant::now();
        let (taken, tried) = target.run(iterations);
        if wanted.is_some() {
            eprintln!("{}: {taken} of {tried} taken, {:.2?}", target.name, began.elapsed());
        }
    }
}

impl Target {
    /// How many changed inputs were taken, and how many there were.
    fn run(&self, iterations: u64) -> (u64, u64) {
        let seeds: Vec<_> = self.seeds.iter().cloned().chain(self.corpus()).collect();
        let honest = seeds.iter().filter(|seed| self.try_one(seed)).count();
        assert!(honest > 0, "{}: no honest input was taken", self.name);
        for seed in &seeds {
            let step = (seed.len() / CUTS).max(1);
            for cut in (0..seed.len()).step_by(step) {
                self.try_one(&seed[..cut]);
            }
        }
        for lie in change::lies() {
            self.try_one(&lie);
        }
        // Long inputs take their time: they get fewer changes.
        let mean = seeds.iter().map(Vec::len).sum::<usize>() / seeds.len();
        let iterations = iterations * USUAL as u64 / mean.max(USUAL) as u64 / self.rarity;
        let mut draws = Draws::new(self.name);
        let taken = (0..iterations).filter(|_| self.try_one(&change::changed(&seeds, &mut draws)));
        (taken.count() as u64, iterations)
    }

    fn try_one(&self, input: &[u8]) -> bool {
        let began = Instant::now();
        let (outcome, held) = allocation::measured(|| catch_unwind(AssertUnwindSafe(|| (self.parse)(input))));
        let most = most_memory(input.len()) + self.extra;
        let fault = match outcome {
            Err(_) => "it panicked".to_owned(),
            Ok(_) if held > most => format!("it held {held} bytes for an input of {}", input.len()),
            Ok(_) if began.elapsed() > STUCK => format!("it took {:?}", began.elapsed()),
            Ok(taken) => return taken,
        };
        let file = self.folder().join(format!("failed-{:016x}", change::fingerprint(input)));
        let kept = std::fs::create_dir_all(self.folder()).and_then(|()| std::fs::write(&file, input));
        panic!("{}: {fault}; the input ({kept:?}) is {}", self.name, file.display());
    }

    fn folder(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }

    fn corpus(&self) -> Vec<Vec<u8>> {
        let Ok(entries) = std::fs::read_dir(self.folder()) else { return Vec::new() };
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        files.iter().map(|file| std::fs::read(file).expect("a file of the corpus can be read")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(target: &Target) -> Option<String> {
        let outcome = catch_unwind(AssertUnwindSafe(|| target.run(FEW))).err();
        let _ = std::fs::remove_dir_all(target.folder());
        outcome.map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
    }

    #[test]
    fn a_good_parser_passes() {
        assert_eq!(
            failure(&Target::canonical("test-good", [vec!["ada".to_owned(), "bonn".to_owned()]])),
            None
        );
    }

    #[test]
    fn a_panic_is_noticed() {
        let careless = |bytes: &[u8]| {
            assert!(bytes.len() < 4 || bytes[0] != 0xff, "found");
            true
        };
        let failed = failure(&Target::new("test-panic", careless, [vec![1, 2, 3, 4, 5]])).unwrap();
        assert!(failed.contains("it panicked"), "{failed}");
    }

    /// A length of four bytes that is believed: found from an honest one.
    #[test]
    fn a_believed_length_is_noticed() {
        let believing = |bytes: &[u8]| {
            let Some(head) = bytes.first_chunk::<4>() else { return false };
            let length = u32::from_le_bytes(*head).min(1 << 26) as usize;
            Vec::<u8>::with_capacity(length).capacity() >= bytes.len() - 4
        };
        let failed = failure(&Target::new("test-believing", believing, [vec![1, 0, 0, 0, 9]])).unwrap();
        assert!(failed.contains("it held"), "{failed}");
    }

    #[test]
    fn a_target_that_takes_nothing_is_noticed() {
        let failed = failure(&Target::new("test-nothing", |_| false, [vec![1]])).unwrap();
        assert!(failed.contains("no honest input"), "{failed}");
    }

    /// A second spelling of a number, found from the first.
    #[test]
    fn a_second_spelling_is_noticed() {
        let lax = |bytes: &[u8]| {
            let Ok(numbers) = Vec::<u64>::decode_lax(bytes) else { return false };
            assert!(numbers.to_canonical() == bytes, "what was decoded has other bytes");
            true
        };
        let failed = failure(&Target::new("test-spelling", lax, [vec![1_u64, 500].to_canonical()])).unwrap();
        assert!(failed.contains("it panicked"), "{failed}");
    }

    trait Lax: Sized {
        fn decode_lax(bytes: &[u8]) -> Result<Self, ()>;
    }

    impl Lax for Vec<u64> {
        /// An array of numbers in any spelling: what a decoder without comparison would take.
        fn decode_lax(bytes: &[u8]) -> Result<Self, ()> {
            let (&head, mut rest) = bytes.split_first().ok_or(())?;
            let count = head.checked_sub(0x80).filter(|count| *count < 24).ok_or(())?;
            let mut numbers = Vec::new();
            for _ in 0..count {
                let (&head, after) = rest.split_first().ok_or(())?;
                let length = match head {
                    0..24 => 0,
                    24..28 => 1 << (head - 24),
                    _ => return Err(()),
                };
                let (number, after) = after.split_at_checked(length).ok_or(())?;
                let number = number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                numbers.push(if length == 0 { head.into() } else { number });
                rest = after;
            }
            if rest.is_empty() { Ok(numbers) } else { Err(()) }
        }
    }
}
