//! What changed between two targets, and what is in the bytes that are new.

use pyo3::prelude::*;

use crate::diff as compare;
use crate::inspect::records;
use crate::range::AddressRange;

use super::call;
use super::memory::{Memory, pairs};
use super::text::Text;

/// A region that grew, shrank, appeared or went.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
#[derive(Clone)]
pub(super) struct Change {
    start: u64,
    end: u64,
    before: u64,
    after: u64,
    new_ranges: Vec<(u64, u64)>,
    gone_ranges: Vec<(u64, u64)>,
    permissions: String,
    reserve: bool,
    writable: bool,
    kind: &'static str,
    name: Text,
}

impl From<&compare::Change> for Change {
    fn from(change: &compare::Change) -> Self {
        Self {
            start: change.range.start(),
            end: change.range.end(),
            before: change.before,
            after: change.after,
            new_ranges: pairs(change.new_ranges.iter()),
            gone_ranges: pairs(change.gone_ranges.iter()),
            permissions: change.permissions.to_string(),
            reserve: change.reserve,
            writable: change.writable(),
            kind: change.kind.name(),
            name: change.name.clone().into(),
        }
    }
}

/// What changed between two lists of regions.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Difference(compare::Difference);

#[pymethods]
impl Difference {
    #[getter]
    fn grown(&self) -> Vec<Change> {
        self.0.grown.iter().map(Change::from).collect()
    }

    #[getter]
    fn shrunk(&self) -> Vec<Change> {
        self.0.shrunk.iter().map(Change::from).collect()
    }

    #[getter]
    #[allow(clippy::new_ret_no_self, clippy::wrong_self_convention)]
    fn new(&self) -> Vec<Change> {
        self.0.new.iter().map(Change::from).collect()
    }

    #[getter]
    fn gone(&self) -> Vec<Change> {
        self.0.gone.iter().map(Change::from).collect()
    }

    #[getter]
    fn growth(&self) -> i128 {
        self.0.growth
    }

    #[getter]
    fn reserved(&self) -> i128 {
        self.0.reserved
    }

    #[getter]
    fn same_program(&self) -> bool {
        self.0.same_program
    }

    #[getter]
    fn notes(&self) -> Vec<String> {
        self.0.notes.clone()
    }
}

#[pyfunction]
pub(super) fn diff(before: &Memory, after: &Memory) -> Difference {
    let (before, after) = (&before.target.memory, &after.target.memory);
    Difference(compare::diff(before.regions(), after.regions()))
}

/// Text, example, count, bytes, first address, stride, and how many steps have that stride.
type Row = (String, String, u64, u64, u64, Option<u64>, u64);

/// The strings in some ranges, most frequent first, with the distance at which each repeats.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Contents(records::Contents);

#[pymethods]
impl Contents {
    #[getter]
    fn rows(&self) -> Vec<Row> {
        let row = |record: &records::Repeated| {
            let (text, example) = (record.text.clone(), record.example.clone());
            (text, example, record.count, record.bytes, record.first, record.stride, record.strided)
        };
        self.0.records.iter().map(row).collect()
    }

    #[getter]
    fn distinct(&self) -> u64 {
        self.0.distinct
    }

    #[getter]
    fn total(&self) -> u64 {
        self.0.total
    }

    #[getter]
    fn untracked(&self) -> u64 {
        self.0.untracked
    }

    #[getter]
    fn unreadable(&self) -> Vec<(u64, u64)> {
        pairs(self.0.gaps.iter().map(|gap| &gap.range))
    }
}

#[pyfunction]
#[pyo3(signature = (memory, ranges, minimum = 4, top = None, progress = None))]
pub(super) fn contents(
    py: Python<'_>,
    memory: &Memory,
    ranges: Vec<(u64, u64)>,
    minimum: usize,
    top: Option<usize>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Contents> {
    let ranges = ranges.into_iter().map(|(start, end)| AddressRange::new(start, end));
    let ranges = AddressRange::merge(ranges.collect::<Result<_, _>>()?);
    let memory = memory.target.memory.as_ref();
    let found = call::run(py, progress, |job| {
        records::contents(memory, &ranges, minimum, top.unwrap_or(usize::MAX), job)
    })?;
    Ok(Contents(found))
}
