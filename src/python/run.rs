//! Programs that gdb-leak starts: whether they can be recorded, and following them to their end.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use pyo3::prelude::*;

use crate::source;
use crate::source::follow::{self, Next, Wanted};

use super::memory::Stop;

/// How often Ctrl-C and other signals are asked for while a program runs.
const ASK: Duration = Duration::from_millis(20);

/// A process, how it ends if it does, and its threads.
type Held = (i32, Option<i32>, Stop);

/// A program that is followed to its end.
#[pyclass(module = "gdb_leak._native")]
pub(super) struct Follow {
    /// Only one thread asks.
    follow: std::sync::Mutex<follow::Follow>,
}

impl Follow {
    fn with<T>(&self, ask: impl FnOnce(&mut follow::Follow) -> T) -> T {
        ask(&mut self.follow.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

#[pymethods]
impl Follow {
    #[new]
    #[pyo3(signature = (pid, function = None, children = false))]
    fn new(py: Python<'_>, pid: i32, function: Option<String>, children: bool) -> PyResult<Self> {
        let follow = py.detach(|| follow::Follow::new(pid, Wanted { function, children }))?;
        Ok(Self { follow: follow.into() })
    }

    /// The next process that is held; none when all is over.
    fn next(&self, py: Python<'_>) -> PyResult<Option<Held>> {
        loop {
            match py.detach(|| self.with(|follow| follow.next(ASK)))? {
                Next::Held(held) => return Ok(Some((held.pid, held.status, Stop(held.stop)))),
                Next::Waiting => py.check_signals()?,
                Next::Over => return Ok(None),
            }
        }
    }

    #[getter]
    fn status(&self) -> Option<i32> {
        self.with(|follow| follow.status())
    }
}

/// The program to execute, the words before its operands, its name first (none where they are
/// the caller's), and the file that is recorded in the end.
#[pyfunction]
pub(super) fn recordable(
    path: PathBuf,
    search: Vec<PathBuf>,
) -> PyResult<(OsString, Vec<OsString>, OsString)> {
    let found = source::recordable::recordable(&path, &search)?;
    let words = found.words.into_iter().map(OsString::from_vec).collect();
    Ok((found.program.into_os_string(), words, found.file.into_os_string()))
}
