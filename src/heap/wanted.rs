//! Which blocks count, and a walk over them in address order with what each holds.

use std::ops::Range;

use crate::heap::allocator::Count;
use crate::heap::block::{Blocks, State, Unit};
use crate::heap::content::{Content, Contents, zeros};
use crate::memory::{Buffer, Memory};
use crate::range::AddressRange;

/// Units that one worker takes at a time.
const SLICE: usize = 1 << 15;

/// Slices of which results wait to be put together, for each thread.
const AHEAD: usize = 4;

/// What a caller knows about a block that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Label {
    /// A number that blocks of one group have in common, below eight.
    pub class: u8,
    /// Other blocks that it stands for, and their bytes.
    pub behind: Count,
    /// The number of the stack that allocated it; zero where that is not known.
    pub stack: u32,
    /// The bytes that it counts for, where these are not its usable ones.
    pub bytes: Option<u64>,
}

/// Says what is known of a unit; `None` where it is not wanted.
pub type Labels<'w> = dyn Fn(&Unit) -> Option<Label> + Sync + 'w;

/// Which blocks count.
#[derive(Clone, Default)]
pub struct Wanted<'w> {
    /// Only free ones, or only used ones.
    pub free: Option<bool>,
    /// Only those with so many usable bytes.
    pub size: Option<u64>,
    /// Only those that hold this.
    pub kind: Option<Content>,
    /// Only those that lie in these ranges, in order; no ranges are all.
    pub within: Vec<AddressRange>,
    /// Only those that have a label here.
    pub labels: Option<&'w Labels<'w>>,
}

impl Wanted<'_> {
    fn takes(&self, unit: &Unit) -> bool {
        let state = unit.state.block() && self.free.is_none_or(|free| unit.state.free() == free);
        let size = self.size.is_none_or(|size| unit.block().len() == size);
        let labelled = || self.labels.is_none_or(|labels| labels(unit).is_some());
        state && size && (self.within.is_empty() || self.inside(unit)) && labelled()
    }

    pub(super) fn label(&self, unit: &Unit) -> Label {
        self.labels.and_then(|labels| labels(unit)).unwrap_or_default()
    }

    fn inside(&self, unit: &Unit) -> bool {
        let start = unit.range.start();
        let at = self.within.partition_point(|range| range.end() <= start);
        self.within.get(at).is_some_and(|range| range.contains(start))
    }
}

/// A text in a block: its address, and its bytes.
pub(super) type Text<'t> = (u64, &'t [u8]);

/// Goes over the wanted blocks of a slice of units, with what each holds where that is asked for.
pub(super) fn each(
    memory: &dyn Memory,
    blocks: &Blocks,
    slice: Range<usize>,
    wanted: &Wanted<'_>,
    contents: bool,
    mut take: impl FnMut(&Unit, Option<Content>, Option<Text<'_>>),
) {
    let mut reader = Contents::new(memory);
    let mut buffer = Buffer::default();
    let mut further = Buffer::default();
    let mut units = blocks.units_in(slice).filter(|unit| wanted.takes(unit)).peekable();
    while let Some(first) = units.peek().copied() {
        if !contents {
            take(&first, None, None);
            units.next();
            continue;
        }
        // Whatever lies in one piece from here on, so that a process is read in pieces too.
        let start = first.block().start();
        let span = blocks.span_at(start).map_or(start, |span| span.range.end());
        let reach = span.saturating_sub(start).min(1 << 20).max(first.block().len());
        let view = memory.view(AddressRange::saturating(start, reach), &mut buffer);
        let mut progressed = false;
        while let Some(unit) = units.peek().copied() {
            let block = unit.block();
            let offset = usize::try_from(block.start().wrapping_sub(start)).unwrap_or(usize::MAX);
            let length = usize::try_from(block.len()).unwrap_or(usize::MAX);
            let here = view.bytes.get(offset..).unwrap_or_default();
            if here.len() < length && progressed {
                break;
            }
            progressed = true;
            units.next();
            let here = here.get(..length.min(here.len())).unwrap_or_default();
            let (mut kind, text) = reader.content(here);
            if kind == Content::Zero && here.len() < length {
                let behind = block.start().saturating_add(here.len() as u64);
                let rest = AddressRange::saturating(behind, block.end().saturating_sub(behind));
                if !zeros(memory, rest, &mut further) {
                    kind = Content::Data;
                }
            }
            if unit.state == State::Allocator {
                kind = Content::Allocator;
            }
            let text = text.filter(|_| kind != Content::Allocator);
            let text = text.map(|(at, bytes)| (block.start().saturating_add(at as u64), bytes));
            take(&unit, Some(kind), text);
        }
    }
}

/// The units in pieces of 32,768, each for one worker.
pub(super) fn slices(blocks: &Blocks) -> Vec<Range<usize>> {
    (0..blocks.len())
        .step_by(SLICE)
        .map(|start| start..start.saturating_add(SLICE).min(blocks.len()))
        .collect()
}

/// How many slices are worked on at once.
pub(super) fn batch() -> usize {
    rayon::current_num_threads().saturating_mul(AHEAD).max(1)
}
