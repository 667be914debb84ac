//! The disclosure gate: every number of patients that leaves a hospital passes here.
//!
//! Three things would tell about single people: a small count, the difference between zero and few, and
//! the difference between two counts of nearly the same people. So a count is of distinct patients, those of
//! unclear identity together counting once; below a floor it is one value, the same for zero and for few; above, it
//! is rounded down to a multiple of the floor; and a question about nearly the same patients as an earlier
//! one gets the earlier answer.
//!
//! The floor can be raised by a site and lowered by nobody.

use std::collections::BTreeSet;
use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::hash::Hash;

/// The least number of distinct patients that may be told at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Floor(u32);

impl Floor {
    /// The floor below which no site can go.
    pub const LOWEST: Self = Self(10);
    /// Above this a count would say nothing any more.
    pub const HIGHEST: Self = Self(10_000);

    /// A floor of `patients`.
    pub fn new(patients: u32) -> Result<Self, InvalidFloor> {
        if (Self::LOWEST.0..=Self::HIGHEST.0).contains(&patients) {
            Ok(Self(patients))
        } else {
            Err(InvalidFloor(patients))
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for Floor {
    fn default() -> Self {
        Self::LOWEST
    }
}

/// A floor outside the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the floor of a count is between 10 and 10000 patients; this is {0}")]
pub struct InvalidFloor(u32);

impl Serialize for Floor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for Floor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u32::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl<C> Encode<C> for Floor {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.u32(self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Floor {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        Self::new(d.u32()?).map_err(|error| decode::Error::message(error.to_string()))
    }
}

/// A count as it leaves the building. There is no way from [`GatedCount::FewerThan`] to a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum GatedCount {
    /// None or few: the same value for both.
    #[n(0)]
    FewerThan(#[n(0)] Floor),
    /// This many or somewhat more: rounded down to a multiple of the floor.
    #[n(1)]
    AtLeast(#[n(0)] RoundedCount),
    /// Not told: the gate has answered about so many cohorts that it cannot judge any more what a further
    /// answer would give away.
    #[n(2)]
    Withheld,
}

impl fmt::Display for GatedCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FewerThan(floor) => write!(f, "fewer than {}", floor.0),
            Self::AtLeast(count) => write!(f, "{} or more", count.patients),
            Self::Withheld => f.write_str("withheld"),
        }
    }
}

/// A number of patients that is a multiple of its floor and not below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundedCount {
    floor: Floor,
    patients: u32,
}

impl RoundedCount {
    fn of(patients: u32, floor: Floor) -> Option<Self> {
        (patients >= floor.0).then(|| Self { floor, patients: patients - patients % floor.0 })
    }

    /// The rounded number of patients.
    pub const fn patients(self) -> u32 {
        self.patients
    }
}

impl<C> Encode<C> for RoundedCount {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        (self.floor, self.patients).encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for RoundedCount {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let (floor, patients) = <(Floor, u32)>::decode(d, ctx)?;
        Self::of(patients, floor)
            .filter(|count| count.patients == patients)
            .ok_or_else(|| decode::Error::message("a count that leaves is a multiple of its floor"))
    }
}

/// Stands for one patient inside a gate. It never leaves the hospital, and does not print.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PatientKey(u64);

impl PatientKey {
    /// The key of a patient's identifier under a secret of this site.
    pub fn new(secret: &[u8; 32], identifier: &str) -> Self {
        let mut bytes = Zeroizing::new(secret.to_vec());
        bytes.extend_from_slice(identifier.as_bytes());
        let hash = Hash::labelled("patient-key", &bytes);
        let first = hash.as_bytes().first_chunk().expect("a hash has more than eight bytes");
        Self(u64::from_le_bytes(*first))
    }
}

impl fmt::Debug for PatientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PatientKey(..)")
    }
}

/// Whose case a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patient {
    /// A patient that can be told from others.
    Known(PatientKey),
    /// Nobody can say whose; all of these together count as one.
    Unclear,
}

/// Turns patients into counts that may leave, and remembers what it has told. A site has one gate, keeps
/// it with its other records, and writes it down before an answer leaves.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DisclosureGate {
    #[n(0)]
    floor: Floor,
    #[n(1)]
    told: Vec<Told>,
}

#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Told {
    /// Ascending and distinct.
    #[n(0)]
    patients: Vec<u64>,
    #[n(1)]
    count: GatedCount,
}

/// Cohorts a gate remembers. A question about yet another one is not answered: with the memory full,
/// nearness to what was told can no longer be judged.
const MEMORY: usize = 256;

impl DisclosureGate {
    /// A gate that has told nothing.
    pub const fn new(floor: Floor) -> Self {
        Self { floor, told: Vec::new() }
    }

    /// The floor in force.
    pub const fn floor(&self) -> Floor {
        self.floor
    }

    /// Raises the floor for later answers. A lower one than before changes nothing.
    pub fn raise_floor(&mut self, floor: Floor) {
        self.floor = self.floor.max(floor);
    }

    /// The number of distinct patients behind `rows`, as it may leave.
    pub fn count(&mut self, rows: impl IntoIterator<Item = Patient>) -> GatedCount {
        let mut patients = BTreeSet::new();
        let mut unclear = false;
        for row in rows {
            match row {
                Patient::Known(PatientKey(key)) => drop(patients.insert(key)),
                Patient::Unclear => unclear = true,
            }
        }
        let total = u32::try_from(patients.len()).unwrap_or(u32::MAX).saturating_add(u32::from(unclear));
        let count = RoundedCount::of(total, self.floor)
            .map_or(GatedCount::FewerThan(self.floor), GatedCount::AtLeast);
        let patients: Vec<u64> = patients.into_iter().collect();
        // The nearest earlier cohort answers, so that taking one patient out of a cohort that was told
        // anew cannot fall to another answer.
        let nearest = self.told.iter().map(|told| (differ_by(&told.patients, &patients), told));
        if let Some((differing, earlier)) = nearest.min_by_key(|(differing, _)| *differing)
            && differing < self.floor.0
        {
            return earlier.count;
        }
        if self.told.len() >= MEMORY {
            return GatedCount::Withheld;
        }
        self.told.push(Told { patients, count });
        count
    }
}

impl fmt::Debug for DisclosureGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DisclosureGate(floor {}, {} cohorts told)", self.floor.0, self.told.len())
    }
}

/// Size of the symmetric difference of two ascending lists.
fn differ_by(left: &[u64], right: &[u64]) -> u32 {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    let mut differing: u32 = 0;
    while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
        match l.cmp(r) {
            std::cmp::Ordering::Less => drop(left.next()),
            std::cmp::Ordering::Greater => drop(right.next()),
            std::cmp::Ordering::Equal => {
                left.next();
                right.next();
                continue;
            }
        }
        differing = differing.saturating_add(1);
    }
    differing.saturating_add(u32::try_from(left.count() + right.count()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonical;
    use proptest::prelude::*;

    fn patients(numbers: impl IntoIterator<Item = u64>) -> Vec<Patient> {
        numbers.into_iter().map(|number| Patient::Known(PatientKey(number))).collect()
    }

    fn tell(gate: &mut DisclosureGate, numbers: impl IntoIterator<Item = u64>) -> GatedCount {
        gate.count(patients(numbers))
    }

    #[test]
    fn nobody_lowers_the_floor() {
        assert!(Floor::new(9).is_err());
        assert!(Floor::from_canonical(&[0x01]).is_err());
        let mut gate = DisclosureGate::new(Floor::new(20).unwrap());
        gate.raise_floor(Floor::LOWEST);
        assert_eq!(gate.floor().get(), 20);
    }

    #[test]
    fn zero_and_few_look_alike() {
        let told = |n| tell(&mut DisclosureGate::new(Floor::LOWEST), 0..n).to_canonical();
        for few in 1..10 {
            assert_eq!(told(0), told(few));
        }
        assert_ne!(told(0), told(10));
    }

    #[test]
    fn rows_are_not_patients() {
        let mut gate = DisclosureGate::new(Floor::LOWEST);
        let many_rows = patients((0..9_u64).cycle().take(900));
        let unclear = std::iter::repeat_n(Patient::Unclear, 500);
        assert_eq!(gate.count(many_rows.clone()), GatedCount::FewerThan(Floor::LOWEST));
        // 9 known and the unclear as one make 10, the floor.
        let mut gate = DisclosureGate::new(Floor::LOWEST);
        let count = gate.count(many_rows.into_iter().chain(unclear));
        assert_eq!(count.to_string(), "10 or more");
    }

    #[test]
    fn nearly_the_same_cohort_gets_the_same_answer() {
        let mut gate = DisclosureGate::new(Floor::LOWEST);
        let first = tell(&mut gate, 0..100);
        assert_eq!(first.to_string(), "100 or more");
        assert_eq!(tell(&mut gate, 0..99), first, "one patient less would have said 90");
        assert_eq!(tell(&mut gate, 0..90).to_string(), "90 or more");
    }

    #[test]
    fn a_gate_survives_storage() {
        let mut gate = DisclosureGate::new(Floor::LOWEST);
        tell(&mut gate, 0..100);
        let mut again = DisclosureGate::from_canonical(&gate.to_canonical()).unwrap();
        assert_eq!(again, gate);
        assert_eq!(tell(&mut again, 1..100).to_string(), "100 or more");
    }

    #[test]
    fn a_count_that_was_not_rounded_does_not_decode() {
        for (floor, patients, good) in [(10, 20, true), (10, 25, false), (10, 0, false), (5, 20, false)] {
            let mut bytes = vec![0x82, 0x01, 0x81, 0x82];
            bytes.extend(u32::to_canonical(&floor));
            bytes.extend(u32::to_canonical(&patients));
            assert_eq!(GatedCount::from_canonical(&bytes).is_ok(), good, "{floor} {patients}");
        }
    }

    #[test]
    fn a_full_memory_withholds() {
        let mut gate = DisclosureGate::new(Floor::LOWEST);
        for cohort in 0..MEMORY as u64 {
            tell(&mut gate, cohort * 1000..cohort * 1000 + 50);
        }
        assert_eq!(tell(&mut gate, 900_000..900_050), GatedCount::Withheld);
        assert_eq!(tell(&mut gate, 0..50).to_string(), "50 or more", "what was told stays told");
    }

    proptest! {
        /// The merge agrees with sets.
        #[test]
        fn difference_is_the_symmetric_one(left: BTreeSet<u8>, right: BTreeSet<u8>) {
            let list = |set: &BTreeSet<u8>| set.iter().map(|&n| u64::from(n)).collect::<Vec<_>>();
            let slow = left.symmetric_difference(&right).count();
            prop_assert_eq!(differ_by(&list(&left), &list(&right)) as usize, slow);
        }

        /// Whoever asks about a cohort and then about the same without one patient learns nothing of them,
        /// whatever was asked before.
        #[test]
        fn one_patient_less_is_never_seen(
            cohorts in proptest::collection::vec((0_u64..200, 0_u64..60), 1..20),
        ) {
            let mut gate = DisclosureGate::new(Floor::LOWEST);
            for (start, length) in cohorts {
                let remembered = gate.told.len();
                let with = tell(&mut gate, start..=start + length);
                if gate.told.len() > remembered {
                    prop_assert_eq!(tell(&mut gate, start..start + length), with);
                }
            }
        }

        /// No count below the floor is told to a gate that was asked nothing before.
        #[test]
        fn the_gate_never_opens_below_the_floor(floor in 10_u32..100, patients in 0_u64..200) {
            let told = tell(&mut DisclosureGate::new(Floor::new(floor).unwrap()), 0..patients);
            match told {
                GatedCount::Withheld => prop_assert!(false, "nothing was told before"),
                GatedCount::FewerThan(_) => prop_assert!(patients < u64::from(floor)),
                GatedCount::AtLeast(count) => {
                    prop_assert_eq!(u64::from(count.patients()), patients / u64::from(floor) * u64::from(floor));
                    prop_assert!(count.patients() >= floor);
                }
            }
        }
    }
}
