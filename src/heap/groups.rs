//! Blocks by size, by what they hold, by the text in them, by arena, by who allocated them.
//!
//! One way is to make a row for every block and to sort them. Of eight million
//! blocks that are rows for nobody. Here they are counted while they are gone
//! over, in parallel, into tables that are put together in address order; the
//! blocks of one group are then known by number, bytes and the first of them.

use std::collections::HashMap;
use std::ops::Range;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::error::Error;
use crate::heap::block::Blocks;
pub use crate::heap::growing::{By, Group};
use crate::heap::growing::{Growing, Key, Table};
use crate::heap::wanted::{Wanted, batch, each, slices};
use crate::memory::Memory;
use crate::pass::Job;

/// Groups that are told apart; what comes later has its text left out.
const MOST: usize = 1 << 20;

/// All groups, those with the most bytes first.
#[derive(Clone, Default, Debug)]
pub struct Groups {
    /// The groups.
    pub groups: Vec<Group>,
    /// Blocks in all.
    pub blocks: u64,
    /// Bytes in all.
    pub bytes: u64,
    /// Blocks whose text was left out, since too many differ.
    pub untracked: u64,
}

fn needs_contents(by: By, wanted: &Wanted<'_>) -> bool {
    wanted.kind.is_some() || matches!(by, By::All | By::Record | By::Kind | By::Text)
}

/// The blocks that are wanted, in groups.
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
                merge(&mut all, &mut found, key, growing);
            }
        }
    }
    let mut groups: Vec<Group> = all.into_values().map(|growing| growing.group).collect();
    groups.sort_by(|one, other| {
        other.bytes.cmp(&one.bytes).then(other.blocks.cmp(&one.blocks)).then(one.sample.cmp(&other.sample))
    });
    found.groups = groups;
    Ok(found)
}

fn merge(all: &mut HashMap<Key, Growing>, found: &mut Groups, key: Key, growing: Growing) {
    found.blocks = found.blocks.saturating_add(growing.group.blocks);
    found.bytes = found.bytes.saturating_add(growing.group.bytes);
    let mut key = key;
    let mut growing = growing;
    if all.len() >= MOST && !all.contains_key(&key) {
        found.untracked = found.untracked.saturating_add(growing.group.blocks);
        growing.mixed = (true, true, true);
        growing.group = Group { size: None, kind: None, text: None, ..growing.group };
        key = (u64::MAX, u8::MAX, u32::MAX, 0);
    }
    match all.entry(key) {
        std::collections::hash_map::Entry::Vacant(slot) => {
            slot.insert(growing);
        }
        std::collections::hash_map::Entry::Occupied(mut slot) => slot.get_mut().merge(growing),
    }
}
