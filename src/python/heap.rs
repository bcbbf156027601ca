//! Heaps: arenas, blocks, groups of blocks.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::heap;
use crate::heap::allocator::{Allocator, States};
use crate::heap::block::{State, Unit};
use crate::heap::content::Content;
use crate::heap::groups::{self, By};
use crate::heap::listed;
use crate::heap::summary as accounts;
use crate::heap::wanted::Labels;
use crate::range::AddressRange;

use super::blocks::{Block, Groups, Listed, by_name, label, wanted};
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

/// The heap of a target.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Heap {
    pub(super) heap: Arc<dyn Allocator>,
    pub(super) memory: Arc<dyn crate::memory::Memory>,
}

impl Heap {
    fn block(&self, unit: &Unit) -> Block {
        Block::new(self.heap.as_ref(), unit)
    }

    /// The same heap for what is made of it.
    pub(super) fn again(&self) -> Self {
        Self { heap: self.heap.clone(), memory: self.memory.clone() }
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
    fn broken(&self) -> bool {
        let broken = |state| matches!(state, State::Damaged | State::Unreadable);
        self.heap.blocks().units().any(|unit| broken(unit.state))
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
        let (kind, text) = listed::content(self.memory.as_ref(), self.heap.blocks(), index);
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
        let by = by_name(by)?;
        let label = |unit: &Unit| label(unit, lost, recording, newest, by == By::Stack);
        let labelled = lost.is_some() || newest.is_some() || by == By::Stack;
        let wanted = wanted(free, size, kind, within, labelled.then_some(&label as &Labels<'_>))?;
        let found = call::run(py, progress, |job| {
            groups::groups(self.memory.as_ref(), self.heap.blocks(), by, &wanted, job)
        })?;
        Ok(Groups { found, heap: self.heap.clone(), memory: self.memory.clone() })
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
            listed::list(self.memory.as_ref(), self.heap.blocks(), &wanted, limit, job)
        })?;
        let recorded = recording.map(|recording| recording.recorded.clone());
        Ok(Listed { found: listed, heap: self.heap.clone(), recorded })
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
