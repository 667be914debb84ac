//! The cases of a study at this site, and what may be told of them.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use consilium_study::disclosure::{DisclosureGate, GatedCount, Patient, PatientKey};
use consilium_study::hash::Hash;
use consilium_study::statement::Readiness;
use zeroize::Zeroizing;

pub(crate) use crate::contribution::criteria;
use crate::data::{Counts, SplitKey};
use crate::folder::SiteFolder;
use crate::store::{Disk, Kind, Store as _};

/// The site's secret for splitting patients; made the first time it is needed.
pub(crate) fn read_split_key(folder: &SiteFolder) -> anyhow::Result<SplitKey> {
    let path = folder.split_key();
    if let Some(bytes) = Disk.read(Kind::PrivateKey, &path)? {
        let bytes = Zeroizing::new(bytes);
        let key = <[u8; 32]>::try_from(bytes.as_slice())
            .map_err(|_| anyhow::anyhow!("{} is no key of 32 bytes", path.display()))?;
        return Ok(SplitKey::new(key));
    }
    let mut key = Zeroizing::new([0; 32]);
    SystemRandom::new()
        .fill(key.as_mut_slice())
        .map_err(|_| anyhow::anyhow!("the system has no randomness"))?;
    Disk.replace(Kind::PrivateKey, &path, key.as_slice())?;
    Ok(SplitKey::new(*key))
}

/// What the loader found, as far as decisions need it. Exact, so it stays inside.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// Cases per stage.
    pub(crate) counts: Counts,
    /// Cases of each class to train on.
    pub(crate) train: Vec<u32>,
}

/// The readiness statement: every number in it passed the disclosure gate.
///
/// The gate counts patients. Of cases that never became usable the loader cannot say whose they are, so the
/// earlier stages tell of the patients that are known to have reached them: those of the usable cases.
pub(crate) fn readiness(study: Hash, found: &Found, gate: &mut DisclosureGate) -> Readiness {
    let usable = gate.count(patients(&found.counts));
    let held_out = if found.counts.held_out == 0 { gate.count([]) } else { share(found, gate) };
    Readiness { study, found: usable, decoded: usable, labelled: usable, usable, held_out }
}

/// Patients held out, taken as their share of the cases.
fn share(found: &Found, gate: &mut DisclosureGate) -> GatedCount {
    let Counts { named_patients, unnamed_cases, held_out, usable, .. } = found.counts;
    let part = |all: u64| (u128::from(all) * u128::from(held_out) / u128::from(usable.max(1))) as u64;
    let counts = Counts {
        named_patients: part(named_patients),
        unnamed_cases: part(unnamed_cases),
        ..Counts::default()
    };
    gate.count(patients(&counts))
}

/// One row per patient that can be told apart. The gate compares cohorts by their sizes: two of nearly the same
/// size get the same answer, whoever is in them, which tells less than comparing the patients would.
fn patients(counts: &Counts) -> impl Iterator<Item = Patient> + use<> {
    let known = (0..counts.named_patients)
        .map(|number| Patient::Known(PatientKey::new(&[0; 32], &number.to_string())));
    known.chain((counts.unnamed_cases > 0).then_some(Patient::Unclear))
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_study::disclosure::Floor;

    fn found(named_patients: u64, held_out: u64, usable: u64) -> Found {
        Found { counts: Counts { usable, held_out, named_patients, ..Counts::default() }, train: vec![0, 0] }
    }

    fn told(named_patients: u64) -> String {
        let mut gate = DisclosureGate::new(Floor::LOWEST);
        let study = Hash::of_bytes(b"study");
        readiness(study, &found(named_patients, 0, named_patients), &mut gate).usable.to_string()
    }

    #[test]
    fn zero_and_few_are_told_alike() {
        assert_eq!(told(0), told(9));
        assert_eq!(told(57), "50 or more");
    }

    #[test]
    fn a_cohort_that_grew_by_few_gets_the_earlier_answer() {
        let mut gate = DisclosureGate::new(Floor::LOWEST);
        let study = Hash::of_bytes(b"study");
        let first = readiness(study, &found(59, 0, 59), &mut gate);
        let second = readiness(study, &found(61, 0, 61), &mut gate);
        assert_eq!(first.usable, second.usable);
    }

    #[test]
    fn the_split_key_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = SiteFolder::new(dir.path());
        read_split_key(&folder).unwrap();
        let first = std::fs::read(folder.split_key()).unwrap();
        read_split_key(&folder).unwrap();
        assert_eq!(std::fs::read(folder.split_key()).unwrap(), first);
        assert_ne!(first, [0; 32]);
    }
}
