//! The rules of places that were seen.

use core::sync::atomic::{AtomicU64, Ordering};

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, NativeEndian, UnwindContext, UnwindSection};

use super::modules::{Modules, Tables};
use super::rule::{Bytes, Room, Rule};

/// Places whose rules are kept, as a power of two.
const BITS: u32 = 14;

/// A rule, and the place that it is for, mixed with the rule.
///
/// Two words cannot be written at once. Where two threads write the same slot with
/// different places a reader may see one word of each; mixed they fit no place.
#[repr(C)]
struct Slot {
    rule: AtomicU64,
    mixed: AtomicU64,
}

pub(crate) struct Rules {
    slots: *const Slot,
}

impl Rules {
    /// Bytes of the table that `new` needs.
    pub(crate) const TABLE_BYTES: usize = size_of::<Slot>() << BITS;

    pub(crate) const fn new(table: usize) -> Self {
        Self { slots: table as *const Slot }
    }

    /// The rule at `pc`, a return address, or one behind a place that is meant exactly.
    #[inline]
    pub(crate) fn rule(&self, pc: u64, modules: &Modules) -> Rule {
        let at = (pc.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS)) as usize;
        // SAFETY: the number is below that of slots.
        let slot = unsafe { &*self.slots.add(at) };
        let rule = slot.rule.load(Ordering::Relaxed);
        if slot.mixed.load(Ordering::Relaxed) ^ rule == pc {
            return Rule::from_bits(rule);
        }
        look_up(pc, modules, slot)
    }

    /// Forgets all rules: a module was unloaded, and another may stand in its place.
    pub(crate) fn clear(&self) {
        for at in 0..1 << BITS {
            // SAFETY: the number is below that of slots.
            let slot = unsafe { &*self.slots.add(at) };
            slot.mixed.store(0, Ordering::Relaxed);
            slot.rule.store(0, Ordering::Relaxed);
        }
    }
}

/// The rule at `pc` from the tables of its module, kept in `slot` from then on.
#[cold]
#[inline(never)]
fn look_up(pc: u64, modules: &Modules, slot: &Slot) -> Rule {
    // Inside the call: behind it may stand another function.
    let rule = modules.tables(pc - 1).map_or(Rule::UNKNOWN, |tables| {
        // The loader's code that has no rules is where the kernel begins a program.
        let none = if tables.loader { Rule::END } else { Rule::UNKNOWN };
        find(&tables, pc - 1).unwrap_or(none)
    });
    slot.rule.store(rule.bits(), Ordering::Relaxed);
    slot.mixed.store(rule.bits() ^ pc, Ordering::Relaxed);
    rule
}

/// The rule at an address, from the tables of its module.
// Apart, so that its room on the stack is not taken while modules are looked for.
#[inline(never)]
fn find(tables: &Tables, address: u64) -> Option<Rule> {
    let native = NativeEndian;
    let bytes = |start: u64, end: u64| -> &[u8] {
        // SAFETY: a segment of a module that is loaded: a frame of it is on the stack.
        unsafe { core::slice::from_raw_parts(start as *const u8, (end - start) as usize) }
    };
    if tables.header == 0 {
        return None;
    }
    let bases = BaseAddresses::default().set_eh_frame_hdr(tables.header);
    let header = EhFrameHdr::new(bytes(tables.header, tables.end), native).parse(&bases, 8).ok()?;
    let gimli::Pointer::Direct(frames) = header.eh_frame_ptr() else { return None };
    let end = tables.segment_end(frames)?;
    let bases = bases.set_eh_frame(frames);
    let section: EhFrame<Bytes<'_>> = EhFrame::new(bytes(frames, end), native);
    let table = header.table()?;
    let entry = table.fde_for_address(&section, &bases, address, EhFrame::cie_from_offset).ok()?;
    if entry.is_signal_trampoline() {
        return Some(Rule::SIGNAL);
    }
    let mut context: UnwindContext<usize, Room> = UnwindContext::new_in();
    let row = entry.unwind_info_for_address(&section, &bases, &mut context, address).ok()?;
    let encoding = entry.cie().encoding();
    Some(Rule::of::<Bytes<'_>, Room>(row, |kept| kept.get(&section).ok(), encoding))
}
