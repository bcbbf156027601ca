//! Why a block is alive: the shortest chain of pointers from a root to it.

use crate::error::Error;
use crate::heap::block::Unit;
use crate::memory::{Buffer, Memory};
use crate::pass::{Chunk, Job};

use super::heuristics::{Heuristics, Look};
use super::index::{Hit, Index};
use super::references::Graph;
use super::referrers::Source;
use super::roots::{Pointer, Roots};
use super::walk::{Visit, Walk};

/// One step of a chain: a word, and the block that it leads into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Where the word stands; of the first step in a root, of the others in the block before.
    pub source: Source,
    /// The number of the block that it points at.
    pub block: usize,
    /// How far into that block it points; negative where it points at its header.
    pub offset: i64,
}

/// Nobody led here yet.
const NONE: u32 = u32::MAX;
/// A root leads here.
const ROOT: u32 = u32::MAX - 1;

/// What a path is looked for in.
pub struct Paths<'p> {
    /// The memory that words are read from.
    pub memory: &'p dyn Memory,
    /// The blocks.
    pub index: &'p Index<'p>,
    /// The roots.
    pub roots: &'p Roots,
    /// What counts as a pointer to a start.
    pub heuristics: &'p Heuristics,
}

impl Paths<'_> {
    /// The shortest chain from a root to the block of `unit`; `None` where there is none.
    ///
    /// Of pointers to starts of blocks where there is such a chain, else of any pointers.
    /// Memory: that of a [`Graph`], and four to eight bytes for each unit.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped, [`Error::Request`] for a heap with
    /// too many blocks.
    pub fn shortest(&self, unit: &Unit, job: &Job) -> Result<Option<Vec<Step>>, Error> {
        let graph = Graph::new(self.memory, self.index, self.heuristics, job)?;
        for definite in [true, false] {
            if let Some(chain) = self.chain(&graph, unit, definite, job)? {
                return self.steps(&chain, definite, job).map(Some);
            }
        }
        Ok(None)
    }

    /// The blocks on the way to `unit`, it included, breadth first from all roots.
    fn chain(
        &self,
        graph: &Graph,
        unit: &Unit,
        definite: bool,
        job: &Job,
    ) -> Result<Option<Vec<u32>>, Error> {
        const ASK: usize = 1 << 16;
        let Ok(wanted) = u32::try_from(unit.index) else { return Ok(None) };
        let mut parents: Vec<u32> = vec![NONE; graph.units()];
        let mut queue: Vec<u32> = Vec::new();
        let mut lead = |queue: &mut Vec<u32>, block: u32, parent: u32| {
            let slot = usize::try_from(block).ok().and_then(|block| parents.get_mut(block));
            if let Some(slot) = slot.filter(|slot| **slot == NONE) {
                *slot = parent;
                queue.push(block);
            }
        };
        self.roots.scan(self.memory, self.index, self.heuristics, job, |_, edge| {
            if edge.link().definite() || !definite {
                lead(&mut queue, edge.block(), ROOT);
            }
        })?;
        let mut at = 0_usize;
        while let Some(block) = queue.get(at).copied().filter(|block| *block != wanted) {
            at = at.saturating_add(1);
            if at % ASK == 0 {
                job.check()?;
            }
            for edge in graph.of(block).iter().filter(|edge| edge.link().definite() || !definite) {
                lead(&mut queue, edge.block(), block);
            }
        }
        if at >= queue.len() {
            return Ok(None);
        }
        let mut chain = vec![wanted];
        let parent = |block: u32| usize::try_from(block).ok().and_then(|block| parents.get(block)).copied();
        let mut block = wanted;
        while let Some(before) = parent(block).filter(|before| *before < ROOT) {
            chain.push(before);
            block = before;
        }
        chain.reverse();
        Ok(Some(chain))
    }

    /// The words that lead from one block of a chain to the next, the first in a root.
    fn steps(&self, chain: &[u32], definite: bool, job: &Job) -> Result<Vec<Step>, Error> {
        let units = chain.iter().filter_map(|block| self.index.blocks().unit(usize::try_from(*block).ok()?));
        let units: Vec<Unit> = units.collect();
        let mut steps = Vec::with_capacity(units.len());
        if let Some(first) = units.first() {
            steps.extend(self.out_of_root(first, definite, job)?);
        }
        for pair in units.windows(2) {
            let [before, next] = pair else { continue };
            job.check()?;
            steps.extend(self.out_of_block(before, next, definite));
        }
        Ok(steps)
    }

    fn out_of_root(&self, unit: &Unit, definite: bool, job: &Job) -> Result<Option<Step>, Error> {
        let block = unit.block();
        let mut found: Option<Pointer> = None;
        // A call of the allocator holds it by its header.
        let near = |value: u64| block.contains(value) || value == unit.range.start();
        self.roots.pointers(self.memory, self.index, self.heuristics, &near, job, |pointer| {
            let own = pointer.hit.unit.index == unit.index;
            if own && found.is_none() && (!definite || pointer.link.definite()) {
                found = Some(pointer);
            }
        })?;
        Ok(found.map(|pointer| Step {
            source: Source::Root(pointer.place),
            block: pointer.hit.unit.index,
            offset: pointer.hit.distance(),
        }))
    }

    /// The first word in the block of `before` that leads into that of `next`.
    fn out_of_block(&self, before: &Unit, next: &Unit, definite: bool) -> Option<Step> {
        let (own, target) = (before.block(), next.block());
        let mut first =
            First { within: before.index, definite, look: self.heuristics.look(self.memory), found: None };
        let walk = Walk::new(self.memory, self.index);
        let mut buffer = Buffer::default();
        walk.chunk(&Chunk { own, run: own }, &mut buffer, &|value| target.contains(value), &mut first);
        first.found
    }
}

/// The first word of one block that points where it is to.
struct First<'h, 'm> {
    within: usize,
    definite: bool,
    look: Look<'h, 'm>,
    found: Option<Step>,
}

impl Visit for First<'_, '_> {
    fn unit(&mut self) {}

    fn word(&mut self, unit: &Unit, address: u64, hit: &Hit, links: bool) {
        let link = self.look.holds(hit, links).filter(|_| unit.index == self.within);
        let fits = link.is_some_and(|link| !self.definite || link.definite());
        if self.found.is_none() && fits {
            let source = Source::Block(address, unit.index);
            self.found = Some(Step { source, block: hit.unit.index, offset: hit.distance() });
        }
    }
}
