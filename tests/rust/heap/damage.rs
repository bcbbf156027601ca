//! Heaps with one thing overwritten: it is named, and the rest is found all the same.

use std::collections::BTreeSet;

use crate::answer::{Answer, Seen, difference, seen};
use crate::builder::{Built, Chunk, build};
use crate::figures::{Key, Kind};
use crate::plan::{Got, Plan, eras, plans};
use gdb_leak::heap::Allocator;
use gdb_leak::heap::block::State;
use proptest::prelude::*;

/// What is written over a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Harm {
    SizeZero,
    SizeHuge,
    /// The size is one step of the alignment more.
    SizeMore,
    SizeLess,
    /// `PREV_INUSE` is cleared where the chunk before is in use.
    InUseCleared,
    /// `PREV_INUSE` is set where the chunk before is free.
    InUseSet,
    /// Noise over the two words of the header.
    Header,
    /// The link to the next block in a cache or a fastbin leads to the block itself.
    Loop,
    /// The same leads somewhere.
    Wild,
    /// The link forward on a list of free chunks leads somewhere.
    Forward,
    /// The link back does.
    Back,
}

const HARMS: [Harm; 11] = [
    Harm::SizeZero,
    Harm::SizeHuge,
    Harm::SizeMore,
    Harm::SizeLess,
    Harm::InUseCleared,
    Harm::InUseSet,
    Harm::Header,
    Harm::Loop,
    Harm::Wild,
    Harm::Forward,
    Harm::Back,
];

/// Whether a chunk, with the one before it, can be harmed so.
fn applies(harm: Harm, chunk: &Chunk, before: Option<&Chunk>) -> bool {
    let behind_free = before.is_some_and(|before| before.end() == chunk.start && before.merged());
    let in_list = matches!(chunk.state, State::Tcache | State::Fast);
    match harm {
        // The cache itself is a table, not only a block: what it holds is lost with it.
        _ if chunk.state == State::Allocator => false,
        Harm::InUseCleared => !behind_free,
        Harm::InUseSet => behind_free,
        Harm::Loop | Harm::Wild => in_list,
        Harm::Forward | Harm::Back => chunk.merged(),
        _ => true,
    }
}

/// Somewhere that is no chunk of the process.
pub(crate) fn wild(built: &mut Built) -> u64 {
    let noise = built.dice.roll();
    let somewhere = built.chunks[built.dice.index(built.chunks.len())].start + built.target.word();
    let places = [noise, somewhere, 1, 0x10];
    let place = places[built.dice.index(places.len())];
    if built.target.word() == 8 { place } else { place & 0xffff_ffff }
}

pub(crate) fn overwrite(built: &mut Built, harm: Harm, chunk: &Chunk) {
    let target = built.target;
    let (word, header) = (target.word(), target.header());
    let head = built.image.read(chunk.start + word);
    let flags = head & 7;
    let block = chunk.start + header;
    let masked = |to: u64| if target.masked() { to ^ (block >> 12) } else { to };
    match harm {
        Harm::SizeZero => built.image.word(chunk.start + word, flags),
        Harm::SizeHuge => built.image.word(chunk.start + word, 0x7000_0000 | flags),
        Harm::SizeMore => built.image.word(chunk.start + word, head + target.align()),
        Harm::SizeLess => built.image.word(chunk.start + word, head - target.align()),
        Harm::InUseCleared => built.image.word(chunk.start + word, head & !1),
        Harm::InUseSet => built.image.word(chunk.start + word, head | 1),
        Harm::Header => {
            let noise = [built.dice.roll(), built.dice.roll()];
            built.image.words(chunk.start, &noise);
        }
        Harm::Loop => {
            let own = if chunk.state == State::Tcache { block } else { chunk.start };
            built.image.word(block, masked(own));
        }
        Harm::Wild => {
            let to = wild(built);
            built.image.word(block, masked(to));
        }
        Harm::Forward | Harm::Back => {
            let to = wild(built);
            built.image.word(block + if harm == Harm::Back { word } else { 0 }, to);
        }
    }
}

/// Whether a block in a cache is left that shows the random number, without the end of a list.
fn shows_number(built: &Built, lost: &[u64]) -> bool {
    let cached = |chunk: &Chunk| chunk.state == State::Tcache && !lost.contains(&chunk.start);
    built.chunks.iter().any(cached)
}

/// The chunks of which nothing is asked when those in `hit` are damaged.
///
/// Their direct neighbours; and what lies behind any of these on a fastbin, or in a cache whose keys
/// tell nothing.
fn excused(built: &Built, hit: &Chunk) -> BTreeSet<u64> {
    let near =
        |chunk: &&Chunk| chunk.start == hit.start || chunk.end() == hit.start || chunk.start == hit.end();
    let mut excused: BTreeSet<u64> = built.chunks.iter().filter(near).map(|chunk| chunk.start).collect();
    for (_, list) in &built.lists {
        let first = list.iter().position(|start| excused.contains(start));
        let Some(first) = first else { continue };
        let fast = built.chunks.iter().any(|chunk| chunk.start == list[first] && chunk.state == State::Fast);
        let known = match built.target.key() {
            Key::None => false,
            Key::Address => true,
            Key::Random => shows_number(built, &list[first..]),
        };
        if fast || !known {
            excused.extend(&list[first..]);
        }
    }
    excused
}

/// Holds the blocks that were found to those that are there, but for some.
pub(crate) fn others_are_right(
    built: &Built,
    heap: &dyn Allocator,
    excused: &BTreeSet<u64>,
) -> Result<(), TestCaseError> {
    let expected: Vec<Seen> =
        built.expected().into_iter().filter(|block| !excused.contains(&block.start)).collect();
    // What is made of the excused ones may lie anywhere in them.
    let inside = |start: u64| {
        let chunk = built.chunks.iter().find(|chunk| (chunk.start..chunk.end()).contains(&start));
        chunk.is_some_and(|chunk| excused.contains(&chunk.start))
    };
    let excused = |start: u64| excused.contains(&start) || inside(start);
    let found: Vec<Seen> = seen(heap).into_iter().filter(|block| !excused(block.start)).collect();
    let wrong = difference(&expected, &found);
    prop_assert!(wrong.is_empty(), "{} damage {:#x?}", wrong, heap.damage());
    Ok(())
}

/// Whether damage is told at the chunk or beside it, or leads there.
fn names(built: &Built, heap: &dyn Allocator, hit: &Chunk) -> bool {
    let start =
        built.chunks.iter().find(|chunk| chunk.end() == hit.start).map_or(hit.start, |chunk| chunk.start);
    let end = built.chunks.iter().find(|chunk| chunk.start == hit.end()).map_or(hit.end(), Chunk::end);
    let near = |place: u64| (start..=end + built.target.header() * 2).contains(&place);
    heap.damages() > 0 && heap.damage().iter().any(|damage| near(damage.address) || near(damage.value))
}

/// Whether a chunk is one of the first where chunks begin again in the main arena.
///
/// Behind memory of others as many as 24 that follow each other tell where that is: a damaged one
/// ends that memory later.
pub(crate) fn begins_again(built: &Built, number: usize) -> bool {
    let follows = |number: usize| number > 0 && built.chunks[number - 1].end() == built.chunks[number].start;
    let start = (0..=number).rev().find(|number| !follows(*number)).unwrap_or(0);
    start > 0 && built.chunks[number].arena == 0 && number - start < 24
}

/// Whether a chunk of the main arena lies in memory that `mmap` gave: damage there may cost a
/// whole mapping, which docs/limits.md says.
pub(crate) fn is_mapped(chunk: &Chunk) -> bool {
    chunk.arena == 0 && chunk.start > 0x7000_0000_0000
}

/// Whether nothing can be a chunk or a mark one step behind the end of a chunk.
///
/// A step may be the next chunk, exactly; and of the marks fewer are marks as well.
fn shows_a_step(built: &Built, number: usize) -> bool {
    let chunk = built.chunks[number];
    match built.chunks.get(number + 1).filter(|next| next.start == chunk.end()) {
        Some(next) => next.size > built.target.align(),
        None => built.arenas.iter().any(|arena| arena.top == chunk.end()),
    }
}

fn survives(plan: &Plan, harm: Harm, pick: u64) -> Result<(), TestCaseError> {
    let mut built = build(plan);
    let candidates: Vec<Chunk> = built
        .chunks
        .iter()
        .enumerate()
        .filter(|(number, chunk)| {
            applies(harm, chunk, number.checked_sub(1).map(|before| &built.chunks[before]))
        })
        .filter(|(number, chunk)| !is_mapped(chunk) && !begins_again(&built, *number))
        .filter(|(number, _)| harm != Harm::SizeMore || shows_a_step(&built, *number))
        .map(|(_, chunk)| *chunk)
        .collect();
    let Some(at) = usize::try_from(pick).unwrap().checked_rem(candidates.len()) else { return Ok(()) };
    let hit = candidates[at];
    overwrite(&mut built, harm, &hit);
    let Answer { heap, .. } = built.open();
    let Some(heap) = heap.as_deref() else { return Err(TestCaseError::fail("no heap was found")) };
    let told = |error: TestCaseError| TestCaseError::fail(format!("{harm:?} at {hit:x?}: {error}"));
    others_are_right(&built, heap, &excused(&built, &hit)).map_err(told)?;
    prop_assert!(names(&built, heap, &hit), "{:?} at {:x?}: {:x?}", harm, hit, heap.damage());
    Ok(())
}

fn harms() -> impl Strategy<Value = Harm> {
    proptest::sample::select(&HARMS[..])
}

/// Plans in which no block holds what looks like a chunk: nobody could tell them from chunks.
fn quiet(kind: Kind) -> impl Strategy<Value = Plan> {
    plans(kind, eras()).prop_map(|mut plan| {
        plan.lookalikes = false;
        plan
    })
}

/// The same, with the main arena's memory from `brk` alone.
pub(crate) fn by_brk(kind: Kind) -> impl Strategy<Value = Plan> {
    quiet(kind).prop_map(|mut plan| {
        for stretch in plan.main.iter_mut().filter(|stretch| stretch.got == Got::Mmap) {
            stretch.got = Got::Brk(0);
        }
        plan
    })
}

proptest! {
    #![proptest_config(crate::plan::cases(150))]

    #[test]
    fn one_damaged_chunk_costs_no_other_block(plan in by_brk(Kind::X86), harm in harms(), pick in any::<u64>()) {
        survives(&plan, harm, pick)?;
    }
}

proptest! {
    #![proptest_config(crate::plan::cases(50))]

    #[test]
    fn one_damaged_chunk_of_i386_costs_no_other_block(
        plan in by_brk(Kind::I386), harm in harms(), pick in any::<u64>(),
    ) {
        survives(&plan, harm, pick)?;
    }
}
