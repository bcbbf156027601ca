//! Versions of glibc whose heaps are not walked: older than any whose layout is known here.
//!
//! glibc 2.5 to 2.16 have the same arenas as 2.17, so that a walk would go well for a while and
//! then report damage. What differs is `struct malloc_par` (malloc/malloc.c at the release
//! tags): up to 2.14 `pagesize` follows the counts of mapped chunks, and `arena_test` and
//! `arena_max` are there only where glibc was built with `PER_THREAD`. 2.15 and 2.16
//! differ from 2.17 in nothing: only the banner or the file's name tells them apart.

use crate::error::Error;
use crate::memory::Memory;
use crate::name::Name;
use crate::pass::Job;
use crate::peek::Peek;

use super::harm::Harm;
use super::heaps::Heaps;
use super::layout::{NEWEST, OLDEST, up};
use super::libc::Libc;
use super::locate::Ring;
use super::version::{self, minor_of};

/// How far from the main arena the parameters may lie: both are data of malloc.c alone.
const NEAR: u64 = 16 << 10;

/// A version, and what names it.
pub(super) type Named = (String, &'static str);

/// Returns the first libc that has an arena, and the version that is named of it.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub(super) fn first(
    memory: &dyn Memory,
    rings: &[Ring],
    job: &Job,
) -> Result<Option<(Libc, Option<Named>)>, Error> {
    let mut harm = Harm::default();
    let mut libcs = rings.iter().map(|ring| Libc::read(memory, ring.clone(), &Heaps::default(), &mut harm));
    let Some(first) = libcs.find(|libc| !libc.states.is_empty()) else { return Ok(None) };
    let module = &first.ring.module;
    let banner = version::banner(memory, module, job)?.map(|version| (version, "its banner"));
    let named = banner.or_else(|| by_name(module).map(|version| (version, "its file's name")));
    Ok(Some((first, named)))
}

/// The version in a file's name: `libc-2.17.so`, as up to 2.33.
fn by_name(module: &Name) -> Option<String> {
    let file = std::str::from_utf8(module.last_part()).ok()?;
    let version = file.strip_prefix("libc-")?.strip_suffix(".so")?;
    minor_of(version).filter(|_| version.len() <= 16).map(|_| version.to_owned())
}

/// Returns why the heap of a libc is not walked; `None` where it is.
pub(super) fn refusal(memory: &dyn Memory, libc: &Libc, named: Option<&Named>) -> Option<String> {
    let range = format!("heaps of glibc 2.{OLDEST} to 2.{NEWEST} can be read");
    if let Some((version, by)) = named {
        let old = minor_of(version).is_some_and(|minor| minor < OLDEST);
        return old.then(|| format!("glibc {version} (by {by}) is too old: {range}"));
    }
    has_page_size(memory, libc)
        .then(|| format!("glibc 2.14 or older (by its structures) is too old: {range}"))
}

/// Whether the parameters of malloc have the size of a page behind the counts of mapped chunks.
fn has_page_size(memory: &dyn Memory, libc: &Libc) -> bool {
    let layout = libc.ring.layout;
    let Some(state) = libc.states.first() else { return false };
    if !layout.fast || layout.fast_flag {
        return false;
    }
    let word = layout.machine.word;
    let mut peek = Peek::new(memory);
    let start = up(state.address.saturating_sub(NEAR), word);
    let end = state.address.saturating_add(NEAR);
    let step = usize::try_from(word).unwrap_or(8);
    (start..end).step_by(step).any(|at| is_base(memory, &mut peek, word, at).is_some())
}

/// Something, where `sbrk_base` of such parameters lies at `at`.
fn is_base(memory: &dyn Memory, peek: &mut Peek<'_>, word: u64, at: u64) -> Option<()> {
    let base = peek.word(at)?;
    memory.region_at(base).filter(|region| region.mutable())?;
    // mmapped_mem, max_mmapped_mem, max_total_mem, which only a libc without threads counts.
    let sums = at.checked_sub(word.checked_mul(3)?)?;
    let (bytes, most_bytes) = peek.two(sums)?;
    let total = peek.word_at(sums, 2)?;
    // n_mmaps, n_mmaps_max, max_n_mmaps, no_dyn_threshold, pagesize; padded to whole words.
    let counts = sums.checked_sub(if word == 8 { 24 } else { 20 })?;
    let order = peek.format().order;
    let mut numbers = [0_u64; 5];
    for (number, bytes) in numbers.iter_mut().zip(peek.bytes(counts, 20)?.chunks_exact(4)) {
        *number = order.value(bytes);
    }
    let [chunks, limit, most, fixed, page] = numbers;
    let pages = page.is_power_of_two() && (4096..=65536).contains(&page);
    let whole = |bytes: u64| page > 0 && bytes & page.wrapping_sub(1) == 0;
    let agree = chunks <= most
        && most <= 1 << 24
        && limit > 0
        && fixed <= 1
        && total == 0
        && bytes <= most_bytes
        && (chunks == 0) == (bytes == 0)
        && (most == 0) == (most_bytes == 0);
    (pages && agree && whole(bytes) && whole(most_bytes)).then_some(())
}
