//! Where a function goes on after an exception, from its table of call sites.
//!
//! All personalities of x86-64 (C++, C's cleanups, Rust, Ada, D) have tables of this form (GCC,
//! `libgcc/unwind-c.c`, `parse_lsda_header`).

use gimli::constants::{self, DwEhPe};
use gimli::{EndianSlice, LittleEndian, Reader};

use crate::peek::Peek;
use crate::range::AddressRange;

/// Code from which exceptions lead to a landing pad.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Site {
    pub(super) range: AddressRange,
    pub(super) landing_pad: u64,
}

/// Bytes of a table beyond which it is not read.
const MOST: u64 = 1 << 20;

/// Where exceptions in the part that starts at `function` lead; `None` where the table at
/// `address` cannot be read.
pub(super) fn sites(peek: &mut Peek<'_>, address: u64, function: u64) -> Option<Vec<Site>> {
    // Two encodings, a pointer, and two numbers of which each ends within ten bytes. The
    // table may lie at the end of its memory.
    const HEAD: usize = 32;
    let head = (4..=HEAD).rev().find_map(|length| Some(peek.bytes(address, length)?.to_vec()))?;
    let mut reader = EndianSlice::new(&head, LittleEndian);
    let place = |reader: &EndianSlice<'_, LittleEndian>| head.len().checked_sub(reader.len());
    let base = match DwEhPe(reader.read_u8().ok()?) {
        constants::DW_EH_PE_omit => function,
        encoding if encoding.application() == constants::DW_EH_PE_pcrel && !encoding.is_indirect() => {
            let from = address.checked_add(place(&reader)? as u64)?;
            let distance = match encoding.format() {
                constants::DW_EH_PE_sdata4 => i64::from(reader.read_i32().ok()?),
                constants::DW_EH_PE_udata4 => i64::from(reader.read_u32().ok()?),
                constants::DW_EH_PE_sdata8 => reader.read_i64().ok()?,
                _ => return None,
            };
            from.checked_add_signed(distance)?
        }
        _ => return None,
    };
    if DwEhPe(reader.read_u8().ok()?) != constants::DW_EH_PE_omit {
        reader.read_uleb128().ok()?;
    }
    let encoding = DwEhPe(reader.read_u8().ok()?);
    let length = reader.read_uleb128().ok()?;
    let start = address.checked_add(place(&reader)? as u64)?;
    if length > MOST {
        return None;
    }
    let sites = peek.bytes(start, usize::try_from(length).ok()?)?.to_vec();
    let mut reader = EndianSlice::new(&sites, LittleEndian);
    let number = |reader: &mut EndianSlice<'_, LittleEndian>| match encoding {
        constants::DW_EH_PE_uleb128 => reader.read_uleb128().ok(),
        constants::DW_EH_PE_udata4 => reader.read_u32().ok().map(u64::from),
        _ => None,
    };
    let mut found = Vec::new();
    while !reader.is_empty() {
        let (start, length, landing_pad) = (number(&mut reader)?, number(&mut reader)?, number(&mut reader)?);
        reader.read_uleb128().ok()?;
        if landing_pad != 0 {
            let range = AddressRange::with_length(function.checked_add(start)?, length).ok()?;
            found.push(Site { range, landing_pad: base.checked_add(landing_pad)? });
        }
    }
    Some(found)
}
