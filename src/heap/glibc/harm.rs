//! What was found broken, counted, and the first of it kept.

use crate::heap::allocator::Damage;

/// How much of it is named.
const NAMED: usize = 256;

/// Damage as it is met.
#[derive(Clone, Default, Debug)]
pub(super) struct Harm {
    /// The first of it.
    pub named: Vec<Damage>,
    /// How much there is in all.
    pub count: u64,
}

impl Harm {
    /// Notes that `value` at `address` breaks a rule, and how many bytes had to be skipped.
    pub(super) fn note(&mut self, address: u64, value: u64, skipped: u64, rule: impl Into<String>) {
        self.count = self.count.saturating_add(1);
        if self.named.len() < NAMED {
            self.named.push(Damage { address, value, rule: rule.into(), skipped });
        }
    }

    /// Takes over what another met.
    pub(super) fn merge(&mut self, other: Self) {
        let room = NAMED.saturating_sub(self.named.len());
        self.named.extend(other.named.into_iter().take(room));
        self.count = self.count.saturating_add(other.count);
    }
}
