//! Each stack once: a trie of return addresses, the outermost first.

use core::cell::Cell;

use crate::layout::Node;
use crate::lock::Lock;
use crate::memory::{Area, Table};

const FIRST_BITS: u32 = 10;

pub(crate) struct Stacks {
    area: Area,
    pub(crate) lock: Lock,
    table: Table,
    buckets: usize,
    bits: Cell<u32>,
    most_bits: u32,
}

#[inline]
fn hash(parent: u32, pc: u64) -> u64 {
    (pc ^ (u64::from(parent) << 32).rotate_left(17) ^ u64::from(parent)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Stacks {
    /// Bytes of the table that `new` needs for so many nodes.
    pub(crate) fn table_bytes(capacity: u64) -> usize {
        4 << Self::most_bits(capacity)
    }

    fn most_bits(capacity: u64) -> u32 {
        capacity.next_power_of_two().trailing_zeros().max(FIRST_BITS)
    }

    pub(crate) fn new(area: Area, table: Table, capacity: u64) -> Option<Self> {
        // Node 0 is none.
        area.take(1)?;
        let buckets = table.take(4 << FIRST_BITS)?;
        Some(Self {
            area,
            lock: Lock::new(),
            table,
            buckets,
            bits: Cell::new(FIRST_BITS),
            most_bits: Self::most_bits(capacity),
        })
    }

    /// The node of a stack: the function called, its frames from the innermost on, and the generation.
    ///
    /// With it, whether it is new. `None` where there is no room for it.
    #[cold]
    #[inline(never)]
    pub(crate) fn node(&self, function: u64, frames: &[u64], generation: u32) -> Option<(u32, bool)> {
        self.lock.with(|| {
            let mut node = self.child(0, u64::from(generation))?;
            for pc in frames.iter().rev() {
                node = self.child(node, *pc)?;
            }
            let before = self.area.used();
            let node = self.child(node, function)?;
            Some((node, self.area.used() != before))
        })
    }

    fn node_at(&self, number: u32) -> *mut Node {
        self.area.at(number as usize)
    }

    fn bucket(&self, hash: u64, bits: u32) -> *mut u32 {
        let at = (hash >> 20) as usize & ((1 << bits) - 1);
        (self.buckets + at * 4) as *mut u32
    }

    /// The node below `parent` with that address, made if there is none.
    fn child(&self, parent: u32, pc: u64) -> Option<u32> {
        let hash = hash(parent, pc);
        // SAFETY: buckets lie in the table, links lead to nodes handed out; under the lock.
        unsafe {
            let bucket = self.bucket(hash, self.bits.get());
            let mut number = *bucket;
            while number != 0 {
                let node = self.node_at(number);
                if (*node).pc == pc && (*node).parent == parent {
                    return Some(number);
                }
                number = (*node).next;
            }
            let fresh = u32::try_from(self.area.take(1)?).ok()?;
            let node = self.node_at(fresh);
            (*node).pc = pc;
            (*node).parent = parent;
            (*node).next = *bucket;
            *bucket = fresh;
            if u64::from(fresh) >> self.bits.get() != 0 && self.bits.get() < self.most_bits {
                self.double();
            }
            Some(fresh)
        }
    }

    /// Doubles the buckets, and links all nodes anew.
    ///
    /// # Safety
    ///
    /// The lock is taken.
    #[cold]
    unsafe fn double(&self) {
        let bits = self.bits.get() + 1;
        // What is handed out stands behind what was.
        if self.table.take(2 << bits).is_none() {
            return;
        }
        let nodes = u32::try_from(self.area.used()).unwrap_or(u32::MAX);
        // SAFETY: the table has room for them; nodes up to there were handed out.
        unsafe {
            core::ptr::write_bytes(self.buckets as *mut u32, 0, 1 << bits);
            for number in 1..nodes {
                let node = self.node_at(number);
                let bucket = self.bucket(hash((*node).parent, (*node).pc), bits);
                (*node).next = *bucket;
                *bucket = number;
            }
        }
        self.bits.set(bits);
    }

    pub(crate) fn take_all(&self) {
        self.lock.take();
        self.table.lock.take();
        self.area.lock.take();
    }

    pub(crate) fn leave_all(&self) {
        self.area.lock.leave();
        self.table.lock.leave();
        self.lock.leave();
    }
}
