//! Where things lie in glibc's malloc, by what changed when. Every number is from its sources.
//!
//! Nothing here asks for a version: each layout is a guess that the structures
//! in memory confirm or refute (see [`super::locate`] and [`super::tcache`]).

/// The bits of a chunk's size that are flags (glibc 2.17 to 2.43, malloc/malloc.c, `SIZE_BITS`).
pub(super) const FLAGS: u64 = 0x7;
/// The chunk before this one is in use (`PREV_INUSE`).
pub(super) const PREV_INUSE: u64 = 0x1;
/// The chunk was mapped on its own (`IS_MMAPPED`).
pub(super) const IS_MMAPPED: u64 = 0x2;
/// The chunk is of another arena than the main one (`NON_MAIN_ARENA`).
pub(super) const NON_MAIN_ARENA: u64 = 0x4;

/// Bins of an arena (`NBINS`); bin 0 does not exist, bin 1 is the unsorted list.
pub(super) const BINS: u64 = 128;
/// The first bins hold chunks of one size each (`NSMALLBINS`).
pub(super) const SMALL_BINS: u64 = 64;

/// Pages are taken to be of this size; larger ones are multiples of it.
pub(super) const PAGE: u64 = 4096;

/// The next multiple of `to` from `address` on; the last address where there is none.
pub(super) fn up(address: u64, to: u64) -> u64 {
    address.checked_next_multiple_of(to).unwrap_or(u64::MAX)
}

/// The sizes that depend on the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Machine {
    /// Bytes of a `size_t` (`SIZE_SZ`).
    pub word: u64,
    /// What every block's address is a multiple of (`MALLOC_ALIGNMENT`).
    ///
    /// glibc, sysdeps/generic/malloc-alignment.h: two words. On i386 16 since
    /// 2.26 (sysdeps/i386/malloc-alignment.h), on powerpc32 16 always.
    pub align: u64,
}

impl Machine {
    /// The bytes of a chunk before its block (`CHUNK_HDR_SZ`).
    pub(super) const fn header(self) -> u64 {
        self.word.saturating_mul(2)
    }

    /// The smallest chunk (`MINSIZE`): four words, aligned.
    pub(super) fn smallest(self) -> u64 {
        self.up(self.word.saturating_mul(4))
    }

    /// The next multiple of the alignment.
    fn up(self, size: u64) -> u64 {
        up(size, self.align)
    }

    /// The chunk that a request of so many bytes gets (`request2size`).
    pub(super) fn chunk_for(self, request: u64) -> u64 {
        self.up(request.saturating_add(self.word)).max(self.smallest())
    }

    /// The first address from `address` on where a chunk may start.
    pub(super) fn first_chunk(self, address: u64) -> u64 {
        self.up(address.saturating_add(self.header())).saturating_sub(self.header())
    }

    /// The fastbin of a chunk of `size` bytes (`fastbin_index`).
    pub(super) const fn fast_bin(self, size: u64) -> u64 {
        (size >> if self.word == 8 { 4 } else { 3 }).saturating_sub(2)
    }

    /// How many fastbins there are (`NFASTBINS`): up to requests of 20 words (`MAX_FAST_SIZE`).
    pub(super) fn fast_bins(self) -> u64 {
        self.fast_bin(self.chunk_for(self.word.saturating_mul(20))).saturating_add(1)
    }

    /// The bin of a free chunk of `size` bytes (`bin_index`), not the unsorted one.
    pub(super) fn bin(self, size: u64) -> u64 {
        let correction = u64::from(self.align > self.header());
        let width = self.align;
        if size < SMALL_BINS.saturating_sub(correction).saturating_mul(width) {
            let index = if width == 16 { size >> 4 } else { size >> 3 };
            return index.saturating_add(correction);
        }
        // `largebin_index_64`, `_32_big` and `_32` differ in the finest step only.
        let (last, base) = match (self.word, self.align) {
            (8, _) => (48, 48),
            (_, 16) => (45, 49),
            _ => (38, 56),
        };
        let steps = [(6, last, base), (9, 20, 91), (12, 10, 110), (15, 4, 119), (18, 2, 124)];
        let found = steps.iter().find(|(shift, most, _)| size >> shift <= *most);
        found.map_or(126, |(shift, _, base)| (size >> shift).saturating_add(*base))
    }
}

/// What an arena's `struct malloc_state` looks like.
///
/// Its parts, in order (malloc/malloc.c): mutex and flags of four bytes each;
/// since 2.27 `have_fastchunks`, a third; up to 2.42 `fastbinsY`; `top`,
/// `last_remainder`, `bins`, `binmap` of four times four bytes, `next`,
/// `next_free`; since 2.23 `attached_threads`; `system_mem`, `max_system_mem`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StateLayout {
    /// The machine's sizes.
    pub machine: Machine,
    /// Up to 2.42: fastbins.
    pub fast: bool,
    /// From 2.27 to 2.42: `have_fastchunks`.
    pub fast_flag: bool,
}

impl StateLayout {
    /// Every layout that there is for words of `word` bytes, the newest first.
    pub(super) fn all(word: u64) -> Vec<Self> {
        let aligns: &[u64] = if word == 8 { &[16] } else { &[16, 8] };
        let of = |align: &u64| {
            let machine = Machine { word, align: *align };
            [(false, false), (true, true), (true, false)].map(|(fast, fast_flag)| Self {
                machine,
                fast,
                fast_flag,
            })
        };
        aligns.iter().flat_map(of).collect()
    }

    /// Where the fastbins start.
    pub(super) fn fast_bins(self) -> u64 {
        let flags: u64 = if self.fast_flag { 12 } else { 8 };
        flags.checked_next_multiple_of(self.machine.word).unwrap_or(flags)
    }

    /// Where `top` lies.
    pub(super) fn top(self) -> u64 {
        let count = if self.fast { self.machine.fast_bins() } else { 0 };
        self.fast_bins().saturating_add(count.saturating_mul(self.machine.word))
    }

    /// Where `bins` starts: two words for each bin from the first on.
    pub(super) fn bins(self) -> u64 {
        self.top().saturating_add(self.machine.header())
    }

    /// Where `next` lies.
    pub(super) fn next(self) -> u64 {
        let bins = BINS.saturating_mul(2).saturating_sub(2).saturating_mul(self.machine.word);
        self.bins().saturating_add(bins).saturating_add(16)
    }

    /// Where `system_mem` lies.
    pub(super) fn system(self, attached: bool) -> u64 {
        let words = if attached { 3 } else { 2 };
        self.next().saturating_add(self.machine.word.saturating_mul(words))
    }

    /// How many bytes the structure has.
    pub(super) fn size(self, attached: bool) -> u64 {
        self.system(attached).saturating_add(self.machine.header())
    }

    /// The address at which bin `index` is as if it were a chunk (`bin_at`), of the state at `state`.
    pub(super) fn bin_at(self, state: u64, index: u64) -> u64 {
        let before = index.saturating_sub(1).saturating_mul(self.machine.header());
        let place = state.wrapping_add(self.bins()).wrapping_add(before);
        place.wrapping_sub(self.machine.header())
    }
}

/// What a thread's `tcache_perthread_struct` looks like: counts, then heads of lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TcacheLayout {
    /// Lists: 64; since 2.42 12 more for large chunks (`TCACHE_MAX_BINS`).
    pub bins: u64,
    /// Bytes of a count: one from 2.26 to 2.29, two since 2.30.
    pub count: u64,
    /// Since 2.42: the counts (`num_slots`) say how many more there may be.
    pub down: bool,
    /// From which size lists for large chunks are counted: since 2.43 a chunk's, before a block's.
    pub from_chunk: bool,
    /// The first version that has it, and the last.
    pub versions: (u32, u32),
}

impl TcacheLayout {
    /// Every layout that there was.
    pub(super) const ALL: [Self; 4] = [
        Self { bins: 76, count: 2, down: true, from_chunk: true, versions: (43, NEWEST) },
        Self { bins: 76, count: 2, down: true, from_chunk: false, versions: (42, 42) },
        Self { bins: 64, count: 2, down: false, from_chunk: false, versions: (30, 41) },
        Self { bins: 64, count: 1, down: false, from_chunk: false, versions: (26, 29) },
    ];

    /// Whether it can be that of a malloc whose arenas have this layout.
    pub(super) fn goes_with(self, layout: StateLayout) -> bool {
        match (layout.fast, layout.fast_flag) {
            (false, _) => self.versions.0 >= 43,
            (true, true) => self.versions.0 < 43 && self.versions.1 >= 27,
            (true, false) => self.versions.0 <= 26,
        }
    }

    /// Where the heads of the lists start.
    pub(super) fn entries(self, machine: Machine) -> u64 {
        let counts = self.bins.saturating_mul(self.count);
        counts.checked_next_multiple_of(machine.word).unwrap_or(counts)
    }

    /// How many bytes the structure has.
    pub(super) fn size(self, machine: Machine) -> u64 {
        self.entries(machine).saturating_add(self.bins.saturating_mul(machine.word))
    }

    /// How large the chunk is that holds the structure.
    ///
    /// Folklore: since 2.43 `tcache_init` pads what it asks for twice, where an arena is
    /// given (malloc/malloc.c: `_int_malloc (av, request2size (bytes))`). Seen: 0x310 in Debian's 2.43.
    pub(super) fn chunks(self, machine: Machine) -> [u64; 2] {
        let once = machine.chunk_for(self.size(machine));
        [once, if self.down { machine.chunk_for(once) } else { once }]
    }

    /// The list that a chunk of `size` bytes goes to (`csize2tidx`, `large_csize2tidx`).
    pub(super) fn bin(self, machine: Machine, size: u64) -> Option<u64> {
        let past = size.checked_sub(machine.smallest())?;
        let index = past.div_ceil(machine.align);
        if index < 64 {
            return Some(index);
        }
        // glibc 2.42, malloc/malloc.c: one list for each doubling beyond the largest
        // small size (`MAX_TCACHE_SMALL_SIZE`), which 2.43 made that of a chunk.
        let largest = machine.align.saturating_mul(63).saturating_add(machine.smallest());
        let largest = if self.from_chunk { largest } else { largest.saturating_sub(machine.word) };
        let largest = u32::try_from(largest).ok()?;
        let doublings = largest.leading_zeros().checked_sub(u32::try_from(size).ok()?.leading_zeros())?;
        let index = 64_u64.saturating_add(u64::from(doublings));
        (index < self.bins).then_some(index)
    }
}

/// The oldest version whose heaps are walked.
pub(super) const OLDEST: u32 = 17;

/// The newest version whose sources were read: 2.43, and 2.44 shows the same structures.
pub(super) const NEWEST: u32 = 44;

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Machine = Machine { word: 8, align: 16 };

    #[test]
    fn a_state_of_glibc_2_36_has_its_parts_where_its_debug_symbols_say() {
        // ptype /o struct malloc_state, libc6-dbg 2.36-9+deb12u14 and 2.31-13+deb11u11.
        let layout = StateLayout { machine: WIDE, fast: true, fast_flag: true };
        let places = [layout.fast_bins(), layout.top(), layout.bins(), layout.next(), layout.system(true)];
        assert_eq!(places, [16, 96, 112, 2160, 2184]);
        assert_eq!(layout.size(true), 2200);
    }

    #[test]
    fn tcache_structures_have_the_chunks_that_were_seen() {
        let chunks = TcacheLayout::ALL.map(|layout| layout.chunks(WIDE));
        assert_eq!(chunks, [[0x300, 0x310], [0x300, 0x310], [0x290; 2], [0x250; 2]]);
    }

    #[test]
    fn small_and_large_sizes_go_to_the_bins_of_bin_index() {
        let sizes = [0x20, 0x3f0, 0x400, 0x810, 0xc40, 0x10000, 0x40000, 1 << 30];
        assert_eq!(sizes.map(|size| WIDE.bin(size)), [2, 63, 64, 80, 97, 121, 125, 126]);
    }
}
