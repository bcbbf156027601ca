//! Modules that stacks lead through, those that were unloaded since among them.

use std::collections::BTreeSet;

use crate::memory::Memory;
use crate::name::Name;
use crate::range::AddressRange;

use super::header::Area;
use super::layout::{self, u32_at, u64_at};

/// Modules that are kept; no program has as many.
const MOST: u64 = 1 << 16;

/// No path is longer: Linux, `PATH_MAX`.
const LONGEST: u64 = 4096;

/// Bytes of names that are kept of all modules: many may claim the same ones.
const MOST_NAMES: u64 = 16 << 20;

/// A module as it was loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    /// Where its segments were.
    pub range: AddressRange,
    /// Its addresses less those in its file.
    pub bias: u64,
    /// Its path as the loader knew it.
    pub path: Name,
    /// Its build-id; empty where none is known.
    pub build_id: Vec<u8>,
    /// The generations from which and before which it was there.
    pub since: u32,
    /// `None` where it still is.
    pub until: Option<u32>,
}

/// All modules that are listed, and which of them an address lay in.
#[derive(Clone, Default, Debug)]
pub(super) struct Modules {
    listed: Vec<Module>,
    /// Where modules start or end, in address order.
    borders: Vec<u64>,
    /// A segment tree over the stretches between borders: in each node the modules that cover all of
    /// it and not all of the node above, by generation.
    tree: Vec<Vec<Life>>,
}

/// From one generation up to another the module with that number counts.
#[derive(Clone, Copy, Debug)]
struct Life {
    since: u64,
    until: u64,
    module: usize,
}

impl Modules {
    /// Reads the modules, in the recorder's order.
    pub(super) fn read(memory: &dyn Memory, modules: &Area, names: &Area) -> Self {
        let kept = Area { used: modules.used.min(MOST), ..*modules };
        let mut names = Names { memory, range: names.range(), left: MOST_NAMES };
        let mut listed = Vec::new();
        let mut bytes = Vec::new();
        let mut at = kept.start;
        // An entry may be longer than what is read of it.
        while let Some(number) =
            at.saturating_sub(kept.start).checked_div(kept.entry).filter(|n| *n < kept.used)
        {
            let start = kept.at(number).unwrap_or(u64::MAX);
            bytes.clear();
            match memory.append(AddressRange::saturating(start, layout::MODULE), &mut bytes) {
                None => {
                    listed.extend(names.module(&bytes));
                    at = start.saturating_add(kept.entry);
                }
                Some(gap) => {
                    let behind = gap.range.end().saturating_sub(kept.start).div_ceil(kept.entry);
                    at = kept
                        .start
                        .saturating_add(behind.max(number.saturating_add(1)).saturating_mul(kept.entry));
                }
            }
        }
        Self::new(listed)
    }

    /// The same with a tree over them; takes O(n log² n) time and O(n log n) memory.
    fn new(listed: Vec<Module>) -> Self {
        let mut borders: Vec<u64> =
            listed.iter().flat_map(|module| [module.range.start(), module.range.end()]).collect();
        borders.sort_unstable();
        borders.dedup();
        let leaves = borders.len().next_power_of_two();
        let mut tree: Vec<Vec<Life>> = vec![Vec::new(); leaves.saturating_mul(2)];
        for (number, module) in listed.iter().enumerate() {
            let until = module.until.map_or(u64::MAX, u64::from);
            let life = Life { since: module.since.into(), until, module: number };
            let place =
                |address: u64| borders.partition_point(|border| *border < address).saturating_add(leaves);
            let (mut from, mut to) = (place(module.range.start()), place(module.range.end()));
            while from < to && life.since < life.until {
                for node in
                    [Some(from).filter(|node| node % 2 == 1), to.checked_sub(1).filter(|_| to % 2 == 1)]
                {
                    if let Some(lives) = node.and_then(|node| tree.get_mut(node)) {
                        lives.push(life);
                    }
                }
                (from, to) = (from.div_ceil(2), to / 2);
            }
        }
        let tree = tree.iter().map(|lives| last_counts(lives)).collect();
        Self { listed, borders, tree }
    }

    /// The module with that number.
    pub(super) fn get(&self, number: usize) -> Option<&Module> {
        self.listed.get(number)
    }

    /// The number of the module that an address lay in, in a generation: of several the one listed last.
    pub(super) fn at(&self, address: u64, generation: u32) -> Option<usize> {
        let place = self.borders.partition_point(|border| *border <= address).checked_sub(1)?;
        let mut node = (self.tree.len() / 2).saturating_add(place);
        let generation = u64::from(generation);
        let mut found = None;
        while node > 0 {
            let lives = self.tree.get(node).map_or(&[][..], Vec::as_slice);
            let life = lives.get(lives.partition_point(|life| life.until <= generation));
            found = found.max(life.filter(|life| life.since <= generation).map(|life| life.module));
            node /= 2;
        }
        found
    }
}

/// Lives that do not overlap, in order: where some did, the module listed last counts.
fn last_counts(lives: &[Life]) -> Vec<Life> {
    let mut borders: Vec<(u64, bool, usize)> = lives
        .iter()
        .flat_map(|life| [(life.since, true, life.module), (life.until, false, life.module)])
        .collect();
    borders.sort_unstable();
    let mut alive = BTreeSet::new();
    let mut apart: Vec<Life> = Vec::new();
    let mut at = 0;
    for (border, begins, module) in borders {
        if let Some(last) = alive.last().filter(|_| at < border) {
            apart.push(Life { since: at, until: border, module: *last });
        }
        at = border;
        if begins {
            alive.insert(module);
        } else {
            alive.remove(&module);
        }
    }
    apart
}

/// Where the names of modules are, and how much more of them is kept.
struct Names<'m> {
    memory: &'m dyn Memory,
    range: AddressRange,
    left: u64,
}

impl Names<'_> {
    fn module(&mut self, bytes: &[u8]) -> Option<Module> {
        let start = u64_at(bytes, layout::MODULE_START)?;
        let range = AddressRange::new(start, u64_at(bytes, layout::MODULE_END)?).ok()?;
        let until = u32_at(bytes, layout::MODULE_UNTIL)?;
        let (offset, length) =
            (u32_at(bytes, layout::MODULE_NAME)?, u32_at(bytes, layout::MODULE_NAME_BYTES)?);
        let name = AddressRange::saturating(self.range.start().saturating_add(offset.into()), length.into());
        let mut path = Vec::new();
        if self.range.covers(name) && name.len() <= LONGEST.min(self.left) {
            self.left = self.left.saturating_sub(name.len());
            let _ = self.memory.append(name, &mut path);
        }
        let known = usize::try_from(u32_at(bytes, layout::MODULE_BUILD_ID_BYTES)?).unwrap_or(usize::MAX);
        let build_id = bytes.get(layout::MODULE_BUILD_ID..).filter(|_| known <= layout::BUILD_ID);
        Some(Module {
            range,
            bias: u64_at(bytes, layout::MODULE_BIAS)?,
            path: Name::from(path),
            build_id: build_id.and_then(|bytes| bytes.get(..known)).unwrap_or_default().to_vec(),
            since: u32_at(bytes, layout::MODULE_SINCE)?,
            until: Some(until).filter(|until| *until != layout::STILL),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(start: u64, end: u64, since: u32, until: Option<u32>) -> Module {
        let range = AddressRange::new(start, end).unwrap();
        Module { range, bias: 0, path: Name::default(), build_id: Vec::new(), since, until }
    }

    #[test]
    fn of_modules_at_one_address_in_one_generation_the_last_counts() {
        let mut state = 7_u64;
        let mut next = |most: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % most
        };
        for count in 0..40 {
            let listed: Vec<Module> = (0..count)
                .map(|_| {
                    let (start, since) = (next(30), u32::try_from(next(6)).unwrap());
                    let until = Some(u32::try_from(next(8)).unwrap()).filter(|until| *until > 0);
                    module(start, start + next(12), since, until)
                })
                .collect();
            let modules = Modules::new(listed.clone());
            for address in 0..45 {
                for generation in 0..9 {
                    let there = |module: &Module| {
                        let gone = module.until.is_some_and(|until| generation >= until);
                        module.since <= generation && !gone && module.range.contains(address)
                    };
                    assert_eq!(modules.at(address, generation), listed.iter().rposition(there));
                }
            }
        }
    }
}
