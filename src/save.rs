//! The one writer of all output files: snapshots, `leak-dump -out`, reports and gdbinit files.

mod place;
mod whole;

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

pub use place::{Entry, Place, find};
pub use whole::{remove, writable, write_text, write_whole};

use crate::error::Error;
use crate::memory::{Buffer, Gap, Memory, View};
use crate::pass::Job;
use crate::range::AddressRange;

/// Bytes written between two looks at whether to go on.
const PIECE: u64 = 4 << 20;

/// Writes the bytes of a range as they lie in memory.
///
/// While one piece is written the next one is fetched on another thread: what
/// reading a process or touching the pages of a mapping for the first time
/// costs is then no longer added to what writing costs.
///
/// # Errors
///
/// The first byte that is missing, and as [`write_whole`]; the file is not there then.
pub fn write_range(
    memory: &dyn Memory,
    range: AddressRange,
    path: &Path,
    replace: bool,
    job: &Job,
) -> Result<(), Error> {
    memory.recheck()?;
    let mut stopped = None;
    let written = write_whole(path, replace, |file| {
        let mut pieces = Pieces { memory, range, at: range.start(), job, file, stopped: &mut stopped };
        let (mut even, mut odd) = (Buffer::default(), Buffer::default());
        pieces.pass_zeros(pieces.zeros(range.start()))?;
        let mut fetched = pieces.next().map(|piece| fetch(memory, piece, &mut even));
        while let Some(ready) = fetched {
            let Some(ready) = pieces.write(&ready, &mut odd)? else { break };
            fetched = pieces.write(&ready, &mut even)?;
        }
        // What was written may be of a process that ended meanwhile.
        stopped = memory.recheck().err();
        if stopped.is_some() { Err(io::Error::other("stopped")) } else { Ok(()) }
    });
    stopped.map_or(written, Err)
}

/// A range on its way into a file.
struct Pieces<'a> {
    memory: &'a dyn Memory,
    range: AddressRange,
    /// Where the next piece to fetch begins.
    at: u64,
    job: &'a Job,
    file: &'a mut File,
    stopped: &'a mut Option<Error>,
}

impl<'a> Pieces<'a> {
    /// Where the next piece lies; `None` at the end.
    fn next(&self) -> Option<AddressRange> {
        self.next_at(self.at)
    }

    fn next_at(&self, at: u64) -> Option<AddressRange> {
        let rest = self.range.end().saturating_sub(at);
        (rest > 0).then(|| AddressRange::saturating(at, rest.min(PIECE)))
    }

    /// How many bytes from `at` on are known to be zeros.
    fn zeros(&self, at: u64) -> u64 {
        let mut end = at;
        loop {
            let rest = AddressRange::saturating(end, self.range.end().saturating_sub(end));
            let zeros = if rest.is_empty() || self.job.stopped() { 0 } else { self.memory.zeros(rest) };
            if zeros == 0 {
                return end.saturating_sub(at);
            }
            end = end.saturating_add(zeros);
        }
    }

    /// Leaves a hole in the file for the next bytes, which were [`Pieces::zeros`].
    fn pass_zeros(&mut self, zeros: u64) -> io::Result<()> {
        if zeros > 0 {
            self.file.seek(SeekFrom::Current(i64::try_from(zeros).unwrap_or(i64::MAX)))?;
            self.at = self.at.saturating_add(zeros);
            // The last thing in a file may be a hole.
            self.file.set_len(self.at.saturating_sub(self.range.start()))?;
            self.job.advance(zeros, self.range.len());
        }
        Ok(())
    }

    /// Writes one piece and meanwhile fetches the next one into `buffer`.
    fn write<'b>(&mut self, ready: &View<'_>, buffer: &'b mut Buffer) -> io::Result<Option<View<'b>>>
    where
        'a: 'b,
    {
        self.at = self.at.saturating_add(ready.bytes.len() as u64);
        *self.stopped = ready.gap.as_ref().map(Gap::error).or_else(|| self.job.check().err());
        if self.stopped.is_some() {
            return Err(io::Error::other("stopped"));
        }
        // Asked once: a process that runs may write there meanwhile, and what is fetched is after these.
        let zeros = self.zeros(self.at);
        let next = self.next_at(self.at.saturating_add(zeros));
        let (memory, file) = (self.memory, &mut *self.file);
        let (written, fetched) =
            rayon::join(|| file.write_all(ready.bytes), || next.map(|piece| fetch(memory, piece, buffer)));
        written?;
        self.job.advance(ready.bytes.len() as u64, self.range.len());
        self.pass_zeros(zeros)?;
        Ok(fetched)
    }
}

/// The start of a piece, every page of it touched.
fn fetch<'a>(memory: &'a dyn Memory, piece: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
    const PAGE: usize = 4096;
    let view = memory.view(piece, buffer);
    black_box(view.bytes.iter().step_by(PAGE).fold(0, |sum, byte| sum ^ byte));
    view
}
