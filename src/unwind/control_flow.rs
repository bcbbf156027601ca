//! The control-flow graph of a function, and what its registers hold in each block.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use crate::error::Error;
use crate::pass::Job;

use super::Unclear;
use super::bits::Bits;
use super::code::{Act, Op, RSP, Successor};
use super::part::{FRAMELESS, Part};
use super::places::{self, Access, Sink, Table, Values};
use super::rules::{Cfa, Row};

/// Blocks, entries of one table, rounds of tables, and visits of a block on average, beyond
/// which a function is not believed.
const MOST_BLOCKS: usize = 1 << 15;
const MOST_ENTRIES: u64 = 1 << 12;
/// Words between two labels of a table of addresses.
const MOST_BETWEEN: u64 = 64;
const MOST_ROUNDS: usize = 24;
const MOST_VISITS: usize = 48;

/// An instruction: the number of its part, and its own there.
pub(super) type InstructionIndex = (usize, usize);

/// How a block ends that leads out of the function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It leads to other blocks, if anywhere.
    Inside,
    /// It returns.
    Return,
    /// It jumps to another function, without a frame.
    Tail,
}

/// Instructions that are run one after the other.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) part: usize,
    /// The numbers of its instructions.
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) next: Vec<usize>,
    /// Where exceptions in it lead.
    pub(super) landing_pads: Vec<usize>,
    pub(super) end: End,
    /// What registers hold where it starts; `None` where nothing leads there.
    pub(super) state: Option<Values>,
}

/// The blocks of a function.
#[derive(Default, Debug)]
pub(super) struct ControlFlow {
    pub(super) parts: Vec<Rc<Part>>,
    pub(super) blocks: Vec<Block>,
    by_start: BTreeMap<InstructionIndex, usize>,
}

/// Reads what a graph needs of memory: the tables of jumps, and where other parts have code.
pub(super) trait JumpTables {
    /// The address in an entry of a table.
    fn entry(&mut self, table: Table, index: u64) -> Option<u64>;

    /// The address in an entry before a table's first one, from the last of these on.
    fn before(&mut self, table: Table, index: u64) -> Option<u64>;

    /// Whether another part has an instruction there, with the frame at `cfa`.
    fn continues(&mut self, address: u64, cfa: Cfa) -> bool;
}

/// Why a function was not analysed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The part at that address is a part of the function.
    Part(u64),
    /// Its frames are alive as a whole.
    Unclear(Unclear),
    /// Not for a reason of the function: the job was stopped.
    Stopped(Error),
}

impl From<Unclear> for Failure {
    fn from(unclear: Unclear) -> Self {
        Self::Unclear(unclear)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Stopped(error)
    }
}

/// Blocks to visit, each of them once.
struct Queue {
    blocks: VecDeque<usize>,
    /// Those that are in it: a search in it for each edge would take the square of their number.
    queued: Bits,
}

impl Queue {
    /// An empty one for the numbers below `count`.
    fn new(count: usize) -> Self {
        Self { blocks: VecDeque::new(), queued: Bits::new(count) }
    }

    fn push(&mut self, number: usize) {
        if !self.queued.has(number) {
            self.queued.add(number);
            self.blocks.push_back(number);
        }
    }

    fn pop(&mut self) -> Option<usize> {
        let number = self.blocks.pop_front()?;
        self.queued.remove(number);
        Some(number)
    }
}

/// Takes only what makes a frame unclear.
struct Only(Option<Unclear>);

impl Sink for Only {
    fn access(&mut self, _: Access) {}

    fn unclear(&mut self, unclear: Unclear) {
        self.0 = self.0.or(Some(unclear));
    }
}

/// The tables that jumps go by, by the indices of the jumps.
type Tables = BTreeMap<InstructionIndex, (Table, Vec<InstructionIndex>)>;

impl ControlFlow {
    /// The graph of these parts, which are in address order.
    pub(super) fn new(parts: Vec<Rc<Part>>, reader: &mut dyn JumpTables, job: &Job) -> Result<Self, Failure> {
        let mut tables = Tables::new();
        let mut graph = Self { parts, ..Self::default() };
        for _ in 0..MOST_ROUNDS {
            graph.cut(&tables)?;
            if !graph.run(&mut tables, reader, job)? {
                graph.reached()?;
                return Ok(graph);
            }
        }
        Err(Unclear::Bound.into())
    }

    pub(super) fn op(&self, (part, index): InstructionIndex) -> Option<&Op> {
        self.parts.get(part)?.code.ops.get(index)
    }

    pub(super) fn row(&self, at: InstructionIndex) -> Option<&Row> {
        let op = self.op(at)?;
        self.parts.get(at.0)?.rules.rows.get(op.row as usize)
    }

    fn cfa(&self, at: InstructionIndex) -> Cfa {
        self.row(at).map_or(Cfa::Elsewhere, |row| row.cfa)
    }

    /// The instruction that starts at `address`.
    pub(super) fn index_of(&self, address: u64) -> Option<InstructionIndex> {
        let number = self.parts.iter().position(|part| part.rules.range.contains(address))?;
        Some((number, self.parts.get(number)?.code.index_of(address)?))
    }

    /// The block that an instruction belongs to.
    pub(super) fn block(&self, at: InstructionIndex) -> Option<usize> {
        let (_, number) = self.by_start.range(..=at).next_back()?;
        let block = self.blocks.get(*number)?;
        (block.part == at.0 && at.1 < block.to).then_some(*number)
    }

    /// Whether what follows a call may lead to an instruction: the call itself does only in a loop.
    pub(super) fn leads(&self, call: InstructionIndex, to: InstructionIndex) -> bool {
        let (Some(from), Some(to)) = (self.block(call), self.block(to)) else { return true };
        let mut seen = Bits::new(self.blocks.len());
        let mut left = vec![from];
        while let Some(block) = left.pop().and_then(|number| self.blocks.get(number)) {
            for next in block.next.iter().chain(&block.landing_pads).filter(|next| !seen.has(**next)) {
                if *next == to {
                    return true;
                }
                left.push(*next);
            }
            block.next.iter().chain(&block.landing_pads).for_each(|next| seen.add(*next));
        }
        false
    }

    /// Cuts the code into blocks.
    fn cut(&mut self, tables: &Tables) -> Result<(), Failure> {
        let mut starts: Vec<InstructionIndex> = Vec::new();
        for (number, part) in self.parts.iter().enumerate() {
            starts.push((number, 0));
            for (index, op) in part.code.ops.iter().enumerate() {
                if let Successor::Jump(to) | Successor::Branch(to) = op.successor {
                    starts.extend(self.index_of(to));
                }
                if op.successor != Successor::Next || op.act == Act::Call {
                    starts.push((number, index.saturating_add(1)));
                }
            }
            for site in &part.sites {
                for address in [site.range.start(), site.range.end(), site.landing_pad] {
                    starts.extend(self.index_of(address));
                }
            }
        }
        starts.extend(tables.values().flat_map(|(_, targets)| targets));
        starts.sort_unstable();
        starts.dedup();
        starts.retain(|at| self.op(*at).is_some());
        if starts.len() > MOST_BLOCKS {
            return Err(Unclear::Bound.into());
        }
        self.by_start = starts.iter().enumerate().map(|(number, at)| (*at, number)).collect();
        self.blocks.clear();
        for (number, (part, from)) in starts.iter().copied().enumerate() {
            let behind = starts.get(number.saturating_add(1)).filter(|(other, _)| *other == part);
            let length = self.parts.get(part).map_or(0, |part| part.code.ops.len());
            let to = behind.map_or(length, |(_, from)| *from);
            let mut block = Block {
                part,
                from,
                to,
                next: Vec::new(),
                landing_pads: Vec::new(),
                end: End::Inside,
                state: None,
            };
            self.lead(&mut block, tables)?;
            self.blocks.push(block);
        }
        Ok(())
    }

    /// Finds where a block leads.
    fn lead(&self, block: &mut Block, tables: &Tables) -> Result<(), Failure> {
        let last = (block.part, block.to.saturating_sub(1));
        let Some(op) = self.op(last) else { return Ok(()) };
        let (cfa, behind) = (self.cfa(last), (block.part, block.to));
        let mut targets: Vec<InstructionIndex> = Vec::new();
        let mut on = false;
        match op.successor {
            Successor::Next => on = true,
            Successor::Jump(to) | Successor::Branch(to) => {
                on = matches!(op.successor, Successor::Branch(_));
                match self.index_of(to) {
                    Some(at) => targets.push(at),
                    None if cfa == FRAMELESS => block.end = End::Tail,
                    // It is looked at when something leads here.
                    None => {}
                }
            }
            Successor::Indirect if cfa == FRAMELESS => block.end = End::Tail,
            Successor::Indirect => {
                targets.extend(tables.get(&last).into_iter().flat_map(|(_, targets)| targets));
            }
            Successor::Return => block.end = End::Return,
            Successor::Stop => {}
        }
        if on && (op.act != Act::Call || self.goes_on(last, behind)) {
            targets.push(behind);
        }
        block.next = targets.iter().filter_map(|at| self.by_start.get(at).copied()).collect();
        block.next.sort_unstable();
        block.next.dedup();
        let Some(part) = self.parts.get(block.part) else { return Ok(()) };
        let start = self.op((block.part, block.from)).map_or(0, |op| op.at);
        for site in part.sites.iter().filter(|site| site.range.contains(start)) {
            let Some(at) = self.index_of(site.landing_pad) else {
                let known = self.parts.iter().any(|part| part.rules.range.contains(site.landing_pad));
                return Err(if known { Unclear::Code.into() } else { Failure::Part(site.landing_pad) });
            };
            block.landing_pads.extend(self.by_start.get(&at));
        }
        Ok(())
    }

    /// Whether the code behind a call is where it returns to: it has the same rules.
    fn goes_on(&self, call: InstructionIndex, behind: InstructionIndex) -> bool {
        match (self.row(call), self.row(behind)) {
            (Some(one), Some(other)) => one.alike(other),
            _ => false,
        }
    }

    /// Finds what registers hold in each block; returns whether a table was new.
    fn run(&mut self, tables: &mut Tables, reader: &mut dyn JumpTables, job: &Job) -> Result<bool, Failure> {
        let mut queue = Queue::new(self.blocks.len());
        for number in 0..self.parts.len() {
            let entry = (number, 0);
            // gcc puts a nop before a part that starts with a landing pad, whose distance must not be
            // zero; it has the row of a function's start.
            let room = self.op(entry).is_some_and(|op| op.nop) && self.cfa((number, 1)) != FRAMELESS;
            if self.cfa(entry) == FRAMELESS && !room {
                if let Some(block) = self.by_start.get(&entry).copied() {
                    self.flow_into(block, &places::entered(), &mut queue);
                }
            }
        }
        if queue.blocks.is_empty() {
            return Err(self.outside().map_or(Unclear::Entry.into(), Failure::Part));
        }
        let mut left = self.blocks.len().saturating_mul(MOST_VISITS);
        let mut found = false;
        while let Some(number) = queue.pop() {
            job.check()?;
            left = left.checked_sub(1).ok_or(Unclear::Bound)?;
            let Some(block) = self.blocks.get(number) else { continue };
            let Some(mut state) = block.state else { continue };
            let mut sink = Only(None);
            let (part, from, to) = (block.part, block.from, block.to);
            let code = self.parts.get(part).cloned().ok_or(Unclear::Code)?;
            for index in from..to {
                let Some(op) = code.code.ops.get(index) else { break };
                if !places::holds(&state, self.cfa((part, index))) {
                    return Err(Unclear::Rules.into());
                }
                if op.successor == Successor::Indirect && self.cfa((part, index)) != FRAMELESS {
                    found |= self.resolve((part, index), &state, tables, reader)?;
                }
                places::run(&mut state, &code.code, op, &mut sink);
                if let Some(unclear) = sink.0 {
                    return Err(unclear.into());
                }
            }
            self.leave(number, &state, &mut queue)?;
        }
        Ok(found)
    }

    /// Where a jump leads out of all parts with a frame: the part that made it may be there.
    fn outside(&self) -> Option<u64> {
        self.parts.iter().enumerate().find_map(|(number, part)| {
            part.code.ops.iter().enumerate().find_map(|(index, op)| match op.successor {
                Successor::Jump(to) | Successor::Branch(to) if self.cfa((number, index)) != FRAMELESS => {
                    let known = self.parts.iter().any(|part| part.rules.range.contains(to));
                    (!known).then_some(to)
                }
                _ => None,
            })
        })
    }

    /// Hands what registers hold on to where a block leads.
    fn leave(&mut self, number: usize, state: &Values, queue: &mut Queue) -> Result<(), Failure> {
        let Some(block) = self.blocks.get(number) else { return Ok(()) };
        let last = (block.part, block.to.saturating_sub(1));
        let Some(op) = self.op(last) else { return Ok(()) };
        let calls = op.act == Act::Call;
        if let Successor::Jump(to) | Successor::Branch(to) = op.successor {
            if block.end != End::Tail && self.index_of(to).is_none() {
                let known = self.parts.iter().any(|part| part.rules.range.contains(to));
                return Err(if known { Unclear::Code.into() } else { Failure::Part(to) });
            }
        }
        let runs_out =
            op.successor == Successor::Next && !calls || matches!(op.successor, Successor::Branch(_));
        if runs_out && self.op((block.part, block.to)).is_none() {
            return Err(Unclear::Jump.into());
        }
        let (next, landing_pads) = (block.next.clone(), block.landing_pads.clone());
        for to in next {
            self.flow_into(to, state, queue);
        }
        for to in landing_pads.into_iter().filter(|_| calls) {
            let mut state = *state;
            let start = self.blocks.get(to).map(|block| (block.part, block.from));
            if let Some(Cfa::Rsp(depth)) = start.map(|start| self.cfa(start)) {
                places::set(&mut state, RSP, places::Value::Frame(depth.saturating_neg()));
            }
            self.flow_into(to, &state, queue);
        }
        Ok(())
    }

    fn flow_into(&mut self, number: usize, state: &Values, queue: &mut Queue) {
        let Some(block) = self.blocks.get_mut(number) else { return };
        let changed = match &mut block.state {
            Some(own) => places::join(own, state),
            none => {
                *none = Some(*state);
                true
            }
        };
        if changed {
            queue.push(number);
        }
    }

    /// Finds where a jump by a table leads; returns whether that is new.
    fn resolve(
        &self,
        at: InstructionIndex,
        state: &Values,
        tables: &mut Tables,
        reader: &mut dyn JumpTables,
    ) -> Result<bool, Failure> {
        let (Some(part), Some(op)) = (self.parts.get(at.0), self.op(at)) else {
            return Err(Unclear::Code.into());
        };
        let table = places::table(state, &part.code, op).ok_or(Unclear::Jump)?;
        if let Some((known, _)) = tables.get(&at) {
            return if *known == table { Ok(false) } else { Err(Unclear::Jump.into()) };
        }
        let cfa = self.cfa(at);
        let mut targets = Vec::new();
        // It ends where no entry leads to code of the function, or later: what is read beyond only adds
        // ways that are never taken. The table of a computed `goto` may have holes, or other words between
        // the labels, and start before the place that the code names: a constant of the index is folded in.
        let (gap, ways) = match table {
            Table::Distances(_) => (0, &[true][..]),
            Table::Addresses(_) => (MOST_BETWEEN, &[true, false][..]),
        };
        for forward in ways {
            let mut between = 0;
            for index in 0..MOST_ENTRIES {
                let entry = if *forward { reader.entry(table, index) } else { reader.before(table, index) };
                let Some(address) = entry.filter(|_| between <= gap) else { break };
                let known = self.parts.iter().any(|part| part.rules.range.contains(address));
                match self.index_of(address) {
                    Some(target) if self.cfa(target) == cfa => {
                        targets.push(target);
                        between = 0;
                    }
                    None if !known && reader.continues(address, cfa) => return Err(Failure::Part(address)),
                    _ => between = between.saturating_add(1),
                }
                if index.saturating_add(1) == MOST_ENTRIES {
                    return Err(Unclear::Bound.into());
                }
            }
        }
        if targets.is_empty() {
            return Err(Unclear::Jump.into());
        }
        targets.sort_unstable();
        targets.dedup();
        tables.insert(at, (table, targets));
        Ok(true)
    }

    /// Fails where some code has a frame, and nothing that is known leads there.
    fn reached(&self) -> Result<(), Failure> {
        for block in self.blocks.iter().filter(|block| block.state.is_none()) {
            let framed = |index: usize| {
                let at = (block.part, index);
                self.op(at).is_some_and(|op| !op.nop) && self.cfa(at) != FRAMELESS
            };
            if (block.from..block.to).any(framed) {
                return Err(Unclear::Entry.into());
            }
        }
        Ok(())
    }
}
