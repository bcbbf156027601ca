//! Holes of sparse files: what reads as zeros and has no place on the disk.
//!
//! The kernel writes a core with a hole for each page that was never written to (Linux 5.18,
//! `fs/coredump.c`, `dump_user_range`, `dump_skip`). Reading a hole costs as much time as reading bytes,
//! and through a mapping as much of the page cache. Where they are is asked once, when the file is opened:
//! two calls of the system for each, and there is a block of data between two of them, so that it costs
//! less than reading the data does.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use memmap2::{Mmap, MmapOptions};
use nix::unistd::{Whence, lseek};

use crate::pass;
use crate::range::AddressRange;

/// A hole that is smaller is read as it is: going around it costs more than it saves.
const LEAST: u64 = 16 << 10;

/// Where the holes of a file are, in its order, each of at least [`LEAST`] bytes.
#[derive(Default, Debug)]
pub struct Holes {
    holes: Vec<AddressRange>,
    /// The bytes of all holes before each.
    before: Vec<u64>,
}

impl Holes {
    /// Asks where the holes are among the first `length` bytes of a file of this machine.
    ///
    /// What a file system does not say, or not within a second or before work is to end, counts as bytes:
    /// answers are the same.
    #[must_use]
    pub fn of(file: &File, length: u64) -> Self {
        const PATIENCE: Duration = Duration::from_secs(1);
        const BLOCK: u64 = 512;
        let mut holes = Vec::new();
        let taken = file.metadata().map_or(u64::MAX, |metadata| metadata.blocks().saturating_mul(BLOCK));
        let asked = Instant::now();
        let mut at = 0;
        while taken < length && at < length && asked.elapsed() < PATIENCE && !pass::stopping() {
            let Some(start) = seek(file, at, Whence::SeekHole).filter(|start| *start < length) else { break };
            // After the last byte of data there is none: the hole goes on to the end.
            let end = seek(file, start, Whence::SeekData).unwrap_or(length).min(length);
            let hole = AddressRange::saturating(start, end.saturating_sub(start));
            if hole.len() >= LEAST {
                holes.push(hole);
            }
            at = end.max(at.saturating_add(1));
        }
        Self::new(holes)
    }

    fn new(holes: Vec<AddressRange>) -> Self {
        let mut sum = 0_u64;
        let before = holes.iter().map(|hole| {
            let before = sum;
            sum = sum.saturating_add(hole.len());
            before
        });
        Self { before: before.collect(), holes }
    }

    /// How many bytes of `range` are in no hole.
    #[must_use]
    pub fn bytes(&self, range: AddressRange) -> u64 {
        let until = |offset: u64| {
            let index = self.holes.partition_point(|hole| hole.end() <= offset);
            let before = self.before.get(index).copied();
            let all = || {
                self.holes
                    .last()
                    .zip(self.before.last())
                    .map_or(0, |(last, before)| before.saturating_add(last.len()))
            };
            let inside = self.holes.get(index).map_or(0, |hole| offset.saturating_sub(hole.start()));
            before.unwrap_or_else(all).saturating_add(inside)
        };
        range.len().saturating_sub(until(range.end()).saturating_sub(until(range.start())))
    }

    /// Whether there are none.
    #[must_use]
    pub fn none(&self) -> bool {
        self.holes.is_empty()
    }

    /// The first hole that ends after `offset`.
    #[must_use]
    pub fn after(&self, offset: u64) -> Option<AddressRange> {
        self.holes.get(self.holes.partition_point(|hole| hole.end() <= offset)).copied()
    }
}

fn seek(file: &File, offset: u64, whence: Whence) -> Option<u64> {
    let place = lseek(file.as_fd(), i64::try_from(offset).ok()?, whence).ok()?;
    u64::try_from(place).ok()
}

/// Lends at most `length` zeros; none where the system has no room for them.
///
/// They take no memory: the kernel maps one page of zeros for every page that is only read.
#[must_use]
pub fn lend(length: u64) -> &'static [u8] {
    const LENT: usize = 16 << 20;
    static ZEROS: OnceLock<Option<Mmap>> = OnceLock::new();
    let made = || MmapOptions::new().len(LENT).map_anon().ok()?.make_read_only().ok();
    let zeros = ZEROS.get_or_init(made).as_deref().unwrap_or_default();
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(zeros.len());
    zeros.get(..length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_range_are_those_in_no_hole() {
        let holes = Holes::new(vec![AddressRange::saturating(10, 10), AddressRange::saturating(40, 20)]);
        for start in 0..80 {
            for end in start..80 {
                let range = AddressRange::new(start, end).unwrap();
                let naive =
                    (start..end).filter(|at| !(10..20).contains(at) && !(40..60).contains(at)).count();
                assert_eq!(holes.bytes(range), naive as u64, "{range}");
            }
        }
    }
}
