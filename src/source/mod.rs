//! Who can be a [`Memory`](crate::memory::Memory): cores, processes, whatever gdb reaches, bytes.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, reason};
use crate::memory::Memory;
use crate::source::file::FileView;
use crate::source::registers::Registers;
use crate::text::lossless;

mod aside;
mod behind;
pub mod captured;
pub mod core;
pub mod elf;
pub mod file;
pub mod follow;
mod held;
pub mod holes;
pub mod kinds;
pub mod listed;
pub mod maps;
mod mounts;
pub mod nptl;
mod pagemap;
mod proc;
pub mod process;
pub mod recordable;
pub mod registers;
pub mod remote;
pub mod snapshot;
pub mod stop;
pub mod symbols;
pub mod unjoined;
mod xsave;

/// What kind of thing a target is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceKind {
    /// A core file.
    Core,
    /// A process of this machine.
    Process,
    /// Whatever gdb reaches in another way.
    Remote,
    /// A file that `leak-snapshot` wrote, or its like in memory.
    Snapshot,
    /// Saved output of `pmap -x` or `/proc/PID/maps`.
    Maps,
}

impl SourceKind {
    /// The word for it in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Process => "process",
            Self::Remote => "remote",
            Self::Snapshot => "snapshot",
            Self::Maps => "maps",
        }
    }
}

/// One thread: its stack and its registers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Thread {
    /// The system's number.
    pub id: i32,
    /// The stack pointer, where registers are known.
    pub stack_pointer: Option<u64>,
    /// The address of the thread's control block, where registers are known.
    pub thread_pointer: Option<u64>,
    /// What its registers hold, where known.
    pub registers: Registers,
}

impl Thread {
    /// Whether it is a worker that the kernel runs in the process, as `io_uring` has them.
    ///
    /// Such a thread has no user stack and holds no block. Observed on Linux 6.18, with ptrace, with gdb and in
    /// cores: stack pointer and program counter are zero, and the thread pointer is that of the thread that
    /// started it.
    #[must_use]
    pub fn kernel_worker(&self) -> bool {
        const COUNTERS: [&str; 3] = ["rip", "eip", "pc"];
        let counter =
            self.registers.general.iter().find(|register| COUNTERS.contains(&register.name.as_ref()));
        self.stack_pointer == Some(0) && counter.is_some_and(|register| register.value == 0)
    }
}

/// What is known of a target beside its memory.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What kind of thing it is.
    pub kind: SourceKind,
    /// The machine's usual name, where known.
    pub architecture: Option<String>,
    /// The command or file that runs in it, where known.
    pub program: Option<String>,
    /// Its process number when it ran or runs.
    pub pid: Option<i32>,
    /// Its threads, the one that a core was made for first.
    pub threads: Vec<Thread>,
    /// Whether all of its writable memory can be read.
    pub complete: bool,
    /// When a snapshot was taken, as RFC 3339 in UTC.
    pub taken: Option<String>,
    /// The program that was given with a core.
    pub executable: Option<PathBuf>,
    /// The folder that stands for `/` where a core names files.
    pub sysroot: Option<PathBuf>,
    /// Sentences on whatever makes answers less than whole.
    pub notes: Vec<String>,
}

impl Origin {
    /// An origin of that kind about which nothing is known yet.
    #[must_use]
    pub fn new(kind: SourceKind) -> Self {
        Self {
            kind,
            architecture: None,
            program: None,
            pid: None,
            threads: Vec::new(),
            complete: true,
            taken: None,
            executable: None,
            sysroot: None,
            notes: Vec::new(),
        }
    }
}

/// An opened target: memory for algorithms, and what people want to know of it.
#[derive(Clone)]
pub struct Target {
    /// Its regions and bytes.
    pub memory: Arc<dyn Memory>,
    /// Everything else.
    pub origin: Origin,
}

/// Where the files that a core names are to be looked for.
#[derive(Clone, Copy, Default, Debug)]
pub struct Files<'a> {
    /// The program, where it is not where the core says.
    pub executable: Option<&'a Path>,
    /// The folder that stands for `/`.
    pub sysroot: Option<&'a Path>,
}

impl Files<'_> {
    /// Where a file of the core's machine lies on this one.
    fn place(&self, name: &Path) -> PathBuf {
        match self.sysroot {
            Some(root) => root.join(name.strip_prefix("/").unwrap_or(name)),
            None => name.to_owned(),
        }
    }
}

/// A target from a file: a core, a snapshot, saved `pmap -x` output or `/proc/PID/maps` text.
///
/// # Errors
///
/// [`Error::File`] or [`Error::Line`], saying what the file is instead and what to do about it.
pub fn open_file(path: &Path, files: Files<'_>) -> Result<Target, Error> {
    let view = FileView::open(path)?;
    let mut buffer = crate::memory::Buffer::default();
    let start = view.view(0, 64, &mut buffer).map_err(|cause| Error::file(path, reason(&cause)))?;
    if start.is_empty() {
        return Err(Error::file(path, "is empty"));
    }
    if start.starts_with(b"\x7fELF") {
        return core::open(view, files);
    }
    if let Some((name, command)) = compressed(start) {
        let path = lossless(path.as_os_str().as_bytes());
        let problem = format!("is compressed with {name}; unpack it first: {command} '{path}'");
        return Err(Error::file(view.path(), problem));
    }
    if let Some(what) = other_dump(start) {
        let problem = format!("is {what}, not a core of a process");
        return Err(Error::file(view.path(), problem));
    }
    if start.starts_with(snapshot::MAGIC.as_bytes()) {
        return snapshot::open(&view);
    }
    listed::open(&view)
}

/// What a file that starts like this is a dump of, if not of a process of Unix.
///
/// From `IMPLEMENTATION` of makedumpfile, `doc/README.md` of `LiME`, "Minidump Files" and
/// `DUMP_HEADER` of Microsoft, `mach-o/loader.h`.
fn other_dump(start: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 12] = [
        (b"KDUMP   ", "a dump of a kernel (kdump, compressed by makedumpfile; crash and drgn read it)"),
        (b"DISKDUMP", "a dump of a kernel (diskdump; crash reads it)"),
        (b"makedumpfile", "a dump of a kernel (flattened by makedumpfile -F; makedumpfile -R restores it)"),
        (b"EMiL", "a dump of physical memory (LiME)"),
        (b"PAGEDUMP", "a dump of a Windows kernel"),
        (b"PAGEDU64", "a dump of a Windows kernel"),
        (b"MDMP", "a minidump (Windows, Breakpad, Crashpad; minidump-2-core of Breakpad makes a core of it)"),
        (b"\xd2\xbe\xd2\xbe", "a saved state of a VMware machine"),
        (b"\xd0\xbe\xd2\xbe", "a saved state of a VMware machine"),
        (b"QEVM", "a saved state of a QEMU guest (savevm, migration)"),
        (b"\xcf\xfa\xed\xfe", "a Mach-O file (macOS)"),
        (b"\xce\xfa\xed\xfe", "a Mach-O file (macOS)"),
    ];
    known.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, what)| *what)
}

/// The compressor whose file starts like this, and the command that unpacks it.
fn compressed(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let known: [(&[u8], &str, &str); 5] = [
        (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d --keep"),
        (b"\x04\x22\x4d\x18", "lz4", "lz4 -d --keep"),
        (b"\xfd7zXZ\0", "xz", "xz -d --keep"),
        (b"\x1f\x8b", "gzip", "gzip -d --keep"),
        (b"BZh", "bzip2", "bzip2 -d --keep"),
    ];
    let found = known.iter().find(|(magic, ..)| start.starts_with(magic))?;
    Some((found.1, found.2))
}
