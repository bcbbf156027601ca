//! One libc's arenas, before its memory is gone over.

use crate::memory::Memory;
use crate::peek::Peek;

use super::arenas::ArenaState;
use super::fit;
use super::harm::Harm;
use super::heaps::Heaps;
use super::locate::Ring;
use super::params::{self, Params};

/// A libc: where its arenas are, what each says of itself, and malloc's parameters.
pub(super) struct Libc {
    pub ring: Ring,
    /// The main arena first.
    pub states: Vec<ArenaState>,
    pub params: Option<Params>,
}

impl Libc {
    pub(super) fn read(memory: &dyn Memory, ring: Ring, heaps: &Heaps, harm: &mut Harm) -> Self {
        let mut peek = Peek::new(memory);
        let mut states = Vec::new();
        let outside = heaps.outside(memory, &ring);
        for (index, address) in ring.states.iter().chain(&outside).enumerate() {
            match ArenaState::read(&mut peek, ring.layout, *address, index == 0) {
                Some(state) => states.push(state),
                None => harm.note(*address, 0, 0, "the arena's structure cannot be read"),
            }
        }
        let main = states.first().copied();
        let params = main.and_then(|main| params::find(memory, ring.layout, main.address, main.top));
        let mut ring = ring;
        if let Some(looser) = ring.looser {
            let reach = |layout| fit::reach(memory, layout, &states, params);
            if reach(looser) > reach(ring.layout) {
                ring.layout = looser;
            }
        }
        Self { ring, states, params }
    }
}
