//! Which threads may be within a call of malloc.

use crate::memory::Memory;
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::source::Thread;

use super::locate::Ring;

/// System calls that malloc enters: `mmap`, `mprotect`, `munmap`, `brk`, `mremap`, `madvise`, `prctl`.
///
/// Linux, `arch/x86/entry/syscalls/syscall_64.tbl`; glibc 2.17 to 2.43, malloc/malloc.c, malloc/arena.c.
const ENTERED: [u32; 7] = [9, 10, 11, 12, 25, 28, 157];

const FUTEX: u32 = 202;

/// `syscall`, and what sets `eax` before it: to a number, to zero.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const NUMBER: u8 = 0xb8;
const ZERO: [[u8; 2]; 2] = [[0x31, 0xc0], [0x33, 0xc0]];
/// How far before `syscall` malloc's calls set the number at most. Observed: right before it.
const SETTING: u64 = 64;
/// What a handler of a signal returns to: `mov rax,15; syscall`.
///
/// glibc 2.17 to 2.43, `sysdeps/unix/sysv/linux/x86_64/libc_sigaction.c`, `__restore_rt`.
const RESTORER: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
/// How much of each stack is searched for a handler's frame.
const SEARCHED: u64 = 1 << 20;

/// Whether the registers of all threads show that none is within a call of malloc: each runs other
/// code than malloc's module, or waits in a system call that malloc does not enter; and none has
/// a frame of a signal's handler, which may have interrupted a call.
///
/// Known on x86-64 only; false where in doubt.
pub(super) fn at_rest(memory: &dyn Memory, threads: &[Thread], rings: &[Ring]) -> bool {
    let mut peek = Peek::new(memory);
    !threads.is_empty() && threads.iter().all(|thread| outside(memory, &mut peek, thread, rings))
}

/// The numbers of the threads that run code of malloc's module, or wait in a system call that malloc enters or for
/// the lock of an arena, in order.
///
/// Known on x86-64 only.
pub(super) fn in_calls(memory: &dyn Memory, threads: &[Thread], rings: &[Ring]) -> Vec<i32> {
    let within = |thread: &&Thread| {
        let runs = counter(thread).is_some_and(|counter| runs_malloc(memory, counter, rings));
        runs || waits_for_arena(memory, thread, rings)
    };
    let mut ids: Vec<i32> = threads.iter().filter(within).map(|thread| thread.id).collect();
    ids.sort_unstable();
    ids
}

fn counter(thread: &Thread) -> Option<u64> {
    value(thread, "rip")
}

fn value(thread: &Thread, name: &str) -> Option<u64> {
    thread.registers.general.iter().find(|register| register.name == name).map(|register| register.value)
}

/// Whether a thread waits for the lock of an arena, which it starts with: it has changed nothing of that yet, and may
/// have a block in hand.
fn waits_for_arena(memory: &dyn Memory, thread: &Thread, rings: &[Ring]) -> bool {
    let waits = counter(thread).is_some_and(|counter| system_call(memory, counter) == Some(FUTEX));
    let lock = value(thread, "rdi").filter(|_| waits);
    lock.is_some_and(|lock| rings.iter().any(|ring| ring.states.contains(&lock)))
}

fn of_malloc(memory: &dyn Memory, address: u64, rings: &[Ring]) -> bool {
    let region = memory.region_at(address);
    region.is_some_and(|region| rings.iter().any(|ring| region.name == ring.module))
}

/// Whether a thread at `counter` may be running malloc.
fn runs_malloc(memory: &dyn Memory, counter: u64, rings: &[Ring]) -> bool {
    of_malloc(memory, counter, rings) && !waits_elsewhere(memory, counter)
}

fn outside(memory: &dyn Memory, peek: &mut Peek<'_>, thread: &Thread, rings: &[Ring]) -> bool {
    let (Some(counter), Some(sp)) = (counter(thread), thread.stack_pointer) else { return false };
    if runs_malloc(memory, counter, rings) {
        return false;
    }
    let Some(stack) = memory.region_at(sp) else { return false };
    let end = stack.range.end().min(sp.saturating_add(SEARCHED));
    let mut words = Vec::new();
    let Ok(range) = AddressRange::new(sp, end) else { return false };
    if memory.append(range, &mut words).is_some() {
        return false;
    }
    let format = peek.format();
    let words = words.chunks_exact(format.size.max(1)).map(|word| format.order.value(word));
    let mut returns = words.filter(|address| of_malloc(memory, *address, rings));
    !returns.any(|address| peek.bytes(address, RESTORER.len()) == Some(&RESTORER))
}

/// Whether a thread at `counter` waits in a system call that malloc does not enter.
fn waits_elsewhere(memory: &dyn Memory, counter: u64) -> bool {
    let Some(before) = before_system_call(memory, counter) else { return false };
    // What takes the number from its caller, as `syscall` and `__syscall_cancel_arch`, malloc does not call.
    number(&before).is_none_or(|number| !ENTERED.contains(&number))
}

/// The number of the system call in which a thread at `counter` waits, where the code shows it.
fn system_call(memory: &dyn Memory, counter: u64) -> Option<u32> {
    number(&before_system_call(memory, counter)?)
}

/// The code before the system call that is right before `counter`.
fn before_system_call(memory: &dyn Memory, counter: u64) -> Option<Vec<u8>> {
    let mut code = Vec::new();
    let range = AddressRange::with_length(counter.saturating_sub(SETTING), SETTING).ok()?;
    if memory.append(range, &mut code).is_some() {
        return None;
    }
    Some(code.strip_suffix(&SYSCALL)?.to_vec())
}

/// The number of a system call, from the last instruction before it that sets `eax` to a constant.
fn number(before: &[u8]) -> Option<u32> {
    (0..before.len()).rev().find_map(|at| {
        let (earlier, rest) = before.split_at_checked(at)?;
        // With a prefix (0x40 to 0x4f) it sets another register.
        if earlier.last().is_some_and(|byte| byte & 0xf0 == 0x40) {
            return None;
        }
        match *rest {
            [NUMBER, a, b, c, d, ..] => Some(u32::from_le_bytes([a, b, c, d])),
            [a, b, ..] if ZERO.contains(&[a, b]) => Some(0),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_system_call_is_what_was_put_into_eax_last() {
        for (code, expected) in [
            (&b"\x45\x31\xc0\xb8\x0b\0\0\0"[..], Some(11)),
            (b"\xb8\xe6\0\0\0\x4c\x89\xe2", Some(230)),
            // `xor r8d,r8d` behind it sets another register.
            (b"\xb8\x09\0\0\0\x45\x31\xc0", Some(9)),
            (b"\x31\xc0\x48\x89\xfb", Some(0)),
            (b"\x48\x89\xf8", None),
        ] {
            assert_eq!(number(code), expected, "{code:x?}");
        }
    }
}
