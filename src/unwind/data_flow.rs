//! Which words of a frame, and which registers, the rest of a function reads; and which words
//! were written on some way to an instruction.
//!
//! Both are solved by the usual worklist over the blocks, as sets of bits: one for each general
//! register, two for all words that no instruction names (of the locals, of what was passed on
//! the stack), two for addresses that escaped, and one for each word that is named.

use std::collections::BTreeSet;

use crate::pass::Job;

use super::Unclear;
use super::bits::Bits;
use super::code::{ARGUMENTS, Act, Op, PRESERVED, RBP, RSP, Registers, SCRATCH, bit};
use super::control_flow::{Block, ControlFlow, End, Failure};
use super::places::{self, Access, Area, LOCALS, PASSED, Sink, WORD};

/// Bits of all sets of one kind together beyond which a function is not believed.
const MOST_BITS: usize = 1 << 27;
const MOST_VISITS: usize = 64;

/// Numbers of bits behind those of the registers.
const REST: usize = 16;
pub(super) const ESCAPED: usize = 18;
const FIRST: usize = 20;

/// The bit of an area among two.
pub(super) fn of_area(first: usize, area: Area) -> impl Iterator<Item = usize> {
    [(LOCALS, 0), (PASSED, 1)]
        .into_iter()
        .filter(move |(one, _)| area & one != 0)
        .map(move |(_, offset)| first.saturating_add(offset))
}

/// An access, by the bits of its words.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u32,
    last: u32,
    /// Not of words that are named but somewhere in these areas.
    area: Area,
    read: bool,
    write: bool,
    whole: bool,
}

/// What an instruction does with the frame.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Effect {
    spans: (u32, u32),
    escape: Area,
    /// Of a call: the bit of the lowest word that may be an argument.
    floor: u32,
}

/// The data flow of a function.
#[derive(Debug)]
pub(super) struct DataFlow {
    pub(super) graph: ControlFlow,
    /// The words that instructions name, as distances from the CFA in words, in order.
    words: Vec<i64>,
    /// Those of them where the rules say that registers are saved.
    saves: BTreeSet<i64>,
    spans: Vec<Span>,
    /// Of each block, of each instruction.
    pub(super) effects: Vec<Vec<Effect>>,
    /// The words of the locals, and of what was passed.
    areas: [Bits; 2],
    /// Words that nothing reads by name: they may be arguments of calls.
    outgoing: Bits,
    /// Those whose address escapes anywhere: other functions may read them.
    shared: Bits,
    /// What is live where blocks start, and what was written.
    pub(super) live: Vec<Bits>,
    /// The same where a return reads all registers that calls preserve, too.
    pub(super) live_or_returned: Vec<Bits>,
    pub(super) written: Vec<Bits>,
    /// What was written on all ways there.
    pub(super) sure: Vec<Bits>,
}

/// Takes the accesses of one instruction.
#[derive(Default)]
struct Take(Vec<Access>);

impl Sink for Take {
    fn access(&mut self, access: Access) {
        self.0.push(access);
    }

    // The graph has none.
    fn unclear(&mut self, _: Unclear) {}
}

impl DataFlow {
    /// Solves both for a function.
    pub(super) fn new(graph: ControlFlow, job: &Job) -> Result<Self, Failure> {
        let mut saves: BTreeSet<i64> = BTreeSet::new();
        for part in &graph.parts {
            saves.extend(part.rules.slots.iter().map(|at| at.div_euclid(WORD)));
        }
        let mut own = Self {
            graph,
            words: Vec::new(),
            saves,
            spans: Vec::new(),
            effects: Vec::new(),
            areas: [Bits::default(), Bits::default()],
            outgoing: Bits::default(),
            shared: Bits::default(),
            live: Vec::new(),
            live_or_returned: Vec::new(),
            written: Vec::new(),
            sure: Vec::new(),
        };
        own.collect();
        let bits = own.width().saturating_mul(own.graph.blocks.len());
        if bits > MOST_BITS {
            return Err(Unclear::Bound.into());
        }
        own.live = own.solve_live(SCRATCH, job)?;
        own.live_or_returned = own.solve_live(SCRATCH | PRESERVED, job)?;
        own.solve_written(job)?;
        Ok(own)
    }

    fn width(&self) -> usize {
        self.words.len().saturating_add(FIRST)
    }

    /// The words that instructions name.
    pub(super) fn words(&self) -> &[i64] {
        &self.words
    }

    /// Whether some address of these areas escapes anywhere.
    pub(super) fn escapes(&self, area: Area) -> bool {
        self.effects.iter().flatten().any(|effect| effect.escape & area != 0)
    }

    /// Whether a register is saved in a word.
    pub(super) fn saves(&self, word: i64) -> bool {
        self.saves.contains(&word)
    }

    /// The bit of a word; that of all others where nothing names it.
    pub(super) fn bit(&self, word: i64) -> usize {
        match self.words.binary_search(&word) {
            Ok(index) => index.saturating_add(FIRST),
            Err(_) if word < 0 => REST,
            Err(_) => REST.saturating_add(1),
        }
    }

    /// Collects what the instructions do with the frame.
    fn collect(&mut self) {
        let mut found: Vec<Vec<(Vec<Access>, i64)>> = Vec::new();
        let mut named: Vec<i64> = Vec::new();
        let mut read: BTreeSet<i64> = BTreeSet::new();
        for block in &self.graph.blocks {
            let mut of_block = Vec::new();
            if let (Some(mut state), Some(part)) = (block.state, self.graph.parts.get(block.part)) {
                for op in part.code.ops.get(block.from..block.to).unwrap_or_default() {
                    let mut take = Take::default();
                    let floor = match places::get(&state, RSP) {
                        places::Value::Frame(at) => at.div_euclid(WORD),
                        _ => i64::MIN,
                    };
                    places::run(&mut state, &part.code, op, &mut take);
                    for access in &take.0 {
                        if let Access::Words { first, last, read: reads, .. } = *access {
                            named.extend(first..=last);
                            if reads && !matches!(op.act, Act::Pop(_)) {
                                read.extend(first..=last);
                            }
                        }
                    }
                    of_block.push((take.0, floor));
                }
            }
            found.push(of_block);
        }
        named.sort_unstable();
        named.dedup();
        self.words = named;
        let width = self.width();
        let mut areas = [Bits::new(width), Bits::new(width)];
        let mut outgoing = Bits::new(width);
        for word in &self.words {
            let bit = self.bit(*word);
            let [locals, passed] = &mut areas;
            if *word >= 0 {
                passed.add(bit);
            } else if !self.saves.contains(word) {
                locals.add(bit);
                if !read.contains(word) {
                    outgoing.add(bit);
                }
            }
        }
        for (offset, area) in areas.iter_mut().enumerate() {
            area.add(REST.saturating_add(offset));
        }
        self.areas = areas;
        self.outgoing = outgoing;
        for of_block in found {
            let effects = of_block.into_iter().map(|(accesses, floor)| self.effect(&accesses, floor));
            let effects: Vec<Effect> = effects.collect();
            self.effects.push(effects);
        }
        let escaped = self.effects.iter().flatten().fold(0, |all, effect| all | effect.escape);
        let mut shared = Bits::new(width);
        self.add_area(escaped, &mut shared);
        self.shared = shared;
    }

    fn effect(&mut self, accesses: &[Access], floor: i64) -> Effect {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let first = number(self.spans.len());
        let mut escape = 0;
        for access in accesses {
            match *access {
                Access::Words { first, last, read, write, whole } => {
                    let (first, last) = (number(self.bit(first)), number(self.bit(last)));
                    self.spans.push(Span { first, last, area: 0, read, write, whole });
                }
                Access::Somewhere { area, read, write } => {
                    self.spans.push(Span { first: 0, last: 0, area, read, write, whole: false });
                }
                Access::Escape(area) => escape |= area,
            }
        }
        let above = self.words.partition_point(|word| *word < floor);
        let floor = number(above.saturating_add(FIRST));
        Effect { spans: (first, number(self.spans.len())), escape, floor }
    }

    fn spans(&self, effect: &Effect) -> &[Span] {
        self.spans.get(effect.spans.0 as usize..effect.spans.1 as usize).unwrap_or_default()
    }

    /// The bits of the words in some areas.
    fn add_area(&self, area: Area, set: &mut Bits) {
        for (one, bits) in [LOCALS, PASSED].into_iter().zip(&self.areas) {
            if area & one != 0 {
                set.unite(bits);
            }
        }
    }

    /// What is live before an instruction, from what is live after it.
    pub(super) fn before(&self, op: &Op, effect: &Effect, live: &mut Bits) {
        let spans = self.spans(effect);
        // A register that is only put elsewhere is read if it is read there.
        match (op.act, spans) {
            (Act::Move { to, from }, _) => {
                if live.has(to.into()) {
                    live.remove(to.into());
                    live.add(from.into());
                }
                return;
            }
            (Act::Store { from } | Act::Push(Some(from)), [span])
                if span.whole && span.first == span.last =>
            {
                let word = span.first as usize;
                if live.has(word) || self.shared.has(word) {
                    live.remove(word);
                    live.add(from.into());
                }
                if effect.escape != 0 {
                    self.add_area(effect.escape, live);
                    live.add(from.into());
                }
                live.add_low(op.addresses);
                return;
            }
            (Act::Load { to, .. } | Act::Pop(Some(to)), [span]) if span.area == 0 => {
                if live.has(to.into()) {
                    live.remove(to.into());
                    (span.first..=span.last).for_each(|bit| live.add(bit as usize));
                }
                live.add_low(op.addresses);
                return;
            }
            (Act::Leave, [span]) => {
                if live.has(RBP.into()) {
                    (span.first..=span.last).for_each(|bit| live.add(bit as usize));
                }
                live.add(RBP.into());
                return;
            }
            _ => {}
        }
        if op.act == Act::Call {
            live.add_low(ARGUMENTS);
            live.unite_from(&self.outgoing, effect.floor as usize);
        } else {
            live.remove_low(op.kills);
        }
        for span in spans.iter().filter(|span| span.whole) {
            (span.first..=span.last).for_each(|bit| live.remove(bit as usize));
        }
        live.add_low(op.reads | op.addresses);
        for span in spans.iter().filter(|span| span.read) {
            if span.area == 0 {
                (span.first..=span.last).for_each(|bit| live.add(bit as usize));
            } else {
                self.add_area(span.area, live);
            }
        }
        self.add_area(effect.escape, live);
    }

    /// What is written, and what escapes, by an instruction.
    pub(super) fn after(&self, effect: &Effect, written: &mut Bits, sure: bool) {
        for span in self.spans(effect).iter().filter(|span| span.write) {
            if span.area == 0 {
                (span.first..=span.last).for_each(|bit| written.add(bit as usize));
            } else if !sure {
                self.add_area(span.area, written);
            }
        }
        if !sure && effect.escape != 0 {
            self.add_area(effect.escape, written);
            of_area(ESCAPED, effect.escape).for_each(|bit| written.add(bit));
        }
    }

    /// What is live where a block ends, if a return reads these registers.
    pub(super) fn end(&self, block: &Block, starts: &[Bits], returned: Registers) -> Bits {
        let mut live = Bits::new(self.width());
        for to in &block.next {
            live.unite(starts.get(*to).unwrap_or(&Bits::default()));
        }
        match block.end {
            End::Inside => {}
            End::Return => live.add_low(returned),
            End::Tail => {
                live.add_low(returned);
                self.add_area(PASSED, &mut live);
            }
        }
        live
    }

    /// What landing pads of a block read.
    pub(super) fn landing_pads(&self, block: &Block, starts: &[Bits]) -> Option<Bits> {
        if block.landing_pads.is_empty() {
            return None;
        }
        let mut live = Bits::new(self.width());
        for to in &block.landing_pads {
            live.unite(starts.get(*to).unwrap_or(&Bits::default()));
        }
        Some(live)
    }

    pub(super) fn ops(&self, block: &Block) -> &[Op] {
        let part = self.graph.parts.get(block.part);
        part.and_then(|part| part.code.ops.get(block.from..block.to)).unwrap_or_default()
    }

    /// What is live where blocks start, if a return reads these registers.
    fn solve_live(&self, returned: Registers, job: &Job) -> Result<Vec<Bits>, Failure> {
        let count = self.graph.blocks.len();
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (number, block) in self.graph.blocks.iter().enumerate() {
            for to in block.next.iter().chain(&block.landing_pads) {
                before.get_mut(*to).into_iter().for_each(|list| list.push(number));
            }
        }
        let mut starts = vec![Bits::new(self.width()); count];
        let mut dirty = vec![true; count];
        let mut left = count.saturating_mul(MOST_VISITS);
        let mut again = true;
        while again {
            again = false;
            for (number, block) in self.graph.blocks.iter().enumerate().rev() {
                if !std::mem::take(dirty.get_mut(number).unwrap_or(&mut false)) {
                    continue;
                }
                job.check()?;
                left = left.checked_sub(1).ok_or(Unclear::Bound)?;
                let mut live = self.end(block, &starts, returned);
                let landing_pads = self.landing_pads(block, &starts);
                let effects = self.effects.get(number).map(Vec::as_slice).unwrap_or_default();
                for (op, effect) in self.ops(block).iter().zip(effects).rev() {
                    self.before(op, effect, &mut live);
                    if let Some(landing_pads) = &landing_pads {
                        live.unite(landing_pads);
                    }
                }
                if starts.get_mut(number).is_some_and(|own| own.unite(&live)) {
                    again = true;
                    for from in before.get(number).into_iter().flatten() {
                        dirty.get_mut(*from).into_iter().for_each(|dirty| *dirty = true);
                    }
                }
            }
        }
        Ok(starts)
    }

    fn solve_written(&mut self, job: &Job) -> Result<(), Failure> {
        let (count, width) = (self.graph.blocks.len(), self.width());
        let entry = |block: &Block| block.from == 0 && block.state.is_some();
        let mut starts = vec![Bits::new(width); count];
        let mut sure = vec![Bits::all(width); count];
        for (number, _) in self.graph.blocks.iter().enumerate().filter(|(_, block)| entry(block)) {
            // What was passed the caller wrote.
            starts.get_mut(number).into_iter().for_each(|own| self.add_area(PASSED, own));
            sure.get_mut(number).into_iter().for_each(|own| *own = Bits::new(width));
        }
        let mut dirty = vec![true; count];
        let mut left = count.saturating_mul(MOST_VISITS);
        let mut again = true;
        while again {
            again = false;
            for (number, block) in self.graph.blocks.iter().enumerate() {
                if !std::mem::take(dirty.get_mut(number).unwrap_or(&mut false)) || block.state.is_none() {
                    continue;
                }
                job.check()?;
                left = left.checked_sub(1).ok_or(Unclear::Bound)?;
                let mut written = starts.get(number).cloned().unwrap_or_default();
                let mut surely = sure.get(number).cloned().unwrap_or_default();
                let early = surely.clone();
                for effect in self.effects.get(number).into_iter().flatten() {
                    self.after(effect, &mut written, false);
                    self.after(effect, &mut surely, true);
                }
                let next = block.next.iter().map(|to| (to, &surely));
                for (to, surely) in next.chain(block.landing_pads.iter().map(|to| (to, &early))) {
                    let mut changed = starts.get_mut(*to).is_some_and(|own| own.unite(&written));
                    changed |= sure.get_mut(*to).is_some_and(|own| own.keep(surely));
                    if changed {
                        again = true;
                        dirty.get_mut(*to).into_iter().for_each(|dirty| *dirty = true);
                    }
                }
            }
        }
        self.written = starts;
        self.sure = sure;
        Ok(())
    }

    /// Whether a word may be among the arguments of a call.
    pub(super) fn passes(&self, word: i64) -> bool {
        let outgoing = |own: &&i64| self.outgoing.has(self.bit(**own));
        self.words.iter().rev().find(outgoing).is_some_and(|highest| word <= *highest)
    }

    /// Whether some instruction writes a register.
    pub(super) fn writes(&self, register: u8) -> bool {
        let mut ops = self.graph.parts.iter().flat_map(|part| &part.code.ops);
        ops.any(|op| op.dirties & bit(register) != 0)
    }
}
