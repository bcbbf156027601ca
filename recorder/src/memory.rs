//! The recorder's own memory: parts at fixed places, each mapped as far as it is needed.
//!
//! Nothing is reserved: address space that is mapped counts against the program's limits
//! (`RLIMIT_AS`, `mlockall`), which it may set at any time. A part grows at its end, where the
//! addresses are free because they are far from those that the kernel hands out. Where another
//! mapping is in the way, the part is full.
//!
//! After the start memory is requested by `mmap` alone: at an address that is only a hint, or with
//! `MAP_FIXED` over pages of its own, as glibc does when it shrinks a heap (malloc/arena.c,
//! `shrink_heap`). So a filter of system calls (seccomp) that lets malloc work lets the recorder work. Large
//! pages are not requested (`madvise`). For 3,000,000 pairs among 5,000,000 blocks that were
//! allocated first they saved 0.5 s of 3.3 s, and the system took 0.6 s more to make them.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::layout::{Header, PAGE, Part};
use crate::lock::Lock;
use crate::spare::Spare;

/// Bytes that parts grow by while they are small.
const STEP: usize = 1 << 18;

/// Bytes that large ones grow by.
const LARGE: usize = 1 << 21;

/// Bytes that are cleared rather than given back to the system.
const FEW: usize = 1 << 15;

/// How far from what the kernel chose the parts are: more than a program maps, and within
/// what sanitizers leave to programs.
const FAR: usize = 1 << 38;

/// Addresses that become usable from the first on, as they are needed.
struct Stretch {
    base: usize,
    most: usize,
    /// Bytes that are mapped by now: in the header, since readers need it.
    open: *const AtomicU64,
}

impl Stretch {
    fn open(&self) -> &AtomicU64 {
        // SAFETY: it points into the header, which stays.
        unsafe { &*self.open }
    }

    /// Makes so many bytes usable; whether they are. One thread at a time.
    fn reach(&self, bytes: usize) -> bool {
        let open = self.open().load(Ordering::Relaxed) as usize;
        if bytes <= open {
            return true;
        }
        if bytes > self.most {
            return false;
        }
        let step = if open >= 2 * LARGE { LARGE } else { STEP };
        let wish = bytes.next_multiple_of(step).min(self.most);
        // Where there is little left, no more than is needed.
        let mapped = [wish, round(bytes)].into_iter().find(|end| map(self.base + open, end - open));
        if let Some(end) = mapped {
            self.open().store(end as u64, Ordering::Release);
        }
        mapped.is_some()
    }
}

/// Maps memory of zeros at an address; whether it could be had there.
fn map(at: usize, bytes: usize) -> bool {
    let errno = Errno::keep();
    let done = map_at(at, bytes, libc::PROT_READ | libc::PROT_WRITE, 0) == Some(at);
    errno.restore();
    done
}

/// Maps new pages, all zero, in the place of whole pages of the recorder's own; whether it could.
fn renew(start: usize, end: usize) -> bool {
    let errno = Errno::keep();
    let new = map_at(start, end - start, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_FIXED);
    errno.restore();
    new.is_some()
}

/// Maps memory where the kernel likes, but at that address if it is free: where it is.
///
/// Nothing is left mapped where it is elsewhere, unless anywhere would do.
fn map_at(at: usize, bytes: usize, access: i32, more: i32) -> Option<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | more;
    // SAFETY: without MAP_FIXED the address is a hint, and a new mapping replaces none; with it
    // the caller gives addresses of its own.
    let found = unsafe { libc::mmap(at as *mut c_void, bytes, access, flags, -1, 0) };
    if found == libc::MAP_FAILED {
        return None;
    }
    if at != 0 && found as usize != at {
        unmap(found as usize, bytes);
        return None;
    }
    Some(found as usize)
}

fn unmap(at: usize, bytes: usize) {
    // SAFETY: whole pages of a mapping that the recorder made and no longer uses.
    unsafe { libc::munmap(at as *mut c_void, bytes) };
}

/// A table of the recorder's own: bytes, all zero, handed out from the first on.
pub(crate) struct Table {
    stretch: Stretch,
    taken: AtomicUsize,
    pub(crate) lock: Lock,
}

impl Table {
    /// Hands out so many bytes, after those of the last time: their address.
    #[cold]
    pub(crate) fn take(&self, bytes: usize) -> Option<usize> {
        self.lock.with(|| self.extend(bytes))
    }

    /// Hands out so many bytes, of those that `spare` has if there are as many.
    #[cold]
    pub(crate) fn take_or(&self, spare: &Spare, bytes: usize) -> Option<usize> {
        self.lock.with(|| spare.take(bytes).or_else(|| self.extend(bytes)))
    }

    /// Keeps the whole pages of what was handed out in `spare`.
    #[cold]
    pub(crate) fn give_back(&self, spare: &Spare, start: usize, bytes: usize) {
        let end = (start + bytes) & !(PAGE - 1);
        let start = start.next_multiple_of(PAGE);
        // Few are soon used again: they are cleared. Many get new pages in their place, which
        // take no memory so far.
        let zero = match end.saturating_sub(start) {
            0 => false,
            FEW.. => renew(start, end),
            few => {
                // SAFETY: whole pages of this table, which the caller gives up.
                unsafe { core::ptr::write_bytes(start as *mut u8, 0, few) };
                true
            }
        };
        if zero {
            self.lock.with(|| spare.keep(start, end));
        }
    }

    fn extend(&self, bytes: usize) -> Option<usize> {
        let taken = self.taken.load(Ordering::Relaxed);
        let end = taken.checked_add(bytes)?;
        self.stretch.reach(end).then(|| {
            self.taken.store(end, Ordering::Relaxed);
            self.stretch.base + taken
        })
    }

    /// The address of the item with that number, where all that was handed out are items of one size.
    #[inline]
    pub(crate) fn at<T>(&self, index: usize) -> *mut T {
        (self.stretch.base + index * size_of::<T>()) as *mut T
    }
}

/// Entries of one kind, handed out from the first on and never taken back.
pub(crate) struct Area {
    stretch: Stretch,
    entry: usize,
    capacity: u64,
    used: *const AtomicU64,
    pub(crate) lock: Lock,
}

impl Area {
    /// The address of the entry with that number, which was handed out.
    #[inline]
    pub(crate) fn at<T>(&self, index: usize) -> *mut T {
        (self.stretch.base + index * self.entry) as *mut T
    }

    /// How many were handed out.
    pub(crate) fn used(&self) -> u64 {
        // SAFETY: it points into the header, which stays.
        unsafe { (*self.used).load(Ordering::Acquire) }
    }

    /// Hands out `count` entries, all zero: the number of the first, or `None` where the area is full.
    #[cold]
    pub(crate) fn take(&self, count: u64) -> Option<u64> {
        self.lock.with(|| {
            let first = self.used();
            let end = first.checked_add(count).filter(|end| *end <= self.capacity)?;
            if !self.stretch.reach(end as usize * self.entry) {
                return None;
            }
            // SAFETY: it points into the header, which stays.
            unsafe { (*self.used).store(end, Ordering::Release) };
            Some(first)
        })
    }
}

/// `errno` as the program left it, which it finds again.
pub(crate) struct Errno(i32);

impl Errno {
    pub(crate) fn keep() -> Self {
        // SAFETY: glibc gives each thread its own, at an address that stays.
        Self(unsafe { *libc::__errno_location() })
    }

    pub(crate) fn restore(self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.0 };
    }
}

/// Has the word at an address brought near; one that is not mapped is as good as any.
#[inline]
pub(crate) fn prefetch(address: u64) {
    // SAFETY: nothing is read that the program could see, and no address faults.
    unsafe {
        core::arch::asm!("prefetcht0 [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// Bytes in whole pages.
const fn round(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE)
}

/// Bytes of a part with what is free after it: no part begins where another ends.
const fn whole(bytes: usize) -> usize {
    (bytes + 1).next_multiple_of(LARGE)
}

/// Bytes that may be used: where the address space is limited (`ulimit -v`), a quarter
/// of it, since the rest is the program's to use.
pub(crate) fn room() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes to a local.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } == 0;
    if known && limit.rlim_cur != libc::RLIM_INFINITY { limit.rlim_cur as usize / 4 } else { usize::MAX }
}

/// Where everything lies.
pub(crate) struct Plan {
    /// Bytes of an entry, and how many at most, of each area in the header's order.
    pub(crate) areas: [(usize, u64); 5],
    /// Bytes of each of the recorder's own tables.
    pub(crate) tables: [usize; 5],
}

/// Where the parts are.
pub(crate) struct Placed {
    pub(crate) header: *mut Header,
    pub(crate) areas: [Area; 5],
    pub(crate) tables: [Table; 5],
}

impl Plan {
    /// Bytes from the header to the end of the last part, most of which are never mapped.
    pub(crate) fn bytes(&self) -> usize {
        let areas: usize = self.areas.iter().map(|(entry, most)| whole(entry * *most as usize)).sum();
        let tables: usize = self.tables.iter().copied().map(whole).sum();
        LARGE + areas + tables
    }

    /// Finds a place for all of it, and maps the header; `None` where not even that can be had.
    pub(crate) fn place(&self) -> Option<Placed> {
        let total = self.bytes();
        let chosen = map_at(0, PAGE, libc::PROT_NONE, 0)?;
        unmap(chosen, PAGE);
        // Below, since the kernel goes downwards; above where it goes upwards or there is no
        // room, as under an emulator. Nearer where addresses are few.
        let below = |far: usize| chosen.checked_sub(far)?.checked_sub(total);
        let above = |far: usize| chosen.checked_add(far);
        let places = [FAR, FAR >> 5, FAR >> 8].map(|far| [below(far), above(far)]);
        let header = places.into_iter().flatten().flatten().find_map(|place| {
            let place = place & !(LARGE - 1);
            (place != 0 && map(place, PAGE)).then_some(place)
        })?;
        Some(self.lay_out(header))
    }

    fn lay_out(&self, start: usize) -> Placed {
        let header = start as *mut Header;
        let mut parts = 0;
        let mut offset = LARGE;
        let mut stretch = |bytes: usize| {
            // SAFETY: the header's page is zero and writable; it has room for ten parts.
            let part = unsafe { &*(&raw const (*header).parts).cast::<Part>().add(parts) };
            part.offset.store(offset as u64, Ordering::Relaxed);
            let stretch = Stretch { base: start + offset, most: round(bytes), open: &raw const part.open };
            parts += 1;
            offset += whole(bytes);
            stretch
        };
        let mut index = 0;
        let areas = self.areas.map(|(entry, capacity)| {
            let stretch = stretch(entry * capacity as usize);
            // SAFETY: as above; there are five areas.
            let info = unsafe { &*(&raw const (*header).areas).cast::<crate::layout::AreaInfo>().add(index) };
            info.offset.store((stretch.base - start) as u64, Ordering::Relaxed);
            info.entry.store(entry as u64, Ordering::Relaxed);
            info.capacity.store(capacity, Ordering::Relaxed);
            index += 1;
            Area { stretch, entry, capacity, used: &raw const info.used, lock: Lock::new() }
        });
        let tables = self.tables.map(|bytes| Table {
            stretch: stretch(bytes),
            taken: AtomicUsize::new(0),
            lock: Lock::new(),
        });
        // SAFETY: the header's page is the recorder's own.
        unsafe {
            (*header).reserved = self.bytes() as u64;
            (*header).own = header as u64;
        }
        Placed { header, areas, tables }
    }
}

/// Asks the kernel to show what the header's page is (`/proc/PID/maps`).
pub(crate) fn name(header: *const Header) {
    // SAFETY: the page is the recorder's own. A kernel without names refuses, and nothing is lost.
    unsafe {
        libc::prctl(
            libc::PR_SET_VMA,
            libc::PR_SET_VMA_ANON_NAME as libc::c_ulong,
            header as libc::c_ulong,
            PAGE as libc::c_ulong,
            c"gdb-leak record".as_ptr(),
        );
    }
}
