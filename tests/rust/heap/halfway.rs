//! Heaps of a process that was stopped within malloc, between two of its stores.

use std::collections::BTreeSet;

use crate::answer::Answer;
use crate::builder::{Built, Chunk, build};
use crate::damage::{begins_again, by_brk, is_mapped, others_are_right};
use crate::figures::Kind;
use crate::plan::Plan;
use gdb_leak::heap::Allocator;
use gdb_leak::heap::block::State;
use proptest::prelude::*;

/// The first chunk behind chunk `number` that is on a list, where one follows the other up to it
/// and one more.
fn listed_behind(built: &Built, number: usize) -> Option<Chunk> {
    let follows = |pair: &&[Chunk]| pair[0].end() == pair[1].start;
    let pairs = built.chunks[number..].windows(2).take_while(follows);
    let on_list = |chunk: &Chunk| chunk.merged() || matches!(chunk.state, State::Tcache | State::Fast);
    pairs.skip(1).map(|pair| pair[0]).find(on_list)
}

/// Whether a note says that a call was under way, and no check fails for it.
fn in_a_call(heap: &dyn Allocator) -> bool {
    let told = heap.notes().iter().any(|note| note.contains("in the middle of a malloc call"));
    told && heap.checks().iter().all(|check| check.holds)
}

/// malloc/malloc.c, `_int_malloc`: a free chunk is cut in two, and its first part is off its list
/// and has its size; where the rest starts stands what a block held, a size that leads on to `end`.
fn cut(built: &mut Built, chunk: &Chunk, end: u64) {
    let (word, header) = (built.target.word(), built.target.header());
    let other = if chunk.arena == 0 { 0 } else { 4 };
    let links = chunk.start + header;
    let (forward, back) = (built.image.read(links), built.image.read(links + word));
    built.image.word(forward + header + word, back);
    built.image.word(back + header, forward);
    let size = built.target.smallest();
    built.image.word(chunk.start + word, size | other | 1);
    let rest = chunk.start + size;
    let noise = built.dice.roll();
    built.image.words(rest, &[noise, (end - rest) | other | 1]);
}

fn is_read(plan: &Plan, pick: u64) -> Result<(), TestCaseError> {
    let mut built = build(plan);
    let candidates: Vec<(Chunk, Chunk)> = (0..built.chunks.len())
        .filter(|number| !is_mapped(&built.chunks[*number]) && !begins_again(&built, *number))
        .map(|number| (number, built.chunks[number]))
        .filter(|(_, chunk)| chunk.merged() && chunk.size >= 2 * built.target.smallest())
        .filter_map(|(number, chunk)| Some((chunk, listed_behind(&built, number)?)))
        .collect();
    let Some(at) = usize::try_from(pick).unwrap().checked_rem(candidates.len()) else { return Ok(()) };
    let (chunk, listed) = candidates[at];
    cut(&mut built, &chunk, listed.end());
    let Answer { heap, .. } = built.open();
    let Some(heap) = heap.as_deref() else { return Err(TestCaseError::fail("no heap was found")) };
    let told = |error: TestCaseError| TestCaseError::fail(format!("{chunk:x?} up to {listed:x?}: {error}"));
    others_are_right(&built, heap, &BTreeSet::from([chunk.start])).map_err(told)?;
    // Where the next chunk has the size of the whole, that tells what is half done.
    prop_assert!(heap.damages() > 0 || in_a_call(heap));
    Ok(())
}

/// malloc/malloc.c, `_int_malloc`: the last chunk of the unsorted list has the links of the list
/// that it goes to, before `chunk` there, and neither its old neighbour nor its new ones let it in.
fn take_over(built: &mut Built, last: &Chunk, chunk: &Chunk) {
    let (word, header) = (built.target.word(), built.target.header());
    let links = last.start + header;
    let (head, before) = (built.image.read(links), built.image.read(links + word));
    built.image.word(head + header + word, before);
    let back = built.image.read(chunk.start + header + word);
    built.image.words(links, &[chunk.start, back]);
}

fn lists_are_kept_apart(plan: &Plan, pick: u64) -> Result<(), TestCaseError> {
    let mut built = build(plan);
    let chunks = built.chunks.clone();
    let is_chunk = |at: u64| chunks.iter().any(|chunk| chunk.start == at);
    let binned = |chunk: &&Chunk| matches!(chunk.state, State::Small | State::Large);
    let header = built.target.header();
    let mut is_last = |chunk: &&Chunk| !is_chunk(built.image.read(chunk.start + header));
    let lasts = chunks.iter().filter(|chunk| chunk.state == State::Unsorted && is_last(chunk));
    let candidates: Vec<(Chunk, Chunk)> = lasts
        .flat_map(|last| {
            let others = chunks.iter().filter(binned).filter(|other| other.arena == last.arena);
            others.map(|other| (*last, *other))
        })
        .collect();
    let Some(at) = usize::try_from(pick).unwrap().checked_rem(candidates.len()) else { return Ok(()) };
    let (last, chunk) = candidates[at];
    take_over(&mut built, &last, &chunk);
    let Answer { heap, .. } = built.open();
    let Some(heap) = heap.as_deref() else { return Err(TestCaseError::fail("no heap was found")) };
    let told = |error: TestCaseError| TestCaseError::fail(format!("{last:x?} before {chunk:x?}: {error}"));
    others_are_right(&built, heap, &BTreeSet::from([last.start])).map_err(told)?;
    // At most its own link back, and the one that leads out of the list.
    prop_assert!(heap.damages() <= 2, "{:x?}", heap.damage());
    prop_assert!(heap.damages() > 0 || in_a_call(heap));
    Ok(())
}

proptest! {
    #![proptest_config(crate::plan::cases(150))]

    #[test]
    fn a_size_not_written_yet_costs_no_block_up_to_the_next_listed_one(
        plan in by_brk(Kind::X86), pick in any::<u64>(),
    ) {
        is_read(&plan, pick)?;
    }

    #[test]
    fn a_chunk_between_two_lists_takes_no_other_with_it(plan in by_brk(Kind::X86), pick in any::<u64>()) {
        lists_are_kept_apart(&plan, pick)?;
    }
}
