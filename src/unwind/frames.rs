//! The frames of a stopped thread, from its registers up.

use std::rc::Rc;

use crate::memory::Memory;
use crate::range::AddressRange;
use crate::source::Thread;
use crate::word::WordFormat;

use super::functions::{Functions, Part, Whole};
use super::rules::{Cfa, Saved};
use super::slots::Unclear;

/// Frames of one thread that are looked at.
const MOST_FRAMES: usize = 4096;

/// The bytes of a word.
const WORD: u64 = 8;

/// The registers that calls preserve, as the core and gdb call them; in the order of the rules.
const PRESERVED: [&str; 6] = ["rbx", "rbp", "r12", "r13", "r14", "r15"];

/// A call that has not returned, and whose caller is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The instruction that it goes on with.
    pub pc: u64,
    /// Its stack pointer.
    pub stack_pointer: u64,
    /// The canonical frame address: the stack pointer before the call.
    pub cfa: u64,
    /// The words of it that its function does not touch, in address order.
    pub dead: Vec<AddressRange>,
    /// Why it counts as alive as a whole, if it does.
    pub unclear: Option<Unclear>,
}

/// Unwinds threads of a target.
pub struct Unwinder<'m> {
    functions: Functions<'m>,
}

/// Where a thread is, and what it holds.
struct State {
    pc: u64,
    stack_pointer: u64,
    /// Where known.
    preserved: [Option<u64>; 6],
}

/// A frame of which it is not yet known whether its return address is one.
struct Pending {
    pc: u64,
    stack_pointer: u64,
    cfa: u64,
    part: Rc<Part>,
}

impl<'m> Unwinder<'m> {
    /// An unwinder for the threads of `memory`.
    #[must_use]
    pub fn new(memory: &'m dyn Memory) -> Self {
        Self { functions: Functions::new(memory) }
    }

    /// The frames of a thread, the innermost first, as far as they can be told for sure.
    ///
    /// None for threads of other machines, and for those whose registers are not known.
    pub fn frames(&mut self, thread: &Thread) -> Vec<Frame> {
        let mut frames: Vec<Frame> = Vec::new();
        let Some(mut state) = State::of(thread) else { return frames };
        let memory = self.functions.peek.memory();
        if memory.word_format() != WordFormat::LITTLE_64 {
            return frames;
        }
        let Some(stack) = memory.region_at(state.stack_pointer) else { return frames };
        let stack = stack.range;
        let mut pending: Option<Pending> = None;
        let mut callee: Option<Rc<Whole>> = None;
        while frames.len() < MOST_FRAMES {
            // A call may be the last instruction: what it would return to is behind it.
            let inside = if pending.is_some() { state.pc.wrapping_sub(1) } else { state.pc };
            let Some(part) = self.functions.part(inside) else { break };
            let offset = state.pc.wrapping_sub(part.rules.range.start());
            let known =
                if pending.is_some() { part.slots.returns(offset) } else { part.slots.starts(offset) };
            if !known {
                break;
            }
            if let Some(frame) = pending.take() {
                let whole = self.functions.whole(&frame.part);
                frames.push(frame.judge(&whole, callee.as_deref()));
                callee = Some(whole);
            }
            let Some((cfa, next)) = self.step(&state, &part, inside, stack) else { break };
            pending = Some(Pending { pc: state.pc, stack_pointer: state.stack_pointer, cfa, part });
            state = next;
        }
        frames
    }

    /// The CFA of a frame, and what its caller has.
    fn step(&mut self, state: &State, part: &Part, inside: u64, stack: AddressRange) -> Option<(u64, State)> {
        if part.rules.signal {
            return None;
        }
        let row = part.rules.row(inside)?;
        let [_, frame_pointer, ..] = state.preserved;
        let cfa = match row.cfa {
            Cfa::Rsp(depth) => state.stack_pointer.checked_add_signed(depth)?,
            Cfa::Rbp(distance) => frame_pointer?.checked_add_signed(distance)?,
            Cfa::Elsewhere => return None,
        };
        let grows = cfa > state.stack_pointer && cfa <= stack.end() && cfa % WORD == 0;
        let (true, Saved::At(at)) = (grows, row.back) else { return None };
        let pc = self.functions.peek.word(cfa.checked_add_signed(at)?)?;
        let mut preserved = state.preserved;
        for (value, saved) in preserved.iter_mut().zip(row.saved) {
            match saved {
                Saved::Same => {}
                Saved::At(at) => {
                    *value = cfa.checked_add_signed(at).and_then(|at| self.functions.peek.word(at));
                }
                Saved::Lost => *value = None,
            }
        }
        Some((cfa, State { pc, stack_pointer: cfa, preserved }))
    }
}

impl State {
    fn of(thread: &Thread) -> Option<Self> {
        let value = |name: &str| {
            let register = thread.registers.general.iter().find(|register| register.name == name)?;
            Some(register.value)
        };
        Some(Self { pc: value("rip")?, stack_pointer: value("rsp")?, preserved: PRESERVED.map(value) })
    }
}

impl Pending {
    /// The frame with its dead words; `callee` is the function that it called.
    fn judge(self, whole: &Whole, callee: Option<&Whole>) -> Frame {
        let mut frame = Frame {
            pc: self.pc,
            stack_pointer: self.stack_pointer,
            cfa: self.cfa,
            dead: Vec::new(),
            unclear: whole.unclear,
        };
        // Of a function that cannot be read it is not known either what it does with its arguments.
        if callee.and_then(|callee| callee.unclear) == Some(Unclear::Code) {
            frame.unclear = Some(Unclear::Code);
        }
        if frame.unclear.is_none() && self.stack_pointer % WORD == 0 {
            frame.dead = self.untouched(whole, callee);
        }
        frame
    }

    fn untouched(&self, whole: &Whole, callee: Option<&Whole>) -> Vec<AddressRange> {
        // The highest word is the return address.
        let length = self.cfa.saturating_sub(WORD).saturating_sub(self.stack_pointer);
        let range = AddressRange::saturating(self.stack_pointer, length);
        let own = words(&whole.touched, self.cfa, range);
        // What the callee touches of its arguments.
        let arguments =
            callee.into_iter().flat_map(|callee| words(&callee.touched, self.stack_pointer, range));
        range.without(&AddressRange::merge(own.chain(arguments).collect()))
    }
}

/// Those of some words, by their distance from `base` in words and in order, that lie in `range`.
fn words(touched: &[i64], base: u64, range: AddressRange) -> impl Iterator<Item = AddressRange> + '_ {
    let address = move |word: i64| word.checked_mul(8).and_then(|by| base.checked_add_signed(by));
    let first = touched.partition_point(|word| address(*word).is_none_or(|at| at < range.start()));
    let behind = touched.get(first..).unwrap_or_default().iter().map_while(move |word| address(*word));
    behind.take_while(move |at| *at < range.end()).map(|at| AddressRange::saturating(at, WORD))
}
