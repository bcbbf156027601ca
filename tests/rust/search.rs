//! The search against the naive one, over layouts of memory that nobody would draw.

// The naive search is to be read, not to be fast or to survive bytes that it never gets.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

mod layout;

use gdb_leak::error::Error;
use gdb_leak::memory::{Gap, Memory, Missing, Place, RegionKind};
use gdb_leak::pass::Job;
use gdb_leak::range::AddressRange;
use gdb_leak::search::{Found, Match, Needle, Search, find, find_in_chunks};
use gdb_leak::source::captured::Captured;
use gdb_leak::word::WordFormat;
use layout::{Layout, aligns, bytes_of, cuts, layouts, limits, naive, naive_pattern, orders, stretches};
use proptest::prelude::*;

/// Holds a search to the matches that it should have found.
fn agree(
    layout: &Layout,
    cut: Option<(u64, u64)>,
    search: &Search,
    naive: impl Fn(&[(u64, Vec<u8>)]) -> Vec<Match>,
) -> Result<(), TestCaseError> {
    let memory = layout.memory();
    let ranges = match cut {
        None => Place::All.ranges(&memory),
        Some((a, b)) => {
            let place = |share: u64| layout.start + (layout.end() - layout.start) * share / 1000;
            vec![AddressRange::new(place(a.min(b)), place(a.max(b))).unwrap()]
        }
    };
    let stretches = stretches(&layout.bytes(), &ranges);
    let aligned = |found: &Match| search.align.is_none_or(|align| found.address % align == 0);
    let expected: Vec<Match> = naive(&stretches).into_iter().filter(aligned).collect();
    let found = find_in_chunks(&memory, &ranges, search, &Job::default(), layout.chunk).unwrap();
    prop_assert_eq!(found.count, expected.len() as u64);
    prop_assert_eq!(found.last, expected.last().map(|last| last.address));
    let listed = search.limit.unwrap_or(usize::MAX).min(expected.len());
    prop_assert_eq!(&found.matches, &expected[..listed]);
    let there: u64 = stretches.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    prop_assert_eq!(found.searched, there);
    let asked: u64 = ranges.iter().map(|range| range.len()).sum();
    let missing: u64 = found.gaps.iter().map(|gap| gap.range.len()).sum();
    prop_assert_eq!(missing, asked - there);
    Ok(())
}

fn text(bytes: &[u8]) -> Needle {
    Needle::text(bytes, false, false).unwrap()
}

proptest! {
    #[test]
    fn bytes_are_found_wherever_they_lie(
        layout in layouts(b"ab\0"), cut in cuts(), needle in bytes_of(b"ab", 1..6), nul in any::<bool>(),
        align in aligns(), limit in limits(),
    ) {
        let search = Search { needle: Needle::text(&needle, nul, false).unwrap(), align, limit };
        let bytes = if nul { [&needle[..], &[0]].concat() } else { needle };
        agree(&layout, cut, &search, |all| naive(all, bytes.len(), |_, window| window == bytes))?;
    }

    #[test]
    fn a_whole_region_with_what_is_around_it_is_found(
        layout in layouts(b"ab\0"), part in 0..7_usize, (before, after) in (0..4_usize, 0..4_usize),
        limit in limits(),
    ) {
        let own = layout.parts.get(part).map_or(&[][..], |part| &part.bytes[..]);
        let needle = [&b"abab"[..before], own, &b"\0\0\0\0"[..after]].concat();
        prop_assume!(!needle.is_empty());
        let search = Search { needle: text(&needle), align: None, limit };
        agree(&layout, None, &search, |all| naive(all, needle.len(), |_, window| window == needle))?;
    }

    #[test]
    fn zeros_are_found_in_zeros(
        layout in layouts(b"\0\0\0a"), cut in cuts(), length in 1..40_usize, align in aligns(), limit in limits(),
    ) {
        let search = Search { needle: text(&vec![0; length]), align, limit };
        agree(&layout, cut, &search, |all| {
            naive(all, length, |_, window| window.iter().all(|byte| *byte == 0))
        })?;
    }

    #[test]
    fn text_without_regard_to_case_is_found(
        layout in layouts(b"aA[{bB"), cut in cuts(), needle in bytes_of(b"aA[", 1..4),
        align in aligns(), limit in limits(),
    ) {
        let search = Search { needle: Needle::text(&needle, false, true).unwrap(), align, limit };
        agree(&layout, cut, &search, |all| {
            naive(all, needle.len(), |_, window| window.eq_ignore_ascii_case(&needle))
        })?;
    }

    #[test]
    fn wide_text_is_found_in_either_byte_order(
        layout in layouts(b"\0\0aAN-n"), cut in cuts(), needle in "[aA\u{4e2d}\u{6161}]{1,3}", nul in any::<bool>(),
        ignore_case in any::<bool>(), order in orders(), limit in limits(),
    ) {
        let search = Search { needle: Needle::utf16(&needle, order, nul, ignore_case).unwrap(), align: None, limit };
        let units: Vec<u16> = needle.encode_utf16().chain(nul.then_some(0)).collect();
        let fold = |unit: u16| match u8::try_from(unit) {
            Ok(byte) if ignore_case => u16::from(byte.to_ascii_lowercase()),
            _ => unit,
        };
        agree(&layout, cut, &search, |all| {
            naive(all, units.len() * 2, |_, window| {
                let unit = |pair: &[u8]| u16::try_from(order.value(pair)).unwrap();
                units.iter().zip(window.chunks(2)).all(|(wanted, pair)| fold(*wanted) == fold(unit(pair)))
            })
        })?;
    }

    #[test]
    fn integers_are_found_at_any_address(
        layout in layouts(b"\0\x01\xff"), cut in cuts(), bytes in bytes_of(b"\0\x01\xff", 8..12),
        size in prop_oneof![Just(1_usize), Just(2), Just(4), Just(8)], order in orders(),
        negative in any::<bool>(), align in aligns(),
    ) {
        let word = order.value(&bytes[..size]);
        let bits = u32::try_from(size).unwrap() * 8;
        let signed = negative && word >> (bits - 1) == 1;
        let value = if signed { i128::from(word) - (1 << bits) } else { i128::from(word) };
        let search = Search { needle: Needle::integer(value, size, order).unwrap(), align, limit: None };
        agree(&layout, cut, &search, |all| naive(all, size, |_, window| window == &bytes[..size]))?;
    }

    #[test]
    fn pointers_are_found_at_aligned_addresses(
        layout in layouts(b"\0\0\0\x01\x02"), cut in cuts(), size in prop_oneof![Just(4_usize), Just(8)],
        order in orders(), (first, length) in (0..0x300_u64, 1..0x300_u64), one in any::<bool>(),
        align in aligns(), limit in limits(),
    ) {
        let format = WordFormat { size, order };
        let (needle, length) = if one {
            (Needle::pointer(first, format).unwrap(), 1)
        } else {
            let range = AddressRange::with_length(first, length).unwrap();
            (Needle::pointers_into(range, format).unwrap(), length)
        };
        agree(&layout, cut, &Search { needle, align, limit }, |all| {
            naive(all, size, |address, window| {
                let word = order.value(window);
                address % size as u64 == 0 && (first..first + length).contains(&word)
            })
        })?;
    }

    #[test]
    fn patterns_are_found_as_one_pass_from_left_to_right_would(
        layout in layouts(b"aab\n_"), cut in cuts(), pattern in patterns(), ignore_case in any::<bool>(),
        longest in prop_oneof![3..9_usize, 9..40_usize, Just(4096)], align in aligns(), limit in limits(),
    ) {
        let Ok(needle) = Needle::regex_up_to(&pattern, ignore_case, longest) else {
            return Err(TestCaseError::reject("needs more bytes than the longest match"));
        };
        agree(&layout, cut, &Search { needle, align, limit }, |all| {
            naive_pattern(all, &pattern, ignore_case, longest)
        })?;
    }
}

/// Patterns that stop early, go on for as long as they can, look around, or prefer the shorter way.
fn patterns() -> impl Strategy<Value = String> {
    const PATTERNS: &[&str] = &[
        "a+",
        "a+b",
        "ab",
        "a{3,}",
        "a{2}|b",
        "[ab]+",
        "[^b]+",
        "(?s).+",
        ".+",
        "a+?b",
        "a+?",
        "aa",
        "(?:ab|a)b*",
        "ba+b",
        "b.*b",
        "a$",
        "^a",
        "^a+$",
        r"\bab",
        r"b\b",
        r"\Ba",
        r"a\B",
        "_a*b|a",
        ".*b|a",
        "a[ab]{4}",
        "(?i)A+B",
        r"[\x00-\x60]+",
        "(?s)b.{5,}b",
        "aa|aab|aabb",
        r"\n",
        r"\n\n?a",
        "(?R)a$",
        "b{2,6}",
    ];
    proptest::sample::select(PATTERNS).prop_map(str::to_owned)
}

fn run(memory: &dyn Memory, search: &Search) -> Found {
    find(memory, &Place::All.ranges(memory), search, &Job::default()).unwrap()
}

fn addresses(found: &Found) -> Vec<u64> {
    found.matches.iter().map(|place| place.address).collect()
}

fn all(needle: Needle) -> Search {
    Search { needle, align: None, limit: None }
}

#[test]
fn a_match_across_the_border_of_two_chunks_is_found_once() {
    let mut bytes = vec![0; 3 << 20];
    for at in [(1 << 20) - 3, (2 << 20) - 6, (2 << 20), (3 << 20) - 6] {
        bytes[at..at + 6].copy_from_slice(b"leaked");
    }
    let found = run(&Captured::new().with(0x100_0000, &bytes), &all(text(b"leaked")));
    assert_eq!(addresses(&found), [0x10f_fffd, 0x11f_fffa, 0x120_0000, 0x12f_fffa]);
}

#[test]
fn a_match_across_touching_regions_is_found_once_and_across_a_hole_never() {
    let memory = Captured::new()
        .with(0x1000, b"..lea")
        .with(0x1005, b"k")
        .with(0x1006, b"ed.lea")
        .with(0x100d, b"ked");
    assert_eq!(addresses(&run(&memory, &all(text(b"leaked")))), [0x1002]);
}

#[test]
fn a_match_in_the_last_bytes_of_a_region_is_found() {
    let memory = Captured::new().with(0x1000, b"....leaked");
    assert_eq!(addresses(&run(&memory, &all(text(b"leaked")))), [0x1004]);
}

#[test]
fn what_was_not_saved_is_a_gap_and_breaks_a_match() {
    let memory = Captured::new().with_region(0x1000, b"xxlea", 8, RegionKind::Anon, "").with_region(
        0x1008,
        b"ked",
        3,
        RegionKind::Anon,
        "",
    );
    let found = run(&memory, &all(text(b"leaked")));
    assert_eq!((found.count, found.searched), (0, 8));
    let gap = AddressRange::new(0x1005, 0x1008).unwrap();
    assert_eq!(found.gaps, [Gap { range: gap, missing: Missing::NotSaved("capture") }]);
}

#[test]
fn a_limit_bounds_what_is_listed_but_not_what_is_counted() {
    let memory = Captured::new().with(0x1000, &[0; 5000]);
    let found = run(&memory, &Search { needle: text(&[0; 8]), align: Some(8), limit: Some(2) });
    assert_eq!((found.count, found.last), (625, Some(0x1000 + 4992)));
    assert_eq!(addresses(&found), [0x1000, 0x1008]);
}

#[test]
fn all_matches_of_a_chunk_full_of_them_are_listed() {
    let memory = Captured::new().with(0x1000, &vec![b'a'; 20_000]);
    let found = run(&memory, &all(text(b"aa")));
    assert_eq!(addresses(&found), (0x1000..0x1000 + 19_999).collect::<Vec<u64>>());
    let found = run(
        &memory,
        &Search { needle: Needle::regex("a", false).unwrap(), align: Some(3), limit: Some(6000) },
    );
    let expected: Vec<u64> = (0x1000..0x1000 + 20_000).filter(|address| address % 3 == 0).collect();
    assert_eq!(found.count, expected.len() as u64);
    assert_eq!(addresses(&found), expected[..6000]);
}

#[test]
fn a_region_of_which_almost_nothing_was_saved_is_searched_at_once() {
    let memory = Captured::new()
        .with_region(0x1000, b"leaked", 1 << 60, RegionKind::Anon, "")
        .with(0x1000 + (1 << 60), b"leaked");
    let found = run(&memory, &all(text(b"leaked")));
    assert_eq!(addresses(&found), [0x1000, 0x1000 + (1 << 60)]);
    assert_eq!((found.searched, found.gaps.len()), (12, 1));
    assert_eq!(found.gaps[0].range, AddressRange::new(0x1006, 0x1000 + (1 << 60)).unwrap());
}

#[test]
fn the_whole_address_space_is_searched_at_once() {
    let memory = Captured::new().with(0x1000, b"leaked");
    let whole = AddressRange::new(0, u64::MAX).unwrap();
    let found = find(&memory, &[whole], &all(text(b"leaked")), &Job::default()).unwrap();
    assert_eq!((found.count, found.searched, found.gaps.len()), (1, 6, 2));
}

#[test]
fn a_pattern_that_goes_on_across_chunks_is_cut_every_4096_bytes() {
    let bytes = vec![b'a'; (3 << 20) + 5];
    let found = run(&Captured::new().with(0x1003, &bytes), &all(Needle::regex("[a-z]+", false).unwrap()));
    let expected: Vec<u64> = (0x1003..0x1003 + bytes.len() as u64).step_by(4096).collect();
    assert_eq!(addresses(&found), expected);
    assert_eq!(found.matches.last().map(|last| last.length), Some(5));
}

#[test]
fn ranges_in_any_order_that_overlap_are_searched_once() {
    let memory = Captured::new().with(0x1000, b"leakedleaked");
    let range = |start, end| AddressRange::new(start, end).unwrap();
    let ranges = [range(0x1004, 0x100c), range(0x1000, 0x1006), range(0x1005, 0x1005)];
    let found = find(&memory, &ranges, &all(text(b"leaked")), &Job::default()).unwrap();
    assert_eq!((addresses(&found), found.searched), (vec![0x1000, 0x1006], 12));
}

#[test]
fn an_alignment_of_zero_is_refused() {
    let search = Search { needle: text(b"a"), align: Some(0), limit: None };
    let error = find(&Captured::new(), &[], &search, &Job::default()).unwrap_err();
    assert_eq!(error.to_string(), "-align 0: no address is a multiple of it; give a positive number");
}

#[test]
fn a_stopped_job_ends_a_search_as_interrupted() {
    let job = Job::default();
    job.stop();
    let memory = Captured::new().with(0x1000, b"leaked");
    let result = find(&memory, &Place::All.ranges(&memory), &all(text(b"leaked")), &job);
    assert!(matches!(result, Err(Error::Interrupted)));
}

#[test]
fn nothing_found_is_an_answer() {
    let found = run(&Captured::new().with(0x1000, b"freed"), &all(text(b"leaked")));
    assert_eq!((found.count, found.last, found.matches.len(), found.searched), (0, None, 0, 5));
}
