//! The debug information of a file, and of the file that it shares some of it with.
//!
//! Sections stay in the mapped file; only compressed ones (zlib, also in the older form
//! `.zdebug_info`, and zstd) are copied, and those of files that cannot be mapped. What
//! `dwz` moved into a file of its own (`.gnu_debugaltlink`) is read from there. Split debug
//! information (`.dwo`, `.dwp`) is not read: lines are known there, functions are not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gimli::{Dwarf, RunTimeEndian, SectionId};
use object::{CompressionFormat, Object, ObjectSection, ReadCache, ReadRef};

use crate::source::file::FileView;

use super::files::{Found, Sought, by_build_id, fetched, real};
use super::reader::{Bytes, Meter, Section};

/// How much of sections is copied at most, in all.
const MOST_COPIED: u64 = 2 << 30;

/// How many times larger a compressed section may become. Compilers' become 3 to 10 times larger.
const MOST_GROWTH: u64 = 256;

/// Sections that tell functions and lines; the others are not read.
const SECTIONS: [SectionId; 10] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugAranges,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
];

/// Debug information, and how many bytes it has.
pub(super) struct Loaded {
    pub dwarf: Dwarf<Section>,
    pub length: u64,
    /// All bytes of the mapped files, to see whether these are still whole.
    pub files: Vec<Section>,
}

/// That of the file, if it has any.
pub(super) fn load(found: Found, sought: &Sought, meter: &Arc<Meter>) -> Option<Loaded> {
    let path = found.path;
    let real = real(&path, &found.file);
    let mut left = MOST_COPIED;
    let main = Read::new(found.file, meter, &mut left)?;
    let mut dwarf = main.dwarf;
    let mut length = main.length;
    let mut files = Vec::from_iter(main.whole);
    if let Some((name, build_id)) = main.shared {
        let mut places = shared_files([Some(&*path), real.as_deref()], &name, &build_id, sought).into_iter();
        let shared = places.find_map(|place| {
            let shared = Read::new(FileView::open_named(&place).ok()?, meter, &mut left)?;
            (shared.build_id.as_ref() == Some(&build_id)).then_some(shared)
        });
        if let Some(shared) = shared {
            length = length.saturating_add(shared.length);
            files.extend(shared.whole);
            dwarf.set_sup(shared.dwarf);
        }
    }
    Some(Loaded { dwarf, length, files })
}

/// Where the file may be that the one at these paths shares debug information with.
fn shared_files(paths: [Option<&Path>; 2], name: &str, build_id: &[u8], sought: &Sought) -> Vec<PathBuf> {
    if build_id.is_empty() {
        return Vec::new();
    }
    let folders = paths.map(|path| path.and_then(Path::parent));
    let mut places: Vec<PathBuf> = match Path::new(name).strip_prefix("/") {
        Ok(inside) => sought.roots.iter().map(|root| root.join(inside)).collect(),
        Err(_) => folders.into_iter().flatten().map(|folder| folder.join(name)).collect(),
    };
    places.extend(by_build_id(&sought.roots, build_id));
    places.extend(fetched(build_id));
    places
}

/// One file that was read.
struct Read {
    dwarf: Dwarf<Section>,
    length: u64,
    whole: Option<Section>,
    /// The name and build-id of the file that it shares debug information with.
    shared: Option<(String, Vec<u8>)>,
    build_id: Option<Vec<u8>>,
}

impl Read {
    fn new(file: FileView, meter: &Arc<Meter>, left: &mut u64) -> Option<Self> {
        if file.mapped().is_none() {
            let cache = ReadCache::new(file.reader().ok()?);
            return Self::from(&cache, None, meter, left);
        }
        // Which end comes first is told below; here nothing is read by it.
        let whole = Section::new(Bytes::Mapped(file), meter, RunTimeEndian::Little);
        let bytes = whole.file()?.mapped()?;
        Self::from(bytes, Some(&whole), meter, left)
    }

    fn from<'data, R: ReadRef<'data>>(
        data: R,
        whole: Option<&Section>,
        meter: &Arc<Meter>,
        left: &mut u64,
    ) -> Option<Self> {
        let object = object::File::parse(data).ok()?;
        let little = object.is_little_endian();
        let endian = if little { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let none = Section::new(Bytes::Copied(Vec::new()), meter, endian);
        let mut length = 0_u64;
        let mut section = |id: SectionId| -> Section {
            let wanted = SECTIONS.contains(&id);
            let found = wanted.then(|| load_section(&object, id.name(), whole, meter, endian, left));
            let found = found.flatten().unwrap_or_else(|| none.clone());
            length = length.saturating_add(gimli::Reader::len(&found) as u64);
            found
        };
        let dwarf = Dwarf::load(|id| Ok::<_, ()>(section(id))).ok()?;
        dwarf.units().next().ok()??;
        let shared = object.gnu_debugaltlink().ok().flatten();
        let shared =
            shared.and_then(|(name, id)| Some((String::from_utf8(name.to_vec()).ok()?, id.to_vec())));
        let build_id = object.build_id().ok().flatten().map(<[u8]>::to_vec);
        Some(Self { dwarf, length, whole: whole.cloned(), shared, build_id })
    }
}

/// The bytes of a section, where they can be had.
fn load_section<'data, R: ReadRef<'data>>(
    object: &object::File<'data, R>,
    name: &str,
    whole: Option<&Section>,
    meter: &Arc<Meter>,
    endian: RunTimeEndian,
    left: &mut u64,
) -> Option<Section> {
    // GNU's older way to say that a section is compressed.
    let older = || object.section_by_name(&name.replacen(".debug", ".zdebug", 1));
    let section = object.section_by_name(name).or_else(older)?;
    let place = section.compressed_file_range().ok()?;
    let plain = place.format == CompressionFormat::None;
    if let Some(whole) = whole.filter(|_| plain) {
        return Some(whole.part(place.offset, place.uncompressed_size).with_endian(endian));
    }
    let growth = place.compressed_size.saturating_mul(MOST_GROWTH);
    if place.uncompressed_size > growth {
        return None;
    }
    *left = left.checked_sub(place.uncompressed_size)?;
    let data = section.compressed_data().ok()?.data;
    let bytes = unpacked(data, place.format, usize::try_from(place.uncompressed_size).ok()?)?;
    Some(Section::new(Bytes::Copied(bytes), meter, endian))
}

/// The `size` bytes that the data stands for.
fn unpacked(data: &[u8], format: CompressionFormat, size: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).ok()?;
    // Neither writes behind the space that there is.
    match format {
        CompressionFormat::None => bytes.extend_from_slice(data),
        CompressionFormat::Zlib => {
            let mut zlib = flate2::Decompress::new(true);
            zlib.decompress_vec(data, &mut bytes, flate2::FlushDecompress::Finish).ok()?;
        }
        CompressionFormat::Zstandard => {
            ruzstd::decoding::FrameDecoder::new().decode_all_to_vec(data, &mut bytes).ok()?;
        }
        _ => return None,
    }
    (bytes.len() == size).then_some(bytes)
}
