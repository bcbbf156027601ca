//! Recordings that are damaged, cut, copied, or made to do harm.

use gdb_leak::memory::RegionKind;
use gdb_leak::source::captured::Captured;
use proptest::prelude::*;

use super::builder::{BASE, Plan, area, find, found_in, part, put};

fn plan() -> Plan {
    let mut plan = Plan::default();
    let stack = plan.stack(&[0x100, 0x200], 0);
    plan.blocks = (1..=400).map(|number| (number << 12, number, stack, 77, 1)).collect();
    plan
}

#[test]
fn a_copy_of_a_header_is_none() {
    let memory = Captured::new().with(0x1000, &plan().bytes()).with(BASE, &plan().bytes());
    let found = find(&memory);
    assert!(found.notes.is_empty(), "{:?}", found.notes);
    assert_eq!(found.recording.unwrap().address(), BASE);
}

#[test]
fn a_recorder_without_a_recording_is_noted() {
    let library = "/opt/gdb_leak/recorder/libgdb_leak_recorder.so";
    let with_library =
        |memory: Captured| memory.with_region(BASE << 1, &[0; 64], 64, RegionKind::File, library);
    let mut bytes = plan().bytes();
    assert!(find(&with_library(Captured::new().with(BASE, &bytes))).notes.is_empty());
    bytes[0] = b'x';
    let found = find(&with_library(Captured::new().with(BASE, &bytes)));
    assert!(found.recording.is_none());
    assert_eq!(found.notes, ["the recorder is loaded, and no recording of it was found"]);
}

#[test]
fn of_two_recordings_the_one_at_work_is_read_and_both_are_told() {
    let stopped = Plan { base: 0x10_0000, state: 2, ..plan() };
    let found = find(&Captured::new().with(0x10_0000, &stopped.bytes()).with(BASE, &plan().bytes()));
    assert_eq!(found.recording.unwrap().address(), BASE);
    assert!(found.notes[0].contains("2 recordings"), "{:?}", found.notes);
}

#[test]
fn another_version_is_told_and_not_read() {
    let mut bytes = plan().bytes();
    put(&mut bytes, 16, &2_u32.to_le_bytes());
    let found = found_in(&bytes);
    assert!(found.recording.is_none());
    assert!(found.notes[0].contains("layout 2"), "{:?}", found.notes);
}

#[test]
fn absurd_areas_are_refused_with_their_numbers() {
    for (place, value) in [(0, u64::MAX), (8, 0), (8, 8), (8, 1 << 40), (16, u64::MAX), (16, 1 << 60)] {
        let mut bytes = plan().bytes();
        put(&mut bytes, area(0) + place, &value.to_le_bytes());
        let found = found_in(&bytes);
        assert!(found.recording.is_none(), "{place} {value:#x}");
        assert!(found.notes[0].contains("damaged"), "{:?}", found.notes);
    }
}

#[test]
fn an_area_that_uses_more_than_it_has_is_read_as_far_as_it_goes() {
    let mut bytes = plan().bytes();
    put(&mut bytes, area(0) + 24, &u64::MAX.to_le_bytes());
    let recording = found_in(&bytes).recording.unwrap();
    assert_eq!(recording.live().entries.len(), 400);
    assert!(recording.notes().iter().any(|note| note.contains("damaged")), "{:?}", recording.notes());
}

#[test]
fn what_was_reserved_over_somebody_else_s_memory_is_not_believed() {
    let memory = plan().memory().with_region(BASE + 0x2_0000, &[0; 64], 64, RegionKind::Stack, "[stack]");
    assert!(find(&memory).recording.is_some());
    let mut bytes = plan().bytes();
    put(&mut bytes, 32, &0x2_0001_u64.to_le_bytes());
    let memory = Captured::new().with(BASE, &bytes).with_region(
        BASE + 0x2_0000,
        &[0; 64],
        64,
        RegionKind::Stack,
        "[stack]",
    );
    let found = find(&memory);
    assert!(found.recording.is_none());
    assert!(found.notes[0].contains("holds"), "{:?}", found.notes);
}

#[test]
fn a_part_that_is_not_in_the_recording_is_refused_with_its_numbers() {
    for (offset, open) in [(0x2000, 0x1_f000_u64), (u64::MAX, 1), (1, u64::MAX)] {
        let mut bytes = plan().bytes();
        put(&mut bytes, part(9), &offset.to_le_bytes());
        put(&mut bytes, part(9) + 8, &open.to_le_bytes());
        let found = found_in(&bytes);
        assert!(found.recording.is_none(), "{offset:#x} {open:#x}");
        assert!(found.notes[0].contains("part 9 has"), "{:?}", found.notes);
    }
}

#[test]
fn blocks_that_are_not_saved_are_counted_as_missing() {
    let bytes = plan().bytes();
    // The first page of the area of blocks is there, and half an entry.
    let saved = &bytes[..0x3010];
    let memory = Captured::new().with_region(BASE, saved, bytes.len() as u64, RegionKind::Anon, "");
    let recording = find(&memory).recording.unwrap();
    assert_eq!(recording.live().entries.len(), 128);
    assert_eq!(recording.live().missing, 400 * 32 - 0x1010);
}

#[test]
fn a_reservation_of_an_exbibyte_that_is_not_there_costs_nothing() {
    let mut bytes = plan().bytes();
    put(&mut bytes, 32, &(1_u64 << 60).to_le_bytes());
    for number in 0..5 {
        put(&mut bytes, area(number) + 8, &[32, 16, 64, 1, 16384_u64][number].to_le_bytes());
        put(&mut bytes, area(number) + 16, &(1_u64 << 40).to_le_bytes());
        put(&mut bytes, area(number) + 24, &(1_u64 << 40).to_le_bytes());
    }
    let memory = Captured::new().with_region(BASE, &bytes, 1 << 60, RegionKind::Anon, "");
    let recording = find(&memory).recording.unwrap();
    assert!(recording.live().entries.len() >= 400);
    assert!(recording.live().missing > 1 << 40);
}

#[test]
fn names_outside_of_their_area_are_no_names() {
    let mut plan = plan();
    plan.generation = 1;
    let build_id = vec![9; 20];
    plan.modules = vec![super::builder::Loaded {
        start: 0x1000,
        end: 0x2000,
        bias: 0,
        path: "/lib.so",
        build_id,
        since: 0,
        until: 1,
    }];
    let mut bytes = plan.bytes();
    put(&mut bytes, 0xc000 + 28, &u32::MAX.to_le_bytes());
    put(&mut bytes, 0xc000 + 52, &21_u32.to_le_bytes());
    let recording = found_in(&bytes).recording.unwrap();
    let frame = gdb_leak::recording::Frame { pc: 0x1800, exact: true };
    let module = recording.unloaded(frame, 0).unwrap();
    assert_eq!((module.path.is_empty(), module.build_id.len()), (true, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a header and the tables hold, reading ends, and no more is kept than was there.
    #[test]
    fn any_bytes_are_read_without_harm(
        places in prop::collection::vec((16_usize..288, any::<u8>()), 0..6),
        tables in prop::collection::vec((0x2000_usize..0x1_4000, any::<u8>()), 0..200),
        cut in 0_usize..0x2_0000,
    ) {
        let mut bytes = plan().bytes();
        for (at, value) in places.into_iter().chain(tables) {
            bytes[at] = value;
        }
        let kept = &bytes[..0x2_0000 - cut];
        let memory = Captured::new().with_region(BASE, kept, 0x2_0000, RegionKind::Anon, "");
        if let Some(recording) = find(&memory).recording {
            prop_assert!(recording.live().entries.len() <= 0x2_0000 / 32);
            for entry in recording.live().entries.iter().take(50) {
                prop_assert!(recording.stack(&memory, entry.stack).frames.len() <= 258);
            }
            let _ = recording.notes();
        }
    }
}
