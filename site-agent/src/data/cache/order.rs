//! Which entries there are, how much room they take, and which was not used for longest.

use std::collections::{BTreeMap, HashMap};

use consilium_study::hash::Hash;

/// The entries of a cache, from the one that was not used for longest to the one used last.
#[derive(Debug)]
pub(super) struct Order {
    budget: u64,
    used: u64,
    /// Number of the next use.
    next: u64,
    entries: HashMap<Hash, Entry>,
    by_use: BTreeMap<u64, Hash>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    size: u64,
    last_use: u64,
}

impl Order {
    /// No entries yet, and so many bytes for them.
    pub(super) fn new(budget: u64) -> Self {
        let (entries, by_use) = Default::default();
        Self { budget, used: 0, next: 0, entries, by_use }
    }

    /// Whether an entry of this size could be kept at all.
    pub(super) fn could_keep(&self, size: u64) -> bool {
        size <= self.budget
    }

    /// The entry that goes first, where something has to before there is room for `size` more.
    pub(super) fn first_to_go(&self, size: u64) -> Option<Hash> {
        let is_full = self.used.saturating_add(size) > self.budget;
        self.by_use.values().next().copied().filter(|_| is_full)
    }

    /// An entry that is new, or written anew, and counts as used now.
    pub(super) fn add(&mut self, name: Hash, size: u64) {
        self.remove(&name);
        self.used += size;
        self.by_use.insert(self.next, name);
        self.entries.insert(name, Entry { size, last_use: self.next });
        self.next += 1;
    }

    /// An entry was used.
    pub(super) fn touch(&mut self, name: &Hash) {
        if let Some(Entry { size, .. }) = self.entries.get(name).copied() {
            self.add(*name, size);
        }
    }

    /// An entry is gone.
    pub(super) fn remove(&mut self, name: &Hash) {
        if let Some(Entry { size, last_use }) = self.entries.remove(name) {
            self.used -= size;
            self.by_use.remove(&last_use);
        }
    }
}
