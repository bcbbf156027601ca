//! From one chunk to the next: the units of one stretch of a heap.
//!
//! One way is `while at < end { at += size(at) }`. A damaged size makes it run
//! off, stop short or turn in place. Here every chunk is held to the rules
//! before it is believed. Where one breaks them, the walk finds the next place
//! from which chunks follow each other again ([`super::boundary`]), says what it
//! skipped, and goes on; each step moves forward, so that it ends.

use crate::error::Error;
use crate::heap::block::{Part, State};
use crate::memory::{Buffer, Gap, Memory};
use crate::pass::Job;
use crate::range::AddressRange;

use super::boundary::Seek;
use super::chunk::{Broken, Chunk, Rules};
use super::harm::Harm;
use super::known::Known;
use super::layout::{Machine, PAGE, PREV_INUSE, up};
use super::unread::Unread;

/// How many chunks are gone over before somebody may ask to stop.
const ASK: u32 = 1 << 16;

/// A stretch of memory that malloc cut into chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stretch {
    /// Where it ends at the latest: the end of the mapping, or what the heap says.
    pub limit: u64,
    /// The arena's top chunk, where it lies in the stretch.
    pub top: Option<u64>,
    /// Whether it is of the main arena.
    pub main: bool,
    /// Whether it ends where its top does; else it goes up to the limit.
    pub open: bool,
}

/// How a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// With the top chunk.
    Top,
    /// With the marks of a stretch that was given up.
    Fence,
    /// At the limit, with neither.
    Limit,
    /// Where its span can take no more units: it goes on in another.
    Full,
}

/// A walk over one stretch.
pub(super) struct Walk<'w> {
    pub memory: &'w dyn Memory,
    pub rules: Rules,
    pub stretch: Stretch,
    /// Where chunks start whatever the sizes before say.
    pub known: &'w Known,
    pub job: &'w Job,
    pub harm: Harm,
    pub unread: Unread,
    /// How often malloc was caught moving the border between a chunk and top.
    pub caught: u64,
    /// Whether damage ends the walk: whoever only tries whether there are chunks.
    pub strict: bool,
}

/// What stopped a run of good chunks.
enum Stop {
    /// The view's end: ask for more memory.
    More,
    /// The top chunk, or the limit.
    There,
    /// Something that is no plain chunk.
    Odd(Chunk),
}

impl<'w> Walk<'w> {
    pub(super) fn new(
        memory: &'w dyn Memory,
        machine: Machine,
        stretch: Stretch,
        known: &'w Known,
        job: &'w Job,
    ) -> Self {
        let rules = Rules { machine, main: stretch.main };
        let (harm, unread) = (Harm::default(), Unread::default());
        Self { memory, rules, stretch, known, job, harm, unread, caught: 0, strict: false }
    }

    /// Adds the units from the end of `part` on.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub(super) fn units(&mut self, part: &mut Part) -> Result<End, Error> {
        let mut buffer = Buffer::default();
        let header = self.rules.machine.header();
        loop {
            self.job.check()?;
            let at = part.end();
            if part.full() {
                return Ok(End::Full);
            }
            if Some(at) == self.stretch.top {
                self.top(part, at);
                return Ok(End::Top);
            }
            let left = AddressRange::saturating(at, self.stretch.limit.saturating_sub(at));
            if left.len() < header {
                part.push(self.stretch.limit, State::Overhead);
                return Ok(End::Limit);
            }
            let view = self.memory.view(left, &mut buffer);
            let (gap, bytes) = (view.gap, view.bytes);
            if (bytes.len() as u64) < header {
                if let Some(end) = self.straddling(part, at, gap)? {
                    return Ok(end);
                }
                continue;
            }
            match self.run(part, bytes) {
                Stop::More | Stop::There => {}
                Stop::Odd(chunk) => {
                    if let Some(end) = self.odd(part, chunk)? {
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Goes over good chunks as far as `bytes`, from the end of `part` on, show them.
    fn run(&mut self, part: &mut Part, bytes: &[u8]) -> Stop {
        let base = part.end();
        let format = self.memory.word_format();
        let rules = self.rules;
        let top = self.stretch.top.unwrap_or(u64::MAX);
        // The next place at which a plain chunk may not start or reach over.
        let end = self.stretch.limit.min(if top > base { top } else { u64::MAX });
        let end = end.min(self.known.behind(base).unwrap_or(u64::MAX));
        let mut at = base;
        for _ in 0..ASK {
            if at >= end {
                return Stop::There;
            }
            let Ok(offset) = usize::try_from(at.wrapping_sub(base)) else { return Stop::More };
            let words = bytes.get(offset..).unwrap_or_default();
            let (Some(previous), Some(head)) =
                (format.read(words), words.get(format.size..).and_then(|rest| format.read(rest)))
            else {
                return Stop::More;
            };
            let chunk = Chunk { previous, head };
            let next = at.wrapping_add(chunk.size());
            if rules.check(chunk, end.wrapping_sub(at)).is_err() {
                return Stop::Odd(chunk);
            }
            if part.full() {
                return Stop::There;
            }
            if !chunk.previous_in_use() {
                self.previous_free(part, at, chunk);
            }
            part.push(next, State::Used);
            at = next;
        }
        Stop::More
    }

    /// The chunk before `at` is free, if its size agrees.
    #[inline]
    fn previous_free(&mut self, part: &mut Part, at: u64, chunk: Chunk) {
        let size = match (part.last_start(), part.last_state()) {
            (Some(start), Some(State::Used)) => at.wrapping_sub(start),
            // What lies there was told broken already.
            (_, Some(State::Damaged | State::Unreadable)) => return,
            _ => 0,
        };
        if size == chunk.previous && size != 0 {
            part.set_last(State::Unlisted);
        } else {
            let rule = if size == 0 {
                "PREV_INUSE is clear, but no chunk of this heap lies before it".to_owned()
            } else {
                format!(
                    "PREV_INUSE is clear, but the size that it has of the chunk before is {:#x}, and that \
                     chunk's is {size:#x}",
                    chunk.previous
                )
            };
            self.harm.note(at, chunk.head, 0, rule);
        }
    }

    /// Something that is no plain chunk stands at the end of `part`.
    fn odd(&mut self, part: &mut Part, chunk: Chunk) -> Result<Option<End>, Error> {
        let at = part.end();
        let machine = self.rules.machine;
        let room = self.stretch.limit.saturating_sub(at);
        let top = self.stretch.top.filter(|top| *top > at);
        let whole = self.rules.check(chunk, room).is_ok();
        if let Some(place) = self.known.within(at, at.saturating_add(chunk.size())).filter(|_| whole) {
            return self.over(part, chunk, place);
        }
        if let Some(top) = top.filter(|top| at.saturating_add(chunk.size()) > *top) {
            // Folklore: malloc moves `top` before it writes the sizes on both sides of
            // the new border, and free writes the size before it moves `top`. The
            // chunk then ends where the top chunk did.
            // Seen: cores of processes in a loop of malloc and free, glibc 2.36.
            if whole && self.ends_the_heap(at.saturating_add(chunk.size())) {
                if !chunk.previous_in_use() {
                    self.previous_free(part, at, chunk);
                }
                self.caught = self.caught.saturating_add(1);
                part.push(top, State::Used);
                return Ok(None);
            }
            let rule = match self.rules.check(chunk, top.saturating_sub(at)) {
                Err(broken @ (Broken::Small | Broken::Unaligned)) => self.rules.broken(broken, chunk),
                _ => format!("size {:#x} reaches past the top chunk at {top:#x}", chunk.size()),
            };
            return self.recover(part, chunk.head, rule);
        }
        if chunk.fencepost(machine) && self.fence(part, at) {
            return Ok(Some(End::Fence));
        }
        if self.last_mark(part, at, chunk) {
            return Ok(Some(End::Fence));
        }
        let rule = match self.rules.check(chunk, room) {
            Err(broken) => self.rules.broken(broken, chunk),
            Ok(()) => format!("size {:#x} does not fit", chunk.size()),
        };
        self.recover(part, chunk.head, rule)
    }

    /// Whether the arena's memory ends at `end`, as far as its top chunk says.
    fn ends_the_heap(&self, end: u64) -> bool {
        if self.stretch.open { end % PAGE == 0 } else { end == self.stretch.limit }
    }

    /// Whether the marks at the end of a stretch stand at `at`; then they become a unit.
    fn fence(&mut self, part: &mut Part, at: u64) -> bool {
        let header = self.rules.machine.header();
        let second = self.chunk(at.saturating_add(header));
        let expected = PREV_INUSE | if self.stretch.main { header } else { 0 };
        if second.is_none_or(|second| second.head != expected) {
            return false;
        }
        if let Some(first) = self.chunk(at).filter(|first| !first.previous_in_use()) {
            self.previous_free(part, at, first);
        }
        // Folklore: on i386 blocks are aligned to twice a header, and one header's
        // room is left behind the marks. Seen: tests/fixtures/heap_nobrk.c, gcc -m32.
        let end = at.saturating_add(header.saturating_mul(2));
        let mut end = up(end, self.rules.machine.align).min(self.stretch.limit);
        // Folklore: of a top chunk of six words two are left for itself, which are no chunk and
        // become a third mark (malloc/malloc.c, `sysmalloc`: `set_head (old_top, old_size | PREV_INUSE)`).
        let third = end.saturating_add(header);
        let marked = |chunk: Chunk| chunk.fencepost(self.rules.machine);
        if self.stretch.main && third % PAGE == 0 && self.chunk(end).is_some_and(marked) {
            end = third.min(self.stretch.limit);
        }
        part.push(end, State::Overhead);
        true
    }

    /// Whether only the second mark stands at `at`, at the end of a heap; then it becomes a unit.
    ///
    /// Folklore: where less than the smallest chunk was left of top, the first mark took it in
    /// and looks like a small chunk in use (malloc/malloc.c, `sysmalloc`: `old_size +
    /// CHUNK_HDR_SZ`). Seen: `tests/fixtures/heap_traffic.c` with hugetlb=2, glibc 2.41.
    fn last_mark(&self, part: &mut Part, at: u64, chunk: Chunk) -> bool {
        let machine = self.rules.machine;
        let end = up(at.saturating_add(machine.header()), machine.align);
        if self.stretch.main || chunk.head != PREV_INUSE || end != self.stretch.limit {
            return false;
        }
        let first = part.last_start().map_or(0, |start| at.saturating_sub(start));
        if first == machine.smallest() && part.last_state() == Some(State::Used) {
            part.set_last(State::Overhead);
        }
        part.push(end, State::Overhead);
        true
    }

    fn chunk(&self, at: u64) -> Option<Chunk> {
        let mut peek = crate::peek::Peek::new(self.memory);
        Chunk::read(&mut peek, at)
    }

    /// A header that does not lie in one piece of memory, or is missing.
    fn straddling(&mut self, part: &mut Part, at: u64, gap: Option<Gap>) -> Result<Option<End>, Error> {
        if let Some(chunk) = self.chunk(at) {
            let end = self.stretch.top.filter(|top| *top > at).unwrap_or(u64::MAX).min(self.stretch.limit);
            let end = end.min(self.known.behind(at).unwrap_or(u64::MAX));
            if self.rules.check(chunk, end.saturating_sub(at)).is_err() {
                return self.odd(part, chunk);
            }
            if !chunk.previous_in_use() {
                self.previous_free(part, at, chunk);
            }
            part.push(at.saturating_add(chunk.size()), State::Used);
            return Ok(None);
        }
        // The gap may lie between the two words of the header.
        let gap = gap.or_else(|| self.gap_in(at));
        match gap {
            Some(gap) if !self.strict => self.unread(part, &gap),
            _ => self.recover(part, 0, format!("memory at {at:#x} is missing")),
        }
    }

    /// What is missing of the header at `at`.
    fn gap_in(&self, at: u64) -> Option<Gap> {
        let header = AddressRange::saturating(at, self.rules.machine.header());
        self.memory.append(header, &mut Vec::new())
    }

    fn seek(&self, top: Option<u64>, limit: u64, avoid: u64) -> Seek<'_> {
        Seek {
            memory: self.memory,
            rules: self.rules,
            top,
            limit,
            avoid,
            known: self.known,
            lenient: false,
            job: self.job,
        }
    }

    /// Goes on behind chunks whose headers are missing from the end of `part` on.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    fn unread(&mut self, part: &mut Part, gap: &Gap) -> Result<Option<End>, Error> {
        let at = part.end();
        let machine = self.rules.machine;
        let top = self.stretch.top.filter(|top| *top > at);
        let stop = top.unwrap_or(self.stretch.limit);
        let readable = self.readable(gap.range.end().max(at)).min(stop);
        let found = self.seek(top, stop, at).next(readable)?.filter(|place| *place <= stop);
        let place = found.unwrap_or(stop);
        let room = place.saturating_sub(at);
        let next = self.chunk(place).filter(|next| !next.previous_in_use());
        let last = next.map(|next| next.previous).filter(|size| {
            (machine.smallest()..=room).contains(size) && size & machine.align.wrapping_sub(1) == 0
        });
        // Where a second chunk could only start in memory that is there, there is none.
        let alone = readable.saturating_sub(at) <= machine.smallest() && room >= machine.smallest();
        match last {
            Some(size) if size == room => part.push(place, State::Used),
            Some(size) => {
                self.hide(part, place.saturating_sub(size), gap);
                part.push(place, State::Used);
            }
            None if alone && found.is_some() => part.push(place, State::Used),
            None => self.hide(part, place, gap),
        }
        Ok((found.is_none() && top.is_none()).then_some(End::Limit))
    }

    /// Makes a unit of which nothing is known, up to `end`.
    fn hide(&mut self, part: &mut Part, end: u64, gap: &Gap) {
        let range = AddressRange::saturating(part.end(), end.saturating_sub(part.end()));
        self.unread.note(range, gap.error().to_string());
        part.push(end, State::Unreadable);
    }

    /// The first place from `from` on that can be read, or the end of the stretch.
    fn readable(&self, from: u64) -> u64 {
        let mut buffer = Buffer::default();
        let mut at = from;
        while at < self.stretch.limit {
            let word = self.rules.machine.word.min(self.stretch.limit.saturating_sub(at));
            let view = self.memory.view(AddressRange::saturating(at, word), &mut buffer);
            match view.gap {
                Some(gap) if view.bytes.is_empty() && gap.range.end() > at => at = gap.range.end(),
                _ => break,
            }
        }
        at
    }

    /// Notes the damage at the end of `part`, and skips to the next place to trust.
    fn recover(&mut self, part: &mut Part, value: u64, rule: String) -> Result<Option<End>, Error> {
        let at = part.end();
        if self.strict {
            return Ok(Some(End::Limit));
        }
        let machine = self.rules.machine;
        let top = self.stretch.top.filter(|top| *top > at);
        let stop = top.unwrap_or(self.stretch.limit);
        let last = part.last_state().is_some_and(State::block).then(|| part.last_start()).flatten();
        // A size that was made larger leads past the next chunk, to where none is:
        // then chunks follow each other from within what it claims.
        let inside = last.map(|start| start.saturating_add(machine.smallest()));
        let from = inside.unwrap_or(at).min(at.saturating_add(machine.align));
        let found = self.seek(top, stop, at).next(from)?;
        if let Some((start, place)) = last.zip(found.filter(|place| *place < at)) {
            let state = part.last_state().unwrap_or(State::Used);
            let size = at.saturating_sub(start);
            part.pop();
            part.push(place, state);
            let told = self.chunk(start).map_or(0, |chunk| chunk.head);
            self.harm.note(
                start,
                told,
                0,
                format!("size {size:#x} leads to {at:#x}, where no chunk is; the next one is at {place:#x}"),
            );
            return Ok(None);
        }
        let place = found.unwrap_or(stop);
        let skipped = place.saturating_sub(at);
        self.harm.note(at, value, skipped, rule);
        part.push(place, State::Damaged);
        Ok((found.is_none() && top.is_none()).then_some(End::Limit))
    }

    /// The chunk at the end of `part` would reach over `place`, where one starts.
    fn over(&mut self, part: &mut Part, chunk: Chunk, place: u64) -> Result<Option<End>, Error> {
        if self.strict {
            return Ok(Some(End::Limit));
        }
        let at = part.end();
        let smallest = self.rules.machine.smallest();
        let next = self.seek(None, place, u64::MAX).next(at.saturating_add(smallest))?.unwrap_or(place);
        if !chunk.previous_in_use() {
            self.previous_free(part, at, chunk);
        }
        let size = chunk.size();
        let rule = format!(
            "size {size:#x} leads over {place:#x}, where a list has a chunk; the next one is at {next:#x}"
        );
        self.harm.note(at, chunk.head, 0, rule);
        let room = next.saturating_sub(at);
        part.push(next, if room < smallest { State::Damaged } else { State::Used });
        Ok(None)
    }

    /// The top chunk, from `at` to the end of the arena's memory.
    fn top(&mut self, part: &mut Part, at: u64) {
        let limit = self.stretch.limit;
        let Some(chunk) = self.chunk(at) else {
            // The arena says that it is here, and the heap where it ends.
            part.push(limit, State::Top);
            return;
        };
        let room = limit.saturating_sub(at);
        if !chunk.previous_in_use() {
            self.harm.note(at, chunk.head, 0, "PREV_INUSE of the top chunk is clear");
        }
        let end = at.saturating_add(chunk.size());
        let fits = chunk.size() >= self.rules.machine.header() && chunk.size() <= room;
        let good = fits && (if self.stretch.open { end % PAGE == 0 } else { end == limit });
        if !good {
            let rule = format!("the top chunk's size {:#x} does not end with its heap", chunk.size());
            self.harm.note(at, chunk.head, 0, rule);
        }
        part.push(if good { end } else { limit }, State::Top);
    }
}
