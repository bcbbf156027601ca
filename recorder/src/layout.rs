//! The layout of a recording, as docs/recording.md has it.

use core::sync::atomic::{AtomicU32, AtomicU64};

pub(crate) const PAGE: usize = 4096;
pub(crate) const MAGIC: [u8; 16] = *b"gdb-leak record\0";
pub(crate) const VERSION: u32 = 1;
/// Times are kept in units of 2^24 ns, 16.8 ms: 32 bits of these are two years.
pub(crate) const TIME_SHIFT: u32 = 24;
/// Recording goes on.
pub(crate) const RECORDING: u64 = 1;
/// Nothing is recorded any more, and what is there may be of blocks that are gone.
pub(crate) const STOPPED: u64 = 2;
/// A module that is still there.
pub(crate) const STILL: u32 = u32::MAX;
/// Marks the program counter of a frame that a signal interrupted.
pub(crate) const EXACT: u64 = 1 << 63;

/// One of the areas, as the header tells it.
#[repr(C)]
pub(crate) struct AreaInfo {
    pub(crate) offset: AtomicU64,
    pub(crate) entry: AtomicU64,
    pub(crate) capacity: AtomicU64,
    pub(crate) used: AtomicU64,
}

/// One of the pieces of memory that the recorder has, as the header tells it.
#[repr(C)]
pub(crate) struct Part {
    pub(crate) offset: AtomicU64,
    /// Bytes that are mapped by now.
    pub(crate) open: AtomicU64,
}

/// The first page of a recording.
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 16],
    pub(crate) version: u32,
    pub(crate) header_bytes: u32,
    pub(crate) own: u64,
    pub(crate) reserved: u64,
    pub(crate) pid: AtomicU32,
    pub(crate) depth: u32,
    pub(crate) sample: u64,
    pub(crate) started: u64,
    pub(crate) started_real: u64,
    pub(crate) time_shift: u32,
    pub(crate) generation: AtomicU32,
    pub(crate) dropped: AtomicU64,
    pub(crate) missed: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) cut: AtomicU64,
    pub(crate) state: AtomicU64,
    pub(crate) unused: u64,
    pub(crate) areas: [AreaInfo; 5],
    pub(crate) functions: [u64; 9],
    pub(crate) parts: [Part; 10],
}

/// A live block.
#[repr(C)]
pub(crate) struct Block {
    pub(crate) key: AtomicU64,
    pub(crate) size: u64,
    pub(crate) stack: u32,
    pub(crate) thread: u32,
    pub(crate) time: u32,
    pub(crate) next: u32,
}

/// A frame of stacks.
#[repr(C)]
pub(crate) struct Node {
    pub(crate) pc: u64,
    pub(crate) parent: u32,
    pub(crate) next: u32,
}

/// A module that stacks lead through.
#[repr(C)]
pub(crate) struct Module {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) bias: u64,
    pub(crate) name_offset: u32,
    pub(crate) name_bytes: u32,
    pub(crate) build_id: [u8; 20],
    pub(crate) build_id_bytes: u32,
    pub(crate) since: u32,
    pub(crate) until: AtomicU32,
}

const _: () = assert!(core::mem::offset_of!(Header, areas) == 128);
const _: () = assert!(core::mem::offset_of!(Header, dropped) == 80);
const _: () = assert!(core::mem::offset_of!(Header, parts) == 360);
const _: () = assert!(size_of::<Header>() <= PAGE);
const _: () = assert!(size_of::<AreaInfo>() == 32);
const _: () = assert!(size_of::<Block>() == 32);
const _: () = assert!(size_of::<Node>() == 16);
const _: () = assert!(size_of::<Module>() == 64);
