//! The search itself: chunks in parallel, answers in address order.

use super::answer::Answer;
use super::finds::{KEPT, Scan};
use super::needle::Needle;
use crate::error::Error;
use crate::memory::{Gap, Memory};
use crate::pass::{self, CHUNK, Job};
use crate::range::AddressRange;

/// What to look for, where, and how many matches to come back with.
#[derive(Clone, Debug)]
pub struct Search {
    /// What to look for.
    pub needle: Needle,
    /// Takes only matches whose address is a multiple of this, which is any positive number.
    pub align: Option<u64>,
    /// How many matches are kept; all are counted. `None` keeps all, at 16 bytes each.
    pub limit: Option<usize>,
}

/// A place that holds the needle.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Match {
    /// The address of its first byte.
    pub address: u64,
    /// How many bytes it has.
    pub length: u32,
}

/// What a search came back with.
#[derive(Clone, Default, Debug)]
pub struct Found {
    /// How many matches there are.
    pub count: u64,
    /// The address of the last of them all.
    pub last: Option<u64>,
    /// The first of them in address order, as many as [`Search::limit`] allows.
    pub matches: Vec<Match>,
    /// Bytes that were looked at; those in gaps are not among them.
    pub searched: u64,
    /// What could not be looked at, in address order.
    pub gaps: Vec<Gap>,
}

impl Found {
    /// Leaves out the matches whose addresses `counts` does not take, and lists `limit` of the rest.
    ///
    /// All matches have to be there: the search had no limit.
    pub fn keep(&mut self, limit: Option<usize>, counts: impl Fn(u64) -> bool) {
        self.matches.retain(|place| counts(place.address));
        self.count = self.matches.len() as u64;
        self.last = self.matches.last().map(|place| place.address);
        self.matches.truncate(limit.unwrap_or(usize::MAX));
    }
}

/// All matches in `ranges`.
///
/// Touching and overlapping ranges are one: a match may lie across their
/// border, and across any number of regions; a gap breaks it. Each match
/// counts once. The answer never depends on how many threads took part.
///
/// Memory: [`Search::limit`] matches of 16 bytes each, and a fixed amount for
/// each thread.
///
/// # Errors
///
/// [`Error::Request`] for an alignment of 0, [`Error::Interrupted`] when the job
/// was stopped, and what [`Memory::recheck`] finds before or afterwards.
pub fn find(
    memory: &dyn Memory,
    ranges: &[AddressRange],
    search: &Search,
    job: &Job,
) -> Result<Found, Error> {
    find_in_chunks(memory, ranges, search, job, CHUNK)
}

/// The same by chunks of `size` bytes, on which the answer does not depend.
///
/// # Errors
///
/// As [`find`].
pub fn find_in_chunks(
    memory: &dyn Memory,
    ranges: &[AddressRange],
    search: &Search,
    job: &Job,
    size: u64,
) -> Result<Found, Error> {
    if search.align == Some(0) {
        let rule = "no address is a multiple of it; give a positive number".to_owned();
        return Err(Error::Request { thing: "-align", value: "0".to_owned(), rule });
    }
    memory.recheck()?;
    let scan = Scan { memory, search, job };
    let mut answer = Answer::new(scan);
    // What only the order of chunks decides is decided when they are handed
    // over, and may need more than the first few matches.
    let keep = if search.needle.exclusive() { KEPT } else { KEPT.min(search.limit.unwrap_or(KEPT)) };
    pass::in_order(
        memory,
        ranges,
        size,
        job,
        |chunk, buffer| scan.chunk(chunk, chunk.own.start(), keep, buffer),
        |chunk, finds| answer.take(chunk, finds),
    )?;
    // A process that ended meanwhile had nothing left to find.
    memory.recheck()?;
    Ok(answer.found)
}
