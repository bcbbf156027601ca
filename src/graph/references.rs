//! Who points at whom: the references between blocks, in compressed rows.
//!
//! One way to follow pointers is to read each block when it is reached, wherever it lies.
//! Of eight million blocks in no order that waits for memory eight million times, on one
//! thread. Here the heap is read once, in address order, on all threads; what is kept of
//! it is four bytes for each word that points at another block, and four for each unit,
//! which say where its row starts.

use crate::error::Error;
use crate::heap::block::Unit;
use crate::memory::Memory;
use crate::pass::{self, Chunk, Job};

use super::heuristics::{Heuristics, Look};
use super::index::{Hit, Index};
use super::link::{Edge, MOST_BLOCKS};
use super::walk::{Visit, Walk};

/// The references between the blocks of a heap.
///
/// Memory: four bytes for each unit and four for each reference; growing takes up to twice
/// that of address space, which is never touched.
#[derive(Clone, Default, Debug)]
pub struct Graph {
    /// Where the row of each unit starts; one more at the end.
    first: Vec<u32>,
    edges: Vec<Edge>,
    missing: u64,
}

/// What one chunk of memory gave.
#[derive(Default)]
struct Piece {
    /// Where, among the edges of the piece, the row of each unit that starts in it starts.
    first: Vec<u32>,
    edges: Vec<Edge>,
    missing: u64,
}

impl Graph {
    /// The references between the blocks in use of `index`, in `memory`.
    ///
    /// A block's references to itself are left out: they hold nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped, [`Error::Request`] for a heap with
    /// more blocks or references than there are numbers for.
    pub fn new(
        memory: &dyn Memory,
        index: &Index<'_>,
        heuristics: &Heuristics,
        job: &Job,
    ) -> Result<Self, Error> {
        let units = index.blocks().len();
        if units > MOST_BLOCKS {
            return Err(too_many("blocks", units as u64, MOST_BLOCKS as u64));
        }
        let mut graph = Self { first: Vec::with_capacity(units.saturating_add(1)), ..Self::default() };
        let walk = Walk::new(memory, index);
        let work = |chunk: &Chunk, buffer: &mut crate::memory::Buffer| {
            let mut rows = Rows { piece: Piece::default(), look: heuristics.look(memory) };
            rows.piece.missing = walk.chunk(chunk, buffer, &|value| index.near(value), &mut rows);
            rows.piece
        };
        let take = |_: &Chunk, piece: Piece| graph.append(&piece).map(|()| None);
        pass::in_order(memory, &walk.ranges(), pass::CHUNK, job, work, take)?;
        if graph.first.len() != units {
            // Every view has bytes or a gap; a source that breaks this must not shift rows.
            let value = format!("{units} chunks");
            let rule = format!("only {} could be gone over", graph.first.len());
            return Err(Error::Request { thing: "heap with", value, rule });
        }
        graph.first.push(count_of(graph.edges.len())?);
        Ok(graph)
    }

    fn append(&mut self, piece: &Piece) -> Result<(), Error> {
        let base = count_of(self.edges.len())?;
        count_of(self.edges.len().saturating_add(piece.edges.len()))?;
        self.first.extend(piece.first.iter().map(|place| base.saturating_add(*place)));
        self.edges.extend_from_slice(&piece.edges);
        self.missing = self.missing.saturating_add(piece.missing);
        Ok(())
    }

    /// The references that stand in the block with that number, in address order.
    #[must_use]
    #[inline]
    pub fn of(&self, block: u32) -> &[Edge] {
        let row = usize::try_from(block).ok().and_then(|block| self.first.get(block..)?.first_chunk::<2>());
        let Some([from, to]) = row else { return &[] };
        let (from, to) = (usize::try_from(*from).unwrap_or(0), usize::try_from(*to).unwrap_or(0));
        self.edges.get(from..to).unwrap_or_default()
    }

    /// How many units there are.
    #[must_use]
    pub fn units(&self) -> usize {
        self.first.len().saturating_sub(1)
    }

    /// How many references there are.
    #[must_use]
    pub fn references(&self) -> usize {
        self.edges.len()
    }

    /// How many bytes of the heap could not be read.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// The bytes that the rows themselves take.
    #[must_use]
    pub fn own_bytes(&self) -> usize {
        self.first.len().saturating_add(self.edges.len()).saturating_mul(size_of::<Edge>())
    }
}

fn too_many(what: &str, count: u64, most: u64) -> Error {
    Error::Request {
        thing: "heap with",
        value: format!("{count} {what}"),
        rule: format!("more than {most} cannot be traced"),
    }
}

fn count_of(edges: usize) -> Result<u32, Error> {
    u32::try_from(edges).map_err(|_| too_many("references", edges as u64, u64::from(u32::MAX)))
}

/// The rows of one chunk as they are made.
struct Rows<'h, 'm> {
    piece: Piece,
    look: Look<'h, 'm>,
}

impl Visit for Rows<'_, '_> {
    fn unit(&mut self) {
        self.piece.first.push(u32::try_from(self.piece.edges.len()).unwrap_or(u32::MAX));
    }

    #[inline]
    fn word(&mut self, unit: &Unit, _: u64, hit: &Hit, links: bool) {
        if hit.unit.index == unit.index {
            return;
        }
        if let Some(link) = self.look.holds(hit, links) {
            self.piece.edges.extend(Edge::new(hit.unit.index, link));
        }
    }
}
