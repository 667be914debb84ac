//! Counts per stage: what was found, and how far each case came.

use serde::Serialize;

/// How far a case came. Ordered; each stage includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It is in the folder or in the table.
    Found,
    /// Its bytes were read.
    Retrieved,
    /// Its pixels were decoded.
    Decoded,
    /// It carries a label of the study.
    Labelled,
    /// It is trained on or held out.
    Usable,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 5] = [Self::Found, Self::Retrieved, Self::Decoded, Self::Labelled, Self::Usable];

    /// The stage as a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Retrieved => "retrieved",
            Self::Decoded => "decoded",
            Self::Labelled => "labelled",
            Self::Usable => "usable",
        }
    }
}

/// How many cases reached each stage. Never increasing from `found` to `usable`.
///
/// These are exact and stay inside the hospital; what is told outside passes the disclosure gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Cases in the folder or the table, without those a choice left out.
    pub found: u64,
    /// Bytes read.
    pub retrieved: u64,
    /// Pixels decoded.
    pub decoded: u64,
    /// Decoded, with a label of the study.
    pub labelled: u64,
    /// Trained on or held out.
    pub usable: u64,
    /// Usable and trained on.
    pub train: u64,
    /// Usable and held out.
    pub held_out: u64,
    /// Left out by choice: another site's rows, or reserved for a final test. Not in `found`.
    pub left_out: u64,
    /// Distinct named patients among the usable cases.
    pub named_patients: u64,
    /// Usable cases without a patient's name. Each is its own patient when cases are split.
    pub unnamed_cases: u64,
}

impl Counts {
    /// Notes one case that came as far as `stage`.
    pub fn note(&mut self, stage: Stage) {
        let counters =
            [&mut self.found, &mut self.retrieved, &mut self.decoded, &mut self.labelled, &mut self.usable];
        for (counter, reached) in counters.into_iter().zip(Stage::ALL) {
            if reached <= stage {
                *counter += 1;
            }
        }
    }

    /// The number that reached `stage`.
    pub fn at(&self, stage: Stage) -> u64 {
        match stage {
            Stage::Found => self.found,
            Stage::Retrieved => self.retrieved,
            Stage::Decoded => self.decoded,
            Stage::Labelled => self.labelled,
            Stage::Usable => self.usable,
        }
    }

    /// Patients that can be told apart. Cases without a name may all be of one patient, so together
    /// they count as one: a disclosure gate must not be passed by forgetting names.
    pub fn patients_for_gates(&self) -> u64 {
        self.named_patients + self.unnamed_cases.min(1)
    }

    /// Usable share of what was found; 0 of nothing is 0.
    pub fn usable_share(&self) -> f64 {
        if self.found == 0 { 0.0 } else { self.usable as f64 / self.found as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A count is the number of cases that came at least so far.
        #[test]
        fn counts_agree_with_counting(reached in proptest::collection::vec(0_usize..5, 0..40)) {
            let mut counts = Counts::default();
            for &stage in &reached {
                counts.note(Stage::ALL[stage]);
            }
            for (index, stage) in Stage::ALL.into_iter().enumerate() {
                let slow = reached.iter().filter(|&&stage| stage >= index).count() as u64;
                prop_assert_eq!(counts.at(stage), slow);
            }
        }
    }

    #[test]
    fn cases_without_a_name_are_one_patient_to_a_gate() {
        let counts = Counts { named_patients: 3, unnamed_cases: 40, ..Counts::default() };
        assert_eq!(counts.patients_for_gates(), 4);
        assert_eq!(Counts::default().patients_for_gates(), 0);
    }
}
