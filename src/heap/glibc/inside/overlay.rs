//! Memory in which a few words are replaced by what a call of malloc was about to write.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::memory::{Buffer, Memory, Region, View};
use crate::range::AddressRange;
use crate::word::WordFormat;

use super::super::layout::PAGE;

/// Words by their addresses.
pub(super) type Words = BTreeMap<u64, u64>;

/// A target's memory, with words that were put into it.
pub(super) struct Overlay<'m> {
    below: &'m dyn Memory,
    words: &'m Words,
}

impl<'m> Overlay<'m> {
    pub(super) fn new(below: &'m dyn Memory, words: &'m Words) -> Self {
        Self { below, words }
    }

    /// The first word that lies in the page of `at` or behind.
    fn next(&self, at: u64) -> Option<u64> {
        let page = at & !PAGE.wrapping_sub(1);
        self.words.range(page..).next().map(|(address, _)| *address)
    }

    /// How many bytes at the start of `range` are in no page with such a word.
    fn room(&self, range: AddressRange) -> u64 {
        let page = self.next(range.start()).map_or(u64::MAX, |word| word & !PAGE.wrapping_sub(1));
        page.saturating_sub(range.start())
    }

    /// The bytes from `at` to the end of its page, with the words that lie there.
    fn page<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
        let at = range.start();
        let end = (at | PAGE.wrapping_sub(1)).saturating_add(1);
        let end = self.below.region_at(at).map_or(end, |region| region.range.end().min(end));
        let end = end.min(range.end());
        let wanted = AddressRange::saturating(at, end.saturating_sub(at));
        let mut bytes = Vec::new();
        if self.below.append(wanted, &mut bytes).is_some() && self.below.region_at(at).is_none() {
            return self.below.view(range, buffer);
        }
        let space = buffer.space(usize::try_from(wanted.len()).unwrap_or(0));
        // What is missing of a page in which malloc was about to write was never written to.
        space.fill(0);
        for (to, from) in space.iter_mut().zip(&bytes) {
            *to = *from;
        }
        let format = self.below.word_format();
        let first = at.saturating_sub(8);
        for (address, word) in self.words.range(first..end) {
            for (number, byte) in (0_u64..).zip(format.order.bytes(*word, format.size)) {
                let place = address.saturating_add(number).checked_sub(at);
                let place = place.and_then(|place| usize::try_from(place).ok());
                if let Some(slot) = place.and_then(|place| space.get_mut(place)) {
                    *slot = byte;
                }
            }
        }
        View { bytes: space, gap: None }
    }
}

impl Memory for Overlay<'_> {
    fn word_format(&self) -> WordFormat {
        self.below.word_format()
    }

    fn regions(&self) -> &[Region] {
        self.below.regions()
    }

    fn view<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
        let at = range.start();
        let Some(word) = self.next(at).filter(|word| *word < range.end()) else {
            return self.below.view(range, buffer);
        };
        let page = word & !PAGE.wrapping_sub(1);
        if page <= at {
            return self.page(range, buffer);
        }
        let view = self.below.view(AddressRange::saturating(at, page.saturating_sub(at)), buffer);
        View { bytes: view.bytes, gap: view.gap }
    }

    fn untouched(&self, range: AddressRange) -> bool {
        let inside = self.words.range(range.start()..range.end()).next().is_some();
        !inside && self.below.untouched(range)
    }

    fn zeros(&self, range: AddressRange) -> u64 {
        self.below.zeros(range).min(self.room(range))
    }

    fn blank(&self, range: AddressRange) -> u64 {
        self.below.blank(range).min(self.room(range))
    }

    fn lends(&self) -> bool {
        self.below.lends()
    }

    fn recheck(&self) -> Result<(), Error> {
        self.below.recheck()
    }
}
