//! Which words of a stack that is alive nobody will read again.
//!
//! A stack is alive from the stack pointer on, but not every word of it. Compilers align
//! frames, and leave out of them what they did not need in the end: such words are written by
//! nobody, and hold what earlier calls left there. valgrind knows that they are undefined; a
//! scan for pointers takes what is left for pointers.
//!
//! [`dead_slots`] unwinds each thread by the rules in `.eh_frame`, decodes all instructions of
//! the functions that it meets, and hands out the aligned words of each frame that no
//! instruction of the frame's function touches. Why nothing that runs can read such a word:
//!
//! - **The function itself** reads its frame by addresses that are made of its stack pointer or
//!   frame pointer. Every instruction that uses one of them is known to be an access at a
//!   constant place (that word is touched, and alive) or a change by a constant. Of whatever
//!   else uses them (the address of a variable, an index, a frame of variable size) nothing is
//!   concluded: the whole frame is alive. This goes for all code that runs while the frame
//!   exists, before and after: parts of the function that lie elsewhere, which jumps and
//!   exceptions lead to, are looked at too. Where a jump's aim is not known the whole frame is
//!   alive, and so it is where the code that made the frame is not among these parts (the
//!   frame of a cold part that does not lead back), or where some code has a frame and nothing
//!   leads there.
//! - **A function that it called** reaches its caller's frame by an address that it was given,
//!   which needs one to be made (see above), or as its arguments. Those the caller wrote. Where
//!   the function itself touches the words of its arguments, these are alive too.
//! - **A function that called it** has no way into the frame that does not hold for its callers;
//!   after the return the frame is below the stack pointer.
//! - **Unwinding** (exceptions, cancellation, `longjmp`) reads saved registers and return
//!   addresses. Those count as touched.
//! - **A signal's handler** runs below the stack pointer, and above it unwinding stops.
//!
//! This rests on what compilers and the ABI promise, and on rules that describe the code. The
//! rules are tested: each instruction that changes the stack pointer is held against the rules
//! before and behind it, each jump against those at its aim, and each return address must
//! stand behind a call. What is not tested: that a function makes its frame in one place, and
//! that no function reads its caller's frame through the frame pointer, as code written by hand
//! could. `tests/gdb/test_dead_slots.py` overwrites what is dead in programs that run on.
//!
//! x86-64 only; on other machines nothing is dead.

mod bits;
mod code;
mod flow;
mod frames;
mod functions;
mod graph;
mod landing;
mod modules;
mod part;
mod places;
mod rules;
mod slots;
mod twice;
mod unclear;

pub use frames::{Frame, Frames, Unwinder};
pub use rules::{Cfa, Row, Rules, Saved};
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
        job.check()?;
        let found = unwinder.frames(thread);
        dead.slots.extend(found.frames.into_iter().flat_map(|frame| frame.dead));
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
