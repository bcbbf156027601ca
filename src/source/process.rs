//! Processes of this machine, read through `/proc/PID/mem`.
//!
//! The process may be running: what is read is what stands there at that
//! moment. Who needs more holds it first ([`crate::source::stop`], or gdb).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use procfs::ProcError;
use procfs::process::{Process as Proc, Syscall};

use crate::error::{Error, reason};
use crate::memory::{Buffer, Gap, Memory, Missing, Region, View, gap_before_next_region};
use crate::range::AddressRange;
use crate::source::elf::Image;
use crate::source::file;
use crate::source::kinds::{self, Clues};
use crate::source::maps;
use crate::source::{Origin, SourceKind, Target, Thread};
use crate::word::WordFormat;

/// Bytes read at a time: `/proc/PID/mem` gives 5.5 GB/s in such pieces, 1.8 in pages.
const READ: u64 = 1 << 20;

/// Of the kernel's own threads, and of processes that ended but were not waited for.
const NO_MEMORY: &str = "has no memory of its own: it ended or is a kernel thread";

/// The memory of a process.
#[derive(Debug)]
struct Process {
    pid: i32,
    memory: File,
    format: WordFormat,
    regions: Vec<Region>,
}

/// The process with this number.
///
/// `usage` asks for resident and dirty bytes too, for which the system goes
/// over every page of the process.
///
/// # Errors
///
/// [`Error::Process`] when there is none or it may not be read.
pub fn open(pid: i32, usage: bool) -> Result<Target, Error> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let refuse = |cause: &io::Error| Error::Process { pid, problem: problem(cause) };
    let memory = File::open(folder.join("mem")).map_err(|cause| refuse(&cause))?;
    let text = list(&folder, usage).map_err(|cause| refuse(&cause))?;
    if text.is_empty() {
        return Err(Error::Process { pid, problem: NO_MEMORY.to_owned() });
    }
    let mut regions = maps::parse(&folder.join("maps"), &text)?.regions;
    for region in &mut regions {
        region.saved = region.range.len();
    }
    let image = program(&folder);
    let format = image.as_ref().map_or(WordFormat::LITTLE_64, |image| image.format);
    let mut process = Process { pid, memory, format, regions };
    let proc = Proc::new(pid).ok();
    let threads = proc.as_ref().map(threads).unwrap_or_default();
    let clues = Clues { threads: &threads, ..Clues::default() };
    let findings = kinds::classify(&process, &clues);
    for (region, finding) in process.regions.iter_mut().zip(findings) {
        region.kind = finding.kind;
    }
    let command = proc.as_ref().and_then(|proc| proc.cmdline().ok()).map(|words| words.join(" "));
    let name = || proc.as_ref().and_then(|proc| proc.exe().ok()).map(|path| path.display().to_string());
    let origin = Origin {
        architecture: image.as_ref().map(Image::architecture),
        program: command.filter(|command| !command.is_empty()).or_else(name),
        pid: Some(pid),
        threads,
        ..Origin::new(SourceKind::Process)
    };
    Ok(Target { memory: Arc::new(process), origin })
}

/// Who traces the process already; `None` where nobody does.
#[must_use]
pub fn tracer(pid: i32) -> Option<i32> {
    let status = Proc::new(pid).and_then(|process| process.status()).ok()?;
    Some(status.tracerpid).filter(|tracer| *tracer != 0)
}

/// The list of regions, with the usage of each where it may be had.
fn list(folder: &Path, usage: bool) -> io::Result<String> {
    let read = |name: &str| {
        let mut bytes = Vec::new();
        File::open(folder.join(name))?.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let detailed = if usage { read("smaps").ok().filter(|text| !text.is_empty()) } else { None };
    detailed.map_or_else(|| read("maps"), Ok)
}

/// What a person can do about a process that cannot be opened.
fn problem(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "may not be read: it belongs to somebody else or tracing is restricted; try as root, or see gdb-leak doctor"
                .to_owned()
        }
        // Folklore: a kernel thread's memory is there to look at and not to open.
        // Seen: Linux 6.18, ESRCH for kthreadd.
        _ if cause.raw_os_error() == Some(Errno::ESRCH as i32) => NO_MEMORY.to_owned(),
        _ => reason(cause),
    }
}

/// The headers of the program that the process runs.
fn program(folder: &Path) -> Option<Image> {
    const HEADERS: u64 = 4096;
    let mut headers = Vec::new();
    File::open(folder.join("exe")).ok()?.take(HEADERS).read_to_end(&mut headers).ok()?;
    Image::parse(headers.as_slice()).ok()
}

/// The threads, with the stack pointers of those that are not running.
fn threads(process: &Proc) -> Vec<Thread> {
    let Ok(tasks) = process.tasks() else { return Vec::new() };
    let tasks = tasks.filter_map(Result::ok);
    let thread = |task: procfs::process::Task| {
        let stack_pointer = match task.syscall() {
            Ok(Syscall::Blocked { stack_pointer, .. }) => Some(stack_pointer),
            _ => None,
        };
        Thread { id: task.tid, stack_pointer, thread_pointer: None }
    };
    tasks.map(thread).collect()
}

impl Memory for Process {
    fn word_format(&self) -> WordFormat {
        self.format
    }

    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn view<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
        const PAGE: u64 = 4096;
        let at = range.start();
        let Some(region) = self.region_at(at) else {
            return View { bytes: &[], gap: Some(gap_before_next_region(&self.regions, at)) };
        };
        let length = range.end().min(region.range.end()).saturating_sub(at).min(READ);
        let space = buffer.space(usize::try_from(length).unwrap_or_default());
        let page_end = at.checked_next_multiple_of(PAGE).filter(|end| *end > at);
        let page_end = page_end.unwrap_or_else(|| at.saturating_add(PAGE));
        let gap = |missing| {
            let page = AddressRange::saturating(at, page_end.min(region.range.end()).saturating_sub(at));
            Some(Gap { range: page, missing })
        };
        match file::read_at(&self.memory, space, at) {
            // Folklore: the memory of a process that ended reads as an empty file.
            Ok(0) => {
                let missing = Missing::Unreadable("the process ended".to_owned());
                let range = AddressRange::saturating(at, region.range.end().saturating_sub(at));
                View { bytes: &[], gap: Some(Gap { range, missing }) }
            }
            Ok(read) => View { bytes: space.get(..read).unwrap_or_default(), gap: None },
            // Folklore: [vvar], device memory and pages past the end of a file give EIO
            // one page at a time. Seen: Linux 6.18, every process's [vvar].
            Err(cause) => View { bytes: &[], gap: gap(Missing::Unreadable(reason(&cause))) },
        }
    }

    fn recheck(&self) -> Result<(), Error> {
        let pid = self.pid;
        match Proc::new(pid).and_then(|process| process.stat()) {
            Ok(stat) if stat.state != 'Z' && stat.state != 'X' => Ok(()),
            Ok(_) | Err(ProcError::NotFound(_)) => Err(Error::Process { pid, problem: "ended".to_owned() }),
            Err(cause) => Err(Error::Process { pid, problem: cause.to_string() }),
        }
    }
}
