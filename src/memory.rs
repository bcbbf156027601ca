//! What a target is to every algorithm: regions, and views of their bytes.

use std::fmt;

use crate::error::Error;
use crate::name::Name;
use crate::range::AddressRange;
pub use crate::view::{Buffer, Gap, Missing, View};
use crate::word::WordFormat;

/// What a region is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum RegionKind {
    /// The heap that `brk` grows.
    Heap,
    /// A heap of another malloc arena, its reserve included.
    Arena,
    /// The stack of the main thread.
    Stack,
    /// The stack of another thread, its guard included.
    ThreadStack,
    /// Any other mapping without a file.
    Anon,
    /// The writable part of a module, its bss included.
    Data,
    /// Any other mapping of a file.
    File,
    /// Code that the kernel lends to every process.
    Vdso,
    /// What the kernel shows but no program allocated: `[vvar]`, `[vsyscall]`.
    Special,
}

impl RegionKind {
    /// Every kind, in the order in which people list them.
    pub const ALL: [Self; 9] = [
        Self::Heap,
        Self::Arena,
        Self::Stack,
        Self::ThreadStack,
        Self::Anon,
        Self::Data,
        Self::File,
        Self::Vdso,
        Self::Special,
    ];

    /// The word for it at the prompt and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Arena => "arena",
            Self::Stack => "stack",
            Self::ThreadStack => "thread-stack",
            Self::Anon => "anon",
            Self::Data => "data",
            Self::File => "file",
            Self::Vdso => "vdso",
            Self::Special => "special",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for RegionKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// What a process may do with a region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Permissions {
    /// Nothing says.
    #[default]
    Unknown,
    /// Each right, granted or not.
    Known {
        /// May be read.
        read: bool,
        /// May be written.
        write: bool,
        /// May be executed.
        execute: bool,
    },
}

impl Permissions {
    /// Known permissions.
    #[must_use]
    pub const fn new(read: bool, write: bool, execute: bool) -> Self {
        Self::Known { read, write, execute }
    }

    /// Permissions as `rw-` or the first three letters of `/proc/PID/maps`; `???` is unknown.
    #[must_use]
    pub fn from_letters(letters: &str) -> Option<Self> {
        let mut letters = letters.chars();
        let (read, write, execute) = (letters.next()?, letters.next()?, letters.next()?);
        if (read, write, execute) == ('?', '?', '?') {
            return Some(Self::Unknown);
        }
        let right = |letter: char, granted: char| match letter {
            '-' => Some(false),
            letter if letter == granted => Some(true),
            _ => None,
        };
        Some(Self::new(right(read, 'r')?, right(write, 'w')?, right(execute, 'x')?))
    }

    /// Whether the process may write there; unknown counts as no.
    #[must_use]
    pub const fn writable(self) -> bool {
        matches!(self, Self::Known { write: true, .. })
    }

    /// Whether what lies there may be executed; unknown counts as no.
    #[must_use]
    pub const fn executable(self) -> bool {
        matches!(self, Self::Known { execute: true, .. })
    }

    /// Whether the process may do nothing at all there: a guard or a reserve.
    #[must_use]
    pub const fn none(self) -> bool {
        matches!(self, Self::Known { read: false, write: false, execute: false })
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown => out.pad("???"),
            Self::Known { read, write, execute } => {
                let letter = |granted, letter| if granted { letter } else { '-' };
                let letters = [letter(read, 'r'), letter(write, 'w'), letter(execute, 'x')];
                out.pad(&letters.iter().collect::<String>())
            }
        }
    }
}

/// One mapping of the target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    /// Where it lies.
    pub range: AddressRange,
    /// What the process may do with it.
    pub permissions: Permissions,
    /// What it is for.
    pub kind: RegionKind,
    /// The backing file's path or the kernel's name in brackets; empty where there is none.
    pub name: Name,
    /// Where in the backing file it starts, in bytes.
    pub file_offset: u64,
    /// How many of its bytes can be read here: in a core those saved or found in its files.
    pub saved: u64,
    /// Resident bytes, where the target is alive.
    pub rss: Option<u64>,
    /// Resident bytes that were written to, where the target is alive.
    pub dirty: Option<u64>,
}

impl Region {
    /// Whether no file backs it: the kernel's names in brackets, and the one that it gives to
    /// real huge pages (Linux, fs/hugetlbfs/inode.c, `HUGETLB_ANON_FILE`), are not files.
    #[must_use]
    pub fn anonymous(&self) -> bool {
        self.name.is_empty() || self.name.starts_with("[") || self.huge_pages()
    }

    /// Whether it is anonymous memory of real huge pages (`MAP_HUGETLB`).
    #[must_use]
    pub fn huge_pages(&self) -> bool {
        matches!(self.name.bytes(), b"/anon_hugepage" | b"/anon_hugepage (deleted)")
    }

    /// Whether the process may write to it, or wrote to it before it made it inaccessible.
    ///
    /// ```
    /// use gdb_leak::memory::{Permissions, Region, RegionKind};
    /// use gdb_leak::name::Name;
    /// use gdb_leak::range::AddressRange;
    ///
    /// let hidden = Region {
    ///     range: AddressRange::new(0x1000, 0x2000)?,
    ///     permissions: Permissions::new(false, false, false),
    ///     kind: RegionKind::Anon,
    ///     name: Name::default(),
    ///     file_offset: 0,
    ///     saved: 4096,
    ///     rss: None,
    ///     dirty: None,
    /// };
    /// assert!(hidden.mutable());
    /// assert!(!Region { saved: 0, ..hidden.clone() }.mutable());
    /// assert!(!Region { permissions: Permissions::new(true, false, false), ..hidden }.mutable());
    /// # Ok::<(), gdb_leak::error::Error>(())
    /// ```
    #[must_use]
    pub fn mutable(&self) -> bool {
        self.permissions.writable() || (self.permissions.none() && !self.reserve())
    }

    /// Whether it is a reserve: address space with no permissions and no saved or resident bytes.
    ///
    /// Memory that was written and made inaccessible later is not one. Lists that have
    /// neither saved nor resident bytes (`/proc/PID/maps`) leave the permissions to decide.
    ///
    /// ```
    /// use gdb_leak::memory::{Permissions, Region, RegionKind};
    /// use gdb_leak::name::Name;
    /// use gdb_leak::range::AddressRange;
    ///
    /// let guard = Region {
    ///     range: AddressRange::new(0x1000, 0x2000)?,
    ///     permissions: Permissions::new(false, false, false),
    ///     kind: RegionKind::Anon,
    ///     name: Name::default(),
    ///     file_offset: 0,
    ///     saved: 0,
    ///     rss: None,
    ///     dirty: None,
    /// };
    /// assert!(guard.reserve());
    /// assert!(!Region { rss: Some(4096), ..guard.clone() }.reserve());
    /// assert!(!Region { saved: 4096, ..guard }.reserve());
    /// # Ok::<(), gdb_leak::error::Error>(())
    /// ```
    #[must_use]
    pub fn reserve(&self) -> bool {
        self.permissions.none() && self.saved == 0 && self.rss.unwrap_or(0) == 0
    }
}

/// Memory that was not read, because the read might never return.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unread {
    /// What is missing, and why: a sentence.
    pub note: String,
    /// Whether the process may write to some of it.
    pub writable: bool,
}

/// A target's memory: a core, a process, whatever gdb reaches, or bytes in a test.
///
/// What this layer does not do: it never joins pieces (see [`crate::pass`]),
/// never interprets bytes, and never writes.
pub trait Memory: Send + Sync {
    /// Size and byte order of the target's words.
    fn word_format(&self) -> WordFormat;

    /// All regions in address order; they never overlap.
    fn regions(&self) -> &[Region];

    /// The bytes at the start of `range`, lent or put into `buffer`.
    ///
    /// Stops at the end of a piece or at a gap; `range` must not be empty.
    fn view<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a>;

    /// Whether all of `range` is known to be zeros, since the process never wrote there.
    ///
    /// Of memory of which that is not known, false.
    fn untouched(&self, _range: AddressRange) -> bool {
        false
    }

    /// How many bytes at the start of `range` are known to be zeros without reading any.
    ///
    /// May be fewer than there are: as many as are known at little cost. A loop asks again
    /// from where they end.
    fn zeros(&self, range: AddressRange) -> u64 {
        // Sources that know by pages are asked about one piece, since the rest may be long.
        const PIECE: u64 = 1 << 20;
        let border = range.start().checked_next_multiple_of(PIECE).filter(|border| *border > range.start());
        let border = border.or_else(|| range.start().checked_add(PIECE)).unwrap_or(u64::MAX);
        let length = border.min(range.end()).saturating_sub(range.start());
        if self.untouched(AddressRange::saturating(range.start(), length)) { length } else { 0 }
    }

    /// How many bytes at the start of `range` take no time to go over: known zeros, or missing bytes.
    ///
    /// What a pass cuts its work by, so it is cheap: far less than going over a chunk.
    fn blank(&self, range: AddressRange) -> u64 {
        if self.region_at(range.start()).is_some() {
            return 0;
        }
        gap_before_next_region(self.regions(), range.start()).range.len().min(range.len())
    }

    /// How many bytes of `ranges`, which are in address order, are resident.
    ///
    /// `None` where nothing says so. A page of zeros that the kernel lends to a process which
    /// only read there is not resident, as for `/proc/PID/smaps`.
    fn resident(&self, _ranges: &[AddressRange]) -> Option<u64> {
        None
    }

    /// The resident bytes of each region, in their order; `None` where nothing says so.
    fn resident_regions(&self) -> Option<Vec<u64>> {
        None
    }

    /// Whether views are lent from where the bytes are; else each costs a call of the system.
    fn lends(&self) -> bool {
        true
    }

    /// Returns each kind of memory that was not read because the read might never return.
    fn unread(&self) -> Vec<Unread> {
        Vec::new()
    }

    /// Whether a view may wait for a file system that does not answer, for seconds.
    fn may_stall(&self) -> bool {
        false
    }

    /// Whether the memory is still what it was when it was opened; asked before each pass.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the file behind it shrank, [`Error::Process`] when the process is gone.
    fn recheck(&self) -> Result<(), Error> {
        Ok(())
    }

    /// The region that holds `address`.
    fn region_at(&self, address: u64) -> Option<&Region> {
        let regions = self.regions();
        let after = regions.partition_point(|region| region.range.start() <= address);
        let region = regions.get(after.checked_sub(1)?)?;
        region.range.contains(address).then_some(region)
    }

    /// Appends the bytes of `range` to `bytes` until it is whole or a gap begins.
    ///
    /// Returns the gap. `bytes` grows by what was read only, but the caller answers for the size of
    /// `range`.
    fn append(&self, range: AddressRange, bytes: &mut Vec<u8>) -> Option<Gap> {
        let mut buffer = Buffer::default();
        let mut at = range.start();
        while at < range.end() {
            let rest = AddressRange::saturating(at, range.end().saturating_sub(at));
            let view = self.view(rest, &mut buffer);
            bytes.extend_from_slice(view.bytes);
            at = at.saturating_add(view.bytes.len() as u64);
            if view.gap.is_some() {
                return view.gap;
            }
            if view.bytes.is_empty() {
                return None;
            }
        }
        None
    }

    /// All bytes of `range`, which must be small enough to keep.
    ///
    /// # Errors
    ///
    /// The first byte that is missing, as [`Error::NoRegion`], [`Error::NotSaved`]
    /// or [`Error::Unreadable`].
    fn bytes(&self, range: AddressRange) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        match self.append(range, &mut bytes) {
            Some(gap) => Err(gap.error()),
            None => Ok(bytes),
        }
    }

    /// The word at `address`, aligned or not.
    ///
    /// # Errors
    ///
    /// As [`Memory::bytes`].
    fn word(&self, address: u64) -> Result<u64, Error> {
        let format = self.word_format();
        let bytes = self.bytes(AddressRange::with_length(address, format.size as u64)?)?;
        format.read(&bytes).ok_or(Error::NoRegion { address })
    }
}

/// The gap that reaches from `at` to the next region, or to the end of the address space.
///
/// Sources use it for addresses between their regions.
#[must_use]
pub fn gap_before_next_region(regions: &[Region], at: u64) -> Gap {
    let next = regions.partition_point(|region| region.range.start() <= at);
    let end = regions.get(next).map_or(u64::MAX, |region| region.range.start());
    Gap { range: AddressRange::saturating(at, end.saturating_sub(at)), missing: Missing::NoRegion }
}

/// Which part of the address space a command looks at: `-in WHERE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Everything.
    All,
    /// Whatever the process may write to, or wrote to before it made that inaccessible.
    Writable,
    /// What the allocators own. Where no heap is known, the brk heap and the heaps of other arenas.
    Heap,
    /// Only the brk heap.
    Brk,
    /// The stacks of all threads.
    Stack,
    /// Every mapping without a file.
    Anon,
    /// One kind of region.
    Kind(RegionKind),
    /// One range.
    Range(AddressRange),
}

impl Place {
    /// The place of that name.
    ///
    /// # Errors
    ///
    /// [`Error::Request`] that lists the names.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        Ok(match name {
            "all" => Self::All,
            "writable" => Self::Writable,
            "heap" => Self::Heap,
            "brk" => Self::Brk,
            "stack" => Self::Stack,
            "anon" => Self::Anon,
            name => Self::Kind(RegionKind::from_name(name).ok_or_else(|| {
                Error::Request {
                    thing: "-in",
                    value: name.to_owned(),
                    rule: "is not all, writable, heap, brk, stack, anon, arena, thread-stack, data, \
                       file, vdso, special or START,END"
                        .to_owned(),
                }
            })?),
        })
    }

    /// Whether the region belongs to the place, wholly or, for a range, in part.
    #[must_use]
    pub fn selects(self, region: &Region) -> bool {
        match self {
            Self::All => true,
            Self::Writable => region.mutable(),
            Self::Heap => matches!(region.kind, RegionKind::Heap | RegionKind::Arena),
            Self::Brk => region.kind == RegionKind::Heap,
            Self::Stack => matches!(region.kind, RegionKind::Stack | RegionKind::ThreadStack),
            Self::Anon => region.anonymous(),
            Self::Kind(kind) => region.kind == kind,
            Self::Range(range) => region.range.intersection(range).is_some(),
        }
    }

    /// The addresses of the place in `memory`, in order, touching regions made one.
    ///
    /// Reserves are left out. A range is used as given; parts of it that no region covers are gaps.
    #[must_use]
    pub fn ranges(self, memory: &dyn Memory) -> Vec<AddressRange> {
        if let Self::Range(range) = self {
            return AddressRange::merge(vec![range]);
        }
        let selected = memory.regions().iter().filter(|region| self.selects(region) && !region.reserve());
        AddressRange::merge(selected.map(|region| region.range).collect())
    }
}
