//! The second pair of links of large free chunks, from size to size.
//!
//! glibc 2.17 to 2.43, malloc/malloc.c, `struct malloc_chunk`, `unlink_chunk`: on a list of large
//! chunks the first of each size leads to the next smaller and the next larger size (`fd_nextsize`,
//! `bk_nextsize`), around; the others of that size have zero there. A call changes several of these
//! links one after the other, so they are held to this only where no thread is within one.

use crate::heap::block::{Blocks, State};
use crate::peek::Peek;

use super::arenas::ArenaState;
use super::chunk::Chunk;
use super::free_lists::{list_state, name};
use super::harm::Harm;
use super::layout::{BINS, StateLayout};

/// Holds the links between sizes of an arena's large chunks to each other.
///
/// The lists themselves were followed before: only chunks that are marked as on them are looked at.
pub(super) fn check(
    peek: &mut Peek<'_>,
    blocks: &Blocks,
    (layout, state): (StateLayout, ArenaState),
    harm: &mut Harm,
) {
    for index in (1..BINS).filter(|index| list_state(*index) == State::Large) {
        let mut links = SizeLinks { peek, blocks, layout };
        if let Some((place, value)) = links.broken(layout.bin_at(state.address, index)) {
            let list = name(index);
            harm.note(
                place,
                value,
                0,
                format!("{list}: the link to another size leads to no chunk that leads back"),
            );
        }
    }
}

struct SizeLinks<'l, 'm> {
    peek: &'l mut Peek<'m>,
    blocks: &'l Blocks,
    layout: StateLayout,
}

impl SizeLinks<'_, '_> {
    /// The first link on the list at `head` that is wrong, and where it stands.
    fn broken(&mut self, head: u64) -> Option<(u64, u64)> {
        let machine = self.layout.machine;
        let (header, word) = (machine.header(), machine.word);
        let mut at = self.peek.word(head.checked_add(header)?)?;
        let mut size = 0;
        for _ in 0..self.blocks.len() {
            let own = self.large(at)?;
            let place = at.checked_add(header.saturating_mul(2))?;
            let (smaller, larger) = self.peek.two(place)?;
            // Sizes come in order, so that the first of each is where the size changes.
            let first = size != own;
            if first || smaller != 0 {
                if !self.leads(smaller, at, word) {
                    return Some((place, smaller));
                }
                if !self.leads(larger, at, 0) {
                    return Some((place.checked_add(word)?, larger));
                }
            }
            size = own;
            at = self.peek.word(at.checked_add(header)?)?;
        }
        None
    }

    /// The size of the chunk at `at`, if it is on a list of large ones.
    fn large(&mut self, at: u64) -> Option<u64> {
        self.blocks.unit_from(at).filter(|unit| unit.state == State::Large)?;
        Chunk::read(self.peek, at).map(Chunk::size)
    }

    /// Whether the chunk at `from` is a large one, and leads to `to` by the link `offset` bytes behind the first.
    fn leads(&mut self, from: u64, to: u64, offset: u64) -> bool {
        let place = from.wrapping_add(self.layout.machine.header().wrapping_mul(2)).wrapping_add(offset);
        self.large(from).is_some() && self.peek.word(place) == Some(to)
    }
}
