//! Holds a process: stops all its threads by ptrace while its memory is read, then lets them go.
//!
//! All threads are seized and interrupted before any is waited for, and are let go at once by the
//! end of the thread that holds them. One after the other would take as long as there are threads
//! times the slices that those that run get of the processors: with 2,000 busy threads on two
//! processors minutes to hold them, and seconds to let them go.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gdb_leak_ptrace as calls;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::{Pid, gettid};
use rustix::process::setpriority_process;

use crate::error::Error;
use crate::pass::Job;
use crate::source::proc::Folder;
use crate::source::{Thread, held};

/// How long no thread may stop while some are waited for: one that waits for a disk can take long.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is asked whether the process is still wanted.
const ASK: Duration = Duration::from_millis(20);

/// How long between two looks at a thread that has not stopped.
const LOOK: Duration = Duration::from_micros(100);

/// The nice value that gets the most of a processor (setpriority(2)).
const MOST_URGENT: i32 = -20;

/// A process whose threads are all held; they go on when this is dropped.
#[derive(Debug)]
pub struct Stop {
    threads: Vec<Thread>,
    since: Instant,
    elapsed: Duration,
    let_go: Option<Sender<()>>,
    holder: Option<Holder>,
}

/// The thread that holds all others.
#[derive(Debug)]
struct Holder {
    thread: JoinHandle<()>,
    /// Its number, 0 before it has begun.
    id: Arc<AtomicI32>,
}

impl Holder {
    /// Waits until the thread has ended and all that it held go on.
    ///
    /// The kernel lets them go after it reports the end to this process, and before it takes
    /// the thread out of the list (Linux 6.18, `kernel/exit.c`: `exit_mm`, then `exit_notify`
    /// with `exit_ptrace`, then `release_task`).
    fn end(self) {
        const LONGEST: Duration = Duration::from_secs(2);
        let _ = self.thread.join();
        let listed = format!("/proc/self/task/{}", self.id.load(Ordering::Relaxed));
        let begun = Instant::now();
        while Path::new(&listed).exists() && begun.elapsed() < LONGEST {
            std::thread::sleep(LOOK);
        }
    }
}

impl Stop {
    /// Holds all threads of the process, new ones too.
    ///
    /// A process that was stopped before stays stopped afterwards, and a signal
    /// that arrives meanwhile is delivered when it goes on.
    ///
    /// # Errors
    ///
    /// [`Error::Process`] when there is none, it may not be traced, is traced
    /// already, or a thread does not stop in time; [`Error::Interrupted`] when the job
    /// was stopped. Nothing stays held then.
    pub fn new(pid: i32, job: &Job) -> Result<Self, Error> {
        let folder = Folder::open(pid)?;
        if let Some(tracer) = folder.tracer() {
            let problem =
                format!("is traced by process {tracer} already; use leak-* commands in that debugger");
            return Err(folder.refuse(problem));
        }
        let since = Instant::now();
        let (answers, answer) = channel();
        let (let_go, waiting) = channel();
        let (id, unwanted) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicBool::new(false)));
        // Observed: ptrace answers only the thread that holds, and lets go of all
        // that a thread holds when it ends. So a thread of its own holds them.
        let (own, give_up) = (Arc::clone(&id), Arc::clone(&unwanted));
        let thread = std::thread::spawn(move || {
            own.store(gettid().as_raw(), Ordering::Relaxed);
            hold_until(folder, &answers, &waiting, &give_up);
        });
        let elapsed = Duration::ZERO;
        let holder = Some(Holder { thread, id });
        let mut stop = Self { threads: Vec::new(), since, elapsed, let_go: Some(let_go), holder };
        stop.threads = loop {
            match answer.recv_timeout(ASK) {
                Ok(answer) => break answer?,
                Err(RecvTimeoutError::Timeout) => unwanted.store(job.stopped(), Ordering::Relaxed),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Process { pid, problem: "could not be held".to_owned() });
                }
            }
        };
        Ok(stop)
    }

    /// A process whose threads are held by whoever waits at the other end of `let_go`.
    pub(super) fn of(threads: Vec<Thread>, let_go: Sender<()>) -> Self {
        let (since, elapsed) = (Instant::now(), Duration::ZERO);
        Self { threads, since, elapsed, let_go: Some(let_go), holder: None }
    }

    /// The threads that are held, the main one first, with their registers.
    ///
    /// Of those whose registers could not be read they are empty.
    #[must_use]
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// What makes the registers of the threads less than whole, as sentences.
    ///
    /// `vector` says whether vector registers matter.
    #[must_use]
    pub fn register_notes(&self, vector: bool) -> Vec<String> {
        let unknown = |thread: &&Thread| thread.registers.general.is_empty();
        let count = self.threads.iter().filter(unknown).count();
        let threads = if count == 1 { "thread" } else { "threads" };
        let unread = (count > 0).then(|| format!("the registers of {count} {threads} could not be read"));
        let vectors = if vector { held::unread_vectors(&self.threads) } else { None };
        unread.into_iter().chain(vectors.map(str::to_owned)).collect()
    }

    /// Lets the process go on, and says for how long it was held; doing it again changes nothing.
    pub fn release(&mut self) -> Duration {
        if let Some(let_go) = self.let_go.take() {
            // Not later: threads that run again may keep this one from the processors for seconds.
            self.elapsed = self.since.elapsed();
            drop(let_go);
            if let Some(holder) = self.holder.take() {
                holder.end();
            }
        }
        self.elapsed
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.release();
    }
}

/// Holds all threads of the process, sends them, and lets go once they are not waited for any more.
fn hold_until(
    folder: Folder,
    answers: &Sender<Result<Vec<Thread>, Error>>,
    waiting: &Receiver<()>,
    give_up: &AtomicBool,
) {
    // Thousands of busy threads leave this one a thousandth of the processors. Root may ask for more.
    // On Linux it is the calling thread that gets it, and that one ends when it lets go.
    let _ = setpriority_process(None, MOST_URGENT);
    let mut held = Held { folder, threads: BTreeSet::new(), give_up };
    let answer = held.hold_all().map(|()| held.with_registers());
    let whole = answer.is_ok();
    if answers.send(answer).is_ok() && whole {
        // An error, too, says that it is time.
        let _ = waiting.recv();
    }
}

/// The threads that this thread holds; they go on when it ends.
///
/// Each is held in a stop that was asked for, not before a signal. So the end of this thread is
/// all it takes: the kernel then lets go of all of them under one lock, without being
/// interrupted (Linux 6.18, `kernel/ptrace.c`, `exit_ptrace`). A call for each would compete for
/// the processors with those that already run: 2.4 s for 680 busy threads, seen on two processors.
struct Held<'a> {
    folder: Folder,
    threads: BTreeSet<i32>,
    give_up: &'a AtomicBool,
}

impl Held<'_> {
    fn hold_all(&mut self) -> Result<(), Error> {
        // A thread that was not seen may start another one: look until none is new.
        loop {
            let new = self.seize_new()?;
            if new.is_empty() {
                // Threads of a process that has this number since are let go with the error.
                let ended = self.threads.is_empty() || self.folder.living()?.next().is_none();
                return if ended { Err(self.folder.ended()) } else { Ok(()) };
            }
            self.wait_for(new)?;
        }
    }

    /// The threads that are held, which only this thread may ask for their registers.
    fn with_registers(&self) -> Vec<Thread> {
        let mut numbers: Vec<i32> = self.threads.iter().copied().collect();
        numbers.sort_by_key(|id| (*id != self.folder.pid(), *id));
        let image = self.folder.program();
        let unread = |id| Thread { id, ..Thread::default() };
        numbers.into_iter().map(|id| held::thread(id, image.as_ref()).unwrap_or_else(|| unread(id))).collect()
    }

    fn refuse(&self, problem: impl Into<String>) -> Error {
        self.folder.refuse(problem)
    }

    fn check(&self) -> Result<(), Error> {
        if self.give_up.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Seizes and interrupts the threads that are not held, and returns them; they stop soon.
    fn seize_new(&mut self) -> Result<VecDeque<i32>, Error> {
        let mut new = VecDeque::new();
        for id in self.folder.listed()? {
            self.check()?;
            if self.threads.contains(&id) {
                continue;
            }
            match ptrace::seize(Pid::from_raw(id), ptrace::Options::empty()) {
                Ok(()) => {}
                // The thread ended since it was listed.
                Err(Errno::ESRCH) => continue,
                // So it has, but is listed still (Linux 6.18, kernel/ptrace.c, ptrace_attach).
                Err(Errno::EPERM) if !self.folder.lives(id) => continue,
                Err(Errno::EPERM) => {
                    return Err(self.refuse(
                        "may not be stopped: it belongs to another user or tracing is restricted; \
                         try as root, or see gdb-leak doctor",
                    ));
                }
                Err(cause) => return Err(self.refuse(format!("thread {id}: {}", cause.desc()))),
            }
            self.threads.insert(id);
            new.push_back(id);
            self.interrupt(id)?;
        }
        Ok(new)
    }

    fn interrupt(&self, id: i32) -> Result<(), Error> {
        match ptrace::interrupt(Pid::from_raw(id)) {
            // It ends, which waiting for it shows.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(cause) => Err(self.refuse(format!("thread {id}: {}", cause.desc()))),
        }
    }

    /// Waits until each of these threads, which were interrupted, has stopped or ended.
    fn wait_for(&mut self, mut waited: VecDeque<i32>) -> Result<(), Error> {
        let mut progress = Instant::now();
        while let Some(id) = waited.front().copied() {
            self.check()?;
            match calls::status(id) {
                Ok(None) if progress.elapsed() > PATIENCE => return Err(self.late(id)),
                Ok(None) => {
                    std::thread::sleep(LOOK);
                    continue;
                }
                Ok(Some(status)) => match Stopped::of(status) {
                    Some(Stopped::AsAsked) => {}
                    // Observed: a signal may arrive before the stop that was asked for, and takes
                    // the place of it. Seen: a process with a busy interval timer.
                    Some(Stopped::BeforeSignal(signal)) => {
                        if calls::resume(id, signal).is_ok() {
                            self.interrupt(id)?;
                        }
                        waited.push_back(id);
                    }
                    None => {
                        self.threads.remove(&id);
                    }
                },
                Err(_) => {
                    self.threads.remove(&id);
                }
            }
            waited.pop_front();
            progress = Instant::now();
        }
        Ok(())
    }

    /// Of a thread that did not stop in time.
    fn late(&self, id: i32) -> Error {
        let why = if self.folder.waits_in_kernel(id) {
            ": it is in uninterruptible sleep (state D: for a device, or for its child of vfork); \
             try again when that is over"
        } else {
            ""
        };
        self.refuse(format!("thread {id} did not stop within {} s{why}", PATIENCE.as_secs()))
    }
}

/// Why a thread has stopped.
enum Stopped {
    /// It was interrupted, or its whole process is stopped.
    AsAsked,
    /// It is about to get this signal.
    BeforeSignal(i32),
}

impl Stopped {
    /// From a status of `waitpid(2)`; `None` of a thread that ended.
    fn of(status: i32) -> Option<Self> {
        const STOPPED: i32 = 0x7f;
        // Linux, include/uapi/linux/ptrace.h: PTRACE_EVENT_STOP, of threads that were seized.
        const EVENT_STOP: i32 = 128;
        if status & 0xff != STOPPED {
            return None;
        }
        let (event, signal) = (status >> 16, (status >> 8) & 0xff);
        Some(if event == EVENT_STOP { Self::AsAsked } else { Self::BeforeSignal(signal) })
    }
}
