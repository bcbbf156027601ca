//! Single words from anywhere in a target, without an allocation for each.
//!
//! [`Memory::word`] makes a vector for every word. Lists of free blocks lead from
//! place to place, millions of times; a `Peek` keeps its room and takes words
//! from the mapping where there is one. Where there is none, in a process, each
//! word would cost a call of the system: there it keeps the pages that it read.

use crate::memory::{Buffer, Memory};
use crate::range::AddressRange;
use crate::word::WordFormat;

/// Bytes that are read at once where memory is not lent.
const PAGE: usize = 4096;

/// How many pages are kept: 8 MiB.
const KEPT: usize = 2048;

/// A page that was read, by its address.
type Page = (u64, Box<[u8]>);

/// A reader of words that keeps its room.
///
/// What it read of a process it does not read again: it is for one answer.
pub struct Peek<'m> {
    memory: &'m dyn Memory,
    format: WordFormat,
    buffer: Buffer,
    joined: Vec<u8>,
    /// Each in the place that its address gives; none where memory is lent.
    pages: Vec<Option<Page>>,
}

impl<'m> Peek<'m> {
    /// A reader of `memory`.
    #[must_use]
    pub fn new(memory: &'m dyn Memory) -> Self {
        let format = memory.word_format();
        Self { memory, format, buffer: Buffer::default(), joined: Vec::new(), pages: Vec::new() }
    }

    /// The memory that is read.
    #[must_use]
    pub fn memory(&self) -> &'m dyn Memory {
        self.memory
    }

    /// Size and byte order of the words.
    #[must_use]
    pub fn format(&self) -> WordFormat {
        self.format
    }

    /// The bytes of a word.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.format.size as u64
    }

    /// `length` bytes at `address`; `None` where one of them is missing.
    ///
    /// The caller answers for the length.
    pub fn bytes(&mut self, address: u64, length: usize) -> Option<&[u8]> {
        let range = AddressRange::with_length(address, length as u64).ok()?;
        if range.is_empty() {
            return Some(&[]);
        }
        let whole = self.memory.lends() && self.memory.view(range, &mut self.buffer).bytes.len() >= length;
        if whole {
            // Asked again: a view that is handed on cannot be dropped for another.
            return self.memory.view(range, &mut self.buffer).bytes.get(..length);
        }
        self.joined.clear();
        match self.memory.append(range, &mut self.joined) {
            None => self.joined.get(..length),
            Some(_) => None,
        }
    }

    /// The word at `address`; `None` where it is missing.
    pub fn word(&mut self, address: u64) -> Option<u64> {
        self.pair(address, 1).map(|(word, _)| word)
    }

    /// The two words at `address`; `None` where one is missing.
    pub fn two(&mut self, address: u64) -> Option<(u64, u64)> {
        self.pair(address, 2)
    }

    /// The word that lies `words` words behind `address`.
    pub fn word_at(&mut self, address: u64, words: u64) -> Option<u64> {
        self.word(address.checked_add(words.checked_mul(self.size())?)?)
    }

    fn pair(&mut self, address: u64, words: usize) -> Option<(u64, u64)> {
        let format = self.format;
        let length = format.size.saturating_mul(words);
        let range = AddressRange::with_length(address, length as u64).ok()?;
        let read = |bytes: &[u8]| {
            let second = if words == 2 { format.read(bytes.get(format.size..)?)? } else { 0 };
            Some((format.read(bytes)?, second))
        };
        if !self.memory.lends() {
            if let Some(found) = self.page(address, length).map(read) {
                return found;
            }
        }
        let view = self.memory.view(range, &mut self.buffer);
        if view.bytes.len() >= length {
            return read(view.bytes);
        }
        self.joined.clear();
        match self.memory.append(range, &mut self.joined) {
            None => read(&self.joined),
            Some(_) => None,
        }
    }

    /// `length` bytes at `address` from a page that is kept; `None` where they lie in none.
    fn page(&mut self, address: u64, length: usize) -> Option<&[u8]> {
        let start = address & !(PAGE as u64).wrapping_sub(1);
        let offset = usize::try_from(address.wrapping_sub(start)).ok()?;
        let end = offset.checked_add(length).filter(|end| *end <= PAGE)?;
        if self.pages.is_empty() {
            self.pages.resize_with(KEPT, || None);
        }
        let number = usize::try_from(start.checked_div(PAGE as u64)?).ok()?;
        let slot = self.pages.get_mut(number.checked_rem(KEPT)?)?;
        if slot.as_ref().is_none_or(|(kept, _)| *kept != start) {
            let whole = AddressRange::with_length(start, PAGE as u64).ok()?;
            let bytes = self.memory.view(whole, &mut self.buffer).bytes;
            match slot {
                _ if bytes.len() != PAGE => *slot = None,
                Some((kept, page)) => {
                    page.copy_from_slice(bytes);
                    *kept = start;
                }
                None => *slot = Some((start, bytes.into())),
            }
        }
        slot.as_ref()?.1.get(offset..end)
    }
}
