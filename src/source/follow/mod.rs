//! Following a program from its start, and holding it where it is about to end.
//!
//! The kernel tells a tracer of each thread that ends while its registers and the
//! memory of the process are still there. A process is over when all its threads
//! stand there, so nothing else of it is ever stopped for this: its calls cost what
//! they cost without a tracer, and each signal is handed on as it came.
//!
//! If the tracer dies the program goes on, untraced.

mod breakpoint;
mod machine;
mod process;
mod tracer;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use nix::sys::signal::SigSet;

use crate::error::Error;
use crate::source::stop::Stop;

use tracer::Tracer;

/// What is to be followed of a program, and until when.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Hold where this function is called for the first time, and then leave the program alone.
    pub function: Option<String>,
    /// Follow the processes that it starts, too.
    pub children: bool,
}

/// A process that is held: about to end, or at the function.
#[derive(Debug)]
pub struct Held {
    /// The process.
    pub pid: i32,
    /// How it ends, as `wait(2)` would say; none where it stands at the function.
    pub status: Option<i32>,
    /// All its threads, which go on when this is released.
    pub stop: Stop,
}

/// What a followed program came to.
#[derive(Debug)]
enum Event {
    Held(Held),
    /// It ended, with this status.
    Over(i32),
    Failed(Error),
}

/// What [`Follow::next`] gives.
#[derive(Debug)]
pub enum Next {
    /// A process is held.
    Held(Held),
    /// Nothing happened in time.
    Waiting,
    /// Nothing is followed any more.
    Over,
}

/// A program that is followed by a thread of its own.
#[derive(Debug)]
pub struct Follow {
    events: Receiver<Event>,
    status: Option<i32>,
}

impl Follow {
    /// Follows the child `pid` of this process, which has not executed its program yet.
    ///
    /// # Errors
    ///
    /// [`Error::Process`] where it may not be traced.
    pub fn new(pid: i32, wanted: Wanted) -> Result<Self, Error> {
        let (told, events) = channel();
        let (begun, answer) = channel();
        // ptrace answers only the thread that traces: see `stop.rs`.
        std::thread::spawn(move || follow(pid, wanted, told, &begun));
        let unknown = |_| Error::Process { pid, problem: "could not be followed".to_owned() };
        answer.recv().map_err(unknown)??;
        Ok(Self { events, status: None })
    }

    /// The next process that is held, if one is within `patience`.
    ///
    /// # Errors
    ///
    /// [`Error::Request`] where the program has no such function; it was ended then.
    pub fn next(&mut self, patience: Duration) -> Result<Next, Error> {
        loop {
            match self.events.recv_timeout(patience) {
                Ok(Event::Held(held)) => return Ok(Next::Held(held)),
                Ok(Event::Over(status)) => self.status = Some(status),
                Ok(Event::Failed(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) => return Ok(Next::Waiting),
                Err(RecvTimeoutError::Disconnected) => return Ok(Next::Over),
            }
        }
    }

    /// How the program ended, as `wait(2)` says it; none before, and where somebody else was told.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        self.status
    }
}

fn follow(pid: i32, wanted: Wanted, told: Sender<Event>, begun: &Sender<Result<(), Error>>) {
    // Signals are for the thread that waits for this one.
    let _ = SigSet::all().thread_block();
    let tracer = Tracer::new(pid, wanted, told);
    let (tracer, answer) = match tracer {
        Ok(tracer) => (Some(tracer), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let _ = begun.send(answer);
    if let Some(mut tracer) = tracer {
        tracer.run();
    }
}
