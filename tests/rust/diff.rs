//! Regions before and after, held to a count of single addresses.
// A test may panic on its own mistakes, and its helpers are no part of what it tests.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

use gdb_leak::diff::{Change, Difference, diff};
use gdb_leak::memory::{Permissions, Region, RegionKind};
use gdb_leak::name::Name;
use gdb_leak::range::AddressRange;
use proptest::prelude::*;

fn range(start: u64, end: u64) -> AddressRange {
    AddressRange::new(start, end).unwrap()
}

fn region(start: u64, end: u64, permissions: &str, kind: RegionKind, name: &str) -> Region {
    Region {
        range: range(start, end),
        permissions: Permissions::from_letters(permissions).unwrap(),
        kind,
        name: name.into(),
        file_offset: 0,
        saved: if permissions == "---" { 0 } else { end - start },
        rss: None,
        dirty: None,
    }
}

fn sample(heap_end: u64) -> Vec<Region> {
    vec![
        region(0x5555_5555_4000, 0x5555_5555_5000, "r-x", RegionKind::File, "/tmp/sample"),
        region(0x5555_5555_8000, heap_end, "rw-", RegionKind::Heap, "[heap]"),
        region(0x7fff_f7d0_0000, 0x7fff_f7d2_0000, "r--", RegionKind::File, "/lib/libc.so.6"),
        region(0x7fff_fffd_e000, 0x7fff_ffff_f000, "rw-", RegionKind::Stack, "[stack]"),
    ]
}

fn sizes(list: &[Change]) -> Vec<(u64, u64)> {
    list.iter().map(|change| (change.before, change.after)).collect()
}

#[test]
fn a_heap_that_doubles_grew_by_its_new_end() {
    let start = 0x5555_5555_8000;
    let found = diff(&sample(start + 0x21000), &sample(start + 0x42000));
    assert!(found.same_program);
    assert_eq!(found.growth, 0x21000);
    assert_eq!(sizes(&found.grown), [(132 << 10, 264 << 10)]);
    let change = &found.grown[0];
    assert_eq!(change.new_ranges, [range(start + 0x21000, start + 0x42000)]);
    assert_eq!(change.kind, RegionKind::Heap);
    assert_eq!(change.name, "[heap]");
    assert!(found.shrunk.is_empty() && found.new.is_empty() && found.gone.is_empty());
}

#[test]
fn a_heap_known_to_one_side_as_anonymous_is_still_the_heap() {
    let start = 0x5555_5555_8000;
    let mut before = sample(start + 0x21000);
    before[1].kind = RegionKind::Anon;
    before[1].name = Name::default();
    before[0].name = "sample".into();
    before[2].permissions = Permissions::Unknown;
    let found = diff(&before, &sample(start + 0x42000));
    assert_eq!(found.grown.len(), 1);
    assert_eq!((found.grown[0].kind, found.growth), (RegionKind::Heap, 0x21000));
    assert!(found.same_program && found.new.is_empty() && found.gone.is_empty());
}

#[test]
fn a_mapping_that_grew_downwards_is_new_below() {
    let before = [region(0x8000, 0x9000, "rw-", RegionKind::Anon, "")];
    let after = [region(0x5000, 0x9000, "rw-", RegionKind::Anon, "")];
    let found = diff(&before, &after);
    assert_eq!(found.grown[0].new_ranges, [range(0x5000, 0x8000)]);
}

#[test]
fn a_reserve_that_became_writable_shrinks_and_the_arena_grows() {
    let arena = |border| {
        [
            region(0x10000, border, "rw-", RegionKind::Arena, ""),
            region(border, 0x90000, "---", RegionKind::Arena, ""),
        ]
    };
    let found = diff(&arena(0x31000), &arena(0x52000));
    assert_eq!(sizes(&found.grown), [(0x21000, 0x42000)]);
    assert_eq!(found.grown[0].new_ranges, [range(0x31000, 0x52000)]);
    assert_eq!(sizes(&found.shrunk), [(0x5f000, 0x3e000)]);
    assert_eq!((found.growth, found.reserved), (0x21000, -0x21000));
    assert!(found.shrunk[0].reserve && !found.grown[0].reserve);
}

#[test]
fn a_thread_that_starts_reserves_much_and_grows_little() {
    let before = [region(0x10_0000, 0x11_0000, "rw-", RegionKind::Anon, "")];
    let mut after = before.to_vec();
    after.push(region(0x400_0000, 0x402_1000, "rw-", RegionKind::Arena, ""));
    after.push(region(0x402_1000, 0x800_0000, "---", RegionKind::Arena, ""));
    let found = diff(&before, &after);
    assert_eq!((found.growth, found.reserved), (0x2_1000, 0x3fd_f000));
}

#[test]
fn inaccessible_memory_that_holds_bytes_is_no_reserve() {
    let before = [region(0x10_0000, 0x11_0000, "rw-", RegionKind::Anon, "")];
    let mut after = before.to_vec();
    after.push(region(0x20_0000, 0x21_0000, "---", RegionKind::Anon, ""));
    after[1].saved = 0x1000;
    let found = diff(&before, &after);
    assert_eq!((found.new.len(), found.growth, found.reserved), (1, 0, 0));
    assert!(!found.new[0].reserve);
}

#[test]
fn a_library_that_is_loaded_is_new_and_only_its_data_is_growth() {
    let before = sample(0x5555_5557_9000);
    let mut after = before.clone();
    after.insert(2, region(0x7fff_f700_0000, 0x7fff_f710_0000, "r-x", RegionKind::File, "/lib/new.so"));
    after.insert(3, region(0x7fff_f710_0000, 0x7fff_f710_2000, "rw-", RegionKind::Data, "/lib/new.so"));
    let found = diff(&before, &after);
    assert_eq!((found.new.len(), found.growth, found.reserved), (2, 0x2000, 0));
}

#[test]
fn what_gcore_writes_as_readable_is_the_reserve_that_it_is_elsewhere() {
    let with = |permissions| {
        let mut regions = sample(0x5555_5557_9000);
        regions.insert(2, region(0x7000_0000_0000, 0x7000_1000_0000, permissions, RegionKind::Anon, ""));
        regions
    };
    for (before, after) in [("---", "r--"), ("r--", "---")] {
        let found = diff(&with(before), &with(after));
        assert_eq!(all(&found).count(), 0, "{found:?}");
        assert_eq!((found.growth, found.reserved), (0, 0));
    }
}

#[test]
fn memory_with_unknown_permissions_counts_unless_a_file_backs_it_and_is_said() {
    let before = sample(0x5555_5557_9000);
    let mut after = before.clone();
    after.insert(2, region(0x7fff_f700_0000, 0x7fff_f710_0000, "???", RegionKind::File, "/lib/new.so"));
    after.insert(3, region(0x7fff_f720_0000, 0x7fff_f720_2000, "???", RegionKind::Anon, ""));
    let found = diff(&before, &after);
    assert_eq!(found.growth, 0x2000);
    assert!(found.notes[0].starts_with("2 changed regions have unknown permissions"), "{:?}", found.notes);
}

#[test]
fn neighbours_that_merge_are_one_group() {
    let before = [
        region(0x1000, 0x2000, "rw-", RegionKind::Anon, ""),
        region(0x3000, 0x4000, "rw-", RegionKind::Anon, ""),
    ];
    let after = [region(0x1000, 0x5000, "rw-", RegionKind::Anon, "")];
    let found = diff(&before, &after);
    assert_eq!(sizes(&found.grown), [(0x2000, 0x4000)]);
    assert_eq!(found.grown[0].new_ranges, [range(0x2000, 0x3000), range(0x4000, 0x5000)]);
}

#[test]
fn a_mapping_that_slid_is_new_where_it_came_and_gone_where_it_left() {
    let before = [region(0x1000, 0x3000, "rw-", RegionKind::Anon, "")];
    let after = [region(0x2000, 0x4000, "rw-", RegionKind::Anon, "")];
    let found = diff(&before, &after);
    assert_eq!((sizes(&found.new), found.new[0].range), (vec![(0, 0x1000)], range(0x3000, 0x4000)));
    assert_eq!((sizes(&found.gone), found.gone[0].range), (vec![(0x1000, 0)], range(0x1000, 0x2000)));
}

#[test]
fn another_run_is_compared_by_kind_and_name_and_said() {
    let start = 0x5555_5555_8000;
    let mut after = sample(start + 0x42000);
    for region in &mut after {
        region.range = range(region.range.start() + 0x1234_5000, region.range.end() + 0x1234_5000);
    }
    let found = diff(&sample(start + 0x21000), &after);
    assert!(!found.same_program);
    assert_eq!(found.notes.len(), 1);
    assert_eq!((found.grown.len(), found.new.len(), found.gone.len()), (1, 0, 0));
    let end = start + 0x1234_5000 + 0x42000;
    assert_eq!(found.grown[0].new_ranges, [range(end - 0x21000, end)]);
}

#[test]
fn another_program_is_said_with_both_names() {
    let mut after = sample(0x5555_5557_9000);
    after[0].name = "/tmp/other".into();
    let found = diff(&sample(0x5555_5557_9000), &after);
    assert!(!found.same_program);
    assert!(found.notes[0].contains("/tmp/sample") && found.notes[0].contains("/tmp/other"));
}

fn regions() -> impl Strategy<Value = Vec<Region>> {
    let permissions = prop_oneof![4 => Just("rw-"), 1 => Just("---"), 1 => Just("???")];
    let kind = prop_oneof![
        4 => Just((RegionKind::Anon, "")),
        2 => Just((RegionKind::Heap, "[heap]")),
        1 => Just((RegionKind::File, "/lib/a.so")),
        1 => Just((RegionKind::Data, "a.so")),
    ];
    let region = (0_u64..8, 1_u64..20, permissions, kind);
    proptest::collection::vec(region, 0..8).prop_map(|parts| {
        let mut at = 0x100;
        let mut regions = Vec::new();
        for (hole, length, permissions, (kind, name)) in parts {
            regions.push(self::region(at + hole, at + hole + length, permissions, kind, name));
            at += hole + length;
        }
        regions
    })
}

fn all(found: &Difference) -> impl Iterator<Item = &Change> {
    [&found.grown, &found.shrunk, &found.new, &found.gone].into_iter().flatten()
}

fn total(regions: &[Region]) -> i128 {
    regions.iter().map(|region| i128::from(region.range.len())).sum()
}

fn held(regions: &[Region], address: u64) -> bool {
    regions.iter().any(|region| region.range.contains(address))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_byte_of_both_sides_is_accounted_for(before in regions(), after in regions()) {
        let found = diff(&before, &after);
        let growth: i128 = all(&found).map(Change::growth).sum();
        prop_assert_eq!(growth, total(&after) - total(&before));
        let of = |counts: &dyn Fn(&Change) -> bool| -> i128 {
            all(&found).filter(|change| counts(change)).map(Change::growth).sum()
        };
        prop_assert_eq!(found.growth, of(&Change::writable));
        prop_assert_eq!(found.reserved, of(&|change| change.reserve));
        prop_assert!(all(&found).all(|change| !(change.writable() && change.reserve)));
        prop_assert!(found.grown.iter().all(|change| 0 < change.before && change.before < change.after));
        prop_assert!(found.shrunk.iter().all(|change| 0 < change.after && change.after < change.before));
        prop_assert!(found.new.iter().all(|change| change.before == 0 && change.after > 0));
        prop_assert!(found.gone.iter().all(|change| change.after == 0 && change.before > 0));
    }

    #[test]
    fn new_and_gone_addresses_are_those_that_only_one_side_has(before in regions(), after in regions()) {
        let found = diff(&before, &after);
        prop_assume!(found.same_program);
        let new: Vec<AddressRange> = all(&found).flat_map(|change| change.new_ranges.clone()).collect();
        let gone: Vec<AddressRange> = all(&found).flat_map(|change| change.gone_ranges.clone()).collect();
        for address in 0x100..0x200 {
            let times = |ranges: &[AddressRange]| ranges.iter().filter(|range| range.contains(address)).count();
            let (was, is) = (held(&before, address), held(&after, address));
            // An address that both sides hold is on both lists or on none: it changed its group or did not.
            match (was, is) {
                (true, true) => prop_assert!(times(&new) == times(&gone) && times(&new) <= 1),
                (was, is) => prop_assert_eq!((times(&gone), times(&new)), (usize::from(was), usize::from(is))),
            }
        }
        for change in all(&found) {
            let spans = change.new_ranges.iter().map(|range| range.len()).sum::<u64>();
            let left = change.gone_ranges.iter().map(|range| range.len()).sum::<u64>();
            prop_assert_eq!(i128::from(spans) - i128::from(left), change.growth());
        }
    }

    #[test]
    fn what_grew_is_what_shrinks_the_other_way_round(before in regions(), after in regions()) {
        let (there, back) = (diff(&before, &after), diff(&after, &before));
        prop_assert_eq!(there.same_program, back.same_program);
        prop_assert_eq!((there.growth, there.reserved), (-back.growth, -back.reserved));
        prop_assert_eq!(there.grown.len(), back.shrunk.len());
        prop_assert_eq!(there.new.len(), back.gone.len());
    }

    #[test]
    fn nothing_changed_from_a_list_to_itself(regions in regions()) {
        let found = diff(&regions, &regions);
        prop_assert!(found.same_program && all(&found).next().is_none());
    }
}

#[test]
fn what_the_kernel_shows_everybody_never_comes_or_goes() {
    let vvar = |kind, name| region(0x7fff_f7fc_0000, 0x7fff_f7fc_4000, "r--", kind, name);
    let insert = |one: Region| {
        let mut regions = sample(0x5555_5557_9000);
        regions.insert(3, one);
        regions
    };
    let live = insert(vvar(RegionKind::Special, "[vvar]"));
    for other in [sample(0x5555_5557_9000), insert(vvar(RegionKind::Anon, ""))] {
        for found in [diff(&other, &live), diff(&live, &other)] {
            assert!(found.new.is_empty() && found.gone.is_empty(), "{found:?}");
            assert_eq!(found.growth, 0);
        }
    }
}

/// How each source spells the names of one mapping: maps, a core by the kernel, pmap.
fn spellings() -> Vec<[Name; 3]> {
    let spelled = |maps: &[u8], core: &[u8], pmap: &[u8]| {
        [Name::of_maps(maps), Name::of_file(core), Name::of_file(pmap)]
    };
    vec![
        spelled(b"/a/b c  ", b"/a/b c  ", b"b c  "),
        spelled(br"/a/line\012end", b"/a/line\nend", br"line\012end"),
        spelled(br"/a/back\slash\x0a", br"/a/back\slash\x0a", br"back\slash\x0a"),
        spelled(b"/a/\xff\xfe", b"/a/\xff\xfe", b"??"),
        spelled(b"/a/ \t", b"/a/ \t", b" \t"),
        spelled(b"/a/x (deleted) (deleted)", b"/a/x (deleted) (deleted)", b"x (deleted) (deleted)"),
        spelled(b"/a/[heap]", b"/a/[heap]", b"[heap]"),
        spelled(b"/memfd:a/b (deleted)", b"/memfd:a/b (deleted)", b"b (deleted)"),
        spelled(b"/SYSV00000000 (deleted)", b"/SYSV00000000 (deleted)", b"SYSV shmid=0x8"),
        spelled(b"/dev/zero (deleted)", b"/dev/zero (deleted)", b"zero (deleted)"),
    ]
}

#[test]
fn a_mapping_is_one_however_a_source_spells_its_name() {
    for spelled in spellings() {
        for (before, after) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
            let with = |index: usize| {
                let mut regions = sample(0x5555_5557_9000);
                regions.insert(2, region(0x7000_0000_0000, 0x7000_0010_0000, "rw-", RegionKind::File, ""));
                regions[2].name = spelled[index].clone();
                regions
            };
            let found = diff(&with(before), &with(after));
            assert_eq!(all(&found).count(), 0, "{spelled:?} {found:?}");
        }
    }
}

#[test]
fn a_file_that_is_deleted_is_the_file_that_it_was() {
    let named = |name: &str| {
        let mut regions = sample(0x5555_5557_9000);
        regions.insert(2, region(0x7000_0000_0000, 0x7000_0010_0000, "rw-", RegionKind::File, name));
        regions
    };
    let (file, gone) = ("/a/x (deleted)", "/a/x (deleted) (deleted)");
    assert_eq!(all(&diff(&named(file), &named(gone))).count(), 0);
    assert_eq!(all(&diff(&named("/a/x"), &named("/a/y"))).count(), 2);
}

#[test]
fn anonymous_memory_with_a_name_is_that_of_a_core_which_has_none() {
    for name in ["[anon:a name]", "[anon: arena/1]"] {
        let named = |name: &str| {
            let mut regions = sample(0x5555_5557_9000);
            regions.insert(2, region(0x7000_0000_0000, 0x7000_0010_0000, "rw-", RegionKind::Anon, name));
            regions
        };
        assert_eq!(all(&diff(&named(name), &named(""))).count(), 0);
    }
}
