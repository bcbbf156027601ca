//! The strings of one chunk: the one scanner behind counts and records.
//!
//! One way is `bytes.split(|byte| !printable(byte))`. It looks at every byte
//! by itself and knows neither UTF-8 nor what lies across two chunks. A string
//! of at least `min` characters has at least `min` bytes, so where no string is
//! open memory is judged eight bytes at a time: only where so many bytes follow
//! each other that can be in a character at all is one character looked at
//! after the other.
//!
//! A string belongs to the chunk in which it starts. That chunk reads on until
//! it ends; the others know from the four bytes before their own (no character
//! is longer) that it began before them. Each byte is thus read at most once
//! more than it must be, however long a string is.
//!
//! A string is handed over with its bytes, or, where these are more than 4096, with
//! their 128-bit XXH3, which comes out the same for one slice and for many. Bytes of
//! addresses that can be read by chance are counted and left out
//! ([`crate::inspect::addresses`]).

use twox_hash::xxhash3_128::Hasher;

use crate::inspect::addresses::Addresses;
use crate::inspect::text::{Character, character, possible, prefix};
use crate::memory::{Buffer, Gap, Memory};
use crate::pass::{Chunk, Job, push_gap};
use crate::peek::Peek;
use crate::range::AddressRange;

/// Bytes in the longest character.
const WIDEST: usize = 4;

/// Bytes asked for at first beyond the chunk: most strings end soon.
const BEYOND: u64 = 4 << 10;

/// Bytes asked for at a time by a string that does not.
const FAR_BEYOND: u64 = 1 << 20;

/// Bytes of a string that are handed over at most.
pub(crate) const HANDED: usize = 4096;

/// What counts as a string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kinds {
    /// How many characters a string has at least.
    pub min: usize,
    /// Whether bytes of addresses count that can be read by chance.
    pub addresses: bool,
}

/// The bytes of a string, or the hash of those of a long one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Text<'t> {
    Bytes(&'t [u8]),
    Hash(u128),
}

/// One string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run<'t> {
    /// The address of its first byte.
    pub(crate) start: u64,
    /// Its bytes.
    pub(crate) length: u64,
    pub(crate) text: Text<'t>,
}

/// What became of the chunk's own bytes.
#[derive(Debug, Default)]
pub(crate) struct Searched {
    /// Bytes that were looked at.
    pub(crate) bytes: u64,
    /// Those that could not be had, in address order.
    pub(crate) gaps: Vec<Gap>,
    /// The end of a gap that goes on behind the chunk.
    pub(crate) beyond: Option<u64>,
    /// Strings that were left out as bytes of addresses.
    pub(crate) addresses: u64,
}

/// Hands over each string that counts and starts in the chunk, in address order.
///
/// Ends early, with what was found so far, once the job is stopped.
pub(crate) fn runs(
    memory: &dyn Memory,
    chunk: &Chunk,
    kinds: Kinds,
    job: &Job,
    buffer: &mut Buffer,
    take: impl FnMut(Run<'_>),
) -> Searched {
    let Chunk { own, run } = *chunk;
    let mut searched = Searched { bytes: own.len(), ..Searched::default() };
    let mut scanner = Scanner::new(memory, own, kinds, take);
    let mut at = own.start().saturating_sub(WIDEST as u64).max(run.start());
    let mut beyond = BEYOND;
    while at < own.end() || (scanner.reads_on() && at < run.end()) {
        if job.stopped() {
            break;
        }
        let length = if at < own.end() {
            own.end().saturating_sub(at)
        } else {
            let length = beyond.min(run.end().saturating_sub(at));
            beyond = FAR_BEYOND;
            length
        };
        let zeros = memory.zeros(AddressRange::saturating(at, length));
        if zeros > 0 {
            // No character has a zero in it: they end a string as a gap does.
            scanner.close();
            at = at.saturating_add(zeros);
            continue;
        }
        let view = memory.view(AddressRange::saturating(at, length), buffer);
        scanner.feed(at, view.bytes);
        at = at.saturating_add(view.bytes.len() as u64);
        if let Some(gap) = view.gap {
            scanner.close();
            at = at.max(gap.range.end());
            if let Some(range) = gap.range.intersection(own) {
                searched.bytes = searched.bytes.saturating_sub(range.len());
                // What goes on behind the chunk is noted here as a whole: the pass leaves it out.
                let end = gap.range.end().min(run.end());
                searched.beyond = (end > own.end()).then_some(end);
                let range = AddressRange::saturating(range.start(), end.saturating_sub(range.start()));
                push_gap(&mut searched.gaps, Gap { range, missing: gap.missing });
            }
        } else if view.bytes.is_empty() {
            break;
        }
    }
    scanner.close();
    searched.addresses = scanner.left_out;
    searched
}

/// A string whose end is not known yet.
struct Open {
    start: u64,
    length: u64,
    characters: u64,
    /// Its first bytes.
    bytes: Vec<u8>,
    /// Kept on the heap: it is half a kilobyte, and only strings across slices need it.
    hasher: Box<Hasher>,
}

/// The first bytes of a character that goes on in the next slice.
#[derive(Default)]
struct Cut {
    at: u64,
    bytes: [u8; WIDEST],
    length: usize,
}

struct Scanner<'m, F> {
    own: AddressRange,
    /// `None` if bytes of addresses count as strings.
    addresses: Option<Addresses<'m>>,
    /// For words that lie in two slices.
    peek: Peek<'m>,
    left_out: u64,
    min: u64,
    /// How many possible bytes in a row make a look worth it: 1, 2 or 4.
    stretch: u32,
    open: Option<Open>,
    cut: Cut,
    take: F,
}

impl<'m, F: FnMut(Run<'_>)> Scanner<'m, F> {
    fn new(memory: &'m dyn Memory, own: AddressRange, Kinds { min, addresses }: Kinds, take: F) -> Self {
        let stretch = match min {
            0..=1 => 1,
            2..=3 => 2,
            _ => 4,
        };
        let addresses = (!addresses).then(|| Addresses::new(memory));
        let (peek, min) = (Peek::new(memory), min.max(1) as u64);
        Self { own, addresses, peek, left_out: 0, min, stretch, open: None, cut: Cut::default(), take }
    }

    /// Whether something that starts in the chunk goes on behind it.
    fn reads_on(&self) -> bool {
        let start = match &self.open {
            Some(open) => open.start,
            None if self.cut.length > 0 => self.cut.at,
            None => return false,
        };
        start >= self.own.start()
    }

    /// Goes over the next slice, which follows the one before without a gap.
    fn feed(&mut self, base: u64, bytes: &[u8]) {
        let mut rest = self.finish_cut(bytes);
        if self.cut.length > 0 {
            return;
        }
        let address = |rest: &[u8]| base.saturating_add(bytes.len().saturating_sub(rest.len()) as u64);
        loop {
            if self.open.is_none() {
                rest = next_start(rest, self.stretch);
            }
            let start = address(rest);
            if rest.is_empty() || (self.open.is_none() && start >= self.own.end()) {
                return;
            }
            let found = prefix(rest);
            let (text, after) = rest.split_at(found.length);
            if found.next == Character::Cut {
                self.extend(start, text, found.characters);
                self.keep_cut(address(after), after);
                return;
            }
            if self.open.is_some() {
                self.extend(start, text, found.characters);
                self.close();
            } else if found.characters >= self.min && start >= self.own.start() {
                self.hand_over(start, text, base, bytes);
            }
            // What stands after the text is in no character.
            rest = after.get(1..).unwrap_or_default();
        }
    }

    /// Joins the cut character with the slice; returns what is left of the slice.
    fn finish_cut<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut rest = bytes;
        while self.cut.length > 0 {
            let Cut { at, bytes: joined, length } = self.cut;
            let joined = joined.get(..length).unwrap_or_default();
            match character(joined) {
                Character::Printable(_) => {
                    self.extend(at, joined, 1);
                    self.cut.length = 0;
                }
                Character::Cut => {
                    let Some((byte, after)) = rest.split_first() else { break };
                    if let Some(place) = self.cut.bytes.get_mut(length) {
                        *place = *byte;
                    }
                    self.cut.length = length.saturating_add(1);
                    rest = after;
                }
                // All but the last of the bytes joined are in no character; the
                // last may start one and is looked at again with its slice.
                Character::Other => {
                    self.close();
                    return bytes;
                }
            }
        }
        rest
    }

    fn keep_cut(&mut self, at: u64, bytes: &[u8]) {
        self.cut = Cut { at, bytes: [0; WIDEST], length: bytes.len().min(WIDEST) };
        self.cut.bytes.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }

    /// Adds text to the open string, or opens one with it.
    fn extend(&mut self, start: u64, text: &[u8], characters: u64) {
        if text.is_empty() {
            return;
        }
        let new = || Open { start, length: 0, characters: 0, bytes: Vec::new(), hasher: Box::default() };
        let open = self.open.get_or_insert_with(new);
        open.length = open.length.saturating_add(text.len() as u64);
        open.characters = open.characters.saturating_add(characters);
        if open.start >= self.own.start() {
            let room = HANDED.saturating_sub(open.bytes.len()).min(text.len());
            open.bytes.extend_from_slice(text.get(..room).unwrap_or_default());
            open.hasher.write(text);
        }
    }

    /// Hands over a string that lies in one slice, whose first byte is at `base`.
    fn hand_over(&mut self, start: u64, text: &[u8], base: u64, slice: &[u8]) {
        let length = text.len() as u64;
        if !self.made_of_addresses(start, length, base, slice) {
            let text =
                if text.len() > HANDED { Text::Hash(Hasher::oneshot(text)) } else { Text::Bytes(text) };
            (self.take)(Run { start, length, text });
        }
    }

    /// Whether a string is bytes of addresses; counts it then.
    fn made_of_addresses(&mut self, start: u64, length: u64, base: u64, slice: &[u8]) -> bool {
        let Some(addresses) = &mut self.addresses else { return false };
        let format = addresses.format();
        let peek = &mut self.peek;
        let made = addresses.made(start, length, |at| {
            let offset = at.checked_sub(base).and_then(|offset| usize::try_from(offset).ok());
            let here = offset.and_then(|offset| format.read(slice.get(offset..)?));
            here.or_else(|| peek.word(at))
        });
        self.left_out = self.left_out.saturating_add(u64::from(made));
        made
    }

    /// Ends the open string and whatever was cut.
    fn close(&mut self) {
        self.cut.length = 0;
        let Some(Open { start, length, characters, bytes, hasher }) = self.open.take() else { return };
        let counts = characters >= self.min && start >= self.own.start();
        if counts && !self.made_of_addresses(start, length, 0, &[]) {
            let whole = bytes.len() as u64 == length;
            let text = if whole { Text::Bytes(&bytes) } else { Text::Hash(hasher.finish_128()) };
            (self.take)(Run { start, length, text });
        }
    }
}

/// What is left of `bytes` from the first place on where `stretch` possible bytes follow each other.
///
/// Returns less than eight bytes where there is no such place.
#[inline]
fn next_start(mut bytes: &[u8], stretch: u32) -> &[u8] {
    while let Some(block) = bytes.first_chunk::<8>() {
        if *block == [0; 8] {
            bytes = after_zeros(bytes);
            continue;
        }
        let possible = possible(*block);
        let mut stretches = possible;
        if stretch > 1 {
            stretches &= stretches >> 8;
        }
        if stretch > 2 {
            stretches &= stretches >> 16;
        }
        // Where there is none, those at the end may go on in the next block.
        let skip = if stretches == 0 {
            8_u32.saturating_sub((possible | EACH_LOW).leading_ones() >> 3)
        } else {
            stretches.trailing_zeros() >> 3
        };
        bytes = bytes.get(skip as usize..).unwrap_or_default();
        if stretches != 0 {
            break;
        }
    }
    bytes
}

/// What is left of `bytes`, which start with eight zeros, after whole blocks of zeros.
///
/// Half of a heap is zeros; this goes over them at the speed of memory.
fn after_zeros(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((block, after)) = rest.split_first_chunk::<64>() {
        if block.iter().fold(0, |all, byte| all | byte) != 0 {
            break;
        }
        rest = after;
    }
    rest
}

/// All bits of each byte but the highest.
const EACH_LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
