//! Functions that return twice: `setjmp`, `getcontext` and the like.
//!
//! What runs after the second return is not on any path from where the function is then. They
//! are recognised by what they do, since names may be missing: they store the registers that
//! calls preserve through a pointer that they were given, and make no frame.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::peek::Peek;

/// Instructions that are looked at, and jumps that are followed before that.
const MOST: usize = 64;
const MOST_JUMPS: usize = 6;
/// The longest instruction.
const LONGEST: usize = 15;

/// Whether the function at `address` may return twice.
pub(super) fn returns_twice(peek: &mut Peek<'_>, address: u64) -> bool {
    let (mut at, mut jumps) = (address, 0_usize);
    let mut stored = 0_u32;
    for _ in 0..MOST {
        let bytes = (1..=LONGEST).rev().find_map(|length| Some(peek.bytes(at, length)?.to_vec()));
        let Some(bytes) = bytes else { return false };
        let instruction = Decoder::with_ip(64, &bytes, at, DecoderOptions::NONE).decode();
        if instruction.is_invalid() {
            return false;
        }
        stored |= saved(&instruction);
        if stored.count_ones() >= 4 {
            return true;
        }
        let next = match instruction.flow_control() {
            FlowControl::Next | FlowControl::ConditionalBranch => {
                if instruction.is_stack_instruction() {
                    return false;
                }
                Some(instruction.next_ip())
            }
            FlowControl::UnconditionalBranch if instruction.op0_kind() == OpKind::NearBranch64 => {
                jumps = jumps.saturating_add(1);
                Some(instruction.near_branch_target())
            }
            // The entry of a procedure linkage table. One that was never used leads back into
            // the table, and no call by it was made.
            FlowControl::IndirectBranch if instruction.is_ip_rel_memory_operand() => {
                jumps = jumps.saturating_add(1);
                peek.word(instruction.ip_rel_memory_address())
            }
            _ => None,
        };
        let Some(next) = next.filter(|_| jumps <= MOST_JUMPS) else { return false };
        at = next;
    }
    false
}

/// The register that calls preserve and that an instruction stores, not on the stack.
fn saved(instruction: &Instruction) -> u32 {
    let stores = instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register
        && !matches!(instruction.memory_base(), Register::RSP | Register::RBP | Register::None);
    match instruction.op1_register() {
        Register::RBX if stores => 1,
        Register::R12 if stores => 2,
        Register::R13 if stores => 4,
        Register::R14 if stores => 8,
        Register::R15 if stores => 16,
        _ => 0,
    }
}
