//! Words to text and text to words.

use crate::inspect::text::lossless;
use crate::word::ByteOrder;

/// The bytes of words of `size` bytes each as they lie in memory; `size` is at most eight.
///
/// ```
/// use gdb_leak::inspect::words::words_to_text;
/// use gdb_leak::word::ByteOrder;
/// let words = [0x6d20_6465_6b61_656c, 0x0000_0079_726f_6d65];
/// assert_eq!(words_to_text(&words, 8, ByteOrder::Little), b"leaked memory\0\0\0");
/// ```
#[must_use]
pub fn words_to_text(words: &[u64], size: usize, order: ByteOrder) -> Vec<u8> {
    words.iter().flat_map(|word| order.bytes(*word, size)).collect()
}

/// The words of `size` bytes each that hold `bytes`, the last one filled with zeros.
///
/// `size` is one to eight; a zero counts as one, more than eight as eight.
///
/// ```
/// use gdb_leak::inspect::words::text_to_words;
/// use gdb_leak::word::ByteOrder;
/// let words = text_to_words(b"leaked memory", 8, ByteOrder::Little);
/// assert_eq!(words, [0x6d20_6465_6b61_656c, 0x0000_0079_726f_6d65]);
/// ```
#[must_use]
pub fn text_to_words(bytes: &[u8], size: usize, order: ByteOrder) -> Vec<u64> {
    let size = size.clamp(1, 8);
    let word = |bytes: &[u8]| {
        let mut word = [0_u8; 8];
        word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        order.value(word.get(..size).unwrap_or_default())
    };
    bytes.chunks(size).map(word).collect()
}

/// The text in one word, without the zeros after it.
///
/// ```
/// use gdb_leak::inspect::words::text_of_word;
/// use gdb_leak::word::ByteOrder;
/// assert_eq!(text_of_word(0x79_726f_6d65, 8, ByteOrder::Little), "emory");
/// ```
#[must_use]
pub fn text_of_word(word: u64, size: usize, order: ByteOrder) -> String {
    text_of_words(&[word], size, order)
}

/// The text in words that follow each other, without the zeros after it.
///
/// Zeros inside stay, bytes that are no UTF-8 are escaped as in [`lossless`].
///
/// ```
/// use gdb_leak::inspect::words::text_of_words;
/// use gdb_leak::word::ByteOrder;
/// let words = [0x6d20_6465_6b61_656c, 0x0000_0079_726f_6d65];
/// assert_eq!(text_of_words(&words, 8, ByteOrder::Little), "leaked memory");
/// ```
#[must_use]
pub fn text_of_words(words: &[u64], size: usize, order: ByteOrder) -> String {
    let bytes = words_to_text(words, size, order);
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    lossless(bytes.get(..end).unwrap_or_default())
}
