//! Modules that stacks lead through, those that were unloaded since among them.

use crate::memory::Memory;
use crate::name::Name;
use crate::range::AddressRange;

use super::header::Area;
use super::layout::{self, u32_at, u64_at};

/// Modules that are kept; no program has as many.
const MOST: u64 = 1 << 16;

/// No path is longer: Linux, `PATH_MAX`.
const LONGEST: u64 = 4096;

/// A module as it was loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    /// Where its segments were.
    pub range: AddressRange,
    /// Its addresses less those in its file.
    pub bias: u64,
    /// Its path as the loader knew it.
    pub path: Name,
    /// Its build-id; empty where none is known.
    pub build_id: Vec<u8>,
    /// The generations from which and before which it was there.
    pub since: u32,
    /// `None` where it still is.
    pub until: Option<u32>,
}

/// All modules that are listed, in the recorder's order.
pub(super) fn read(memory: &dyn Memory, modules: &Area, names: &Area) -> Vec<Module> {
    let kept = Area { used: modules.used.min(MOST), ..*modules };
    let mut bytes = Vec::new();
    let _ = memory.append(kept.range(), &mut bytes);
    let size = usize::try_from(kept.entry).unwrap_or(usize::MAX);
    bytes.chunks_exact(size).filter_map(|bytes| module(memory, names, bytes)).collect()
}

fn module(memory: &dyn Memory, names: &Area, bytes: &[u8]) -> Option<Module> {
    let start = u64_at(bytes, layout::MODULE_START)?;
    let range = AddressRange::new(start, u64_at(bytes, layout::MODULE_END)?).ok()?;
    let until = u32_at(bytes, layout::MODULE_UNTIL)?;
    let (offset, length) = (u32_at(bytes, layout::MODULE_NAME)?, u32_at(bytes, layout::MODULE_NAME_BYTES)?);
    let name = AddressRange::saturating(names.start.saturating_add(offset.into()), length.into());
    let mut path = Vec::new();
    if names.range().covers(name) && name.len() <= LONGEST {
        let _ = memory.append(name, &mut path);
    }
    let known = usize::try_from(u32_at(bytes, layout::MODULE_BUILD_ID_BYTES)?).unwrap_or(usize::MAX);
    let build_id = bytes.get(layout::MODULE_BUILD_ID..).filter(|_| known <= layout::BUILD_ID);
    Some(Module {
        range,
        bias: u64_at(bytes, layout::MODULE_BIAS)?,
        path: Name::from(path),
        build_id: build_id.and_then(|bytes| bytes.get(..known)).unwrap_or_default().to_vec(),
        since: u32_at(bytes, layout::MODULE_SINCE)?,
        until: Some(until).filter(|until| *until != layout::STILL),
    })
}

/// The number of the module that an address lay in, in a generation.
pub(super) fn at(modules: &[Module], address: u64, generation: u32) -> Option<usize> {
    let there = |module: &Module| {
        let alive = module.since <= generation && module.until.is_none_or(|until| generation < until);
        alive && module.range.contains(address)
    };
    modules.iter().rposition(there)
}
