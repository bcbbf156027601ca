//! Segments that overlap, taken apart: which one an address belongs to.
//!
//! The rule is gdb's. It looks through the segments in the order of the file and takes the
//! first whose saved bytes hold the address, and only then one that saved none there (gdb
//! 10.1 to 18.1, gdb/corelow.c, `core_target::xfer_memory_via_mappings` and its caller;
//! `section_table_xfer_memory_partial`).

use std::collections::BTreeSet;

use object::elf;

use crate::memory::Permissions;
use crate::range::AddressRange;
use crate::source::elf::Segment;
use crate::source::holes::Holes;

use super::claims::Claims;

/// No machine that Linux runs on has address space for a larger mapping: x86-64 has 2^56
/// bytes for a process at the most, aarch64 2^52.
pub(super) const LARGEST: u64 = 1 << 56;

/// A stretch of addresses with the bytes of one segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub range: AddressRange,
    pub permissions: Permissions,
    /// All of its bytes, or none.
    pub saved: u64,
    /// Where they start in the core.
    pub offset: u64,
    /// Whether a segment holds this part and what lies right before it.
    pub goes_on: bool,
}

/// The segments of a core as parts that do not overlap, and what had to be dropped.
#[derive(Default, Debug)]
pub(super) struct Merged {
    /// In address order.
    pub parts: Vec<Part>,
    /// What segments saved at addresses that an earlier one saved.
    pub dropped: Loss,
    /// Segments whose size no address space has.
    pub absurd: Option<Absurd>,
    /// What segments lack because the file ends.
    pub cut: Loss,
    /// What segments claim of the file that others before them claimed, where that is too much.
    pub shared: Loss,
}

/// Bytes that are not used, and how many segments have some of them.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Loss {
    pub segments: u64,
    pub bytes: u64,
}

/// The first segment of an impossible size, and how many there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absurd {
    pub address: u64,
    pub size: u64,
    pub rule: &'static str,
    pub count: u64,
}

/// What one segment holds, as far as it can be believed.
struct Extent {
    range: AddressRange,
    saved: u64,
    offset: u64,
    flags: u32,
}

impl Extent {
    fn saved_range(&self) -> AddressRange {
        AddressRange::saturating(self.range.start(), self.saved)
    }
}

/// Where an extent, or what it saved, begins or ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Border {
    at: u64,
    begins: bool,
    saved: bool,
    index: usize,
}

/// The loaded `segments`, in the order of the file, of a core of `length` bytes with `holes`.
///
/// Takes O(n log n) time.
pub(super) fn merge(segments: &[Segment], length: u64, holes: &Holes) -> Merged {
    let mut merged = Merged::default();
    let mut extents: Vec<Extent> =
        segments.iter().filter_map(|segment| extent(segment, length, &mut merged)).collect();
    leave_out_shared(&mut extents, length, holes, &mut merged.shared);
    let mut borders = Vec::with_capacity(extents.len().saturating_mul(4));
    for (index, extent) in extents.iter().enumerate() {
        for (range, saved) in [(extent.range, false), (extent.saved_range(), true)] {
            if !range.is_empty() {
                borders.push(Border { at: range.start(), begins: true, saved, index });
                borders.push(Border { at: range.end(), begins: false, saved, index });
            }
        }
    }
    borders.sort_unstable();
    let mut sweep = Sweep { dropped: vec![false; extents.len()], ..Sweep::default() };
    for border in borders {
        sweep.cross(border, &extents, &mut merged);
    }
    merged.dropped.segments = sweep.dropped.into_iter().filter(|dropped| *dropped).count() as u64;
    merged
}

/// Takes what segments saved from those that claim the same bytes of the file as others before them, once
/// they claim more than the file has.
fn leave_out_shared(extents: &mut [Extent], length: u64, holes: &Holes, lost: &mut Loss) {
    let mut left = holes.bytes(AddressRange::saturating(0, length));
    let mut claims = Claims::default();
    for extent in extents {
        let shared = claims.take(AddressRange::saturating(extent.offset, extent.saved), holes);
        if shared <= left {
            left = left.saturating_sub(shared);
            continue;
        }
        lost.segments = lost.segments.saturating_add(1);
        lost.bytes = lost.bytes.saturating_add(extent.saved);
        extent.saved = 0;
    }
}

/// What `segment` holds; `None` where that is nothing.
fn extent(segment: &Segment, length: u64, merged: &mut Merged) -> Option<Extent> {
    let there = segment.file_size.min(length.saturating_sub(segment.offset));
    if there < segment.file_size {
        merged.cut.segments = merged.cut.segments.saturating_add(1);
        merged.cut.bytes = merged.cut.bytes.saturating_add(segment.file_size.saturating_sub(there));
    }
    // Observed: some writers leave the size in memory at zero and mean
    // the size in the file. Seen: binutils' test suite, old FreeBSD.
    let mut size = segment.memory_size.max(segment.file_size);
    let room = u64::MAX.saturating_sub(segment.address);
    if size > LARGEST || size > room.saturating_add(1) {
        let rule = if size > LARGEST {
            "is larger than any address space"
        } else {
            "leads beyond the end of the address space"
        };
        let own = Absurd { address: segment.address, size, rule, count: 0 };
        let absurd = merged.absurd.get_or_insert(own);
        absurd.count = absurd.count.saturating_add(1);
        // What it saved is there all the same.
        size = there;
    }
    let range = AddressRange::saturating(segment.address, size);
    let saved = there.min(range.len());
    (!range.is_empty()).then_some(Extent { range, saved, offset: segment.offset, flags: segment.flags })
}

/// Goes over the borders in address order.
#[derive(Default)]
struct Sweep {
    at: u64,
    /// The extents that hold the address that the sweep is at, and those that saved it.
    extents: BTreeSet<usize>,
    saved: BTreeSet<usize>,
    /// How many of them grant each right: read, write, execute.
    rights: [u64; 3],
    /// Whether one extent holds the bytes on both sides of `at`: then they are one mapping.
    bridged: bool,
    /// Of each extent, whether some of what it saved is dropped.
    dropped: Vec<bool>,
}

const RIGHTS: [elf::ProgramFlags; 3] = [elf::PF_R, elf::PF_W, elf::PF_X];

impl Sweep {
    fn cross(&mut self, border: Border, extents: &[Extent], merged: &mut Merged) {
        if border.at > self.at {
            self.take(border.at, extents, merged);
            self.at = border.at;
            self.bridged = !self.extents.is_empty();
        }
        let Border { begins, saved, index, .. } = border;
        let (first, set) =
            (self.saved.first().copied(), if saved { &mut self.saved } else { &mut self.extents });
        if begins {
            set.insert(index);
        } else {
            set.remove(&index);
        }
        if saved {
            // Only the segment that comes first in the file is used. Later ones were marked when
            // they began.
            let loser = first.filter(|_| begins).map(|first| first.max(index));
            if let Some(mark) = loser.and_then(|loser| self.dropped.get_mut(loser)) {
                *mark = true;
            }
            return;
        }
        // What ends here is crossed before what begins here.
        if !begins {
            self.bridged = !self.extents.is_empty();
        }
        let flags = extents.get(index).map_or(0, |extent| extent.flags);
        for (count, right) in self.rights.iter_mut().zip(RIGHTS) {
            if flags & right.0 != 0 {
                *count = if begins { count.saturating_add(1) } else { count.saturating_sub(1) };
            }
        }
    }

    /// Adds the stretch up to `end`, if a segment holds it.
    fn take(&self, end: u64, extents: &[Extent], merged: &mut Merged) {
        let range = AddressRange::saturating(self.at, end.saturating_sub(self.at));
        let behind = self.saved.len().saturating_sub(1) as u64;
        merged.dropped.bytes = merged.dropped.bytes.saturating_add(range.len().saturating_mul(behind));
        let kept = self.saved.first().copied();
        let holder = kept.or_else(|| self.extents.first().copied());
        let Some(extent) = holder.and_then(|index| extents.get(index)) else { return };
        let [read, write, execute] = self.rights.map(|count| count > 0);
        let inside = range.start().saturating_sub(extent.range.start());
        merged.parts.push(Part {
            range,
            permissions: Permissions::new(read, write, execute),
            saved: if kept.is_some() { range.len() } else { 0 },
            offset: extent.offset.saturating_add(inside),
            goes_on: self.bridged,
        });
    }
}
