//! The site's own record of what was asked of it and what it did: append-only and hash-chained.
//!
//! Each record holds the hash of the one before, so a line cannot be taken out, changed or put in
//! later without every later hash changing. It stays at the hospital; the consortium's ledger is
//! another thing. It names studies, attempts and rules, never a patient or a file of data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_study::canonical::{Canonical, NotCanonical};
use consilium_study::hash::Hash;
use consilium_study::name::{ConsortiumName, SiteName, StudyName};
use minicbor::{Decode, Encode};
use serde::Serialize;

use crate::pipe::{PipeError, read_frame};
use crate::store::{Kind, Store, StoreError};

/// Something that happened and that the hospital may have to show later.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The site joined a consortium.
    #[n(0)]
    Enrolled {
        /// Which one.
        #[n(0)]
        consortium: ConsortiumName,
        /// Under which name.
        #[n(1)]
        site: SiteName,
    },
    /// A study was proposed and its signatures hold.
    #[n(1)]
    Proposed {
        /// The study.
        #[n(0)]
        study: Hash,
        /// Its name.
        #[n(1)]
        name: StudyName,
        /// Who signed it.
        #[n(2)]
        operator: String,
    },
    /// A person at the site approved a study.
    #[n(2)]
    Approved {
        /// The study.
        #[n(0)]
        study: Hash,
        /// Who approved.
        #[n(1)]
        person: String,
    },
    /// A person at the site declined a study.
    #[n(3)]
    Declined {
        /// The study.
        #[n(0)]
        study: Hash,
        /// Who declined.
        #[n(1)]
        person: String,
    },
    /// An acceptance was signed.
    #[n(4)]
    Accepted {
        /// The study.
        #[n(0)]
        study: Hash,
        /// The rule or person it rests on.
        #[n(1)]
        rule: String,
    },
    /// A refusal was signed.
    #[n(5)]
    Refused {
        /// The study.
        #[n(0)]
        study: Hash,
        /// The one rule that decided.
        #[n(1)]
        rule: String,
    },
    /// The readiness statement was signed, after the data was loaded.
    #[n(6)]
    Ready {
        /// The study.
        #[n(0)]
        study: Hash,
    },
    /// Keys for a new epoch were made.
    #[n(7)]
    EpochOpened {
        /// The study.
        #[n(0)]
        study: Hash,
        /// The epoch.
        #[n(1)]
        epoch: u32,
    },
    /// An attempt began: its context passed every check.
    #[n(8)]
    Began {
        /// The study.
        #[n(0)]
        study: Hash,
        /// The attempt.
        #[n(1)]
        attempt: u32,
        /// `train`, `evaluate` or `statistics`.
        #[n(2)]
        purpose: String,
        /// The model it starts from.
        #[n(3)]
        model: Hash,
    },
    /// A masked vector and its receipt are ready to leave.
    #[n(9)]
    Masked {
        /// The study.
        #[n(0)]
        study: Hash,
        /// The attempt.
        #[n(1)]
        attempt: u32,
        /// The receipt.
        #[n(2)]
        receipt: Hash,
        /// Bytes that will leave.
        #[n(3)]
        bytes: u64,
    },
    /// The survivors of an attempt were signed.
    #[n(10)]
    Signed {
        /// The study.
        #[n(0)]
        study: Hash,
        /// The attempt.
        #[n(1)]
        attempt: u32,
    },
    /// Shares for unmasking were given, for one set of survivors.
    #[n(11)]
    Answered {
        /// The study.
        #[n(0)]
        study: Hash,
        /// The attempt.
        #[n(1)]
        attempt: u32,
    },
    /// The site sat an attempt out.
    #[n(12)]
    Withdrew {
        /// The study.
        #[n(0)]
        study: Hash,
        /// The attempt.
        #[n(1)]
        attempt: u32,
        /// Why, as a code.
        #[n(2)]
        cause: String,
    },
    /// The coordinator reported how an attempt ended.
    #[n(13)]
    Settled {
        /// The study.
        #[n(0)]
        study: Hash,
        /// The attempt.
        #[n(1)]
        attempt: u32,
        /// How it ended.
        #[n(2)]
        outcome: String,
    },
    /// A directive was refused.
    #[n(14)]
    DirectiveRefused {
        /// The study, where the directive names one.
        #[n(0)]
        study: Option<Hash>,
        /// Why.
        #[n(1)]
        reason: String,
    },
    /// Something happened that only a lying or broken peer explains.
    #[n(15)]
    Alarm {
        /// The study.
        #[n(0)]
        study: Hash,
        /// What.
        #[n(1)]
        what: String,
    },
    /// The study was paused, stopped or closed by the consortium.
    #[n(16)]
    StudyState {
        /// The study.
        #[n(0)]
        study: Hash,
        /// Its state.
        #[n(1)]
        state: String,
    },
    /// A person at the site let a model be opened with other survivors than before.
    #[n(18)]
    Consented {
        /// The study.
        #[n(0)]
        study: Hash,
        /// Who gave leave.
        #[n(1)]
        person: String,
        /// The model.
        #[n(2)]
        model: Hash,
        /// The survivors that this site had written down.
        #[n(3)]
        instead_of: Vec<Vec<SiteName>>,
    },
    /// A newer roster came, with sites that were not on the one before or stood there with another key.
    #[n(19)]
    RosterGrew {
        /// Its version.
        #[n(0)]
        version: u32,
        /// The sites.
        #[n(1)]
        new: Vec<SiteName>,
    },
    /// A context of an attempt that is over came, and not the one that this site took part in. Nothing was done.
    #[n(20)]
    ContextPassedOver {
        /// The study.
        #[n(0)]
        study: Hash,
        /// The attempt.
        #[n(1)]
        attempt: u32,
        /// The context.
        #[n(2)]
        context: Hash,
    },
    /// The keys of an epoch are gone: the agent was restored from a backup, or its chain file was lost. The site waits
    /// for the next epoch.
    #[n(21)]
    KeysLost {
        /// The study.
        #[n(0)]
        study: Hash,
        /// The epoch.
        #[n(1)]
        epoch: u32,
    },
    /// A dealer's guilt was proved.
    #[n(17)]
    Guilty {
        /// The study.
        #[n(0)]
        study: Hash,
        /// Who dealt wrongly.
        #[n(1)]
        dealer: SiteName,
    },
}

/// One record of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct Record {
    /// Position, from 0.
    #[n(0)]
    pub sequence: u64,
    /// Seconds since 1970, by the site's clock.
    #[n(1)]
    pub at: i64,
    /// Hash of the record before; of the empty text for the first.
    #[n(2)]
    pub previous: Hash,
    /// What happened.
    #[n(3)]
    #[serde(flatten)]
    pub event: Event,
}

impl Record {
    /// Hash of this record, as the next one carries it.
    pub fn hash(&self) -> Hash {
        Hash::of_value("journal-record", self)
    }
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A whole record is no record.
    #[error("record {sequence} of the journal does not decode: {source}")]
    Malformed {
        /// Which one.
        sequence: u64,
        /// The decoder's reason.
        source: NotCanonical,
    },
    /// A record does not follow from the one before.
    #[error("the journal was altered: record {sequence} does not follow from the one before it")]
    Altered {
        /// Which one.
        sequence: u64,
    },
}

/// The journal, open for writing.
pub struct Journal {
    store: Arc<dyn Store>,
    path: PathBuf,
    last: Option<Record>,
}

fn first_previous() -> Hash {
    Hash::labelled("journal-record", b"")
}

impl Journal {
    /// Opens the journal and checks its chain. A record that a crash cut short at the very end is
    /// taken off; nothing followed from it, for what it announces happens after it is written.
    pub fn open(store: Arc<dyn Store>, path: PathBuf) -> Result<Self, JournalError> {
        let bytes = store.read(Kind::Journal, &path)?.unwrap_or_default();
        let (records, whole) = parse(&bytes)?;
        if whole < bytes.len() {
            store.replace(Kind::Journal, &path, &bytes[..whole])?;
        }
        Ok(Self { store, path, last: records.into_iter().next_back() })
    }

    /// Writes down that `event` happened at `at`. The same event as the last one, which is what a
    /// restart after a crash repeats, is not written twice.
    pub fn record(&mut self, event: Event, at: i64) -> Result<(), JournalError> {
        if self.last.as_ref().is_some_and(|last| last.event == event) {
            return Ok(());
        }
        let (sequence, previous) = match &self.last {
            Some(last) => (last.sequence + 1, last.hash()),
            None => (0, first_previous()),
        };
        let record = Record { sequence, at, previous, event };
        let bytes = record.to_canonical();
        let mut frame =
            u32::try_from(bytes.len()).expect("a record is a few hundred bytes").to_be_bytes().to_vec();
        frame.extend_from_slice(&bytes);
        self.store.append(Kind::Journal, &self.path, &frame)?;
        self.last = Some(record);
        Ok(())
    }
}

/// All records of a journal, chain checked.
pub fn read(store: &dyn Store, path: &Path) -> Result<Vec<Record>, JournalError> {
    let bytes = store.read(Kind::Journal, path)?.unwrap_or_default();
    Ok(parse(&bytes)?.0)
}

/// The records in `bytes`, and how many bytes hold whole records.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Vec<Record>, usize), JournalError> {
    let mut rest = bytes;
    let mut records: Vec<Record> = Vec::new();
    loop {
        let whole = bytes.len() - rest.len();
        let sequence = records.len() as u64;
        let frame = match read_frame(&mut rest) {
            Ok(frame) => frame,
            Err(PipeError::TooLong { .. }) => return Err(JournalError::Altered { sequence }),
            Err(_) => return Ok((records, whole)),
        };
        let record =
            Record::from_canonical(&frame).map_err(|source| JournalError::Malformed { sequence, source })?;
        let previous = records.last().map_or_else(first_previous, Record::hash);
        if record.sequence != sequence || record.previous != previous {
            return Err(JournalError::Altered { sequence });
        }
        records.push(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Disk;

    fn event(number: u32) -> Event {
        Event::Signed { study: Hash::of_bytes(b"study"), attempt: number }
    }

    fn written(count: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = Journal::open(Arc::new(Disk), path.clone()).unwrap();
        for number in 0..count {
            journal.record(event(number), 1000 + i64::from(number)).unwrap();
        }
        (folder, path)
    }

    #[test]
    fn records_come_back_in_order_and_chained() {
        let (_folder, path) = written(3);
        let records = read(&Disk, &path).unwrap();
        assert_eq!(records.len(), 3);
        assert_eq!(records[2].previous, records[1].hash());
        assert_eq!(records[1].event, event(1));
    }

    #[test]
    fn every_cut_keeps_the_whole_records_and_can_be_written_on() {
        let (_folder, path) = written(3);
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let mut journal = Journal::open(Arc::new(Disk), path.clone()).unwrap();
            let kept = read(&Disk, &path).unwrap().len();
            journal.record(event(9), 2000).unwrap();
            let records = read(&Disk, &path).unwrap();
            assert_eq!(records.len(), kept + 1, "cut at {cut}");
        }
    }

    #[test]
    fn a_changed_record_breaks_the_chain() {
        let (_folder, path) = written(3);
        let bytes = std::fs::read(&path).unwrap();
        let mut noticed = 0;
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // The last record has nobody after it yet, and a longer announced length reads as a cut.
            match parse(&changed) {
                Err(_) => noticed += 1,
                Ok((records, _)) => {
                    assert!(records.len() < 3 || records[..2] == parse(&bytes).unwrap().0[..2]);
                }
            }
        }
        assert!(noticed > bytes.len() * 4, "only {noticed} changes were noticed");
    }

    #[test]
    fn the_same_event_again_is_one_record() {
        let (_folder, path) = written(1);
        let mut journal = Journal::open(Arc::new(Disk), path.clone()).unwrap();
        journal.record(event(0), 5000).unwrap();
        assert_eq!(read(&Disk, &path).unwrap().len(), 1);
    }
}
