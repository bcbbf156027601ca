//! The printable strings of memory, each with how often and how many bytes.

use crate::error::Error;
pub use crate::inspect::tally::{Bounds, Choice, Kinds, Part};
use crate::inspect::tally::{Counted, Tally};
use crate::memory::{Gap, Memory};
use crate::pass::Job;
use crate::range::AddressRange;

/// One string, or several that differ in numbers only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StringCount {
    /// The string, with `#` for each number that differs ([`crate::inspect::template`]).
    pub text: String,
    /// The first of them, cut after 4096 bytes with a mark that says how many more there are.
    pub example: String,
    /// How often they occur.
    pub count: u64,
    /// The bytes of all of them.
    pub bytes: u64,
    /// The bytes of the first.
    pub length: u64,
    /// Where the first is.
    pub first: u64,
}

/// The strings of some ranges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Strings {
    /// Most frequent first; equally frequent ones by bytes, then by first place.
    pub strings: Vec<StringCount>,
    /// How many different ones were tracked, those not listed included; those that differ in
    /// numbers only are one.
    pub distinct: u64,
    /// How many there are, each occurrence counted.
    pub total: u64,
    /// Occurrences of those beyond the bound: they are in `total` and nowhere else.
    pub untracked: u64,
    /// Those left out because they are bytes of addresses; they are in no other number.
    pub addresses: u64,
    /// Bytes that were looked at.
    pub searched: u64,
    /// What could not be looked at, in address order.
    pub gaps: Vec<Gap>,
}

/// The `top` most frequent strings that are chosen, all where `top` is `None`.
///
/// A string is as long as it can be: it ends at what is not
/// [printable](crate::text::printable), at a gap and at the end of the
/// ranges, but goes on from one region into the next where they touch and both
/// are asked for, for nothing in memory marks that border. It is counted where
/// it starts. Overlapping ranges count once.
///
/// At most a million different strings are tracked (120 MB, with numbers in all of them 220 MB); in address order
/// the first ones are, whatever the threads do. Different strings are told
/// apart by 128 bits of XXH3. Of the strings listed the text is read again at
/// the end: where a process runs meanwhile it may have changed.
///
/// # Errors
///
/// [`Error::Interrupted`], and what [`Memory::recheck`] finds.
///
/// ```
/// use gdb_leak::inspect::strings::{Choice, strings};
/// use gdb_leak::pass::Job;
/// use gdb_leak::range::AddressRange;
/// use gdb_leak::source::captured::Captured;
/// let memory = Captured::new().with(0x1000, b"leaked\0\xffleaked\0ok\0freed");
/// let ranges = [AddressRange::new(0x1000, 0x2000).unwrap()];
/// let found = strings(&memory, &ranges, Choice::least(4), Some(10), &Job::default()).unwrap();
/// let rows: Vec<_> = found.strings.iter().map(|row| (row.text.as_str(), row.count)).collect();
/// assert_eq!(rows, [("leaked", 2), ("freed", 1)]);
/// ```
pub fn strings(
    memory: &dyn Memory,
    ranges: &[AddressRange],
    choice: Choice<'_>,
    top: Option<usize>,
    job: &Job,
) -> Result<Strings, Error> {
    strings_within(memory, ranges, choice, top, Bounds::default(), job)
}

/// The same with bounds of the caller's choice; the chunks' size changes no answer.
///
/// # Errors
///
/// As [`strings`].
pub fn strings_within(
    memory: &dyn Memory,
    ranges: &[AddressRange],
    choice: Choice<'_>,
    top: Option<usize>,
    bounds: Bounds,
    job: &Job,
) -> Result<Strings, Error> {
    let ranges = AddressRange::merge(ranges.to_vec());
    let tally = Tally::count(memory, &ranges, choice, bounds, job)?;
    let row = |(_, counted): (u128, Counted)| {
        let (text, example) = tally.texts(memory, &counted);
        let Counted { count, bytes, length, first, .. } = counted;
        StringCount { text, example, count, bytes, length, first }
    };
    Ok(Strings {
        strings: tally.most(top).into_iter().map(row).collect(),
        distinct: tally.distinct(),
        total: tally.total,
        untracked: tally.untracked,
        addresses: tally.addresses,
        searched: tally.searched,
        gaps: tally.gaps,
    })
}
