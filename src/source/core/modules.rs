//! The files that a core's program had mapped: pages that the core leaves out are read from them.
//!
//! Only from the same file: the build-id in the core's memory and the one in
//! the file must agree. Only pages that cannot have changed: a writable page
//! that is not in the core is missing, whatever the file holds.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::path::Path;

use crate::memory::{Permissions, Region};
use crate::name::Name;
use crate::range::AddressRange;
use crate::source::Files;
use crate::source::elf::{Image, file_of, image_at, loaded};
use crate::source::file::FileView;

use super::notes::FileMapping;
use super::{Backing, Core, Piece};

/// How many absent files a note names.
const NAMED: usize = 5;

/// A mapped file that is the one the core was made with.
#[derive(Debug)]
pub(super) struct Module {
    pub file: FileView,
}

/// Finds the files, checks them, and lets them back the pages that the core leaves out.
///
/// Returns sentences on what is missing all the same.
pub(super) fn attach(
    core: &mut Core,
    mappings: &[FileMapping],
    files: Files<'_>,
    entry: Option<u64>,
) -> Vec<String> {
    let mut bases: BTreeMap<&Name, Option<u64>> = BTreeMap::new();
    for mapping in mappings {
        let base = bases.entry(&mapping.path).or_insert(None);
        if mapping.offset == 0 && base.is_none() {
            *base = Some(mapping.range.start());
        }
    }
    let started = entry.and_then(|entry| mappings.iter().find(|mapping| mapping.range.contains(entry)));
    let started = started.map(|mapping| &mapping.path);
    let mut absent: Vec<&Name> = Vec::new();
    let mut missing = 0_u64;
    let named = by_name(&core.regions);
    let base = started.and_then(|name| bases.get(name).copied().flatten());
    let other = files.executable.filter(|given| base.is_some_and(|base| another(core, base, given)));
    let mut notes: Vec<String> = other
        .map(|given| {
            format!(
                "{} is not the program of this core: its build-id differs, so nothing is read from it",
                Name::from(given.to_owned())
            )
        })
        .into_iter()
        .collect();
    let mut found_in: Vec<Piece> = Vec::new();
    for (name, base) in bases {
        let of_file = named.get(name).map_or(&[][..], Vec::as_slice);
        let lacking =
            of_file.iter().filter_map(|index| core.regions.get(*index)).filter(|region| wanting(region));
        if lacking.clone().next().is_none() {
            continue;
        }
        let lost = lacking.map(|region| region.range.len().saturating_sub(region.saved));
        let lost = lost.fold(0, u64::saturating_add);
        // Whoever names a program may compare its core with one of another program.
        let given = files.executable.filter(|_| started == Some(name)).map(Path::to_owned);
        let mut paths = given.into_iter().chain([files.place(name.path())]);
        let found = base.and_then(|base| {
            let (_, id) = loaded(core, base)?;
            let (file, image) = paths.find_map(|path| file_of(&path, &id))?;
            Some((base, file, image))
        });
        if let Some((base, file, image)) = found {
            back(core, of_file, base, file, &image, &mut found_in);
            continue;
        }
        let module = base.is_some_and(|base| image_at(core, base).is_some());
        if module || code(core, of_file, &files.place(name.path())) {
            absent.push(name);
            missing = missing.saturating_add(lost);
        }
    }
    replace(&mut core.pieces, found_in);
    if absent.is_empty() {
        return notes;
    }
    let named: Vec<String> = absent.iter().take(NAMED).map(ToString::to_string).collect();
    let more = absent.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    notes.push(format!(
        "{missing} bytes of file mappings were not saved and no file here has the build-id of theirs (-exe, \
         -sysroot; in gdb: file, set sysroot): {}{more}",
        named.join(", ")
    ));
    notes
}

/// Whether the file at `path` has another build-id than the module that was loaded at `base`.
fn another(core: &Core, base: u64, path: &Path) -> bool {
    loaded(core, base).is_some_and(|(_, id)| file_of(path, &id).is_none())
}

/// Whether one of these regions may hold code, so that the file at `path`, which they map, is a program
/// or library.
///
/// Files of data have no build-id (locale archives, caches of gconv): that they are missing says nothing
/// about `-exe` and `-sysroot`. Where gcore saved no byte of a mapping its permissions are unknown, and
/// the first bytes of the file decide, if it is here.
fn code(core: &Core, regions: &[usize], path: &Path) -> bool {
    // Once: a file may be mapped ten thousands of times.
    let elf =
        LazyCell::new(|| FileView::open_named(path).map_or(true, |file| file.bytes(0, 4) == b"\x7fELF"));
    regions.iter().filter_map(|index| core.regions.get(*index)).any(|region| match region.permissions {
        Permissions::Known { execute, .. } => execute,
        Permissions::Unknown => *elf,
    })
}

/// The places of the regions of each file: a process may have as many files as regions.
fn by_name(regions: &[Region]) -> BTreeMap<Name, Vec<usize>> {
    let mut named: BTreeMap<Name, Vec<usize>> = BTreeMap::new();
    for (index, region) in regions.iter().enumerate().filter(|(_, region)| !region.name.is_empty()) {
        named.entry(region.name.clone()).or_default().push(index);
    }
    named
}

/// Whether the region of a file wants bytes or permissions, and may have them from the file.
fn wanting(region: &Region) -> bool {
    let partly = region.saved < region.range.len() && !region.permissions.writable();
    partly || region.permissions == Permissions::Unknown
}

/// Lets the file back whatever its regions, at these places, lack: adds it to `found`.
fn back(
    core: &mut Core,
    regions: &[usize],
    base: u64,
    file: FileView,
    image: &Image,
    found_in: &mut Vec<Piece>,
) {
    let index = core.modules.len();
    let length = file.length();
    for region in regions {
        let Some(region) = core.regions.get_mut(*region) else { continue };
        if region.permissions == Permissions::Unknown {
            if let Some([read, write, execute]) = image.rights(base, region.range.start()) {
                region.permissions = Permissions::new(read, write, execute);
            }
        }
        // The headers tell the offset surely, NT_FILE only where its page size is right.
        let first = image.file_offset(base, region.range.start()).unwrap_or(region.file_offset);
        let at = first.saturating_add(region.saved);
        if region.permissions.writable() || image.changeable(base, region.range.start()) {
            continue;
        }
        let lacking = region.range.len().saturating_sub(region.saved);
        let found = lacking.min(length.saturating_sub(at));
        if found == 0 {
            continue;
        }
        let start = region.range.start().saturating_add(region.saved);
        region.saved = region.saved.saturating_add(found);
        let range = AddressRange::saturating(start, found);
        found_in.push(Piece { range, backing: Backing::Module { index, offset: at } });
    }
    core.modules.push(Module { file });
}

/// Puts each of `new` in the place of the part of a piece without backing that it covers.
///
/// Takes O(n log n) time for all of them together: a module may have as many pieces as the core.
fn replace(pieces: &mut Vec<Piece>, mut new: Vec<Piece>) {
    if new.is_empty() {
        return;
    }
    new.sort_by_key(|piece| piece.range);
    let mut new = new.into_iter().peekable();
    let mut tiles = Vec::with_capacity(pieces.len().saturating_add(new.len()));
    for old in pieces.drain(..) {
        let mut at = old.range.start();
        while let Some(piece) = new.next_if(|piece| piece.range.start() < old.range.end()) {
            let fits = old.range.covers(piece.range) && piece.range.start() >= at;
            if !fits || old.backing != Backing::Nowhere {
                continue;
            }
            let before = AddressRange::saturating(at, piece.range.start().saturating_sub(at));
            if !before.is_empty() {
                tiles.push(Piece { range: before, ..old });
            }
            tiles.push(piece);
            at = piece.range.end();
        }
        // What is behind the last one; all of a piece that nothing replaces, with its place in the file.
        if at == old.range.start() {
            tiles.push(old);
        } else if at < old.range.end() {
            tiles.push(Piece {
                range: AddressRange::saturating(at, old.range.end().saturating_sub(at)),
                ..old
            });
        }
    }
    *pieces = tiles;
}
