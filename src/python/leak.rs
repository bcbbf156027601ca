//! Leak checks: verdicts, records, who points at a block.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::graph::{
    Choice, Heuristics, Index, Link, Paths, Place, Reference as Pointing, Referrers, Roots, Source, Step,
    Wanted,
};
use crate::heap::allocator::Count;
use crate::heap::block::{State, Unit};
use crate::heap::listed;
use crate::leak::{Account, Check as Checked, Coverage as Covered, Options, Records as Recorded, Verdict};
use crate::recording::Estimate;
use crate::unwind::Class;

use super::blocks::unknown;
use super::call;
use super::heap::Heap;
use super::memory::{Memory, ThreadRegisters};
use super::recording;

/// Who points at a block is asked of all registers.
const EVERYTHING: Choice = Choice { red_zone: 0, vector: true };

/// A name, blocks, and their bytes.
type Row = (&'static str, u64, u64);

fn row(name: &'static str, weight: Count) -> Row {
    (name, weight.blocks, weight.bytes)
}

/// An account by verdict and by heuristic, with blocks that were recorded, and those without an age.
type Aged = (Vec<Row>, Vec<Row>, u64, u64);

fn summary(account: &Account) -> Vec<Row> {
    Verdict::ALL.into_iter().zip(account.summary).map(|(verdict, count)| row(verdict.name(), count)).collect()
}

fn saved(account: &Account) -> Vec<Row> {
    Link::HEURISTICS.into_iter().zip(account.saved).map(|(link, count)| row(link.name(), count)).collect()
}

/// How much of the writable memory was judged.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
pub(super) struct Coverage {
    judged: u64,
    writable: u64,
    resident: Option<u64>,
    /// What belongs to no known heap, by kind of region.
    unknown: Vec<(&'static str, u64)>,
    broken: u64,
    missing: u64,
    lacking: bool,
    /// Where that lies.
    places: Vec<(u64, u64)>,
}

impl From<&Covered> for Coverage {
    fn from(found: &Covered) -> Self {
        Self {
            judged: found.judged,
            writable: found.writable,
            resident: found.resident,
            unknown: found.unknown.iter().map(|(kind, bytes)| (kind.name(), *bytes)).collect(),
            broken: found.broken,
            missing: found.missing,
            lacking: found.lacking,
            places: super::memory::pairs(found.places.iter()),
        }
    }
}

/// What a verdict on the blocks of a heap would rest on; nothing is judged where none is possible.
#[pyfunction]
#[pyo3(signature = (memory, heap = None, threads = None, possible = true, progress = None))]
pub(super) fn coverage(
    py: Python<'_>,
    memory: &Memory,
    heap: Option<&Heap>,
    threads: Option<Vec<ThreadRegisters>>,
    possible: bool,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Coverage> {
    let threads = memory.threads_or(threads);
    let own = memory.target.memory.as_ref();
    let allocator = heap.map(|heap| heap.heap.as_ref());
    let found = call::run(py, progress, |job| {
        let roots = Roots::in_memory(own, allocator, &threads, job)?;
        Covered::new(own, allocator, &roots, possible, job)
    })?;
    Ok(Coverage::from(&found))
}

/// The verdicts on all blocks in use.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Check {
    check: Arc<Checked>,
    heap: Heap,
}

/// A group of blocks with one verdict.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
pub(super) struct Record {
    verdict: &'static str,
    blocks: u64,
    bytes: u64,
    indirect_blocks: u64,
    indirect_bytes: u64,
    size: Option<u64>,
    kind: Option<&'static str>,
    text: Option<String>,
    example: Option<String>,
    /// How many texts there are where the smallest records were put together; else zero.
    texts: u64,
    /// Whether there are more that were not distinguished.
    more_texts: bool,
    sample: Vec<u64>,
    /// The number of the stack that allocated them; none where it is not known.
    stack: Option<u32>,
    estimate: Option<Estimated>,
}

/// Estimated blocks and bytes, and the standard errors of both.
type Estimated = (f64, f64, f64, f64);

fn estimated(estimate: Estimate) -> Estimated {
    (estimate.blocks, estimate.bytes, estimate.blocks_error(), estimate.bytes_error())
}

/// Address, size, verdict, and the heuristic that alone saved the block.
type BlockRow = (u64, u64, &'static str, Option<&'static str>);

/// Records, the largest last; rows are made when asked for.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Records {
    found: Recorded,
    heap: Heap,
}

#[pymethods]
impl Records {
    fn __len__(&self) -> usize {
        self.found.records.len()
    }

    #[getter]
    fn untracked(&self) -> u64 {
        self.found.untracked
    }

    fn rows(&self, start: usize, stop: usize) -> Vec<Record> {
        let rows = self.found.records.get(start..stop.min(self.found.records.len()));
        let row = |record: &crate::leak::Record| {
            let (memory, blocks) = (self.heap.memory.as_ref(), self.heap.heap.blocks());
            let (text, example) = listed::texts(memory, blocks, &record.group);
            Record {
                verdict: record.verdict.name(),
                blocks: record.group.blocks,
                bytes: record.group.bytes,
                indirect_blocks: record.group.behind.blocks,
                indirect_bytes: record.group.behind.bytes,
                size: record.group.size,
                kind: record.group.kind.map(crate::heap::content::Content::name),
                text,
                example,
                texts: record.group.texts,
                more_texts: record.group.more_texts,
                sample: record.group.sample.clone(),
                stack: Some(record.group.stack).filter(|stack| *stack != 0),
                estimate: record.estimate.map(estimated),
            }
        };
        rows.unwrap_or_default().iter().map(row).collect()
    }
}

#[pymethods]
impl Check {
    #[getter]
    fn summary(&self) -> Vec<(&'static str, u64, u64)> {
        summary(&self.check.account)
    }

    #[getter]
    fn recorded(&self) -> u64 {
        self.check.account.recorded
    }

    /// The account of the blocks that are as old as is wanted: by verdict, by heuristic, how many
    /// were recorded, and how many have no age.
    #[pyo3(signature = (newest, progress = None))]
    fn aged(&self, py: Python<'_>, newest: i64, progress: Option<&Bound<'_, PyAny>>) -> PyResult<Aged> {
        let blocks = self.heap.heap.blocks();
        let account = call::run(py, progress, |job| self.check.count(blocks, Some(newest), job))?;
        Ok((summary(&account), saved(&account), account.recorded, account.ageless))
    }

    #[getter]
    fn saved(&self) -> Vec<(&'static str, u64, u64)> {
        saved(&self.check.account)
    }

    #[getter]
    fn roots(&self) -> Vec<(&'static str, u64, u64)> {
        let roots = self.check.roots.iter();
        roots.map(|(kind, found)| (kind.name(), found.places, found.pointers)).collect()
    }

    #[getter]
    fn only_vector(&self) -> Option<(u64, u64, Vec<u64>)> {
        let held = self.check.only_vector.as_ref()?;
        Some((held.weight.blocks, held.weight.bytes, held.sample.clone()))
    }

    #[getter]
    fn references(&self) -> u64 {
        self.check.references
    }

    #[getter]
    fn own_bytes(&self) -> u64 {
        self.check.own_bytes
    }

    #[getter]
    fn coverage(&self) -> Coverage {
        Coverage::from(&self.check.coverage)
    }

    #[getter]
    fn untouched(&self) -> u64 {
        self.check.untouched
    }

    /// How many frames there are of each class, the best known first.
    #[getter]
    fn frames(&self) -> Vec<(&'static str, u64)> {
        Class::ALL.into_iter().map(|class| (class.name(), self.check.classes.count(class))).collect()
    }

    #[getter]
    fn notes(&self) -> Vec<String> {
        self.check.notes.clone()
    }

    fn verdict(&self, index: usize) -> Option<&'static str> {
        self.check.verdict(index).map(Verdict::name)
    }

    fn saved_by(&self, index: usize) -> Option<&'static str> {
        self.check.saved_by(index).map(Link::name)
    }

    fn cluster(&self, py: Python<'_>, index: usize, limit: usize) -> (Vec<usize>, u64) {
        py.detach(|| self.check.cluster(index, limit))
    }

    #[pyo3(signature = (shown, newest = None, progress = None))]
    fn records(
        &self,
        py: Python<'_>,
        shown: Vec<String>,
        newest: Option<i64>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Records> {
        let verdict = |name: &String| Verdict::from_name(name).ok_or_else(|| unknown("verdict", name));
        let shown: Vec<Verdict> = shown.iter().map(verdict).collect::<Result<_, _>>()?;
        let (memory, blocks) = (self.heap.memory.as_ref(), self.heap.heap.blocks());
        let found =
            call::run(py, progress, |job| Recorded::new(memory, blocks, &self.check, &shown, newest, job))?;
        Ok(Records { found, heap: self.heap.again() })
    }

    /// Of the units with these numbers: address, size and verdict of each block in use, and the
    /// heuristic that alone saved it; of those that are as old as is wanted.
    #[pyo3(signature = (start, stop, newest = None))]
    fn rows(&self, start: usize, stop: usize, newest: Option<i64>) -> Vec<BlockRow> {
        let units = self.heap.heap.blocks().units_in(start..stop);
        let used = units.filter(|unit| unit.state == State::Used);
        let row = |unit: Unit| {
            let verdict = self.check.verdict(unit.index).filter(|_| self.check.old(unit.index, newest))?;
            let saved_by = self.check.saved_by(unit.index).map(Link::name);
            Some((unit.block().start(), self.check.bytes(&unit), verdict.name(), saved_by))
        };
        used.filter_map(row).collect()
    }
}

impl Check {
    /// Whether a unit is lost, whichever way.
    pub(super) fn lost(&self, unit: &Unit) -> bool {
        self.check.verdict(unit.index).is_some_and(Verdict::lost)
    }
}

#[pyfunction]
#[pyo3(signature = (memory, heap, threads = None, heuristics = "all", red_zone = 0, vector = false, progress = None))]
#[allow(clippy::too_many_arguments)]
pub(super) fn check(
    py: Python<'_>,
    memory: &Memory,
    heap: &Heap,
    threads: Option<Vec<ThreadRegisters>>,
    heuristics: &str,
    red_zone: u64,
    vector: bool,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Check> {
    let options =
        Options { choice: Choice { red_zone, vector }, heuristics: Wanted::from_names(heuristics)? };
    let threads = memory.threads_or(threads);
    let (own, allocator) = (memory.target.memory.as_ref(), heap.heap.as_ref());
    let (recorded, _) = recording::records(py, memory, heap, progress)?;
    let check = memory.kept.check(options, || {
        call::run(py, progress, |job| Checked::new(own, allocator, &threads, recorded, &options, job))
    })?;
    Ok(Check { check, heap: heap.again() })
}

/// The verdicts that were given on this heap last, if any were.
#[pyfunction]
pub(super) fn judged(memory: &Memory, heap: &Heap) -> Option<Check> {
    Some(Check { check: memory.kept.judged()?, heap: heap.again() })
}

/// A word that points at a block: where it stands, and where it leads.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
pub(super) struct Reference {
    /// The address of the word; none for a register.
    address: Option<u64>,
    /// What it stands in: a kind of root, or `block`.
    kind: &'static str,
    thread: Option<i32>,
    register: Option<String>,
    /// The number of the block that it stands in.
    within: Option<usize>,
    /// The number of the block that it points at, and how far into it.
    block: usize,
    offset: i64,
}

fn reference(roots: &Roots, source: Source, block: usize, offset: i64) -> Reference {
    let plain =
        Reference { address: None, kind: "block", thread: None, register: None, within: None, block, offset };
    match source {
        Source::Block(address, within) => Reference { address: Some(address), within: Some(within), ..plain },
        Source::Root(Place::Memory(address, number)) => {
            let stretch = roots.stretches.get(number);
            let kind = stretch.map_or("anon", |stretch| stretch.kind.name());
            let thread = stretch.and_then(|stretch| stretch.thread);
            Reference { address: Some(address), kind, thread, ..plain }
        }
        Source::Root(Place::Register(number)) => {
            let register = roots.registers.get(number);
            Reference {
                kind: register.map_or("register", |register| register.kind.name()),
                thread: register.map(|register| register.thread),
                register: register.map(|register| register.name.clone()),
                ..plain
            }
        }
    }
}

/// Words that point at a block, and how many there are.
type Pointings = (Vec<Reference>, u64);

/// What points at a block: the words that hold it, and those that are dead.
#[pyfunction]
#[pyo3(signature = (memory, heap, index, limit, threads = None, progress = None))]
pub(super) fn references(
    py: Python<'_>,
    memory: &Memory,
    heap: &Heap,
    index: usize,
    limit: usize,
    threads: Option<Vec<ThreadRegisters>>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<(Pointings, Pointings)> {
    let threads = memory.threads_or(threads);
    let (own, allocator) = (memory.target.memory.as_ref(), heap.heap.as_ref());
    let Some(unit) = allocator.blocks().unit(index) else { return Ok(Default::default()) };
    let (recorded, _) = recording::records(py, memory, heap, progress)?;
    call::run(py, progress, |job| {
        let roots = Roots::find(own, allocator, &threads, EVERYTHING, job)?;
        let index = Index::new(allocator.blocks()).bounded(recorded.as_deref());
        let heuristics = Heuristics::new(own, Wanted::ALL);
        let found = Referrers::find(own, &index, &roots, &heuristics, &unit, limit, job)?;
        let left = roots.left_over();
        let dead = Referrers::in_roots(own, &index, &left, &heuristics, &unit, limit, job)?;
        let rows = |roots: &Roots, found: &Referrers| {
            let row = |pointing: &Pointing| reference(roots, pointing.source, unit.index, pointing.offset);
            (found.references.iter().map(row).collect(), found.count)
        };
        Ok((rows(&roots, &found), rows(&left, &dead)))
    })
}

#[pyfunction]
#[pyo3(signature = (memory, heap, index, threads = None, progress = None))]
pub(super) fn shortest_path(
    py: Python<'_>,
    memory: &Memory,
    heap: &Heap,
    index: usize,
    threads: Option<Vec<ThreadRegisters>>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<Vec<Reference>>> {
    let threads = memory.threads_or(threads);
    let (own, allocator) = (memory.target.memory.as_ref(), heap.heap.as_ref());
    let Some(unit) = allocator.blocks().unit(index) else { return Ok(None) };
    let (recorded, _) = recording::records(py, memory, heap, progress)?;
    let (roots, steps) = call::run(py, progress, |job| {
        let roots = Roots::find(own, allocator, &threads, Choice::default(), job)?;
        let index = Index::new(allocator.blocks()).bounded(recorded.as_deref());
        let heuristics = Heuristics::new(own, Wanted::ALL);
        let paths = Paths { memory: own, index: &index, roots: &roots, heuristics: &heuristics };
        let steps = paths.shortest(&unit, job)?;
        Ok((roots, steps))
    })?;
    let row = |step: &Step| reference(&roots, step.source, step.block, step.offset);
    Ok(steps.map(|steps| steps.iter().map(row).collect()))
}
