//! A leak check: roots, references, and the verdict on every block in use.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::error::Error;
use crate::graph::{
    Choice, Found, Graph, Heuristics, Index, Link, Mark, Marks, RootKind, Roots, Tracer, Wanted,
};
use crate::heap::Allocator;
use crate::heap::allocator::Count;
use crate::heap::block::{Blocks, State, Unit};
use crate::heap::recorded::Recorded;
use crate::memory::Memory;
use crate::pass::Job;
use crate::source::Thread;
use crate::unwind::Classes;

use super::coverage::Coverage;
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

/// Blocks with their bytes, by what became of them: those asked for where they were recorded,
/// else those that the program may use.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Account {
    /// By verdict, in the order of [`Verdict::ALL`].
    pub summary: [Count; Verdict::ALL.len()],
    /// Those that only a heuristic saved, in the order of [`Link::HEURISTICS`].
    pub saved: [Count; Link::HEURISTICS.len()],
    /// How many of the blocks were recorded.
    pub recorded: u64,
    /// How many blocks were left out because they were not recorded, and have no age.
    pub ageless: u64,
}

impl Account {
    /// All blocks that count.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.summary.iter().map(|count| count.blocks).fold(0, u64::saturating_add)
    }

    fn merge(&mut self, other: &Self) {
        self.summary.iter_mut().zip(other.summary).for_each(|(own, other)| own.merge(other));
        self.saved.iter_mut().zip(other.saved).for_each(|(own, other)| own.merge(other));
        self.recorded = self.recorded.saturating_add(other.recorded);
        self.ageless = self.ageless.saturating_add(other.ageless);
    }
}

/// The verdicts on all blocks in use, and what they rest on.
#[derive(Clone, Debug)]
pub struct Check {
    marks: Marks,
    pub(super) recorded: Option<Arc<Recorded>>,
    /// Blocks and bytes with each verdict.
    pub account: Account,
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
    /// Bytes of live frames that do not count, because they are dead by data flow.
    pub untouched: u64,
    /// How well the words of frames that are alive are known.
    pub classes: Classes,
    /// How much of the writable memory was judged.
    pub coverage: Coverage,
    /// Sentences on what may make verdicts wrong, and in which direction.
    pub notes: Vec<String>,
}

impl Check {
    /// Judges all blocks in use of `heap`, and counts what was `recorded` of them.
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
        recorded: Option<Arc<Recorded>>,
        options: &Options,
        job: &Job,
    ) -> Result<Self, Error> {
        let blocks = heap.blocks();
        let index = Index::new(blocks).bounded(recorded.as_deref());
        let heuristics = Heuristics::new(memory, options.heuristics);
        let roots = Roots::find(memory, heap, threads, options.choice, job)?;
        let mut coverage = Coverage::new(memory, Some(heap), &roots, true, job)?;
        let graph = Graph::new(memory, &index, &heuristics, job)?;
        let mut tracer = Tracer::new(&graph, blocks).counting(recorded.as_deref());
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
        let only_vector = without.map(|without| Held::between(blocks, recorded.as_deref(), &without, &marks));
        let missing = (lost, graph.missing());
        // What of a process cannot be read is known once it was tried.
        if coverage.resident.is_some() {
            coverage.missing = lost.saturating_add(graph.missing());
        }
        let own_bytes = graph.own_bytes().saturating_add(blocks.len()) as u64;
        let mut notes = notes(heap, &roots, &found, missing);
        notes.extend(unknown(threads));
        let account = Account::default();
        let mut check = Self {
            marks,
            recorded,
            account,
            only_vector,
            roots: found,
            references: graph.references() as u64,
            own_bytes,
            missing,
            untouched: roots.dead.words.iter().map(|stretch| stretch.range.len()).sum(),
            classes: roots.classes,
            coverage,
            notes,
        };
        check.account = check.count(blocks, None, job)?;
        Ok(check)
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

    /// What was recorded of the blocks.
    #[must_use]
    pub fn recorded(&self) -> Option<&Recorded> {
        self.recorded.as_deref()
    }

    /// The bytes that a unit counts for.
    #[must_use]
    pub fn bytes(&self, unit: &Unit) -> u64 {
        bytes(self.recorded(), unit)
    }

    /// Whether a unit is as old as is wanted: recorded at `newest` at the latest, in the
    /// recording's own units.
    #[must_use]
    pub fn old(&self, unit: usize, newest: Option<i64>) -> bool {
        let record = || self.recorded()?.of(unit);
        newest.is_none_or(|newest| record().is_some_and(|record| i64::from(record.time) <= newest))
    }

    /// Counts the blocks that are as old as is wanted, by their verdicts.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn count(&self, blocks: &Blocks, newest: Option<i64>, job: &Job) -> Result<Account, Error> {
        let slices = blocks.len().div_ceil(SLICE);
        let count = |slice: usize| {
            let from = slice.saturating_mul(SLICE);
            let units = from..from.saturating_add(SLICE).min(blocks.len());
            if job.stopped() { Account::default() } else { self.slice(blocks, units, newest) }
        };
        let counted: Vec<Account> = (0..slices).into_par_iter().with_min_len(1).map(count).collect();
        job.check()?;
        let mut whole = Account::default();
        for part in &counted {
            whole.merge(part);
        }
        Ok(whole)
    }

    fn slice(&self, blocks: &Blocks, units: Range<usize>, newest: Option<i64>) -> Account {
        let mut account = Account::default();
        for unit in blocks.units_in(units).filter(|unit| unit.state == State::Used) {
            let Some(verdict) = self.verdict(unit.index) else { continue };
            let known = self.recorded().is_some_and(|recorded| recorded.of(unit.index).is_some());
            if !self.old(unit.index, newest) {
                account.ageless = account.ageless.saturating_add(u64::from(!known));
                continue;
            }
            account.recorded = account.recorded.saturating_add(u64::from(known));
            let bytes = self.bytes(&unit);
            if let Some(count) = account.summary.get_mut(verdict as usize) {
                count.add(bytes);
            }
            let saved = self.saved_by(unit.index);
            let counts = account.saved.iter_mut().zip(Link::HEURISTICS);
            counts.filter(|(_, link)| saved == Some(*link)).for_each(|(count, _)| count.add(bytes));
        }
        account
    }

    /// Blocks and bytes with a verdict.
    #[must_use]
    pub fn of(&self, verdict: Verdict) -> Count {
        self.account.summary.get(verdict as usize).copied().unwrap_or_default()
    }
}

/// Blocks that some of the roots alone hold.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// How many, and their bytes.
    pub weight: Count,
    /// The addresses of the first of them.
    pub sample: Vec<u64>,
}

impl Held {
    /// The blocks whose verdict is better in `with` than in `without`.
    fn between(blocks: &Blocks, recorded: Option<&Recorded>, without: &Marks, with: &Marks) -> Self {
        const NAMED: usize = 5;
        let mut held = Self::default();
        let surer = |unit: usize| sureness(with, unit) > sureness(without, unit);
        for unit in blocks.units().filter(|unit| surer(unit.index)) {
            held.weight.add(bytes(recorded, &unit));
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

/// The bytes that a unit counts for.
fn bytes(recorded: Option<&Recorded>, unit: &Unit) -> u64 {
    recorded.map_or_else(|| unit.block().len(), |recorded| recorded.bytes(unit))
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
    let lost = [(lost_roots, "roots"), (lost_blocks, "known blocks")];
    let lost = lost.into_iter().filter(|(bytes, _)| *bytes > 0);
    let lost: Vec<String> = lost.map(|(bytes, what)| format!("{bytes} bytes of {what}")).collect();
    if !lost.is_empty() {
        notes.push(format!(
            "{} are missing: blocks that only pointers in them hold seem lost",
            lost.join(" and ")
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
            "{stacks} {} or did not begin yet ({bytes} bytes) {} not count",
            if stacks == 1 { "stack of a thread that ended" } else { "stacks of threads that ended" },
            if stacks == 1 { "does" } else { "do" },
        ));
    }
    notes
}
