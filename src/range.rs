//! Half-open address ranges with checked arithmetic.

use std::fmt;

use crate::error::Error;

/// Addresses from `start` up to, not including, `end`, as in `/proc/PID/maps`.
///
/// `start <= end` always holds. The last byte of the address space cannot be
/// in a range, because its end would not fit; no Linux process can own it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AddressRange {
    start: u64,
    end: u64,
}

impl AddressRange {
    /// The range from `start` up to `end`.
    ///
    /// # Errors
    ///
    /// [`Error::Range`] when `end` lies below `start`.
    ///
    /// ```
    /// use gdb_leak::range::AddressRange;
    /// assert_eq!(AddressRange::new(0x10, 0x30).unwrap().len(), 0x20);
    /// assert!(AddressRange::new(0x30, 0x10).is_err());
    /// ```
    pub fn new(start: u64, end: u64) -> Result<Self, Error> {
        if start <= end {
            Ok(Self { start, end })
        } else {
            Err(Error::Range { start, value: end, rule: "the end lies below the start" })
        }
    }

    /// The range of `length` bytes at `start`.
    ///
    /// # Errors
    ///
    /// [`Error::Range`] when the range wraps around the end of the address space.
    ///
    /// ```
    /// use gdb_leak::range::AddressRange;
    /// assert!(AddressRange::with_length(u64::MAX, 2).is_err());
    /// ```
    pub fn with_length(start: u64, length: u64) -> Result<Self, Error> {
        let end = start.checked_add(length).ok_or(Error::Range {
            start,
            value: length,
            rule: "the range wraps around the end of the address space",
        })?;
        Ok(Self { start, end })
    }

    /// The range of `length` bytes at `start`, cut where the address space ends.
    #[must_use]
    pub const fn saturating(start: u64, length: u64) -> Self {
        Self { start, end: start.saturating_add(length) }
    }

    /// The first address.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The address after the last one.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// The number of bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether the range holds no byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Whether `address` lies in one of `ranges`, which are in order and do not overlap.
    #[must_use]
    pub fn any_contains(ranges: &[Self], address: u64) -> bool {
        let after = ranges.partition_point(|range| range.start <= address);
        after.checked_sub(1).and_then(|last| ranges.get(last)).is_some_and(|range| range.contains(address))
    }

    /// Whether `address` lies in the range.
    #[must_use]
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether every byte of `other` lies in this range.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The bytes in both ranges; `None` where there are none.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(Self { start, end })
    }

    /// Those of `others` that share a byte with this range.
    ///
    /// `others` must be in address order and must not overlap each other.
    ///
    /// ```
    /// use gdb_leak::range::AddressRange;
    /// let range = |a, b| AddressRange::new(a, b).unwrap();
    /// let others = [range(0, 2), range(2, 4), range(8, 9)];
    /// assert_eq!(range(3, 8).among(&others), [range(2, 4)]);
    /// ```
    #[must_use]
    pub fn among(self, others: &[Self]) -> &[Self] {
        let first = others.partition_point(|other| other.end <= self.start);
        let behind = others.get(first..).unwrap_or_default();
        behind.get(..behind.partition_point(|other| other.start < self.end)).unwrap_or_default()
    }

    /// The parts of this range that none of `others` covers, in address order.
    ///
    /// `others` must be in address order and must not overlap each other.
    ///
    /// ```
    /// use gdb_leak::range::AddressRange;
    /// let range = |a, b| AddressRange::new(a, b).unwrap();
    /// let left = range(0, 10).without(&[range(2, 4), range(8, 20)]);
    /// assert_eq!(left, [range(0, 2), range(4, 8)]);
    /// ```
    #[must_use]
    pub fn without(self, others: &[Self]) -> Vec<Self> {
        let mut left = Vec::new();
        let mut start = self.start;
        for other in self.among(others) {
            let Some(common) = self.intersection(*other) else { continue };
            if start < common.start {
                left.push(Self { start, end: common.start });
            }
            start = start.max(common.end);
        }
        if start < self.end {
            left.push(Self { start, end: self.end });
        }
        left
    }

    /// Ranges in address order, with touching and overlapping ones made one.
    #[must_use]
    pub fn merge(mut ranges: Vec<Self>) -> Vec<Self> {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable();
        let mut merged: Vec<Self> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#x}-{:#x}", self.start, self.end)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#x}-{:#x}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> AddressRange {
        AddressRange::new(start, end).unwrap()
    }

    #[test]
    fn a_range_that_wraps_is_refused_with_its_start() {
        let error = AddressRange::with_length(0xffff_ffff_ffff_fff0, 0x20).unwrap_err();
        assert!(error.to_string().contains("0xfffffffffffffff0"), "{error}");
    }

    #[test]
    fn touching_ranges_merge_and_apart_ones_stay() {
        let merged =
            AddressRange::merge(vec![range(8, 9), range(0, 4), range(4, 6), range(3, 5), range(7, 7)]);
        assert_eq!(merged, [range(0, 6), range(8, 9)]);
    }

    #[test]
    fn ranges_that_only_touch_have_no_common_byte() {
        assert_eq!(range(0, 4).intersection(range(4, 8)), None);
    }
}
