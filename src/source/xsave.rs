//! The vector registers of x86, as FXSAVE and XSAVE lay them out in memory.
//!
//! Intel SDM, volume 1: the legacy region in 10.5.1 (FXSAVE), XSAVE's header in
//! 13.4.2, the components in 13.5. The kernel gives the standard format to cores
//! and to ptrace, whichever it keeps itself.

use crate::source::registers::{Register, X86_VECTORS, X87};
use crate::word::{ByteOrder, WordFormat};

/// Where the legacy region has `st0`, in sixteen bytes each.
const ST: usize = 32;
/// Where it has `xmm0`.
const XMM: usize = 160;
/// Where XSAVE's header starts: `XSTATE_BV`, then `XCOMP_BV`.
const HEADER: usize = 512;
/// The lower halves of `ymm` are `xmm`; where the standard format has the upper ones.
const AVX: usize = 576;

/// Numbers of components: bits of `XSTATE_BV`.
const BIT_X87: u32 = 0;
const BIT_SSE: u32 = 1;
const BIT_AVX: u32 = 2;
const BIT_ZMM_HIGH: u32 = 6;
const BIT_ZMM_16: u32 = 7;

/// Where an area has the components that not every processor puts at the same place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Places {
    avx: Option<usize>,
    /// The upper halves of `zmm0` to `zmm15`.
    zmm_high: Option<usize>,
    /// `zmm16` to `zmm31`.
    zmm_16: Option<usize>,
}

impl Places {
    /// What the note of the kernel says (`NT_X86_XSAVE_LAYOUT`; Linux 6.12,
    /// `arch/x86/kernel/fpu/xstate.c`, `dump_xsave_layout_desc`): of each component its
    /// number, size, offset and flags, in four bytes each.
    pub(super) fn listed(bytes: &[u8], order: ByteOrder) -> Self {
        let format = WordFormat { size: 4, order };
        let place = |wanted: u32| {
            let rows = bytes.chunks_exact(16);
            let mut rows = rows.filter(|row| format.read(row) == Some(u64::from(wanted)));
            usize::try_from(format.read(rows.next()?.get(8..)?)?).ok()
        };
        Self { avx: place(BIT_AVX), zmm_high: place(BIT_ZMM_HIGH), zmm_16: place(BIT_ZMM_16) }
    }

    /// Where the components are in an area of so many bytes.
    //
    // Folklore: the offsets are the processor's own, and no area says them. Intel's
    // left room for MPX, which AMD's never had. Seen: 2688 and 2696 bytes (with PKRU)
    // and 11008 (with AMX) from Intel's; 2432 and 2440 from AMD's Zen 4. gdb tells
    // them apart by these sizes as well (gdb 14, i387-tdep.c, i387_guess_xsave_layout).
    // gdb 13 and older have Intel's places only: in their cores from AMD's processors
    // the upper halves of zmm0 to zmm7 are lost and the rest has another one's name.
    fn of_size(size: usize) -> Self {
        let (zmm_high, zmm_16) = match size {
            2432..2688 => (Some(896), Some(1408)),
            2688.. => (Some(1152), Some(1664)),
            _ => (None, None),
        };
        Self { avx: Some(AVX), zmm_high, zmm_16 }
    }
}

/// The registers of an FXSAVE area, of whose vector registers there are `count`.
pub(super) fn fxsave(area: &[u8], count: usize, format: WordFormat) -> Vec<Register> {
    let parts = (0..count).flat_map(|number| vector(number, 0, part(area, XMM, 16, number), format));
    parts.chain(x87(area, format)).collect()
}

/// The registers of an XSAVE area, of whose vector registers AVX has `count`.
///
/// A component whose bit in `XSTATE_BV` is clear is as it was at the start, all zeros,
/// whatever stands in its place (Intel SDM, volume 1, 13.6).
pub(super) fn xsave(area: &[u8], count: usize, format: WordFormat, places: Option<Places>) -> Vec<Register> {
    const COMPACTED: u64 = 1 << 63;
    let header = |at: usize| area.get(at..).and_then(|rest| rest.first_chunk());
    let header = |at: usize| header(at).map(|bytes| u64::from_le_bytes(*bytes));
    let (Some(used), Some(compaction)) = (header(HEADER), header(HEADER.saturating_add(8))) else {
        return fxsave(area, count, format);
    };
    let has = |bit: u32| used & 1_u64.wrapping_shl(bit) != 0;
    let places = places.unwrap_or_else(|| Places::of_size(area.len()));
    let standard = compaction & COMPACTED == 0;
    let component = |bit: u32, place: Option<usize>| place.filter(|_| standard && has(bit));
    let lower = has(BIT_SSE).then_some(XMM);
    let upper = component(BIT_AVX, places.avx);
    let high = component(BIT_ZMM_HIGH, places.zmm_high);
    let whole = component(BIT_ZMM_16, places.zmm_16).filter(|_| count == 16);
    let pieces = |number| [(0, lower, 16), (16, upper, 16), (32, high, 32)].map(|piece| (number, piece));
    let first = (0..count).flat_map(pieces).flat_map(|(number, (from, place, size))| {
        vector(number, from, place.map_or(&[][..], |place| part(area, place, size, number)), format)
    });
    let rest = (0..16_usize).flat_map(|index| {
        let bytes = whole.map_or(&[][..], |place| part(area, place, 64, index));
        vector(index.saturating_add(16), 0, bytes, format)
    });
    let stack = if has(BIT_X87) { x87(area, format) } else { Vec::new() };
    first.chain(rest).chain(stack).collect()
}

/// The words of a vector register from its byte `from` on.
fn vector(
    number: usize,
    from: usize,
    bytes: &[u8],
    format: WordFormat,
) -> impl Iterator<Item = Register> + use<'_> {
    X86_VECTORS.words(number, from, bytes, format)
}

/// Bytes number `index` of those that lie at `place`, `size` of them each; empty where they are cut.
fn part(area: &[u8], place: usize, size: usize, index: usize) -> &[u8] {
    let start = index.checked_mul(size).and_then(|at| at.checked_add(place));
    let bytes = start.and_then(|start| area.get(start..)?.get(..size));
    bytes.unwrap_or_default()
}

/// What `st0` to `st7` hold without their exponents, which is what MMX uses of them.
fn x87(area: &[u8], format: WordFormat) -> Vec<Register> {
    (0..8).flat_map(|number| X87.words(number, 0, part(area, ST, 16, number), format)).collect()
}

/// The `st` registers of an FSAVE area, which i386 has in `NT_FPREGSET` (Intel SDM,
/// volume 1, figure 8-9): seven words of four bytes, then ten bytes each.
pub(super) fn fsave(area: &[u8], format: WordFormat) -> Vec<Register> {
    let registers = area.get(28..).unwrap_or_default().chunks_exact(10).take(8).enumerate();
    registers.flat_map(|(number, bytes)| X87.words(number, 0, bytes, format)).collect()
}
