//! A reading of all memory that is malloc's: a walk over the sizes, then the lists.
//!
//! A walk believes each size until one breaks a rule. Where malloc was caught between
//! writing two sizes, the one that it did not write yet is what a block held before, and
//! may lead for a while from one such remnant to the next. The lists know better: where
//! one leads to a chunk that the walk passed over, the memory is read again with chunks
//! starting there, and the reading that breaks fewer rules is kept.

use crate::error::Error;
use crate::heap::block::{Blocks, Part};
use crate::memory::Memory;
use crate::pass::Job;
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::source::{Thread, nptl};

use super::arenas::{ArenaState, Ground};
use super::free_lists::{self, Lists};
use super::harm::Harm;
use super::heaps::Heaps;
use super::known::Known;
use super::layout::StateLayout;
use super::libc::Libc;
use super::mapped;
use super::partly_mapped;
use super::size_links;
use super::tcache::{self, Caches, Follow, Followed};
use super::unread::Unread;
use super::version::Traits;

/// How often the memory is read at most.
const READINGS: u32 = 4;

/// What is read.
pub(super) struct Subject<'s> {
    pub memory: &'s dyn Memory,
    pub threads: &'s [Thread],
    /// The libc whose layout and parameters count for all.
    pub first: &'s Libc,
    pub libcs: &'s [Libc],
    pub heaps: &'s Heaps,
    /// Whether no thread is within a call.
    pub at_rest: &'s dyn Fn() -> bool,
    pub job: &'s Job,
}

/// All blocks, each with its state, and what was met on the way.
pub(super) struct Reading {
    pub blocks: Blocks,
    /// The arenas, in the order of their numbers.
    pub states: Vec<(StateLayout, ArenaState)>,
    /// How many mapped chunks there are, and their bytes.
    pub mapped: (u64, u64),
    pub traits: Traits,
    pub caches: Option<Caches>,
    pub followed: Followed,
    /// What the walks met, and what the lists.
    pub walks: Harm,
    pub links: Harm,
    /// What could not be read.
    pub unread: Unread,
    /// How often malloc was caught moving the border between a chunk and top.
    pub caught: u64,
}

/// What walking over all arenas of all libcs found beside units.
struct Walked {
    states: Vec<(StateLayout, ArenaState)>,
    /// The bytes of a heap's header, where there is a further arena.
    header: Option<u64>,
    mapped: (u64, u64),
}

impl Subject<'_> {
    /// The reading that breaks the fewest rules.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub(super) fn read(&self) -> Result<Reading, Error> {
        let mut known = Known::NONE.clone();
        let mut best = self.once(&known)?;
        for _ in 1..READINGS {
            let more = known.with(&best.links.astray);
            if more == known {
                break;
            }
            known = more;
            let next = self.once(&known)?;
            if next.faults() >= best.faults() {
                break;
            }
            best = next;
        }
        Ok(best)
    }

    /// One reading, with chunks at the places that are known.
    fn once(&self, known: &Known) -> Result<Reading, Error> {
        let Self { memory, first, heaps, job, .. } = *self;
        let (layout, params) = (first.ring.layout, first.params);
        let (harm, unread) = (Harm::default(), Unread::default());
        let mut ground =
            Ground { memory, job, layout, heaps, known, parts: Vec::new(), harm, unread, caught: 0 };
        let walked = self.walk(&mut ground)?;
        let Ground { parts, harm: mut walks, mut unread, caught, .. } = ground;
        let (mut blocks, dropped) = Blocks::new(parts);
        for range in dropped {
            walks.note(range.start(), 0, range.len(), "two heaps claim this memory");
        }
        let Walked { states, header, mapped } = walked;

        let mut peek = Peek::new(memory);
        let fill = params.and_then(|params| params.tcache_count);
        // Before 2.26 nobody counts for a cache.
        let before = layout.fast && !layout.fast_flag && fill.is_none();
        let control = nptl::control_blocks(memory, self.threads);
        let caches =
            if before { None } else { tcache::find(&mut peek, &blocks, layout, fill, &control, job)? };
        let by_cache =
            caches.as_ref().and_then(|caches| tcache::masked(&mut peek, caches, &blocks, layout.machine));
        let traits = Traits {
            layout,
            attached: states.first().is_some_and(|(_, state)| state.attached),
            tcache: caches.as_ref().map(|caches| caches.layout),
            masked: by_cache.or_else(|| free_lists::masked(&mut peek, &blocks, &states)),
            heap_header: header.and_then(|bytes| bytes.checked_div(layout.machine.word)),
            huge_pages: params.and_then(|params| params.huge_pages),
        };
        let mut marks = Marks {
            peek,
            blocks: &mut blocks,
            data: &first.ring.data,
            // Without a list to tell there is nothing to unmask.
            masked: traits.masked.unwrap_or_else(|| traits.versions().0 >= 32),
            harm: Harm::default(),
            unread: 0,
        };
        let followed = marks.all(caches.as_ref(), &states, job)?;
        unread.lists = marks.unread;
        let mut links = marks.harm;
        let (mut peek, mut sizes) = (Peek::new(memory), Harm::default());
        for own in states.iter().filter(|(_, state)| state.begun()) {
            size_links::check(&mut peek, &blocks, *own, &mut sizes);
        }
        if sizes.count > 0 && (self.at_rest)() {
            links.merge(sizes);
        }
        Ok(Reading { blocks, states, mapped, traits, caches, followed, walks, links, unread, caught })
    }

    fn walk(&self, ground: &mut Ground<'_>) -> Result<Walked, Error> {
        let mut walked = Walked { states: Vec::new(), header: None, mapped: (0, 0) };
        for libc in self.libcs {
            ground.layout = libc.ring.layout;
            if !libc.ring.closed {
                let last = libc.ring.states.last().copied().unwrap_or(0);
                ground.harm.note(last, 0, 0, "the ring of arenas does not lead back to the main one");
            }
            let first = walked.states.len();
            walked.states.extend(libc.states.iter().map(|state| (libc.ring.layout, *state)));
            let number = |index: usize| u32::try_from(first.saturating_add(index)).unwrap_or(u32::MAX);
            // The main arena last: where it lives in mappings it has what no other heap does.
            for (index, state) in libc.states.iter().enumerate().filter(|(_, state)| !state.main) {
                walked.header = walked.header.or(ground.thread(*state, number(index))?);
            }
            for (index, state) in libc.states.iter().enumerate().filter(|(_, state)| state.main) {
                ground.main(*state, libc.params, number(index))?;
            }
        }
        let none = self.libcs.iter().all(|libc| libc.params.is_some_and(|params| params.mapped == 0));
        if !none {
            let taken = AddressRange::merge(ground.parts.iter().map(Part::range).collect());
            let machine = ground.layout.machine;
            let count = self.first.params.map(|params| (params.mapped, params.mapped_bytes));
            let found = partly_mapped::find(ground.memory, machine, &taken, count, ground.job)?;
            let bytes = found.iter().map(|mapped| mapped.range.len()).fold(0, u64::saturating_add);
            walked.mapped = (found.len() as u64, bytes);
            ground.parts.extend(found.iter().map(|mapped| mapped::part(machine, mapped)));
        }
        Ok(walked)
    }
}

impl Reading {
    /// How much speaks against it: broken rules, and thrice where it is a list that leads to a
    /// chunk that it passed over, which the list and the chunk's own size both say is there.
    fn faults(&self) -> u64 {
        let astray = self.links.astray.len() as u64;
        self.walks.count.saturating_add(self.links.count).saturating_add(astray.saturating_mul(2))
    }
}

/// Free blocks as they are marked.
struct Marks<'m> {
    peek: Peek<'m>,
    blocks: &'m mut Blocks,
    /// The data of the first libc.
    data: &'m [AddressRange],
    masked: bool,
    harm: Harm,
    /// How many lists lead through memory that cannot be read.
    unread: u64,
}

impl Marks<'_> {
    /// Follows all caches of threads, then the lists of all arenas.
    fn all(
        &mut self,
        caches: Option<&Caches>,
        states: &[(StateLayout, ArenaState)],
        job: &Job,
    ) -> Result<Followed, Error> {
        let mut followed = Followed::default();
        if let (Some(caches), Some((layout, _))) = (caches, states.first()) {
            let mut follow = Follow {
                peek: &mut self.peek,
                blocks: self.blocks,
                machine: layout.machine,
                data: self.data,
                masked: self.masked,
                harm: &mut self.harm,
                unread: &mut self.unread,
                job,
            };
            followed = follow.caches(caches)?;
        }
        // What has neither memory nor a top chunk is being set up: its lists are not all written.
        for (layout, state) in states.iter().filter(|(_, state)| state.begun()) {
            let mut lists = Lists {
                peek: &mut self.peek,
                blocks: self.blocks,
                layout: *layout,
                state: *state,
                masked: self.masked,
                harm: &mut self.harm,
                unread: &mut self.unread,
                job,
            };
            if layout.fast {
                lists.fast()?;
            }
            lists.bins()?;
        }
        Ok(followed)
    }
}
