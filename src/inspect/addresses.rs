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
    bounds: AddressRange,
    last: AddressRange,
}

impl<'m> Addresses<'m> {
    /// The addresses of `memory`.
    #[must_use]
    pub fn new(memory: &'m dyn Memory) -> Self {
        let regions = memory.regions();
        let ends = regions.first().zip(regions.last());
        let bounds = ends.map(|(first, last)| (first.range.start(), last.range.end()));
        let (start, end) = bounds.unwrap_or((0, 0));
        let bounds = AddressRange::saturating(start, end.saturating_sub(start));
        Self { memory, format: memory.word_format(), bounds, last: AddressRange::default() }
    }

    /// Size and byte order of the words.
    #[must_use]
    pub fn format(&self) -> WordFormat {
        self.format
    }

    /// Returns whether `address` is in a region that is not a reserve.
    #[inline]
    pub fn hold(&mut self, address: u64) -> bool {
        if !self.bounds.contains(address) {
            return false;
        }
        if !self.last.contains(address) {
            match self.memory.region_at(address).filter(|region| !region.reserve()) {
                Some(region) => self.last = region.range,
                None => return false,
            }
        }
        true
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
