//! Texts that differ in numbers only: what counts as a number, and what such texts have in common.
//!
//! A server holds `GET /item/17 HTTP/1.1` a thousand times, with a thousand numbers. One way to
//! see that these are alike is a pattern for each digit, `GET /item/## HTTP/#.#`; it tells 9 from
//! 10, hides the 1.1 that all have in common, and knows neither hex nor UUIDs. Here a text is
//! read as words and numbers. Texts are alike whose words are, and of a group of them one text
//! is kept, and at which numbers others differ: `GET /item/# HTTP/1.1`.
//!
//! # What a number is
//!
//! The pieces of a text are the longest runs of ASCII letters, digits and bytes beyond ASCII.
//!
//! | piece | example | number |
//! | --- | --- | --- |
//! | digits | `17` | all of it |
//! | hex digits with letters of one case, a digit first or a letter after a digit | `1f`, `a3b` | all of it |
//! | letters from a to f, then digits | `fa12` | the digits |
//! | letters from a to f alone | `added`, `deadbeef` | none |
//! | digits, `x`, hex digits | `0xdead`, `80x25` | the two beside the `x` |
//! | any other | `utf8`, `5days`, `id1f`, `x1z2` | each run of digits; at the end of the piece the hex digits after it too |
//!
//! Five pieces of hex digits or more that are joined by `-` (a UUID), or three or more that are
//! joined by `:` or `::` (addresses of networks), are numbers all if a digit is among them.
//! No rule asks how long a number is, so texts that differ in the digits of a number never
//! fall into two groups because one has more digits.
//!
//! Whether a word is hex (`fa12`, `deadbeef`) follows from the other texts: a group whose text has
//! such a word is [absorbed] by one that is like it but for that place, has a
//! number in hex there, and is eight times as large.
//!
//! What this does not do: it knows no fractions, signs or exponents (`3.14` is two numbers, and
//! not like `3`), and no base64.

use std::cmp::Reverse;

use twox_hash::XxHash3_128;

use crate::inspect::by_hash::ByHash;
use crate::inspect::slots::{Slot, Slots, Sort, may_be_hex, uuid};

/// The most numbers that are distinguished in one text; the last one and those after it count as one.
const SLOTS: usize = 16;

/// How many times larger a group must be to absorb another.
const LARGER: u64 = 8;

/// Takes the place of a number in what is hashed; no text holds it.
const PLACE: u8 = 0;

/// The numbers of the texts of a group: those of its first text, and where others differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbers {
    /// A hash of each.
    values: [u32; SLOTS],
    /// Those that differ, those that have hex letters, and those that are words: a bit each.
    differ: u16,
    hex: u16,
    word: u16,
    /// A hash of the text without whatever may be a number; zero while no text showed hex.
    loose: u64,
}

impl Numbers {
    /// Notes in what other texts that are alike differ.
    pub fn merge(&mut self, other: &Self) {
        self.differ |= other.differ;
        self.hex |= other.hex;
        self.loose = if self.loose == 0 { other.loose } else { self.loose };
        for (at, (own, other)) in self.values.iter().zip(&other.values).enumerate() {
            self.differ |= u16::from(own != other).wrapping_shl(u32::try_from(at).unwrap_or(0));
        }
    }

    /// Whether the texts differ at all.
    #[must_use]
    pub fn differ(&self) -> bool {
        self.differ != 0
    }

    /// Whether the group may absorb another, or be absorbed.
    #[must_use]
    pub fn open(&self) -> bool {
        self.hex | self.word != 0
    }

    /// Whether the words of `other` are numbers, by what texts of this group have in their places.
    fn explains(&self, other: &Self) -> bool {
        let same = |at: usize| self.values.get(at) == other.values.get(at) && !bit(other.differ, at);
        let explained = |at: usize| !bit(other.word, at) || bit(self.hex, at) || same(at);
        self.loose == other.loose && other.word & self.hex != 0 && (0..SLOTS).all(explained)
    }
}

fn bit(bits: u16, at: usize) -> bool {
    u32::try_from(at).is_ok_and(|at| bits.wrapping_shr(at) & 1 == 1)
}

/// A text in the form by which it is grouped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Read {
    /// The hash of its words; of texts that are alike it is the same.
    pub hash: u128,
    /// How many bytes of the text went into it.
    pub length: usize,
    /// Its numbers, if it has a digit at all.
    pub numbers: Option<Numbers>,
}

/// Reads texts; keeps its room from one to the next.
#[derive(Default, Debug)]
pub struct Reader {
    slots: Slots,
    words: Vec<u8>,
}

impl Reader {
    /// Reads the first `most` bytes of a printable text, of which each number counts as one byte.
    ///
    /// ```
    /// use gdb_leak::inspect::template::Reader;
    /// let mut reader = Reader::default();
    /// let mut hash = |text: &str| reader.read(text.as_bytes(), 64).hash;
    /// assert_eq!(hash("user 9, id 1f"), hash("user 10, id a3b"));
    /// assert_ne!(hash("user 9"), hash("used 9"));
    /// // Letters alone are words, and a `#` in a text is a `#`.
    /// assert_ne!(hash("added"), hash("faced"));
    /// assert_ne!(hash("# 9"), hash("9 9"));
    /// ```
    pub fn read(&mut self, text: &[u8], most: usize) -> Read {
        if !text.iter().any(u8::is_ascii_digit) {
            let length = whole_characters(text, most);
            let words = text.get(..length).unwrap_or_default();
            return Read { hash: XxHash3_128::oneshot(words), length, numbers: None };
        }
        self.slots.find(text);
        let (length, count) = self.words(text, most, |slot| slot.number);
        let slots = self.slots.all.get(..count).unwrap_or_default();
        let numbers = (count > 0).then(|| numbers(text, slots));
        Read { hash: XxHash3_128::oneshot(&self.words), length, numbers }
    }

    /// The numbers for a group of which a text was just `read`.
    ///
    /// They are more than those of further texts: also of a text without digits, since its words
    /// may be numbers, and with what decides which groups are [absorbed].
    pub fn first(&mut self, text: &[u8], read: &Read) -> Option<Numbers> {
        let mut numbers = match read.numbers {
            Some(numbers) => numbers,
            None if may_be_hex(text) => {
                self.slots.find(text);
                let slots = self.within(read.length);
                numbers(text, slots)
            }
            None => return None,
        };
        self.loosen(text, read.length, &mut numbers);
        Some(numbers)
    }

    /// Notes the numbers of a text that was just `read` in those of its group.
    pub fn add(&mut self, own: &mut Numbers, text: &[u8], read: &Read) {
        if let Some(numbers) = &read.numbers {
            own.merge(numbers);
            self.loosen(text, read.length, own);
        }
    }

    /// The places of numbers in the first `length` bytes.
    fn within(&mut self, length: usize) -> &[Slot] {
        let count = self.slots.all.partition_point(|slot| slot.end <= length);
        self.slots.all.truncate(count);
        &self.slots.all
    }

    fn loosen(&mut self, text: &[u8], length: usize, numbers: &mut Numbers) {
        if numbers.loose == 0 && numbers.open() {
            self.within(length);
            let text = text.get(..length).unwrap_or_default();
            self.words(text, usize::MAX, |slot| slot.start);
            numbers.loose = loosely(&self.words);
        }
    }

    /// The words of the text, with one byte in the place of each number; how much of the text
    /// that is, and how many numbers.
    ///
    /// Letters before a number that may be hex, too, do not count against `most`, so that texts
    /// of groups that are absorbed are as long as others.
    fn words(&mut self, text: &[u8], most: usize, number: impl Fn(&Slot) -> usize) -> (usize, usize) {
        self.words.clear();
        let mut most = most;
        let mut at = 0_usize;
        for (count, slot) in self.slots.all.iter().enumerate() {
            let number = number(slot);
            let (from, letters) = if number < slot.end {
                (slot.start, number.saturating_sub(slot.start))
            } else {
                (slot.end, 0)
            };
            let words = text.get(at..from).unwrap_or_default();
            let room = most.saturating_sub(self.words.len());
            let fits = words.len() < room || (words.len() == room && number == slot.end);
            if !fits {
                let length = whole_characters(words, room);
                self.words.extend_from_slice(words.get(..length).unwrap_or_default());
                return (at.saturating_add(length), count);
            }
            self.words.extend_from_slice(text.get(at..number).unwrap_or_default());
            most = most.saturating_add(letters);
            if number < slot.end {
                self.words.push(PLACE);
            }
            at = slot.end;
        }
        let rest = text.get(at..).unwrap_or_default();
        let length = whole_characters(rest, most.saturating_sub(self.words.len()));
        self.words.extend_from_slice(rest.get(..length).unwrap_or_default());
        (at.saturating_add(length), self.slots.all.len())
    }
}

/// How many bytes of `text` are whole characters, `most` at the most.
fn whole_characters(text: &[u8], most: usize) -> usize {
    if most >= text.len() {
        return text.len();
    }
    let continues = |at: &usize| text.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (0..=most).rev().find(|at| !continues(at)).unwrap_or(0)
}

#[allow(clippy::cast_possible_truncation)] // a part of a hash is a hash
fn loosely(words: &[u8]) -> u64 {
    (XxHash3_128::oneshot(words) as u64).max(1)
}

fn numbers(text: &[u8], slots: &[Slot]) -> Numbers {
    let mut numbers = Numbers { values: [0; SLOTS], differ: 0, hex: 0, word: 0, loose: 0 };
    for (at, slot) in slots.iter().enumerate() {
        let at = at.min(SLOTS.saturating_sub(1));
        let bytes = text.get(slot.start..slot.end).unwrap_or_default();
        if let Some(value) = numbers.values.get_mut(at) {
            // FNV-1a (Fowler, Noll, Vo), begun with what went before where several count as one.
            let seed = *value ^ 0x811c_9dc5;
            *value =
                bytes.iter().fold(seed, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        }
        let bit = 1_u16.wrapping_shl(u32::try_from(at).unwrap_or(0));
        match slot.sort {
            Sort::Decimal => {}
            Sort::Hex => numbers.hex |= bit,
            Sort::Word => numbers.word |= bit,
        }
    }
    numbers
}

/// What texts have in common of which `text` is the first: `#` where their numbers differ.
///
/// A UUID that differs in all of its parts is one `#`.
///
/// ```
/// use gdb_leak::inspect::template::{Reader, template};
/// let mut reader = Reader::default();
/// let (one, other) = (b"GET /item/17 HTTP/1.1", b"GET /item/9 HTTP/1.1");
/// let read = reader.read(one, 64);
/// let mut numbers = reader.first(one, &read).unwrap();
/// let read = reader.read(other, 64);
/// reader.add(&mut numbers, other, &read);
/// assert_eq!(template(one, &numbers), b"GET /item/# HTTP/1.1");
/// ```
#[must_use]
pub fn template(text: &[u8], numbers: &Numbers) -> Vec<u8> {
    let mut slots = Slots::default();
    slots.find(text);
    let mut shown = Vec::with_capacity(text.len());
    let differs = |at: usize| bit(numbers.differ, at.min(SLOTS.saturating_sub(1)));
    let mut from = 0_usize;
    let mut at = 0_usize;
    while let Some(slot) = slots.all.get(at) {
        let parts = slots.all.get(at..).and_then(|rest| rest.first_chunk::<5>());
        let uuid = parts.filter(|parts| uuid(text, parts) && (at..at.saturating_add(5)).all(differs));
        let letters =
            if bit(numbers.hex, at.min(SLOTS.saturating_sub(1))) { slot.start } else { slot.number };
        let end =
            uuid.map_or(slot.end, |parts| parts.map(|slot| slot.end).into_iter().max().unwrap_or(slot.end));
        if differs(at) {
            shown.extend_from_slice(text.get(from..letters).unwrap_or_default());
            shown.push(b'#');
            from = end;
        }
        at = at.saturating_add(if uuid.is_some() { 5 } else { 1 });
    }
    shown.extend_from_slice(text.get(from..).unwrap_or_default());
    shown
}

/// A group of texts among others, for [`absorbed`].
#[derive(Clone, Copy, Debug)]
pub struct Company<K> {
    /// What it has in common with those that may absorb it.
    pub common: u128,
    /// How often it occurs.
    pub count: u64,
    /// Where it occurs first; decides between two that occur as often.
    pub first: u64,
    /// What it is known by.
    pub key: K,
    /// The numbers of its texts.
    pub numbers: Numbers,
}

/// Which groups are part of another, as their words are numbers there: from, and into.
///
/// `each` hands over every group, and does so twice. None is absorbed by one that is absorbed itself.
/// Memory: a few words for each group with hex that occurs often enough.
pub fn absorbed<K: Copy + PartialEq>(each: impl Fn(&mut dyn FnMut(Company<K>))) -> Vec<(K, K)> {
    let place = |group: &Company<K>| {
        let bytes = [group.common.to_le_bytes(), u128::from(group.numbers.loose).to_le_bytes()];
        XxHash3_128::oneshot(bytes.as_flattened())
    };
    let mut largest = ByHash::<Company<K>>::default();
    each(&mut |group| {
        if group.numbers.hex != 0 && group.count >= LARGER {
            let kept = largest.entry(place(&group)).or_insert(group);
            if (group.count, Reverse(group.first)) > (kept.count, Reverse(kept.first)) {
                *kept = group;
            }
        }
    });
    let mut found = Vec::new();
    if !largest.is_empty() {
        each(&mut |group| {
            let Some(into) = (group.numbers.word != 0).then(|| largest.get(&place(&group))).flatten() else {
                return;
            };
            let absorbs = into.key != group.key && into.count / LARGER >= group.count;
            if absorbs && into.numbers.explains(&group.numbers) {
                found.push((group.key, into.key));
            }
        });
    }
    found
}
