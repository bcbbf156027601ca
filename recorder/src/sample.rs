//! Which allocations are recorded where not all are.
//!
//! Each byte asked for starts a sample with probability 1/N. The number of bytes up to
//! the next one is then exponential, and so is what is left of it behind any allocation:
//! a thread counts down, and draws anew when it reaches zero.

use core::cell::Cell;
use core::sync::atomic::{AtomicU8, Ordering};

/// Slots of the filter, as a power of two: a byte each, so that the nearer caches hold them.
const BITS: u32 = 15;

/// How many sampled blocks have addresses of each kind, so that giving back one that was
/// not sampled costs a look.
pub(crate) struct Filter {
    counts: *const AtomicU8,
}

impl Filter {
    /// Bytes of the table that `new` needs.
    pub(crate) const TABLE_BYTES: usize = 1 << BITS;

    pub(crate) const fn new(table: usize) -> Self {
        Self { counts: table as *const AtomicU8 }
    }

    #[inline]
    fn count(&self, address: u64) -> &AtomicU8 {
        let at = (address >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS);
        // SAFETY: the number is below that of slots.
        unsafe { &*self.counts.add(at as usize) }
    }

    /// Whether the block may have been sampled.
    #[inline]
    pub(crate) fn may_have(&self, address: u64) -> bool {
        self.count(address).load(Ordering::Relaxed) != 0
    }

    pub(crate) fn add(&self, address: u64) {
        // One that is full stays full: then it only says "may".
        let _ = self
            .count(address)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_add(1));
    }

    pub(crate) fn remove(&self, address: u64) {
        let less = |count: u8| if count == u8::MAX { None } else { count.checked_sub(1) };
        let _ = self.count(address).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// One thread's way to the next sample.
#[repr(C)]
pub(crate) struct Countdown {
    left: Cell<i64>,
    random: Cell<u64>,
}

impl Countdown {
    /// Starts with numbers of its own.
    pub(crate) fn start(&self, seed: u64, sample: u64) {
        self.random.set(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        self.left.set(self.draw(sample));
    }

    /// Whether an allocation of so many bytes is not sampled; then it is counted.
    ///
    /// What a signal handler allocates in between may go uncounted.
    #[inline]
    pub(crate) fn passes(&self, size: u64) -> bool {
        let left = self.left.get() - size.clamp(1, 1 << 62) as i64;
        if left > 0 {
            self.left.set(left);
        }
        left > 0
    }

    /// Whether an allocation of so many bytes is sampled.
    #[inline]
    pub(crate) fn takes(&self, size: u64, sample: u64) -> bool {
        if self.passes(size) {
            return false;
        }
        self.left.set(self.draw(sample));
        true
    }

    /// Bytes up to and including the next that starts a sample, one for `sample` on average.
    #[cold]
    fn draw(&self, sample: u64) -> i64 {
        // xorshift64* (Vigna, 2016).
        let mut state = self.random.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.set(state);
        let bits = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        // In (0, 1], in steps of 2^-53.
        let uniform = (bits + 1) as f64 / (1_u64 << 53) as f64;
        let bytes = -libm::log(uniform) * sample as f64;
        (bytes as i64).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::Countdown;
    use core::cell::Cell;

    /// How many of `count` allocations of `size` bytes are taken.
    fn taken(size: u64, sample: u64, count: u32, seed: u64) -> f64 {
        let countdown = Countdown { left: Cell::new(0), random: Cell::new(0) };
        countdown.start(seed, sample);
        f64::from((0..count).map(|_| u32::from(countdown.takes(size, sample))).sum::<u32>())
    }

    #[test]
    fn an_allocation_is_taken_with_the_stated_probability() {
        for (size, sample) in [(1, 10), (64, 1000), (1000, 1000), (5000, 1000), (100, 65536)] {
            let count = 400_000;
            let expected = 1.0 - (-(size as f64) / sample as f64).exp();
            let found = taken(size, sample, count, 77 + size) / f64::from(count);
            let error = (expected * (1.0 - expected) / f64::from(count)).sqrt();
            // Drawing whole bytes shifts it by less than one byte in `sample`.
            let shift = 1.0 / sample as f64;
            assert!(
                (found - expected).abs() < 5.0 * error + shift,
                "{size} of {sample}: {found}, not {expected}"
            );
        }
    }

    #[test]
    fn estimates_from_samples_have_no_bias() {
        let (size, sample) = (300_u64, 4096_u64);
        let chance = 1.0 - (-(size as f64) / sample as f64).exp();
        let sums: Vec<f64> = (1..200).map(|seed| taken(size, sample, 2000, seed) / chance).collect();
        let mean = sums.iter().sum::<f64>() / sums.len() as f64;
        let error = (2000.0 * (1.0 - chance) / chance / sums.len() as f64).sqrt();
        assert!((mean - 2000.0).abs() < 5.0 * error + 1.0, "{mean} +- {error}");
    }
}
