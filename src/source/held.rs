//! The registers of a thread that the calling thread holds by ptrace.
//!
//! Only what nix reads in safe calls: no upper halves of x86's `ymm` and no
//! `zmm16` (`NT_X86_XSTATE`), and on a machine that nix has no calls for, nothing.

use crate::source::Thread;
use crate::source::elf::Image;

/// The thread with its registers; `None` where they cannot be read.
///
/// `image` is the program's, where known: on some machines a program's words
/// may be half as long as the kernel's.
pub(super) fn thread(id: i32, image: Option<&Image>) -> Option<Thread> {
    machine::thread(id, image)
}

/// What of the vector registers of these threads is not read, as a sentence.
pub(super) fn unread_vectors(threads: &[Thread]) -> Option<&'static str> {
    machine::unread_vectors(threads)
}

#[cfg(target_arch = "x86_64")]
mod machine {
    use nix::sys::ptrace;
    use nix::unistd::Pid;
    use object::elf;

    use crate::source::Thread;
    use crate::source::elf::Image;
    use crate::source::registers::{Layout, Register};
    use crate::word::WordFormat;

    /// Selectors of code with 32 bits: Linux's, and Linux's under Xen (Linux,
    /// `arch/x86/include/asm/segment.h` and `xen/interface/xen-x86_64.h`).
    const CODE_32: [u64; 2] = [0x23, 0xe023];

    pub(super) fn thread(id: i32, image: Option<&Image>) -> Option<Thread> {
        let pid = Pid::from_raw(id);
        let held = ptrace::getregs(pid).ok()?;
        if CODE_32.contains(&held.cs) {
            let low = |value: u64| value & 0xffff_ffff;
            let first = [held.rbx, held.rcx, held.rdx, held.rsi, held.rdi, held.rbp, held.rax];
            // Selectors, orig_eax, eip, cs and eflags come before esp.
            let values: Vec<u64> = first.into_iter().chain([0; 8]).chain([held.rsp]).map(low).collect();
            return Some(Layout::of(elf::EM_386)?.thread(id, |index| values.get(index).copied()));
        }
        let values = [
            held.r15,
            held.r14,
            held.r13,
            held.r12,
            held.rbp,
            held.rbx,
            held.r11,
            held.r10,
            held.r9,
            held.r8,
            held.rax,
            held.rcx,
            held.rdx,
            held.rsi,
            held.rdi,
            held.orig_rax,
            held.rip,
            held.cs,
            held.eflags,
            held.rsp,
            held.ss,
            held.fs_base,
            held.gs_base,
        ];
        let mut thread = Layout::of(elf::EM_X86_64)?.thread(id, |index| values.get(index).copied());
        thread.registers.vector = vectors(pid, image.map_or(WordFormat::LITTLE_64, |image| image.format));
        Some(thread)
    }

    // Folklore: of a thread that runs code with 32 bits the kernel gives FSAVE's area
    // here, a fifth of what the call has room for, so it is only asked about others.
    #[cfg(target_env = "gnu")]
    fn vectors(pid: Pid, format: WordFormat) -> Vec<Register> {
        use ptrace::regset::NT_PRFPREG;
        let Ok(held) = ptrace::getregset::<NT_PRFPREG>(pid) else { return Vec::new() };
        // The first 32 bytes of FXSAVE's area are control words.
        let parts = held.st_space.iter().chain(&held.xmm_space);
        let area: Vec<u8> =
            std::iter::repeat_n(0, 32).chain(parts.flat_map(|part| part.to_le_bytes())).collect();
        crate::source::xsave::fxsave(&area, 16, format)
    }

    #[cfg(not(target_env = "gnu"))]
    fn vectors(_: Pid, _: WordFormat) -> Vec<Register> {
        Vec::new()
    }

    pub(super) fn unread_vectors(threads: &[Thread]) -> Option<&'static str> {
        let narrow = |thread: &Thread| thread.registers.general.iter().any(|register| register.name == "eax");
        if cfg!(not(target_env = "gnu")) {
            return Some("vector registers are not read");
        }
        if threads.iter().any(narrow) {
            return Some("the vector registers of a 32-bit program are not read");
        }
        let longer = std::arch::is_x86_feature_detected!("avx");
        longer.then_some("the upper halves of vector registers (ymm, zmm) are not read")
    }
}

#[cfg(all(target_arch = "aarch64", any(target_env = "gnu", target_env = "musl")))]
mod machine {
    use nix::sys::ptrace;
    use nix::unistd::Pid;
    use object::elf;
    use ptrace::regset::NT_PRFPREG;

    use crate::source::Thread;
    use crate::source::elf::Image;
    use crate::source::registers::{Layout, fpsimd};

    pub(super) fn thread(id: i32, image: Option<&Image>) -> Option<Thread> {
        // Folklore: of a program for 32-bit arm the kernel gives that machine's registers,
        // less than what the call has room for.
        let image = image.filter(|image| elf::Machine(image.machine) == elf::EM_AARCH64)?;
        let pid = Pid::from_raw(id);
        let held = ptrace::getregs(pid).ok()?;
        let values: Vec<u64> = held.regs.into_iter().chain([held.sp]).collect();
        let mut thread = Layout::of(elf::EM_AARCH64)?.thread(id, |index| values.get(index).copied());
        if let Ok(held) = ptrace::getregset::<NT_PRFPREG>(pid) {
            let area: Vec<u8> = held.vregs.iter().flat_map(|vector| vector.to_ne_bytes()).collect();
            thread.registers.vector = fpsimd(&area, image.format);
        }
        Some(thread)
    }

    pub(super) fn unread_vectors(_: &[Thread]) -> Option<&'static str> {
        let longer = std::arch::is_aarch64_feature_detected!("sve");
        longer.then_some("of vector registers the first 16 bytes are read (v), not the rest of z")
    }
}

#[cfg(all(target_arch = "riscv64", target_env = "gnu"))]
mod machine {
    use nix::sys::ptrace;
    use nix::unistd::Pid;
    use object::elf;

    use crate::source::Thread;
    use crate::source::elf::Image;
    use crate::source::registers::Layout;

    pub(super) fn thread(id: i32, image: Option<&Image>) -> Option<Thread> {
        let own = |image: &&Image| elf::Machine(image.machine) == elf::EM_RISCV && image.format.size == 8;
        image.filter(own)?;
        let held = ptrace::getregs(Pid::from_raw(id)).ok()?;
        let values = [
            held.pc, held.ra, held.sp, held.gp, held.tp, held.t0, held.t1, held.t2, held.s0, held.s1,
            held.a0, held.a1, held.a2, held.a3, held.a4, held.a5, held.a6, held.a7, held.s2, held.s3,
            held.s4, held.s5, held.s6, held.s7, held.s8, held.s9, held.s10, held.s11, held.t3, held.t4,
            held.t5, held.t6,
        ];
        Some(Layout::of(elf::EM_RISCV)?.thread(id, |index| values.get(index).copied()))
    }

    pub(super) fn unread_vectors(_: &[Thread]) -> Option<&'static str> {
        Some("vector registers are not read")
    }
}

#[cfg(not(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", any(target_env = "gnu", target_env = "musl")),
    all(target_arch = "riscv64", target_env = "gnu")
)))]
mod machine {
    use crate::source::Thread;
    use crate::source::elf::Image;

    pub(super) fn thread(_: i32, _: Option<&Image>) -> Option<Thread> {
        None
    }

    pub(super) fn unread_vectors(_: &[Thread]) -> Option<&'static str> {
        None
    }
}
