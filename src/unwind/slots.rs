//! What the instructions of a function touch of its frame.
//!
//! All are decoded, one behind the other, whether or not they are ever reached. The row of
//! rules that holds for an instruction turns its `rsp` or `rbp` into a distance from the CFA,
//! which stays where it is for as long as the frame exists.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

use super::instruction::{Change, Effects, WORD};
use super::rules::{Cfa, Row, Rules};

/// Jumps to elsewhere beyond which a part is not believed.
const MOST_EXITS: usize = 256;

/// Where the CFA is when a function starts, and when it makes its last call.
const FRAMELESS: Cfa = Cfa::Rsp(WORD);

/// The prefix that makes an instruction atomic.
const LOCK: u8 = 0xf0;

/// Why all of a frame counts as alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unclear {
    /// Its code cannot be read, or is no code.
    Code,
    /// The rules do not say where the frame is, or say what the code does not do.
    Rules,
    /// The address of something in the frame is taken.
    Address,
    /// An access at a place, or of a size, that only the program knows.
    Place,
    /// The stack pointer is changed by a number that only the program knows.
    Size,
    /// An access by the stack pointer where it is not known how far it is from the CFA.
    Depth,
    /// A jump whose aim is not known.
    Jump,
    /// Code that comes there with a frame, nobody knows from where.
    Entry,
}

impl Unclear {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Rules => "rules",
            Self::Address => "address",
            Self::Place => "place",
            Self::Size => "size",
            Self::Depth => "depth",
            Self::Jump => "jump",
            Self::Entry => "entry",
        }
    }
}

/// A jump out of a part of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// Where it leads.
    pub target: u64,
    /// Where the frame is then; `None` after an exception.
    pub cfa: Option<Cfa>,
}

/// What a part of a function touches of its frame.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Slots {
    /// Words that are read or written, as distances from the CFA in words, in order.
    pub touched: Vec<i64>,
    /// What makes the frame alive as a whole, if anything does.
    pub unclear: Option<Unclear>,
    /// Jumps to elsewhere that take the frame along.
    pub exits: Vec<Exit>,
    /// Whether the frame is made here.
    pub prologue: bool,
    /// Where code starts that has a frame, but no code before it that would go on there.
    pub heads: Vec<u64>,
    /// Where jumps and exceptions lead to inside of the part.
    pub aims: Vec<u64>,
    /// Where instructions start, and where those behind calls would, in bytes from the start.
    starts: Vec<u32>,
    returns: Vec<u32>,
}

impl Slots {
    /// What the code touches that `rules` are for.
    #[must_use]
    pub fn find(code: &[u8], rules: &Rules) -> Self {
        let mut walk = Walk { slots: Self::default(), effects: Effects::new() };
        walk.all(code, rules);
        let Walk { mut slots, effects } = walk;
        slots.touched = effects.touched;
        slots.unclear = effects.unclear;
        slots.touched.sort_unstable();
        slots.touched.dedup();
        slots
    }

    /// Notes where exceptions lead to.
    pub(super) fn land(&mut self, landings: &[u64], rules: &Rules) {
        for target in landings {
            if !rules.range.contains(*target) {
                self.leave(Exit { target: *target, cfa: None });
            } else if self.starts(target.wrapping_sub(rules.range.start())) {
                self.aims.push(*target);
            } else {
                self.unclear = Some(Unclear::Code);
            }
        }
    }

    /// Whether an instruction starts so many bytes from the start of the part.
    #[must_use]
    pub fn starts(&self, offset: u64) -> bool {
        u32::try_from(offset).is_ok_and(|offset| self.starts.binary_search(&offset).is_ok())
    }

    /// Whether a call would return so many bytes from the start of the part.
    #[must_use]
    pub fn returns(&self, offset: u64) -> bool {
        u32::try_from(offset).is_ok_and(|offset| self.returns.binary_search(&offset).is_ok())
    }

    /// Notes a jump to elsewhere.
    fn leave(&mut self, exit: Exit) {
        if self.exits.len() >= MOST_EXITS {
            self.unclear = self.unclear.or(Some(Unclear::Jump));
        } else if !self.exits.contains(&exit) {
            self.exits.push(exit);
        }
    }
}

/// What comes before an instruction.
#[derive(Clone, Copy)]
enum Before<'r> {
    /// Nothing that goes on there.
    Nothing,
    /// A call, with its row: it goes on there if it returns.
    Call(Option<&'r Row>),
    /// An instruction that goes on there, with where the frame was, and what it did to the
    /// frame pointer.
    Line(Cfa, Change),
}

/// The way through the instructions of a part.
struct Walk {
    slots: Slots,
    effects: Effects,
}

impl Walk {
    fn all(&mut self, code: &[u8], rules: &Rules) {
        let start = rules.range.start();
        if code.is_empty() || code.len() as u64 != rules.range.len() || u32::try_from(code.len()).is_err() {
            return self.effects.keep(Unclear::Code);
        }
        if rules.expressions {
            self.effects.keep(Unclear::Rules);
        }
        for at in &rules.slots {
            self.effects.touch(*at, WORD);
        }
        let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        let mut jumps = Vec::new();
        let mut rows = rules.rows.iter().peekable();
        let mut row = None;
        let mut before = Before::Nothing;
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            // What is a breakpoint was something else.
            if instruction.is_invalid() || matches!(instruction.code(), Code::Int3 | Code::Int1) {
                return self.effects.keep(Unclear::Code);
            }
            while let Some(next) = rows.next_if(|next| next.start <= instruction.ip()) {
                row = Some(next);
            }
            let cfa = row.map_or(Cfa::Elsewhere, |row| row.cfa);
            // What fills the room behind a jump has the jump's row, and is not run. gcc puts a
            // nop before a part that starts with a landing, whose distance must not be zero; it
            // has the row of a function's start.
            let filling = !matches!(before, Before::Line(..)) && instruction.mnemonic() == Mnemonic::Nop;
            if !filling {
                self.hold(before, row, instruction.ip());
            }
            match cfa {
                Cfa::Rsp(depth) => self.effects.depth = Some(depth),
                Cfa::Rbp(_) if matches!(before, Before::Line(..)) => {}
                Cfa::Rbp(_) => self.effects.depth = None,
                Cfa::Elsewhere => self.effects.keep(Unclear::Rules),
            }
            self.place(&instruction, code, start);
            let change = self.effects.look(&instruction, cfa);
            self.follow(&instruction, cfa, rules, &mut jumps);
            before = match instruction.flow_control() {
                _ if filling => before,
                _ if instruction.mnemonic() == Mnemonic::Call => Before::Call(row),
                // Calls of the system are of the same kind.
                FlowControl::Next
                | FlowControl::ConditionalBranch
                | FlowControl::XbeginXabortXend
                | FlowControl::Call => Before::Line(cfa, change),
                _ => Before::Nothing,
            };
        }
        if matches!(before, Before::Line(..)) {
            // It would go on in what lies behind.
            self.effects.keep(Unclear::Jump);
        }
        for jump in jumps {
            self.aim(jump, rules);
        }
    }

    /// Notes where an instruction starts.
    fn place(&mut self, instruction: &Instruction, code: &[u8], start: u64) {
        let offset = |address: u64| u32::try_from(address.wrapping_sub(start)).unwrap_or(u32::MAX);
        let own = offset(instruction.ip());
        self.slots.starts.push(own);
        // With one thread glibc jumps over the prefix: `je 1f; lock; 1: cmpxchg`.
        if instruction.has_lock_prefix() && code.get(own as usize) == Some(&LOCK) {
            self.slots.starts.push(own.saturating_add(1));
        }
        if instruction.mnemonic() == Mnemonic::Call {
            self.slots.returns.push(offset(instruction.next_ip()));
        }
    }

    /// Notes where an instruction leads to.
    fn follow(&mut self, instruction: &Instruction, cfa: Cfa, rules: &Rules, jumps: &mut Vec<Exit>) {
        let near = instruction.op0_kind() == OpKind::NearBranch64;
        let target = instruction.near_branch_target();
        match instruction.flow_control() {
            FlowControl::UnconditionalBranch
            | FlowControl::ConditionalBranch
            | FlowControl::XbeginXabortXend
                if near =>
            {
                jumps.push(Exit { target, cfa: Some(cfa) });
            }
            FlowControl::UnconditionalBranch => self.effects.keep(Unclear::Jump),
            // With no frame it leads to another function, as a last call.
            FlowControl::IndirectBranch if cfa != FRAMELESS => self.effects.keep(Unclear::Jump),
            FlowControl::Call if near && target != rules.range.start() && rules.range.contains(target) => {
                self.effects.keep(Unclear::Jump);
            }
            _ => {}
        }
    }

    /// Holds the rules at a jump against those at its aim, or notes that it leads elsewhere.
    fn aim(&mut self, jump: Exit, rules: &Rules) {
        if rules.range.contains(jump.target) {
            let row = rules.row(jump.target);
            if !self.slots.starts(jump.target.wrapping_sub(rules.range.start())) {
                self.effects.keep(Unclear::Code);
            } else if row.map(|row| row.cfa) != jump.cfa {
                self.effects.keep(Unclear::Rules);
            } else if jump.cfa != Some(FRAMELESS) {
                self.slots.aims.push(jump.target);
            }
        } else if jump.cfa != Some(FRAMELESS) {
            // Without a frame it is a last call: what lies below the return address is gone.
            self.slots.leave(jump);
        }
    }

    /// Holds the rules at an instruction against what came before it.
    fn hold(&mut self, before: Before<'_>, row: Option<&Row>, address: u64) {
        let behind = row.map_or(Cfa::Elsewhere, |row| row.cfa);
        let (before, change) = match before {
            Before::Line(before, change) => (before, change),
            // A call that returns leaves all rules as they were.
            Before::Call(Some(before)) if row.is_some_and(|row| row.alike(before)) => return,
            _ => {
                if behind != FRAMELESS {
                    self.slots.heads.push(address);
                }
                return;
            }
        };
        if before == FRAMELESS && behind != FRAMELESS {
            self.slots.prologue = true;
        }
        let holds = match (before, behind, change) {
            (Cfa::Rsp(_), Cfa::Rsp(depth), _) => self.effects.depth == Some(depth),
            (Cfa::Rsp(depth), Cfa::Rbp(distance), Change::FramePointer) => depth == distance,
            (Cfa::Rbp(_), Cfa::Rsp(depth), Change::Restored) => {
                self.effects.depth.is_none_or(|known| known == depth)
            }
            (Cfa::Rbp(distance), Cfa::Rbp(same), Change::None) => distance == same,
            (Cfa::Elsewhere, ..) | (_, Cfa::Elsewhere, _) => true,
            _ => false,
        };
        // That address was taken if it is not the frame pointer.
        if change == Change::FramePointer && !matches!(behind, Cfa::Rbp(_)) {
            self.effects.keep(Unclear::Address);
        } else if !holds {
            self.effects.keep(Unclear::Rules);
        }
    }
}
