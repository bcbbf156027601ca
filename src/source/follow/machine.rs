//! What of following a program differs between machines.

use nix::unistd::Pid;

/// Whether the thread, held where it ends, ends alone: it called `exit`, the system's, and not
/// `exit_group`, nor does it end because its process does.
pub(super) fn ends_alone(thread: i32) -> bool {
    here::ends_alone(Pid::from_raw(thread))
}

pub(super) use here::{TRAP_BYTES, breaks, program_counter, set_program_counter, watch};

/// The word with the instruction that traps as its first byte.
pub(super) fn trapping(word: i64) -> i64 {
    let mut bytes = word.to_ne_bytes();
    if let Some(first) = bytes.first_mut() {
        *first = here::TRAP;
    }
    i64::from_ne_bytes(bytes)
}

#[cfg(target_arch = "x86_64")]
mod here {
    use std::mem::offset_of;

    use nix::errno::Errno;
    use nix::libc::user;
    use nix::sys::ptrace;
    use nix::unistd::Pid;

    /// Selector of code with 32 bits (Linux, `arch/x86/include/asm/segment.h`).
    const CODE_32: u64 = 0x23;
    /// `exit` (Linux, `arch/x86/entry/syscalls/syscall_64.tbl` and `syscall_32.tbl`).
    const EXIT: (u64, u64) = (60, 1);

    /// `int3`.
    pub(super) const TRAP: u8 = 0xcc;
    /// How far behind the instruction that trapped the program counter stands.
    pub(in super::super) const TRAP_BYTES: u64 = 1;

    /// How many addresses can be watched without changing a byte of the program.
    const WATCHED: usize = 4;
    const CONTROL: usize = 7;

    pub(super) fn ends_alone(thread: Pid) -> bool {
        let Ok(registers) = ptrace::getregs(thread) else { return false };
        let (wide, narrow) = EXIT;
        registers.orig_rax == if registers.cs == CODE_32 { narrow } else { wide }
    }

    pub(in super::super) fn program_counter(thread: i32) -> Option<u64> {
        Some(ptrace::getregs(Pid::from_raw(thread)).ok()?.rip)
    }

    pub(in super::super) fn set_program_counter(thread: i32, to: u64) -> Result<(), Errno> {
        let mut registers = ptrace::getregs(Pid::from_raw(thread))?;
        registers.rip = to;
        ptrace::setregs(Pid::from_raw(thread), registers)
    }

    /// Has the thread trap before it executes what lies at one of the addresses; with none, nowhere.
    pub(in super::super) fn watch(thread: i32, addresses: &[u64]) -> Result<(), Errno> {
        let register = |index: usize, value: u64| {
            let words = index.saturating_mul(size_of::<u64>());
            let offset = offset_of!(user, u_debugreg).saturating_add(words);
            let at = std::ptr::without_provenance_mut(offset);
            ptrace::write_user(Pid::from_raw(thread), at, i64::from_ne_bytes(value.to_ne_bytes()))
        };
        // Off first: an address that is in use may not change.
        register(CONTROL, 0)?;
        let mut control = 0;
        for (index, address) in addresses.iter().take(WATCHED).enumerate() {
            register(index, *address)?;
            // Bit 2n turns register n on; length and kind of access are 0 for execution
            // (Intel SDM, volume 3, 18.2.4).
            control |= 1_u64 << index.saturating_mul(2);
        }
        if control == 0 { Ok(()) } else { register(CONTROL, control) }
    }

    /// Whether one of the addresses is where the thread stands, and is about to execute.
    pub(in super::super) fn breaks(counter: u64, addresses: &[u64]) -> bool {
        addresses.iter().take(WATCHED).any(|address| *address == counter)
    }
}

/// Nothing is recorded on other machines, and nothing followed.
#[cfg(not(target_arch = "x86_64"))]
mod here {
    use nix::errno::Errno;
    use nix::unistd::Pid;

    pub(super) const TRAP: u8 = 0;
    pub(in super::super) const TRAP_BYTES: u64 = 0;

    pub(super) fn ends_alone(_: Pid) -> bool {
        false
    }

    pub(in super::super) fn program_counter(_: i32) -> Option<u64> {
        None
    }

    pub(in super::super) fn set_program_counter(_: i32, _: u64) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    pub(in super::super) fn watch(_: i32, _: &[u64]) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    pub(in super::super) fn breaks(_: u64, _: &[u64]) -> bool {
        false
    }
}
