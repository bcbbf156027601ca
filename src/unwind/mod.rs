//! Which words of live frames, and which registers, nothing reads again.
//!
//! A stack is alive from the stack pointer on, but not every word of it. Compilers align
//! frames, keep room for paths that were not taken, and leave what is not needed any more. Such
//! words hold what earlier calls left there; a scan for pointers takes that for pointers.
//!
//! [`dead`] unwinds each thread by the rules in `.eh_frame` and builds the control-flow graph of
//! each function that it meets, with the landing pads of exceptions and the jump tables. A word
//! of a frame is dead if data flow proves one of these:
//!
//! 1. No path from where the function is reads the word before it writes it.
//! 2. No path from the function's entry to there has written the word.
//!
//! Why nothing that runs can read such a word:
//!
//! - **The function itself** reads its frame by addresses that are made of its stack pointer.
//!   They are followed through registers (`places.rs`): an access at a constant distance from the
//!   CFA is one to that word, any other counts as one to all locals, and to all arguments on the
//!   stack where these are as near as a constant that was folded into it may be. An address that leaves the
//!   registers escapes. From there on all locals are alive and may have been written; before,
//!   the escape counts as a read of all of them. Slots of saved registers are not locals: no
//!   object includes them. Where the graph is not known (a jump to an unknown target, code with
//!   a frame that nothing leads to, a frame of variable size, `setjmp`) the whole frame is alive.
//! - **A function that it called** reaches the frame by an escaped address, or as its arguments:
//!   words that its own data flow reads are alive in the caller's frame too. Words that the
//!   caller itself never reads by name count as arguments of each later call.
//! - **A function that called it** needs the registers that calls preserve. Saving one does not
//!   read it: the slot, or the register where it was not saved, is alive if the caller reads
//!   the register where it goes on, or its own callers do. Of a caller that is not known all are.
//!   In prologues and epilogues the value may be at both places, whatever the rules name: a second
//!   pass, in which returns read all of them, tells which registers and words carry one.
//! - **Unwinding** (exceptions, cancellation, `longjmp`) reads return addresses, the frame pointer
//!   where it gives the CFA, and saved registers that a caller or a landing pad reads.
//! - **A signal's handler** runs below the frame that it interrupted, or on another stack. The
//!   kernel saved all registers of that frame, and restores them; what it saved is alive as a
//!   whole. A handler may change where the frame goes on: those of faults are known to (to skip an
//!   instruction, or for the exception of a language), so that a frame that a fault
//!   interrupted is alive as a whole.
//!
//! At a call that does not return the first rule does not count: what the frame holds remains a
//! root, as for valgrind. The exception is in `frames.rs`.
//!
//! Two designs were weighed. Extending the scan over all instructions by ranges of code in which
//! a slot is used is cheaper, but cannot say that a path was not taken, which is what stale
//! spills are about. Sets of bits over the words that a function names need one pass per block
//! and a few rounds, and give both rules.
//!
//! This rests on what compilers and the ABI promise, and on rules that describe the code: at
//! each instruction that is reached the CFA by the rules is held against what is known of the
//! registers, and each return address must be after a call. `tests/gdb/test_dead_slots.py`
//! overwrites what is dead in programs that run on. x86-64 only; on other machines nothing is
//! dead.

mod bits;
mod chain;
mod classes;
mod code;
mod control_flow;
mod data_flow;
mod frames;
mod functions;
mod landing_pads;
mod modules;
mod part;
mod places;
mod point;
mod rules;
mod signal;
mod slots;
mod twice;
mod unclear;

pub use classes::{Class, Classes};
pub use frames::{End, Frame, Frames, Unwinder, has_return_address};
pub use rules::{Cfa, Row, Rules, Saved};
#[doc(hidden)] // Only tests need it.
pub use slots::Slots;
pub use unclear::Unclear;

use crate::error::Error;
use crate::memory::Memory;
use crate::pass::Job;
use crate::range::AddressRange;
use crate::source::Thread;

/// What of threads that live nothing reads again.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Dead {
    /// Words of frames, in address order. Only whole, aligned words, and only in the part of
    /// each stack that could be unwound. Adjacent ranges are merged.
    pub slots: Vec<AddressRange>,
    /// General registers, each with the number of its thread.
    pub registers: Vec<(i32, &'static str)>,
    /// How well the words of the frames are known.
    pub classes: Classes,
    /// How the chain of each thread ends, with the thread's number.
    pub ends: Vec<(i32, End)>,
}

/// Finds the words of frames, and the registers, that nothing reads again.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn dead(memory: &dyn Memory, threads: &[Thread], job: &Job) -> Result<Dead, Error> {
    let mut unwinder = Unwinder::new(memory);
    let mut dead = Dead::default();
    for thread in threads {
        let found = unwinder.frames(thread, job)?;
        found.frames.iter().for_each(|frame| dead.classes.add(frame));
        dead.slots.extend(found.frames.into_iter().flat_map(|frame| frame.dead));
        dead.ends.push((thread.id, found.end));
        dead.registers.extend(found.dead.into_iter().map(|name| (thread.id, name)));
    }
    dead.slots = AddressRange::merge(std::mem::take(&mut dead.slots));
    Ok(dead)
}

/// The words alone of what [`dead`] finds.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn dead_slots(memory: &dyn Memory, threads: &[Thread], job: &Job) -> Result<Vec<AddressRange>, Error> {
    Ok(dead(memory, threads, job)?.slots)
}
