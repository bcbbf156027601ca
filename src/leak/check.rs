//! A leak check: roots, references, and the verdict on every block in use.

use std::collections::BTreeMap;

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::error::Error;
use crate::graph::{
    Choice, Found, Graph, Heuristics, Index, Link, Mark, Marks, RootKind, Roots, Tracer, Wanted,
};
use crate::heap::Allocator;
use crate::heap::allocator::Count;
use crate::heap::block::{Blocks, State};
use crate::memory::Memory;
use crate::pass::Job;
use crate::source::Thread;

use super::verdict::Verdict;

/// Units that one worker counts at a time.
const SLICE: usize = 1 << 16;

/// How a check is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// What counts as a root.
    pub choice: Choice,
    /// Which heuristics count.
    pub heuristics: Wanted,
}

impl Default for Options {
    fn default() -> Self {
        Self { choice: Choice::default(), heuristics: Wanted::ALL }
    }
}

/// The verdicts on all blocks in use, and what they rest on.
#[derive(Clone, Debug)]
pub struct Check {
    marks: Marks,
    /// Blocks and usable bytes by verdict, in the order of [`Verdict::ALL`].
    pub summary: [Count; Verdict::ALL.len()],
    /// Blocks and usable bytes that only a heuristic saved, in the order of [`Link::HEURISTICS`].
    pub saved: [Count; Link::HEURISTICS.len()],
    /// What only registers hold that are not general ones, where these count.
    pub only_vector: Option<Held>,
    /// What was found in the roots.
    pub roots: BTreeMap<RootKind, Found>,
    /// How many references between blocks there are.
    pub references: u64,
    /// The bytes that the references and marks took.
    pub own_bytes: u64,
    /// Bytes of roots, and of blocks, that could not be read.
    pub missing: (u64, u64),
    /// Bytes of frames that are alive and that do not count, because no code touches them.
    pub untouched: u64,
    /// Sentences on what may make verdicts wrong, and in which direction.
    pub notes: Vec<String>,
}

impl Check {
    /// Judges all blocks in use of `heap`.
    ///
    /// Memory while it works: nine bytes for each unit and four for each reference, and four
    /// more for each block that waits to be followed; afterwards a byte for each unit, and
    /// four more where blocks are lost.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped, [`Error::Request`] for a heap with
    /// too many blocks.
    pub fn new(
        memory: &dyn Memory,
        heap: &dyn Allocator,
        threads: &[Thread],
        options: &Options,
        job: &Job,
    ) -> Result<Self, Error> {
        let blocks = heap.blocks();
        let index = Index::new(blocks);
        let heuristics = Heuristics::new(memory, options.heuristics);
        let roots = Roots::find(memory, heap, threads, options.choice, job)?;
        let graph = Graph::new(memory, &index, &heuristics, job)?;
        let mut tracer = Tracer::new(&graph, blocks);
        let mut late = Vec::new();
        let (found, lost) = roots.scan(memory, &index, &heuristics, job, |kind, edge| match kind {
            RootKind::VectorRegister => late.push(edge),
            _ => tracer.root(edge),
        })?;
        let without = options.choice.vector.then(|| tracer.clone());
        for edge in late {
            tracer.root(edge);
        }
        let marks = tracer.finish(job)?;
        let without = without.map(|without| without.finish(job)).transpose()?;
        let only_vector = without.map(|without| Held::between(blocks, &without, &marks));
        let missing = (lost, graph.missing());
        let (summary, saved) = sums(blocks, &marks, job)?;
        let own_bytes = graph.own_bytes().saturating_add(blocks.len()) as u64;
        let mut notes = notes(heap, &roots, &found, missing);
        notes.extend(unknown(threads));
        Ok(Self {
            marks,
            summary,
            saved,
            only_vector,
            roots: found,
            references: graph.references() as u64,
            own_bytes,
            missing,
            untouched: roots.untouched,
            notes,
        })
    }

    /// The verdict on the unit with that number; `None` where it is no block in use.
    #[must_use]
    pub fn verdict(&self, unit: usize) -> Option<Verdict> {
        Verdict::of(&self.marks, unit)
    }

    /// The heuristic that alone saved a block.
    #[must_use]
    pub fn saved_by(&self, unit: usize) -> Option<Link> {
        self.marks.saved_by(unit)
    }

    /// What a definitely lost block holds that nothing else does.
    #[must_use]
    pub fn weight(&self, unit: usize) -> Count {
        self.marks.weight(unit)
    }

    /// The lost blocks of the cluster that a lost block belongs to, its leader first.
    ///
    /// Of an indirectly lost block that is the definitely lost one through which valgrind
    /// reaches it, and all that is reached in the same way. At most `limit` are told, all
    /// are counted.
    #[must_use]
    pub fn cluster(&self, unit: usize, limit: usize) -> (Vec<usize>, u64) {
        let leader = self.marks.leader(unit);
        if self.verdict(leader) != Some(Verdict::DefinitelyLost) {
            return (Vec::new(), 0);
        }
        let mut members = vec![leader];
        let mut count = 1_u64;
        self.marks.members(leader, |member| {
            count = count.saturating_add(1);
            if members.len() < limit {
                members.push(member);
            }
        });
        (members, count)
    }

    /// Blocks and usable bytes with a verdict.
    #[must_use]
    pub fn of(&self, verdict: Verdict) -> Count {
        self.summary.get(verdict as usize).copied().unwrap_or_default()
    }
}

/// Blocks that some of the roots alone hold.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// How many, and their usable bytes.
    pub weight: Count,
    /// The addresses of the first of them.
    pub sample: Vec<u64>,
}

impl Held {
    /// The blocks whose verdict is better in `with` than in `without`.
    fn between(blocks: &Blocks, without: &Marks, with: &Marks) -> Self {
        const NAMED: usize = 5;
        let mut held = Self::default();
        let surer = |unit: usize| sureness(with, unit) > sureness(without, unit);
        for unit in blocks.units().filter(|unit| surer(unit.index)) {
            held.weight.add(unit.block().len());
            if held.sample.len() < NAMED {
                held.sample.push(unit.block().start());
            }
        }
        held
    }
}

/// How surely roots hold a unit.
fn sureness(marks: &Marks, unit: usize) -> u8 {
    match marks.mark(unit) {
        Mark::Reachable => 2,
        Mark::Possible => 1,
        Mark::None | Mark::Leader | Mark::Member => 0,
    }
}

type Sums = ([Count; Verdict::ALL.len()], [Count; Link::HEURISTICS.len()]);

/// Blocks and usable bytes by verdict, and by the heuristic that saved them.
fn sums(blocks: &Blocks, marks: &Marks, job: &Job) -> Result<Sums, Error> {
    let slices = blocks.len().div_ceil(SLICE);
    let count = |slice: usize| {
        let mut sums = Sums::default();
        let from = slice.saturating_mul(SLICE);
        let to = from.saturating_add(SLICE).min(blocks.len());
        if job.stopped() {
            return sums;
        }
        for unit in blocks.units_in(from..to).filter(|unit| unit.state == State::Used) {
            let Some(verdict) = Verdict::of(marks, unit.index) else { continue };
            let bytes = unit.block().len();
            if let Some(count) = sums.0.get_mut(verdict as usize) {
                count.add(bytes);
            }
            let saved = marks.saved_by(unit.index);
            let counts = sums.1.iter_mut().zip(Link::HEURISTICS);
            counts.filter(|(_, link)| saved == Some(*link)).for_each(|(count, _)| count.add(bytes));
        }
        sums
    };
    let counted: Vec<Sums> = (0..slices).into_par_iter().with_min_len(1).map(count).collect();
    job.check()?;
    let mut whole = Sums::default();
    for (verdicts, saved) in counted {
        let verdicts = whole.0.iter_mut().zip(verdicts);
        let saved = whole.1.iter_mut().zip(saved);
        verdicts.chain(saved).for_each(|(own, other)| own.merge(other));
    }
    Ok(whole)
}

/// Threads whose registers are not known.
fn unknown(threads: &[Thread]) -> Option<String> {
    let unknown = threads.iter().filter(|thread| thread.registers.general.is_empty()).count();
    (unknown > 0).then(|| {
        format!(
            "the registers of {unknown} of {} threads are not known: blocks that only they hold seem lost",
            threads.len()
        )
    })
}

/// What may make verdicts wrong, and in which direction.
fn notes(
    heap: &dyn Allocator,
    roots: &Roots,
    found: &BTreeMap<RootKind, Found>,
    (lost_roots, lost_blocks): (u64, u64),
) -> Vec<String> {
    let mut notes = Vec::new();
    if lost_roots > 0 || lost_blocks > 0 {
        notes.push(format!(
            "{lost_roots} bytes of roots and {lost_blocks} bytes of the heap are missing: blocks that only pointers in \
             them hold seem lost"
        ));
    }
    if heap.damages() > 0 {
        let damaged = found.get(&RootKind::Damaged).map_or(0, |found| found.pointers);
        notes.push(format!(
            "the heap is damaged: blocks that cannot be told any more have no verdict, and what they point at \
             ({damaged} pointers) counts as held, so that lost blocks may be missing"
        ));
    }
    notes.extend(roots.notes.iter().cloned());
    let (stacks, bytes) = roots.ended;
    if stacks > 0 {
        notes.push(format!(
            "{stacks} {} ended ({bytes} bytes) {} not count, though glibc keeps {}",
            if stacks == 1 { "stack of a thread that" } else { "stacks of threads that" },
            if stacks == 1 { "does" } else { "do" },
            if stacks == 1 { "it" } else { "them" },
        ));
    }
    notes
}
