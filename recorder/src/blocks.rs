//! The live blocks, found by their address.
//!
//! Sixty-four tables, each with a lock of its own; chains of entries in each. One way
//! is a single table without locks: it cannot grow without a moment in which nobody may
//! use it, and a block's entry would have to be found by probing. A table here grows in
//! place: its buckets double, and half of each chain moves.
//!
//! Memory: 32 bytes for each entry, and four to eight for its bucket.

use core::cell::Cell;
use core::sync::atomic::Ordering;

use crate::layout::Block;
use crate::lock::Lock;
use crate::memory::Area;

const SHARDS: usize = 64;
/// Buckets that a table has at first, as a power of two.
const FIRST_BITS: u32 = 7;
/// Entries that a table takes from the area at once: a page.
const BATCH: u64 = 128;

#[repr(C, align(64))]
struct Shard {
    lock: Lock,
    /// The first of the entries that nobody uses, counted from one.
    free: Cell<u32>,
    count: Cell<u32>,
    bits: Cell<u32>,
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
    /// Where the buckets are, and how many bytes each table has for them.
    buckets: usize,
    stride: usize,
    most_bits: u32,
}

/// Spreads addresses over all bits.
#[inline]
fn hash(address: u64) -> u64 {
    (address >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Blocks {
    /// Bytes of the table that `new` needs for so many blocks.
    pub(crate) fn table_bytes(capacity: u64) -> usize {
        SHARDS << (Self::bits(capacity) + 2)
    }

    fn bits(capacity: u64) -> u32 {
        (capacity / SHARDS as u64).next_power_of_two().trailing_zeros().max(FIRST_BITS)
    }

    pub(crate) fn new(area: Area, table: usize, capacity: u64) -> Self {
        let most_bits = Self::bits(capacity);
        let shards = core::array::from_fn(|_| Shard {
            lock: Lock::new(),
            free: Cell::new(0),
            count: Cell::new(0),
            bits: Cell::new(FIRST_BITS),
        });
        Self { area, shards, buckets: table, stride: 4 << most_bits, most_bits }
    }

    #[inline]
    fn shard(&self, hash: u64) -> (&Shard, *mut u32) {
        let number = (hash >> 58) as usize;
        // SAFETY: six bits are below 64.
        let shard = unsafe { self.shards.get_unchecked(number) };
        (shard, (self.buckets + number * self.stride) as *mut u32)
    }

    /// The entry counted from one.
    #[inline]
    fn entry(&self, number: u32) -> *mut Block {
        self.area.at(number as usize - 1)
    }

    #[inline]
    fn place(hash: u64, bits: u32) -> usize {
        (hash >> 24) as usize & ((1 << bits) - 1)
    }

    /// Keeps a block, in place of what was kept of its address; whether there was room.
    #[inline]
    pub(crate) fn insert(&self, address: u64, kept: Kept) -> bool {
        let hash = hash(address);
        let (shard, buckets) = self.shard(hash);
        shard.lock.with(|| {
            // SAFETY: below the number of buckets, which the table has room for; links lead
            // to entries that were handed out; all of it under the table's lock.
            unsafe {
                let bucket = buckets.add(Self::place(hash, shard.bits.get()));
                let mut number = *bucket;
                while number != 0 {
                    let entry = self.entry(number);
                    if (*entry).key.load(Ordering::Relaxed) == !address {
                        (*entry).key.store(0, Ordering::Release);
                        fill(entry, address, kept);
                        return true;
                    }
                    number = (*entry).next;
                }
                let Some(number) = self.fresh(shard) else { return false };
                let entry = self.entry(number);
                (*entry).next = *bucket;
                fill(entry, address, kept);
                *bucket = number;
                shard.count.set(shard.count.get() + 1);
                if shard.count.get() >> shard.bits.get() != 0 && shard.bits.get() < self.most_bits {
                    self.double(shard, buckets);
                }
            }
            true
        })
    }

    /// Forgets a block: what was kept of it.
    #[inline]
    pub(crate) fn remove(&self, address: u64) -> Option<Kept> {
        let hash = hash(address);
        let (shard, buckets) = self.shard(hash);
        shard.lock.with(|| {
            // SAFETY: as above.
            unsafe {
                let mut link = buckets.add(Self::place(hash, shard.bits.get()));
                while *link != 0 {
                    let number = *link;
                    let entry = self.entry(number);
                    if (*entry).key.load(Ordering::Relaxed) == !address {
                        let Block { size, stack, thread, time, .. } = *entry;
                        (*entry).key.store(0, Ordering::Release);
                        *link = (*entry).next;
                        (*entry).next = shard.free.replace(number);
                        shard.count.set(shard.count.get() - 1);
                        return Some(Kept { size, stack, thread, time });
                    }
                    link = &raw mut (*entry).next;
                }
            }
            None
        })
    }

    /// An entry that nobody uses.
    #[inline]
    fn fresh(&self, shard: &Shard) -> Option<u32> {
        if shard.free.get() == 0 {
            self.refill(shard)?;
        }
        let number = shard.free.get();
        // SAFETY: it is one of those handed out to this table, whose lock is taken.
        shard.free.set(unsafe { (*self.entry(number)).next });
        Some(number)
    }

    #[cold]
    fn refill(&self, shard: &Shard) -> Option<()> {
        let first = u32::try_from(self.area.take(BATCH)?).ok()?;
        for number in (1..=BATCH as u32).rev() {
            let number = first + number;
            // SAFETY: it was handed out just now.
            unsafe { (*self.entry(number)).next = shard.free.replace(number) };
        }
        Some(())
    }

    /// Doubles the buckets of a table.
    ///
    /// # Safety
    ///
    /// The table's lock is taken, and there is room for twice as many.
    #[cold]
    unsafe fn double(&self, shard: &Shard, buckets: *mut u32) {
        let bits = shard.bits.get();
        let half = 1_usize << bits;
        for at in 0..half {
            // SAFETY: both buckets lie in the table's room, and links lead to its entries.
            unsafe {
                let mut stay = buckets.add(at);
                let mut move_to = buckets.add(at + half);
                let mut number = *stay;
                while number != 0 {
                    let entry = self.entry(number);
                    let address = !(*entry).key.load(Ordering::Relaxed);
                    let link = if Self::place(hash(address), bits + 1) == at { &mut stay } else { &mut move_to };
                    **link = number;
                    *link = &raw mut (*entry).next;
                    number = (*entry).next;
                }
                *stay = 0;
                *move_to = 0;
            }
        }
        shard.bits.set(bits + 1);
    }

    /// Takes all locks, so that a fork finds the tables whole.
    pub(crate) fn take_all(&self) {
        for shard in &self.shards {
            shard.lock.take();
        }
        self.area.lock.take();
    }

    /// Lets go of all locks.
    pub(crate) fn leave_all(&self) {
        self.area.lock.leave();
        for shard in &self.shards {
            shard.lock.leave();
        }
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
