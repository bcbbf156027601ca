//! Instructions, decoded to what the analyses ask of them.

use iced_x86::{
    Code as Opcode, CodeSize, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic, OpAccess, OpKind, Register, UsedMemory,
};

use super::Unclear;
use super::rules::Rules;

/// The prefix that makes an instruction atomic.
const LOCK: u8 = 0xf0;

/// The number of `rsp` and of `rbp` among the general registers, as instructions encode them.
pub(super) const RSP: u8 = 4;
pub(super) const RBP: u8 = 5;

/// A set of general registers, by their numbers.
pub(super) type Registers = u16;

/// What a call may read: its arguments, the static chain, the number of vector registers, and
/// what thunks take (System V ABI, x86-64, 3.2.3).
pub(super) const ARGUMENTS: Registers = 1 << 0 | 1 << 1 | 1 << 2 | 0b11 << 6 | 0b1111 << 8;
/// What a call need not preserve.
pub(super) const SCRATCH: Registers = ARGUMENTS;
/// What a call preserves, beside the stack pointer.
pub(super) const PRESERVED: Registers = 1 << 3 | 1 << RBP | 0b1111 << 12;
/// What a system call reads (Linux, `arch/x86/entry/entry_64.S`).
const SYSTEM: Registers = 1 << 0 | 1 << 2 | 0b11 << 6 | 0b111 << 8;

/// What an instruction does, where that matters more than what it reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    Other,
    /// A whole register into another.
    Move {
        to: u8,
        from: u8,
    },
    /// An address into a whole register.
    Lea {
        to: u8,
    },
    /// A constant added to a whole register.
    Add {
        to: u8,
        by: i64,
    },
    /// A whole register added to another.
    Sum {
        to: u8,
        from: u8,
    },
    /// Memory into a register; the operand is the only one. With `signed`, of four bytes.
    Load {
        to: u8,
        signed: bool,
    },
    /// A whole register into memory; the operand is the only one.
    Store {
        from: u8,
    },
    /// A word that is pushed: a register, or something else.
    Push(Option<u8>),
    /// A word that is popped, into a register or something else.
    Pop(Option<u8>),
    Leave,
    Call,
    Return,
    /// A change of the stack pointer of another kind.
    Unknown,
}

/// Where an instruction leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Successor {
    Next,
    Jump(u64),
    Branch(u64),
    Indirect,
    /// A return.
    Return,
    /// Nowhere.
    Stop,
}

/// An operand in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own about the operand.
pub(super) struct Mem {
    pub(super) base: Option<u8>,
    pub(super) index: Option<u8>,
    pub(super) scale: u8,
    /// The displacement, or the address where there is no base.
    pub(super) displacement: i64,
    /// Bytes.
    pub(super) size: u32,
    pub(super) read: bool,
    pub(super) write: bool,
    /// Whether the write happens whenever the instruction is run.
    pub(super) always: bool,
    /// Whether the size, or the place beside base and index, is known to the program only.
    pub(super) wild: bool,
}

/// An instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Op {
    pub(super) at: u64,
    pub(super) next: u64,
    /// The number of the row of rules that holds; beyond all rows where none does.
    pub(super) row: u32,
    pub(super) act: Act,
    pub(super) successor: Successor,
    /// Registers whose values it takes, and those it takes addresses from.
    pub(super) reads: Registers,
    pub(super) addresses: Registers,
    /// Registers that it writes whole, whenever it is run, and those that it writes at all.
    pub(super) kills: Registers,
    pub(super) dirties: Registers,
    /// Whether a value that it takes may go to memory, a vector register or the kernel.
    pub(super) may_escape: bool,
    pub(super) nop: bool,
    /// Whether it calls the kernel.
    pub(super) system: bool,
    /// An address in its operands: the target of a call, or what `lea` takes relative to itself.
    pub(super) address: Option<u64>,
    mems: (u32, u8),
}

/// The code of a part of a function.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Code {
    pub(super) ops: Vec<Op>,
    mems: Vec<Mem>,
    pub(super) unclear: Option<Unclear>,
    /// Starts of instructions behind the `lock` of another one.
    skipped: Vec<u64>,
}

impl Code {
    /// Decodes the code that `rules` are for.
    pub(super) fn decode(code: &[u8], rules: &Rules) -> Self {
        let mut own = Self::default();
        if code.is_empty() || code.len() as u64 != rules.range.len() {
            own.unclear = Some(Unclear::Code);
            return own;
        }
        let start = rules.range.start();
        let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
        let mut factory = InstructionInfoFactory::new();
        let mut instruction = Instruction::default();
        let (mut row, mut behind) = (u32::MAX, 0_usize);
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            // What is a breakpoint was something else.
            let interrupts = instruction.flow_control() == FlowControl::Interrupt;
            if instruction.is_invalid() || interrupts || instruction.code() == Opcode::Int1 {
                own.unclear = Some(Unclear::Code);
                return own;
            }
            while rules.rows.get(behind).is_some_and(|next| next.start <= instruction.ip()) {
                row = u32::try_from(behind).unwrap_or(u32::MAX);
                behind = behind.saturating_add(1);
            }
            own.push(&instruction, row, &mut factory);
            // With one thread glibc jumps over the prefix: `je 1f; lock; 1: cmpxchg`.
            let offset = usize::try_from(instruction.ip().wrapping_sub(start)).unwrap_or(usize::MAX);
            if instruction.has_lock_prefix() && code.get(offset) == Some(&LOCK) {
                own.skipped.push(instruction.ip().saturating_add(1));
            }
        }
        own
    }

    /// The operands in memory of an instruction.
    pub(super) fn mems(&self, op: &Op) -> &[Mem] {
        let (first, count) = op.mems;
        let first = first as usize;
        self.mems.get(first..first.saturating_add(usize::from(count))).unwrap_or_default()
    }

    /// The number of the instruction that starts at `address`, or whose `lock` is just before it.
    pub(super) fn index_of(&self, address: u64) -> Option<usize> {
        let skipped = self.skipped.binary_search(&address).is_ok();
        let start = if skipped { address.checked_sub(1)? } else { address };
        self.ops.binary_search_by_key(&start, |op| op.at).ok()
    }

    /// The number of the call that returns to `address`.
    pub(super) fn call(&self, address: u64) -> Option<usize> {
        let last = self.ops.partition_point(|op| op.at < address).checked_sub(1)?;
        let op = self.ops.get(last)?;
        (op.next == address && op.act == Act::Call).then_some(last)
    }

    /// Whether some instruction returns.
    pub(super) fn returns(&self) -> bool {
        self.ops.iter().any(|op| op.successor == Successor::Return)
    }

    fn push(&mut self, instruction: &Instruction, row: u32, factory: &mut InstructionInfoFactory) {
        let first = self.mems.len();
        let mut op = Op {
            at: instruction.ip(),
            next: instruction.next_ip(),
            row,
            act: Act::Other,
            successor: successor(instruction),
            reads: 0,
            addresses: 0,
            kills: 0,
            dirties: 0,
            may_escape: false,
            nop: instruction.mnemonic() == Mnemonic::Nop,
            system: instruction.mnemonic() == Mnemonic::Syscall,
            address: None,
            mems: (0, 0),
        };
        if !op.nop {
            let info = factory.info(instruction);
            let stack = instruction.is_stack_instruction();
            for used in info.used_memory() {
                let explicit = !stack || explicit(instruction, used);
                let none = used.access() == OpAccess::NoMemAccess || used.access() == OpAccess::None;
                if explicit && !none {
                    self.mems.push(mem(instruction, used));
                }
            }
            let lea = instruction.mnemonic() == Mnemonic::Lea;
            if lea {
                self.mems.push(named(instruction));
            }
            let mems = self.mems.get(first..).unwrap_or_default();
            for mem in mems {
                for register in [mem.base, mem.index].into_iter().flatten() {
                    op.addresses |= bit(register);
                }
                op.may_escape |= mem.write;
            }
            for used in info.used_registers() {
                let Some(number) = general(used.register()) else {
                    op.may_escape |= writes(used.access());
                    continue;
                };
                if reads(used.access()) {
                    op.reads |= bit(number);
                }
                if writes(used.access()) {
                    op.dirties |= bit(number);
                    let whole = used.register().is_gpr64() || used.register().is_gpr32();
                    if whole && matches!(used.access(), OpAccess::Write | OpAccess::ReadWrite) {
                        op.kills |= bit(number);
                    }
                }
            }
            if !instruction.is_string_instruction() {
                op.reads &= !op.addresses;
            }
            for operand in 0..instruction.op_count() {
                let register = (instruction.op_kind(operand) == OpKind::Register)
                    .then(|| general(instruction.op_register(operand)))
                    .flatten();
                if let Some(number) = register.filter(|_| reads(info.op_access(operand))) {
                    op.reads |= bit(number);
                }
            }
            if op.system {
                op.reads |= SYSTEM;
                op.may_escape = true;
            }
            op.act = act(instruction, mems);
            op.address = address(instruction, mems, lea);
            let count = mems.len();
            if count > 8 {
                op.act = Act::Unknown;
            }
            op.mems = (u32::try_from(first).unwrap_or(u32::MAX), u8::try_from(count).unwrap_or(0));
        }
        self.ops.push(op);
    }
}

/// The set of one register.
pub(super) const fn bit(register: u8) -> Registers {
    1 << (register & 15)
}

/// The number of the general register that `register` is, or is a part of.
fn general(register: Register) -> Option<u8> {
    let full = register.full_register();
    let first = Register::RAX as usize;
    let number = (full as usize).checked_sub(first)?;
    u8::try_from(number).ok().filter(|number| *number < 16)
}

/// The number of a whole general register.
fn whole(register: Register) -> Option<u8> {
    if register.is_gpr64() { general(register) } else { None }
}

const fn reads(access: OpAccess) -> bool {
    use OpAccess::{CondRead, Read, ReadCondWrite, ReadWrite};
    matches!(access, Read | CondRead | ReadWrite | ReadCondWrite)
}

const fn writes(access: OpAccess) -> bool {
    use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
    matches!(access, Write | CondWrite | ReadWrite | ReadCondWrite)
}

fn successor(instruction: &Instruction) -> Successor {
    let near = instruction.op0_kind() == OpKind::NearBranch64;
    let target = instruction.near_branch_target();
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch if near => Successor::Jump(target),
        FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend if near => Successor::Branch(target),
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::ConditionalBranch => {
            Successor::Indirect
        }
        FlowControl::Return => Successor::Return,
        FlowControl::Exception | FlowControl::Interrupt => Successor::Stop,
        _ if instruction.mnemonic() == Mnemonic::Hlt => Successor::Stop,
        _ => Successor::Next,
    }
}

/// Whether a use of memory by an instruction that pushes or pops is by its operand.
fn explicit(instruction: &Instruction, used: &UsedMemory) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
        && instruction.memory_base() == used.base()
        && instruction.memory_index() == used.index()
        && (instruction.memory_displacement64() == used.displacement()
            || instruction.mnemonic() == Mnemonic::Pop)
        && (instruction.mnemonic() != Mnemonic::Pop || writes(used.access()))
        && (instruction.mnemonic() == Mnemonic::Pop || reads(used.access()))
}

fn mem(instruction: &Instruction, used: &UsedMemory) -> Mem {
    let plain = |register: Register| general(register).filter(|_| register.is_gpr64());
    // A bit string reaches as far as the register says.
    let bits = matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && instruction.op1_kind() == OpKind::Register;
    let size = u32::try_from(used.memory_size().size()).unwrap_or(0);
    // In 64-bit mode the other segments start at 0.
    let elsewhere = matches!(used.segment(), Register::FS | Register::GS);
    let odd = |register: Register| register != Register::None && plain(register).is_none();
    let wild = bits
        || size == 0
        || elsewhere
        || instruction.is_string_instruction()
        || used.address_size() != CodeSize::Code64
        || (instruction.mnemonic() == Mnemonic::Pop)
        || used.vsib_size() != 0
        || (odd(used.base()) && used.base() != Register::RIP)
        || odd(used.index());
    Mem {
        // Of a register that is used in part the whole counts.
        base: general(used.base()),
        index: general(used.index()),
        scale: u8::try_from(used.scale()).unwrap_or(0),
        displacement: signed(used.displacement()),
        size,
        read: reads(used.access()),
        write: writes(used.access()),
        always: used.access() == OpAccess::Write || used.access() == OpAccess::ReadWrite,
        wild,
    }
}

/// The operand of an instruction that only names a place.
fn named(instruction: &Instruction) -> Mem {
    let base = instruction.memory_base();
    let index = instruction.memory_index();
    let part = |register: Register| register != Register::None && !register.is_gpr64();
    Mem {
        base: general(base),
        index: general(index),
        scale: u8::try_from(instruction.memory_index_scale()).unwrap_or(0),
        displacement: signed(instruction.memory_displacement64()),
        size: 0,
        read: false,
        write: false,
        always: false,
        wild: (part(base) && base != Register::RIP) || part(index),
    }
}

fn act(instruction: &Instruction, mems: &[Mem]) -> Act {
    let by = i64::from(instruction.stack_pointer_increment());
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    let two = instruction.op_count() == 2;
    let registers = two && instruction.op0_kind() == OpKind::Register;
    let constant = registers && !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory);
    let both = registers && instruction.op1_kind() == OpKind::Register;
    let single = mems.len() == 1 && mems.iter().all(|mem| !mem.wild || mem.base.is_none());
    let loads = registers && instruction.op1_kind() == OpKind::Memory && single;
    match instruction.mnemonic() {
        Mnemonic::Call => Act::Call,
        Mnemonic::Ret => Act::Return,
        Mnemonic::Leave => Act::Leave,
        Mnemonic::Push if by == -8 => {
            let pushed = (instruction.op0_kind() == OpKind::Register).then(|| whole(to)).flatten();
            Act::Push(pushed)
        }
        Mnemonic::Pushfq => Act::Push(None),
        Mnemonic::Pop if by == 8 => {
            let popped = (instruction.op0_kind() == OpKind::Register).then(|| whole(to)).flatten();
            Act::Pop(popped)
        }
        Mnemonic::Popfq => Act::Pop(None),
        _ if instruction.is_stack_instruction() => Act::Unknown,
        Mnemonic::Mov if both => match (whole(to), whole(from)) {
            (Some(to), Some(from)) => Act::Move { to, from },
            _ => Act::Other,
        },
        Mnemonic::Lea => whole(to).map_or(Act::Other, |to| Act::Lea { to }),
        Mnemonic::Add | Mnemonic::Sub if constant => match whole(to) {
            Some(to) if instruction.mnemonic() == Mnemonic::Add => {
                Act::Add { to, by: signed(instruction.immediate(1)) }
            }
            Some(to) => Act::Add { to, by: signed(instruction.immediate(1)).saturating_neg() },
            None => Act::Other,
        },
        Mnemonic::Add if both => match (whole(to), whole(from)) {
            (Some(to), Some(from)) => Act::Sum { to, from },
            _ => Act::Other,
        },
        Mnemonic::Mov if loads => match general(to) {
            Some(to) if instruction.op0_register().is_gpr64() || instruction.op0_register().is_gpr32() => {
                Act::Load { to, signed: false }
            }
            _ => Act::Other,
        },
        Mnemonic::Movsxd if loads => whole(to).map_or(Act::Other, |to| Act::Load { to, signed: true }),
        Mnemonic::Mov if two && instruction.op0_kind() == OpKind::Memory && single => {
            let stored = (instruction.op1_kind() == OpKind::Register).then(|| whole(from)).flatten();
            stored.map_or(Act::Other, |from| Act::Store { from })
        }
        _ => Act::Other,
    }
}

/// An address that the operands give as a number.
fn address(instruction: &Instruction, mems: &[Mem], lea: bool) -> Option<u64> {
    let relative = || instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address());
    if instruction.mnemonic() == Mnemonic::Call {
        let near = instruction.op0_kind() == OpKind::NearBranch64;
        return if near { Some(instruction.near_branch_target()) } else { None };
    }
    if lea {
        return relative();
    }
    if instruction.op_count() == 2 && mems.len() < 2 {
        let immediate = matches!(
            instruction.op1_kind(),
            OpKind::Immediate32 | OpKind::Immediate64 | OpKind::Immediate32to64
        );
        return (instruction.mnemonic() == Mnemonic::Mov && immediate).then(|| instruction.immediate(1));
    }
    None
}

/// The same bits as a signed number.
fn signed(value: u64) -> i64 {
    i64::from_ne_bytes(value.to_ne_bytes())
}
