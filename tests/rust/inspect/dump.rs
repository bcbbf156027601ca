//! Dumps.

use std::io::Write as _;
use std::process::Command;

use gdb_leak::inspect::hexdump::{Dump, Style};
use gdb_leak::memory::{Memory, RegionKind};
use gdb_leak::range::AddressRange;
use gdb_leak::source::captured::Captured;
use gdb_leak::word::{ByteOrder, WordFormat};
use proptest::prelude::*;

use crate::layout::{Pieces, bytes, each_byte, memory, whole};

fn dump(memory: &dyn Memory, range: AddressRange, style: Style, fold: bool, most: usize) -> String {
    let mut dump = Dump::new(memory, range, style, fold).unwrap();
    let mut text = String::new();
    let mut piece = String::new();
    loop {
        let more = dump.next_piece(memory, &mut piece, most).unwrap();
        assert!(piece.is_empty() || piece.ends_with('\n'));
        text += &std::mem::take(&mut piece);
        if !more {
            assert_eq!(dump.lines(), text.lines().count() as u64);
            return text;
        }
    }
}

/// What `od` says of the bytes, in the form of a dump that starts at `start`.
fn od(bytes: &[u8], format: &str, order: &str, fold: bool, start: u64) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let mut command = Command::new("od");
    command.args(["-A", "d", "-w16", "-t", format, order]);
    if !fold {
        command.arg("-v");
    }
    let output = command.arg(file.path()).output().unwrap();
    let mut text = String::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        if let Some((offset, rest)) = line.split_once(' ') {
            let address = start + offset.parse::<u64>().unwrap();
            text += &format!("0x{address:016x}  {}\n", rest.trim_start_matches(' '));
        } else if line == "*" {
            text += "*\n";
        } else {
            text += &format!("0x{:016x}\n", start + line.parse::<u64>().unwrap());
        }
    }
    text
}

fn repetitive_bytes() -> impl Strategy<Value = Vec<u8>> {
    let run = (bytes(3), 1..60_usize).prop_map(|(bytes, times)| bytes.repeat(times));
    let aligned = (any::<[u8; 16]>(), prop_oneof![1..5_usize, 15..50_usize])
        .prop_map(|(line, times)| line.repeat(times));
    let zeros = (0..100_usize).prop_map(|length| vec![0; length]);
    proptest::collection::vec(prop_oneof![run, aligned, zeros], 0..4).prop_map(|runs| runs.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_dump_says_what_od_says(
        bytes in repetitive_bytes(),
        style in 0..4_usize,
        big: bool,
        fold: bool,
        start in 0x7f00_0000_0000_u64..0x7f00_0000_0020,
        piece in prop_oneof![1_u64..40, Just(1 << 20)],
        most in prop_oneof![Just(1_usize), Just(500), Just(1 << 20)],
    ) {
        let (style, format, size) =
            [(Style::X8, "x8z", 8), (Style::X4, "x4z", 8), (Style::X1, "x1z", 8), (Style::Words, "x4z", 4)][style];
        let (order, flag) = if big {
            (ByteOrder::Big, "--endian=big")
        } else {
            (ByteOrder::Little, "--endian=little")
        };
        let memory = Captured::new().with_format(WordFormat { size, order }).with(start, &bytes);
        let range = AddressRange::with_length(start, bytes.len() as u64).unwrap();
        let memory = Pieces { memory, piece };
        let expected = od(&bytes, format, flag, fold, start);
        prop_assert_eq!(dump(&memory, range, style, fold, most), expected);
    }

    #[test]
    fn every_byte_is_either_shown_or_counted_as_missing(memory in memory(), most in 1..300_usize) {
        let range = whole(&memory);
        let expected = each_byte(&memory, range);
        prop_assume!(range.is_empty() || expected.iter().any(Option::is_some));
        let text = dump(&memory, range, Style::X1, false, most);
        let mut shown = Vec::new();
        for line in text.lines() {
            let mut parts = line.split("  ");
            let address = u64::from_str_radix(&parts.next().unwrap()[2..18], 16).unwrap();
            if let Some((start, gap)) = line.split_once(" - 0x") {
                let start = u64::from_str_radix(&start[2..], 16).unwrap();
                let end = u64::from_str_radix(&gap[..16], 16).unwrap();
                shown.extend((start..end).map(|_| None));
            } else if let Some(words) = parts.next() {
                prop_assert_eq!(address, range.start() + shown.len() as u64);
                shown.extend(words.split(' ').map(|byte| Some(u8::from_str_radix(byte, 16).unwrap())));
            }
        }
        let mut dump = Dump::new(&memory, range, Style::Text, true).unwrap();
        while dump.next_piece(&memory, &mut String::new(), most).unwrap() {}
        prop_assert_eq!(dump.missing(), expected.iter().filter(|byte| byte.is_none()).count() as u64);
        prop_assert_eq!(shown, expected);
    }
}

#[test]
fn what_is_missing_is_said_between_the_lines_and_the_dump_goes_on() {
    let memory = Captured::new()
        .with_region(0x1000, b"leaked memory", 0x20, RegionKind::Heap, "[heap]")
        .with(0x1030, b"leaked memory");
    let range = AddressRange::new(0x1000, 0x103d).unwrap();
    let expected = "\
0x0000000000001000  6d2064656b61656c 00000079726f6d65  >leaked memory<
0x000000000000100d - 0x0000000000001020 was not saved in the capture
0x0000000000001020 - 0x0000000000001030 is in no region
0x0000000000001030  6d2064656b61656c 00000079726f6d65  >leaked memory<
0x000000000000103d
";
    assert_eq!(dump(&memory, range, Style::X8, true, 1), expected);
}

#[test]
fn addresses_are_as_wide_as_the_last_one_needs() {
    let words = WordFormat { size: 4, order: ByteOrder::Little };
    let small = Captured::new().with_format(words).with(0x0804_8000, b"abc");
    let range = AddressRange::with_length(0x0804_8000, 3).unwrap();
    assert_eq!(dump(&small, range, Style::Text, true, 1), "0x08048000  >abc<\n0x08048003\n");
    let high = Captured::new().with(0xffff_ffff_ff60_0000, b"abc");
    let range = AddressRange::with_length(0xffff_ffff_ff60_0000, 3).unwrap();
    let expected = "0xffffffffff600000  >abc<\n0xffffffffff600003\n";
    assert_eq!(dump(&high, range, Style::Text, true, 1), expected);
}

#[test]
fn equal_lines_on_both_sides_of_a_gap_are_both_shown() {
    let memory = Captured::new().with(0x1000, &[b'a'; 48]).with(0x1040, &[b'a'; 16]);
    let text = dump(&memory, AddressRange::new(0x1000, 0x1050).unwrap(), Style::X8, true, 4096);
    assert_eq!(text.lines().filter(|line| line.ends_with('<')).count(), 2, "{text}");
}

#[test]
fn a_range_without_any_memory_is_refused_with_its_first_address() {
    let range = AddressRange::new(0x1000, 0x10_0000_0000).unwrap();
    let error = Dump::new(&Captured::new(), range, Style::X8, true).err().unwrap();
    assert_eq!(error.to_string(), "no region at 0x1000");
}
