//! Where instructions access the frame: which registers hold addresses in it.
//!
//! The CFA stays where it is for as long as the frame exists, and every place is a distance
//! from it. Addresses in the frame come from `rsp` only; they are followed through registers.
//! One that leaves the registers (to memory, a vector register, a call, the kernel) escapes.

use super::Unclear;
use super::code::{ARGUMENTS, Act, Code, Mem, Op, RBP, RSP, Registers, SCRATCH, Successor, bit};
use super::rules::Cfa;

/// The bytes of a word.
pub(super) const WORD: i64 = 8;

/// How far outside of an object an address may be to which an index is yet to be added, in bytes:
/// compilers fold constants of an index into it. Seen: `s.a[i - 1]` of a structure that was passed, GCC 12.
const FOLDED: i64 = 128;

/// Words of one access beyond which it counts as one to everywhere.
const MOST_WORDS: i64 = 512;

/// A part of a frame that an object may be in. An object is on one side of the return address.
pub(super) type Area = u8;
/// What is below the return address.
pub(super) const LOCALS: Area = 1;
/// What the caller passed on the stack.
pub(super) const PASSED: Area = 2;

/// What is known of a register's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value {
    /// Not made of the frame's address.
    Other,
    /// So many bytes from the CFA.
    Frame(i64),
    /// Made of addresses in the frame, and of what is not known; or that on some ways only.
    ///
    /// It may be an address in these areas. The highest address that it was made of is so many
    /// bytes from the CFA.
    Near(Area, i64),
    /// A place in the module.
    Place(u64),
    /// An entry of the table there: of four bytes, from the table's start.
    Entry(u64),
    /// Where an entry of the table there leads.
    JumpTarget(Table),
}

/// A table of addresses that a jump goes by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Table {
    /// Of signed distances of four bytes from its start.
    Distances(u64),
    /// Of addresses.
    Addresses(u64),
}

impl Value {
    pub(super) const fn area(self) -> Area {
        match self {
            Self::Frame(at) if at < 0 => LOCALS,
            Self::Frame(_) => PASSED,
            Self::Near(area, _) => area,
            _ => 0,
        }
    }

    /// What is known when something unknown is added to the value.
    const fn blurred(self) -> Self {
        match self {
            Self::Frame(at) => Self::Near(around(at), at),
            Self::Near(..) => self,
            _ => Self::Other,
        }
    }

    /// What is known of a value that is made of this one and another.
    fn with(self, other: Self) -> Self {
        self.blurred().join(other.blurred())
    }

    /// The value so many bytes on.
    fn on(self, by: i64) -> Self {
        match self {
            Self::Frame(at) => at.checked_add(by).map_or(self.anywhere(), Self::Frame),
            // A loop may add to it again and again.
            Self::Near(area, at) => Self::Near(area | around(at.saturating_add(by)), at),
            _ => Self::Other,
        }
    }

    /// What is known of a value that is this one or another.
    fn join(self, other: Self) -> Self {
        let area = self.area() | other.area();
        match (self.highest(), other.highest()) {
            _ if self == other => self,
            (Some(one), Some(other)) => Self::Near(area, one.max(other)),
            (Some(at), None) | (None, Some(at)) => Self::Near(area, at),
            (None, None) => Self::Other,
        }
    }

    /// What is known when the value may have become any other address in the frame.
    fn anywhere(self) -> Self {
        self.highest().map_or(Self::Other, |at| Self::Near(LOCALS | PASSED, at))
    }

    /// The highest address in the frame that the value was made of.
    const fn highest(self) -> Option<i64> {
        match self {
            Self::Frame(at) | Self::Near(_, at) => Some(at),
            _ => None,
        }
    }
}

/// The areas in which an object may be whose address is this, but for an index.
///
/// Above, a local is as likely as an argument: an index that starts far below zero.
const fn around(at: i64) -> Area {
    if at < FOLDED.saturating_neg() { LOCALS } else { LOCALS | PASSED }
}

/// What is known of all general registers.
pub(super) type Values = [Value; 16];

/// The state where a function starts: right below the CFA is the return address.
pub(super) fn entered() -> Values {
    let mut state = [Value::Other; 16];
    set(&mut state, RSP, Value::Frame(WORD.saturating_neg()));
    state
}

pub(super) fn get(state: &Values, register: u8) -> Value {
    state.get(usize::from(register)).copied().unwrap_or(Value::Other)
}

pub(super) fn set(state: &mut Values, register: u8, value: Value) {
    if let Some(own) = state.get_mut(usize::from(register)) {
        *own = value;
    }
}

/// Joins another way to the same place; returns whether that changed what is known.
pub(super) fn join(state: &mut Values, other: &Values) -> bool {
    let mut changed = false;
    for (own, other) in state.iter_mut().zip(other) {
        let joined = own.join(*other);
        changed |= joined != *own;
        *own = joined;
    }
    changed
}

/// An access to the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// To these words, by their distances from the CFA in words, both included; `whole` when
    /// all of their bytes are written whenever the instruction is run.
    Words { first: i64, last: i64, read: bool, write: bool, whole: bool },
    /// Somewhere in these areas.
    Somewhere { area: Area, read: bool, write: bool },
    /// An address in these areas escapes.
    Escape(Area),
}

/// Takes what an instruction does with the frame.
pub(super) trait Sink {
    fn access(&mut self, access: Access);
    fn unclear(&mut self, unclear: Unclear);
}

/// Runs an instruction on what is known of the registers.
pub(super) fn run(state: &mut Values, code: &Code, op: &Op, sink: &mut impl Sink) {
    let mems = code.mems(op);
    if !matches!(op.act, Act::Lea { .. }) {
        for mem in mems {
            if let Some(access) = access(state, mem) {
                sink.access(access);
            }
        }
    }
    let taken = combined(state, op.reads & !bit(RSP)).with(stack_read(state, op));
    let escapes = areas(state, op.reads & !bit(RSP)) | stack_read(state, op).area();
    match op.act {
        Act::Move { to, from } => {
            let value = get(state, from);
            to_register(state, to, value, sink);
        }
        Act::Lea { to } => {
            let value = mems.first().map_or(Value::Other, |mem| lea(state, op, mem));
            to_register(state, to, value, sink);
        }
        Act::Add { to, by } => {
            let value = get(state, to).on(by);
            to_register(state, to, value, sink);
        }
        Act::Sum { to, from } => {
            let value = match (get(state, to), get(state, from)) {
                (Value::Entry(table), Value::Place(same)) | (Value::Place(same), Value::Entry(table))
                    if table == same =>
                {
                    Value::JumpTarget(Table::Distances(table))
                }
                (one, other) => one.with(other),
            };
            to_register(state, to, value, sink);
        }
        Act::Load { to, signed } => {
            let value = mems.first().map_or(Value::Other, |mem| loaded(state, mem, signed));
            to_register(state, to, value, sink);
        }
        Act::Push(from) => push(state, from, sink),
        Act::Pop(to) => {
            if let Value::Frame(at) = get(state, RSP) {
                sink.access(words(at, WORD, true, false, false));
                set(state, RSP, Value::Frame(at).on(WORD));
            } else if !to.is_some_and(preserved) {
                // The rules have the slots of those that calls preserve.
                sink.unclear(Unclear::Depth);
            }
            if let Some(to) = to {
                to_register(state, to, Value::Other, sink);
            }
        }
        Act::Leave => {
            let frame = get(state, RBP);
            if let Value::Frame(at) = frame {
                sink.access(words(at, WORD, true, false, false));
                set(state, RSP, Value::Frame(at).on(WORD));
            } else {
                sink.unclear(Unclear::Size);
            }
            set(state, RBP, Value::Other);
        }
        Act::Call => {
            let passed = areas(state, ARGUMENTS);
            if passed != 0 {
                sink.access(Access::Escape(passed));
            }
            // A function of the same file may be known to leave registers as they are.
            for register in registers(SCRATCH) {
                let value = get(state, register).join(Value::Other);
                set(state, register, value);
            }
        }
        Act::Unknown => sink.unclear(Unclear::Address),
        Act::Return => {}
        Act::Store { .. } | Act::Other => {
            if escapes != 0 && op.may_escape {
                sink.access(Access::Escape(escapes));
                if stack_read(state, op).area() != 0 {
                    sink.unclear(Unclear::Address);
                }
            }
            for register in registers(op.dirties) {
                let kept = if op.kills & bit(register) == 0 { get(state, register) } else { Value::Other };
                to_register(state, register, taken.with(kept), sink);
            }
        }
    }
}

/// Puts a value into a register.
fn to_register(state: &mut Values, to: u8, value: Value, sink: &mut impl Sink) {
    if to == RSP && !matches!(value, Value::Frame(_)) {
        sink.unclear(Unclear::Size);
    }
    set(state, to, value);
}

fn push(state: &mut Values, from: Option<u8>, sink: &mut impl Sink) {
    let value = from.map_or(Value::Other, |from| get(state, from));
    let moved = match get(state, RSP) {
        Value::Frame(at) => at.checked_sub(WORD),
        _ => None,
    };
    match moved {
        Some(at) => {
            sink.access(words(at, WORD, false, true, true));
            set(state, RSP, Value::Frame(at));
        }
        None => sink.unclear(Unclear::Depth),
    }
    if value.area() != 0 {
        sink.access(Access::Escape(value.area()));
    }
    if from == Some(RSP) {
        sink.unclear(Unclear::Address);
    }
}

/// The stack pointer, where its value is taken.
fn stack_read(state: &Values, op: &Op) -> Value {
    if op.reads & bit(RSP) == 0 { Value::Other } else { get(state, RSP) }
}

fn lea(state: &Values, op: &Op, mem: &Mem) -> Value {
    if let Some(address) = op.address {
        return Value::Place(address);
    }
    place(state, mem)
}

/// What is known of the address of an operand in memory.
fn place(state: &Values, mem: &Mem) -> Value {
    let base = mem.base.map_or(Value::Other, |base| get(state, base));
    let index = mem.index.map_or(Value::Other, |index| get(state, index));
    match (mem.wild, mem.index) {
        (true, _) => base.join(index).anywhere(),
        (false, None) => base.on(mem.displacement),
        (false, Some(_)) => {
            let place = base.on(mem.displacement).with(index.on(mem.displacement));
            // Below the stack pointer is no object, so that an index leads up from there.
            let below = match (get(state, RSP), base.on(mem.displacement)) {
                (Value::Frame(top), Value::Frame(at)) => at < top,
                _ => false,
            };
            if below { place.anywhere() } else { place }
        }
    }
}

/// What a load yields.
fn loaded(state: &Values, mem: &Mem, signed: bool) -> Value {
    let base = mem.base.map(|base| get(state, base));
    match (base, mem.index, mem.scale) {
        (Some(Value::Place(table)), Some(_), 4) if signed && mem.displacement == 0 => Value::Entry(table),
        (Some(Value::Place(table)), Some(_), 8) if !signed && mem.displacement == 0 && mem.size == 8 => {
            Value::JumpTarget(Table::Addresses(table))
        }
        (None, Some(_), 8) if !signed && mem.size == 8 && mem.displacement > 0 => {
            Value::JumpTarget(Table::Addresses(mem.displacement.unsigned_abs()))
        }
        _ => Value::Other,
    }
}

/// The table that an indirect jump goes by.
pub(super) fn table(state: &Values, code: &Code, op: &Op) -> Option<Table> {
    let target = match code.mems(op) {
        [] => {
            let mut read = registers(op.reads);
            match (read.next(), read.next()) {
                (Some(register), None) => get(state, register),
                _ => return None,
            }
        }
        [mem] if !mem.wild => loaded(state, mem, false),
        _ => return None,
    };
    match (op.successor, target) {
        (Successor::Indirect, Value::JumpTarget(table)) => Some(table),
        _ => None,
    }
}

fn access(state: &Values, mem: &Mem) -> Option<Access> {
    match place(state, mem) {
        Value::Frame(at) => {
            Some(words(at, i64::from(mem.size), mem.read, mem.write, mem.write && mem.always))
        }
        Value::Near(area, _) => Some(Access::Somewhere { area, read: mem.read, write: mem.write }),
        _ => None,
    }
}

/// An access to so many bytes at a distance from the CFA.
fn words(at: i64, size: i64, read: bool, write: bool, always: bool) -> Access {
    let end = at.saturating_add(size);
    let (first, last) = (at.div_euclid(WORD), end.saturating_sub(1).div_euclid(WORD));
    if last.saturating_sub(first) >= MOST_WORDS {
        return Access::Somewhere { area: LOCALS | PASSED, read, write };
    }
    let aligned = at.rem_euclid(WORD) == 0 && end.rem_euclid(WORD) == 0;
    Access::Words { first, last, read, write, whole: write && always && aligned }
}

/// What is known of a value that is made of those of some registers.
fn combined(state: &Values, set: Registers) -> Value {
    registers(set).map(|register| get(state, register)).fold(Value::Other, Value::with)
}

/// The areas of the values of some registers.
fn areas(state: &Values, set: Registers) -> Area {
    registers(set).fold(0, |area, register| area | get(state, register).area())
}

/// The registers of a set.
pub(super) fn registers(set: Registers) -> impl Iterator<Item = u8> {
    (0..16).filter(move |register| set & bit(*register) != 0)
}

/// Whether calls preserve a register.
pub(super) fn preserved(register: u8) -> bool {
    register != RSP && SCRATCH & bit(register) == 0
}

/// Holds the rules for an instruction against what is known of the registers.
pub(super) fn holds(state: &Values, cfa: Cfa) -> bool {
    match cfa {
        Cfa::Rsp(depth) => get(state, RSP) == Value::Frame(depth.saturating_neg()),
        Cfa::Rbp(depth) => get(state, RBP) == Value::Frame(depth.saturating_neg()),
        Cfa::Elsewhere => false,
    }
}
