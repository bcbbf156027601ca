//! The next place at which a chunk can be trusted to start.
//!
//! Any two words may look like the header of a chunk. What does not come by
//! chance is a chain: a size that leads to another good header, and that to the
//! next, many times or up to the top chunk. Searched for are all places where a
//! chunk may start, from the lowest on.

use crate::error::Error;
use crate::memory::{Buffer, Memory};
use crate::pass::Job;
use crate::peek::Peek;
use crate::range::AddressRange;

use super::chunk::{Chunk, Rules};
use super::known::Known;
use super::layout::{PAGE, PREV_INUSE, up};

/// How many chunks have to follow each other.
const CHAIN: usize = 24;

/// How many chunks are looked at from places before that where no chunk is, and per MiB behind it.
const STEPS: u64 = 1 << 20;

/// What a search goes over.
pub(super) struct Seek<'s> {
    pub memory: &'s dyn Memory,
    pub rules: Rules,
    /// The top chunk, where it lies ahead.
    pub top: Option<u64>,
    /// Where the stretch ends.
    pub limit: u64,
    /// Where no chunk is: no chain may lead there, and one from before it has to pass it.
    pub avoid: u64,
    /// Where chunks start: no chain may lead over one.
    pub known: &'s Known,
    /// Whether a chain may have a free chunk whose size the next one does not have: a call leaves that for
    /// a moment, and where nothing is before the chain there is no other way to its start.
    pub lenient: bool,
    pub job: &'s Job,
}

impl Seek<'_> {
    /// The first place from `from` on; the top chunk at the latest, `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub(super) fn next(&self, from: u64) -> Result<Option<u64>, Error> {
        let machine = self.rules.machine;
        let step = usize::try_from(machine.align).unwrap_or(16);
        let mut peek = Peek::new(self.memory);
        let mut buffer = Buffer::default();
        let mut at = machine.first_chunk(from);
        let mut steps = STEPS;
        while at < self.limit {
            self.job.check()?;
            if at >= self.avoid || self.avoid == u64::MAX {
                steps = STEPS;
            }
            // No chunk has a size of zero.
            let rest = AddressRange::saturating(at, self.limit.saturating_sub(at));
            let zeros = self.memory.zeros(rest) & !machine.align.wrapping_sub(1);
            if zeros > 0 {
                at = at.saturating_add(zeros);
                continue;
            }
            // Pieces of 1 MiB: whoever asks to stop is heard between them.
            let range = AddressRange::saturating(at, self.limit.saturating_sub(at).min(1 << 20));
            let view = self.memory.view(range, &mut buffer);
            let size = machine.header();
            if (view.bytes.len() as u64) < size {
                let behind = view.gap.map_or(at.saturating_add(size), |gap| gap.range.end());
                // Two words across a seam of two pieces are not looked at: the
                // chunk behind them is found all the same.
                at = machine.first_chunk(behind.max(at.saturating_add(1)));
                continue;
            }
            let windows = view.bytes.windows(usize::try_from(size).unwrap_or(16)).step_by(step);
            let format = self.memory.word_format();
            let mut looked = at;
            for words in windows {
                let head = words.get(format.size..).and_then(|rest| format.read(rest)).unwrap_or(0);
                let chunk = Chunk { previous: 0, head };
                let room = self.limit.saturating_sub(looked);
                if head != 0
                    && self.rules.check(chunk, room).is_ok()
                    && (self.known.contains(looked) || self.chain(&mut peek, looked, &mut steps))
                {
                    return Ok(Some(looked));
                }
                looked = looked.saturating_add(machine.align);
            }
            at = looked;
        }
        Ok(self.top)
    }

    /// Whether chunks follow each other from `start` on.
    fn chain(&self, peek: &mut Peek<'_>, start: u64, steps: &mut u64) -> bool {
        let mut at = start;
        let mut last = None;
        let mut length = 0_usize;
        // Observed: what a block holds may look like chunks to its very end. Of a chain that
        // starts inside of it only what lies behind the place where no chunk is counts.
        let mut counted = 0_usize;
        while counted < CHAIN {
            if at == self.avoid || *steps == 0 {
                return false;
            }
            *steps = steps.saturating_sub(1);
            if Some(at) == self.top {
                return true;
            }
            if at >= self.limit {
                return at == self.limit && (length > 1 || self.known.contains(at));
            }
            let Some(chunk) = Chunk::read(peek, at) else { return false };
            let disagrees =
                !self.lenient && last.is_some_and(|size| !chunk.previous_in_use() && chunk.previous != size);
            if disagrees || self.rules.check(chunk, self.limit.saturating_sub(at)).is_err() {
                // The marks at the end of a stretch are no plain chunks.
                let machine = self.rules.machine;
                let last = !self.rules.main && chunk.head == PREV_INUSE;
                let ends = up(at.saturating_add(machine.header()), machine.align) == self.limit;
                return length > 0 && !disagrees && (chunk.fencepost(machine) || (last && ends));
            }
            let next = at.saturating_add(chunk.size());
            if self.lenient && self.reaches_over_top(peek, at, next, length) {
                return true;
            }
            if self.known.within(at, next).is_some() {
                return false;
            }
            last = Some(chunk.size());
            at = next;
            length = length.saturating_add(1);
            counted = counted.saturating_add(usize::from(self.avoid == u64::MAX || at > self.avoid));
        }
        true
    }

    /// Whether the chunk from `at` to `next` reaches over the top chunk to its end, after `length` others.
    ///
    /// glibc 2.17 to 2.43, malloc/malloc.c: `_int_free` writes the size of what is merged with `top` before
    /// `top`; `_int_malloc` moves `top` before it writes the sizes on both sides.
    fn reaches_over_top(&self, peek: &mut Peek<'_>, at: u64, next: u64, length: usize) -> bool {
        let Some(top) = self.top.filter(|top| at < *top && *top < next && next % PAGE == 0) else {
            return false;
        };
        let size = Chunk::read(peek, top).map_or(0, Chunk::size);
        length > 0 || top.checked_add(size) == Some(next)
    }
}
