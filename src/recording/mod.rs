//! What the recorder kept of each live block: which code allocated it, and how large it was asked to be.
//!
//! Reads what `docs/recording.md` lays down out of any memory. Whatever stands there may be
//! damaged: sizes and numbers are held to what the header says it has, chains to the depth that
//! a stack can have, and memory is taken for what was really read only.

mod blocks;
mod estimate;
mod header;
mod layout;
mod modules;
mod stacks;
mod united;

use crate::error::Error;
use crate::memory::Memory;
use crate::pass::Job;
use crate::peek::Peek;
use crate::range::AddressRange;

pub use blocks::{Allocation, Live};
pub use estimate::Estimate;
pub use modules::Module;
pub use stacks::{Frame, Stack};

use header::{Area, Header, Place};
use modules::Modules;
use united::United;

/// How many entries are gone over between two looks at whether to stop.
const ASK: usize = 1 << 8;

/// How many recordings that cannot be read are named.
const MOST_NAMED: usize = 8;

/// What was looked for and found.
#[derive(Clone, Default, Debug)]
pub struct Found {
    /// The recording, where there is one that can be read.
    pub recording: Option<Recording>,
    /// Sentences on what cannot be read.
    pub notes: Vec<String>,
}

/// A recording as it stands in memory.
#[derive(Clone, Debug)]
pub struct Recording {
    header: Header,
    live: Live,
    modules: Modules,
    /// When something was recorded last, in the recording's own units.
    latest: u32,
}

/// Where the recorder keeps its tables: no root, since it is no program's.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn reserved(memory: &dyn Memory, job: &Job) -> Result<Vec<AddressRange>, Error> {
    let found = header::find(memory, job)?.into_iter();
    let ranges = |(_, place)| match place {
        Place::Good(header) => header.ranges,
        _ => Vec::new(),
    };
    Ok(AddressRange::merge(found.flat_map(ranges).collect()))
}

impl Recording {
    /// Looks for a recording, and reads which blocks it has.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn find(memory: &dyn Memory, job: &Job) -> Result<Found, Error> {
        let mut found = Found::default();
        let mut good = Vec::new();
        let mut unread = Vec::new();
        for (address, place) in header::find(memory, job)? {
            match place {
                Place::Good(header) => good.push((address, header)),
                Place::Version(version) => unread.push(format!(
                    "allocations are recorded at {address:#x} in layout {version}, which this gdb-leak does not read"
                )),
                Place::Broken(rule) => {
                    unread.push(format!("the recording at {address:#x} is damaged and is not read: {rule}"));
                }
            }
        }
        let more = unread.len().saturating_sub(MOST_NAMED);
        unread.truncate(MOST_NAMED);
        found.notes = unread;
        if more > 0 {
            found
                .notes
                .push(format!("{more} more recordings are damaged or of another layout and are not read"));
        }
        // Of several the one that is at work.
        good.sort_by_key(|(address, header)| (header.stopped, *address));
        if good.len() > 1 {
            let first = good.first().map_or(0, |(address, _)| *address);
            found.notes.push(format!("there are {} recordings: the one at {first:#x} is read", good.len()));
        }
        if good.is_empty() && found.notes.is_empty() && header::loaded(memory) {
            found.notes.push("the recorder is loaded, and no recording of it was found".to_owned());
        }
        if let Some((_, header)) = good.into_iter().next() {
            found.recording = Some(Self::read(memory, *header, job)?);
        }
        Ok(found)
    }

    fn read(memory: &dyn Memory, header: Header, job: &Job) -> Result<Self, Error> {
        let [blocks, _, modules, names, threads] = &header.areas;
        let live = Live::read(memory, blocks, job)?;
        let modules = Modules::read(memory, modules, names);
        let latest = live.entries.iter().map(|entry| entry.time).max().unwrap_or(0);
        let latest = latest.max(latest_of(memory, threads, job)?);
        let mut recording = Self { header, live, modules, latest };
        if recording.header.generation > 0 {
            recording.unite(memory, job)?;
        }
        Ok(recording)
    }

    /// Gives stacks with the same frames one number, whenever they were seen.
    fn unite(&mut self, memory: &dyn Memory, job: &Job) -> Result<(), Error> {
        let mut entries = std::mem::take(&mut self.live.entries);
        let mut united = United::new(memory, self.nodes(), &self.modules);
        for (number, entry) in entries.iter_mut().enumerate() {
            if number % ASK == 0 {
                job.check()?;
            }
            entry.stack = united.number(entry.stack);
        }
        self.live.entries = entries;
        Ok(())
    }

    fn nodes(&self) -> &Area {
        let [_, nodes, ..] = &self.header.areas;
        nodes
    }

    /// Where its header is.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.header.address
    }

    /// The number of the process that was recorded.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.header.pid
    }

    /// For how many bytes one allocation was recorded on average; `None` where every one was.
    #[must_use]
    pub fn sample(&self) -> Option<u64> {
        Some(self.header.sample).filter(|sample| *sample > 0)
    }

    /// The blocks that were recorded and not released.
    #[must_use]
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The stack with that number.
    #[must_use]
    pub fn stack(&self, memory: &dyn Memory, number: u32) -> Stack {
        stacks::stack(&mut Peek::new(memory), self.nodes(), number)
    }

    /// The allocation function at an address: `malloc` and its like, whatever files are at hand.
    #[must_use]
    pub fn function(&self, pc: u64) -> Option<&'static str> {
        let known = self.header.functions.iter().zip(layout::FUNCTIONS);
        known.filter(|(at, _)| **at != 0).find_map(|(at, name)| (*at == pc).then_some(name))
    }

    /// The module that a frame of a stack lay in, where that was unloaded since.
    #[must_use]
    pub fn unloaded(&self, frame: Frame, generation: u32) -> Option<&Module> {
        let number = self.modules.at(frame.address(), generation)?;
        self.modules.get(number).filter(|module| module.until.is_some())
    }

    /// When something was recorded last, in the recording's own units.
    #[must_use]
    pub fn latest(&self) -> u32 {
        self.latest
    }

    /// What the system's monotonic clock shows, in nanoseconds, in the recording's own units.
    #[must_use]
    pub fn units(&self, clock: u64) -> u32 {
        let since = clock.saturating_sub(self.header.started).checked_shr(self.header.shift).unwrap_or(0);
        u32::try_from(since).unwrap_or(u32::MAX)
    }

    /// So many of the recording's own units in nanoseconds.
    #[must_use]
    pub fn nanoseconds(&self, units: u32) -> u64 {
        let most = u64::MAX.checked_shr(self.header.shift).unwrap_or(0);
        let units = u64::from(units).min(most);
        units.checked_shl(self.header.shift).unwrap_or(u64::MAX)
    }

    /// The latest time, in the recording's own units, that lies so many nanoseconds before `now`.
    ///
    /// Below zero where recording began later.
    #[must_use]
    pub fn before(&self, now: u32, nanoseconds: u64) -> i64 {
        let unit = 1_u64.checked_shl(self.header.shift).unwrap_or(u64::MAX);
        let units = i64::try_from(nanoseconds.div_ceil(unit)).unwrap_or(i64::MAX);
        i64::from(now).saturating_sub(units)
    }

    /// Sentences on what the recording lacks, and what follows.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let header = &self.header;
        let mut notes = Vec::new();
        let mut note = |count: u64, text: &str| {
            if count > 0 {
                notes.push(format!("{count} {text}"));
            }
        };
        note(
            header.dropped,
            "allocations were not recorded because the recording was full: their blocks have no stack",
        );
        note(
            header.missed,
            "allocations in signal handlers or in too many threads were not recorded: their blocks have no stack",
        );
        note(
            header.stale,
            "releases could not be noted: a block at the place of one of these may show its stack",
        );
        note(header.cut, "times a stack was known in part only: too deep, or code without unwind tables");
        note(self.live.twice, "blocks were recorded twice: the later record counts");
        note(
            self.live.missing,
            "bytes of the recording are missing: blocks that were recorded there have no stack",
        );
        if header.damaged {
            notes.push("the recording is damaged: an area says that it uses more than it has".to_owned());
        }
        if header.stopped {
            notes.push("recording was stopped: blocks allocated since have no stack".to_owned());
        }
        notes
    }
}

/// When a thread recorded something last, in the recording's own units.
fn latest_of(memory: &dyn Memory, threads: &Area, job: &Job) -> Result<u32, Error> {
    let mut peek = Peek::new(memory);
    let mut latest = 0;
    for number in 0..threads.used {
        job.check()?;
        let Some(address) = threads.at(number) else { break };
        let length = usize::try_from(layout::THREAD).unwrap_or(0);
        // Slots are used from the first one on: behind one that is missing none was.
        let Some(bytes) = peek.bytes(address, length) else { break };
        if layout::u32_at(bytes, 0).is_some_and(|thread| thread != 0) {
            latest = latest.max(layout::u32_at(bytes, layout::THREAD_TIME).unwrap_or(0));
        }
    }
    Ok(latest)
}
