//! Who points at one block: a search through roots and blocks that needs no graph.

use crate::error::Error;
use crate::heap::block::Unit;
use crate::memory::{Buffer, Memory};
use crate::pass::{self, Chunk, Job};

use super::heuristics::{Heuristics, Look};
use super::index::{Hit, Index};
use super::roots::{Place, Roots};
use super::walk::{Visit, Walk};

/// Where a word stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// In a root.
    Root(Place),
    /// At an address in the block with that number.
    Block(u64, usize),
}

/// A word that points at a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reference {
    /// Where it stands.
    pub source: Source,
    /// How far into the block it points; negative where it points at its header.
    pub offset: i64,
}

/// The words that point at a block, as many as were asked for, and how many there are.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Referrers {
    /// The first of them: in registers, in other roots, in blocks, each in address order.
    pub references: Vec<Reference>,
    /// How many there are.
    pub count: u64,
}

impl Referrers {
    /// Everything that points at the block of `unit`.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn find(
        memory: &dyn Memory,
        index: &Index<'_>,
        roots: &Roots,
        heuristics: &Heuristics,
        unit: &Unit,
        limit: usize,
        job: &Job,
    ) -> Result<Self, Error> {
        let block = unit.block();
        let near = |value: u64| block.contains(value);
        let mut found = Self::in_roots(memory, index, roots, heuristics, unit, limit, job)?;
        let walk = Walk::new(memory, index);
        let work = |chunk: &Chunk, buffer: &mut Buffer| {
            let mut words = Words { look: heuristics.look(memory), found: Vec::new() };
            walk.chunk(chunk, buffer, &near, &mut words);
            words.found
        };
        pass::in_order(memory, &walk.ranges(), pass::CHUNK, job, work, |_, words| {
            for word in words {
                found.add(word, limit);
            }
            Ok(None)
        })?;
        Ok(found)
    }

    /// The words of `roots` alone that point at the block of `unit`.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn in_roots(
        memory: &dyn Memory,
        index: &Index<'_>,
        roots: &Roots,
        heuristics: &Heuristics,
        unit: &Unit,
        limit: usize,
        job: &Job,
    ) -> Result<Self, Error> {
        let block = unit.block();
        // A call of the allocator holds it by its header.
        let near = |value: u64| block.contains(value) || value == unit.range.start();
        let mut found = Self::default();
        roots.pointers(memory, index, heuristics, &near, job, |pointer| {
            let source = Source::Root(pointer.place);
            if pointer.hit.unit.index == unit.index {
                found.add(Reference { source, offset: pointer.hit.distance() }, limit);
            }
        })?;
        Ok(found)
    }

    fn add(&mut self, reference: Reference, limit: usize) {
        self.count = self.count.saturating_add(1);
        if self.references.len() < limit {
            self.references.push(reference);
        }
    }
}

/// The words of blocks that point at the block asked for.
struct Words<'h, 'm> {
    look: Look<'h, 'm>,
    found: Vec<Reference>,
}

impl Visit for Words<'_, '_> {
    fn unit(&mut self) {}

    fn word(&mut self, unit: &Unit, address: u64, hit: &Hit, links: bool) {
        if self.look.holds(hit, links).is_some() {
            let source = Source::Block(address, unit.index);
            self.found.push(Reference { source, offset: hit.distance() });
        }
    }
}
