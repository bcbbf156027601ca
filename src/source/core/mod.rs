//! Core files, as the kernel and gcore write them.
//!
//! A core is a list of segments, each with the bytes that were saved of it,
//! and notes on everything else. What was left out and can be had from the
//! program's files is read from them, if they are the same files ([`modules`]).

mod claims;
mod found;
mod layout;
mod merge;
mod modules;
mod notes;
mod rights;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object::elf;

use crate::error::{Error, reason};
use crate::memory::{Buffer, Gap, Memory, Missing, Region, View, gap_before_next_region};
use crate::name::Name;
use crate::pages::PAGE;
use crate::range::AddressRange;
use crate::source::elf::{BrokenNote, Image, file_image, notes as notes_in};
use crate::source::file::FileView;
use crate::source::holes;
use crate::source::kinds::{self, Clues};
use crate::source::{Files, Origin, SourceKind, Target};
use crate::word::WordFormat;

use claims::Claims;
use layout::Layout;
use modules::Module;
use notes::{Machine, Notes};

/// Notes larger than this are not those of a core; a hostile header may claim any size.
const MOST_NOTES: u64 = 256 << 20;

/// How much of notes may be in holes of the file: registers that are all zeros.
const MOST_ZEROS: u64 = 1 << 20;

/// Where a stretch of addresses has its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Backing {
    /// In the core, at this offset.
    Core(u64),
    /// In the file of this module, at this offset.
    Module { index: usize, offset: u64 },
    /// Nowhere.
    Nowhere,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    range: AddressRange,
    backing: Backing,
}

/// An opened core.
#[derive(Debug)]
struct Core {
    format: WordFormat,
    file: FileView,
    regions: Vec<Region>,
    /// In address order; they tile the regions.
    pieces: Vec<Piece>,
    modules: Vec<Module>,
}

/// The target in a core file.
///
/// # Errors
///
/// [`Error::File`] when the file is no core, is cut before the end of its
/// program headers, or is still being written.
pub(super) fn open(view: FileView, files: Files<'_>) -> Result<Target, Error> {
    let image = headers(&view)?;
    let mut layout = Layout::new(&image, view.length(), view.holes());
    refuse_growing(&view, layout.end)?;
    let (mut notes, notes_whole) = read_notes(&view, &image);
    if let Some(what) = other_than_process(&image, &notes) {
        return Err(Error::file(view.path(), what));
    }
    let by_gcore = layout.by_gcore || notes.by_gdb;
    if by_gcore {
        // Observed: gcore copies names from /proc/PID/maps with their escapes; the kernel
        // writes the names themselves. Seen: gdb 13.1.
        for file in &mut notes.files {
            file.path = Name::of_maps(file.path.bytes());
        }
    }
    let mut core = Core {
        format: image.format,
        pieces: layout.pieces(),
        regions: layout.regions.clone(),
        file: view,
        modules: Vec::new(),
    };
    let mut said = std::mem::take(&mut layout.notes);
    said.extend(notes.faults.said());
    if notes.files.iter().all(|file| file.path.is_empty()) {
        notes.files = found::modules(&core, &notes, image.machine);
        said.extend(found::note(&notes.files));
    }
    layout.name_files(&notes.files);
    core.pieces = layout.pieces();
    core.regions = std::mem::take(&mut layout.regions);
    if !notes_whole {
        said.push(
            "the core's notes are missing or cut: threads, mapped files and the names of regions are unknown"
                .to_owned(),
        );
    }
    said.extend(rights::complete(&mut core, &notes.files, notes.auxiliary(notes::AT_SYSINFO_EHDR)));
    let entry = notes.auxiliary(notes::AT_ENTRY);
    said.extend(modules::attach(&mut core, &notes.files, files, entry));
    let clues = Clues {
        entry,
        vdso: notes.auxiliary(notes::AT_SYSINFO_EHDR),
        random: notes.auxiliary(notes::AT_RANDOM),
        threads: &notes.threads,
    };
    let findings = kinds::classify(&core, &clues);
    said.extend(layout::apply(&mut core.regions, &findings, by_gcore));
    said.extend(layout::unknown_permissions(&core.regions));
    said.extend(layout::unreadable(&core.regions));
    let (complete, missing) = layout::completeness(&core.regions);
    said.extend(missing);
    let origin = Origin {
        architecture: Some(image.architecture()),
        program: notes.command(entry),
        pid: notes.pid,
        threads: notes.threads,
        complete: complete && notes_whole && layout.whole,
        executable: files.executable.map(Path::to_owned),
        sysroot: files.sysroot.map(Path::to_owned),
        notes: said,
        ..Origin::new(SourceKind::Core)
    };
    Ok(Target { memory: Arc::new(core), origin })
}

/// The core's headers.
fn headers(view: &FileView) -> Result<Image, Error> {
    let told = |cause: String| {
        let length = view.length();
        Error::file(view.path(), format!("is no whole core: {cause} (the file has {length} bytes)"))
    };
    let image = file_image(view).map_err(told)?;
    if image.file_type == elf::ET_CORE.0 {
        return Ok(image);
    }
    let problem = "is a program or library, not a core; give it with -exe (in gdb: file) and name the core";
    Err(Error::file(view.path(), problem))
}

/// Refuses a core that is still being written: what is missing now will be there soon.
fn refuse_growing(view: &FileView, end: u64) -> Result<(), Error> {
    const RECENT: Duration = Duration::from_secs(10);
    const WATCHED: Duration = Duration::from_millis(250);
    let age = view.modified()?.elapsed().unwrap_or_default();
    if view.length() >= end || age > RECENT {
        return Ok(());
    }
    std::thread::sleep(WATCHED);
    let now = view.length_now()?;
    if now == view.length() {
        return Ok(());
    }
    let problem = format!("is still being written ({now} of {end} bytes); try again when it is whole");
    Err(Error::file(view.path(), problem))
}

/// The notes, and whether they are all there.
fn read_notes(view: &FileView, image: &Image) -> (Notes, bool) {
    let mut notes = Notes::default();
    let mut whole = true;
    let mut found = false;
    let mut claims = Claims::default();
    let order = image.format.order;
    for segment in image.segments.iter().filter(|segment| segment.notes()) {
        let claimed = AddressRange::saturating(segment.offset, segment.file_size.min(MOST_NOTES));
        // Headers that share notes would have them read once for each.
        if claims.take(claimed, view.holes()) > 0 {
            whole = false;
            continue;
        }
        let size = claimed.len().min(view.holes().bytes(claimed).saturating_add(MOST_ZEROS));
        let bytes = view.bytes(segment.offset, size);
        let cut = bytes.len() as u64 != segment.file_size;
        whole &= !cut;
        // Observed: the alignment of the segment need not be that of its notes. Seen: writers
        // that align all segments alike; the kernel and gdb align notes to four bytes.
        let other = if segment.align == 8 { 4 } else { 8 };
        let fits = |align| notes_in(&bytes, order, align).all(|note| note.is_ok());
        let align = if !cut && !fits(segment.align) && fits(other) { other } else { segment.align };
        let listed = || notes_in(&bytes, order, align);
        listed().flatten().for_each(|note| notes.take_layout(&note, image));
        for note in listed() {
            match note {
                Ok(note) => {
                    found = true;
                    notes.take(&note, segment.offset.saturating_add(note.at), image);
                }
                Err(_) if cut => {}
                Err(BrokenNote { at, owner, contents }) => {
                    whole = false;
                    let place = segment.offset.saturating_add(at);
                    notes.fault(format!(
                        "note at {place:#x} of the core: lengths {owner} and {contents} lead beyond the end of \
                         the notes; it and what follows it are left out"
                    ));
                }
            }
        }
    }
    (notes, whole && found)
}

/// What the core is a dump of, if that is not a process.
fn other_than_process(image: &Image, notes: &Notes) -> Option<&'static str> {
    let saved = || image.segments.iter().filter(|segment| segment.loaded() && segment.file_size > 0);
    // Without tables of pages all that is known of memory is where it is physically.
    let physical =
        saved().all(|segment| segment.address == 0) && saved().any(|segment| segment.physical != 0);
    Some(match notes.machine.first() {
        Some(Machine::Qemu) => {
            "is a dump of a QEMU guest's memory, its kernel included, not a core of a process; crash and drgn \
             read it"
        }
        Some(Machine::Kernel) => {
            "is a dump of a kernel (vmcore), not a core of a process; crash and drgn read it"
        }
        Some(Machine::Xen) => "is a dump of a Xen domain's memory, not a core of a process; crash reads it",
        Some(Machine::VirtualBox) => {
            "is a dump of a VirtualBox guest's memory, its kernel included, not a core of a process"
        }
        None if physical => {
            "is a dump of physical memory (of a kernel or a guest), not a core of a process; crash and drgn \
             read it"
        }
        None => return None,
    })
}

impl Core {
    /// The piece that holds `address`.
    fn piece_at(&self, address: u64) -> Option<&Piece> {
        let index = self.pieces.partition_point(|piece| piece.range.end() <= address);
        self.pieces.get(index).filter(|piece| piece.range.contains(address))
    }

    /// The next hole in a piece of the core, from `at` on; empty, at the end of the piece, where there is none.
    ///
    /// It is made smaller to whole pages of memory: a word is in a hole or outside of it, wherever its
    /// segment begins in the file.
    fn hole(&self, piece: &Piece, at: u64) -> AddressRange {
        let none = AddressRange::saturating(piece.range.end(), 0);
        let Backing::Core(offset) = piece.backing else { return none };
        let place = |inside: u64| piece.range.start().saturating_add(inside);
        let mut from = at;
        // Of two pages beside `at` one may be left out; the hole after it is whole.
        for _ in 0..2 {
            let inside = from.saturating_sub(piece.range.start());
            let Some(hole) = self.file.holes().after(offset.saturating_add(inside)) else { return none };
            if hole.start().saturating_sub(offset) >= piece.range.len() {
                return none;
            }
            let start = place(hole.start().saturating_sub(offset)).checked_next_multiple_of(PAGE);
            let end = place(hole.end().saturating_sub(offset)).min(piece.range.end());
            let border = end & !(PAGE - 1);
            let end = if end == piece.range.end() { end } else { border };
            let start = start.unwrap_or(u64::MAX).max(at);
            if start < end {
                return AddressRange::saturating(start, end.saturating_sub(start));
            }
            from = place(hole.end().saturating_sub(offset));
        }
        none
    }
}

impl Memory for Core {
    fn word_format(&self) -> WordFormat {
        self.format
    }

    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn view<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
        let at = range.start();
        let Some(piece) = self.piece_at(at) else {
            return View { bytes: &[], gap: Some(gap_before_next_region(&self.regions, at)) };
        };
        let inside = at.saturating_sub(piece.range.start());
        let rest = AddressRange::saturating(at, piece.range.end().saturating_sub(at));
        let mut length = range.len().min(rest.len());
        if !self.file.holes().none() {
            let hole = self.hole(piece, at);
            let zeros = if hole.contains(at) { holes::lend(hole.len().min(length)) } else { &[] };
            if !zeros.is_empty() {
                return View { bytes: zeros, gap: None };
            }
            if hole.start() > at {
                length = length.min(hole.start().saturating_sub(at));
            }
        }
        let gap = |missing| Some(Gap { range: rest, missing });
        let read = match piece.backing {
            Backing::Nowhere => return View { bytes: &[], gap: gap(Missing::NotSaved("core")) },
            Backing::Core(offset) => self.file.view(offset.saturating_add(inside), length, buffer),
            Backing::Module { index, offset } => match self.modules.get(index) {
                Some(module) => module.file.view(offset.saturating_add(inside), length, buffer),
                None => Ok(&[][..]),
            },
        };
        match read {
            Ok([]) => View { bytes: &[], gap: gap(Missing::NotSaved("core")) },
            Ok(bytes) => View { bytes, gap: None },
            Err(cause) => View { bytes: &[], gap: gap(Missing::Unreadable(reason(&cause))) },
        }
    }

    fn zeros(&self, range: AddressRange) -> u64 {
        let at = range.start();
        let Some(piece) = self.piece_at(at).filter(|_| !self.file.holes().none()) else { return 0 };
        let hole = self.hole(piece, at);
        if hole.contains(at) { hole.len().min(range.len()) } else { 0 }
    }

    fn blank(&self, range: AddressRange) -> u64 {
        let at = range.start();
        match self.piece_at(at) {
            None => gap_before_next_region(&self.regions, at).range.len().min(range.len()),
            Some(piece) if piece.backing == Backing::Nowhere => {
                piece.range.end().saturating_sub(at).min(range.len())
            }
            Some(_) => self.zeros(range),
        }
    }

    fn recheck(&self) -> Result<(), Error> {
        self.file.recheck()?;
        self.modules.iter().try_for_each(|module| module.file.recheck())
    }
}
