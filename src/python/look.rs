//! Dumps, words and strings.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;

use crate::heap;
use crate::inspect::strings::{Choice, Kinds, Part};
use crate::inspect::{self, hexdump, text, words};
use crate::range::AddressRange;
use crate::save;

use super::call;
use super::heap::Heap;
use super::memory::{Memory, PlaceArgument, byte_order, pairs};

/// Lines of memory, made in pieces.
#[pyclass(module = "gdb_leak._native")]
pub(super) struct Dump {
    memory: Arc<dyn crate::memory::Memory>,
    dump: hexdump::Dump,
}

#[pymethods]
impl Dump {
    #[getter]
    fn missing(&self) -> u64 {
        self.dump.missing()
    }

    #[pyo3(signature = (most = 65536))]
    fn piece(&mut self, py: Python<'_>, most: usize) -> PyResult<String> {
        let mut out = String::new();
        // Megabytes of equal lines may add nothing: the person may stop in between.
        while py.detach(|| self.dump.next_piece(self.memory.as_ref(), &mut out, most))? && out.is_empty() {
            py.check_signals()?;
        }
        Ok(out)
    }
}

#[pyfunction]
#[pyo3(signature = (memory, start, length, style, fold = true))]
pub(super) fn dump(memory: &Memory, start: u64, length: u64, style: &str, fold: bool) -> PyResult<Dump> {
    let range = AddressRange::with_length(start, length)?;
    let memory = memory.target.memory.clone();
    let dump = hexdump::Dump::new(memory.as_ref(), range, hexdump::Style::from_name(style)?, fold)?;
    Ok(Dump { memory, dump })
}

#[pyfunction]
#[pyo3(signature = (memory, start, length, path, force = false, progress = None))]
pub(super) fn write_range(
    py: Python<'_>,
    memory: &Memory,
    start: u64,
    length: u64,
    path: PathBuf,
    force: bool,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<u64> {
    let range = AddressRange::with_length(start, length)?;
    let memory = memory.target.memory.as_ref();
    call::run(py, progress, |job| save::write_range(memory, range, &path, force, job))?;
    Ok(range.len())
}

#[pyfunction]
pub(super) fn words_to_text(words: Vec<u64>, size: usize, byte_order: &str) -> PyResult<String> {
    let order = self::byte_order(byte_order)?;
    Ok(text::lossless(&words::words_to_text(&words, size, order)))
}

#[pyfunction]
pub(super) fn text_to_words(text: &[u8], size: usize, byte_order: &str) -> PyResult<Vec<u64>> {
    Ok(words::text_to_words(text, size, self::byte_order(byte_order)?))
}

/// Printable strings of a target, most frequent first.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Strings(inspect::strings::Strings);

#[pymethods]
impl Strings {
    #[getter]
    fn rows(&self) -> Vec<(String, String, u64, u64, u64)> {
        let row = |row: &inspect::strings::StringCount| {
            (row.text.clone(), row.example.clone(), row.count, row.bytes, row.first)
        };
        self.0.strings.iter().map(row).collect()
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

    /// Those left out because they are bytes of addresses.
    #[getter]
    fn addresses(&self) -> u64 {
        self.0.addresses
    }

    #[getter]
    fn searched(&self) -> u64 {
        self.0.searched
    }

    #[getter]
    fn unreadable(&self) -> Vec<(u64, u64)> {
        pairs(self.0.gaps.iter().map(|gap| &gap.range))
    }
}

#[pyfunction]
#[pyo3(signature = (
    memory,
    place,
    minimum = 4,
    top = None,
    heap = None,
    free = None,
    addresses = false,
    progress = None,
))]
#[allow(clippy::too_many_arguments)]
pub(super) fn strings(
    py: Python<'_>,
    memory: &Memory,
    place: PlaceArgument,
    minimum: usize,
    top: Option<usize>,
    heap: Option<&Heap>,
    free: Option<bool>,
    addresses: bool,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Strings> {
    let ranges = memory.ranges(&place, heap)?;
    let memory = memory.target.memory.as_ref();
    let blocks = heap.map(|heap| heap.heap.blocks()).zip(free);
    let part = blocks.map(|(blocks, free)| move |text| heap::part(blocks, text, free));
    let part = part.as_ref().map(|part| part as &Part<'_>);
    let choice = Choice { kinds: Kinds { min: minimum, addresses }, part };
    let found = call::run(py, progress, |job| inspect::strings::strings(memory, &ranges, choice, top, job))?;
    Ok(Strings(found))
}
