//! Heaps with one of malloc's own tables overwritten: what they lead to is found all the same.

use std::collections::BTreeSet;

use crate::builder::{Built, build};
use crate::damage::{by_brk, others_are_right, wild};
use crate::figures::{Key, Kind};
use crate::plan::{Plan, Want};
use gdb_leak::heap::Allocator;
use gdb_leak::heap::block::State;
use proptest::prelude::*;

/// Overwrites one word, and holds the heap to everything but the chunks that start in `lost`.
fn overwritten(
    built: &mut Built,
    place: u64,
    value: u64,
    lost: &[u64],
    told: impl Fn(&dyn Allocator) -> bool,
) -> Result<(), TestCaseError> {
    let before = built.image.read(place);
    prop_assume!(before != value);
    built.image.word(place, value);
    let answer = built.open();
    let Some(heap) = answer.heap.as_deref() else { return Err(TestCaseError::fail("no heap was found")) };
    let lost: BTreeSet<u64> = lost.iter().copied().collect();
    let what = |error| TestCaseError::fail(format!("{value:#x} for {before:#x} at {place:#x}: {error}"));
    others_are_right(built, heap, &lost).map_err(what)?;
    prop_assert!(
        told(heap),
        "not told: {:#x} for {:#x} at {:#x}, {:#x?}",
        value,
        before,
        place,
        heap.checks()
    );
    Ok(())
}

fn harmed(heap: &dyn Allocator) -> bool {
    heap.damages() > 0
}

fn fails(heap: &dyn Allocator, rule: &str) -> bool {
    heap.checks().iter().any(|check| check.rule == rule && !check.holds)
}

/// Whether the rule is broken as a thread breaks it for a moment.
fn fails_by_one(heap: &dyn Allocator, rule: &str) -> bool {
    let by_one = |detail: &str| detail.contains("one off, as in the middle of a call");
    heap.checks().iter().any(|check| check.rule == rule && !check.holds && by_one(&check.detail))
}

/// Plans with a further arena of two heaps at least.
fn with_heaps() -> impl Strategy<Value = Plan> {
    by_brk(Kind::X86)
        .prop_filter("no further arena of two heaps", |plan| plan.arenas.iter().any(|heaps| heaps.len() > 1))
}

/// The start of the last heap of an arena that has more than one.
fn last_heap(plan: &Plan, built: &Built) -> u64 {
    let number = plan.arenas.iter().position(|heaps| heaps.len() > 1).unwrap();
    built.arenas[number + 1].top & !(built.target.heap_reach() - 1)
}

proptest! {
    #![proptest_config(crate::plan::cases(24))]

    #[test]
    fn a_ring_of_arenas_that_does_not_lead_back_costs_no_block(plan in with_heaps()) {
        let mut built = build(&plan);
        // docs/limits.md: broken at the main arena, nothing tells 2.43 from what was before.
        let next = built.target.state().next;
        let main = built.arenas[0].address;
        let last = built.arenas.iter().map(|arena| arena.address + next);
        let place = last.filter(|place| built.image.read(*place) == main).last().unwrap();
        let to = wild(&mut built);
        overwritten(&mut built, place, to, &[], harmed)?;
    }

    #[test]
    fn a_chain_of_heaps_that_is_broken_costs_no_block(plan in with_heaps()) {
        let mut built = build(&plan);
        let place = last_heap(&plan, &built) + built.target.word();
        let to = wild(&mut built);
        overwritten(&mut built, place, to, &[], harmed)?;
    }

    #[test]
    fn a_heap_whose_size_is_damaged_costs_no_block(plan in with_heaps()) {
        let mut built = build(&plan);
        let place = last_heap(&plan, &built) + 2 * built.target.word();
        let to = wild(&mut built);
        overwritten(&mut built, place, to, &[], harmed)?;
    }

    #[test]
    fn memory_from_the_system_that_is_miscounted_costs_no_block(plan in by_brk(Kind::X86), more in 1..9_u64) {
        let mut built = build(&plan);
        let arena = usize::try_from(plan.seed).unwrap() % built.arenas.len();
        let place = built.arenas[arena].address + built.target.state().system;
        let system = built.arenas[arena].system;
        // It is what it is up to 2.22 that tells a size from a number of threads.
        built.image.word(place + built.target.word(), system + more * 4096);
        overwritten(&mut built, place, system + more * 4096, &[], |heap| fails(heap, "system-mem"))?;
    }

    #[test]
    fn a_top_chunk_that_is_not_where_its_arena_says_costs_no_block(plan in by_brk(Kind::X86)) {
        let mut built = build(&plan);
        let place = built.arenas[0].address + built.target.state().top;
        // Anywhere else; a place in a chunk would cost that chunk.
        let to = [0, 1, built.dice.roll()][built.dice.index(3)];
        built.image.word(place, to);
        let answer = built.open();
        let heap = answer.heap.unwrap();
        prop_assert!(harmed(&*heap));
        // Without its arena's word it is a chunk as any other.
        let top = built.arenas[0].top;
        let found: Vec<_> = crate::answer::seen(&*heap).into_iter().filter(|seen| seen.start != top).collect();
        let wrong = crate::answer::difference(&built.expected(), &found);
        prop_assert!(wrong.is_empty(), "{}", wrong);
    }

    #[test]
    fn a_list_of_free_chunks_whose_head_leads_nowhere_is_followed_from_its_end(
        plan in by_brk(Kind::X86), back in any::<bool>(), pick in any::<usize>(),
    ) {
        let mut built = build(&plan);
        let target = built.target;
        let listed: Vec<_> = built.chunks.iter().filter(|chunk| chunk.merged()).copied().collect();
        prop_assume!(!listed.is_empty());
        let chunk = listed[pick % listed.len()];
        let list = if chunk.state == State::Unsorted { 1 } else { target.bin_index(chunk.size) };
        let head = built.arenas[chunk.arena].address + target.state().bins + (list - 1) * target.header();
        let to = wild(&mut built);
        overwritten(&mut built, head + if back { target.word() } else { 0 }, to, &[], |heap| back || harmed(heap))?;
    }

    #[test]
    fn a_list_whose_head_leads_nowhere_costs_what_is_on_it_at_most(plan in by_brk(Kind::X86), pick in any::<usize>()) {
        let mut built = build(&plan);
        let lists: Vec<_> = built.lists.iter().filter(|(_, list)| !list.is_empty()).cloned().collect();
        prop_assume!(!lists.is_empty());
        let (place, list) = &lists[pick % lists.len()];
        // In a cache a key tells, where other blocks in caches say what it is.
        let fast = built.chunks.iter().any(|chunk| chunk.start == list[0] && chunk.state == State::Fast);
        let others = lists.iter().filter(|(_, other)| other != list).flat_map(|(_, other)| other);
        let cached = |start: &u64| built.chunks.iter().any(|chunk| chunk.start == *start && chunk.state == State::Tcache);
        let told = !fast && built.target.key() != Key::None && others.filter(|start| cached(start)).count() > 1;
        // Mapped ones have no keys of which much could be thought.
        let mapped = |start: &u64| built.mapped.iter().any(|chunk| chunk.start == *start);
        let lost: Vec<u64> = list.iter().copied().filter(|start| !told || mapped(start)).collect();
        let to = wild(&mut built);
        overwritten(&mut built, *place, to, &lost, harmed)?;
    }

    #[test]
    fn a_cache_that_counts_wrong_costs_no_block(
        plan in by_brk(Kind::X86), list in 0..63_u64, lists in 1..3_u64, more in 1..3_u64,
    ) {
        let mut built = build(&plan);
        let Some(figures) = built.target.cache() else { return Ok(()) };
        let cache = built.caches[usize::try_from(plan.seed).unwrap() % built.caches.len()];
        let size = usize::try_from(figures.count).unwrap();
        let mut halfway = lists == 1 && more == 1;
        for list in list..list + lists {
            let place = cache.address + list * figures.count;
            let now = built.image.read_number(place, size);
            built.image.put(place, now + more, size);
            // An empty list that counts down has the most already.
            halfway &= plan.target.minor < 42 || now < figures.fill;
        }
        let answer = built.open();
        let heap = answer.heap.unwrap();
        others_are_right(&built, &*heap, &BTreeSet::new())?;
        let checks = heap.checks();
        let counts = checks.iter().find(|check| check.rule == "tcache-counts").unwrap();
        // A thread that takes a block or gives it back leaves its cache one off, for a moment: no
        // damage, and said in a note.
        prop_assert_eq!(counts.holds, halfway, "{}", counts.detail);
        let told = heap.notes().iter().any(|note| note.contains("in the middle of a malloc call"));
        prop_assert_eq!(told, halfway, "{:?}", heap.notes());
    }

    #[test]
    fn a_mapped_chunk_without_its_header_costs_no_other_block(plan in by_brk(Kind::X86), pick in any::<usize>()) {
        let mut built = build(&plan);
        // Behind an aligned one another header of its mapping is left, of any size.
        let plain: Vec<_> = built.mapped.iter().filter(|chunk| chunk.start == chunk.base).copied().collect();
        prop_assume!(!plain.is_empty());
        let chunk = plain[pick % plain.len()];
        let noise = built.dice.roll();
        let listed = built.lists.iter().find(|(_, list)| list.contains(&chunk.start));
        let mut lost = vec![chunk.start];
        if let Some((_, list)) = listed {
            // What lies behind it in a cache is told by its key, if it is in an arena.
            lost.extend(built.mapped.iter().map(|chunk| chunk.start).filter(|start| list.contains(start)));
        }
        overwritten(&mut built, chunk.start + 8, noise, &lost, |heap| fails_by_one(heap, "mmapped"))?;
    }
}

/// Whatever is wanted, nothing was ever put into a cache or freed.
#[test]
fn a_heap_of_which_no_block_was_freed_has_no_free_block() {
    for minor in crate::figures::ERAS {
        let mut plan = crate::cases::plain(Kind::X86, minor);
        plan.main[0].blocks = vec![crate::plan::Block { steps: 3, want: Want::Used }; 40];
        let answer = build(&plan).open();
        let free = answer.heap.unwrap().blocks().units().filter(|unit| unit.state.free()).count();
        assert_eq!(free, 0);
    }
}
