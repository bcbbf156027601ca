//! A heap of a few blocks with roots beside it, as bytes.

use std::collections::BTreeMap;

use gdb_leak::graph::{
    Graph, Heuristics, Index, Marks, RegisterRoot, RootKind, Roots, Stretch, Tracer, Wanted,
};
use gdb_leak::heap::block::{Blocks, Part, Shape, State};
use gdb_leak::memory::{Memory, Permissions, Region};
use gdb_leak::pass::Job;
use gdb_leak::range::AddressRange;
use gdb_leak::source::captured::Captured;
use gdb_leak::word::WordFormat;

/// Where the words of the roots lie: in memory that counts as a stack, or as a table.
pub(crate) const STACK: u64 = 0x7000_0000;
pub(crate) const TABLE: u64 = 0x7100_0000;
/// Where files are mapped: read-only data, then code.
pub(crate) const DATA: u64 = 0x1000;
pub(crate) const CODE: u64 = 0x9000;

/// Units that lie one behind the other, what their blocks hold, and what the roots hold.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) format: WordFormat,
    /// Where the first unit starts.
    pub(crate) start: u64,
    /// Of each unit how many words it has, header included, and its state.
    pub(crate) units: Vec<(u64, State)>,
    /// How many words lie before each unit.
    places: Vec<u64>,
    /// Words of blocks: the unit, the word in its block, the value.
    pub(crate) words: Vec<(usize, u64, u64)>,
    pub(crate) stack: Vec<u64>,
    pub(crate) table: Vec<u64>,
    pub(crate) registers: Vec<u64>,
    /// Whether the stack and the registers are those of a call of the allocator.
    pub(crate) in_call: bool,
    /// The bytes of a file that is mapped read-only at [`DATA`].
    pub(crate) data: Vec<u8>,
}

impl World {
    pub(crate) fn new(format: WordFormat, start: u64, units: &[(u64, State)]) -> Self {
        let mut before = 0;
        let place = |(words, _): &(u64, State)| {
            before += words;
            before - words
        };
        Self {
            format,
            start,
            units: units.to_vec(),
            places: units.iter().map(place).collect(),
            words: Vec::new(),
            stack: Vec::new(),
            table: Vec::new(),
            registers: Vec::new(),
            in_call: false,
            data: Vec::new(),
        }
    }

    fn size(&self) -> u64 {
        self.format.size as u64
    }

    /// Where the block of a unit starts: two words into it, as glibc has it.
    pub(crate) fn block(&self, unit: usize) -> u64 {
        self.start + self.places[unit] * self.size() + 2 * self.size()
    }

    pub(crate) fn blocks(&self) -> Blocks {
        let word = u8::try_from(self.size()).unwrap();
        let mut part = Part::new(self.start, Shape { lead: 2 * word, cost: word }, Some(0));
        for (words, state) in &self.units {
            part.push(part.end() + words * self.size(), *state);
        }
        Blocks::new(vec![part]).0
    }

    /// The words of the heap, and of the word after it, which its last block may use.
    fn heap(&self) -> Vec<u64> {
        let count: u64 = self.units.iter().map(|(words, _)| words).sum();
        let mut words = vec![0; usize::try_from(count).unwrap() + 1];
        for (unit, place, value) in &self.words {
            let at = (self.block(*unit) - self.start) / self.size() + place;
            words[usize::try_from(at).unwrap()] = *value;
        }
        words
    }

    fn bytes(&self, words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| self.format.order.bytes(*word, self.format.size)).collect()
    }

    /// The memory of the heap alone, without what lies in `hole`.
    pub(crate) fn heap_without(&self, hole: AddressRange) -> Captured {
        let bytes = self.bytes(&self.heap());
        let place = |address: u64| usize::try_from(address - self.start).unwrap().min(bytes.len());
        let (before, behind) = (&bytes[..place(hole.start())], &bytes[place(hole.end())..]);
        let mut memory = Captured::new().with_format(self.format);
        for (start, bytes) in [(self.start, before), (hole.end(), behind)] {
            if !bytes.is_empty() {
                memory = memory.with(start, bytes);
            }
        }
        memory
    }

    pub(crate) fn memory(&self) -> Files {
        let (heap, stack, table) = (self.heap(), self.bytes(&self.stack), self.bytes(&self.table));
        let inner = Captured::new()
            .with_format(self.format)
            .with(DATA, &self.data)
            .with(CODE, &[0xc3; 64])
            .with(self.start, &self.bytes(&heap))
            .with(STACK, &stack)
            .with(TABLE, &table);
        let mut regions = inner.regions().to_vec();
        for region in regions.iter_mut().filter(|region| region.range.start() <= CODE) {
            region.name = "/a/library".into();
            region.permissions = Permissions::new(true, false, region.range.start() == CODE);
        }
        Files { inner, regions }
    }

    pub(crate) fn roots(&self) -> Roots {
        let of = |start: u64, words: &[u64], kind: RootKind| Stretch {
            range: AddressRange::with_length(start, words.len() as u64 * self.size()).unwrap(),
            kind,
            thread: None,
        };
        let register = |value: &u64| RegisterRoot {
            thread: 1,
            name: "rax".to_owned(),
            value: *value,
            kind: RootKind::Register,
            in_call: self.in_call,
        };
        let stack = of(STACK, &self.stack, RootKind::Stack);
        Roots {
            innermost: if self.in_call { vec![stack.range] } else { Vec::new() },
            stretches: vec![stack, of(TABLE, &self.table, RootKind::Anon)],
            registers: self.registers.iter().map(register).collect(),
            ..Roots::default()
        }
    }

    /// The marks of all units, and how many words of each kind of root point at blocks.
    pub(crate) fn traced(&self, wanted: Wanted) -> (Marks, BTreeMap<RootKind, u64>) {
        let (memory, blocks, job) = (self.memory(), self.blocks(), Job::default());
        let index = Index::new(&blocks);
        let heuristics = Heuristics::new(&memory, wanted);
        let graph = Graph::new(&memory, &index, &heuristics, &job).unwrap();
        assert_eq!(graph.units(), blocks.len());
        assert_eq!(graph.missing(), 0);
        let mut tracer = Tracer::new(&graph, &blocks);
        let roots = self.roots();
        let (found, missing) =
            roots.scan(&memory, &index, &heuristics, &job, |_, edge| tracer.root(edge)).unwrap();
        assert_eq!(missing, 0);
        let pointers = found.into_iter().map(|(kind, found)| (kind, found.pointers)).collect();
        (tracer.finish(&job).unwrap(), pointers)
    }

    /// Where the bytes lie that a program may use of a unit: up to the next one's size.
    pub(crate) fn range(&self, unit: usize) -> AddressRange {
        let length = (self.units[unit].0 - 1) * self.size();
        AddressRange::with_length(self.block(unit), length).unwrap()
    }

    /// Each word of the block of a unit: its address and its value.
    pub(crate) fn words_of(&self, unit: usize) -> Vec<(u64, u64)> {
        let (heap, block) = (self.heap(), self.range(unit));
        let places = (block.start()..block.end()).step_by(self.format.size);
        places.map(|at| (at, heap[usize::try_from((at - self.start) / self.size()).unwrap()])).collect()
    }
}

/// Captured bytes of which some are a file's.
#[derive(Debug)]
pub(crate) struct Files {
    inner: Captured,
    regions: Vec<Region>,
}

impl Memory for Files {
    fn word_format(&self) -> WordFormat {
        self.inner.word_format()
    }

    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn view<'a>(
        &'a self,
        range: AddressRange,
        buffer: &'a mut gdb_leak::memory::Buffer,
    ) -> gdb_leak::memory::View<'a> {
        self.inner.view(range, buffer)
    }
}
