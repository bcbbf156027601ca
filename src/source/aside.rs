//! Files that may not answer, read by a process of their own for two seconds at the most.
//!
//! A mount that did not answer is left alone for some time: of a thousand files on it only the
//! first is waited for.

use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gdb_leak_ptrace::aside::{Aside, Failure, Opened as Handle, ROOM};
use nix::sys::stat::{major, minor};

use crate::pass;
use crate::source::mounts::{Answers, Mounts};

/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(2);

/// How long a mount that did not answer is not asked again.
const PAUSE: Duration = Duration::from_secs(10);

/// How long a list of mounts is taken for the present one.
const FRESH: Duration = Duration::from_secs(1);

/// What did not answer: a mount, or what is at a path that leads elsewhere by a link.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    Device((u32, u32)),
    Folder(PathBuf),
    /// Pages of a file there that a process has. That the file does not answer says nothing of them.
    Mapped((u32, u32)),
}

/// The process that reads, and what did not answer it.
struct Reader {
    aside: Option<Aside>,
    /// Which of the processes that were started it is: files of another are not open in it.
    number: u64,
    /// Those that were given up and may not have ended.
    given_up: Vec<Aside>,
    silent: Vec<(Place, Instant)>,
    /// The mounts that the last process asked for sees.
    mounts: Option<(Option<i32>, Instant, Arc<Mounts>)>,
}

static READER: Mutex<Reader> =
    Mutex::new(Reader { aside: None, number: 0, given_up: Vec::new(), silent: Vec::new(), mounts: None });

fn reader() -> MutexGuard<'static, Reader> {
    READER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which file it is: major and minor number of its device, and its inode.
pub(super) type Identity = ((u32, u32), u64);

/// How a file has to be opened.
pub(super) enum Way {
    /// By this process: its file system answers.
    Direct,
    /// By the one that reads for it.
    Aside(File),
}

/// How the regular file at `path` is to be opened, which may lead through the folder of a process in /proc.
///
/// # Errors
///
/// The system's, where it cannot be opened at all; [`silent`] where its file system does not answer.
pub(super) fn way(path: &Path) -> io::Result<Way> {
    // Linux, include/uapi/linux/magic.h, BTRFS_SUPER_MAGIC.
    const BTRFS: i64 = 0x9123_683e;
    const REGULAR: u32 = 0o100_000;
    const TYPE: u32 = 0o170_000;
    let (pid, inside) = in_mounts_of(path);
    let mounts = reader().mounts(pid);
    if !mounts.any_slow() {
        return Ok(Way::Direct);
    }
    let device = inside.as_deref().and_then(|path| mounts.device(path));
    let slow = device.filter(|device| matches!(mounts.answers(*device), Answers::Perhaps(_)));
    let place = match slow {
        Some(device) => Place::Device(device),
        // What is a link on the way is not asked for: that may be what does not answer.
        None => Place::Folder(path.parent().unwrap_or(path).to_owned()),
    };
    let file = File::open(path, place)?;
    let handle = file.handle;
    // Of btrfs each subvolume has a device that no list of mounts has.
    let known = mounts.answers(device_of(handle.device)) == Answers::Always;
    if known || handle.system == BTRFS {
        return Ok(Way::Direct);
    }
    if handle.mode & TYPE != REGULAR {
        return Err(io::Error::other("is not a regular file"));
    }
    Ok(Way::Aside(file))
}

/// Major and minor number of a device, as lists of mounts and of mappings have them.
pub(super) fn device_of(device: u64) -> (u32, u32) {
    let number = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
    (number(major(device)), number(minor(device)))
}

/// The error of a file system that does not answer.
fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "its file system does not answer")
}

/// Whether the process that reads was killed meanwhile, by the system for instance when memory ran out.
fn gone(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::BrokenPipe
}

/// Tries again with a new process where the one that reads was killed.
fn twice<T>(mut what: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match what() {
        Err(cause) if gone(&cause) => what(),
        answer => answer,
    }
}

/// Whose mounts a path is looked up in, where it leads into the folder of a process, and the path there.
fn in_mounts_of(path: &Path) -> (Option<i32>, Option<PathBuf>) {
    let own = || (None, Some(path.to_owned()));
    let mut parts = path.components();
    let mut next = || match parts.next() {
        Some(Component::Normal(part)) => part.to_str(),
        Some(Component::RootDir) => Some("/"),
        _ => None,
    };
    let (Some("/"), Some("proc"), Some(pid)) = (next(), next(), next().and_then(|pid| pid.parse().ok()))
    else {
        return own();
    };
    let mut what = next();
    if what == Some("task") {
        next();
        what = next();
    }
    match what {
        Some("root") => (Some(pid), Some(Path::new("/").join(parts.as_path()))),
        // What a link of the kernel's says: the path that the process would see.
        Some("exe" | "map_files" | "cwd" | "fd") => (Some(pid), std::fs::read_link(path).ok()),
        _ => own(),
    }
}

impl Reader {
    fn mounts(&mut self, pid: Option<i32>) -> Arc<Mounts> {
        match &self.mounts {
            Some((known, since, mounts)) if *known == pid && since.elapsed() < FRESH => Arc::clone(mounts),
            _ => {
                let mounts = Arc::new(Mounts::of(pid));
                self.mounts = Some((pid, Instant::now(), Arc::clone(&mounts)));
                mounts
            }
        }
    }

    /// Sends a request to the process that reads, and gives it up if it does not answer.
    ///
    /// # Errors
    ///
    /// The system's, [`silent`], also where work is to end, and one that is [`gone`].
    fn ask<T>(
        &mut self,
        place: &Place,
        what: impl FnOnce(&mut Aside, &dyn Fn() -> bool) -> Result<T, Failure>,
    ) -> io::Result<T> {
        // Each worker that waits for its turn would start a process of its own, and wait for that.
        if pass::stopping() {
            return Err(silent());
        }
        self.given_up.retain(|aside| !aside.ended());
        self.silent.retain(|(_, since)| since.elapsed() < PAUSE);
        if self.silent.iter().any(|(known, _)| known == place) {
            return Err(silent());
        }
        let mut aside = if let Some(aside) = self.aside.take() {
            aside
        } else {
            self.number = self.number.wrapping_add(1);
            Aside::start()?
        };
        match what(&mut aside, &|| !pass::stopping()) {
            Ok(answer) => {
                self.aside = Some(aside);
                Ok(answer)
            }
            Err(Failure::Refused(cause)) => {
                self.aside = Some(aside);
                Err(cause)
            }
            Err(Failure::Gone) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(failure) => {
                aside.kill();
                self.given_up.push(aside);
                if matches!(failure, Failure::Silent) {
                    self.silent.push((place.clone(), Instant::now()));
                }
                Err(silent())
            }
        }
    }
}

/// A file that the process has open.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    place: Place,
    handle: Handle,
    /// Which process has it open, and as which number.
    open: Mutex<(u64, u64)>,
}

impl File {
    fn open(path: &Path, place: Place) -> io::Result<Self> {
        let mut reader = reader();
        let handle = open(&mut reader, path, &place)?;
        let open = Mutex::new((reader.number, handle.number));
        Ok(Self { path: path.to_owned(), place, handle, open })
    }

    /// The length in bytes when it was opened.
    pub(super) fn length(&self) -> u64 {
        self.handle.length
    }

    /// Which file it is.
    pub(super) fn identity(&self) -> Identity {
        (device_of(self.handle.device), self.handle.inode)
    }

    /// Reads from `offset` until the buffer is full or the file ends.
    ///
    /// # Errors
    ///
    /// The system's, unless some bytes were read before it.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let some = rest.len().min(ROOM);
            let Some(part) = rest.get_mut(..some) else { break };
            match twice(|| self.read_once(part, offset.saturating_add(filled as u64))) {
                Ok(0) => break,
                Ok(read) => filled = filled.saturating_add(read),
                Err(_) if filled > 0 => break,
                Err(cause) => return Err(cause),
            }
        }
        Ok(filled)
    }

    fn read_once(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut reader = reader();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if reader.aside.is_none() || open.0 != reader.number {
            // The process that had it open was given up.
            let handle = self::open(&mut reader, &self.path, &self.place)?;
            if (handle.device, handle.inode) != (self.handle.device, self.handle.inode) {
                return Err(io::Error::other("is another file by now"));
            }
            *open = (reader.number, handle.number);
        }
        let number = open.1;
        reader.ask(&self.place, |aside, wanted| aside.read(number, offset, buffer, LIMIT, wanted))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let mut reader = reader();
        let (process, number) = *self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if process == reader.number && reader.aside.is_some() && number != u64::MAX {
            let _ = reader.ask(&self.place, |aside, wanted| aside.close(number, LIMIT, wanted));
        }
    }
}

fn open(reader: &mut Reader, path: &Path, place: &Place) -> io::Result<Handle> {
    let bytes = OsStr::as_bytes(path.as_os_str());
    twice(|| reader.ask(place, |aside, wanted| aside.open(bytes, LIMIT, wanted)))
}

/// Reads memory of a process where a file on that device is mapped; `memory` is its `/proc/PID/mem`.
///
/// Also of a page that was there a moment ago: the kernel may have dropped it, and then asks the file
/// system for it.
///
/// # Errors
///
/// The system's; [`silent`] where the file system does not answer.
pub(super) fn read_memory(
    memory: &std::fs::File,
    device: (u32, u32),
    buffer: &mut [u8],
    at: u64,
) -> io::Result<usize> {
    let place = Place::Mapped(device);
    let some = buffer.len().min(ROOM);
    let buffer = buffer.get_mut(..some).unwrap_or_default();
    twice(|| reader().ask(&place, |aside, wanted| aside.read_of(memory.as_fd(), at, buffer, LIMIT, wanted)))
}

/// Such a file, read from one place after another.
#[derive(Debug)]
pub(super) struct Cursor {
    file: Arc<File>,
    at: u64,
}

impl Cursor {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at = self.at.saturating_add(read as u64);
        Ok(read)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.file.length().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    /// The process that reads for this one.
    fn child() -> Option<i32> {
        let listed = |task: &Path| std::fs::read_to_string(task.join("children")).unwrap_or_default();
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let all: String = tasks.map(|task| listed(&task.unwrap().path())).collect();
        let reads = |pid: &&str| {
            std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(b"gdb-leak-reads"))
        };
        all.split_whitespace().find(reads).map(|pid| pid.parse().unwrap())
    }

    #[test]
    fn a_file_is_read_on_where_the_process_that_read_it_was_killed() {
        let own = std::env::current_exe().unwrap();
        let whole = std::fs::read(&own).unwrap();
        let file = File::open(&own, Place::Folder(own.clone())).unwrap();
        let mut bytes = [0; 64];
        for offset in [0, 64, 128] {
            assert_eq!(file.read_at(&mut bytes, offset as u64).unwrap(), bytes.len());
            assert_eq!(bytes, whole[offset..offset + bytes.len()]);
            let pid = child().unwrap();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            let runs = || !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ");
            while runs() {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_path_through_the_folder_of_a_process_is_one_of_its_mounts() {
        let own = i32::try_from(std::process::id()).unwrap();
        let of = |path: String| in_mounts_of(Path::new(&path));
        assert_eq!(of(format!("/proc/{own}/root/usr/x")), (Some(own), Some("/usr/x".into())));
        assert_eq!(of(format!("/proc/{own}/task/{own}/root/x")), (Some(own), Some("/x".into())));
        let program = std::env::current_exe().unwrap();
        assert_eq!(of(format!("/proc/{own}/exe")), (Some(own), Some(program)));
        assert_eq!(of("/usr/x".into()), (None, Some("/usr/x".into())));
    }
}
