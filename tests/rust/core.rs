//! Cores of every shape, built byte by byte, read back.
// What goes wrong in a test is a failed test.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]

mod core_builder;
mod core_holes;
mod core_registers;

use std::path::PathBuf;

use core_builder::{Builder, I386, Machine, POWERPC, S390X, X86_64};
use gdb_leak::error::Error;
use gdb_leak::memory::RegionKind;
use gdb_leak::range::AddressRange;
use gdb_leak::source::{Files, Target, open_file};
use proptest::prelude::*;
use tempfile::TempDir;

fn write(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a core");
    std::fs::write(&path, bytes).unwrap();
    // A core that was written just now and is cut might still grow.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    (folder, path)
}

fn open(bytes: &[u8]) -> Result<Target, Error> {
    let (_folder, path) = write(bytes);
    open_file(&path, Files::default())
}

fn range(start: u64, length: u64) -> AddressRange {
    AddressRange::with_length(start, length).unwrap()
}

const MACHINES: [Machine; 4] = [X86_64, I386, S390X, POWERPC];

fn small(machine: Machine) -> Builder {
    let mut text = b"leaked memory".to_vec();
    text.resize(0x1000, 7);
    Builder::new(machine).load(0x10000, 6, &text, 0x1000).load(0x20000, 6, &[1; 0x800], 0x2000).load(
        0x40000,
        0,
        &[],
        0x1000,
    )
}

#[test]
fn every_word_size_and_byte_order_is_read() {
    for machine in MACHINES {
        let target = open(&small(machine).auxiliary(&[(25, 0x20010)]).build()).unwrap();
        let memory = &target.memory;
        assert_eq!(memory.bytes(range(0x10000, 13)).unwrap(), b"leaked memory");
        let word = if machine.big { 0x6c65_616b_6564_206d } else { 0x6d20_6465_6b61_656c };
        let word = match (machine.wide, machine.big) {
            (true, _) => word,
            (false, true) => word >> 32,
            (false, false) => word & 0xffff_ffff,
        };
        assert_eq!(memory.word(0x10000).unwrap(), word, "{machine:?}");
        assert_eq!(memory.region_at(0x20010).unwrap().kind, RegionKind::Stack);
        assert!(memory.region_at(0x40000).unwrap().permissions.none());
    }
}

#[test]
fn bytes_beyond_the_size_in_the_file_are_missing_not_zero() {
    let target = open(&small(X86_64).build()).unwrap();
    let error = target.memory.bytes(range(0x207ff, 2)).unwrap_err();
    assert_eq!(error.to_string(), "memory at 0x20800 was not saved in the core");
    assert!(!target.origin.complete);
    assert!(
        target.origin.notes.iter().any(|note| note.contains("6144 writable bytes in 1 region")),
        "{:?}",
        target.origin.notes
    );
}

#[test]
fn an_address_outside_all_regions_says_so() {
    let target = open(&small(X86_64).build()).unwrap();
    assert_eq!(target.memory.bytes(range(0x10, 1)).unwrap_err().to_string(), "no region at 0x10");
}

#[test]
fn notes_at_the_end_are_read_and_lost_when_the_core_is_cut() {
    let mut builder = small(X86_64).files(&[(0x10000, 0x11000, 2, "/a b")]);
    builder.notes_last = true;
    let bytes = builder.build();
    let whole = open(&bytes).unwrap();
    let region = whole.memory.region_at(0x10000).unwrap().clone();
    assert_eq!(region.name, "/a b");
    assert_eq!(region.file_offset, 0x2000);
    let cut = open(&bytes[..bytes.len() - 1]).unwrap();
    assert!(
        cut.origin.notes.iter().any(|note| note.contains("notes are missing or cut")),
        "{:?}",
        cut.origin.notes
    );
    assert_eq!(cut.memory.bytes(range(0x10000, 6)).unwrap(), b"leaked");
}

#[test]
fn more_program_headers_than_the_header_can_count_are_all_read() {
    let mut builder = Builder::new(X86_64);
    builder.extended_count = true;
    builder.align = 1;
    for index in 0..70_000_u64 {
        builder = builder.load(0x10000 + index * 0x1000, 6, &[index as u8], 1);
    }
    let target = open(&builder.build()).unwrap();
    assert_eq!(target.memory.regions().len(), 70_000);
    assert_eq!(target.memory.bytes(range(0x10000 + 69_999 * 0x1000, 1)).unwrap(), [(69_999 % 256) as u8]);
}

#[test]
fn mappings_that_only_nt_file_names_are_regions_without_permissions_or_bytes() {
    let target = open(&small(X86_64).files(&[(0x60000, 0x62000, 1, "/gone.so")]).build()).unwrap();
    let region = target.memory.region_at(0x61000).unwrap();
    assert_eq!((region.permissions.to_string().as_str(), region.saved), ("???", 0));
    assert!(target.origin.notes.iter().any(|note| note.contains("(???)")), "{:?}", target.origin.notes);
    assert!(target.origin.notes.iter().any(|note| note.contains("/gone.so")), "{:?}", target.origin.notes);
}

#[test]
fn memory_that_a_sanitizer_reserves_below_the_program_is_no_heap() {
    let program = 0x5555_5555_4000;
    let core = Builder::new(X86_64)
        .load(0x200_8fff_7000, 6, &[], 14 << 40)
        .load(program, 5, &[], 0x1000)
        .load(0x7fff_f000_0000, 6, &[1; 0x1000], 0x1000)
        .files(&[(program, program + 0x1000, 0, "/bin/sanitized")])
        .auxiliary(&[(9, program + 0x10), (25, 0x7fff_f000_0010)]);
    let target = open(&core.build()).unwrap();
    let kinds: Vec<_> = target.memory.regions().iter().map(|region| region.kind).collect();
    assert_eq!(kinds, [RegionKind::Anon, RegionKind::File, RegionKind::Stack]);
}

#[test]
fn a_core_with_as_many_files_as_regions_opens_in_linear_time() {
    const MANY: u64 = 20_000;
    let names: Vec<String> = (0..MANY).map(|index| format!("/nowhere/{index}")).collect();
    let files: Vec<_> = (0_u64..)
        .zip(&names)
        .map(|(index, name)| {
            let start = 0x10_0000_0000 + (index << 13);
            (start, start + 0x1000, 0, name.as_str())
        })
        .collect();
    let core = Builder::new(X86_64).files(&files);
    let core = (0..MANY).fold(core, |core, index| core.load(0x20_0000_0000 + (index << 13), 6, &[], 0x1000));
    let core = core.build();
    let begun = std::time::Instant::now();
    let target = open(&core).unwrap();
    assert_eq!(target.memory.regions().len() as u64, 2 * MANY);
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

/// The first bytes of a module whose table for the loader says that its list is at `debug`.
fn module_with_list(debug: u64) -> Vec<u8> {
    let half = |value: u16| value.to_le_bytes().to_vec();
    let word = |value: u64| value.to_le_bytes().to_vec();
    let header = |kind: u32, address: u64, size: u64| {
        let flags = [kind.to_le_bytes(), 4_u32.to_le_bytes()].concat();
        [flags, word(address), word(address), word(address), word(size), word(size), word(0x1000)].concat()
    };
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([half(3), half(62), vec![1, 0, 0, 0], word(0), word(64), word(0), vec![0; 4]].concat());
    bytes.extend([half(64), half(56), half(2), half(64), half(0), half(0)].concat());
    bytes.extend([header(1, 0, 0x1000), header(2, 0x200, 0x20)].concat());
    bytes.resize(0x200, 0);
    bytes.extend([word(21), word(debug), word(0), word(0)].concat());
    bytes
}

#[test]
fn one_list_of_the_loader_that_many_modules_lead_to_is_followed_once() {
    const MODULES: u64 = 8_000;
    const LINKS: u64 = 16_000;
    const LIST: u64 = 0x1000_0000;
    let link = |index: u64| LIST + 0x100 + index * 32;
    let mut list = [0, link(0), 0, 0].map(u64::to_le_bytes).concat();
    list.resize(0x100, 0);
    for index in 0..LINKS {
        let next = if index + 1 < LINKS { link(index + 1) } else { 0 };
        list.extend([index << 20, LIST, 0, next].map(u64::to_le_bytes).concat());
    }
    let mut core = Builder::new(X86_64).load(LIST, 6, &list, list.len() as u64);
    core.align = 1;
    let module = module_with_list(LIST);
    for index in 0..MODULES {
        core = core.load(0x20_0000_0000 + (index << 13), 4, &module, 0x1000);
    }
    let core = core.build();
    let begun = std::time::Instant::now();
    let target = open(&core).unwrap();
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    let found = format!("{MODULES} modules were found by their headers");
    assert!(target.origin.notes.iter().any(|note| note.contains(&found)), "{:?}", target.origin.notes);
}

#[test]
fn all_that_is_wrong_with_notes_is_named_or_counted() {
    let notes = |core: &Builder| open(&core.build()).unwrap().origin.notes;
    let broken = (0..12).fold(small(X86_64), |core, _| core.note("CORE", 1, &[0; 4]));
    let said = notes(&broken);
    let named = said.iter().filter(|note| note.starts_with("NT_PRSTATUS at 0x")).count();
    assert_eq!(named, 8, "{said:?}");
    assert!(said.iter().any(|note| note == "4 more notes of the core break a rule"), "{said:?}");

    // Pages of no size, and a mapping that ends before it starts.
    let mut listed = [1_u64, 0, 0x3000, 0x2000, 0].map(u64::to_le_bytes).concat();
    listed.extend(b"/a\0");
    let said = notes(&small(X86_64).note("CORE", 0x4649_4c45, &listed));
    let (found, note) = said
        .iter()
        .filter(|note| note.starts_with("NT_FILE at 0x"))
        .fold((0, ""), |(found, _), note| (found + 1, note.as_str()));
    assert_eq!(found, 1, "{said:?}");
    assert!(note.contains("page size 0x0") && note.contains("1 of 1 mappings end before"), "{note}");
}

#[test]
fn of_overlapping_segments_the_first_in_the_file_has_the_bytes() {
    let core = Builder::new(X86_64)
        .load(0x11000, 6, &[1; 0x1000], 0x1000)
        .load(0x10000, 6, &[2; 0x3000], 0x3000)
        .load(0x12000, 4, &[3; 0x2000], 0x2000);
    let target = open(&core.build()).unwrap();
    let bytes = target.memory.bytes(range(0x10000, 0x4000)).unwrap();
    let pages: Vec<u8> = bytes.chunks(0x1000).map(|page| page[0xfff]).collect();
    assert_eq!(pages, [2, 1, 2, 3]);
    assert!(!target.origin.complete);
    let notes = &target.origin.notes;
    let told = "2 segments of the core overlap others that come before them in the file: 8192 bytes";
    assert!(notes.iter().any(|note| note.starts_with(told)), "{notes:?}");
    // What one segment grants holds where others do not; what one spans is one mapping.
    let regions: Vec<_> = target.memory.regions().iter().map(|one| one.permissions.to_string()).collect();
    assert_eq!(regions, ["rw-", "r--"]);
}

#[test]
fn a_segment_without_bytes_hides_none_of_another() {
    let core = Builder::new(X86_64)
        .load(0x10000, 6, &[], 0x4000)
        .load(0x11000, 6, &[1; 0x1000], 0x1000)
        .load(0x10_0000, 4, &[], 1 << 63)
        .load(0x20_0000, 6, &[2; 0x1000], 0x1000);
    let target = open(&core.build()).unwrap();
    assert_eq!(target.memory.bytes(range(0x11000, 0x1000)).unwrap(), [1; 0x1000]);
    assert_eq!(target.memory.bytes(range(0x20_0000, 0x1000)).unwrap(), [2; 0x1000]);
    assert_eq!(target.memory.bytes(range(0x30_0000, 1)).unwrap_err().to_string(), "no region at 0x300000");
    let notes = &target.origin.notes;
    assert!(
        notes.iter().any(|note| note.contains("segment at 0x100000: size 0x8000000000000000")),
        "{notes:?}"
    );
}

/// Segments of any sizes, in steps of 16 bytes: address, saved bytes, size in memory.
fn segments() -> impl Strategy<Value = Vec<(u64, usize, u64)>> {
    let segment = (0_u64..64, 0_usize..24, 0_u64..24);
    prop::collection::vec(segment.prop_map(|(at, saved, size)| (at * 16, saved * 16, size * 16)), 0..12)
}

proptest! {
    #[test]
    fn every_byte_is_that_of_the_first_segment_that_saved_it(segments in segments()) {
        const BASE: u64 = 0x10000;
        let mut core = Builder::new(X86_64);
        core.align = 1;
        for (number, (at, saved, size)) in (1..).zip(&segments) {
            core = core.load(BASE + at, 6, &vec![number; *saved], *size);
        }
        let target = open(&core.build()).unwrap();
        let regions = target.memory.regions();
        prop_assert!(regions.windows(2).all(|pair| pair[0].range.end() <= pair[1].range.start()));
        for at in (0..128_u64 * 16).step_by(8) {
            let saved = |one: &&(u64, usize, u64)| (one.0..one.0 + one.1 as u64).contains(&at);
            let first = segments.iter().position(|one| saved(&one));
            let byte = target.memory.bytes(range(BASE + at, 1)).ok().map(|bytes| bytes[0]);
            prop_assert_eq!(byte, first.map(|index| index as u8 + 1));
            let held = |one: &(u64, usize, u64)| (one.0..one.0 + one.2.max(one.1 as u64)).contains(&at);
            prop_assert_eq!(target.memory.region_at(BASE + at).is_some(), segments.iter().any(held));
        }
    }
}

#[test]
fn a_hundred_thousand_segments_over_each_other_open_in_no_time() {
    let mut core = Builder::new(X86_64);
    core.extended_count = true;
    core.align = 1;
    for index in 0..100_000_u64 {
        core = core.load(0x10000 + index * 16, 6, &[], 0x1000_0000);
    }
    let core = core.build();
    let begun = std::time::Instant::now();
    assert_eq!(open(&core).unwrap().memory.regions().len(), 1);
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[test]
fn files_that_are_no_cores_are_refused_in_one_line() {
    let refused = |bytes: &[u8]| open(bytes).err().expect("refused").to_string();
    assert!(refused(b"").ends_with("is empty"));
    assert!(refused(b"\x7fELF").contains("is no whole core"));
    assert!(refused(&[0xff; 100]).contains("is none of"));
    assert!(refused(b"\x28\xb5\x2f\xfd....").contains("zstd -d --keep '"));
    assert!(refused(b"\x1f\x8b....").contains("gzip -d"));
    let mut program = small(X86_64).build();
    program[16] = 3;
    assert!(refused(&program).contains("is a program or library"));
    for text in [&b""[..], b"\x7fELF", &[0xff; 100]] {
        assert_eq!(refused(text).lines().count(), 1);
    }
}

#[test]
fn a_directory_and_a_pipe_are_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let error = open_file(folder.path(), Files::default()).err().unwrap().to_string();
    assert!(error.contains("is a directory"), "{error}");
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = open_file(&pipe, Files::default()).err().unwrap().to_string();
    assert!(error.contains("is not a regular file"), "{error}");
}

#[test]
fn a_core_that_shrinks_is_told_before_it_is_read() {
    let (_folder, path) = write(&small(X86_64).build());
    let target = open_file(&path, Files::default()).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    let error = target.memory.recheck().unwrap_err().to_string();
    assert!(error.contains("shrank"), "{error}");
}

#[test]
fn a_core_that_is_being_written_is_refused() {
    let bytes = small(X86_64).build();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("core");
    std::fs::write(&path, &bytes[..bytes.len() - 0x900]).unwrap();
    let writer = std::thread::spawn({
        let path = path.clone();
        move || {
            use std::io::Write;
            for _ in 0..50 {
                std::thread::sleep(std::time::Duration::from_millis(20));
                std::fs::File::options().append(true).open(&path).unwrap().write_all(&[0; 16]).unwrap();
            }
        }
    });
    let error = open_file(&path, Files::default()).err().unwrap().to_string();
    writer.join().unwrap();
    assert!(error.contains("is still being written"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_core_cut_at_any_byte_gives_an_error_or_its_first_bytes(cut in any::<prop::sample::Index>(), machine in 0..4_usize, last in any::<bool>()) {
        let mut builder = small(MACHINES[machine]).files(&[(0x10000, 0x11000, 2, "/x")]).auxiliary(&[(25, 0x20010)]);
        builder.notes_last = last;
        let bytes = builder.build();
        let cut = cut.index(bytes.len());
        match open(&bytes[..cut]) {
            Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1),
            Ok(target) => {
                prop_assert!(!target.origin.complete);
                prop_assert!(target.origin.notes.iter().any(|note| note.contains("cut")));
                for region in target.memory.regions() {
                    let saved = AddressRange::saturating(region.range.start(), region.saved);
                    let whole = open(&bytes).unwrap();
                    let expected = whole.memory.bytes(saved).unwrap();
                    prop_assert_eq!(target.memory.bytes(saved).unwrap(), expected);
                }
            }
        }
    }

    #[test]
    fn headers_with_any_bytes_changed_never_panic(changes in prop::collection::vec((0..600_usize, any::<u8>()), 1..8), machine in 0..4_usize) {
        let builder = small(MACHINES[machine]).files(&[(0x10000, 0x11000, 2, "/x"), (0x70000, 0x71000, 2, "/y")]);
        let mut bytes = builder.auxiliary(&[(25, 0x20010), (33, 0x40000), (9, 0x10010)]).note("CORE", 1, &[3; 336]).build();
        for (at, value) in changes {
            let at = at.min(bytes.len() - 1);
            bytes[at] = value;
        }
        if let Ok(target) = open(&bytes) {
            let regions = target.memory.regions();
            prop_assert!(regions.windows(2).all(|pair| pair[0].range.end() <= pair[1].range.start()));
            for region in regions {
                let _ = target.memory.bytes(AddressRange::saturating(region.range.start(), region.range.len().min(0x10000)));
            }
        }
    }
}

#[test]
fn a_command_that_the_core_cuts_is_completed_by_the_path_of_the_file_that_it_starts() {
    const START: u64 = 0x5555_5555_4000;
    let command = |arguments: &[u8], path: &str| {
        let mut note = vec![0; 136];
        note[136 - 80..][..arguments.len()].copy_from_slice(arguments);
        let core = Builder::new(X86_64)
            .load(START, 5, &[], 0x1000)
            .files(&[(START, START + 0x1000, 0, path)])
            .auxiliary(&[(9, START + 0x10)])
            .note("CORE", 3, &note);
        open(&core.build()).unwrap().origin.program.unwrap()
    };
    // Longer than names in notes, and than what is kept; the 79th byte is the first of two.
    let path = "/".to_owned() + &"a".repeat(77) + &"é".repeat(200) + "/sample";
    assert_eq!(command(&path.as_bytes()[..79], &path), path);
    let other = "/".to_owned() + &"b".repeat(400);
    assert_eq!(command(&other.as_bytes()[..79], &path), other[..79].to_owned() + "…");
    assert_eq!(command(b"./sample \xff one ", &path), "./sample \\xff one");
}
