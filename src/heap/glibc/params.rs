//! malloc's parameters and its account of mapped chunks: `mp_`, found without its symbol.
//!
//! It lies in the same data as the main arena. What finds it is `sbrk_base`, an
//! address where malloc's memory starts, right behind counts and sums that have
//! to agree with each other.

use crate::memory::{Memory, Region};
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::word::WordFormat;

use super::layout::{StateLayout, up};

/// What malloc says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Params {
    /// Where `sbrk_base` lies, which the rest is counted from.
    pub at: u64,
    /// How many chunks are mapped on their own (`n_mmaps`).
    pub mapped: u64,
    /// Their bytes (`mmapped_mem`).
    pub mapped_bytes: u64,
    /// Where the main arena's memory starts (`sbrk_base`).
    pub base: u64,
    /// How many chunks a list of a thread's cache may have (`tcache_count`), since 2.26.
    pub tcache_count: Option<u64>,
    /// Whether there are parameters for huge pages, since 2.35; `None` where nothing tells.
    pub huge_pages: Option<bool>,
}

/// One form of the structure.
#[derive(Clone, Copy)]
struct Form {
    /// How far before `mmapped_mem` the counts are.
    counts: u64,
    /// Whether `max_total_mem` follows the bytes of mapped chunks.
    total: bool,
    /// Whether there are parameters for huge pages.
    huge: bool,
}

/// What the numbers are held to.
#[derive(Clone, Copy)]
struct Rules {
    /// Whether there are bytes only where there are chunks.
    exact: bool,
    /// Whether no call of malloc is in the middle of counting.
    at_rest: bool,
    /// What the sizes of chunks are multiples of.
    align: u64,
}

/// All forms.
///
/// glibc, malloc/malloc.c, `struct malloc_par`: `n_mmaps`, `n_mmaps_max`, `max_n_mmaps` and
/// `no_dyn_threshold` of four bytes each, `mmapped_mem`, `max_mmapped_mem`, up to 2.23
/// `max_total_mem`, then `sbrk_base`. Since 2.35 `hp_flags` of four bytes comes
/// before them, which on 64-bit machines leaves four bytes of padding behind.
const FORMS: [Form; 3] = [
    Form { counts: 20, total: false, huge: true },
    Form { counts: 16, total: false, huge: false },
    Form { counts: 16, total: true, huge: false },
];

/// How far from the main arena the parameters may lie: both are data of malloc.c alone.
const NEAR: u64 = 16 << 10;

/// How far they are at most in all libraries that were looked at. Seen: glibc 2.36, 2336 bytes from one start to the
/// other; in static programs 160, glibc 2.31 to 2.43.
const BESIDE: u64 = 4 << 10;

/// The parameters of the malloc whose main arena is at `state` and its top chunk at `top`.
pub(super) fn find(memory: &dyn Memory, layout: StateLayout, state: u64, top: u64) -> Option<Params> {
    let format = memory.word_format();
    let size = format.size as u64;
    let mut peek = Peek::new(memory);
    let start = up(state.saturating_sub(NEAR), size);
    let mut best: Option<((u32, bool), Params)> = None;
    let end = start.saturating_add(NEAR.saturating_mul(2));
    // The arena's own words may look like them: `top` is an address where memory starts too.
    let arena = AddressRange::saturating(state, layout.size(true));
    for at in (start..end).step_by(format.size).filter(|at| !arena.contains(*at)) {
        let Some(base) = peek.word(at) else { continue };
        // It is zero as long as all blocks have mappings of their own.
        let beside = arena.start().saturating_sub(at) <= BESIDE && at.saturating_sub(arena.end()) <= BESIDE;
        let none = base == 0 && beside;
        // Observed: it is not an aligned address if a program called sbrk before its first malloc.
        // Seen: tests/fixtures/heap_foreign.c.
        if !none && !memory.region_at(base).is_some_and(Region::mutable) {
            continue;
        }
        // Observed: a call counts a mapped chunk first, then the most there were, then its bytes: in
        // the middle of it the numbers do not agree. So only where they would be malloc's otherwise.
        let mut read_all = |at_rest: bool| -> Vec<Params> {
            let rules = Rules { exact: layout.fast, at_rest, align: layout.machine.align };
            FORMS.iter().filter_map(|form| read(&mut peek, format, at, base, rules, *form)).collect()
        };
        let mut forms = read_all(true);
        let agree = !forms.is_empty();
        if !agree {
            forms = read_all(false);
        }
        let huge = forms.first().map(|first| first.huge_pages);
        if forms.iter().any(|params| Some(params.huge_pages) != huge) {
            // More than one form agrees: what it says of the version is nothing.
            for params in &mut forms {
                params.huge_pages = None;
            }
        }
        for params in forms {
            let same = region_start(memory, base) == region_start(memory, top);
            // From 2.27 on the numbers of caches follow. What a program has of its own may lead to where
            // `top` is, and seldom has these: a table of blocks and their sizes in a static program.
            let newer = layout.fast_flag || !layout.fast;
            if none && (params.tcache_count.is_none() || params.mapped == 0) {
                continue;
            }
            let likely = u32::from(params.tcache_count.is_some())
                .saturating_mul(if newer { 16 } else { 1 })
                .saturating_add(u32::from(beside))
                .saturating_add(u32::from(same).saturating_mul(2))
                .saturating_add(u32::from(base <= top && same).saturating_mul(2));
            if best.is_none_or(|(most, _)| (likely, agree) > most) {
                best = Some(((likely, agree), params));
            }
        }
    }
    best.map(|(_, params)| params)
}

fn region_start(memory: &dyn Memory, address: u64) -> Option<u64> {
    memory.region_at(address).map(|region| region.range.start())
}

/// The parameters whose `sbrk_base` lies at `at`, if they agree with each other.
fn read(
    peek: &mut Peek<'_>,
    format: WordFormat,
    at: u64,
    base: u64,
    rules: Rules,
    form: Form,
) -> Option<Params> {
    let Rules { exact, at_rest, align } = rules;
    let Form { counts, total, huge } = form;
    let size = format.size as u64;
    // On 32-bit machines nothing tells the first two forms apart, and nothing differs.
    let counts = if size == 4 { 16 } else { counts };
    let back = if total { 3 } else { 2 };
    let sums = at.checked_sub(size.checked_mul(back)?)?;
    let (mapped_bytes, most_bytes) = peek.two(sums)?;
    let mut numbers = [0_u64; 4];
    let bytes = peek.bytes(sums.checked_sub(counts)?, 16)?;
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
        *number = format.order.value(bytes);
    }
    let [mapped, _, most, fixed] = numbers;
    let thresholds = sums.checked_sub(counts)?;
    let in_order = mapped <= most
        && mapped_bytes <= most_bytes
        && ((mapped == 0) == (mapped_bytes == 0) || !exact)
        && (most == 0) == (most_bytes == 0);
    let agree = (in_order || !at_rest)
        && mapped <= most.saturating_add(1)
        && mapped <= 1 << 24
        // Observed: whole pages up to 2.42. In 2.43 each realloc of a mapped chunk adds two
        // words too many (malloc/malloc.c, mremap_chunk: `new_size - size - offset`), which
        // stay when the chunk goes.
        && (mapped_bytes | most_bytes) & size.saturating_mul(2).wrapping_sub(1) == 0
        && fixed <= 1;
    if !agree || !before_is_plausible(peek, thresholds, size, huge) {
        return None;
    }
    // Behind it since 2.26: tcache_bins, tcache_max_bytes, tcache_count, tcache_unsorted_limit.
    let behind = [1, 2, 3].map(|words| peek.word_at(at, words).unwrap_or(0));
    let [bins, bytes, count] = behind;
    // The bins are for chunks up to that size, each a step larger than those of the one before, and 64 at
    // most; since 2.42 there are others for larger ones.
    let small = bytes.saturating_add(size).checked_div(align).unwrap_or(0);
    let fits = small.abs_diff(bins) <= 2 || (bins == 64 && small > bins);
    let tcache = (1..=64).contains(&bins) && fits && bytes <= 1 << 23 && count <= 0xffff;
    Some(Params {
        at,
        mapped,
        mapped_bytes,
        base,
        tcache_count: tcache.then_some(count),
        huge_pages: Some(huge),
    })
}

/// Whether thresholds and limits stand before the counts at `counts`.
///
/// `trim_threshold`, `top_pad`, `mmap_threshold`, `arena_test`, `arena_max`; since 2.35 `thp_pagesize`,
/// `hp_pagesize` and `hp_flags` behind them, since 2.43 `thp_mode` before those.
fn before_is_plausible(peek: &mut Peek<'_>, counts: u64, size: u64, huge: bool) -> bool {
    let ends: &[u64] = if huge { &[2, 3] } else { &[0] };
    let flags = if huge { 4 } else { 0 };
    ends.iter().any(|words| {
        let end = counts.saturating_sub(flags).saturating_sub(words.saturating_mul(size));
        let start = end.saturating_sub(size.saturating_mul(5));
        let [trim, pad, threshold, test, most] =
            [0, 1, 2, 3, 4].map(|word| peek.word_at(start, word).unwrap_or(u64::MAX));
        // The defaults are 128 KiB each, and the number of arenas for one core: 8, or 2.
        trim > 0 && pad < 1 << 40 && threshold > 0 && test <= 1 << 20 && most <= 1 << 20
    })
}
