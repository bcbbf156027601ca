//! Structures whose shape must not matter: long lists, in whatever order their nodes lie.

use gdb_leak::graph::{Mark, Wanted};
use gdb_leak::heap::block::State;
use gdb_leak::word::WordFormat;

use crate::world::World;

const NODES: usize = 20_000;

/// A list whose nodes point at the next one, or at both neighbours.
fn list(double: bool, backwards: bool) -> World {
    let units = vec![(4, State::Used); NODES];
    let mut world = World::new(WordFormat::LITTLE_64, 0x40_0000, &units);
    for node in 0..NODES {
        let (next, before) =
            if backwards { (node.checked_sub(1), node + 1) } else { (Some(node + 1), node.wrapping_sub(1)) };
        if let Some(next) = next.filter(|next| *next < NODES) {
            let next = world.block(next);
            world.words.push((node, 0, next));
        }
        if double && before < NODES {
            let before = world.block(before);
            world.words.push((node, 1, before));
        }
    }
    world
}

fn marks(world: &World) -> Vec<Mark> {
    let (marks, _) = world.traced(Wanted::NONE);
    (0..NODES).map(|unit| marks.mark(unit)).collect()
}

#[test]
fn a_list_that_nothing_holds_has_one_leader_whichever_way_it_was_made() {
    for (backwards, leader) in [(false, 0), (true, NODES - 1)] {
        let marks = marks(&list(false, backwards));
        let leaders: Vec<usize> = (0..NODES).filter(|unit| marks[*unit] == Mark::Leader).collect();
        assert_eq!(leaders, [leader]);
        assert!(marks.iter().all(|mark| matches!(mark, Mark::Leader | Mark::Member)));
    }
}

#[test]
fn whoever_comes_first_leads_a_list_linked_both_ways() {
    for backwards in [false, true] {
        let world = list(true, backwards);
        let (marks, _) = world.traced(Wanted::NONE);
        assert_eq!(marks.mark(0), Mark::Leader);
        assert_eq!(marks.weight(0).blocks, NODES as u64 - 1);
        assert_eq!(marks.leader(NODES - 1), 0);
    }
}

#[test]
fn a_list_that_a_root_holds_is_held_to_its_end() {
    for (double, backwards) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut world = list(double, backwards);
        let head = if backwards { NODES - 1 } else { 0 };
        world.table.push(world.block(head));
        assert!(marks(&world).iter().all(|mark| *mark == Mark::Reachable));
    }
}
