//! Stacks that differ only in when they were seen, under one number.
//!
//! The recorder's nodes are a trie for each generation of modules. One way to compare stacks is to
//! write out the frames of each, 250 for one block. Here each node is compared once: two are equal
//! where they have the same frame in the same module and what is further out is equal.

use std::collections::HashMap;

use crate::memory::Memory;
use crate::peek::Peek;

use super::header::Area;
use super::layout;
use super::modules::Modules;
use super::stacks::{Frame, Node, node};

/// A stack that is known: the number that equal ones have in common, and what its own frames need.
#[derive(Clone, Copy)]
struct Known {
    common: u32,
    generation: u32,
    depth: usize,
}

/// What makes two stacks equal: the frame, the module it lay in, and what is further out.
type Key = (Frame, Option<usize>, u32);

/// Gives equal stacks one number.
pub(super) struct United<'m> {
    peek: Peek<'m>,
    nodes: &'m Area,
    modules: &'m Modules,
    /// Of each node as a caller, what it and all that is further out have in common with others.
    callers: HashMap<u32, Known>,
    /// The number of each list of callers; the empty list has 1.
    lists: HashMap<Key, u32>,
    /// The first node of each stack.
    first: HashMap<Key, u32>,
    /// The result for each node.
    stacks: HashMap<u32, u32>,
}

impl<'m> United<'m> {
    pub(super) fn new(memory: &'m dyn Memory, nodes: &'m Area, modules: &'m Modules) -> Self {
        Self {
            peek: Peek::new(memory),
            nodes,
            modules,
            callers: HashMap::new(),
            lists: HashMap::new(),
            first: HashMap::new(),
            stacks: HashMap::new(),
        }
    }

    /// The number of the first stack that was asked for and is equal to that of `innermost`.
    ///
    /// A stack whose chain of nodes is damaged is equal to itself only.
    pub(super) fn number(&mut self, innermost: u32) -> u32 {
        if let Some(known) = self.stacks.get(&innermost) {
            return *known;
        }
        let number = self.equal(innermost).unwrap_or(innermost);
        self.stacks.insert(innermost, number);
        number
    }

    fn equal(&mut self, innermost: u32) -> Option<u32> {
        let Node::Frame(frame, parent) = node(&mut self.peek, self.nodes, innermost)? else {
            // No frames at all: all such stacks are equal.
            return Some(*self.first.entry((Frame { pc: 0, exact: false }, None, 0)).or_insert(innermost));
        };
        let caller = self.caller(parent)?;
        if caller.depth.saturating_add(1) > layout::DEEPEST {
            return None;
        }
        // The innermost is the allocation function, whatever its bit says.
        let frame = Frame { exact: true, ..frame };
        let module = self.modules.at(frame.address(), caller.generation);
        // 0 is what the stack without frames has.
        Some(*self.first.entry((frame, module, caller.common)).or_insert(innermost))
    }

    /// What is known of the list of frames that begins with node `from` and goes on outwards.
    fn caller(&mut self, from: u32) -> Option<Known> {
        let mut chain = Vec::new();
        let mut at = from;
        let mut known = loop {
            if let Some(known) = self.callers.get(&at) {
                break *known;
            }
            if chain.len() >= layout::DEEPEST {
                return None;
            }
            match node(&mut self.peek, self.nodes, at)? {
                Node::Frame(frame, parent) => {
                    chain.push((at, frame));
                    at = parent;
                }
                Node::Outermost(generation) => {
                    let generation = generation?;
                    let known = Known { common: 1, generation, depth: 1 };
                    self.callers.insert(at, known);
                    break known;
                }
            }
        };
        while let Some((at, frame)) = chain.pop() {
            let module = self.modules.at(frame.address(), known.generation);
            let new = u32::try_from(self.lists.len()).ok()?.checked_add(2)?;
            let common = *self.lists.entry((frame, module, known.common)).or_insert(new);
            known = Known { common, depth: known.depth.saturating_add(1), ..known };
            self.callers.insert(at, known);
        }
        Some(known)
    }
}
