//! A lock that allocates nothing and may be taken inside malloc.

use core::sync::atomic::{AtomicU32, Ordering};

/// Turns of waiting before the processor is given to somebody else.
const TURNS: u32 = 100;

/// Who holds what it guards: 0 nobody, else 1.
///
/// One way is a mutex of pthread's. It is larger than what it would guard, and
/// what a child may do with it after a fork is not said. This one is held for some
/// tens of instructions.
#[repr(transparent)]
pub(crate) struct Lock(AtomicU32);

impl Lock {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Takes the lock.
    #[inline]
    pub(crate) fn take(&self) {
        if self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.wait();
        }
    }

    /// Lets go.
    #[inline]
    pub(crate) fn leave(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Does `work` with the lock taken.
    #[inline]
    pub(crate) fn with<T>(&self, work: impl FnOnce() -> T) -> T {
        self.take();
        let result = work();
        self.leave();
        result
    }

    #[cold]
    fn wait(&self) {
        loop {
            for _ in 0..TURNS {
                if self.0.load(Ordering::Relaxed) == 0
                    && self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
                {
                    return;
                }
                core::hint::spin_loop();
            }
            // Folklore: sched_yield gives nothing to a thread of lower priority, which may be
            // the one that holds. A sleep does.
            let pause = libc::timespec { tv_sec: 0, tv_nsec: 50_000 };
            // SAFETY: `pause` lives across the call, and the remainder is not asked for.
            unsafe { libc::syscall(libc::SYS_nanosleep, &raw const pause, 0_usize) };
        }
    }
}
