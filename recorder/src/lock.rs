//! Locks that allocate nothing and may be taken inside malloc.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, compiler_fence};

/// Turns of waiting before the processor is left to other threads.
const TURNS: u32 = 100;

/// Whether this is a child in which no thread is left to release the locks.
static ABANDONED: AtomicBool = AtomicBool::new(false);

/// Ends all waiting, now and later: a signal handler that interrupted the recorder has forked.
///
/// The child goes on inside the recorder, alone. What other threads held stays held, and
/// what they wrote is half done; it is bounded all the same, and is not read any more.
pub(crate) fn abandon() {
    ABANDONED.store(true, Ordering::Relaxed);
}

/// A word that never changes: a wait on it ends when its time is up.
static NEVER: AtomicU32 = AtomicU32::new(0);

/// Waits a little longer with each turn; whether there is something to wait for.
fn wait_on(turn: &mut u32) -> bool {
    if ABANDONED.load(Ordering::Relaxed) {
        return false;
    }
    *turn += 1;
    if !turn.is_multiple_of(TURNS) {
        core::hint::spin_loop();
        return true;
    }
    // Observed: sched_yield gives nothing to a thread of lower priority, which may be
    // the one that holds. A sleep does. By futex, as malloc waits for its own locks: a filter
    // of system calls may forbid others.
    futex_wait((&raw const NEVER) as u64, 0, 50_000);
    true
}

/// What came of waiting for another value of a word.
#[derive(PartialEq, Eq)]
pub(crate) enum Waited {
    /// The word could be read.
    Read,
    /// There is no such word.
    Fault,
    /// The kernel does not do it.
    Refused,
}

/// Waits so many nanoseconds at most for as long as the word at an address has that value.
pub(crate) fn futex_wait(address: u64, value: u32, nanoseconds: i64) -> Waited {
    const AGAIN: i64 = -(libc::EAGAIN as i64);
    const TIMED_OUT: i64 = -(libc::ETIMEDOUT as i64);
    const INTERRUPTED: i64 = -(libc::EINTR as i64);
    const FAULT: i64 = -(libc::EFAULT as i64);
    let pause = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds };
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel checks the address and writes nothing; `pause` lives across the call.
    let status = unsafe {
        raw(libc::SYS_futex, [address, operation as u64, u64::from(value), (&raw const pause) as u64])
    };
    match status {
        0 | AGAIN | TIMED_OUT | INTERRUPTED => Waited::Read,
        FAULT => Waited::Fault,
        _ => Waited::Refused,
    }
}

/// A system call of four arguments or fewer: the kernel's answer.
///
/// # Safety
///
/// As of the call.
pub(crate) unsafe fn raw(number: libc::c_long, arguments: [u64; 4]) -> i64 {
    let [first, second, third, fourth] = arguments;
    let answer: i64;
    // SAFETY: by the caller's word; the registers are those of the kernel's convention.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

/// A lock: 0 where no thread holds it, else 1.
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
        let mut turn = 0;
        while wait_on(&mut turn) {
            if self.0.load(Ordering::Relaxed) == 0
                && self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
        }
    }
}

/// A lock that one thread takes without an atomic instruction.
///
/// An atomic instruction waits until all that the program wrote before is written, and so
/// for each cache line that it does not have.
/// Most tables are used by one thread. That one, the owner, only says that it is inside, and
/// looks whether another thread wants to come in. One that does says so and asks the kernel for
/// a barrier on every processor that the process runs on (membarrier, Linux 4.14): after it
/// either the owner sees the wish or the other sees that the owner is inside. A table that
/// several threads want again and again has no owner any more, and a lock as above.
///
/// An owner is known by the address of a word of its own, in which it says which lock it is
/// inside of: a thread that has lost ownership without noticing is harmless.
///
/// Zero bytes are a lock that was not taken so far.
#[repr(C)]
pub(crate) struct Biased {
    owner: AtomicUsize,
    /// Whether another thread wants to come in.
    wanted: AtomicU32,
    /// Taken by a thread that is not the owner.
    others: Lock,
    /// How often the owner changed.
    changes: Cell<u32>,
}

/// A thread's word: the address of the lock that it is inside of as the owner.
pub(crate) type Inside = AtomicUsize;

/// No owner so far.
const NOBODY: usize = 0;
/// No owner any more.
const EVERYBODY: usize = 1;
/// Owners that a lock has before it has none.
const MOST_CHANGES: u32 = 8;

/// Whether the kernel gives the barrier that owners need.
static BARRIERS: AtomicU32 = AtomicU32::new(0);

// Linux, include/uapi/linux/membarrier.h.
const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;
const PRIVATE_EXPEDITED: i32 = 1 << 3;

fn membarrier(command: i32) -> bool {
    // SAFETY: the call takes numbers and writes nothing.
    unsafe { raw(libc::SYS_membarrier, [command as u64, 0, 0, 0]) == 0 }
}

/// A barrier on every processor that the process runs on.
fn barrier() {
    // A child of a process that may have barriers may have to ask anew.
    if !membarrier(PRIVATE_EXPEDITED) {
        membarrier(REGISTER_PRIVATE_EXPEDITED);
        membarrier(PRIVATE_EXPEDITED);
    }
}

/// Asks the kernel for barriers, once. Without, no lock ever has an owner.
pub(crate) fn prepare() {
    BARRIERS.store(u32::from(membarrier(REGISTER_PRIVATE_EXPEDITED)), Ordering::Relaxed);
}

impl Biased {
    /// Does `work` with the lock taken by the thread with that word; a thread may have none.
    #[inline]
    pub(crate) fn with<T>(&self, inside: Option<&'static Inside>, work: impl FnOnce() -> T) -> T {
        if let Some(inside) = inside {
            let own = address(inside);
            if self.owner.load(Ordering::Relaxed) == own {
                inside.store(address(self), Ordering::Relaxed);
                compiler_fence(Ordering::SeqCst);
                // No other wants in now that all can see who is in, and it is the owner still.
                if self.wanted.load(Ordering::Acquire) == 0 && self.owner.load(Ordering::Relaxed) == own {
                    let result = work();
                    inside.store(0, Ordering::Release);
                    return result;
                }
                inside.store(0, Ordering::Release);
            }
        }
        self.enter(inside);
        let result = work();
        self.others.leave();
        result
    }

    /// Takes the lock for a thread that does not own it, and that owns it from then on where no
    /// thread did, or not too many.
    #[cold]
    #[inline(never)]
    fn enter(&self, inside: Option<&'static Inside>) {
        self.others.take();
        let owner = self.owner.load(Ordering::Relaxed);
        if owner == EVERYBODY {
            return;
        }
        if owner != NOBODY {
            self.wanted.store(1, Ordering::SeqCst);
            barrier();
            self.wait_for(owner);
            self.changes.set(self.changes.get() + 1);
        }
        let owners = BARRIERS.load(Ordering::Relaxed) != 0 && self.changes.get() <= MOST_CHANGES;
        let owner = inside.filter(|_| owners).map_or(EVERYBODY, address);
        self.owner.store(owner, Ordering::Relaxed);
        // A thread that sees this sees the new owner as well.
        self.wanted.store(0, Ordering::Release);
    }

    /// Waits until the owner is out, after a barrier.
    fn wait_for(&self, owner: usize) {
        // SAFETY: the address of a thread's word: these are never given back.
        let inside = unsafe { &*(owner as *const Inside) };
        let mut turn = 0;
        while inside.load(Ordering::Acquire) == address(self) && wait_on(&mut turn) {}
    }
}

fn address<T>(of: &T) -> usize {
    &raw const *of as usize
}

/// Takes all of these locks; `alone` says whether no thread but this can own one.
pub(crate) fn take_all<'l>(locks: impl Iterator<Item = &'l Biased> + Clone, alone: impl FnOnce() -> bool) {
    for lock in locks.clone() {
        lock.others.take();
        lock.wanted.store(1, Ordering::SeqCst);
    }
    // Ask only now: no thread can take a lock without an owner any more.
    if BARRIERS.load(Ordering::Relaxed) == 0 || alone() {
        return;
    }
    barrier();
    for lock in locks {
        let owner = lock.owner.load(Ordering::Relaxed);
        if owner != NOBODY && owner != EVERYBODY {
            lock.wait_for(owner);
        }
    }
}

/// Ends all owning of these locks, all of which are taken, and asks for no barrier any more.
pub(crate) fn disown<'l>(locks: impl Iterator<Item = &'l Biased>) {
    BARRIERS.store(0, Ordering::Relaxed);
    for lock in locks {
        lock.owner.store(EVERYBODY, Ordering::Relaxed);
    }
}

/// Lets go of all of these locks, which have no owner afterwards: in a child the owners are gone.
pub(crate) fn leave_all<'l>(locks: impl Iterator<Item = &'l Biased>) {
    for lock in locks {
        if lock.owner.load(Ordering::Relaxed) != EVERYBODY {
            lock.owner.store(NOBODY, Ordering::Relaxed);
        }
        lock.wanted.store(0, Ordering::Release);
        lock.others.leave();
    }
}
