//! Sets of small numbers.

/// A set of numbers below a limit that is given when it is made.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// An empty set for numbers below `limit`.
    pub(super) fn new(limit: usize) -> Self {
        Self { words: vec![0; limit.div_ceil(64)] }
    }

    /// All numbers below `limit`.
    pub(super) fn all(limit: usize) -> Self {
        Self { words: vec![u64::MAX; limit.div_ceil(64)] }
    }

    pub(super) fn has(&self, number: usize) -> bool {
        self.words.get(number >> 6).is_some_and(|word| word & (1 << (number & 63)) != 0)
    }

    pub(super) fn add(&mut self, number: usize) {
        if let Some(word) = self.words.get_mut(number >> 6) {
            *word |= 1 << (number & 63);
        }
    }

    pub(super) fn remove(&mut self, number: usize) {
        if let Some(word) = self.words.get_mut(number >> 6) {
            *word &= !(1 << (number & 63));
        }
    }

    /// Adds the lowest 16 numbers that `set` has a bit for.
    pub(super) fn add_low(&mut self, set: u16) {
        if let Some(word) = self.words.first_mut() {
            *word |= u64::from(set);
        }
    }

    /// Removes the lowest 16 numbers that `set` has a bit for.
    pub(super) fn remove_low(&mut self, set: u16) {
        if let Some(word) = self.words.first_mut() {
            *word &= !u64::from(set);
        }
    }

    /// Adds all of `other`; returns whether any was new.
    pub(super) fn unite(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (own, other) in self.words.iter_mut().zip(&other.words) {
            changed |= *other & !*own != 0;
            *own |= other;
        }
        changed
    }

    /// Adds those of `other` that are not below `from`.
    pub(super) fn unite_from(&mut self, other: &Self, from: usize) {
        for (index, (own, other)) in self.words.iter_mut().zip(&other.words).enumerate().skip(from >> 6) {
            let mask = if index == from >> 6 { u64::MAX << (from & 63) } else { u64::MAX };
            *own |= other & mask;
        }
    }

    /// Keeps only those that are in `other`; returns whether any was dropped.
    pub(super) fn keep(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (own, other) in self.words.iter_mut().zip(&other.words) {
            changed |= *own & !*other != 0;
            *own &= other;
        }
        changed
    }
}
