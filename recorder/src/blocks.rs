//! The live blocks, found by their address.
//!
//! A table for each mebibyte of addresses, some of which share one, each with a lock of its
//! own: glibc gives threads arenas of their own, and so threads seldom want the same table.
//! What is known of a block is an entry of the recording; a table says which one, in eight
//! bytes that stand at the place that the address hashes to or closely behind (linear
//! probing). The address itself is 43 bits of which the table fixes eleven, so that the
//! other 32 stand there in full and the entry need not be read to find it.
//!
//! One way is chains of entries: they can be filled to the last, but two or three words from
//! far apart in memory have to be waited for, which was most of what recording cost. Another
//! is entries in the table: one word, but from a table four times as large, which no cache
//! holds. Here it is one from a table that a cache may hold.
//!
//! Memory: 32 bytes for each entry; tables are filled to four fifths and grow by a half or a
//! third, so that a block takes 42 to 47 bytes.

use core::cell::Cell;
use core::sync::atomic::Ordering;

use crate::layout::Block;
use crate::lock::{self, Biased, Inside};
use crate::memory::{Area, Table};
use crate::spare::Spare;

/// Tables, as a power of two.
const BITS: u32 = 11;
const SHARDS: usize = 1 << BITS;
/// Bits of a mebibyte's number, in addresses of 47 bits: what a process has unless it asks for more.
const MEBIBYTE_BITS: u32 = 27;
/// Places of a table at first; all sizes are multiples of it. As many entries are taken at once.
const FIRST: u64 = 16;

/// A place of a table: the part of the address, and the entry, counted from one; 0: free.
type Place = u64;

#[repr(C, align(64))]
struct Shard {
    lock: Biased,
    count: Cell<u32>,
    places: Cell<*mut Place>,
    size: Cell<u64>,
    /// The first of the entries that are not used, counted from one.
    free: Cell<u32>,
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
    /// As many as [`SHARDS`]; zero bytes are one without a table.
    shards: *const Shard,
    /// What tables left that grew out of their places.
    spare: *const Spare,
    tables: Table,
}

/// The table of an address, and the part of it that the table does not fix; `None` for one
/// that has more bits.
///
/// The product with an odd number, cut to as many bits, gives each mebibyte another number.
#[inline]
fn part(address: u64) -> Option<(usize, u32)> {
    const ODD: u64 = 0x3c6_ef37;
    let mebibyte = address >> 20;
    if mebibyte >> MEBIBYTE_BITS != 0 {
        return None;
    }
    let mixed = mebibyte.wrapping_mul(ODD) & ((1 << MEBIBYTE_BITS) - 1);
    let shard = mixed >> (MEBIBYTE_BITS - BITS);
    let rest = mixed & ((1 << (MEBIBYTE_BITS - BITS)) - 1);
    Some((shard as usize, (rest << 16 | address >> 4 & 0xffff) as u32))
}

/// The place of a part in a table of that size.
#[inline]
fn home(part: u32, size: u64) -> u64 {
    (u64::from(part.wrapping_mul(0x9e37_79b1)) * size) >> 32
}

const fn part_of(place: Place) -> u32 {
    (place >> 32) as u32
}

impl Blocks {
    /// Bytes that the tables of so many blocks need, with what those left that grew.
    pub(crate) const fn table_bytes(most: u64) -> usize {
        size_of::<Shard>() * SHARDS + size_of::<Spare>() + most as usize * 64
    }

    /// Nothing so far; `None` where there is no memory for it.
    ///
    /// What all threads share is in `tables`, too: on the way through a stack it would take
    /// more of it than a program may have given to the thread that calls malloc first.
    pub(crate) fn new(area: Area, tables: Table) -> Option<Self> {
        let shards = tables.take(size_of::<Shard>() * SHARDS)? as *const Shard;
        let spare = tables.take(size_of::<Spare>())? as *const Spare;
        Some(Self { area, shards, spare, tables })
    }

    #[inline]
    fn shard(&self, number: usize) -> &Shard {
        // SAFETY: the number has as many bits as that of tables.
        unsafe { &*self.shards.add(number) }
    }

    fn spare(&self) -> &Spare {
        // SAFETY: it stays; its parts change under the lock of the tables.
        unsafe { &*self.spare }
    }

    fn all(&self) -> impl Iterator<Item = &Shard> + Clone {
        (0..SHARDS).map(|number| self.shard(number))
    }

    /// The entry counted from one.
    #[inline]
    fn entry(&self, number: u32) -> *mut Block {
        self.area.at(number as usize - 1)
    }

    /// Has the block's place brought near, while something else is done.
    #[inline]
    pub(crate) fn prefetch(&self, address: u64) {
        let Some((shard, part)) = part(address) else { return };
        let shard = self.shard(shard);
        // What another thread replaces meanwhile makes this useless, not wrong.
        let at = shard.places.get().wrapping_add(home(part, shard.size.get()) as usize);
        crate::memory::prefetch(at as u64);
    }

    /// Keeps a block, in place of what was kept of its address; whether there was room.
    ///
    /// `inside` is the calling thread's, where it has one; likewise below.
    #[inline]
    pub(crate) fn insert(&self, inside: Option<&'static Inside>, address: u64, kept: Kept) -> bool {
        let Some((shard, part)) = part(address) else { return false };
        let shard = self.shard(shard);
        shard.lock.with(inside, || {
            if u64::from(shard.count.get()) * 5 >= shard.size.get() * 4 && !self.grow(shard) {
                return false;
            }
            // SAFETY: under the table's lock; entries in it were handed out.
            unsafe {
                let place = find(shard, part);
                let number = if *place == 0 {
                    if shard.free.get() == 0 && !self.refill(shard) {
                        return false;
                    }
                    let number = shard.free.get();
                    shard.free.set((*self.entry(number)).next);
                    *place = u64::from(part) << 32 | u64::from(number);
                    shard.count.set(shard.count.get() + 1);
                    number
                } else {
                    *place as u32
                };
                let entry = self.entry(number);
                (*entry).key.store(0, Ordering::Release);
                (*entry).size = kept.size;
                (*entry).stack = kept.stack;
                (*entry).thread = kept.thread;
                (*entry).time = kept.time;
                (*entry).key.store(!address, Ordering::Release);
            }
            true
        })
    }

    /// Forgets a block; whether it was kept.
    #[inline]
    pub(crate) fn remove(&self, inside: Option<&'static Inside>, address: u64) -> bool {
        self.take_out(inside, address, |_| ()).is_some()
    }

    /// Forgets a block: what was kept of it.
    pub(crate) fn take(&self, inside: Option<&'static Inside>, address: u64) -> Option<Kept> {
        self.take_out(inside, address, |entry| {
            let Block { size, stack, thread, time, .. } = *entry;
            Kept { size, stack, thread, time }
        })
    }

    #[inline]
    fn take_out<T>(
        &self,
        inside: Option<&'static Inside>,
        address: u64,
        read: impl FnOnce(&Block) -> T,
    ) -> Option<T> {
        let (shard, part) = part(address)?;
        let shard = self.shard(shard);
        shard.lock.with(inside, || {
            if shard.count.get() == 0 {
                return None;
            }
            // SAFETY: under the table's lock; entries in it were handed out.
            unsafe {
                let place = find(shard, part);
                if *place == 0 {
                    return None;
                }
                let number = *place as u32;
                let entry = self.entry(number);
                let kept = read(&*entry);
                (*entry).key.store(0, Ordering::Release);
                (*entry).next = shard.free.replace(number);
                close(shard, place);
                shard.count.set(shard.count.get() - 1);
                Some(kept)
            }
        })
    }

    /// Hands entries to a table; whether there were any.
    #[cold]
    #[inline(never)]
    fn refill(&self, shard: &Shard) -> bool {
        let Some(first) = self.area.take(FIRST) else { return false };
        for number in (1..=FIRST).rev() {
            let number = (first + number) as u32;
            // SAFETY: it was handed out just now.
            unsafe { (*self.entry(number)).next = shard.free.replace(number) };
        }
        true
    }

    /// Moves a table to where there is more room; whether it has some now.
    #[cold]
    #[inline(never)]
    fn grow(&self, shard: &Shard) -> bool {
        let old = shard.size.get();
        // 1, 2, 3, 4, 6, 8, 12, … times the first.
        let size = match old {
            0 => FIRST,
            FIRST => 2 * FIRST,
            _ if (old / FIRST).is_power_of_two() => old + old / 2,
            _ => old + old / 3,
        };
        let bytes = size as usize * size_of::<Place>();
        let Some(places) = self.tables.take_or(self.spare(), bytes) else {
            // One place stays free, which ends every search.
            return u64::from(shard.count.get()) + 1 < old;
        };
        let before = shard.places.get();
        shard.places.set(places as *mut Place);
        shard.size.set(size);
        for at in 0..old as usize {
            // SAFETY: within the old table; the new one has room.
            unsafe {
                let place = *before.add(at);
                if place != 0 {
                    *find(shard, part_of(place)) = place;
                }
            }
        }
        self.tables.give_back(self.spare(), before as usize, old as usize * size_of::<Place>());
        true
    }

    /// Takes all locks, so that a fork finds the tables whole.
    ///
    /// `alone` says whether no thread but this can own one.
    pub(crate) fn take_all(&self, alone: impl FnOnce() -> bool) {
        lock::take_all(self.all().map(|shard| &shard.lock), alone);
        self.tables.lock.take();
        self.area.lock.take();
    }

    /// Gives all tables locks without owners, for which no barrier is needed.
    pub(crate) fn disown(&self, alone: impl FnOnce() -> bool) {
        lock::take_all(self.all().map(|shard| &shard.lock), alone);
        lock::disown(self.all().map(|shard| &shard.lock));
        lock::leave_all(self.all().map(|shard| &shard.lock));
    }

    /// Lets go of all locks.
    pub(crate) fn leave_all(&self) {
        self.area.lock.leave();
        self.tables.lock.leave();
        lock::leave_all(self.all().map(|shard| &shard.lock));
    }
}

/// The place of a part, or the free one where it would stand.
///
/// # Safety
///
/// The table's lock is taken, and it has a free place.
#[inline]
unsafe fn find(shard: &Shard, part: u32) -> *mut Place {
    let size = shard.size.get();
    let mut at = home(part, size);
    // SAFETY: below the size, and by the caller's word the search ends.
    unsafe {
        loop {
            let place = shard.places.get().add(at as usize);
            if *place == 0 || part_of(*place) == part {
                return place;
            }
            at += 1;
            if at == size {
                at = 0;
            }
        }
    }
}

/// Frees a place, and moves those behind up that could not stand at their own.
///
/// # Safety
///
/// As for [`find`]; the place is one of the table's.
#[inline]
unsafe fn close(shard: &Shard, place: *mut Place) {
    let size = shard.size.get();
    // SAFETY: all numbers are below the size, and by the caller's word there is a free place.
    unsafe {
        let first = shard.places.get();
        let mut hole = place.offset_from(first) as u64;
        let mut at = hole;
        loop {
            at += 1;
            if at == size {
                at = 0;
            }
            let next = *first.add(at as usize);
            if next == 0 {
                break;
            }
            // How far it stands from its own place, and how far the hole is.
            let behind = |from: u64| if at >= from { at - from } else { at + size - from };
            if behind(home(part_of(next), size)) >= behind(hole) {
                *first.add(hole as usize) = next;
                hole = at;
            }
        }
        *first.add(hole as usize) = 0;
    }
}
