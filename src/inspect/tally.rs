//! How often each string occurs, those that differ in numbers only together, without keeping texts.

use std::cmp::Reverse;

use indexmap::map::Entry;
use twox_hash::xxhash3_128::Hasher;

use crate::error::Error;
use crate::inspect::by_hash::{ByHash, InOrder};
pub use crate::inspect::runs::Kinds;
use crate::inspect::runs::{HANDED, Run, Searched, Text, runs};
use crate::inspect::template::{Company, Numbers, Read, Reader, absorbed, template};
use crate::inspect::text::printable_length;
use crate::memory::{Buffer, Gap, Memory};
use crate::pass::{self, Chunk, Job, push_gap};
use crate::range::AddressRange;
use crate::text::escaped;

/// Bytes of a string that are shown at most.
const SHOWN: u64 = HANDED as u64;

/// The part of a string that counts; `None` where none does.
pub type Part<'p> = dyn Fn(AddressRange) -> Option<AddressRange> + Sync + 'p;

/// Which strings are counted.
#[derive(Clone, Copy)]
pub struct Choice<'p> {
    /// What counts as a string.
    pub kinds: Kinds,
    /// Which part of one counts; of `None` the whole.
    pub part: Option<&'p Part<'p>>,
}

impl Choice<'_> {
    /// Strings of at least `min` characters, wherever they are, without those that are bytes of addresses.
    #[must_use]
    pub const fn least(min: usize) -> Self {
        Self { kinds: Kinds { min, addresses: false }, part: None }
    }

    /// The part of a string that counts; `room` is for its bytes.
    fn part<'t>(&self, memory: &dyn Memory, run: Run<'t>, room: &'t mut Vec<u8>) -> Option<Run<'t>> {
        let Some(part) = self.part else { return Some(run) };
        let range = part(AddressRange::saturating(run.start, run.length))?;
        let text = match run.text {
            Text::Hash(_) if range.len() == run.length => run.text,
            // Of the whole there is a hash alone, and equal parts of different texts are equal.
            Text::Hash(_) => {
                let text = text_of(memory, range, room)?;
                if text.1 < self.kinds.min {
                    return None;
                }
                text.0
            }
            Text::Bytes(bytes) => {
                let skip = usize::try_from(range.start().wrapping_sub(run.start)).ok()?;
                let bytes = bytes.get(skip..)?;
                let bytes = bytes.get(..usize::try_from(range.len()).ok()?)?;
                let characters = bytes.iter().filter(|byte| *byte & 0xc0 != 0x80).count();
                if characters < self.kinds.min {
                    return None;
                }
                Text::Bytes(bytes)
            }
        };
        Some(Run { start: range.start(), length: range.len(), text })
    }
}

/// The bytes of a string, or their hash if it is long, and how many characters it has; `None` where some
/// have gone missing.
fn text_of<'t>(memory: &dyn Memory, range: AddressRange, room: &'t mut Vec<u8>) -> Option<(Text<'t>, usize)> {
    room.clear();
    let (mut hasher, mut buffer) = (Hasher::new(), Buffer::default());
    let (mut at, mut characters) = (range.start(), 0_usize);
    while at < range.end() {
        let rest = AddressRange::saturating(at, range.end().saturating_sub(at).min(pass::CHUNK));
        let view = memory.view(rest, &mut buffer);
        if view.bytes.is_empty() {
            return None;
        }
        let continued = |byte: &&u8| **byte & 0xc0 == 0x80;
        let more = view.bytes.len().saturating_sub(view.bytes.iter().filter(continued).count());
        characters = characters.saturating_add(more);
        hasher.write(view.bytes);
        if range.len() <= SHOWN {
            room.extend_from_slice(view.bytes);
        }
        at = at.saturating_add(view.bytes.len() as u64);
    }
    let text = if range.len() <= SHOWN { Text::Bytes(room) } else { Text::Hash(hasher.finish_128()) };
    Some((text, characters))
}

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

/// What is known of strings that differ in numbers only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counted {
    /// How often they occur.
    pub(crate) count: u64,
    /// The bytes of all of them.
    pub(crate) bytes: u64,
    /// The bytes of the first.
    pub(crate) length: u64,
    /// Where the first is.
    pub(crate) first: u64,
    /// Which numbers of the table are theirs, counted from one; zero where they have none.
    numbers: u32,
}

impl Counted {
    fn once(run: &Run<'_>) -> Self {
        Self { count: 1, bytes: run.length, length: run.length, first: run.start, numbers: 0 }
    }

    fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.bytes = self.bytes.saturating_add(other.bytes);
        if other.first < self.first {
            (self.first, self.length) = (other.first, other.length);
        }
    }
}

/// Bytes of a short text.
const SHORT: usize = 15;

/// The bytes of a short text as a number; no text has a NUL, so zeros after it are none of it.
fn spelled(bytes: &[u8]) -> Option<u128> {
    if bytes.is_empty() || bytes.len() > SHORT {
        return None;
    }
    let mut all = [0; 16];
    all.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u128::from_le_bytes(all))
}

/// What strings are counted under.
#[derive(Clone, Copy)]
enum Key {
    /// The bytes of a short text.
    Short(u128),
    /// The hash of words.
    Words(u128),
}

/// Strings by the hash of their words, and short ones as they are.
///
/// Most strings are short, there by chance, and never twice in a chunk: to read their numbers
/// takes as long as all the rest. That is done at the end for each that is different, or when there
/// is no more room.
///
/// The numbers are beside the counts, since most strings have none.
#[derive(Default)]
struct Table {
    short: InOrder<Counted>,
    counts: InOrder<Counted>,
    numbers: Vec<Numbers>,
    /// Whether reading the numbers of short strings makes no more room.
    settled: bool,
}

impl Table {
    fn len(&self) -> usize {
        self.short.len().saturating_add(self.counts.len())
    }

    fn numbers(&self, counted: &Counted) -> Option<&Numbers> {
        self.numbers.get(usize::try_from(counted.numbers.checked_sub(1)?).ok()?)
    }

    /// Counts one string.
    fn count(&mut self, reader: &mut Reader, run: &Run<'_>) {
        let new = Counted::once(run);
        let bytes = if let Text::Bytes(bytes) = run.text { bytes } else { &[] };
        if let Some(text) = spelled(bytes) {
            self.short.entry(text).and_modify(|counted| counted.add(&new)).or_insert(new);
            return;
        }
        let read = read(reader, run);
        match self.counts.entry(read.hash) {
            Entry::Occupied(mut slot) => {
                slot.get_mut().add(&new);
                if let Some(own) = at(&mut self.numbers, slot.get().numbers) {
                    reader.add(own, bytes, &read);
                }
            }
            Entry::Vacant(slot) => {
                // Sentences have words like `a` and `be`; in long ones hex without any digit is
                // not looked for, which would take as long as to find them.
                let numbers = read.numbers.and_then(|_| reader.first(bytes, &read));
                slot.insert(Counted { numbers: push(&mut self.numbers, numbers), ..new });
            }
        }
    }

    /// All of them, in the order of their first places if every string was counted in that order.
    fn in_order(&self) -> impl Iterator<Item = (Key, &Counted)> {
        let mut short = self.short.iter().peekable();
        let mut counts = self.counts.iter().peekable();
        std::iter::from_fn(move || {
            let next_is_short = match (short.peek(), counts.peek()) {
                (Some((_, short)), Some((_, counted))) => short.first < counted.first,
                (_, counted) => counted.is_none(),
            };
            if next_is_short {
                short.next().map(|(text, counted)| (Key::Short(*text), counted))
            } else {
                counts.next().map(|(hash, counted)| (Key::Words(*hash), counted))
            }
        })
    }

    /// Counts strings of another table; says whether there was room for them or others like them.
    fn merge(&mut self, key: Key, new: &Counted, numbers: Option<&Numbers>, tracked: usize) -> bool {
        if self.len() >= tracked {
            if self.known(key, new, numbers) {
                return true;
            }
            if !self.settled {
                self.settle();
                self.settled = self.len() >= tracked.saturating_sub(tracked / 4);
            }
            if self.len() >= tracked {
                // There may be others that differ in numbers only.
                return match key {
                    Key::Short(text) => {
                        let (hash, numbers) = words(&mut Reader::default(), text, new.length);
                        self.known(Key::Words(hash), new, numbers.as_ref())
                    }
                    Key::Words(_) => false,
                };
            }
        }
        match key {
            Key::Short(text) => {
                self.short.entry(text).and_modify(|counted| counted.add(new)).or_insert(*new);
            }
            Key::Words(hash) => self.add(hash, new, numbers),
        }
        true
    }

    /// Counts strings by the hash of their words.
    fn add(&mut self, hash: u128, new: &Counted, numbers: Option<&Numbers>) {
        match self.counts.entry(hash) {
            Entry::Occupied(slot) => joined(slot.into_mut(), &mut self.numbers, new, numbers),
            Entry::Vacant(slot) => {
                let numbers = push(&mut self.numbers, numbers.copied());
                slot.insert(Counted { numbers, ..*new });
            }
        }
    }

    /// Counts strings if there are others like them.
    fn known(&mut self, key: Key, new: &Counted, numbers: Option<&Numbers>) -> bool {
        let counted = match key {
            Key::Short(text) => self.short.get_mut(&text),
            Key::Words(hash) => self.counts.get_mut(&hash),
        };
        let Some(counted) = counted else { return false };
        joined(counted, &mut self.numbers, new, numbers);
        true
    }

    /// Counts short strings by their words, too.
    fn settle(&mut self) {
        let mut reader = Reader::default();
        for (text, short) in std::mem::take(&mut self.short) {
            let (hash, numbers) = words(&mut reader, text, short.length);
            self.add(hash, &short, numbers.as_ref());
        }
    }
}

/// Adds strings to others like them.
fn joined(counted: &mut Counted, all: &mut [Numbers], new: &Counted, numbers: Option<&Numbers>) {
    counted.add(new);
    if let Some((own, numbers)) = at(all, counted.numbers).zip(numbers) {
        own.merge(numbers);
    }
}

/// The hash of the words of a short text of `length` bytes, and its numbers.
fn words(reader: &mut Reader, text: u128, length: u64) -> (u128, Option<Numbers>) {
    let bytes = text.to_le_bytes();
    let text = usize::try_from(length).ok().and_then(|length| bytes.get(..length)).unwrap_or_default();
    let read = reader.read(text, HANDED);
    (read.hash, reader.first(text, &read))
}

/// What is read of a string.
fn read(reader: &mut Reader, run: &Run<'_>) -> Read {
    match run.text {
        Text::Hash(hash) => Read { hash, length: 0, numbers: None },
        Text::Bytes(bytes) => reader.read(bytes, HANDED),
    }
}

fn at(numbers: &mut [Numbers], number: u32) -> Option<&mut Numbers> {
    numbers.get_mut(usize::try_from(number.checked_sub(1)?).ok()?)
}

/// Keeps numbers, and says which they are, counted from one; zero of none.
fn push(all: &mut Vec<Numbers>, numbers: Option<Numbers>) -> u32 {
    all.extend(numbers);
    if numbers.is_some() { u32::try_from(all.len()).unwrap_or(0) } else { 0 }
}

/// All strings of some ranges, counted.
#[derive(Default)]
pub(crate) struct Tally {
    table: Table,
    /// The hashes under which strings that were absorbed by others are counted.
    absorbed: ByHash<u128>,
    /// Strings, each occurrence.
    pub(crate) total: u64,
    /// Those among them that nothing else is known of.
    pub(crate) untracked: u64,
    /// Bytes that were looked at.
    pub(crate) searched: u64,
    /// Those that were left out as bytes of addresses.
    pub(crate) addresses: u64,
    /// Stretches that could not be had.
    pub(crate) gaps: Vec<Gap>,
}

/// Hands over each string of a chunk that counts.
fn each(
    memory: &dyn Memory,
    chunk: &Chunk,
    choice: Choice<'_>,
    job: &Job,
    buffer: &mut Buffer,
    mut take: impl FnMut(Run<'_>),
) -> Searched {
    let mut room = Vec::new();
    runs(memory, chunk, choice.kinds, job, buffer, |run| {
        if let Some(run) = choice.part(memory, run, &mut room) {
            take(run);
        }
    })
}

impl Tally {
    /// Counts the strings that are chosen in merged `ranges`.
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
        choice: Choice<'_>,
        bounds: Bounds,
        job: &Job,
    ) -> Result<Self, Error> {
        memory.recheck()?;
        let mut tally = Self::default();
        let work = |chunk: &Chunk, buffer: &mut Buffer| {
            let mut table = Table::default();
            let mut reader = Reader::default();
            let searched = each(memory, chunk, choice, job, buffer, |run| table.count(&mut reader, &run));
            (table, searched)
        };
        pass::in_order(memory, ranges, bounds.chunk, job, work, |_, (table, searched)| {
            for (key, counted) in table.in_order() {
                tally.add(key, counted, table.numbers(counted), bounds.tracked);
            }
            tally.searched = tally.searched.saturating_add(searched.bytes);
            tally.addresses = tally.addresses.saturating_add(searched.addresses);
            for gap in searched.gaps {
                push_gap(&mut tally.gaps, gap);
            }
            Ok(searched.beyond)
        })?;
        memory.recheck()?;
        tally.table.settle();
        tally.absorb();
        Ok(tally)
    }

    /// Counts strings whose words are numbers in others that are alike with these.
    fn absorb(&mut self) {
        let company = |(hash, counted): (&u128, &Counted)| {
            let Counted { count, first, .. } = *counted;
            Some(Company { common: 0, count, first, key: *hash, numbers: *self.table.numbers(counted)? })
        };
        let pairs = absorbed(|take| self.table.counts.iter().filter_map(company).for_each(take));
        for (from, into) in pairs {
            let Some(part) = self.table.counts.swap_remove(&from) else { continue };
            let numbers = self.table.numbers(&part).copied();
            self.table.known(Key::Words(into), &part, numbers.as_ref());
            self.absorbed.insert(from, into);
        }
    }

    /// Hands over each string of a chunk that `wanted` has a number for, with that and its address.
    pub(crate) fn places(
        &self,
        memory: &dyn Memory,
        chunk: &Chunk,
        choice: Choice<'_>,
        wanted: &ByHash<usize>,
        job: &Job,
        buffer: &mut Buffer,
    ) -> (Vec<(usize, u64)>, Option<u64>) {
        let mut places = Vec::new();
        let mut reader = Reader::default();
        let searched = each(memory, chunk, choice, job, buffer, |run| {
            let hash = read(&mut reader, &run).hash;
            let hash = self.absorbed.get(&hash).unwrap_or(&hash);
            places.extend(wanted.get(hash).map(|index| (*index, run.start)));
        });
        (places, searched.beyond)
    }

    fn add(&mut self, key: Key, new: &Counted, numbers: Option<&Numbers>, tracked: usize) {
        self.total = self.total.saturating_add(new.count);
        if !self.table.merge(key, new, numbers, tracked) {
            self.untracked = self.untracked.saturating_add(new.count);
        }
    }

    /// What strings have in common, and the first of them, unchanged.
    ///
    /// Cut with a mark where it is longer than 4096 bytes, and escaped, because a running
    /// process may have written there meanwhile.
    pub(crate) fn texts(&self, memory: &dyn Memory, counted: &Counted) -> (String, String) {
        let mut bytes = Vec::new();
        let shown = AddressRange::saturating(counted.first, counted.length.min(SHOWN));
        // What has gone missing meanwhile is left out.
        let _ = memory.append(shown, &mut bytes);
        if counted.length <= SHOWN {
            let differ = self.table.numbers(counted).filter(|numbers| numbers.differ());
            let text = differ.map(|numbers| escaped(&template(&bytes, numbers)));
            let first = escaped(&bytes);
            return (text.unwrap_or_else(|| first.clone()), first);
        }
        bytes.truncate(printable_length(&bytes));
        let more = counted.length.saturating_sub(bytes.len() as u64);
        let first = format!("{} … {more} more bytes", escaped(&bytes));
        (first.clone(), first)
    }

    /// How many different strings are tracked.
    pub(crate) fn distinct(&self) -> u64 {
        self.table.counts.len() as u64
    }

    /// The `top` most frequent strings with the hashes of their words: by count, then by bytes, then
    /// by first place.
    pub(crate) fn most(&self, top: Option<usize>) -> Vec<(u128, Counted)> {
        let mut counts: Vec<(u128, Counted)> =
            self.table.counts.iter().map(|(hash, counted)| (*hash, *counted)).collect();
        let key =
            |(_, counted): &(u128, Counted)| (Reverse(counted.count), Reverse(counted.bytes), counted.first);
        if let Some(top) = top.filter(|top| *top < counts.len()) {
            counts.select_nth_unstable_by_key(top, key);
            counts.truncate(top);
        }
        counts.sort_unstable_by_key(key);
        counts
    }
}
