//! A heap whose process was stopped within a call of malloc, between two of its stores.
//!
//! One way is to excuse, in each rule, what a call may leave half done. Each rule then
//! knows of all calls, and what is excused is never held to anything. Here the rules stay as
//! they are. Where a reading breaks some, what calls of malloc leave half done is looked for in
//! memory; what such a call was about to write is put over the memory, as a guess, and all
//! is read again. A guess is believed if fewer rules are broken then, and all of them together
//! only if none is broken in the end: a heap that is damaged stays as it was read.
//!
//! A guess needs evidence that only a call leaves behind: a chunk that one neighbour on a
//! list still leads to and the other does not, a size before a border that adds up across the
//! border. Where the same bytes may be damage as well (a single flag; bytes that were not
//! written yet), the arena's lock has to be taken, or a thread's registers have to show that it
//! is at work at that chunk.

mod borders;
mod caches;
mod ends;
mod hints;
mod lists;
mod mappings;

use crate::error::Error;
use crate::memory::Memory;
use crate::pass::Job;
use crate::peek::Peek;
use crate::source::Thread;

use super::attempt::Attempt;
use super::layout::Machine;
use super::locate::Ring;
use super::overlay::{Overlay, Words};

use hints::Hints;

/// How often a heap is read again at most.
const TRIES: u32 = 24;

/// What is half done, in words, and the address of the arena where that is known.
pub(super) type HalfDone = (Option<u64>, String);

/// What a call was about to write.
struct Guess {
    arena: u64,
    told: String,
    words: Words,
}

/// What guesses are made from.
struct Scene<'s> {
    memory: &'s dyn Memory,
    peek: Peek<'s>,
    attempt: &'s Attempt,
    hints: &'s Hints,
    job: &'s Job,
    found: Vec<Guess>,
}

impl Scene<'_> {
    fn machine(&self) -> Machine {
        self.attempt
            .reading
            .states
            .first()
            .map_or(Machine { word: 8, align: 16 }, |(layout, _)| layout.machine)
    }

    fn guess(&mut self, arena: u64, told: String, words: impl IntoIterator<Item = (u64, u64)>) {
        let words: Words =
            words.into_iter().filter(|(at, word)| self.peek.word(*at) != Some(*word)).collect();
        if !words.is_empty() {
            self.found.push(Guess { arena, told, words });
        }
    }
}

/// The reading, or one in which what calls of malloc left half done is done; and what that was.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub(super) fn explained(
    memory: &dyn Memory,
    threads: &[Thread],
    rings: &[Ring],
    read: Attempt,
    job: &Job,
) -> Result<(Attempt, Vec<HalfDone>), Error> {
    if read.whole() {
        return Ok((read, Vec::new()));
    }
    let hints = Hints::of(memory, threads, rings);
    let (mut words, mut told): (Words, Vec<HalfDone>) = (Words::new(), Vec::new());
    let mut mended: Option<Attempt> = None;
    let mut tries = TRIES;
    loop {
        let now = mended.as_ref().unwrap_or(&read);
        if now.whole() {
            break;
        }
        let mut better = None;
        let over = Overlay::new(memory, &words);
        for guess in guesses(&over, now, &hints, job)? {
            if tries == 0 {
                break;
            }
            tries = tries.saturating_sub(1);
            let mut with = words.clone();
            with.extend(guess.words);
            let Some(next) = Attempt::read(&Overlay::new(memory, &with), threads, rings, job)? else {
                continue;
            };
            if next.faults() < now.faults() {
                better = Some((next, with, (Some(guess.arena), guess.told)));
                break;
            }
        }
        let Some((next, with, half_done)) = better else { return Ok((read, Vec::new())) };
        words = with;
        told.push(half_done);
        mended = Some(next);
    }
    Ok((mended.unwrap_or(read), told))
}

fn guesses(memory: &Overlay<'_>, attempt: &Attempt, hints: &Hints, job: &Job) -> Result<Vec<Guess>, Error> {
    let mut scene = Scene { memory, peek: Peek::new(memory), attempt, hints, job, found: Vec::new() };
    scene.ends();
    scene.lists();
    scene.borders()?;
    scene.mappings();
    scene.caches();
    Ok(scene.found)
}

/// What is said of calls that were under way.
pub(super) fn notes(half_done: &[HalfDone]) -> Vec<String> {
    let mut arenas: Vec<Option<u64>> = half_done.iter().map(|(arena, _)| *arena).collect();
    arenas.sort_unstable();
    arenas.dedup();
    let note = |arena: Option<u64>| {
        let own = half_done.iter().filter(|(other, _)| *other == arena);
        let what: Vec<&str> = own.map(|(_, what)| what.as_str()).collect();
        let place = arena.map_or_else(|| "caches of threads".to_owned(), |arena| format!("arena {arena:#x}"));
        format!("{place}: a thread is in the middle of a malloc call: {}", what.join("; "))
    };
    arenas.into_iter().map(note).collect()
}
