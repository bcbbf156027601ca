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
    /// Whether other bytes than those of a call may look the same, and no register shows it.
    weak: bool,
    /// What it has to do to the memory that is taken for that of others.
    foreign: Foreign,
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
        let words: Words =
            words.into_iter().filter(|(at, word)| self.peek.word(*at) != Some(*word)).collect();
        if !words.is_empty() {
            self.found.push(Guess { arena, what, words, weak: false, foreign: Foreign::NoMore });
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
    let foreign = foreign_bytes(&read);
    if read.whole() && foreign == 0 {
        return Ok((read, Vec::new()));
    }
    let hints = Hints::of(memory, threads, rings);
    let units = read.reading.blocks.len().max(1);
    let tries = UNITS.checked_div(units).unwrap_or(0).clamp(1, TRIES);
    let mut search = Search { memory, threads, rings, hints: &hints, job, tries };
    if read.whole() {
        let hidden = search.hidden(&read, foreign)?;
        return Ok(hidden.unwrap_or((read, Vec::new())));
    }
    let found = search.better(&read, &Words::new())?;
    Ok(found.unwrap_or((read, Vec::new())))
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

    /// Returns a whole reading with more guesses than `words`, and what they say.
    ///
    /// Each guess has to leave fewer faults. Where it leads no further, the next one is tried.
    fn better(&mut self, now: &Attempt, words: &Words) -> Result<Option<(Attempt, Vec<HalfDone>)>, Error> {
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
                return Ok(Some((next, vec![half_done])));
            }
            if let Some((whole, mut more)) = self.better(&next, &with)? {
                more.insert(0, half_done);
                return Ok(Some((whole, more)));
            }
        }
        Ok(None)
    }

    /// Returns a whole reading in which less of the memory is of others than in `now`, which is whole, too.
    fn hidden(&mut self, now: &Attempt, foreign: u64) -> Result<Option<(Attempt, Vec<HalfDone>)>, Error> {
        let memory = self.memory;
        let (hints, job) = (self.hints, self.job);
        let mut scene =
            Scene { memory, peek: Peek::new(memory), attempt: now, hints, job, found: Vec::new() };
        scene.hidden();
        scene.cut_in_hand(true)?;
        for guess in std::mem::take(&mut scene.found) {
            if self.tries == 0 {
                break;
            }
            let next = self.read(&guess.words)?;
            if let Some(next) = next.filter(|next| next.whole() && foreign_bytes(next) < foreign) {
                return Ok(Some((next, vec![(Some(guess.arena), guess.what)])));
            }
        }
        Ok(None)
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
    scene.mappings()?;
    scene.caches();
    // What old bytes lead to may be whole by chance: what registers or more than one word say comes first.
    scene.found.sort_by_key(|guess| guess.weak);
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
