//! Which pages of a process were ever touched, by `/proc/PID/pagemap`.
//!
//! The kernel answers a read of a page that was not with zeros, and enters it into the page
//! tables of the process. Reading the 14 TiB that an address sanitizer reserves would cost the
//! process 28 GiB of them.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gdb_leak_ptrace::pages::{Run, scan};
use nix::errno::Errno;

use crate::memory::Region;
use crate::range::AddressRange;
use crate::source::{file, maps};
use crate::word::ByteOrder;

const PAGE: u64 = 4096;

/// Pages of a piece, of 1 MiB.
const PAGES: usize = 256;
const PIECE: u64 = PAGES as u64;

/// The most memory without permissions that is asked about page by page: 64 MiB of entries take
/// 0.1 s.
const MOST_ASKED: u64 = 32 << 30;

/// How long touched pages are taken to be touched.
const FRESH: Duration = Duration::from_millis(20);

/// One bit for each page of a piece.
type Bits = [u64; 4];

/// The pages that were touched, as far as they were asked for.
///
/// Lists of free blocks lead to one page after another: a gigabyte of them asks
/// 630,000 times. So what was touched is taken to be so for a moment. No longer: a program gives
/// pages back, and to read one again makes one for it. What was not touched may be at any moment,
/// and is asked for each time.
#[derive(Debug)]
pub(super) struct Touched {
    /// `None` where it may not be read.
    entries: Option<File>,
    /// Whether the kernel scans many pages at a time, as far as is known.
    scans: AtomicBool,
    /// By the number of the piece, and since when: the pages of it that were touched.
    pieces: Mutex<HashMap<u64, (Instant, Bits)>>,
}

/// Pages in a row of which all were touched, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stretch {
    /// Where it ends.
    pub end: u64,
    /// Whether they were touched.
    pub touched: bool,
}

impl Touched {
    /// Of the process whose `pagemap` this is; `None` where it may not be read.
    pub(super) fn open(entries: Option<File>) -> Self {
        Self { entries, scans: AtomicBool::new(true), pieces: Mutex::default() }
    }

    /// Whether no page of the range was ever touched; false where that is not known.
    pub(super) fn none(&self, range: AddressRange) -> bool {
        let Some(entries) = &self.entries else { return false };
        let (mut page, end) = (range.start() / PAGE, range.end().div_ceil(PAGE));
        while page < end {
            let piece = page / PIECE;
            let stop = end.min(piece.saturating_add(1).saturating_mul(PIECE));
            let wanted = Wanted { first: page % PIECE, count: stop.saturating_sub(page) };
            match self.bits(entries, piece, wanted) {
                Some(bits) if !any(bits, wanted.bits()) => page = stop,
                _ => return false,
            }
        }
        true
    }

    /// How many bytes at the start of the range lie in pages that were never touched.
    ///
    /// One call of the system, which does not look at what has no page tables: terabytes take
    /// no time. Where the kernel cannot scan, up to the end of a piece.
    pub(super) fn none_from(&self, range: AddressRange) -> u64 {
        const BYTES: u64 = PIECE * PAGE;
        let Some(entries) = &self.entries else { return 0 };
        if self.scans.load(Ordering::Relaxed) {
            let mut runs = [Run::default()];
            let start = (range.start() / PAGE).saturating_mul(PAGE);
            let end = range.end().checked_next_multiple_of(PAGE);
            let found = end.and_then(|end| scan(entries, start, end, 1, &mut runs).ok());
            if let Some((count, walked)) = found {
                let touched = runs.first().filter(|_| count > 0).map_or(walked, |run| run.start);
                return touched.min(range.end()).saturating_sub(range.start());
            }
        }
        let length = BYTES.saturating_sub(range.start() % BYTES).min(range.len());
        if self.none(AddressRange::saturating(range.start(), length)) { length } else { 0 }
    }

    /// How the pages of the range were touched, in order and up to its end; `None` where that is not known.
    pub(super) fn stretches(&self, range: AddressRange) -> Option<Vec<Stretch>> {
        let entries = self.entries.as_ref()?;
        let mut stretches: Vec<Stretch> = Vec::with_capacity(1);
        let (mut page, end) = (range.start() / PAGE, range.end().div_ceil(PAGE));
        let mut known = None;
        while page < end {
            let piece = page / PIECE;
            let stop = end.min(piece.saturating_add(1).saturating_mul(PIECE));
            let bits = match known {
                Some((number, bits)) if number == piece => bits,
                _ => {
                    let wanted = Wanted { first: page % PIECE, count: stop.saturating_sub(page) };
                    self.bits(entries, piece, wanted)?
                }
            };
            known = Some((piece, bits));
            let (touched, pages) = first(bits, page % PIECE);
            page = page.saturating_add(pages).min(stop);
            let ends = page.saturating_mul(PAGE).min(range.end());
            match stretches.last_mut() {
                Some(last) if last.touched == touched => last.end = ends,
                _ => stretches.push(Stretch { end: ends, touched }),
            }
        }
        Some(stretches)
    }

    /// How many bytes of `ranges`, which are in address order, lie in resident pages.
    ///
    /// `blank` says whether a page reads as zeros. Seen: a process that reads memory to which
    /// it never wrote gets one page of zeros that all processes share, and so does a page that
    /// a debugger reads there. The kernel shows it as present, but it is not resident: no file
    /// has it, and it is not the process's alone (Linux 6.18, `fs/proc/task_mmu.c`,
    /// `pte_to_pagemap_entry`). So are pages that a fork shares; those are not all zeros.
    pub(super) fn resident(&self, ranges: &[AddressRange], blank: impl Fn(u64) -> bool) -> Option<u64> {
        let entries = self.entries.as_ref()?;
        let mut window = Window::default();
        let mut sum = 0_u64;
        for range in ranges {
            let mut at = range.start();
            while at < range.end() {
                let page = at / PAGE;
                if window.known(page).is_none() {
                    // Memory that was never touched may be terabytes, of which the entries are gigabytes.
                    let blank = self.none_from(AddressRange::saturating(at, range.end().saturating_sub(at)));
                    if blank >= PIECE.saturating_mul(PAGE) {
                        at = at.saturating_add(blank);
                        continue;
                    }
                }
                let end = page.saturating_add(1).saturating_mul(PAGE).min(range.end());
                let last = range.end().saturating_sub(1) / PAGE;
                let entry = window.entry(entries, page, last)?;
                let shared = entry & (FILE | EXCLUSIVE) == 0;
                if entry & PRESENT != 0 && !(shared && blank(page.saturating_mul(PAGE))) {
                    sum = sum.saturating_add(end.saturating_sub(at));
                }
                at = end;
            }
        }
        Some(sum)
    }

    /// Which of the pages that are wanted of a piece were touched: all, or as the kernel says now.
    ///
    /// The first time it is asked for the whole piece, then for those pages only: a piece may have 256
    /// mappings, and the kernel looks at each.
    fn bits(&self, entries: &File, piece: u64, wanted: Wanted) -> Option<Bits> {
        let now = Instant::now();
        let pieces = || self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let known = pieces().get(&piece).copied();
        let known = known.filter(|(since, _)| now.saturating_duration_since(*since) < FRESH);
        let all = |bits: &Bits| bits.iter().zip(wanted.bits()).all(|(bits, wanted)| bits & wanted == wanted);
        if let Some((_, bits)) = known.filter(|(_, bits)| all(bits)) {
            return Some(bits);
        }
        let asked = if known.is_some() { wanted } else { Wanted { first: 0, count: PIECE } };
        // Without the lock: the process may hold what the kernel waits for.
        let found = self.scanned(entries, piece, asked).or_else(|| ask(entries, piece, asked))?;
        let (since, mut bits) = known.unwrap_or((now, Bits::default()));
        for (bits, more) in bits.iter_mut().zip(found) {
            *bits |= more;
        }
        pieces().insert(piece, (since, bits));
        Some(found)
    }

    /// What the kernel says of pages of a piece, in one call where it has that.
    fn scanned(&self, entries: &File, piece: u64, asked: Wanted) -> Option<Bits> {
        if !self.scans.load(Ordering::Relaxed) {
            return None;
        }
        // No two runs touch each other.
        let mut runs = [Run::default(); PAGES / 2];
        let start = piece.checked_mul(PIECE)?.checked_add(asked.first)?.checked_mul(PAGE)?;
        let end = start.checked_add(asked.count.checked_mul(PAGE)?)?;
        let (count, walked) = match scan(entries, start, end, PIECE, &mut runs) {
            Ok(found) => found,
            Err(cause) => {
                // Before Linux 6.7, or filtered. The end of the address space is refused as well (EFAULT).
                let known = [Errno::ENOTTY, Errno::EINVAL, Errno::EPERM, Errno::ENOSYS];
                let lasts =
                    cause.raw_os_error().is_none_or(|number| known.contains(&Errno::from_raw(number)));
                self.scans.fetch_and(!lasts, Ordering::Relaxed);
                return None;
            }
        };
        let mut bits = Bits::default();
        for run in runs.get(..count)? {
            let first = (run.start.saturating_sub(start) / PAGE).saturating_add(asked.first);
            let pages = run.end.saturating_sub(run.start) / PAGE;
            for (bits, more) in bits.iter_mut().zip(mask(first, pages)) {
                *bits |= more;
            }
        }
        (walked >= end).then_some(bits)
    }
}

/// Pages in a row of a piece.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// The number of the first in its piece.
    first: u64,
    count: u64,
}

impl Wanted {
    fn bits(self) -> Bits {
        mask(self.first, self.count)
    }
}

fn any(bits: Bits, wanted: Bits) -> bool {
    bits.iter().zip(wanted).any(|(bits, wanted)| bits & wanted != 0)
}

/// Whether the page with that number in a piece was touched, and how many in a row are as it is.
fn first(bits: Bits, page: u64) -> (bool, u64) {
    let at = usize::try_from(page / 64).unwrap_or(0);
    let rest = |word: &u64, skipped: u64| word >> skipped;
    let mut words = bits.iter().skip(at);
    let skipped = page % 64;
    let word = words.next().map_or(0, |word| rest(word, skipped));
    let touched = word & 1 == 1;
    let same = |word: u64| u64::from(if touched { word.trailing_ones() } else { word.trailing_zeros() });
    let left = 64_u64.saturating_sub(skipped);
    let mut count = same(word).min(left);
    if count < left {
        return (touched, count);
    }
    for word in words {
        let more = same(*word);
        count = count.saturating_add(more);
        if more < 64 {
            break;
        }
    }
    (touched, count)
}

/// Says of each region how many bytes can be read: all, but none of a reserve.
///
/// `/proc/PID/mem` reads a reserve too, as zeros, of which none is memory of the process. Where
/// there is too much of it for [`Touched`] (a sanitizer reserves terabytes) the kernel's own sums
/// decide, which `smaps` gives: they take time for each page that is there.
pub(super) fn give_saved(regions: &mut [Region], touched: &Touched, smaps: impl FnOnce() -> Vec<u8>) {
    let closed = regions.iter().filter(|region| region.permissions.none());
    let bytes = closed.map(|region| region.range.len()).fold(0, u64::saturating_add);
    let used = (bytes > MOST_ASKED).then(|| maps::used(&smaps()));
    for region in regions {
        let unused = || match &used {
            Some(used) => used.get(&region.range) == Some(&0),
            None => touched.none(region.range),
        };
        region.saved = if region.permissions.none() && unused() { 0 } else { region.range.len() };
    }
}

/// Bits of an entry of pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst): the page is
/// there, it is of a file or of shared memory, only this process maps it.
const PRESENT: u64 = 1 << 63;
const FILE: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;

/// The entries of some pages in a row, as they were read last.
#[derive(Default)]
struct Window {
    first: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The entry of `page`; where it has to be read, those up to the page `last` come with it.
    fn entry(&mut self, entries: &File, page: u64, last: u64) -> Option<u64> {
        const MOST: u64 = 1 << 14;
        const LEAST: u64 = 512;
        if let Some(entry) = self.known(page) {
            return Some(entry);
        }
        let count = last.saturating_sub(page).saturating_add(1).clamp(LEAST, MOST);
        self.bytes.resize(usize::try_from(count.checked_mul(8)?).ok()?, 0);
        self.first = page;
        let read = file::read_at(entries, &mut self.bytes, page.checked_mul(8)?).ok()?;
        self.bytes.truncate(read);
        self.known(page)
    }

    fn known(&self, page: u64) -> Option<u64> {
        let at = usize::try_from(page.checked_sub(self.first)?.checked_mul(8)?).ok()?;
        Some(ByteOrder::Little.value(self.bytes.get(at..at.checked_add(8)?)?))
    }
}

/// The bits of `count` pages from the `first` of a piece.
fn mask(first: u64, count: u64) -> Bits {
    let mut bits = Bits::default();
    for (start, bits) in (0..).step_by(64).zip(&mut bits) {
        let below = |page: u64| match page.saturating_sub(start) {
            64.. => u64::MAX,
            pages => !(u64::MAX << pages),
        };
        *bits = below(first.saturating_add(count)) & !below(first);
    }
    bits
}

/// What the kernel says of pages of a piece; of a process that ended it says nothing.
fn ask(entries: &File, piece: u64, asked: Wanted) -> Option<Bits> {
    // One entry of 8 bytes a page, of which bit 63 says present and bit 62
    // swapped out (Linux, Documentation/admin-guide/mm/pagemap.rst).
    const ENTRY: usize = 8;
    const TOUCHED: u64 = 0b11 << 62;
    let mut bytes = [0; PAGES * ENTRY];
    let place = |page: u64| usize::try_from(page).ok()?.checked_mul(ENTRY);
    let wanted = bytes.get_mut(place(asked.first)?..place(asked.first.checked_add(asked.count)?)?)?;
    let at = piece.checked_mul(PIECE)?.checked_add(asked.first)?.checked_mul(ENTRY as u64)?;
    let whole = file::read_at(entries, wanted, at).ok()? == wanted.len();
    let mut bits = Bits::default();
    for (bits, entries) in bits.iter_mut().zip(bytes.chunks_exact(64 * ENTRY)) {
        for (page, entry) in entries.chunks_exact(ENTRY).enumerate() {
            *bits |= u64::from(ByteOrder::Little.value(entry) & TOUCHED != 0) << page;
        }
    }
    whole.then_some(bits)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_page_that_is_touched_after_it_was_asked_for_is_found() {
        const LENGTH: usize = 256 << 20;
        let own = Path::new("/proc/self");
        let mut room = vec![0_u8; LENGTH];
        let start = room.as_ptr().addr() as u64;
        let regions = maps::parse(&own.join("maps"), &std::fs::read("/proc/self/maps").unwrap());
        let regions = regions.unwrap().regions;
        let region = regions.iter().find(|region| region.range.contains(start + (1 << 20))).unwrap();
        let touched = Touched::open(File::open(own.join("pagemap")).ok());
        assert!(region.range.contains(start + LENGTH as u64 - 1));
        let page = |at: usize| AddressRange::with_length(start + at as u64, 1).unwrap();
        // Two pages that no huge page has both.
        let (first, second) = (LENGTH / 4, LENGTH / 2);
        assert!(touched.none(page(first)) && touched.none(page(second)));
        room[first] = 1;
        std::hint::black_box(&room);
        assert!(!touched.none(page(first)) && touched.none(page(second)));
        assert!(!touched.none(AddressRange::with_length(start, LENGTH as u64 / 2).unwrap()));
        room[second] = 1;
        std::hint::black_box(&room);
        assert!(!touched.none(page(second)));
    }

    #[test]
    fn a_page_of_a_piece_that_is_known_is_asked_about_by_itself() {
        let own = Path::new("/proc/self");
        for scans in [true, false] {
            let touched = Touched::open(File::open(own.join("pagemap")).ok());
            touched.scans.store(scans, Ordering::Relaxed);
            let mut room = memmap2::MmapMut::map_anon(3 << 20).unwrap();
            // It fails where the kernel has no huge pages.
            let _ = room.advise(memmap2::Advice::NoHugePage);
            let start = room.as_ptr().addr() as u64;
            // Pages of the piece that is whole.
            let first = usize::try_from(start.next_multiple_of(PIECE * PAGE) - start).unwrap();
            let range = |page: usize, pages: u64| {
                let at = start + first as u64 + page as u64 * PAGE;
                AddressRange::with_length(at, pages * PAGE).unwrap()
            };
            room[first + 3 * 4096] = 1;
            std::hint::black_box(&room);
            assert!(!touched.none(range(3, 1)) && touched.none(range(4, 252)));
            room[first + 200 * 4096] = 1;
            std::hint::black_box(&room);
            assert!(touched.none(range(4, 196)) && !touched.none(range(200, 1)));
            assert!(touched.none(range(201, 55)) && !touched.none(range(150, 100)));
            let stretches = touched.stretches(range(0, PIECE)).unwrap();
            let pages: Vec<u64> =
                stretches.iter().map(|one| (one.end - range(0, 1).start()) / PAGE).collect();
            assert_eq!(pages, [3, 4, 200, 201, PIECE]);
        }
    }

    #[test]
    fn reserves_that_are_many_together_are_told_by_the_sums_of_the_kernel() {
        let text = |index: u64| {
            let start = (index + 1) << 32;
            let (rss, swap) = (if index == 5 { 8 } else { 0 }, if index == 3 { 4 } else { 0 });
            format!("{start:x}-{:x} ---p 0 00:00 0 \nRss: {rss} kB\nSwap: {swap} kB\n", start + (2 << 30))
        };
        let text: String = (0..20).map(text).collect();
        let mut regions = maps::parse(std::path::Path::new("smaps"), text.as_bytes()).unwrap().regions;
        // Nothing says which pages were touched.
        let touched = Touched::open(None);
        let mut asked = false;
        give_saved(&mut regions, &touched, || {
            asked = true;
            text.clone().into_bytes()
        });
        assert!(asked);
        let memory: Vec<usize> = (0..20).filter(|index| regions[*index].saved > 0).collect();
        assert_eq!(memory, [3, 5]);
        // Few are asked about page by page.
        let some = &mut regions[..16];
        give_saved(some, &touched, || panic!("asked for"));
        assert!(some.iter().all(|region| region.saved > 0));
    }

    #[test]
    fn one_call_for_many_pages_says_what_their_entries_say() {
        let own = Path::new("/proc/self");
        let (scanning, asking) =
            (Touched::open(File::open(own.join("pagemap")).ok()), AtomicBool::new(false));
        let asking = Touched { scans: asking, ..Touched::open(File::open(own.join("pagemap")).ok()) };
        let mut room = vec![0_u8; 64 << 20];
        let range = AddressRange::with_length(room.as_ptr().addr() as u64, room.len() as u64).unwrap();
        for at in [0, 1 << 20, (1 << 20) + 8192, (2 << 20) - 1, 40 << 20] {
            room[at] = 1;
        }
        std::hint::black_box(&room);
        let stretches = scanning.stretches(range).unwrap();
        assert_eq!(stretches, asking.stretches(range).unwrap());
        if !scanning.scans.load(Ordering::Relaxed) {
            // Nothing was compared, which is so before Linux 6.7 only.
            let refused =
                scan(scanning.entries.as_ref().unwrap(), 0, PAGE, 1, &mut [Run::default()]).unwrap_err();
            assert_eq!(Errno::from_raw(refused.raw_os_error().unwrap()), Errno::ENOTTY);
        }
        assert_eq!(stretches.last().unwrap().end, range.end());
        assert!(stretches.len() > 4);
    }

    #[test]
    fn pages_in_a_row_that_are_alike_are_one_stretch() {
        let bits = [0b1100, 0, u64::MAX << 63, u64::MAX];
        assert_eq!(first(bits, 0), (false, 2));
        assert_eq!(first(bits, 2), (true, 2));
        assert_eq!(first(bits, 4), (false, 60 + 64 + 63));
        assert_eq!(first(bits, 191), (true, 65));
        assert_eq!(first([0; 4], 255), (false, 1));
    }

    #[test]
    fn a_mask_has_the_pages_asked_for() {
        assert_eq!(mask(0, 256), [u64::MAX; 4]);
        assert_eq!(mask(0, 1), [1, 0, 0, 0]);
        assert_eq!(mask(63, 2), [1 << 63, 1, 0, 0]);
        assert_eq!(mask(130, 0), [0; 4]);
        assert_eq!(mask(255, 1), [0, 0, 0, 1 << 63]);
    }
}
