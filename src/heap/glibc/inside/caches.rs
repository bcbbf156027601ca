//! A thread's cache that is not cleared yet.
//!
//! glibc 2.26 to 2.43, malloc/malloc.c, `tcache_init`: the thread's variable leads to the block
//! first, then the block is cleared; since 2.42 the counts get their maximum after that.

use std::collections::BTreeSet;

use super::Scene;

impl Scene<'_> {
    pub(super) fn caches(&mut self) {
        let attempt = self.attempt;
        let Some(caches) = &attempt.reading.caches else { return };
        let whole = attempt.checks.iter().all(|check| check.rule != "tcache-counts" || check.holds);
        if whole && attempt.reading.links.count == 0 {
            return;
        }
        let machine = self.machine();
        let (entries, size) = (caches.layout.entries(machine), caches.layout.size(machine));
        let bits = caches.layout.count.saturating_mul(8);
        let many =
            |word: u64, _| word.checked_shl(u32::try_from(bits).unwrap_or(0)).unwrap_or(0) | caches.fill;
        let per_word = machine.word.checked_div(caches.layout.count).unwrap_or(0);
        let counts = if caches.layout.down { (0..per_word).fold(0, many) } else { 0 };
        let leading: BTreeSet<u32> = attempt.reading.followed.held.iter().map(|(_, owner)| *owner).collect();
        for (number, cache) in (0..).zip(&caches.found) {
            let chunk = cache.address.saturating_sub(machine.header());
            // One that leads to a block is in use: what is wrong with it is damage.
            if leading.contains(&number) || !self.hints.held(chunk, machine.header()) {
                continue;
            }
            let words = (0..size).step_by(usize::try_from(machine.word).unwrap_or(8));
            let words: Vec<(u64, u64)> = words
                .map(|offset| {
                    (cache.address.saturating_add(offset), if offset < entries { counts } else { 0 })
                })
                .collect();
            let arena = attempt.reading.states.first().map_or(0, |(_, state)| state.address);
            self.guess(arena, format!("the cache at {:#x} is being made", cache.address), words);
        }
    }
}
