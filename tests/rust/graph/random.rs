//! Random graphs, traced and looked at by hand.

use gdb_leak::graph::{Graph, Heuristics, Index, Link, Mark, Paths, Place, Referrers, Source, Wanted};
use gdb_leak::heap::allocator::Count;
use gdb_leak::heap::block::State;
use gdb_leak::memory::Memory;
use gdb_leak::pass::{CHUNK, Job};
use gdb_leak::range::AddressRange;
use gdb_leak::word::{ByteOrder, WordFormat};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::naive;
use crate::world::World;

/// A value, told by what it is to point at: a unit, and how far from its block's start in bytes.
#[derive(Clone, Debug)]
enum Value {
    Start(usize),
    Header(usize),
    Near(usize, i64),
    Number(u64),
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        5 => (0..64_usize).prop_map(Value::Start),
        1 => (0..64_usize).prop_map(Value::Header),
        2 => (0..64_usize, -24..80_i64).prop_map(|(unit, offset)| Value::Near(unit, offset)),
        1 => any::<u64>().prop_map(Value::Number),
    ]
}

fn formats() -> impl Strategy<Value = WordFormat> {
    let order = prop_oneof![Just(ByteOrder::Little), Just(ByteOrder::Big)];
    (prop_oneof![3 => Just(8_usize), 1 => Just(4)], order)
        .prop_map(|(size, order)| WordFormat { size, order })
}

fn worlds() -> impl Strategy<Value = World> {
    let state = prop_oneof![
        8 => Just(State::Used), 1 => Just(State::Small), 1 => Just(State::Tcache), 1 => Just(State::Allocator)
    ];
    let units = vec((4..12_u64, state), 1..40);
    let words = vec((0..64_usize, 0..11_u64, values()), 0..90);
    // Around a border between two chunks of a pass, or far from one.
    let start = prop_oneof![Just(0x40_0000), (0..160_u64).prop_map(|words| 5 * CHUNK - 16 * words)];
    let roots = (vec(values(), 0..6), vec(values(), 0..6), vec(values(), 0..3), any::<bool>());
    (formats(), start, units, words, roots).prop_map(|(format, start, units, words, roots)| {
        let count = units.len();
        // Behind the last block there is always something of the allocator's.
        let units = [&units[..], &[(4, State::Top)]].concat();
        // Units are a multiple of eight bytes.
        let units: Vec<_> = units.iter().map(|(words, state)| (words + words % 2, *state)).collect();
        let mut world = World::new(format, start, &units);
        let value = |world: &World, value: &Value| match value {
            Value::Start(unit) => world.block(unit % count),
            Value::Header(unit) => world.block(unit % count) - 2 * world.format.size as u64,
            Value::Near(unit, offset) => world.block(unit % count).wrapping_add_signed(*offset),
            Value::Number(number) => number & format.max(),
        };
        for (unit, place, pointed) in &words {
            let unit = unit % count;
            // The last word of a block is the one before the next unit's size.
            let place = place % (units[unit].0 - 1);
            world.words.push((unit, place, value(&world, pointed)));
        }
        world.stack = roots.0.iter().map(|own| value(&world, own)).collect();
        world.table = roots.1.iter().map(|own| value(&world, own)).collect();
        world.registers = roots.2.iter().map(|own| value(&world, own)).collect();
        world.in_call = roots.3;
        world
    })
}

fn cases() -> ProptestConfig {
    let times: u32 = std::env::var("GDB_LEAK_SOAK").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    ProptestConfig { cases: 256 * times, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_block_has_the_mark_that_a_look_by_hand_gives(world in worlds()) {
        let (marks, _) = world.traced(Wanted::NONE);
        let expected = naive::marks(&world);
        for (unit, (mark, leader)) in expected.iter().enumerate() {
            prop_assert_eq!(marks.mark(unit), *mark, "unit {}", unit);
            prop_assert_eq!(marks.leader(unit), *leader, "unit {}", unit);
        }
        // What leaders hold is what their members are.
        for unit in (0..world.units.len()).filter(|unit| expected[*unit].0 == Mark::Leader) {
            let led = |other: &usize| expected[*other] == (Mark::Member, unit);
            let members: Vec<usize> = (0..world.units.len()).filter(led).collect();
            let bytes = members.iter().map(|member| world.range(*member).len()).sum();
            prop_assert_eq!(marks.weight(unit), Count { blocks: members.len() as u64, bytes });
            let mut told = Vec::new();
            marks.members(unit, |member| told.push(member));
            prop_assert_eq!(told, members);
        }
    }

    #[test]
    fn rows_have_each_reference_between_two_blocks_once(world in worlds()) {
        let (memory, blocks, job) = (world.memory(), world.blocks(), Job::default());
        let heuristics = Heuristics::new(&memory, Wanted::NONE);
        let graph = Graph::new(&memory, &Index::new(&blocks), &heuristics, &job).unwrap();
        let mut all = 0;
        for unit in 0..world.units.len() {
            let row = graph.of(u32::try_from(unit).unwrap()).iter();
            let told: Vec<_> =
                row.map(|edge| (edge.block() as usize, edge.link() == Link::Start)).collect();
            all += told.len();
            prop_assert_eq!(told, naive::references(&world, unit));
        }
        prop_assert_eq!(graph.references(), all);
    }

    #[test]
    fn only_the_bytes_of_blocks_in_use_are_missing(world in worlds(), from in 0..500_u64, words in 0..500_u64) {
        let (blocks, job, size) = (world.blocks(), Job::default(), world.format.size as u64);
        let hole = AddressRange::with_length(world.start + from * size, words * size).unwrap();
        let memory = world.heap_without(hole);
        let heuristics = Heuristics::new(&memory, Wanted::NONE);
        let graph = Graph::new(&memory, &Index::new(&blocks), &heuristics, &job).unwrap();
        let used = (0..world.units.len()).filter(|unit| world.units[*unit].1 == State::Used);
        let lost = used.filter_map(|unit| world.range(unit).intersection(hole));
        prop_assert_eq!(graph.missing(), lost.map(AddressRange::len).sum::<u64>());
    }

    #[test]
    fn every_reference_is_found_from_the_block_that_it_points_at(world in worlds()) {
        let (memory, blocks, job, roots) = (world.memory(), world.blocks(), Job::default(), world.roots());
        let index = Index::new(&blocks);
        let none = Heuristics::new(&memory, Wanted::NONE);
        for unit in blocks.units().filter(|unit| unit.state == State::Used) {
            let found = Referrers::find(&memory, &index, &roots, &none, &unit, usize::MAX, &job).unwrap();
            let mut expected = 0;
            for other in (0..world.units.len()).filter(|other| world.units[*other].1 == State::Used) {
                for (place, (at, value)) in world.words_of(other).into_iter().enumerate() {
                    if naive::target(&world, value, place < 4).is_some_and(|(target, _)| target == unit.index) {
                        expected += 1;
                        let offset = value - unit.block().start();
                        let told = |one: &gdb_leak::graph::Reference| {
                            one.source == Source::Block(at, other) && u64::try_from(one.offset) == Ok(offset)
                        };
                        prop_assert!(found.references.iter().any(told), "{at:#x} in {other}");
                    }
                }
            }
            let points = |value: &u64, own: bool| {
                naive::target(&world, *value, own).is_some_and(|(target, _)| target == unit.index)
            };
            let on_stack = world.stack.iter().chain(&world.registers).filter(|value| points(value, true)).count();
            let own = world.stack.iter().chain(&world.registers);
            let headers = own.filter(|value| naive::with_header(&world, **value) == Some(unit.index)).count();
            let in_table = world.table.iter().filter(|value| points(value, false)).count();
            prop_assert_eq!(found.count, expected + (on_stack + headers + in_table) as u64);
            let few = Referrers::find(&memory, &index, &roots, &none, &unit, 2, &job).unwrap();
            prop_assert_eq!((few.count, few.references.len()), (found.count, found.references.len().min(2)));
        }
    }

    #[test]
    fn a_path_leads_from_a_root_to_the_block_word_by_word(world in worlds()) {
        let (memory, blocks, job, roots) = (world.memory(), world.blocks(), Job::default(), world.roots());
        let index = Index::new(&blocks);
        let heuristics = Heuristics::new(&memory, Wanted::NONE);
        let paths = Paths { memory: &memory, index: &index, roots: &roots, heuristics: &heuristics };
        let marks = naive::marks(&world);
        for unit in blocks.units().filter(|unit| unit.state == State::Used) {
            let path = paths.shortest(&unit, &job).unwrap();
            let held = matches!(marks[unit.index].0, Mark::Reachable | Mark::Possible);
            prop_assert_eq!(path.is_some(), held);
            let Some(path) = path else { continue };
            let mut before = None;
            for step in &path {
                let value = match step.source {
                    Source::Root(Place::Register(number)) => roots.registers[number].value,
                    Source::Root(Place::Memory(at, _)) => memory.word(at).unwrap(),
                    Source::Block(at, within) => {
                        prop_assert_eq!(Some(within), before);
                        prop_assert!(blocks.unit(within).unwrap().block().contains(at));
                        memory.word(at).unwrap()
                    }
                };
                prop_assert_eq!(before.is_none(), matches!(step.source, Source::Root(_)));
                let block = blocks.unit(step.block).unwrap().block();
                prop_assert_eq!(Some(value), block.start().checked_add_signed(step.offset));
                if marks[unit.index].0 == Mark::Reachable {
                    prop_assert!(step.offset == 0 || naive::with_header(&world, value) == Some(step.block));
                }
                before = Some(step.block);
            }
            prop_assert_eq!(before, Some(unit.index));
        }
    }
}
