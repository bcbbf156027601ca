//! The folder of a process in `/proc`, held open.
//!
//! The number of a process that ended is given to another one sooner or later. An open folder
//! stays with its process (Linux 6.18, `fs/proc/base.c`: the inode keeps the `struct pid`, and
//! all files of a folder whose process ended give ESRCH or ENOENT), so nothing that is read
//! through it is of the next process with this number.
//!
//! This also separates the two reasons for a missing process: one whose folder
//! cannot be opened does not exist, and one whose folder was open has ended since, whichever
//! file of it is missed first.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use procfs::ProcError;
use procfs::process::{Process as Proc, Stat, StatFlags, Syscall, Task};

use crate::error::{Error, reason};
use crate::source::Thread;
use crate::source::aside::{self, Way};
use crate::source::elf::{Image, file_image};
use crate::source::file::FileView;
use crate::text::lossless;

/// Of a process that was there before.
const ENDED: &str = "ended while it was read";

/// Of a process that ended before it was looked at, and that is listed until its parent waits for it.
const ZOMBIE: &str = "has ended: it has no memory, and its parent has not waited for it yet";

/// Of the kernel's own threads.
const KERNEL: &str = "has no memory of its own: it is a kernel thread";

/// The folder of one process.
#[derive(Debug)]
pub(super) struct Folder {
    proc: Proc,
}

impl Folder {
    /// Opens the folder of the process that has this number now, or that has a thread of this number.
    ///
    /// # Errors
    ///
    /// [`Error::Process`] where there is none, where it has ended already, or where it is a
    /// kernel thread.
    pub(super) fn open(pid: i32) -> Result<Self, Error> {
        let proc = Proc::new(pid).map_err(|cause| {
            let problem = match cause {
                ProcError::NotFound(_) => "does not exist".to_owned(),
                cause => problem(cause),
            };
            Error::Process { pid, problem }
        })?;
        let folder = Self { proc }.of_process()?;
        if folder.kernel() {
            return Err(folder.refuse(KERNEL));
        }
        if folder.living()?.next().is_none() {
            return Err(folder.refuse(ZOMBIE));
        }
        Ok(folder)
    }

    /// The folder of the process, where this one is that of a thread: `/proc` has those too, unlisted.
    fn of_process(self) -> Result<Self, Error> {
        match self.status("Tgid").map_err(|cause| self.refuse(problem(cause)))? {
            Some(process) if process != self.pid() => {
                let proc = Proc::new(process).map_err(|cause| self.refuse(problem(cause)))?;
                Ok(Self { proc })
            }
            _ => Ok(self),
        }
    }

    /// The number that `status` has for `field`.
    fn status(&self, field: &str) -> Result<Option<i32>, ProcError> {
        let mut text = Vec::new();
        self.proc.open_relative("status")?.read_to_end(&mut text)?;
        Ok(number_in_status(&text, field))
    }

    /// The number of the process.
    pub(super) fn pid(&self) -> i32 {
        self.proc.pid
    }

    /// The error that the process ended after this folder was opened.
    pub(super) fn ended(&self) -> Error {
        self.refuse(ENDED)
    }

    /// An error about the process.
    pub(super) fn refuse(&self, problem: impl Into<String>) -> Error {
        Error::Process { pid: self.pid(), problem: problem.into() }
    }

    /// Opens the file of that name: that of the main thread, as long as it has memory, or else of
    /// any thread that lives.
    ///
    /// # Errors
    ///
    /// [`Error::Process`] where the process ended, or where the file may not be read.
    pub(super) fn file(&self, name: &str) -> Result<File, Error> {
        for thread in self.living()? {
            match self.proc.open_relative(self.inside(thread).join(name)) {
                Ok(file) => return Ok(file),
                // Linux 6.18, kernel/ptrace.c, `__ptrace_may_access`: what has no memory any more may be
                // looked at by root only. The memory of any other thread is the process's.
                Err(_) if self.leaves(thread) => {}
                Err(cause) => return Err(self.refuse(problem(cause))),
            }
        }
        Err(self.ended())
    }

    /// Reads the file of that name to its end, as [`file`](Self::file) opens it.
    ///
    /// # Errors
    ///
    /// As those of [`file`](Self::file).
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.file(name)?.read_to_end(&mut bytes).map_err(|cause| self.refuse(problem(cause.into())))?;
        Ok(bytes)
    }

    /// The threads that have not ended; the main one is the first.
    ///
    /// Observed: a main thread that ended before the others stays listed as a zombie until they
    /// end, without memory, and cannot be traced. The memory is that of any other thread.
    /// Seen: a main that calls `pthread_exit`.
    ///
    /// # Errors
    ///
    /// [`Error::Process`] where the process ended.
    pub(super) fn living(&self) -> Result<impl Iterator<Item = i32>, Error> {
        let tasks = self.proc.tasks().map_err(|cause| self.refuse(problem(cause)))?;
        Ok(tasks
            .filter_map(Result::ok)
            .filter(|task| task.stat().is_ok_and(|stat| lives(&stat)))
            .map(|task| task.tid))
    }

    /// The threads that are listed, also those that have ended and that nothing has waited for.
    ///
    /// As [`living`](Self::living), for a tenth of the time: nothing is asked of each.
    ///
    /// # Errors
    ///
    /// [`Error::Process`] where the process ended.
    pub(super) fn listed(&self) -> Result<Vec<i32>, Error> {
        let folder = self.proc.open_relative("task").map_err(|cause| self.refuse(problem(cause)))?;
        let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
        let entries = std::fs::read_dir(path).map_err(|cause| self.refuse(problem(cause.into())))?;
        let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        Ok(entries.map_while(Result::ok).filter_map(number).collect())
    }

    /// Whether a thread of that number is one of the process, and has not ended.
    pub(super) fn lives(&self, thread: i32) -> bool {
        self.stat(thread).is_some_and(|stat| lives(&stat))
    }

    /// Whether a thread is in uninterruptible sleep (state `D`).
    pub(super) fn waits_in_kernel(&self, thread: i32) -> bool {
        self.stat(thread).is_some_and(|stat| stat.state == 'D')
    }

    /// Whether a thread of that number ended, or is about to.
    fn leaves(&self, thread: i32) -> bool {
        let exiting = |stat: &Stat| stat.flags & StatFlags::PF_EXITING.bits() != 0;
        self.stat(thread).is_none_or(|stat| !lives(&stat) || exiting(&stat))
    }

    fn stat(&self, thread: i32) -> Option<Stat> {
        self.proc.task_from_tid(thread).and_then(|task| task.stat()).ok()
    }

    /// The threads, with the stack pointers of those that wait in a system call.
    pub(super) fn threads(&self) -> Vec<Thread> {
        let Ok(tasks) = self.proc.tasks() else { return Vec::new() };
        let thread = |task: Task| {
            let stack_pointer = match task.syscall() {
                Ok(Syscall::Blocked { stack_pointer, .. }) => Some(stack_pointer),
                _ => None,
            };
            Thread { id: task.tid, stack_pointer, ..Thread::default() }
        };
        tasks.filter_map(Result::ok).map(thread).collect()
    }

    /// The number of the process that traces this one.
    pub(super) fn tracer(&self) -> Option<i32> {
        self.status("TracerPid").ok()?.filter(|tracer| *tracer != 0)
    }

    /// The headers of the program that the process runs; `None` too where its file system does not answer.
    pub(super) fn program(&self) -> Option<Image> {
        let path = self.named().join("exe");
        match aside::way(&path).ok()? {
            Way::Direct => image(self.file("exe").ok()?),
            Way::Aside(_) => file_image(&FileView::open_named(&path).ok()?).ok(),
        }
    }

    /// The path of the program that the process runs, as the kernel has it.
    pub(super) fn program_path(&self) -> Option<PathBuf> {
        std::fs::read_link(self.named().join("exe")).ok()
    }

    /// The path of the folder whose files show the memory, by number: for what cannot take an open folder.
    pub(super) fn named(&self) -> PathBuf {
        self.path().unwrap_or_else(|_| Path::new("/proc").join(self.pid().to_string()))
    }

    /// The words of the command line, or else the path of the program.
    pub(super) fn command(&self) -> Option<String> {
        let words = lossless(&self.read("cmdline").unwrap_or_default());
        let command = words.split('\0').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        let path = || Proc::new_with_root(self.path().ok()?).and_then(|proc| proc.exe()).ok();
        Some(command)
            .filter(|command| !command.is_empty())
            .or_else(|| Some(lossless(path()?.as_os_str().as_bytes())))
    }

    /// The path of the folder whose files show the memory; that of the next process once this one ended.
    fn path(&self) -> Result<PathBuf, Error> {
        let thread = self.living()?.next().ok_or_else(|| self.ended())?;
        Ok(Path::new("/proc").join(self.pid().to_string()).join(self.inside(thread)))
    }

    /// Where the files of that thread are in this folder.
    fn inside(&self, thread: i32) -> PathBuf {
        if thread == self.pid() { PathBuf::new() } else { Path::new("task").join(thread.to_string()) }
    }

    /// Whether it is one of the kernel's own threads, of which `/proc` shows no memory.
    fn kernel(&self) -> bool {
        // Not procfs's own decoding, which fails on flags that it does not know.
        self.proc.stat().is_ok_and(|stat| stat.flags & StatFlags::PF_KTHREAD.bits() != 0)
    }
}

/// The number that the text of a `status` has for `field`.
///
/// Its first line is the name of the program, which may be of any bytes.
pub(super) fn number_in_status(text: &[u8], field: &str) -> Option<i32> {
    let value = |line| <[u8]>::strip_prefix(line, field.as_bytes())?.strip_prefix(b":");
    let value = text.split(|byte| *byte == b'\n').find_map(value)?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

fn lives(stat: &Stat) -> bool {
    !matches!(stat.state, 'Z' | 'X' | 'x')
}

/// The path of the folder in `/proc` where a process shows its memory: that of its main thread, as
/// long as it has one.
pub(super) fn path(pid: i32) -> PathBuf {
    let folder = Folder::open(pid).and_then(|folder| folder.path());
    folder.unwrap_or_else(|_| Path::new("/proc").join(pid.to_string()))
}

/// The headers of the program whose file this is.
pub(super) fn image(program: File) -> Option<Image> {
    const HEADERS: u64 = 4096;
    let mut headers = Vec::new();
    program.take(HEADERS).read_to_end(&mut headers).ok()?;
    Image::parse(headers.as_slice()).ok()
}

/// What an error about a file in an open folder says of the process, and what to do.
///
/// ESRCH and ENOENT both say that the process ended. procfs has them as [`ProcError::NotFound`]
/// where it opens or reads a file itself.
fn problem(cause: ProcError) -> String {
    match cause {
        ProcError::NotFound(_) => ENDED.to_owned(),
        ProcError::PermissionDenied(_) => {
            "may not be read: it belongs to another user or tracing is restricted; try as root, or see gdb-leak doctor"
                .to_owned()
        }
        ProcError::Io(cause, _) if cause.raw_os_error() == Some(Errno::ESRCH as i32) => ENDED.to_owned(),
        ProcError::Io(cause, _) => reason(&cause),
        cause => cause.to_string(),
    }
}
