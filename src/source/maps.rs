//! Lists of regions as text: `/proc/PID/maps` and `smaps`, `pmap -x`, gdb's `info proc mappings`.
//!
//! One reader for all of them, because the same text comes live from the
//! system and saved from a person, and a mistake in it is told by its line.

use std::path::Path;

use crate::error::Error;
use crate::memory::{Permissions, Region, RegionKind};
use crate::range::AddressRange;

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
pub fn parse(path: &Path, text: &str) -> Result<Listing, Error> {
    let format = format(text).ok_or_else(|| {
        let known = "is none of: core, snapshot of leak-snapshot, output of pmap -x, text of /proc/PID/maps";
        Error::file(path, known)
    })?;
    let mut listing = Listing { format, regions: Vec::new(), program: None, pid: None };
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        let broken = |problem| Error::Line { path: path.to_owned(), line: index.saturating_add(1), problem };
        let region = match format {
            Format::Maps => maps_line(line, &mut listing.regions),
            Format::Pmap => pmap_line(line, &mut listing),
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
    Ok(listing)
}

/// Who wrote the text, told from its first lines.
fn format(text: &str) -> Option<Format> {
    text.lines().take(16).find_map(|line| {
        let mut words = line.split_whitespace();
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

fn region(range: AddressRange, permissions: Permissions, file_offset: u64, name: &str) -> Region {
    Region {
        range,
        permissions,
        kind: RegionKind::Anon,
        name: name.to_owned(),
        file_offset,
        saved: 0,
        rss: None,
        dirty: None,
    }
}

/// The rest of a line after `count` words.
fn after_words(line: &str, count: usize) -> &str {
    (0..count).fold(line, |rest, _| {
        let rest = rest.trim_start();
        rest.find(char::is_whitespace).and_then(|at| rest.get(at..)).unwrap_or_default()
    })
}

/// `562955885000-562955886000 r--p 00000000 fe:00 10027184      /tmp/exp/t`, or a field of `smaps`.
fn maps_line(line: &str, regions: &mut [Region]) -> Result<Option<Region>, String> {
    let mut words = line.split_whitespace();
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
    let (start, end) = ends.ok_or_else(|| format!("{first} is no range START-END in hex"))?;
    let range = AddressRange::new(start, end).map_err(|error| error.to_string())?;
    let letters = words.next().unwrap_or_default();
    let permissions = Permissions::from_letters(letters)
        .ok_or_else(|| format!("{letters:?} are no permissions like rw-p"))?;
    let offset = words.next().and_then(hex).unwrap_or(0);
    Ok(Some(region(range, permissions, offset, after_words(line, 5).trim_start())))
}

/// `000055f0c8f0e000     132       8       8 rw---   [ anon ]`
fn pmap_line(line: &str, listing: &mut Listing) -> Result<Option<Region>, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [pid, command @ ..] if pid.ends_with(':') => {
            listing.pid = pid.trim_end_matches(':').parse().ok();
            listing.program = Some(command.join(" ")).filter(|command| !command.is_empty());
            Ok(None)
        }
        [] | ["Address" | "total", ..] => Ok(None),
        [line, ..] if line.starts_with('-') => Ok(None),
        [address, size, rss, dirty, mode, ..] => {
            let start = hex(address).ok_or_else(|| format!("{address} is no address in hex"))?;
            // pmap -x writes `-` where the system does not say.
            let bytes = |number: &str| number.parse::<u64>().ok().map(|kb| kb.saturating_mul(1024));
            let length = bytes(size).ok_or_else(|| format!("{size} is no size in KiB"))?;
            let range = AddressRange::with_length(start, length).map_err(|error| error.to_string())?;
            let permissions = Permissions::from_letters(mode)
                .ok_or_else(|| format!("{mode:?} are no permissions like rw---"))?;
            let name = after_words(line, 5).trim();
            let name = match name {
                "[ anon ]" => "",
                "[ stack ]" => "[stack]",
                name => name,
            };
            let mut region = region(range, permissions, 0, name);
            (region.rss, region.dirty) = (bytes(rss), bytes(dirty));
            Ok(Some(region))
        }
        _ => Err("has fewer columns than Address Kbytes RSS Dirty Mode Mapping".to_owned()),
    }
}

/// `0x562955885000 0x562955886000 0x1000 0x0 r--p /tmp/exp/t`; permissions since gdb 12.
fn gdb_line(line: &str) -> Option<Region> {
    let number = |word: &str| word.strip_prefix("0x").and_then(hex);
    let mut words = line.split_whitespace();
    let (start, end) = (number(words.next()?)?, number(words.next()?)?);
    let (_, offset) = (number(words.next()?)?, number(words.next()?)?);
    let range = AddressRange::new(start, end).ok()?;
    let permissions = words.next().and_then(Permissions::from_letters);
    let name = after_words(line, if permissions.is_some() { 5 } else { 4 }).trim_start();
    Some(region(range, permissions.unwrap_or_default(), offset, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Listing {
        parse(Path::new("saved.txt"), text).unwrap()
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
        assert_eq!((heap.range.len(), heap.rss, heap.name.as_str()), (132 * 1024, Some(8192), ""));
        assert_eq!(listing.regions[2].name, "[stack]");
    }

    #[test]
    fn a_name_in_maps_keeps_its_blanks() {
        let text =
            "1000-2000 r-xp 00003000 fe:00 12    /opt/my program (deleted)\n2000-3000 rw-p 0 00:00 0\n";
        let regions = parsed(text).regions;
        assert_eq!((regions[0].name.as_str(), regions[0].file_offset), ("/opt/my program (deleted)", 0x3000));
        assert_eq!(regions[1].name, "");
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
        assert_eq!((region.permissions, region.name.as_str()), (Permissions::Unknown, "/a b"));
        let new = "Start Addr End Addr Size Offset Perms objfile\n0x1000 0x2000 0x1000 0x0 rw-p [heap]\n";
        let region = &parsed(new).regions[0];
        assert_eq!((region.permissions.to_string().as_str(), region.name.as_str()), ("rw-", "[heap]"));
    }

    #[test]
    fn a_broken_line_is_told_by_its_number_and_value() {
        let text = "1000-2000 rw-p 0 00:00 0\n3000-2000 rw-p 0 00:00 0\n";
        let error = parse(Path::new("m"), text).unwrap_err().to_string();
        assert!(error.starts_with("m: line 2: range at 0x3000"), "{error}");
        let text =
            PMAP.replace("     132       8       8 rw---   [ anon ]", "     13x       8       8 rw---");
        let error = parse(Path::new("m"), &text).unwrap_err().to_string();
        assert_eq!(error, "m: line 4: 13x is no size in KiB");
    }

    #[test]
    fn text_that_is_no_list_says_what_is_taken() {
        let error = parse(Path::new("m"), "hello world\n").unwrap_err().to_string();
        assert!(error.contains("pmap -x"), "{error}");
    }
}
