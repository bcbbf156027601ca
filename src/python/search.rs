//! Needles and the places where they are.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Error;
use crate::heap;
use crate::inspect::text;
use crate::range::AddressRange;
use crate::search;

use super::call;
use super::heap::Heap;
use super::memory::{Memory, PlaceArgument, Region, byte_order, pairs};

/// Bytes of text shown of a match.
const EXCERPT: usize = 64;

/// What is looked for.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Needle(search::Needle);

#[pymethods]
impl Needle {
    #[staticmethod]
    #[pyo3(signature = (raw, terminated = false, ignore_case = false))]
    fn text(raw: &[u8], terminated: bool, ignore_case: bool) -> PyResult<Self> {
        Ok(Self(search::Needle::text(raw, terminated, ignore_case)?))
    }

    #[staticmethod]
    fn hex(digits: &str) -> PyResult<Self> {
        Ok(Self(search::Needle::hex(digits)?))
    }

    #[staticmethod]
    fn integer(value: i128, size: usize, byte_order: &str) -> PyResult<Self> {
        Ok(Self(search::Needle::integer(value, size, self::byte_order(byte_order)?)?))
    }

    #[staticmethod]
    #[pyo3(signature = (text, byte_order, terminated = false, ignore_case = false))]
    fn utf16(text: &str, byte_order: &str, terminated: bool, ignore_case: bool) -> PyResult<Self> {
        let order = self::byte_order(byte_order)?;
        Ok(Self(search::Needle::utf16(text, order, terminated, ignore_case)?))
    }

    #[staticmethod]
    fn pointer(value: u64, memory: &Memory) -> PyResult<Self> {
        Ok(Self(search::Needle::pointer(value, memory.target.memory.word_format())?))
    }

    #[staticmethod]
    fn pointers_into(start: u64, end: u64, memory: &Memory) -> PyResult<Self> {
        let range = AddressRange::new(start, end)?;
        Ok(Self(search::Needle::pointers_into(range, memory.target.memory.word_format())?))
    }

    #[staticmethod]
    #[pyo3(signature = (pattern, ignore_case = false))]
    fn regex(pattern: &str, ignore_case: bool) -> PyResult<Self> {
        Ok(Self(search::Needle::regex(pattern, ignore_case)?))
    }

    #[getter]
    fn hex_bytes(&self) -> String {
        self.0.hex_bytes()
    }
}

#[pyfunction]
pub(super) fn unescape<'py>(py: Python<'py>, raw: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(py, &search::unescape(raw)?))
}

/// The places found; rows are made when asked for.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Matches {
    found: search::Found,
    memory: Arc<dyn crate::memory::Memory>,
}

#[pymethods]
impl Matches {
    #[getter]
    fn count(&self) -> u64 {
        self.found.count
    }

    #[getter]
    fn last(&self) -> Option<u64> {
        self.found.last
    }

    #[getter]
    fn searched(&self) -> u64 {
        self.found.searched
    }

    #[getter]
    fn unreadable(&self) -> Vec<(u64, u64)> {
        pairs(self.found.gaps.iter().map(|gap| &gap.range))
    }

    #[getter]
    fn addresses(&self) -> Vec<u64> {
        self.found.matches.iter().map(|found| found.address).collect()
    }

    fn __len__(&self) -> usize {
        self.found.matches.len()
    }

    fn rows(&self, start: usize, stop: usize) -> Vec<(u64, u32, String, Option<Region>)> {
        let matches = self.found.matches.get(start..stop.min(self.found.matches.len()));
        let row = |found: &search::Match| {
            let text = text::excerpt(self.memory.as_ref(), found.address, found.length.into(), EXCERPT);
            let region = self.memory.region_at(found.address).map(Region::from);
            (found.address, found.length, text, region)
        };
        matches.unwrap_or_default().iter().map(row).collect()
    }
}

/// Matches that are kept at the most, in 1 GiB: zeros in the holes of a small file may have any number.
const MOST: usize = 1 << 26;

#[pyfunction]
#[pyo3(signature = (
    memory,
    needle,
    place,
    align = None,
    limit = None,
    heap = None,
    free = None,
    progress = None,
))]
#[allow(clippy::too_many_arguments)]
pub(super) fn find(
    py: Python<'_>,
    memory: &Memory,
    needle: &Needle,
    place: PlaceArgument,
    align: Option<u64>,
    limit: Option<usize>,
    heap: Option<&Heap>,
    free: Option<bool>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Matches> {
    let ranges = memory.ranges(&place, heap)?;
    let memory = memory.target.memory.clone();
    let kept = heap.map(|heap| heap.heap.clone()).zip(free);
    // Which matches count is known only of all of them.
    let most = limit.filter(|_| kept.is_none()).unwrap_or(MOST).min(MOST);
    let search = search::Search { needle: needle.0.clone(), align, limit: Some(most) };
    let found = call::run(py, progress, |job| {
        let mut found = search::find(memory.as_ref(), &ranges, &search, job)?;
        if let Some((heap, free)) = &kept {
            if found.count > most as u64 {
                let value = format!("{} matches", found.count);
                let rule =
                    format!("with -state at most {most} are looked up in the heap; narrow it with -in");
                return Err(Error::Request { thing: "find", value, rule });
            }
            found.keep(limit, |address| heap::counts(heap.blocks(), address, *free));
        }
        Ok(found)
    })?;
    Ok(Matches { found, memory })
}
