//! Heaps as malloc leaves them: everything is found, exactly.

use crate::answer::{difference, seen};
use crate::builder::{Built, Chunk, PAGE, build, up};
use crate::figures::Kind;
use crate::plan::{Plan, eras, plans};
use gdb_leak::heap::Allocator;
use gdb_leak::heap::block::State;
use gdb_leak::heap::summary::{Tally, summary};
use gdb_leak::memory::Memory;
use gdb_leak::pass::Job;
use proptest::prelude::*;

/// Whether `2.36`, `2.32 to 2.34` or `2.43 or newer` names version 2.`minor`.
pub(crate) fn names(text: &str, minor: u32) -> bool {
    let number = |text: &str| text.trim().strip_prefix("2.")?.parse::<u32>().ok();
    if let Some(from) = text.strip_suffix(" or newer") {
        return number(from).is_some_and(|from| from <= minor);
    }
    let (from, to) = text.split_once(" to ").unwrap_or((text, text));
    number(from).zip(number(to)).is_some_and(|(from, to)| (from..=to).contains(&minor))
}

/// What `malloc_trim (0)` could give back: `mtrim` and `systrim` (2.42 malloc/malloc.c).
fn trim(built: &Built) -> u64 {
    let target = built.target;
    let paged = target.bin_index(PAGE);
    // malloc_consolidate: what lies in fastbins is merged with its free neighbours, and unsorted.
    let mut merged: Vec<Chunk> = Vec::new();
    for chunk in built.chunks.iter().filter(|chunk| chunk.merged() || chunk.state == State::Fast) {
        match merged.last_mut().filter(|last| last.end() == chunk.start) {
            Some(last) => (last.size, last.state) = (last.size + chunk.size, State::Fast),
            None => merged.push(*chunk),
        }
    }
    let top = &built.arenas[0];
    let with_top = merged.iter().find(|chunk| chunk.end() == top.top).map_or(0, |chunk| chunk.size);
    merged.retain(|chunk| built.arenas.iter().all(|arena| chunk.end() != arena.top));
    let listed = merged.iter().filter(|chunk| {
        let unsorted = matches!(chunk.state, State::Unsorted | State::Fast);
        chunk.size > PAGE - 1 + 6 * target.word() && (unsorted || target.bin_index(chunk.size) >= paged)
    });
    let whole = listed.map(|chunk| {
        let aligned = up(chunk.start + 6 * target.word(), PAGE);
        chunk.end().saturating_sub(aligned) / PAGE * PAGE
    });
    let area = top.top_size + with_top - target.smallest();
    whole.sum::<u64>() + area.saturating_sub(1) / PAGE * PAGE
}

fn blocks_agree(built: &Built, heap: &dyn Allocator) -> Result<(), TestCaseError> {
    let wrong = difference(&built.expected(), &seen(heap));
    prop_assert!(wrong.is_empty(), "{}", wrong);
    let tops: Vec<(u64, u64)> = heap
        .blocks()
        .units()
        .filter(|unit| unit.state == State::Top)
        .map(|unit| (unit.range.start(), unit.range.len()))
        .collect();
    let mut expected: Vec<(u64, u64)> =
        built.arenas.iter().map(|arena| (arena.top, arena.top_size)).collect();
    expected.sort_unstable();
    prop_assert_eq!(tops, expected);
    Ok(())
}

/// Units follow each other without gap, and nothing is left over.
fn units_tile(heap: &dyn Allocator) -> Result<(), TestCaseError> {
    for span in heap.blocks().spans() {
        let mut at = span.range.start();
        for unit in heap.blocks().units_of(span) {
            prop_assert_eq!(unit.range.start(), at);
            prop_assert!(!unit.range.is_empty());
            prop_assert!(unit.state != State::Damaged, "{:?}", unit);
            at = unit.range.end();
        }
        prop_assert_eq!(at, span.range.end());
    }
    Ok(())
}

fn sums_agree(built: &Built, heap: &dyn Allocator, memory: &dyn Memory) -> Result<(), TestCaseError> {
    let arenas = heap.arenas();
    prop_assert_eq!(arenas.len(), built.arenas.len());
    let tally = Tally::of(heap.blocks(), arenas.len(), &Job::default()).unwrap();
    for (number, made) in built.arenas.iter().enumerate() {
        let at = arenas.iter().position(|arena| arena.address == made.address);
        let at = at.ok_or_else(|| TestCaseError::fail(format!("no arena at {:#x}", made.address)))?;
        prop_assert_eq!(arenas[at].system, made.system);
        prop_assert_eq!(tally.bytes[at], made.system, "bytes of arena {}", number);
        prop_assert_eq!(arenas[at].kind, if number == 0 { "main" } else { "thread" });
        prop_assert!(!arenas[at].locked);
    }
    let sum = summary(memory, Some(heap), &Job::default()).unwrap();
    let states = sum.tally.arenas.iter().chain([&sum.tally.mapped]);
    let units: u64 = states.map(|states| states.sum(|_| true).bytes).sum();
    let other: u64 = sum.other.iter().map(|(_, bytes)| bytes).sum();
    prop_assert_eq!(units + other, sum.writable);
    prop_assert_eq!(sum.unwritable, 0);
    Ok(())
}

fn checks_hold(built: &Built, heap: &dyn Allocator) -> Result<(), TestCaseError> {
    prop_assert_eq!((heap.damages(), heap.damage()), (0, &[][..]));
    for check in heap.checks() {
        prop_assert!(check.holds, "{}: {}", check.rule, check.detail);
    }
    let rules: Vec<&str> = heap.checks().iter().map(|check| check.rule).collect();
    for rule in ["tiling", "system-mem", "list-links", "mmapped"] {
        prop_assert!(rules.contains(&rule), "{:?} lack {}", rules, rule);
    }
    prop_assert_eq!(rules.contains(&"tcache-counts"), !built.caches.is_empty());
    let version = heap.version();
    prop_assert!(names(&version, built.target.minor), "version {}", version);
    // What is all zeros there counts on its own.
    prop_assert_eq!(heap.trim().bytes + heap.trim().returned, trim(built));
    Ok(())
}

pub(crate) fn is_walked_back(plan: &Plan) -> Result<(), TestCaseError> {
    built_is_walked_back(&build(plan))
}

pub(crate) fn built_is_walked_back(built: &Built) -> Result<(), TestCaseError> {
    let answer = built.open();
    let Some(heap) = answer.heap.as_deref() else {
        return Err(TestCaseError::fail("no heap was found"));
    };
    blocks_agree(built, heap)?;
    units_tile(heap)?;
    sums_agree(built, heap, &*answer.memory)?;
    checks_hold(built, heap)
}

/// Where a block is possible is told without a walk; whoever asks there for none finds none.
fn blocks_lie_where_they_are_possible(plan: &Plan) -> Result<(), TestCaseError> {
    let built = build(plan);
    let memory = built.image.capture();
    let outside = gdb_leak::heap::outside(&memory, &Job::default()).unwrap();
    for block in built.expected() {
        let possible = gdb_leak::heap::possible(&memory, &outside, block.block);
        prop_assert!(possible, "{:?}", block);
    }
    Ok(())
}

proptest! {
    #![proptest_config(crate::plan::cases(64))]

    #[test]
    fn a_heap_of_x86_64_is_walked_back_exactly(plan in plans(Kind::X86, eras())) {
        is_walked_back(&plan)?;
    }
}

proptest! {
    #![proptest_config(crate::plan::cases(24))]

    #[test]
    fn no_block_lies_where_none_is_possible(plan in plans(Kind::X86, eras())) {
        blocks_lie_where_they_are_possible(&plan)?;
    }

    #[test]
    fn a_heap_of_64_bit_big_endian_is_walked_back_exactly(plan in plans(Kind::S390x, eras())) {
        is_walked_back(&plan)?;
    }

    #[test]
    fn a_heap_of_i386_is_walked_back_exactly(plan in plans(Kind::I386, eras())) {
        is_walked_back(&plan)?;
    }

    #[test]
    fn a_heap_of_arm_is_walked_back_exactly(plan in plans(Kind::Arm, eras())) {
        is_walked_back(&plan)?;
    }

    #[test]
    fn a_heap_of_powerpc_is_walked_back_exactly(plan in plans(Kind::PowerPc, eras())) {
        is_walked_back(&plan)?;
    }
}
