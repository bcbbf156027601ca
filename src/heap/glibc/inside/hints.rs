//! Chunks that a thread within malloc has in its registers.

use std::collections::BTreeSet;

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register as Name};

use crate::memory::Memory;
use crate::range::AddressRange;
use crate::source::Thread;
use crate::source::registers::Register;

use super::super::layout::Machine;
use super::super::locate::Ring;

/// What is known of the threads that may be in a call of malloc.
pub(super) struct Hints {
    /// What the general registers of threads hold that run malloc's module.
    held: BTreeSet<u64>,
    /// Whether the registers of all threads are known.
    known: bool,
}

/// The most bytes of an instruction of x86-64.
const LONGEST: u64 = 15;

/// The names of instruction pointers.
const COUNTERS: [&str; 4] = ["rip", "eip", "pc", "pswa"];

impl Hints {
    pub(super) fn of(memory: &dyn Memory, threads: &[Thread], rings: &[Ring]) -> Self {
        let mut held = BTreeSet::new();
        let mut known = !threads.is_empty();
        for thread in threads {
            let general = &thread.registers.general;
            let counter = general.iter().find(|register| COUNTERS.contains(&register.name.as_ref()));
            known &= counter.is_some();
            let Some(counter) = counter.map(|counter| counter.value) else { continue };
            let region = memory.region_at(counter);
            let own = |ring: &Ring| region.is_some_and(|region| region.name == ring.module);
            // A thread that waits in the system for something else is in no call of malloc: what a call
            // leaves half done while it waits for memory needs no hint.
            let waits = behind_system_call(memory, counter);
            if rings.iter().any(own) && !waits && goes_on(memory, counter, general) {
                held.extend(general.iter().map(|register| register.value));
            }
        }
        Self { held, known }
    }

    /// Whether a register holds the address of the chunk at `chunk`, of its block, or one of `others`.
    fn at(&self, chunk: u64, header: u64, others: &[u64]) -> bool {
        let own = [chunk, chunk.saturating_add(header), chunk.saturating_add(header / 2)];
        own.iter().chain(others).any(|address| *address != 0 && self.held.contains(address))
    }

    /// What the registers of threads that run malloc's module hold.
    pub(super) fn places(&self) -> impl Iterator<Item = u64> + '_ {
        self.held.iter().copied()
    }

    /// Where the chunks would be whose address, or whose block's address, one of these is.
    pub(super) fn chunks(&self, machine: Machine) -> BTreeSet<u64> {
        let chunks = self.places().flat_map(|held| [held, held.wrapping_sub(machine.header())]);
        chunks.filter(|chunk| machine.first_chunk(*chunk) == *chunk).collect()
    }

    /// Whether a thread that runs malloc's module has the chunk at `chunk` in its registers.
    pub(super) fn held(&self, chunk: u64, header: u64) -> bool {
        self.at(chunk, header, &[])
    }

    /// Whether a call is at work at the chunk at `chunk`: by a register or, where registers are not
    /// known, by the arena's lock.
    ///
    /// Observed: malloc that finds its heap damaged ends the program without giving its lock back.
    /// The lock alone would excuse every damage that malloc itself has found.
    pub(super) fn busy(&self, locked: bool, chunk: u64, header: u64, others: &[u64]) -> bool {
        if self.known { self.at(chunk, header, others) } else { locked }
    }

    /// Whether a call may be at work at the chunk at `chunk`: nothing speaks against it.
    pub(super) fn may_be_at(&self, chunk: u64, header: u64) -> bool {
        !self.known || self.at(chunk, header, &[])
    }

    /// Whether no thread is in a call of malloc.
    pub(super) fn idle(&self) -> bool {
        self.known && self.held.is_empty()
    }
}

/// Whether the instruction at `counter` can be run: a thread that was stopped because malloc
/// followed a broken pointer is at one that cannot.
///
/// Where it cannot be told, it can.
fn goes_on(memory: &dyn Memory, counter: u64, general: &[Register]) -> bool {
    if !general.iter().any(|register| register.name == "rip") {
        return true;
    }
    let mut code = Vec::new();
    // Of the last instruction before a gap the bytes are there all the same.
    let _ = memory.append(AddressRange::saturating(counter, LONGEST), &mut code);
    let mut decoder = Decoder::with_ip(64, &code, counter, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return true;
    }
    let value = |name: Name| {
        let name = format!("{:?}", name.full_register()).to_lowercase();
        general.iter().find(|register| register.name == name).map(|register| register.value)
    };
    let mut information = InstructionInfoFactory::new();
    let used = information.info(&instruction).used_memory().iter();
    // `lea` and long forms of `nop` name a place and do not go there.
    let mut used = used.filter(|used| used.access() != OpAccess::NoMemAccess);
    used.all(|used| {
        let place = used.virtual_address(0, |name, _, _| match name {
            Name::CS | Name::DS | Name::ES | Name::SS => Some(0),
            // Relative to these is a thread's own memory.
            Name::FS | Name::GS => None,
            name => value(name),
        });
        let reads = matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
        place.is_none_or(|place| {
            let region = memory.region_at(place);
            region
                .is_some_and(|region| !region.permissions.none() && (reads || region.permissions.writable()))
        })
    })
}

/// Whether the instruction before `counter` is one that enters the system, on x86-64.
fn behind_system_call(memory: &dyn Memory, counter: u64) -> bool {
    let before = AddressRange::saturating(counter.saturating_sub(2), 2);
    memory.bytes(before).is_ok_and(|bytes| bytes == [0x0f, 0x05])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::captured::Captured;

    /// `mov rax, [rbx]`, `mov [rbx], rax`, `lea rax, [rbx]`.
    const CODE: [u8; 9] = [0x48, 0x8b, 0x03, 0x48, 0x89, 0x03, 0x48, 0x8d, 0x03];

    fn at(counter: u64, rbx: u64) -> bool {
        let memory = Captured::new().with(0x1000, &CODE).with(0x2000, &[0; 16]);
        let register = |name: &'static str, value| Register { name: name.into(), value };
        goes_on(&memory, counter, &[register("rip", counter), register("rbx", rbx)])
    }

    #[test]
    fn a_thread_at_a_load_from_nowhere_does_not_go_on() {
        assert!(at(0x1000, 0x2000));
        assert!(!at(0x1000, 0x4141_4141_4141));
        assert!(at(0x1003, 0x2008));
        assert!(!at(0x1003, 0));
        assert!(at(0x1006, 0));
    }
}
