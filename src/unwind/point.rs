//! What holds at one instruction of a function.

use super::bits::Bits;
use super::flow::{ESCAPED, Flow, of_area};
use super::graph::Place;
use super::places::Area;

/// What holds at a point of a function.
#[derive(Debug)]
pub(super) struct Point<'f> {
    flow: &'f Flow,
    live: Bits,
    written: Bits,
    /// What was written on all ways there; where that is known.
    sure: Option<Bits>,
}

impl Flow {
    /// What holds at the instruction at `address`; during it, where it is a call.
    ///
    /// `None` where nothing that is known leads there.
    pub(super) fn point(&self, place: Place, during: bool) -> Option<Point<'_>> {
        let number = self.graph.block(place)?;
        let block = self.graph.blocks.get(number)?;
        block.state?;
        let mut live = self.end(block, &self.live);
        let landings = self.landings(block, &self.live);
        let effects = self.effects.get(number)?;
        let own = place.1.checked_sub(block.from)?;
        for (index, (op, effect)) in self.ops(block).iter().zip(effects).enumerate().rev() {
            if index < own || (index == own && during) {
                break;
            }
            self.before(op, effect, &mut live);
        }
        if let Some(landings) = &landings {
            live.unite(landings);
        }
        let until = if during { own.saturating_add(1) } else { own };
        let mut written = self.written.get(number)?.clone();
        let mut sure = self.sure.as_ref().and_then(|sure| sure.get(number)).cloned();
        for effect in effects.iter().take(until) {
            self.after(effect, &mut written, false);
            if let Some(sure) = &mut sure {
                self.after(effect, sure, true);
            }
        }
        Some(Point { flow: self, live, written, sure })
    }
}

impl Point<'_> {
    /// Whether a register is read before it is written.
    pub(super) fn register(&self, register: u8) -> bool {
        self.live.has(register.into())
    }

    /// Whether a word is read before it is written.
    pub(super) fn live(&self, word: i64) -> bool {
        self.live.has(self.flow.bit(word))
    }

    /// Whether some way to here has written a word.
    pub(super) fn written(&self, word: i64) -> bool {
        self.written.has(self.flow.bit(word))
    }

    /// Whether all ways to here have written a word.
    pub(super) fn surely_written(&self, word: i64) -> bool {
        self.sure.as_ref().is_none_or(|sure| sure.has(self.flow.bit(word)))
    }

    /// Whether an address of an area escaped on some way to here.
    pub(super) fn escaped(&self, area: Area) -> bool {
        of_area(ESCAPED, area).any(|bit| self.written.has(bit))
    }

    /// Adds what another point has.
    pub(super) fn unite(&mut self, other: &Self) {
        self.live.unite(&other.live);
        self.written.unite(&other.written);
    }
}
