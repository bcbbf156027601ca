//! Random memory: regions that touch or lie apart, unsaved tails, small pieces.

use gdb_leak::memory::{Buffer, Memory, Region, RegionKind, View};
use gdb_leak::range::AddressRange;
use gdb_leak::source::captured::Captured;
use gdb_leak::word::WordFormat;
use proptest::prelude::*;

/// Memory that lends at most `piece` bytes at a time.
#[derive(Debug)]
pub(crate) struct Pieces {
    pub(crate) memory: Captured,
    pub(crate) piece: u64,
}

impl Memory for Pieces {
    fn word_format(&self) -> WordFormat {
        self.memory.word_format()
    }

    fn regions(&self) -> &[Region] {
        self.memory.regions()
    }

    fn view<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
        self.memory.view(AddressRange::saturating(range.start(), range.len().min(self.piece)), buffer)
    }
}

/// Bytes that are text more often than chance: few letters, pieces of UTF-8, NULs.
pub(crate) fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        6 => "[ab]{1,9}".prop_map(String::into_bytes),
        3 => proptest::collection::vec(0_u8..3, 1..4),
        2 => "[é€😀\u{202e}\u{9b}\t\n]{1,2}".prop_map(String::into_bytes),
        2 => proptest::collection::vec(prop_oneof![0x80_u8..0xff, Just(0xe2), Just(0xf0), Just(0x9f)], 1..3),
    ];
    proptest::collection::vec(part, 0..most).prop_map(|parts| parts.concat())
}

/// Up to four regions with gaps of 0 to 5 bytes before them and unsaved tails of 0 to 3.
pub(crate) fn memory() -> impl Strategy<Value = Pieces> {
    let region = (prop_oneof![Just(0_u64), 0_u64..6], bytes(12), prop_oneof![Just(0_u64), 0_u64..4]);
    (proptest::collection::vec(region, 1..5), prop_oneof![1_u64..9, Just(1 << 20)]).prop_map(
        |(regions, piece)| {
            let mut memory = Captured::new();
            let mut at = 0x1000;
            for (hole, bytes, tail) in regions {
                let length = bytes.len() as u64 + tail;
                memory = memory.with_region(at + hole, &bytes, length, RegionKind::Anon, "");
                at += hole + length;
            }
            Pieces { memory, piece }
        },
    )
}

/// From the first address of any region to the last.
pub(crate) fn whole(memory: &dyn Memory) -> AddressRange {
    let regions = memory.regions();
    let start = regions.first().map_or(0, |region| region.range.start());
    let end = regions.last().map_or(0, |region| region.range.end());
    AddressRange::new(start, end).unwrap()
}

/// Each byte of the range, `None` where it is missing.
pub(crate) fn each_byte(memory: &dyn Memory, range: AddressRange) -> Vec<Option<u8>> {
    let byte = |at| memory.bytes(AddressRange::saturating(at, 1)).ok().map(|bytes| bytes[0]);
    (range.start()..range.end()).map(byte).collect()
}
