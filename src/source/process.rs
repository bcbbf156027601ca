//! Processes of this machine.
//!
//! `/proc/PID/mem` reads everything, but the kernel looks up each page anew and
//! copies it twice; `process_vm_readv` takes many pages at a time and copies
//! them once, but leaves out what the process itself may not read. So the
//! second is asked first, and the first where it stops: a gigabyte takes an
//! eighth less of the processor's time.
//!
//! The process may be running: what is read is what stands there at that
//! moment. Who needs more holds it first ([`crate::source::stop`], or gdb).

use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use procfs::process::{Process as Proc, Syscall};
use procfs::{ProcError, ProcResult};

use crate::error::{Error, reason};
use crate::memory::{Buffer, Gap, Memory, Missing, Region, View, gap_before_next_region};
use crate::pages;
use crate::range::AddressRange;
use crate::source::elf::Image;
use crate::source::file;
use crate::source::kinds::{self, Clues};
use crate::source::maps;
use crate::source::pagemap::{self, Touched};
use crate::source::{Origin, SourceKind, Target, Thread};
use crate::word::WordFormat;

const PAGE: u64 = 4096;

/// Bytes read at a time: 5 GB/s in such pieces, 1.8 in pages; smaller ones gain nothing.
const READ: u64 = 1 << 20;

/// Of the kernel's own threads, and of processes that ended but were not waited for.
pub(super) const NO_MEMORY: &str = "has no memory of its own: it ended or is a kernel thread";

/// Of a process that is not there any more.
const ENDED: &str = "ended";

/// Of a process without a program yet.
const STARTING: &str = "is about to start a program; try again";

/// Of a process whose memory was replaced by that of another program.
const EXECUTED: &str = "has started another program since it was opened: the memory that was read is gone";

/// The memory of a process.
#[derive(Debug)]
struct Process {
    pid: i32,
    memory: File,
    touched: Touched,
    /// Whether its number is the same process to the system's calls as it is in /proc.
    direct: bool,
    /// When it started, in ticks since the machine did: its number may be given away again.
    started: Option<u64>,
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
    /// A process that starts one program after another may never be seen whole.
    const TRIES: usize = 8;
    let mut last = None;
    for _ in 0..TRIES {
        // What was read of a program that gave way to another meanwhile is read again.
        let begun = begun(&folder(pid));
        match once(pid, usage) {
            Ok(_) if !begun => {
                last = Some(Error::Process { pid, problem: STARTING.to_owned() });
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(target) => match target.memory.recheck() {
                Ok(()) => return Ok(target),
                Err(error) => last = Some(error),
            },
            Err(error) if last.is_none() && !tells_no_memory(&error) => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::Process { pid, problem: ENDED.to_owned() }))
}

/// Whether the process has its program: the kernel gives it new memory first, maps the program
/// into that, and writes down last what the program needs to know (Linux, `fs/binfmt_elf.c`,
/// `load_elf_binary` and `create_elf_tables`). Before that only a stack is there.
fn begun(folder: &Path) -> bool {
    let mut first = [0; 8];
    let read = File::open(folder.join("auxv")).and_then(|mut auxv| auxv.read(&mut first));
    // Where it may not be read nothing is known, and it has begun as a rule.
    !read.is_ok_and(|read| read > 0 && first == [0; 8])
}

/// Whether the error may be that of a process which starts a program at this moment.
fn tells_no_memory(error: &Error) -> bool {
    matches!(error, Error::Process { problem, .. } if problem == NO_MEMORY)
}

fn once(pid: i32, usage: bool) -> Result<Target, Error> {
    let folder = folder(pid);
    let refuse = |cause: &io::Error| Error::Process { pid, problem: problem(cause) };
    let memory = File::open(folder.join("mem")).map_err(|cause| refuse(&cause))?;
    let text = list(&folder, usage).map_err(|cause| refuse(&cause))?;
    if text.is_empty() {
        return Err(Error::Process { pid, problem: NO_MEMORY.to_owned() });
    }
    let mut regions = maps::parse(&folder.join("maps"), &text)?.regions;
    let touched = Touched::open(&folder);
    pagemap::give_saved(&mut regions, &touched, || list(&folder, true).unwrap_or_default());
    let image = program(&folder);
    let format = image.as_ref().map_or(WordFormat::LITTLE_64, |image| image.format);
    let proc = Proc::new(pid).ok();
    let started = proc.as_ref().and_then(|proc| proc.stat().ok()).map(|stat| stat.starttime);
    let mut process = Process { pid, memory, touched, direct: false, started, format, regions };
    process.direct = process.same_in_calls();
    let threads = proc.as_ref().map(threads).unwrap_or_default();
    let clues = Clues { threads: &threads, ..Clues::default() };
    let findings = kinds::classify(&process, &clues);
    for (region, finding) in process.regions.iter_mut().zip(findings) {
        region.kind = finding.kind;
        // Observed: reading a reserve makes the kernel map pages of zeros there, which then
        // look like touched ones. Seen: gdb's gcore, Linux 6.18.
        if finding.inaccessible && region.permissions.none() {
            region.saved = 0;
        }
    }
    // Of a main thread that ended before the others nothing is told.
    let shown = Proc::new_with_root(folder.clone()).ok();
    let command = shown.as_ref().and_then(|proc| proc.cmdline().ok()).map(|words| words.join(" "));
    let name = || shown.as_ref().and_then(|proc| proc.exe().ok()).map(|path| path.display().to_string());
    let origin = Origin {
        architecture: image.as_ref().map(Image::architecture),
        program: command.filter(|command| !command.is_empty()).or_else(name),
        pid: Some(pid),
        threads,
        ..Origin::new(SourceKind::Process)
    };
    Ok(Target { memory: Arc::new(process), origin })
}

/// The folder in /proc where a process shows its memory: that of its main thread, as long as it has one.
pub(super) fn folder(pid: i32) -> PathBuf {
    let thread = living(pid).ok().and_then(|mut threads| threads.next()).filter(|thread| *thread != pid);
    let folder = thread.map_or_else(String::new, |thread| format!("/task/{thread}"));
    PathBuf::from(format!("/proc/{pid}{folder}"))
}

/// The threads of the process that have not ended; the main one is the first.
///
/// Folklore: a main thread that ended before the others stays listed as a zombie
/// until they end, without memory, and nobody can trace it. The memory is that of
/// any other thread. Seen: a main that calls `pthread_exit`.
///
/// # Errors
///
/// The system's, where there is no such process.
pub(super) fn living(pid: i32) -> ProcResult<impl Iterator<Item = i32>> {
    let tasks = Proc::new(pid)?.tasks()?;
    let alive =
        |task: &procfs::process::Task| task.stat().is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X' | 'x'));
    Ok(tasks.filter_map(Result::ok).filter(alive).map(|task| task.tid))
}

/// Who traces the process already; `None` where nobody does.
#[must_use]
pub fn tracer(pid: i32) -> Option<i32> {
    let status = Proc::new(pid).and_then(|process| process.status()).ok()?;
    Some(status.tracerpid).filter(|tracer| *tracer != 0)
}

/// The list of regions, with the usage of each where it may be had.
fn list(folder: &Path, usage: bool) -> io::Result<Vec<u8>> {
    let read = |name: &str| {
        let mut bytes = Vec::new();
        File::open(folder.join(name))?.read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
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
pub(super) fn program(folder: &Path) -> Option<Image> {
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
        Thread { id: task.tid, stack_pointer, ..Thread::default() }
    };
    tasks.map(thread).collect()
}

impl Process {
    /// Whether `process_vm_readv` and `/proc/PID/mem` show the same process.
    ///
    /// Folklore: in a container that shows another's /proc a process has another
    /// number there. The last page of its stack tells: at an address of its own it
    /// has random bytes of its own (`AT_RANDOM`), and nobody writes to it.
    fn same_in_calls(&self) -> bool {
        self.stacks().is_some_and(|(called, read)| called == read)
    }

    /// The last page of the stack, by `process_vm_readv` and by `/proc/PID/mem`.
    fn stacks(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        const SIZE: usize = 4096;
        let stack = self.regions.iter().rev().find(|region| region.name == "[stack]")?;
        let at = stack.range.end().saturating_sub(PAGE);
        let (mut called, mut read) = (vec![0; SIZE], vec![0; SIZE]);
        let both = (self.call(&mut called, at)?, file::read_at(&self.memory, &mut read, at).ok()?);
        (both == (called.len(), read.len())).then_some((called, read))
    }

    /// Whether the memory that was opened is still there, and that of the process.
    ///
    /// Observed: an open `/proc/PID/mem` stays with the memory that the process had when it
    /// was opened, and reads as an empty file once no process uses that; it never shows the
    /// memory of the next program, nor of the next process with this number. Seen: Linux
    /// 6.18, fs/proc/base.c, `mem_rw`: no user of the memory, no byte. Where a child shares
    /// the memory (`vfork`) it may outlive the program; then `process_vm_readv`, which goes
    /// by the number, shows another one.
    fn present(&self) -> bool {
        // A running program may write to the page that both read.
        const TRIES: usize = 16;
        let first = self.regions.first().map_or(0, |region| region.range.start());
        let gone = matches!(file::read_at(&self.memory, &mut [0], first), Ok(0));
        let same = || self.same_as_now() && (!self.direct || self.same_in_calls());
        !gone && (0..TRIES).any(|_| same())
    }

    /// Whether `/proc/PID/mem`, opened now, shows the stack that the memory opened before shows.
    ///
    /// Seen: a child that shares the memory kept it open to readers while the list of regions
    /// was that of the next program already. True where there is no stack, or it may not be opened.
    fn same_as_now(&self) -> bool {
        const SIZE: usize = 4096;
        let Some(stack) = self.regions.iter().rev().find(|region| region.name == "[stack]") else {
            return true;
        };
        let Ok(now) = File::open(folder(self.pid).join("mem")) else { return true };
        let at = stack.range.end().saturating_sub(PAGE);
        let (mut one, mut other) = (vec![0; SIZE], vec![0; SIZE]);
        let read = (file::read_at(&self.memory, &mut one, at), file::read_at(&now, &mut other, at));
        matches!(read, (Ok(SIZE), Ok(SIZE))) && one == other
    }

    /// How many bytes `process_vm_readv` put into `space`; none where it cannot.
    fn call(&self, space: &mut [u8], at: u64) -> Option<usize> {
        let remote = [RemoteIoVec { base: usize::try_from(at).ok()?, len: space.len() }];
        let read = process_vm_readv(Pid::from_raw(self.pid), &mut [IoSliceMut::new(space)], &remote);
        read.ok().filter(|read| *read > 0)
    }

    /// Reads up to as many bytes as `space` has.
    ///
    /// A single page comes sooner from the file: the call asks each time whether it may.
    fn read(&self, space: &mut [u8], at: u64) -> io::Result<usize> {
        let many = space.len() as u64 > PAGE;
        match (self.direct && many).then(|| self.call(space, at)).flatten() {
            Some(read) => Ok(read),
            None => file::read_at(&self.memory, space, at),
        }
    }
}

impl Memory for Process {
    fn word_format(&self) -> WordFormat {
        self.format
    }

    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn view<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
        let at = range.start();
        let Some(region) = self.region_at(at) else {
            return View { bytes: &[], gap: Some(gap_before_next_region(&self.regions, at)) };
        };
        let length = range.end().min(region.range.end()).saturating_sub(at).min(READ);
        let space = buffer.space(usize::try_from(length).unwrap_or_default());
        if self.touched.none(AddressRange::saturating(at, length), region) {
            space.fill(0);
            return View { bytes: space, gap: None };
        }
        let page_end = at.checked_next_multiple_of(PAGE).filter(|end| *end > at);
        let page_end = page_end.unwrap_or_else(|| at.saturating_add(PAGE));
        let gap = |missing| {
            let page = AddressRange::saturating(at, page_end.min(region.range.end()).saturating_sub(at));
            Some(Gap { range: page, missing })
        };
        match self.read(space, at) {
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

    fn untouched(&self, range: AddressRange) -> bool {
        let region = self.region_at(range.start()).filter(|region| region.range.covers(range));
        region.is_some_and(|region| self.touched.none(range, region))
    }

    fn resident(&self, ranges: &[AddressRange]) -> Option<u64> {
        let blank = |page: u64| {
            let mut bytes = [0; 4096];
            matches!(file::read_at(&self.memory, &mut bytes, page), Ok(read) if read == bytes.len())
                && pages::blank(&bytes)
        };
        self.touched.resident(ranges, blank)
    }

    fn resident_regions(&self) -> Option<Vec<u64>> {
        let folder = folder(self.pid);
        let text = list(&folder, true).ok()?;
        let listed = maps::parse(&folder.join("smaps"), &text).ok()?.regions;
        // Without smaps the list has no such number.
        if listed.iter().all(|region| region.rss.is_none()) {
            return None;
        }
        let of = |region: &Region| {
            let first = listed.partition_point(|other| other.range.end() <= region.range.start());
            let own = listed.get(first..).unwrap_or_default().iter();
            let own = own.take_while(|other| other.range.start() < region.range.end());
            let sum = own.filter_map(|other| other.rss).fold(0, u64::saturating_add);
            sum.min(region.range.len())
        };
        Some(self.regions.iter().map(of).collect())
    }

    fn lends(&self) -> bool {
        false
    }

    fn recheck(&self) -> Result<(), Error> {
        let pid = self.pid;
        let ended = || Error::Process { pid, problem: ENDED.to_owned() };
        // First: what is found below may be of a process that has this number since.
        let present = self.present();
        let started = Proc::new(pid).and_then(|process| process.stat()).map(|stat| stat.starttime).ok();
        if started != self.started {
            return Err(ended());
        }
        match living(pid) {
            Ok(mut threads) => threads.next().map(|_| ()).ok_or_else(ended)?,
            Err(ProcError::NotFound(_)) => return Err(ended()),
            Err(cause) => return Err(Error::Process { pid, problem: cause.to_string() }),
        }
        if present { Ok(()) } else { Err(Error::Process { pid, problem: EXECUTED.to_owned() }) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// Where its bytes are and where its gaps, by pieces.
    fn all(process: &Process) -> Vec<(Vec<u8>, Option<Gap>)> {
        let whole = |region: &Region| {
            let (mut bytes, mut gap) = (Vec::new(), None);
            if region.kind != crate::memory::RegionKind::Special {
                gap = process.append(region.range, &mut bytes);
            }
            (bytes, gap)
        };
        process.regions.iter().map(whole).collect()
    }

    #[test]
    fn both_ways_to_read_a_process_give_the_same() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // Once it has answered it waits for more, and changes nothing.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let mut process = read_only(pid);
        assert!(process.direct);
        let called = all(&process);
        process.direct = false;
        assert_eq!(called, all(&process));
        assert!(called.iter().any(|(bytes, _)| !bytes.is_empty()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    fn read_only(pid: i32) -> Process {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let text = list(&folder, false).unwrap();
        let mut process = Process {
            pid,
            memory: File::open(folder.join("mem")).unwrap(),
            touched: Touched::open(&folder),
            direct: false,
            started: None,
            format: WordFormat::LITTLE_64,
            regions: maps::parse(&folder, &text).unwrap().regions,
        };
        process.direct = process.same_in_calls();
        process
    }
}
