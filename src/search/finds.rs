//! What one chunk holds, found by whichever thread has time.

use std::ops::ControlFlow;

use super::bytes::{Stretch, Zeros};
use super::scan::{Match, Search};
use super::window::{Next, Seen, Shown, between, walk};
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
        walk(self.memory, own, chunk.run, needle.reach(), buffer, &mut |shown| match shown {
            Shown::Window(window) => needle.scan(window, &mut next, self.job, sink).into(),
            Shown::Zeros(starts) => match needle.zeros(*starts) {
                Zeros::Look => Next::Look,
                Zeros::Nothing => Next::Go,
                Zeros::Matches(stretch) => sink(stretch).into(),
            },
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
        let Some(align) = self.search.align else { return finds.add(stretch, keep) };
        // Zeros have as many matches as bytes: counted, not gone through.
        if let Some(stretch) = aligned(stretch, align) {
            finds.add(stretch, keep);
        }
    }

    pub(super) fn aligned(&self, address: u64) -> bool {
        self.search.align.is_none_or(|align| address.checked_rem(align) == Some(0))
    }
}

/// The matches of a stretch whose addresses are multiples of `align`, which are at equal distances too.
fn aligned(stretch: Stretch, align: u64) -> Option<Stretch> {
    let Stretch { first, step, count, length } = stretch;
    let (common, inverse) = common_divisor(step, align);
    if first.checked_rem(common)? != 0 {
        return None;
    }
    // The first match is `skip` steps behind: first + skip * step is 0 in the numbers modulo `align`.
    let cycle = align.checked_div(common)?;
    let from = u128::from(first.checked_div(common)?.checked_rem(cycle)?);
    let wanted = u128::from(cycle).checked_sub(from)?.checked_rem(cycle.into())?;
    let skip = wanted.checked_mul(inverse.into())?.checked_rem(cycle.into())?;
    let skip = u64::try_from(skip).ok()?;
    let left = count.checked_sub(1)?.checked_sub(skip)?;
    let more = left.checked_div(cycle)?;
    let step = step.saturating_mul(cycle);
    Some(Stretch {
        first: first.checked_add(stretch.step.checked_mul(skip)?)?,
        step,
        count: more.checked_add(1)?,
        length,
    })
}

/// The greatest common divisor of two positive numbers, and what `step` less it is to be multiplied with to
/// leave 1 modulo `align` less it (Euclid).
fn common_divisor(step: u64, align: u64) -> (u64, u64) {
    let (mut old, mut rest) = (i128::from(step), i128::from(align));
    let (mut factor, mut next) = (1_i128, 0_i128);
    while let Some(times) = old.checked_div(rest) {
        (old, rest) = (rest, old.saturating_sub(times.saturating_mul(rest)));
        (factor, next) = (next, factor.saturating_sub(times.saturating_mul(next)));
    }
    let cycle = i128::from(align).checked_div(old).unwrap_or(1);
    let inverse = factor.checked_rem_euclid(cycle).unwrap_or(0);
    (u64::try_from(old).unwrap_or(1), u64::try_from(inverse).unwrap_or(0))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_matches_of_a_stretch_are_counted_as_if_each_was_looked_at() {
        for first in [0, 1, 7, 0x1000, 0x1ff8] {
            for step in [1, 2, 3, 8, 12] {
                for align in [1, 2, 5, 8, 12, 64, 4096] {
                    let stretch = Stretch { first, step, count: 2000, length: 4 };
                    let found: Vec<u64> = aligned(stretch, align).into_iter().flat_map(places).collect();
                    let naive: Vec<u64> = places(stretch).filter(|place| place % align == 0).collect();
                    assert_eq!(found, naive, "{first} {step} {align}");
                }
            }
        }
        assert_eq!(
            aligned(Stretch { first: 1, step: 1, count: u64::MAX, length: 1 }, 1 << 63).unwrap().count,
            1
        );
    }
}
