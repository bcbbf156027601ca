//! Windows on a chunk: every place of it once, with the bytes around it that a needle needs.
//!
//! Memory comes in pieces: a region ends and another touches it, a source lends
//! 1 MiB at a time. A window lends a piece as it is wherever a needle that
//! starts in it also ends in it; only the seam between two pieces is copied.

use std::ops::{ControlFlow, Range};

use crate::memory::{Buffer, Gap, Memory, Missing};
use crate::pass::push_gap;
use crate::range::AddressRange;

/// How many bytes around a match's first byte decide about the match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Bytes before the first one: 1 where a pattern looks at what precedes it, else 0.
    pub(super) before: u64,
    /// Bytes after the first one.
    pub(super) after: u64,
}

/// Bytes in one piece, and the places in them where matches may start.
///
/// Around each start lie the bytes of the [`Reach`], or fewer where a gap or
/// the end of the run cuts them.
#[derive(Debug)]
pub(super) struct Window<'a> {
    /// The bytes.
    pub(super) bytes: &'a [u8],
    /// The address of the first of them.
    pub(super) address: u64,
    /// Where in them matches may start; never empty, never past their end.
    pub(super) starts: Range<usize>,
}

impl Window<'_> {
    /// The address of the byte at `offset`.
    pub(super) fn address_of(&self, offset: usize) -> u64 {
        self.address.saturating_add(offset as u64)
    }
}

/// What a walk shows, in address order.
#[derive(Debug)]
pub(super) enum Shown<'a> {
    /// Bytes to look at.
    Window(Window<'a>),
    /// Places where matches may start, around which the whole reach is zeros.
    Zeros(AddressRange),
}

/// Whether a walk goes on.
pub(super) enum Next {
    /// It does.
    Go,
    /// No more is wanted.
    Stop,
    /// These zeros have to be shown as windows.
    Look,
}

impl From<ControlFlow<()>> for Next {
    fn from(flow: ControlFlow<()>) -> Self {
        if flow.is_break() { Self::Stop } else { Self::Go }
    }
}

/// Fewer zeros in a row are looked at as any bytes are.
const WORTH: u64 = 16 << 10;

/// What a walk saw, apart from matches.
#[derive(Default, Debug)]
pub(super) struct Seen {
    /// Bytes of the chunk that were there.
    pub(super) searched: u64,
    /// The parts of the chunk that were not.
    pub(super) gaps: Vec<Gap>,
    /// How the last gap goes on in the run after the chunk.
    pub(super) beyond: Option<Gap>,
}

/// Shows `own`, a part of `run`, to `visit` in address order.
///
/// Each address of `own` that is not in a gap is a start of exactly one
/// window or among known zeros, unless `visit` breaks off. At most three times the reach is copied
/// for each seam, and a seam moves on by the reach at least, however small
/// the pieces are.
pub(super) fn walk(
    memory: &dyn Memory,
    own: AddressRange,
    run: AddressRange,
    reach: Reach,
    buffer: &mut Buffer,
    visit: &mut dyn FnMut(&Shown<'_>) -> Next,
) -> Seen {
    let mut seen = Seen::default();
    let last = own.end().saturating_add(reach.after).min(run.end());
    let mut seam = Vec::new();
    let mut at = own.start();
    // Whether the byte before `at` may belong to the same stretch.
    let mut joined = run.start() < at;
    // Zeros that are next, and how far it is known whether there are any.
    let mut zeros: Option<AddressRange> = None;
    let mut known = at;
    while at < own.end() {
        if at >= known {
            let end = at.saturating_add(memory.zeros(between(at, last)));
            let starts =
                between(at.saturating_add(reach.before), end.saturating_sub(reach.after).min(own.end()));
            zeros = Some(starts).filter(|starts| starts.len() >= WORTH);
            known = zeros.map_or(at, AddressRange::end);
        }
        if let Some(starts) = zeros.take_if(|starts| starts.start() == at) {
            match visit(&Shown::Zeros(starts)) {
                Next::Stop => break,
                Next::Look => {}
                Next::Go => {
                    seen.searched = seen.searched.saturating_add(starts.len());
                    at = starts.end();
                    joined = true;
                    continue;
                }
            }
        }
        // Windows go as far as the next zeros.
        let limit = zeros.map_or(own.end(), AddressRange::start);
        let from = if joined { at.saturating_sub(reach.before).max(run.start()) } else { at };
        let view = memory.view(between(from, last), buffer);
        let end = from.saturating_add(view.bytes.len() as u64);
        if end < at {
            // What precedes the chunk is missing; the chunk itself may be there.
            joined = false;
            continue;
        }
        // The view holds all there is around a start before `stop`.
        let whole = end >= last || view.gap.is_some();
        let stop = if whole { end } else { end.saturating_sub(reach.after) }.min(limit);
        if at < stop {
            seen.searched = seen.searched.saturating_add(stop.saturating_sub(at));
            let starts = offset(from, at)..offset(from, stop);
            let window = Window { bytes: view.bytes, address: from, starts };
            if matches!(visit(&Shown::Window(window)), Next::Stop) {
                break;
            }
            at = stop;
            joined = true;
        }
        if zeros.is_some_and(|zeros| zeros.start() == at) {
            continue;
        }
        if let Some(gap) = view.gap {
            at = seen.skip(gap, at, own, run);
            joined = false;
            continue;
        }
        if whole || at >= own.end() {
            continue;
        }
        // A piece ends at `end`, and starts from `at` on reach past it.
        let from = if joined { at.saturating_sub(reach.before).max(run.start()) } else { at };
        let stop = end.max(at.saturating_add(reach.after)).max(at.saturating_add(1)).min(limit);
        let need = stop.saturating_add(reach.after).min(run.end());
        seam.clear();
        let gap = memory.append(between(from, need), &mut seam);
        let stop = from.saturating_add(seam.len() as u64).min(stop);
        if stop <= at {
            let none = || Gap { range: own, missing: Missing::Unreadable("no bytes came".to_owned()) };
            at = seen.skip(gap.unwrap_or_else(none), at, own, run);
            joined = false;
            continue;
        }
        seen.searched = seen.searched.saturating_add(stop.saturating_sub(at));
        let starts = offset(from, at)..offset(from, stop);
        let window = Window { bytes: &seam, address: from, starts };
        if matches!(visit(&Shown::Window(window)), Next::Stop) {
            break;
        }
        at = stop;
        joined = true;
    }
    seen
}

impl Seen {
    /// Notes what of `gap` lies at or after `at`, and comes back with the address after it.
    fn skip(&mut self, gap: Gap, at: u64, own: AddressRange, run: AddressRange) -> u64 {
        let end = gap.range.end().max(at.saturating_add(1));
        let inside = between(at, end.min(own.end()));
        let after = between(own.end(), end.min(run.end()));
        // A gap that was met by reading ahead leaves bytes between the chunk and itself.
        if gap.range.start() <= own.end() && !after.is_empty() {
            self.beyond = Some(Gap { range: after, missing: gap.missing.clone() });
        }
        if !inside.is_empty() {
            push_gap(&mut self.gaps, Gap { range: inside, missing: gap.missing });
        }
        end
    }
}

/// The range from `start` to `end`; empty where the end lies below the start.
pub(super) fn between(start: u64, end: u64) -> AddressRange {
    AddressRange::saturating(start, end.saturating_sub(start))
}

/// How far `address` lies after `from`.
pub(super) fn offset(from: u64, address: u64) -> usize {
    usize::try_from(address.saturating_sub(from)).unwrap_or(usize::MAX)
}
