//! A heap without an allocator's structures, for tests of what is made of blocks.

use gdb_leak::heap::allocator::{Allocator, Arena, Check as Rule, Count, Damage, Header, Trim};
use gdb_leak::heap::block::{Blocks, Part, Shape, State};
use gdb_leak::memory::Memory;
use gdb_leak::range::AddressRange;

/// An allocator with these units and structures, and nothing to say.
pub(crate) struct Plain {
    blocks: Blocks,
    structures: Vec<AddressRange>,
}

impl Plain {
    pub(crate) fn new(start: u64, units: &[(u64, State)], structures: &[AddressRange]) -> Self {
        let mut part = Part::new(start, Shape { lead: 16, cost: 8 }, Some(0));
        for (length, state) in units {
            part.push(part.end() + length, *state);
        }
        Self { blocks: Blocks::new(vec![part]).0, structures: structures.to_vec() }
    }
}

impl Allocator for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }
    fn version(&self) -> String {
        String::new()
    }
    fn found_by(&self) -> String {
        String::new()
    }
    fn blocks(&self) -> &Blocks {
        &self.blocks
    }
    fn arenas(&self) -> &[Arena] {
        &[]
    }
    fn structures(&self) -> &[AddressRange] {
        &self.structures
    }
    fn checks(&self) -> &[Rule] {
        &[]
    }
    fn damage(&self) -> &[Damage] {
        &[]
    }
    fn damages(&self) -> u64 {
        0
    }
    fn counted_mapped(&self) -> Option<Count> {
        None
    }
    fn trim(&self) -> Trim {
        Trim::default()
    }
    fn threads_in_calls(&self) -> &[i32] {
        &[]
    }
    fn notes(&self) -> &[String] {
        &[]
    }
    fn reason(&self, _: &dyn Memory, _: usize) -> String {
        String::new()
    }
    fn header(&self, _: &dyn Memory, _: u64) -> Option<Header> {
        None
    }
}
