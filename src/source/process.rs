//! Processes of this machine.
//!
//! `/proc/PID/mem` reads everything, but the kernel looks up each page anew and
//! copies it twice; `process_vm_readv` takes many pages at a time and copies
//! them once, but leaves out what the process itself may not read. So the
//! second is asked first, and the first where it stops: a gigabyte takes an
//! eighth less of the processor's time.
//!
//! Only pages that the process has are read so. For others the kernel would have to make them,
//! which changes the process and may take for ever: [`crate::source::behind`] knows what is there.
//!
//! The process may be running: what is read is what is there at that moment. A caller that needs more
//! holds it first ([`crate::source::stop`], or gdb).

use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::error::Error;
use crate::memory::{Buffer, Gap, Memory, Missing, Region, Unread, View, gap_before_next_region};
use crate::pages;
use crate::pass;
use crate::range::AddressRange;
use crate::source::behind::{Backing, Behind, Lacking, Missed};
use crate::source::elf::{self, Image};
use crate::source::file;
use crate::source::kinds::{self, Clues};
use crate::source::maps;
use crate::source::mounts::Mounts;
use crate::source::pagemap::{self, Stretch, Touched};
use crate::source::proc::Folder;
use crate::source::{Origin, SourceKind, Target};
use crate::word::WordFormat;

const PAGE: u64 = PAGE_BYTES as u64;
const PAGE_BYTES: usize = 4096;

/// Bytes read at a time: 5 GB/s in such pieces, 1.8 in pages; smaller ones gain nothing.
const READ: u64 = 1 << 20;
/// From which size on a region may have enough memory that was never touched to ask for it first.
const LONG: u64 = 64 << 20;

/// Of a process without a program yet.
const STARTING: &str = "is about to start a program; try again";

/// Of a process whose memory was replaced by that of another program.
const EXECUTED: &str = "has started another program since it was opened: the memory that was read is gone";

/// The memory of a process.
#[derive(Debug)]
struct Process {
    folder: Arc<Folder>,
    memory: File,
    touched: Touched,
    /// What is where the process has no page.
    backing: Backing,
    /// The ranges whose missing pages `userfaultfd` serves, in order.
    served: OnceLock<Vec<AddressRange>>,
    /// What was asked for and not read.
    missed: Missed,
    /// Whether its number is the same process to the system's calls as it is in /proc.
    direct: bool,
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
/// [`Error::Process`] when there is none, it ended meanwhile, or it may not be read.
pub fn open(pid: i32, usage: bool) -> Result<Target, Error> {
    /// A process that starts one program after another may never be seen whole.
    const TRIES: usize = 8;
    let folder = Arc::new(Folder::open(pid)?);
    let mut last = folder.ended();
    for _ in 0..TRIES {
        // What was read of a program that gave way to another meanwhile is read again.
        let begun = begun(&folder);
        last = match once(&folder, usage)? {
            None => folder.ended(),
            Some(_) if !begun => {
                std::thread::sleep(Duration::from_millis(1));
                folder.refuse(STARTING)
            }
            Some(target) => match target.memory.recheck() {
                Ok(()) => return Ok(target),
                Err(error) => error,
            },
        };
    }
    Err(last)
}

/// Whether the process has its program: the kernel gives it new memory first, maps the program
/// into that, and writes down last what the program needs to know (Linux, `fs/binfmt_elf.c`,
/// `load_elf_binary` and `create_elf_tables`). Before that only a stack is there.
fn begun(folder: &Folder) -> bool {
    let mut first = [0; 8];
    let read = folder.file("auxv").ok().and_then(|mut auxv| auxv.read(&mut first).ok());
    // Where it may not be read nothing is known, and it has begun as a rule.
    !read.is_some_and(|read| read > 0 && first == [0; 8])
}

/// The process as it is now; `None` where it has no memory at this moment, because it is ending.
fn once(folder: &Arc<Folder>, usage: bool) -> Result<Option<Target>, Error> {
    let pid = folder.pid();
    let memory = folder.file("mem")?;
    let text = list(folder, usage)?;
    if text.is_empty() {
        return Ok(None);
    }
    let mut regions = maps::parse(&listing(folder), &text)?.regions;
    let touched = Touched::open(folder.file("pagemap").ok());
    pagemap::give_saved(&mut regions, &touched, || list(folder, true).unwrap_or_default());
    let mappings = maps::mappings(&text);
    let backing = Backing::new(&regions, &mappings, &folder.named(), &Mounts::of(Some(pid)));
    let folder = Arc::clone(folder);
    let (format, served) = (WordFormat::LITTLE_64, OnceLock::new());
    let missed = Missed::default();
    let mut process =
        Process { folder, memory, touched, backing, served, missed, direct: false, format, regions };
    if usage {
        let _ = process.served.set(maps::served(&text));
    }
    let image = process.folder.program().or_else(|| process.program_in_memory());
    process.format = image.as_ref().map_or(process.format, |image| image.format);
    process.direct = process.same_in_calls();
    let threads = process.folder.threads();
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
    let origin = Origin {
        architecture: image.as_ref().map(Image::architecture),
        program: process.folder.command(),
        pid: Some(pid),
        threads,
        ..Origin::new(SourceKind::Process)
    };
    Ok(Some(Target { memory: Arc::new(process), origin }))
}

/// The list of regions, with the usage of each where it may be had; empty of a process that ends.
fn list(folder: &Folder, usage: bool) -> Result<Vec<u8>, Error> {
    let detailed = if usage { folder.read("smaps").ok().filter(|text| !text.is_empty()) } else { None };
    detailed.map_or_else(|| folder.read("maps"), Ok)
}

/// What errors call the list.
fn listing(folder: &Folder) -> PathBuf {
    PathBuf::from(format!("/proc/{}/maps", folder.pid()))
}

impl Process {
    /// Whether `process_vm_readv` and `/proc/PID/mem` show the same process.
    ///
    /// Not in a container that shows another's /proc, where a process has another number. The last page
    /// of its stack decides: it has random bytes of the process (`AT_RANDOM`) at a random address.
    fn same_in_calls(&self) -> bool {
        self.stacks().is_some_and(|(called, read)| called == read)
    }

    /// Where the last page of the stack starts.
    fn last_page(&self) -> Option<u64> {
        let stack = self.regions.iter().rev().find(|region| region.name == "[stack]")?;
        Some(stack.range.end().saturating_sub(PAGE))
    }

    /// The last page of the stack, by `process_vm_readv` and by `/proc/PID/mem`.
    fn stacks(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let at = self.last_page()?;
        let (mut called, mut read) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
        // First the one that never waits: afterwards the page is there.
        let whole = file::read_at(&self.memory, &mut read, at).ok()? == read.len();
        (whole && self.call(&mut called, at)? == called.len()).then_some((called, read))
    }

    /// Whether the memory that was opened is still there, and that of the process.
    ///
    /// Observed: an open `/proc/PID/mem` stays with the memory that the process had when it
    /// was opened, and reads as an empty file once no process uses that; it never shows the
    /// memory of the next program, nor of the next process with this number (Linux 6.18,
    /// fs/proc/base.c, `mem_rw`). Where a child shares the memory (`vfork`) it may outlive the
    /// program; then `process_vm_readv`, which goes by the number, shows another one.
    fn present(&self) -> bool {
        // A running program may write to the page that both read.
        const TRIES: usize = 16;
        // A page that is there, or none: reading one of a file may wait for its file system.
        let place = self.last_page().unwrap_or(0);
        let gone = matches!(file::read_at(&self.memory, &mut [0], place), Ok(0));
        let same = || self.same_as_now() && (!self.direct || self.same_in_calls());
        !gone && (0..TRIES).any(|_| same())
    }

    /// Whether `/proc/PID/mem`, opened now, shows the same stack, or there is none, or it may not be opened.
    ///
    /// Seen: a child that shares the memory kept it open to readers while the list of regions
    /// was that of the next program already.
    fn same_as_now(&self) -> bool {
        let Some(at) = self.last_page() else { return true };
        let Ok(now) = self.folder.file("mem") else { return true };
        let (mut one, mut other) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
        let read = (file::read_at(&self.memory, &mut one, at), file::read_at(&now, &mut other, at));
        matches!(read, (Ok(PAGE_BYTES), Ok(PAGE_BYTES))) && one == other
    }

    /// How many bytes `process_vm_readv` put into `space`; none where it cannot.
    fn call(&self, space: &mut [u8], at: u64) -> Option<usize> {
        let remote = [RemoteIoVec { base: usize::try_from(at).ok()?, len: space.len() }];
        let read = process_vm_readv(Pid::from_raw(self.folder.pid()), &mut [IoSliceMut::new(space)], &remote);
        read.ok().filter(|read| *read > 0)
    }

    /// Reads up to as many bytes as `space` has, of pages that are there.
    ///
    /// A single page comes sooner from the file, which also never waits for the process that serves a
    /// page: it may have been taken away by now.
    fn read(&self, space: &mut [u8], at: u64) -> io::Result<usize> {
        let many = space.len() as u64 > PAGE;
        let served = || self.served.get().is_some_and(|served| AddressRange::any_contains(served, at));
        let direct = self.direct && many && !served();
        let called = direct.then(|| self.call(space, at)).flatten();
        called.map_or_else(|| file::read_at(&self.memory, space, at), Ok)
    }

    /// The headers of the program as they are in memory, where its file does not answer.
    fn program_in_memory(&self) -> Option<Image> {
        let link = self.folder.program_path()?;
        let first =
            self.regions.iter().find(|region| region.file_offset == 0 && region.name.path() == link)?;
        elf::image_at(self, first.range.start())
    }

    /// Whether `userfaultfd` serves the pages at `at` that are missing.
    fn served(&self, at: u64) -> bool {
        let read = || {
            // A kernel without it has no such setting.
            let known = std::path::Path::new("/proc/sys/vm/unprivileged_userfaultfd").exists();
            if known { maps::served(&self.folder.read("smaps").unwrap_or_default()) } else { Vec::new() }
        };
        AddressRange::any_contains(self.served.get_or_init(read), at)
    }

    /// The number of the region that holds `at`.
    fn number_at(&self, at: u64) -> Option<usize> {
        let number = self.regions.partition_point(|region| region.range.start() <= at).checked_sub(1)?;
        self.regions.get(number).filter(|region| region.range.contains(at)).map(|_| number)
    }

    /// Fills the start of `space` with the bytes at `at` of the region with that number.
    ///
    /// # Errors
    ///
    /// What is missing at `at`, and up to where.
    fn fill(
        &self,
        space: &mut [u8],
        at: u64,
        number: usize,
        region: &Region,
    ) -> Result<usize, (u64, Missing)> {
        let range = AddressRange::saturating(at, space.len() as u64);
        let behind = self.backing.of(number);
        let unknown = [Stretch { end: range.end(), touched: true }];
        let stretches = self.touched.stretches(range);
        if let (None, Some(system)) = (&stretches, self.backing.slow(behind)) {
            return Err((range.end(), self.missing(number, &Lacking::unknown(system))));
        }
        let mut filled = 0_usize;
        for stretch in stretches.as_deref().unwrap_or(&unknown) {
            let here = at.saturating_add(filled as u64);
            let length = usize::try_from(stretch.end.saturating_sub(here)).unwrap_or_default();
            let Some(part) = space.get_mut(filled..filled.saturating_add(length)) else { break };
            let read = if stretch.touched {
                self.in_memory(part, here, behind)
            } else {
                self.absent(part, here, behind, region)
            };
            match read {
                Ok(read) => {
                    filled = filled.saturating_add(read);
                    if read < length {
                        break;
                    }
                }
                Err(_) if filled > 0 => break,
                // Observed: [vvar], device memory and pages past the end of a file give EIO
                // one page at a time. Seen: Linux 6.18, every process's [vvar].
                Err(lacking @ Lacking::Failed(_)) if stretch.touched => {
                    let page_end = at.saturating_add(1).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
                    return Err((page_end.min(stretch.end), lacking.missing()));
                }
                Err(lacking) => return Err((stretch.end, self.missing(number, &lacking))),
            }
        }
        Ok(filled)
    }

    /// Keeps why bytes of the region with that number are missing, unless nothing was waited for.
    fn missing(&self, number: usize, lacking: &Lacking) -> Missing {
        if !pass::stopping() {
            self.missed.add(number, lacking);
        }
        lacking.missing()
    }

    /// Fills `part` from pages that were in memory a moment ago.
    fn in_memory(&self, part: &mut [u8], at: u64, behind: Behind) -> Result<usize, Lacking> {
        let aside = self.backing.read_mapped(behind, &self.memory, part, at);
        aside.unwrap_or_else(|| self.read(part, at).map_err(Lacking::Failed))
    }

    /// Fills `part` with what the process would read in pages that it does not have.
    fn absent(&self, part: &mut [u8], at: u64, behind: Behind, region: &Region) -> Result<usize, Lacking> {
        if self.served(at) {
            return Err(Lacking::served());
        }
        let offset = region.file_offset.saturating_add(at.saturating_sub(region.range.start()));
        let read = match behind {
            Behind::Zeros => {
                part.fill(0);
                Some(Ok(part.len()))
            }
            Behind::File(file) => self.backing.read(file, part, offset),
            Behind::Process => None,
        };
        read.unwrap_or_else(|| file::read_at(&self.memory, part, at).map_err(Lacking::Failed))
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
        let number = self.number_at(at);
        let Some((number, region)) = number.and_then(|number| Some((number, self.regions.get(number)?)))
        else {
            return View { bytes: &[], gap: Some(gap_before_next_region(&self.regions, at)) };
        };
        let length = range.end().min(region.range.end()).saturating_sub(at).min(READ);
        let space = buffer.space(usize::try_from(length).unwrap_or_default());
        let gap = |end: u64, missing| {
            let range = AddressRange::saturating(at, end.min(region.range.end()).saturating_sub(at));
            View { bytes: &[], gap: Some(Gap { range, missing }) }
        };
        match self.fill(space, at, number, region) {
            // Observed: the memory of a process that ended reads as an empty file.
            Ok(0) => gap(region.range.end(), Missing::Unreadable("the process ended".to_owned())),
            Ok(read) => View { bytes: space.get(..read).unwrap_or_default(), gap: None },
            Err((end, missing)) => gap(end, missing),
        }
    }

    fn untouched(&self, range: AddressRange) -> bool {
        let Some(number) = self.number_at(range.start()) else { return false };
        let whole = self.regions.get(number).is_some_and(|region| region.range.covers(range));
        let zeros = whole && self.backing.of(number) == Behind::Zeros;
        zeros && self.touched.none(range) && !self.served(range.start())
    }

    fn zeros(&self, range: AddressRange) -> u64 {
        let Some(number) = self.number_at(range.start()) else { return 0 };
        let region = self.regions.get(number).map(|region| region.range);
        let Some(range) = region.and_then(|region| region.intersection(range)) else { return 0 };
        if self.backing.of(number) != Behind::Zeros || self.served(range.start()) {
            return 0;
        }
        self.touched.none_from(range)
    }

    fn blank(&self, range: AddressRange) -> u64 {
        let Some(region) = self.number_at(range.start()).and_then(|number| self.regions.get(number)) else {
            return gap_before_next_region(&self.regions, range.start()).range.len().min(range.len());
        };
        // Asking costs as much as a tenth of reading a chunk: where there is much it is worth that.
        if region.range.len() < LONG { 0 } else { self.zeros(range) }
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
        let text = list(&self.folder, true).ok()?;
        let listed = maps::parse(&listing(&self.folder), &text).ok()?.regions;
        maps::resident_of(&self.regions, &listed)
    }

    fn lends(&self) -> bool {
        false
    }

    fn may_stall(&self) -> bool {
        self.backing.any_slow()
    }

    fn unread(&self) -> Vec<Unread> {
        self.missed.all(&self.regions)
    }

    fn recheck(&self) -> Result<(), Error> {
        // First: the process may end at any moment, also after it was seen living.
        let present = self.present();
        if self.folder.living()?.next().is_none() {
            return Err(self.folder.ended());
        }
        if present {
            return Ok(());
        }
        // A process gives up its memory a while before it counts as ended. Seen: Linux 6.18, with
        // much memory, in state R.
        match self.folder.read("maps")?.as_slice() {
            [] => Err(self.folder.ended()),
            _ => Err(self.folder.refuse(EXECUTED)),
        }
    }
}

#[cfg(test)]
mod tests {
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
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // Once it sleeps, in `read`, it changes nothing.
        let sleeps = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(" S ");
        assert!((0..1_000_000).any(|_| sleeps()));
        let mut process = read_only(pid);
        assert!(process.direct);
        let called = all(&process);
        process.direct = false;
        let differs = called.iter().zip(all(&process)).position(|(one, other)| *one != other);
        assert_eq!(differs.and_then(|at| process.regions.get(at)), None);
        assert!(called.iter().any(|(bytes, _)| !bytes.is_empty()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    fn read_only(pid: i32) -> Process {
        let folder = Arc::new(Folder::open(pid).unwrap());
        let text = list(&folder, false).unwrap();
        let regions = maps::parse(&listing(&folder), &text).unwrap().regions;
        let mut process = Process {
            memory: folder.file("mem").unwrap(),
            touched: Touched::open(folder.file("pagemap").ok()),
            backing: Backing::new(&regions, &maps::mappings(&text), &folder.named(), &Mounts::of(None)),
            served: OnceLock::new(),
            missed: Missed::default(),
            direct: false,
            format: WordFormat::LITTLE_64,
            regions,
            folder,
        };
        process.direct = process.same_in_calls();
        process
    }
}
