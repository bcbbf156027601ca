//! What repeats in new bytes: the most frequent strings and the stride between them.
//!
//! A program that leaks one kind of record fills new memory with copies at an
//! even distance: 101 texts "leaked memory" lie 0x810 bytes apart, because each
//! stands at the start of a block of 2048 bytes with its header. The stride
//! thus tells the size of what leaks before anything is known of the heap.

use std::collections::HashMap;

use crate::error::Error;
use crate::inspect::by_hash::ByHash;
use crate::inspect::tally::{Bounds, Choice, Counted, Tally};
use crate::memory::{Buffer, Gap, Memory};
use crate::pass::{self, Chunk, Job};
use crate::range::AddressRange;

/// Different distances that are counted for one string.
const DISTANCES: usize = 65_536;

/// One string that repeats, or several that differ in numbers only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repeated {
    /// The string, with `#` for each number that differs ([`crate::inspect::template`]).
    pub text: String,
    /// The first of them, cut after 4096 bytes with a mark that says how many more there are.
    pub example: String,
    /// How often they occur.
    pub count: u64,
    /// The bytes of all of them.
    pub bytes: u64,
    /// Where the first is.
    pub first: u64,
    /// The most common distance from one to the next, in bytes; the smallest of several.
    ///
    /// `None` where no distance occurs twice. Distances span what lies between
    /// two ranges. Only the first 65,536 different ones are counted.
    pub stride: Option<u64>,
    /// How many of the `count - 1` steps have exactly that distance.
    pub strided: u64,
}

/// What is in some ranges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contents {
    /// The most frequent strings, in the order of [`Strings`](crate::inspect::strings::Strings).
    pub records: Vec<Repeated>,
    /// How many different strings were tracked, those not listed included.
    pub distinct: u64,
    /// How many strings there are, each occurrence counted.
    pub total: u64,
    /// Occurrences beyond the bound: they are in `total` and nowhere else.
    pub untracked: u64,
    /// Bytes that were looked at.
    pub searched: u64,
    /// What could not be looked at, in address order.
    pub gaps: Vec<Gap>,
}

/// The `top` most frequent strings of at least `min` characters, with their strides.
///
/// What counts as a string, and how many are tracked, is as for
/// [`strings`](crate::inspect::strings::strings). The ranges are gone over
/// twice: to count, then for the places of those that are listed.
///
/// # Errors
///
/// [`Error::Interrupted`], and what [`Memory::recheck`] finds.
pub fn contents(
    memory: &dyn Memory,
    ranges: &[AddressRange],
    min: usize,
    top: usize,
    job: &Job,
) -> Result<Contents, Error> {
    contents_within(memory, ranges, min, top, Bounds::default(), job)
}

/// The same with bounds of the caller's choice; the chunks' size changes no answer.
///
/// # Errors
///
/// As [`contents`].
pub fn contents_within(
    memory: &dyn Memory,
    ranges: &[AddressRange],
    min: usize,
    top: usize,
    bounds: Bounds,
    job: &Job,
) -> Result<Contents, Error> {
    let ranges = AddressRange::merge(ranges.to_vec());
    let choice = Choice::least(min);
    let tally = Tally::count(memory, &ranges, choice, bounds, job)?;
    let counts = tally.most(Some(top));
    let listed: ByHash<usize> = counts.iter().zip(0..).map(|((hash, _), index)| (*hash, index)).collect();
    let mut steps: Vec<Steps> = counts.iter().map(|_| Steps::default()).collect();
    // A string that occurs once has no steps.
    if counts.iter().any(|(_, counted)| counted.count > 1) {
        let work =
            |chunk: &Chunk, buffer: &mut Buffer| tally.places(memory, chunk, choice, &listed, job, buffer);
        pass::in_order(memory, &ranges, bounds.chunk, job, work, |_, (places, beyond)| {
            for (index, place) in places {
                if let Some(steps) = steps.get_mut(index) {
                    steps.add(place);
                }
            }
            Ok(beyond)
        })?;
    }
    let record = |((_, counted), steps): ((u128, Counted), Steps)| {
        let (stride, strided) = steps.most_common().unzip();
        let (text, example) = tally.texts(memory, &counted);
        let Counted { count, bytes, first, .. } = counted;
        Repeated { text, example, count, bytes, first, stride, strided: strided.unwrap_or(0) }
    };
    Ok(Contents {
        records: counts.into_iter().zip(steps).map(record).collect(),
        distinct: tally.distinct(),
        total: tally.total,
        untracked: tally.untracked,
        searched: tally.searched,
        gaps: tally.gaps,
    })
}

/// The distances between places that come in address order.
#[derive(Default)]
struct Steps {
    last: Option<u64>,
    distances: HashMap<u64, u64>,
}

impl Steps {
    fn add(&mut self, place: u64) {
        let Some(last) = self.last.replace(place) else { return };
        let distance = place.saturating_sub(last);
        let full = self.distances.len() >= DISTANCES;
        if let Some(times) = self.distances.get_mut(&distance) {
            *times = times.saturating_add(1);
        } else if !full {
            self.distances.insert(distance, 1);
        }
    }

    /// The distance that most steps have, and how many, if more than one has it.
    fn most_common(&self) -> Option<(u64, u64)> {
        let repeated = self.distances.iter().filter(|(_, times)| **times > 1);
        repeated
            .map(|(distance, times)| (*distance, *times))
            .max_by_key(|(distance, times)| (*times, std::cmp::Reverse(*distance)))
    }
}
