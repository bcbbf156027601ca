//! One answer from many chunks, whose results come in address order.

use std::ops::ControlFlow;

use super::finds::{Finds, KEPT, Scan};
use super::scan::{Found, Match};
use crate::error::Error;
use crate::memory::Buffer;
use crate::pass::{Chunk, push_gap};

/// The answer as it grows, chunk by chunk in order.
pub(super) struct Answer<'a> {
    scan: Scan<'a>,
    pub(super) found: Found,
    /// Where the last match of a pattern ends: no other starts before it.
    end: u64,
    buffer: Buffer,
}

impl<'a> Answer<'a> {
    pub(super) fn new(scan: Scan<'a>) -> Self {
        Self { scan, found: Found::default(), end: 0, buffer: Buffer::default() }
    }

    /// Adds what a chunk gave; comes back with the end of a gap that goes on behind the chunk.
    pub(super) fn take(&mut self, chunk: &Chunk, mut finds: Finds) -> Result<Option<u64>, Error> {
        let seen = std::mem::take(&mut finds.seen);
        self.found.searched = self.found.searched.saturating_add(seen.searched);
        let beyond = seen.beyond.as_ref().map(|gap| gap.range.end());
        for gap in seen.gaps.into_iter().chain(seen.beyond) {
            push_gap(&mut self.found.gaps, gap);
        }
        let mut from = chunk.own.start();
        if self.scan.search.needle.exclusive() && self.end > from {
            from = self.end.min(chunk.own.end());
            finds = self.resume(chunk, from, &finds);
        }
        self.end = self.end.max(finds.end);
        self.found.count = self.found.count.saturating_add(finds.count);
        self.found.last = finds.last.or(self.found.last);
        if self.push(&finds.kept) && finds.cut && finds.count > 0 {
            let all = self.scan.chunk(chunk, from, usize::MAX, &mut self.buffer);
            self.push(all.kept.get(finds.kept.len()..).unwrap_or_default());
        }
        self.scan.job.check()?;
        Ok(beyond)
    }

    /// Adds matches up to the limit, and comes back with whether there is room for more.
    fn push(&mut self, matches: &[Match]) -> bool {
        let limit = self.scan.search.limit.unwrap_or(usize::MAX);
        let room = limit.saturating_sub(self.found.matches.len());
        let aligned = matches.iter().filter(|place| self.scan.aligned(place.address));
        self.found.matches.extend(aligned.take(room));
        self.found.matches.len() < limit
    }

    /// What a pattern finds in a chunk of which the bytes before `from` belong to a match.
    ///
    /// The chunk was looked at as if no match came before it. Looked at again
    /// from `from` on, it gives other matches only until one starts where one
    /// of those did: what follows a match does not depend on what precedes it.
    fn resume(&mut self, chunk: &Chunk, from: u64, finds: &Finds) -> Finds {
        let scan = self.scan;
        let mut fresh = Finds::default();
        let mut same = None;
        scan.walk(chunk, from, &mut self.buffer, &mut |stretch| {
            let met = finds.kept.binary_search_by_key(&stretch.first, |place| place.address);
            if let Ok(index) = met {
                same = Some(index);
                return ControlFlow::Break(());
            }
            scan.note(&mut fresh, stretch, KEPT);
            ControlFlow::Continue(())
        });
        let Some((dropped, rest)) = same.and_then(|index| finds.kept.split_at_checked(index)) else {
            return fresh;
        };
        let aligned = |matches: &[Match]| matches.iter().filter(|place| scan.aligned(place.address)).count();
        let left = finds.count.saturating_sub(aligned(dropped) as u64);
        fresh.count = fresh.count.saturating_add(left);
        if left > 0 {
            fresh.last = finds.last;
        }
        fresh.end = finds.end;
        if fresh.cut {
            return fresh;
        }
        fresh.kept.extend_from_slice(rest);
        fresh.cut = finds.cut;
        fresh
    }
}
