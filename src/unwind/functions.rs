//! The functions of a target, each looked at once.

use std::collections::BTreeMap;
use std::rc::Rc;

use gimli::Pointer;

use crate::error::Error;
use crate::memory::Memory;
use crate::pass::Job;
use crate::peek::Peek;

use super::Unclear;
use super::code::{Act, Op, Successor};
use super::control_flow::{ControlFlow, Failure, InstructionIndex, JumpTables};
use super::data_flow::DataFlow;
use super::landing_pads;
use super::modules::Modules;
use super::part::{FRAMELESS, Part};
use super::places::Table;
use super::rules::Cfa;
use super::twice;

/// Bytes of code that are decoded of one part, and of all together.
const MOST_PART: u64 = 512 << 10;
const MOST_CODE: u64 = 8 << 20;

/// Parts that a function may have.
const MOST_PARTS: usize = 8;

/// A function, with all parts of it that are reached from one of them with its frame.
#[derive(Debug)]
pub(super) struct Whole {
    /// Its data flow, or what makes its frames alive as a whole.
    pub(super) flow: Result<DataFlow, Unclear>,
    /// Calls by a pointer that may be of a function that returns twice.
    pub(super) may_return_twice: Vec<InstructionIndex>,
    /// Whether it can return.
    pub(super) returns: bool,
    /// Whether it keeps values in all registers that calls preserve but the frame pointer: a
    /// compiler that optimises made it, and what it keeps in memory beside are its own copies.
    pub(super) saves_all_preserved: bool,
}

/// What is known of the functions so far.
pub(super) struct Functions<'m> {
    pub(super) peek: Peek<'m>,
    modules: Modules<'m>,
    /// By their start.
    parts: BTreeMap<u64, Rc<Part>>,
    wholes: BTreeMap<u64, Rc<Whole>>,
    /// Whether the function at an address returns twice.
    twice: BTreeMap<u64, bool>,
    /// How many bytes of code may still be decoded.
    left: u64,
}

impl<'m> Functions<'m> {
    pub(super) fn new(memory: &'m dyn Memory) -> Self {
        Self {
            peek: Peek::new(memory),
            modules: Modules::new(memory),
            parts: BTreeMap::new(),
            wholes: BTreeMap::new(),
            twice: BTreeMap::new(),
            left: MOST_CODE,
        }
    }

    /// The part that the instruction at `address` belongs to.
    pub(super) fn part(&mut self, address: u64) -> Option<Rc<Part>> {
        let known = self.parts.range(..=address).next_back();
        if let Some((_, part)) = known.filter(|(_, part)| part.rules.range.contains(address)) {
            return Some(part.clone());
        }
        let rules = self.modules.rules(&mut self.peek, address)?;
        let length = rules.range.len();
        let left = self.left.checked_sub(length).filter(|_| length <= MOST_PART);
        let code = left.and_then(|left| {
            self.left = left;
            self.peek.bytes(rules.range.start(), usize::try_from(length).ok()?)
        });
        let mut part = Part::new(code.unwrap_or_default(), rules);
        match part.rules.exceptions {
            None => {}
            Some(Pointer::Direct(table)) => {
                match landing_pads::sites(&mut self.peek, table, part.rules.range.start()) {
                    Some(sites) => part.sites = sites,
                    None => part.unclear = part.unclear.or(Some(Unclear::Jump)),
                }
            }
            Some(Pointer::Indirect(_)) => part.unclear = part.unclear.or(Some(Unclear::Jump)),
        }
        let part = Rc::new(part);
        self.parts.insert(part.rules.range.start(), part.clone());
        Some(part)
    }

    /// The function of which `part` is a part.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub(super) fn whole(&mut self, part: &Rc<Part>, job: &Job) -> Result<Rc<Whole>, Error> {
        let start = part.rules.range.start();
        if let Some(whole) = self.wholes.get(&start) {
            return Ok(whole.clone());
        }
        let mut parts: Vec<Rc<Part>> = vec![part.clone()];
        let flow = match self.flow(&mut parts, job) {
            Ok(flow) => Ok(flow),
            Err(Failure::Unclear(unclear)) => Err(unclear),
            // It has too many.
            Err(Failure::Part(_)) => Err(Unclear::Jump),
            Err(Failure::Stopped(error)) => return Err(error),
        };
        let may_return_twice = flow.as_ref().map_or_else(|_| Vec::new(), |flow| self.by_pointer(&flow.graph));
        let saves = |register: usize| {
            parts.iter().flat_map(|part| &part.rules.rows).any(|row| {
                row.saved.get(register).is_some_and(|saved| matches!(saved, super::rules::Saved::At(_)))
            })
        };
        let whole = Rc::new(Whole {
            flow,
            may_return_twice,
            // A function that cannot be read may.
            returns: parts.iter().any(|part| part.code.unclear.is_some() || may_return(part)),
            // All but rbp, the second.
            saves_all_preserved: [0, 2, 3, 4, 5].into_iter().all(saves),
        });
        for part in &parts {
            if whole.flow.is_ok() || part.rules.range.start() == start {
                self.wholes.insert(part.rules.range.start(), whole.clone());
            }
        }
        Ok(whole)
    }

    fn flow(&mut self, parts: &mut Vec<Rc<Part>>, job: &Job) -> Result<DataFlow, Failure> {
        loop {
            if let Some(unclear) = parts.iter().find_map(|part| part.unclear) {
                return Err(unclear.into());
            }
            parts.sort_by_key(|part| part.rules.range.start());
            match ControlFlow::new(parts.clone(), self, job) {
                Ok(graph) => {
                    if parts.iter().any(|part| self.calls_twice(part)) {
                        return Err(Unclear::Twice.into());
                    }
                    return DataFlow::new(graph, job);
                }
                Err(Failure::Part(address)) if parts.len() <= MOST_PARTS => {
                    let part = self.part(address).ok_or(Unclear::Code)?;
                    if part.code.index_of(address).is_none() {
                        return Err(Unclear::Code.into());
                    }
                    parts.push(part);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Whether a part calls a function that returns twice.
    fn calls_twice(&mut self, part: &Part) -> bool {
        let calls = part.code.ops.iter().filter(|op| op.act == Act::Call);
        calls.into_iter().any(|op| {
            let Some(target) = self.target(part, op) else { return false };
            let peek = &mut self.peek;
            *self.twice.entry(target).or_insert_with(|| twice::returns_twice(peek, target))
        })
    }

    /// Where a call leads, if that is known.
    fn target(&mut self, part: &Part, op: &Op) -> Option<u64> {
        match (op.address, part.code.mems(op)) {
            (Some(target), _) => Some(target),
            // By a word of the module's own, as without a procedure linkage table.
            (None, [mem]) if mem.base.is_none() && mem.index.is_none() && !mem.wild => {
                self.peek.word(mem.displacement.unsigned_abs())
            }
            _ => None,
        }
    }

    /// The calls by a pointer whose result may be that of `setjmp`.
    fn by_pointer(&mut self, graph: &ControlFlow) -> Vec<InstructionIndex> {
        let mut found = Vec::new();
        for (number, part) in graph.parts.iter().enumerate() {
            for (index, op) in part.code.ops.iter().enumerate().filter(|(_, op)| op.act == Act::Call) {
                if self.target(part, op).is_none() && twice::result_is_int(&mut self.peek, op.next) {
                    found.push((number, index));
                }
            }
        }
        found
    }
}

/// Whether code of a part returns, or leaves its return to another function.
fn may_return(part: &Part) -> bool {
    part.code.returns()
        || part.code.ops.iter().any(|op| {
            let frameless = part.rules.rows.get(op.row as usize).is_none_or(|row| row.cfa == FRAMELESS);
            match op.successor {
                Successor::Indirect => frameless,
                Successor::Jump(to) | Successor::Branch(to) => frameless && !part.rules.range.contains(to),
                _ => false,
            }
        })
}

impl JumpTables for Functions<'_> {
    fn entry(&mut self, table: Table, index: u64) -> Option<u64> {
        match table {
            Table::Addresses(start) => self.peek.word(start.checked_add(index.checked_mul(8)?)?),
            Table::Distances(start) => {
                let at = start.checked_add(index.checked_mul(4)?)?;
                let distance = i32::from_le_bytes(self.peek.bytes(at, 4)?.try_into().ok()?);
                start.checked_add_signed(i64::from(distance))
            }
        }
    }

    fn before(&mut self, table: Table, index: u64) -> Option<u64> {
        let Table::Addresses(start) = table else { return None };
        self.peek.word(start.checked_sub(index.checked_add(1)?.checked_mul(8)?)?)
    }

    fn continues(&mut self, address: u64, cfa: Cfa) -> bool {
        let Some(part) = self.part(address) else { return false };
        part.code.index_of(address).is_some() && part.rules.row(address).is_some_and(|row| row.cfa == cfa)
    }
}
