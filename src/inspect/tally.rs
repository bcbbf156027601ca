//! How often each string occurs, without keeping its text.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::error::Error;
use crate::inspect::runs::{Run, runs};
use crate::inspect::text::printable_length;
use crate::memory::{Buffer, Gap, Memory};
use crate::pass::{self, Chunk, Job, push_gap};
use crate::range::AddressRange;
use crate::text::escaped;

/// Bytes of a string that are shown at most.
const SHOWN: u64 = 4096;

/// How a pass over strings is cut and bounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Bytes that a worker takes at a time.
    ///
    /// A quarter of [`pass::CHUNK`]: a chunk's answer can be many times larger
    /// than that of a search, and 32 per thread wait to be taken.
    pub chunk: u64,
    /// Different strings that are tracked; 100 bytes each.
    pub tracked: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { chunk: pass::CHUNK >> 2, tracked: 1_000_000 }
    }
}

/// What is known of one string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counted {
    /// The hash of its bytes.
    pub(crate) hash: u128,
    /// How often it occurs.
    pub(crate) count: u64,
    /// Its bytes, once.
    pub(crate) length: u64,
    /// Where it occurs first.
    pub(crate) first: u64,
}

impl Counted {
    /// The bytes of all occurrences.
    pub(crate) fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.length)
    }

    /// Its text as it stands at its first place, with a mark where it is cut.
    ///
    /// Escaped, because a running process may have written there meanwhile.
    pub(crate) fn text(&self, memory: &dyn Memory) -> String {
        let mut bytes = Vec::new();
        let shown = AddressRange::saturating(self.first, self.length.min(SHOWN));
        // What has gone missing meanwhile is left out.
        let _ = memory.append(shown, &mut bytes);
        if self.length <= SHOWN {
            return escaped(&bytes);
        }
        bytes.truncate(printable_length(&bytes));
        let more = self.length.saturating_sub(bytes.len() as u64);
        format!("{} … {more} more bytes", escaped(&bytes))
    }
}

/// The hashes are hashes already.
#[derive(Default)]
pub(crate) struct Low(u64);

impl Hasher for Low {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        #[allow(clippy::cast_possible_truncation)] // half of a hash is a hash
        {
            self.0 = hash as u64;
        }
    }
}

/// A map from the hashes of strings.
pub(crate) type ByHash<V> = HashMap<u128, V, BuildHasherDefault<Low>>;

/// All strings of some ranges, counted.
#[derive(Default)]
pub(crate) struct Tally {
    counts: ByHash<Counted>,
    /// Strings, each occurrence.
    pub(crate) total: u64,
    /// Those among them that nothing else is known of.
    pub(crate) untracked: u64,
    /// Bytes that were looked at.
    pub(crate) searched: u64,
    /// Stretches that could not be had.
    pub(crate) gaps: Vec<Gap>,
}

impl Tally {
    /// Counts the strings of at least `min` characters in merged `ranges`.
    ///
    /// Chunks are added in address order and a chunk's strings in the order of
    /// their first places, so which strings are beyond the bound never depends
    /// on threads.
    ///
    /// # Errors
    ///
    /// As [`pass::in_order`] and [`Memory::recheck`].
    pub(crate) fn count(
        memory: &dyn Memory,
        ranges: &[AddressRange],
        min: usize,
        bounds: Bounds,
        job: &Job,
    ) -> Result<Self, Error> {
        memory.recheck()?;
        let mut tally = Self::default();
        let work = |chunk: &Chunk, buffer: &mut Buffer| {
            let mut counts = ByHash::<Counted>::default();
            let searched = runs(memory, chunk, min, job, buffer, |Run { start, length, hash }| {
                let new = Counted { hash, count: 0, length, first: start };
                let counted = counts.entry(hash).or_insert(new);
                counted.count = counted.count.saturating_add(1);
            });
            let mut counts: Vec<Counted> = counts.into_values().collect();
            counts.sort_unstable_by_key(|counted| counted.first);
            (counts, searched)
        };
        pass::in_order(memory, ranges, bounds.chunk, job, work, |_, (counts, searched)| {
            for counted in counts {
                tally.add(counted, bounds.tracked);
            }
            tally.searched = tally.searched.saturating_add(searched.bytes);
            for gap in searched.gaps {
                push_gap(&mut tally.gaps, gap);
            }
            Ok(searched.beyond)
        })?;
        memory.recheck()?;
        Ok(tally)
    }

    fn add(&mut self, new: Counted, tracked: usize) {
        self.total = self.total.saturating_add(new.count);
        let full = self.counts.len() >= tracked;
        if let Some(counted) = self.counts.get_mut(&new.hash) {
            counted.count = counted.count.saturating_add(new.count);
        } else if full {
            self.untracked = self.untracked.saturating_add(new.count);
        } else {
            self.counts.insert(new.hash, new);
        }
    }

    /// How many different strings are tracked.
    pub(crate) fn distinct(&self) -> u64 {
        self.counts.len() as u64
    }

    /// The `top` most frequent strings: by count, then by bytes, then by first place.
    pub(crate) fn most(&self, top: Option<usize>) -> Vec<Counted> {
        let mut counts: Vec<Counted> = self.counts.values().copied().collect();
        let key = |counted: &Counted| (Reverse(counted.count), Reverse(counted.bytes()), counted.first);
        if let Some(top) = top.filter(|top| *top < counts.len()) {
            counts.select_nth_unstable_by_key(top, key);
            counts.truncate(top);
        }
        counts.sort_unstable_by_key(key);
        counts
    }
}
