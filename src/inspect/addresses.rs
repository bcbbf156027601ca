//! Bytes of addresses that can be read by chance.
//!
//! The upper bytes of an address like `0x564573661000` spell `fsEV`, and a heap holds them as
//! often as it holds pointers to that place. One way is a list of such texts; it is another one in
//! every process. Here the word is asked in which the text lies: a text is made of addresses if
//! every aligned word that it touches is an address in a region that holds memory.
//!
//! Texts that are meant can look like that, where low addresses are mapped: `name` is
//! 0x656d616e, and a 32-bit process may have a region there. So a word of which every byte can
//! be read, below 4 GiB, must be a multiple of the word's size too, as nearly all pointers are.
//! Above 4 GiB a text would have to end in the very bytes that the region's address begins with.

use crate::memory::Memory;
use crate::range::AddressRange;
use crate::word::{ByteOrder, WordFormat};

/// Where addresses lead to: the regions of a target, for many questions in a row.
pub struct Addresses<'m> {
    memory: &'m dyn Memory,
    format: WordFormat,
    /// The region of the last address that led to memory.
    last: AddressRange,
    /// Around the last address that did not: a range where none does. Between the stack and the
    /// page at the very end of a process it holds nearly all words that are text.
    nothing: AddressRange,
}

impl<'m> Addresses<'m> {
    /// The addresses of `memory`.
    #[must_use]
    pub fn new(memory: &'m dyn Memory) -> Self {
        let none = AddressRange::default();
        Self { memory, format: memory.word_format(), last: none, nothing: none }
    }

    /// Size and byte order of the words.
    #[must_use]
    pub fn format(&self) -> WordFormat {
        self.format
    }

    /// Returns whether `address` is in a region that is not a reserve.
    #[inline]
    pub fn hold(&mut self, address: u64) -> bool {
        self.last.contains(address) || (!self.nothing.contains(address) && self.look_up(address))
    }

    fn look_up(&mut self, address: u64) -> bool {
        let regions = self.memory.regions();
        let after = regions.partition_point(|region| region.range.start() <= address);
        let before = after.checked_sub(1).and_then(|last| regions.get(last));
        match before.filter(|region| region.range.contains(address)) {
            Some(region) if !region.reserve() => {
                self.last = region.range;
                return true;
            }
            Some(reserve) => self.nothing = reserve.range,
            None => {
                let start = before.map_or(0, |region| region.range.end());
                let end = regions.get(after).map_or(u64::MAX, |region| region.range.start());
                self.nothing = AddressRange::saturating(start, end.saturating_sub(start));
            }
        }
        false
    }

    /// Whether a text of `length` bytes at `start` is made of addresses, by the `word` at each address.
    ///
    /// Time: nearly every text ends it at its first word.
    pub fn made(&mut self, start: u64, length: u64, mut word: impl FnMut(u64) -> Option<u64>) -> bool {
        let size = self.format.size as u64;
        let text = AddressRange::saturating(start, length);
        let mut at = start.saturating_sub(start.checked_rem(size).unwrap_or(0));
        while at < text.end() {
            let Some(value) = word(at).filter(|value| self.hold(*value)) else { return false };
            let aligned = value.checked_rem(size) == Some(0);
            if value >> 32 == 0 && !aligned && readable(self.format, text, at, value) {
                return false;
            }
            at = at.saturating_add(size);
        }
        !text.is_empty()
    }
}

/// Whether the text has all bytes of the word at `at` but for zeros above its value.
fn readable(format: WordFormat, text: AddressRange, at: u64, value: u64) -> bool {
    let zeros = u64::from(value.leading_zeros() / 8);
    let bytes = 8_u64.saturating_sub(zeros);
    let end = at.saturating_add(format.size as u64);
    let (from, to) = match format.order {
        ByteOrder::Little => (at, at.saturating_add(bytes)),
        ByteOrder::Big => (end.saturating_sub(bytes), end),
    };
    text.start() <= from && to <= text.end()
}
