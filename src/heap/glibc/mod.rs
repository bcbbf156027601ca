//! The heap of glibc's malloc, told from its structures alone.
//!
//! Symbols of libc are not needed, and no version is asked for. [`locate`] finds
//! the arenas in libc's data, [`arenas`] the memory of each, [`walk`] cuts it into
//! chunks, [`mapped`] adds those with mappings of their own; [`tcache`] and
//! [`free_lists`] tell which of the chunks are free, and where they are kept.
//! Each of these holds the structures to what malloc would have made of them;
//! the first of what breaks a rule is kept, and the rest goes on.

mod arenas;
mod boundary;
mod checks;
mod chunk;
mod free_lists;
mod harm;
mod heaps;
mod layout;
mod locate;
mod mapped;
mod params;
mod reason;
mod tcache;
mod threads;
mod version;
mod walk;

use crate::error::Error;
use crate::heap::allocator::{Allocator, Arena, Check, Count, Damage, Header, Trim};
use crate::heap::block::{Blocks, Part};
use crate::heap::summary::Tally;
use crate::memory::Memory;
use crate::pass::Job;
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::source::Thread;

use arenas::{ArenaState, Ground};
use free_lists::Lists;
use harm::Harm;
use heaps::Heaps;
use layout::StateLayout;
use locate::Ring;
use params::Params;
use tcache::{Caches, Follow, Followed};
use version::Traits;

/// A heap of glibc's malloc.
pub struct Glibc {
    layout: StateLayout,
    blocks: Blocks,
    arenas: Vec<Arena>,
    checks: Vec<Check>,
    harm: Harm,
    trim: Trim,
    notes: Vec<String>,
    version: String,
    found_by: String,
    params: Option<Params>,
    caches: Option<Caches>,
    followed: Followed,
}

/// One libc's arenas, before its memory is gone over.
struct Found {
    ring: Ring,
    states: Vec<ArenaState>,
    params: Option<Params>,
}

impl Found {
    fn read(memory: &dyn Memory, ring: Ring, heaps: &Heaps, harm: &mut Harm) -> Self {
        let mut peek = Peek::new(memory);
        let mut states = Vec::new();
        let outside = heaps.outside(memory, &ring);
        for (index, address) in ring.states.iter().chain(&outside).enumerate() {
            match ArenaState::read(&mut peek, ring.layout, *address, index == 0) {
                Some(state) => states.push(state),
                None => harm.note(*address, 0, 0, "the arena's structure cannot be read"),
            }
        }
        let main = states.first().copied();
        let params = main.and_then(|main| params::find(memory, ring.layout, main.address, main.top));
        let mut ring = ring;
        if let Some((looser, main)) = ring.looser.zip(main) {
            let reach = |layout| arenas::reach(memory, layout, main, params);
            if reach(looser) > reach(ring.layout) {
                ring.layout = looser;
            }
        }
        Self { ring, states, params }
    }
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
        let libc = Found::read(memory, ring, &Heaps::default(), &mut harm);
        let main = libc.states.first();
        if main.is_some_and(|main| main.scattered) {
            // It lives in whatever mappings it was given.
            let given = memory.regions().iter().filter(|region| region.anonymous());
            let given = given.filter(|region| region.permissions.writable());
            found.main.extend(given.map(|region| region.range));
        }
        let ends = main.map(|main| main.top).into_iter().chain(libc.params.map(|params| params.base));
        found.main.extend(ends.filter_map(|address| arenas::run_of(memory, address)));
        if libc.params.is_some_and(|params| params.mapped == 0) {
            continue;
        }
        let count = libc.params.map(|params| (params.mapped, params.mapped_bytes));
        let mapped = mapped::find(memory, libc.ring.layout.machine, &[], count, job)?;
        found.mapped.extend(mapped.iter().map(|mapped| mapped.range));
    }
    let Outside { mapped, main } = found;
    Ok(Outside { mapped: AddressRange::merge(mapped), main: AddressRange::merge(main) })
}

impl Glibc {
    /// The heap in `memory`; `None` where glibc's malloc was never used.
    ///
    /// `threads` name whose a cache is, as far as their registers are known.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn open(memory: &dyn Memory, threads: &[Thread], job: &Job) -> Result<Option<Self>, Error> {
        let mut harm = Harm::default();
        let rings = locate::rings(memory, job)?;
        let heaps = Heaps::in_regions(memory);
        let mut libcs: Vec<Found> =
            rings.into_iter().map(|ring| Found::read(memory, ring, &heaps, &mut harm)).collect();
        libcs.retain(|libc| !libc.states.is_empty());
        let Some(first) = libcs.first() else { return Ok(None) };
        let (layout, params, module) = (first.ring.layout, first.params, first.ring.module.clone());
        let consistent = first.ring.consistent;

        let mut ground = Ground { memory, job, layout, heaps: &heaps, parts: Vec::new(), harm, caught: 0 };
        let walked = walk_all(&mut ground, &libcs)?;
        let Ground { parts, mut harm, caught, .. } = ground;
        let (mut blocks, dropped) = Blocks::new(parts);
        for range in dropped {
            harm.note(range.start(), 0, range.len(), "two heaps claim this memory");
        }
        let states = walked.states;

        let mut peek = Peek::new(memory);
        let fill = params.and_then(|params| params.tcache_count);
        // Before 2.26 nobody counts for a cache.
        let before = layout.fast && !layout.fast_flag && fill.is_none();
        let control = threads::control_blocks(memory, threads);
        let caches =
            if before { None } else { tcache::find(&mut peek, &blocks, layout, fill, &control, job)? };
        let by_cache =
            caches.as_ref().and_then(|caches| tcache::masked(&mut peek, caches, &blocks, layout.machine));
        let traits = Traits {
            layout,
            attached: states.first().is_some_and(|(_, state)| state.attached),
            tcache: caches.as_ref().map(|caches| caches.layout),
            masked: by_cache.or_else(|| free_lists::masked(&mut peek, &blocks, &states)),
            heap_header: walked.header.and_then(|bytes| bytes.checked_div(layout.machine.word)),
            huge_pages: params.and_then(|params| params.huge_pages),
        };
        let banner = version::banner(memory, &module, job)?;
        let mut marks = Marks {
            peek,
            blocks: &mut blocks,
            // Without a list to tell there is nothing to unmask.
            masked: traits.masked.unwrap_or_else(|| traits.versions().0 >= 32),
            harm: Harm::default(),
        };
        let followed = marks.all(caches.as_ref(), &states, job)?;
        let links = marks.harm;

        let tally = Tally::of(&blocks, states.len(), job)?;
        let seen = checks::Seen {
            states: &states,
            params,
            layout,
            mapped: walked.mapped,
            followed: &followed,
            caches: caches.as_ref(),
            walk: harm.count,
            caught,
            links: links.count,
            tally: &tally,
            blocks: &blocks,
        };
        let mut notes = notes(&libcs, &states, banner.as_deref(), &traits);
        let checks = checks::checks(&seen, &mut notes);
        let trim = checks::trim(&blocks, states.first().copied(), job)?;
        harm.merge(links);
        let named =
            if module.is_empty() { "a program's data".to_owned() } else { format!("the data of {module}") };
        let by_banner = if banner.is_some() { "; version by its banner" } else { "" };
        Ok(Some(Self {
            layout,
            arenas: arenas_of(&states, &blocks),
            blocks,
            checks,
            harm,
            trim,
            notes,
            version: banner.unwrap_or_else(|| traits.text()),
            found_by: format!("{consistent} of 127 lists of an arena in {named}{by_banner}"),
            params,
            caches,
            followed,
        }))
    }
}

/// What walking over all arenas of all libcs found beside units.
struct Walked {
    /// The arenas, in the order of their numbers.
    states: Vec<(StateLayout, ArenaState)>,
    /// The bytes of a heap's header, where there is a further arena.
    header: Option<u64>,
    /// How many mapped chunks there are, and their bytes.
    mapped: (u64, u64),
}

fn walk_all(ground: &mut Ground<'_>, libcs: &[Found]) -> Result<Walked, Error> {
    let mut walked = Walked { states: Vec::new(), header: None, mapped: (0, 0) };
    for libc in libcs {
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
    let none = libcs.iter().all(|libc| libc.params.is_some_and(|params| params.mapped == 0));
    if !none {
        let taken = AddressRange::merge(ground.parts.iter().map(Part::range).collect());
        let machine = ground.layout.machine;
        let count = libcs.first().and_then(|libc| libc.params);
        let count = count.map(|params| (params.mapped, params.mapped_bytes));
        let found = mapped::find(ground.memory, machine, &taken, count, ground.job)?;
        let bytes = found.iter().map(|mapped| mapped.range.len()).fold(0, u64::saturating_add);
        walked.mapped = (found.len() as u64, bytes);
        ground.parts.extend(found.iter().map(|mapped| mapped::part(machine, mapped)));
    }
    Ok(walked)
}

/// Free blocks as they are marked.
struct Marks<'m> {
    peek: Peek<'m>,
    blocks: &'m mut Blocks,
    masked: bool,
    harm: Harm,
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
                masked: self.masked,
                harm: &mut self.harm,
                job,
            };
            followed = follow.caches(caches)?;
        }
        for (layout, state) in states {
            let mut lists = Lists {
                peek: &mut self.peek,
                blocks: self.blocks,
                layout: *layout,
                state: *state,
                masked: self.masked,
                harm: &mut self.harm,
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

/// What makes the heap less than whole, or is not as usual.
fn notes(
    libcs: &[Found],
    states: &[(StateLayout, ArenaState)],
    banner: Option<&str>,
    traits: &Traits,
) -> Vec<String> {
    let mut notes = Vec::new();
    for (_, state) in states.iter().filter(|(_, state)| state.locked) {
        notes.push(format!("arena {:#x} is locked: somebody was at work in it", state.address));
    }
    if libcs.len() > 1 {
        let mallocs = libcs.len();
        notes.push(format!(
            "{mallocs} mallocs of glibc are loaded (dlmopen): their arenas are listed together"
        ));
    }
    if let Some(banner) = banner.filter(|banner| !version::agrees(banner, traits.versions())) {
        let text = traits.text();
        notes.push(format!("libc says that it is {banner}, its structures look like {text}"));
    }
    notes
}

fn arenas_of(states: &[(StateLayout, ArenaState)], blocks: &Blocks) -> Vec<Arena> {
    let mut arenas: Vec<Arena> = states
        .iter()
        .map(|(_, state)| Arena {
            address: state.address,
            kind: if state.main { "main" } else { "thread" },
            system: state.system,
            heaps: Vec::new(),
            locked: state.locked,
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

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn reason(&self, memory: &dyn Memory, index: usize) -> String {
        reason::reason(self, memory, index)
    }

    fn header(&self, memory: &dyn Memory, address: u64) -> Option<Header> {
        let mut peek = Peek::new(memory);
        let (previous, head) = peek.two(address)?;
        let chunk = chunk::Chunk { previous, head };
        Some(Header { address, size: chunk.size(), previous_size: previous, flags: chunk.flags() })
    }
}
