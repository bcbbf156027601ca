//! Calls that may last: other threads work, this one answers Ctrl-C and shows progress.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::Error;
use crate::pass::Job;

/// How often Ctrl-C is asked for while work goes on.
const ASK: Duration = Duration::from_millis(20);

/// How long work lasts before anybody wants to see progress, and how often then.
const QUIET: Duration = Duration::from_secs(1);
const SHOW: Duration = Duration::from_millis(100);

/// The workers. Signals are the debugger's: none may be delivered to them.
static POOL: LazyLock<Result<ThreadPool, String>> = LazyLock::new(|| {
    let builder = ThreadPoolBuilder::new().thread_name(|index| format!("gdb-leak-{index}"));
    let builder = builder.start_handler(|_| {
        // A thread that cannot block signals works all the same.
        let _ = SigSet::all().thread_block();
    });
    builder.build().map_err(|error| error.to_string())
});

/// What work on another thread has come to.
struct Outcome<T> {
    result: Mutex<Option<thread::Result<T>>>,
    ended: Condvar,
}

impl<T> Outcome<T> {
    fn new() -> Self {
        Self { result: Mutex::new(None), ended: Condvar::new() }
    }

    fn of(&self, work: impl FnOnce() -> T) {
        let result = catch_unwind(AssertUnwindSafe(work));
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.ended.notify_all();
    }

    /// Waits for it, no longer than [`ASK`].
    fn wait(&self) -> Option<thread::Result<T>> {
        let guard = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ended.wait_timeout_while(guard, ASK, |result| result.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

/// Does the work on a thread of its own, and leaves it to that one on Ctrl-C, with the job stopped.
///
/// For work that does not ask for that everywhere, and of which nothing is seen but what it returns.
///
/// # Errors
///
/// The work's, and `KeyboardInterrupt`.
pub(super) fn run_apart<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&Job) -> Result<T, Error> + Send + 'static,
) -> PyResult<T> {
    let (outcome, job) = (Arc::new(Outcome::new()), Arc::new(Job::default()));
    let own = (Arc::clone(&outcome), Arc::clone(&job));
    let begun = thread::Builder::new().spawn(move || {
        // As of the workers.
        let _ = SigSet::all().thread_block();
        let (outcome, job) = own;
        outcome.of(|| work(&job));
    });
    begun.map_err(|cause| PyRuntimeError::new_err(format!("no thread could be started: {cause}")))?;
    loop {
        match py.detach(|| outcome.wait()) {
            Some(Ok(result)) => return Ok(result?),
            Some(Err(panic)) => resume_unwind(panic),
            None => py.check_signals().inspect_err(|_| job.stop())?,
        }
    }
}

/// Does the work on other threads while this one asks for Ctrl-C.
///
/// # Errors
///
/// The work's, and `KeyboardInterrupt` or what `progress` raised; the work has
/// ended in either case.
pub(super) fn run<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&Job) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let pool = POOL.as_ref().map_err(|cause| PyRuntimeError::new_err(cause.clone()))?;
    let job = Job::default();
    let outcome = Outcome::new();
    let (result, stopped) = pool.in_place_scope(|scope| {
        scope.spawn(|_| outcome.of(|| work(&job)));
        let begun = Instant::now();
        let mut shown = begun;
        let mut stopped = None;
        loop {
            if let Some(result) = py.detach(|| outcome.wait()) {
                return (result, stopped);
            }
            let asked = py.check_signals().and_then(|()| match progress {
                Some(progress) if begun.elapsed() > QUIET && shown.elapsed() > SHOW => {
                    shown = Instant::now();
                    progress.call1(job.progress()).map(|_| ())
                }
                _ => Ok(()),
            });
            if let Err(cause) = asked {
                job.stop();
                stopped.get_or_insert(cause);
            }
        }
    });
    match (stopped, result) {
        (_, Err(panic)) => resume_unwind(panic),
        (Some(cause), _) => Err(cause),
        (None, Ok(result)) => Ok(result?),
    }
}
