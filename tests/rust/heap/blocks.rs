//! The packed list of blocks against a vector of them.

use gdb_leak::heap::block::{Blocks, MOST_SPAN, Part, Shape, State, Unit};
use gdb_leak::range::AddressRange;
use proptest::collection::vec;
use proptest::prelude::*;

/// A span: how far behind the one before it starts, how its blocks lie, its units.
#[derive(Clone, Debug)]
struct Span {
    gap: i64,
    shape: Shape,
    arena: Option<u32>,
    units: Vec<(u64, State)>,
}

fn spans() -> impl Strategy<Value = Vec<Span>> {
    // Mostly small units, some of several pages of the table.
    let steps = prop_oneof![6 => 1..9_u64, 3 => 1..64_u64, 1 => 500..1200_u64];
    let state = proptest::sample::select(&State::ALL[..]);
    let shape = prop_oneof![Just((16, 8)), Just((8, 4)), Just((16, 16)), Just((16, 24)), Just((0, 0))];
    let gap = prop_oneof![4 => 0..5000_i64, 2 => Just(0), 1 => -40..0_i64];
    let arena = proptest::option::of(0..3_u32);
    let span =
        (gap, shape, arena, vec((steps, state), 0..24)).prop_map(|(gap, (lead, cost), arena, units)| Span {
            gap,
            shape: Shape { lead, cost },
            arena,
            units,
        });
    vec(span, 0..6)
}

/// The parts, and where each lies.
fn parts(spans: &[Span], start: u64) -> Vec<Part> {
    let mut at = start;
    let mut parts = Vec::new();
    for span in spans {
        at = at.checked_add_signed(span.gap).unwrap();
        let mut part = Part::new(at, span.shape, span.arena);
        for (steps, state) in &span.units {
            at += steps * 8;
            part.push(at, *state);
        }
        parts.push(part);
    }
    parts
}

/// What a look at all of them finds: units with the number of their span, and the ranges left out.
///
/// Of two that overlap the one that starts first stays, or else ends first, or else was first from `turn` on.
fn naive(spans: &[Span], start: u64, turn: usize) -> (Vec<(usize, Unit)>, Vec<AddressRange>) {
    let ranges = parts(spans, start).into_iter().map(|part| part.range());
    let mut order: Vec<(AddressRange, &Span)> = ranges.zip(spans).collect();
    order.rotate_left(turn);
    order.retain(|(range, _)| !range.is_empty());
    order.sort_by_key(|(range, _)| *range);
    let (mut units, mut dropped) = (Vec::<(usize, Unit)>::new(), Vec::new());
    for (number, (range, span)) in order.into_iter().enumerate() {
        if units.last().is_some_and(|(_, last)| last.range.end() > range.start()) {
            dropped.push(range);
            continue;
        }
        let mut at = range.start();
        for (steps, state) in &span.units {
            let range = AddressRange::with_length(at, steps * 8).unwrap();
            at = range.end();
            let index = units.len();
            units.push((number, Unit { index, range, state: *state, shape: span.shape, arena: span.arena }));
        }
    }
    (units, dropped)
}

/// The block that holds a byte: of its unit, or else of the unit before in its span, which may reach into it.
fn block_at(units: &[(usize, Unit)], address: u64) -> Option<Unit> {
    let at = units.iter().position(|(_, unit)| unit.range.contains(address))?;
    let holds = |unit: &Unit| unit.state.block() && unit.block().contains(address);
    let before = at.checked_sub(1).map(|before| units[before]).filter(|(span, _)| *span == units[at].0);
    Some(units[at].1).filter(holds).or_else(|| before.map(|(_, unit)| unit).filter(holds))
}

proptest! {
    #![proptest_config(crate::plan::cases(60))]

    #[test]
    fn each_byte_has_the_unit_and_the_block_that_a_look_at_all_of_them_finds(
        spans in spans(), start in 0x1000..0x3000_u64, turn in any::<usize>(),
    ) {
        let turn = turn.checked_rem(spans.len()).unwrap_or(0);
        let (units, dropped) = naive(&spans, start, turn);
        let mut parts = parts(&spans, start);
        parts.rotate_left(turn);
        let (blocks, left_out) = Blocks::new(parts);
        prop_assert_eq!(left_out, dropped);
        prop_assert_eq!(blocks.len(), units.len());
        let first = units.first().map_or(start, |(_, first)| first.range.start());
        let end = units.last().map_or(start, |(_, last)| last.range.end());
        for address in first - 8..end + 8 {
            let unit = units.iter().find(|(_, unit)| unit.range.contains(address)).map(|(_, unit)| *unit);
            prop_assert_eq!(blocks.unit_at(address), unit, "unit at {:#x}", address);
            let here = unit.filter(|unit| unit.range.start() == address);
            prop_assert_eq!(blocks.unit_from(address), here, "unit from {:#x}", address);
            prop_assert_eq!(blocks.span_at(address).is_some(), unit.is_some());
            prop_assert_eq!(blocks.block_at(address), block_at(&units, address), "block at {:#x}", address);
        }
    }

    #[test]
    fn units_have_the_numbers_that_they_have_in_a_list_of_all(
        spans in spans(), from in 0..200_usize, count in 0..100_usize,
    ) {
        let units: Vec<Unit> = naive(&spans, 0x1000, 0).0.into_iter().map(|(_, unit)| unit).collect();
        let (mut blocks, _) = Blocks::new(parts(&spans, 0x1000));
        prop_assert_eq!(blocks.units().collect::<Vec<_>>(), units.clone());
        let to = (from + count).min(units.len());
        let slice = units.get(from..to.max(from)).unwrap_or_default().to_vec();
        prop_assert_eq!(blocks.units_in(from..to).collect::<Vec<_>>(), slice);
        for (number, unit) in units.iter().enumerate() {
            prop_assert_eq!(blocks.unit(number), Some(*unit));
        }
        prop_assert_eq!(blocks.unit(units.len()), None);
        if let Some(unit) = units.get(from) {
            blocks.set_state(from, State::Damaged);
            prop_assert_eq!(blocks.unit(from), Some(Unit { state: State::Damaged, ..*unit }));
        }
    }

    #[test]
    fn a_part_is_a_stack_of_units(units in vec((1..90_u64, proptest::sample::select(&State::ALL[..])), 1..20)) {
        let shape = Shape { lead: 16, cost: 8 };
        let mut part = Part::new(0x1000, shape, None);
        let mut ends = vec![0x1000];
        for (steps, state) in &units {
            part.push(part.end() + steps * 8, *state);
            // Nothing ends where it starts.
            part.push(part.end(), *state);
            ends.push(part.end());
        }
        for (number, (_, state)) in units.iter().enumerate().rev() {
            prop_assert_eq!(part.last_state(), Some(*state));
            prop_assert_eq!(part.last_start(), Some(ends[number]));
            prop_assert_eq!(part.end(), ends[number + 1]);
            prop_assert_eq!(part.pop(), Some(ends[number]));
        }
        prop_assert_eq!((part.pop(), part.end()), (None, 0x1000));
    }
}

#[test]
fn a_span_takes_units_that_start_within_32_bits_of_steps_and_is_full_then() {
    let mut part = Part::new(0x1000, Shape { lead: 16, cost: 8 }, None);
    part.push(0x1000 + MOST_SPAN - 8, State::Used);
    assert!(!part.full());
    part.push(0x1000 + MOST_SPAN + 64, State::Top);
    assert!(part.full());
    let end = part.end();
    part.push(end + 32, State::Used);
    assert_eq!(part.end(), end);
    let (blocks, _) = Blocks::new(vec![part]);
    assert_eq!(blocks.len(), 2);
    let ends = [0x1000, 0x1000 + MOST_SPAN - 9, 0x1000 + MOST_SPAN - 8, end - 1];
    assert_eq!(ends.map(|address| blocks.unit_at(address).map(|unit| unit.index)), [0, 0, 1, 1].map(Some));
    assert_eq!(blocks.unit_at(end), None);
}
