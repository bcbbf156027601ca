//! The thread that traces: every stop of every thread that is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use gdb_leak_ptrace as calls;
use nix::errno::Errno;
use nix::libc::{
    PTRACE_EVENT_CLONE, PTRACE_EVENT_EXEC, PTRACE_EVENT_EXIT, PTRACE_EVENT_FORK, PTRACE_EVENT_STOP,
    PTRACE_EVENT_VFORK, SIGSTOP, SIGTRAP, SIGTSTP, SIGTTIN, SIGTTOU,
};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::Error;
use crate::source::stop::Stop;
use crate::source::symbols::Symbols;

use super::breakpoint::Breakpoint;
use super::{Event, Held, Wanted, process};

/// How long the threads of a process that ends may keep the others waiting.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often is looked for what keeps them.
const LOOK: Duration = Duration::from_millis(1);

/// Where a followed thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Its start was told, and it has not stopped yet.
    Expected,
    /// It runs, or stays stopped with its group.
    Running,
    /// It is held where it ends.
    Ending,
    /// It is held wherever it was; it goes on with this signal.
    Stopped(i32),
    /// It was let go where it ends.
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Tracee {
    process: i32,
    state: State,
}

/// How far the way to the function is.
#[derive(Debug)]
enum Way {
    /// The program is not there yet.
    Starts,
    /// It stops before its first instruction, when its libraries are there.
    ToEntry(Breakpoint),
    /// It stops at the function.
    ToFunction(Breakpoint),
    /// Nothing more is waited for.
    Done,
}

pub(super) struct Tracer {
    root: i32,
    wanted: Wanted,
    way: Way,
    threads: BTreeMap<i32, Tracee>,
    /// New threads that stopped before their start was told.
    early: BTreeMap<i32, i32>,
    /// New threads that went on before their start was told.
    found: BTreeSet<i32>,
    /// Processes with the memory of another one, until they execute a program.
    borrowed: BTreeSet<i32>,
    /// Processes some of whose threads are held where they end, and since when.
    ending: BTreeMap<i32, Instant>,
    /// Processes whose end is nothing to tell of.
    untold: BTreeSet<i32>,
    told: Sender<Event>,
}

impl Tracer {
    /// Begins to trace the child `root`, which has not executed its program yet.
    pub(super) fn new(root: i32, wanted: Wanted, told: Sender<Event>) -> Result<Self, Error> {
        let mut options =
            Options::PTRACE_O_TRACEEXIT | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEEXEC;
        if wanted.children {
            options |= Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
        }
        ptrace::seize(Pid::from_raw(root), options).map_err(|cause| {
            let problem = match cause {
                Errno::EPERM => "may not be traced; gdb-leak doctor says why".to_owned(),
                other => format!("could not be traced: {}", other.desc()),
            };
            Error::Process { pid: root, problem }
        })?;
        let way = if wanted.function.is_some() { Way::Starts } else { Way::Done };
        let threads = BTreeMap::from([(root, Tracee { process: root, state: State::Running })]);
        let untold = BTreeSet::from([root]);
        let (early, ending) = (BTreeMap::new(), BTreeMap::new());
        let (found, borrowed) = (BTreeSet::new(), BTreeSet::new());
        Ok(Self { root, wanted, way, threads, early, found, borrowed, ending, untold, told })
    }

    /// Goes on until nothing is traced any more.
    pub(super) fn run(&mut self) {
        while let Some((thread, status)) = self.wait() {
            self.answer(thread, status);
            if !self.threads.contains_key(&self.root) && !self.wanted.children {
                break;
            }
        }
    }

    /// The next stop or end; looks after processes that end meanwhile.
    fn wait(&mut self) -> Option<(i32, i32)> {
        loop {
            match calls::wait(self.ending.is_empty()) {
                Ok(Some(found)) => return Some(found),
                Ok(None) => {
                    self.look_after();
                    std::thread::sleep(LOOK);
                }
                Err(_) => return None,
            }
        }
    }

    fn answer(&mut self, thread: i32, status: i32) {
        if !stopped(status) {
            self.gone(thread, status);
            return;
        }
        let (signal, event) = ((status >> 8) & 0xff, status >> 16);
        if !self.threads.contains_key(&thread) {
            // Its start is told by the thread that made it, later; but not where both are killed.
            self.early.insert(thread, status);
            if event == PTRACE_EVENT_EXIT {
                self.go_on_early();
            }
            return;
        }
        match event {
            0 => self.signal(thread, signal),
            PTRACE_EVENT_STOP => self.stopped(thread, signal),
            PTRACE_EVENT_CLONE | PTRACE_EVENT_FORK | PTRACE_EVENT_VFORK => {
                if let Some(new) = message(thread) {
                    self.started(new, thread, event);
                }
                self.resume(thread, 0);
            }
            PTRACE_EVENT_EXEC => self.executed(thread),
            PTRACE_EVENT_EXIT => self.ends(thread),
            _ => self.resume(thread, 0),
        }
    }

    /// Lets a thread go on; one that is being killed meanwhile needs it no more.
    fn resume(&mut self, thread: i32, signal: i32) {
        if let Some(tracee) = self.threads.get_mut(&thread) {
            tracee.state = State::Running;
        }
        let _ = calls::resume(thread, signal);
    }

    /// A thread stands before a signal.
    fn signal(&mut self, thread: i32, signal: i32) {
        if signal == SIGTRAP && self.trapped(thread) {
            return;
        }
        self.resume(thread, signal);
    }

    /// A thread stands where its group stops, or it is new.
    fn stopped(&mut self, thread: i32, signal: i32) {
        if self.threads.get(&thread).is_some_and(|tracee| tracee.state == State::Expected) {
            if !self.followed(thread) {
                self.threads.remove(&thread);
                let _ = calls::detach(thread, 0);
                return;
            }
            if let Way::ToEntry(breakpoint) | Way::ToFunction(breakpoint) = &self.way {
                breakpoint.extend(thread);
            }
        }
        if [SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU].contains(&signal) {
            if let Some(tracee) = self.threads.get_mut(&thread) {
                tracee.state = State::Running;
            }
            let _ = calls::listen(thread);
        } else {
            self.resume(thread, 0);
        }
    }

    /// Whether the process of a new thread is one to follow.
    ///
    /// Folklore: `clone` may make a process, without a signal for its parent. It is
    /// told as a thread is.
    fn followed(&self, thread: i32) -> bool {
        let known = |process: i32| self.threads.values().any(|other| other.process == process);
        let own = self.threads.get(&thread).map(|tracee| tracee.process);
        self.wanted.children || own.is_some_and(|process| process != thread && known(process))
    }

    /// A thread has made another one, or a process.
    fn started(&mut self, new: i32, by: i32, event: i32) {
        let known = self.threads.get(&by).map(|tracee| tracee.process);
        let own = if event == PTRACE_EVENT_CLONE { process::process_of(new).or(known) } else { Some(new) };
        if event == PTRACE_EVENT_VFORK {
            self.borrowed.insert(new);
        }
        if self.found.remove(&new) && !self.early.contains_key(&new) {
            return;
        }
        self.threads.insert(new, Tracee { process: own.unwrap_or(new), state: State::Expected });
        if let Some(status) = self.early.remove(&new) {
            self.answer(new, status);
        }
    }

    /// A process runs another program, in one thread with the process's number.
    fn executed(&mut self, thread: i32) {
        self.threads.retain(|other, tracee| tracee.process != thread || *other == thread);
        self.threads.insert(thread, Tracee { process: thread, state: State::Running });
        self.borrowed.remove(&thread);
        self.untold.remove(&thread);
        self.ending.remove(&thread);
        if thread == self.root && matches!(self.way, Way::Starts) {
            self.way = match process::entry(thread).ok().map(|entry| Breakpoint::new(thread, vec![entry])) {
                Some(Ok(breakpoint)) => Way::ToEntry(breakpoint),
                _ => self.fail("cannot be waited for: the program's start cannot be watched"),
            };
        } else if thread == self.root {
            // The places were those of the former program.
            self.way = Way::Done;
        }
        self.resume(thread, 0);
    }

    /// A thread is about to end, with its registers and all memory still there.
    fn ends(&mut self, thread: i32) {
        let Some(own) = self.threads.get(&thread).map(|tracee| tracee.process) else {
            self.resume(thread, 0);
            return;
        };
        let others = |state: State| {
            let mut threads = self.threads.iter();
            threads.any(|(other, one)| one.process == own && *other != thread && one.state == state)
        };
        let alone = super::machine::ends_alone(thread) && !others(State::Ending);
        let alone = alone && (others(State::Running) || others(State::Expected));
        if alone || self.untold.contains(&own) || self.borrowed.contains(&own) {
            self.let_end(thread);
            return;
        }
        self.set(thread, State::Ending);
        self.ending.entry(own).or_insert_with(Instant::now);
        self.look_after();
    }

    fn set(&mut self, thread: i32, state: State) {
        if let Some(tracee) = self.threads.get_mut(&thread) {
            tracee.state = state;
        }
    }

    fn let_end(&mut self, thread: i32) {
        self.set(thread, State::Ended);
        let _ = calls::resume(thread, 0);
    }

    /// The threads of the process in one of these states.
    fn in_state(&self, process: i32, wanted: impl Fn(State) -> bool) -> Vec<i32> {
        let of = self.threads.iter().filter(|(_, tracee)| tracee.process == process && wanted(tracee.state));
        of.map(|(thread, _)| *thread).collect()
    }

    /// Tells of processes all of whose threads have come to their end, and looks what keeps others.
    fn look_after(&mut self) {
        let ending: Vec<(i32, Instant)> = self.ending.iter().map(|(own, since)| (*own, *since)).collect();
        for (own, since) in ending {
            let missing = self.in_state(own, |state| matches!(state, State::Running | State::Expected));
            let held = self.in_state(own, |state| state == State::Ending);
            if missing.is_empty() {
                self.tell_end(own, &held);
            } else if since.elapsed() < PATIENCE && !missing.iter().any(|one| process::executes(own, *one)) {
                continue;
            }
            // Folklore: where one thread executes another program all others end first, and
            // it waits for them. The patience is for kernels before 5.16, where a thread
            // that writes the core waits for the others to go on from here.
            self.ending.remove(&own);
            for thread in held {
                self.let_end(thread);
            }
        }
    }

    fn tell_end(&self, own: i32, held: &[i32]) {
        let Some(first) = held.first() else { return };
        let status = message(*first).unwrap_or_default();
        self.tell(own, Some(status), held);
    }

    /// Has the one who waits look at the process, and waits until that is done.
    fn tell(&self, pid: i32, status: Option<i32>, held: &[i32]) {
        let threads = process::with_registers(pid, held.iter().copied());
        let (let_go, waiting) = channel();
        let stop = Stop::of(threads, let_go);
        if self.told.send(Event::Held(Held { pid, status, stop })).is_ok() {
            // An error, too, says that it is time.
            let _: Result<(), _> = waiting.recv();
        }
    }

    /// A thread is gone, and with the last one its process.
    fn gone(&mut self, thread: i32, status: i32) {
        self.early.remove(&thread);
        self.threads.remove(&thread);
        self.borrowed.remove(&thread);
        if thread == self.root {
            let _ = self.told.send(Event::Over(status));
        }
        // It may have made them, and was killed before that was told.
        self.go_on_early();
        self.look_after();
    }

    /// Lets new threads go on whose start was not told yet, and may never be.
    fn go_on_early(&mut self) {
        for (new, status) in std::mem::take(&mut self.early) {
            if let Some(own) = process::process_of(new) {
                self.found.insert(new);
                self.threads.insert(new, Tracee { process: own, state: State::Expected });
                self.answer(new, status);
            }
        }
    }

    /// Whether the trap was ours.
    fn trapped(&mut self, thread: i32) -> bool {
        let root = self.threads.get(&thread).is_some_and(|tracee| tracee.process == self.root);
        let (Way::ToEntry(breakpoint) | Way::ToFunction(breakpoint)) = &self.way else { return false };
        if !root || !breakpoint.reached(thread) {
            return false;
        }
        match std::mem::replace(&mut self.way, Way::Done) {
            Way::ToEntry(mut breakpoint) => {
                breakpoint.leave(thread);
                breakpoint.restore(thread);
                self.way = self.towards_function(thread);
                self.resume(thread, 0);
            }
            Way::ToFunction(breakpoint) => self.at_function(thread, breakpoint),
            Way::Starts | Way::Done => {}
        }
        true
    }

    /// Finds the function, now that the program's libraries are there.
    fn towards_function(&mut self, thread: i32) -> Way {
        let Some(name) = self.wanted.function.clone() else { return Way::Done };
        let Ok(target) = crate::source::process::open(self.root, false) else { return Way::Done };
        let symbols = Symbols::new(&target);
        let found = symbols.functions(target.memory.as_ref(), &name);
        if found.is_empty() {
            return self.fail("no function of this name is in the program or its libraries");
        }
        match Breakpoint::new(thread, found) {
            Ok(breakpoint) => Way::ToFunction(breakpoint),
            Err(cause) => self.fail(&format!("cannot be waited for: {}", cause.desc())),
        }
    }

    /// Ends the program before it did anything, and says why.
    fn fail(&mut self, rule: &str) -> Way {
        let value = self.wanted.function.clone().unwrap_or_default();
        self.untold.insert(self.root);
        let _ = kill(Pid::from_raw(self.root), Signal::SIGKILL);
        let _ = self.told.send(Event::Failed(Error::Request { thing: "-at", value, rule: rule.to_owned() }));
        Way::Done
    }

    /// The function is called: holds all threads while somebody looks, then leaves them alone.
    fn at_function(&mut self, thread: i32, mut breakpoint: Breakpoint) {
        self.set(thread, State::Stopped(0));
        self.hold_all(&breakpoint);
        let own = self.in_state(self.root, |state| matches!(state, State::Stopped(_)));
        self.tell(self.root, None, &own);
        for thread in &own {
            breakpoint.leave(*thread);
        }
        breakpoint.restore(thread);
        for thread in own {
            let signal = match self.threads.get(&thread).map(|tracee| tracee.state) {
                Some(State::Stopped(signal)) => signal,
                _ => 0,
            };
            let _ = calls::detach(thread, signal);
        }
        self.leave_alone();
    }

    /// Lets go of whatever is still traced, and waits for the end of the program.
    ///
    /// Folklore: the first thread that is let go may end the process. The others then
    /// leave their stops and stand where they end, and can be let go there only.
    fn leave_alone(&mut self) {
        self.threads.clear();
        let mut end = None;
        while let Ok(Some((thread, status))) = calls::wait(true) {
            let (signal, event) = ((status >> 8) & 0xff, status >> 16);
            if stopped(status) {
                let _ = calls::detach(thread, if event == 0 { signal } else { 0 });
            } else if thread == self.root {
                end = Some(status);
            }
        }
        if let Some(status) = end.or_else(|| calls::wait_end(self.root).ok()) {
            let _ = self.told.send(Event::Over(status));
        }
    }

    /// Stops all other threads of the program where they are.
    fn hold_all(&mut self, breakpoint: &Breakpoint) {
        for thread in self.in_state(self.root, |state| state == State::Running) {
            let _ = ptrace::interrupt(Pid::from_raw(thread));
        }
        let since = Instant::now();
        let runs = |state| matches!(state, State::Running | State::Expected);
        while !self.in_state(self.root, runs).is_empty() && since.elapsed() < PATIENCE {
            match calls::wait(false) {
                Ok(Some((thread, status))) => self.held_with(thread, status, breakpoint),
                Ok(None) => std::thread::sleep(LOOK),
                Err(_) => return,
            }
        }
    }

    fn held_with(&mut self, thread: i32, status: i32, breakpoint: &Breakpoint) {
        let (signal, event) = ((status >> 8) & 0xff, status >> 16);
        if !stopped(status) {
            self.threads.remove(&thread);
            return;
        }
        if let Some(new) = message(thread).filter(|_| event == PTRACE_EVENT_CLONE) {
            let own = process::process_of(new).unwrap_or(new);
            self.threads.entry(new).or_insert(Tracee { process: own, state: State::Expected });
        }
        let ours = event == 0 && signal == SIGTRAP && breakpoint.reached(thread);
        let pending = if event == 0 && !ours { signal } else { 0 };
        let own = self.threads.get(&thread).map(|tracee| tracee.process);
        let own = own.or_else(|| process::process_of(thread)).unwrap_or(thread);
        self.threads.insert(thread, Tracee { process: own, state: State::Stopped(pending) });
    }
}

/// Whether a thread with this status is held, and has not ended.
fn stopped(status: i32) -> bool {
    status & 0xff == 0x7f
}

/// What the kernel says beside the event that a thread is held at.
fn message(thread: i32) -> Option<i32> {
    let told: Result<i64, Errno> = ptrace::getevent(Pid::from_raw(thread));
    i32::try_from(told.ok()?).ok()
}
