//! Where the path of an output leads: links are followed once, and the folder is held open.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat};
use rustix::io::Errno;

use crate::error::{Error, reason};

/// Links that are followed, as many as the kernel follows (Linux, include/linux/namei.h, MAXSYMLINKS).
const MOST_LINKS: usize = 40;
/// Everybody may write to the folder, and only owners may rename or remove (Linux, `S_ISVTX` and `S_IWOTH`).
const SHARED: u32 = 0o1002;

/// What the path of an output leads to.
#[derive(Debug)]
pub enum Place {
    /// A regular file, or none yet.
    File(Entry),
    /// A pipe or a character device, such as a terminal: bytes written to it are gone.
    Stream,
    /// A descriptor that this process has open: `/dev/stdout`, `/dev/fd/3`.
    Descriptor(i32),
}

/// A name in a folder that is held open, so that what is done later is done in that folder.
#[derive(Debug)]
pub struct Entry {
    pub(super) folder: OwnedFd,
    pub(super) name: OsString,
    /// `None` where there is no such file yet.
    pub(super) old: Option<Old>,
}

/// A file that is there already. It is held, without a right to read it, so that its number is not given
/// to another file meanwhile.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) file: OwnedFd,
    pub(super) status: Stat,
}

/// Follows the links of a path to where its bytes would go.
///
/// # Errors
///
/// [`Error::File`] for folders, sockets, block devices, loops of links, files that only another
/// process has open, and what another user has put into a folder that everybody may write to.
pub fn find(path: &Path) -> Result<Place, Error> {
    let system_error = |cause: Errno| Error::file(path, reason(&io::Error::from(cause)));
    let wrong = |problem: &str| Error::file(path, problem);
    let mut folder: Option<OwnedFd> = None;
    let mut rest = path.to_path_buf();
    for _ in 0..=MOST_LINKS {
        let (parent, name) = split(&rest).map_err(wrong)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = match &folder {
            Some(folder) => fs::openat(folder, parent, flags, Mode::empty()),
            None => fs::openat(CWD, parent, flags, Mode::empty()),
        };
        let held = held.map_err(system_error)?;
        let status = match fs::statat(&held, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => status,
            Err(Errno::NOENT) => return Ok(Place::File(new(path, held, name)?)),
            Err(cause) => return Err(system_error(cause)),
        };
        check_owner(path, &held, &status)?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Symlink if fs::fstatfs(&held).map_err(system_error)?.f_type == PROC_SUPER_MAGIC => {
                return opened(path, &held, name);
            }
            FileType::Symlink => {
                let link = fs::readlinkat(&held, name, Vec::new()).map_err(system_error)?;
                rest = PathBuf::from(OsString::from_vec(link.into_bytes()));
                folder = Some(held);
            }
            FileType::RegularFile => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = fs::openat(&held, name, flags, Mode::empty()).map_err(system_error)?;
                let (status, name) = (fs::fstat(&file).map_err(system_error)?, name.to_owned());
                let old = Some(Old { file, status });
                return Ok(Place::File(Entry { folder: held, name, old }));
            }
            other => return stream(path, other),
        }
    }
    Err(system_error(Errno::LOOP))
}

/// The folder and the name in it.
fn split(path: &Path) -> Result<(&OsStr, &OsStr), &'static str> {
    let bytes = path.as_os_str().as_bytes();
    let cut = bytes.iter().rposition(|byte| *byte == b'/');
    let (parent, name) = match cut {
        None => (&b"."[..], bytes),
        Some(0) => (&b"/"[..], bytes.get(1..).unwrap_or_default()),
        Some(cut) => bytes.split_at_checked(cut.saturating_add(1)).unwrap_or_default(),
    };
    match name {
        b"" if bytes.is_empty() => Err("No such file or directory"),
        b"" | b"." | b".." => Err("is a directory, not a file"),
        _ => Ok((OsStr::from_bytes(parent), OsStr::from_bytes(name))),
    }
}

/// A file that is not there yet.
fn new(path: &Path, folder: OwnedFd, name: &OsStr) -> Result<Entry, Error> {
    // A misspelled /dev/stdout would leave a file there, until the machine starts anew.
    if same(&fs::fstat(&folder), &fs::stat("/dev")) {
        return Err(Error::file(path, "is not there, and /dev is for devices: name a file elsewhere"));
    }
    // A descriptor that is not open, or a process that has ended.
    if fs::fstatfs(&folder).is_ok_and(|system| system.f_type == PROC_SUPER_MAGIC) {
        return Err(Error::file(path, "No such file or directory"));
    }
    Ok(Entry { folder, name: name.to_owned(), old: None })
}

fn same(one: &rustix::io::Result<Stat>, other: &rustix::io::Result<Stat>) -> bool {
    matches!((one, other), (Ok(one), Ok(other)) if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Refuses what another user has put into a folder like /tmp, to have it replaced or followed.
///
/// The rule is the kernel's (Linux, fs/namei.c, `may_follow_link` and `may_create_in_sticky`), which
/// looks at links that it follows itself and at files that it opens, where sysctl asks for it.
fn check_owner(path: &Path, folder: &OwnedFd, status: &Stat) -> Result<(), Error> {
    let Ok(of_folder) = fs::fstat(folder) else { return Ok(()) };
    let own = status.st_uid == rustix::process::geteuid().as_raw();
    if of_folder.st_mode & SHARED != SHARED || own || status.st_uid == of_folder.st_uid {
        return Ok(());
    }
    let what = match FileType::from_raw_mode(status.st_mode) {
        FileType::Symlink => "a link",
        FileType::RegularFile => "a file",
        FileType::Fifo => "a pipe",
        _ => return Ok(()),
    };
    let problem =
        format!("is {what} of another user (uid {}) in a folder that everybody may write to", status.st_uid);
    Err(Error::file(path, problem))
}

/// Where a link in /proc leads: not by a path, but to what a process has open.
fn opened(path: &Path, folder: &OwnedFd, name: &OsStr) -> Result<Place, Error> {
    let held = fs::fstat(folder);
    let own = ["/proc/self/fd", "/proc/thread-self/fd"].iter().any(|fds| same(&held, &fs::stat(*fds)));
    let number = name.to_str().and_then(|name| name.parse().ok());
    if let (true, Some(number)) = (own, number) {
        return Ok(Place::Descriptor(number));
    }
    let status = fs::statat(folder, name, AtFlags::empty())
        .map_err(|cause| Error::file(path, reason(&io::Error::from(cause))))?;
    stream(path, FileType::from_raw_mode(status.st_mode))
}

fn stream(path: &Path, kind: FileType) -> Result<Place, Error> {
    match kind {
        FileType::Fifo | FileType::CharacterDevice => Ok(Place::Stream),
        FileType::Directory => Err(Error::file(path, "is a directory, not a file")),
        FileType::Socket => Err(Error::file(path, "is a socket, not a file")),
        FileType::BlockDevice => Err(Error::file(path, "is a block device, which is never written to")),
        _ => Err(Error::file(path, "is a file that a process has open; name the file itself")),
    }
}
