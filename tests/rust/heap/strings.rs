//! Strings of used memory, and of free blocks.

use gdb_leak::heap::block::{Blocks, Part, Shape, State};
use gdb_leak::heap::part;
use gdb_leak::inspect::strings::{Choice, Kinds, Part as OfString, strings};
use gdb_leak::memory::Memory;
use gdb_leak::pass::Job;
use gdb_leak::source::captured::Captured;
use gdb_leak::word::{ByteOrder, WordFormat};

const START: u64 = 0x5555_0000_0000;

/// The strings of a used and of a free chunk of 32 bytes, and of 16 bytes after them.
///
/// A block reaches into the size of the chunk after it, as of glibc: the strings of the
/// first fill their blocks, and readable sizes follow.
fn found(order: ByteOrder, state: Option<bool>) -> Vec<String> {
    let format = WordFormat { size: 8, order };
    let size = |size: u64| order.bytes(size, 8);
    let text = b"abcdefghijklmnopqrstuvwx";
    let bytes = [
        &[0; 8][..],
        &size(0x21),
        text,
        &size(0x21),
        &text[..8],
        b"free memory\0\0\0\0\0",
        b"outside of all\0\0",
    ];
    let bytes = bytes.concat();
    let memory = Captured::new().with_format(format).with(START, &bytes);
    let mut chunks = Part::new(START, Shape { lead: 16, cost: 8 }, Some(0));
    chunks.push(START + 32, State::Used);
    chunks.push(START + 64, State::Tcache);
    let blocks = Blocks::new(vec![chunks]).0;
    let of_state = state.map(|free| move |text| part(&blocks, text, free));
    let of_state = of_state.as_ref().map(|part| part as &OfString<'_>);
    let choice = Choice { kinds: Kinds { min: 4, addresses: false }, part: of_state };
    let ranges = [memory.regions()[0].range];
    let found = strings(&memory, &ranges, choice, None, &Job::default()).unwrap();
    let mut texts: Vec<String> = found.strings.into_iter().map(|row| row.example).collect();
    texts.sort();
    texts
}

#[test]
fn a_string_is_of_the_block_in_which_it_starts_and_ends_with_it() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        assert_eq!(found(order, Some(false)), ["abcdefghijklmnopqrstuvwx", "outside of all"], "{order:?}");
        assert_eq!(found(order, Some(true)), ["abcdefghfree memory"], "{order:?}");
    }
    // The readable byte of a size goes on from the text before it, or into the text after it.
    assert_eq!(found(ByteOrder::Little, None)[0], "abcdefghfree memory");
    assert_eq!(found(ByteOrder::Little, None)[1], "abcdefghijklmnopqrstuvwx!");
    assert_eq!(found(ByteOrder::Big, None)[0], "!abcdefghfree memory");
}

#[test]
fn long_texts_of_two_blocks_are_equal_whatever_follows_their_blocks() {
    let text: Vec<u8> = (b'a'..=b'z').cycle().take(0x1318).collect();
    // The size after a text is readable, and another one each time.
    let bytes: Vec<u8> = [0x1321_u64, 0x1321, 0x1341]
        .iter()
        .flat_map(|size| [&size.to_le_bytes()[..], &text].concat())
        .collect();
    let memory = Captured::new().with(START, &[&[0; 8][..], &bytes, &[0; 64]].concat());
    let mut chunks = Part::new(START, Shape { lead: 16, cost: 8 }, Some(0));
    for end in [0x1320, 0x2640, 0x3980] {
        chunks.push(START + end, State::Used);
    }
    let blocks = Blocks::new(vec![chunks]).0;
    let used = |text| part(&blocks, text, false);
    let choice = Choice { kinds: Kinds { min: 4, addresses: false }, part: Some(&used as &OfString<'_>) };
    let ranges = [memory.regions()[0].range];
    let found = strings(&memory, &ranges, choice, None, &Job::default()).unwrap();
    let rows: Vec<_> = found.strings.iter().map(|row| (row.count, row.length)).collect();
    assert_eq!(rows, [(3, text.len() as u64)]);
    let least = Choice { kinds: Kinds { min: text.len() + 1, addresses: false }, ..choice };
    assert_eq!(strings(&memory, &ranges, least, None, &Job::default()).unwrap().total, 0);
}
