//! Holding a process: all its threads stopped by ptrace while somebody reads, then let go.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::error::Error;
use crate::source::proc::Folder;
use crate::source::{Thread, held};

/// How long a thread may take to stop: one that waits for a disk can take long.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process whose threads are all held; they go on when this is dropped.
#[derive(Debug)]
pub struct Stop {
    threads: Vec<Thread>,
    since: Instant,
    elapsed: Duration,
    let_go: Option<Sender<()>>,
    holder: Option<JoinHandle<()>>,
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
    /// already, or a thread does not stop in time. Nothing stays held then.
    pub fn new(pid: i32) -> Result<Self, Error> {
        let folder = Folder::open(pid)?;
        if let Some(tracer) = folder.tracer() {
            let problem =
                format!("is traced by process {tracer} already; use leak-* commands in that debugger");
            return Err(folder.refuse(problem));
        }
        let since = Instant::now();
        let (told, answer) = channel();
        let (let_go, waiting) = channel();
        // Folklore: ptrace answers only the thread that holds, and lets go of all
        // that a thread holds when it ends. So a thread of its own holds them.
        let holder = std::thread::spawn(move || hold_until(folder, &told, &waiting));
        let elapsed = Duration::ZERO;
        let mut stop =
            Self { threads: Vec::new(), since, elapsed, let_go: Some(let_go), holder: Some(holder) };
        let unknown = |_| Error::Process { pid, problem: "could not be held".to_owned() };
        stop.threads = answer.recv().map_err(unknown)??;
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
            self.elapsed = self.since.elapsed();
            drop(let_go);
        }
        if let Some(holder) = self.holder.take() {
            let _ = holder.join();
        }
        self.elapsed
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.release();
    }
}

/// Holds all threads of the process, tells them, and lets go once nobody waits any more.
fn hold_until(folder: Folder, told: &Sender<Result<Vec<Thread>, Error>>, waiting: &Receiver<()>) {
    let mut held = Held { folder, threads: BTreeSet::new(), signalled: BTreeSet::new() };
    let answer = held.hold_all().map(|()| held.with_registers());
    let whole = answer.is_ok();
    if told.send(answer).is_ok() && whole {
        // An error, too, says that it is time.
        let _ = waiting.recv();
    }
}

/// The threads that this thread holds; they go on when it is dropped and the thread ends.
struct Held {
    folder: Folder,
    threads: BTreeSet<i32>,
    /// Those that stand where a real-time signal reaches them, which nix has no name for.
    signalled: BTreeSet<i32>,
}

impl Held {
    fn hold_all(&mut self) -> Result<(), Error> {
        // A thread that was not seen may start another one: look until none is new.
        loop {
            let known = |id: &i32| self.threads.contains(id) || self.signalled.contains(id);
            let new: Vec<i32> = self.folder.living()?.filter(|id| !known(id)).collect();
            if new.is_empty() {
                let any = !self.threads.is_empty() || !self.signalled.is_empty();
                return if any { Ok(()) } else { Err(self.folder.ended()) };
            }
            for id in new {
                self.hold(id)?;
            }
        }
    }

    /// The threads that are held, which only this thread may ask for their registers.
    fn with_registers(&self) -> Vec<Thread> {
        let mut numbers: Vec<i32> = self.threads.iter().chain(&self.signalled).copied().collect();
        numbers.sort_by_key(|id| (*id != self.folder.pid(), *id));
        let image = self.folder.program();
        let unread = |id| Thread { id, ..Thread::default() };
        numbers.into_iter().map(|id| held::thread(id, image.as_ref()).unwrap_or_else(|| unread(id))).collect()
    }

    fn refuse(&self, problem: impl Into<String>) -> Error {
        self.folder.refuse(problem)
    }

    fn hold(&mut self, id: i32) -> Result<(), Error> {
        let thread = Pid::from_raw(id);
        match ptrace::seize(thread, ptrace::Options::empty()) {
            Ok(()) => {}
            // The thread ended since it was listed.
            Err(Errno::ESRCH) => return Ok(()),
            // So it has, but is listed still (Linux 6.18, kernel/ptrace.c, ptrace_attach).
            Err(Errno::EPERM) if !self.folder.lives(id) => return Ok(()),
            Err(Errno::EPERM) => {
                return Err(self.refuse(
                    "may not be stopped: it belongs to another user or tracing is restricted; \
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
        let peek = WaitPidFlag::WNOWAIT | WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | flags;
        loop {
            // Folklore: nix has no name for real-time signals and answers EINVAL: the
            // thread stands before such a signal, and is held. No `detach` of nix's
            // hands that on; the end of this thread does, unless the status was taken:
            // so look first. Seen: timer_create with SIGRTMIN.
            match waitid(Id::Pid(Pid::from_raw(id)), peek) {
                Ok(WaitStatus::StillAlive) if begun.elapsed() > PATIENCE => {
                    let why = if self.folder.waits_in_kernel(id) {
                        ": it is in uninterruptible sleep (state D: for a device, or for its child of vfork); \
                         try again when that is over"
                    } else {
                        ""
                    };
                    let seconds = PATIENCE.as_secs();
                    return Err(self.refuse(format!("thread {id} did not stop within {seconds} s{why}")));
                }
                Ok(WaitStatus::StillAlive) => {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
                Err(Errno::EINVAL) => {
                    self.threads.remove(&id);
                    self.signalled.insert(id);
                    return Ok(());
                }
                _ => {}
            }
            match waitpid(Pid::from_raw(id), Some(flags)) {
                Ok(WaitStatus::StillAlive) => {}
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

impl Drop for Held {
    fn drop(&mut self) {
        for id in &self.threads {
            // A thread that ended meanwhile cannot be let go, and need not be.
            let _ = ptrace::detach(Pid::from_raw(*id), None);
        }
    }
}
