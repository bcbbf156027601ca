//! Needles that are pointers: aligned words equal to an address or into a range.

use std::ops::ControlFlow;

use super::bytes::{Sink, Stretch, Zeros};
use super::window::{Reach, Window};
use crate::pass::Job;
use crate::range::AddressRange;
use crate::word::{ByteOrder, WordFormat};

/// Words to look for: those from `first` on, `count` of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct WordNeedle {
    /// The smallest word that matches.
    pub(super) first: u64,
    /// How many words match; positive.
    pub(super) count: u64,
    /// What a word looks like.
    pub(super) format: WordFormat,
}

impl WordNeedle {
    pub(super) fn reach(&self) -> Reach {
        Reach { before: 0, after: self.format.size.saturating_sub(1) as u64 }
    }

    /// What it finds at `starts`, which zeros follow.
    pub(super) fn zeros(&self, starts: AddressRange) -> Zeros {
        let size = self.format.size as u64;
        let first = starts.start().checked_next_multiple_of(size).filter(|first| *first < starts.end());
        match first {
            Some(first) if self.first == 0 => Zeros::Matches(Stretch {
                first,
                step: size,
                count: starts.end().saturating_sub(first).div_ceil(size),
                length: u32::try_from(size).unwrap_or(u32::MAX),
            }),
            _ => Zeros::Nothing,
        }
    }

    /// Tells `sink` of all matches that start in the window.
    pub(super) fn scan(&self, window: &Window<'_>, job: &Job, sink: &mut Sink<'_>) -> ControlFlow<()> {
        // One loop for each kind of word: with the size known, a word is one load.
        match (self.format.size, self.format.order) {
            (4, ByteOrder::Little) => {
                self.scan_words(window, job, sink, |bytes: [u8; 4]| u32::from_le_bytes(bytes).into())
            }
            (4, ByteOrder::Big) => {
                self.scan_words(window, job, sink, |bytes: [u8; 4]| u32::from_be_bytes(bytes).into())
            }
            (_, ByteOrder::Little) => self.scan_words(window, job, sink, u64::from_le_bytes),
            (_, ByteOrder::Big) => self.scan_words(window, job, sink, u64::from_be_bytes),
        }
    }

    /// Looks at the aligned words of the window by blocks.
    ///
    /// Whether a block holds a match is asked without a branch for each word,
    /// which is what makes it as fast as reading; only then are its words
    /// looked at one by one.
    fn scan_words<const SIZE: usize>(
        &self,
        window: &Window<'_>,
        job: &Job,
        sink: &mut Sink<'_>,
        read: impl Fn([u8; SIZE]) -> u64,
    ) -> ControlFlow<()> {
        const WORDS: usize = 64;
        let (first, count) = (self.first, self.count);
        let hit = |word: &[u8]| read(word.try_into().unwrap_or([0; SIZE])).wrapping_sub(first) < count;
        let address = window.address_of(window.starts.start);
        let aligned = address.checked_next_multiple_of(SIZE as u64).unwrap_or(u64::MAX);
        let from = window.starts.start.saturating_add(super::window::offset(address, aligned));
        let end = window.starts.end.saturating_add(SIZE).saturating_sub(1).min(window.bytes.len());
        let words = window.bytes.get(from..end).unwrap_or_default();
        let mut at = aligned;
        for block in words.chunks(WORDS.saturating_mul(SIZE)) {
            if block.chunks_exact(SIZE).fold(false, |any, word| any | hit(word)) {
                if job.stopped() {
                    return ControlFlow::Break(());
                }
                for (index, word) in block.chunks_exact(SIZE).enumerate() {
                    if hit(word) {
                        let first = at.saturating_add(index.saturating_mul(SIZE) as u64);
                        let length = u32::try_from(SIZE).unwrap_or(u32::MAX);
                        sink(Stretch { first, step: SIZE as u64, count: 1, length })?;
                    }
                }
            }
            at = at.saturating_add(block.len() as u64);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(needle: WordNeedle, bytes: &[u8], address: u64) -> Vec<u64> {
        let mut starts = Vec::new();
        let window = Window { bytes, address, starts: 0..bytes.len() };
        let flow = needle.scan(&window, &Job::default(), &mut |stretch| {
            starts.push(stretch.first);
            ControlFlow::Continue(())
        });
        assert!(flow.is_continue());
        starts
    }

    #[test]
    fn only_aligned_words_count() {
        let needle = WordNeedle { first: 7, count: 1, format: WordFormat::LITTLE_64 };
        let bytes = [&[0; 5][..], &7_u64.to_le_bytes(), &[0; 3], &7_u64.to_le_bytes()].concat();
        assert_eq!(starts(needle, &bytes, 0x1000), [0x1010]);
        assert_eq!(starts(needle, &bytes, 0x1003), [0x1008]);
    }

    #[test]
    fn the_largest_word_can_be_looked_for() {
        let format = WordFormat { size: 8, order: ByteOrder::Big };
        let needle = WordNeedle { first: u64::MAX, count: 1, format };
        assert_eq!(starts(needle, &[0xff; 16], 0), [0, 8]);
    }
}
