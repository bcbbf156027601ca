//! The frames of a stopped thread, from its registers up.

use std::rc::Rc;

use crate::error::Error;
use crate::memory::Memory;
use crate::pass::Job;
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::source::Thread;
use crate::word::WordFormat;

use super::Unclear;
use super::code::{RBP, RSP};
use super::functions::{Functions, Whole};
use super::part::Part;
use super::places::{LOCALS, PASSED, WORD};
use super::point::Point;
use super::rules::{Cfa, Saved};
use super::signal::{self, Signal};

/// Frames of one thread that are looked at.
const MOST_FRAMES: usize = 4096;

/// The bytes of a word.
const BYTES: u64 = 8;

/// The words that a caller leaves for the registers of its arguments, by the calling convention of Windows.
const HOME: i64 = 4;

/// The general registers, as the core and gdb call them; in the order of their numbers.
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// The numbers of the registers that calls preserve, in the order of the rules.
const PRESERVED: [u8; 6] = [3, RBP, 12, 13, 14, 15];

/// A call that has not returned, and whose caller is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The instruction that it goes on with.
    pub pc: u64,
    /// Its stack pointer.
    pub stack_pointer: u64,
    /// The canonical frame address: the stack pointer before the call.
    pub cfa: u64,
    /// The words of it that are dead, in address order.
    pub dead: Vec<AddressRange>,
    /// Why it counts as alive as a whole, if it does.
    pub unclear: Option<Unclear>,
    /// Whether an address of its locals escaped, so that only words that were never written
    /// are dead.
    pub escaped: bool,
}

/// The frames of a thread, the innermost first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Frames {
    /// As far as they are known for sure.
    pub frames: Vec<Frame>,
    /// The general registers whose values no frame reads.
    pub dead: Vec<&'static str>,
    /// How the chain ends.
    pub end: End,
}

/// How the chain of a thread's frames ends.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum End {
    /// Nothing is known of the next frame.
    #[default]
    Unknown,
    /// With a frame that nothing called, whose stack pointer this is.
    Outermost(u64),
    /// The next frame is below, so that the frames are not all on one stack.
    Below,
}

/// Unwinds threads of a target.
pub struct Unwinder<'m> {
    functions: Functions<'m>,
}

/// Where a thread is, and what it holds.
struct UnwindState {
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
    /// Whether it waits for a call to return.
    calls: bool,
    /// What interrupted it, if a signal did: the frame before it is the handler's.
    signal: Option<Signal>,
}

/// What a frame means to its neighbours.
struct Judged {
    frame: Frame,
    /// Which of the registers that calls preserve are alive where it is.
    alive: [bool; 6],
}

impl<'m> Unwinder<'m> {
    /// An unwinder for the threads of `memory`.
    #[must_use]
    pub fn new(memory: &'m dyn Memory) -> Self {
        Self { functions: Functions::new(memory) }
    }

    /// The frames of a thread.
    ///
    /// None for threads of other machines, and for those whose registers are not known.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn frames(&mut self, thread: &Thread, job: &Job) -> Result<Frames, Error> {
        let (found, end) = self.chain(thread, job)?;
        let wholes: Result<Vec<Rc<Whole>>, Error> =
            found.iter().map(|frame| self.functions.whole(&frame.part, job)).collect();
        let wholes = wholes?;
        let mut frames = Vec::new();
        // Of the caller of the last one nothing is known: it may read all registers.
        let mut alive = [true; 6];
        let mut dead = Vec::new();
        for (index, frame) in found.iter().enumerate().rev() {
            job.check()?;
            let callee = index.checked_sub(1).filter(|_| frame.signal.is_none());
            let callee = callee.and_then(|inner| Some((found.get(inner)?, wholes.get(inner)?)));
            let Some(whole) = wholes.get(index) else { break };
            let judged = frame.judge(whole, callee, alive);
            // The kernel saves all registers for what a signal interrupts. A handler may read those too.
            alive = if frame.signal.is_some() { [true; 6] } else { judged.alive };
            if index == 0 && judged.frame.unclear.is_none() {
                dead = frame.registers(whole, alive);
            }
            frames.push(judged.frame);
        }
        frames.reverse();
        Ok(Frames { frames, dead, end })
    }

    /// The frames whose callers are known, and what is behind the last one.
    fn chain(&mut self, thread: &Thread, job: &Job) -> Result<(Vec<Pending>, End), Error> {
        let mut frames: Vec<Pending> = Vec::new();
        let mut end = End::Unknown;
        let Some(mut state) = UnwindState::of(thread) else { return Ok((frames, end)) };
        let memory = self.functions.peek.memory();
        if memory.word_format() != WordFormat::LITTLE_64 {
            return Ok((frames, end));
        }
        let Some(stack) = memory.region_at(state.stack_pointer) else { return Ok((frames, end)) };
        let mut stack = stack.range;
        let mut pending: Option<Pending> = None;
        let mut signal = None;
        while frames.len() < MOST_FRAMES {
            job.check()?;
            // A call may be the last instruction: what it would return to is after it.
            let calls = pending.is_some();
            let inside = if calls { state.pc.wrapping_sub(1) } else { state.pc };
            if calls && self.nothing_called(state.pc) {
                end = End::Outermost(state.stack_pointer);
            }
            let Some(part) = self.functions.part(inside) else { break };
            if part.rules.signal && calls {
                let Some((kind, next)) = self.interrupted(&state, stack) else { break };
                let Some(region) = memory.region_at(next.stack_pointer) else { break };
                frames.extend(pending.take());
                (signal, state, stack) = (Some(kind), next, region.range);
                continue;
            }
            let known = if calls { part.code.call(state.pc) } else { part.code.index_of(state.pc) };
            if known.is_none() {
                break;
            }
            frames.extend(pending.take());
            let row = part.rules.row(inside);
            if row.is_some_and(|row| row.back == Saved::Lost) {
                end = End::Outermost(state.stack_pointer);
            } else if row.and_then(|row| state.cfa(row.cfa)).is_some_and(|cfa| cfa <= state.stack_pointer) {
                end = End::Below;
            }
            let Some((cfa, next)) = self.step(&state, &part, inside, stack) else { break };
            let (pc, stack_pointer) = (state.pc, state.stack_pointer);
            pending = Some(Pending { pc, stack_pointer, cfa, part, calls, signal: signal.take() });
            state = next;
        }
        Ok((frames, end))
    }

    /// Whether the return address of a frame shows that nothing called it: it is zero, or the instruction before
    /// it is not a call. Code that starts a function on a new stack puts such an address there.
    fn nothing_called(&mut self, address: u64) -> bool {
        address == 0 || behind_call(&mut self.functions.peek, address) == Some(false)
    }

    /// What a signal interrupted, where a handler returns to `state`.
    fn interrupted(&mut self, state: &UnwindState, stack: AddressRange) -> Option<(Signal, UnwindState)> {
        let context = state.stack_pointer;
        let peek = &mut self.functions.peek;
        let kind = signal::at(peek, state.pc, context)?;
        let pc = peek.word(context.checked_add(signal::RIP)?)?;
        let mut value = |register: u8| peek.word(context.checked_add(signal::offset(register)?)?);
        let next = UnwindState { pc, stack_pointer: value(RSP)?, preserved: PRESERVED.map(value) };
        // On the same stack it is above; a handler may have a stack of its own.
        let below = stack.contains(next.stack_pointer) && next.stack_pointer <= context;
        (!below).then_some((kind, next))
    }

    /// The CFA of a frame, and what its caller has.
    fn step(
        &mut self,
        state: &UnwindState,
        part: &Part,
        inside: u64,
        stack: AddressRange,
    ) -> Option<(u64, UnwindState)> {
        if part.rules.signal {
            return None;
        }
        let row = part.rules.row(inside)?;
        let cfa = state.cfa(row.cfa)?;
        let grows = cfa > state.stack_pointer && cfa <= stack.end() && cfa % BYTES == 0;
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
        Some((cfa, UnwindState { pc, stack_pointer: cfa, preserved }))
    }
}

/// Whether a stretch of a stack has an address to which a call would return.
///
/// The arguments and the environment of a program, which are above all frames, have none.
pub fn has_return_address(memory: &dyn Memory, stretch: AddressRange) -> bool {
    /// Of a program's entry, in the vector after the environment (System V ABI, x86-64, 3.4.3).
    const AT_ENTRY: u64 = 9;
    /// More than arguments and an environment may take (a quarter of the stack's limit, 6 MiB at most).
    const MOST: u64 = 16 << 20;
    let mut bytes = Vec::new();
    let stretch = AddressRange::saturating(stretch.start(), stretch.len().min(MOST));
    let _ = memory.append(stretch, &mut bytes);
    let format = memory.word_format();
    let words: Vec<u64> = bytes.chunks_exact(format.size).map(|word| format.order.value(word)).collect();
    let mut peek = Peek::new(memory);
    let mut last = 0;
    words.into_iter().any(|word| {
        let before = std::mem::replace(&mut last, word);
        before != AT_ENTRY && behind_call(&mut peek, word) == Some(true)
    })
}

/// Whether the instruction before `address` is a call; `None` where there is no code, or where it cannot be read.
fn behind_call(peek: &mut Peek<'_>, address: u64) -> Option<bool> {
    const LONGEST: usize = 7;
    let memory = peek.memory();
    memory.region_at(address).filter(|region| region.permissions.executable())?;
    let before = peek.bytes(address.checked_sub(LONGEST as u64)?, LONGEST)?;
    Some(ends_with_call(before))
}

/// Whether these bytes end with a call: one of a distance, or one by a register or memory.
fn ends_with_call(bytes: &[u8]) -> bool {
    const NEAR: u8 = 0xe8;
    const GROUP: u8 = 0xff;
    let back = |distance: usize| bytes.len().checked_sub(distance).and_then(|at| bytes.get(at..));
    let indirect = |distance: usize| matches!(back(distance), Some([GROUP, mode, ..]) if mode & 0x38 == 0x10);
    matches!(back(5), Some([NEAR, ..])) || (2..=7).any(indirect)
}

impl UnwindState {
    fn of(thread: &Thread) -> Option<Self> {
        let value = |name: &str| {
            let register = thread.registers.general.iter().find(|register| register.name == name)?;
            Some(register.value)
        };
        let named = |number: u8| NAMES.get(usize::from(number)).and_then(|name| value(name));
        Some(Self { pc: value("rip")?, stack_pointer: value("rsp")?, preserved: PRESERVED.map(named) })
    }

    /// Where the CFA is by a rule.
    fn cfa(&self, rule: Cfa) -> Option<u64> {
        let [_, frame_pointer, ..] = self.preserved;
        match rule {
            Cfa::Rsp(depth) => self.stack_pointer.checked_add_signed(depth),
            Cfa::Rbp(distance) => frame_pointer?.checked_add_signed(distance),
            Cfa::Elsewhere => None,
        }
    }
}

impl Pending {
    /// What holds where the frame is.
    fn point<'w>(&self, whole: &'w Whole) -> Result<Point<'w>, Unclear> {
        let flow = match &whole.flow {
            // What such a function does with its arguments is not known either.
            Err(Unclear::Code) => return Err(Unclear::Code),
            _ if self.signal == Some(Signal::Fault) => return Err(Unclear::Fault),
            flow => flow.as_ref().map_err(|unclear| *unclear)?,
        };
        let address = if self.calls {
            let call = self.part.code.call(self.pc).and_then(|index| self.part.code.ops.get(index));
            call.map_or(self.pc, |op| op.at)
        } else {
            self.pc
        };
        let at = flow.graph.index_of(address).ok_or(Unclear::Entry)?;
        if whole.may_return_twice.iter().any(|call| flow.graph.leads(*call, at)) {
            return Err(Unclear::Twice);
        }
        let mut point = flow.point(at, self.calls).ok_or(Unclear::Entry)?;
        // A system call that was interrupted may be started again.
        if let Some(before) = at.1.checked_sub(1).filter(|_| !self.calls) {
            let before = (at.0, before);
            let restarts = flow.graph.op(before).is_some_and(|op| op.system && op.next == self.pc);
            if let Some(again) = flow.point(before, false).filter(|_| restarts) {
                point.unite(&again);
            }
        }
        Ok(point)
    }

    /// The frame with its dead words.
    ///
    /// `callee` is the frame that it called, and `needed` says which of the registers that
    /// calls preserve its caller reads later.
    fn judge(&self, whole: &Whole, callee: Option<(&Self, &Rc<Whole>)>, needed: [bool; 6]) -> Judged {
        let mut frame = Frame {
            pc: self.pc,
            stack_pointer: self.stack_pointer,
            cfa: self.cfa,
            dead: Vec::new(),
            unclear: None,
            escaped: false,
        };
        let all = |mut frame: Frame, unclear: Unclear| {
            frame.unclear = Some(unclear);
            Judged { frame, alive: [true; 6] }
        };
        let point = match self.point(whole) {
            Ok(point) => point,
            Err(unclear) => return all(frame, unclear),
        };
        let inside = if self.calls { self.pc.wrapping_sub(1) } else { self.pc };
        let Some(row) = self.part.rules.row(inside) else { return all(frame, Unclear::Rules) };
        // Of a function that cannot be read it is not known either what it does with its arguments.
        let inner = callee.map(|(callee, of_callee)| callee.point(of_callee));
        if let Some(Err(Unclear::Code)) = inner {
            return all(frame, Unclear::Code);
        }
        let reached = inner.as_ref().is_some_and(|inner| match inner {
            Ok(inner) => inner.escaped(PASSED),
            Err(_) => true,
        });
        let inner = inner.and_then(Result::ok);
        // Where the caller's registers are.
        let mut alive = PRESERVED.map(|register| point.register(register));
        let mut saved: Vec<i64> = Vec::new();
        // Where a register was restored already, or was saved but the rules say so only later,
        // its value is at both places.
        let live_or_returned = PRESERVED.map(|register| point.live_or_returned(register));
        for (((own, needed), place), live_or_returned) in
            alive.iter_mut().zip(needed).zip(row.saved).zip(live_or_returned)
        {
            *own |= needed && live_or_returned;
            match place {
                Saved::Same => *own |= needed,
                Saved::At(at) if needed => saved.push(at.div_euclid(WORD)),
                Saved::Lost if needed => return all(frame, Unclear::Rules),
                Saved::At(_) | Saved::Lost => {}
            }
        }
        if let Cfa::Rbp(_) = row.cfa {
            let [_, frame_pointer, ..] = &mut alive;
            *frame_pointer = true;
        }
        frame.escaped = point.escaped(LOCALS);
        let callee_never_returns = callee.is_some_and(|(_, of_callee)| !of_callee.returns);
        let spare = callee_never_returns && whole.saves_all_preserved && !whole.returns;
        let flow = whole.flow.as_ref().ok();
        let base = self.stack_pointer.wrapping_sub(self.cfa);
        let ruled = |word: i64| {
            let at = |place: &Saved| matches!(place, Saved::At(at) if at.div_euclid(WORD) == word);
            row.saved.iter().any(at)
        };
        let unruled = needed.contains(&true);
        let alive_word = |word: i64, passed: i64| {
            if unruled && !ruled(word) && point.written(word) && point.live_or_returned_word(word) {
                return true;
            }
            // What it reads at a place that only it knows is an argument, which its caller has put there.
            let argument = || point.written(word) || flow.is_none_or(|flow| flow.passes(word));
            let read = |inner: &Point<'_>| inner.live(passed) && (inner.names(passed) || argument());
            if saved.contains(&word) || inner.as_ref().is_some_and(read) {
                return true;
            }
            let of_rules = flow.is_some_and(|flow| flow.saves(word));
            if frame.escaped && !of_rules {
                return true;
            }
            if !point.written(word) {
                // Of a structure that is passed some words may be left as they were. The lowest four are the
                // callee's own where it is of Windows' ABI.
                let home = passed < HOME && inner.as_ref().is_some_and(|inner| inner.names(passed));
                return reached && (home || flow.is_none_or(|flow| flow.passes(word)));
            }
            // What follows a call that does not return is no reason for a variable to be dead: the
            // frame still has it, as for valgrind.
            point.live(word)
                || (reached && !of_rules)
                || (callee_never_returns && !of_rules && (!spare || point.surely_written(word)))
        };
        if self.stack_pointer % BYTES == 0 {
            let first = i64::from_ne_bytes(base.to_ne_bytes()).div_euclid(WORD);
            // The highest word is the return address.
            let dead = (first..-1).filter(|word| !alive_word(*word, word.saturating_sub(first)));
            let ranges = dead.filter_map(|word| {
                let at = self.cfa.checked_add_signed(word.checked_mul(WORD)?)?;
                Some(AddressRange::saturating(at, BYTES))
            });
            frame.dead = AddressRange::merge(ranges.collect());
        }
        // At a call that does not return the values stay, too.
        if callee_never_returns {
            for (own, register) in alive.iter_mut().zip(PRESERVED) {
                *own |= flow.is_none_or(|flow| flow.writes(register));
            }
        }
        Judged { frame, alive }
    }

    /// The registers whose values nothing reads, where this is the innermost frame.
    fn registers(&self, whole: &Whole, alive: [bool; 6]) -> Vec<&'static str> {
        let Ok(point) = self.point(whole) else { return Vec::new() };
        let live = |register: u8| match PRESERVED.iter().position(|own| *own == register) {
            Some(index) => alive.get(index).copied().unwrap_or(true),
            None => register == RSP || point.live_or_returned(register),
        };
        let dead = (0_u8..).zip(NAMES).filter(|(register, _)| !live(*register));
        dead.map(|(_, name)| name).collect()
    }
}
