//! The recorder's own memory: one reservation between two guard pages.

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::layout::{Header, PAGE};
use crate::lock::Lock;

/// Bytes that areas and tables grow by.
const STEP: usize = 1 << 18;

/// A large page. Areas and tables that pass half of one grow by whole ones: the addresses of
/// blocks lead all over them, and the processor looks small pages up again and again. Each
/// begins at such a place.
const LARGE: usize = 1 << 21;

/// Linux 6.1, include/uapi/asm-generic/mman-common.h.
const MADV_COLLAPSE: c_int = 25;

/// Reserved memory that becomes usable from its start on, as it is needed.
struct Stretch {
    base: usize,
    most: usize,
    /// Bytes that may be read and written by now.
    open: AtomicUsize,
    /// Whether cores are to have it.
    saved: bool,
}

impl Stretch {
    const fn new(base: usize, bytes: usize, saved: bool) -> Self {
        Self { base, most: round(bytes), open: AtomicUsize::new(0), saved }
    }

    /// Makes so many bytes usable; whether they are. One thread at a time.
    fn reach(&self, bytes: usize) -> bool {
        let open = self.open.load(Ordering::Relaxed);
        if bytes <= open {
            return true;
        }
        if bytes > self.most {
            return false;
        }
        let step = if bytes > LARGE / 2 { LARGE } else { STEP };
        let wanted = bytes.next_multiple_of(step).min(self.most);
        let at = (self.base + open) as *mut c_void;
        let errno = Errno::keep();
        // SAFETY: the pages are the reservation's own, and nobody used them so far.
        let done = unsafe {
            libc::mprotect(at, wanted - open, libc::PROT_READ | libc::PROT_WRITE) == 0
                && (!self.saved || libc::madvise(at, wanted - open, libc::MADV_DODUMP) == 0)
        };
        if done && wanted >= LARGE {
            // SAFETY: as above, and what stands in the first pages stays. Where the system has
            // no large pages, or cannot make them of small ones, this is refused.
            unsafe {
                libc::madvise(self.base as *mut c_void, wanted, libc::MADV_HUGEPAGE);
                if open < LARGE {
                    libc::madvise(self.base as *mut c_void, LARGE, MADV_COLLAPSE);
                }
            }
        }
        errno.restore();
        if done {
            self.open.store(wanted, Ordering::Relaxed);
        }
        done
    }
}

/// A table of the recorder's own: bytes, all zero, handed out from the first on.
pub(crate) struct Table {
    stretch: Stretch,
    taken: AtomicUsize,
    pub(crate) lock: Lock,
}

impl Table {
    /// Hands out so many bytes, behind those of the last time: their address.
    #[cold]
    pub(crate) fn take(&self, bytes: usize) -> Option<usize> {
        self.lock.with(|| {
            let taken = self.taken.load(Ordering::Relaxed);
            let end = taken.checked_add(bytes)?;
            self.stretch.reach(end).then(|| {
                self.taken.store(end, Ordering::Relaxed);
                self.stretch.base + taken
            })
        })
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

/// Bytes in whole large pages.
const fn whole(bytes: usize) -> usize {
    bytes.next_multiple_of(LARGE)
}

/// Bytes that may be reserved: where the address space is limited (`ulimit -v`), a quarter
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

/// What was reserved.
pub(crate) struct Reserved {
    pub(crate) header: *mut Header,
    pub(crate) areas: [Area; 5],
    pub(crate) tables: [Table; 5],
}

impl Plan {
    fn areas(&self) -> usize {
        self.areas.iter().map(|(entry, most)| whole(entry * *most as usize)).sum()
    }

    fn tables(&self) -> usize {
        self.tables.iter().copied().map(whole).sum()
    }

    /// Bytes of the reservation: a guard and the header before the first large page, wherever
    /// the kernel begins, and a guard behind.
    pub(crate) fn bytes(&self) -> usize {
        2 * PAGE + LARGE + self.areas() + self.tables() + PAGE
    }

    /// Reserves memory for all of it; `None` where there is not so much.
    pub(crate) fn reserve(&self) -> Option<Reserved> {
        let (areas, total) = (self.areas(), self.bytes());
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping wherever the kernel likes harms nobody.
        let start = unsafe { libc::mmap(ptr::null_mut(), total, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let end = start as usize + total - PAGE;
        let first = (start as usize + 2 * PAGE).next_multiple_of(LARGE);
        let header = first - PAGE;
        let own = first + areas;
        // SAFETY: all of it lies in the mapping just made.
        let ready = unsafe {
            libc::madvise(start, total, libc::MADV_DONTDUMP);
            // Folklore: in a kernel without names this is refused, and nothing is lost.
            libc::prctl(
                libc::PR_SET_VMA,
                libc::PR_SET_VMA_ANON_NAME as libc::c_ulong,
                header as libc::c_ulong,
                (end - header) as libc::c_ulong,
                c"gdb-leak record".as_ptr(),
            );
            Stretch::new(header, PAGE, true).reach(PAGE)
        };
        if !ready {
            // SAFETY: as above; nobody else knows of it.
            unsafe { libc::munmap(start, total) };
            return None;
        }
        let header = header as *mut Header;
        let mut offset = PAGE;
        let mut index = 0;
        let areas = self.areas.map(|(entry, capacity)| {
            // SAFETY: the header's page is zero and writable; there are five areas.
            let info = unsafe { &raw mut (*header).areas }.cast::<crate::layout::AreaInfo>();
            // SAFETY: as above.
            let info = unsafe { &*info.add(index) };
            info.offset.store(offset as u64, Ordering::Relaxed);
            info.entry.store(entry as u64, Ordering::Relaxed);
            info.capacity.store(capacity, Ordering::Relaxed);
            let area = Area {
                stretch: Stretch::new(header as usize + offset, entry * capacity as usize, true),
                entry,
                capacity,
                used: &raw const info.used,
                lock: Lock::new(),
            };
            offset += whole(entry * capacity as usize);
            index += 1;
            area
        });
        let mut at = own;
        let tables = self.tables.map(|bytes| {
            let stretch = Stretch::new(at, bytes, false);
            at += whole(bytes);
            Table { stretch, taken: AtomicUsize::new(0), lock: Lock::new() }
        });
        // SAFETY: the header's page is the recorder's own.
        unsafe {
            (*header).reserved = (end - header as usize) as u64;
            (*header).own = header as u64;
        }
        Some(Reserved { header, areas, tables })
    }
}
