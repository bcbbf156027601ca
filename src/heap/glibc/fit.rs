//! Which of two layouts the chunks fit, where the arenas themselves look the same in both.

use crate::heap::block::{Part, Shape};
use crate::memory::Memory;
use crate::pass::Job;
use crate::peek::Peek;

use super::arenas::ArenaState;
use super::extent::run_of;
use super::heaps::own_heap;
use super::known::Known;
use super::layout::StateLayout;
use super::params::Params;
use super::walk::{End, Stretch, Walk};

/// In how many arenas chunks of this layout lead from where its memory starts to a proper end, and
/// over how many bytes they lead in all.
pub(super) fn reach(
    memory: &dyn Memory,
    layout: StateLayout,
    states: &[ArenaState],
    params: Option<Params>,
) -> (u64, u64) {
    let (mut proper, mut bytes) = (0_u64, 0_u64);
    for state in states {
        let led =
            if state.main { main(memory, layout, *state, params) } else { further(memory, layout, *state) };
        if let Some((ends, length)) = led {
            proper = proper.saturating_add(u64::from(ends));
            bytes = bytes.saturating_add(length);
        }
    }
    (proper, bytes)
}

fn main(
    memory: &dyn Memory,
    layout: StateLayout,
    state: ArenaState,
    params: Option<Params>,
) -> Option<(bool, u64)> {
    let base = params.map_or(state.top, |params| params.base);
    let first = layout.machine.first_chunk(base);
    let run = run_of(memory, base)?;
    let top = (first..run.end()).contains(&state.top).then_some(state.top);
    let stretch = Stretch { limit: run.end(), top, main: true, open: true };
    let (ends, length) = led(memory, layout, first, stretch);
    Some((ends && layout.machine.first_chunk(state.top) == state.top, length))
}

/// Of a further arena, in its first heap.
fn further(memory: &dyn Memory, layout: StateLayout, state: ArenaState) -> Option<(bool, u64)> {
    let mut peek = Peek::new(memory);
    let (_, heap) = own_heap(&mut peek, state.address, state.top)?;
    let limit = heap.checked_add(peek.word_at(heap, 2)?)?;
    let first = layout.machine.first_chunk(state.address.checked_add(layout.size(state.attached))?);
    let top = (first..limit).contains(&state.top).then_some(state.top);
    Some(led(memory, layout, first, Stretch { limit, top, main: false, open: false }))
}

fn led(memory: &dyn Memory, layout: StateLayout, first: u64, stretch: Stretch) -> (bool, u64) {
    let job = Job::default();
    let mut walk = Walk::new(memory, layout.machine, stretch, Known::NONE, &job);
    walk.strict = true;
    let mut part = Part::new(first, Shape { lead: 0, cost: 0 }, None);
    // Only a job that was stopped is an error.
    let end = walk.units(&mut part);
    (matches!(end, Ok(End::Top | End::Fence)), part.range().len())
}
