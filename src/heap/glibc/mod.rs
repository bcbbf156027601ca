//! The heap of glibc's malloc, told from its structures alone.
//!
//! Symbols of libc are not needed, and no version is asked for. [`locate`] finds
//! the arenas in libc's data, [`arenas`] the memory of each, [`walk`] cuts it into
//! chunks, [`mapped`] adds those with mappings of their own; [`tcache`] and
//! [`free_lists`] tell which of the chunks are free, and where they are kept;
//! [`reading`] puts these steps together. Each of them holds the structures to what
//! malloc would have made of them; the first of what breaks a rule is kept, and the
//! rest goes on.

mod arenas;
mod at_rest;
mod attempt;
mod boundary;
mod checks;
mod chunk;
mod extent;
mod fit;
mod free_lists;
mod harm;
mod heaps;
mod inside;
mod known;
mod layout;
mod libc;
mod locate;
mod mapped;
mod params;
mod partly_mapped;
mod reading;
mod reason;
mod scattered;
mod size_links;
mod statics;
mod supported;
mod tcache;
mod tcache_table;
mod trim;
mod unread;
mod version;
mod walk;

use crate::error::Error;
use crate::heap::allocator::{Allocator, Arena, Check, Count, Damage, Header, Trim};
use crate::heap::block::Blocks;
use crate::memory::Memory;
use crate::pass::Job;
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::source::Thread;

use arenas::ArenaState;
use attempt::Attempt;
use chunk::Chunk;
use harm::Harm;
use heaps::Heaps;
use layout::{NEWEST, StateLayout};
use libc::Libc;
use params::Params;
use reading::Reading;
use tcache::{Caches, Followed};
use unread::Unread;
use version::Traits;

/// A heap of glibc's malloc.
pub struct Glibc {
    layout: StateLayout,
    blocks: Blocks,
    arenas: Vec<Arena>,
    structures: Vec<AddressRange>,
    checks: Vec<Check>,
    harm: Harm,
    trim: Trim,
    notes: Vec<String>,
    version: String,
    found_by: String,
    params: Option<Params>,
    caches: Option<Caches>,
    followed: Followed,
    unread: Unread,
    in_calls: Vec<i32>,
}

/// Where blocks may lie outside of regions that are heaps, without a walk over these.
#[derive(Clone, Default, Debug)]
pub struct Outside {
    /// Chunks with mappings of their own.
    pub mapped: Vec<AddressRange>,
    /// The memory around the main arena's first chunk and its top.
    pub main: Vec<AddressRange>,
}

/// Where blocks may lie outside of heaps.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn outside(memory: &dyn Memory, job: &Job) -> Result<Outside, Error> {
    let mut harm = Harm::default();
    let mut found = Outside::default();
    for ring in locate::rings(memory, job)? {
        let libc = Libc::read(memory, ring, &Heaps::default(), &mut harm);
        let main = libc.states.first();
        if main.is_some_and(|main| main.scattered) {
            // It lives in whatever mappings it was given.
            let given = memory.regions().iter().filter(|region| region.anonymous());
            let given = given.filter(|region| region.mutable());
            found.main.extend(given.map(|region| region.range));
        }
        let ends = main.map(|main| main.top).into_iter().chain(libc.params.map(|params| params.base));
        found.main.extend(ends.filter_map(|address| extent::run_of(memory, address)));
        if libc.params.is_some_and(|params| params.mapped == 0) {
            continue;
        }
        let count = libc.params.map(|params| (params.mapped, params.mapped_bytes));
        let mapped = partly_mapped::find(memory, libc.ring.layout.machine, &[], count, job)?;
        found.mapped.extend(mapped.iter().map(|mapped| mapped.range));
    }
    let Outside { mapped, main } = found;
    Ok(Outside { mapped: AddressRange::merge(mapped), main: AddressRange::merge(main) })
}

/// Why the heap of the libc that is there is not read; `None` where it is, or where none is there.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn refused(memory: &dyn Memory, job: &Job) -> Result<Option<String>, Error> {
    let rings = locate::rings(memory, job)?;
    let Some((first, named)) = supported::first(memory, &rings, job)? else { return Ok(None) };
    Ok(supported::refusal(memory, &first, named.as_ref()))
}

impl Glibc {
    /// The heap in `memory`; `None` where glibc's malloc was never used, or is [`refused`].
    ///
    /// `threads` name whose a cache is, as far as their registers are known.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn open(memory: &dyn Memory, threads: &[Thread], job: &Job) -> Result<Option<Self>, Error> {
        let rings = locate::rings(memory, job)?;
        let Some((first, named)) = supported::first(memory, &rings, job)? else { return Ok(None) };
        if supported::refusal(memory, &first, named.as_ref()).is_some() {
            return Ok(None);
        }
        let Some(read) = Attempt::read(memory, threads, &rings, job)? else { return Ok(None) };
        let (read, mended) = inside::explained(memory, threads, &rings, read, job)?;
        let Attempt { libcs, reading, mut harm, checks, notes: unchecked, inside: half_done, .. } = read;
        let Some(first) = libcs.first() else { return Ok(None) };
        let (layout, params, module) = (first.ring.layout, first.params, first.ring.module.clone());
        let consistent = first.ring.consistent;
        let Reading { blocks, states, traits, caches, followed, links, unread, .. } = reading;
        let (version, by) = named.unzip();
        let half_done = [mended, half_done].concat();
        let mut notes = notes(&libcs, &states, version.as_deref(), by, &traits);
        notes.extend(unread.notes());
        notes.extend(unchecked);
        notes.extend(inside::notes(&half_done));
        notes.extend(checks::uncounted(&checks));
        let trim = trim::trim(memory, &blocks, states.first().copied(), job)?;
        harm.merge(links);
        let module =
            if module.is_empty() { "a program's data".to_owned() } else { format!("the data of {module}") };
        let by = by.map_or_else(String::new, |by| format!("; version by {by}"));
        Ok(Some(Self {
            layout,
            arenas: arenas_of(&states, &blocks, &half_done),
            structures: structures_of(memory, &states, &blocks),
            blocks,
            checks,
            harm,
            trim,
            notes,
            version: version.unwrap_or_else(|| traits.text()),
            found_by: format!("{consistent} of 127 lists of an arena in {module}{by}"),
            params,
            caches,
            followed,
            unread,
            in_calls: at_rest::in_calls(memory, threads, &rings),
        }))
    }
}

/// What makes the heap less than whole, or is not as usual.
fn notes(
    libcs: &[Libc],
    states: &[(StateLayout, ArenaState)],
    version: Option<&str>,
    by: Option<&str>,
    traits: &Traits,
) -> Vec<String> {
    let mut notes = Vec::new();
    let locked: Vec<u64> =
        states.iter().filter(|(_, state)| state.locked).map(|(_, state)| state.address).collect();
    match locked.as_slice() {
        [] => {}
        [one] => notes.push(format!("arena {one:#x} is locked: a thread is at work in it")),
        [first, ..] => notes.push(format!(
            "{} arenas are locked, the first at {first:#x}: threads are at work in them",
            locked.len()
        )),
    }
    if libcs.len() > 1 {
        let mallocs = libcs.len();
        notes.push(format!(
            "{mallocs} mallocs of glibc are loaded (dlmopen): their arenas are listed together"
        ));
    }
    let Some(version) = version else { return notes };
    let text = traits.text();
    let newer = version::minor_of(version).is_some_and(|minor| minor > NEWEST);
    if !version::agrees(version, traits.versions()) {
        let by = by.unwrap_or_default();
        notes.push(format!("libc is {version} by {by}, its structures look like {text}"));
    } else if newer {
        notes.push(format!(
            "glibc {version} is newer than 2.{NEWEST}, the newest whose sources were read: it is read as {text}"
        ));
    }
    notes
}

fn arenas_of(
    states: &[(StateLayout, ArenaState)],
    blocks: &Blocks,
    half_done: &[inside::HalfDone],
) -> Vec<Arena> {
    let in_call = |address: u64| {
        let own = half_done.iter().filter(|(arena, _)| *arena == Some(address));
        own.map(|(_, what)| what.clone()).collect()
    };
    let mut arenas: Vec<Arena> = states
        .iter()
        .map(|(_, state)| Arena {
            address: state.address,
            kind: if state.main { "main" } else { "thread" },
            system: state.system,
            heaps: Vec::new(),
            locked: state.locked,
            in_call: in_call(state.address),
        })
        .collect();
    for span in blocks.spans() {
        let number = span.arena.and_then(|number| usize::try_from(number).ok());
        if let Some(arena) = number.and_then(|number| arenas.get_mut(number)) {
            arena.heaps.push(span.range);
        }
    }
    arenas
}

/// Where each arena's `struct malloc_state` lies, and what heaps of threads have beyond their blocks.
///
/// Observed: what a heap gave back stays mapped and keeps its bytes. Seen: glibc 2.17 to
/// 2.43, malloc/arena.c, `heap_info`: the heap may be written to up to `mprotect_size`, its
/// fourth word. What lies behind that, in the same mapping, belongs to others.
fn structures_of(
    memory: &dyn Memory,
    states: &[(StateLayout, ArenaState)],
    blocks: &Blocks,
) -> Vec<AddressRange> {
    let own = |(layout, state): &(StateLayout, ArenaState)| {
        AddressRange::saturating(state.address, layout.size(state.attached))
    };
    let mut structures: Vec<AddressRange> = states.iter().map(own).collect();
    let mut peek = Peek::new(memory);
    for span in blocks.spans() {
        let number = span.arena.and_then(|number| usize::try_from(number).ok());
        if number.and_then(|number| states.get(number)).is_none_or(|(_, state)| state.main) {
            continue;
        }
        let start = span.range.start();
        let usable = peek.word_at(start, 3).filter(|usable| *usable <= heaps::LARGEST).unwrap_or(0);
        let end = start.saturating_add(usable);
        structures.push(AddressRange::saturating(span.range.end(), end.saturating_sub(span.range.end())));
    }
    AddressRange::merge(structures)
}

impl Allocator for Glibc {
    fn name(&self) -> &'static str {
        "glibc"
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn found_by(&self) -> String {
        self.found_by.clone()
    }

    fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    fn arenas(&self) -> &[Arena] {
        &self.arenas
    }

    fn structures(&self) -> &[AddressRange] {
        &self.structures
    }

    fn checks(&self) -> &[Check] {
        &self.checks
    }

    fn damage(&self) -> &[Damage] {
        &self.harm.named
    }

    fn damages(&self) -> u64 {
        self.harm.count
    }

    fn counted_mapped(&self) -> Option<Count> {
        self.params.map(|params| Count { blocks: params.mapped, bytes: params.mapped_bytes })
    }

    fn trim(&self) -> Trim {
        self.trim
    }

    fn threads_in_calls(&self) -> &[i32] {
        &self.in_calls
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn reason(&self, memory: &dyn Memory, index: usize) -> String {
        reason::reason(self, memory, index)
    }

    fn header(&self, memory: &dyn Memory, address: u64) -> Option<Header> {
        let mut peek = Peek::new(memory);
        let chunk = Chunk::read(&mut peek, address)?;
        Some(Header { address, size: chunk.size(), previous_size: chunk.previous, flags: chunk.flags() })
    }
}
