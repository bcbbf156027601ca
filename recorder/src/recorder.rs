//! The one recorder of a process: made when malloc is first called, there until the end.

mod forks;

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::blocks::{Blocks, Kept};
use crate::layout::{self, Block, Header, Module, Node};
use crate::lock::Lock;
use crate::memory::{Area, Errno, Plan};
use crate::real;
use crate::sample::Filter;
use crate::settings::Settings;
use crate::slot::{self, SLOT_BYTES, Slot, Who};
use crate::stacks::Stacks;
use crate::unwind::modules::Modules;
use crate::unwind::rules::Rules;
use crate::unwind::walk::{Caller, Known};
use forks::{after_fork, before_fork, forks, in_child};

const MOST_MODULES: u64 = 1 << 15;
const MOST_NAMES: u64 = 1 << 22;
const MOST_THREADS: u64 = 1 << 14;
/// Where there is little address space.
const LEAST_THREADS: u64 = 1 << 6;

/// Not begun.
const UNUSED: u32 = 0;
/// Begun by the thread that [`STARTER`] names.
const STARTING: u32 = 1;
/// Recording.
const ON: u32 = 2;
/// Not recording: it could not begin, or went wrong.
const OFF: u32 = 3;

static STATE: AtomicU32 = AtomicU32::new(UNUSED);
static STARTER: AtomicU32 = AtomicU32::new(0);

struct Place(UnsafeCell<MaybeUninit<Recorder>>);

// SAFETY: written once, before `STATE` says so; its parts have locks or belong to one thread.
unsafe impl Sync for Place {}

static RECORDER: Place = Place(UnsafeCell::new(MaybeUninit::uninit()));

pub(crate) struct Recorder {
    header: *mut Header,
    blocks: Blocks,
    stacks: Stacks,
    rules: Rules,
    modules: Modules,
    threads: Area,
    slots: Lock,
    filter: Filter,
    key: libc::pthread_key_t,
    sample: u64,
    depth: usize,
    steps: u64,
    started: u64,
}

/// The recorder, once it is there.
#[inline]
pub(crate) fn recorder() -> Option<&'static Recorder> {
    if STATE.load(Ordering::Acquire) == ON {
        // SAFETY: written before the state was, and not since.
        return Some(unsafe { (*RECORDER.0.get()).assume_init_ref() });
    }
    begin()
}

/// Begins to record, where that has not begun.
#[cold]
#[inline(never)]
fn begin() -> Option<&'static Recorder> {
    if STATE.load(Ordering::Acquire) == OFF {
        return None;
    }
    let own = thread_number();
    if STATE.compare_exchange(UNUSED, STARTING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        STARTER.store(own, Ordering::Release);
        let errno = Errno::keep();
        let settings = Settings::read();
        // SAFETY: the call takes nothing and changes nothing.
        let meant = settings.only == 0 || settings.only == unsafe { libc::getpid() } as u64;
        let found = real::find();
        let made = if meant && found { Recorder::new(&settings) } else { None };
        if !meant {
            errno.restore();
            STATE.store(OFF, Ordering::Release);
            return None;
        }
        let Some(made) = made else {
            say(c"gdb-leak: cannot record: there is no address space for it (ulimit -v), or no malloc behind\n");
            errno.restore();
            STATE.store(OFF, Ordering::Release);
            return None;
        };
        // SAFETY: only the thread that changed the state gets here.
        unsafe { (*RECORDER.0.get()).write(made) };
        STATE.store(ON, Ordering::Release);
        // SAFETY: the handlers are functions of this library, which stays.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child)) };
        errno.restore();
    }
    // dlsym may call malloc: it gets memory from elsewhere. Other threads wait.
    while STATE.load(Ordering::Acquire) == STARTING {
        if STARTER.load(Ordering::Acquire) == own {
            return None;
        }
        core::hint::spin_loop();
    }
    // SAFETY: as above.
    (STATE.load(Ordering::Acquire) == ON).then(|| unsafe { (*RECORDER.0.get()).assume_init_ref() })
}

fn say(line: &core::ffi::CStr) {
    let line = line.to_bytes();
    // SAFETY: that many bytes are there.
    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
}

/// The system's number of this thread, without a system call where that can be.
///
/// A locked mutex has it: glibc keeps there who holds it, third of the words whose layout is
/// that of its initialisers (glibc 2.36, `sysdeps/x86/nptl/bits/struct_mutex.h`). A filter of
/// system calls may forbid `gettid` to a program that starts threads.
fn thread_number() -> u32 {
    let mut mutex = libc::PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
    // SAFETY: a local with no other reference, at least three words large.
    let owner = unsafe {
        libc::pthread_mutex_lock(&raw mut mutex);
        let owner = (&raw const mutex).cast::<u32>().add(2).read();
        libc::pthread_mutex_unlock(&raw mut mutex);
        owner
    };
    if owner != 0 {
        return owner;
    }
    // Before glibc 2.34 a program without threads has a lock that does nothing.
    // SAFETY: the call takes nothing and changes nothing.
    unsafe { crate::lock::raw(libc::SYS_gettid, [0; 4]) as u32 }
}

fn clock(which: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock writes to a local.
    unsafe { libc::clock_gettime(which, &raw mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

impl Recorder {
    fn new(settings: &Settings) -> Option<Self> {
        let mut memory = settings.memory;
        let mut threads = MOST_THREADS;
        let room = crate::memory::room();
        // Half the memory is for blocks, a quarter for stacks, the rest for finding them.
        let (placed, nodes) = loop {
            let blocks = memory / 2 / size_of::<Block>() as u64;
            let nodes = memory / 4 / size_of::<Node>() as u64;
            let plan = Plan {
                areas: [
                    (size_of::<Block>(), blocks),
                    (size_of::<Node>(), nodes),
                    (size_of::<Module>(), MOST_MODULES),
                    (1, MOST_NAMES),
                    (SLOT_BYTES, threads),
                ],
                tables: [
                    Blocks::table_bytes(blocks),
                    Stacks::table_bytes(nodes),
                    Rules::TABLE_BYTES,
                    Modules::table_bytes(MOST_MODULES),
                    Filter::TABLE_BYTES,
                ],
            };
            let fits = plan.bytes() <= room;
            if let Some(placed) = fits.then(|| plan.place()).flatten() {
                break (placed, nodes);
            }
            memory /= 2;
            threads = (threads / 2).max(LEAST_THREADS);
            if memory < 1 << 20 {
                return None;
            }
        };
        let header = placed.header;
        let started = clock(libc::CLOCK_MONOTONIC_COARSE);
        // SAFETY: the header's page is the recorder's own, and no other thread knows of it yet.
        unsafe {
            (*header).version = layout::VERSION;
            (*header).header_bytes = layout::PAGE as u32;
            (*header).pid.store(libc::getpid() as u32, Ordering::Relaxed);
            (*header).depth = settings.depth as u32;
            (*header).sample = settings.sample;
            (*header).started = started;
            (*header).started_real = clock(libc::CLOCK_REALTIME);
            (*header).time_shift = layout::TIME_SHIFT;
            #[cfg(not(test))]
            {
                (*header).functions = crate::entry::functions();
            }
            (*header).state.store(layout::RECORDING, Ordering::Relaxed);
            (*header).magic = layout::MAGIC;
        }
        if !crate::seccomp::is_there() {
            crate::lock::prepare();
            crate::memory::name(header);
        }
        let mut key = 0;
        // SAFETY: the destructor is a function of this library, which stays.
        if unsafe { libc::pthread_key_create(&raw mut key, Some(thread_ends)) } != 0 {
            return None;
        }
        let [block_area, node_area, module_area, name_area, threads] = placed.areas;
        let [block_table, node_table, rule_table, module_table, filter_table] = placed.tables;
        // SAFETY: the header stays.
        let generation = unsafe { &raw const (*header).generation };
        Some(Self {
            header,
            blocks: Blocks::new(block_area, block_table)?,
            stacks: Stacks::new(node_area, node_table, nodes)?,
            rules: Rules::new(rule_table.take(Rules::TABLE_BYTES)?),
            modules: Modules::new(module_area, name_area, module_table, generation),
            threads,
            slots: Lock::new(),
            filter: Filter::new(filter_table.take(Filter::TABLE_BYTES)?),
            key,
            sample: settings.sample,
            depth: settings.depth,
            steps: settings.steps,
            started,
        })
    }

    fn header(&self) -> &Header {
        // SAFETY: it stays, and what changes in it is atomic.
        unsafe { &*self.header }
    }

    /// A slot for the calling thread.
    fn slot(&self) -> Option<&'static Slot> {
        let number = thread_number();
        let slot = self.slots.with(|| {
            let used = self.threads.used() as usize;
            let free =
                (0..used).map(|at| self.slot_at(at)).find(|slot| slot.thread.load(Ordering::Acquire) == 0);
            let slot = match free {
                Some(slot) => slot,
                None => self.slot_at(self.threads.take(1)? as usize),
            };
            // The coarse clock never needs the kernel.
            let seed = clock(libc::CLOCK_MONOTONIC_COARSE) ^ u64::from(number) << 32;
            slot.begin(number, seed, self.sample);
            Some(slot)
        })?;
        slot::tell_end(self.key, slot);
        Some(slot)
    }

    fn slot_at(&self, number: usize) -> &'static Slot {
        // SAFETY: it was handed out; zero bytes are a slot that no thread has.
        unsafe { &*self.threads.at::<Slot>(number) }
    }

    /// Now, in units of a recording.
    #[inline]
    fn now(&self) -> u32 {
        ((clock(libc::CLOCK_MONOTONIC_COARSE) - self.started) >> layout::TIME_SHIFT) as u32
    }

    /// Records a block that `function` gave to `caller`.
    #[inline]
    pub(crate) fn allocated(&self, block: *mut c_void, size: usize, function: usize, caller: Caller) {
        if self.steps == 0 {
            return;
        }
        // Nearly all allocations start no sample: nothing is entered for these.
        if self.sample != 0 && slot::own().is_some_and(|slot| slot.countdown.passes(size as u64)) {
            return;
        }
        match slot::enter(|| self.slot()) {
            Who::Inside(slot) => {
                if self.sample == 0 || slot.countdown.takes(size as u64, self.sample) {
                    self.record(slot, block as u64, size, function, caller);
                }
                slot.leave(|block| self.give_back(slot, block));
            }
            Who::Handler(_) | Who::Without => {
                self.header().missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn record(&self, slot: &'static Slot, block: u64, size: usize, function: usize, caller: Caller) {
        self.blocks.prefetch(block);
        let stack = self.stack(slot, function as u64, caller);
        if self.steps < 3 {
            return;
        }
        let time = self.now();
        slot.time.store(time, Ordering::Relaxed);
        let thread = slot.thread.load(Ordering::Relaxed);
        if self.sample != 0 {
            self.filter.add(block);
        }
        if self.blocks.insert(Some(&slot.inside), block, Kept { size: size as u64, stack, thread, time }) {
            slot.recorded.store(slot.recorded.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        } else {
            self.header().dropped.fetch_add(1, Ordering::Relaxed);
            if self.sample != 0 {
                self.filter.remove(block);
            }
        }
    }

    /// The node of the stack above a call; 0 where there is no room for it.
    #[inline]
    fn stack(&self, slot: &Slot, function: u64, caller: Caller) -> u32 {
        // SAFETY: the slot is this thread's, which is inside the recorder once.
        let room = unsafe { &mut *slot.frames.as_ptr() };
        let frames = room.get_mut(..self.depth).unwrap_or_default();
        let generation = self.modules.generation();
        slot.keep_up(generation);
        let known =
            Known { readable: &slot.readable, seen: &slot.seen, rules: &self.rules, modules: &self.modules };
        let walked = known.walk(caller, function, frames);
        if self.steps < 2 {
            return 0;
        }
        let remembered = slot.remembered(walked.hash);
        if remembered != 0 {
            return remembered;
        }
        let frames = frames.get(..walked.frames).unwrap_or_default();
        let (node, fresh) = self.stacks.node(function, frames, generation).unwrap_or((0, false));
        if walked.cut && fresh {
            self.header().cut.fetch_add(1, Ordering::Relaxed);
        }
        slot.remember(walked.hash, node);
        node
    }

    /// Forgets a block that is about to be given back; whether it may be.
    ///
    /// A handler that interrupted the recorder may hold it up where it is: then the block
    /// waits, and the interrupted call gives it back.
    #[inline]
    pub(crate) fn released(&self, block: *mut c_void) -> bool {
        let address = block as u64;
        if self.sample != 0 && !self.filter.may_have(address) || self.steps < 3 {
            return true;
        }
        match slot::enter(|| self.slot()) {
            Who::Inside(slot) => {
                self.forget(Some(slot), address);
                slot.leave(|block| self.give_back(slot, block));
                true
            }
            Who::Handler(slot) => {
                let waits = slot.wait(address);
                if !waits {
                    self.header().stale.fetch_add(1, Ordering::Relaxed);
                }
                !waits
            }
            Who::Without => {
                self.quietly(|| self.forget(None, address));
                true
            }
        }
    }

    /// What was kept of a block that is about to be resized, which is forgotten.
    pub(crate) fn resizes(&self, block: *mut c_void) -> Option<Kept> {
        let address = block as u64;
        if self.sample != 0 && !self.filter.may_have(address) || self.steps < 3 {
            return None;
        }
        match slot::enter(|| self.slot()) {
            Who::Inside(slot) => {
                let kept = self.take(Some(slot), address);
                slot.leave(|block| self.give_back(slot, block));
                kept
            }
            Who::Handler(_) => {
                self.header().stale.fetch_add(1, Ordering::Relaxed);
                None
            }
            Who::Without => self.quietly(|| self.take(None, address)).flatten(),
        }
    }

    /// Keeps a block again that could not be resized.
    pub(crate) fn stays(&self, block: *mut c_void, kept: Kept) {
        let again = |slot: Option<&'static Slot>| {
            if self.sample != 0 {
                self.filter.add(block as u64);
            }
            self.blocks.insert(slot.map(|slot| &slot.inside), block as u64, kept);
        };
        match slot::enter(|| self.slot()) {
            Who::Inside(slot) => {
                again(Some(slot));
                slot.leave(|block| self.give_back(slot, block));
            }
            Who::Handler(_) => {
                self.header().missed.fetch_add(1, Ordering::Relaxed);
            }
            Who::Without => {
                self.quietly(|| again(None));
            }
        }
    }

    fn forget(&self, slot: Option<&'static Slot>, address: u64) {
        if self.blocks.remove(slot.map(|slot| &slot.inside), address) && self.sample != 0 {
            self.filter.remove(address);
        }
    }

    fn take(&self, slot: Option<&'static Slot>, address: u64) -> Option<Kept> {
        let kept = self.blocks.take(slot.map(|slot| &slot.inside), address)?;
        if self.sample != 0 {
            self.filter.remove(address);
        }
        Some(kept)
    }

    /// Gives a block back that waited.
    fn give_back(&self, slot: &'static Slot, block: u64) {
        self.forget(Some(slot), block);
        // SAFETY: the program gave it back, and it waited since.
        unsafe { real::free(block as *mut c_void) };
    }

    /// Does `work` with all signals held up: a handler would find locks taken that are its own
    /// thread's. Not where a fork of this thread has taken them.
    #[cold]
    fn quietly<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        if forks() {
            self.header().stale.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        // SAFETY: the sets are locals, and the mask is put back as it was.
        unsafe {
            let mut all = MaybeUninit::<libc::sigset_t>::uninit();
            let mut before = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            let result = work();
            libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), core::ptr::null_mut());
            Some(result)
        }
    }

    /// Takes note of libraries that are gone.
    pub(crate) fn unloaded(&self) {
        match slot::enter(|| self.slot()) {
            Who::Inside(slot) => {
                self.modules.unloaded(|| self.rules.clear());
                slot.leave(|block| self.give_back(slot, block));
            }
            Who::Handler(_) | Who::Without => {}
        }
    }
}

unsafe extern "C" fn thread_ends(slot: *mut c_void) {
    let Some(recorder) = recorder() else { return };
    // SAFETY: the value of the key is the thread's slot.
    let slot = unsafe { &*slot.cast::<Slot>() };
    if !slot.end() {
        slot::tell_end(recorder.key, slot);
    }
}

/// Begins to record, where that was not done; whether this process is not recorded.
///
/// What asks the kernel is done now for the program and its first thread: later a filter of
/// system calls may be there.
pub(crate) fn starts() -> bool {
    let Some(recorder) = recorder() else { return STATE.load(Ordering::Acquire) == OFF };
    if let Who::Inside(slot) = slot::enter(|| recorder.slot()) {
        // SAFETY: the call changes nothing.
        recorder.modules.tables(unsafe { libc::getauxval(libc::AT_ENTRY) });
        slot.leave(|block| recorder.give_back(slot, block));
    }
    false
}

/// Prepares for a filter of system calls, which the program is about to ask for.
pub(crate) fn filter_comes() {
    let Some(recorder) = recorder() else { return };
    // A handler that interrupted the recorder would wait for locks of its own thread.
    if let Who::Inside(slot) = slot::enter(|| recorder.slot()) {
        recorder.blocks.disown(|| recorder.alone());
        slot.leave(|block| recorder.give_back(slot, block));
    }
}

/// The status of a call of dlclose, with libraries that are gone noted.
pub(crate) fn closed(status: c_int) -> c_int {
    if let Some(recorder) = recorder() {
        let errno = Errno::keep();
        recorder.unloaded();
        errno.restore();
    }
    status
}
