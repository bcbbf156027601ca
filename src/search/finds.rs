//! What one chunk holds, found by whichever thread has time.

use std::ops::ControlFlow;

use super::bytes::Stretch;
use super::scan::{Match, Search};
use super::window::{Seen, between, walk};
use crate::memory::{Buffer, Memory};
use crate::pass::{Chunk, Job};

/// Matches that a chunk keeps until it is handed over.
///
/// A chunk with more is looked at once more when they are asked for, so that
/// chunks full of matches take no memory while they wait for their turn.
pub(super) const KEPT: usize = 4096;

/// What a chunk came back with.
#[derive(Default, Debug)]
pub(super) struct Finds {
    /// Matches whose address is aligned as asked.
    pub(super) count: u64,
    /// The address of the last of these.
    pub(super) last: Option<u64>,
    /// The first matches; those of a pattern whether they are aligned or not.
    pub(super) kept: Vec<Match>,
    /// Whether there are matches that were not kept.
    pub(super) cut: bool,
    /// Where the last match ends, aligned or not.
    pub(super) end: u64,
    pub(super) seen: Seen,
}

/// How a chunk is looked at, by whichever thread.
#[derive(Clone, Copy)]
pub(super) struct Scan<'a> {
    pub(super) memory: &'a dyn Memory,
    pub(super) search: &'a Search,
    pub(super) job: &'a Job,
}

impl Scan<'_> {
    /// What is found in the chunk from `from` on; the first `keep` matches are kept.
    pub(super) fn chunk(&self, chunk: &Chunk, from: u64, keep: usize, buffer: &mut Buffer) -> Finds {
        let mut finds = Finds::default();
        let seen = self.walk(chunk, from, buffer, &mut |stretch| {
            self.note(&mut finds, stretch, keep);
            ControlFlow::Continue(())
        });
        Finds { seen, ..finds }
    }

    pub(super) fn walk(
        &self,
        chunk: &Chunk,
        from: u64,
        buffer: &mut Buffer,
        sink: &mut dyn FnMut(Stretch) -> ControlFlow<()>,
    ) -> Seen {
        let Search { needle, .. } = self.search;
        let mut next = from;
        let own = between(from, chunk.own.end());
        walk(self.memory, own, chunk.run, needle.reach(), buffer, &mut |window| {
            needle.scan(window, &mut next, self.job, sink)
        })
    }

    /// Adds the matches of a stretch to what was found.
    pub(super) fn note(&self, finds: &mut Finds, stretch: Stretch, keep: usize) {
        let Stretch { first, step, count, length } = stretch;
        let last = first.saturating_add(step.saturating_mul(count.saturating_sub(1)));
        finds.end = last.saturating_add(length.into());
        if self.search.needle.exclusive() {
            if self.aligned(first) {
                finds.count = finds.count.saturating_add(1);
                finds.last = Some(first);
            }
            finds.keep([first].into_iter(), length, keep);
            return;
        }
        // A run of one byte has as many matches as bytes: counted, not gone through.
        if let (Some(align), 1) = (self.search.align, step) {
            let Some(first) = first.checked_next_multiple_of(align).filter(|first| *first <= last) else {
                return;
            };
            let more = last.saturating_sub(first).checked_div(align).unwrap_or_default();
            finds.add(Stretch { first, step: align, count: more.saturating_add(1), length }, keep);
        } else if self.search.align.is_none() {
            finds.add(stretch, keep);
        } else {
            for first in places(stretch).filter(|address| self.aligned(*address)) {
                finds.add(Stretch { first, step: 1, count: 1, length }, keep);
            }
        }
    }

    pub(super) fn aligned(&self, address: u64) -> bool {
        self.search.align.is_none_or(|align| address.checked_rem(align) == Some(0))
    }
}

/// The addresses of the matches of a stretch.
fn places(stretch: Stretch) -> impl Iterator<Item = u64> {
    let Stretch { first, step, count, .. } = stretch;
    (0..count).map(move |index| first.saturating_add(step.saturating_mul(index)))
}

impl Finds {
    fn add(&mut self, stretch: Stretch, keep: usize) {
        self.count = self.count.saturating_add(stretch.count);
        let more = stretch.step.saturating_mul(stretch.count.saturating_sub(1));
        self.last = Some(stretch.first.saturating_add(more));
        self.keep(places(stretch), stretch.length, keep);
    }

    fn keep(&mut self, mut addresses: impl Iterator<Item = u64>, length: u32, keep: usize) {
        let room = keep.saturating_sub(self.kept.len());
        let kept = addresses.by_ref().take(room).map(|address| Match { address, length });
        self.kept.extend(kept);
        self.cut |= addresses.next().is_some();
    }
}
