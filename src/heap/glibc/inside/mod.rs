//! A heap whose process was stopped within a call of malloc, between two of its stores.
//!
//! One way is to excuse, in each rule, what a call may leave half done. Each rule then
//! knows of all calls, and what is excused is never held to anything. Here the rules stay as
//! they are. Where a reading breaks some, what calls of malloc leave half done is looked for in
//! memory; what such a call was about to write is put over the memory, as a guess, and all
//! is read again. A guess is believed if fewer rules are broken then, and all of them together
//! only if none is broken in the end: a heap that is damaged stays as it was read. Of readings
//! that break no rule, the one is kept that takes the least memory for that of others.
//!
//! A guess needs evidence that only a call leaves behind: a chunk that one neighbour on a
//! list still leads to and the other does not, a size before a border that adds up across the
//! border. Where the same bytes may be damage as well (a single flag; bytes that were not
//! written yet), the arena's lock has to be taken, or a thread's registers have to show that it
//! is at work at that chunk. Where the registers of all threads show that none is within a call,
//! nothing is looked for.

mod borders;
mod caches;
mod ends;
mod foreign;
mod hints;
mod lists;
mod mappings;
mod overlay;

use crate::error::Error;
use crate::heap::block::State;
use crate::memory::Memory;
use crate::pass::Job;
use crate::peek::Peek;
use crate::source::Thread;

use super::at_rest::at_rest;
use super::attempt::Attempt;
use super::layout::Machine;
use super::locate::Ring;
use overlay::{Overlay, Words};

use hints::Hints;

/// How often a heap is read again at most.
const TRIES: usize = 24;

/// How many units are read again at most, but once.
const UNITS: usize = 1 << 26;

/// What is half done, in words, and the address of the arena where that is known.
pub(super) type HalfDone = (Option<u64>, String);

/// What a call was about to write.
struct Guess {
    arena: u64,
    what: String,
    words: Words,
    rank: Rank,
    /// What it has to do to the memory that is taken for that of others.
    foreign: Foreign,
}

/// How strong the evidence for a guess is, the strongest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// What only a call leaves, at the place that is explained.
    Sure,
    /// Of a chunk before the place that is explained: registers hold its end, too.
    InHand,
    /// Of such a chunk: a size in memory says where it ends.
    InMemory,
    /// Bytes from before the call, which may lead anywhere.
    OldBytes,
}

/// How a guess may change the memory that is taken for that of others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Foreign {
    /// Where the arena's memory ends changes, and with it what is between.
    Any,
    /// A chunk within the arena is no reason to take more of it for that of others.
    NoMore,
    /// The guess is about chunks that no walk came to.
    Less,
}

impl Foreign {
    const fn allows(self, before: u64, after: u64) -> bool {
        match self {
            Self::Any => true,
            Self::NoMore => after <= before,
            Self::Less => after < before,
        }
    }
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

    fn guess(&mut self, arena: u64, what: String, words: impl IntoIterator<Item = (u64, u64)>) {
        self.ranked(Rank::Sure, arena, what, words);
    }

    fn ranked(&mut self, rank: Rank, arena: u64, what: String, words: impl IntoIterator<Item = (u64, u64)>) {
        let words: Words =
            words.into_iter().filter(|(at, word)| self.peek.word(*at) != Some(*word)).collect();
        if !words.is_empty() {
            self.found.push(Guess { arena, what, words, rank, foreign: Foreign::NoMore });
        }
    }

    /// Marks the guesses from index `first` on: each has to leave less memory that is taken for that of others.
    fn about_foreign(&mut self, first: usize) {
        self.found.iter_mut().skip(first).for_each(|guess| guess.foreign = Foreign::Less);
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
    if read.whole() && foreign_bytes(&read) == 0 || at_rest(memory, threads, rings) {
        return Ok((read, Vec::new()));
    }
    let hints = Hints::of(memory, threads, rings);
    let units = read.reading.blocks.len().max(1);
    let tries = UNITS.checked_div(units).unwrap_or(0).clamp(1, TRIES);
    let mut search = Search { memory, threads, rings, hints: &hints, job, tries };
    let mut now = Explained { attempt: read, words: Words::new(), half_done: Vec::new() };
    if !now.attempt.whole() {
        if let Some(better) = search.better(&now.attempt, &now.words)? {
            now = better;
        }
    }
    if now.attempt.whole() {
        if let Some(hidden) = search.least_foreign(&now)? {
            now = hidden;
        }
    }
    Ok((now.attempt, now.half_done))
}

/// A reading, with what was put over the memory for it and what that says.
struct Explained {
    attempt: Attempt,
    words: Words,
    half_done: Vec<HalfDone>,
}

/// How many bytes are taken for those of others.
fn foreign_bytes(attempt: &Attempt) -> u64 {
    attempt.tally.arenas.iter().map(|states| states.of(State::Foreign).bytes).fold(0, u64::saturating_add)
}

/// The search for guesses that explain a reading.
struct Search<'s> {
    memory: &'s dyn Memory,
    threads: &'s [Thread],
    rings: &'s [Ring],
    hints: &'s Hints,
    job: &'s Job,
    /// How often the heap may still be read.
    tries: usize,
}

impl Search<'_> {
    fn read(&mut self, words: &Words) -> Result<Option<Attempt>, Error> {
        self.tries = self.tries.saturating_sub(1);
        Attempt::read(&Overlay::new(self.memory, words), self.threads, self.rings, self.job)
    }

    /// Returns a whole reading with more guesses than `words`.
    ///
    /// Each guess has to leave fewer faults. Where it leads no further, the next one is tried.
    fn better(&mut self, now: &Attempt, words: &Words) -> Result<Option<Explained>, Error> {
        let foreign = foreign_bytes(now);
        for guess in guesses(&Overlay::new(self.memory, words), now, self.hints, self.job)? {
            if self.tries == 0 {
                return Ok(None);
            }
            let mut with = words.clone();
            with.extend(guess.words);
            let allowed = |next: &Attempt| {
                next.faults() < now.faults() && guess.foreign.allows(foreign, foreign_bytes(next))
            };
            let Some(next) = self.read(&with)?.filter(allowed) else { continue };
            let half_done = (Some(guess.arena), guess.what);
            if next.whole() {
                return Ok(Some(Explained { attempt: next, words: with, half_done: vec![half_done] }));
            }
            if let Some(mut whole) = self.better(&next, &with)? {
                whole.half_done.insert(0, half_done);
                return Ok(Some(whole));
            }
        }
        Ok(None)
    }

    /// Returns the whole reading that takes the least memory for that of others; `now` is whole, too.
    fn least_foreign(&mut self, now: &Explained) -> Result<Option<Explained>, Error> {
        let mut least = foreign_bytes(&now.attempt);
        let mut best = None;
        if least == 0 {
            return Ok(best);
        }
        let memory = Overlay::new(self.memory, &now.words);
        let (hints, job) = (self.hints, self.job);
        let (attempt, found) = (&now.attempt, Vec::new());
        let mut scene = Scene { memory: &memory, peek: Peek::new(&memory), attempt, hints, job, found };
        scene.hidden_top_chunks();
        scene.cut_in_hand(true)?;
        scene.freed_in_hand();
        // A whole reading is no reason to follow bytes that may lead anywhere.
        scene.found.retain(|guess| guess.rank != Rank::OldBytes);
        scene.found.sort_by_key(|guess| guess.rank);
        for guess in scene.found {
            if self.tries == 0 {
                break;
            }
            let mut words = now.words.clone();
            words.extend(guess.words);
            let Some(attempt) = self.read(&words)? else { continue };
            let foreign = foreign_bytes(&attempt);
            if attempt.whole() && foreign < least {
                least = foreign;
                let mut half_done = now.half_done.clone();
                half_done.push((Some(guess.arena), guess.what));
                best = Some(Explained { attempt, words, half_done });
            }
        }
        Ok(best)
    }
}

fn guesses(memory: &Overlay<'_>, attempt: &Attempt, hints: &Hints, job: &Job) -> Result<Vec<Guess>, Error> {
    let mut scene = Scene { memory, peek: Peek::new(memory), attempt, hints, job, found: Vec::new() };
    scene.ends();
    scene.found.iter_mut().for_each(|guess| guess.foreign = Foreign::Any);
    // Before the lists: that one leads to chunks which no walk came to has other explanations, too.
    scene.cut_in_hand(foreign_bytes(attempt) > 0)?;
    scene.lists()?;
    scene.borders()?;
    scene.freed_in_hand();
    scene.mappings()?;
    scene.caches();
    // What old bytes lead to may be whole by chance.
    scene.found.sort_by_key(|guess| guess.rank);
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
