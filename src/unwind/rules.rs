//! The rules by which the frames of a function are unwound, from one entry of `.eh_frame`.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameOffset, LittleEndian, Pointer, RegisterRule, UnwindContext,
    UnwindSection, X86_64,
};

use crate::peek::Peek;
use crate::range::AddressRange;

/// Bytes of an entry beyond which its function has no rules.
const MOST_BYTES: usize = 1 << 18;

/// How many bytes of entries, and how many rows, may still be read of a target.
pub(super) struct Left {
    bytes: usize,
    rows: usize,
}

impl Default for Left {
    fn default() -> Self {
        Self { bytes: 16 << 20, rows: 1 << 20 }
    }
}

/// The registers that calls preserve, by their numbers in DWARF (System V ABI, x86-64, 3.6.2).
pub(super) const PRESERVED: [gimli::Register; 6] =
    [X86_64::RBX, X86_64::RBP, X86_64::R12, X86_64::R13, X86_64::R14, X86_64::R15];

/// Where the canonical frame address is: the stack pointer's value before the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cfa {
    /// So many bytes above `rsp`.
    Rsp(i64),
    /// So many bytes above `rbp`, which is the frame pointer then.
    Rbp(i64),
    /// Somewhere else.
    Elsewhere,
}

/// What became of a register's value before the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Saved {
    /// It is still there.
    #[default]
    Same,
    /// It stands in memory, so many bytes from the canonical frame address.
    At(i64),
    /// It cannot be told.
    Lost,
}

/// The rules from one instruction on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The address of the instruction.
    pub start: u64,
    /// Where the canonical frame address is.
    pub cfa: Cfa,
    /// rbx, rbp, r12, r13, r14 and r15.
    pub saved: [Saved; 6],
    /// The return address.
    pub back: Saved,
}

impl Row {
    /// Whether the same rules hold in `other`.
    pub(super) fn alike(&self, other: &Self) -> bool {
        self.cfa == other.cfa && self.saved == other.saved && self.back == other.back
    }
}

/// The rules of a function, or of a part of it that has an entry of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// The code.
    pub range: AddressRange,
    /// Rows by their start.
    pub rows: Vec<Row>,
    /// Where registers are saved in any row, of whatever kind, in bytes from the CFA.
    pub slots: Vec<i64>,
    /// Whether a register's rule is an expression somewhere.
    pub expressions: bool,
    /// Whether the kernel calls it, on top of a frame of its own.
    pub signal: bool,
    /// Where its exceptions are told, if it has any.
    pub exceptions: Option<Pointer>,
}

impl Rules {
    /// Those of the entry at `address`; `None` where it breaks a rule.
    pub(super) fn read(peek: &mut Peek<'_>, address: u64, left: &mut Left) -> Option<Self> {
        let entry = entry(peek, address, left)?;
        let back = number(entry.get(4..8)?)?;
        let common = self::entry(peek, address.checked_add(4)?.checked_sub(u64::from(back))?, left)?;
        // Both are put side by side: a section may have megabytes between them.
        let offset = common.len();
        let mut section = common;
        section.extend_from_slice(&entry);
        let distance = u32::try_from(offset.checked_add(4)?).ok()?;
        section
            .get_mut(offset.checked_add(4)?..offset.checked_add(8)?)?
            .copy_from_slice(&distance.to_le_bytes());
        parse(&section, offset, address.wrapping_sub(offset as u64), left)
    }

    /// The row that holds for the instruction at `address`.
    #[must_use]
    pub fn row(&self, address: u64) -> Option<&Row> {
        if !self.range.contains(address) {
            return None;
        }
        let after = self.rows.partition_point(|row| row.start <= address);
        self.rows.get(after.checked_sub(1)?)
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The bytes of the entry at `address`, its length included.
fn entry(peek: &mut Peek<'_>, address: u64, left: &mut Left) -> Option<Vec<u8>> {
    // The form with 64 bits says 0xffffffff here, which is too much.
    let length = usize::try_from(number(peek.bytes(address, 4)?)?).ok()?.checked_add(4)?;
    if !(9..=MOST_BYTES).contains(&length) {
        return None;
    }
    left.bytes = left.bytes.checked_sub(length)?;
    Some(peek.bytes(address, length)?.to_vec())
}

fn parse(section: &[u8], offset: usize, base: u64, left: &mut Left) -> Option<Rules> {
    let mut frames = EhFrame::new(section, LittleEndian);
    frames.set_address_size(8);
    let bases = BaseAddresses::default().set_eh_frame(base);
    let entry = frames.fde_from_offset(&bases, EhFrameOffset(offset), EhFrame::cie_from_offset).ok()?;
    if entry.cie().return_address_register() != X86_64::RA {
        return None;
    }
    let range = AddressRange::with_length(entry.initial_address(), entry.len()).ok()?;
    let mut rules = Rules {
        range,
        rows: Vec::new(),
        slots: Vec::new(),
        expressions: false,
        signal: entry.is_signal_trampoline(),
        exceptions: entry.lsda(),
    };
    let mut context = UnwindContext::new();
    let mut table = entry.rows(&frames, &bases, &mut context).ok()?;
    while let Some(row) = table.next_row().ok()? {
        left.rows = left.rows.checked_sub(1)?;
        let cfa = match *row.cfa() {
            CfaRule::RegisterAndOffset { register: X86_64::RSP, offset } => Cfa::Rsp(offset),
            CfaRule::RegisterAndOffset { register: X86_64::RBP, offset } => Cfa::Rbp(offset),
            _ => Cfa::Elsewhere,
        };
        let mut own = Row { start: row.start_address(), cfa, saved: [Saved::Same; 6], back: Saved::Lost };
        for (register, rule) in row.registers() {
            let saved = match rule {
                RegisterRule::SameValue => Saved::Same,
                RegisterRule::Offset(at) => {
                    rules.slots.push(*at);
                    Saved::At(*at)
                }
                RegisterRule::Expression(_) | RegisterRule::ValExpression(_) => {
                    rules.expressions = true;
                    Saved::Lost
                }
                _ => Saved::Lost,
            };
            if *register == X86_64::RA {
                own.back = saved;
            } else if let Some(place) = PRESERVED.iter().position(|known| known == register) {
                if let Some(slot) = own.saved.get_mut(place) {
                    *slot = saved;
                }
            }
        }
        rules.rows.push(own);
    }
    rules.slots.sort_unstable();
    rules.slots.dedup();
    rules.rows.sort_by_key(|row| row.start);
    Some(rules)
}
