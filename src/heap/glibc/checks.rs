//! What the whole heap is held to.

use crate::heap::allocator::{Check, Count, States};
use crate::heap::block::{Blocks, State};
use crate::heap::summary::Tally;

use super::arenas::ArenaState;
use super::layout::{PAGE, StateLayout};
use super::params::Params;
use super::tcache::{Caches, Followed};
use super::unread::Unread;

/// Everything that the checks compare.
pub(super) struct Seen<'s> {
    pub states: &'s [(StateLayout, ArenaState)],
    pub params: Option<Params>,
    pub layout: StateLayout,
    /// Mapped chunks, and their bytes.
    pub mapped: (u64, u64),
    pub followed: &'s Followed,
    pub caches: Option<&'s Caches>,
    /// How much damage the walks met, and how much the lists.
    pub walk: u64,
    pub links: u64,
    pub unread: &'s Unread,
    /// How often malloc was caught moving a border.
    pub caught: u64,
    pub tally: &'s Tally,
    pub blocks: &'s Blocks,
    /// Whether no thread can be within a call; asked for only where a call would explain what is seen.
    pub at_rest: &'s dyn Fn() -> bool,
}

/// What came of all checks.
pub(super) struct Checked {
    pub checks: Vec<Check>,
    /// What cannot be checked.
    pub notes: Vec<String>,
    /// What a call of malloc that was under way left half done, by the arena's address.
    pub inside: Vec<(Option<u64>, String)>,
}

/// The most free chunks of one arena that are on no list while a call merges them: the one that is
/// freed and those on both sides of it.
const MERGED: u64 = 3;

/// All checks.
pub(super) fn checks(seen: &Seen<'_>) -> Checked {
    let mut checked =
        Checked { checks: vec![tiling(seen), system(seen)], notes: Vec::new(), inside: Vec::new() };
    let links = links(seen, &mut checked.inside);
    checked.checks.push(links);
    match counts(seen, &mut checked.inside) {
        Ok(check) => checked.checks.push(check),
        Err(note) => checked.notes.push(note),
    }
    match seen.params {
        Some(params) => {
            let check = mapped_chunks(seen, params, &mut checked.inside);
            checked.checks.push(check);
        }
        None => checked.notes.push(
            "malloc's parameters were not found: its count of mapped chunks could not be compared".to_owned(),
        ),
    }
    let locked = seen.states.iter().filter(|(_, state)| state.locked).count() as u64;
    for check in checked.checks.iter_mut().filter(|check| !check.holds) {
        let one_off = check.rule == "mmapped"
            && seen.params.is_some_and(|params| params.mapped.abs_diff(seen.mapped.0) == 1);
        let why = match locked {
            _ if (seen.at_rest)() => continue,
            _ if one_off => "one off, as".to_owned(),
            0 => continue,
            _ => format!("{} locked,", counted(locked, "arena")),
        };
        check.detail = format!("{}; {why} in the middle of a call of malloc", check.detail);
    }
    checked
}

fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn tiling(seen: &Seen<'_>) -> Check {
    let spans = seen.blocks.spans().iter().filter(|span| span.arena.is_some());
    let (heaps, bytes) = spans.fold((0_u64, 0_u64), |(heaps, bytes), span| {
        (heaps.saturating_add(1), bytes.saturating_add(span.range.len()))
    });
    let all = seen.tally.arenas.iter();
    let chunks = all.map(|states| states.sum(|_| true).blocks).fold(0, u64::saturating_add);
    let mut lost = Count::default();
    seen.tally.arenas.iter().for_each(|states| lost.merge(states.of(State::Damaged)));
    let holds = seen.walk == 0 && lost.blocks == 0;
    let mut detail = format!("{} tile {bytes} bytes of {}", counted(chunks, "chunk"), counted(heaps, "heap"));
    if !holds {
        let broken = counted(seen.walk, "broken rule");
        detail = format!("{detail}, but for {broken} and {} bytes that were skipped", lost.bytes);
    }
    if seen.unread.count > 0 {
        detail = format!("{detail}; headers in {} of them cannot be read", seen.unread.bytes);
    }
    if seen.caught > 0 {
        detail.push_str("; malloc was caught moving the border to its top chunk");
    }
    Check { rule: "tiling", holds, detail }
}

fn system(seen: &Seen<'_>) -> Check {
    let pairs = seen.states.iter().zip(&seen.tally.bytes);
    let wrong: Vec<String> = pairs
        .clone()
        .filter(|((_, state), bytes)| state.system != **bytes)
        .map(|((_, state), bytes)| {
            format!("arena {:#x} says {} bytes and has {bytes}", state.address, state.system)
        })
        .collect();
    let sum = seen.states.iter().map(|(_, state)| state.system).fold(0, u64::saturating_add);
    let arenas = counted(seen.states.len() as u64, "arena");
    let detail = match wrong.as_slice() {
        [] => format!("{arenas}: system_mem {sum} bytes, and so many were found"),
        [first] => first.clone(),
        [first, rest @ ..] => format!("{first} (and {} more)", counted(rest.len() as u64, "arena")),
    };
    Check { rule: "system-mem", holds: wrong.is_empty(), detail }
}

fn links(seen: &Seen<'_>, inside: &mut Vec<(Option<u64>, String)>) -> Check {
    let mut unlisted = Count::default();
    seen.tally.arenas.iter().for_each(|states| unlisted.merge(states.of(State::Unlisted)));
    let mut listed = Count::default();
    let on_list = |state: State| state.free() && state != State::Unlisted;
    seen.tally.arenas.iter().for_each(|states| listed.merge(states.sum(on_list)));
    // Observed: a chunk is taken off its list before it is marked as used, and marked as free
    // before it is put on one; nothing but its own place shows that a call has it in hand.
    let few = |states: &States| states.of(State::Unlisted).blocks <= MERGED;
    let in_hand = unlisted.blocks == 0 || (seen.tally.arenas.iter().all(few) && !(seen.at_rest)());
    let unread = seen.unread.lists;
    // A free block that no list leads to may be one that missing memory leads to.
    let holds = seen.links == 0 && (in_hand || unread > 0);
    if holds && unread == 0 {
        for ((_, state), states) in seen.states.iter().zip(&seen.tally.arenas) {
            let Count { blocks, bytes } = states.of(State::Unlisted);
            if blocks > 0 {
                let chunks = counted(blocks, "free chunk");
                let what = format!("{chunks} with {bytes} bytes in hand, on no list");
                inside.push((Some(state.address), what));
            }
        }
    }
    let detail = if holds && unread > 0 {
        format!(
            "the lists lead to {}; {} lead through memory that cannot be read",
            counted(listed.blocks, "free block"),
            counted(unread, "list")
        )
    } else if holds && unlisted.blocks == 0 {
        format!("the lists lead to all {}, and back", counted(listed.blocks, "free block"))
    } else {
        format!(
            "{} on lists, {} on none, {}",
            counted(listed.blocks, "free block"),
            unlisted.blocks,
            counted(seen.links, "broken link")
        )
    };
    Check { rule: "list-links", holds, detail }
}

fn counts(seen: &Seen<'_>, inside: &mut Vec<(Option<u64>, String)>) -> Result<Check, String> {
    let Some(caches) = seen.caches else {
        let before = seen.states.first().is_some_and(|(layout, _)| layout.fast && !layout.fast_flag);
        return Err(if before {
            "this malloc has no caches of threads (glibc before 2.26), or none was used".to_owned()
        } else {
            "no thread has a cache (tcache): its counts could not be compared".to_owned()
        });
    };
    let number = counted(caches.found.len() as u64, "cache");
    let followed = seen.followed;
    // Observed: a list and its count are written one after the other, without a lock.
    // glibc 2.26 to 2.43, malloc/malloc.c, `tcache_put`, `tcache_get`.
    let holds = followed.miscounted == 0 || (followed.one_off == followed.miscounted && !(seen.at_rest)());
    let detail = match &followed.first {
        None => {
            format!("{number} with {}, as their counts say", counted(followed.held.len() as u64, "block"))
        }
        Some(first) => format!("{} of {number} miscounted: {first}", counted(followed.miscounted, "list")),
    };
    if let Some(first) = followed.first.as_ref().filter(|_| holds) {
        inside.push((None, first.clone()));
    }
    Ok(Check { rule: "tcache-counts", holds, detail })
}

fn mapped_chunks(seen: &Seen<'_>, params: Params, inside: &mut Vec<(Option<u64>, String)>) -> Check {
    let (chunks, bytes) = seen.mapped;
    // Folklore: see params.rs; since 2.43 the sum drifts by two words for each realloc.
    let drifts = !seen.layout.fast;
    let drift = params.mapped_bytes.checked_sub(bytes).filter(|drift| *drift == 0 || drifts);
    let holds = params.mapped == chunks && drift.is_some_and(|drift| drift % 8 == 0);
    let detail = match drift {
        Some(0) if holds => {
            format!("{} with {bytes} bytes, as malloc counts", counted(chunks, "mapped chunk"))
        }
        Some(drift) if holds => format!(
            "{} with {bytes} bytes; malloc counts {drift} more, as it does for those that realloc moved",
            counted(chunks, "mapped chunk")
        ),
        _ => format!(
            "malloc counts {} with {} bytes, found were {chunks} with {bytes}",
            counted(params.mapped, "mapped chunk"),
            params.mapped_bytes
        ),
    };
    let half_way = !holds && counting(seen, params) && !(seen.at_rest)();
    if half_way {
        inside.push((seen.states.first().map(|(_, state)| state.address), detail.clone()));
    }
    Check { rule: "mmapped", holds: holds || half_way, detail }
}

/// Whether malloc's account of mapped chunks is what it is for a moment.
///
/// glibc 2.17 to 2.43, malloc/malloc.c: `sysmalloc_mmap` maps a chunk, counts it, then adds its size;
/// `munmap_chunk` counts it no more, then takes its size off, then unmaps it; `mremap_chunk` moves it,
/// writes its size, then counts its bytes. Nothing locks these.
fn counting(seen: &Seen<'_>, params: Params) -> bool {
    let (chunks, bytes) = seen.mapped;
    let sizes = seen.blocks.spans().iter().filter(|span| span.arena.is_none()).map(|span| span.range.len());
    let whole = |bytes: u64| bytes % PAGE == 0 || !seen.layout.fast;
    match params.mapped.checked_add(1) {
        // One more than it counts: its bytes are counted or not.
        Some(more) if more == chunks => {
            let lacks = bytes.checked_sub(params.mapped_bytes);
            let mut sizes = sizes;
            params.mapped_bytes >= bytes
                || lacks.is_some_and(|lacks| {
                    sizes.any(|size| size == lacks || (!seen.layout.fast && size >= lacks))
                })
        }
        // As many: only the bytes differ, by pages.
        _ if params.mapped == chunks => whole(params.mapped_bytes.abs_diff(bytes)),
        _ => false,
    }
}

/// What it means where the blocks that were found are not those that malloc counts.
pub(super) fn uncounted(checks: &[Check]) -> Option<String> {
    let told = checks.iter().find(|check| check.rule == "mmapped" && !check.holds)?;
    Some(format!("blocks with mappings of their own may be missing from the answer: {}", told.detail))
}
