//! Targets and their regions.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::error::Error;
use crate::graph;
use crate::heap;
use crate::memory::{self, Place};
use crate::name::Name;
use crate::pass::Job;
use crate::range::AddressRange;
use crate::source::kinds::Clues;
use crate::source::registers::{Register, Registers};
use crate::source::remote::{self, Remote};
use crate::source::symbols::{Line, Symbol};
use crate::source::{self, Files, Target, Thread, process, snapshot, stop};
use crate::unwind;
use crate::word::{ByteOrder, WordFormat};

use super::call;
use super::heap::Heap;
use super::kept::Kept;
use super::text::Text;

/// A place as Python gives it: a name, or a pair of addresses.
#[derive(FromPyObject)]
pub(super) enum PlaceArgument {
    Name(String),
    Range(u64, u64),
}

impl PlaceArgument {
    pub(super) fn place(&self) -> Result<Place, Error> {
        match self {
            Self::Name(name) => Place::from_name(name),
            Self::Range(start, end) => AddressRange::new(*start, *end).map(Place::Range),
        }
    }
}

pub(super) fn byte_order(name: &str) -> PyResult<ByteOrder> {
    match name {
        "little" => Ok(ByteOrder::Little),
        "big" => Ok(ByteOrder::Big),
        other => Err(PyValueError::new_err(format!("byte order {other}: is neither little nor big"))),
    }
}

/// Pairs of start and end.
pub(super) fn pairs<'a>(ranges: impl Iterator<Item = &'a AddressRange>) -> Vec<(u64, u64)> {
    ranges.map(|range| (range.start(), range.end())).collect()
}

/// A symbol: its name, the offset in it, the module's file, the section.
type Named = (String, u64, Text, Option<String>);

/// A call: function, source file, line, the module's file.
type Called = (Option<String>, Option<String>, Option<u32>, Option<Text>);

fn called(lines: Vec<Line>) -> Vec<Called> {
    let fields = |Line { function, file, line, module }| (function, file, line, module.map(Text::from));
    lines.into_iter().map(fields).collect()
}

/// One mapping of a target.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
#[derive(Clone)]
pub(super) struct Region {
    start: u64,
    end: u64,
    size: u64,
    saved: u64,
    permissions: String,
    kind: &'static str,
    name: Text,
    rss: Option<u64>,
    dirty: Option<u64>,
    reserve: bool,
}

impl From<&memory::Region> for Region {
    fn from(region: &memory::Region) -> Self {
        Self {
            start: region.range.start(),
            end: region.range.end(),
            size: region.range.len(),
            saved: region.saved,
            permissions: region.permissions.to_string(),
            kind: region.kind.name(),
            name: region.name.clone().into(),
            rss: region.rss,
            dirty: region.dirty,
            reserve: region.reserve(),
        }
    }
}

#[pymethods]
impl Region {
    fn __repr__(&self) -> String {
        format!("Region({:#x}-{:#x} {} {})", self.start, self.end, self.permissions, self.kind)
    }
}

/// An opened target: a core, a process, a remote target, or a list of regions.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Memory {
    pub(super) target: Target,
    /// The same memory where its bytes have to be fetched through gdb.
    remote: Option<Arc<Remote>>,
    /// What was made of it.
    pub(super) kept: Kept,
}

impl From<Target> for Memory {
    fn from(target: Target) -> Self {
        Self { target, remote: None, kept: Kept::default() }
    }
}

impl Memory {
    /// The addresses of a place; those of the heap are what its allocator has, where it is given.
    pub(super) fn ranges(&self, place: &PlaceArgument, heap: Option<&Heap>) -> PyResult<Vec<AddressRange>> {
        let memory = self.target.memory.as_ref();
        Ok(heap::ranges(memory, heap.map(|heap| heap.heap.as_ref()), place.place()?))
    }

    /// The threads that Python gave, or else those that the target itself knows.
    pub(super) fn threads_or(&self, given: Option<Vec<ThreadRegisters>>) -> Vec<Thread> {
        match given {
            Some(given) => given.into_iter().map(thread).collect(),
            None => self.target.origin.threads.clone(),
        }
    }

    /// Asks something short of the target, on a thread of its own only where an answer may take long.
    fn ask<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Target) -> T + Send) -> PyResult<T> {
        if self.target.memory.may_stall() {
            return call::run(py, None, |_| Ok(work(&self.target)));
        }
        Ok(py.detach(|| work(&self.target)))
    }

    /// Where blocks may lie outside of heaps.
    pub(super) fn outside(
        &self,
        py: Python<'_>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Arc<heap::Outside>> {
        let memory = self.target.memory.as_ref();
        self.kept.outside(|| call::run(py, progress, |job| heap::outside(memory, job)))
    }
}

#[pymethods]
impl Memory {
    #[getter]
    fn source(&self) -> &'static str {
        self.target.origin.kind.name()
    }

    #[getter]
    fn arch(&self) -> Option<&str> {
        self.target.origin.architecture.as_deref()
    }

    #[getter]
    fn word_size(&self) -> usize {
        self.target.memory.word_format().size
    }

    #[getter]
    fn byte_order(&self) -> &'static str {
        match self.target.memory.word_format().order {
            ByteOrder::Little => "little",
            ByteOrder::Big => "big",
        }
    }

    #[getter]
    fn complete(&self) -> bool {
        self.target.origin.complete && !self.target.memory.unread().iter().any(|unread| unread.writable)
    }

    #[getter]
    fn notes(&self) -> Vec<String> {
        let unread = self.target.memory.unread().into_iter().map(|unread| unread.note);
        self.target.origin.notes.iter().cloned().chain(unread).collect()
    }

    #[getter]
    fn program(&self) -> Option<&str> {
        self.target.origin.program.as_deref()
    }

    #[getter]
    fn pid(&self) -> Option<i32> {
        self.target.origin.pid
    }

    #[getter]
    fn threads(&self) -> Vec<i32> {
        self.target.origin.threads.iter().map(|thread| thread.id).collect()
    }

    #[getter]
    fn taken(&self) -> Option<&str> {
        self.target.origin.taken.as_deref()
    }

    #[pyo3(signature = (place, heap = None))]
    fn regions<'py>(
        &self,
        py: Python<'py>,
        place: PlaceArgument,
        heap: Option<&Heap>,
    ) -> PyResult<Bound<'py, PyList>> {
        /// How many there are between two looks for Ctrl-C.
        const ASK: usize = 1 << 12;
        let memory = self.target.memory.as_ref();
        let heap = heap.map(|heap| heap.heap.as_ref());
        let list = PyList::empty(py);
        for (number, region) in heap::regions(memory, heap, place.place()?).enumerate() {
            if number % ASK == 0 {
                py.check_signals()?;
            }
            list.append(Region::from(region))?;
        }
        Ok(list)
    }

    fn region_at(&self, address: u64) -> Option<Region> {
        self.target.memory.region_at(address).map(Region::from)
    }

    fn read<'py>(&self, py: Python<'py>, start: u64, length: u64) -> PyResult<Bound<'py, PyBytes>> {
        let range = AddressRange::with_length(start, length)?;
        let bytes = self.ask(py, |target| target.memory.bytes(range))??;
        Ok(PyBytes::new(py, &bytes))
    }

    fn thread_registers(&self) -> Vec<ThreadRegisters> {
        self.target.origin.threads.iter().map(registers).collect()
    }

    fn symbol(&self, py: Python<'_>, address: u64) -> PyResult<Option<Named>> {
        let kept = &self.kept;
        let found = self.ask(py, |target| kept.symbols(target).name(target.memory.as_ref(), address))?;
        Ok(found.map(|Symbol { name, offset, module, section }| (name, offset, module.into(), section)))
    }

    fn lines(&self, py: Python<'_>, address: u64) -> PyResult<Vec<Called>> {
        let kept = &self.kept;
        Ok(called(self.ask(py, |target| kept.symbols(target).lines(target.memory.as_ref(), address))?))
    }

    fn lines_of_file(
        &self,
        py: Python<'_>,
        path: OsString,
        build_id: &[u8],
        address: u64,
    ) -> PyResult<Vec<Called>> {
        let (kept, path) = (&self.kept, Name::from(PathBuf::from(path)));
        Ok(called(self.ask(py, |target| kept.symbols(target).lines_of_file(&path, build_id, address))?))
    }

    fn recheck(&self) -> PyResult<()> {
        Ok(self.target.memory.recheck()?)
    }

    fn fetch(&self, place: PlaceArgument, read: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let ranges = remote.ranges_of(place.place()?);
        remote.fetch(&ranges, &mut |range| ask(read, range))
    }

    /// Fetches what roots are told by beside writable memory: what unwinding stacks takes, and
    /// what was relocated and is read-only since.
    fn fetch_roots(&self, threads: Option<Vec<ThreadRegisters>>, read: &Bound<'_, PyAny>) -> PyResult<()> {
        // Tables of modules are searched, a page here and a page there.
        const AROUND: u64 = 64 << 10;
        let Some(remote) = &self.remote else { return Ok(()) };
        let threads = self.threads_or(threads);
        let mut read = |range| ask(read, range);
        let relocated = remote.complete(AROUND, &mut read, |memory| {
            unwind::dead_slots(memory, &threads, &Job::default())?;
            Ok::<_, Error>(graph::relocated(memory))
        })??;
        remote.fetch(&relocated, &mut read)
    }
}

/// Names and values.
type NamedRegisters = Vec<(String, u64)>;

/// Number, stack pointer, thread pointer, general and vector registers.
pub(super) type ThreadRegisters = (i32, Option<u64>, Option<u64>, NamedRegisters, NamedRegisters);

fn registers(thread: &Thread) -> ThreadRegisters {
    let pairs =
        |registers: &[Register]| registers.iter().map(|one| (one.name.to_string(), one.value)).collect();
    let general = pairs(&thread.registers.general);
    let vector = pairs(&thread.registers.vector);
    (thread.id, thread.stack_pointer, thread.thread_pointer, general, vector)
}

fn thread((id, stack_pointer, thread_pointer, general, vector): ThreadRegisters) -> Thread {
    let registers = |named: NamedRegisters| {
        let register = |(name, value): (String, u64)| Register { name: name.into(), value };
        named.into_iter().map(register).collect()
    };
    let registers = Registers { general: registers(general), vector: registers(vector) };
    Thread { id, stack_pointer, thread_pointer, registers }
}

/// Asks Python for the bytes of a range, and for Ctrl-C.
fn ask(read: &Bound<'_, PyAny>, range: AddressRange) -> PyResult<Option<Vec<u8>>> {
    read.py().check_signals()?;
    let answer = read.call1((range.start(), range.len()))?;
    if answer.is_none() {
        return Ok(None);
    }
    Ok(Some(answer.cast::<PyBytes>()?.as_bytes().to_vec()))
}

#[pyfunction]
#[pyo3(signature = (path, executable = None, sysroot = None))]
pub(super) fn open_file(
    py: Python<'_>,
    path: PathBuf,
    executable: Option<PathBuf>,
    sysroot: Option<PathBuf>,
) -> PyResult<Memory> {
    // A core may have millions of segments, and a file as many holes.
    let open = move |_: &Job| {
        let files = Files { executable: executable.as_deref(), sysroot: sysroot.as_deref() };
        source::open_file(&path, files)
    };
    Ok(call::run_apart(py, open)?.into())
}

#[pyfunction]
#[pyo3(signature = (pid, usage = false))]
pub(super) fn open_process(py: Python<'_>, pid: i32, usage: bool) -> PyResult<Memory> {
    // Reading it may take long: its files may be where nothing answers.
    Ok(call::run_apart(py, move |_| process::open(pid, usage))?.into())
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(super) fn open_remote(
    word_size: usize,
    byte_order: &str,
    arch: Option<String>,
    maps: Option<&[u8]>,
    sections: Vec<(u64, u64, String, OsString)>,
    stack_pointers: Vec<u64>,
    read: &Bound<'_, PyAny>,
) -> PyResult<Memory> {
    let format = WordFormat { size: word_size, order: self::byte_order(byte_order)? };
    if word_size != 4 && word_size != 8 {
        return Err(PyValueError::new_err(format!("word size {word_size}: is neither 4 nor 8")));
    }
    let regions = match maps {
        Some(text) => remote::listed(text)?,
        None => remote::sections(sections)?,
    };
    let mut remote = Remote::new(format, regions)?;
    let thread = |stack_pointer| Thread { stack_pointer: Some(stack_pointer), ..Thread::default() };
    let threads: Vec<Thread> = stack_pointers.into_iter().map(thread).collect();
    let clues = Clues { threads: &threads, ..Clues::default() };
    remote.classify(&clues, &mut |range| ask(read, range))?;
    let (target, remote) = remote.into_target(arch, maps.is_some());
    Ok(Memory { target, remote: Some(remote), kept: Kept::default() })
}

/// All threads of a process held by ptrace until [`Stop::release`].
#[pyclass(module = "gdb_leak._native")]
pub(super) struct Stop(pub(super) stop::Stop);

#[pymethods]
impl Stop {
    #[getter]
    fn threads(&self) -> usize {
        self.0.threads().len()
    }

    fn registers(&self) -> Vec<ThreadRegisters> {
        self.0.threads().iter().map(registers).collect()
    }

    fn register_notes(&self, vector: bool) -> Vec<String> {
        self.0.register_notes(vector)
    }

    fn release(&mut self) -> f64 {
        self.0.release().as_secs_f64()
    }
}

#[pyfunction]
pub(super) fn stop_process(py: Python<'_>, pid: i32) -> PyResult<Stop> {
    Ok(Stop(call::run(py, None, |job| stop::Stop::new(pid, job))?))
}

#[pyfunction]
pub(super) fn take_snapshot(py: Python<'_>, memory: &Memory) -> Memory {
    py.detach(|| snapshot::take(&memory.target)).into()
}

#[pyfunction]
#[pyo3(signature = (snapshot, path, force = false))]
pub(super) fn save_snapshot(py: Python<'_>, snapshot: &Memory, path: PathBuf, force: bool) -> PyResult<()> {
    Ok(py.detach(|| snapshot::save(&snapshot.target, &path, force))?)
}
