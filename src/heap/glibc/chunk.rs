//! A chunk's header, and the rules that it must keep.

use crate::peek::Peek;

use super::layout::{FLAGS, IS_MMAPPED, Machine, NON_MAIN_ARENA, PREV_INUSE};

/// The two words at the start of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chunk {
    /// The size of the chunk before, if that is free; else that chunk's last bytes.
    pub previous: u64,
    /// The size with its flags.
    pub head: u64,
}

impl Chunk {
    /// The chunk at `address`; `None` where its header is missing.
    pub(super) fn read(peek: &mut Peek<'_>, address: u64) -> Option<Self> {
        let (previous, head) = peek.two(address)?;
        Some(Self { previous, head })
    }

    /// Its size, header included (`chunksize`).
    pub(super) const fn size(self) -> u64 {
        self.head & !FLAGS
    }

    /// Whether the chunk before is in use.
    pub(super) const fn previous_in_use(self) -> bool {
        self.head & PREV_INUSE != 0
    }

    /// Whether it was mapped on its own.
    pub(super) const fn mmapped(self) -> bool {
        self.head & IS_MMAPPED != 0
    }

    /// The names of its flags that are set, as glibc has them.
    pub(super) fn flags(self) -> Vec<&'static str> {
        let flags =
            [(PREV_INUSE, "PREV_INUSE"), (IS_MMAPPED, "IS_MMAPPED"), (NON_MAIN_ARENA, "NON_MAIN_ARENA")];
        flags.into_iter().filter(|(bit, _)| self.head & bit != 0).map(|(_, name)| name).collect()
    }

    /// Whether it marks the end of a stretch that malloc gave up extending.
    ///
    /// glibc 2.17 to 2.43, malloc/malloc.c, `sysmalloc`: a chunk of two words; `PREV_INUSE`
    /// is cleared when what lies before it is freed.
    pub(super) const fn fencepost(self, machine: Machine) -> bool {
        self.head & !PREV_INUSE == machine.header()
    }
}

/// What all chunks of one stretch have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rules {
    pub machine: Machine,
    /// Whether the stretch is of the main arena: no chunk has the flag of the others there.
    pub main: bool,
}

/// A rule that a chunk breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Broken {
    Small,
    Unaligned,
    Past,
    Mmapped,
    OtherArena,
}

impl Rules {
    /// Whether a chunk with this header may start `room` bytes before the end of its stretch.
    #[inline]
    pub(super) fn check(self, chunk: Chunk, room: u64) -> Result<(), Broken> {
        let size = chunk.size();
        let odd = size & self.machine.align.wrapping_sub(1) != 0;
        let wrong = IS_MMAPPED | if self.main { NON_MAIN_ARENA } else { 0 };
        if size >= self.machine.smallest() && size <= room && !odd && chunk.head & wrong == 0 {
            return Ok(());
        }
        Err(if size < self.machine.smallest() {
            Broken::Small
        } else if size > room {
            Broken::Past
        } else if odd {
            Broken::Unaligned
        } else if chunk.mmapped() {
            Broken::Mmapped
        } else {
            Broken::OtherArena
        })
    }

    /// The rule in words.
    pub(super) fn broken(self, broken: Broken, chunk: Chunk) -> String {
        let size = chunk.size();
        match broken {
            Broken::Small => {
                format!("size {size:#x} is less than the smallest, {:#x}", self.machine.smallest())
            }
            Broken::Unaligned => format!("size {size:#x} is not a multiple of {}", self.machine.align),
            Broken::Past => format!("size {size:#x} reaches past the end of its heap"),
            Broken::Mmapped => "IS_MMAPPED is set inside of a heap".to_owned(),
            Broken::OtherArena => "NON_MAIN_ARENA is set in the main arena".to_owned(),
        }
    }
}
