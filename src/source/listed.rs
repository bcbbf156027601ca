//! Regions without their bytes: what saved lists and snapshots are as memory.

use std::sync::Arc;

use crate::error::Error;
use crate::memory::{Buffer, Gap, Memory, Missing, Region, View, gap_before_next_region};
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
    let listing = maps::parse(view.path(), &String::from_utf8_lossy(&bytes))?;
    let mut listed = Listed::new(WordFormat::LITTLE_64, listing.regions, "list of regions");
    // Whoever lists a heap names it, except pmap, which calls it `[ anon ]`.
    let findings = kinds::classify(&listed, &Clues::default());
    for (region, finding) in listed.regions.iter_mut().zip(findings) {
        region.kind = finding.kind;
        if let Some(name) = finding.name {
            name.clone_into(&mut region.name);
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
