//! A copy of what a traced process may write to, kept up to date store by store.

use std::fs::File;
use std::os::unix::fs::FileExt;

use gdb_leak::memory::{Buffer, Gap, Memory, Missing, Region, RegionKind, View, gap_before_next_region};
use gdb_leak::range::AddressRange;
use gdb_leak::source::process;
use gdb_leak::word::WordFormat;

const PAGE: usize = 4096;

/// A process's regions, with the bytes of those that it may write to.
pub(crate) struct Mirror {
    pid: i32,
    memory: File,
    regions: Vec<Region>,
    /// By region; none of what is not writable.
    bytes: Vec<Option<Vec<u8>>>,
}

impl Mirror {
    pub(crate) fn new(pid: i32) -> Self {
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut mirror = Self { pid, memory, regions: Vec::new(), bytes: Vec::new() };
        mirror.refresh();
        mirror
    }

    /// Reads all regions and bytes anew, as after a call of the system.
    pub(crate) fn refresh(&mut self) {
        let target = process::open(self.pid, false).unwrap();
        let regions = target.memory.regions().to_vec();
        let pagemap = File::open(format!("/proc/{}/pagemap", self.pid)).unwrap();
        self.bytes = regions.iter().map(|region| self.read_region(region, &pagemap)).collect();
        self.regions = regions;
    }

    /// The region's bytes: pages that the process never touched are zeros without a look at them.
    fn read_region(&self, region: &Region, pagemap: &File) -> Option<Vec<u8>> {
        let wanted = region.permissions.writable() && region.kind != RegionKind::Special;
        if !wanted {
            return None;
        }
        let length = usize::try_from(region.range.len()).unwrap();
        let mut bytes = vec![0; length];
        if !region.anonymous() {
            // What lies behind the file's end cannot be read.
            let read = self.memory.read_at(&mut bytes, region.range.start()).unwrap_or(0);
            bytes.truncate(read);
            return Some(bytes);
        }
        let mut entries = vec![0_u8; length / PAGE * 8];
        pagemap.read_exact_at(&mut entries, region.range.start() / PAGE as u64 * 8).unwrap();
        for (number, entry) in entries.chunks_exact(8).enumerate() {
            // Present, or swapped out.
            if entry[7] & 0xc0 != 0 {
                let offset = number * PAGE;
                let place = region.range.start() + offset as u64;
                // A guard within a stack is present, and cannot be read.
                let _ = self.memory.read_exact_at(&mut bytes[offset..offset + PAGE], place);
            }
        }
        Some(bytes)
    }

    /// Reads `length` bytes at `address` again; whether they are others than before.
    pub(crate) fn update(&mut self, address: u64, length: usize) -> bool {
        let mut now = vec![0_u8; length];
        if self.memory.read_exact_at(&mut now, address).is_err() {
            return false;
        }
        let Some(index) = self.index(address) else { return false };
        let start = self.regions[index].range.start();
        let Some(bytes) = &mut self.bytes[index] else { return false };
        let from = usize::try_from(address - start).unwrap();
        let length = length.min(bytes.len().saturating_sub(from));
        if length == 0 {
            return false;
        }
        let old = &mut bytes[from..from + length];
        let changed = old != &now[..length];
        old.copy_from_slice(&now[..length]);
        changed
    }

    pub(crate) fn kind(&self, address: u64) -> Option<RegionKind> {
        self.index(address).map(|index| self.regions[index].kind)
    }

    pub(crate) fn word_now(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, address).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn code(&self, address: u64) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        let read = self.memory.read_at(&mut bytes, address).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }

    fn index(&self, address: u64) -> Option<usize> {
        let after = self.regions.partition_point(|region| region.range.start() <= address);
        let index = after.checked_sub(1)?;
        self.regions[index].range.contains(address).then_some(index)
    }
}

impl Memory for Mirror {
    fn word_format(&self) -> WordFormat {
        WordFormat::LITTLE_64
    }

    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn view<'a>(&'a self, range: AddressRange, _: &'a mut Buffer) -> View<'a> {
        let at = range.start();
        let Some(index) = self.index(at) else {
            return View { bytes: &[], gap: Some(gap_before_next_region(&self.regions, at)) };
        };
        let region = &self.regions[index];
        let end = range.end().min(region.range.end());
        let Some(bytes) = &self.bytes[index] else {
            let range = AddressRange::new(at, region.range.end()).unwrap();
            return View { bytes: &[], gap: Some(Gap { range, missing: Missing::NotSaved("the copy") }) };
        };
        let place = |address: u64| usize::try_from(address - region.range.start()).unwrap().min(bytes.len());
        if place(at) == bytes.len() {
            let range = AddressRange::new(at, region.range.end()).unwrap();
            return View { bytes: &[], gap: Some(Gap { range, missing: Missing::NotSaved("the copy") }) };
        }
        View { bytes: &bytes[place(at)..place(end)], gap: None }
    }

    /// What could be given back is not judged here, and looking for it would read all free pages.
    fn resident(&self, _: &[AddressRange]) -> Option<u64> {
        Some(0)
    }
}
