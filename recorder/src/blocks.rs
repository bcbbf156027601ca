//! The live blocks, found by their address.
//!
//! A table for each mebibyte of addresses, some of which share one, each with a lock of its
//! own: glibc gives threads arenas of their own, and so threads seldom want the same table.
//! An entry stands at the place
//! that its address hashes to or closely behind (linear probing). One way is chains of
//! entries: they grow in place and can be filled to the last, but to find one takes two or
//! three words from far apart in memory, and waiting for these was most of what recording
//! cost. Here it takes one, which a free overlaps with the header of the block itself and
//! an allocation with unwinding.
//!
//! Memory: tables are filled to four fifths and grow by a half or a third, so that a block
//! takes 40 to 60 bytes.

use core::cell::Cell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::layout::{Block, PAGE};
use crate::lock::{self, Biased, Inside};
use crate::memory::{Area, Errno};

/// Tables, as a power of two.
const BITS: u32 = 10;
const SHARDS: usize = 1 << BITS;
/// Entries of a table at first. All sizes are multiples of it.
const FIRST: u64 = 16;

#[repr(C, align(64))]
struct Shard {
    lock: Biased,
    /// Whether it may not grow any more.
    full: Cell<bool>,
    entries: Cell<*mut Block>,
    size: Cell<u64>,
    count: Cell<u64>,
}

/// What was kept of a block.
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) size: u64,
    pub(crate) stack: u32,
    pub(crate) thread: u32,
    pub(crate) time: u32,
}

pub(crate) struct Blocks {
    area: Area,
    shards: [Shard; SHARDS],
    /// Entries of all tables, and how many there may be.
    total: AtomicU64,
    most: u64,
}

/// Spreads addresses over all bits.
#[inline]
fn hash(address: u64) -> u64 {
    (address >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The place of a hash in a table of that size.
#[inline]
fn home(hash: u64, size: u64) -> u64 {
    ((hash >> 32) * size) >> 32
}

impl Blocks {
    /// How many entries the area has room for where so many may be in use: those of tables
    /// that were grown out of are never used again.
    pub(crate) const fn room(most: u64) -> u64 {
        4 * most
    }

    pub(crate) fn new(area: Area, most: u64) -> Self {
        let shards = core::array::from_fn(|_| Shard {
            lock: Biased::new(),
            full: Cell::new(false),
            entries: Cell::new(core::ptr::null_mut()),
            size: Cell::new(0),
            count: Cell::new(0),
        });
        Self { area, shards, total: AtomicU64::new(0), most }
    }

    #[inline]
    fn shard(&self, address: u64) -> &Shard {
        let number = (address >> 20).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS);
        // SAFETY: the number has as many bits as that of tables.
        unsafe { self.shards.get_unchecked(number as usize) }
    }

    /// Has the entry's place brought near, while something else is done.
    #[inline]
    pub(crate) fn prefetch(&self, address: u64) {
        let shard = self.shard(address);
        // What another thread replaces meanwhile makes this useless, not wrong.
        let at = shard.entries.get().wrapping_add(home(hash(address), shard.size.get()) as usize);
        crate::memory::prefetch(at as u64);
    }

    /// Keeps a block, in place of what was kept of its address; whether there was room.
    /// `inside` is the calling thread's, where it has one; likewise below.
    #[inline]
    pub(crate) fn insert(&self, inside: Option<&'static Inside>, address: u64, kept: Kept) -> bool {
        let shard = self.shard(address);
        shard.lock.with(inside, || {
            if shard.count.get() * 5 >= shard.size.get() * 4 {
                self.grow(shard);
                // One place stays free, which ends every search.
                if shard.count.get() + 1 >= shard.size.get() {
                    return false;
                }
            }
            // SAFETY: under the table's lock.
            unsafe {
                let entry = place(shard, address);
                if (*entry).key.load(Ordering::Relaxed) == 0 {
                    shard.count.set(shard.count.get() + 1);
                }
                (*entry).key.store(0, Ordering::Release);
                fill(entry, address, kept);
            }
            true
        })
    }

    /// Forgets a block: what was kept of it.
    #[inline]
    pub(crate) fn remove(&self, inside: Option<&'static Inside>, address: u64) -> Option<Kept> {
        let shard = self.shard(address);
        shard.lock.with(inside, || {
            if shard.count.get() == 0 {
                return None;
            }
            // SAFETY: under the table's lock.
            unsafe {
                let entry = place(shard, address);
                if (*entry).key.load(Ordering::Relaxed) == 0 {
                    return None;
                }
                let Block { size, stack, thread, time, .. } = *entry;
                close(shard, entry);
                shard.count.set(shard.count.get() - 1);
                Some(Kept { size, stack, thread, time })
            }
        })
    }

    /// Moves a table to where there is more room, if there is.
    #[cold]
    #[inline(never)]
    fn grow(&self, shard: &Shard) {
        let old = shard.size.get();
        if shard.full.get() {
            return;
        }
        // 1, 2, 3, 4, 6, 8, 12, … times the first.
        let size = match old {
            0 => FIRST,
            _ if (old / FIRST).is_power_of_two() && old > FIRST => old + old / 2,
            FIRST => 2 * FIRST,
            _ => old + old / 3,
        };
        let fits = self.total.fetch_add(size - old, Ordering::Relaxed) + size - old <= self.most;
        let Some(first) = fits.then(|| self.area.take(size)).flatten() else {
            shard.full.set(true);
            return;
        };
        let before = shard.entries.get();
        shard.entries.set(self.area.at(first as usize));
        shard.size.set(size);
        for at in 0..old as usize {
            // SAFETY: within the old table; the new one has room.
            unsafe {
                let entry = before.add(at);
                let key = (*entry).key.load(Ordering::Relaxed);
                if key != 0 {
                    let Block { size, stack, thread, time, .. } = *entry;
                    fill(place(shard, !key), !key, Kept { size, stack, thread, time });
                    (*entry).key.store(0, Ordering::Relaxed);
                }
            }
        }
        let start = (before as usize).next_multiple_of(PAGE);
        let end = (before as usize + old as usize * size_of::<Block>()) & !(PAGE - 1);
        if start < end {
            let errno = Errno::keep();
            // SAFETY: whole pages that nobody uses any more; they read as zero from now on.
            unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
            errno.restore();
        }
    }

    /// Takes all locks, so that a fork finds the tables whole.
    pub(crate) fn take_all(&self) {
        lock::take_all(self.shards.iter().map(|shard| &shard.lock));
        self.area.lock.take();
    }

    /// Lets go of all locks.
    pub(crate) fn leave_all(&self) {
        self.area.lock.leave();
        lock::leave_all(self.shards.iter().map(|shard| &shard.lock));
    }
}

/// The entry of a block, or the free one where it would stand.
///
/// # Safety
///
/// The table's lock is taken, and it has a free entry.
#[inline]
unsafe fn place(shard: &Shard, address: u64) -> *mut Block {
    let size = shard.size.get();
    let mut at = home(hash(address), size);
    // SAFETY: below the size, and by the caller's word the search ends.
    unsafe {
        loop {
            let entry = shard.entries.get().add(at as usize);
            let key = (*entry).key.load(Ordering::Relaxed);
            if key == 0 || key == !address {
                return entry;
            }
            at += 1;
            if at == size {
                at = 0;
            }
        }
    }
}

/// Frees an entry, and moves up those behind that could not stand at their own place.
///
/// An entry that moves is there twice for a moment, and never gone.
///
/// # Safety
///
/// As for [`place`]; the entry is one of the table's.
#[inline]
unsafe fn close(shard: &Shard, entry: *mut Block) {
    let size = shard.size.get();
    // SAFETY: all numbers are below the size, and by the caller's word there is a free entry.
    unsafe {
        let first = shard.entries.get();
        let mut hole = entry.offset_from(first) as u64;
        let mut at = hole;
        loop {
            at += 1;
            if at == size {
                at = 0;
            }
            let next = first.add(at as usize);
            let key = (*next).key.load(Ordering::Relaxed);
            if key == 0 {
                break;
            }
            // How far it stands from its own place, and how far the hole is.
            let behind = |from: u64| if at >= from { at - from } else { at + size - from };
            if behind(home(hash(!key), size)) >= behind(hole) {
                let Block { size, stack, thread, time, .. } = *next;
                (*first.add(hole as usize)).key.store(0, Ordering::Release);
                fill(first.add(hole as usize), !key, Kept { size, stack, thread, time });
                hole = at;
            }
        }
        (*first.add(hole as usize)).key.store(0, Ordering::Release);
    }
}

/// Fills an entry, its key last.
///
/// # Safety
///
/// The entry is the caller's under a lock.
#[inline]
unsafe fn fill(entry: *mut Block, address: u64, kept: Kept) {
    // SAFETY: by the caller's word.
    unsafe {
        (*entry).size = kept.size;
        (*entry).stack = kept.stack;
        (*entry).thread = kept.thread;
        (*entry).time = kept.time;
        (*entry).key.store(!address, Ordering::Release);
    }
}
