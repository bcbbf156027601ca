//! The frames of threads, their dead words, and threads that ended.

use pyo3::prelude::*;

use crate::source::unjoined::{self, Group};
use crate::unwind::{Frame as Unwound, Unwinder};

use super::call;
use super::memory::{Memory, ThreadRegisters};

/// A call that has not returned.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
pub(super) struct Frame {
    pc: u64,
    stack_pointer: u64,
    /// The stack pointer before the call.
    cfa: u64,
    /// Ranges of words that nothing reads again.
    dead: Vec<(u64, u64)>,
    /// Why all of it counts as alive, if it does.
    unclear: Option<&'static str>,
    /// Whether an address of its locals escaped.
    escaped: bool,
}

/// The number of a thread, its frames, and the general registers that nothing reads again.
type OfThread = (i32, Vec<Frame>, Vec<&'static str>);

/// The frames of each thread, the innermost first, as far as they can be told without gdb.
#[pyfunction]
#[pyo3(signature = (memory, threads = None, progress = None))]
pub(super) fn frames(
    py: Python<'_>,
    memory: &Memory,
    threads: Option<Vec<ThreadRegisters>>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<OfThread>> {
    let threads = memory.threads_or(threads);
    let own = memory.target.memory.as_ref();
    call::run(py, progress, |job| {
        let mut unwinder = Unwinder::new(own);
        let unwound = |thread| {
            let found = unwinder.frames(thread, job)?;
            Ok((thread.id, found.frames.into_iter().map(frame).collect(), found.dead))
        };
        threads.iter().map(unwound).collect()
    })
}

/// Threads that ended, were not joined, and began with the same function.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
pub(super) struct NotJoined {
    start: Option<u64>,
    threads: u64,
    /// The bytes of their stacks.
    size: u64,
    /// How many of these hold anything, if that is known.
    held: Option<u64>,
}

/// The threads that ended and were not joined, by the functions that they began with.
#[pyfunction]
#[pyo3(signature = (memory, threads = None, progress = None))]
pub(super) fn unjoined_threads(
    py: Python<'_>,
    memory: &Memory,
    threads: Option<Vec<ThreadRegisters>>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<NotJoined>> {
    let threads = memory.threads_or(threads);
    let groups = call::run(py, progress, |job| unjoined::groups(&memory.target, &threads, job))?;
    let not_joined = |&Group { start, threads, size, held }: &Group| NotJoined { start, threads, size, held };
    Ok(groups.iter().map(not_joined).collect())
}

fn frame(frame: Unwound) -> Frame {
    Frame {
        pc: frame.pc,
        stack_pointer: frame.stack_pointer,
        cfa: frame.cfa,
        dead: frame.dead.iter().map(|range| (range.start(), range.end())).collect(),
        unclear: frame.unclear.map(crate::unwind::Unclear::name),
        escaped: frame.escaped,
    }
}
