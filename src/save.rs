//! Files written whole or not at all.

use std::fs::File;
use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, reason};

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
