//! What was found broken, counted, and the first of it kept.

use crate::heap::allocator::Damage;

/// How much of it is named.
const NAMED: usize = 256;

/// How many places off the walk are kept: a list ends at the first of its own.
const ASTRAY: usize = 1 << 16;

/// Damage as it is met.
#[derive(Clone, Default, Debug)]
pub(super) struct Harm {
    /// The first of it.
    pub named: Vec<Damage>,
    /// How much there is in all.
    pub count: u64,
    /// Where lists lead to a chunk that the walk did not find.
    pub astray: Vec<u64>,
}

impl Harm {
    /// Notes that `value` at `address` breaks a rule, and how many bytes had to be skipped.
    pub(super) fn note(&mut self, address: u64, value: u64, skipped: u64, rule: impl Into<String>) {
        self.count = self.count.saturating_add(1);
        if self.named.len() < NAMED {
            self.named.push(Damage { address, value, rule: rule.into(), skipped });
        }
    }

    /// Notes that a list leads to what looks like a chunk at `address`, where the walk found none.
    pub(super) fn astray(&mut self, address: u64) {
        if self.astray.len() < ASTRAY {
            self.astray.push(address);
        }
    }

    /// Takes over what another met.
    pub(super) fn merge(&mut self, other: Self) {
        let room = NAMED.saturating_sub(self.named.len());
        self.named.extend(other.named.into_iter().take(room));
        self.count = self.count.saturating_add(other.count);
        self.astray.extend(other.astray);
    }
}
