//! What counts as a root, and what does not, of memory made for it.

use gdb_leak::graph::{Choice, RootKind, Roots};
use gdb_leak::heap::block::State;
use gdb_leak::memory::{Buffer, Memory, Permissions, Region, RegionKind, View};
use gdb_leak::pass::Job;
use gdb_leak::range::AddressRange;
use gdb_leak::source::Thread;
use gdb_leak::source::captured::Captured;
use gdb_leak::word::WordFormat;

use super::plain::Plain;

const PAGE: u64 = 0x1000;

/// Captured bytes with permissions and kinds of their own.
struct Regions {
    inner: Captured,
    regions: Vec<Region>,
}

impl Regions {
    fn new(regions: &[(u64, Vec<u8>, &str, RegionKind, &str)]) -> Self {
        let mut inner = Captured::new();
        for (start, bytes, _, kind, name) in regions {
            inner = inner.with_region(*start, bytes, bytes.len() as u64, *kind, name);
        }
        let mut own = inner.regions().to_vec();
        for (region, (_, _, letters, ..)) in own.iter_mut().zip(regions) {
            // "reserve" is address space that was never written.
            let reserve = *letters == "reserve";
            region.permissions = Permissions::from_letters(if reserve { "---" } else { letters }).unwrap();
            if reserve {
                region.saved = 0;
            }
        }
        Self { inner, regions: own }
    }
}

impl Memory for Regions {
    fn word_format(&self) -> WordFormat {
        self.inner.word_format()
    }
    fn regions(&self) -> &[Region] {
        &self.regions
    }
    fn view<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
        self.inner.view(range, buffer)
    }
}

fn range(start: u64, end: u64) -> AddressRange {
    AddressRange::new(start, end).unwrap()
}

fn standing(id: i32, stack_pointer: u64) -> Thread {
    Thread { id, stack_pointer: Some(stack_pointer), ..Thread::default() }
}

/// The stretches that are roots: where, of which kind, of which thread.
fn found(memory: &Regions, heap: &Plain, threads: &[Thread]) -> Vec<(AddressRange, RootKind, Option<i32>)> {
    let roots = Roots::find(memory, heap, threads, Choice::default(), &Job::default()).unwrap();
    roots.stretches.iter().map(|stretch| (stretch.range, stretch.kind, stretch.thread)).collect()
}

fn pages(count: u64) -> Vec<u8> {
    vec![0; usize::try_from(count * PAGE).unwrap()]
}

#[test]
fn memory_that_was_written_is_a_root_whatever_its_flags_say_of_reading() {
    let memory = Regions::new(&[
        (0x1_0000, pages(1), "-wx", RegionKind::Data, "/lib/c"),
        (0x2_0000, pages(1), "---", RegionKind::Anon, ""),
        (0x3_0000, pages(1), "reserve", RegionKind::Anon, ""),
        (0x4_0000, pages(1), "--x", RegionKind::File, "/lib/c"),
    ]);
    let found: Vec<_> =
        found(&memory, &Plain::new(0x9_0000, &[], &[]), &[]).into_iter().map(|one| (one.0, one.1)).collect();
    assert_eq!(
        found,
        [(range(0x1_0000, 0x1_1000), RootKind::Data), (range(0x2_0000, 0x2_1000), RootKind::Anon)]
    );
}

#[test]
fn memory_of_the_allocator_s_own_is_no_root_and_what_others_took_of_it_is() {
    let memory = Regions::new(&[
        (0x1_0000, pages(4), "rw-", RegionKind::Heap, "[heap]"),
        (0x2_0000, pages(2), "rw-", RegionKind::Data, "/lib/c"),
        (0x3_0000, pages(1), "r--", RegionKind::File, "/lib/c"),
        (0x4_0000, pages(1), "rw-", RegionKind::File, "/dev/dri/card0"),
        (0x5_0000, pages(1), "rw-", RegionKind::File, "/dev/hugepages/table"),
        (0x6_0000, pages(1), "reserve", RegionKind::Anon, ""),
        (0x7_0000, pages(1), "rw-", RegionKind::Special, "[vvar]"),
    ]);
    let units = [
        (PAGE, State::Used),
        (0x100, State::Foreign),
        (0x100, State::Damaged),
        (0x100, State::Small),
        (0x100, State::Overhead),
        (PAGE, State::Top),
    ];
    let heap = Plain::new(0x1_0000, &units, &[range(0x2_0100, 0x2_0900)]);
    let expected = [
        (range(0x1_1000, 0x1_1100), RootKind::Foreign, None),
        (range(0x1_1100, 0x1_1200), RootKind::Damaged, None),
        (range(0x1_2400, 0x1_4000), RootKind::Anon, None),
        (range(0x2_0000, 0x2_0100), RootKind::Data, None),
        (range(0x2_0900, 0x2_2000), RootKind::Data, None),
        (range(0x5_0000, 0x5_1000), RootKind::File, None),
    ];
    assert_eq!(found(&memory, &heap, &[]), expected);
}

#[test]
fn below_the_lowest_of_the_stack_pointers_on_a_stack_nothing_counts() {
    let memory = Regions::new(&[(0x10_0000, pages(8), "rw-", RegionKind::Stack, "[stack]")]);
    let heap = Plain::new(0x1_0000, &[(PAGE, State::Top)], &[]);
    let alive = |threads: &[Thread]| found(&memory, &heap, threads).first().unwrap().0.start();
    assert_eq!(alive(&[standing(1, 0x10_6000)]), 0x10_6000);
    assert_eq!(alive(&[standing(1, 0x10_6000), standing(2, 0x10_3000)]), 0x10_3000);
    // Of a thread that stands elsewhere nothing tells where its stack is used to.
    assert_eq!(alive(&[standing(1, 0x90_0000)]), 0x10_0000);
}

#[test]
fn a_handler_on_a_stack_within_the_stack_keeps_what_lies_below_it() {
    let (stack, pointer) = (0x10_0000, 0x10_6000);
    let mut bytes = pages(8);
    // As a signal's frame describes it: start, flags and what was there before, length.
    for (at, word) in [(0x6100, 0x10_5000_u64), (0x6108, 0x7777_0000_0001), (0x6110, 0x2000)] {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let heap = Plain::new(0x1_0000, &[(PAGE, State::Top)], &[]);
    let first = |bytes: &[u8]| {
        let memory = Regions::new(&[(stack, bytes.to_vec(), "rw-", RegionKind::Stack, "[stack]")]);
        found(&memory, &heap, &[standing(1, pointer)]).first().unwrap().0.start()
    };
    assert_eq!(first(&bytes), stack);
    // Flags that there are not, and a stack that the pointer is not on.
    let changed = |at: usize, word: u64| {
        let mut other = bytes.clone();
        other[at..at + 8].copy_from_slice(&word.to_le_bytes());
        first(&other)
    };
    assert_eq!(changed(0x6108, 4), pointer);
    assert_eq!(changed(0x6100, 0x10_3000), pointer);
    assert_eq!(changed(0x6110, 0x400), pointer);
}
