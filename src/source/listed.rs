//! Regions without their bytes: what saved lists and snapshots are as memory.

use std::sync::Arc;

use crate::error::Error;
use crate::memory::{Buffer, Gap, Memory, Missing, Permissions, Region, View, gap_before_next_region};
use crate::range::AddressRange;
use crate::source::file::FileView;
use crate::source::kinds::{self, Clues};
use crate::source::maps::{self, Format};
use crate::source::{Origin, SourceKind, Target};
use crate::word::WordFormat;

/// Texts larger than this are no list of a process's regions.
const MOST_TEXT: u64 = 64 << 20;

/// Regions of which no byte was kept.
#[derive(Debug)]
pub struct Listed {
    format: WordFormat,
    regions: Vec<Region>,
    place: &'static str,
}

impl Listed {
    /// The regions, which must be in address order; `place` is what errors say did not keep the bytes.
    #[must_use]
    pub fn new(format: WordFormat, mut regions: Vec<Region>, place: &'static str) -> Self {
        for region in &mut regions {
            region.saved = 0;
        }
        Self { format, regions, place }
    }
}

/// The target in saved output of `pmap -x` or saved text of `/proc/PID/maps`.
///
/// # Errors
///
/// [`Error::File`] or [`Error::Line`] when it is neither.
pub fn open(view: &FileView) -> Result<Target, Error> {
    if view.length() > MOST_TEXT {
        return Err(Error::file(view.path(), "is no core, and too large for a list of regions"));
    }
    let bytes = view.bytes(0, view.length());
    let listing = maps::parse(view.path(), &bytes)?;
    let mut listed = Listed::new(WordFormat::LITTLE_64, listing.regions, "list of regions");
    // Whoever lists a heap names it, except pmap, which calls it `[ anon ]`.
    let vdso = if listing.format == Format::Pmap { unnamed_vdso(&listed.regions) } else { None };
    let findings = kinds::classify(&listed, &Clues { vdso, ..Clues::default() });
    for (region, finding) in listed.regions.iter_mut().zip(findings) {
        region.kind = finding.kind;
        if let Some(name) = finding.name {
            region.name = name.into();
        }
    }
    let mut origin = Origin {
        program: listing.program,
        pid: listing.pid,
        complete: false,
        ..Origin::new(SourceKind::Maps)
    };
    if listing.format == Format::Pmap {
        origin.notes.push(
            "pmap -x names no heap: the anonymous region behind the program's data is taken for it"
                .to_owned(),
        );
    }
    Ok(Target { memory: Arc::new(listed), origin })
}

/// Where the kernel's code lies in a list that calls it `[ anon ]`, as pmap's do.
///
/// Few pages that can be executed and not written, right behind the read-only
/// data that belong to them. Seen: procps 3.3 and 4.0.
fn unnamed_vdso(regions: &[Region]) -> Option<u64> {
    const LARGEST: u64 = 4 * 4096;
    let code = Permissions::new(true, false, true);
    let data = Permissions::new(true, false, false);
    let vdso = regions.windows(2).find(|pair| match pair {
        [before, region] => {
            let both = before.name.is_empty() && region.name.is_empty();
            let small = region.range.len() <= LARGEST && before.range.end() == region.range.start();
            both && small && before.permissions == data && region.permissions == code
        }
        _ => false,
    })?;
    vdso.last().map(|region| region.range.start())
}

impl Memory for Listed {
    fn word_format(&self) -> WordFormat {
        self.format
    }

    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn view<'a>(&'a self, range: AddressRange, _: &'a mut Buffer) -> View<'a> {
        let at = range.start();
        let gap = match self.region_at(at) {
            Some(region) => Gap {
                range: AddressRange::saturating(at, region.range.end().saturating_sub(at)),
                missing: Missing::NotSaved(self.place),
            },
            None => gap_before_next_region(&self.regions, at),
        };
        View { bytes: &[], gap: Some(gap) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pmap_lists_get_a_heap_and_the_kernels_own_mappings_told() {
        let text = "7:   ./sample\nAddress Kbytes RSS Dirty Mode Mapping\n\
            0000000000400000 4 4 0 r-x-- sample\n0000000000401000 4 4 4 rw--- sample\n\
            0000000000800000 132 8 8 rw---   [ anon ]\n00007f0000000000 16 0 0 r----   [ anon ]\n\
            00007f0000004000 8 4 0 r-x--   [ anon ]\n00007ffff0000000 132 12 12 rw---   [ stack ]\n";
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        let target = open(&FileView::open(file.path()).unwrap()).unwrap();
        let kinds: Vec<_> = target.memory.regions().iter().map(|region| region.kind.name()).collect();
        assert_eq!(kinds, ["file", "data", "heap", "special", "vdso", "stack"]);
        let error = target.memory.word(0x80_0000).unwrap_err().to_string();
        assert_eq!(error, "memory at 0x800000 was not saved in the list of regions");
    }
}
