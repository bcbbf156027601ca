//! Which blocks the roots hold, how, and which hold each other.
//!
//! The rules are those of valgrind's leak check (valgrind 3.19, `memcheck/mc_leakcheck.c`,
//! `lc_push_without_clique_if_a_chunk_ptr` and `lc_push_with_clique_if_a_chunk_ptr`). valgrind
//! goes over a block again when it turns out to be held better than it seemed. Here all
//! that is surely held is followed first, so that each block is gone over once; and what
//! is left to do is kept on a stack of our own, so that a list of a million nodes costs
//! what a million blocks cost, in whatever order they lie.

use crate::error::Error;
use crate::heap::allocator::Count;
use crate::heap::block::{Blocks, State};
use crate::heap::recorded::Recorded;
use crate::pass::Job;

use super::link::{Edge, Link};
use super::references::Graph;

/// How many blocks are gone over before somebody may ask to stop.
const ASK: u32 = 1 << 16;

/// What was found of a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Mark {
    /// No block in use, or one that nothing was found of yet.
    None,
    /// Roots may hold it: a pointer into it was found, or one from a block that is so held.
    Possible,
    /// Roots hold it.
    Reachable,
    /// Nothing holds it.
    Leader,
    /// Only blocks that nothing holds do.
    Member,
}

const MARK: u8 = 7;
const LINK_SHIFT: u32 = 3;

/// The mark of each unit, and who leads those that nothing holds.
///
/// Memory: a byte for each unit; four more, and 16 for each leader with members, in pages
/// where there are such blocks.
#[derive(Clone, Default, Debug)]
pub struct Marks {
    units: Vec<u8>,
    /// Of a member: its leader's number, which may have become a member since, and one.
    /// Of a leader: the number of its weight, and one; zero where it has no members.
    links: Vec<u32>,
    weights: Vec<Count>,
}

impl Marks {
    /// The mark of the unit with that number.
    #[must_use]
    #[inline]
    pub fn mark(&self, unit: usize) -> Mark {
        match self.units.get(unit).map_or(0, |mark| mark & MARK) {
            1 => Mark::Possible,
            2 => Mark::Reachable,
            3 => Mark::Leader,
            4 => Mark::Member,
            _ => Mark::None,
        }
    }

    /// The heuristic by which alone a reachable block is held.
    #[must_use]
    pub fn saved_by(&self, unit: usize) -> Option<Link> {
        let number = self.units.get(unit).map_or(0, |mark| mark >> LINK_SHIFT);
        Some(Link::from_number(number)).filter(|link| link.heuristic())
    }

    /// What a leader holds that nothing else does: blocks, and their bytes.
    #[must_use]
    pub fn weight(&self, unit: usize) -> Count {
        let number = (self.mark(unit) == Mark::Leader).then(|| self.links.get(unit)).flatten();
        number.and_then(|number| self.weights.get(slot(*number)?)).copied().unwrap_or_default()
    }

    /// The leader of a member, or the leader itself.
    #[must_use]
    pub fn leader(&self, unit: usize) -> usize {
        let mut at = unit;
        while self.mark(at) == Mark::Member {
            match self.links.get(at).and_then(|link| slot(*link)) {
                Some(next) if next != at => at = next,
                _ => break,
            }
        }
        at
    }

    /// Hands the numbers of all members of a leader to `take`, in order.
    ///
    /// Time: that of looking at every unit once, however leaders became members.
    pub fn members(&self, leader: usize, mut take: impl FnMut(usize)) {
        // What is known of members so far: one that belongs to the leader, one that does not.
        let mut known: Vec<u8> = vec![0; if self.links.is_empty() { 0 } else { self.units.len() }];
        let mut path = Vec::new();
        for unit in 0..known.len() {
            let mut at = unit;
            let belongs = loop {
                match known.get(at) {
                    Some(1) => break true,
                    Some(2) => break false,
                    _ if self.mark(at) != Mark::Member => break at == leader,
                    _ => {}
                }
                path.push(at);
                match self.links.get(at).and_then(|link| slot(*link)) {
                    Some(next) => at = next,
                    None => break false,
                }
            };
            for place in path.drain(..) {
                if let Some(slot) = known.get_mut(place) {
                    *slot = if belongs { 1 } else { 2 };
                }
            }
            if belongs && unit != leader {
                take(unit);
            }
        }
    }

    fn set(&mut self, unit: u32, mark: Mark, link: Link) {
        if let Some(place) = usize::try_from(unit).ok().and_then(|unit| self.units.get_mut(unit)) {
            *place = mark as u8 | ((link as u8) << LINK_SHIFT);
        }
    }

    fn at(&self, unit: u32) -> Mark {
        self.mark(usize::try_from(unit).unwrap_or(usize::MAX))
    }

    fn link(&mut self, unit: u32) -> Option<&mut u32> {
        self.links.get_mut(usize::try_from(unit).ok()?)
    }
}

/// A number that is kept with one added.
fn slot(number: u32) -> Option<usize> {
    usize::try_from(number.checked_sub(1)?).ok()
}

/// Marks blocks, first from roots.
#[derive(Clone)]
pub struct Tracer<'t> {
    graph: &'t Graph,
    blocks: &'t Blocks,
    recorded: Option<&'t Recorded>,
    marks: Marks,
    stack: Vec<u32>,
    asked: u32,
}

impl<'t> Tracer<'t> {
    /// A tracer for which no root was found yet.
    #[must_use]
    pub fn new(graph: &'t Graph, blocks: &'t Blocks) -> Self {
        let marks = Marks { units: vec![0; graph.units()], ..Marks::default() };
        Self { graph, blocks, recorded: None, marks, stack: Vec::new(), asked: 0 }
    }

    /// The same, which counts the bytes that were asked for where they were recorded.
    #[must_use]
    pub fn counting(self, recorded: Option<&'t Recorded>) -> Self {
        Self { recorded, ..self }
    }

    /// A word of a root that points at a block.
    pub fn root(&mut self, edge: Edge) {
        self.held(edge);
    }

    /// Follows what the roots hold, then tells who leads what nothing holds.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn finish(mut self, job: &Job) -> Result<Marks, Error> {
        self.reachable(job)?;
        self.possible(job)?;
        self.lost(job)?;
        Ok(self.marks)
    }

    fn ask(&mut self, job: &Job) -> Result<(), Error> {
        self.asked = self.asked.wrapping_add(1);
        if self.asked % ASK == 0 { job.check() } else { Ok(()) }
    }

    /// An edge from a root or from a block that roots hold.
    #[inline]
    fn held(&mut self, edge: Edge) {
        let (block, link) = (edge.block(), edge.link());
        let mark = self.marks.at(block);
        if link.definite() {
            if mark != Mark::Reachable {
                self.marks.set(block, Mark::Reachable, link);
                self.stack.push(block);
            } else if link == Link::Start {
                // A heuristic is named only where nothing else holds the block.
                self.marks.set(block, Mark::Reachable, Link::Start);
            }
        } else if mark == Mark::None {
            self.marks.set(block, Mark::Possible, link);
        }
    }

    fn reachable(&mut self, job: &Job) -> Result<(), Error> {
        while let Some(block) = self.stack.pop() {
            self.ask(job)?;
            for edge in self.graph.of(block) {
                self.held(*edge);
            }
        }
        Ok(())
    }

    /// Follows what is possibly held: from there on every pointer makes possible at most.
    fn possible(&mut self, job: &Job) -> Result<(), Error> {
        let marks = self.marks.units.iter();
        let possible = (0_u32..).zip(marks).filter(|(_, mark)| *mark & MARK == Mark::Possible as u8);
        self.stack = possible.map(|(block, _)| block).collect();
        while let Some(block) = self.stack.pop() {
            self.ask(job)?;
            for edge in self.graph.of(block) {
                if self.marks.at(edge.block()) == Mark::None {
                    self.marks.set(edge.block(), Mark::Possible, Link::Interior);
                    self.stack.push(edge.block());
                }
            }
        }
        Ok(())
    }

    /// Each block that is left, in address order, leads those that it reaches and that were not led yet;
    /// a leader that another one reaches leads no more.
    fn lost(&mut self, job: &Job) -> Result<(), Error> {
        let blocks = self.blocks;
        for unit in blocks.units().filter(|unit| unit.state == State::Used) {
            let Ok(leader) = u32::try_from(unit.index) else { break };
            if self.marks.at(leader) != Mark::None {
                continue;
            }
            if self.marks.links.is_empty() {
                self.marks.links = vec![0; self.graph.units()];
            }
            self.marks.set(leader, Mark::Leader, Link::Start);
            self.stack.push(leader);
            while let Some(block) = self.stack.pop() {
                self.ask(job)?;
                for edge in self.graph.of(block) {
                    self.follow(edge.block(), leader);
                }
            }
        }
        Ok(())
    }

    /// Makes a block that `leader` reaches one of its members, unless it is one already.
    fn follow(&mut self, block: u32, leader: u32) {
        let mark = self.marks.at(block);
        if block == leader || !matches!(mark, Mark::None | Mark::Leader) {
            return;
        }
        let own = usize::try_from(block).ok().and_then(|block| self.blocks.unit(block));
        let size = |unit| match self.recorded {
            Some(recorded) => recorded.bytes(&unit),
            None => unit.block().len(),
        };
        let bytes = own.map_or(0, size);
        let before = self.marks.link(block).map_or(0, std::mem::take);
        // What it led it brings along.
        let brought = slot(before).filter(|_| mark == Mark::Leader);
        let weight = brought.and_then(|place| self.marks.weights.get(place)).copied().unwrap_or_default();
        let slot_of_leader = self.marks.link(leader).map_or(0, |link| *link);
        let place = match (slot(slot_of_leader), brought) {
            (Some(place), _) => place,
            // The room is taken over with what is in it.
            (None, Some(place)) => {
                if let Some(room) = self.marks.weights.get_mut(place) {
                    *room = Count::default();
                }
                place
            }
            (None, None) => {
                self.marks.weights.push(Count::default());
                self.marks.weights.len().saturating_sub(1)
            }
        };
        if let Some(room) = self.marks.weights.get_mut(place) {
            room.merge(weight);
            room.add(bytes);
        }
        if let Some(link) = self.marks.link(leader) {
            *link = u32::try_from(place.saturating_add(1)).unwrap_or(0);
        }
        self.marks.set(block, Mark::Member, Link::Start);
        if let Some(link) = self.marks.link(block) {
            *link = leader.saturating_add(1);
        }
        self.stack.push(block);
    }
}
