//! Random plans of heaps: which blocks there are, in which states, in which mappings.

use std::fmt;

use crate::figures::{ERAS, Kind, Target};
use proptest::collection::vec;
use proptest::prelude::*;

/// What is to become of a block, where its neighbours and its size allow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    Used,
    /// In the cache of that number, modulo how many there are.
    Cached(u8),
    Fast,
    Unsorted,
    Binned,
}

/// A block: how many steps of the alignment its chunk is larger than the smallest.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) steps: u64,
    pub(crate) want: Want,
}

/// How the main arena got a stretch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Got {
    /// By `brk`, so many bytes behind what it had from it before: somebody else took those.
    Brk(u64),
    /// By `mmap`, since `brk` could not.
    Mmap,
}

/// Memory that an arena got in one piece.
#[derive(Clone)]
pub(crate) struct Stretch {
    pub(crate) got: Got,
    pub(crate) blocks: Vec<Block>,
    /// How many steps the top chunk is larger than the smallest; by default what the page leaves.
    pub(crate) top: Option<u64>,
    /// What becomes of the old top chunk when the arena goes on elsewhere.
    pub(crate) rest: Want,
}

/// A block with a mapping of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped {
    pub(crate) pages: u64,
    /// What it is aligned to, as a power of two.
    pub(crate) align: Option<u32>,
    /// How many pages the header says that alignment left behind; the mapping was of that size once.
    pub(crate) ghost: Option<u64>,
    /// In which cache it lies, since 2.43.
    pub(crate) cached: Option<u8>,
}

/// A process.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) main: Vec<Stretch>,
    /// Of each further arena, its heaps.
    pub(crate) arenas: Vec<Vec<Stretch>>,
    /// Of each thread with a cache, in which arena that lies.
    pub(crate) caches: Vec<usize>,
    /// Whether `glibc.malloc.tcache_max` lets caches take large chunks.
    pub(crate) large: bool,
    pub(crate) mapped: Vec<Mapped>,
    /// Whether blocks may hold numbers that look like sizes of chunks.
    pub(crate) lookalikes: bool,
    pub(crate) seed: u64,
}

// Plans are long: one line for each stretch.
impl fmt::Debug for Block {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{:?}", self.steps, self.want)
    }
}

impl fmt::Debug for Stretch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { got, blocks, top, rest } = self;
        let line = format!("{got:?} top {top:?} rest {rest:?}: {blocks:?}");
        out.write_str(&line)
    }
}

fn want() -> impl Strategy<Value = Want> {
    prop_oneof![
        8 => Just(Want::Used),
        4 => any::<u8>().prop_map(Want::Cached),
        2 => Just(Want::Fast),
        2 => Just(Want::Unsorted),
        4 => Just(Want::Binned),
    ]
}

fn block() -> impl Strategy<Value = Block> {
    // Few sizes, so that lists get long, and all sizes that there are bins for.
    let steps = prop_oneof![
        8 => 0..6_u64,
        4 => 0..64_u64,
        2 => 60..200_u64,
        1 => 200..1500_u64,
    ];
    (steps, want()).prop_map(|(steps, want)| Block { steps, want })
}

fn stretch(blocks: usize) -> impl Strategy<Value = Stretch> {
    let got = prop_oneof![
        2 => (1..5000_u64).prop_map(Got::Brk),
        2 => Just(Got::Brk(4096)),
        4 => Just(Got::Mmap),
    ];
    let top = prop_oneof![2 => (0..5_u64).prop_map(Some), 1 => (0..900_u64).prop_map(Some), 1 => Just(None)];
    (got, vec(block(), 1..blocks), top, want()).prop_map(|(got, blocks, top, rest)| Stretch {
        got,
        blocks,
        top,
        rest,
    })
}

fn mapped() -> impl Strategy<Value = Mapped> {
    let align = proptest::option::weighted(0.4, 5..17_u32);
    let ghost = proptest::option::weighted(0.3, 1..60_u64);
    let cached = proptest::option::weighted(0.2, any::<u8>());
    (1..20_u64, align, ghost, cached).prop_map(|(pages, align, ghost, cached)| Mapped {
        pages,
        align,
        ghost,
        cached,
    })
}

/// So many plans of a property, or as many times more as `GDB_LEAK_SOAK` says.
pub(crate) fn cases(count: u32) -> ProptestConfig {
    let times = std::env::var("GDB_LEAK_SOAK").map_or(1, |times| times.parse().unwrap());
    let plain = ProptestConfig::default();
    ProptestConfig { cases: count * times, max_global_rejects: plain.max_global_rejects * times, ..plain }
}

/// A version, each as likely as the other.
pub(crate) fn eras() -> impl Strategy<Value = u32> {
    proptest::sample::select(&ERAS[..])
}

/// Processes of these versions on that kind of machine.
pub(crate) fn plans(kind: Kind, eras: impl Strategy<Value = u32>) -> impl Strategy<Value = Plan> {
    // By brk at once as a rule, seldom from an odd place, seldom by mmap.
    let first =
        prop_oneof![6 => Just(Got::Brk(0)), 1 => (1..3000_u64).prop_map(Got::Brk), 1 => Just(Got::Mmap)];
    let main = (first, vec(stretch(40), 1..4)).prop_map(|(first, mut stretches)| {
        stretches[0].got = first;
        stretches
    });
    let arenas = vec(vec(stretch(25), 1..4), 0..3);
    let caches = vec(0..3_usize, 1..4);
    let rest = (any::<bool>(), vec(mapped(), 0..4), any::<bool>(), any::<u64>());
    (eras, main, arenas, caches, rest).prop_map(
        move |(minor, main, arenas, caches, (large, mapped, lookalikes, seed))| Plan {
            target: Target { kind, minor },
            caches: caches.into_iter().map(|arena| arena % (arenas.len() + 1)).collect(),
            main,
            arenas,
            large,
            mapped,
            lookalikes,
            seed,
        },
    )
}
