//! Heaps: arenas, blocks, groups of blocks.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::error::Error;
use crate::heap;
use crate::heap::allocator::{Allocator, States};
use crate::heap::block::{State, Unit};
use crate::heap::content::Content;
use crate::heap::groups::{self, By, Label, Labels, Wanted};
use crate::heap::recorded::Recorded;
use crate::heap::summary as accounts;
use crate::range::AddressRange;

use super::call;
use super::leak::Check;
use super::memory::{Memory, ThreadRegisters};
use super::recording::Recording;

/// Units of one state: its name, how many, and their bytes.
type Row = (&'static str, u64, u64);

fn rows(states: &States) -> Vec<Row> {
    let row = |state: State| {
        let count = states.of(state);
        (state.name(), count.blocks, count.bytes)
    };
    State::ALL.into_iter().map(row).collect()
}

/// One arena: its own structure, what it says it has, its heaps.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
#[derive(Clone)]
pub(super) struct Arena {
    address: u64,
    kind: &'static str,
    system: u64,
    locked: bool,
    in_call: Vec<String>,
    heaps: Vec<(u64, u64)>,
    states: Vec<Row>,
}

/// Where all writable bytes are.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
pub(super) struct HeapSummary {
    arenas: Vec<Arena>,
    mapped: Vec<Row>,
    writable: u64,
    other: Vec<(&'static str, u64)>,
    unwritable: u64,
    trim: u64,
    returned: u64,
    pin: Option<Block>,
}

/// One block, or what else the allocator keeps there.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
#[derive(Clone)]
pub(super) struct Block {
    index: usize,
    /// Where the block starts, and how many bytes of it the program may use.
    address: u64,
    size: u64,
    /// `used`, `free`, or no block: `top`, `overhead`, `foreign`, `damaged`.
    state: &'static str,
    /// `used`, `allocator`, `tcache` and so on.
    list: &'static str,
    /// Where its unit lies, header included.
    start: u64,
    end: u64,
    arena: Option<u64>,
}

fn word(state: State) -> &'static str {
    if state.used() {
        "used"
    } else if state.free() {
        "free"
    } else {
        state.name()
    }
}

/// A group of blocks.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
#[derive(Clone)]
pub(super) struct Group {
    size: Option<u64>,
    kind: Option<&'static str>,
    text: Option<String>,
    arena: Option<u64>,
    blocks: u64,
    bytes: u64,
    sample: Vec<u64>,
    /// The number of the stack that allocated them, where they are grouped by it and it is known.
    stack: Option<u32>,
}

/// Groups of blocks, those with the most bytes first; rows are made when asked for.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Groups {
    found: groups::Groups,
    heap: Heap,
}

#[pymethods]
impl Groups {
    #[getter]
    fn blocks(&self) -> u64 {
        self.found.blocks
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.found.bytes
    }

    #[getter]
    fn untracked(&self) -> u64 {
        self.found.untracked
    }

    fn __len__(&self) -> usize {
        self.found.groups.len()
    }

    #[pyo3(signature = (limit = None))]
    fn rows(&self, limit: Option<usize>) -> Vec<Group> {
        let group = |group: &groups::Group| Group {
            size: group.size,
            kind: group.kind.map(Content::name),
            text: group.text.clone(),
            arena: self.heap.arena(group.arena),
            blocks: group.blocks,
            bytes: group.bytes,
            sample: group.sample.clone(),
            stack: Some(group.stack).filter(|stack| *stack != 0),
        };
        self.found.groups.iter().take(limit.unwrap_or(usize::MAX)).map(group).collect()
    }
}

/// The heap of a target.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Heap {
    pub(super) heap: Arc<dyn Allocator>,
    pub(super) memory: Arc<dyn crate::memory::Memory>,
}

impl Heap {
    fn block(&self, unit: &Unit) -> Block {
        let block = if unit.state.block() { unit.block() } else { unit.range };
        Block {
            index: unit.index,
            address: block.start(),
            size: block.len(),
            state: word(unit.state),
            list: unit.state.name(),
            start: unit.range.start(),
            end: unit.range.end(),
            arena: self.arena(unit.arena),
        }
    }

    /// The same heap for what is made of it.
    pub(super) fn again(&self) -> Self {
        Self { heap: self.heap.clone(), memory: self.memory.clone() }
    }

    fn arena(&self, number: Option<u32>) -> Option<u64> {
        let number = usize::try_from(number?).ok()?;
        self.heap.arenas().get(number).map(|arena| arena.address)
    }
}

#[pymethods]
impl Heap {
    #[getter]
    fn name(&self) -> &'static str {
        self.heap.name()
    }

    #[getter]
    fn version(&self) -> String {
        self.heap.version()
    }

    #[getter]
    fn found_by(&self) -> String {
        self.heap.found_by()
    }

    #[getter]
    fn notes(&self) -> Vec<String> {
        self.heap.notes().to_vec()
    }

    #[getter]
    fn checks(&self) -> Vec<(&'static str, bool, String)> {
        let checks = self.heap.checks().iter();
        checks.map(|check| (check.rule, check.holds, check.detail.clone())).collect()
    }

    #[getter]
    fn damage(&self) -> Vec<(u64, u64, String, u64)> {
        let damage = self.heap.damage().iter();
        damage.map(|place| (place.address, place.value, place.rule.clone(), place.skipped)).collect()
    }

    #[getter]
    fn damages(&self) -> u64 {
        self.heap.damages()
    }

    #[getter]
    fn mapped_by_count(&self) -> Option<(u64, u64)> {
        self.heap.counted_mapped().map(|count| (count.blocks, count.bytes))
    }

    #[getter]
    fn units(&self) -> usize {
        self.heap.blocks().len()
    }

    #[getter]
    fn used(&self) -> bool {
        self.heap.blocks().units().any(|unit| unit.state == State::Used)
    }

    #[getter]
    fn own_bytes(&self) -> usize {
        self.heap.blocks().own_bytes()
    }

    fn unit_at(&self, address: u64) -> Option<Block> {
        self.heap.blocks().unit_at(address).map(|unit| self.block(&unit))
    }

    fn block_at(&self, address: u64) -> Option<Block> {
        self.heap.blocks().block_at(address).map(|unit| self.block(&unit))
    }

    fn unit(&self, index: usize) -> Option<Block> {
        self.heap.blocks().unit(index).map(|unit| self.block(&unit))
    }

    fn reason(&self, index: usize) -> String {
        self.heap.reason(self.memory.as_ref(), index)
    }

    fn header(&self, address: u64) -> Option<(u64, u64, u64, Vec<&'static str>)> {
        let header = self.heap.header(self.memory.as_ref(), address)?;
        Some((header.address, header.size, header.previous_size, header.flags))
    }

    fn content(&self, index: usize) -> (Option<&'static str>, Option<String>) {
        let (kind, text) = groups::content(self.memory.as_ref(), self.heap.blocks(), index);
        (kind.map(Content::name), text)
    }

    #[pyo3(signature = (by, free = None, size = None, kind = None, within = None, lost = None, recording = None, newest = None, progress = None))]
    #[allow(clippy::too_many_arguments)]
    fn groups(
        &self,
        py: Python<'_>,
        by: &str,
        free: Option<bool>,
        size: Option<u64>,
        kind: Option<&str>,
        within: Option<Vec<(u64, u64)>>,
        lost: Option<&Check>,
        recording: Option<&Recording>,
        newest: Option<i64>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Groups> {
        let by = self::by(by)?;
        let label = |unit: &Unit| label(unit, lost, recording, newest, by == By::Stack);
        let labelled = lost.is_some() || newest.is_some() || by == By::Stack;
        let wanted = wanted(free, size, kind, within, labelled.then_some(&label as &Labels<'_>))?;
        let found = call::run(py, progress, |job| {
            groups::groups(self.memory.as_ref(), self.heap.blocks(), by, &wanted, job)
        })?;
        Ok(Groups { found, heap: self.again() })
    }

    #[pyo3(signature = (limit = None, free = None, size = None, kind = None, lost = None, recording = None, newest = None, progress = None))]
    #[allow(clippy::too_many_arguments)]
    fn listed(
        &self,
        py: Python<'_>,
        limit: Option<usize>,
        free: Option<bool>,
        size: Option<u64>,
        kind: Option<&str>,
        lost: Option<&Check>,
        recording: Option<&Recording>,
        newest: Option<i64>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Listed> {
        let label = |unit: &Unit| label(unit, lost, recording, newest, false);
        let labelled = lost.is_some() || newest.is_some();
        let wanted = wanted(free, size, kind, None, labelled.then_some(&label as &Labels<'_>))?;
        let limit = limit.unwrap_or(usize::MAX);
        let listed = call::run(py, progress, |job| {
            groups::list(self.memory.as_ref(), self.heap.blocks(), &wanted, limit, job)
        })?;
        let recorded = recording.map(|recording| recording.recorded.clone());
        Ok(Listed { found: listed, heap: self.again(), recorded })
    }
}

/// What is known of a unit: whether it is lost, where that matters, and old enough; its stack.
fn label(
    unit: &Unit,
    lost: Option<&Check>,
    recording: Option<&Recording>,
    newest: Option<i64>,
    by_stack: bool,
) -> Option<Label> {
    let wanted = lost.is_none_or(|check| check.lost(unit));
    let recorded = match recording {
        Some(recording) => recording.recorded.label(unit, newest),
        None => newest.is_none().then(Label::default),
    };
    let label = recorded.filter(|_| wanted)?;
    Some(if by_stack { label } else { Label::default() })
}

fn wanted<'w>(
    free: Option<bool>,
    size: Option<u64>,
    kind: Option<&str>,
    within: Option<Vec<(u64, u64)>>,
    labels: Option<&'w Labels<'w>>,
) -> PyResult<Wanted<'w>> {
    let kind = kind.map(|kind| Content::from_name(kind).ok_or_else(|| unknown("-kind", kind))).transpose()?;
    let within = within.unwrap_or_default().into_iter().map(|(start, end)| AddressRange::new(start, end));
    let within = AddressRange::merge(within.collect::<Result<_, _>>()?);
    Ok(Wanted { free, size, kind, within, labels })
}

fn by(name: &str) -> PyResult<By> {
    Ok(match name {
        "all" => By::All,
        "size" => By::Size,
        "kind" => By::Kind,
        "text" => By::Text,
        "arena" => By::Arena,
        "stack" => By::Stack,
        other => return Err(unknown("-by", other).into()),
    })
}

pub(super) fn unknown(thing: &'static str, value: &str) -> Error {
    Error::Request { thing, value: value.to_owned(), rule: "is unknown".to_owned() }
}

/// A block, what it holds, and the bytes that were asked for.
type ListedRow = (Block, Option<&'static str>, Option<u64>);

/// Blocks one by one; rows are made when asked for.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Listed {
    found: groups::Listed,
    heap: Heap,
    recorded: Option<Arc<Recorded>>,
}

#[pymethods]
impl Listed {
    #[getter]
    fn count(&self) -> u64 {
        self.found.count
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.found.bytes
    }

    fn __len__(&self) -> usize {
        self.found.blocks.len()
    }

    fn rows(&self, start: usize, stop: usize) -> Vec<ListedRow> {
        let rows = self.found.blocks.get(start..stop.min(self.found.blocks.len()));
        let row = |(index, kind): &(u32, Option<Content>)| {
            let unit = self.heap.heap.blocks().unit(usize::try_from(*index).ok()?)?;
            let record = self.recorded.as_ref().and_then(|recorded| recorded.of(unit.index));
            let requested = record.map(|record| record.size);
            Some((self.heap.block(&unit), kind.map(Content::name), requested))
        };
        rows.unwrap_or_default().iter().filter_map(row).collect()
    }
}

#[pyfunction]
#[pyo3(signature = (memory, threads = None, progress = None))]
pub(super) fn open_heap(
    py: Python<'_>,
    memory: &Memory,
    threads: Option<Vec<ThreadRegisters>>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<Heap>> {
    let target = &memory.target;
    let threads = memory.threads_or(threads);
    let found = memory
        .kept
        .heap(|| call::run(py, progress, |job| heap::open(target.memory.as_ref(), &threads, job)))?;
    Ok(found.map(|heap| Heap { heap, memory: target.memory.clone() }))
}

#[pyfunction]
pub(super) fn heap_kept(memory: &Memory) -> bool {
    memory.kept.has_heap()
}

#[pyfunction]
#[pyo3(signature = (memory, addresses, progress = None))]
pub(super) fn may_hold_blocks(
    py: Python<'_>,
    memory: &Memory,
    addresses: Vec<u64>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<bool> {
    let outside = memory.outside(py, progress)?;
    let own = memory.target.memory.as_ref();
    Ok(addresses.into_iter().any(|address| heap::possible(own, &outside, address)))
}

#[pyfunction]
#[pyo3(signature = (memory, progress = None))]
pub(super) fn refused_heap(
    py: Python<'_>,
    memory: &Memory,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<String>> {
    let own = memory.target.memory.as_ref();
    call::run(py, progress, |job| heap::refused(own, job))
}

#[pyfunction]
pub(super) fn other_allocators(py: Python<'_>, memory: &Memory) -> PyResult<Vec<&'static str>> {
    call::run(py, None, |job| heap::others(memory.target.memory.as_ref(), job))
}

#[pyfunction]
#[pyo3(signature = (memory, places, progress = None))]
pub(super) fn linked_allocators(
    py: Python<'_>,
    memory: &Memory,
    places: Vec<(u64, u64)>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<&'static str>> {
    let places = places.into_iter().map(|(start, end)| AddressRange::new(start, end));
    let places = AddressRange::merge(places.collect::<Result<_, _>>()?);
    let target = &memory.target;
    memory.kept.linked(|| {
        let symbols = memory.kept.symbols(target);
        call::run(py, progress, |job| heap::linked(target.memory.as_ref(), symbols, &places, job))
    })
}

#[pyfunction]
#[pyo3(signature = (memory, heap = None, progress = None))]
pub(super) fn heap_summary(
    py: Python<'_>,
    memory: &Memory,
    heap: Option<&Heap>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<HeapSummary> {
    let own = memory.target.memory.as_ref();
    let allocator = heap.map(|heap| heap.heap.as_ref());
    let found = call::run(py, progress, |job| accounts::summary(own, allocator, job))?;
    let arenas = allocator.map_or(&[][..], |heap| heap.arenas());
    let arenas = arenas.iter().zip(&found.tally.arenas).map(|(arena, states)| Arena {
        address: arena.address,
        kind: arena.kind,
        system: arena.system,
        locked: arena.locked,
        in_call: arena.in_call.clone(),
        heaps: super::memory::pairs(arena.heaps.iter()),
        states: rows(states),
    });
    let trim = allocator.map(Allocator::trim).unwrap_or_default();
    let pin = heap.zip(trim.pin).and_then(|(heap, pin)| heap.unit(pin));
    Ok(HeapSummary {
        arenas: arenas.collect(),
        mapped: rows(&found.tally.mapped),
        writable: found.writable,
        other: found.other.iter().map(|(kind, bytes)| (kind.name(), *bytes)).collect(),
        unwritable: found.unwritable,
        trim: trim.bytes,
        returned: trim.returned,
        pin,
    })
}
