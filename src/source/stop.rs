//! Holding a process: all its threads stopped by ptrace while somebody reads, then let go.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use procfs::process::Process as Proc;

use crate::error::Error;
use crate::source::process::tracer;

/// How long a thread may take to stop: one that waits for a disk can take long.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process whose threads are all held; they go on when this is dropped.
///
/// Must be dropped by the thread that made it, because ptrace answers only that one.
#[derive(Debug)]
pub struct Stop {
    pid: i32,
    threads: BTreeSet<i32>,
    since: Instant,
}

impl Stop {
    /// Holds all threads of the process, new ones too.
    ///
    /// # Errors
    ///
    /// [`Error::Process`] when there is none, it may not be traced, is traced
    /// already, or a thread does not stop in time. Nothing stays held then.
    pub fn new(pid: i32) -> Result<Self, Error> {
        if let Some(tracer) = tracer(pid) {
            let problem =
                format!("is traced by process {tracer} already; use leak-* commands in that debugger");
            return Err(Error::Process { pid, problem });
        }
        let mut stop = Self { pid, threads: BTreeSet::new(), since: Instant::now() };
        // A thread that was not seen may start another one: look until none is new.
        loop {
            let new: Vec<i32> = stop.listed()?.into_iter().filter(|id| !stop.threads.contains(id)).collect();
            if new.is_empty() {
                return Ok(stop);
            }
            for id in new {
                stop.hold(id)?;
            }
        }
    }

    /// How many threads are held.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// How long the process has been held.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    fn refuse(&self, problem: impl Into<String>) -> Error {
        Error::Process { pid: self.pid, problem: problem.into() }
    }

    fn listed(&self) -> Result<Vec<i32>, Error> {
        let tasks = Proc::new(self.pid).and_then(|process| process.tasks());
        let tasks = tasks.map_err(|_| self.refuse("does not exist"))?;
        Ok(tasks.filter_map(Result::ok).map(|task| task.tid).collect())
    }

    fn hold(&mut self, id: i32) -> Result<(), Error> {
        let thread = Pid::from_raw(id);
        match ptrace::seize(thread, ptrace::Options::empty()) {
            Ok(()) => {}
            // The thread ended since it was listed.
            Err(Errno::ESRCH) => return Ok(()),
            Err(Errno::EPERM) => {
                return Err(self.refuse(
                    "may not be stopped: it belongs to somebody else or tracing is restricted; \
                     try as root, or see gdb-leak doctor",
                ));
            }
            Err(cause) => return Err(self.refuse(format!("thread {id}: {}", cause.desc()))),
        }
        self.threads.insert(id);
        match ptrace::interrupt(thread) {
            Ok(()) => self.wait(id),
            Err(Errno::ESRCH) => Ok(()),
            Err(cause) => Err(self.refuse(format!("thread {id}: {}", cause.desc()))),
        }
    }

    fn wait(&mut self, id: i32) -> Result<(), Error> {
        let begun = Instant::now();
        let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        loop {
            match waitpid(Pid::from_raw(id), Some(flags)) {
                Ok(WaitStatus::StillAlive) if begun.elapsed() > PATIENCE => {
                    return Err(
                        self.refuse(format!("thread {id} did not stop within {} s", PATIENCE.as_secs()))
                    );
                }
                Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_micros(200)),
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_) => {
                    self.threads.remove(&id);
                    return Ok(());
                }
                // Folklore: a signal may arrive before the stop that was asked for;
                // letting go hands it on. Seen: a process with a busy interval timer.
                Ok(WaitStatus::Stopped(thread, signal)) => {
                    return self.pending(thread, signal);
                }
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Hands a signal on that arrived first, then waits for the stop that was asked for.
    fn pending(&mut self, thread: Pid, signal: nix::sys::signal::Signal) -> Result<(), Error> {
        let told = |cause: Errno| self.refuse(format!("thread {thread}: {}", cause.desc()));
        ptrace::cont(thread, signal).map_err(told)?;
        match ptrace::interrupt(thread) {
            Ok(()) => self.wait(thread.as_raw()),
            Err(Errno::ESRCH) => Ok(()),
            Err(cause) => Err(told(cause)),
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        for id in &self.threads {
            // A thread that ended meanwhile cannot be let go, and need not be.
            let _ = ptrace::detach(Pid::from_raw(*id), None);
        }
    }
}
