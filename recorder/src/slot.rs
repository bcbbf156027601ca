//! What each thread has for itself: whether it is inside the recorder, and its last stacks.

use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence};

use crate::lock::Inside;
use crate::sample::Countdown;
use crate::unwind::walk::{Readable, Seen};

/// Bytes of a slot.
pub(crate) const SLOT_BYTES: usize = 16384;
/// Blocks given back by signal handlers that wait for the recorder, at most.
const WAITING: usize = 128;
/// Stacks that a thread remembers.
const REMEMBERED: usize = 512;
/// How often pthread calls the destructor of a key whose value comes back
/// (`PTHREAD_DESTRUCTOR_ITERATIONS` of glibc).
const ROUNDS: u32 = 4;

// One word for each thread, in the part of TLS that is there from its first instruction
// on: a library that is preloaded may ask for it (initial-exec). Rust's own thread-local
// variables need std or a compiler of the future.
global_asm!(
    ".pushsection .tbss.gdb_leak_slot,\"awT\",@nobits",
    ".balign 8",
    ".hidden gdb_leak_slot",
    ".globl gdb_leak_slot",
    ".type gdb_leak_slot,@object",
    ".size gdb_leak_slot, 8",
    "gdb_leak_slot:",
    ".zero 8",
    ".popsection",
);

/// A thread without a slot so far.
const NONE: usize = 0;
/// A thread that is just being given one.
const BUSY: usize = 1;
/// A thread that ended, or for which there was no slot.
const WITHOUT: usize = 2;

#[inline]
fn current() -> usize {
    let value: usize;
    // SAFETY: reads this thread's word.
    unsafe {
        asm!(
            "mov {0}, qword ptr [rip + gdb_leak_slot@GOTTPOFF]",
            "mov {0}, qword ptr fs:[{0}]",
            out(reg) value,
            options(nostack, readonly, preserves_flags),
        );
    }
    value
}

fn set_current(value: usize) {
    // SAFETY: writes this thread's word, which is nobody else's.
    unsafe {
        asm!(
            "mov {0}, qword ptr [rip + gdb_leak_slot@GOTTPOFF]",
            "mov qword ptr fs:[{0}], {1}",
            out(reg) _,
            in(reg) value,
            options(nostack, preserves_flags),
        );
    }
}

/// A stack that was seen, by its hash.
#[repr(C)]
struct Remembered {
    hash: Cell<u64>,
    node: Cell<u32>,
}

/// A thread's own part of the recording; zero bytes are one that nobody has.
#[repr(C)]
pub(crate) struct Slot {
    /// The system's number of the thread; 0: free.
    pub(crate) thread: AtomicU32,
    /// When it recorded last.
    pub(crate) time: AtomicU32,
    /// How many allocations it recorded.
    pub(crate) recorded: AtomicU64,
    /// Which table it is inside of.
    pub(crate) inside: Inside,
    busy: AtomicU32,
    /// How many forks of this thread are under way that hold all locks: a handler may fork in one.
    pub(crate) forking: Cell<u32>,
    rounds: Cell<u32>,
    /// Blocks that wait to be given back: how many there were, and how many of them are done.
    came: AtomicU32,
    done: Cell<u32>,
    waiting: [Cell<u64>; WAITING],
    pub(crate) readable: Readable,
    pub(crate) countdown: Countdown,
    generation: Cell<u32>,
    pub(crate) frames: Cell<[u64; 256]>,
    pub(crate) seen: Seen,
    remembered: [[Remembered; 2]; REMEMBERED / 2],
}

const _: () = assert!(size_of::<Slot>() <= SLOT_BYTES);

/// Who asks.
pub(crate) enum Who {
    /// A thread, which is inside the recorder from now on until [`Slot::leave`].
    Inside(&'static Slot),
    /// A signal handler that interrupted the recorder.
    Handler(&'static Slot),
    /// A thread without a slot.
    Without,
}

/// Enters the recorder; `give` gives a thread that has none a slot.
#[inline]
pub(crate) fn enter(give: impl FnOnce() -> Option<&'static Slot>) -> Who {
    let mut at = current();
    if at <= WITHOUT {
        if at != NONE {
            return Who::Without;
        }
        at = acquire(give);
        if at == WITHOUT {
            return Who::Without;
        }
    }
    // SAFETY: the word is none of the three numbers, so it is the address of this thread's slot.
    let slot: &'static Slot = unsafe { &*(at as *const Slot) };
    if slot.busy.load(Ordering::Relaxed) != 0 {
        return Who::Handler(slot);
    }
    slot.busy.store(1, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    Who::Inside(slot)
}

#[cold]
#[inline(never)]
fn acquire(give: impl FnOnce() -> Option<&'static Slot>) -> usize {
    // A handler that comes now finds that the thread has none.
    set_current(BUSY);
    let at = give().map_or(WITHOUT, |slot| &raw const *slot as usize);
    set_current(at);
    at
}

/// Whether this thread is just being given a slot: a signal handler asks.
pub(crate) fn arriving() -> bool {
    current() == BUSY
}

/// The slot of this thread, if it has one.
#[inline]
pub(crate) fn own() -> Option<&'static Slot> {
    let at = current();
    // SAFETY: as in `enter`.
    (at > WITHOUT).then(|| unsafe { &*(at as *const Slot) })
}

impl Slot {
    /// Makes the slot that of a thread.
    pub(crate) fn begin(&self, thread: u32, seed: u64, sample: u64) {
        self.busy.store(0, Ordering::Relaxed);
        // In a child, the thread that had the slot may have been about to enter.
        self.inside.store(0, Ordering::Relaxed);
        self.forking.set(0);
        self.rounds.set(0);
        self.done.set(self.came.load(Ordering::Relaxed));
        self.readable.forget();
        self.countdown.start(seed, sample);
        self.recorded.store(0, Ordering::Relaxed);
        self.thread.store(thread, Ordering::Release);
    }

    /// Leaves the recorder, once `give_back` has had every block that handlers gave back meanwhile.
    #[inline]
    pub(crate) fn leave(&'static self, give_back: impl Fn(u64)) {
        loop {
            while self.done.get() != self.came.load(Ordering::Relaxed) {
                let at = self.done.get() as usize % WAITING;
                if let Some(block) = self.waiting.get(at) {
                    give_back(block.get());
                }
                self.done.set(self.done.get().wrapping_add(1));
            }
            compiler_fence(Ordering::SeqCst);
            self.busy.store(0, Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            // One that came between the two is not left to the next call.
            if self.done.get() == self.came.load(Ordering::Relaxed) {
                return;
            }
            self.busy.store(1, Ordering::Relaxed);
            // A handler that came before that has given back itself: what was read of the
            // numbers so far is of no use.
            compiler_fence(Ordering::SeqCst);
        }
    }

    /// From a handler: lets a block wait to be given back; whether there was room.
    pub(crate) fn wait(&self, block: u64) -> bool {
        // A place at once, whole: the next handler may interrupt this one. What was
        // interrupted looks at the places only when both are through.
        let taken = self.came.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |came| {
            let room = (came.wrapping_sub(self.done.get()) as usize) < WAITING;
            room.then(|| came.wrapping_add(1))
        });
        let place = taken.ok().and_then(|came| self.waiting.get(came as usize % WAITING));
        place.inspect(|place| place.set(block)).is_some()
    }

    /// The node of a stack with that hash, if it is remembered; 0: it is not.
    #[inline]
    pub(crate) fn remembered(&self, hash: u64) -> u32 {
        let found = |stack: &Remembered| stack.hash.get() == hash && stack.node.get() != 0;
        let [first, second] = self.pair(hash);
        if found(first) {
            first.node.get()
        } else if found(second) {
            second.node.get()
        } else {
            0
        }
    }

    /// Remembers the node of a stack, and forgets the older one of two that it shares a place with.
    pub(crate) fn remember(&self, hash: u64, node: u32) {
        let [first, second] = self.pair(hash);
        second.hash.set(first.hash.get());
        second.node.set(first.node.get());
        first.hash.set(hash);
        first.node.set(node);
    }

    #[inline]
    fn pair(&self, hash: u64) -> &[Remembered; 2] {
        // SAFETY: the remainder is below their number.
        unsafe { self.remembered.get_unchecked(hash as usize % (REMEMBERED / 2)) }
    }

    /// Forgets what was seen in another generation.
    #[inline]
    pub(crate) fn keep_up(&self, generation: u32) {
        if self.generation.get() != generation {
            self.forget(generation);
        }
    }

    #[cold]
    fn forget(&self, generation: u32) {
        for stack in self.remembered.iter().flatten() {
            stack.hash.set(0);
            stack.node.set(0);
        }
        self.generation.set(generation);
    }

    /// Frees the slot, once every other destructor of the thread had its turn; whether it did.
    pub(crate) fn end(&self) -> bool {
        self.rounds.set(self.rounds.get() + 1);
        if self.rounds.get() < ROUNDS {
            return false;
        }
        set_current(WITHOUT);
        self.thread.store(0, Ordering::Release);
        true
    }
}

/// Has the thread's end told, by its slot.
pub(crate) fn tell_end(key: libc::pthread_key_t, slot: &Slot) {
    // SAFETY: the key was made when recording began.
    unsafe { libc::pthread_setspecific(key, (&raw const *slot).cast::<c_void>()) };
}
