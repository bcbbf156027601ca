//! Modules of a core that does not list its mapped files: found by their headers in memory.
//!
//! Cores by qemu-user, by some crash handlers, and those whose `NT_FILE` is damaged. The
//! headers of a module (ELF specification, "Program Header") are at the start of its first
//! mapping and say which addresses its file takes. The loader's list (glibc, elf/link.h,
//! `struct r_debug`, `struct link_map`; the same in musl) says the names of the files.

use std::collections::{BTreeMap, BTreeSet};

use object::elf;

use crate::memory::Memory;
use crate::name::Name;
use crate::pages::PAGE;
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::source::elf::{Image, Segment, image_at};

use super::Core;
use super::notes::{self, FileMapping, LONGEST_NAME, Notes};

/// More modules than this no process has.
const MOST_MODULES: usize = 1 << 14;
const PAGE_MASK: u64 = PAGE - 1;

/// The mappings of the modules in `core`, as `NT_FILE` would list them, in address order.
pub(super) fn modules(core: &Core, notes: &Notes, machine: u16) -> Vec<FileMapping> {
    let vdso = notes.auxiliary(notes::AT_SYSINFO_EHDR);
    let images = images(core, vdso, machine);
    let names = names(core, &images);
    let executed = notes.auxiliary(notes::AT_EXECFN).and_then(|at| text(core, at));
    let typed =
        || notes.program.as_ref()?.split(|byte| *byte == b' ').next().map(|word| word.to_vec().into());
    let program = executed.or_else(typed);
    let mut files: Vec<FileMapping> = Vec::new();
    let mut end = 0;
    for (base, image) in &images {
        let known = names.get(&image.bias(*base));
        // Without AT_SYSINFO_EHDR only the loader's name for it tells the kernel's code.
        if known.is_some_and(|name| name.starts_with("linux-vdso") || name.starts_with("linux-gate")) {
            continue;
        }
        // The loader has no name for the program itself.
        let own = known.is_some_and(Name::is_empty) || started(image, *base, notes);
        let path = known.filter(|name| !name.is_empty()).or(program.as_ref().filter(|_| own)).cloned();
        let path = path.unwrap_or_else(|| Name::from(format!("module at {base:#x}")));
        for segment in image.segments.iter().filter(|segment| segment.loaded()) {
            let Some(mut file) = mapping(segment, image.bias(*base), &path) else { continue };
            // Segments may share a page, and modules may claim any addresses.
            let skip = end.max(file.range.start()).saturating_sub(file.range.start());
            if skip >= file.range.len() {
                continue;
            }
            let start = file.range.start().saturating_add(skip);
            file.range = AddressRange::saturating(start, file.range.end().saturating_sub(start));
            file.offset = file.offset.saturating_add(skip);
            end = file.range.end();
            files.push(file);
        }
    }
    files
}

/// What is said where modules were found.
pub(super) fn note(files: &[FileMapping]) -> Option<String> {
    let modules: BTreeSet<&Name> = files.iter().map(|file| &file.path).collect();
    let plural = if modules.len() == 1 { "module was" } else { "modules were" };
    (!modules.is_empty()).then(|| {
        format!(
            "the core does not say which files were mapped (NT_FILE): {} {plural} found by their headers in \
             memory",
            modules.len()
        )
    })
}

/// The modules whose headers start a region, by address.
fn images(core: &Core, vdso: Option<u64>, machine: u16) -> Vec<(u64, Image)> {
    let mut peek = Peek::new(core);
    let mut found: Vec<(u64, Image)> = Vec::new();
    for region in core.regions().iter().filter(|region| region.saved > 0) {
        let base = region.range.start();
        if Some(base) == vdso || found.len() >= MOST_MODULES || peek.bytes(base, 4) != Some(b"\x7fELF") {
            continue;
        }
        let Some(image) = image_at(core, base).filter(|image| image.machine == machine) else { continue };
        if mapped(core, &image, base) {
            found.push((base, image));
        }
    }
    found
}

/// Whether the module is mapped there, and this is not a copy of its file: its writable
/// segments are in regions.
fn mapped(core: &Core, image: &Image, base: u64) -> bool {
    let bias = image.bias(base);
    let kinds = [elf::ET_EXEC.0, elf::ET_DYN.0];
    let mut loads = image.segments.iter().filter(|segment| segment.loaded() && segment.memory_size > 0);
    let first = loads.clone().next().is_some_and(|segment| bias.wrapping_add(segment.address) == base);
    let there = |segment: &Segment| core.region_at(bias.wrapping_add(segment.address)).is_some();
    kinds.contains(&image.file_type) && first && loads.all(|load| there(load) || !load.flag(elf::PF_W))
}

/// The addresses that a segment's file takes once its module was moved by `bias`.
fn mapping(segment: &Segment, bias: u64, path: &Name) -> Option<FileMapping> {
    let address = bias.wrapping_add(segment.address);
    let start = address & !PAGE_MASK;
    let end = address.checked_add(segment.file_size)?.checked_add(PAGE_MASK)? & !PAGE_MASK;
    let range = AddressRange::new(start, end).ok().filter(|range| !range.is_empty())?;
    let offset = segment.offset & !PAGE_MASK;
    (segment.file_size > 0).then(|| FileMapping { range, offset, path: path.clone() })
}

/// Whether the module is the program: what the kernel started is in it.
fn started(image: &Image, base: u64, notes: &Notes) -> bool {
    let entry = notes.auxiliary(notes::AT_ENTRY);
    entry.is_some_and(|entry| base <= entry && entry < image.end(base))
}

/// The names in the loader's list, by how far each module was moved.
fn names(core: &Core, images: &[(u64, Image)]) -> BTreeMap<u64, Name> {
    const DT_DEBUG: u64 = 21;
    const MOST_ENTRIES: u64 = 256;
    let mut peek = Peek::new(core);
    let mut names = BTreeMap::new();
    // Of all lists together: the tables of many modules may lead to one long list.
    let mut seen = BTreeSet::new();
    for (base, image) in images {
        let bias = image.bias(*base);
        let Some(table) = image.segments.iter().find(|segment| segment.dynamic()) else { continue };
        let table = bias.wrapping_add(table.address);
        let mut entries = (0..MOST_ENTRIES).map_while(|index| {
            let key = peek.word_at(table, index.saturating_mul(2))?;
            let value = peek.word_at(table, index.saturating_mul(2).saturating_add(1))?;
            (key != 0).then_some((key, value))
        });
        let debug = entries.find(|(key, value)| *key == DT_DEBUG && *value != 0);
        let Some(mut link) = debug.and_then(|(_, debug)| peek.word_at(debug, 1)) else { continue };
        // The program comes first.
        let mut first = true;
        while link != 0 && seen.len() < MOST_MODULES && seen.insert(link) {
            let (Some(moved), Some(name), Some(next)) =
                (peek.word_at(link, 0), peek.word_at(link, 1), peek.word_at(link, 3))
            else {
                break;
            };
            if let Some(name) = text(core, name).filter(|name| first || !name.is_empty()) {
                names.entry(moved).or_insert(name);
            }
            first = false;
            link = next;
        }
    }
    names
}

/// The terminated text at `address`.
fn text(core: &Core, address: u64) -> Option<Name> {
    let mut bytes = Vec::new();
    let _ = core.append(AddressRange::saturating(address, LONGEST_NAME as u64), &mut bytes);
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some(Name::of_file(bytes.get(..end)?))
}
