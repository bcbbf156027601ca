//! Heaps of a process that was stopped within malloc, with the registers of the thread that is there.

use crate::builder::{Built, PAGE, build};
use crate::cases::plain;
use crate::figures::Kind;
use crate::plan::{Block, Want};
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

/// A main arena of glibc 2.`minor` with these blocks, each by its steps, and nothing else.
fn arena(minor: u32, blocks: &[(u64, Want)]) -> Built {
    let mut plan = plain(Kind::X86, minor);
    plan.main[0].blocks = blocks.iter().map(|(steps, want)| Block { steps: *steps, want: *want }).collect();
    build(&plan)
}

/// The units of all chunks but `but` are as they were built, and no rule is broken.
#[track_caller]
fn all_but(built: &Built, but: &[u64]) {
    let answer = built.open();
    let heap = answer.heap.as_deref().unwrap();
    assert_eq!(heap.damages(), 0, "{:x?}", heap.damage());
    assert!(heap.checks().iter().all(|check| check.holds), "{:?}", heap.checks());
    assert!(heap.notes().iter().any(|note| note.contains("in the middle of a malloc call")));
    for chunk in built.chunks.iter().filter(|chunk| !but.contains(&chunk.start)) {
        let unit = heap.blocks().unit_at(chunk.start);
        let unit = unit.map(|unit| (unit.range.start(), unit.range.end(), unit.state));
        assert_eq!(unit, Some((chunk.start, chunk.end(), chunk.state)), "{chunk:x?}");
    }
}

// glibc 2.17 to 2.43, malloc/malloc.c, `_int_realloc`: the size of the block, then that of the rest. What the
// block held was the header of a chunk once, with a size that leads to where one starts today.
#[test]
fn a_rest_ends_where_registers_say_and_not_where_old_bytes_lead() {
    let used = |steps| (steps, Want::Used);
    for by_size in [false, true] {
        let mut built = arena(31, &[used(1), used(40), used(2), used(5), used(1), used(7), used(3)]);
        let block = *built.chunks.iter().find(|chunk| chunk.size == 40 * 16 + 32).unwrap();
        let last = built.chunks.iter().map(|chunk| chunk.start).max().unwrap();
        let size = 0x60;
        let rest = block.start + size;
        built.image.word(block.start + 8, size | 1);
        built.image.words(rest, &[0x5555, 0x1234_5678_9abc, 0, 0]);
        let old = rest + 0x40;
        built.image.words(old, &[0, (last - old) | 1]);
        let in_hand = if by_size { (block.end() - rest) | 1 } else { block.end() };
        within(&mut built, &[block.start, in_hand, rest]);
        all_but(&built, &[block.start]);
        let heap = built.open().heap.unwrap();
        let unit = heap.blocks().unit_at(rest).unwrap();
        assert_eq!((unit.range.start(), unit.range.end()), (rest, block.end()));
    }
}
