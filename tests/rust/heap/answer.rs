//! What a heap was taken apart into, and what it should be.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use gdb_leak::heap::Allocator;
use gdb_leak::heap::block::State;
use gdb_leak::pass::Job;
use gdb_leak::source::captured::Captured;

use crate::builder::Built;

/// A block: its chunk, what the program may use of it, its state, and its arena's address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) block: u64,
    pub(crate) usable: u64,
    pub(crate) state: State,
    pub(crate) arena: Option<u64>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { start, size, block, usable, state, arena } = *self;
        let arena = arena.unwrap_or(0);
        write!(out, "{start:#x}+{size:#x} block {block:#x}+{usable:#x} {state:?} arena {arena:#x}")
    }
}

impl Built {
    /// All blocks, in address order.
    pub(crate) fn expected(&self) -> Vec<Seen> {
        let target = self.target;
        let (word, header) = (target.word(), target.header());
        let own = self.chunks.iter().map(|chunk| Seen {
            start: chunk.start,
            size: chunk.size,
            block: chunk.start + header,
            // memsize: all but a word.
            usable: chunk.size - word,
            state: chunk.state,
            arena: Some(self.arenas[chunk.arena].address),
        });
        let mapped = self.mapped.iter().map(|chunk| {
            let size = chunk.total - (chunk.start - chunk.base);
            Seen {
                start: chunk.start,
                size,
                block: chunk.start + header,
                // musable: up to 2.42 chunksize - CHUNK_HDR_SZ; in 2.43 a word less than a chunk of two
                // words less.
                usable: size - header - if target.minor >= 43 { word } else { 0 },
                state: if chunk.cached.is_some() { State::Tcache } else { State::Used },
                arena: None,
            }
        });
        let mut all: Vec<Seen> = own.chain(mapped).collect();
        all.sort_unstable();
        all
    }

    /// Takes the heap apart.
    pub(crate) fn open(&self) -> Answer {
        open(self, self.image.capture())
    }
}

/// A heap that was taken apart, with the memory that it was found in.
pub(crate) struct Answer {
    pub(crate) memory: Arc<Captured>,
    pub(crate) heap: Option<Arc<dyn Allocator>>,
}

/// Runs on a thread of its own: what does not come back within 20 seconds is an endless loop.
pub(crate) fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let worker = std::thread::spawn(move || sender.send(work()));
    match receiver.recv_timeout(Duration::from_secs(20)) {
        Ok(answer) => answer,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("no answer within 20 seconds"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match worker.join() {
            Err(cause) => std::panic::resume_unwind(cause),
            Ok(_) => unreachable!(),
        },
    }
}

pub(crate) fn open(built: &Built, memory: Captured) -> Answer {
    let threads = built.threads.clone();
    in_time(move || {
        let heap = gdb_leak::heap::open(&memory, &threads, &Job::default()).unwrap();
        Answer { memory: Arc::new(memory), heap }
    })
}

/// The blocks that were found, in address order.
pub(crate) fn seen(heap: &dyn Allocator) -> Vec<Seen> {
    let arena = |number: u32| heap.arenas()[usize::try_from(number).unwrap()].address;
    heap.blocks()
        .units()
        .filter(|unit| unit.state.block())
        .map(|unit| Seen {
            start: unit.range.start(),
            size: unit.range.len(),
            block: unit.block().start(),
            usable: unit.block().len(),
            state: unit.state,
            arena: unit.arena.map(arena),
        })
        .collect()
}

/// The first blocks that are in one of two lists only.
pub(crate) fn difference(expected: &[Seen], found: &[Seen]) -> String {
    let only = |some: &[Seen], others: &[Seen]| {
        let left = some.iter().filter(|block| others.binary_search(block).is_err());
        left.take(5).fold(String::new(), |text, block| text + &format!("\n  {block:?}"))
    };
    let (missing, wrong) = (only(expected, found), only(found, expected));
    if missing.is_empty() && wrong.is_empty() {
        return String::new();
    }
    format!("expected:{missing}\nfound:{wrong}")
}
