//! Which glibc it is: what its structures allow, and what its banner says.

use crate::error::Error;
use crate::memory::{Buffer, Memory};
use crate::name::Name;
use crate::pass::{self, CHUNK, Job};
use crate::range::AddressRange;

use super::layout::{NEWEST, OLDEST, StateLayout, TcacheLayout};

/// What the structures show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Traits {
    pub layout: StateLayout,
    /// Whether `attached_threads` is there.
    pub attached: bool,
    pub tcache: Option<TcacheLayout>,
    /// Whether links are masked; `None` where no link tells.
    pub masked: Option<bool>,
    /// The bytes of a heap's header in words, where there is a further arena.
    pub heap_header: Option<u64>,
    /// Whether malloc's parameters have those for huge pages.
    pub huge_pages: Option<bool>,
}

impl Traits {
    /// The first and the last version (2.N) that show all of this.
    pub(super) fn versions(&self) -> (u32, u32) {
        let mut from = OLDEST;
        let mut to = NEWEST;
        let mut between = |first: u32, last: u32| {
            from = from.max(first);
            to = to.min(last);
        };
        match (self.layout.fast, self.layout.fast_flag) {
            (false, _) => between(43, NEWEST),
            (true, true) => between(27, 42),
            (true, false) => between(17, 26),
        }
        let (first, last) = if self.attached { (23, NEWEST) } else { (17, 22) };
        between(first, last);
        if let Some(tcache) = self.tcache {
            between(tcache.versions.0, tcache.versions.1);
        }
        match self.masked {
            Some(true) => between(32, NEWEST),
            Some(false) => between(17, 31),
            None => {}
        }
        // With 16 bytes' alignment on 32-bit machines the padding takes up the difference.
        let padded = self.layout.machine.align > self.layout.machine.header();
        match self.heap_header.filter(|_| !padded) {
            Some(words) if words > 4 => between(35, NEWEST),
            Some(_) => between(17, 34),
            None => {}
        }
        match self.huge_pages {
            Some(true) => between(35, NEWEST),
            Some(false) => between(17, 34),
            None => {}
        }
        (from, to)
    }

    /// These versions in words.
    pub(super) fn text(&self) -> String {
        match self.versions() {
            (from, to) if from == to => format!("2.{from}"),
            (from, to) if to >= NEWEST => format!("2.{from} or newer"),
            (from, to) if from < to => format!("2.{from} to 2.{to}"),
            _ => "unknown".to_owned(),
        }
    }
}

/// The N of a version 2.N.
pub(super) fn minor_of(version: &str) -> Option<u32> {
    let minor = version.strip_prefix("2.")?.split('.').next()?;
    minor.parse().ok()
}

/// Whether a banner's version is one of those that the structures allow.
pub(super) fn agrees(banner: &str, (from, to): (u32, u32)) -> bool {
    minor_of(banner).is_none_or(|minor| minor >= from && (minor <= to || to >= NEWEST))
}

/// The version that libc's banner names, in the module's own memory.
///
/// glibc, csu/version.c: "GNU C Library (…) stable release version 2.36."
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub(super) fn banner(memory: &dyn Memory, module: &Name, job: &Job) -> Result<Option<String>, Error> {
    const LINE: usize = 256;
    const START: &[u8] = b"GNU C Library";
    const VERSION: &[u8] = b" version ";
    if module.is_empty() {
        return Ok(None);
    }
    let regions = memory.regions().iter();
    let own = regions.filter(|region| region.name == *module && !region.permissions.writable());
    let ranges: Vec<AddressRange> = own.map(|region| region.range).collect();
    let work = |chunk: &pass::Chunk, _: &mut Buffer| {
        // A banner across two chunks belongs to the first.
        let end = chunk.own.end().saturating_add(LINE as u64).min(chunk.run.end());
        let range = AddressRange::saturating(chunk.own.start(), end.saturating_sub(chunk.own.start()));
        if memory.zeros(chunk.own) >= chunk.own.len() {
            return None;
        }
        let mut bytes = Vec::new();
        let _ = memory.append(range, &mut bytes);
        let at = memchr::memmem::find(&bytes, START)?;
        let line = bytes.get(at..)?;
        let line = line.get(..LINE.min(line.len()))?;
        let from = memchr::memmem::find(line, VERSION)?.checked_add(VERSION.len())?;
        let digits = line.get(from..)?.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.');
        let text: String = digits.map(|byte| char::from(*byte)).collect();
        let text = text.trim_end_matches('.');
        (text.starts_with("2.") && text.len() <= 16).then(|| text.to_owned())
    };
    let mut found = None;
    pass::in_order(memory, &ranges, CHUNK, job, work, |_, version| {
        found = found.take().or(version);
        Ok(None)
    })?;
    Ok(found)
}
