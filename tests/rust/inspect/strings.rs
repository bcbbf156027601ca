//! Strings and records.

use std::collections::HashMap;

use gdb_leak::inspect::records::{contents, contents_within};
use gdb_leak::inspect::strings::{Bounds, Choice, strings, strings_within};
use gdb_leak::memory::{Memory, RegionKind};
use gdb_leak::pass::Job;
use gdb_leak::range::AddressRange;
use gdb_leak::source::captured::Captured;
use gdb_leak::text::printable;
use proptest::prelude::*;

use crate::layout::{Pieces, each_byte, memory, whole};

/// Start and bytes of each string of at least `min` characters.
fn naive(memory: &dyn Memory, ranges: &[AddressRange], min: usize) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    for range in ranges {
        let bytes = each_byte(memory, *range);
        let mut string = String::new();
        let mut at = 0;
        while at <= bytes.len() {
            let rest: Vec<u8> = bytes[at..].iter().map_while(|byte| *byte).take(4).collect();
            let valid = rest.utf8_chunks().next().map_or("", |chunk| chunk.valid());
            if let Some(character) = valid.chars().next().filter(|character| printable(*character)) {
                string.push(character);
                at += character.len_utf8();
                continue;
            }
            if string.chars().count() >= min {
                found.push((range.start() + (at - string.len()) as u64, string.clone().into_bytes()));
            }
            string.clear();
            at += 1;
        }
    }
    found
}

/// Text, count, bytes, first of each, most frequent first.
fn naive_rows(found: &[(u64, Vec<u8>)]) -> Vec<(String, u64, u64, u64)> {
    let mut rows: HashMap<&[u8], (u64, u64)> = HashMap::new();
    for (start, bytes) in found {
        rows.entry(bytes).or_insert((0, *start)).0 += 1;
    }
    let row = |(bytes, (count, first)): (&[u8], (u64, u64))| {
        (String::from_utf8(bytes.to_vec()).unwrap(), count, count * bytes.len() as u64, first)
    };
    let mut rows: Vec<_> = rows.into_iter().map(row).collect();
    rows.sort_by_key(|(_, count, bytes, first)| (u64::MAX - count, u64::MAX - bytes, *first));
    rows
}

fn ranges_of(memory: &dyn Memory, cuts: &[(u64, u64)]) -> Vec<AddressRange> {
    let whole = whole(memory);
    if cuts.is_empty() {
        return vec![whole];
    }
    let cut = |(skip, length): &(u64, u64)| AddressRange::saturating(whole.start() + skip, *length);
    AddressRange::merge(cuts.iter().map(cut).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn strings_are_those_of_a_naive_scan_however_memory_is_cut(
        memory in memory(),
        cuts in proptest::collection::vec((0_u64..150, 0_u64..100), 0..3),
        chunk in prop_oneof![1_u64..40, Just(1 << 18)],
        min in prop_oneof![1_usize..6, 14_usize..20],
    ) {
        let ranges = ranges_of(&memory, &cuts);
        let bounds = Bounds { chunk, ..Bounds::default() };
        let found = strings_within(&memory, &ranges, Choice::least(min), None, bounds, &Job::default()).unwrap();
        let expected = naive(&memory, &ranges, min);
        let rows: Vec<_> =
            found.strings.iter().map(|row| (row.text.clone(), row.count, row.bytes, row.first)).collect();
        prop_assert_eq!(rows, naive_rows(&expected));
        prop_assert_eq!(found.total, expected.len() as u64);
        prop_assert_eq!(found.distinct, found.strings.len() as u64);
        prop_assert_eq!(found.untracked, 0);
        let there = ranges.iter().flat_map(|range| each_byte(&memory, *range)).flatten().count();
        prop_assert_eq!(found.searched, there as u64);
        let missing: u64 = found.gaps.iter().map(|gap| gap.range.len()).sum();
        let asked: u64 = ranges.iter().map(|range| range.len()).sum();
        prop_assert_eq!(found.searched + missing, asked);
    }

    #[test]
    fn strings_beyond_the_bound_are_counted_and_the_first_ones_in_memory_are_kept(
        memory in memory(),
        chunk in prop_oneof![1_u64..40, Just(1 << 18)],
        tracked in 0_usize..5,
    ) {
        let ranges = [whole(&memory)];
        let bounds = Bounds { chunk, tracked };
        let found = strings_within(&memory, &ranges, Choice::least(1), None, bounds, &Job::default()).unwrap();
        let expected = naive(&memory, &ranges, 1);
        let mut rows = naive_rows(&expected);
        rows.sort_by_key(|row| row.3);
        let beyond: u64 = rows.iter().skip(tracked).map(|row| row.1).sum();
        rows.truncate(tracked);
        prop_assert_eq!(found.total, expected.len() as u64);
        prop_assert_eq!(found.untracked, beyond);
        let mut firsts: Vec<_> = found.strings.iter().map(|row| row.first).collect();
        firsts.sort_unstable();
        prop_assert_eq!(firsts, rows.iter().map(|row| row.3).collect::<Vec<_>>());
    }

    #[test]
    fn strides_are_the_most_common_distances_of_a_naive_scan(
        memory in memory(),
        chunk in prop_oneof![1_u64..40, Just(1 << 18)],
        top in 0_usize..6,
    ) {
        let ranges = [whole(&memory)];
        let bounds = Bounds { chunk, ..Bounds::default() };
        let found = contents_within(&memory, &ranges, 1, top, bounds, &Job::default()).unwrap();
        let all = naive(&memory, &ranges, 1);
        let rows = naive_rows(&all);
        prop_assert_eq!(found.records.len(), top.min(rows.len()));
        for (record, (text, count, bytes, first)) in found.records.into_iter().zip(rows) {
            let places: Vec<u64> =
                all.iter().filter(|(_, bytes)| *bytes == text.as_bytes()).map(|(at, _)| *at).collect();
            let steps: Vec<u64> = places.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let times = |distance: u64| steps.iter().filter(|step| **step == distance).count() as u64;
            let best = steps.iter().map(|step| (times(*step), u64::MAX - step)).max();
            let (strided, stride) = best.filter(|(times, _)| *times > 1).unzip();
            prop_assert_eq!(record.text, text);
            prop_assert_eq!((record.count, record.bytes, record.first), (count, bytes, first));
            prop_assert_eq!(record.stride, stride.map(|stride| u64::MAX - stride));
            prop_assert_eq!(record.strided, strided.unwrap_or(0));
        }
    }
}

#[test]
fn strings_that_differ_in_numbers_are_one_however_memory_is_cut() {
    let mut bytes = Vec::new();
    for number in 0..1000 {
        bytes.extend_from_slice(format!("session {:x} of {number}\0", number * 977).as_bytes());
    }
    for (piece, chunk) in [(1 << 20, 1 << 18), (7, 64), (100, 33)] {
        let memory = Pieces { memory: Captured::new().with(0x1000, &bytes), piece };
        let bounds = Bounds { chunk, ..Bounds::default() };
        let choice = Choice::least(4);
        let found =
            strings_within(&memory, &[whole(&memory)], choice, None, bounds, &Job::default()).unwrap();
        let rows: Vec<_> =
            found.strings.iter().map(|row| (row.text.as_str(), row.count, row.bytes)).collect();
        assert_eq!(rows, [("session # of #", 1000, bytes.len() as u64 - 1000)]);
        assert_eq!(found.strings[0].example, "session 0 of 0");
        let records =
            contents_within(&memory, &[whole(&memory)], 4, 1, bounds, &Job::default()).unwrap().records;
        assert_eq!((records[0].text.as_str(), records[0].count), ("session # of #", 1000));
        // Words that may be hex are found again for their places.
        assert!(records[0].strided > 400, "{:?}", records[0]);
    }
}

#[test]
fn a_text_of_more_than_4096_bytes_is_itself() {
    let long = |number: u32| format!("{}{number}\0", "word ".repeat(1000));
    let memory = Captured::new().with(0x1000, (long(1) + &long(2)).as_bytes());
    let found = strings(&memory, &[whole(&memory)], Choice::least(4), None, &Job::default()).unwrap();
    assert_eq!(found.distinct, 2);
}

#[test]
fn a_hundred_and_one_leaked_texts_repeat_at_the_stride_of_their_blocks() {
    let mut heap = vec![0_u8; 0x42000];
    for block in 0..101 {
        let at = 0x2a0 + block * 0x810;
        heap[at..at + 13].copy_from_slice(b"leaked memory");
    }
    let memory = Captured::new().with(0x5555_5555_9000, &heap);
    let found = contents(&memory, &[whole(&memory)], 4, 10, &Job::default()).unwrap();
    let record = &found.records[0];
    assert_eq!((record.text.as_str(), record.count, record.bytes), ("leaked memory", 101, 1313));
    assert_eq!((record.stride, record.strided), (Some(0x810), 100));
    assert_eq!(record.first, 0x5555_5555_92a0);
}

#[test]
fn a_text_over_many_chunks_is_one_string_and_is_cut_with_a_mark() {
    let mut bytes = vec![b'a'; 3 << 20];
    bytes.extend_from_slice(b"\0leaked\0");
    let memory = Pieces { memory: Captured::new().with(0x1000, &bytes), piece: 100_000 };
    let found = strings(&memory, &[whole(&memory)], Choice::least(4), None, &Job::default()).unwrap();
    assert_eq!(found.total, 2);
    let row = &found.strings[0];
    assert_eq!((row.count, row.length, row.first), (1, 3 << 20, 0x1000));
    assert_eq!(row.text, format!("{} … {} more bytes", "a".repeat(4096), (3 << 20) - 4096));
}

#[test]
fn a_string_goes_on_across_regions_that_touch_and_ends_where_they_do_not() {
    let memory = Captured::new().with(0x1000, b"leaked ").with(0x1007, b"memory").with(0x100e, b"more");
    let found = strings(&memory, &[whole(&memory)], Choice::least(4), None, &Job::default()).unwrap();
    let texts: Vec<_> = found.strings.iter().map(|row| row.text.as_str()).collect();
    assert_eq!(texts, ["leaked memory", "more"]);
}

#[test]
fn a_stopped_job_gives_no_strings() {
    let memory = Captured::new().with(0x1000, b"leaked");
    let job = Job::default();
    job.stop();
    assert!(strings(&memory, &[whole(&memory)], Choice::least(4), None, &job).is_err());
}

#[test]
fn a_region_of_which_nearly_nothing_was_saved_is_not_gone_through() {
    let memory = Captured::new().with_region(0x1000, b"leaked memory", 1 << 60, RegionKind::Anon, "");
    let found = strings(&memory, &[whole(&memory)], Choice::least(4), None, &Job::default()).unwrap();
    assert_eq!((found.strings.len(), found.gaps.len()), (1, 1));
    assert_eq!(found.gaps[0].range.len(), (1 << 60) - 13);
}
