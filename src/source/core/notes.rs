//! What the notes of a core say: threads, mapped files, the auxiliary vector, the program.

use std::collections::BTreeSet;

use object::elf;

use crate::name::Name;
use crate::pages::PAGE;
use crate::range::AddressRange;
use crate::source::Thread;
use crate::source::elf::{Image, Note};
use crate::source::registers::{Layout, fpsimd};
use crate::source::xsave::{Places, fsave, fxsave, xsave};
use crate::text::lossless;
use crate::word::WordFormat;

use super::merge::LARGEST;

// Entries of the auxiliary vector (Linux, include/uapi/linux/auxvec.h).
/// Where the program starts.
pub(super) const AT_ENTRY: u64 = 9;
/// Address of the path that was passed to `execve`.
pub(super) const AT_EXECFN: u64 = 31;
/// Where sixteen random bytes lie, on the main stack.
pub(super) const AT_RANDOM: u64 = 25;
/// Where the vdso starts.
pub(super) const AT_SYSINFO_EHDR: u64 = 33;

/// The longest path (Linux, `PATH_MAX`).
pub(super) const LONGEST_NAME: usize = 4096;

/// The type of the note on XSAVE areas (Linux, include/uapi/linux/elf.h).
const NT_X86_XSAVE_LAYOUT: u32 = 0x205;

/// A mapping of a file, as `NT_FILE` lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileMapping {
    pub range: AddressRange,
    pub offset: u64,
    pub path: Name,
}

/// Everything that is read from a core's notes.
#[derive(Default, Debug)]
pub(super) struct Notes {
    pub threads: Vec<Thread>,
    pub files: Vec<FileMapping>,
    /// Pairs of `AT_` number and value.
    pub auxiliary: Vec<(u64, u64)>,
    /// The words that started the program, as they are in the core.
    pub program: Option<Vec<u8>>,
    pub pid: Option<i32>,
    /// Whether gdb left a note of its own, as gcore does.
    pub by_gdb: bool,
    /// What the kernel says of the areas of XSAVE.
    places: Option<Places>,
    /// What notes there are that no core of a process has.
    pub machine: BTreeSet<Machine>,
    /// Notes that break a rule: the note, its place in the core, a value, the rule.
    pub faults: Faults,
}

/// What is wrong with the notes of a core: the first faults, and how many there are.
#[derive(Default, Debug)]
pub(super) struct Faults {
    named: Vec<String>,
    count: u64,
}

impl Faults {
    /// The most broken notes that are named.
    const MOST: usize = 8;

    /// Returns a sentence for each fault that is named, and one that counts the others.
    pub(super) fn said(&self) -> Vec<String> {
        let more = self.count.saturating_sub(self.named.len() as u64);
        let rest = (more > 0).then(|| {
            let notes =
                if more == 1 { "note of the core breaks a rule" } else { "notes of the core break a rule" };
            format!("{more} more {notes}")
        });
        self.named.iter().cloned().chain(rest).collect()
    }
}

/// What a core is of, where it is of a whole machine; the surest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Machine {
    /// QEMU's `dump-guest-memory` (`target/i386/arch_dump.c`).
    Qemu,
    /// `VirtualBox`'s `dumpvmcore` (include/VBox/vmm/dbgfcorefmt.h).
    VirtualBox,
    /// Xen's `dump-core` and its crash dumps (Xen, docs/misc/dump-core-format.txt).
    Xen,
    /// Linux's /proc/vmcore and /proc/kcore (Linux, `include/linux/crash_core.h`).
    Kernel,
}

impl Machine {
    fn of(owner: &[u8]) -> Option<Self> {
        Some(match owner {
            b"QEMU" => Self::Qemu,
            b"VBCORE" | b"VBCPU" => Self::VirtualBox,
            b"Xen" | b".note.Xen" => Self::Xen,
            b"VMCOREINFO" | b"VMCOREINFO_XEN" => Self::Kernel,
            _ => return None,
        })
    }
}

impl Notes {
    /// Takes in what has to be known before the threads' own notes, but stands after them.
    pub(super) fn take_layout(&mut self, note: &Note<'_>, image: &Image) {
        if (note.owner, note.kind) == (b"LINUX", NT_X86_XSAVE_LAYOUT) {
            self.places = Some(Places::listed(note.bytes, image.format.order));
        }
    }

    /// Reads one note at file offset `place`; ignores unknown ones.
    pub(super) fn take(&mut self, note: &Note<'_>, place: u64, image: &Image) {
        let format = image.format;
        self.machine.extend(Machine::of(note.owner));
        match (note.owner, elf::NoteType(note.kind)) {
            (b"CORE", elf::NT_PRSTATUS) => match thread(note.bytes, image) {
                Some(thread) => self.threads.push(thread),
                None => self.fault(format!(
                    "NT_PRSTATUS at {place:#x} of the core: {} bytes are too few for a thread; it is left out",
                    note.bytes.len()
                )),
            },
            (b"CORE", elf::NT_FILE) => match files(note.bytes, format) {
                Ok((files, fault)) => {
                    self.files = files;
                    if let Some(fault) = fault {
                        self.fault(format!("NT_FILE at {place:#x} of the core: {fault}"));
                    }
                }
                Err(fault) => {
                    self.fault(format!("NT_FILE at {place:#x} of the core: {fault}; it is left out"));
                }
            },
            (b"CORE", elf::NT_AUXV) => self.auxiliary = auxiliary(note.bytes, format),
            (b"CORE", elf::NT_PRPSINFO) => self.process(note.bytes, format),
            // The thread pointer of aarch64 is no general register.
            (b"LINUX", elf::NT_ARM_TLS) => {
                if let Some(last) = self.threads.last_mut() {
                    last.thread_pointer = format.read(note.bytes);
                }
            }
            (b"GDB", _) => self.by_gdb = true,
            (_, kind) => self.vectors(kind, note, image),
        }
    }

    /// Takes vector registers in: they are those of the thread whose note came last.
    fn vectors(&mut self, kind: elf::NoteType, note: &Note<'_>, image: &Image) {
        let (bytes, format) = (note.bytes, image.format);
        let count = x86_vectors(image);
        let found = match (elf::Machine(image.machine), note.owner, kind) {
            (elf::EM_X86_64 | elf::EM_386, b"LINUX", elf::NT_X86_XSTATE) => {
                xsave(bytes, count, format, self.places)
            }
            (elf::EM_X86_64, b"CORE", elf::NT_FPREGSET) | (elf::EM_386, b"LINUX", elf::NT_PRXFPREG) => {
                fxsave(bytes, count, format)
            }
            (elf::EM_386, b"CORE", elf::NT_FPREGSET) => fsave(bytes, format),
            (elf::EM_AARCH64, b"CORE", elf::NT_FPREGSET) => fpsimd(bytes, format),
            _ => return,
        };
        // Of several areas the larger has all that the smaller has, whichever comes first.
        let thread = self.threads.last_mut().filter(|thread| thread.registers.vector.len() < found.len());
        if let Some(thread) = thread {
            thread.registers.vector = found;
        }
    }

    /// Keeps what is wrong with a note.
    pub(super) fn fault(&mut self, fault: String) {
        self.faults.count = self.faults.count.saturating_add(1);
        if self.faults.named.len() < Faults::MOST {
            self.faults.named.push(fault);
        }
    }

    /// The value of an entry of the auxiliary vector.
    pub(super) fn auxiliary(&self, entry: u64) -> Option<u64> {
        self.auxiliary.iter().find(|(kind, _)| *kind == entry).map(|(_, value)| *value)
    }

    /// The words that started the program, of which a core keeps 79 bytes.
    ///
    /// A path that is cut by that is taken from the file in which the program starts, at `entry`.
    pub(super) fn command(&self, entry: Option<u64>) -> Option<String> {
        const KEPT: usize = 79;
        let words = self.program.as_ref()?;
        if words.len() < KEPT {
            return Some(lossless(words));
        }
        let started = entry.and_then(|entry| self.files.iter().find(|file| file.range.contains(entry)));
        let path = started.map(|file| file.path.bytes()).filter(|path| path.starts_with(words));
        Some(path.map_or_else(|| format!("{}…", lossless(words)), lossless))
    }

    /// `struct elf_prpsinfo` (Linux, include/linux/elfcore.h): the pid, then the
    /// arguments as one text of 80 bytes at the end.
    fn process(&mut self, bytes: &[u8], format: WordFormat) {
        let pid_at = if format.size == 8 { 24 } else { 12 };
        let pid = bytes.get(pid_at..).and_then(|rest| rest.get(..4));
        self.pid = pid.map(|pid| signed(format, pid));
        let arguments = bytes.len().checked_sub(80).and_then(|start| bytes.get(start..));
        let arguments = arguments.and_then(|text| text.split(|byte| *byte == 0).next());
        let arguments = arguments.map(|text| text.trim_ascii_end().to_owned());
        self.program = arguments.filter(|text| !text.is_empty());
    }
}

/// `struct elf_prstatus` (Linux, include/linux/elfcore.h): pid, then the general registers.
fn thread(bytes: &[u8], image: &Image) -> Option<Thread> {
    let format = image.format;
    let machine = elf::Machine(image.machine);
    let (pid_at, registers_at) = if format.size == 8 { (32, 112) } else { (24, 72) };
    let id = signed(format, bytes.get(pid_at..)?.get(..4)?);
    let Some(layout) = Layout::of(machine) else { return Some(Thread { id, ..Thread::default() }) };
    // x32 has pointers of four bytes and all of x86-64's registers.
    let size = if machine == elf::EM_X86_64 { 8 } else { format.size };
    let registers = WordFormat { size, ..format };
    let value = |index: usize| {
        let at = index.checked_mul(size)?.checked_add(registers_at)?;
        registers.read(bytes.get(at..)?)
    };
    Some(layout.thread(id, value))
}

/// How many vector registers x86 has without AVX-512.
fn x86_vectors(image: &Image) -> usize {
    if elf::Machine(image.machine) == elf::EM_386 { 8 } else { 16 }
}

/// `NT_FILE` (Linux, `fs/binfmt_elf.c`, `fill_files_note`): count, page size, that many
/// triples of start, end and offset in pages, then that many terminated paths.
///
/// Also returns a fault that does not prevent its use.
///
/// # Errors
///
/// Why the mappings cannot be read.
fn files(bytes: &[u8], format: WordFormat) -> Result<(Vec<FileMapping>, Option<String>), String> {
    /// Largest page size of any Linux port (Hexagon: 1 MiB).
    const LARGEST_PAGE: u64 = 1 << 20;
    let word = |index: usize| format.read(bytes.get(index.checked_mul(format.size)?..)?);
    let length = bytes.len();
    let (Some(listed), Some(page)) = (word(0), word(1)) else {
        return Err(format!("{length} bytes are too few for a count and a page size"));
    };
    let count = usize::try_from(listed).unwrap_or(usize::MAX);
    let table = count.checked_mul(3).and_then(|words| words.checked_add(2));
    let names = table.and_then(|words| words.checked_mul(format.size)).and_then(|at| bytes.get(at..));
    let Some(names) = names else {
        return Err(format!("count {listed} needs more than the {length} bytes that it has"));
    };
    let held = names.split(|byte| *byte == 0).count().saturating_sub(1);
    if held < count {
        return Err(format!("count {listed} needs as many terminated names, and there are {held}"));
    }
    let usable = page.is_power_of_two() && page <= LARGEST_PAGE;
    let size = (!usable && count > 0).then(|| {
        format!(
            "page size {page:#x} is not a power of two up to {LARGEST_PAGE:#x}; offsets are read in pages of \
             {PAGE:#x}"
        )
    });
    let page = if usable { page } else { PAGE };
    let (mut broken, mut long) = (0_u64, 0_u64);
    let mut mapping = |(index, name): (usize, &[u8])| {
        let at = index.checked_mul(3)?.checked_add(2)?;
        let start = word(at)?;
        let end = word(at.checked_add(1)?)?;
        let offset = word(at.checked_add(2)?)?.checked_mul(page)?;
        let range = AddressRange::new(start, end).ok()?;
        let possible = !range.is_empty() && range.len() <= LARGEST;
        let path = Name::of_file(name.get(..LONGEST_NAME).unwrap_or(name));
        long = long.saturating_add(u64::from(name.len() > LONGEST_NAME));
        possible.then_some(FileMapping { range, offset, path })
    };
    let mut files = Vec::new();
    for listed in (0..count).zip(names.split(|byte| *byte == 0)) {
        match mapping(listed) {
            Some(file) => files.push(file),
            None => broken = broken.saturating_add(1),
        }
    }
    files.sort_by_key(|file| file.range);
    let overlapping = cut_overlapping(&mut files);
    let overlapping = (overlapping > 0).then(|| {
        format!(
            "{overlapping} of {count} mappings reach into the next one; each ends where the next one starts"
        )
    });
    let long = (long > 0).then(|| {
        format!("{long} of {count} names are longer than any path ({LONGEST_NAME} bytes); they are cut")
    });
    let dropped = (broken > 0).then(|| {
        format!(
            "{broken} of {count} mappings end before they start, begin beyond any file or are larger than any \
             address space; they are left out"
        )
    });
    let faults: Vec<String> = size.into_iter().chain(dropped).chain(overlapping).chain(long).collect();
    Ok((files, (!faults.is_empty()).then(|| faults.join("; "))))
}

/// Ends each mapping where the next one starts, and returns how many that makes shorter.
///
/// Of mappings that overlap one has a damaged end, since the kernel lists what it has in address order.
fn cut_overlapping(files: &mut Vec<FileMapping>) -> u64 {
    let mut cut = 0_u64;
    let mut next = u64::MAX;
    for file in files.iter_mut().rev() {
        let start = file.range.start();
        if file.range.end() > next {
            file.range = AddressRange::saturating(start, next.saturating_sub(start));
            cut = cut.saturating_add(1);
        }
        next = start;
    }
    files.retain(|file| !file.range.is_empty());
    cut
}

fn auxiliary(bytes: &[u8], format: WordFormat) -> Vec<(u64, u64)> {
    let pairs = bytes.chunks_exact(format.size.saturating_mul(2));
    let pair = |pair: &[u8]| Some((format.read(pair)?, format.read(pair.get(format.size..)?)?));
    pairs.filter_map(pair).take_while(|(kind, _)| *kind != 0).collect()
}

/// A pid: 32 bits, signed.
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
fn signed(format: WordFormat, bytes: &[u8]) -> i32 {
    format.order.value(bytes) as u32 as i32
}
