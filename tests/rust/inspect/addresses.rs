//! Bytes of addresses that can be read by chance.

use gdb_leak::inspect::addresses::Addresses;
use gdb_leak::inspect::strings::{Bounds, Choice, Kinds, Strings, strings, strings_within};
use gdb_leak::memory::{Memory, Permissions, RegionKind};
use gdb_leak::pass::Job;
use gdb_leak::range::AddressRange;
use gdb_leak::source::captured::Captured;
use gdb_leak::word::{ByteOrder, WordFormat};
use proptest::prelude::*;

use crate::layout::Pieces;

const FORMATS: [WordFormat; 4] = [
    WordFormat { size: 8, order: ByteOrder::Little },
    WordFormat { size: 8, order: ByteOrder::Big },
    WordFormat { size: 4, order: ByteOrder::Little },
    WordFormat { size: 4, order: ByteOrder::Big },
];

/// Words and bytes at 0x1000, with a mapping at `mapped` of 64 MiB of which nothing was saved.
fn memory(format: WordFormat, mapped: u64, bytes: &[u8]) -> Captured {
    let memory = Captured::new().with_format(format).with(0x1000, bytes);
    memory.with_region(mapped, &[0], 64 << 20, RegionKind::Heap, "[heap]")
}

fn found(memory: &dyn Memory, addresses: bool) -> Strings {
    let choice = Choice { kinds: Kinds { min: 4, addresses }, part: None };
    let range = memory.regions()[0].range;
    strings(memory, &[range], choice, None, &Job::default()).unwrap()
}

fn texts(memory: &dyn Memory, addresses: bool) -> Vec<String> {
    found(memory, addresses).strings.into_iter().map(|row| row.example).collect()
}

/// An address of a PIE's heap whose upper bytes can be read, as wide as words are.
const fn heap_of(format: WordFormat) -> u64 {
    if format.size == 8 { 0x5645_7366_0000 } else { 0x5645_7300 }
}

#[test]
fn the_upper_bytes_of_an_address_are_no_string() {
    for format in FORMATS {
        let address = heap_of(format);
        let low = if format.size == 8 { 0x92a0 } else { 0x21_0060 };
        let word = format.order.bytes(address + low, format.size);
        let bytes = [&word[..], &word, &[0; 8], b"leaked memory\0\0\0"].concat();
        let memory = memory(format, address, &bytes);
        assert_eq!(texts(&memory, false), ["leaked memory"], "{format:?}");
        let all = found(&memory, true);
        assert!(all.strings.len() > 1, "{format:?}");
        assert_eq!((found(&memory, false).addresses, all.addresses), (all.total - 1, 0), "{format:?}");
    }
}

#[test]
fn readable_bytes_of_a_word_that_leads_nowhere_are_a_string() {
    let format = FORMATS[0];
    let word = format.order.bytes(0x5645_7366_92a0, 8);
    let memory = memory(format, 0x7f00_0000_0000, &word);
    assert_eq!(texts(&memory, false), ["fsEV"]);
}

#[test]
fn a_reserve_makes_no_addresses() {
    let format = FORMATS[0];
    let word = format.order.bytes(0x5645_7366_92a0, 8);
    let none = Permissions::new(false, false, false);
    let memory = Captured::new().with(0x1000, &word);
    let memory =
        memory.with_region(0x5645_7366_0000, &[], 1 << 30, RegionKind::Anon, "").with_permissions(none);
    assert_eq!(texts(&memory, false), ["fsEV"]);
}

#[test]
fn a_word_that_can_be_read_in_whole_is_a_string_unless_it_could_be_a_pointer() {
    for format in FORMATS {
        // `name` is a multiple of 2 in either order, and `path` and `thex` of 4 or 8.
        let text = |text: &[u8]| {
            let value = format.order.value(text);
            let bytes = format.order.bytes(value, format.size);
            let memory = memory(format, value & !0xffff, &bytes);
            texts(&memory, false)
        };
        assert_eq!(text(b"name"), ["name"], "{format:?}");
        let pointer: &[u8] = if format.order == ByteOrder::Little { b"path" } else { b"htap" };
        let aligned = format.order.value(pointer) % format.size as u64 == 0;
        assert!(aligned);
        assert!(text(pointer).is_empty(), "{format:?}");
    }
}

#[test]
fn a_text_is_a_string_though_some_of_its_words_are_addresses() {
    let format = FORMATS[2];
    let address = u64::from(u32::from_le_bytes(*b"path"));
    let memory = memory(format, address & !0xffff, b"pathpathname\0\0\0\0");
    assert_eq!(texts(&memory, false), ["pathpathname"]);
    // All of them are: nothing tells it from an array of pointers.
    let memory = self::memory(format, address & !0xffff, b"pathpath\0\0\0\0");
    assert!(texts(&memory, false).is_empty());
}

#[test]
fn no_text_of_eight_bytes_is_made_of_addresses_of_64_bits() {
    let everything = Captured::new().with_region(0, &[], 1 << 47, RegionKind::Anon, "");
    let mut addresses = Addresses::new(&everything);
    for format in &FORMATS[..1] {
        let word = |_| format.read(b"abcdefgh");
        assert!(!addresses.made(0x1000, 8, word));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn how_memory_is_cut_changes_nothing(
        words in proptest::collection::vec(prop_oneof![
            3 => (0_u64..0x200).prop_map(|low| 0x5645_7366_9000 + low * 8),
            1 => Just(u64::from_le_bytes(*b"textwith")),
            1 => Just(0),
        ], 1..12),
        shift in 0_usize..3, piece in 1_u64..24, chunk in 1_u64..40,
    ) {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.drain(..shift);
        let start = 0x1000 + shift as u64;
        let plain = Captured::new().with(start, &bytes);
        let plain = plain.with_region(0x5645_7366_0000, &[0], 1 << 20, RegionKind::Heap, "");
        let whole = AddressRange::saturating(start, bytes.len() as u64);
        let choice = Choice::least(4);
        let expected = strings(&plain, &[whole], choice, None, &Job::default()).unwrap();
        let bounds = Bounds { chunk, ..Bounds::default() };
        let pieces = Pieces { memory: plain, piece };
        let found = strings_within(&pieces, &[whole], choice, None, bounds, &Job::default()).unwrap();
        prop_assert_eq!((found.strings, found.addresses), (expected.strings, expected.addresses));
        prop_assert!(expected.total + expected.addresses <= words.len() as u64);
    }
}
