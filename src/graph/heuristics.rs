//! Pointers into blocks that hold them as one to their start would.
//!
//! The four rules are those of valgrind's leak check (valgrind 3.19,
//! `memcheck/mc_leakcheck.c`, `heuristic_reachedness`), which has them from Dr. Memory.
//! valgrind knows how many bytes were asked for; where no recording says so, that is any number
//! that would have got a block of the same size.

use crate::memory::{Memory, Permissions};
use crate::peek::Peek;
use crate::range::AddressRange;

use super::index::Hit;
use super::link::{Link, Wanted};

/// How many words of a table are looked at for two functions (`VTABLE_MAX_CHECK`).
const TABLE: u64 = 20;

/// Addresses below this are none.
const PAGE: u64 = 4096;

/// What mapped blocks are rounded up to.
const MAPPED_SLACK: u64 = 4096;

/// How many answers about tables are kept.
const KEPT: usize = 64;

/// Which heuristics count, and where tables of functions may lie.
#[derive(Clone, Debug)]
pub struct Heuristics {
    wanted: Wanted,
    /// Readable mappings of files.
    files: Vec<AddressRange>,
    /// Mappings of files with code.
    code: Vec<AddressRange>,
}

/// Looks at blocks for one thread; keeps what it learned of tables.
pub struct Look<'h, 'm> {
    heuristics: &'h Heuristics,
    peek: Peek<'m>,
    tables: [Option<(u64, bool)>; KEPT],
}

impl Heuristics {
    /// The wanted heuristics over `memory`.
    #[must_use]
    pub fn new(memory: &dyn Memory, wanted: Wanted) -> Self {
        let of_files = |right: fn(bool, bool) -> bool| {
            let takes = move |permissions| match permissions {
                Permissions::Known { read, execute, .. } => right(read, execute),
                Permissions::Unknown => false,
            };
            let regions = memory.regions().iter();
            let files = regions.filter(|region| !region.anonymous() && takes(region.permissions));
            AddressRange::merge(files.map(|region| region.range).collect())
        };
        Self { wanted, files: of_files(|read, _| read), code: of_files(|_, execute| execute) }
    }

    /// A look at the blocks of `memory`.
    #[must_use]
    pub fn look<'h, 'm>(&'h self, memory: &'m dyn Memory) -> Look<'h, 'm> {
        Look { heuristics: self, peek: Peek::new(memory), tables: [None; KEPT] }
    }
}

impl Look<'_, '_> {
    /// How a word that points at `hit` holds the block.
    #[inline]
    pub fn link(&mut self, hit: &Hit) -> Link {
        if hit.offset == 0 { Link::Start } else { self.interior(hit) }
    }

    /// How a word that points at `hit` holds the block, if it does.
    ///
    /// Where malloc's own pointers to chunks may be left over, one that may be such, and by
    /// no heuristic counts as the start, holds nothing.
    #[inline]
    pub fn holds(&mut self, hit: &Hit, leftovers: bool) -> Option<Link> {
        let link = self.link(hit);
        (link.definite() || !leftovers || !hit.header()).then_some(link)
    }

    fn interior(&mut self, hit: &Hit) -> Link {
        let word = self.peek.size();
        let ways = Link::HEURISTICS.into_iter().filter(|way| self.heuristics.wanted.has(*way));
        for way in ways {
            let holds = match way {
                Link::StdString => hit.offset == word.saturating_mul(3) && self.string(hit),
                Link::Length64 => hit.offset == 8 && self.length(hit),
                Link::NewArray => hit.offset == word && self.array(hit),
                _ => hit.offset.checked_rem(word) == Some(0) && self.second_base(hit),
            };
            if holds {
                return way;
            }
        }
        Link::Interior
    }

    /// Length, capacity, a count, and the characters with their end.
    fn string(&mut self, hit: &Hit) -> bool {
        let start = hit.unit.block().start();
        let Some((length, capacity)) = self.peek.two(start) else { return false };
        let header = self.peek.size().saturating_mul(3);
        let asked = capacity.checked_add(header).and_then(|bytes| bytes.checked_add(1));
        // Folklore: an empty string is never on the heap, and a block of zeros is no string.
        // Seen: 61 of 2,000 blocks that only interior pointers held.
        capacity > 0 && length <= capacity && asked.is_some_and(|bytes| self.may_be_asked(hit, bytes))
    }

    /// A number of 64 bits that says how much follows it.
    fn length(&mut self, hit: &Hit) -> bool {
        let order = self.peek.format().order;
        let Some(bytes) = self.peek.bytes(hit.unit.block().start(), 8) else { return false };
        let rest = order.value(bytes);
        let asked = rest.checked_add(8);
        rest > 0 && asked.is_some_and(|bytes| self.may_be_asked(hit, bytes))
    }

    /// A number of elements, and room for a whole number of bytes for each.
    fn array(&mut self, hit: &Hit) -> bool {
        let word = self.peek.size();
        let Some(count) = self.peek.word(hit.unit.block().start()).filter(|count| *count > 0) else {
            return false;
        };
        // The largest block for so many elements of one size that there is.
        let room = hit.asked.unwrap_or_else(|| hit.unit.block().len());
        let each = room.saturating_sub(word).checked_div(count).unwrap_or(0);
        let asked = each.saturating_mul(count).saturating_add(word);
        each > 0 && self.may_be_asked(hit, asked)
    }

    /// Whether a program may have asked for so many bytes and got this block.
    fn may_be_asked(&self, hit: &Hit, bytes: u64) -> bool {
        if let Some(asked) = hit.asked {
            return asked == bytes;
        }
        let unit = &hit.unit;
        let usable = unit.block().len();
        let word = self.peek.size();
        let slack = if unit.arena.is_none() { MAPPED_SLACK } else { word.saturating_mul(2) };
        let above = usable.saturating_sub(slack).saturating_add(1);
        (above..=usable).contains(&bytes)
    }

    /// A table of functions at the start of the object, and one where the pointer leads.
    fn second_base(&mut self, hit: &Hit) -> bool {
        let start = hit.unit.block().start();
        let word = self.peek.size();
        let plausible = |table: &u64| *table >= PAGE && table.checked_rem(word) == Some(0);
        let inner = self.peek.word(start.saturating_add(hit.offset)).filter(plausible);
        let first = inner.and_then(|_| self.peek.word(start)).filter(plausible);
        let (Some(inner), Some(first)) = (inner, first) else { return false };
        self.table(inner) && self.table(first)
    }

    /// Whether `at` looks like a table of functions: nothing but zeros before two of them.
    fn table(&mut self, at: u64) -> bool {
        let place = usize::try_from(at / 8).unwrap_or(0) % KEPT;
        if let Some(Some((_, known))) =
            self.tables.get(place).filter(|slot| slot.is_some_and(|kept| kept.0 == at))
        {
            return *known;
        }
        let found = self.is_table(at);
        if let Some(slot) = self.tables.get_mut(place) {
            *slot = Some((at, found));
        }
        found
    }

    fn is_table(&mut self, at: u64) -> bool {
        let word = self.peek.size();
        let Some(file) = range_at(&self.heuristics.files, at) else { return false };
        let end = at.saturating_add(TABLE.saturating_mul(word)).min(file.end().saturating_sub(word));
        let mut functions = 0_u32;
        let mut place = at;
        while place <= end {
            let Some(function) = self.peek.word(place) else { return false };
            place = place.saturating_add(word);
            if function == 0 {
                continue;
            }
            if range_at(&self.heuristics.code, function).is_none() {
                return false;
            }
            functions = functions.saturating_add(1);
            if functions == 2 {
                return true;
            }
        }
        false
    }
}

/// The range that holds `address`, of ranges in order.
fn range_at(ranges: &[AddressRange], address: u64) -> Option<AddressRange> {
    let at = ranges.partition_point(|range| range.end() <= address);
    ranges.get(at).copied().filter(|range| range.contains(address))
}
