//! What a process would read where it has no page, found without having it read there.
//!
//! Reading such a page through the process makes the kernel map one for it, with the tables that
//! takes, and may wait for the process that serves the page: for ever, if that process is stopped. So memory
//! of no file is zeros, a page of a file is read from the file, and what `userfaultfd` serves is
//! missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;

use crate::error::reason;
use crate::memory::{Missing, Region, Unread};
use crate::name::Name;
use crate::source::aside::{self, Identity, Way, device_of};
use crate::source::file;
use crate::source::maps::Mapping;
use crate::source::mounts::{Answers, Mounts};

/// The folder of a process in which its mapped files are, by their addresses.
const MAP_FILES: &str = "map_files";

/// What is in a page that the process does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Behind {
    /// Zeros.
    Zeros,
    /// Bytes of the file with this number.
    File(usize),
    /// What only the process itself can tell: devices, memory that it shares.
    Process,
}

/// What is behind each region of a process.
#[derive(Debug)]
pub(super) struct Backing {
    /// In the order of the regions.
    of: Vec<Behind>,
    files: Vec<Mapped>,
}

/// A file that is mapped.
#[derive(Debug)]
struct Mapped {
    device: (u32, u32),
    inode: u64,
    /// Where it may be opened, the surest first.
    places: Vec<PathBuf>,
    /// The type of its file system, where that may not answer.
    slow: Option<String>,
    /// Whether it is known on which file system it is: else the process is not asked for its pages.
    known: bool,
    /// Whether a file at its path is it where the inodes agree: what `stat` calls the device of a
    /// file may not be what the list of mappings calls it (subvolumes of btrfs, overlays).
    by_path: bool,
    opened: Mutex<Opened>,
}

/// Whether a file was opened.
#[derive(Debug)]
enum Opened {
    /// Not yet, or its file system did not answer then.
    No,
    Yes(Arc<Open>),
    /// It cannot be, for this reason where there is one.
    Never(Option<String>),
}

/// Why bytes are missing that the process would read where it has no page.
#[derive(Debug)]
pub(super) enum Lacking {
    /// Nothing is asked that may not answer, or it did not.
    Unasked(String),
    /// Reading went wrong.
    Failed(io::Error),
}

impl Lacking {
    /// `userfaultfd` serves the page: only the process itself gets it.
    pub(super) fn served() -> Self {
        Self::Unasked("userfaultfd serves them".to_owned())
    }

    /// Nothing says which pages are in memory, and to read others may take for ever.
    pub(super) fn unknown(system: &str) -> Self {
        Self::Unasked(format!(
            "/proc/PID/pagemap does not say which are, and the file system ({system}) may not answer"
        ))
    }

    /// Why the page is missing.
    pub(super) fn missing(&self) -> Missing {
        Missing::Unreadable(match self {
            Self::Unasked(cause) => format!("the page is not in memory: {cause}"),
            Self::Failed(cause) => reason(cause),
        })
    }
}

#[derive(Debug)]
enum Open {
    Here(std::fs::File),
    Aside(aside::File),
}

impl Backing {
    /// What is behind the regions that these lines list, of the process whose folder this is.
    pub(super) fn new(regions: &[Region], mappings: &[Mapping], folder: &Path, mounts: &Mounts) -> Self {
        let mut backing = Self { of: Vec::with_capacity(regions.len()), files: Vec::new() };
        let mut known: BTreeMap<((u32, u32), u64), usize> = BTreeMap::new();
        let shared = shared_memory();
        for region in regions {
            let at = mappings.binary_search_by_key(&region.range.start(), |mapping| mapping.range.start());
            let mapping = at.ok().and_then(|at| mappings.get(at));
            let behind = match mapping {
                Some(mapping) if zeros(region, mapping) => Behind::Zeros,
                Some(mapping) if mapping.inode != 0 => {
                    let number = known.entry((mapping.device, mapping.inode)).or_insert_with(|| {
                        backing.files.push(Mapped::new(region, mapping, folder, mounts, shared));
                        backing.files.len().saturating_sub(1)
                    });
                    Behind::File(*number)
                }
                _ => Behind::Process,
            };
            backing.of.push(behind);
        }
        backing
    }

    /// What is behind the region with that number.
    pub(super) fn of(&self, region: usize) -> Behind {
        self.of.get(region).copied().unwrap_or(Behind::Process)
    }

    /// The type of the file system, if a read of a page that the process does not have may wait for it
    /// without end.
    pub(super) fn slow(&self, behind: Behind) -> Option<&str> {
        self.slow_file(behind)?.slow.as_deref()
    }

    fn slow_file(&self, behind: Behind) -> Option<&Mapped> {
        let Behind::File(file) = behind else { return None };
        self.files.get(file).filter(|mapped| mapped.slow.is_some())
    }

    /// Reads pages of the process in which the file is mapped, and which are in memory; `None` where
    /// the process itself can be read without waiting.
    pub(super) fn read_mapped(
        &self,
        behind: Behind,
        memory: &std::fs::File,
        buffer: &mut [u8],
        at: u64,
    ) -> Option<Result<usize, Lacking>> {
        let mapped = self.slow_file(behind)?;
        let read = aside::read_memory(memory, mapped.device, buffer, at);
        Some(read.map_err(|cause| mapped.lacking(cause)))
    }

    /// Whether that may be so of any file.
    pub(super) fn any_slow(&self) -> bool {
        self.files.iter().any(|file| file.slow.is_some())
    }

    /// Reads from `offset` of the file until the buffer is full; `None` where only the process can tell.
    ///
    /// After the end of the file are zeros up to the end of its last page, then an error.
    pub(super) fn read(&self, file: usize, buffer: &mut [u8], offset: u64) -> Option<Result<usize, Lacking>> {
        let mapped = self.files.get(file)?;
        match mapped.open() {
            Ok(open) => Some(open.read(buffer, offset).map_err(|cause| mapped.lacking(cause))),
            // What may not answer is not asked through the process either.
            Err(cause) => {
                let asked = mapped.known && mapped.slow.is_none();
                (!asked).then(|| Err(mapped.lacking(cause)))
            }
        }
    }
}

impl Mapped {
    fn new(
        region: &Region,
        mapping: &Mapping,
        folder: &Path,
        mounts: &Mounts,
        shared: Option<(u32, u32)>,
    ) -> Self {
        let range = format!("{:x}-{:x}", region.range.start(), region.range.end());
        let name = region.name.bytes();
        let name = Name::from(name.strip_suffix(b" (deleted)").unwrap_or(name).to_vec());
        let path = name.path();
        // The first is for root only.
        let places = std::iter::once(folder.join(MAP_FILES).join(range))
            .chain(path.strip_prefix("/").ok().map(|inside| folder.join("root").join(inside)))
            .collect();
        let kernels =
            || shared == Some(mapping.device) || region.huge_pages() || !region.name.starts_with("/");
        let overlaid = mounts.overlaid(path);
        let (slow, known) = match mounts.answers(mapping.device) {
            Answers::Always => (None, true),
            Answers::Perhaps(system) => (Some(system.to_owned()), true),
            // Memory that processes share, huge pages, and what no path leads to are on no mount.
            Answers::NotMounted if kernels() => (None, true),
            Answers::NotMounted if overlaid => (None, false),
            Answers::NotMounted => (Some("not mounted here".to_owned()), false),
        };
        let by_path = overlaid || mounts.device(path) == Some(mapping.device);
        let (device, inode, opened) = (mapping.device, mapping.inode, Mutex::new(Opened::No));
        Self { device, inode, places, slow, known, by_path, opened }
    }

    /// Why bytes of the file are missing.
    fn lacking(&self, cause: io::Error) -> Lacking {
        match &self.slow {
            Some(system) if cause.kind() == io::ErrorKind::TimedOut => {
                Lacking::Unasked(format!("the file system ({system}) does not answer"))
            }
            Some(system) if cause.raw_os_error() != Some(Errno::EIO as i32) => {
                Lacking::Unasked(format!("the file ({system}) cannot be read, {}", reason(&cause)))
            }
            None if !self.known => Lacking::Unasked(format!("the file cannot be read, {}", reason(&cause))),
            _ => Lacking::Failed(cause),
        }
    }

    /// The file, if it is a regular one and the one that is mapped.
    fn open(&self) -> io::Result<Arc<Open>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        match &*opened {
            Opened::Yes(open) => return Ok(Arc::clone(open)),
            Opened::Never(cause) => return Err(other_file(cause.as_deref())),
            Opened::No => {}
        }
        let mut failure = other_file(None);
        for path in &self.places {
            match self.open_at(path) {
                Ok((open, identity)) if self.is(path, identity) => {
                    let open = Arc::new(open);
                    *opened = Opened::Yes(Arc::clone(&open));
                    return Ok(open);
                }
                Ok(_) => {}
                Err(cause) if cause.kind() == io::ErrorKind::TimedOut => return Err(cause),
                Err(cause) => failure = cause,
            }
        }
        *opened = Opened::Never(Some(reason(&failure)));
        Err(failure)
    }

    /// Whether the file that was found at a path is the one that is mapped.
    fn is(&self, path: &Path, (device, inode): Identity) -> bool {
        // That link leads to nothing else.
        let linked = path.parent().is_some_and(|folder| folder.ends_with(MAP_FILES));
        inode == self.inode && (linked || self.by_path || device == self.device)
    }

    /// The file at a path, with its device and inode.
    fn open_at(&self, path: &Path) -> io::Result<(Open, Identity)> {
        // Without the first a lease on the file would make it wait.
        const FLAGS: i32 = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
        if self.slow.is_some() {
            if let Way::Aside(file) = aside::way(path)? {
                let identity = file.identity();
                return Ok((Open::Aside(file), identity));
            }
        }
        // Opening a device may have effects.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        let file = OpenOptions::new().read(true).custom_flags(FLAGS).open(path)?;
        let metadata = file.metadata()?;
        Ok((Open::Here(file), (device_of(metadata.dev()), metadata.ino())))
    }
}

/// The error of a file that cannot be opened, or of which there is another one at its path.
fn other_file(cause: Option<&str>) -> io::Error {
    io::Error::other(cause.unwrap_or("another file is at its path").to_owned())
}

impl Open {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        const PAGE: usize = 4096;
        let read = match self {
            Self::Here(file) => file::read_at(file, buffer, offset)?,
            Self::Aside(file) => file.read_at(buffer, offset)?,
        };
        // The rest of the page that the file ends in; the offset is that of a page or of what is in it.
        let inside = usize::try_from(offset.checked_rem(PAGE as u64).unwrap_or(0)).unwrap_or(0);
        let end = inside.saturating_add(read).checked_next_multiple_of(PAGE).unwrap_or(read);
        let end = if read == 0 && inside == 0 { 0 } else { end.saturating_sub(inside).min(buffer.len()) };
        if let Some(rest) = buffer.get_mut(read..end) {
            rest.fill(0);
        }
        // As the kernel answers for a page behind the end.
        if end == 0 { Err(Errno::EIO.into()) } else { Ok(end) }
    }
}

/// The regions of which bytes were asked for and not read, by why.
#[derive(Default, Debug)]
pub(super) struct Missed(Mutex<BTreeMap<String, BTreeSet<usize>>>);

impl Missed {
    /// Keeps why bytes of the region with that number are missing, where nothing was asked.
    pub(super) fn add(&self, number: usize, lacking: &Lacking) {
        if let Lacking::Unasked(cause) = lacking {
            let mut missed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            missed.entry(cause.clone()).or_default().insert(number);
        }
    }

    /// All of them, of these regions.
    pub(super) fn all(&self, regions: &[Region]) -> Vec<Unread> {
        const NAMED: usize = 3;
        let missed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sentence = |(cause, numbers): (&String, &BTreeSet<usize>)| {
            let missed = || numbers.iter().filter_map(|number| regions.get(*number));
            let names: BTreeSet<String> = missed().map(name_or_start).collect();
            let list: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
            let more = names.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let list = list.join(", ");
            let note = format!("pages that are not in memory are missing, because {cause}: {list}{more}");
            Unread { note, writable: missed().any(Region::mutable) }
        };
        missed.iter().map(sentence).collect()
    }
}

/// What a note calls a region.
fn name_or_start(region: &Region) -> String {
    if region.name.is_empty() { format!("{:#x}", region.range.start()) } else { region.name.to_string() }
}

/// Whether pages that were never touched are zeros: memory of the process alone, of no file.
fn zeros(region: &Region, mapping: &Mapping) -> bool {
    if mapping.shared {
        return false;
    }
    let name = &region.name;
    let own = name.is_empty() || name == "[heap]" || name.starts_with("[stack") || name.starts_with("[anon:");
    (own && mapping.inode == 0) || region.huge_pages()
}

/// The device of memory that processes share: the kernel's own, which no list of mounts has.
fn shared_memory() -> Option<(u32, u32)> {
    let file = memfd_create(c"gdb-leak", MFdFlags::MFD_CLOEXEC).ok()?;
    Some(device_of(fstat(file.as_fd()).ok()?.st_dev))
}
