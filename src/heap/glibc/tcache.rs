//! The caches of threads: where they are, whose they are, which blocks they hold.
//!
//! A block in a cache looks like one in use; only the cache tells. A cache is a
//! block itself, of a size that the version decides, and a variable of the
//! thread leads to it, which has a name in libc's symbols alone. So a block of
//! that size is a cache if its counts and its lists agree with each other and
//! with the heap, or if a thread's static variables lead to it at the place
//! where another thread's lead to such a one.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::heap::block::{Blocks, State, Unit};
use crate::memory::Buffer;
use crate::pass::Job;
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::source::nptl::ControlBlock;

use super::chunk::Chunk;
use super::free_lists::unreadable;
use super::harm::Harm;
use super::layout::{Machine, StateLayout, TcacheLayout};
use super::statics;
use super::tcache_table::{Bytes, said, table};

/// How many blocks are looked at for the count that empty lists have.
const COUNTED: usize = 1000;

/// How many blocks are gone over between two looks at whether to stop.
const ASK: usize = 1 << 12;

/// The most blocks in one list (`MAX_TCACHE_COUNT`).
const MOST: u64 = 0xffff;

/// Lists of a cache that may be damaged.
const MOST_BAD: u64 = 2;

/// The cache of one thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cache {
    /// The block that it is, by its number.
    pub unit: usize,
    /// Where its structure lies.
    pub address: u64,
    /// The thread's number in the system, where it could be told.
    pub thread: Option<i32>,
    /// Whether it may be one that a thread gives back: none leads to it, and some thread has none.
    pub closing: bool,
}

/// The caches of all threads.
#[derive(Clone, Debug)]
pub(super) struct Caches {
    pub layout: TcacheLayout,
    pub found: Vec<Cache>,
    /// How many blocks a list may have, where counts say how many more there may be.
    pub fill: u64,
}

/// What a block of the right size looks like as a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// Its counts and lists agree, and there are some.
    Full,
    /// As full, but for one or two of its lists.
    Damaged,
    /// It has no lists.
    Blank,
}

/// The chunk whose block starts at `block`, if it is one that can be on list `index`.
fn listed(blocks: &Blocks, layout: TcacheLayout, machine: Machine, block: u64, index: u64) -> Option<Unit> {
    let unit = blocks.unit_from(block.checked_sub(machine.header())?)?;
    let mapped = unit.arena.is_none();
    let fits = unit.state.block() && (mapped || layout.bin(machine, unit.range.len()) == Some(index));
    fits.then_some(unit)
}

fn look(
    peek: &mut Peek<'_>,
    blocks: &Blocks,
    layout: TcacheLayout,
    machine: Machine,
    fill: u64,
    at: u64,
) -> Option<Look> {
    let bytes = Bytes::read(peek, layout, machine, at)?;
    let (mut good, mut bad) = (0_u64, 0_u64);
    for (index, (count, head)) in (0..).zip(bytes.counts().zip(bytes.heads())) {
        let fine = match said(layout, fill, count) {
            Some(0) => head == 0,
            Some(count) => {
                head != 0 && count <= MOST && listed(blocks, layout, machine, head, index).is_some()
            }
            None => false,
        };
        if !fine {
            bad = bad.saturating_add(1);
            // Nearly every block of this size ends here: it is the program's.
            if bad > MOST_BAD {
                return None;
            }
        } else if head != 0 {
            good = good.saturating_add(1);
        }
    }
    match (good, bad) {
        (0, 0) => Some(Look::Blank),
        (_, 0) => Some(Look::Full),
        // Observed: of a cache that had one list, damage to it leaves nothing that
        // fits; and what overruns its block hits the last list. Only a thread's
        // variable tells that it is one.
        _ => Some(Look::Damaged),
    }
}

/// The caches among the blocks, by the layout that most of them have.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub(super) fn find(
    peek: &mut Peek<'_>,
    blocks: &Blocks,
    state: StateLayout,
    fill: Option<u64>,
    threads: &[ControlBlock],
    job: &Job,
) -> Result<Option<Caches>, Error> {
    let machine = state.machine;
    let statics = statics::statics(peek, threads);
    // One pass for all layouts: the blocks in use whose size is that of some cache.
    let mut sizes: Vec<u64> = TcacheLayout::ALL.iter().flat_map(|layout| layout.chunks(machine)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let of_size =
        |unit: &Unit| unit.state == State::Used && unit.arena.is_some() && sizes.contains(&unit.range.len());
    let possible: Vec<u32> =
        blocks.units().filter(of_size).filter_map(|unit| u32::try_from(unit.index).ok()).collect();
    let unit = |index: &u32| blocks.unit(usize::try_from(*index).ok()?);
    let mut best: Option<(usize, Caches)> = None;
    for layout in TcacheLayout::ALL.into_iter().filter(|layout| layout.goes_with(state)) {
        let chunks = layout.chunks(machine);
        let right = |unit: &Unit| chunks.contains(&unit.range.len());
        let first: Vec<Unit> = possible.iter().filter_map(unit).filter(right).take(COUNTED).collect();
        if first.is_empty() {
            continue;
        }
        let count = fill.or_else(|| largest_count(peek, layout, machine, &first));
        let fill = count.filter(|_| layout.down).or(fill).unwrap_or(0);
        let mut looks: BTreeMap<u64, (usize, Look)> = BTreeMap::new();
        for (number, unit) in possible.iter().filter_map(unit).filter(right).enumerate() {
            if number % ASK == 0 {
                job.check()?;
            }
            let at = unit.block().start();
            let look = look(peek, blocks, layout, machine, fill, at);
            // A program may have millions of blocks of this size that are zeros.
            if look == Some(Look::Full) || (look.is_some() && statics.contains_key(&at)) {
                looks.extend(look.map(|look| (at, (unit.index, look))));
            }
        }
        let (led, place) =
            statics::led_to(&statics, looks.iter().map(|(at, (_, look))| (*at, *look == Look::Full)));
        let closing = place.is_some_and(|place| statics::without(peek, threads, place));
        let agreeing = looks.values().filter(|(_, look)| *look == Look::Full).count();
        let taken = |(at, (unit, look)): (&u64, &(usize, Look))| {
            let thread = led.get(at).copied();
            let good = *look == Look::Full || thread.is_some();
            let closing = closing && thread.is_none();
            good.then_some(Cache { unit: *unit, address: *at, thread: thread.flatten(), closing })
        };
        let found: Vec<Cache> = looks.iter().filter_map(taken).collect();
        // A structure that counts down shows that it is one even where it is empty.
        let certain = agreeing.saturating_add(if layout.down && fill > 0 { found.len() } else { 0 });
        let weight = certain.saturating_mul(2).saturating_add(found.len());
        if !found.is_empty() && best.as_ref().is_none_or(|(most, _)| weight > *most) {
            best = Some((weight, Caches { layout, found, fill }));
        }
    }
    Ok(best.map(|(_, caches)| caches))
}

/// How many blocks a list may have: what most counts of empty lists say.
fn largest_count(peek: &mut Peek<'_>, layout: TcacheLayout, machine: Machine, units: &[Unit]) -> Option<u64> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for unit in units {
        let Some(table) = table(peek, layout, machine, unit.block().start()) else { continue };
        let empty = table.counts.iter().zip(&table.heads).filter(|(count, head)| **head == 0 && **count != 0);
        for (count, _) in empty {
            let seen = counts.entry(*count).or_default();
            *seen = seen.saturating_add(1);
        }
    }
    counts.into_iter().max_by_key(|(_, seen)| *seen).map(|(count, _)| count)
}

/// A block in a cache: its number, and the number of the cache.
pub(super) type Held = (u32, u32);

/// Lists as they are followed.
pub(super) struct Follow<'f, 'm> {
    pub peek: &'f mut Peek<'m>,
    pub blocks: &'f mut Blocks,
    pub machine: Machine,
    /// The data of libc.
    pub data: &'f [AddressRange],
    /// Whether the links are masked with the place where they stand, since 2.32.
    pub masked: bool,
    pub harm: &'f mut Harm,
    /// How many lists lead into or through memory that cannot be read.
    pub unread: &'f mut u64,
    pub job: &'f Job,
}

/// Whether the links of lists are masked (`PROTECT_PTR`), told from the lists themselves.
///
/// The last link of a list is empty: stored as zero, or as its own place
/// shifted by a page. `None` where no list has a link.
pub(super) fn masked(
    peek: &mut Peek<'_>,
    caches: &Caches,
    blocks: &Blocks,
    machine: Machine,
) -> Option<bool> {
    let (mut plain, mut mask) = (0_u64, 0_u64);
    for cache in &caches.found {
        let Some(table) = table(peek, caches.layout, machine, cache.address) else { continue };
        for (index, head) in (0..).zip(&table.heads).filter(|(_, head)| **head != 0) {
            if listed(blocks, caches.layout, machine, *head, index).is_none() {
                continue;
            }
            let Some(link) = peek.word(*head) else { continue };
            let leads = |to: u64| to == 0 || listed(blocks, caches.layout, machine, to, index).is_some();
            if leads(link) {
                plain = plain.saturating_add(1);
            }
            if leads(link ^ (*head >> 12)) {
                mask = mask.saturating_add(1);
            }
        }
    }
    (plain != mask).then_some(mask > plain)
}

/// What following all caches found.
#[derive(Clone, Default, Debug)]
pub(super) struct Followed {
    /// Blocks in caches, by their numbers.
    pub held: Vec<Held>,
    /// How many lists have another length than they say.
    pub miscounted: u64,
    /// How many of these a call leaves so for a moment: the only one of its cache, and one off; or
    /// those of a cache that is given back.
    pub one_off: u64,
    /// The first of these, in words.
    pub first: Option<String>,
    /// Lists that are broken: cache, list.
    pub broken: BTreeSet<(u32, u64)>,
}

impl Follow<'_, '_> {
    /// Marks all blocks that the caches hold.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub(super) fn caches(&mut self, caches: &Caches) -> Result<Followed, Error> {
        let mut followed = Followed::default();
        for (number, cache) in (0_u32..).zip(&caches.found) {
            self.job.check()?;
            self.blocks.set_state(cache.unit, State::Allocator);
            let (mut wrong, mut by_one) = (0_u64, 0_u64);
            // glibc 2.26 to 2.43, malloc/malloc.c, `tcache_thread_shutdown`: from the first list on each
            // block is let go; the counts stay.
            let mut given_back = cache.closing;
            let Some(table) = table(self.peek, caches.layout, self.machine, cache.address) else { continue };
            for (index, head) in (0..).zip(&table.heads) {
                let said = usize::try_from(index)
                    .ok()
                    .and_then(|place| table.count(caches.layout, caches.fill, place));
                let before = *self.unread;
                let (length, whole) = self.list(caches, number, cache, index, *head, &mut followed);
                if !whole {
                    followed.broken.insert((number, index));
                }
                // What is missing of a list is not a wrong count.
                if said != Some(length) && *self.unread == before {
                    given_back &= said.is_some_and(|said| length < said);
                    wrong = wrong.saturating_add(1);
                    by_one =
                        by_one.saturating_add(said.is_some_and(|said| said.abs_diff(length) == 1).into());
                    let said = said.map_or_else(|| "no count".to_owned(), |said| said.to_string());
                    followed.first.get_or_insert_with(|| {
                        format!(
                            "list {index} of the cache at {:#x} says {said} and has {length}",
                            cache.address
                        )
                    });
                }
            }
            followed.miscounted = followed.miscounted.saturating_add(wrong);
            let half_done = if given_back { wrong } else { by_one };
            followed.one_off =
                followed.one_off.saturating_add(if wrong == 1 || given_back { half_done } else { 0 });
        }
        self.by_key(caches, &mut followed)?;
        followed.held.sort_unstable();
        Ok(followed)
    }

    /// One list: how many blocks it has, and whether it ends as a list does.
    fn list(
        &mut self,
        caches: &Caches,
        number: u32,
        cache: &Cache,
        index: u64,
        head: u64,
        followed: &mut Followed,
    ) -> (u64, bool) {
        let entries = cache.address.saturating_add(caches.layout.entries(self.machine));
        let mut from = entries.saturating_add(index.saturating_mul(self.machine.word));
        let (mut at, mut length) = (head, 0_u64);
        while at != 0 {
            let unit = listed(self.blocks, caches.layout, self.machine, at, index);
            let Some(unit) = unit else {
                let rule = format!(
                    "list {index} of the cache at {:#x} leads to no block of its size",
                    cache.address
                );
                let chunk = at.wrapping_sub(self.machine.header());
                if unreadable(self.blocks, chunk) {
                    *self.unread = self.unread.saturating_add(1);
                    return (length, false);
                }
                let size = Chunk::read(self.peek, chunk).map(Chunk::size);
                let right = size.and_then(|size| caches.layout.bin(self.machine, size)) == Some(index);
                if right && self.blocks.unit_from(chunk).is_none() {
                    self.harm.astray(chunk);
                }
                self.harm.note(from, at, 0, rule);
                return (length, false);
            };
            if unit.state == State::Tcache || length >= MOST {
                let rule = format!(
                    "list {index} of the cache at {:#x} leads to a block that is in a cache already",
                    cache.address
                );
                self.harm.note(from, at, 0, rule);
                return (length, false);
            }
            if unit.state != State::Used {
                let rule = format!(
                    "list {index} of the cache at {:#x} leads to a block that is {}",
                    cache.address,
                    unit.state.name()
                );
                self.harm.note(from, at, 0, rule);
                return (length, false);
            }
            self.mark(unit.index, number, followed);
            length = length.saturating_add(1);
            from = at;
            let Some(link) = self.peek.word(at) else {
                *self.unread = self.unread.saturating_add(1);
                return (length, false);
            };
            at = if self.masked { link ^ (at >> 12) } else { link };
        }
        (length, true)
    }

    fn mark(&mut self, unit: usize, cache: u32, followed: &mut Followed) {
        self.blocks.set_state(unit, State::Tcache);
        followed.held.extend(u32::try_from(unit).ok().map(|unit| (unit, cache)));
    }

    /// Blocks of broken lists that the list does not lead to any more, told by their key.
    ///
    /// glibc 2.29 to 2.33, malloc/malloc.c, `tcache_entry`: the second word of a block in a cache is
    /// the cache's address; since 2.34 a random number that is the same in all of the process.
    fn by_key(&mut self, caches: &Caches, followed: &mut Followed) -> Result<(), Error> {
        if followed.broken.is_empty() {
            return Ok(());
        }
        let addresses: BTreeMap<u64, u32> =
            (0..).zip(&caches.found).map(|(number, cache)| (cache.address, number)).collect();
        let mut keys = BTreeMap::<u64, usize>::new();
        for (unit, _) in &followed.held {
            let block = usize::try_from(*unit).ok().and_then(|unit| self.blocks.unit(unit));
            let Some(key) = block.and_then(|unit| self.peek.word_at(unit.block().start(), 1)) else {
                continue;
            };
            let seen = keys.entry(key).or_default();
            *seen = seen.saturating_add(1);
        }
        // Observed: before 2.29 there is no key. The word there is the program's, and may be the
        // same in all blocks. Only where links are masked can there be a random key.
        let nearly_all = |seen: usize| seen.saturating_mul(10) >= followed.held.len().saturating_mul(9);
        let random = keys.into_iter().filter(|(key, seen)| {
            self.masked && *key != 0 && !addresses.contains_key(key) && nearly_all(*seen)
        });
        let random = random.map(|(key, _)| key).next();
        let random = random.filter(|key| followed.held.len() > 1 || self.in_data(*key));
        let broken: BTreeSet<u64> = followed.broken.iter().map(|(_, index)| *index).collect();
        let suspects: Vec<Unit> = self
            .blocks
            .units()
            .filter(|unit| unit.state == State::Used)
            .filter(|unit| {
                let index = caches.layout.bin(self.machine, unit.range.len());
                // A block with its own mapping can be on any list, as in `listed`.
                unit.arena.is_none() || index.is_some_and(|index| broken.contains(&index))
            })
            .collect();
        for (number, unit) in suspects.into_iter().enumerate() {
            if number % ASK == 0 {
                self.job.check()?;
            }
            let Some(key) = self.peek.word_at(unit.block().start(), 1) else { continue };
            let index = caches.layout.bin(self.machine, unit.range.len()).unwrap_or(0);
            let by_number = || {
                let here = |broken: u64| unit.arena.is_none() || broken == index;
                let owners = followed.broken.iter().filter(|(_, broken)| here(*broken));
                owners.map(|(cache, _)| *cache).next().filter(|_| Some(key) == random)
            };
            if let Some(owner) = addresses.get(&key).copied().or_else(by_number) {
                self.mark(unit.index, owner, followed);
            }
        }
        Ok(())
    }

    /// Whether the number stands in libc's data, as that of all blocks in caches does.
    ///
    /// glibc 2.34 to 2.43, malloc/malloc.c: `static uintptr_t tcache_key`.
    fn in_data(&self, number: u64) -> bool {
        let format = self.peek.format();
        let memory = self.peek.memory();
        let mut buffer = Buffer::default();
        self.data.iter().any(|range| {
            let mut at = range.start();
            while at < range.end() {
                let left = AddressRange::saturating(at, range.end().saturating_sub(at));
                let zeros = memory.zeros(left);
                if zeros > 0 && number != 0 {
                    at = at.saturating_add(zeros);
                    continue;
                }
                let view = memory.view(left, &mut buffer);
                if view.bytes.chunks_exact(format.size).any(|word| format.read(word) == Some(number)) {
                    return true;
                }
                let length = view.bytes.len() as u64;
                let behind = view.gap.map_or(at.saturating_add(length), |gap| gap.range.end());
                at = behind.max(at.saturating_add(self.machine.word));
            }
            false
        })
    }
}
