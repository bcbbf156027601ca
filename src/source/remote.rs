//! Targets that only gdb reaches: gdbserver, vgdb, rr, emulators.
//!
//! gdb answers on its own thread alone, so bytes are fetched there first, and
//! kept in an unlinked sparse file from which any thread reads them.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::{Error, reason};
use crate::memory::{
    Buffer, Gap, Memory, Missing, Permissions, Place, Region, RegionKind, View, gap_before_next_region,
};
use crate::name::Name;
use crate::range::AddressRange;
use crate::source::file;
use crate::source::kinds::{self, Clues};
use crate::source::{Origin, SourceKind, Target};
use crate::word::WordFormat;

const PAGE: u64 = 4096;

/// Bytes asked of gdb at a time.
const FETCH: u64 = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Unasked,
    Kept,
    Unreadable,
}

/// Memory that was fetched through gdb.
#[derive(Debug)]
pub struct Remote {
    format: WordFormat,
    regions: Vec<Region>,
    /// For each region, the number of its first page among all pages.
    first_pages: Vec<u64>,
    pages: RwLock<Vec<Page>>,
    kept: File,
}

impl Remote {
    /// A target with these regions, in address order, of which nothing was fetched yet.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when there is no room for a temporary file, [`Error::Request`]
    /// when the regions are too large to keep track of.
    pub fn new(format: WordFormat, regions: Vec<Region>) -> Result<Self, Error> {
        // One byte for each page of at most 16 TiB.
        const MOST_PAGES: u64 = 1 << 32;
        let kept = tempfile::tempfile().map_err(|cause| Error::file(std::env::temp_dir(), reason(&cause)))?;
        let mut first_pages = Vec::with_capacity(regions.len());
        let mut count = 0_u64;
        for region in &regions {
            first_pages.push(count);
            count = count.saturating_add(region.range.len().div_ceil(PAGE));
        }
        if count > MOST_PAGES {
            return Err(Error::Request {
                thing: "target's regions",
                value: format!("{count} pages"),
                rule: format!("are more than {MOST_PAGES} pages, which is all that can be read through gdb"),
            });
        }
        let pages = vec![Page::Unasked; usize::try_from(count).unwrap_or_default()];
        Ok(Self { format, regions, first_pages, pages: RwLock::new(pages), kept })
    }

    /// The page that holds `address`: its number, and its part of the region.
    fn page(&self, address: u64) -> Option<(u64, AddressRange)> {
        let after = self.regions.partition_point(|region| region.range.start() <= address);
        let index = after.checked_sub(1)?;
        let region = self.regions.get(index).filter(|region| region.range.contains(address))?;
        let inside = address.saturating_sub(region.range.start()).checked_div(PAGE)?;
        let number = self.first_pages.get(index)?.checked_add(inside)?;
        let start = region.range.start().saturating_add(inside.saturating_mul(PAGE));
        let length = PAGE.min(region.range.end().saturating_sub(start));
        Some((number, AddressRange::saturating(start, length)))
    }

    /// Parts of `ranges` of at most 1 MiB that were not asked for yet, in address order.
    #[must_use]
    pub fn unasked(&self, ranges: &[AddressRange]) -> Vec<AddressRange> {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let state = |number: u64| usize::try_from(number).ok().and_then(|number| pages.get(number)).copied();
        let mut unasked: Vec<AddressRange> = Vec::new();
        for region in &self.regions {
            for range in ranges.iter().filter_map(|range| range.intersection(region.range)) {
                let mut at = range.start();
                while let Some((number, page)) = self.page(at).filter(|_| at < range.end()) {
                    if state(number) == Some(Page::Unasked) {
                        match unasked.last_mut() {
                            Some(last)
                                if last.end() == page.start()
                                    && last.len() < FETCH
                                    && region.range.contains(last.start()) =>
                            {
                                *last = AddressRange::saturating(
                                    last.start(),
                                    last.len().saturating_add(page.len()),
                                );
                            }
                            _ => unasked.push(page),
                        }
                    }
                    at = page.end();
                }
            }
        }
        unasked
    }

    /// Keeps the bytes of a range that [`Remote::unasked`] named.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the temporary file is full.
    pub fn keep(&self, range: AddressRange, bytes: &[u8]) -> Result<(), Error> {
        let Some((number, _)) = self.page(range.start()) else { return Ok(()) };
        let full = |cause: std::io::Error| Error::file(std::env::temp_dir(), reason(&cause));
        self.kept.write_all_at(bytes, number.saturating_mul(PAGE)).map_err(full)?;
        self.set(number, (bytes.len() as u64).div_ceil(PAGE), Page::Kept);
        Ok(())
    }

    /// Notes that gdb could not read a range that [`Remote::unasked`] named.
    pub fn give_up(&self, range: AddressRange) {
        if let Some((number, _)) = self.page(range.start()) {
            self.set(number, range.len().div_ceil(PAGE), Page::Unreadable);
        }
    }

    fn set(&self, first: u64, count: u64, state: Page) {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        let span = usize::try_from(first).ok().zip(usize::try_from(first.saturating_add(count)).ok());
        let pages = span.and_then(|(first, end)| pages.get_mut(first..end));
        pages.unwrap_or_default().fill(state);
    }

    /// Returns what is fetched for work on `place`, in address order.
    ///
    /// Heaps lie in writable memory, and in what was made unwritable within.
    #[must_use]
    pub fn ranges_of(&self, place: Place) -> Vec<AddressRange> {
        let mut ranges = place.ranges(self);
        if place == Place::Writable {
            ranges.extend(guards(&self.regions));
        }
        AddressRange::merge(ranges)
    }

    /// Fetches what `ranges` lack. `read` gives the bytes of a range, or nothing where it cannot.
    ///
    /// One unreadable byte spoils a whole answer of gdb's, so a range that fails
    /// is asked for again in halves, down to single pages.
    ///
    /// # Errors
    ///
    /// What `read` and [`Remote::keep`] say.
    pub fn fetch<E: From<Error>>(
        &self,
        ranges: &[AddressRange],
        read: &mut dyn FnMut(AddressRange) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        let mut wanted = self.unasked(ranges);
        wanted.reverse();
        while let Some(range) = wanted.pop() {
            match read(range)?.filter(|bytes| bytes.len() as u64 == range.len()) {
                Some(bytes) => self.keep(range, &bytes)?,
                None if range.len() <= PAGE => self.give_up(range),
                None => {
                    let half = range.len().div_ceil(2).next_multiple_of(PAGE);
                    let second = range.start().saturating_add(half);
                    wanted.push(AddressRange::saturating(second, range.end().saturating_sub(second)));
                    wanted.push(AddressRange::saturating(range.start(), half));
                }
            }
        }
        Ok(())
    }

    /// Does `work` again and again, until it misses nothing more that can be fetched.
    ///
    /// Fetches whole pieces of `around` bytes, of what a file holds and nobody can write to;
    /// single pages of anything else. Comes back with what `work` came to last.
    ///
    /// # Errors
    ///
    /// As [`Remote::fetch`].
    pub fn complete<T, E: From<Error>>(
        &self,
        around: u64,
        read: &mut dyn FnMut(AddressRange) -> Result<Option<Vec<u8>>, E>,
        mut work: impl FnMut(&dyn Memory) -> T,
    ) -> Result<T, E> {
        // Each round may show a word that lies on a page not fetched yet.
        const ROUNDS: usize = 1024;
        let mut rounds = 1;
        loop {
            let wanted = RwLock::new(Vec::new());
            let found = work(&Wanting { remote: self, wanted: &wanted });
            let missed = wanted.into_inner().unwrap_or_else(PoisonError::into_inner);
            let missed =
                AddressRange::merge(missed.into_iter().map(|range| self.widen(range, around)).collect());
            if rounds == ROUNDS || self.unasked(&missed).is_empty() {
                return Ok(found);
            }
            self.fetch(&missed, read)?;
            rounds = rounds.saturating_add(1);
        }
    }

    /// The pieces of `around` bytes that hold `range`, where nobody writes to them.
    fn widen(&self, range: AddressRange, around: u64) -> AddressRange {
        let Some(region) = self.region_at(range.start()) else { return range };
        if region.anonymous() || region.permissions.writable() {
            return range;
        }
        let start = range.start().saturating_sub(range.start().checked_rem(around).unwrap_or(0));
        let end = range.end().checked_next_multiple_of(around).unwrap_or(range.end());
        AddressRange::saturating(start, end.saturating_sub(start)).intersection(region.range).unwrap_or(range)
    }

    /// Tells what the regions are for; fetches the few pages that show it.
    ///
    /// # Errors
    ///
    /// As [`Remote::fetch`].
    pub fn classify<E: From<Error>>(
        &mut self,
        clues: &Clues<'_>,
        read: &mut dyn FnMut(AddressRange) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        let findings = self.complete(PAGE, read, |memory| kinds::classify(memory, clues))?;
        for (region, finding) in self.regions.iter_mut().zip(findings) {
            region.kind = finding.kind;
            if let Some(name) = finding.name {
                region.name = name.into();
            }
        }
        Ok(())
    }

    /// The target, once its regions are told, and its memory to fetch more into.
    #[must_use]
    pub fn into_target(self, architecture: Option<String>, complete: bool) -> (Target, Arc<Self>) {
        let origin = Origin { architecture, complete, ..Origin::new(SourceKind::Remote) };
        let remote = Arc::new(self);
        (Target { memory: Arc::clone(&remote) as Arc<dyn Memory>, origin }, remote)
    }
}

/// Returns the anonymous memory beside writable memory that is not writable itself, in order.
///
/// A program may take rights from pages of its own blocks. What has none at all and is larger
/// than any guard is a reserve, of which nothing is fetched.
fn guards(regions: &[Region]) -> Vec<AddressRange> {
    const MOST: u64 = 1 << 20;
    let open = |region: &Region| region.permissions.writable() && region.anonymous();
    let beside = |at: usize| {
        let own = regions.get(at)?;
        let before = at.checked_sub(1).and_then(|before| regions.get(before));
        let behind = at.checked_add(1).and_then(|behind| regions.get(behind));
        let after = before.is_some_and(|before| open(before) && before.range.end() == own.range.start());
        let ahead = behind.is_some_and(|behind| open(behind) && behind.range.start() == own.range.end());
        let kind = matches!(own.kind, RegionKind::Heap | RegionKind::Arena | RegionKind::Anon);
        let closed = kind && own.anonymous() && !own.permissions.writable();
        let small = !own.permissions.none() || own.range.len() <= MOST;
        (closed && small && (after || ahead)).then_some(own.range)
    };
    (0..regions.len()).filter_map(beside).collect()
}

/// The regions that gdb lists, to be read through it.
///
/// # Errors
///
/// As [`crate::source::maps::parse`].
pub fn listed(text: &[u8]) -> Result<Vec<Region>, Error> {
    let mut regions = crate::source::maps::parse(Path::new("info proc mappings"), text)?.regions;
    for region in &mut regions {
        // Nothing tells whether such a mapping was ever used: it is taken for a reserve.
        region.saved = if region.permissions.none() { 0 } else { region.range.len() };
    }
    Ok(regions)
}

/// The regions of a target of which only sections are known: start, end, permissions, name of each.
///
/// In any order; of overlapping ones the first is taken.
///
/// # Errors
///
/// [`Error::Range`] when a section ends before it starts.
pub fn sections(mut sections: Vec<(u64, u64, String, OsString)>) -> Result<Vec<Region>, Error> {
    sections.sort();
    let mut regions: Vec<Region> = Vec::with_capacity(sections.len());
    for (start, end, permissions, name) in sections {
        let range = AddressRange::new(start, end)?;
        let before = regions.last().map_or(0, |last| last.range.end());
        if range.is_empty() || range.start() < before {
            continue;
        }
        regions.push(Region {
            range,
            permissions: Permissions::from_letters(&permissions).unwrap_or_default(),
            kind: RegionKind::Anon,
            name: Name::from(name.into_vec()),
            file_offset: 0,
            saved: range.len(),
            rss: None,
            dirty: None,
        });
    }
    Ok(regions)
}

impl Memory for Remote {
    fn word_format(&self) -> WordFormat {
        self.format
    }

    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn view<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
        let at = range.start();
        let Some((number, page)) = self.page(at) else {
            return View { bytes: &[], gap: Some(gap_before_next_region(&self.regions, at)) };
        };
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let rest = usize::try_from(number).ok().and_then(|number| pages.get(number..)).unwrap_or_default();
        let region_end = self.region_at(at).map_or(page.end(), |region| region.range.end());
        let first = rest.first().copied().unwrap_or(Page::Unasked);
        // Pages of the next region follow in the file too; the region's end stops the run.
        let most = region_end.saturating_sub(page.start()).div_ceil(PAGE).min(FETCH / PAGE);
        let same =
            rest.iter().take(usize::try_from(most).unwrap_or_default()).take_while(|state| **state == first);
        let run_end = page.start().saturating_add((same.count() as u64).saturating_mul(PAGE)).min(region_end);
        let run = AddressRange::saturating(at, run_end.saturating_sub(at));
        let gap = |missing| View { bytes: &[], gap: Some(Gap { range: run, missing }) };
        match first {
            Page::Unasked => gap(Missing::Unreadable("it was not fetched from the target".to_owned())),
            Page::Unreadable => gap(Missing::Unreadable("gdb cannot read it".to_owned())),
            Page::Kept => {
                let offset = number.saturating_mul(PAGE).saturating_add(at.saturating_sub(page.start()));
                let length = usize::try_from(run.len().min(range.len())).unwrap_or_default();
                let space = buffer.space(length);
                match file::read_at(&self.kept, space, offset) {
                    Ok(read) if read > 0 => View { bytes: space.get(..read).unwrap_or_default(), gap: None },
                    Ok(_) => gap(Missing::Unreadable("its copy is cut".to_owned())),
                    Err(cause) => gap(Missing::Unreadable(reason(&cause))),
                }
            }
        }
    }
}

/// A remote target that writes down which bytes somebody missed.
struct Wanting<'a> {
    remote: &'a Remote,
    wanted: &'a RwLock<Vec<AddressRange>>,
}

impl Memory for Wanting<'_> {
    fn word_format(&self) -> WordFormat {
        self.remote.format
    }

    fn regions(&self) -> &[Region] {
        &self.remote.regions
    }

    fn view<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
        let view = self.remote.view(range, buffer);
        if view.gap.is_some() {
            self.wanted.write().unwrap_or_else(PoisonError::into_inner).push(range);
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Remote {
        let section = |start, end, permissions: &str| (start, end, permissions.to_owned(), "/x".into());
        let listed = vec![
            section(0x20_0000, 0x40_0000, "rw-"),
            section(0x1000, 0x3000, "r-x"),
            section(0x2000, 0x5000, "r--"),
        ];
        Remote::new(WordFormat::LITTLE_64, sections(listed).unwrap()).unwrap()
    }

    #[test]
    fn overlapping_sections_leave_one_region() {
        let starts: Vec<_> = target().regions().iter().map(|region| region.range.start()).collect();
        assert_eq!(starts, [0x1000, 0x20_0000]);
    }

    #[test]
    fn one_page_that_cannot_be_read_costs_only_itself() {
        let remote = target();
        let whole = AddressRange::new(0x20_0000, 0x40_0000).unwrap();
        let bad = 0x20_5000;
        let mut asked = 0;
        let mut read = |range: AddressRange| -> Result<Option<Vec<u8>>, Error> {
            asked += 1;
            let bytes = vec![b'k'; usize::try_from(range.len()).unwrap()];
            Ok((!range.contains(bad)).then_some(bytes))
        };
        remote.fetch(&[whole], &mut read).unwrap();
        assert!(asked < 30, "{asked}");
        let mut bytes = Vec::new();
        let gap = remote.append(whole, &mut bytes).unwrap();
        assert_eq!((bytes.len(), gap.range), (0x5000, AddressRange::new(bad, bad + 0x1000).unwrap()));
        assert_eq!(
            remote.bytes(AddressRange::new(bad + 0x1000, 0x40_0000).unwrap()).unwrap().len(),
            0x1f_a000
        );
        assert!(remote.unasked(&[whole]).is_empty());
    }
}
