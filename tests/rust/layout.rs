//! Layouts of memory that nobody would draw, and the naive search over them.

use std::collections::BTreeMap;
use std::ops::Range;

use gdb_leak::memory::{Buffer, Memory, Region, RegionKind, View};
use gdb_leak::range::AddressRange;
use gdb_leak::search::Match;
use gdb_leak::source::captured::Captured;
use gdb_leak::word::{ByteOrder, WordFormat};
use proptest::prelude::*;
use regex_automata::nfa::thompson::{self, pikevm::PikeVM};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

/// Memory that lends at most `piece` bytes at a time and ends pieces at its multiples.
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
        let border = (range.start() / self.piece + 1) * self.piece;
        let piece = AddressRange::new(range.start(), border.min(range.end())).unwrap();
        self.memory.view(piece, buffer)
    }
}

/// A region of a layout: addresses left out before it, its bytes, bytes after them that are not saved.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) hole: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) unsaved: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) start: u64,
    pub(crate) parts: Vec<Part>,
    pub(crate) piece: u64,
    pub(crate) chunk: u64,
}

impl Layout {
    pub(crate) fn memory(&self) -> Pieces {
        let mut memory = Captured::new();
        let mut at = self.start;
        for part in &self.parts {
            at += part.hole;
            let length = part.bytes.len() as u64 + part.unsaved;
            memory = memory.with_region(at, &part.bytes, length, RegionKind::Anon, "");
            at += length;
        }
        Pieces { memory, piece: self.piece }
    }

    /// Every byte that is there.
    pub(crate) fn bytes(&self) -> BTreeMap<u64, u8> {
        let mut all = BTreeMap::new();
        let mut at = self.start;
        for part in &self.parts {
            at += part.hole;
            all.extend((at..).zip(part.bytes.iter().copied()));
            at += part.bytes.len() as u64 + part.unsaved;
        }
        all
    }

    pub(crate) fn end(&self) -> u64 {
        let length = |part: &Part| part.hole + part.bytes.len() as u64 + part.unsaved;
        self.start + self.parts.iter().map(length).sum::<u64>()
    }
}

/// Bytes of `alphabet`, some of them as runs, so that needles overlap and patterns go on.
pub(crate) fn bytes_of(alphabet: &'static [u8], runs: Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let run = (proptest::sample::select(alphabet), prop_oneof![3 => 1..3_usize, 1 => 3..20_usize]);
    let runs = proptest::collection::vec(run, runs);
    runs.prop_map(|runs| runs.into_iter().flat_map(|(byte, count)| vec![byte; count]).collect())
}

pub(crate) fn layouts(alphabet: &'static [u8]) -> impl Strategy<Value = Layout> {
    let part = (
        prop_oneof![3 => Just(0), 1 => 1..12_u64],
        bytes_of(alphabet, 0..24),
        prop_oneof![4 => Just(0), 1 => 1..6_u64],
    )
        .prop_map(|(hole, bytes, unsaved)| Part { hole, bytes, unsaved });
    let parts = proptest::collection::vec(part, 0..7);
    let sizes = (prop_oneof![1..9_u64, 9..80_u64, Just(4096)], prop_oneof![1..9_u64, 9..64_u64]);
    (0x1000..0x1010_u64, parts, sizes).prop_map(|(start, parts, (piece, chunk))| Layout {
        start,
        parts,
        piece,
        chunk,
    })
}

/// Which part of a layout is searched, in parts per thousand of it; mostly all regions.
pub(crate) fn cuts() -> impl Strategy<Value = Option<(u64, u64)>> {
    proptest::option::weighted(0.4, (0..1000_u64, 0..1000_u64))
}

pub(crate) fn aligns() -> impl Strategy<Value = Option<u64>> {
    proptest::option::weighted(0.4, prop_oneof![Just(1), Just(2), Just(3), Just(4), Just(8), Just(16)])
}

pub(crate) fn limits() -> impl Strategy<Value = Option<usize>> {
    proptest::option::weighted(0.5, 0..20_usize)
}

pub(crate) fn orders() -> impl Strategy<Value = ByteOrder> {
    prop_oneof![Just(ByteOrder::Little), Just(ByteOrder::Big)]
}

/// The stretches of bytes in `ranges` without a gap, each with its start.
pub(crate) fn stretches(all: &BTreeMap<u64, u8>, ranges: &[AddressRange]) -> Vec<(u64, Vec<u8>)> {
    let mut stretches: Vec<(u64, Vec<u8>)> = Vec::new();
    for (&address, &byte) in all {
        if !ranges.iter().any(|range| range.contains(address)) {
            continue;
        }
        match stretches.last_mut() {
            Some((start, bytes)) if *start + bytes.len() as u64 == address => bytes.push(byte),
            _ => stretches.push((address, vec![byte])),
        }
    }
    stretches
}

/// Every place where `length` bytes satisfy `holds`.
pub(crate) fn naive(
    stretches: &[(u64, Vec<u8>)],
    length: usize,
    holds: impl Fn(u64, &[u8]) -> bool,
) -> Vec<Match> {
    let mut matches = Vec::new();
    for (start, bytes) in stretches {
        for (address, window) in (*start..).zip(bytes.windows(length)) {
            if holds(address, window) {
                matches.push(Match { address, length: u32::try_from(length).unwrap() });
            }
        }
    }
    matches
}

/// The first place, the longest that the pattern takes there, on from its end.
pub(crate) fn naive_pattern(
    stretches: &[(u64, Vec<u8>)],
    pattern: &str,
    ignore_case: bool,
    longest: usize,
) -> Vec<Match> {
    let config =
        syntax::Config::new().unicode(false).utf8(false).multi_line(true).case_insensitive(ignore_case);
    let vm = PikeVM::builder()
        .syntax(config)
        .thompson(thompson::Config::new().utf8(false))
        .build(pattern)
        .unwrap();
    let mut cache = vm.create_cache();
    let mut matches = Vec::new();
    for (start, bytes) in stretches {
        let mut at = 0;
        while at < bytes.len() {
            let allowed = (at + longest).min(bytes.len());
            let input = Input::new(bytes).span(at..allowed).anchored(Anchored::Yes);
            let end = vm.find(&mut cache, input).map_or(at, |found| found.end());
            if at < end {
                let length = u32::try_from(end - at).unwrap();
                matches.push(Match { address: start + at as u64, length });
            }
            at = end.max(at + 1);
        }
    }
    matches
}
