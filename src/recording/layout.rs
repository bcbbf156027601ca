//! Every number of a recording's layout, version 1, with its place in `docs/recording.md`.

/// "Where it is": the header is at the start of a page.
pub(super) const PAGE: u64 = 4096;

/// "The header": `magic`, at 0.
pub(super) const MAGIC: &[u8; 16] = b"gdb-leak record\0";

/// "The header": `version`, which this reads.
pub(super) const VERSION: u32 = 1;

/// "The header": what of its 4096 bytes holds anything.
pub(super) const HEADER: usize = 520;

/// "The header": offsets of its numbers, in its order.
pub(super) mod header {
    pub(in crate::recording) const VERSION: usize = 16;
    pub(in crate::recording) const SELF: usize = 24;
    pub(in crate::recording) const RESERVED: usize = 32;
    pub(in crate::recording) const PID: usize = 40;
    pub(in crate::recording) const SAMPLE: usize = 48;
    pub(in crate::recording) const STARTED: usize = 56;
    pub(in crate::recording) const TIME_SHIFT: usize = 72;
    pub(in crate::recording) const GENERATION: usize = 76;
    pub(in crate::recording) const DROPPED: usize = 80;
    pub(in crate::recording) const MISSED: usize = 88;
    pub(in crate::recording) const STALE: usize = 96;
    pub(in crate::recording) const CUT: usize = 104;
    pub(in crate::recording) const STATE: usize = 112;
    pub(in crate::recording) const AREAS: usize = 128;
    pub(in crate::recording) const FUNCTIONS: usize = 288;
    pub(in crate::recording) const PARTS: usize = 360;
}

/// "The header": `functions`, in its order.
pub(super) const FUNCTIONS: [&str; 9] = [
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "pvalloc",
];

/// "The header": the bytes of an area's description, and the offsets in it.
pub(super) const AREA: usize = 32;
pub(super) const AREA_OFFSET: usize = 0;
pub(super) const AREA_ENTRY: usize = 8;
pub(super) const AREA_CAPACITY: usize = 16;
pub(super) const AREA_USED: usize = 24;

/// "The header": how many `parts` there are, the bytes of one, and the offset of `open` in it.
pub(super) const PARTS: usize = 10;
pub(super) const PART: usize = 16;
pub(super) const PART_OPEN: usize = 8;

/// "The header", `state` 2: recording was stopped.
pub(super) const STOPPED: u64 = 2;

/// "The areas", blocks: bytes of an entry, and offsets in it.
pub(super) const BLOCK: u64 = 32;
pub(super) const BLOCK_KEY: usize = 0;
pub(super) const BLOCK_SIZE: usize = 8;
pub(super) const BLOCK_STACK: usize = 16;
pub(super) const BLOCK_THREAD: usize = 20;
pub(super) const BLOCK_TIME: usize = 24;

/// "The areas", nodes: bytes of an entry; `pc`, and `parent` in the low half of the word behind.
pub(super) const NODE: u64 = 16;

/// "The areas", nodes: the bit of a `pc` that is exact.
pub(super) const EXACT: u64 = 1 << 63;

/// "The areas", modules: bytes of an entry, and offsets in it.
pub(super) const MODULE: u64 = 64;
pub(super) const MODULE_START: usize = 0;
pub(super) const MODULE_END: usize = 8;
pub(super) const MODULE_BIAS: usize = 16;
pub(super) const MODULE_NAME: usize = 24;
pub(super) const MODULE_NAME_BYTES: usize = 28;
pub(super) const MODULE_BUILD_ID: usize = 32;
pub(super) const MODULE_BUILD_ID_BYTES: usize = 52;
pub(super) const MODULE_SINCE: usize = 56;
pub(super) const MODULE_UNTIL: usize = 60;

/// "The areas", modules: the longest build-id that fits.
pub(super) const BUILD_ID: usize = 20;

/// "The areas", modules: `until` of a module that is still there.
pub(super) const STILL: u32 = u32::MAX;

/// "The areas", threads: bytes of an entry that are a reader's business, and the offset of `time`.
pub(super) const THREAD: u64 = 16;
pub(super) const THREAD_TIME: usize = 4;

/// No stack has more nodes: 256 return addresses, the allocation function, the generation.
pub(super) const DEEPEST: usize = 258;

/// The number of four bytes at `offset`.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The number of eight bytes at `offset`.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}
