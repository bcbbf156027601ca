//! Single words from anywhere in a target, without an allocation for each.
//!
//! [`Memory::word`] makes a vector for every word. Lists of free blocks lead from
//! place to place, millions of times; a `Peek` keeps its room and takes words
//! from the mapping where there is one.

use crate::memory::{Buffer, Memory};
use crate::range::AddressRange;
use crate::word::WordFormat;

/// A reader of words that keeps its room.
pub struct Peek<'m> {
    memory: &'m dyn Memory,
    format: WordFormat,
    buffer: Buffer,
    joined: Vec<u8>,
}

impl<'m> Peek<'m> {
    /// A reader of `memory`.
    #[must_use]
    pub fn new(memory: &'m dyn Memory) -> Self {
        Self { memory, format: memory.word_format(), buffer: Buffer::default(), joined: Vec::new() }
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
        let whole = self.memory.view(range, &mut self.buffer).bytes.len() >= length;
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
}
