//! The rules for an address: its module, the module's table, the entry.

use std::collections::BTreeMap;

use object::elf;

use crate::memory::Memory;
use crate::peek::Peek;
use crate::source::elf::{Image, image_at};

use super::chain::{self, Entry};
use super::rules::{Left, Rules};

/// Entries of a table beyond which it is not believed.
const MOST_ENTRIES: u32 = 1 << 24;

/// What leads from an address to an entry.
#[derive(Debug)]
enum Table {
    Header(Header),
    /// Of a module without a header, sorted here.
    Chain(Vec<Entry>),
}

/// `.eh_frame_hdr` of a module, as linkers write it (Linux Standard Base 5.0, core, 10.6.2):
/// pairs of signed 32-bit distances from its own start, to a function and to its entry.
#[derive(Clone, Copy, Debug)]
struct Header {
    start: u64,
    /// Where the first pair is, and how many there are.
    first: u64,
    count: u32,
}

/// The modules of a target.
pub(super) struct Modules<'m> {
    memory: &'m dyn Memory,
    /// By where the module starts.
    tables: BTreeMap<u64, Option<Table>>,
    left: Left,
}

impl<'m> Modules<'m> {
    pub(super) fn new(memory: &'m dyn Memory) -> Self {
        Self { memory, tables: BTreeMap::new(), left: Left::default() }
    }

    /// The rules for the instruction at `address`.
    pub(super) fn rules(&mut self, peek: &mut Peek<'m>, address: u64) -> Option<Rules> {
        let base = self.base(address)?;
        let memory = self.memory;
        let table = self.tables.entry(base).or_insert_with(|| Table::find(memory, peek, base));
        let entry = table.as_ref()?.entry(peek, address)?;
        let rules = Rules::read(peek, entry, &mut self.left)?;
        rules.range.contains(address).then_some(rules)
    }

    /// Where the module starts that holds `address`.
    ///
    /// A file may be loaded twice (`dlmopen`): the nearest below is meant.
    fn base(&self, address: u64) -> Option<u64> {
        let own = self.memory.region_at(address).filter(|region| !region.anonymous())?;
        let regions = self.memory.regions();
        let below = regions.get(..regions.partition_point(|region| region.range.start() <= address))?;
        let starts = |region: &&crate::memory::Region| region.file_offset == 0 && region.name == own.name;
        Some(below.iter().rev().find(starts)?.range.start())
    }
}

impl Table {
    /// That of the module at `base`.
    fn find(memory: &dyn Memory, peek: &mut Peek<'_>, base: u64) -> Option<Self> {
        let image = image_at(memory, base)?;
        if image.machine != elf::EM_X86_64.0 || image.format.size != 8 {
            return None;
        }
        let header = Header::find(&image, peek, base).map(Self::Header);
        header.or_else(|| chain::entries(memory, &image, base).map(Self::Chain))
    }

    /// The entry of the last function that starts at or before `address`.
    fn entry(&self, peek: &mut Peek<'_>, address: u64) -> Option<u64> {
        match self {
            Self::Header(header) => header.entry(peek, address),
            Self::Chain(entries) => {
                let after = entries.partition_point(|entry| entry.start() <= address);
                Some(entries.get(after.checked_sub(1)?)?.address)
            }
        }
    }
}

impl Header {
    /// That of the module at `base` with these headers.
    fn find(image: &Image, peek: &mut Peek<'_>, base: u64) -> Option<Self> {
        // Version 1; how the start of .eh_frame is written; a count of 4 bytes; pairs
        // of signed 4 bytes from the table's start.
        const VERSION: u8 = 1;
        const COUNT: u8 = gimli::constants::DW_EH_PE_udata4.0;
        const PAIRS: u8 = gimli::constants::DW_EH_PE_datarel.0 | gimli::constants::DW_EH_PE_sdata4.0;
        let segment = image.segments.iter().find(|segment| segment.kind == elf::PT_GNU_EH_FRAME.0)?;
        let start = image.bias(base).wrapping_add(segment.address);
        let head: [u8; 4] = peek.bytes(start, 4)?.try_into().ok()?;
        let [version, pointer, count, pairs] = head;
        // The pointer's size: of 2 bytes, of 4, of 8.
        let size = match pointer & 0x7 {
            2 => 2_u64,
            3 => 4,
            0 | 4 => 8,
            _ => return None,
        };
        if version != VERSION || count != COUNT || pairs != PAIRS {
            return None;
        }
        let at = start.checked_add(4)?.checked_add(size)?;
        let count = u32::from_le_bytes(peek.bytes(at, 4)?.try_into().ok()?);
        let table = Self { start, first: at.checked_add(4)?, count };
        (count > 0 && count <= MOST_ENTRIES).then_some(table)
    }

    /// The entry of the last function that starts at or before `address`.
    fn entry(&self, peek: &mut Peek<'_>, address: u64) -> Option<u64> {
        let (mut low, mut high) = (0_u32, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.pair(peek, middle)?.0 <= address {
                low = middle.checked_add(1)?;
            } else {
                high = middle;
            }
        }
        Some(self.pair(peek, low.checked_sub(1)?)?.1)
    }

    fn pair(&self, peek: &mut Peek<'_>, index: u32) -> Option<(u64, u64)> {
        let pair = peek.word(self.first.checked_add(u64::from(index).checked_mul(8)?)?)?.to_le_bytes();
        let from = |distance: &[u8]| {
            let distance = i32::from_le_bytes(distance.try_into().ok()?);
            Some(self.start.wrapping_add_signed(i64::from(distance)))
        };
        let (function, entry) = pair.as_slice().split_at_checked(4)?;
        Some((from(function)?, from(entry)?))
    }
}
