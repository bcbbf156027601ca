//! Over the blocks in use, in address order, and every word in them that points at one.

use crate::heap::block::{Span, State, Unit};
use crate::memory::{Buffer, Memory};
use crate::pass::Chunk;
use crate::range::AddressRange;
use crate::word::WordFormat;

use super::index::{Cursor, Hit, Index};
use super::words::{self, Content};

/// How many words of a block hold the links of a free chunk, and may be left from then.
///
/// glibc 2.17 to 2.43, malloc/malloc.c, `struct malloc_chunk`: `fd`, `bk`, `fd_nextsize`, `bk_nextsize`.
const LINKS: u64 = 4;

/// What is met on the way.
pub(super) trait Visit {
    /// A unit starts, whatever its state.
    fn unit(&mut self);

    /// The word at `address`, in the block of `unit`, points at `hit`; whether links of a free
    /// chunk may have stood there.
    fn word(&mut self, unit: &Unit, address: u64, hit: &Hit, links: bool);
}

/// The blocks of a heap and the memory that they are read from.
pub(super) struct Walk<'w> {
    memory: &'w dyn Memory,
    format: WordFormat,
    index: Index<'w>,
}

impl<'w> Walk<'w> {
    pub(super) fn new(memory: &'w dyn Memory, index: &Index<'w>) -> Self {
        Self { memory, format: memory.word_format(), index: *index }
    }

    /// The ranges that the blocks lie in.
    pub(super) fn ranges(&self) -> Vec<AddressRange> {
        self.index.blocks().spans().iter().map(|span| span.range).collect()
    }

    /// Shows what lies in a chunk to `visit`, as far as `near` lets words pass.
    ///
    /// Returns how many bytes of blocks in use are missing.
    pub(super) fn chunk(
        &self,
        chunk: &Chunk,
        buffer: &mut Buffer,
        near: &impl Fn(u64) -> bool,
        visit: &mut impl Visit,
    ) -> u64 {
        let mut missing = 0_u64;
        let spans = self.index.blocks().spans();
        let first = spans.partition_point(|span| span.range.end() <= chunk.own.start());
        let behind = spans.get(first..).unwrap_or_default().iter();
        for span in behind.take_while(|span| span.range.start() < chunk.own.end()) {
            let Some(range) = span.range.intersection(chunk.own) else { continue };
            words::pieces(self.memory, range, buffer, |at, content| {
                let lost = self.units(span, at, &content, near, visit);
                missing = missing.saturating_add(lost);
            });
        }
        missing
    }

    /// The units in `range` of a span. Returns how many bytes of blocks in use are missing.
    fn units(
        &self,
        span: &Span,
        range: AddressRange,
        content: &Content<'_>,
        near: &impl Fn(u64) -> bool,
        visit: &mut impl Visit,
    ) -> u64 {
        let (mut cursor, mut missing) = (Cursor::default(), 0_u64);
        for unit in self.index.blocks().units_near(span, range.start()) {
            if unit.range.start() >= range.end() {
                break;
            }
            if range.contains(unit.range.start()) {
                visit.unit();
            }
            if unit.state != State::Used {
                continue;
            }
            if matches!(content, Content::Missing) {
                let lost = self.index.own(&unit).intersection(range);
                missing = missing.saturating_add(lost.map_or(0, AddressRange::len));
            }
            self.block(&unit, range, content.bytes(), &mut cursor, near, visit);
        }
        missing
    }

    /// The words of a block that lie in `range`, whose bytes are given.
    #[inline]
    fn block(
        &self,
        unit: &Unit,
        range: AddressRange,
        bytes: &[u8],
        cursor: &mut Cursor,
        near: &impl Fn(u64) -> bool,
        visit: &mut impl Visit,
    ) {
        let block = self.index.own(unit);
        let Some(here) = block.intersection(range) else { return };
        let place = |address: u64| usize::try_from(address.wrapping_sub(range.start())).unwrap_or(usize::MAX);
        let words = bytes.get(place(here.start())..place(here.end())).unwrap_or_default();
        let links = block.start().saturating_add((self.format.size as u64).saturating_mul(LINKS));
        words::each(self.format, here.start(), words, near, |at, value| {
            if let Some(hit) = self.index.find(cursor, value) {
                visit.word(unit, at, &hit, at < links);
            }
        });
    }
}
