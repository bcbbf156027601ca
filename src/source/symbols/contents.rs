//! What one ELF file says of its sections and symbols.

use std::cmp::Ordering;

use object::FileKind;
use object::elf;
use object::endian::Endianness;
use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym, SymbolTable};
use object::read::{ReadCache, ReadRef, SectionIndex, SymbolIndex};

use crate::memory::Buffer;
use crate::source::file::FileView;

use super::names::readable;
use super::table::{Candidate, Entry, Table};

/// Symbols behind this many of one file are not read. The largest programs have some millions.
const MOST_SYMBOLS: usize = 1 << 24;

/// Longer names are cut, and shown as the file has them.
const MOST_NAME: u64 = 64 << 10;

/// The sections and symbols of a file.
#[derive(Debug)]
pub(super) struct Contents {
    file: FileView,
    /// Whether these are all symbols of the module, not only those that other modules may use.
    pub full: bool,
    tables: Tables,
}

#[derive(Debug)]
struct Tables {
    sections: Table,
    section_names: Strings,
    sized: Table,
    /// Symbols of no size, which name a place.
    labels: Table,
    names: Strings,
}

/// Where terminated names lie in the file.
#[derive(Clone, Copy, Debug)]
struct Strings {
    start: u64,
    end: u64,
}

impl Strings {
    /// Where the name at `offset` starts, and how far it may reach.
    fn span(self, offset: u32) -> Option<(u64, u64)> {
        let start = self.start.checked_add(offset.into())?;
        Some((start, self.end.checked_sub(start).filter(|rest| *rest > 0)?))
    }
}

impl Contents {
    /// The symbols of the file: all of them, or where those were taken out the ones for other modules.
    ///
    /// `None` where it has neither, or where its tables lie outside of it.
    pub(super) fn read(file: FileView) -> Option<Self> {
        [(elf::SHT_SYMTAB, true), (elf::SHT_DYNSYM, false)]
            .into_iter()
            .find_map(|(kind, full)| tables(&file, kind).map(|tables| (full, tables)))
            .map(|(full, tables)| Self { file, full, tables })
    }

    /// The symbol at the linked address `at`, as the file has it, and where it starts.
    pub(super) fn symbol_at(&self, at: u64) -> Option<(String, u64)> {
        let tables = &self.tables;
        let found = tables.sized.covering(at).or_else(|| self.label_at(at))?;
        Some((self.text(tables.names, found.name)?, found.start))
    }

    /// The linked addresses of what has that name, as the file has it or as people write it,
    /// with or without parameters.
    pub(super) fn named(&self, wanted: &str) -> Vec<u64> {
        let tables = &self.tables;
        // What a mangled name says contains the last part of the name that people write.
        let last = wanted.split('(').next().and_then(|name| name.rsplit("::").next()).unwrap_or_default();
        let called = |entry: &&Entry| {
            let Some(name) = self.text(tables.names, entry.name) else { return false };
            if name == wanted {
                return true;
            }
            if !name.contains(last) {
                return false;
            }
            let told = readable(&name);
            told == wanted || told.split('(').next() == Some(wanted)
        };
        tables.sized.iter().chain(tables.labels.iter()).filter(called).map(|entry| entry.start).collect()
    }

    /// Which of the names, as the file has them, are those of something in the module.
    pub(super) fn defined(&self, names: &[&str]) -> Vec<bool> {
        let mut found = vec![false; names.len()];
        let longest = names.iter().map(|name| name.len()).max().unwrap_or(0) as u64;
        let tables = &self.tables;
        let mut buffer = Buffer::default();
        if self.file.recheck().is_err() {
            return found;
        }
        for entry in tables.sized.iter().chain(tables.labels.iter()) {
            let Some((start, rest)) = tables.names.span(entry.name) else { continue };
            let most = rest.min(longest.saturating_add(1));
            let Ok(bytes) = self.file.view(start, most, &mut buffer) else { continue };
            for (found, name) in found.iter_mut().zip(names) {
                let own = bytes.strip_prefix(name.as_bytes());
                *found |= own.is_some_and(|rest| rest.first().is_none_or(|byte| *byte == 0));
            }
        }
        found
    }

    /// The last place with a name before `at` in its section, where nothing with a size lies between.
    fn label_at(&self, at: u64) -> Option<&Entry> {
        let section = self.tables.sections.covering(at)?;
        let label = self.tables.labels.before(at).filter(|label| label.start >= section.start)?;
        let between = self.tables.sized.before(at).is_some_and(|sized| sized.start >= label.start);
        (!between).then_some(label)
    }

    /// The name of the section at the linked address `at`.
    pub(super) fn section_at(&self, at: u64) -> Option<String> {
        self.text(self.tables.section_names, self.tables.sections.covering(at)?.name)
    }

    /// The name at `offset`, if the file still has it and it has a letter.
    fn text(&self, names: Strings, offset: u32) -> Option<String> {
        self.file.recheck().ok()?;
        let (start, rest) = names.span(offset)?;
        let mut buffer = Buffer::default();
        let bytes = self.file.view(start, rest.min(MOST_NAME), &mut buffer).ok()?;
        let name = bytes.split(|byte| *byte == 0).next()?;
        (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    }
}

fn tables(file: &FileView, kind: elf::SectionType) -> Option<Tables> {
    if let Some(bytes) = file.mapped() {
        return tables_in(bytes, kind);
    }
    tables_in(&ReadCache::new(file.reader().ok()?), kind)
}

fn tables_in<'data, R: ReadRef<'data>>(data: R, kind: elf::SectionType) -> Option<Tables> {
    match FileKind::parse(data).ok()? {
        FileKind::Elf32 => parse::<elf::FileHeader32<Endianness>, R>(data, kind),
        FileKind::Elf64 => parse::<elf::FileHeader64<Endianness>, R>(data, kind),
        _ => None,
    }
}

fn parse<'data, Elf, R>(data: R, kind: elf::SectionType) -> Option<Tables>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let header = Elf::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, data).ok()?;
    let symbols = sections.symbols(endian, data, kind).ok()?;
    let strings = |index: SectionIndex| {
        let (start, size) = sections.section(index).ok()?.file_range(endian)?;
        Some(Strings { start, end: start.checked_add(size)? })
    };
    let of_sections =
        header.shstrndx(endian, data).ok().and_then(|index| strings(SectionIndex(index as usize)));
    let names = strings(symbols.string_section())?;
    // Arm marks functions in Thumb code by the lowest bit of their address.
    let thumb = header.e_machine(endian) == elf::EM_ARM;
    let reading = Reading { endian, sections, symbols, names, data, thumb };
    let (sections, section_names) = match of_sections {
        Some(strings) => (reading.sections(), strings),
        None => (Table::default(), Strings { start: 0, end: 0 }),
    };
    let [sized, labels] = reading.symbols();
    if sized.is_empty() && labels.is_empty() {
        return None;
    }
    Some(Tables { sections, section_names, sized, labels, names })
}

/// A file that is being read.
struct Reading<'data, Elf: FileHeader, R: ReadRef<'data>> {
    endian: Endianness,
    sections: SectionTable<'data, Elf, R>,
    symbols: SymbolTable<'data, Elf, R>,
    names: Strings,
    data: R,
    thumb: bool,
}

impl<'data, Elf, R> Reading<'data, Elf, R>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    /// The sections in memory.
    fn sections(&self) -> Table {
        let endian = self.endian;
        // `.tbss` has an address and takes none.
        let none = |section: &&Elf::SectionHeader| {
            flag(*section, endian, elf::SHF_TLS) && section.sh_type(endian) == elf::SHT_NOBITS
        };
        let there = self.sections.iter().filter(|section| allocated(*section, endian) && !none(section));
        let found = there.map(|section| Candidate {
            start: section.sh_addr(endian).into(),
            size: section.sh_size(endian).into(),
            name: section.sh_name(endian),
            global: false,
        });
        Table::new(found.collect(), |_, _| Ordering::Equal)
    }

    /// The symbols with a size, and those without one.
    fn symbols(&self) -> [Table; 2] {
        let endian = self.endian;
        let (mut sized, mut labels) = (Vec::new(), Vec::new());
        for (index, symbol) in self.symbols.enumerate().take(MOST_SYMBOLS) {
            let kind = symbol.st_type();
            let Some(section) = self.section_of(index, symbol) else { continue };
            let mut found = Candidate {
                start: symbol.st_value(endian).into(),
                size: symbol.st_size(endian).into(),
                name: symbol.st_name(endian),
                global: !symbol.is_local(),
            };
            if self.thumb && kind == elf::STT_FUNC {
                found.start &= !1;
            }
            if found.size > 0 {
                sized.push(found);
            } else if self.label(&found, kind, section) {
                labels.push(found);
            }
        }
        [sized, labels].map(|found| Table::new(found, |one, other| self.better(one, other)))
    }

    /// The section of a symbol that names a place in the module's memory.
    fn section_of(&self, index: SymbolIndex, symbol: &Elf::Sym) -> Option<&'data Elf::SectionHeader> {
        let endian = self.endian;
        let kinds = [elf::STT_NOTYPE, elf::STT_OBJECT, elf::STT_FUNC, elf::STT_COMMON, elf::STT_GNU_IFUNC];
        if !kinds.contains(&symbol.st_type()) || symbol.st_name(endian) == 0 {
            return None;
        }
        let section = self.symbols.symbol_section(endian, symbol, index).ok()??;
        self.sections.section(section).ok().filter(|section| allocated(*section, endian))
    }

    /// Whether a symbol without a size names what lies behind it in its section.
    ///
    /// Folklore: `__TMC_END__` is the end of `.data` and the start of `.bss`. Assemblers
    /// mark where code turns into data (`$d`, `$x`) and places of their own (`.L1`).
    /// Seen: gcc 12; binutils for Arm and RISC-V.
    fn label(&self, found: &Candidate, kind: elf::SymbolType, section: &Elf::SectionHeader) -> bool {
        let inside = found.start.checked_sub(section.sh_addr(self.endian).into());
        if inside.is_none_or(|inside| inside >= section.sh_size(self.endian).into()) {
            return false;
        }
        let mark = || matches!(self.start_of(found.name), [b'$', ..] | [b'.', b'L', ..]);
        found.global || kind != elf::STT_NOTYPE || !mark()
    }

    /// Orders two names of one stretch by how few underscores they begin with: `malloc`
    /// is better than `__libc_malloc`.
    fn better(&self, one: u32, other: u32) -> Ordering {
        let underscores = |name| self.start_of(name).iter().take_while(|letter| **letter == b'_').count();
        underscores(other).cmp(&underscores(one))
    }

    /// The first letters of a name: a hostile file has millions of names of millions of letters.
    fn start_of(&self, name: u32) -> &'data [u8] {
        const LETTERS: u64 = 8;
        let span = self.names.span(name);
        let bytes = span.and_then(|(start, rest)| self.data.read_bytes_at(start, rest.min(LETTERS)).ok());
        bytes.unwrap_or_default()
    }
}

/// Whether the section takes addresses in memory.
fn allocated<Section: SectionHeader<Endian = Endianness>>(section: &Section, endian: Endianness) -> bool {
    flag(section, endian, elf::SHF_ALLOC)
}

fn flag<Section: SectionHeader<Endian = Endianness>>(
    section: &Section,
    endian: Endianness,
    flag: elf::SectionFlags,
) -> bool {
    section.sh_flags(endian).0 & flag.0 != 0
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_file_that_is_read_gives_the_symbols_of_one_that_is_mapped() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.split_whitespace().find(|word| word.contains("/libc")).unwrap();
        let file = FileView::open(Path::new(libc)).unwrap();
        let found = |tables: Option<Tables>| format!("{:?}", tables.unwrap());
        let read = ReadCache::new(file.reader().unwrap());
        assert_eq!(
            found(tables_in(file.mapped().unwrap(), elf::SHT_DYNSYM)),
            found(tables_in(&read, elf::SHT_DYNSYM))
        );
    }
}
