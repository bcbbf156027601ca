//! Files written whole or not at all.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Error, reason};

use super::place::{Entry, Old, Place, find};

/// Names that are tried for a temporary file.
const MOST_NAMES: u32 = 100;
/// The largest list and value of extended attributes (Linux, include/uapi/linux/limits.h, `XATTR_SIZE_MAX`).
const MOST_ATTRIBUTES: usize = 64 << 10;
const EXISTS: &str = "exists already; -force replaces it";
const CHANGED: &str = "was changed by another program meanwhile, and is as that left it";
const MADE: &str = "was made by another program meanwhile, and is as that left it";
const NOT_WHOLE: &str = "is not a regular file, and only those are written whole or not at all";

/// What is written, by which a new file gets its permissions.
#[derive(Clone, Copy)]
enum Content {
    /// Memory of a process, for its user's eyes only.
    Memory,
    /// A few lines, which are on the disk before the old ones are gone.
    Text,
}

/// Writes what was in memory to a file that is there whole or not at all.
///
/// A file that exists keeps its owner, permissions and access control list, and a link that leads to
/// it stays. Its other names (hard links) keep the old contents.
///
/// # Errors
///
/// [`Error::File`] when it exists and `replace` is not set, is not a regular file, or cannot be written.
pub fn write_whole(
    path: &Path,
    replace: bool,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), Error> {
    write_as(path, Content::Memory, replace, write)
}

/// Writes a text as [`write_whole`] does, replacing the one that is there.
///
/// # Errors
///
/// As [`write_whole`].
pub fn write_text(path: &Path, text: &[u8]) -> Result<(), Error> {
    write_as(path, Content::Text, true, |file| file.write_all(text))
}

/// Returns where a path leads, if a file can be written there: one is made and dropped.
///
/// # Errors
///
/// As [`find`] and [`write_text`].
pub fn writable(path: &Path) -> Result<Place, Error> {
    let place = find(path)?;
    if let Place::File(entry) = &place {
        prepared(path, entry, 0o600)?;
    }
    Ok(place)
}

/// Removes a regular file, the one that a link leads to.
///
/// # Errors
///
/// [`Error::File`] when there is none, or it cannot be removed.
pub fn remove(path: &Path) -> Result<(), Error> {
    let entry = entry(path)?;
    fs::unlinkat(&entry.folder, &entry.name, AtFlags::empty()).map_err(|cause| system_error(path, cause))
}

fn entry(path: &Path) -> Result<Entry, Error> {
    match find(path)? {
        Place::File(entry) => Ok(entry),
        Place::Stream | Place::Descriptor(_) => Err(Error::file(path, NOT_WHOLE)),
    }
}

fn system_error(path: &Path, cause: Errno) -> Error {
    Error::file(path, reason(&io::Error::from(cause)))
}

fn write_as(
    path: &Path,
    content: Content,
    replace: bool,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), Error> {
    let entry = entry(path)?;
    if entry.old.is_some() && !replace {
        return Err(Error::file(path, EXISTS));
    }
    let mode = match content {
        // The umask takes from both what it takes from every new file.
        _ if entry.old.is_some() => 0o600,
        Content::Memory => 0o600,
        Content::Text => 0o666,
    };
    let mut temporary = prepared(path, &entry, mode)?;
    let written = write(&mut temporary.file).and_then(|()| match content {
        Content::Memory => Ok(()),
        Content::Text => temporary.file.sync_all(),
    });
    written.map_err(|cause| Error::file(path, reason(&cause)))?;
    match &entry.old {
        // There was none when it was looked for.
        None => temporary.put(&entry.name).map_err(|cause| match cause {
            Errno::EXIST if replace => Error::file(path, MADE),
            Errno::EXIST => Error::file(path, EXISTS),
            cause => system_error(path, cause),
        }),
        Some(old) if unchanged(&entry, old) => {
            temporary.put_over(&entry.name).map_err(|cause| system_error(path, cause))
        }
        Some(_) => Err(Error::file(path, CHANGED)),
    }
}

/// An empty file, like the one that it will replace.
fn prepared<'a>(path: &Path, entry: &'a Entry, mode: u32) -> Result<Temporary<'a>, Error> {
    let temporary = Temporary::new(&entry.folder, mode).map_err(|cause| {
        let system = reason(&io::Error::from(cause));
        Error::file(path, format!("no file can be made in its folder: {system}"))
    })?;
    if let Some(old) = &entry.old {
        temporary.take_over(old).map_err(|problem| Error::file(path, problem))?;
    }
    Ok(temporary)
}

/// Whether the name still leads to the file that was found.
fn unchanged(entry: &Entry, old: &Old) -> bool {
    fs::statat(&entry.folder, &entry.name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|now| (now.st_dev, now.st_ino) == (old.status.st_dev, old.status.st_ino))
}

/// A file on its way to its name. Without a name of its own it is gone with this process, however that
/// ends; where the file system has no such files, it has one until it is dropped.
struct Temporary<'a> {
    folder: &'a OwnedFd,
    file: File,
    name: Option<OsString>,
}

impl<'a> Temporary<'a> {
    fn new(folder: &'a OwnedFd, mode: u32) -> rustix::io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match fs::openat(folder, ".", flags, Mode::from_raw_mode(mode)) {
            Ok(file) => Ok(Self { folder, file: file.into(), name: None }),
            // Without O_TMPFILE a kernel or a file system says one of these (open(2), BUGS).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => Self::named(folder, mode),
            Err(cause) => Err(cause),
        }
    }

    fn named(folder: &'a OwnedFd, mode: u32) -> rustix::io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (name, file) = unused(|name| fs::openat(folder, name, flags, Mode::from_raw_mode(mode)))?;
        Ok(Self { folder, file: file.into(), name: Some(name) })
    }

    /// Gives it the owner, permissions and attributes of the file that it will replace.
    fn take_over(&self, old: &Old) -> Result<(), String> {
        let (was, file) = (&old.status, &old.file);
        let own = fs::fstat(&self.file).map_err(|cause| reason(&cause.into()))?;
        let user = (own.st_uid != was.st_uid).then(|| Uid::from_raw(was.st_uid));
        let group = (own.st_gid != was.st_gid).then(|| Gid::from_raw(was.st_gid));
        if user.is_some() || group.is_some() {
            fs::fchown(&self.file, user, group).map_err(|_| {
                format!(
                    "belongs to uid {} and gid {}, which only root may give to a new file; remove it first",
                    was.st_uid, was.st_gid
                )
            })?;
        }
        fs::fchmod(&self.file, Mode::from_raw_mode(was.st_mode)).map_err(|cause| reason(&cause.into()))?;
        self.take_over_attributes(file).map_err(|cause| {
            format!(
                "has an access control list or attributes that a new file does not get: {}",
                reason(&cause.into())
            )
        })
    }

    /// Copies the access control list, and what users have attached.
    fn take_over_attributes(&self, old: &OwnedFd) -> rustix::io::Result<()> {
        // By this path also where the file must not be read.
        let path = format!("/proc/self/fd/{}", old.as_raw_fd());
        let mut names = vec![0_u8; MOST_ATTRIBUTES];
        let length = match fs::listxattr(&path, names.as_mut_slice()) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP | Errno::NOENT | Errno::ACCESS) => return Ok(()),
            Err(cause) => return Err(cause),
        };
        let listed = names.get(..length).unwrap_or_default().split(|byte| *byte == 0);
        for name in listed.filter(|name| name.starts_with(b"user.") || *name == b"system.posix_acl_access") {
            let mut value = vec![0_u8; MOST_ATTRIBUTES];
            match fs::getxattr(&path, name, value.as_mut_slice()) {
                Ok(length) => {
                    let value = value.get(..length).unwrap_or_default();
                    fs::fsetxattr(&self.file, name, value, XattrFlags::empty())?;
                }
                Err(Errno::NODATA | Errno::ACCESS) => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(())
    }

    /// Gives it a name that no file has yet.
    fn put(mut self, name: &OsString) -> rustix::io::Result<()> {
        let Some(own) = self.name.take() else { return self.link(name) };
        let renamed = match fs::renameat_with(self.folder, &own, self.folder, name, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) => {
                fs::linkat(self.folder, &own, self.folder, name, AtFlags::empty()).inspect(|()| {
                    _ = fs::unlinkat(self.folder, &own, AtFlags::empty());
                })
            }
            renamed => renamed,
        };
        self.name = renamed.is_err().then_some(own);
        renamed
    }

    /// Gives it the name of another file, which is gone then.
    fn put_over(mut self, name: &OsString) -> rustix::io::Result<()> {
        let own = match self.name.take() {
            Some(own) => own,
            None => unused(|name| self.link(name))?.0,
        };
        let renamed = fs::renameat(self.folder, &own, self.folder, name);
        self.name = renamed.is_err().then_some(own);
        renamed
    }

    /// Gives a file without a name its first one.
    fn link(&self, name: &OsString) -> rustix::io::Result<()> {
        let path = format!("/proc/self/fd/{}", self.file.as_fd().as_raw_fd());
        fs::linkat(CWD, path, self.folder, name, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            _ = fs::unlinkat(self.folder, name, AtFlags::empty());
        }
    }
}

/// What `make` makes under a name that no file in its folder has.
fn unused<T>(make: impl Fn(&OsString) -> rustix::io::Result<T>) -> rustix::io::Result<(OsString, T)> {
    let mut number = 0;
    loop {
        let name = OsString::from(format!(".gdb-leak.{}.{number}", std::process::id()));
        match make(&name) {
            Ok(done) => return Ok((name, done)),
            Err(Errno::EXIST) if number < MOST_NAMES => number = number.saturating_add(1),
            Err(cause) => return Err(cause),
        }
    }
}
