//! What could be given back to the system.

use crate::error::Error;
use crate::heap::allocator::Trim;
use crate::heap::block::{Blocks, State, Unit};
use crate::memory::Memory;
use crate::pages;
use crate::pass::Job;
use crate::range::AddressRange;

use super::arenas::ArenaState;
use super::layout::{PAGE, StateLayout, up};

/// What `malloc_trim(0)` could give back at most, and what pins the end of the main arena.
///
/// glibc 2.17 to 2.43, malloc/malloc.c, `mtrim`: up to 2.42 chunks in fastbins are merged with
/// their free neighbours first (`malloc_consolidate`); then, of every arena, the whole pages
/// behind the first six words of each chunk on the unsorted list and on the lists of a page and
/// more (what borders on a top chunk became part of that); `systrim`: of the main arena's top
/// chunk all whole pages but for the smallest chunk and a byte. Pages that were given back
/// already, or never touched, are counted on their own.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub(super) fn trim(
    memory: &dyn Memory,
    blocks: &Blocks,
    main: Option<(StateLayout, ArenaState)>,
    job: &Job,
) -> Result<Trim, Error> {
    let Some((layout, state)) = main else { return Ok(Trim::default()) };
    let machine = layout.machine;
    let head = machine.word.saturating_mul(6);
    let least = machine.bin(PAGE);
    let large = |size: u64| machine.bin(size) >= least;
    let mut whole: Vec<AddressRange> = Vec::new();
    let mut pin = None;
    for span in blocks.spans() {
        job.check()?;
        let mut last_used = None;
        // Free chunks without a used one between, and whether one is in a fastbin.
        let mut run = Run::default();
        for unit in blocks.units_of(span) {
            if unit.state.free() && unit.state != State::Tcache {
                run.add(&unit);
                continue;
            }
            if unit.state == State::Top {
                if unit.range.start() == state.top {
                    let size = unit.range.len().saturating_add(run.bytes);
                    let area = size.saturating_sub(machine.smallest()).saturating_sub(1);
                    // It is the end of the heap that moves.
                    let extra = area & !(PAGE.wrapping_sub(1));
                    whole.push(AddressRange::saturating(unit.range.end().saturating_sub(extra), extra));
                    pin = last_used;
                }
                run = Run::default();
            }
            // Most units follow a used one.
            if run.bytes > 0 {
                whole.extend(run.pages(head, large));
                run = Run::default();
            }
            if unit.state.used() || unit.state == State::Tcache {
                last_used = Some(unit.index);
            }
        }
        whole.extend(run.pages(head, large));
    }
    // Top chunks may be merged with what lies before them: what overlaps counts once.
    let whole = AddressRange::merge(whole);
    let all = whole.iter().map(|range| range.len()).fold(0, u64::saturating_add);
    let bytes = match pages::resident(memory, &whole, job)? {
        Some(resident) => resident,
        None => pages::not_zero(memory, &whole, job)?,
    };
    Ok(Trim { bytes, returned: all.saturating_sub(bytes), pin })
}

/// Free chunks that lie side by side.
#[derive(Default)]
struct Run {
    start: u64,
    bytes: u64,
    /// Whether they are looked at whatever their size: on the unsorted list, or put there when
    /// fastbins are emptied.
    unsorted: bool,
}

impl Run {
    fn add(&mut self, unit: &Unit) {
        if self.bytes == 0 {
            self.start = unit.range.start();
        }
        self.bytes = self.bytes.saturating_add(unit.range.len());
        self.unsorted |= matches!(unit.state, State::Fast | State::Unsorted);
    }

    /// Its whole pages behind the first `head` bytes, if there are any.
    fn pages(&self, head: u64, large: impl Fn(u64) -> bool) -> Option<AddressRange> {
        let looked_at = self.unsorted || large(self.bytes);
        if !looked_at || self.bytes < PAGE.saturating_add(head) {
            return None;
        }
        let first = up(self.start.saturating_add(head), PAGE);
        let bytes = self.start.saturating_add(self.bytes).saturating_sub(first) & !(PAGE.wrapping_sub(1));
        Some(AddressRange::saturating(first, bytes)).filter(|range| !range.is_empty())
    }
}
