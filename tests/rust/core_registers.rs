//! Registers in the notes of cores, laid out by the figures of the kernel and of processors.

use std::borrow::Cow;

use gdb_leak::source::Thread;
use gdb_leak::source::registers::Register;
use proptest::prelude::*;

use crate::core_builder::{
    AARCH64, ARM, Builder, I386, Machine, POWERPC, POWERPC64, RISCV, S390X, X32, X86_64,
};
use crate::{open, small};

const PRSTATUS: u32 = 1;
const FPREGSET: u32 = 2;
const XSTATE: u32 = 0x202;
const XSAVE_LAYOUT: u32 = 0x205;
const PRXFPREG: u32 = 0x46e6_2b7f;

/// Of Intel's processors, standard format: header 512, AVX 576, opmask 1088.
const INTEL: Area = Area { size: 2696, zmm_high: 1152, zmm_16: 1664 };
/// With the tiles of AMX behind them.
const INTEL_AMX: Area = Area { size: 11008, ..INTEL };
/// Of AMD's Zen 4, which has no room for MPX.
const AMD: Area = Area { size: 2440, zmm_high: 896, zmm_16: 1408 };

#[derive(Clone, Copy, Debug)]
struct Area {
    size: usize,
    zmm_high: usize,
    zmm_16: usize,
}

/// `NT_PRSTATUS` of thread `id`, register number `i` of `elf_gregset_t` being `value(i)`.
fn prstatus(machine: Machine, id: i32, value: impl Fn(u64) -> u64) -> Vec<u8> {
    let (size, pid, registers) = if machine.wide { (8, 32, 112) } else { (4, 24, 72) };
    let size = if machine.number == X86_64.number { 8 } else { size };
    let mut bytes = vec![0; registers + 48 * size];
    put(machine, &mut bytes, pid, 4, u64::from(id.unsigned_abs()));
    for index in 0..48 {
        put(machine, &mut bytes, registers + index * size, size, value(index as u64));
    }
    bytes
}

fn put(machine: Machine, bytes: &mut [u8], at: usize, size: usize, value: u64) {
    let mut written = value.to_le_bytes()[..size].to_vec();
    if machine.big {
        written.reverse();
    }
    bytes[at..at + size].copy_from_slice(&written);
}

fn threads(builder: &Builder) -> Vec<Thread> {
    open(&builder.build()).unwrap().origin.threads
}

/// The thread of a core with one, whose registers have 1000 more than their number.
fn thread(machine: Machine, notes: &[(&str, u32, &[u8])]) -> Thread {
    let status = prstatus(machine, 77, |index| 1000 + index);
    let core = small(machine).note("CORE", PRSTATUS, &status);
    let core = notes.iter().fold(core, |core, (owner, kind, bytes)| core.note(owner, *kind, bytes));
    let mut threads = threads(&core);
    assert_eq!(threads.len(), 1);
    threads.remove(0)
}

fn vector(machine: Machine, notes: &[(&str, u32, &[u8])]) -> Vec<(&'static str, u64)> {
    plain(&thread(machine, notes).registers.vector)
}

fn plain(registers: &[Register]) -> Vec<(&'static str, u64)> {
    let named = |register: &Register| match register.name {
        Cow::Borrowed(name) => (name, register.value),
        Cow::Owned(ref name) => panic!("{name} is in no table"),
    };
    registers.iter().map(named).collect()
}

#[test]
fn general_registers_are_those_of_the_machine_without_flags_and_thread_pointer() {
    // As names and numbers: `r15 0` is the first of elf_gregset_t.
    let sixteen = "r0 r1 r2 r3 r4 r5 r6 r7 r8 r9 r10 r11 r12 r13 r14 r15";
    let upper = "r14 r15 r16 r17 r18 r19 r20 r21 r22 r23 r24 r25 r26 r27 r28 r29 r30 r31";
    let cases: [(Machine, u64, Option<u64>, String); 9] = [
        (X86_64, 19, Some(21), "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi @16 rip @19 rsp @22 gs_base".into()),
        (X32, 19, Some(21), "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi @16 rip @19 rsp @22 gs_base".into()),
        (I386, 15, None, "ebx ecx edx esi edi ebp eax @15 esp".into()),
        (
            AARCH64,
            31,
            None,
            "x0 x1 x2 x3 x4 x5 x6 x7 x8 x9 x10 x11 x12 x13 x14 x15 x16 x17 x18 x19 x20 x21 x22 x23 x24 x25 \
             x26 x27 x28 x29 x30 sp"
                .into(),
        ),
        (ARM, 13, None, "r0 r1 r2 r3 r4 r5 r6 r7 r8 r9 r10 r11 r12 sp lr".into()),
        (S390X, 17, None, format!("@2 {sixteen}")),
        (POWERPC64, 1, None, sixteen.replace("r13 r14 r15", "@14 ") + upper + " @35 ctr lr"),
        (POWERPC, 1, None, sixteen.replace("r2 ", "@3 ").replace("r14 r15", upper) + " @35 ctr lr"),
        (
            RISCV,
            2,
            None,
            "@1 ra sp gp @5 t0 t1 t2 fp s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6"
                .into(),
        ),
    ];
    for (machine, stack, control, names) in cases {
        let mut expected = Vec::new();
        let mut number = 1000;
        for word in names.split_whitespace() {
            if let Some(at) = word.strip_prefix('@') {
                number = 1000 + at.parse::<u64>().unwrap();
            } else {
                expected.push((word, number));
                number += 1;
            }
        }
        let thread = thread(machine, &[]);
        assert_eq!(plain(&thread.registers.general), expected, "{machine:?}");
        assert_eq!((thread.id, thread.stack_pointer), (77, Some(1000 + stack)), "{machine:?}");
        assert_eq!(thread.thread_pointer, control.map(|index| 1000 + index));
        assert_eq!(thread.registers.vector, []);
    }
}

#[test]
fn the_registers_of_an_unknown_machine_are_unknown() {
    let thread = thread(Machine { wide: true, big: false, number: 8 }, &[]);
    assert_eq!(thread, Thread { id: 77, ..Thread::default() });
}

/// An area of 512 bytes: words of eight bytes by their offset.
fn words(size: usize, words: &[(usize, u64)]) -> Vec<u8> {
    let mut area = vec![0; size];
    for (at, value) in words {
        put(X86_64, &mut area, *at, 8, *value);
    }
    area
}

/// All components of `area` in use, and one word of each: `zmm3` has it in all three.
fn full(area: Area) -> Vec<u8> {
    let bits = 0b1110_0111;
    words(
        area.size,
        &[
            (512, bits),
            (32 + 16, 0xa1),
            // What follows the eight bytes of st1 is its exponent.
            (32 + 24, 0xffff),
            (160 + 3 * 16, 0xb0),
            (160 + 15 * 16 + 8, 0xb1),
            (576 + 3 * 16 + 8, 0xc3),
            (area.zmm_high + 3 * 32, 0xd4),
            (area.zmm_high + 3 * 32 + 24, 0xd7),
            (area.zmm_16, 0xe0),
            (area.zmm_16 + 15 * 64 + 56, 0xe7),
        ],
    )
}

const FULL: [(&str, u64); 8] = [
    ("xmm3[0]", 0xb0),
    ("ymm3[3]", 0xc3),
    ("zmm3[4]", 0xd4),
    ("zmm3[7]", 0xd7),
    ("xmm15[1]", 0xb1),
    ("xmm16[0]", 0xe0),
    ("zmm31[7]", 0xe7),
    ("st1[0]", 0xa1),
];

#[test]
fn vector_registers_are_found_where_each_processor_has_them() {
    for area in [INTEL, INTEL_AMX, AMD] {
        assert_eq!(vector(X86_64, &[("LINUX", XSTATE, &full(area))]), FULL, "{area:?}");
    }
}

#[test]
fn without_avx512_an_area_has_the_lower_halves_and_those_of_avx() {
    let area = &full(INTEL)[..832];
    let expected: Vec<_> =
        FULL.into_iter().filter(|(name, _)| !name.contains("zmm") && *name != "xmm16[0]").collect();
    assert_eq!(vector(X86_64, &[("LINUX", XSTATE, area)]), expected);
}

#[test]
fn a_component_that_was_never_used_has_no_values_whatever_stands_in_its_place() {
    let all = full(INTEL);
    let without = |bit: u32| {
        let mut area = all.clone();
        area[512] &= !(1_u8 << bit);
        let left: Vec<_> = vector(X86_64, &[("LINUX", XSTATE, &area)]);
        FULL.into_iter().filter(|word| !left.contains(word)).map(|word| word.0).collect::<Vec<_>>()
    };
    assert_eq!(without(0), ["st1[0]"]);
    assert_eq!(without(1), ["xmm3[0]", "xmm15[1]"]);
    assert_eq!(without(2), ["ymm3[3]"]);
    assert_eq!(without(6), ["zmm3[4]", "zmm3[7]"]);
    assert_eq!(without(7), ["xmm16[0]", "zmm31[7]"]);
    assert_eq!(without(5), [""; 0]);
}

#[test]
fn a_compacted_area_is_read_as_far_as_it_is_like_any_other() {
    let mut area = full(INTEL);
    area[527] = 0x80;
    assert_eq!(vector(X86_64, &[("LINUX", XSTATE, &area)]), [FULL[0], FULL[4], FULL[7]]);
}

#[test]
fn where_the_kernel_lists_the_components_they_are_there_although_the_note_comes_last() {
    let moved = Area { size: 3000, zmm_high: 1200, zmm_16: 1800 };
    let rows = [(2, 256, 576), (5, 64, 1100), (6, 512, 1200), (7, 1024, 1800)];
    let listed: Vec<u8> = rows
        .iter()
        .flat_map(|(number, size, at)| [*number, *size, *at, 0_u32])
        .flat_map(u32::to_le_bytes)
        .collect();
    let notes = [("LINUX", XSTATE, &full(moved)[..]), ("LINUX", XSAVE_LAYOUT, &listed)];
    assert_eq!(vector(X86_64, &notes), FULL);
    let without: Vec<_> = FULL.into_iter().filter(|(name, _)| !name.starts_with("zmm3[")).collect();
    let listed = [&listed[..32], &listed[48..]].concat();
    assert_eq!(vector(X86_64, &[notes[0], ("LINUX", XSAVE_LAYOUT, &listed)]), without);
}

#[test]
fn the_larger_of_two_areas_is_taken_in_either_order() {
    let (all, legacy) = (full(INTEL), full(INTEL)[..512].to_vec());
    let (xstate, fxsave) = (("LINUX", XSTATE, &all[..]), ("CORE", FPREGSET, &legacy[..]));
    assert_eq!(vector(X86_64, &[fxsave]), [FULL[0], FULL[4], FULL[7]]);
    assert_eq!(vector(X86_64, &[xstate, fxsave]), FULL);
    assert_eq!(vector(X86_64, &[fxsave, xstate]), FULL);
}

#[test]
fn a_machine_with_words_of_four_bytes_has_eight_vector_registers_of_such_words() {
    // fsave: seven words, then ten bytes each.
    let mut old = vec![0; 108];
    old[28 + 10..28 + 20].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0, 9, 9]);
    assert_eq!(vector(I386, &[("CORE", FPREGSET, &old)]), [("st1[0]", 1), ("st1[1]", 2)]);
    let legacy = words(512, &[(32 + 16, 2 << 32 | 1), (160 + 7 * 16 + 8, 7 << 32), (160 + 8 * 16, 8)]);
    let expected = [("xmm7[3]", 7), ("st1[0]", 1), ("st1[1]", 2)];
    let notes = [("CORE", FPREGSET, &old[..]), ("LINUX", PRXFPREG, &legacy)];
    assert_eq!(vector(I386, &notes), expected);
    let area = words(832, &[(512, 7), (160, 5 << 32), (576 + 7 * 16, 6 << 32 | 4), (576 + 8 * 16, 8)]);
    assert_eq!(vector(I386, &[("LINUX", XSTATE, &area)]), [("xmm0[1]", 5), ("ymm7[4]", 4), ("ymm7[5]", 6)]);
}

#[test]
fn vector_registers_of_aarch64_are_read() {
    let area = words(528, &[(16, 3), (31 * 16 + 8, 4), (512, 0xffff)]);
    assert_eq!(vector(AARCH64, &[("CORE", FPREGSET, &area)]), [("v1[0]", 3), ("v31[1]", 4)]);
}

#[test]
fn notes_that_follow_a_thread_are_its_own() {
    let mut core = small(X86_64).note("LINUX", XSTATE, &full(AMD));
    for id in 1..4 {
        let status = prstatus(X86_64, id, |index| index + 100 * u64::from(id.unsigned_abs()));
        core = core.note("CORE", PRSTATUS, &status);
        if id != 2 {
            let area = words(512, &[(160, u64::from(id.unsigned_abs()))]);
            core = core.note("CORE", FPREGSET, &area);
        }
    }
    let found: Vec<_> = threads(&core)
        .iter()
        .map(|thread| (thread.id, thread.registers.general[0].value, plain(&thread.registers.vector)))
        .collect();
    let expected = [(1, 100, vec![("xmm0[0]", 1)]), (2, 200, vec![]), (3, 300, vec![("xmm0[0]", 3)])];
    assert_eq!(found, expected);
}

#[test]
fn a_cut_note_gives_the_registers_that_it_has() {
    let status = prstatus(X86_64, 5, |index| index + 1);
    let found = threads(&small(X86_64).note("CORE", PRSTATUS, &status[..112 + 3 * 8 + 7]));
    assert_eq!(plain(&found[0].registers.general), [("r15", 1), ("r14", 2), ("r13", 3)]);
    assert_eq!((found[0].stack_pointer, found[0].thread_pointer), (None, None));
    let area = full(AMD);
    for size in (0..area.len()).step_by(8) {
        let found = vector(X86_64, &[("LINUX", XSTATE, &area[..size])]);
        assert!(found.iter().all(|word| FULL.contains(word)), "{size}: {found:?}");
    }
}

proptest! {
    #[test]
    fn areas_of_any_bytes_never_panic(
        machine in prop::sample::select(vec![X86_64, X32, I386, AARCH64]),
        kind in prop::sample::select(vec![FPREGSET, XSTATE, PRXFPREG]),
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        layout in prop::option::of(prop::collection::vec(any::<u8>(), 0..80)),
    ) {
        let owner = if kind == FPREGSET { "CORE" } else { "LINUX" };
        let mut notes = vec![(owner, kind, &bytes[..])];
        notes.extend(layout.as_ref().map(|layout| ("LINUX", XSAVE_LAYOUT, &layout[..])));
        let found = vector(machine, &notes);
        prop_assert!(found.len() <= 16 * 32 + 16);
        prop_assert!(found.iter().all(|(_, value)| *value != 0));
    }
}
