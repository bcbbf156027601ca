//! What every allocator tells of its heap, whichever it is.

use crate::heap::block::{Blocks, State};
use crate::memory::Memory;
use crate::range::AddressRange;

/// A number of blocks and their bytes: of whole units, where nothing else is said.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Count {
    /// How many.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Count {
    /// Counts one more, of that many bytes.
    pub fn add(&mut self, bytes: u64) {
        self.blocks = self.blocks.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Counts all of another count.
    pub fn merge(&mut self, other: Self) {
        self.blocks = self.blocks.saturating_add(other.blocks);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// A part of a heap with locks and lists of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arena {
    /// Where its own structure lies.
    pub address: u64,
    /// `main`, or `thread` for those that were made for further threads.
    pub kind: &'static str,
    /// The bytes that it says it got from the system.
    pub system: u64,
    /// The stretches that it was found to have, in address order.
    pub heaps: Vec<AddressRange>,
    /// Whether its lock is taken.
    pub locked: bool,
    /// What a call of malloc that was under way left half done in it, in words.
    pub in_call: Vec<String>,
}

/// A place where the structures break a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where.
    pub address: u64,
    /// What stands there.
    pub value: u64,
    /// The rule that it breaks.
    pub rule: String,
    /// How many bytes had to be skipped.
    pub skipped: u64,
}

/// A rule that the whole heap was held to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// Its name: `tiling`, `system-mem`, `list-links`, `tcache-counts`, `mmapped`.
    pub rule: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// What was compared, in words.
    pub detail: String,
}

/// What memory could be given back to the system.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Trim {
    /// The bytes that the allocator's own call for it would give back at most: of a process
    /// those in resident pages, elsewhere those in pages that are not all zeros.
    pub bytes: u64,
    /// The bytes that it would go over and that are not there: they were given back already,
    /// or never touched.
    pub returned: u64,
    /// The number of the last block in use before the end of the main arena: it pins what lies below.
    pub pin: Option<usize>,
}

/// The header of a unit, decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Where the unit starts.
    pub address: u64,
    /// The size that the header says.
    pub size: u64,
    /// The word before the size: the size of the unit before, if that is free.
    pub previous_size: u64,
    /// Names of the flags that are set.
    pub flags: Vec<&'static str>,
}

/// A heap that was found and taken apart.
pub trait Allocator: Send + Sync {
    /// Its name: `glibc`.
    fn name(&self) -> &'static str;

    /// Its version as far as it is known: `2.36`, `2.32 to 2.34`.
    fn version(&self) -> String;

    /// What tells that it is this one, in words.
    fn found_by(&self) -> String;

    /// Its units in address order.
    fn blocks(&self) -> &Blocks;

    /// Its arenas; units have their numbers in this order.
    fn arenas(&self) -> &[Arena];

    /// Its own structures that lie outside of its spans, in address order.
    fn structures(&self) -> &[AddressRange];

    /// The rules that it was held to.
    fn checks(&self) -> &[Check];

    /// What is damaged, the first of it; in the order in which it was met.
    fn damage(&self) -> &[Damage];

    /// How much damage there is in all.
    fn damages(&self) -> u64;

    /// How many blocks with mappings of their own it counts itself, and their bytes.
    fn counted_mapped(&self) -> Option<Count>;

    /// What could be given back to the system.
    fn trim(&self) -> Trim;

    /// The numbers of the threads that may be within one of its calls.
    ///
    /// Such a thread holds units by their headers.
    fn threads_in_calls(&self) -> &[i32];

    /// Sentences on whatever makes it less than whole.
    fn notes(&self) -> &[String];

    /// Why a unit is taken for what it is, in words.
    fn reason(&self, memory: &dyn Memory, index: usize) -> String;

    /// The header that stands at the start of a unit, or that somebody takes for one.
    fn header(&self, memory: &dyn Memory, address: u64) -> Option<Header>;
}

/// How many units of each state there are in one arena.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct States([Count; State::ALL.len()]);

impl States {
    /// Counts a unit.
    pub fn add(&mut self, state: State, bytes: u64) {
        if let Some(count) = self.0.get_mut(state as usize) {
            count.add(bytes);
        }
    }

    /// Counts all that another counted.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            own.merge(other);
        }
    }

    /// The units of one state.
    #[must_use]
    pub fn of(&self, state: State) -> Count {
        self.0.get(state as usize).copied().unwrap_or_default()
    }

    /// The units of all states that `wanted` takes.
    #[must_use]
    pub fn sum(&self, wanted: impl Fn(State) -> bool) -> Count {
        let mut sum = Count::default();
        State::ALL.into_iter().filter(|state| wanted(*state)).for_each(|state| sum.merge(self.of(state)));
        sum
    }
}
