//! The entries of a module that has no table of them, found by their form.
//!
//! `ld --eh-frame-hdr` makes the table; gcc does not ask for it where it links static programs
//! (GCC 12, `gcc.cc`, `LINK_EH_SPEC`), whose start-up code registers `.eh_frame` itself. No program
//! header names that section then. Section headers would, but are in the file only, and may be
//! stripped; the form is in memory, in a core, and in a stripped file. What is found is a chain
//! of records without a hole that begins with a common entry, ends with a length of zero, and
//! whose other entries all use a common one of the same chain (Linux Standard Base 5.0, core, 10.6.1).

use std::collections::BTreeMap;

use gimli::{
    BaseAddresses, CommonInformationEntry, EhFrame, EhFrameOffset, EndianSlice, LittleEndian, UnwindSection,
};
use object::elf;

use crate::memory::Memory;
use crate::range::AddressRange;
use crate::source::elf::Image;

/// Bytes of a module's read-only memory that are looked through.
const MOST_READ: u64 = 64 << 20;

/// Records that are looked at, in all attempts together.
const MOST_RECORDS: usize = 1 << 22;

/// Bytes of a common entry: compilers need 20 to 28.
const LARGEST_COMMON: usize = 256;

type Bytes<'b> = EndianSlice<'b, LittleEndian>;

/// Code, and where its entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    range: AddressRange,
    pub(super) address: u64,
}

impl Entry {
    /// The first instruction that it is for.
    pub(super) fn start(&self) -> u64 {
        self.range.start()
    }
}

/// The entries of the module whose headers are `image` and whose file starts at `base` in memory,
/// by the code that they are for. Code that two of them claim has none.
pub(super) fn entries(memory: &dyn Memory, image: &Image, base: u64) -> Option<Vec<Entry>> {
    let bias = image.bias(base);
    let range = |segment: &crate::source::elf::Segment| {
        AddressRange::saturating(bias.wrapping_add(segment.address), segment.file_size)
    };
    let loaded = || image.segments.iter().filter(|segment| segment.loaded());
    let code: Vec<AddressRange> = loaded().filter(|segment| segment.flag(elf::PF_X)).map(range).collect();
    // Data first: code is looked at where a program is linked without a segment for data.
    let constant = loaded().filter(|segment| !segment.flag(elf::PF_W));
    let (code_last, data): (Vec<_>, Vec<_>) = constant.partition(|segment| segment.flag(elf::PF_X));
    let (mut left, mut records) = (MOST_READ, MOST_RECORDS);
    data.into_iter().chain(code_last).map(range).find_map(|segment| {
        left = left.checked_sub(segment.len())?;
        let mut bytes = Vec::new();
        // What is missing hides what is before it as little as what it holds.
        let _ = memory.append(segment, &mut bytes);
        in_bytes(&bytes, segment.start(), &code, &mut records)
    })
}

/// The first chain in `bytes`, which are at `start`.
fn in_bytes(bytes: &[u8], start: u64, code: &[AddressRange], records: &mut usize) -> Option<Vec<Entry>> {
    const WORD: usize = 4;
    let mut section = EhFrame::new(bytes, LittleEndian);
    section.set_address_size(8);
    let chain = Chain { bytes, bases: BaseAddresses::default().set_eh_frame(start), section, start, code };
    let first = start.checked_next_multiple_of(WORD as u64)?.checked_sub(start)?;
    let first = usize::try_from(first).ok()?;
    (first..bytes.len()).step_by(WORD).find_map(|offset| {
        let head = bytes.get(offset..)?.first_chunk::<9>()?;
        let [a, b, c, d, 0, 0, 0, 0, 1 | 3] = *head else { return None };
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
        if length == 0 || length > LARGEST_COMMON {
            return None;
        }
        chain.from(offset, records)
    })
}

struct Chain<'b> {
    bytes: &'b [u8],
    bases: BaseAddresses,
    section: EhFrame<Bytes<'b>>,
    start: u64,
    code: &'b [AddressRange],
}

impl Chain<'_> {
    /// The entries of the chain that begins at an offset, if one does.
    fn from(&self, offset: usize, records: &mut usize) -> Option<Vec<Entry>> {
        let mut common: BTreeMap<usize, CommonInformationEntry<Bytes<'_>>> = BTreeMap::new();
        let mut found = Vec::new();
        let mut at = offset;
        loop {
            let length = usize::try_from(self.number(at)?).ok()?;
            if length == 0 {
                break;
            }
            *records = records.checked_sub(1)?;
            let fields = at.checked_add(4)?;
            let next = fields.checked_add(length).filter(|next| *next <= self.bytes.len())?;
            match self.number(fields)? {
                0 => {
                    let entry = self.section.cie_from_offset(&self.bases, EhFrameOffset(at)).ok()?;
                    common.insert(at, entry);
                }
                back => {
                    let own = common.get(&fields.checked_sub(usize::try_from(back).ok()?)?)?;
                    let known = |_: &_, _: &_, _| Ok(own.clone());
                    let entry = self.section.fde_from_offset(&self.bases, EhFrameOffset(at), known).ok()?;
                    let range = AddressRange::with_length(entry.initial_address(), entry.len()).ok();
                    // Code that the linker left out has an entry that leads nowhere.
                    let here = range.filter(|range| {
                        !range.is_empty() && self.code.iter().any(|code| code.contains(range.start()))
                    });
                    let address = self.start.checked_add(at as u64)?;
                    found.extend(here.map(|range| Entry { range, address }));
                }
            }
            at = next;
        }
        let found = without_overlaps(found);
        (!found.is_empty()).then_some(found)
    }

    fn number(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk::<4>()?))
    }
}

/// The entries by their code, without those that overlap with another.
fn without_overlaps(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_unstable_by_key(|entry| entry.range.start());
    let mut end = 0_u64;
    let mut shared: Vec<bool> = Vec::with_capacity(entries.len());
    for entry in &entries {
        let overlaps = entry.range.start() < end;
        // All before it that reach this far end with it: the last one at the least.
        if let Some(last) = shared.last_mut().filter(|_| overlaps) {
            *last = true;
        }
        shared.push(overlaps);
        end = end.max(entry.range.end());
    }
    let mut shared = shared.into_iter();
    entries.retain(|_| !shared.next().unwrap_or(true));
    entries
}
