//! The aligned words of a stretch of memory, in order, whatever pieces it comes in.

use crate::memory::{Buffer, Memory};
use crate::range::AddressRange;
use crate::word::WordFormat;

/// What a piece of memory holds.
pub(super) enum Content<'b> {
    /// These bytes.
    Bytes(&'b [u8]),
    /// Known zeros, which are not read: no word of them is a pointer.
    Zeros,
    /// It cannot be read.
    Missing,
}

impl Content<'_> {
    /// Its bytes; none where that is known without them.
    pub(super) const fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Zeros | Self::Missing => &[],
        }
    }
}

/// Hands over `range` in pieces, in order.
///
/// Returns where the gap ends that the last piece lies in, which may be far behind `range`.
pub(super) fn pieces(
    memory: &dyn Memory,
    range: AddressRange,
    buffer: &mut Buffer,
    mut take: impl FnMut(AddressRange, Content<'_>),
) -> Option<u64> {
    let (mut at, mut behind) = (range.start(), None);
    let end = range.end();
    while at < end {
        let rest = AddressRange::saturating(at, end.saturating_sub(at));
        let zeros = memory.zeros(rest);
        if zeros > 0 {
            take(AddressRange::saturating(at, zeros), Content::Zeros);
            at = at.saturating_add(zeros);
            continue;
        }
        let view = memory.view(rest, buffer);
        let length = view.bytes.len() as u64;
        if length > 0 {
            take(AddressRange::saturating(at, length), Content::Bytes(view.bytes));
            at = at.saturating_add(length);
        }
        let Some(gap) = view.gap else {
            if length == 0 {
                break;
            }
            continue;
        };
        let to = gap.range.end().clamp(at, end);
        take(AddressRange::saturating(at, to.saturating_sub(at)), Content::Missing);
        if to == at {
            break;
        }
        behind = Some(gap.range.end()).filter(|gap_end| to == end && *gap_end > end);
        at = to;
    }
    behind
}

/// Calls `take` with the address and the value of each aligned word that `near` lets pass.
///
/// `bytes` start at `start`, which need not be aligned.
#[inline]
pub(super) fn each(
    format: WordFormat,
    start: u64,
    bytes: &[u8],
    near: impl Fn(u64) -> bool,
    mut take: impl FnMut(u64, u64),
) {
    let size = format.size as u64;
    let first = start.checked_next_multiple_of(size).unwrap_or(start);
    let skip = usize::try_from(first.wrapping_sub(start)).unwrap_or(usize::MAX);
    let words = bytes.get(skip..).unwrap_or_default();
    let mut at = first;
    if format == WordFormat::LITTLE_64 {
        // By far the most common, and a plain load for the compiler.
        for word in words.chunks_exact(8) {
            let value = word.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
            if near(value) {
                take(at, value);
            }
            at = at.wrapping_add(8);
        }
        return;
    }
    for word in words.chunks_exact(format.size) {
        if let Some(value) = format.read(word).filter(|value| near(*value)) {
            take(at, value);
        }
        at = at.wrapping_add(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word::ByteOrder;

    fn words(format: WordFormat, start: u64) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        let bytes: Vec<u8> = (1..=20).collect();
        each(format, start, &bytes, |value| value != 0, |at, value| found.push((at, value)));
        found
    }

    #[test]
    fn words_are_aligned_wherever_a_piece_starts() {
        let wide = WordFormat::LITTLE_64;
        assert_eq!(words(wide, 0x1000), [(0x1000, 0x0807_0605_0403_0201), (0x1008, 0x100f_0e0d_0c0b_0a09)]);
        assert_eq!(words(wide, 0x1005), [(0x1008, 0x0b0a_0908_0706_0504), (0x1010, 0x1312_1110_0f0e_0d0c)]);
        let narrow = WordFormat { size: 4, order: ByteOrder::Big };
        assert_eq!(words(narrow, 0x1006).first(), Some(&(0x1008, 0x0304_0506)));
    }
}
