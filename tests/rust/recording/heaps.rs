//! Records laid beside a heap: what counts of them, in verdicts, records and groups.

use std::sync::Arc;

use gdb_leak::heap::allocator::{Allocator, Count};
use gdb_leak::heap::block::State;
use gdb_leak::heap::recorded::{Recorded, recorded};
use gdb_leak::leak::{Check, Options, Records, Verdict};
use gdb_leak::memory::RegionKind;
use gdb_leak::pass::Job;
use gdb_leak::source::captured::Captured;

use super::builder::{BASE, Plan, put};
use super::plain::Plain;

const HEAP: u64 = 0x1_0000;
const DEFINITELY: &[Verdict] = &[Verdict::DefinitelyLost];

fn block(heap: &Plain, unit: usize) -> u64 {
    heap.blocks().unit(unit).unwrap().block().start()
}

/// A heap of eight blocks of 56 usable bytes and one of 248, with a recording beside it.
struct Case {
    heap: Plain,
    plan: Plan,
    memory: Captured,
    stacks: [u32; 2],
}

/// Block 0 is held by memory right behind the reservation, block 3 leads to block 4.
fn case(sample: u64) -> Case {
    let mut units = [(0x40, State::Used); 9];
    units[7].1 = State::Tcache;
    units[8].0 = 0x100;
    let heap = Plain::new(HEAP, &units, &[]);
    let mut plan = Plan { sample, ..Plan::default() };
    let stacks = [plan.stack(&[0x10, 0x20, 0x30], 0), plan.stack(&[0x10, 0x21, 0x30], 0)];
    let [one, other] = stacks;
    let mut record = |unit: usize, size: u64, stack: u32, time: u32| {
        plan.blocks.push((block(&heap, unit), size, stack, 77, time));
    };
    record(4, 48, other, 3);
    record(0, 30, other, 1);
    record(1, 40, one, 1);
    record(2, 50, one, 2);
    record(3, 56, one, 3);
    record(5, 20, 0, 4);
    // Released without notice: of a block that is free, and of one that is far larger now.
    record(7, 20, one, 1);
    record(8, 10, one, 1);
    let mut bytes = plan.bytes();
    // What the recorder keeps besides points at a block.
    put(&mut bytes, 0x1_f000, &block(&heap, 1).to_le_bytes());
    bytes.extend(block(&heap, 0).to_le_bytes());
    let mut contents = vec![0; 0x300];
    put(&mut contents, 3 * 0x40 + 16, &block(&heap, 4).to_le_bytes());
    let memory =
        Captured::new().with_region(HEAP, &contents, 0x300, RegionKind::Heap, "[heap]").with(BASE, &bytes);
    Case { heap, plan, memory, stacks }
}

impl Case {
    fn recorded(&self) -> Arc<Recorded> {
        let (found, notes) = recorded(&self.memory, self.heap.blocks(), &Job::default()).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        Arc::new(found.unwrap())
    }

    fn check(&self) -> Check {
        let options = Options::default();
        let recorded = Some(self.recorded());
        Check::new(&self.memory, &self.heap, &[], recorded, &options, &Job::default()).unwrap()
    }

    /// The definitely lost: stack, blocks, bytes, size, and what they held.
    fn rows(&self, newest: Option<i64>) -> Vec<(u32, u64, u64, Option<u64>, Count)> {
        let check = self.check();
        let blocks = self.heap.blocks();
        let found = Records::new(&self.memory, blocks, &check, DEFINITELY, newest, &Job::default()).unwrap();
        let row = |record: &gdb_leak::leak::Record| {
            let group = &record.group;
            (group.stack, group.blocks, group.bytes, group.size, group.behind)
        };
        found.records.iter().map(row).collect()
    }
}

fn count(blocks: u64, bytes: u64) -> Count {
    Count { blocks, bytes }
}

#[test]
fn a_record_counts_for_a_block_that_malloc_may_have_given_for_it() {
    let case = case(0);
    let recorded = case.recorded();
    let known: Vec<usize> = recorded.units().map(|(unit, _)| unit).collect();
    assert_eq!(known, [0, 1, 2, 3, 4, 5]);
    assert_eq!(recorded.stale, 2);
    assert!(recorded.notes().iter().any(|note| note.starts_with("2 records fit")), "{:?}", recorded.notes());
    assert_eq!(recorded.recording().live().entries.len(), case.plan.blocks.len());
}

#[test]
fn what_the_recorder_keeps_holds_no_block_and_its_neighbour_does() {
    let check = case(0).check();
    assert_eq!(check.verdict(0), Some(Verdict::StillReachable));
    assert_eq!(check.verdict(1), Some(Verdict::DefinitelyLost));
    assert_eq!(check.verdict(4), Some(Verdict::IndirectlyLost));
    assert_eq!(check.missing, (0, 0));
}

#[test]
fn verdicts_count_bytes_that_were_asked_for_else_usable_ones() {
    let account = case(0).check().account;
    // Blocks 1, 2, 3 and 5 as recorded, 6 and 8 as they are.
    assert_eq!(account.summary[Verdict::DefinitelyLost as usize], count(6, 40 + 50 + 56 + 20 + 56 + 248));
    assert_eq!(account.summary[Verdict::IndirectlyLost as usize], count(1, 48));
    assert_eq!(account.summary[Verdict::StillReachable as usize], count(1, 30));
    assert_eq!((account.recorded, account.blocks()), (6, 8));
}

#[test]
fn blocks_of_one_stack_stand_in_one_record_and_others_as_they_are_alike() {
    let case = case(0);
    let none = Count::default();
    let expected = [
        (0, 1, 20, Some(20), none),
        (0, 1, 56, Some(56), none),
        (case.stacks[0], 3, 146, None, count(1, 48)),
        (0, 1, 248, Some(248), none),
    ];
    assert_eq!(case.rows(None), expected);
}

#[test]
fn only_blocks_of_an_age_count_and_those_without_one_are_told() {
    let case = case(0);
    let check = case.check();
    let account = check.count(case.heap.blocks(), Some(2), &Job::default()).unwrap();
    assert_eq!(account.summary[Verdict::DefinitelyLost as usize], count(2, 90));
    assert_eq!(account.summary[Verdict::StillReachable as usize], count(1, 30));
    assert_eq!(account.ageless, 2);
    assert_eq!(case.rows(Some(1)), [(case.stacks[0], 1, 40, Some(40), Count::default())]);
    assert_eq!(case.rows(Some(-1)), []);
}

#[test]
fn samples_are_counted_by_their_stacks_and_the_heap_by_itself() {
    let case = case(4096);
    let account = case.check().account;
    assert_eq!(account.summary[Verdict::DefinitelyLost as usize], count(6, 5 * 56 + 248));
    let check = case.check();
    let found = Records::new(&case.memory, case.heap.blocks(), &check, DEFINITELY, None, &Job::default());
    let records = found.unwrap().records;
    let sampled: Vec<_> = records.iter().filter(|record| record.estimate.is_some()).collect();
    assert_eq!(sampled.len(), 1);
    assert_eq!((sampled[0].group.blocks, sampled[0].group.bytes), (3, 146));
    // About 4096 bytes each, so that the record is the largest.
    let estimate = sampled[0].estimate.unwrap();
    assert!((12_000.0..13_000.0).contains(&estimate.bytes), "{estimate:?}");
    assert_eq!(records.last().map(|record| record.group.stack), Some(case.stacks[0]));
    // Usable bytes of what it held, as of whatever is no sample.
    assert_eq!(sampled[0].group.behind, count(1, 56));
}
