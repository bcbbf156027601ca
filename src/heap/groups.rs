//! Blocks by size, by what they hold, by the text in them, by arena, by who allocated them.
//!
//! One way is to make a row for every block and to sort them. Of eight million
//! blocks that are rows for nobody. Here they are counted while they are gone
//! over, in parallel, into tables that are put together in address order; the
//! blocks of one group are then known by number, bytes and the first of them.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::error::Error;
use crate::heap::block::Blocks;
pub use crate::heap::group::{By, Group};
use crate::heap::growing::{Growing, Key, Table, alike};
use crate::heap::wanted::{Wanted, batch, each, slices};
use crate::inspect::template::absorbed;
use crate::memory::Memory;
use crate::pass::Job;

/// The most groups that are distinguished by text; of later ones only size and kind are.
const MOST: usize = 1 << 20;

/// Of so many groups by text there may be one more that only size and kind distinguish.
const TEXTS_PER_KIND: usize = 16;

/// The most groups of one size and kind that have a row of their own.
const ROWS: usize = 100;

/// In the place of the hash of a text: groups of one size and kind with many texts.
const FOLDED: u128 = u128::MAX;

/// All groups, those with the most bytes first.
#[derive(Clone, Default, Debug)]
pub struct Groups {
    /// The groups.
    pub groups: Vec<Group>,
    /// Blocks in all.
    pub blocks: u64,
    /// Bytes in all.
    pub bytes: u64,
    /// Blocks whose text was not compared with others, since too many differ.
    pub untracked: u64,
}

fn needs_contents(by: By, wanted: &Wanted<'_>) -> bool {
    wanted.kind.is_some() || matches!(by, By::All | By::Record | By::Kind | By::Text)
}

/// The blocks that are wanted, in groups.
///
/// Texts that differ in numbers only are one ([`crate::inspect::template`]). Where groups are by
/// size, kind and text, those of one block with equal size and kind are put together at the end; if
/// more than a hundred are left, so are those with the fewest blocks, and all that have as few.
///
/// Memory: a row for each group, a million at the most, and those of a few slices of
/// 32,768 units for each thread.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn groups(
    memory: &dyn Memory,
    blocks: &Blocks,
    by: By,
    wanted: &Wanted<'_>,
    job: &Job,
) -> Result<Groups, Error> {
    groups_within(memory, blocks, by, wanted, MOST, job)
}

/// The same with at most so many groups that are distinguished by text.
///
/// # Errors
///
/// As [`groups`].
pub fn groups_within(
    memory: &dyn Memory,
    blocks: &Blocks,
    by: By,
    wanted: &Wanted<'_>,
    most: usize,
    job: &Job,
) -> Result<Groups, Error> {
    let contents = needs_contents(by, wanted);
    let mut all: HashMap<Key, Growing> = HashMap::new();
    let mut found = Groups::default();
    let slices = slices(blocks);
    for batch in slices.chunks(batch()) {
        let work = |slice: &Range<usize>| {
            let mut table = Table::new(by);
            if !job.stopped() {
                each(memory, blocks, slice.clone(), wanted, contents, |unit, kind, text| {
                    if wanted.kind.is_none_or(|wanted| kind == Some(wanted)) {
                        table.add(unit, kind, text, wanted.label(unit));
                    }
                });
            }
            table
        };
        let tables: Vec<Table> = batch.par_iter().map(work).collect();
        job.check()?;
        for table in tables {
            job.check()?;
            for (key, growing) in table.rows() {
                merge(&mut all, &mut found, most, key, growing);
            }
        }
    }
    absorb(&mut all);
    if matches!(by, By::All | By::Record) {
        fold(&mut all, by);
    }
    let mut groups: Vec<Group> = all.into_values().map(|growing| growing.group).collect();
    groups.sort_by(|one, other| {
        other.bytes.cmp(&one.bytes).then(other.blocks.cmp(&one.blocks)).then(one.sample.cmp(&other.sample))
    });
    found.groups = groups;
    Ok(found)
}

fn merge(all: &mut HashMap<Key, Growing>, found: &mut Groups, most: usize, key: Key, growing: Growing) {
    found.blocks = found.blocks.saturating_add(growing.group.blocks);
    found.bytes = found.bytes.saturating_add(growing.group.bytes);
    let mut key = key;
    let mut growing = growing;
    if all.len() >= most && !all.contains_key(&key) {
        found.untracked = found.untracked.saturating_add(growing.group.blocks);
        growing.group.alike = false;
        growing.group.more_texts = true;
        key.3 = FOLDED;
        let kinds = most / TEXTS_PER_KIND;
        if all.len() >= most.saturating_add(kinds) && !all.contains_key(&key) {
            growing.mixed = (true, true);
            growing.group = Group { size: None, kind: None, ..growing.group };
            key = (u64::MAX, u8::MAX, u32::MAX, FOLDED);
        }
    }
    match all.entry(key) {
        Entry::Vacant(slot) => {
            slot.insert(growing);
        }
        Entry::Occupied(mut slot) => slot.get_mut().merge(growing),
    }
}

/// Puts groups whose words are numbers in other groups together with these.
fn absorb(all: &mut HashMap<Key, Growing>) {
    let pairs = absorbed(|take| all.iter().filter_map(|(key, growing)| growing.company(*key)).for_each(take));
    for (from, into) in pairs {
        let part = all.remove(&from);
        if let Some((whole, part)) = all.get_mut(&into).zip(part) {
            whole.absorb(part);
        }
    }
}

/// Puts the smallest groups with equal size and kind together.
///
/// A server may hold each of twenty thousand texts twice: one row for each would hide that they
/// are the largest there is.
fn fold(all: &mut HashMap<Key, Growing>, by: By) {
    let class = |key: &Key| (key.0, key.1, key.2);
    let alike = || all.iter().filter(|(_, growing)| alike(by, growing.group.stack));
    let mut counts: HashMap<_, Vec<u64>> = HashMap::new();
    for (key, growing) in alike() {
        counts.entry(class(key)).or_default().push(growing.group.blocks);
    }
    // The most blocks of a group that is put together with others.
    let most = |counts: Vec<u64>| -> u64 {
        let mut counts = counts;
        if counts.len() <= ROWS {
            return 1;
        }
        let (_, count, _) = counts.select_nth_unstable_by_key(ROWS, |blocks| Reverse(*blocks));
        *count
    };
    let most: HashMap<_, u64> = counts.into_iter().map(|(class, counts)| (class, most(counts))).collect();
    let small = |key: &Key, growing: &Growing| {
        most.get(&class(key)).is_some_and(|most| growing.group.blocks <= *most)
    };
    let mut smallest: Vec<(u64, Key)> = alike()
        .filter(|(key, growing)| small(key, growing))
        .map(|(key, growing)| (growing.group.sample.first().copied().unwrap_or(0), *key))
        .collect();
    smallest.sort_unstable();
    let mut folded: HashMap<Key, Growing> = HashMap::new();
    for (_, key) in smallest {
        let Some(growing) = all.remove(&key) else { continue };
        let (size, number, stack, _) = key;
        match folded.entry((size, number, stack, FOLDED)) {
            Entry::Vacant(slot) => {
                slot.insert(growing);
            }
            Entry::Occupied(mut slot) => slot.get_mut().fold(growing),
        }
    }
    for (key, growing) in folded {
        match all.entry(key) {
            Entry::Vacant(slot) => {
                slot.insert(growing);
            }
            Entry::Occupied(mut slot) => slot.get_mut().fold(growing),
        }
    }
}
