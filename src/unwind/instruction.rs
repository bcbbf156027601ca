//! What one instruction does with a frame.

use iced_x86::{Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpKind, Register};

use super::rules::Cfa;
use super::slots::Unclear;

/// The bytes of a word.
pub(super) const WORD: i64 = 8;

/// Accesses beyond which a part is not believed.
const MOST_TOUCHED: usize = 1 << 18;

/// The registers that calls preserve.
const PRESERVED: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// What an instruction did to the frame pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    None,
    /// The stack pointer was put into it.
    FramePointer,
    /// The caller's was taken back.
    Restored,
}

/// What instructions did with a frame, one after the other.
pub(super) struct Effects {
    /// Words that were read or written, as distances from the CFA in words.
    pub(super) touched: Vec<i64>,
    /// What makes the frame alive as a whole, if anything does.
    pub(super) unclear: Option<Unclear>,
    /// How far the CFA is above the stack pointer. Where the frame pointer tells the CFA it is
    /// known in a straight line only: behind a call that does not return, or behind a jump,
    /// the code may be somebody else's that jumps there from another depth.
    pub(super) depth: Option<i64>,
    factory: InstructionInfoFactory,
}

impl Effects {
    pub(super) fn new() -> Self {
        Self { touched: Vec::new(), unclear: None, depth: None, factory: InstructionInfoFactory::new() }
    }

    // The first is kept, except that code that cannot be read is worse than all else.
    pub(super) fn keep(&mut self, unclear: Unclear) {
        if self.unclear.is_none() || unclear == Unclear::Code {
            self.unclear = Some(unclear);
        }
    }

    /// The words that `size` bytes lie in.
    pub(super) fn touch(&mut self, at: i64, size: i64) {
        let last = at.saturating_add(size).saturating_sub(1).div_euclid(WORD);
        self.touched.extend(at.div_euclid(WORD)..=last);
        if self.touched.len() > MOST_TOUCHED {
            self.touched.clear();
            self.keep(Unclear::Code);
        }
    }

    /// Notes what an instruction touches, and changes the depth as it does.
    pub(super) fn look(&mut self, instruction: &Instruction, cfa: Cfa) -> Change {
        let framed = matches!(cfa, Cfa::Rbp(_));
        let own = |register: Register| {
            let full = register.full_register();
            full == Register::RSP || (framed && full == Register::RBP)
        };
        let mnemonic = instruction.mnemonic();
        let operands = || 0..instruction.op_count();
        let memory = operands().any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        let on_stack = memory && (own(instruction.memory_base()) || own(instruction.memory_index()));
        let register = |operand: u32| {
            (instruction.op_kind(operand) == OpKind::Register).then(|| instruction.op_register(operand))
        };
        let used = operands().filter_map(register).any(own);
        if mnemonic == Mnemonic::Lea {
            if on_stack || used {
                self.lea(instruction, cfa);
            }
            return Change::None;
        }
        if on_stack && mnemonic != Mnemonic::Nop {
            self.access(instruction, cfa);
        }
        if instruction.is_stack_instruction() {
            return self.implied(instruction, cfa, used);
        }
        if used {
            return self.value(instruction, cfa);
        }
        if !on_stack {
            let info = self.factory.info_options(instruction, InstructionInfoOptions::NO_MEMORY_USAGE);
            if info.used_registers().iter().any(|register| own(register.register())) {
                self.keep(Unclear::Address);
            }
        }
        Change::None
    }

    /// An address that is made of the stack pointer or the frame pointer, or becomes one.
    fn lea(&mut self, instruction: &Instruction, cfa: Cfa) {
        let by = signed(instruction.memory_displacement64());
        let plain = instruction.op0_register() == Register::RSP
            && instruction.memory_index() == Register::None
            && instruction.segment_prefix() == Register::None;
        match (instruction.memory_base(), cfa) {
            (Register::RSP, _) if plain => self.adjust(by),
            (Register::RBP, Cfa::Rbp(distance)) if plain => self.depth = distance.checked_sub(by),
            _ => self.keep(Unclear::Address),
        }
    }

    /// An operand on the stack.
    fn access(&mut self, instruction: &Instruction, cfa: Cfa) {
        let size = instruction.memory_size().size();
        let bit_string =
            matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
                && instruction.op1_kind() == OpKind::Register;
        let moved = instruction.mnemonic() == Mnemonic::Pop;
        let elsewhere = matches!(instruction.segment_prefix(), Register::FS | Register::GS);
        if size == 0 || bit_string || moved || elsewhere || instruction.memory_index() != Register::None {
            return self.keep(Unclear::Place);
        }
        let by = signed(instruction.memory_displacement64());
        let up = match (instruction.memory_base(), cfa) {
            (Register::RSP, _) => self.depth,
            (Register::RBP, Cfa::Rbp(distance)) => Some(distance),
            _ => return self.keep(Unclear::Place),
        };
        match up.and_then(|up| by.checked_sub(up)) {
            Some(at) => self.touch(at, i64::try_from(size).unwrap_or(i64::MAX)),
            None => self.keep(Unclear::Depth),
        }
    }

    /// What pushes, pops, calls and returns do without saying so.
    fn implied(&mut self, instruction: &Instruction, cfa: Cfa, used: bool) -> Change {
        let mnemonic = instruction.mnemonic();
        let register = instruction.op0_register();
        let by = i64::from(instruction.stack_pointer_increment());
        match mnemonic {
            Mnemonic::Call | Mnemonic::Ret if !used => {}
            Mnemonic::Push if !used => {
                let pushed = self.depth.and_then(|depth| depth.checked_sub(by));
                self.depth = pushed;
                match pushed {
                    Some(depth) => self.touch(depth.saturating_neg(), by.saturating_neg()),
                    None => self.keep(Unclear::Depth),
                }
            }
            Mnemonic::Pop if register.full_register() != Register::RSP => {
                // Where a frame pointer tells the CFA, and in the end one was pushed, its own pop is
                // the last use of the frame.
                match self.depth {
                    Some(depth) => self.touch(depth.saturating_neg(), by),
                    // The rules have the slots of these.
                    None if PRESERVED.contains(&register) => {}
                    None => self.keep(Unclear::Depth),
                }
                self.adjust(by);
                if used {
                    return Change::Restored;
                }
            }
            Mnemonic::Leave => {
                let Cfa::Rbp(distance) = cfa else {
                    self.keep(Unclear::Address);
                    return Change::None;
                };
                self.touch(distance.saturating_neg(), WORD);
                self.depth = distance.checked_sub(WORD);
                return Change::Restored;
            }
            _ => self.keep(Unclear::Address),
        }
        Change::None
    }

    /// The stack pointer or the frame pointer as a value.
    fn value(&mut self, instruction: &Instruction, cfa: Cfa) -> Change {
        let (to, from) = (instruction.op0_register(), instruction.op1_register());
        let constant = instruction.op_count() == 2
            && !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory);
        match (instruction.mnemonic(), to, cfa) {
            (Mnemonic::Mov, Register::RBP, Cfa::Rsp(_)) if from == Register::RSP => {
                return Change::FramePointer;
            }
            (Mnemonic::Mov, Register::RSP, Cfa::Rbp(distance)) if from == Register::RBP => {
                self.depth = Some(distance);
            }
            (Mnemonic::Add, Register::RSP, _) if constant => {
                self.adjust(signed(instruction.immediate(1)));
            }
            (Mnemonic::Sub, Register::RSP, _) if constant => {
                self.adjust(signed(instruction.immediate(1)).saturating_neg());
            }
            (_, Register::RSP, _) if instruction.op0_kind() == OpKind::Register => {
                self.keep(Unclear::Size);
            }
            _ => self.keep(Unclear::Address),
        }
        Change::None
    }

    /// Moves the stack pointer up.
    fn adjust(&mut self, by: i64) {
        self.depth = self.depth.and_then(|depth| depth.checked_sub(by));
    }
}

/// The same bits as a signed number.
fn signed(value: u64) -> i64 {
    i64::from_ne_bytes(value.to_ne_bytes())
}
