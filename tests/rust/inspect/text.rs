//! Text.

use gdb_leak::inspect::text::{excerpt, lossless, printable_length};
use gdb_leak::inspect::words::{text_to_words, words_to_text};
use gdb_leak::text::{escaped, printable};
use gdb_leak::word::ByteOrder;
use proptest::prelude::*;

use crate::layout::{bytes, each_byte, memory, whole};

proptest! {
    #[test]
    fn lossless_text_keeps_every_byte(bytes in bytes(20)) {
        let expected: String = bytes
            .utf8_chunks()
            .map(|chunk| {
                let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
                chunk.valid().to_owned() + &invalid
            })
            .collect();
        prop_assert_eq!(lossless(&bytes), expected);
    }

    #[test]
    fn escaped_text_has_printable_characters_only(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        prop_assert!(escaped(&bytes).chars().all(printable));
    }

    #[test]
    fn the_printable_prefix_is_that_of_one_character_after_the_other(bytes in bytes(30)) {
        let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let expected: usize = text.chars().take_while(|char| printable(*char)).map(char::len_utf8).sum();
        prop_assert_eq!(printable_length(&bytes), expected);
    }

    #[test]
    fn an_excerpt_is_the_match_and_the_text_after_it(
        memory in memory(), skip in 0_u64..60, length in 0_u64..20, most in 0_usize..40,
    ) {
        let range = whole(&memory);
        let address = range.start() + skip.min(range.len());
        let there: Vec<u8> = each_byte(&memory, range)
            .into_iter().skip(usize::try_from(address - range.start()).unwrap()).map_while(|byte| byte)
            .take(most).collect();
        let length_there = usize::try_from(length).unwrap().min(there.len());
        let (found, after) = there.split_at(length_there);
        let expected = lossless(&[found, &after[..printable_length(after)]].concat());
        prop_assert_eq!(excerpt(&memory, address, length, most), expected);
    }

    #[test]
    fn words_of_a_text_hold_it_and_zeros_after_it(bytes in bytes(10), size in 1_usize..9, big: bool) {
        let order = if big { ByteOrder::Big } else { ByteOrder::Little };
        let mut expected = bytes.clone();
        expected.resize(bytes.len().next_multiple_of(size), 0);
        prop_assert_eq!(words_to_text(&text_to_words(&bytes, size, order), size, order), expected);
    }
}

#[test]
fn what_could_fool_a_terminal_is_not_printable() {
    let fooling = "\0\x07\n\r\x1b\x7f\u{85}\u{9b}\u{ad}\u{200b}\u{200e}\u{202e}\u{2066}\u{feff}\u{fffe}\u{1ffff}\u{e0041}";
    assert_eq!(fooling.chars().filter(|char| printable(*char)).count(), 0);
    assert_eq!("\t ~é€漢😀".chars().filter(|char| !printable(*char)).count(), 0);
}
