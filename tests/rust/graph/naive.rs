//! Verdicts as one would work them out by hand: closures over pairs of blocks.

use std::collections::BTreeSet;

use gdb_leak::graph::Mark;
use gdb_leak::heap::block::State;

use crate::world::World;

/// Pairs of the number of a block and whether its start is pointed at.
type Targets = Vec<(usize, bool)>;

/// What a word with that value points at, unless it is a leftover of malloc's own where those are.
pub(crate) fn target(world: &World, value: u64, leftovers: bool) -> Option<(usize, bool)> {
    let used = (0..world.units.len()).filter(|unit| world.units[*unit].1 == State::Used);
    let unit = used.into_iter().find(|unit| world.range(*unit).contains(value))?;
    let block = world.range(unit);
    // The last word of a block is where the next unit's header starts.
    let header = block.end() - world.format.size as u64;
    (!leftovers || value != header).then_some((unit, value == block.start()))
}

/// The block whose header a word of a call of the allocator points at.
pub(crate) fn with_header(world: &World, value: u64) -> Option<usize> {
    let size = world.format.size as u64;
    let used = (0..world.units.len()).filter(|unit| world.units[*unit].1 == State::Used);
    used.into_iter().find(|unit| world.in_call && world.block(*unit) - 2 * size == value)
}

/// What the words of a block point at, others than itself.
pub(crate) fn references(world: &World, unit: usize) -> Targets {
    if world.units[unit].1 != State::Used {
        return Vec::new();
    }
    let words = world.words_of(unit).into_iter().enumerate();
    let targets = words.filter_map(|(place, (_, value))| target(world, value, place < 4));
    targets.filter(|(other, _)| *other != unit).collect()
}

fn from_roots(world: &World) -> Targets {
    let own = || world.stack.iter().chain(&world.registers);
    let stack = own().filter_map(|value| target(world, *value, true));
    let headers = own().filter_map(|value| Some((with_header(world, *value)?, true)));
    stack.chain(headers).chain(world.table.iter().filter_map(|value| target(world, *value, false))).collect()
}

/// All that is reached from `first`, which is part of it, over pairs that `takes` lets pass.
fn closure(edges: &[Targets], first: &Targets, takes: impl Fn(bool) -> bool) -> BTreeSet<usize> {
    let mut reached: BTreeSet<usize> = BTreeSet::new();
    let mut left: Targets = first.clone();
    while let Some((unit, start)) = left.pop() {
        if takes(start) && reached.insert(unit) {
            left.extend(&edges[unit]);
        }
    }
    reached
}

/// The mark of each unit, and the leader of each member.
pub(crate) fn marks(world: &World) -> Vec<(Mark, usize)> {
    let count = world.units.len();
    let used = |unit: &usize| world.units[*unit].1 == State::Used;
    let edges: Vec<Targets> = (0..count).map(|unit| references(world, unit)).collect();
    let roots = from_roots(world);
    let reachable = closure(&edges, &roots, |start| start);
    let possible = closure(&edges, &roots, |_| true);
    let lost: BTreeSet<usize> = (0..count).filter(used).filter(|unit| !possible.contains(unit)).collect();
    // As valgrind says it: whoever comes first leads what was not led, and brings along whom he led.
    let mut leaders: Vec<Option<usize>> = vec![None; count];
    for first in &lost {
        if leaders[*first].is_some() {
            continue;
        }
        leaders[*first] = Some(*first);
        let mut left = vec![*first];
        while let Some(unit) = left.pop() {
            for (other, _) in edges[unit].iter().filter(|(other, _)| lost.contains(other) && other != first) {
                if leaders[*other].is_none() || leaders[*other] == Some(*other) {
                    let brought = leaders[*other];
                    leaders
                        .iter_mut()
                        .filter(|leader| brought.is_some() && **leader == brought)
                        .for_each(|leader| *leader = Some(*first));
                    leaders[*other] = Some(*first);
                    left.push(*other);
                }
            }
        }
    }
    let mark = |unit: usize| match leaders[unit] {
        Some(leader) if leader == unit => (Mark::Leader, unit),
        Some(leader) => (Mark::Member, leader),
        None if reachable.contains(&unit) => (Mark::Reachable, unit),
        None if possible.contains(&unit) => (Mark::Possible, unit),
        None => (Mark::None, unit),
    };
    (0..count).map(mark).collect()
}
