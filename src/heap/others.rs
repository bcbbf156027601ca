//! Reports allocators whose blocks are in no list here, so that an empty answer is not read as "no blocks".

use memchr::memmem;

use crate::error::Error;
use crate::memory::{Buffer, Memory, RegionKind};
use crate::pages::PAGE;
use crate::pass::{self, CHUNK, Chunk, Job};
use crate::peek::Peek;
use crate::range::AddressRange;

/// Other allocators that the target has: by their libraries, musl's also by what it keeps.
///
/// One that is part of a program shows no library; then no heap is found, and that is all
/// that can be said.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn others(memory: &dyn Memory, job: &Job) -> Result<Vec<&'static str>, Error> {
    const NAMES: [(&str, &str); 5] = [
        ("jemalloc", "jemalloc"),
        ("tcmalloc", "tcmalloc"),
        ("mimalloc", "mimalloc"),
        ("libscudo", "scudo"),
        ("ld-musl", "musl"),
    ];
    let files = || memory.regions().iter().filter(|region| !region.anonymous()).map(|region| &region.name);
    let has = |name: &[u8], part: &str| memmem::find(name, part.as_bytes()).is_some();
    let loaded = |part: &str| files().any(|name| has(name.last_part(), part));
    let mut found: Vec<&str> = NAMES.iter().filter(|(part, _)| loaded(part)).map(|(_, name)| *name).collect();
    // Debian keeps it as /usr/lib/x86_64-linux-musl/libc.so.
    let musl = files().any(|name| has(name.bytes(), "-musl/")) || keeps_musl(memory, job)?;
    if musl && !found.contains(&"musl") {
        found.push("musl");
    }
    Ok(found)
}

/// Whether pages are there that musl's malloc keeps its blocks' records in.
///
/// musl 1.2.1 to 1.2.5, src/malloc/mallocng: each `meta_area` starts a page with
/// `check`, which is the secret that `get_random_secret` takes from the eight
/// bytes at `AT_RANDOM` + 8.
fn keeps_musl(memory: &dyn Memory, job: &Job) -> Result<bool, Error> {
    const MOST: u64 = 64 << 20;
    let mut peek = Peek::new(memory);
    let secret = random(memory).and_then(|at| peek.word(at.checked_add(8)?)).filter(|secret| *secret != 0);
    let Some(secret) = secret else { return Ok(false) };
    let kinds = [RegionKind::Heap, RegionKind::Anon, RegionKind::Data];
    let regions = memory.regions().iter().filter(|region| region.permissions.writable());
    let places = regions.filter(|region| kinds.contains(&region.kind));
    let places: Vec<AddressRange> = places
        .map(|region| AddressRange::saturating(region.range.start(), region.range.len().min(MOST)))
        .collect();
    let mut found = false;
    let first = |chunk: &Chunk, _: &mut Buffer| {
        let mut peek = Peek::new(memory);
        let mut at = chunk.own.start().checked_next_multiple_of(PAGE)?;
        while at < chunk.own.end() {
            let rest = AddressRange::saturating(at, chunk.own.end().saturating_sub(at));
            let blank = memory.zeros(rest).max(memory.blank(rest));
            if blank < PAGE && peek.word(at) == Some(secret) {
                return Some(at);
            }
            at = at.saturating_add(blank.max(PAGE) & !(PAGE - 1));
        }
        None
    };
    pass::in_order(memory, &places, CHUNK, job, first, |_, place| {
        found |= place.is_some();
        Ok(None)
    })?;
    Ok(found)
}

/// Where the kernel put sixteen random bytes, as the auxiliary vector on the main stack says.
fn random(memory: &dyn Memory) -> Option<u64> {
    const AT_RANDOM: u64 = 25;
    const TAIL: u64 = 256 << 10;
    let stack = memory.regions().iter().find(|region| region.kind == RegionKind::Stack)?.range;
    let format = memory.word_format();
    let length = stack.len().min(TAIL);
    let mut bytes = Vec::new();
    let _ = memory.append(AddressRange::saturating(stack.end().saturating_sub(length), length), &mut bytes);
    let words: Vec<u64> = bytes.chunks_exact(format.size).filter_map(|word| format.read(word)).collect();
    let pair = |pair: &&[u64]| matches!(pair, [kind, at] if *kind == AT_RANDOM && stack.contains(*at));
    words.windows(2).filter(pair).filter_map(|pair| pair.last()).next_back().copied()
}
