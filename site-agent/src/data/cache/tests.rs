use proptest::prelude::*;

use super::*;
use crate::data::display::Shading;

const FORMAT: Format = Format::Raster;

/// A picture of so many rows; 20 of them are nearly a block.
fn picture(rows: u32) -> (Target, Decoded) {
    let facts = Facts {
        format: "PNG".into(),
        rows,
        columns: 50,
        bits: 8,
        shading: Shading::FullRange,
        turned: false,
        patient: None,
    };
    (Target::new(1, rows, 50).unwrap(), Decoded { values: vec![0.25; 50 * rows as usize], facts })
}

fn content(number: u8) -> Hash {
    Hash::of_bytes(&[number])
}

fn size(number: u8, rows: u32) -> u64 {
    on_disk(entry(content(number), &picture(rows).1).len() as u64)
}

fn put(cache: &Cache, number: u8, rows: u32) {
    let (target, decoded) = picture(rows);
    cache.put(FORMAT, target, content(number), &decoded).unwrap();
}

fn has(cache: &Cache, number: u8, rows: u32) -> bool {
    let (target, decoded) = picture(rows);
    let found = cache.get(FORMAT, target, content(number));
    assert!(found.is_none() || found == Some(decoded));
    found.is_some()
}

#[test]
fn an_altered_entry_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Room::new(folder.path().join("cache"), u64::MAX).open().unwrap();
    let (target, decoded) = picture(2);
    let content = Hash::of_bytes(b"file");
    assert_eq!(cache.get(FORMAT, target, content), None);
    cache.put(FORMAT, target, content, &decoded).unwrap();
    assert_eq!(cache.get(FORMAT, target, content), Some(decoded.clone()));
    assert_eq!(cache.get(Format::Dicom, target, content), None);
    assert_eq!(cache.get(FORMAT, Target::new(1, 50, 2).unwrap(), content), None);

    let path = cache.path(&name(FORMAT, target, content));
    let intact = fs::read(&path).unwrap();
    for index in 0..intact.len() {
        let mut altered = intact.clone();
        altered[index] ^= 1;
        fs::write(&path, &altered).unwrap();
        assert_eq!(cache.get(FORMAT, target, content), None, "byte {index}");
    }
    fs::write(&path, &intact[..intact.len() / 2]).unwrap();
    assert_eq!(cache.get(FORMAT, target, content), None);
    cache.put(FORMAT, target, content, &decoded).unwrap();
    assert_eq!(fs::read(&path).unwrap(), intact, "it is decoded and written anew");
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Put(u8),
    Get(u8),
    /// The process ends, or is killed in the middle of a write, and another one begins with so many blocks.
    Restart(u64),
    /// A person removes an entry.
    Remove(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0..8_u8).prop_map(Act::Put),
        5 => (0..8_u8).prop_map(Act::Get),
        1 => (0..12_u64).prop_map(Act::Restart),
        1 => (0..8_u8).prop_map(Act::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a list that is searched and shifted: the same entries are there, in the same order, within the budget.
    #[test]
    fn entries_not_used_for_longest_go_first(acts in prop::collection::vec(act(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        // Pictures of one to four blocks.
        let rows = |number: u8| 1 + 20 * (u32::from(number) % 4);
        let blocks = |number: u8| size(number, rows(number)) / BLOCK;
        let open = |blocks: u64| Room::new(folder.path(), blocks * BLOCK).open().unwrap();
        let (mut budget, mut model) = (6, Vec::<u8>::new());
        let mut cache = open(budget);
        for act in acts {
            let shrink = |model: &mut Vec<u8>, room: u64| {
                while model.iter().map(|&number| blocks(number)).sum::<u64>() > room {
                    model.remove(0);
                }
            };
            match act {
                Act::Put(number) => {
                    put(&cache, number, rows(number));
                    if blocks(number) <= budget {
                        model.retain(|&other| other != number);
                        shrink(&mut model, budget - blocks(number));
                        model.push(number);
                    }
                }
                Act::Get(number) => {
                    let known = model.contains(&number);
                    prop_assert_eq!(has(&cache, number, rows(number)), known);
                    if known {
                        model.retain(|&other| other != number);
                        model.push(number);
                    }
                }
                Act::Restart(other) => {
                    drop(cache);
                    let half = folder.path().join("v1/00");
                    make_folder(&half).unwrap();
                    fs::write(half.join(format!("{}.77.tmp", content(0))), [0; 9000]).unwrap();
                    budget = other;
                    cache = open(budget);
                    shrink(&mut model, budget);
                }
                Act::Remove(number) => {
                    let name = name(FORMAT, picture(rows(number)).0, content(number));
                    if fs::remove_file(cache.path(&name)).is_ok() {
                        // The cache learns of it when it looks; what is there already is enough for that.
                        prop_assert!(!has(&cache, number, rows(number)));
                        model.retain(|&other| other != number);
                        drop(cache);
                        cache = open(budget);
                    }
                }
            }
            let used = Room::new(folder.path(), 0).used().unwrap();
            prop_assert!(used <= budget * BLOCK);
            prop_assert_eq!(used, model.iter().map(|&number| blocks(number) * BLOCK).sum::<u64>());
        }
    }
}

#[test]
fn without_a_budget_nothing_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let room = Room::new(folder.path(), 100 * BLOCK);
    put(&room.open().unwrap(), 1, 10);
    assert_eq!(room.used().unwrap(), BLOCK);
    let off = Room::new(folder.path(), 0);
    let cache = off.open().unwrap();
    assert_eq!(off.used().unwrap(), 0, "what was there goes");
    put(&cache, 1, 10);
    assert!(!has(&cache, 1, 10) && off.used().unwrap() == 0);
}

#[test]
fn an_entry_above_the_budget_is_not_kept_and_costs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Room::new(folder.path(), 2 * BLOCK).open().unwrap();
    put(&cache, 1, 10);
    put(&cache, 2, 10);
    put(&cache, 3, 60);
    assert!(has(&cache, 1, 10) && has(&cache, 2, 10) && !has(&cache, 3, 60));
}

#[test]
fn a_kill_and_an_older_agent_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let room = Room::new(folder.path(), 100 * BLOCK);
    let cache = room.open().unwrap();
    put(&cache, 1, 10);
    let entry = cache.path(&name(FORMAT, picture(10).0, content(1)));
    drop(cache);
    let leftovers =
        [entry.with_extension("4711.tmp"), folder.path().join("v0/ab/cd"), folder.path().join("ab/cd")];
    // What an agent never made is somebody else's.
    let foreign = [folder.path().join("notes"), entry.with_file_name("notes"), folder.path().join("verse/1")];
    for path in leftovers.iter().chain(&foreign) {
        make_folder(path.parent().unwrap()).unwrap();
        fs::write(path, [0; 5000]).unwrap();
    }
    let cache = room.open().unwrap();
    assert!(has(&cache, 1, 10));
    assert!(leftovers.iter().all(|path| !path.exists()) && foreign.iter().all(|path| path.exists()));
    // An entry is half there after a power failure: decoded again.
    fs::write(&entry, [1; 20]).unwrap();
    assert!(!has(&cache, 1, 10));
    put(&cache, 1, 10);
    assert!(has(&cache, 1, 10));
    room.empty().unwrap();
    assert!(!entry.exists() && !has(&cache, 1, 10));
    put(&cache, 1, 10);
    assert!(has(&cache, 1, 10), "a folder that was removed is made again");
}

#[test]
fn one_process_writes_and_others_read() {
    let folder = tempfile::tempdir().unwrap();
    let room = Room::new(folder.path(), 100 * BLOCK);
    let writer = room.open().unwrap();
    put(&writer, 1, 10);
    let reader = room.open().unwrap();
    put(&reader, 2, 10);
    assert!(has(&reader, 1, 10) && !has(&reader, 2, 10));
    drop(writer);
    let writer = room.open().unwrap();
    put(&writer, 2, 10);
    assert!(has(&reader, 2, 10));
}

#[test]
fn threads_together_stay_within_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let room = Room::new(folder.path(), 10 * BLOCK);
    let cache = room.open().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let cache = &cache;
            scope.spawn(move || {
                for turn in 0..40_u8 {
                    let number = (turn + thread * 5) % 30;
                    put(cache, number, 1 + 18 * u32::from(number % 3));
                    has(cache, number, 1 + 18 * u32::from(number % 3));
                }
            });
        }
    });
    let used = room.used().unwrap();
    drop(cache);
    drop(room.open().unwrap());
    assert!(
        (8 * BLOCK..=10 * BLOCK).contains(&used) && room.used().unwrap() == used,
        "what is counted is what is there"
    );
}

#[test]
fn a_disk_that_fails_is_an_error_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(Room::new(&file, BLOCK).open().is_err());
    let cache = Room::new(folder.path().join("cache"), BLOCK).open().unwrap();
    fs::write(folder.path().join("cache/v1"), "no folder").unwrap();
    let (target, decoded) = picture(10);
    assert!(cache.put(FORMAT, target, content(1), &decoded).is_err());
    assert_eq!(cache.get(FORMAT, target, content(1)), None);
}
