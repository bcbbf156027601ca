//! Heaps with noise over them: whatever is made of it, it ends, and what is told is consistent.

use crate::answer::{Answer, in_time};
use crate::builder::{Built, build};
use crate::figures::Kind;
use crate::image::index;
use crate::plan::{Plan, eras, plans};
use gdb_leak::heap::block::State;
use gdb_leak::heap::groups::{By, groups};
use gdb_leak::heap::summary::summary;
use gdb_leak::heap::wanted::Wanted;
use gdb_leak::pass::Job;
use proptest::prelude::*;

/// A place that matters more than most.
fn place(built: &mut Built) -> u64 {
    let target = built.target;
    let word = target.word();
    let any_word = |built: &mut Built, start: u64, size: u64| start + built.dice.below(size / word) * word;
    match built.dice.below(8) {
        // A header, and what stands first in a block.
        0..=2 => {
            let chunk = built.chunks[built.dice.index(built.chunks.len())];
            any_word(built, chunk.start, target.header() * 2)
        }
        3 => {
            let arena = built.arenas[built.dice.index(built.arenas.len())].address;
            any_word(built, arena, target.state().size)
        }
        4 => any_word(built, built.params, target.params().size),
        5 if !built.caches.is_empty() => {
            let cache = built.caches[built.dice.index(built.caches.len())].address;
            any_word(built, cache, target.cache().unwrap().size)
        }
        6 => {
            // The start of a mapping: a heap's head, a mapped chunk.
            let start = built.image.pieces[built.dice.index(built.image.pieces.len())].start;
            any_word(built, start, word * 8)
        }
        _ => {
            let piece = &built.image.pieces[built.dice.index(built.image.pieces.len())];
            let (start, length) = (piece.start, piece.bytes.len() as u64);
            any_word(built, start, length)
        }
    }
}

/// What may stand there: noise, numbers, sizes, addresses of what there is, what stands elsewhere.
fn value(built: &mut Built) -> u64 {
    let chunk = built.chunks[built.dice.index(built.chunks.len())];
    let value = match built.dice.below(9) {
        0 => 0,
        1 => built.dice.roll(),
        2 => u64::MAX - built.dice.below(32),
        3 => built.dice.below(0x400),
        4 => chunk.size | built.dice.below(8),
        5 => chunk.start,
        6 => chunk.start + built.target.header(),
        7 => built.arenas[built.dice.index(built.arenas.len())].address,
        _ => {
            let other = place(built);
            built.image.read(other)
        }
    };
    if built.target.word() == 8 { value } else { value & 0xffff_ffff }
}

/// Writes over the memory, and takes some of it away.
fn disturb(built: &mut Built, times: u64) {
    for _ in 0..times {
        let place = place(built);
        match built.dice.below(12) {
            0 => {
                // Bytes anywhere, not only whole words.
                let bytes = built.dice.roll().to_le_bytes();
                let length = 1 + built.dice.index(usize::try_from(built.target.word()).unwrap());
                built.image.put_bytes(place, &bytes[..length]);
            }
            1 if built.dice.once_in(4) => {
                let piece = built.dice.index(built.image.pieces.len());
                let length = built.image.pieces[piece].bytes.len() as u64;
                built.image.pieces[piece].unsaved = built.dice.below(length);
            }
            _ => {
                let value = value(built);
                built.image.word(place, value);
            }
        }
    }
}

/// Asks for all that there is to ask, and holds the answers to each other.
fn consistent(answer: &Answer, places: &[u64]) {
    let job = Job::default();
    let memory = &*answer.memory;
    let heap = answer.heap.as_deref();
    let sum = summary(memory, heap, &job).unwrap();
    let states = sum.tally.arenas.iter().chain([&sum.tally.mapped]);
    let units: u64 = states.map(|states| states.sum(|_| true).bytes).sum();
    let other: u64 = sum.other.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(units + other, sum.writable + sum.unwritable);
    let outside = gdb_leak::heap::outside(memory, &job).unwrap();
    for place in places {
        let _ = gdb_leak::heap::possible(memory, &outside, *place);
    }
    let Some(heap) = heap else { return };
    let blocks = heap.blocks();
    let mut at = 0;
    for span in blocks.spans() {
        assert!(span.range.start() >= at, "spans overlap");
        at = span.range.start();
        assert!(span.arena.is_none_or(|arena| usize::try_from(arena).unwrap() < heap.arenas().len()));
        for unit in blocks.units_of(span) {
            assert_eq!(unit.range.start(), at);
            assert!(unit.range.end() > at);
            assert_eq!(blocks.unit_at(at), Some(unit));
            at = unit.range.end();
            assert!(!unit.state.block() || unit.block().len() < unit.range.len());
        }
        assert_eq!(at, span.range.end());
    }
    assert!(heap.damages() >= heap.damage().len() as u64);
    let skipped = blocks.units().filter(|unit| unit.state == State::Damaged).count();
    assert!(skipped == 0 || heap.damages() > 0, "skipped without a word");
    for number in 0..blocks.len().min(2000) {
        assert!(!heap.reason(memory, number).is_empty());
    }
    for place in places {
        let _ = heap.header(memory, *place);
        let _ = gdb_leak::heap::counts(blocks, *place, true);
    }
    let told: u64 = blocks.units().filter(|unit| unit.state.block()).map(|unit| unit.block().len()).sum();
    let grouped = groups(memory, blocks, By::All, &Wanted::default(), &job).unwrap();
    assert_eq!(grouped.bytes, told);
    assert!(!heap.version().is_empty() && !heap.found_by().is_empty());
}

fn survives(plan: &Plan, times: u64) {
    let mut built = build(plan);
    disturb(&mut built, times);
    let mut places: Vec<u64> = (0..20).map(|_| value(&mut built)).collect();
    places.extend([0, 1, u64::MAX, u64::MAX - 15]);
    if built.dice.once_in(8) {
        let piece = built.dice.index(built.image.pieces.len());
        built.image.pieces.remove(piece);
    }
    let answer = built.open();
    in_time(move || consistent(&answer, &places));
}

fn kinds() -> impl Strategy<Value = Plan> {
    prop_oneof![
        4 => plans(Kind::X86, eras()),
        1 => plans(Kind::S390x, eras()),
        1 => plans(Kind::I386, eras()),
        1 => plans(Kind::Arm, eras()),
        1 => plans(Kind::PowerPc, eras()),
    ]
}

proptest! {
    #![proptest_config(crate::plan::cases(100))]

    #[test]
    fn noise_over_a_few_places_ends_in_an_answer_that_agrees_with_itself(plan in kinds(), times in 1..5_u64) {
        survives(&plan, times);
    }

    #[test]
    fn noise_over_many_places_ends_in_an_answer_that_agrees_with_itself(plan in kinds(), times in 5..400_u64) {
        survives(&plan, times);
    }
}

proptest! {
    #![proptest_config(crate::plan::cases(30))]

    #[test]
    fn memory_of_which_only_malloc_s_state_is_left_has_an_answer(plan in kinds(), keep in any::<u64>()) {
        let mut built = build(&plan);
        let main = built.arenas[0].address;
        let start = |piece: &crate::image::Piece| piece.start;
        let kept: Vec<bool> = built.image.pieces.iter().enumerate().map(|(number, piece)| {
            (start(piece)..piece.end()).contains(&main) || keep >> (number % 64) & 1 == 1
        }).collect();
        let mut kept = kept.into_iter();
        built.image.pieces.retain(|_| kept.next().unwrap());
        let answer = built.open();
        in_time(move || consistent(&answer, &[main]));
    }
}

/// Chunks wherever one looks, and a third of each mapping missing.
#[test]
fn memory_full_of_headers_ends_in_an_answer() {
    let mut built = build(&crate::cases::plain(Kind::X86, 36));
    for number in 0..built.image.pieces.len() {
        let piece = &built.image.pieces[number];
        let (start, end) = (piece.start, piece.end());
        if !(start..end).contains(&built.arenas[0].address) {
            for at in (start..end).step_by(16) {
                built.image.words(at, &[0, 0x21]);
            }
            built.image.pieces[number].unsaved = index((end - start) / 3) as u64;
        }
    }
    let answer = built.open();
    in_time(move || consistent(&answer, &[]));
}
