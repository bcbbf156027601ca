//! What a block holds, told from its first bytes.

use crate::inspect::addresses::Addresses;
use crate::inspect::text;
use crate::memory::{Buffer, Memory};
use crate::range::AddressRange;

/// How much of a block is looked at for pointers and for text.
const HEAD: usize = 256;

/// Text shorter than this is none.
const SHORTEST: usize = 4;

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Content {
    /// It begins with text.
    Text,
    /// Nothing but zeros.
    Zero,
    /// Addresses are among its first words.
    Pointers,
    /// Anything else.
    Data,
    /// The allocator's own tables.
    Allocator,
}

impl Content {
    /// Every kind, in the order in which people list them.
    pub const ALL: [Self; 5] = [Self::Text, Self::Zero, Self::Pointers, Self::Data, Self::Allocator];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Zero => "zero",
            Self::Pointers => "pointers",
            Self::Data => "data",
            Self::Allocator => "allocator",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Tells what blocks hold.
pub struct Contents<'m> {
    addresses: Addresses<'m>,
}

impl<'m> Contents<'m> {
    /// Those of the blocks of `memory`.
    #[must_use]
    pub fn new(memory: &'m dyn Memory) -> Self {
        Self { addresses: Addresses::new(memory) }
    }

    /// What a block that starts with `bytes` holds, and the first text in its first 256 bytes, with
    /// its place there.
    ///
    /// `bytes` may be less than the whole block; whether the rest of it is zeros
    /// is then for the caller to see.
    pub fn content<'b>(&mut self, bytes: &'b [u8]) -> (Content, Option<(usize, &'b [u8])>) {
        let head = bytes.get(..HEAD.min(bytes.len())).unwrap_or_default();
        if head.iter().all(|byte| *byte == 0) && bytes.iter().all(|byte| *byte == 0) {
            return (Content::Zero, None);
        }
        let found = self.text(head);
        let kind = match found {
            Some((0, _)) => Content::Text,
            _ if self.pointer(head) => Content::Pointers,
            _ => Content::Data,
        };
        let text = found.and_then(|(at, length)| Some((at, bytes.get(at..)?.get(..length)?)));
        (kind, text)
    }

    fn pointer(&mut self, head: &[u8]) -> bool {
        let addresses = &mut self.addresses;
        let format = addresses.format();
        head.chunks_exact(format.size).any(|word| format.read(word).is_some_and(|word| addresses.hold(word)))
    }

    /// Where the first text starts, and its length; bytes of an address are none.
    fn text(&mut self, head: &[u8]) -> Option<(usize, usize)> {
        let mut at = 0_usize;
        while at < head.len() {
            let rest = head.get(at..)?;
            let skip = rest.iter().position(|byte| *byte >= b' ')?;
            at = at.saturating_add(skip);
            let rest = rest.get(skip..)?;
            // Most bytes that are printable are so by chance, and the next is not.
            let plain = |byte: &&u8| matches!(**byte, 0x20..0x7f | b'\t');
            let ascii = rest.iter().take(SHORTEST).take_while(plain).count();
            if ascii < SHORTEST && rest.get(ascii).is_none_or(u8::is_ascii) {
                at = at.saturating_add(ascii.max(1));
                continue;
            }
            let length = text::printable_length(rest);
            if length >= SHORTEST && !self.made_of_addresses(head, at, length) {
                return Some((at, length));
            }
            at = at.saturating_add(length.max(1));
        }
        None
    }

    /// Whether a text of `length` bytes at `at` is bytes of addresses; blocks start with a word.
    fn made_of_addresses(&mut self, head: &[u8], at: usize, length: usize) -> bool {
        let format = self.addresses.format();
        let word = |at: u64| format.read(head.get(usize::try_from(at).ok()?..)?);
        self.addresses.made(at as u64, length as u64, word)
    }
}

/// Whether all bytes of a range are there and zeros.
#[must_use]
pub fn zeros(memory: &dyn Memory, range: AddressRange, buffer: &mut Buffer) -> bool {
    let mut at = range.start();
    while at < range.end() {
        let rest = AddressRange::saturating(at, range.end().saturating_sub(at));
        let zeros = memory.zeros(rest);
        if zeros > 0 {
            at = at.saturating_add(zeros);
            continue;
        }
        let view = memory.view(rest, buffer);
        if view.bytes.is_empty() || view.bytes.iter().any(|byte| *byte != 0) {
            return false;
        }
        at = at.saturating_add(view.bytes.len() as u64);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::captured::Captured;

    fn told(bytes: &[u8]) -> (Content, Option<String>) {
        let memory = Captured::new().with(0x7f41_4243_4000, &[0; 4096]);
        let (kind, text) = Contents::new(&memory).content(bytes);
        (kind, text.map(|(_, text)| String::from_utf8_lossy(text).into_owned()))
    }

    #[test]
    fn text_counts_where_it_starts_and_is_shown_where_it_stands() {
        assert_eq!(told(b"leaked memory\0\0\0"), (Content::Text, Some("leaked memory".to_owned())));
        let (kind, text) = told(b"\x01\0\0\0\0\0\0\0name of it\0\0");
        assert_eq!((kind, text.as_deref()), (Content::Data, Some("name of it")));
    }

    #[test]
    fn letters_that_are_an_address_are_no_text() {
        // 0x7f4142434445 lies in the region, and spells EDCBA.
        let bytes = [0x45, 0x44, 0x43, 0x42, 0x41, 0x7f, 0, 0];
        assert_eq!(told(&bytes), (Content::Pointers, None));
    }

    #[test]
    fn zeros_are_told_from_zeros_with_something_behind_them() {
        assert_eq!(told(&[0; 600]).0, Content::Zero);
        let mut bytes = [0; 600];
        bytes[599] = 1;
        assert_eq!(told(&bytes).0, Content::Data);
    }
}
