//! Recordings: what is known of each block's allocation.

use std::ffi::OsString;
use std::sync::Arc;

use pyo3::prelude::*;

use crate::heap::recorded::{self, Recorded};
use crate::recording::{self as recordings, Module};

use super::call;
use super::heap::Heap;
use super::kept::Records;
use super::memory::{self, Memory};

/// A module that was unloaded: its path, its build-id, and an address as in its file.
type Unloaded = (OsString, Vec<u8>, u64);

/// What was recorded of a block: the bytes asked for, the thread, the time, the number of its stack.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
pub(super) struct Allocation {
    size: u64,
    thread: u32,
    time: u32,
    stack: u32,
}

/// A frame of a stack, innermost first.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
pub(super) struct StackFrame {
    pc: u64,
    /// An address in the instruction that the frame is at.
    address: u64,
    unloaded: Option<Unloaded>,
    /// The allocation function that it is, of the innermost frame.
    function: Option<&'static str>,
}

/// What the recorder kept of the blocks of a heap.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Recording {
    pub(super) recorded: Arc<Recorded>,
    memory: Arc<dyn crate::memory::Memory>,
}

/// What was recorded of a heap's blocks, looked for once for each target.
pub(super) fn records(
    py: Python<'_>,
    memory: &Memory,
    heap: &Heap,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Records> {
    let (own, blocks) = (memory.target.memory.as_ref(), heap.heap.blocks());
    memory.kept.records(|| {
        let found = call::run(py, progress, |job| recorded::recorded(own, blocks, job));
        found.map(|(recorded, notes)| (recorded.map(Arc::new), notes.into()))
    })
}

/// Where the recorder keeps what it records.
#[pyfunction]
#[pyo3(signature = (memory, progress = None))]
pub(super) fn recorder_ranges(
    py: Python<'_>,
    memory: &Memory,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<(u64, u64)>> {
    let own = memory.target.memory.as_ref();
    let found = call::run(py, progress, |job| recordings::reserved(own, job))?;
    Ok(memory::pairs(found.iter()))
}

/// What was recorded of a heap's blocks, and sentences on what of it cannot be read.
#[pyfunction]
#[pyo3(signature = (memory, heap, progress = None))]
pub(super) fn recording(
    py: Python<'_>,
    memory: &Memory,
    heap: &Heap,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<(Option<Recording>, Vec<String>)> {
    let (recorded, notes) = records(py, memory, heap, progress)?;
    let own = memory.target.memory.clone();
    Ok((recorded.map(|recorded| Recording { recorded, memory: own }), notes.to_vec()))
}

#[pymethods]
impl Recording {
    #[getter]
    fn pid(&self) -> u32 {
        self.recorded.recording().pid()
    }

    #[getter]
    fn sample(&self) -> Option<u64> {
        self.recorded.recording().sample()
    }

    #[getter]
    fn live(&self) -> usize {
        self.recorded.recording().live().entries.len()
    }

    #[getter]
    fn stale(&self) -> u64 {
        self.recorded.stale
    }

    #[getter]
    fn notes(&self) -> Vec<String> {
        self.recorded.notes()
    }

    /// What was recorded of the unit with that number.
    fn of(&self, index: usize) -> Option<Allocation> {
        let record = self.recorded.of(index)?;
        let (size, thread, time, stack) = (record.size, record.thread, record.time, record.stack);
        Some(Allocation { size, thread, time, stack })
    }

    /// The time in the recording's own units that is now: by a clock, or of the latest record.
    #[pyo3(signature = (clock = None))]
    fn now(&self, clock: Option<u64>) -> u32 {
        let recording = self.recorded.recording();
        clock.map_or(0, |clock| recording.units(clock)).max(recording.latest())
    }

    /// The latest time that lies so many nanoseconds before another.
    fn before(&self, now: u32, nanoseconds: u64) -> i64 {
        self.recorded.recording().before(now, nanoseconds)
    }

    /// So many of the recording's own units in nanoseconds.
    fn nanoseconds(&self, units: u32) -> u64 {
        self.recorded.recording().nanoseconds(units)
    }

    /// The frames of the stack with that number, innermost first.
    fn stack(&self, number: u32) -> Vec<StackFrame> {
        let recording = self.recorded.recording();
        let stack = recording.stack(self.memory.as_ref(), number);
        let generation = stack.generation;
        let frames = stack.frames.into_iter().map(|frame| {
            let address = frame.address();
            let module = generation.and_then(|generation| recording.unloaded(frame, generation));
            let linked = |module: &Module| {
                (module.path.clone().into(), module.build_id.clone(), address.wrapping_sub(module.bias))
            };
            let function = recording.function(frame.pc);
            StackFrame { pc: frame.pc, address, unloaded: module.map(linked), function }
        });
        frames.collect()
    }
}
