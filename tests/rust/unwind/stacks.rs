//! Dead words of whole stacks.

use std::collections::BTreeSet;

use gdb_leak::memory::Memory;
use gdb_leak::pass::Job;
use gdb_leak::range::AddressRange;
use gdb_leak::source::Thread;
use gdb_leak::unwind::{Unclear, Unwinder, dead_slots};
use proptest::prelude::*;

use crate::module::{BASE, Part, STACK, WAITS, at, image, memory, thread};

const NOTHING: [u64; 0] = [];

/// A frame of four words of which it uses the second, without a frame pointer; its call
/// returns at its eleventh byte.
const PLAIN: &str = "
    4883ec28           sub rsp,0x28
    = rsp+48
    48897c2408         mov qword ptr [rsp+8],rdi
    e8fb0f0000         call .+0x1000
    488b7c2408         mov rdi,qword ptr [rsp+8]
    4883c428           add rsp,0x28
    = rsp+8
    c3                 ret";
const PLAIN_GOES_ON: u64 = 14;
/// The same with a frame pointer.
const FRAMED: &str = "
    55                 push rbp
    = rsp+16
    4889e5             mov rbp,rsp
    = rbp+16
    4883ec20           sub rsp,0x20
    48897df8           mov qword ptr [rbp-8],rdi
    e8fb0f0000         call .+0x1000
    488b7df8           mov rdi,qword ptr [rbp-8]
    c9                 leave
    = rsp+8
    c3                 ret";
const FRAMED_GOES_ON: u64 = 17;
/// The function that nobody called; its call returns at its sixth byte.
const FIRST: &str = "
    31ed               xor ebp,ebp
    e8fb0f0000         call .+0x1000
    f4                 hlt";
const FIRST_GOES_ON: u64 = 7;

/// A stack of 64 words that nothing was put on yet, from its top down.
struct Stack {
    words: Vec<u64>,
    used: usize,
}

impl Stack {
    fn new() -> Self {
        Self { words: vec![0; 64], used: 0 }
    }

    /// The words that a function has below what is used, which come back as their addresses.
    fn push(&mut self, words: &[u64]) -> u64 {
        self.used += words.len();
        let at = self.words.len() - self.used;
        self.words[at..at + words.len()].copy_from_slice(words);
        self.pointer()
    }

    fn pointer(&self) -> u64 {
        STACK + 8 * (self.words.len() - self.used) as u64
    }
}

/// A program that waits in part 0, called by part 1, called by part 2, which nobody called.
///
/// Parts behind these are others. Part 1 has a frame of five words.
struct World {
    stack: Stack,
    parts: Vec<Part>,
    thread: Thread,
    /// The lowest address of part 1's frame.
    frame: u64,
}

fn world(middle: Part, goes_on: u64, others: Vec<Part>) -> World {
    let mut parts = vec![Part::new(WAITS), middle, Part::new(FIRST).outermost()];
    parts.extend(others);
    let mut stack = Stack::new();
    stack.push(&[0; 4]);
    let frame = stack.push(&[0, 0, 0, 0, 0, at(2) + FIRST_GOES_ON]);
    stack.push(&[0, at(1) + goes_on]);
    let thread = thread(at(0) + 6, stack.pointer(), frame + 32);
    World { stack, parts, thread, frame }
}

impl World {
    /// Which words of part 1's frame are dead, counted from the lowest.
    fn dead(&self) -> Vec<u64> {
        let memory = memory(&image(&self.parts), &self.stack.words);
        let dead = dead_slots(&memory, std::slice::from_ref(&self.thread), &Job::default()).unwrap();
        let words = (0..5).filter(|word| dead.iter().any(|range| range.contains(self.frame + 8 * word)));
        words.collect()
    }

    fn unclear(&self) -> Option<Unclear> {
        let memory = memory(&image(&self.parts), &self.stack.words);
        let frames = Unwinder::new(&memory).frames(&self.thread, &Job::default()).unwrap().frames;
        assert_eq!(frames.len(), 2);
        frames[1].unclear
    }
}

fn plain() -> World {
    world(Part::new(PLAIN), PLAIN_GOES_ON, Vec::new())
}

#[test]
fn words_that_a_frame_does_not_use_are_dead() {
    assert_eq!(plain().dead(), [0, 2, 3, 4]);
    // Of this one the highest is the caller's frame pointer.
    let framed = world(Part::new(FRAMED), FRAMED_GOES_ON, Vec::new());
    assert_eq!(framed.dead(), [0, 1, 2]);
}

#[test]
fn frames_are_told_from_the_innermost_on() {
    let world = plain();
    let memory = memory(&image(&world.parts), &world.stack.words);
    let frames = Unwinder::new(&memory).frames(&world.thread, &Job::default()).unwrap().frames;
    let told: Vec<(u64, u64, u64)> =
        frames.iter().map(|frame| (frame.pc, frame.stack_pointer, frame.cfa)).collect();
    let (low, high) = (world.frame - 16, world.frame + 48);
    assert_eq!(told, [(at(0) + 6, low, world.frame), (at(1) + PLAIN_GOES_ON, world.frame, high)]);
    // The word that the first one made room for is dead, its return address is not.
    assert_eq!(frames[0].dead, [AddressRange::with_length(low, 8).unwrap()]);
}

#[test]
fn a_register_that_was_restored_and_a_slot_that_no_rule_names_yet_are_alive() {
    // The rule of rbx holds from the last row on, where it is in its register again.
    const SAVES: &str = "
        53                 push rbx
        = rsp+16
        89fb               mov ebx,edi
        89d8               mov eax,ebx
        5b                 pop rbx
        = rsp+8
        @ -16
        c3                 ret";
    let found = |offset: u64, popped: u64| {
        let mut world = plain();
        world.parts[0] = Part::new(SAVES);
        let pointer = world.stack.pointer();
        world.thread = thread(at(0) + offset, pointer + popped, 0);
        let memory = memory(&image(&world.parts), &world.stack.words);
        let found = Unwinder::new(&memory).frames(&world.thread, &Job::default()).unwrap();
        assert_eq!((found.frames.len(), found.frames[0].unclear), (2, None), "{offset}");
        let slot = found.frames[0].dead.iter().any(|range| range.contains(pointer));
        (found.dead.contains(&"rbx"), slot)
    };
    // Saved, but by no rule yet.
    assert_eq!(found(1, 0), (false, false));
    // Restored; the slot is not of the frame any more.
    assert_eq!(found(6, 8), (false, false));
}

#[test]
fn a_frame_whose_caller_is_not_known_is_alive() {
    let mut world = plain();
    let top = world.stack.words.len() - 5;
    for wrong in [0, 1, at(2), at(2) + 2, BASE, STACK, at(2) + FIRST_GOES_ON + 0x100] {
        world.stack.words[top] = wrong;
        assert_eq!(world.dead(), NOTHING, "{wrong:#x}");
    }
    world.stack.words[top] = at(2) + FIRST_GOES_ON;
    assert_eq!(world.dead(), [0, 2, 3, 4]);
}

#[test]
fn parts_that_jumps_lead_to_count_with_the_function() {
    // From its eighth byte to part 3, which takes the frame along.
    let jumps = "
        4883ec28           sub rsp,0x28
        = rsp+48
        85ff               test edi,edi
        0f85f4010000       jne .+0x1fa
        e8fb0f0000         call .+0x1000
        4883c428           add rsp,0x28
        = rsp+8
        c3                 ret";
    let world = |cold: &'static str| world(Part::new(jumps), 17, vec![Part::new(cold)]);
    let uses = world(
        "
        = rsp+48
        488b442410         mov rax,qword ptr [rsp+0x10]
        e907feffff         jmp .-0x1f4",
    );
    // What no path has written holds what earlier calls left.
    assert_eq!(uses.dead(), [0, 1, 2, 3, 4]);
    let takes = world(
        "
        = rsp+48
        488d442410         lea rax,[rsp+0x10]
        e8fb0f0000         call .+0x1000",
    );
    assert_eq!((takes.dead(), takes.unclear()), (vec![0, 1, 2, 3, 4], None));
    // It would have another frame.
    let other = world(
        "
        = rsp+40
        488b442410         mov rax,qword ptr [rsp+0x10]
        e8fb0f0000         call .+0x1000",
    );
    assert_eq!((other.dead(), other.unclear()), (Vec::new(), Some(Unclear::Rules)));
    let leads_nowhere = super::stacks::world(Part::new(jumps), 17, Vec::new());
    assert_eq!((leads_nowhere.dead(), leads_nowhere.unclear()), (Vec::new(), Some(Unclear::Code)));
}

#[test]
fn a_part_that_does_not_lead_back_to_where_its_frame_was_made_keeps_the_frame() {
    // As the part of a function that throws: what it uses others may have taken the address of.
    let throws = "
        = rsp+48
        488b7c2408         mov rdi,qword ptr [rsp+8]
        e8fb0f0000         call .+0x1000
        0f0b               ud2";
    let world = world(Part::new(throws), 10, Vec::new());
    assert_eq!((world.dead(), world.unclear()), (Vec::new(), Some(Unclear::Entry)));
    let leads_back = "
        = rsp+48
        488b7c2408         mov rdi,qword ptr [rsp+8]
        e8fb0f0000         call .+0x1000
        e9fd010000         jmp .+0x202";
    // It is reached from the seventh byte, and leads back to the thirteenth.
    let makes = "
        4883ec28           sub rsp,0x28
        = rsp+48
        85ff               test edi,edi
        0f85f4fdffff       jne .-0x206
        488b442418         mov rax,qword ptr [rsp+0x18]
        4883c428           add rsp,0x28
        = rsp+8
        c3                 ret";
    let world = super::stacks::world(Part::new(leads_back), 10, vec![Part::new(makes)]);
    assert_eq!(world.dead(), [0, 1, 2, 3, 4]);
}

#[test]
fn code_with_a_frame_that_nothing_leads_to_keeps_the_frame() {
    let left = "
        4883ec28           sub rsp,0x28
        = rsp+48
        e8fb0f0000         call .+0x1000
        4883c428           add rsp,0x28
        = rsp+8
        c3                 ret
        = rsp+48
        488b7c2408         mov rdi,qword ptr [rsp+8]
        e8fb0f0000         call .+0x1000";
    let world = world(Part::new(left), 9, Vec::new());
    assert_eq!((world.dead(), world.unclear()), (Vec::new(), Some(Unclear::Entry)));
}

#[test]
fn a_function_of_many_parts_is_alive() {
    let next = "
        = rsp+48
        0f84fa000000       je .+0x100
        0f0b               ud2";
    let jumps = "
        4883ec28           sub rsp,0x28
        = rsp+48
        0f85f6010000       jne .+0x1fc
        e8fb0f0000         call .+0x1000
        4883c428           add rsp,0x28
        = rsp+8
        c3                 ret";
    let with = |count: usize| {
        let mut parts = vec![Part::new(next); count];
        parts.push(Part::new("= rsp+48\n0f0b ud2"));
        world(Part::new(jumps), 15, parts)
    };
    assert_eq!(with(7).dead(), [0, 1, 2, 3, 4]);
    assert_eq!(with(8).unclear(), Some(Unclear::Jump));
}

#[test]
fn what_exceptions_lead_to_counts_with_the_function() {
    let lands = "
        = rsp+48
        488b7c2418         mov rdi,qword ptr [rsp+0x18]
        e8fb0f0000         call .+0x1000";
    let outside = world(Part::new(PLAIN).landing_pad(at(3)), PLAIN_GOES_ON, vec![Part::new(lands)]);
    assert_eq!(outside.dead(), [0, 2, 3, 4]);
    // In the function itself all instructions count anyway.
    let inside = world(Part::new(PLAIN).landing_pad(at(1) + 14), PLAIN_GOES_ON, Vec::new());
    assert_eq!(inside.dead(), [0, 2, 3, 4]);
    let amiss = world(Part::new(PLAIN).landing_pad(at(1) + 15), PLAIN_GOES_ON, Vec::new());
    assert_eq!(amiss.dead(), NOTHING);
}

#[test]
fn a_table_of_exceptions_that_cannot_be_read_keeps_the_frame() {
    let world = world(Part::new(PLAIN).landing_pad(at(1) + 14), PLAIN_GOES_ON, Vec::new());
    let mut bytes = image(&world.parts);
    // The encoding of its numbers.
    bytes[0x4000 + 0x40 + 2] = 0x50;
    let memory = memory(&bytes, &world.stack.words);
    let frames = Unwinder::new(&memory).frames(&world.thread, &Job::default()).unwrap().frames;
    assert_eq!(frames[1].unclear, Some(Unclear::Jump));
}

#[test]
fn what_a_function_touches_of_its_arguments_is_alive_in_its_callers_frame() {
    let mut world = plain();
    world.parts[0] = Part::new(
        "
        4883ec08           sub rsp,8
        = rsp+16
        0f05               syscall
        488b442420         mov rax,qword ptr [rsp+0x20]
        4883c408           add rsp,8
        = rsp+8
        c3                 ret",
    );
    // 16 bytes above its CFA, which is where its caller's frame starts.
    assert_eq!(world.dead(), [0, 3, 4]);
}

#[test]
fn above_code_that_only_rules_call_a_signal_nothing_is_dead() {
    let mut world = plain();
    world.parts[1] = world.parts[1].clone().signal();
    assert_eq!(world.dead(), NOTHING);
}

/// Where a handler returns to; its entry starts at the byte before.
const RETURNS: &str = "
    90                 nop
    48c7c00f000000     mov rax,15
    0f05               syscall";

/// Part 1 was interrupted by a signal `past` bytes from its start, and the handler waits.
fn interrupted(trap: u64, past: u64) -> World {
    let mut parts = vec![Part::new(WAITS), Part::new(PLAIN), Part::new(FIRST).outermost()];
    parts.push(Part::new(RETURNS).signal());
    let mut stack = Stack::new();
    let frame = stack.push(&[0, 0, 0, 0, 0, at(2) + FIRST_GOES_ON]);
    // The context, by the kernel's structures: rsp, rip and the number of the trap.
    let mut context = [0; 39];
    (context[20], context[21], context[25]) = (frame, at(1) + past, trap);
    stack.push(&context);
    stack.push(&[0, at(3) + 1]);
    let thread = thread(at(0) + 6, stack.pointer(), frame + 32);
    World { stack, parts, thread, frame }
}

#[test]
fn a_frame_that_a_signal_interrupted_has_the_dead_words_of_where_it_goes_on() {
    const NONE: u64 = 0;
    assert_eq!(interrupted(NONE, PLAIN_GOES_ON).dead(), [0, 2, 3, 4]);
    // Its last read is done.
    assert_eq!(interrupted(NONE, PLAIN_GOES_ON + 5).dead(), [0, 1, 2, 3, 4]);
    // The word is not written yet.
    assert_eq!(interrupted(NONE, 4).dead(), [0, 1, 2, 3, 4]);
    // Not where an instruction starts.
    assert_eq!(interrupted(NONE, PLAIN_GOES_ON + 1).dead(), NOTHING);
}

#[test]
fn no_word_of_what_the_kernel_saved_is_dead() {
    let world = interrupted(0, PLAIN_GOES_ON);
    let memory = memory(&image(&world.parts), &world.stack.words);
    let dead = dead_slots(&memory, std::slice::from_ref(&world.thread), &Job::default()).unwrap();
    let saved = AddressRange::new(world.frame - 39 * 8, world.frame).unwrap();
    assert!(dead.iter().all(|range| range.intersection(saved).is_none()), "{dead:?}");
}

#[test]
fn a_frame_that_a_fault_interrupted_is_alive_as_a_whole() {
    // An invalid opcode, a general protection fault, a page fault.
    for trap in [6, 13, 14] {
        let world = interrupted(trap, PLAIN_GOES_ON);
        assert_eq!((world.dead(), world.unclear()), (Vec::new(), Some(Unclear::Fault)), "{trap}");
    }
    let divides = "
        4883ec28           sub rsp,0x28
        = rsp+48
        48f7f7             div rdi
        4883c428           add rsp,0x28
        = rsp+8
        c3                 ret";
    let mut world = interrupted(0, 4);
    world.parts[1] = Part::new(divides);
    assert_eq!((world.dead(), world.unclear()), (Vec::new(), Some(Unclear::Fault)));
}

#[test]
fn a_context_whose_stack_pointer_is_below_it_ends_unwinding() {
    let mut world = interrupted(0, PLAIN_GOES_ON);
    let place = world.stack.words.len() - 6 - 39 + 20;
    assert_eq!(world.stack.words[place], world.frame);
    world.stack.words[place] = world.thread.stack_pointer.unwrap();
    assert_eq!(world.dead(), NOTHING);
}

/// The image of a program that is linked without a table of its entries, as gcc links static ones.
fn without_a_table(parts: &[Part]) -> Vec<u8> {
    let mut bytes = image(parts);
    // The first program header's flags are those of code; the second one is PT_NULL.
    bytes[64 + 4] = 5;
    bytes[64 + 56..64 + 56 + 4].fill(0);
    bytes
}

/// The dead words of part 1's frame in a program of these bytes.
fn dead_with(world: &World, bytes: &[u8]) -> Vec<u64> {
    let memory = memory(bytes, &world.stack.words);
    let dead = dead_slots(&memory, std::slice::from_ref(&world.thread), &Job::default()).unwrap();
    (0..5).filter(|word| dead.iter().any(|range| range.contains(world.frame + 8 * word))).collect()
}

#[test]
fn entries_without_a_table_are_found_by_their_form() {
    let world = plain();
    let bytes = without_a_table(&world.parts);
    assert_eq!(dead_with(&world, &bytes), [0, 2, 3, 4]);
    // Bytes that look like the start of entries and are none.
    let mut misled = bytes.clone();
    misled[0xf00..0xf09].copy_from_slice(&[20, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(dead_with(&world, &misled), [0, 2, 3, 4]);
}

#[test]
fn records_that_are_no_whole_chain_are_no_entries() {
    let world = plain();
    let bytes = without_a_table(&world.parts);
    let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let records: Vec<usize> = std::iter::successors(Some(0x1000), |at| Some(at + 4 + length(*at)))
        .take_while(|at| length(*at) != 0)
        .collect();
    assert_eq!(records.len(), 2 * world.parts.len());
    // The last entry uses a common one that is not there.
    let last = records[records.len() - 1];
    let mut broken = bytes.clone();
    broken[last + 4] ^= 4;
    assert_eq!(dead_with(&world, &broken), NOTHING);
    // What follows the last one is not the end.
    let mut open = bytes.clone();
    open[last + 4 + length(last)..0x4000].fill(0xff);
    assert_eq!(dead_with(&world, &open), NOTHING);
    // Nothing of it is code.
    let mut data = bytes;
    data[64 + 4] = 4;
    assert_eq!(dead_with(&world, &data), NOTHING);
}

#[test]
fn code_that_two_entries_of_a_chain_claim_has_no_rules() {
    let mut world = plain();
    let mut bytes = without_a_table(&world.parts);
    assert_eq!(dead_with(&world, &bytes), [0, 2, 3, 4]);
    world.parts.push(Part::new("c3 ret"));
    bytes = without_a_table(&world.parts);
    assert_eq!(dead_with(&world, &bytes), [0, 2, 3, 4]);
    // Part 0 is said to be so long that it takes in the others.
    let common = u32::from_le_bytes(bytes[0x1000..0x1004].try_into().unwrap()) as usize;
    let length = 0x1000 + 4 + common + 12;
    bytes[length..length + 4].copy_from_slice(&0x400_u32.to_le_bytes());
    assert_eq!(dead_with(&world, &bytes), NOTHING);
}

#[test]
fn rules_that_nobody_can_tell_end_unwinding() {
    let mut world = plain();
    world.parts[1] = Part::new(
        "
        4883ec28           sub rsp,0x28
        = ?
        48897c2408         mov qword ptr [rsp+8],rdi
        e8fb0f0000         call .+0x1000
        f4                 hlt",
    );
    assert_eq!(world.dead(), NOTHING);
}

#[test]
fn a_frame_that_does_not_lie_on_the_stack_ends_unwinding() {
    let mut framed = world(Part::new(FRAMED), FRAMED_GOES_ON, Vec::new());
    let right = framed.frame + 32;
    for wrong in [0, right - 48, right + 4, STACK + 64 * 8, u64::MAX] {
        framed.thread = thread(at(0) + 6, framed.stack.pointer(), wrong);
        assert_eq!(framed.dead(), NOTHING, "{wrong:#x}");
    }
}

#[test]
fn a_chain_of_frames_that_does_not_end_is_left() {
    let world = plain();
    let memory = memory(&image(&world.parts), &world.stack.words);
    // Each frame needs room: the stack of 64 words ends before any limit.
    for pointer in (0..64).map(|word| STACK + 8 * word) {
        let frames = Unwinder::new(&memory)
            .frames(&thread(at(1) + 5, pointer, pointer), &Job::default())
            .unwrap()
            .frames;
        assert!(frames.len() < 64);
    }
}

#[test]
fn threads_of_other_machines_have_no_frames() {
    let world = plain();
    let memory = memory(&image(&world.parts), &world.stack.words);
    let mut thread = world.thread.clone();
    thread.registers.general[0].name = "pc".into();
    assert_eq!(Unwinder::new(&memory).frames(&thread, &Job::default()).unwrap().frames, []);
    let mut bytes = image(&world.parts);
    bytes[18] = 183;
    let memory = crate::module::memory(&bytes, &world.stack.words);
    assert_eq!(Unwinder::new(&memory).frames(&world.thread, &Job::default()).unwrap().frames, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_a_program_holds_dead_words_lie_in_the_stack(
        writes in prop::collection::vec((0_usize..0x6500, any::<u8>()), 1..12),
        near in prop::collection::vec((prop::sample::select(vec![0x40_usize, 0x200, 0x1000, 0x6100]), 0_usize..0xa0, any::<u8>()), 0..6),
        words in prop::collection::vec((0_usize..64, any::<u64>()), 0..4),
        framed in any::<bool>(),
    ) {
        let (listing, goes_on) = if framed { (FRAMED, FRAMED_GOES_ON) } else { (PLAIN, PLAIN_GOES_ON) };
        let mut world = world(Part::new(listing).landing_pad(at(1) + goes_on), goes_on, Vec::new());
        let mut bytes = image(&world.parts);
        let near = near.into_iter().map(|(from, at, byte)| (from + at, byte));
        for (at, byte) in writes.into_iter().chain(near) {
            bytes[at] = byte;
        }
        for (at, word) in words {
            world.stack.words[at] = word;
        }
        let memory = memory(&bytes, &world.stack.words);
        let dead = dead_slots(&memory, std::slice::from_ref(&world.thread), &Job::default()).unwrap();
        let stack = memory.region_at(world.stack.pointer()).unwrap().range;
        let live = AddressRange::new(world.stack.pointer(), stack.end()).unwrap();
        let mut starts = BTreeSet::new();
        for range in dead {
            prop_assert!(live.covers(range) && range.start() % 8 == 0 && range.len() % 8 == 0);
            prop_assert!(starts.insert(range.start()));
        }
    }
}
