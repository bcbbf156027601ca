//! Which bytes of a core are claimed by more than one header.
//!
//! No writer of cores saves bytes once for several addresses, but headers cost 56 bytes and may claim
//! gigabytes each: 4096 segments that share one MiB make 4 GiB of memory out of a small file. What is
//! shared is used as long as it is not more than the file has; then each byte of the file is read twice
//! at the most, and one damaged size takes nothing from the segments after it.

use std::collections::BTreeMap;

use crate::range::AddressRange;
use crate::source::holes::Holes;

/// The ranges of a file that were claimed so far.
#[derive(Default, Debug)]
pub(super) struct Claims {
    /// The end of each by its start; they neither overlap nor touch.
    taken: BTreeMap<u64, u64>,
}

impl Claims {
    /// Takes a range of the file, and returns how many bytes of it were taken before; holes are not counted.
    ///
    /// Takes O(log n) time for each of n claims in all: what is met is merged.
    pub(super) fn take(&mut self, range: AddressRange, holes: &Holes) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let (mut start, mut end, mut shared) = (range.start(), range.end(), 0_u64);
        while let Some((from, to)) = self.taken.range(..=end).next_back().filter(|(_, to)| **to >= start) {
            let (from, to) = (*from, *to);
            let common = range.intersection(AddressRange::saturating(from, to.saturating_sub(from)));
            shared = shared.saturating_add(common.map_or(0, |common| holes.bytes(common)));
            (start, end) = (start.min(from), end.max(to));
            self.taken.remove(&from);
        }
        self.taken.insert(start, end);
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_were_claimed_before_are_counted_once_for_each_claim() {
        let mut claims = Claims::default();
        let mut take = |start, end| claims.take(AddressRange::new(start, end).unwrap(), &Holes::default());
        assert_eq!(take(10, 20), 0);
        assert_eq!(take(30, 40), 0);
        assert_eq!(take(15, 35), 10);
        assert_eq!(take(0, 50), 30);
        assert_eq!(take(49, 60), 1);
        assert_eq!(take(7, 7), 0);
    }
}
