//! What the kernel leaves for a signal's handler to return to.
//!
//! A handler returns to code of libc that calls `rt_sigreturn`, with the stack pointer at a
//! context from which the kernel restores all registers (Linux, `arch/x86/kernel/signal_64.c`,
//! `struct rt_sigframe`). The rules of that code are expressions that say the same.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

use crate::peek::Peek;

/// What interrupted a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Signal {
    /// It came from elsewhere: the frame goes on where it was.
    Other,
    /// The frame's own instruction: handlers of such are known to change where it goes on.
    Fault,
}

/// `mov $15, %rax; syscall` (glibc, `sysdeps/unix/sysv/linux/x86_64/libc_sigaction.c`; musl,
/// `src/signal/x86_64/restore.s`).
const RETURNS: [u8; 9] = [0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05];

/// Where `rip`, and the number of the last trap, are in a context (Linux, `struct sigcontext_64`
/// of `arch/x86/include/uapi/asm/sigcontext.h`; `asm-generic/ucontext.h`).
pub(super) const RIP: u64 = 168;
const TRAP: u64 = 200;

/// The longest instruction.
const LONGEST: usize = 15;

/// What signal came, where the code at `pc` returns from its handler to the context there.
///
/// The number of the signal is written for handlers of one kind only (`SA_SIGINFO`). That of the
/// trap stays from an earlier fault of the thread, which then counts for later signals too.
pub(super) fn at(peek: &mut Peek<'_>, pc: u64, context: u64) -> Option<Signal> {
    if peek.bytes(pc, RETURNS.len())? != RETURNS.as_slice() {
        return None;
    }
    let trap = peek.word(context.checked_add(TRAP)?)?;
    let place = peek.word(context.checked_add(RIP)?)?;
    // Trap 0 is that of a division, and there was none before the first one.
    let fault = trap != 0 || divides(peek, place);
    Some(if fault { Signal::Fault } else { Signal::Other })
}

/// Whether the instruction at `address` may be a division.
fn divides(peek: &mut Peek<'_>, address: u64) -> bool {
    let bytes = (1..=LONGEST).rev().find_map(|length| Some(peek.bytes(address, length)?.to_vec()));
    let Some(bytes) = bytes else { return true };
    let instruction = Decoder::with_ip(64, &bytes, address, DecoderOptions::NONE).decode();
    matches!(instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv | Mnemonic::INVALID)
}

/// Where a general register is in a context, by its number in instructions.
pub(super) const fn offset(register: u8) -> Option<u64> {
    Some(match register {
        0 => 144,
        1 => 152,
        2 => 136,
        3 => 128,
        4 => 160,
        5 => 120,
        6 => 112,
        7 => 104,
        8 => 40,
        9 => 48,
        10 => 56,
        11 => 64,
        12 => 72,
        13 => 80,
        14 => 88,
        15 => 96,
        _ => return None,
    })
}
