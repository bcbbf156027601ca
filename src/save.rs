//! Files written whole or not at all.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, reason};
use crate::memory::{Buffer, Gap, Memory, View};
use crate::pass::Job;
use crate::range::AddressRange;

/// Bytes written between two looks at whether to go on.
const PIECE: u64 = 4 << 20;

/// Writes a file through a temporary one beside it, so that it is there whole or not at all.
///
/// # Errors
///
/// [`Error::File`] when it exists and `replace` is not set, or cannot be written.
pub fn write_whole(
    path: &Path,
    replace: bool,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), Error> {
    let told = |cause: &io::Error| Error::file(path, reason(cause));
    let exists = || Error::file(path, "exists already; -force replaces it");
    if path.is_dir() {
        return Err(Error::file(path, "is a directory, not a file"));
    }
    // Replacing a device would take it away from the whole machine.
    // Seen: `-out /dev/full -force`, as root.
    if path.metadata().is_ok_and(|status| !status.is_file()) {
        return Err(Error::file(path, "is no regular file, and only those are written whole or not at all"));
    }
    if !replace && path.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut temporary = NamedTempFile::with_prefix_in(".gdb-leak.", folder).map_err(|cause| told(&cause))?;
    write(temporary.as_file_mut()).map_err(|cause| told(&cause))?;
    let persisted = if replace { temporary.persist(path) } else { temporary.persist_noclobber(path) };
    match persisted {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(exists()),
        Err(error) => Err(told(&error.error)),
    }
}

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
        let rest = self.range.end().saturating_sub(self.at);
        (rest > 0).then(|| AddressRange::saturating(self.at, rest.min(PIECE)))
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
        let (memory, next, file) = (self.memory, self.next(), &mut *self.file);
        let (written, fetched) =
            rayon::join(|| file.write_all(ready.bytes), || next.map(|piece| fetch(memory, piece, buffer)));
        written?;
        self.job.advance(ready.bytes.len() as u64, self.range.len());
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
