//! Heaps of a process that was stopped within malloc, with the registers of the thread that is there.

use crate::builder::{Built, Chunk, PAGE, build};
use crate::cases::plain;
use crate::figures::Kind;
use crate::plan::{Block, Got, Plan, Stretch, Want};
use gdb_leak::heap::Allocator;
use gdb_leak::heap::block::State;
use gdb_leak::memory::RegionKind;
use gdb_leak::source::Thread;
use gdb_leak::source::registers::{Register, Registers};

/// Names of registers that a call has its chunks in.
const NAMES: [&str; 6] = ["r12", "r13", "r14", "rbp", "rbx", "rdx"];

/// One thread, at an instruction of malloc's module, with these numbers in its registers.
fn within(built: &mut Built, held: &[u64]) {
    let counter = built.arenas[0].address / PAGE * PAGE + PAGE * 2;
    // `nop`.
    built.image.put_bytes(counter, &[0x90; 16]);
    let held = NAMES.iter().zip(held).map(|(name, value)| (*name, *value));
    let general = std::iter::once(("rip", counter)).chain(held);
    let general = general.map(|(name, value)| Register { name: name.into(), value }).collect();
    let pointer = built.threads.first().and_then(|thread| thread.thread_pointer);
    let registers = Registers { general, vector: Vec::new() };
    built.threads = vec![Thread { id: 1, thread_pointer: pointer, registers, ..Thread::default() }];
}

fn blocks(blocks: &[(u64, Want)]) -> Vec<Block> {
    blocks.iter().map(|(steps, want)| Block { steps: *steps, want: *want }).collect()
}

/// A main arena of glibc 2.`minor` with these blocks, each by its steps, and nothing else.
fn arena(minor: u32, of: &[(u64, Want)]) -> Built {
    let mut plan = plain(Kind::X86, minor);
    plan.main[0].blocks = blocks(of);
    build(&plan)
}

/// The same, whose last blocks are between two parts of memory that others took from `brk`.
fn between_others(minor: u32, of: &[(u64, Want)]) -> Plan {
    let mut plan = plain(Kind::X86, minor);
    let stretch = |of: &[(u64, Want)]| Stretch {
        got: Got::Brk(PAGE + 0x700),
        blocks: blocks(of),
        top: Some(9),
        rest: Want::Used,
    };
    plan.main.extend([stretch(of), stretch(&[(3, Want::Used)])]);
    plan
}

/// The units of all chunks but some are as they were built, and no rule is broken.
#[track_caller]
fn all_but(built: &Built, but: &[u64]) {
    let answer = built.open();
    let heap = answer.heap.as_deref().unwrap();
    assert_eq!(heap.damages(), 0, "{:x?}", heap.damage());
    assert!(heap.checks().iter().all(|check| check.holds), "{:?}", heap.checks());
    for chunk in built.chunks.iter().filter(|chunk| !but.contains(&chunk.start)) {
        assert_eq!(unit(heap, chunk.start), Some((chunk.start, chunk.end(), chunk.state)), "{chunk:x?}");
    }
}

/// The same, and it is said that a call is under way.
#[track_caller]
fn all_but_in_hand(built: &Built, but: &[u64]) {
    all_but(built, but);
    let heap = built.open().heap.unwrap();
    assert!(heap.notes().iter().any(|note| note.contains("in the middle of a malloc call")));
}

fn unit(heap: &dyn Allocator, at: u64) -> Option<(u64, u64, State)> {
    heap.blocks().unit_at(at).map(|unit| (unit.range.start(), unit.range.end(), unit.state))
}

/// The chunk whose size is that of so many steps.
fn with_steps(built: &Built, steps: u64) -> Chunk {
    *built.chunks.iter().find(|chunk| chunk.size == built.target.smallest() + steps * 16).unwrap()
}

/// malloc/malloc.c, `unlink_chunk`: both neighbours on the list lead past the chunk.
fn off_its_list(built: &mut Built, chunk: &Chunk) {
    let (next, back) = (built.image.read(chunk.start + 16), built.image.read(chunk.start + 24));
    built.image.word(next + 24, back);
    built.image.word(back + 16, next);
}

/// malloc/malloc.c, `_int_malloc`: a chunk is off its list and has the size of its first part, and where the
/// rest starts is an old size that leads to `to`. Returns where that is.
fn cut(built: &mut Built, chunk: &Chunk, to: u64) -> u64 {
    off_its_list(built, chunk);
    let rest = chunk.start + 0x60;
    let flag = built.image.read(chunk.start + 8) & 1;
    built.image.word(chunk.start + 8, 0x60 | flag);
    built.image.words(rest, &[0x5555, (to - rest) | 1, 0, 0]);
    rest
}

// glibc 2.17 to 2.43, malloc/malloc.c, `_int_realloc`: the size of the block, then that of the rest. What the
// block held was the header of a chunk once, with a size that leads to where one starts today.
#[test]
fn a_rest_ends_where_registers_say_and_not_where_old_bytes_lead() {
    let used = |steps| (steps, Want::Used);
    for (by_size, foot) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut built = arena(31, &[used(1), used(40), used(2), used(5), used(1), used(7), used(3)]);
        let block = with_steps(&built, 40);
        let last = built.chunks.iter().map(|chunk| chunk.start).max().unwrap();
        let size = 0x60;
        let rest = block.start + size;
        built.image.word(block.start + 8, size | 1);
        built.image.words(rest, &[0x5555, 0x1234_5678_9abc, 0, 0]);
        let old = rest + 0x40;
        built.image.words(old, &[0, (last - old) | 1]);
        if foot {
            // Before that it was free up to there.
            built.image.words(old, &[old - block.start, last - old]);
        }
        let in_hand = if by_size { (block.end() - rest) | 1 } else { block.end() };
        within(&mut built, &[block.start, in_hand, rest]);
        all_but_in_hand(&built, &[block.start]);
        let heap = built.open().heap.unwrap();
        assert_eq!(unit(heap.as_ref(), rest), Some((rest, block.end(), State::Used)));
    }
}

// glibc 2.17 to 2.43, malloc/malloc.c, `_int_malloc`: the rest's links, the first size, the rest's
// size, the size behind it.
#[test]
fn a_rest_without_a_size_hides_none_of_the_blocks_before_that_to_which_its_old_bytes_lead() {
    let used = |steps| (steps, Want::Used);
    for inside in [0x20, 0] {
        let mut built = arena(41, &[used(1), (40, Want::Binned), used(2), used(5), used(1), used(7)]);
        let (chunk, last) = (with_steps(&built, 40), with_steps(&built, 7));
        built.image.words(last.start + 0x20, &[0; 4]);
        let rest = cut(&mut built, &chunk, last.start + inside);
        // The rest is on the unsorted list already.
        let unsorted = built.arenas[0].address + built.target.state().bins - 16;
        built.image.words(rest + 16, &[unsorted, unsorted]);
        built.image.words(unsorted + 16, &[rest, rest]);
        within(&mut built, &[chunk.start, rest]);
        all_but_in_hand(&built, &[chunk.start]);
        let heap = built.open().heap.unwrap();
        let (start, end, state) = unit(heap.as_ref(), rest).unwrap();
        assert!((start, end) == (rest, chunk.end()) && state.free());
    }
}

// glibc 2.17 to 2.43, malloc/malloc.c, `_int_realloc`: the block's size, then `top`, then its size.
#[test]
fn a_block_that_takes_some_of_the_top_chunk_is_no_damage() {
    for minor in [31, 43] {
        let mut built = arena(minor, &[(1, Want::Used), (3, Want::Unsorted), (2, Want::Used)]);
        let last = *built.chunks.last().unwrap();
        assert_eq!(last.end(), built.arenas[0].top);
        let head = built.image.read(last.start + 8);
        built.image.word(last.start + 8, head + 0x20);
        within(&mut built, &[last.start, last.start + 16]);
        all_but_in_hand(&built, &[last.start]);
        // Without a register that has it, it is an overflow.
        within(&mut built, &[]);
        assert!(built.open().heap.unwrap().damages() > 0);
    }
}

// glibc 2.17 to 2.43, malloc/malloc.c, `sysmalloc`: others took what lies between.
#[test]
fn a_chunk_that_is_cut_between_memory_of_others_hides_none_before_it() {
    let used = |steps| (steps, Want::Used);
    let mut built =
        build(&between_others(31, &[used(2), used(30), used(1), (40, Want::Binned), used(5), used(2)]));
    let chunk = with_steps(&built, 40);
    let rest = cut(&mut built, &chunk, chunk.start + 0x90);
    within(&mut built, &[chunk.start, rest]);
    all_but_in_hand(&built, &[chunk.start]);
}

// glibc 2.17 to 2.43, malloc/malloc.c, `_int_free`: the size of what is merged with `top`, then `top`.
#[test]
fn a_chunk_that_becomes_the_top_chunk_between_memory_of_others_hides_none_before_it() {
    let mut plan = between_others(31, &[(2, Want::Used)]);
    plan.main[2].blocks = blocks(&[(2, Want::Used), (30, Want::Used), (5, Want::Used)]);
    let mut built = build(&plan);
    let last = *built.chunks.last().unwrap();
    let end = built.arenas[0].top + built.arenas[0].top_size;
    built.image.map(end, PAGE * 2, RegionKind::Heap, "[heap]");
    built.image.put_bytes(end, &[0x42; 0x1000]);
    let flag = built.image.read(last.start + 8) & 1;
    built.image.word(last.start + 8, (end - last.start) | flag);
    within(&mut built, &[last.start]);
    all_but(&built, &[last.start]);
}

#[test]
fn a_thread_that_waits_for_the_lock_of_an_arena_is_in_a_call() {
    let mut built = arena(36, &[(2, Want::Used)]);
    let place = built.arenas[0].address;
    for (lock, expected) in [(place, &[1][..]), (place + 0x40, &[])] {
        within(&mut built, &[]);
        let general = &mut built.threads[0].registers.general;
        // `mov eax,202`, `syscall`.
        built.image.put_bytes(general[0].value, &[0xb8, 0xca, 0, 0, 0, 0x0f, 0x05]);
        general[0].value += 7;
        general.push(Register { name: "rdi".into(), value: lock });
        assert_eq!(built.open().heap.unwrap().threads_in_calls(), expected);
    }
}

#[test]
fn numbers_in_registers_make_no_block_of_what_others_took() {
    let mut built = build(&between_others(41, &[(2, Want::Used), (30, Want::Used), (5, Want::Used)]));
    let first = with_steps(&built, 2).start;
    let others = first - 0x400;
    let is_foreign = |built: &Built| {
        all_but(built, &[]);
        let heap = built.open().heap.unwrap();
        assert_eq!(unit(heap.as_ref(), others).map(|(.., state)| state), Some(State::Foreign));
    };
    within(&mut built, &[others, first]);
    is_foreign(&built);
    // Another allocator may have sizes before its blocks, too.
    built.image.put_bytes(others, &[0x42; 0x100]);
    built.image.word(others + 8, 0x91);
    for held in [&[others][..], &[others, first], &[others, 0x90], &[others + 16, others + 0x90]] {
        within(&mut built, held);
        is_foreign(&built);
    }
}

/// A main arena that got these blocks by `mmap`, and its top chunk in another mapping after that.
fn mapped(minor: u32, of: &[(u64, Want)]) -> Built {
    let mut plan = plain(Kind::X86, minor);
    let stretch =
        |of: &[(u64, Want)]| Stretch { got: Got::Mmap, blocks: blocks(of), top: None, rest: Want::Used };
    plan.main.extend([stretch(of), stretch(&[(3, Want::Used)])]);
    build(&plan)
}

/// Blocks of which the fourth starts with a page, so that a mapping may seem to start there.
const BY_PAGES: [(u64, Want); 5] =
    [(1, Want::Used), (30, Want::Used), (216, Want::Used), (9, Want::Used), (12, Want::Used)];

// glibc 2.17 to 2.43, malloc/malloc.c, `_int_free`: the next chunk's flag, links, then both sizes.
#[test]
fn a_chunk_that_is_freed_in_a_mapping_of_the_main_arena_hides_none_beside_it() {
    let used = |steps| (steps, Want::Used);
    for minor in [31, 43] {
        for of in [&BY_PAGES[..], &[used(2), used(30), used(4), used(5)]] {
            let mut built = mapped(minor, of);
            let chunk = with_steps(&built, 30);
            let flags = built.image.read(chunk.end() + 8);
            built.image.word(chunk.end() + 8, flags & !1);
            within(&mut built, &[chunk.start]);
            all_but_in_hand(&built, &[chunk.start]);
        }
    }
}

#[test]
fn a_damaged_size_in_a_mapping_of_the_main_arena_costs_no_other_block() {
    for steps in [30, 216] {
        let mut built = mapped(36, &BY_PAGES);
        let chunk = with_steps(&built, steps);
        built.image.word(chunk.start + 8, 0x7000_0001);
        let heap = built.open().heap.unwrap();
        assert!(heap.damage().iter().any(|damage| (chunk.start..chunk.end()).contains(&damage.address)));
        for other in built.chunks.iter().filter(|other| other.start != chunk.start) {
            assert_eq!(unit(heap.as_ref(), other.start), Some((other.start, other.end(), other.state)));
        }
    }
}

// glibc 2.41 to 2.43, malloc/malloc.c, `_int_free_create_chunk`: the next chunk is off its list; links, which may
// lie over the header of the chunk that is merged with the one before it; then the size.
#[test]
fn a_chunk_that_is_merged_between_memory_of_others_hides_none_before_it() {
    let used = |steps| (steps, Want::Used);
    let between = [used(2), used(3), used(0), used(90), (40, Want::Binned), used(2), used(5)];
    let mut built = build(&between_others(41, &between));
    let (merged, next) = (with_steps(&built, 90), with_steps(&built, 40));
    let first = *built.chunks.iter().find(|chunk| chunk.end() == merged.start).unwrap();
    assert_eq!((first.size, merged.end()), (0x20, next.start));
    off_its_list(&mut built, &next);
    let head = built.arenas[0].address + built.target.state().bins - 16;
    built.image.words(first.start + 16, &[head, head, 0, 0]);
    built.image.words(head + 16, &[first.start, first.start]);
    within(&mut built, &[first.start, next.end() - first.start]);
    all_but_in_hand(&built, &[first.start, merged.start, next.start]);
}

/// The heap with memory after that of others behind its end, which is counted; where that starts.
fn with_more(built: &mut Built) -> (u64, u64) {
    let end = built.arenas[0].top + built.arenas[0].top_size;
    let (others, more) = (0x1800, 0x3000);
    let limit = (end + others + more).next_multiple_of(PAGE);
    built.image.map(end, limit - end, RegionKind::Heap, "[heap]");
    built.image.put_bytes(end, &[0x42; 0x1800]);
    (end + others, limit)
}

// glibc 2.17 to 2.43, malloc/malloc.c, `sysmalloc`: `brk > old_end` counts what others took and the new memory
// first, then a second `brk` goes up to a page's end.
#[test]
fn memory_after_that_of_others_counts_before_it_has_a_top_chunk() {
    for minor in [31, 43] {
        let mut built = arena(minor, &[(1, Want::Used), (3, Want::Unsorted), (2, Want::Used)]);
        let (fresh, _) = with_more(&mut built);
        let system = built.arenas[0].address + built.target.state().system;
        let counted = fresh + 0x3000 - built.sbrk_base;
        built.image.word(system, counted);
        within(&mut built, &[]);
        all_but_in_hand(&built, &[]);
    }
}

// The same: the new top chunk and its size, then the old one's size and two marks behind it.
#[test]
fn a_top_chunk_after_memory_of_others_comes_before_the_marks_of_the_old_one() {
    for minor in [31, 43] {
        let mut built = arena(minor, &[(1, Want::Used), (3, Want::Unsorted), (2, Want::Used)]);
        let old = built.arenas[0].top;
        let (fresh, limit) = with_more(&mut built);
        let arena = built.arenas[0].address;
        let state = built.target.state();
        built.image.word(arena + state.system, limit - built.sbrk_base);
        built.image.word(arena + state.top, fresh);
        built.image.word(fresh + 8, (limit - fresh) | 1);
        within(&mut built, &[old]);
        all_but_in_hand(&built, &[]);
    }
}

// glibc 2.17 to 2.42, malloc/malloc.c, `malloc_consolidate`: `unsorted_bin->fd = p; first_unsorted->bk = p`, and
// the chunk's own links come last.
#[test]
fn a_merged_chunk_whose_link_back_is_not_written_yet_is_on_its_list() {
    let of =
        [(3, Want::Unsorted), (2, Want::Used), (4, Want::Unsorted), (1, Want::Used), (6, Want::Unsorted)];
    let mut built = arena(36, &[&[(1, Want::Used)], &of[..], &[(1, Want::Used)]].concat());
    let head = built.arenas[0].address + built.target.state().bins - 16;
    let first = built.image.read(head + 16);
    built.image.word(first + 24, 0x1234);
    within(&mut built, &[first]);
    all_but_in_hand(&built, &[]);
    within(&mut built, &[]);
    assert!(built.open().heap.unwrap().damages() > 0);
}

// glibc 2.43, malloc/malloc.c, `tcache_thread_shutdown`: the variable leads to `__tcache_dummy`, a constant, then the
// blocks of the cache are freed one after the other, and its counts stay.
#[test]
fn a_cache_that_is_given_back_at_the_end_of_a_thread_has_fewer_blocks_than_it_counts() {
    for constant in [true, false] {
        let mut plan = plain(Kind::X86, 43);
        plan.caches = vec![0, 0];
        let cached = |number| (4, Want::Cached(number));
        plan.main[0].blocks = blocks(&[cached(0), cached(1), cached(1), cached(1), (1, Want::Used)]);
        let mut built = build(&plan);
        let own = built.caches[1].address;
        built.image.constants("/usr/lib/libc.so.6", b"constants");
        let leads = built.arenas[0].address / PAGE * PAGE - 0x10000 + 0x200;
        let pages = built.image.pieces.iter().filter(|piece| piece.start > own && piece.name.is_empty());
        let words = pages.flat_map(|piece| (piece.start..piece.end()).step_by(8)).collect::<Vec<_>>();
        let variable = words.into_iter().find(|at| built.image.read(*at) == own).unwrap();
        built.image.word(variable, if constant { leads } else { own });
        let lists = built.lists.clone();
        let (place, chunks) = lists.iter().find(|(_, chunks)| chunks.len() == 3).unwrap();
        // Two are freed and in use again.
        built.image.word(*place, chunks[2] + 16);
        if constant {
            all_but(&built, &chunks[..2]);
        } else {
            assert!(built.open().heap.unwrap().checks().iter().any(|check| !check.holds));
        }
    }
}

/// An arena of a further thread with two heaps, of which the last has nothing but its top chunk, and the
/// first had `left` steps left of its own.
///
/// Returns where that heap starts.
fn two_heaps(minor: u32, rest: Want, left: u64) -> (Built, u64) {
    let mut plan = plain(Kind::X86, minor);
    let heap =
        |of: &[(u64, Want)], steps| Stretch { got: Got::Mmap, blocks: blocks(of), top: Some(steps), rest };
    plan.arenas = vec![vec![heap(&[(2, Want::Used), (30, Want::Used)], left), heap(&[(5, Want::Used)], 9)]];
    let mut built = build(&plan);
    let arena = built.arenas[1].clone();
    let heap = arena.top / PAGE * PAGE;
    let top = heap + plan.target.heap_info();
    built.chunks.retain(|chunk| !(heap..arena.top).contains(&chunk.start));
    built.image.word(top + 8, (arena.top + arena.top_size - top) | 1);
    built.image.word(arena.address + built.target.state().top, top);
    (built, heap)
}

// glibc 2.17 to 2.43, malloc/arena.c, `heap_trim`: `system_mem`, the mapping, a list, `top`, its size.
#[test]
fn the_last_heap_of_an_arena_may_be_given_back() {
    let versions = [(31, Want::Used), (31, Want::Unsorted), (43, Want::Unsorted)];
    // With 0 and 1 the old top chunk becomes a mark as a whole.
    for ((minor, rest), left) in versions.into_iter().flat_map(|own| [0, 1, 2, 9].map(|left| (own, left))) {
        let (mut built, heap) = two_heaps(minor, rest, left);
        let system = built.arenas[1].address + built.target.state().system;
        let (size, sum) = (built.image.read(heap + 16), built.image.read(system));
        built.image.word(system, sum - size);
        within(&mut built, &[heap]);
        all_but_in_hand(&built, &[]);
        built.image.lose(heap, true);
        let merged = built.chunks.iter().filter(|chunk| chunk.arena == 1 && chunk.merged());
        let merged: Vec<u64> = merged.map(|chunk| chunk.start).collect();
        all_but(&built, &merged);
    }
}
