//! The lists of an arena: fastbins, the unsorted list, small and large bins.

use crate::error::Error;
use crate::heap::block::{Blocks, State};
use crate::pass::Job;
use crate::peek::Peek;

use super::arenas::ArenaState;
use super::chunk::Chunk;
use super::harm::Harm;
use super::layout::{BINS, SMALL_BINS, StateLayout};

/// How many blocks are gone over before somebody may ask to stop.
const ASK: u64 = 1 << 12;

/// An arena's lists as they are followed.
pub(super) struct Lists<'l, 'm> {
    pub peek: &'l mut Peek<'m>,
    pub blocks: &'l mut Blocks,
    pub layout: StateLayout,
    pub state: ArenaState,
    /// Whether the links of fastbins are masked with the place where they stand, since 2.32.
    pub masked: bool,
    pub harm: &'l mut Harm,
    /// How many lists lead into or through memory that cannot be read.
    pub unread: &'l mut u64,
    pub job: &'l Job,
}

/// In which direction a list is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Back,
}

impl Lists<'_, '_> {
    /// Marks the blocks on fastbins, whose chunks look like ones in use.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub(super) fn fast(&mut self) -> Result<(), Error> {
        let machine = self.layout.machine;
        let bins = self.state.address.saturating_add(self.layout.fast_bins());
        for index in 0..machine.fast_bins() {
            let mut from = bins.saturating_add(index.saturating_mul(machine.word));
            let mut at = self.peek.word(from).unwrap_or(0);
            let mut length = 0_u64;
            while at != 0 {
                self.ask(length)?;
                let unit = self
                    .blocks
                    .unit_from(at)
                    .filter(|unit| unit.state.block() && machine.fast_bin(unit.range.len()) == index);
                let rule = match unit {
                    None => Some("leads to no block of its size"),
                    Some(unit) if unit.state == State::Fast => Some("leads to a block that is on it already"),
                    Some(unit) if unit.state != State::Used => {
                        Some("leads to a block that is free otherwise")
                    }
                    Some(_) => None,
                };
                if let Some(rule) = rule {
                    if unit.is_none() && unreadable(self.blocks, at) {
                        *self.unread = self.unread.saturating_add(1);
                        break;
                    }
                    if unit.is_none() && self.passed_over(at, |size| machine.fast_bin(size) == index) {
                        self.harm.astray(at);
                    }
                    self.harm.note(
                        from,
                        at,
                        0,
                        format!("fastbin {index} {rule}; blocks behind it count as used"),
                    );
                    break;
                }
                if let Some(unit) = unit {
                    self.blocks.set_state(unit.index, State::Fast);
                }
                length = length.saturating_add(1);
                from = at.saturating_add(machine.header());
                let Some(link) = self.peek.word(from) else {
                    *self.unread = self.unread.saturating_add(1);
                    break;
                };
                at = if self.masked { link ^ (from >> 12) } else { link };
            }
        }
        Ok(())
    }

    /// Marks the blocks on all other lists, and holds their links to each other.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub(super) fn bins(&mut self) -> Result<(), Error> {
        for index in 1..BINS {
            if !self.list(index, Way::Forward)? {
                // What lies behind the break is reached from the other end.
                self.list(index, Way::Back)?;
            }
        }
        Ok(())
    }

    /// One list; whether it leads back to its head with all links agreeing.
    fn list(&mut self, index: u64, way: Way) -> Result<bool, Error> {
        let machine = self.layout.machine;
        let header = machine.header();
        let head = self.layout.bin_at(self.state.address, index);
        let state = list_state(index);
        let (mut from, mut length) = (head, 0_u64);
        let Some((first, last)) = self.peek.two(head.wrapping_add(header)) else { return Ok(true) };
        if first == 0 && last == 0 {
            return Ok(true);
        }
        let mut at = if way == Way::Forward { first } else { last };
        while at != head {
            self.ask(length)?;
            let fits = |size| index == 1 || machine.bin(size) == index;
            let links = self.links(at, way);
            // Whom its link back is to, where that is not who leads to it.
            let other = links.map(|(_, before)| before).filter(|before| *before != from);
            let broken = match self.blocks.unit_from(at) {
                None => Some("leads to no chunk".to_owned()),
                Some(unit) if unit.state == state && way == Way::Back => return Ok(true),
                Some(unit) if unit.state != State::Unlisted => {
                    Some(format!("leads to a block that is {}", described(unit.state)))
                }
                Some(unit) if !fits(unit.range.len()) => Some(format!(
                    "leads to a chunk of {:#x} bytes, which is of another list",
                    unit.range.len()
                )),
                // Folklore: a chunk that malloc takes from one list to another has the links of the
                // new one before the old one lets go of it, and leads from that into this one.
                // Seen: tests/fixtures/heap_inside.c, glibc 2.36.
                Some(_) if other.is_some_and(|other| self.leads(other, at, way)) => {
                    Some("leads to a chunk to which another leads, and which leads back there".to_owned())
                }
                Some(unit) => {
                    self.blocks.set_state(unit.index, state);
                    None
                }
            };
            if let Some(broken) = broken {
                if unreadable(self.blocks, at) {
                    *self.unread = self.unread.saturating_add(u64::from(way == Way::Forward));
                    return Ok(false);
                }
                if self.passed_over(at, fits) && self.linked(at) {
                    self.harm.astray(at);
                }
                if way == Way::Forward {
                    let told = name(index);
                    self.harm.note(from.wrapping_add(header), at, 0, format!("{told} {broken}"));
                }
                return Ok(false);
            }
            let Some((next, _)) = links else {
                *self.unread = self.unread.saturating_add(u64::from(way == Way::Forward));
                return Ok(false);
            };
            if let Some(other) = other.filter(|_| way == Way::Forward) {
                let told = name(index);
                let rule = format!("{told}: the link back is not to {from:#x}, which leads here");
                self.harm.note(at.wrapping_add(header).wrapping_add(machine.word), other, 0, rule);
            }
            length = length.saturating_add(1);
            from = at;
            at = next;
        }
        Ok(true)
    }

    /// The links of a chunk on a list: to the next one that way, and to the one before.
    fn links(&mut self, chunk: u64, way: Way) -> Option<(u64, u64)> {
        let (forward, back) = self.peek.two(chunk.wrapping_add(self.layout.machine.header()))?;
        Some(if way == Way::Forward { (forward, back) } else { (back, forward) })
    }

    /// Whether `chunk`, that way, leads to `at`.
    fn leads(&mut self, chunk: u64, at: u64, way: Way) -> bool {
        self.links(chunk, way).is_some_and(|(next, _)| next == at)
    }

    /// Whether the size at `at` is right for the list there, though the walk found no chunk.
    fn passed_over(&mut self, at: u64, fits: impl Fn(u64) -> bool) -> bool {
        self.blocks.unit_from(at).is_none()
            && Chunk::read(self.peek, at).is_some_and(|chunk| fits(chunk.size()))
    }

    /// Whether both neighbours on a list lead to `at`.
    fn linked(&mut self, at: u64) -> bool {
        let Some((next, before)) = self.links(at, Way::Forward) else { return false };
        self.leads(before, at, Way::Forward) && self.leads(next, at, Way::Back)
    }

    fn ask(&self, length: u64) -> Result<(), Error> {
        if length % ASK == 0 { self.job.check() } else { Ok(()) }
    }
}

/// Whether `chunk` lies where the headers of chunks cannot be read.
pub(super) fn unreadable(blocks: &Blocks, chunk: u64) -> bool {
    blocks.unit_at(chunk).is_some_and(|unit| unit.state == State::Unreadable)
}

/// Whether links of fastbins are masked, told from the lists of all arenas; `None` where none tells.
pub(super) fn masked(
    peek: &mut Peek<'_>,
    blocks: &Blocks,
    states: &[(StateLayout, ArenaState)],
) -> Option<bool> {
    let (mut plain, mut mask) = (0_u64, 0_u64);
    for (layout, state) in states.iter().filter(|(layout, _)| layout.fast) {
        let machine = layout.machine;
        let place = state.address.saturating_add(layout.fast_bins());
        for index in 0..machine.fast_bins() {
            let Some(at) = peek.word_at(place, index).filter(|at| *at != 0) else { continue };
            let from = at.saturating_add(machine.header());
            let Some(link) = peek.word(from) else { continue };
            let leads = |to: u64| to == 0 || blocks.unit_from(to).is_some();
            plain = plain.saturating_add(u64::from(leads(link)));
            mask = mask.saturating_add(u64::from(leads(link ^ (from >> 12))));
        }
    }
    (plain != mask).then_some(mask > plain)
}

/// What blocks on list `index` are.
pub(super) const fn list_state(index: u64) -> State {
    if index == 1 {
        State::Unsorted
    } else if index < SMALL_BINS {
        State::Small
    } else {
        State::Large
    }
}

fn described(state: State) -> String {
    match state {
        State::Used => "in use".to_owned(),
        state if state.block() => format!("on a list already ({})", state.name()),
        state => format!("no block ({})", state.name()),
    }
}

/// What people call list `index`.
pub(super) fn name(index: u64) -> String {
    match list_state(index) {
        State::Unsorted => "the unsorted list".to_owned(),
        State::Small => format!("small bin {index}"),
        _ => format!("large bin {index}"),
    }
}
