//! What holds at one instruction of a function.

use super::bits::Bits;
use super::code::{PRESERVED, SCRATCH};
use super::control_flow::InstructionIndex;
use super::data_flow::{DataFlow, ESCAPED, of_area};
use super::places::Area;

/// What holds at a point of a function.
#[derive(Debug)]
pub(super) struct Point<'f> {
    flow: &'f DataFlow,
    live: Bits,
    /// What is read before it is written where the caller reads all that calls preserve.
    live_or_returned: Bits,
    written: Bits,
    /// What was written on all ways there.
    sure: Bits,
}

impl DataFlow {
    /// What holds at the instruction at `address`; during it, where it is a call.
    ///
    /// `None` where nothing that is known leads there.
    pub(super) fn point(&self, at: InstructionIndex, during: bool) -> Option<Point<'_>> {
        let number = self.graph.block(at)?;
        let block = self.graph.blocks.get(number)?;
        block.state?;
        let effects = self.effects.get(number)?;
        let own = at.1.checked_sub(block.from)?;
        let read = |starts: &[Bits], returned| {
            let mut live = self.end(block, starts, returned);
            for (index, (op, effect)) in self.ops(block).iter().zip(effects).enumerate().rev() {
                if index < own || (index == own && during) {
                    break;
                }
                self.before(op, effect, &mut live);
            }
            if let Some(landing_pads) = self.landing_pads(block, starts) {
                live.unite(&landing_pads);
            }
            live
        };
        let (live, live_or_returned) =
            (read(&self.live, SCRATCH), read(&self.live_or_returned, SCRATCH | PRESERVED));
        let until = if during { own.saturating_add(1) } else { own };
        let mut written = self.written.get(number)?.clone();
        let mut sure = self.sure.get(number)?.clone();
        for effect in effects.iter().take(until) {
            self.after(effect, &mut written, false);
            self.after(effect, &mut sure, true);
        }
        Some(Point { flow: self, live, live_or_returned, written, sure })
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

    /// Whether some instruction of the function names a word.
    pub(super) fn names(&self, word: i64) -> bool {
        self.flow.words().binary_search(&word).is_ok()
    }

    /// Whether a register's value is read, or may be what a preserved one has at a return.
    ///
    /// Rules go on to name the slot of a register that was restored already.
    pub(super) fn live_or_returned(&self, register: u8) -> bool {
        self.live_or_returned.has(register.into())
    }

    /// Whether a word is read, or may be what a preserved register has at a return.
    pub(super) fn live_or_returned_word(&self, word: i64) -> bool {
        self.live_or_returned.has(self.flow.bit(word))
    }

    /// Whether some way to here has written a word.
    pub(super) fn written(&self, word: i64) -> bool {
        self.written.has(self.flow.bit(word))
    }

    /// Whether all ways to here have written a word.
    pub(super) fn surely_written(&self, word: i64) -> bool {
        self.sure.has(self.flow.bit(word))
    }

    /// Whether an address of an area escaped on some way to here.
    pub(super) fn escaped(&self, area: Area) -> bool {
        of_area(ESCAPED, area).any(|bit| self.written.has(bit))
    }

    /// Adds what another point has.
    pub(super) fn unite(&mut self, other: &Self) {
        self.live.unite(&other.live);
        self.live_or_returned.unite(&other.live_or_returned);
        self.written.unite(&other.written);
        self.sure.keep(&other.sure);
    }
}
