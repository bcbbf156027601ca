//! Files written whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, reason};
use crate::memory::{Buffer, Memory};
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
    let mut buffer = Buffer::default();
    let mut stopped = None;
    let written = write_whole(path, replace, |file| {
        let mut at = range.start();
        while at < range.end() {
            let rest = AddressRange::saturating(at, range.end().saturating_sub(at).min(PIECE));
            let view = memory.view(rest, &mut buffer);
            file.write_all(view.bytes)?;
            at = at.saturating_add(view.bytes.len() as u64);
            job.advance(view.bytes.len() as u64, range.len());
            stopped = view.gap.map(|gap| gap.error()).or_else(|| job.check().err());
            if stopped.is_some() {
                return Err(io::Error::other("stopped"));
            }
        }
        Ok(())
    });
    stopped.map_or(written, Err)
}
