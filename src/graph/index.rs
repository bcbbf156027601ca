//! From a word to the block in use that it points at.
//!
//! Of the words of a heap one in ten is an address, and of those that are not most lie
//! nowhere near a heap: two comparisons tell, before anything is looked up. Words that
//! follow each other mostly point into the same span, so a [`Cursor`] tries that first.

use crate::heap::block::{Blocks, Span, State, Unit};
use crate::heap::recorded::Recorded;
use crate::range::AddressRange;

/// Blocks in use by address.
#[derive(Clone, Copy)]
pub struct Index<'b> {
    blocks: &'b Blocks,
    recorded: Option<&'b Recorded>,
    low: u64,
    extent: u64,
}

/// The span that the last word pointed into.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cursor(usize);

/// What a word points at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit {
    /// The block.
    pub unit: Unit,
    /// How far into the block; where the word points at its header, the distance from there wraps around.
    pub offset: u64,
    /// How many bytes were asked for, where that was recorded.
    pub asked: Option<u64>,
}

impl Hit {
    /// How far into the block the word points, which is negative for its header.
    #[must_use]
    pub const fn distance(&self) -> i64 {
        i64::from_ne_bytes(self.offset.to_ne_bytes())
    }

    /// Whether the word may be malloc's own pointer to the unit behind the block.
    ///
    /// Folklore: the last word that a block may use is where the header of the next chunk
    /// starts, and malloc passes chunks around by these addresses: copies of them are left
    /// behind in registers, on stacks and where a free chunk's links stood. Seen: glibc
    /// 2.36, after each call of `free` that merged chunks.
    #[must_use]
    pub fn header(&self) -> bool {
        let Unit { range, shape, .. } = self.unit;
        let next = range.end().saturating_sub(self.unit.block().start());
        shape.cost < shape.lead && self.offset == next
    }
}

impl<'b> Index<'b> {
    /// The blocks in use among `blocks`.
    #[must_use]
    pub fn new(blocks: &'b Blocks) -> Self {
        let spans = blocks.spans();
        let low = spans.first().map_or(0, |span| span.range.start());
        let high = spans.last().map_or(0, |span| span.range.end());
        Self { blocks, recorded: None, low, extent: high.saturating_sub(low) }
    }

    /// The same blocks, each with the bytes alone that were asked for, where they were recorded.
    #[must_use]
    pub fn bounded(self, recorded: Option<&'b Recorded>) -> Self {
        Self { recorded, ..self }
    }

    /// The bytes of a block that belong to the program.
    ///
    /// valgrind 3.19, `memcheck/mc_leakcheck.c`, `find_chunk_for`: of a block of no bytes its start
    /// does all the same, else no pointer would hold it.
    #[must_use]
    #[inline]
    pub fn own(&self, unit: &Unit) -> AddressRange {
        let block = unit.block();
        match self.asked(unit) {
            Some(asked) => AddressRange::saturating(block.start(), asked.max(1).min(block.len())),
            None => block,
        }
    }

    #[inline]
    fn asked(&self, unit: &Unit) -> Option<u64> {
        self.recorded.and_then(|recorded| recorded.asked(unit))
    }

    /// All blocks, free ones too.
    #[must_use]
    pub fn blocks(&self) -> &'b Blocks {
        self.blocks
    }

    /// Whether a word with this value may point at a block at all.
    #[must_use]
    #[inline]
    pub fn near(&self, value: u64) -> bool {
        value.wrapping_sub(self.low) < self.extent
    }

    /// The block in use that `value` points at or into.
    #[must_use]
    #[inline]
    pub fn find(&self, cursor: &mut Cursor, value: u64) -> Option<Hit> {
        let unit = self.blocks.block_of(self.span(cursor, value)?, value)?;
        if unit.state != State::Used {
            return None;
        }
        let offset = value.wrapping_sub(unit.block().start());
        let asked = self.asked(&unit);
        asked.is_none_or(|asked| offset < asked.max(1)).then_some(Hit { unit, offset, asked })
    }

    /// Returns the block in use whose header starts at `value`.
    ///
    /// `None` where blocks have no header of their own, since `value` is then the block itself.
    #[must_use]
    pub fn with_header(&self, value: u64) -> Option<Hit> {
        let unit = self.blocks.unit_from(value).filter(|unit| unit.state == State::Used)?;
        let offset = value.wrapping_sub(unit.block().start());
        (offset != 0).then(|| Hit { unit, offset, asked: self.asked(&unit) })
    }

    #[inline]
    fn span(&self, cursor: &mut Cursor, value: u64) -> Option<&'b Span> {
        let spans = self.blocks.spans();
        if let Some(span) = spans.get(cursor.0).filter(|span| span.range.contains(value)) {
            return Some(span);
        }
        let at = spans.partition_point(|span| span.range.end() <= value);
        let span = spans.get(at).filter(|span| span.range.contains(value))?;
        cursor.0 = at;
        Some(span)
    }
}
