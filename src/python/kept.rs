//! What was made of a target once and holds for as long as the target is kept.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pyo3::PyResult;

use crate::heap::recorded::Recorded;
use crate::heap::{Allocator, Outside};
use crate::leak::{Check, Options};
use crate::source::Target;
use crate::source::symbols::Symbols;

/// The heap that was found, if there is one.
type Found = Option<Arc<dyn Allocator>>;

/// What was recorded of its blocks, if anything was, and what of that cannot be read.
pub(super) type Records = (Option<Arc<Recorded>>, Arc<[String]>);

/// The heap of a target, what was recorded of it, where else blocks may lie, and its symbols, once somebody asked for them.
///
/// The doors drop a target when the process runs on, and this with it.
#[derive(Default)]
pub(super) struct Kept {
    /// As an answer that may be that there is none.
    heap: Mutex<Option<Found>>,
    records: Mutex<Option<Records>>,
    outside: Mutex<Option<Arc<Outside>>>,
    /// The verdicts given last, and how.
    check: Mutex<Option<(Options, Arc<Check>)>>,
    /// The names of allocators that are part of a module.
    linked: Mutex<Option<Vec<&'static str>>>,
    symbols: OnceLock<Symbols>,
}

impl Kept {
    /// The heap, made by `open` where it is asked for the first time.
    pub(super) fn heap(&self, open: impl FnOnce() -> PyResult<Found>) -> PyResult<Found> {
        kept(&self.heap, open)
    }

    /// Whether the heap was asked for already.
    pub(super) fn has_heap(&self) -> bool {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// What was recorded of the blocks of the heap, found by `find` where that is asked for the first time.
    pub(super) fn records(&self, find: impl FnOnce() -> PyResult<Records>) -> PyResult<Records> {
        kept(&self.records, find)
    }

    /// Where blocks may lie outside of heaps, found by `find` where that is asked for the first time.
    pub(super) fn outside(&self, find: impl FnOnce() -> PyResult<Outside>) -> PyResult<Arc<Outside>> {
        kept(&self.outside, || find().map(Arc::new))
    }

    /// The allocators that are part of a module, found by `find` where that is asked for the first time.
    pub(super) fn linked(
        &self,
        find: impl FnOnce() -> PyResult<Vec<&'static str>>,
    ) -> PyResult<Vec<&'static str>> {
        kept(&self.linked, find)
    }

    /// The verdicts given with these options, made by `judge` where the last ones were given with others.
    pub(super) fn check(
        &self,
        options: Options,
        judge: impl FnOnce() -> PyResult<Check>,
    ) -> PyResult<Arc<Check>> {
        let last = self.check.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, check)) = last.filter(|(made, _)| *made == options) {
            return Ok(check);
        }
        let fresh = Arc::new(judge()?);
        *self.check.lock().unwrap_or_else(PoisonError::into_inner) = Some((options, fresh.clone()));
        Ok(fresh)
    }

    /// The verdicts given last, unless they were asked for in a way of their own.
    pub(super) fn judged(&self) -> Option<Arc<Check>> {
        let last = self.check.lock().unwrap_or_else(PoisonError::into_inner);
        let usual = last.as_ref().filter(|(made, _)| *made == Options::default());
        usual.map(|(_, check)| check.clone())
    }

    /// The symbols of the target that all this is kept for; their files are read as they are needed.
    pub(super) fn symbols(&self, target: &Target) -> &Symbols {
        self.symbols.get_or_init(|| Symbols::new(target))
    }
}

// Nothing is locked while it is made: making it asks for Ctrl-C, which runs Python.
fn kept<T: Clone>(slot: &Mutex<Option<T>>, make: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    let lock = || slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lock().clone() {
        return Ok(known);
    }
    let fresh = make()?;
    *lock() = Some(fresh.clone());
    Ok(fresh)
}
