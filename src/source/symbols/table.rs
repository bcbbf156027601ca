//! Named stretches in order of their addresses, and the way from an address to its name.

use std::cmp::Ordering;

/// No entry.
const NONE: u32 = u32::MAX;

/// One named stretch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub start: u64,
    pub end: u64,
    /// Where the name starts among the names of the file.
    pub name: u32,
    /// The last entry before this one that ends behind it.
    outer: u32,
}

/// A stretch before it has its place among the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub start: u64,
    pub size: u64,
    pub name: u32,
    /// Whether other modules may use the name.
    pub global: bool,
}

/// Stretches in order of their starts; of several with one start the name to prefer is last.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Entry>);

impl Table {
    /// A table of these; of two names for one stretch `order` has the better one last.
    pub(super) fn new(mut candidates: Vec<Candidate>, order: impl Fn(u32, u32) -> Ordering) -> Self {
        candidates.sort_unstable_by(|one, other| {
            let by_place = one.start.cmp(&other.start).then(one.global.cmp(&other.global));
            let by_size = by_place.then(one.size.cmp(&other.size));
            by_size.then_with(|| order(one.name, other.name)).then(other.name.cmp(&one.name))
        });
        let mut entries: Vec<Entry> = Vec::with_capacity(candidates.len());
        // The entries that a later one may still lie in, innermost last.
        let mut open: Vec<u32> = Vec::new();
        for candidate in candidates {
            let Ok(index) = u32::try_from(entries.len()) else { break };
            let end = candidate.start.saturating_add(candidate.size);
            let ends = |index: &u32| entries.get(*index as usize).map_or(0, |entry: &Entry| entry.end);
            while open.last().is_some_and(|last| ends(last) <= end) {
                open.pop();
            }
            let outer = open.last().copied().unwrap_or(NONE);
            entries.push(Entry { start: candidate.start, end, name: candidate.name, outer });
            open.push(index);
        }
        Self(entries)
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    /// The last entry that starts at `at` or before.
    pub(super) fn before(&self, at: u64) -> Option<&Entry> {
        self.0.get(self.index_before(at)?)
    }

    /// The innermost entry that covers `at`.
    pub(super) fn covering(&self, at: u64) -> Option<&Entry> {
        let mut entry = self.before(at)?;
        // What ends at `at` or before holds nothing that ends behind it: each step
        // passes over entries that cannot cover `at`.
        while entry.end <= at {
            entry = self.0.get(entry.outer as usize)?;
        }
        Some(entry)
    }

    fn index_before(&self, at: u64) -> Option<usize> {
        self.0.partition_point(|entry| entry.start <= at).checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(spans: &[(u64, u64)]) -> Table {
        let candidate = |(index, (start, size)): (usize, &(u64, u64))| Candidate {
            start: *start,
            size: *size,
            name: u32::try_from(index).unwrap(),
            global: false,
        };
        Table::new(spans.iter().enumerate().map(candidate).collect(), |_, _| Ordering::Equal)
    }

    #[test]
    fn of_several_names_the_global_one_is_taken_then_the_longer_stretch() {
        let candidate = |size, name, global| Candidate { start: 8, size, name, global };
        let found = |candidates: &[Candidate]| {
            Table::new(candidates.to_vec(), |_, _| Ordering::Equal).covering(9).unwrap().name
        };
        assert_eq!(found(&[candidate(4, 1, true), candidate(8, 2, false)]), 1);
        assert_eq!(found(&[candidate(4, 1, false), candidate(8, 2, false)]), 2);
        assert_eq!(found(&[candidate(1, 1, true), candidate(8, 2, false)]), 2);
    }

    proptest! {
        #[test]
        fn the_innermost_that_covers_is_found(
            spans in prop::collection::vec((0_u64..64, 1_u64..32), 0..40),
            at in 0_u64..100,
        ) {
            let covers = |(start, size): &&(u64, u64)| (*start..start.saturating_add(*size)).contains(&at);
            let innermost = spans.iter().filter(covers).map(|(start, _)| *start).max();
            let table = table(&spans);
            let found = table.covering(at);
            prop_assert_eq!(found.map(|entry| entry.start), innermost);
            prop_assert!(found.is_none_or(|entry| entry.end > at));
        }

        #[test]
        fn stretches_at_the_ends_of_the_address_space_never_panic(
            spans in prop::collection::vec((any::<u64>(), any::<u64>()), 0..20),
            at in any::<u64>(),
        ) {
            let _ = table(&spans).covering(at);
        }
    }
}
