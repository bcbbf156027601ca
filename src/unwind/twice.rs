//! Functions that return twice: `setjmp`, `getcontext`, `vfork` and the like.
//!
//! What runs after the second return is not on any path from where the function is then. They
//! are recognised by what they do, since names may be missing: they store the registers that
//! calls preserve, as their caller had them, through a pointer that they were given.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

use crate::peek::Peek;

/// Instructions that are looked at, and jumps that are followed before that.
const MOST: usize = 64;
const MOST_JUMPS: usize = 6;
/// The longest instruction.
const LONGEST: usize = 15;

/// Linux, `arch/x86/entry/syscalls/syscall_64.tbl`.
const VFORK: u32 = 58;

/// Instructions after a call that are looked at for its result.
const MOST_AFTER: usize = 8;

/// Whether the call before `address` may be one of `setjmp`: its result is read as an `int`.
///
/// For calls by a pointer, of which the target is not known any more. What returns nothing, a pointer
/// or a `bool` is none.
pub(super) fn result_is_int(peek: &mut Peek<'_>, address: u64) -> bool {
    let mut information = InstructionInfoFactory::new();
    let mut at = address;
    for _ in 0..MOST_AFTER {
        let Some(instruction) = decoded(peek, at) else { return false };
        let mut result = information.info(&instruction).used_registers().iter();
        let own = result.find(|used| used.register().full_register() == Register::RAX);
        if let Some(used) = own {
            return used.register() == Register::EAX && !matches!(used.access(), OpAccess::Write);
        }
        if instruction.flow_control() != FlowControl::Next {
            return false;
        }
        at = instruction.next_ip();
    }
    false
}

/// The instruction at `address`.
fn decoded(peek: &mut Peek<'_>, address: u64) -> Option<Instruction> {
    let bytes = (1..=LONGEST).rev().find_map(|length| Some(peek.bytes(address, length)?.to_vec()))?;
    let instruction = Decoder::with_ip(64, &bytes, address, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// Whether the function at `address` may return twice.
pub(super) fn returns_twice(peek: &mut Peek<'_>, address: u64) -> bool {
    let (mut at, mut jumps) = (address, 0_usize);
    let (mut stored, mut changed, mut number) = (0_u32, 0_u32, 0_u32);
    let mut information = InstructionInfoFactory::new();
    for _ in 0..MOST {
        let Some(instruction) = decoded(peek, at) else { return false };
        // What runs in the child of `vfork` is not what its parent goes on with.
        number = if instruction.code() == Code::Mov_r32_imm32 { instruction.immediate32() } else { number };
        if number == VFORK && instruction.mnemonic() == Mnemonic::Syscall {
            return true;
        }
        stored |= saved(&instruction) & !changed;
        if stored.count_ones() >= 4 {
            return true;
        }
        let used = information.info(&instruction).used_registers().iter();
        let written = used.filter(|used| !matches!(used.access(), OpAccess::Read | OpAccess::CondRead));
        changed |= written.fold(0, |all, used| all | preserved(used.register()));
        let next = match instruction.flow_control() {
            FlowControl::Next | FlowControl::ConditionalBranch => Some(instruction.next_ip()),
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
    let register = instruction.op1_register();
    if stores && register.size() == 8 { preserved(register) } else { 0 }
}

/// The bit of a register that calls preserve.
fn preserved(register: Register) -> u32 {
    match register.full_register() {
        Register::RBX => 1,
        Register::R12 => 2,
        Register::R13 => 4,
        Register::R14 => 8,
        Register::R15 => 16,
        _ => 0,
    }
}
