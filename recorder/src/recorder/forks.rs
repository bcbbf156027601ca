//! A fork finds the recording whole, and the child records on.

use core::sync::atomic::{AtomicU32, Ordering};

use super::{OFF, Recorder, STATE, recorder, thread_number};
use crate::layout;
use crate::slot::{self, Who};

/// The thread that forks and has no slot; 0: none.
static FORKER: AtomicU32 = AtomicU32::new(0);

/// Whether this thread, which has no slot, holds all locks.
pub(super) fn forks() -> bool {
    let forker = FORKER.load(Ordering::Relaxed);
    forker != 0 && forker == thread_number()
}

/// Takes all locks. The thread is inside the recorder until the fork is done: handlers
/// of signals, and those that others registered for forks, may allocate meanwhile.
pub(super) unsafe extern "C" fn before_fork() {
    let Some(recorder) = recorder() else { return };
    if slot::arriving() {
        return;
    }
    match slot::enter(|| recorder.slot()) {
        Who::Inside(slot) => {
            recorder.take_all();
            slot.forking.set(1);
        }
        Who::Handler(slot) if slot.forking.get() != 0 => slot.forking.set(slot.forking.get() + 1),
        Who::Handler(_) => {}
        Who::Without => {
            recorder.take_all();
            FORKER.store(thread_number(), Ordering::Relaxed);
        }
    }
}

pub(super) unsafe extern "C" fn after_fork() {
    let Some(recorder) = recorder() else { return };
    recorder.forked();
}

pub(super) unsafe extern "C" fn in_child() {
    let Some(recorder) = recorder() else { return };
    let header = recorder.header();
    // A child begins with one thread, which has the number of the process.
    header.pid.store(thread_number(), Ordering::Relaxed);
    let own = slot::own();
    if own.is_none_or(|own| own.forking.get() == 0) && FORKER.load(Ordering::Relaxed) == 0 {
        // A signal handler forked that interrupted the recorder. Locks are taken that
        // no thread will leave. What is there is kept as it is.
        header.state.store(layout::STOPPED, Ordering::Relaxed);
        STATE.store(OFF, Ordering::Release);
        crate::lock::abandon();
        return;
    }
    for at in 0..recorder.threads.used() as usize {
        let slot = recorder.slot_at(at);
        if own.is_none_or(|own| !core::ptr::eq(own, slot)) {
            slot.thread.store(0, Ordering::Relaxed);
        }
    }
    if let Some(own) = own {
        own.thread.store(thread_number(), Ordering::Relaxed);
    }
    recorder.forked();
}

impl Recorder {
    /// Leaves what `before_fork` took, unless a fork is still under way that was interrupted by this.
    fn forked(&self) {
        match slot::own() {
            Some(slot) if slot.forking.get() > 1 => slot.forking.set(slot.forking.get() - 1),
            Some(slot) if slot.forking.get() == 1 => {
                slot.forking.set(0);
                self.leave_all();
                slot.leave(|block| self.give_back(slot, block));
            }
            None if FORKER.load(Ordering::Relaxed) != 0 => {
                FORKER.store(0, Ordering::Relaxed);
                self.leave_all();
            }
            _ => {}
        }
    }

    /// Whether this thread has the one slot that was ever handed out: then it owns what is owned.
    pub(super) fn alone(&self) -> bool {
        self.threads.used() <= 1 && slot::own().is_some()
    }

    fn take_all(&self) {
        self.modules.take_all();
        self.stacks.take_all();
        self.blocks.take_all(|| self.alone());
        self.slots.take();
        self.threads.lock.take();
    }

    fn leave_all(&self) {
        self.threads.lock.leave();
        self.slots.leave();
        self.blocks.leave_all();
        self.stacks.leave_all();
        self.modules.leave_all();
    }
}
