//! Where things lie in glibc's malloc: numbers counted off its sources, not the crate's own.
//!
//! Read at the tags glibc-2.5 to glibc-2.42, and at the last commit before 2.43.

use gdb_leak::word::{ByteOrder, WordFormat};

/// A kind of machine, as malloc sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    X86,
    S390x,
    I386,
    Arm,
    PowerPc,
}

/// A machine and a version of glibc: 2.`minor`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) minor: u32,
}

/// The versions that changed what lies in memory, and some between.
pub(crate) const ERAS: [u32; 11] = [17, 23, 26, 27, 29, 30, 32, 34, 35, 42, 43];

/// `struct malloc_state` (malloc/malloc.c).
#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    /// `fastbinsY`, and how many.
    pub(crate) fast: Option<(u64, u64)>,
    pub(crate) top: u64,
    pub(crate) last_remainder: u64,
    pub(crate) bins: u64,
    pub(crate) binmap: u64,
    pub(crate) next: u64,
    pub(crate) attached: Option<u64>,
    pub(crate) system: u64,
    pub(crate) size: u64,
}

/// `struct malloc_par` (malloc/malloc.c).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Params {
    pub(crate) n_mmaps: u64,
    pub(crate) mmapped_mem: u64,
    pub(crate) sbrk_base: u64,
    /// `tcache_bins`, and three more words.
    pub(crate) tcache: Option<u64>,
    pub(crate) size: u64,
}

/// `tcache_perthread_struct` (malloc/malloc.c).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cache {
    pub(crate) lists: u64,
    /// Bytes of a count.
    pub(crate) count: u64,
    pub(crate) entries: u64,
    pub(crate) size: u64,
    /// Whether a count says how many more there may be.
    pub(crate) down: bool,
    /// `TCACHE_FILL_COUNT`.
    pub(crate) fill: u64,
}

/// What stands in the second word of a block in a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    /// Whatever stood there: up to 2.28.
    None,
    /// The cache's address: 2.29 to 2.33.
    Address,
    /// A number of the process: since 2.34.
    Random,
}

impl Target {
    pub(crate) fn word(self) -> u64 {
        if matches!(self.kind, Kind::X86 | Kind::S390x) { 8 } else { 4 }
    }

    /// `MALLOC_ALIGNMENT`: two words; since 2.26 16 on i386 (sysdeps/i386/malloc-alignment.h), since 2.24
    /// on powerpc32, where a `long double` is aligned so (2.23 malloc/malloc.c:366, 2.24 :355).
    pub(crate) fn align(self) -> u64 {
        match self.kind {
            Kind::X86 | Kind::S390x => 16,
            Kind::I386 | Kind::PowerPc => {
                if self.minor < 26 {
                    8
                } else {
                    16
                }
            }
            Kind::Arm => 8,
        }
    }

    pub(crate) fn format(self) -> WordFormat {
        let big = matches!(self.kind, Kind::S390x | Kind::PowerPc);
        let order = if big { ByteOrder::Big } else { ByteOrder::Little };
        WordFormat { size: usize::try_from(self.word()).unwrap(), order }
    }

    /// Whether a thread's control block shows its own address, and lies above its static variables.
    pub(crate) fn control_block_is_own(self) -> bool {
        matches!(self.kind, Kind::X86 | Kind::I386)
    }

    /// `CHUNK_HDR_SZ`, `2 * SIZE_SZ`.
    pub(crate) fn header(self) -> u64 {
        if self.word() == 8 { 16 } else { 8 }
    }

    /// `MINSIZE`: four words, aligned.
    pub(crate) fn smallest(self) -> u64 {
        if self.word() == 8 { 32 } else { 16 }
    }

    /// `request2size`.
    pub(crate) fn chunk_for(self, request: u64) -> u64 {
        let mask = self.align() - 1;
        if request + self.word() + mask < self.smallest() {
            self.smallest()
        } else {
            (request + self.word() + mask) & !mask
        }
    }

    /// The largest chunk that goes to a fastbin by default: `set_max_fast (DEFAULT_MXFAST)`,
    /// `64 * SIZE_SZ / 4`, plus a word, rounded down (2.17 malloc/malloc.c:798 and 1678).
    pub(crate) fn most_fast(self) -> u64 {
        if self.minor >= 43 {
            0
        } else if self.word() == 8 {
            128
        } else {
            64
        }
    }

    /// `fastbin_index`.
    pub(crate) fn fast_index(self, size: u64) -> u64 {
        (size >> if self.word() == 8 { 4 } else { 3 }) - 2
    }

    /// Counted off `struct malloc_state`.
    pub(crate) fn state(self) -> State {
        // 2.17 to 2.26: mutex, flags, fastbinsY[NFASTBINS], top, last_remainder, bins[254],
        // binmap[4], next, next_free, since 2.23 attached_threads, system_mem, max_system_mem.
        // 2.27 to 2.42: have_fastchunks behind flags. 2.43: neither that nor fastbinsY.
        // NFASTBINS is 10, on 32-bit machines with alignment 16 it is 11.
        let of = |fast, top, last_remainder, bins, binmap, next, attached, system, size| State {
            fast,
            top,
            last_remainder,
            bins,
            binmap,
            next,
            attached,
            system,
            size,
        };
        match (self.word(), self.align(), self.minor) {
            // Up to 2.14 `next_free` was there with PER_THREAD only, which was not set up to 2.9.
            (8, _, ..=9) => of(Some((8, 10)), 88, 96, 104, 2136, 2152, None, 2160, 2176),
            (_, 8, ..=9) => of(Some((8, 10)), 48, 52, 56, 1072, 1088, None, 1092, 1100),
            (8, _, ..=22) => of(Some((8, 10)), 88, 96, 104, 2136, 2152, None, 2168, 2184),
            (8, _, ..=26) => of(Some((8, 10)), 88, 96, 104, 2136, 2152, Some(2168), 2176, 2192),
            (8, _, ..=42) => of(Some((16, 10)), 96, 104, 112, 2144, 2160, Some(2176), 2184, 2200),
            (8, ..) => of(None, 8, 16, 24, 2056, 2072, Some(2088), 2096, 2112),
            (_, 8, ..=22) => of(Some((8, 10)), 48, 52, 56, 1072, 1088, None, 1096, 1104),
            (_, 8, ..=26) => of(Some((8, 10)), 48, 52, 56, 1072, 1088, Some(1096), 1100, 1108),
            (_, 8, ..=42) => of(Some((12, 10)), 52, 56, 60, 1076, 1092, Some(1100), 1104, 1112),
            (_, _, ..=26) => of(Some((8, 11)), 52, 56, 60, 1076, 1092, Some(1100), 1104, 1112),
            (_, _, ..=42) => of(Some((12, 11)), 56, 60, 64, 1080, 1096, Some(1104), 1108, 1116),
            _ => of(None, 8, 12, 16, 1032, 1048, Some(1056), 1060, 1068),
        }
    }

    /// Counted off `struct malloc_par`.
    pub(crate) fn params(self) -> Params {
        // trim_threshold, top_pad, mmap_threshold, arena_test, arena_max; since 2.43 thp_mode (an
        // enum); since 2.35 thp_pagesize, hp_pagesize, hp_flags (an int); four ints: n_mmaps,
        // n_mmaps_max, max_n_mmaps, no_dyn_threshold; mmapped_mem, max_mmapped_mem; up to 2.23
        // max_total_mem; sbrk_base; since 2.26 tcache_bins and three more.
        let of = |n_mmaps, mmapped_mem, sbrk_base, tcache, size| Params {
            n_mmaps,
            mmapped_mem,
            sbrk_base,
            tcache,
            size,
        };
        match (self.word(), self.minor) {
            // Without arena_test and arena_max; `unsigned int pagesize` follows the four ints.
            (8, ..=9) => of(24, 48, 72, None, 80),
            (8, ..=14) => of(40, 64, 88, None, 96),
            (_, ..=9) => of(12, 32, 44, None, 48),
            (_, ..=14) => of(20, 40, 52, None, 56),
            (8, ..=23) => of(40, 56, 80, None, 88),
            (8, ..=25) => of(40, 56, 72, None, 80),
            (8, ..=34) => of(40, 56, 72, Some(80), 112),
            (8, ..=42) => of(60, 80, 96, Some(104), 136),
            (8, _) => of(68, 88, 104, Some(112), 144),
            (_, ..=23) => of(20, 36, 48, None, 52),
            (_, ..=25) => of(20, 36, 44, None, 48),
            (_, ..=34) => of(20, 36, 44, Some(48), 64),
            (_, ..=42) => of(32, 48, 56, Some(60), 76),
            _ => of(36, 52, 60, Some(64), 80),
        }
    }

    /// Counted off `tcache_perthread_struct`; none before 2.26.
    pub(crate) fn cache(self) -> Option<Cache> {
        // 2.26 to 2.29: char counts[64]. 2.30 to 2.41: uint16_t counts[64]. Since 2.42:
        // uint16_t num_slots[64 + 12], filled with 7, in 2.43 with 16. Then entries[].
        let of = |lists, count, entries, size, fill| Cache {
            lists,
            count,
            entries,
            size,
            down: self.minor >= 42,
            fill,
        };
        Some(match (self.word(), self.minor) {
            (_, ..=25) => return None,
            (8, ..=29) => of(64, 1, 64, 576, 7),
            (8, ..=41) => of(64, 2, 128, 640, 7),
            (8, 42) => of(76, 2, 152, 760, 7),
            (8, _) => of(76, 2, 152, 760, 16),
            (_, ..=29) => of(64, 1, 64, 320, 7),
            (_, ..=41) => of(64, 2, 128, 384, 7),
            (_, 42) => of(76, 2, 152, 456, 7),
            _ => of(76, 2, 152, 456, 16),
        })
    }

    /// The list of a cache for chunks of `size` bytes.
    ///
    /// `csize2tidx` and, since 2.42, `large_csize2tidx`, which counts from `MAX_TCACHE_SMALL_SIZE`: the usable
    /// bytes of list 63 in 2.42 (malloc/malloc.c:299), its chunk in 2.43 (malloc/malloc.c:299).
    pub(crate) fn cache_index(self, size: u64, large: bool) -> Option<u64> {
        let lists = self.cache()?.lists;
        let index = (size - self.smallest()) / self.align();
        if index < 64 {
            return Some(index);
        }
        let chunk = 63 * self.align() + self.smallest();
        let most = if self.minor >= 43 { chunk } else { chunk - self.word() };
        let zeros = |number: u64| u64::from(u32::try_from(number).unwrap().leading_zeros());
        let index = 64 + zeros(most) - zeros(size);
        (large && index < lists).then_some(index)
    }

    pub(crate) fn key(self) -> Key {
        match self.minor {
            ..=28 => Key::None,
            29..=33 => Key::Address,
            _ => Key::Random,
        }
    }

    /// Whether links are stored as `PROTECT_PTR` makes them.
    pub(crate) fn masked(self) -> bool {
        self.minor >= 32
    }

    /// `sizeof (heap_info)` (malloc/arena.c): `ar_ptr`, `prev`, `size`, `mprotect_size`, since 2.35 `pagesize`;
    /// padded so that with two words more it is a multiple of the alignment.
    pub(crate) fn heap_info(self) -> u64 {
        match (self.word(), self.align(), self.minor) {
            (8, _, ..=34) => 32,
            (8, ..) => 48,
            (_, 8, ..=34) => 16,
            _ => 24,
        }
    }

    /// `HEAP_MAX_SIZE` (malloc/arena.c): twice `DEFAULT_MMAP_THRESHOLD_MAX`.
    pub(crate) fn heap_reach(self) -> u64 {
        if self.word() == 8 { 64 << 20 } else { 1 << 20 }
    }

    /// `bin_index`, with `largebin_index_64`, `_32_big` and `_32` (2.43 malloc/malloc.c:1548 to 1588).
    pub(crate) fn bin_index(self, size: u64) -> u64 {
        let correction = u64::from(self.align() > self.header());
        if size < (64 - correction) * self.align() {
            return size / self.align() + correction;
        }
        let first = match (self.word(), self.align()) {
            (8, _) => (48, 48),
            (_, 16) => (45, 49),
            _ => (38, 56),
        };
        if size >> 6 <= first.0 {
            first.1 + (size >> 6)
        } else if size >> 9 <= 20 {
            91 + (size >> 9)
        } else if size >> 12 <= 10 {
            110 + (size >> 12)
        } else if size >> 15 <= 4 {
            119 + (size >> 15)
        } else if size >> 18 <= 2 {
            124 + (size >> 18)
        } else {
            126
        }
    }
}
