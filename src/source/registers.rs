//! The registers of a thread: which of them may hold a pointer, and their names.
//!
//! A pointer may lie in a register and nowhere else: that of a block that was
//! just allocated, or one that a loop goes along. General registers are those
//! that a program computes with, the stack pointer included, and on x86-64 the
//! instruction pointer, from which a stack is unwound. Left out are that of
//! other machines, flags, selectors, and whichever points at the thread's
//! control block ([`Thread::thread_pointer`]).

use std::borrow::Cow;
use std::sync::LazyLock;

use object::elf::{self, Machine};

use crate::source::Thread;
use crate::word::WordFormat;

/// A general register, or one word of a vector register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Register {
    /// As gdb calls it; of a word of a vector register see [`Registers::vector`].
    pub name: Cow<'static, str>,
    /// What it holds.
    pub value: u64,
}

/// What the registers of a thread hold, as far as known; both lists are empty where nothing is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// The general registers.
    pub general: Vec<Register>,
    /// The words of vector registers that are not zero, in the order of memory.
    ///
    /// A word has the name of the smallest register that holds it and its index
    /// there, in words of the target: the 32 bytes of `ymm3` are `xmm3[0]`,
    /// `xmm3[1]`, `ymm3[2]` and `ymm3[3]`, or `xmm3[0]` to `ymm3[7]` where words
    /// have four bytes. So it is called the same whether or not the rest is known.
    pub vector: Vec<Register>,
}

/// What a machine's `elf_gregset_t` has: the registers of a thread in `NT_PRSTATUS`.
#[derive(Debug)]
pub(super) struct Layout {
    /// Names in the order of the structure; empty where the register is left out.
    names: &'static [&'static str],
    /// Which of them is the stack pointer.
    stack_pointer: usize,
    /// Which of them has the address of the thread's control block.
    thread_pointer: Option<usize>,
}

/// Linux, `arch/x86/include/asm/user_64.h`, `struct user_regs_struct`: `orig_ax` comes
/// before rip, cs and flags before rsp, ss and `fs_base` after it. What a program does with `gs_base` is its own.
static X86_64: Layout = Layout {
    names: &[
        "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
        "rdi", "", "rip", "", "", "rsp", "", "", "gs_base",
    ],
    stack_pointer: 19,
    thread_pointer: Some(21),
};

/// Linux, `arch/x86/include/asm/user_32.h`, `struct user_regs_struct`: four selectors,
/// `orig_ax`, ip, cs and flags come before esp.
static I386: Layout = Layout {
    names: &["ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "", "", "", "", "", "", "", "", "esp"],
    stack_pointer: 15,
    thread_pointer: None,
};

/// Linux, `arch/arm64/include/uapi/asm/ptrace.h`, `struct user_pt_regs`; pc and pstate follow.
static AARCH64: Layout = Layout {
    names: &[
        "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15",
        "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29",
        "x30", "sp",
    ],
    stack_pointer: 31,
    // `tpidr_el0`, in a note of its own.
    thread_pointer: None,
};

/// Linux, `arch/arm/include/uapi/asm/ptrace.h`, `struct pt_regs`; pc, cpsr and `ORIG_r0` follow.
static ARM: Layout = Layout {
    names: &["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "sp", "lr"],
    stack_pointer: 13,
    thread_pointer: None,
};

/// Linux, `arch/s390/include/uapi/asm/ptrace.h`, `s390_regs`: two words of psw, the general
/// registers, then access registers, which hold the thread pointer in two halves.
static S390: Layout = Layout {
    names: &[
        "", "", "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15",
    ],
    stack_pointer: 17,
    thread_pointer: None,
};

/// Linux, `arch/powerpc/include/uapi/asm/ptrace.h`, `struct pt_regs`: nip, msr and
/// `orig_gpr3` come before ctr and link. r13 leads to the thread's control block, at
/// a distance (Power Architecture 64-bit ELF V2 ABI, 3.7.2).
static PPC64: Layout = Layout {
    names: &[
        "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "", "r14", "r15",
        "r16", "r17", "r18", "r19", "r20", "r21", "r22", "r23", "r24", "r25", "r26", "r27", "r28", "r29",
        "r30", "r31", "", "", "", "ctr", "lr",
    ],
    stack_pointer: 1,
    thread_pointer: None,
};

/// The same structure; here it is r2 that leads to the control block.
static PPC: Layout = Layout {
    names: &[
        "r0", "r1", "", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
        "r16", "r17", "r18", "r19", "r20", "r21", "r22", "r23", "r24", "r25", "r26", "r27", "r28", "r29",
        "r30", "r31", "", "", "", "ctr", "lr",
    ],
    stack_pointer: 1,
    thread_pointer: None,
};

/// Linux, `arch/riscv/include/uapi/asm/ptrace.h`, `struct user_regs_struct`; pc is the first,
/// tp the one left out between gp and t0. gdb says fp for s0.
static RISCV: Layout = Layout {
    names: &[
        "", "ra", "sp", "gp", "", "t0", "t1", "t2", "fp", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
        "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
    ],
    stack_pointer: 2,
    thread_pointer: None,
};

impl Layout {
    /// That of a machine (`EM_X86_64`, …); `None` where it is not known.
    pub(super) fn of(machine: Machine) -> Option<&'static Self> {
        Some(match machine {
            elf::EM_X86_64 => &X86_64,
            elf::EM_386 => &I386,
            elf::EM_AARCH64 => &AARCH64,
            elf::EM_ARM => &ARM,
            elf::EM_S390 => &S390,
            elf::EM_PPC64 => &PPC64,
            elf::EM_PPC => &PPC,
            elf::EM_RISCV => &RISCV,
            _ => return None,
        })
    }

    /// A thread whose registers `value` gives by their index; `None` where one is missing.
    pub(super) fn thread(&self, id: i32, value: impl Fn(usize) -> Option<u64>) -> Thread {
        let named = self.names.iter().enumerate().filter(|(_, name)| !name.is_empty());
        let general = named
            .filter_map(|(index, name)| Some(Register { name: Cow::Borrowed(name), value: value(index)? }));
        Thread {
            id,
            stack_pointer: value(self.stack_pointer),
            thread_pointer: self.thread_pointer.and_then(&value),
            registers: Registers { general: general.collect(), vector: Vec::new() },
        }
    }
}

/// The names of the words of vector registers, each register's in the order of memory.
type Names = Vec<Vec<String>>;

/// Vector registers of one kind: what their words are called.
pub(super) struct Bank {
    /// With words of four bytes, and of eight.
    narrow: LazyLock<Names>,
    wide: LazyLock<Names>,
}

/// Makes the names of `count` registers of `size` bytes; `stem` gives the name for a byte's place.
fn names(count: usize, size: usize, word: usize, stem: fn(usize) -> &'static str) -> Names {
    let words = |number| {
        let starts = (0..size).step_by(word).enumerate();
        starts.map(|(index, at)| format!("{}{number}[{index}]", stem(at))).collect()
    };
    (0..count).map(words).collect()
}

fn x86_stem(at: usize) -> &'static str {
    match at {
        0..16 => "xmm",
        16..32 => "ymm",
        _ => "zmm",
    }
}

/// `zmm0` to `zmm31`, with `ymm` and `xmm` in them.
pub(super) static X86_VECTORS: Bank = Bank {
    narrow: LazyLock::new(|| names(32, 64, 4, x86_stem)),
    wide: LazyLock::new(|| names(32, 64, 8, x86_stem)),
};

/// The eight bytes of `st0` to `st7` that are `mm0` to `mm7` too.
pub(super) static X87: Bank = Bank {
    narrow: LazyLock::new(|| names(8, 8, 4, |_| "st")),
    wide: LazyLock::new(|| names(8, 8, 8, |_| "st")),
};

/// `v0` to `v31` of aarch64.
pub(super) static AARCH64_VECTORS: Bank = Bank {
    narrow: LazyLock::new(|| names(32, 16, 4, |_| "v")),
    wide: LazyLock::new(|| names(32, 16, 8, |_| "v")),
};

impl Bank {
    /// The words of register `number` in `bytes`, which are those from its byte `from` on.
    ///
    /// Words that are zero are left out, and so is what a register of this bank has not.
    pub(super) fn words<'b>(
        &'static self,
        number: usize,
        from: usize,
        bytes: &'b [u8],
        format: WordFormat,
    ) -> impl Iterator<Item = Register> + use<'b> {
        let names = if format.size == 8 { &self.wide } else { &self.narrow };
        let names = names.get(number).map(Vec::as_slice).unwrap_or_default();
        let first = from.checked_div(format.size).unwrap_or_default();
        let words = names.iter().skip(first).zip(bytes.chunks_exact(format.size));
        words.filter_map(move |(name, bytes)| {
            let value = format.read(bytes).filter(|value| *value != 0)?;
            Some(Register { name: Cow::Borrowed(name), value })
        })
    }
}

/// The vector registers of aarch64 (Linux, `arch/arm64/include/uapi/asm/ptrace.h`,
/// `struct user_fpsimd_state`): 32 of 16 bytes, then `fpsr` and `fpcr`.
///
/// Where SVE makes them longer, what they have beyond is not read.
pub(super) fn fpsimd(bytes: &[u8], format: WordFormat) -> Vec<Register> {
    let vectors = bytes.chunks_exact(16).take(32).enumerate();
    vectors.flat_map(|(number, bytes)| AARCH64_VECTORS.words(number, 0, bytes, format)).collect()
}
