//! From program headers and notes to regions: what a core holds, and what it only names.

use crate::memory::{Permissions, Region, RegionKind};
use crate::name::Name;
use crate::range::AddressRange;
use crate::source::elf::{Image, Segment};
use crate::source::holes::Holes;
use crate::source::kinds::Finding;

use super::merge::{Absurd, Merged, Part, merge};
use super::notes::FileMapping;
use super::{Backing, Piece};

/// The regions of a core before it is known what they are for.
pub(super) struct Layout {
    pub regions: Vec<Region>,
    /// What the segments hold, in address order; each lies in one region.
    parts: Vec<Part>,
    /// Where the last saved byte should be in the file.
    pub end: u64,
    /// Whether the program headers look like gcore's.
    pub by_gcore: bool,
    /// Whether all that the segments say is in the regions.
    pub whole: bool,
    pub notes: Vec<String>,
}

impl Layout {
    /// The regions that the program headers of a core of `length` bytes with `holes` list.
    pub(super) fn new(image: &Image, length: u64, holes: &Holes) -> Self {
        let loads: Vec<_> = image.segments.iter().filter(|segment| segment.loaded()).copied().collect();
        let end = image.segments.iter().map(|segment| segment.offset.saturating_add(segment.file_size)).max();
        // Observed: gcore aligns its segments to one byte, the kernel to a page.
        // Seen: gdb 10.1 to 18.1. What follows from it is in `apply`.
        let by_gcore = !loads.is_empty() && loads.iter().all(|segment| segment.align <= 1);
        let Merged { parts, dropped, absurd, cut, shared } = merge(&loads, length, holes);
        let mut layout = Self {
            regions: Vec::with_capacity(parts.len()),
            parts: Vec::new(),
            end: end.unwrap_or(0),
            by_gcore,
            whole: dropped.segments == 0 && shared.segments == 0 && absurd.is_none(),
            notes: Vec::new(),
        };
        for part in &parts {
            layout.join(part);
        }
        layout.parts = parts;
        if length < layout.end && cut.segments > 0 {
            layout.notes.push(format!(
                "the core is cut short at {length} of {} bytes: {} bytes of {} are lost",
                layout.end,
                cut.bytes,
                counted(cut.segments, "region")
            ));
        } else if length < layout.end {
            // The sizes are whatever the headers hold, and no memory depends on them.
            let beyond = |segment: &&Segment| segment.offset.saturating_add(segment.file_size) > length;
            let count = image.segments.iter().filter(beyond).count() as u64;
            let verb = if count == 1 { "leads" } else { "lead" };
            layout.notes.push(format!(
                "{} of the core {verb} beyond the end of the file, none of them to memory: its headers are damaged, \
                 or it is cut short",
                counted(count, "program header")
            ));
        }
        if dropped.segments > 0 {
            layout.notes.push(format!(
                "{} of the core overlap others that come before them in the file: {} bytes of theirs are not \
                 used, as in gdb",
                counted(dropped.segments, "segment"),
                dropped.bytes
            ));
        }
        if shared.segments > 0 {
            layout.notes.push(format!(
                "{} of the core claim bytes of the file that others before them claim, more than the file has: \
                 {} bytes of theirs are not read",
                counted(shared.segments, "segment"),
                shared.bytes
            ));
        }
        if let Some(Absurd { address, size, rule, count }) = absurd {
            let more = count.saturating_sub(1);
            let more = if more > 0 { format!(" (and {more} more like it)") } else { String::new() };
            layout.notes.push(format!(
                "segment at {address:#x}: size {size:#x} {rule}; only what the core saved of it is used{more}"
            ));
        }
        layout
    }

    /// Adds a part to the region that it goes on with, or a region of its own.
    fn join(&mut self, part: &Part) {
        if let Some(last) = self.regions.last_mut() {
            let whole = last.saved == last.range.len();
            let touches = last.range.end() == part.range.start();
            if part.goes_on && touches && last.permissions == part.permissions && (whole || part.saved == 0) {
                let length = last.range.len().saturating_add(part.range.len());
                last.range = AddressRange::saturating(last.range.start(), length);
                last.saved = last.saved.saturating_add(part.saved);
                return;
            }
        }
        self.push(part.range, part.saved, part.permissions);
    }

    fn push(&mut self, range: AddressRange, saved: u64, permissions: Permissions) {
        self.regions.push(Region {
            range,
            permissions,
            kind: RegionKind::Anon,
            name: Name::default(),
            file_offset: 0,
            saved,
            rss: None,
            dirty: None,
        });
    }

    /// Gives regions the names of their files, and adds mappings that only `NT_FILE` lists.
    pub(super) fn name_files(&mut self, files: &[FileMapping]) {
        for region in &mut self.regions {
            let at = files.partition_point(|file| file.range.end() <= region.range.start());
            let Some(file) = files.get(at) else { continue };
            if let Some(inside) = region.range.start().checked_sub(file.range.start()) {
                region.name.clone_from(&file.path);
                region.file_offset = file.offset.saturating_add(inside);
            }
        }
        let held: Vec<_> = self.regions.iter().map(|region| region.range).collect();
        for file in files {
            for range in file.range.without(file.range.among(&held)) {
                let inside = range.start().saturating_sub(file.range.start());
                self.push(range, 0, Permissions::Unknown);
                if let Some(region) = self.regions.last_mut() {
                    region.name.clone_from(&file.path);
                    region.file_offset = file.offset.saturating_add(inside);
                }
            }
        }
        self.regions.sort_by_key(|region| region.range);
        // A hostile NT_FILE may list overlapping mappings.
        let mut end = 0;
        self.regions.retain(|region| {
            let apart = region.range.start() >= end;
            end = end.max(region.range.end());
            apart
        });
    }

    /// The pieces that tile the regions; neighbours that are neighbours in the file become one.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::with_capacity(self.regions.len());
        let mut parts = self.parts.iter().peekable();
        for region in &self.regions {
            let mut own = false;
            while let Some(part) = parts.next_if(|part| region.range.covers(part.range)) {
                own = true;
                let backing = if part.saved > 0 { Backing::Core(part.offset) } else { Backing::Nowhere };
                let first = region.range.start() == part.range.start();
                add(&mut pieces, Piece { range: part.range, backing }, !first);
            }
            if !own {
                add(&mut pieces, Piece { range: region.range, backing: Backing::Nowhere }, false);
            }
        }
        pieces
    }
}

/// Adds a piece, which goes on within a region where it is `inside` of one.
fn add(pieces: &mut Vec<Piece>, piece: Piece, inside: bool) {
    if let Some(last) = pieces.last_mut().filter(|last| last.range.end() == piece.range.start()) {
        let goes_on = match (last.backing, piece.backing) {
            (Backing::Core(first), Backing::Core(offset)) => first.saturating_add(last.range.len()) == offset,
            (Backing::Nowhere, Backing::Nowhere) => inside,
            _ => false,
        };
        if goes_on {
            let length = last.range.len().saturating_add(piece.range.len());
            last.range = AddressRange::saturating(last.range.start(), length);
            return;
        }
    }
    pieces.push(piece);
}

/// Writes what was found of the regions into them, and says what stays open.
pub(super) fn apply(regions: &mut [Region], findings: &[Finding], by_gcore: bool) -> Option<String> {
    let (mut open, mut open_bytes) = (0_u64, 0_u64);
    for (region, finding) in regions.iter_mut().zip(findings) {
        region.kind = finding.kind;
        if let Some(name) = finding.name {
            region.name = name.into();
        }
        if finding.kind == RegionKind::Special && region.name == "[vsyscall]" {
            region.permissions = Permissions::new(false, false, true);
        }
        if !by_gcore {
            continue;
        }
        // Observed: gcore writes mappings without permissions (guards, the
        // reserve of an arena) as readable zeros. Seen: gdb 13.1, where three
        // threads made 201 MB of them. An arena's heap header and a thread's
        // control block tell which they are; of the others nothing does.
        let read_only = region.permissions == Permissions::new(true, false, false);
        if finding.inaccessible {
            region.permissions = Permissions::new(false, false, false);
            // They stay readable; but no byte of them was the process's.
            region.saved = 0;
        } else if read_only && region.name.is_empty() {
            open = open.saturating_add(1);
            open_bytes = open_bytes.saturating_add(region.range.len());
        }
    }
    (open > 0).then(|| {
        format!(
            "gcore writes mappings without any permission as r--: {} with {open_bytes} bytes shown as r-- \
             may be ---",
            counted(open, "anonymous region")
        )
    })
}

/// Says how many mappings have permissions that nothing tells.
pub(super) fn unknown_permissions(regions: &[Region]) -> Option<String> {
    let unknown = regions.iter().filter(|region| region.permissions == Permissions::Unknown);
    let count = unknown.count() as u64;
    (count > 0).then(|| {
        format!(
            "permissions of {} are unknown (???): the core does not hold them, and no program or library \
             with their build-id is here",
            counted(count, "file mapping")
        )
    })
}

/// Says how much memory was saved although its flags do not let it be read.
pub(super) fn unreadable(regions: &[Region]) -> Option<String> {
    let flagged = |region: &&Region| {
        let readable =
            matches!(region.permissions, Permissions::Unknown | Permissions::Known { read: true, .. });
        region.mutable() && !readable && region.saved > 0
    };
    let found = || regions.iter().filter(flagged);
    let first = found().next()?;
    let bytes = found().map(|region| region.saved).fold(0, u64::saturating_add);
    Some(format!(
        "{} with {bytes} saved bytes cannot be read by the process ({}): searched and taken for roots all the same",
        counted(found().count() as u64, "region"),
        first.permissions
    ))
}

/// Whether all writable memory was saved, and what to say if not.
pub(super) fn completeness(regions: &[Region]) -> (bool, Option<String>) {
    let lost = regions.iter().filter(|region| region.permissions.writable());
    let lost = lost.map(|region| region.range.len().saturating_sub(region.saved)).filter(|lost| *lost > 0);
    let (count, bytes) = lost
        .fold((0_u64, 0_u64), |(count, bytes), lost| (count.saturating_add(1), bytes.saturating_add(lost)));
    let note = (count > 0).then(|| {
        format!("{bytes} writable bytes in {} were not saved in the core", counted(count, "region"))
    });
    (count == 0, note)
}

/// A count with its noun.
fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
