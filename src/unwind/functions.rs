//! The functions of a target, each looked at once.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use gimli::Pointer;

use crate::memory::Memory;
use crate::peek::Peek;

use super::landing;
use super::modules::Modules;
use super::rules::Rules;
use super::slots::{Exit, Slots, Unclear};

/// Bytes of code that are decoded of one part, and of all together.
const MOST_PART: u64 = 1 << 20;
const MOST_CODE: u64 = 32 << 20;

/// Parts that a function may have.
const MOST_PARTS: usize = 8;

/// A function, or a part of it that has rules of its own.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) rules: Rules,
    pub(super) slots: Slots,
}

/// What all parts of a function touch that are reached from one of them with its frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Whole {
    /// As [`Slots::touched`].
    pub(super) touched: Vec<i64>,
    pub(super) unclear: Option<Unclear>,
}

/// What is known of the functions so far.
pub(super) struct Functions<'m> {
    pub(super) peek: Peek<'m>,
    modules: Modules<'m>,
    /// By their start.
    parts: BTreeMap<u64, Rc<Part>>,
    wholes: BTreeMap<u64, Rc<Whole>>,
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
        let mut slots = self.slots(&rules);
        match rules.exceptions {
            None => {}
            Some(Pointer::Direct(table)) => {
                match landing::landings(&mut self.peek, table, rules.range.start()) {
                    Some(landings) => slots.land(&landings, &rules),
                    None => slots.unclear = slots.unclear.or(Some(Unclear::Jump)),
                }
            }
            Some(Pointer::Indirect(_)) => slots.unclear = slots.unclear.or(Some(Unclear::Jump)),
        }
        let part = Rc::new(Part { rules, slots });
        self.parts.insert(part.rules.range.start(), part.clone());
        Some(part)
    }

    fn slots(&mut self, rules: &Rules) -> Slots {
        let length = rules.range.len();
        let left = self.left.checked_sub(length).filter(|_| length <= MOST_PART);
        let code = left.and_then(|left| {
            self.left = left;
            self.peek.bytes(rules.range.start(), usize::try_from(length).ok()?)
        });
        Slots::find(code.unwrap_or_default(), rules)
    }

    /// What is touched by the function of which `part` is a part.
    pub(super) fn whole(&mut self, part: &Rc<Part>) -> Rc<Whole> {
        let start = part.rules.range.start();
        if let Some(whole) = self.wholes.get(&start) {
            return whole.clone();
        }
        let mut whole = Whole { touched: Vec::new(), unclear: None };
        let mut parts: Vec<Rc<Part>> = vec![part.clone()];
        // Where the frame is brought along to, and where it would have to be.
        let (mut aims, mut heads) = (BTreeSet::new(), Vec::new());
        let mut prologue = false;
        let mut next = 0;
        while let Some(part) = parts.get(next).cloned() {
            next = next.saturating_add(1);
            whole.touched.extend(&part.slots.touched);
            whole.keep(part.slots.unclear);
            prologue |= part.slots.prologue;
            heads.extend(&part.slots.heads);
            aims.extend(&part.slots.aims);
            aims.extend(part.slots.exits.iter().map(|exit| exit.target));
            for exit in &part.slots.exits {
                if parts.len() > MOST_PARTS {
                    whole.keep(Some(Unclear::Jump));
                    break;
                }
                match self.aim(exit) {
                    Ok(aim) if parts.iter().any(|known| Rc::ptr_eq(known, &aim)) => {}
                    Ok(aim) => parts.push(aim),
                    Err(unclear) => whole.keep(Some(unclear)),
                }
            }
        }
        // A part that only others lead to may use what they took the address of; they are not
        // known unless it leads back.
        if !prologue || heads.iter().any(|head| !aims.contains(head)) {
            whole.keep(Some(Unclear::Entry));
        }
        whole.touched.sort_unstable();
        whole.touched.dedup();
        let whole = Rc::new(whole);
        self.wholes.insert(start, whole.clone());
        whole
    }

    /// The part that a jump leads to.
    fn aim(&mut self, exit: &Exit) -> Result<Rc<Part>, Unclear> {
        let part = self.part(exit.target).ok_or(Unclear::Code)?;
        if !part.slots.starts(exit.target.wrapping_sub(part.rules.range.start())) {
            return Err(Unclear::Code);
        }
        let same = exit.cfa.is_none_or(|cfa| part.rules.row(exit.target).is_some_and(|row| row.cfa == cfa));
        if same { Ok(part) } else { Err(Unclear::Rules) }
    }
}

impl Whole {
    fn keep(&mut self, unclear: Option<Unclear>) {
        if self.unclear.is_none() || unclear == Some(Unclear::Code) {
            self.unclear = unclear.or(self.unclear);
        }
    }
}
