//! Pointers into blocks that count as to their start, each seen to count and not to.

use gdb_leak::graph::{Link, Mark, Wanted};
use gdb_leak::heap::block::State;
use gdb_leak::word::WordFormat;

use crate::world::{CODE, DATA, World};

/// One block of ten words of which the given ones are set, and a root `offset` bytes into it.
fn world(words: &[(u64, u64)], offset: u64) -> World {
    let mut world = World::new(WordFormat::LITTLE_64, 0x40_0000, &[(11, State::Used), (8, State::Used)]);
    world.words.extend(words.iter().map(|(place, value)| (0, *place, *value)));
    world.table.push(world.block(0) + offset);
    world.table.push(world.block(1));
    world
}

/// The heuristic that saved the block, with all of them and with that one alone left out.
fn saved(world: &World) -> Option<Link> {
    let (marks, _) = world.traced(Wanted::ALL);
    let link = marks.saved_by(0);
    assert_eq!(marks.mark(0), if link.is_some() { Mark::Reachable } else { Mark::Possible });
    assert_eq!(marks.saved_by(1), None);
    let (without, _) = world.traced(Wanted::NONE);
    assert_eq!(without.mark(0), Mark::Possible);
    assert_eq!(without.saved_by(0), None);
    link
}

#[test]
fn the_characters_of_a_string_hold_it() {
    // 80 usable bytes: what asked for 65 to 80 got them. 24 and 1 are the rest's.
    for capacity in [40, 55] {
        assert_eq!(saved(&world(&[(0, 5), (1, capacity)], 24)), Some(Link::StdString), "{capacity}");
    }
    for (length, capacity, offset) in [(5, 39, 24), (5, 56, 24), (56, 55, 24), (0, 0, 24), (5, 40, 32)] {
        assert_eq!(
            saved(&world(&[(0, length), (1, capacity)], offset)),
            None,
            "{length} {capacity} {offset}"
        );
    }
}

#[test]
fn a_block_of_zeros_is_no_string() {
    // 25 bytes for an empty string would get a block of 40.
    let mut world = World::new(WordFormat::LITTLE_64, 0x40_0000, &[(6, State::Used), (8, State::Used)]);
    world.table.extend([world.block(0) + 24, world.block(1)]);
    assert_eq!(saved(&world), None);
    world.words.push((0, 1, 1));
    assert_eq!(saved(&world), Some(Link::StdString));
}

#[test]
fn what_follows_its_own_length_is_held() {
    let wanted = Wanted::from_names("length64").unwrap();
    for (length, offset, held) in
        [(57, 8, true), (72, 8, true), (56, 8, false), (73, 8, false), (0, 8, false), (72, 16, false)]
    {
        let (marks, _) = world(&[(0, length)], offset).traced(wanted);
        assert_eq!(marks.mark(0) == Mark::Reachable, held, "{length} {offset}");
        assert_eq!(marks.saved_by(0), held.then_some(Link::Length64));
    }
}

#[test]
fn what_follows_a_number_of_elements_is_held() {
    // 72 bytes are behind the number; 57 to 72 may have been asked for.
    for (count, offset, held) in [
        (3, 8, true),
        (7, 8, true),
        (31, 8, true),
        (40, 8, false),
        (0, 8, false),
        (73, 8, false),
        (3, 16, false),
    ] {
        let link = saved(&world(&[(0, count)], offset));
        assert_eq!(link, held.then_some(Link::NewArray), "{count} {offset}");
    }
}

#[test]
fn a_second_table_of_functions_holds_an_object() {
    let mut data = vec![0; 512];
    data[16..24].copy_from_slice(&CODE.to_le_bytes());
    data[32..40].copy_from_slice(&(CODE + 16).to_le_bytes());
    // At 256 one function, and then something that is none.
    data[256..264].copy_from_slice(&CODE.to_le_bytes());
    data[264..272].copy_from_slice(&77_u64.to_le_bytes());
    let object = |first: u64, second: u64, offset: u64| {
        let mut world = world(&[(0, first), (2, second)], offset);
        world.data.clone_from(&data);
        saved(&world)
    };
    assert_eq!(object(DATA + 16, DATA + 16, 16), Some(Link::MultipleInheritance));
    // Zeros may stand before and between functions.
    assert_eq!(object(DATA, DATA + 8, 16), Some(Link::MultipleInheritance));
    assert_eq!(object(DATA + 16, DATA + 16, 24), None);
    assert_eq!(object(DATA + 16, DATA + 256, 16), None);
    assert_eq!(object(DATA + 256, DATA + 16, 16), None);
    assert_eq!(object(CODE + 8, 0x50_0000, 16), None);
}

#[test]
fn a_pointer_to_the_start_is_named_before_a_heuristic() {
    let mut world = world(&[(0, 3)], 8);
    world.table.push(world.block(0));
    let (marks, _) = world.traced(Wanted::ALL);
    assert_eq!((marks.mark(0), marks.saved_by(0)), (Mark::Reachable, None));
}

#[test]
fn a_second_base_in_the_last_word_holds_an_object_from_wherever_it_is_pointed_at() {
    // 24 bytes: the second base is where malloc's own pointers to the next chunk lead.
    let mut data = vec![0; 64];
    data[16..24].copy_from_slice(&CODE.to_le_bytes());
    data[24..32].copy_from_slice(&CODE.to_le_bytes());
    for place in 0..3 {
        let units = [(4, State::Used), (8, State::Used), (4, State::Top)];
        let mut world = World::new(WordFormat::LITTLE_64, 0x40_0000, &units);
        let (base, second) = (world.block(0) + 16, world.block(1));
        world.words.extend([(0, 0, DATA + 16), (0, 2, DATA + 16)]);
        world.data.clone_from(&data);
        world.table.push(second);
        match place {
            0 => world.stack.push(base),
            1 => world.registers.push(base),
            _ => world.words.push((1, 1, base)),
        }
        let (marks, _) = world.traced(Wanted::ALL);
        assert_eq!((marks.mark(0), marks.saved_by(0)), (Mark::Reachable, Some(Link::MultipleInheritance)));
        // Without tables of functions it may be malloc's.
        let (marks, _) = world.traced(Wanted::NONE);
        assert_eq!(marks.mark(0), Mark::Leader, "{place}");
    }
}

#[test]
fn unknown_heuristics_are_refused_by_name() {
    let error = Wanted::from_names("stdstring,what").unwrap_err().to_string();
    assert!(error.starts_with("-heuristics stdstring,what: "), "{error}");
}
