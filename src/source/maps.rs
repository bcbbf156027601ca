//! Lists of regions as text: `/proc/PID/maps` and `smaps`, `pmap -x`, gdb's `info proc mappings`.
//!
//! One reader for all of them, because the same text comes live from the
//! system and saved from a person, and a mistake in it is told by its line.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::Error;
use crate::memory::{Permissions, Region, RegionKind};
use crate::name::Name;
use crate::range::AddressRange;
use crate::text::lossless;

/// Who wrote the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// `/proc/PID/maps` or `smaps`.
    Maps,
    /// `pmap -x`.
    Pmap,
    /// `info proc mappings` in gdb.
    Gdb,
}

/// Regions as a text lists them, kinds not told yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// Who wrote the text.
    pub format: Format,
    /// In address order.
    pub regions: Vec<Region>,
    /// The command in the first line of `pmap -x`.
    pub program: Option<String>,
    /// The process in the first line of `pmap -x`.
    pub pid: Option<i32>,
}

/// The regions that `text` lists; `path` is what errors call it.
///
/// # Errors
///
/// [`Error::File`] when it is no such list, [`Error::Line`] when a line of it is broken.
pub fn parse(path: &Path, text: &[u8]) -> Result<Listing, Error> {
    let lines = lines(text);
    let format = format(&lines).ok_or_else(|| {
        let known = "is none of: core, snapshot of leak-snapshot, output of pmap -x, text of /proc/PID/maps";
        Error::file(path, known)
    })?;
    let mut listing = Listing { format, regions: Vec::new(), program: None, pid: None };
    let mut pmap = Pmap::default();
    for (index, line) in lines.iter().enumerate() {
        let broken = |problem| Error::Line { path: path.to_owned(), line: index.saturating_add(1), problem };
        let region = match format {
            Format::Maps => maps_line(line, &mut listing.regions),
            Format::Pmap => pmap.line(line, &mut listing),
            Format::Gdb => Ok(gdb_line(line)),
        };
        let Some(region) = region.map_err(broken)? else { continue };
        let end = listing.regions.last().map_or(0, |last| last.range.end());
        if region.range.start() < end {
            return Err(broken(format!(
                "{:#x} lies before the end of the line above, {end:#x}",
                region.range.start()
            )));
        }
        listing.regions.push(region);
    }
    if listing.regions.is_empty() {
        return Err(Error::file(path, "lists no region"));
    }
    pmap.finish(&mut listing.regions);
    Ok(listing)
}

/// The lines, with the blanks at their ends: a name may end in one.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    // A text that came by way of another system has a carriage return in each line.
    if lines.iter().all(|line| line.ends_with(b"\r")) {
        for line in &mut lines {
            *line = line.strip_suffix(b"\r").unwrap_or(line);
        }
    }
    lines
}

/// The words of a line before its name, as far as they are text.
fn words(line: &[u8]) -> impl Iterator<Item = &str> {
    line.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .map(|word| std::str::from_utf8(word).unwrap_or("\u{fffd}"))
}

/// Who wrote the text, told from its first lines.
fn format(lines: &[&[u8]]) -> Option<Format> {
    lines.iter().take(16).find_map(|line| {
        let mut words = words(line);
        match (words.next()?, words.next()?) {
            ("Address", "Kbytes") => Some(Format::Pmap),
            ("Start", "Addr") => Some(Format::Gdb),
            (range, permissions) => {
                let (start, end) = range.split_once('-')?;
                let numbers = hex(start).is_some() && hex(end).is_some();
                (numbers && Permissions::from_letters(permissions).is_some()).then_some(Format::Maps)
            }
        }
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn region(range: AddressRange, permissions: Permissions, file_offset: u64, name: Name) -> Region {
    Region { range, permissions, kind: RegionKind::Anon, name, file_offset, saved: 0, rss: None, dirty: None }
}

/// The rest of a line after `count` words, with the blanks before it.
fn after_words(line: &[u8], count: usize) -> &[u8] {
    (0..count).fold(line, |rest, _| {
        let rest = rest.trim_ascii_start();
        rest.iter().position(u8::is_ascii_whitespace).and_then(|at| rest.get(at..)).unwrap_or_default()
    })
}

/// The name at the end of a line of maps: all names there start with a letter, `/`, `[` or `(`.
fn name_after(line: &[u8], count: usize) -> Name {
    let rest = after_words(line, count);
    let blanks = rest.iter().take_while(|byte| **byte == b' ').count();
    Name::of_maps(rest.get(blanks..).unwrap_or_default())
}

/// `562955885000-562955886000 r--p 00000000 fe:00 10027184      /tmp/exp/t`, or a field of `smaps`.
fn maps_line(line: &[u8], regions: &mut [Region]) -> Result<Option<Region>, String> {
    let mut words = words(line);
    let Some(first) = words.next() else { return Ok(None) };
    if let Some(field) = first.strip_suffix(':') {
        let bytes =
            words.next().and_then(|number| number.parse::<u64>().ok()).map(|kb| kb.saturating_mul(1024));
        if let (Some(region), Some(bytes)) = (regions.last_mut(), bytes) {
            match field {
                "Rss" => region.rss = Some(bytes),
                "Shared_Dirty" | "Private_Dirty" => {
                    region.dirty = Some(region.dirty.unwrap_or(0).saturating_add(bytes));
                }
                _ => {}
            }
        }
        return Ok(None);
    }
    let ends = first.split_once('-').and_then(|(start, end)| Some((hex(start)?, hex(end)?)));
    let (start, end) = ends.ok_or_else(|| format!("{first} is not a range START-END in hex"))?;
    let range = AddressRange::new(start, end).map_err(|error| error.to_string())?;
    let letters = words.next().unwrap_or_default();
    let permissions = Permissions::from_letters(letters)
        .ok_or_else(|| format!("{letters:?} are not permissions like rw-p"))?;
    let offset = words.next().and_then(hex).unwrap_or(0);
    Ok(Some(region(range, permissions, offset, name_after(line, 5))))
}

/// Returns of each region in a text of `smaps` how many of its bytes are resident or swapped out.
pub(super) fn used(text: &[u8]) -> BTreeMap<AddressRange, u64> {
    let mut used = BTreeMap::new();
    let mut region = None;
    for line in lines(text) {
        let mut words = words(line);
        let Some(first) = words.next() else { continue };
        let mut bytes = || words.next()?.parse::<u64>().ok()?.checked_mul(1024);
        if let "Rss:" | "Swap:" = first {
            let sum: Option<&mut u64> = region.and_then(|range| used.get_mut(&range));
            if let Some((sum, bytes)) = sum.zip(bytes()) {
                *sum = bytes.saturating_add(*sum);
            }
        } else if let Some((start, end)) = first.split_once('-') {
            let range = hex(start).zip(hex(end)).and_then(|(start, end)| AddressRange::new(start, end).ok());
            region = range;
            used.extend(range.map(|range| (range, 0)));
        }
    }
    used
}

/// What a line of `/proc/PID/maps` says of a mapping beside its region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mapping {
    /// Where it is.
    pub range: AddressRange,
    /// Whether other processes see what is written there.
    pub shared: bool,
    /// Major and minor number of the device of its file.
    pub device: (u32, u32),
    /// The inode of its file, 0 where there is none.
    pub inode: u64,
}

/// Returns the mappings in a text of `maps` or `smaps`, in its order.
pub(super) fn mappings(text: &[u8]) -> Vec<Mapping> {
    lines(text).into_iter().filter_map(mapping).collect()
}

fn mapping(line: &[u8]) -> Option<Mapping> {
    let mut words = words(line);
    let (start, end) = words.next()?.split_once('-')?;
    let range = AddressRange::new(hex(start)?, hex(end)?).ok()?;
    let shared = words.next()?.ends_with('s');
    let (major, minor) = words.nth(1)?.split_once(':')?;
    let part = |text| u32::from_str_radix(text, 16).ok();
    Some(Mapping { range, shared, device: (part(major)?, part(minor)?), inode: words.next()?.parse().ok()? })
}

/// Returns the mappings in a text of `smaps` whose missing pages `userfaultfd` serves, in its order.
///
/// Linux, Documentation/filesystems/proc.rst: `um` are pages that are not there, `ui` such as are
/// in the page cache. What is protected from writes (`uw`) is read as usual.
pub(super) fn served(text: &[u8]) -> Vec<AddressRange> {
    let mut found = Vec::new();
    let mut range = None;
    for line in lines(text) {
        if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            let serves = words(flags).any(|flag| flag == "um" || flag == "ui");
            found.extend(range.take().filter(|_| serves));
        } else if let Some(mapping) = mapping(line) {
            range = Some(mapping.range);
        }
    }
    found
}

/// What tells pmap's own words from names of files.
///
/// procps 4.0, src/pmap.c, `mapping_name`: the part after the last slash, or, with two blanks
/// before it, `[ anon ]`, `[ stack ]` (in the words of the locale) or `[ shmid=0x1 ]`. With -k
/// the kernel's names are there, without blanks, as files of such names are without -k.
#[derive(Default)]
struct Pmap {
    /// Where the header has Mode, and how many blanks are between mode and name.
    columns: Option<(usize, usize)>,
    /// Which lines of regions have pmap's own word for the stack.
    stacks: Vec<usize>,
    /// How many regions there were before this line.
    index: usize,
}

impl Pmap {
    /// `000055f0c8f0e000     132       8       8 rw---   [ anon ]`
    fn line(&mut self, line: &[u8], listing: &mut Listing) -> Result<Option<Region>, String> {
        const MODE: usize = 5;
        self.index = listing.regions.len();
        let words: Vec<&str> = words(line).take(16).collect();
        match words.as_slice() {
            [pid, ..] if pid.ends_with(':') => {
                listing.pid = pid.trim_end_matches(':').parse().ok();
                let command = lossless(after_words(line, 1).trim_ascii());
                listing.program = Some(command).filter(|command| !command.is_empty());
                Ok(None)
            }
            ["Address", ..] => {
                let place = |word: &[u8]| line.windows(word.len()).position(|window| window == word);
                let columns = place(b"Mode").zip(place(b"Mapping"));
                let blanks = |(mode, name): (usize, usize)| {
                    Some((mode, name.checked_sub(mode)?.checked_sub(MODE).filter(|blanks| *blanks > 0)?))
                };
                self.columns = columns.and_then(blanks);
                Ok(None)
            }
            [] | ["total", ..] => Ok(None),
            [line, ..] if line.starts_with('-') => Ok(None),
            [address, size, rss, dirty, mode, ..] => {
                let start = hex(address).ok_or_else(|| format!("{address} is not an address in hex"))?;
                // pmap -x writes `-` where the system does not say.
                let bytes = |number: &str| number.parse::<u64>().ok().map(|kb| kb.saturating_mul(1024));
                let length = bytes(size).ok_or_else(|| format!("{size} is not a size in KiB"))?;
                let range = AddressRange::with_length(start, length).map_err(|error| error.to_string())?;
                let permissions = Permissions::from_letters(mode)
                    .ok_or_else(|| format!("{mode:?} are not permissions like rw---"))?;
                let mut region = region(range, permissions, 0, self.name(line));
                (region.rss, region.dirty) = (bytes(rss), bytes(dirty));
                Ok(Some(region))
            }
            _ => Err("has fewer columns than Address Kbytes RSS Dirty Mode Mapping".to_owned()),
        }
    }

    /// The name at the end of a line.
    fn name(&mut self, line: &[u8]) -> Name {
        let rest = after_words(line, 5);
        let mode_ends = line.len().saturating_sub(rest.len());
        // A text that was edited has its columns elsewhere, and any number of blanks.
        let aligned = self.columns.filter(|(mode, _)| mode.checked_add(5) == Some(mode_ends));
        let Some((_, blanks)) = aligned else {
            return self.own_word(rest.trim_ascii()).unwrap_or_else(|| Name::of_maps(rest.trim_ascii()));
        };
        let name = rest.get(blanks..).unwrap_or_default();
        let own = name.strip_prefix(b"  ").and_then(|word| self.own_word(word));
        own.unwrap_or_else(|| Name::of_maps(name))
    }

    /// The name that a word of pmap's own stands for.
    fn own_word(&mut self, word: &[u8]) -> Option<Name> {
        let inner = word.strip_prefix(b"[ ")?.strip_suffix(b" ]")?;
        if inner == b"stack" {
            self.stacks.push(self.index);
            return Some("[stack]".into());
        }
        let shared = inner.starts_with(b"shmid=");
        Some(if shared { [b"SYSV ", inner].concat().into() } else { Name::default() })
    }

    /// Decides what names in brackets are: the kernel's, or those of files.
    fn finish(self, regions: &mut [Region]) {
        if self.stacks.is_empty() {
            return;
        }
        for (index, region) in regions.iter_mut().enumerate() {
            if self.stacks.binary_search(&index).is_err() {
                region.name = Name::of_file(region.name.bytes());
            }
        }
    }
}

/// `0x562955885000 0x562955886000 0x1000 0x0 r--p /tmp/exp/t`; permissions since gdb 12.
fn gdb_line(line: &[u8]) -> Option<Region> {
    let number = |word: &str| word.strip_prefix("0x").and_then(hex);
    let mut words = words(line);
    let (start, end) = (number(words.next()?)?, number(words.next()?)?);
    let (_, offset) = (number(words.next()?)?, number(words.next()?)?);
    let range = AddressRange::new(start, end).ok()?;
    let permissions = words.next().and_then(Permissions::from_letters);
    let name = name_after(line, if permissions.is_some() { 5 } else { 4 });
    Some(region(range, permissions.unwrap_or_default(), offset, name))
}

/// The resident bytes of each of `regions`, as `listed` has them, which is of another moment.
///
/// Both are in address order. `None` where the list has no such numbers: without smaps.
pub(super) fn resident_of(regions: &[Region], listed: &[Region]) -> Option<Vec<u64>> {
    if listed.iter().all(|region| region.rss.is_none()) {
        return None;
    }
    let of = |region: &Region| {
        let first = listed.partition_point(|other| other.range.end() <= region.range.start());
        let own = listed.get(first..).unwrap_or_default().iter();
        let own = own.take_while(|other| other.range.start() < region.range.end());
        let sum = own.filter_map(|other| other.rss).fold(0, u64::saturating_add);
        sum.min(region.range.len())
    };
    Some(regions.iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Listing {
        parse(Path::new("saved.txt"), text.as_bytes()).unwrap()
    }

    const PMAP: &str = "2804:   ./sample one two
Address           Kbytes     RSS   Dirty Mode  Mapping
0000562955885000       4       4       0 r---- sample
0000562971b90000     132       8       8 rw---   [ anon ]
00007fff33a73000     132      12      12 rw---   [ stack ]
---------------- ------- ------- -------
total kB             268      24      20
";

    #[test]
    fn pmap_sizes_are_kib_and_its_words_for_unnamed_memory_are_no_names() {
        let listing = parsed(PMAP);
        assert_eq!((listing.format, listing.pid), (Format::Pmap, Some(2804)));
        assert_eq!(listing.program.as_deref(), Some("./sample one two"));
        let heap = &listing.regions[1];
        assert_eq!((heap.range.len(), heap.rss), (132 * 1024, Some(8192)));
        assert!(heap.name.is_empty());
        assert_eq!(listing.regions[2].name, "[stack]");
    }

    #[test]
    fn a_name_in_maps_keeps_its_blanks() {
        let text =
            "1000-2000 r-xp 00003000 fe:00 12    /opt/my program (deleted)\n2000-3000 rw-p 0 00:00 0\n";
        let regions = parsed(text).regions;
        assert_eq!(regions[0].name, "/opt/my program (deleted)");
        assert_eq!(regions[0].file_offset, 0x3000);
        assert_eq!(regions[1].name, "");
    }

    #[test]
    fn a_name_keeps_every_byte_of_it_but_the_escaped_end_of_a_line() {
        let line = b"1000-2000 r-xp 00003000 fe:00 12    ";
        let names: [(&[u8], &[u8]); 6] = [
            (b"/a b  ", b"/a b  "),
            (b"/a\\012b\\n\\x0a", b"/a\nb\\n\\x0a"),
            (b"/\ttab\x0b\r", b"/\ttab\x0b\r"),
            (b"/\xff\xc3\xa4", b"/\xff\xc3\xa4"),
            (b"/x (deleted) (deleted)", b"/x (deleted) (deleted)"),
            (b"[anon:a b]", b"[anon:a b]"),
        ];
        for (listed, name) in names {
            let other = b"2000-3000 rw-p 0 00:00 0 ";
            let text = [&line[..], listed, b"\n", other, b"\n"].concat();
            let regions = parse(Path::new("m"), &text).unwrap().regions;
            assert_eq!(regions[0].name.bytes(), name);
            assert!(regions[1].name.is_empty());
        }
    }

    #[test]
    fn carriage_returns_that_end_all_lines_belong_to_no_name() {
        let text = "1000-2000 r-xp 0 fe:00 12    /a\r\n2000-3000 rw-p 0 00:00 0\r\n";
        assert_eq!(parsed(text).regions[0].name, "/a");
    }

    #[test]
    fn files_that_are_called_like_pmaps_own_words_are_files() {
        let listed = "Address           Kbytes     RSS   Dirty Mode  Mapping
0000000000400000       4       4       0 r-x--  leading
0000000000401000       4       4       0 r---- [heap]
0000000000402000       4       4       0 r---- [ anon ]
0000000000403000       4       4       0 rw---   [ anon ]
0000000000404000       4       4       0 rw-s-   [ shmid=0x8 ]
0000000000405000       4       4       0 r---- trailing 
0000000000406000       4       4       0 rw---   [ stack ]
";
        let names: Vec<_> = parsed(listed).regions.into_iter().map(|region| region.name).collect();
        let expected = [" leading", "./[heap]", "./[ anon ]", "", "SYSV shmid=0x8", "trailing ", "[stack]"];
        assert_eq!(names, expected);
    }

    #[test]
    fn the_kernels_names_that_pmap_shows_where_asked_to_are_kept() {
        let listed = "Address           Kbytes     RSS   Dirty Mode  Mapping
0000000000403000       4       4       0 rw--- [heap]
0000000000406000       4       4       0 rw--- [stack]
";
        let names: Vec<_> = parsed(listed).regions.into_iter().map(|region| region.name).collect();
        assert_eq!(names, ["[heap]", "[stack]"]);
    }

    #[test]
    fn mappings_have_their_file_and_whether_they_are_shared() {
        let text = b"1000-2000 rw-s 0 00:2a 77 /dev/shm/a b\nRss: 4 kB\nVmFlags: rd wr sh ui\n\
                     2000-3000 rw-p 0 fe:00 0\nVmFlags: rd wr uw\n3000-4000 rw-p 0 00:00 0 \nVmFlags: um rd\n";
        let range = |start| AddressRange::new(start, start + 0x1000).unwrap();
        let mapping = |start, shared, device, inode| Mapping { range: range(start), shared, device, inode };
        let expected = [
            mapping(0x1000, true, (0, 0x2a), 77),
            mapping(0x2000, false, (0xfe, 0), 0),
            mapping(0x3000, false, (0, 0), 0),
        ];
        assert_eq!(mappings(text), expected);
        assert_eq!(served(text), [range(0x1000), range(0x3000)]);
    }

    #[test]
    fn smaps_give_resident_and_dirty_bytes() {
        let text =
            "1000-2000 rw-p 0 00:00 0\nRss: 4 kB\nShared_Dirty: 1 kB\nPrivate_Dirty: 2 kB\nVmFlags: rd wr\n";
        let region = &parsed(text).regions[0];
        assert_eq!((region.rss, region.dirty), (Some(4096), Some(3072)));
    }

    #[test]
    fn gdb_lists_with_and_without_permissions() {
        let old = "process 12\nMapped address spaces:\n\n Start Addr End Addr Size Offset objfile\n 0x1000 0x2000 0x1000 0x0 /a b\n";
        let region = &parsed(old).regions[0];
        assert_eq!(region.permissions, Permissions::Unknown);
        assert_eq!(region.name, "/a b");
        let new = "Start Addr End Addr Size Offset Perms objfile\n0x1000 0x2000 0x1000 0x0 rw-p [heap]\n";
        let region = &parsed(new).regions[0];
        assert_eq!(region.permissions.to_string(), "rw-");
        assert_eq!(region.name, "[heap]");
    }

    #[test]
    fn a_broken_line_is_told_by_its_number_and_value() {
        let text = "1000-2000 rw-p 0 00:00 0\n3000-2000 rw-p 0 00:00 0\n";
        let error = parse(Path::new("m"), text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("m: line 2: range at 0x3000"), "{error}");
        let text =
            PMAP.replace("     132       8       8 rw---   [ anon ]", "     13x       8       8 rw---");
        let error = parse(Path::new("m"), text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "m: line 4: 13x is not a size in KiB");
    }

    #[test]
    fn text_that_is_no_list_says_what_is_taken() {
        let error = parse(Path::new("m"), b"hello world\n").unwrap_err().to_string();
        assert!(error.contains("pmap -x"), "{error}");
    }
}
