use super::*;
use crate::memory::Folder;
use proptest::prelude::*;

fn origin() -> ConsortiumName {
    "rhine".parse().unwrap()
}

fn statements(range: std::ops::Range<u32>) -> Vec<(Kind, Vec<u8>)> {
    range.map(|n| (Kind::Alarm, n.to_be_bytes().repeat(1 + n as usize % 9))).collect()
}

fn log_of(batches: &[u32], key: &SigningKey) -> (Log, Folder) {
    let (mut log, steps) = Log::create(origin(), key);
    let mut folder = Folder::default();
    folder.perform(steps);
    let mut next = 0;
    for batch in batches {
        let appended = log.append_statements(statements(next..next + batch), 7, key).unwrap();
        assert_eq!(appended.indexes, (next..next + batch).map(u64::from).collect::<Vec<_>>());
        folder.perform(appended.steps);
        next += batch;
    }
    (log, folder)
}

#[test]
fn a_log_reads_back() {
    let key = SigningKey::generate();
    for batches in
        [&[0][..], &[1], &[1, 1, 1], &[255, 1, 1], &[256], &[257], &[100, 200, 300], &[1, 600, 168]]
    {
        let (log, folder) = log_of(batches, &key);
        let reader = LogReader::open(&folder).unwrap();
        assert_eq!(reader.authenticate(&origin(), &key.verifying_key()).unwrap(), log.checkpoint());
        assert_eq!(reader.check_folder().unwrap(), Vec::<String>::new());
        let read: Vec<_> = reader
            .entries()
            .map(|entry| entry.map(|(_, entry)| (entry.kind(), entry.statement(&folder).unwrap())))
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(read, statements(0..batches.iter().sum()));
        for index in [0, 255, 256, log.size().saturating_sub(1)] {
            match reader.entry(index) {
                Ok(entry) => assert_eq!(entry.statement(&folder).unwrap(), read[index as usize].1),
                Err(error) => assert!(index >= log.size(), "{error}"),
            }
        }
        let (again, steps) = Log::open(&folder, origin(), &key).unwrap();
        assert_eq!((again.size(), again.tail, steps), (log.size(), log.tail, vec![]));
    }
}

#[test]
fn partial_files_go_when_the_full_one_is_there() {
    let key = SigningKey::generate();
    let (_, folder) = log_of(&[200, 56, 1], &key);
    let names: Vec<_> = folder.files.keys().map(String::as_str).collect();
    let want = [
        "checkpoint",
        "tile/0/000",
        "tile/0/001.p/1",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/1",
    ];
    assert_eq!(names, want);
}

#[test]
fn long_statements_are_kept_as_blobs() {
    let key = SigningKey::generate();
    let (mut log, mut folder) = log_of(&[1], &key);
    let long = vec![7; crate::entry::MAX_INLINE + 1];
    let steps = log.append_statements(vec![(Kind::Context, long.clone())], 7, &key).unwrap().steps;
    assert!(matches!(&steps[0], Step::Keep(blob) if blob.bytes == long), "the blob comes first");
    folder.perform(steps);
    let reader = LogReader::open(&folder).unwrap();
    let entry = reader.entry(1).unwrap();
    assert_eq!(entry.statement(&folder).unwrap(), long);
    folder.blobs.values_mut().for_each(|blob| blob[5] ^= 1);
    assert!(entry.statement(&folder).unwrap_err().to_string().contains("was changed"));
    folder.blobs.clear();
    assert!(entry.statement(&folder).unwrap_err().to_string().contains("is missing"));
    let endless = vec![(Kind::Context, vec![0; crate::entry::MAX_STATEMENT + 1])];
    assert!(matches!(log.append_statements(endless, 7, &key), Err(AppendError::TooLong(_))));
    assert_eq!(log.size(), 2, "an error changes nothing");
}

#[test]
fn recording_twice_is_harmless() {
    let key = SigningKey::generate();
    let (mut log, mut folder) = log_of(&[5], &key);
    let again = log.append_statements(statements(3..7), 9, &key).unwrap();
    assert_eq!(again.indexes, [3, 4, 5, 6]);
    folder.perform(again.steps);
    let (mut log, _) = Log::open(&folder, origin(), &key).unwrap();
    let again = log.append_statements(statements(0..7), 9, &key).unwrap();
    assert_eq!((again.indexes, again.steps), ((0..7).collect(), vec![]));
    let twice = log.append_statements([statements(7..8), statements(7..8)].concat(), 9, &key).unwrap();
    assert_eq!(twice.indexes, [7, 7]);
}

/// Stops an append between any two steps, at every width around a full bundle.
#[test]
fn a_crash_between_any_two_writes_leaves_a_readable_log() {
    let key = SigningKey::generate();
    for (before, batch) in [(0, 1), (3, 2), (250, 6), (255, 1), (254, 5), (256, 1), (200, 400)] {
        let (mut log, old) = log_of(&[before], &key);
        let steps = log.append_statements(statements(before..before + batch), 8, &key).unwrap().steps;
        for crash in 0..=steps.len() {
            let mut folder = old.clone();
            folder.perform(steps[..crash].iter().cloned());
            let (mut log, rests) = Log::open(&folder, origin(), &key)
                .unwrap_or_else(|error| panic!("{before}+{batch}, step {crash}: {error}"));
            assert!(log.size() == u64::from(before) || log.size() == u64::from(before + batch));
            folder.perform(rests);
            let reader = LogReader::open(&folder).unwrap();
            assert_eq!(reader.check_folder().unwrap(), Vec::<String>::new(), "the rests are gone");
            // At another time, so that what was cut short is not simply repeated.
            let again = log.append_statements(statements(before..before + batch + 3), 9, &key).unwrap();
            folder.perform(again.steps);
            let reader = LogReader::open(&folder).unwrap();
            assert_eq!(reader.size(), u64::from(before + batch + 3));
            assert_eq!(reader.check_folder().unwrap(), Vec::<String>::new());
        }
    }
}

/// A folder is copied file by file while its log grows; the copy has the older checkpoint.
#[test]
fn a_copy_taken_while_the_log_grew_is_readable() {
    let key = SigningKey::generate();
    let (mut log, mut folder) = log_of(&[200], &key);
    let checkpoint = folder.files["checkpoint"].clone();
    folder.perform(log.append_statements(statements(200..300), 8, &key).unwrap().steps);
    folder.files.insert("checkpoint".to_owned(), checkpoint);
    let reader = LogReader::open(&folder).unwrap();
    assert_eq!((reader.size(), reader.entries().count()), (200, 200));
}

#[test]
fn every_flipped_byte_is_noticed_and_named() {
    let key = SigningKey::generate();
    let (_, folder) = log_of(&[3, 1, 253, 2, 1], &key);
    let mut next = 0_usize;
    for (path, bytes) in &folder.files {
        // Every byte of short files, every 37th of long ones.
        for at in (0..bytes.len()).step_by(if bytes.len() < 300 { 1 } else { 37 }) {
            let mut changed = folder.clone();
            next += 1;
            changed.files.get_mut(path).unwrap()[at] ^= 1 << (next % 8);
            let verdict = LogReader::open(&changed).and_then(|reader| {
                reader.authenticate(&origin(), &key.verifying_key())?;
                reader.check_folder()
            });
            let error = verdict.expect_err(&format!("{path}: byte {at} was not noticed")).to_string();
            let named = error.contains(path.as_str())
                || (path.starts_with("tile/entries/") && error.contains("entry "));
            assert!(named, "{path}: byte {at}: {error}");
        }
    }
}

#[test]
fn a_changed_entry_is_named_with_its_kind() {
    let key = SigningKey::generate();
    let (_, mut folder) = log_of(&[6], &key);
    let bundle = folder.files.get_mut("tile/entries/000.p/6").unwrap();
    *bundle.last_mut().unwrap() ^= 1;
    let error = LogReader::open(&folder).err().unwrap();
    assert!(matches!(error, LogError::Entry { index: 5, kind: Some(Kind::Alarm) }), "{error}");
}

#[test]
fn missing_files_are_named() {
    let key = SigningKey::generate();
    let (_, folder) = log_of(&[256, 4], &key);
    for path in folder.files.keys() {
        let mut less = folder.clone();
        less.files.remove(path);
        let error = LogReader::open(&less).err().unwrap();
        assert!(error.to_string().starts_with(&format!("{path} is missing")), "{path}: {error}");
    }
}

#[test]
fn a_size_that_lies_ends_at_the_first_missing_file() {
    let key = SigningKey::generate();
    let (_, mut folder) = log_of(&[4], &key);
    let root = Hash::of_bytes(b"");
    let lie = Checkpoint { origin: origin(), size: MAX_SIZE, root }.sign(&key);
    folder.files.insert("checkpoint".to_owned(), lie);
    let error = LogReader::open(&folder).err().unwrap();
    assert!(matches!(&error, LogError::Missing { path } if path == "tile/entries/000"), "{error}");
}

#[test]
fn a_log_signed_by_another_key_is_not_opened() {
    let key = SigningKey::generate();
    let (_, folder) = log_of(&[4], &key);
    let error = Log::open(&folder, origin(), &SigningKey::generate()).err().unwrap();
    assert!(matches!(error, LogError::Checkpoint(_)), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// However appends are cut into batches, the log is the same.
    #[test]
    fn batches_do_not_matter(cuts in proptest::collection::vec(1u32..150, 1..6)) {
        let key = SigningKey::generate();
        let total = cuts.iter().sum();
        let (many, folder) = log_of(&cuts, &key);
        let (one, whole) = log_of(&[total], &key);
        prop_assert_eq!(many.checkpoint(), one.checkpoint());
        for (path, bytes) in &whole.files {
            prop_assert_eq!(folder.files.get(path), Some(bytes), "{}", path);
        }
    }
}
