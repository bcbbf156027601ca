//! From a number to frames, and to the modules that they lay in.

use gdb_leak::recording::{Frame, Recording, Stack};

use super::builder::{Loaded, Plan, REALLOC};

fn frames(stack: &Stack) -> Vec<(u64, bool)> {
    stack.frames.iter().map(|frame| (frame.pc, frame.exact)).collect()
}

fn stack(plan: &Plan, number: u32) -> Stack {
    plan.read().stack(&plan.memory(), number)
}

#[test]
fn frames_come_innermost_first_with_the_generation_that_they_were_seen_in() {
    let mut plan = Plan::default();
    let number = plan.stack(&[0x100, 0x200, (1 << 63) | 0x300, 0x400], 3);
    let found = stack(&plan, number);
    assert_eq!(frames(&found), [(0x100, true), (0x200, false), (0x300, true), (0x400, false)]);
    assert_eq!(found.generation, Some(3));
    let addresses: Vec<u64> = found.frames.iter().map(Frame::address).collect();
    assert_eq!(addresses, [0x100, 0x1ff, 0x300, 0x3ff]);
}

#[test]
fn the_allocation_function_is_known_by_its_address() {
    let recording = Plan::default().read();
    assert_eq!(recording.function(REALLOC), Some("realloc"));
    for other in [0, REALLOC - 1, REALLOC + 1] {
        assert_eq!(recording.function(other), None);
    }
}

#[test]
fn no_stack_and_no_such_stack_have_no_frames() {
    let mut plan = Plan::default();
    plan.stack(&[0x100], 0);
    for number in [0, 3, u32::MAX] {
        assert_eq!(stack(&plan, number), Stack::default());
    }
}

#[test]
fn parents_in_a_circle_end_at_the_depth_that_a_stack_can_have() {
    let mut plan = Plan::default();
    let number = plan.stack(&[0x100, 0x200], 0);
    // The outermost frame's parent is the innermost one.
    plan.nodes[usize::try_from(number).unwrap() - 1].1 = number;
    let found = stack(&plan, number);
    assert_eq!(found.frames.len(), 258);
    assert_eq!(found.generation, None);
}

fn library(path: &'static str, since: u32, until: u32) -> Loaded {
    Loaded { start: 0x10_0000, end: 0x11_0000, bias: 0x10_0000, path, build_id: vec![1, 2, 3], since, until }
}

fn unloading() -> Plan {
    let mut plan = Plan { generation: 2, ..Plan::default() };
    plan.modules = vec![library("/a.so", 0, 1), library("/b.so", 1, 2), library("/c.so", 2, u32::MAX)];
    plan
}

fn path(recording: &Recording, pc: u64, generation: u32) -> Option<String> {
    let module = recording.unloaded(Frame { pc, exact: false }, generation)?;
    Some(module.path.to_string())
}

#[test]
fn a_frame_lay_in_the_module_that_was_there_then() {
    let recording = unloading().read();
    assert_eq!(path(&recording, 0x10_0010, 0), Some("/a.so".to_owned()));
    assert_eq!(path(&recording, 0x10_0010, 1), Some("/b.so".to_owned()));
    assert_eq!(path(&recording, 0x10_0010, 2), None, "it is still there");
    // A call at the very end of a module returns behind it.
    assert_eq!(path(&recording, 0x11_0000, 0), Some("/a.so".to_owned()));
    assert_eq!(path(&recording, 0x11_0001, 0), None);
    let module = recording.unloaded(Frame { pc: 0x10_0010, exact: true }, 0).unwrap();
    assert_eq!((module.build_id.as_slice(), module.bias), ([1, 2, 3].as_slice(), 0x10_0000));
}

#[test]
fn one_stack_seen_before_and_after_an_unloading_is_one_and_another_module_s_is_not() {
    let mut plan = unloading();
    // Code outside of all modules that come and go, then code of one of them.
    let outside = [0, 1, 2].map(|generation| plan.stack(&[0x50, 0x60], generation));
    let inside = [0, 1, 1].map(|generation| plan.stack(&[0x50, 0x10_0010], generation));
    for (place, stack) in outside.into_iter().chain(inside).enumerate() {
        plan.blocks.push((0x1000 * (place as u64 + 1), 1, stack, 77, 1));
    }
    let recording = plan.read();
    let stacks: Vec<u32> = recording.live().entries.iter().map(|entry| entry.stack).collect();
    assert_eq!(stacks[..3], [outside[0]; 3]);
    assert_eq!(stacks[3..], [inside[0], inside[1], inside[1]]);
}
