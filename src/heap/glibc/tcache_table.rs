//! The structure of one cache of a thread: a count and the head of a list for each size.

use crate::peek::Peek;
use crate::word::WordFormat;

use super::layout::{Machine, TcacheLayout};

/// The counts and heads of one structure.
pub(super) struct Table {
    pub(super) counts: Vec<u64>,
    pub(super) heads: Vec<u64>,
}

/// The bytes of one structure.
pub(super) struct Bytes<'b> {
    format: WordFormat,
    counts: &'b [u8],
    /// The bytes of one count.
    size: usize,
    heads: &'b [u8],
}

impl<'b> Bytes<'b> {
    /// Those at `at`, without a copy; `None` where one is missing.
    pub(super) fn read(
        peek: &'b mut Peek<'_>,
        layout: TcacheLayout,
        machine: Machine,
        at: u64,
    ) -> Option<Self> {
        let format = peek.format();
        let length = usize::try_from(layout.size(machine)).ok()?;
        let entries = usize::try_from(layout.entries(machine)).ok()?;
        let size = usize::try_from(layout.count).ok()?;
        let counts = usize::try_from(layout.bins).ok()?.checked_mul(size)?;
        let bytes = peek.bytes(at, length)?;
        Some(Self { format, counts: bytes.get(..counts)?, size, heads: bytes.get(entries..)? })
    }

    /// The counts as they are written.
    pub(super) fn counts(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.chunks_exact(self.size).map(|bytes| self.format.order.value(bytes))
    }

    /// The first block of each list; 0 where it is empty.
    pub(super) fn heads(&self) -> impl Iterator<Item = u64> + '_ {
        self.heads.chunks_exact(self.format.size).map(|word| self.format.read(word).unwrap_or(0))
    }
}

/// The counts and heads at `at`; `None` where a byte is missing.
pub(super) fn table(peek: &mut Peek<'_>, layout: TcacheLayout, machine: Machine, at: u64) -> Option<Table> {
    let bytes = Bytes::read(peek, layout, machine, at)?;
    Some(Table { counts: bytes.counts().collect(), heads: bytes.heads().collect() })
}

/// How many blocks a list has whose count is `count`.
pub(super) fn said(layout: TcacheLayout, fill: u64, count: u64) -> Option<u64> {
    if layout.down { fill.checked_sub(count) } else { Some(count) }
}

impl Table {
    /// How many blocks list `index` says that it has.
    pub(super) fn count(&self, layout: TcacheLayout, fill: u64, index: usize) -> Option<u64> {
        said(layout, fill, *self.counts.get(index)?)
    }
}
