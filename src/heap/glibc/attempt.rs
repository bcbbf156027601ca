//! One reading of a whole heap, with what it was held to.

use crate::error::Error;
use crate::heap::allocator::Check;
use crate::heap::block::State;
use crate::heap::summary::Tally;
use crate::memory::Memory;
use crate::pass::Job;
use crate::source::Thread;

use super::at_rest::at_rest;
use super::checks::{self, Checked};
use super::harm::Harm;
use super::heaps::Heaps;
use super::libc::Libc;
use super::locate::Ring;
use super::reading::{Reading, Subject};

/// A heap as it was read, and how it kept the rules.
pub(super) struct Attempt {
    pub libcs: Vec<Libc>,
    pub reading: Reading,
    /// What the arenas' structures and the walks broke; what the lists did is in the reading.
    pub harm: Harm,
    pub tally: Tally,
    pub checks: Vec<Check>,
    /// What could not be checked.
    pub notes: Vec<String>,
    /// What a call of malloc that was under way left half done, in words, by the arena's address.
    pub inside: Vec<(Option<u64>, String)>,
}

impl Attempt {
    /// Reads the heap whose arenas are in these rings; `None` where none of them is one.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub(super) fn read(
        memory: &dyn Memory,
        threads: &[Thread],
        rings: &[Ring],
        job: &Job,
    ) -> Result<Option<Self>, Error> {
        let mut harm = Harm::default();
        let heaps = Heaps::in_regions(memory);
        let all = rings.iter().cloned();
        let mut libcs: Vec<Libc> = all.map(|ring| Libc::read(memory, ring, &heaps, &mut harm)).collect();
        libcs.retain(|libc| !libc.states.is_empty());
        let Some(first) = libcs.first() else { return Ok(None) };
        let (layout, params) = (first.ring.layout, first.params);
        let at_rest: &dyn Fn() -> bool = &|| at_rest(memory, threads, rings);
        let mut reading =
            Subject { memory, threads, first, libcs: &libcs, heaps: &heaps, at_rest, job }.read()?;
        harm.merge(std::mem::take(&mut reading.walks));
        let tally = Tally::of(&reading.blocks, reading.states.len(), job)?;
        let seen = checks::Seen {
            states: &reading.states,
            params,
            layout,
            mapped: reading.mapped,
            followed: &reading.followed,
            caches: reading.caches.as_ref(),
            walk: harm.count,
            caught: reading.caught,
            links: reading.links.count,
            unread: &reading.unread,
            tally: &tally,
            blocks: &reading.blocks,
            at_rest,
        };
        let Checked { checks, notes, inside } = checks::checks(&seen);
        Ok(Some(Self { libcs, reading, harm, tally, checks, notes, inside }))
    }

    /// Whether nothing speaks against it.
    pub(super) fn whole(&self) -> bool {
        self.faults() == 0
    }

    /// How much speaks against it.
    pub(super) fn faults(&self) -> u64 {
        let broken = self.harm.count.saturating_add(self.reading.links.count);
        let failed = self.checks.iter().filter(|check| !check.holds).count() as u64;
        let unlisted = self.tally.arenas.iter().map(|states| states.of(State::Unlisted).blocks);
        let unlisted = if failed == 0 { 0 } else { unlisted.fold(0, u64::saturating_add) };
        broken.saturating_mul(4).saturating_add(failed.saturating_mul(2)).saturating_add(unlisted)
    }
}
