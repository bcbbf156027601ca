//! Which bytes are text, and how bytes become text that cannot hurt a reader.
//!
//! One definition serves the strings, the excerpts beside a match and whoever
//! else asks "can this be read?": tab, ASCII from blank to `~`, and well-formed
//! UTF-8 of characters that a terminal shows as themselves. A character is a
//! local matter: whether one starts at a byte depends on that byte and the
//! three after it, never on what came before, so text can be looked for from
//! any place in memory.

use crate::memory::Memory;
use crate::range::AddressRange;
use crate::text::printable;

pub use crate::text::lossless;

/// What begins at a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Character {
    /// A printable character of that many bytes.
    Printable(usize),
    /// The first bytes of what may be a printable character: more bytes decide.
    Cut,
    /// Nothing printable.
    Other,
}

/// Whether the byte is printable by itself.
const fn ascii(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

/// The lowest bit of each byte of a word.
const LOW: u64 = 0x0101_0101_0101_0101;

/// The highest bit of each byte of a word.
const HIGH: u64 = 0x80 * LOW;

/// The highest bit of each byte from blank to `~`; of others, none.
#[inline]
const fn inked(word: u64) -> u64 {
    // No sum or difference leaves its byte: the highest bit of each is set
    // before something is taken away, and clear before something is added.
    let from_blank = (word | HIGH).wrapping_sub(0x20 * LOW);
    let delete = (word & !HIGH).wrapping_add(LOW);
    from_blank & !delete & !word & HIGH
}

/// The highest bit of each byte that can be in a printable character, as far as its neighbours tell.
///
/// Ruled out are control characters, leads with no continuation after them and
/// continuations with nothing before them. The first byte is the lowest.
#[inline]
pub(crate) const fn possible(bytes: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(bytes);
    let wide = word & HIGH;
    let lead = wide & (word << 1);
    let follows = wide & !lead;
    // What lies beyond the eight bytes is taken to fit.
    let alone = lead & !(follows >> 8 | 0x80 << 56) | follows & !(wide << 8 | 0x80);
    let other = word ^ (b'\t' as u64).wrapping_mul(LOW);
    let tab = !((other & !HIGH).wrapping_add(!HIGH) | other) & HIGH;
    inked(word) | tab | wide & !alone
}

/// What begins at the first byte.
#[inline]
pub(crate) fn character(bytes: &[u8]) -> Character {
    match bytes {
        [] => Character::Cut,
        [byte, ..] if ascii(*byte) => Character::Printable(1),
        [0xc2..=0xf4, ..] => wide_character(bytes),
        _ => Character::Other,
    }
}

/// What begins at the first byte, which is the lead of a longer sequence.
fn wide_character(bytes: &[u8]) -> Character {
    let size = match bytes {
        [0xc2..=0xdf, ..] => 2,
        [0xe0..=0xef, ..] => 3,
        _ => 4,
    };
    // Nearly all leads in memory are chance; the second byte tells most of them.
    if bytes.get(1).is_some_and(|byte| byte & 0xc0 != 0x80) {
        return Character::Other;
    }
    let sequence = bytes.get(..size).unwrap_or(bytes);
    match std::str::from_utf8(sequence) {
        Ok(text) if text.chars().all(printable) => Character::Printable(size),
        Err(error) if error.error_len().is_none() => Character::Cut,
        _ => Character::Other,
    }
}

/// A printable prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Prefix {
    /// Its bytes.
    pub(crate) length: usize,
    /// Its characters.
    pub(crate) characters: u64,
    /// What begins after it; [`Character::Cut`] at the end of the bytes too.
    pub(crate) next: Character,
}

/// The printable prefix of `bytes`.
pub(crate) fn prefix(bytes: &[u8]) -> Prefix {
    let mut length = 0_usize;
    let mut characters = 0_u64;
    loop {
        let rest = bytes.get(length..).unwrap_or_default();
        // Texts go eight bytes at a time as far as they are ASCII without tabs.
        if let Some(block) = rest.first_chunk::<8>() {
            let others = inked(u64::from_le_bytes(*block)) ^ HIGH;
            let inked = others.trailing_zeros() >> 3;
            length = length.saturating_add(inked as usize);
            characters = characters.saturating_add(u64::from(inked));
            if others == 0 {
                continue;
            }
        }
        let rest = bytes.get(length..).unwrap_or_default();
        match character(rest) {
            Character::Printable(size) => {
                length = length.saturating_add(size);
                characters = characters.saturating_add(1);
            }
            next => return Prefix { length, characters, next },
        }
    }
}

/// How many bytes at the start of `bytes` are printable text.
///
/// ```
/// use gdb_leak::inspect::text::printable_length;
/// assert_eq!(printable_length("größe\0".as_bytes()), 7);
/// assert_eq!(printable_length(b"cut \xe2\x82"), 4);
/// ```
#[must_use]
pub fn printable_length(bytes: &[u8]) -> usize {
    prefix(bytes).length
}

/// The text at a match: its `length` bytes and the printable text after it, `most` bytes at most.
///
/// Ends at the first NUL or otherwise unprintable byte after the match, or
/// where memory does. Bytes of the match that are no UTF-8 are escaped as in
/// [`lossless`]; before it is printed see [`escaped`](crate::text::escaped).
///
/// ```
/// use gdb_leak::inspect::text::excerpt;
/// use gdb_leak::source::captured::Captured;
/// let memory = Captured::new().with(0x1000, b"leaked memory\0leaked");
/// assert_eq!(excerpt(&memory, 0x1000, 6, 64), "leaked memory");
/// assert_eq!(excerpt(&memory, 0x1000, 6, 8), "leaked m");
/// ```
#[must_use]
pub fn excerpt(memory: &dyn Memory, address: u64, length: u64, most: usize) -> String {
    let mut bytes = Vec::new();
    // What is missing ends the text: the match itself was found there before.
    let _ = memory.append(AddressRange::saturating(address, most as u64), &mut bytes);
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
    let (_, after) = bytes.split_at(length);
    bytes.truncate(length.saturating_add(printable_length(after)));
    lossless(&bytes)
}
