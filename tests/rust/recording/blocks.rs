//! Where recordings are found, and which blocks they have.

use gdb_leak::memory::RegionKind;
use gdb_leak::pass::Job;
use gdb_leak::range::AddressRange;
use gdb_leak::recording::{Allocation, reserved};
use gdb_leak::source::captured::Captured;
use gdb_leak::word::{ByteOrder, WordFormat};

use super::builder::{BASE, Plan, find, named, part, put};

fn plan() -> Plan {
    Plan {
        blocks: vec![(0x5000, 100, 0, 77, 5), (!0, 1, 1, 1, 1), (0x4000, 20, 0, 78, 9)],
        threads: vec![(77, 5), (0, 500), (78, 12)],
        ..Plan::default()
    }
}

#[test]
fn blocks_come_in_address_order_without_those_that_were_released() {
    let recording = plan().read();
    let first = Allocation { address: 0x4000, size: 20, stack: 0, thread: 78, time: 9 };
    let second = Allocation { address: 0x5000, size: 100, stack: 0, thread: 77, time: 5 };
    assert_eq!(recording.live().entries, [first, second]);
    assert_eq!(recording.live().at(0x5000), Some(&second));
    assert_eq!(recording.live().at(0x5001), None);
    assert_eq!((recording.pid(), recording.sample()), (4711, None));
    assert!(recording.notes().is_empty(), "{:?}", recording.notes());
}

#[test]
fn of_two_blocks_at_one_address_the_later_counts() {
    let mut plan = plan();
    plan.blocks.push((0x5000, 7, 0, 77, 6));
    plan.blocks.push((0x5000, 8, 0, 77, 4));
    let recording = plan.read();
    assert_eq!(recording.live().at(0x5000).map(|entry| entry.size), Some(7));
    assert_eq!(recording.live().twice, 2);
    assert!(recording.notes().iter().any(|note| note.contains("twice")), "{:?}", recording.notes());
}

#[test]
fn the_latest_time_is_that_of_a_thread_or_of_a_block() {
    assert_eq!(plan().read().latest(), 12);
    let mut plan = plan();
    plan.blocks.push((0x9000, 1, 0, 77, 40));
    assert_eq!(plan.read().latest(), 40);
}

#[test]
fn ages_are_counted_in_the_recording_s_own_units() {
    let recording = plan().read();
    // 2^20 nanoseconds each, from the second second on.
    assert_eq!(recording.units(1_000_000_000 + (7 << 20)), 7);
    assert_eq!(recording.units(5), 0);
    assert_eq!(recording.nanoseconds(3), 3 << 20);
    assert_eq!(recording.before(10, 3 << 20), 7);
    assert_eq!(recording.before(10, (3 << 20) + 1), 6);
    assert_eq!(recording.before(1, 1 << 30), 1 - 1024);
}

#[test]
fn a_recording_behind_other_memory_of_its_region_is_found() {
    let mut bytes = vec![1; 0x3000];
    bytes.extend(Plan { base: BASE + 0x3000, ..plan() }.bytes());
    let alone = Captured::new().with(BASE, &bytes);
    assert!(find(&alone).recording.is_some(), "no file is known to be mapped");
    // Where files are known and the recorder is not among them, pages are not gone over.
    let file = |name: &str| Captured::new().with_region(0x1000, &[0; 16], 0x1000, RegionKind::Data, name);
    assert!(find(&file("/usr/bin/program").with(BASE, &bytes)).recording.is_none());
    let library = "/usr/lib/libgdb_leak_recorder.so (deleted)";
    assert!(find(&file(library).with(BASE, &bytes)).recording.is_some());
    assert!(find(&named(file("/usr/bin/program"), BASE, &bytes)).recording.is_some());
}

#[test]
fn only_what_is_mapped_of_a_recordings_parts_is_its_own() {
    let mut bytes = plan().bytes();
    for (number, (offset, open)) in
        [(0x2000_u64, 0x3000_u64), (0x8000, 0x1000), (0xc000, 0)].iter().enumerate()
    {
        put(&mut bytes, part(number), &offset.to_le_bytes());
        put(&mut bytes, part(number) + 8, &open.to_le_bytes());
    }
    let range = |offset, bytes| AddressRange::with_length(BASE + offset, bytes).unwrap();
    // A file between them is another's, and no harm.
    let others = &bytes.split_off(0xc000)[..16];
    let memory = Captured::new().with(BASE, &bytes);
    let memory = memory.with_region(BASE + 0xc000, others, 16, RegionKind::Data, "/lib/other.so");
    let own = [range(0, 0x1000), range(0x2000, 0x3000), range(0x8000, 0x1000)];
    assert_eq!(reserved(&memory, &Job::default()).unwrap(), own);
}

#[test]
fn a_recording_that_names_no_parts_owns_all_that_it_reserved() {
    let whole = AddressRange::with_length(BASE, 0x2_0000).unwrap();
    assert_eq!(reserved(&plan().memory(), &Job::default()).unwrap(), [whole]);
    assert_eq!(reserved(&Captured::new(), &Job::default()).unwrap(), []);
}

#[test]
fn memory_with_other_words_has_no_recording() {
    for (size, order) in [(4, ByteOrder::Little), (8, ByteOrder::Big)] {
        let memory = plan().memory().with_format(WordFormat { size, order });
        assert!(find(&memory).recording.is_none());
    }
}

#[test]
fn what_a_recording_lacks_is_said_with_what_follows() {
    let plan = Plan { counts: [1, 2, 3, 4], state: 2, ..plan() };
    let notes = plan.read().notes().join("\n");
    for part in [
        "1 allocations were not recorded because",
        "2 allocations in signal",
        "3 releases",
        "4 times a stack",
        "stopped",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
}
