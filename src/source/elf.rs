//! ELF images as far as memory needs them: segments, notes and build-ids, from a file or from memory.

use std::path::Path;

use object::elf;
use object::endian::Endianness;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{FileKind, ReadCache, ReadRef};

use crate::error::reason;
use crate::memory::Memory;
use crate::range::AddressRange;
use crate::source::file::FileView;
use crate::word::{ByteOrder, WordFormat};

/// One program header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// `PT_LOAD`, `PT_NOTE`, …
    pub kind: u32,
    /// `PF_R`, `PF_W`, `PF_X`.
    pub flags: u32,
    /// Where its bytes start in the file.
    pub offset: u64,
    /// Where its first byte lies in memory, before any relocation.
    pub address: u64,
    /// Where that is in physical memory, which only dumps of machines say.
    pub physical: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes in memory.
    pub memory_size: u64,
    /// Alignment in the file.
    pub align: u64,
}

impl Segment {
    /// Whether its bytes are loaded into memory.
    #[must_use]
    pub fn loaded(&self) -> bool {
        self.kind == elf::PT_LOAD.0
    }

    /// Whether each thread gets a copy of it.
    #[must_use]
    pub fn thread_local(&self) -> bool {
        self.kind == elf::PT_TLS.0
    }

    /// Whether its bytes are notes.
    #[must_use]
    pub fn notes(&self) -> bool {
        self.kind == elf::PT_NOTE.0
    }

    /// The pages that it takes once its module was moved by `bias`.
    fn pages(&self, bias: u64) -> AddressRange {
        const PAGE_MASK: u64 = 0xfff;
        let start = bias.wrapping_add(self.address);
        let end = start.saturating_add(self.memory_size).saturating_add(PAGE_MASK) & !PAGE_MASK;
        let start = start & !PAGE_MASK;
        AddressRange::saturating(start, end.saturating_sub(start))
    }

    /// Whether it says where the table for the loader is.
    #[must_use]
    pub fn dynamic(&self) -> bool {
        self.kind == elf::PT_DYNAMIC.0
    }

    /// Whether the flag (`PF_R`, `PF_W`, `PF_X`) is set.
    #[must_use]
    pub fn flag(&self, flag: elf::ProgramFlags) -> bool {
        self.flags & flag.0 != 0
    }
}

/// What an ELF file's headers say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// Size and byte order of its words.
    pub format: WordFormat,
    /// `ET_CORE`, `ET_DYN`, …
    pub file_type: u16,
    /// `EM_X86_64`, …
    pub machine: u16,
    /// Its program headers, in the order of the file.
    pub segments: Vec<Segment>,
}

impl Image {
    /// The headers of the ELF file in `data`.
    ///
    /// # Errors
    ///
    /// What is wrong with the headers, in the words of the parser.
    pub fn parse<'data, R: ReadRef<'data>>(data: R) -> Result<Self, String> {
        Self::with_most(data, u64::MAX)
    }

    /// The same of a file that has bytes for so many program headers at the most.
    fn with_most<'data, R: ReadRef<'data>>(data: R, most: u64) -> Result<Self, String> {
        match FileKind::parse(data) {
            Ok(FileKind::Elf32) => parse::<elf::FileHeader32<Endianness>, R>(data, 4, most),
            Ok(FileKind::Elf64) => parse::<elf::FileHeader64<Endianness>, R>(data, 8, most),
            _ => Err("is not an ELF file".to_owned()),
        }
    }

    /// The machine's usual name: `x86_64`, `aarch64`, …
    #[must_use]
    pub fn architecture(&self) -> String {
        match elf::Machine(self.machine) {
            elf::EM_X86_64 => "x86_64",
            elf::EM_386 => "i386",
            elf::EM_AARCH64 => "aarch64",
            elf::EM_ARM => "arm",
            elf::EM_PPC64 => "powerpc64",
            elf::EM_PPC => "powerpc",
            elf::EM_S390 => "s390x",
            elf::EM_RISCV => "riscv",
            elf::EM_MIPS => "mips",
            other => return format!("machine-{}", other.0),
        }
        .to_owned()
    }

    /// How far the module whose file starts at `base` in memory was moved there.
    #[must_use]
    pub fn bias(&self, base: u64) -> u64 {
        let first = self.segments.iter().find(|segment| segment.loaded());
        let linked = first.map_or(0, |segment| segment.address.saturating_sub(segment.offset));
        base.wrapping_sub(linked)
    }

    /// The address after the last byte of the module loaded at `base`, bss included.
    #[must_use]
    pub fn end(&self, base: u64) -> u64 {
        let bias = self.bias(base);
        let ends = self.segments.iter().filter(|segment| segment.loaded());
        let ends = ends.map(|segment| segment.address.saturating_add(segment.memory_size));
        bias.wrapping_add(ends.max().unwrap_or(0))
    }

    /// Where the notes lie in memory once the module is loaded at `base`.
    pub fn notes_in_memory(&self, base: u64) -> impl Iterator<Item = (AddressRange, u64)> + '_ {
        let bias = self.bias(base);
        self.segments.iter().filter(|segment| segment.notes()).map(move |segment| {
            let start = bias.wrapping_add(segment.address);
            (AddressRange::saturating(start, segment.file_size), segment.align)
        })
    }

    /// The segment that the page at `address` belongs to once the module is loaded at `base`.
    ///
    /// By address, not by place in the file: two segments may share a page of
    /// the file, each mapping its own copy, as `ld -z separate-code` lays them out.
    fn segment_at(&self, base: u64, address: u64) -> Option<&Segment> {
        let bias = self.bias(base);
        self.segments.iter().find(|segment| segment.loaded() && segment.pages(bias).contains(address))
    }

    /// The segment of which each thread gets a copy.
    #[must_use]
    pub fn thread_local(&self) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.thread_local())
    }

    /// Whether the page at `address` is read-only although its segment is writable: it was relocated first.
    #[must_use]
    pub fn relocated(&self, base: u64, address: u64) -> bool {
        let writable = self.segment_at(base, address).is_some_and(|segment| segment.flag(elf::PF_W));
        writable && self.rights(base, address).is_some_and(|[_, write, _]| !write)
    }

    /// Whether the page at `address` may be read, written and executed once loaded at `base`.
    ///
    /// `None` where no segment holds it. Pages that are relocated first are
    /// read-only then although their segment is writable.
    #[must_use]
    pub fn rights(&self, base: u64, address: u64) -> Option<[bool; 3]> {
        let segment = self.segment_at(base, address)?;
        let bias = self.bias(base);
        let relocated = self
            .segments
            .iter()
            .any(|relro| relro.kind == elf::PT_GNU_RELRO.0 && relro.pages(bias).contains(address));
        let write = segment.flag(elf::PF_W) && !relocated;
        Some([segment.flag(elf::PF_R), write, segment.flag(elf::PF_X)])
    }

    /// Where in its file the byte at `address` is once the module is loaded at `base`.
    #[must_use]
    pub fn file_offset(&self, base: u64, address: u64) -> Option<u64> {
        let segment = self.segment_at(base, address)?;
        let linked = address.wrapping_sub(self.bias(base));
        Some(segment.offset.wrapping_add(linked.wrapping_sub(segment.address)))
    }

    /// Whether the page at `address` could be written at any time, also only while it was relocated.
    #[must_use]
    pub fn changeable(&self, base: u64, address: u64) -> bool {
        self.segment_at(base, address).is_none_or(|segment| segment.flag(elf::PF_W))
    }
}

fn parse<'data, Elf, R>(data: R, size: usize, most: u64) -> Result<Image, String>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let told = |error: object::Error| error.to_string();
    let header = Elf::parse(data).map_err(told)?;
    let endian = header.endian().map_err(told)?;
    let headers = header.program_headers(endian, data).map_err(told)?;
    if headers.len() as u64 > most {
        return Err(format!("{} program headers are more than the file has bytes for", headers.len()));
    }
    let segments = headers.iter().map(|header| Segment {
        kind: header.p_type(endian).0,
        flags: header.p_flags(endian).0,
        offset: header.p_offset(endian).into(),
        address: header.p_vaddr(endian).into(),
        physical: header.p_paddr(endian).into(),
        file_size: header.p_filesz(endian).into(),
        memory_size: header.p_memsz(endian).into(),
        align: header.p_align(endian).into(),
    });
    let order = match endian {
        Endianness::Little => ByteOrder::Little,
        Endianness::Big => ByteOrder::Big,
    };
    Ok(Image {
        format: WordFormat { size, order },
        file_type: header.e_type(endian).0,
        machine: header.e_machine(endian).0,
        segments: segments.collect(),
    })
}

/// One note: who wrote it, its type, its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note<'a> {
    /// Where its contents are among the notes.
    pub at: u64,
    /// The owner, `CORE` or `GNU`, without its terminator.
    pub owner: &'a [u8],
    /// The type, which means something only together with the owner.
    pub kind: u32,
    /// The contents.
    pub bytes: &'a [u8],
}

/// A note whose lengths lead beyond the end of the notes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrokenNote {
    /// Where its header is among the notes.
    pub at: u64,
    /// The length of its owner, as the header says it.
    pub owner: u64,
    /// The length of its contents, as the header says it.
    pub contents: u64,
}

/// Returns the notes in `bytes`; ends after the first one that does not fit.
///
/// A rest that is too short for a header, or starts with one that is all zeros, is padding.
pub fn notes(
    bytes: &[u8],
    order: ByteOrder,
    align: u64,
) -> impl Iterator<Item = Result<Note<'_>, BrokenNote>> {
    let align = if align == 8 { 8 } else { 4 };
    let mut next = Some(0_u64);
    std::iter::from_fn(move || {
        let at = next.take()?;
        // The 32-bit and the 64-bit note header are the same three 32-bit words.
        let mut header = slice(bytes, at, HEADER)?.chunks_exact(4).map(|word| order.value(word));
        let (owner, contents, kind) = (header.next()?, header.next()?, header.next()?);
        if (owner, contents, kind) == (0, 0, 0) {
            return None;
        }
        let broken = BrokenNote { at, owner, contents };
        let named = at.checked_add(HEADER)?;
        let body = named.checked_add(owner)?.checked_next_multiple_of(align)?;
        let (Some(name), Some(held)) = (slice(bytes, named, owner), slice(bytes, body, contents)) else {
            return Some(Err(broken));
        };
        next = body.checked_add(contents)?.checked_next_multiple_of(align);
        let length = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
        let name = name.get(..length).unwrap_or_default();
        Some(Ok(Note { at: body, owner: name, kind: u32::try_from(kind).unwrap_or_default(), bytes: held }))
    })
}

/// The length of a note's header.
const HEADER: u64 = 12;

/// The `length` bytes at `at`.
fn slice(bytes: &[u8], at: u64, length: u64) -> Option<&[u8]> {
    let (at, length) = (usize::try_from(at).ok()?, usize::try_from(length).ok()?);
    bytes.get(at..)?.get(..length)
}

/// The build-id among the notes in `bytes`.
#[must_use]
pub fn build_id(bytes: &[u8], order: ByteOrder, align: u64) -> Option<Vec<u8>> {
    let wanted = |note: &Note<'_>| note.owner == b"GNU" && note.kind == elf::NT_GNU_BUILD_ID.0;
    notes(bytes, order, align).map_while(Result::ok).find(wanted).map(|note| note.bytes.to_vec())
}

/// The bytes of a program header in files of 32 bits, the shorter ones.
const SMALLEST: u64 = 32;

/// The headers of an ELF file.
///
/// # Errors
///
/// What is wrong with them, in the words of the parser or of the system.
pub fn file_image(file: &FileView) -> Result<Image, String> {
    // A table in a hole of the file costs nothing to claim, and memory for each header.
    let most = file.holes().bytes(AddressRange::saturating(0, file.length())) / SMALLEST;
    if let Some(bytes) = file.mapped() {
        return Image::with_most(bytes, most);
    }
    let reader = file.reader().map_err(|cause| reason(&cause))?;
    Image::with_most(&ReadCache::new(reader), most)
}

/// The build-id of an ELF file with these headers.
#[must_use]
pub fn file_build_id(file: &FileView, image: &Image) -> Option<Vec<u8>> {
    // A hostile header may claim any size; a linker's notes are far smaller.
    const MOST: u64 = 1 << 20;
    image.segments.iter().filter(|segment| segment.notes()).find_map(|segment| {
        let bytes = file.bytes(segment.offset, segment.file_size.min(MOST));
        build_id(&bytes, image.format.order, segment.align)
    })
}

/// ELF headers and program headers fit into this many bytes in any module.
const HEADERS: u64 = 4096;

/// The headers of the module whose file starts at `base` in memory.
#[must_use]
pub fn image_at(memory: &dyn Memory, base: u64) -> Option<Image> {
    let mut headers = Vec::new();
    let _ = memory.append(AddressRange::saturating(base, HEADERS), &mut headers);
    Image::parse(headers.as_slice()).ok()
}

/// The headers and the build-id of the module whose file starts at `base` in memory.
#[must_use]
pub fn loaded(memory: &dyn Memory, base: u64) -> Option<(Image, Vec<u8>)> {
    let image = image_at(memory, base)?;
    let id = image.notes_in_memory(base).find_map(|(range, align)| {
        let range = AddressRange::saturating(range.start(), range.len().min(HEADERS));
        build_id(&memory.bytes(range).ok()?, image.format.order, align)
    })?;
    Some((image, id))
}

/// The ELF file at `path`, if it has that build-id.
#[must_use]
pub fn file_of(path: &Path, id: &[u8]) -> Option<(FileView, Image)> {
    // A path with a device's name, or "(deleted)" at its end, is no file.
    let file = FileView::open_named(path).ok()?;
    let image = file_image(&file).ok()?;
    (file_build_id(&file, &image)? == id).then_some((file, image))
}
