//! Sparse cores, and headers that claim the same bytes of a core many times.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use gdb_leak::inspect::hexdump::{Dump, Style};
use gdb_leak::inspect::strings::{Choice, strings};
use gdb_leak::memory::Memory;
use gdb_leak::pages;
use gdb_leak::pass::Job;
use gdb_leak::range::AddressRange;
use gdb_leak::save;
use gdb_leak::search::{Needle, Search, find_in_chunks};
use gdb_leak::source::{Files, Target, open_file};
use gdb_leak::word::ByteOrder;

use super::core_builder::{Builder, X86_64};
use super::range;

const BASE: u64 = 0x7000_0000_0000;

/// Writes `bytes` with a hole for each page of zeros, as the kernel does.
fn write_sparse(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    for (at, page) in (0..).step_by(4096).zip(bytes.chunks(4096)) {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, at).unwrap();
        }
    }
    file.set_len(bytes.len() as u64).unwrap();
}

fn opened(path: &Path) -> Target {
    let old = SystemTime::now() - Duration::from_secs(60);
    File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    open_file(path, Files::default()).unwrap()
}

/// Numbers that are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// A core of memory that is mostly zeros, with texts and words here and there, also at the borders of holes.
fn mostly_zeros(numbers: &mut Numbers, align: u64) -> Vec<u8> {
    let mut builder = Builder::new(X86_64);
    builder.align = align;
    let mut at = BASE;
    for _ in 0..4 {
        let size = 4096 * (1 + numbers.below(50));
        let mut bytes = vec![0; size as usize];
        for _ in 0..numbers.below(6) {
            let place = match numbers.below(3) {
                0 => numbers.below(size / 4096) * 4096,
                1 => (numbers.below(size / 4096) + 1) * 4096 - 5,
                _ => numbers.below(size - 64),
            } as usize;
            let word = BASE.to_le_bytes();
            let text = [&b"leaked"[..], &word, b"\xff"][numbers.below(3) as usize];
            let end = bytes.len().min(place + text.len());
            bytes[place..end].copy_from_slice(&text[..end - place]);
        }
        builder = builder.load(at, 6, &bytes, size);
        at += size + if numbers.below(2) == 0 { 0 } else { 4096 };
    }
    builder.build()
}

fn whole_range(memory: &dyn Memory) -> AddressRange {
    let regions = memory.regions();
    AddressRange::new(regions[0].range.start(), regions[regions.len() - 1].range.end()).unwrap()
}

fn dumped(memory: &dyn Memory) -> String {
    let mut text = String::new();
    let mut dump = Dump::new(memory, whole_range(memory), Style::X8, true).unwrap();
    while dump.next_piece(memory, &mut text, 1 << 20).unwrap() {}
    text
}

#[test]
fn a_sparse_core_gives_the_answers_of_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(1);
    for round in 0..12 {
        let bytes = mostly_zeros(&mut numbers, if round % 3 == 0 { 1 } else { 4096 });
        let (plain, sparse) = (folder.path().join("whole"), folder.path().join("sparse"));
        std::fs::write(&plain, &bytes).unwrap();
        write_sparse(&sparse, &bytes);
        let (plain, sparse) = (opened(&plain), opened(&sparse));
        let (whole, holes) = (plain.memory.as_ref(), sparse.memory.as_ref());
        assert_eq!(whole.regions(), holes.regions());
        let ranges: Vec<_> = whole.regions().iter().map(|region| region.range).collect();
        for region in &ranges {
            assert!(whole.bytes(*region).unwrap() == holes.bytes(*region).unwrap());
            let mut at = region.start();
            while at < region.end() {
                let rest = AddressRange::new(at, region.end()).unwrap();
                let zeros = holes.zeros(rest);
                assert!(holes.blank(rest) >= zeros && zeros <= rest.len());
                assert!(whole.bytes(range(at, zeros)).unwrap().iter().all(|byte| *byte == 0));
                assert_eq!(holes.word(at).ok(), whole.word(at).ok());
                at += zeros.max(1 + numbers.below(3000));
            }
        }
        let job = Job::default();
        for needle in [
            Needle::text(b"leaked", false, false).unwrap(),
            Needle::hex("00").unwrap(),
            Needle::hex("0000000000000000").unwrap(),
            Needle::hex("6400").unwrap(),
            Needle::integer(0, 4, ByteOrder::Little).unwrap(),
            Needle::regex("l[a-z]+d", false).unwrap(),
            Needle::regex(r"\x00{3}l", false).unwrap(),
            Needle::regex(r"\x00{5,40}", false).unwrap(),
            Needle::pointers_into(range(0, 1), whole.word_format()).unwrap(),
            Needle::pointers_into(range(BASE, 8), whole.word_format()).unwrap(),
        ] {
            for align in [None, Some(24)] {
                let search = Search { needle: needle.clone(), align, limit: Some(100) };
                let [one, other] = [(whole, 1 << 20), (holes, 1 << (14 + round % 7))]
                    .map(|(memory, size)| find_in_chunks(memory, &ranges, &search, &job, size).unwrap());
                assert_eq!(
                    (one.count, one.last, one.searched, &one.matches, &one.gaps),
                    (other.count, other.last, other.searched, &other.matches, &other.gaps),
                    "{round} {} {align:?}",
                    needle.hex_bytes()
                );
            }
        }
        let found = |memory| strings(memory, &ranges, Choice::least(4), None, &job).unwrap();
        assert_eq!(found(whole), found(holes));
        let held = |memory| pages::not_zero(memory, &ranges, &job).unwrap();
        assert_eq!(held(whole), held(holes));
        assert_eq!(dumped(whole), dumped(holes));
        let out = folder.path().join("out");
        save::write_range(holes, ranges[0], &out, true, &job).unwrap();
        assert!(std::fs::read(&out).unwrap() == whole.bytes(ranges[0]).unwrap());
    }
}

/// A core with one page of bytes in the middle of `size` bytes of hole.
fn huge(path: &Path, size: u64) -> Target {
    let core = Builder::new(X86_64).load(BASE, 6, &[], size).build();
    let file = File::create(path).unwrap();
    file.write_all_at(&core, 0).unwrap();
    // The size in the file, which the builder makes of the bytes that it is given.
    file.write_all_at(&4096_u64.to_le_bytes(), 64 + 8).unwrap();
    file.write_all_at(&size.to_le_bytes(), 64 + 32).unwrap();
    file.set_len(4096 + size).unwrap();
    file.write_all_at(b"leaked memory", 4096 + size / 2).unwrap();
    opened(path)
}

#[test]
fn terabytes_of_holes_are_gone_over_at_once() {
    const SIZE: u64 = 3 << 40;
    let folder = tempfile::tempdir().unwrap();
    let target = huge(&folder.path().join("core"), SIZE);
    let memory = target.memory.as_ref();
    let (ranges, job) = ([range(BASE, SIZE)], Job::default());
    let found = |needle: Needle| {
        let search = Search { needle, align: None, limit: Some(2) };
        let found = find_in_chunks(memory, &ranges, &search, &job, 1 << 20).unwrap();
        assert_eq!(found.searched, SIZE);
        (found.count, found.last)
    };
    let middle = BASE + SIZE / 2;
    assert_eq!(found(Needle::text(b"leaked", false, false).unwrap()), (1, Some(middle)));
    assert_eq!(found(Needle::regex("[a-z]{3,} m", false).unwrap()), (1, Some(middle)));
    assert_eq!(found(Needle::hex("0000").unwrap()), (SIZE - 15, Some(BASE + SIZE - 2)));
    let words = Needle::pointers_into(range(0, 1), memory.word_format()).unwrap();
    assert_eq!(found(words), (SIZE / 8 - 2, Some(BASE + SIZE - 8)));
    let texts = strings(memory, &ranges, Choice::least(4), None, &job).unwrap();
    assert_eq!((texts.total, texts.searched), (1, SIZE));
    assert_eq!(pages::not_zero(memory, &ranges, &job).unwrap(), 4096);
    assert!(dumped(memory).lines().count() < 20);
    let out = folder.path().join("out");
    save::write_range(memory, ranges[0], &out, false, &job).unwrap();
    let status = out.metadata().unwrap();
    assert_eq!(status.len(), SIZE);
    assert!(status.blocks() * 512 < 1 << 20, "{} blocks", status.blocks());
}

#[test]
fn bytes_that_many_segments_claim_are_read_twice_as_often_as_the_file_has_them_at_the_most() {
    const SIZE: usize = 1 << 20;
    let mut builder = Builder::new(X86_64).load(BASE - (1 << 30), 6, &[7; 4096], 4096);
    for number in 0..64 {
        let bytes = vec![1; if number == 0 { SIZE } else { 0 }];
        builder = builder.load(BASE + (number << 24), 6, &bytes, SIZE as u64);
    }
    let mut bytes = builder.build();
    let entry = |number: usize| 64 + 56 * (1 + number);
    let first: [u8; 8] = bytes[entry(0) + 8..][..8].try_into().unwrap();
    for number in 1..64 {
        bytes[entry(number) + 8..][..8].copy_from_slice(&first);
        bytes[entry(number) + 32..][..8].copy_from_slice(&(SIZE as u64).to_le_bytes());
    }
    let target = super::open(&bytes).unwrap();
    let saved: u64 = target.memory.regions().iter().map(|region| region.saved).sum();
    assert!(saved <= 2 * bytes.len() as u64, "{saved}");
    assert_eq!(target.memory.bytes(range(BASE + (1 << 24), 2)).unwrap(), [1, 1]);
    assert!(target.memory.bytes(range(BASE + (9 << 24), 2)).is_err());
    assert!(!target.origin.complete);
    let note = "62 segments of the core claim bytes of the file that others before them claim, more than the \
                file has: 65011712 bytes of theirs are not read";
    assert!(target.origin.notes.iter().any(|said| said == note), "{:?}", target.origin.notes);
}

#[test]
fn a_mapping_that_reaches_into_the_next_one_ends_there() {
    let files = [
        (0x10_0000, 0x7000_0000_0000, 0, "/usr/lib/first"),
        (0x20_0000, 0x20_3000, 0, "/usr/lib/second"),
        (0x20_1000, 0x20_2000, 1, "/usr/lib/third"),
        (0x30_0000, 5 << 60, 0, "/usr/lib/last"),
    ];
    let target = super::open(&Builder::new(X86_64).load(0x1000, 6, &[1; 4096], 4096).files(&files).build());
    let target = target.unwrap();
    let named: Vec<_> =
        target.memory.regions().iter().filter(|region| region.name.starts_with("/")).collect();
    let ranges: Vec<_> = named.iter().map(|region| (region.range.start(), region.range.end())).collect();
    assert_eq!(ranges, [(0x10_0000, 0x20_0000), (0x20_0000, 0x20_1000), (0x20_1000, 0x20_2000)]);
    let said = target.origin.notes.join("\n");
    assert!(said.contains("2 of 4 mappings reach into the next one"), "{said}");
    assert!(said.contains("1 of 4 mappings end before they start"), "{said}");
}

#[test]
fn a_name_that_no_path_can_have_is_cut_and_said() {
    let name = format!("/{}", "n".repeat(100_000));
    let files = [(0x10_0000, 0x10_1000, 0, name.as_str()), (0x10_1000, 0x10_2000, 1, "/usr/lib/other")];
    let core = Builder::new(X86_64).load(0x1000, 6, &[1; 4096], 4096).files(&files).build();
    let target = super::open(&core).unwrap();
    let lengths: Vec<_> = target.memory.regions().iter().map(|region| region.name.bytes().len()).collect();
    // The first is the stack.
    assert_eq!(lengths[1..], [4096, 14]);
    let said = target.origin.notes.join("\n");
    assert!(said.contains("1 of 2 names are longer than any path (4096 bytes); they are cut"), "{said}");
    assert!(said.len() < 2000, "{said}");
}
