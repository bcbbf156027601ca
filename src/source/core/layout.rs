//! From program headers and notes to regions: what a core holds, and what it only names.

use object::elf;

use crate::memory::{Permissions, Region, RegionKind};
use crate::name::Name;
use crate::range::AddressRange;
use crate::source::elf::Image;
use crate::source::kinds::Finding;

use super::notes::FileMapping;
use super::{Backing, Piece};

/// The regions of a core before anybody knows what they are for.
pub(super) struct Layout {
    pub regions: Vec<Region>,
    /// Where each region's saved bytes start in the core; as many as regions.
    offsets: Vec<u64>,
    /// Where the last saved byte should be in the file.
    pub end: u64,
    /// Whether the program headers look like gcore's.
    pub by_gcore: bool,
    pub notes: Vec<String>,
}

impl Layout {
    /// The regions that the program headers of a core of `length` bytes list.
    pub(super) fn new(image: &Image, length: u64) -> Self {
        let mut loads: Vec<_> = image
            .segments
            .iter()
            .filter(|segment| segment.loaded() && segment.memory_size.max(segment.file_size) > 0)
            .copied()
            .collect();
        loads.sort_by_key(|segment| segment.address);
        let end = image.segments.iter().map(|segment| segment.offset.saturating_add(segment.file_size)).max();
        // Folklore: gcore aligns its segments to one byte, the kernel to a page.
        // Seen: gdb 10.1 to 18.1. What follows from it is in `apply`.
        let by_gcore = !loads.is_empty() && loads.iter().all(|segment| segment.align <= 1);
        let mut layout = Self {
            regions: Vec::with_capacity(loads.len()),
            offsets: Vec::with_capacity(loads.len()),
            end: end.unwrap_or(0),
            by_gcore,
            notes: Vec::new(),
        };
        let (mut overlapping, mut cut_regions, mut cut_bytes) = (0_u64, 0_u64, 0_u64);
        for segment in loads {
            // Folklore: some writers leave the size in memory at zero and mean
            // the size in the file. Seen: binutils' test suite, old FreeBSD.
            let size = segment.memory_size.max(segment.file_size);
            let range = AddressRange::saturating(segment.address, size);
            let last_end = layout.regions.last().map_or(0, |last| last.range.end());
            if range.start() < last_end {
                overlapping = overlapping.saturating_add(1);
                continue;
            }
            let there = segment.file_size.min(length.saturating_sub(segment.offset));
            if there < segment.file_size {
                cut_regions = cut_regions.saturating_add(1);
                cut_bytes = cut_bytes.saturating_add(segment.file_size.saturating_sub(there));
            }
            layout.push(range, there.min(range.len()), segment.offset);
            if let Some(region) = layout.regions.last_mut() {
                region.permissions = Permissions::new(
                    segment.flag(elf::PF_R),
                    segment.flag(elf::PF_W),
                    segment.flag(elf::PF_X),
                );
            }
        }
        if length < layout.end {
            layout.notes.push(format!(
                "the core is cut short at {length} of {} bytes: {cut_bytes} bytes of {} are lost",
                layout.end,
                counted(cut_regions, "region")
            ));
        }
        if overlapping > 0 {
            layout.notes.push(format!(
                "{} of the core overlap others and were left out",
                counted(overlapping, "segment")
            ));
        }
        layout
    }

    fn push(&mut self, range: AddressRange, saved: u64, offset: u64) {
        self.offsets.push(offset);
        self.regions.push(Region {
            range,
            permissions: Permissions::Unknown,
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
                self.push(range, 0, 0);
                if let Some(region) = self.regions.last_mut() {
                    region.name.clone_from(&file.path);
                    region.file_offset = file.offset.saturating_add(inside);
                }
            }
        }
        let mut both: Vec<_> = self.regions.drain(..).zip(self.offsets.drain(..)).collect();
        both.sort_by_key(|(region, _)| region.range);
        // A hostile NT_FILE may list overlapping mappings.
        let mut end = 0;
        both.retain(|(region, _)| {
            let apart = region.range.start() >= end;
            end = end.max(region.range.end());
            apart
        });
        (self.regions, self.offsets) = both.into_iter().unzip();
    }

    /// The pieces that tile the regions; neighbours that are neighbours in the file become one.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::with_capacity(self.regions.len());
        for (region, offset) in self.regions.iter().zip(&self.offsets) {
            let start = region.range.start();
            let saved = AddressRange::saturating(start, region.saved);
            let rest = AddressRange::saturating(saved.end(), region.range.end().saturating_sub(saved.end()));
            for (range, backing) in [(saved, Backing::Core(*offset)), (rest, Backing::Nowhere)] {
                if range.is_empty() {
                    continue;
                }
                match (pieces.last_mut(), backing) {
                    (Some(Piece { range: last, backing: Backing::Core(first) }), Backing::Core(offset))
                        if last.end() == range.start() && first.saturating_add(last.len()) == offset =>
                    {
                        let length = last.len().saturating_add(range.len());
                        *last = AddressRange::saturating(last.start(), length);
                    }
                    _ => pieces.push(Piece { range, backing }),
                }
            }
        }
        pieces
    }
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
        // Folklore: gcore writes mappings that nobody may read (guards, the
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
            "permissions of {} are unknown (???): the core does not hold them, and \
             their files are not here or have another build-id",
            counted(count, "file mapping")
        )
    })
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
