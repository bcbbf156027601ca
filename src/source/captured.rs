//! Bytes given as such: memory for tests and for callers that have their own.

use crate::memory::{
    Buffer, Gap, Memory, Missing, Permissions, Region, RegionKind, View, gap_before_next_region,
};
use crate::range::AddressRange;
use crate::word::WordFormat;

/// Regions with their bytes.
#[derive(Debug, Default)]
pub struct Captured {
    format: Option<WordFormat>,
    regions: Vec<Region>,
    contents: Vec<Vec<u8>>,
}

impl Captured {
    /// No regions, 64-bit little-endian words.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with other words.
    #[must_use]
    pub fn with_format(mut self, format: WordFormat) -> Self {
        self.format = Some(format);
        self
    }

    /// Adds a writable anonymous region with these bytes.
    ///
    /// Regions must be added in address order and must not overlap; what
    /// breaks this is left out.
    #[must_use]
    pub fn with(self, start: u64, bytes: &[u8]) -> Self {
        self.with_region(start, bytes, bytes.len() as u64, RegionKind::Anon, "")
    }

    /// Adds a writable region of `length` bytes of which only the first are there.
    #[must_use]
    pub fn with_region(
        mut self,
        start: u64,
        bytes: &[u8],
        length: u64,
        kind: RegionKind,
        name: &str,
    ) -> Self {
        let range = AddressRange::saturating(start, length);
        let after = self.regions.last().is_none_or(|last| last.range.end() <= start);
        if after && !range.is_empty() {
            self.regions.push(Region {
                range,
                permissions: Permissions::new(true, true, false),
                kind,
                name: name.into(),
                file_offset: 0,
                saved: bytes.len() as u64,
                rss: None,
                dirty: None,
            });
            self.contents.push(bytes.to_vec());
        }
        self
    }

    /// Gives the region that was added last other permissions.
    #[must_use]
    pub fn with_permissions(mut self, permissions: Permissions) -> Self {
        if let Some(last) = self.regions.last_mut() {
            last.permissions = permissions;
        }
        self
    }
}

impl Memory for Captured {
    fn blank(&self, range: AddressRange) -> u64 {
        let mut buffer = Buffer::default();
        let view = self.view(range, &mut buffer);
        let gap = view.gap.filter(|_| view.bytes.is_empty());
        gap.map_or(0, |gap| gap.range.len().min(range.len()))
    }

    fn word_format(&self) -> WordFormat {
        self.format.unwrap_or(WordFormat::LITTLE_64)
    }

    fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn view<'a>(&'a self, range: AddressRange, _: &'a mut Buffer) -> View<'a> {
        let at = range.start();
        let index = self.regions.partition_point(|region| region.range.end() <= at);
        let found = self.regions.get(index).zip(self.contents.get(index));
        let Some((region, bytes)) = found.filter(|(region, _)| region.range.contains(at)) else {
            return View { bytes: &[], gap: Some(gap_before_next_region(&self.regions, at)) };
        };
        let offset = usize::try_from(at.saturating_sub(region.range.start())).unwrap_or(usize::MAX);
        let bytes = bytes.get(offset..).unwrap_or_default();
        let wanted = usize::try_from(range.len()).unwrap_or(usize::MAX);
        let bytes = bytes.get(..wanted.min(bytes.len())).unwrap_or_default();
        let stop = at.saturating_add(bytes.len() as u64);
        let missing = stop < range.end().min(region.range.end());
        let gap = missing.then(|| Gap {
            range: AddressRange::saturating(stop, region.range.end().saturating_sub(stop)),
            missing: Missing::NotSaved("capture"),
        });
        View { bytes, gap }
    }
}
