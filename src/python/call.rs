//! Calls that may last: other threads work, this one answers Ctrl-C and shows progress.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
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
    let (slot, ended) = (Mutex::new(None), Condvar::new());
    let wait = |limit: Duration| {
        let guard = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = ended.wait_timeout_while(guard, limit, |slot: &mut Option<_>| slot.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    };
    let (result, stopped) = pool.in_place_scope(|scope| {
        scope.spawn(|_| {
            let result = catch_unwind(AssertUnwindSafe(|| work(&job)));
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            ended.notify_all();
        });
        let begun = Instant::now();
        let mut shown = begun;
        let mut stopped = None;
        loop {
            if let Some(result) = py.detach(|| wait(ASK)) {
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
