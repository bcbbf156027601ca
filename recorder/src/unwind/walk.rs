//! The return addresses on the stack of the calling thread.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use super::modules::Modules;
use super::rule::{Frame, Rule, Saved};
use super::rules::Rules;
use crate::layout::{EXACT, PAGE};
use crate::lock::{Waited, futex_wait};

/// Bytes of a stack that are looked at for the sake of those beyond, at most.
const MOST_BETWEEN: u64 = 1 << 20;

/// Memory of a stack that was seen to be readable.
///
/// Rules may be wrong, and a program that runs on must not fail over it: so each page is
/// asked for once before it is read. Pages above the stack pointer stay for as long as
/// the frames on them live.
pub(crate) struct Readable {
    low: Cell<u64>,
    high: Cell<u64>,
}

impl Readable {
    /// Forgets what another thread saw.
    pub(crate) fn forget(&self) {
        self.low.set(0);
        self.high.set(0);
    }

    #[inline]
    fn has(&self, address: u64) -> bool {
        address.is_multiple_of(8) && address.wrapping_sub(self.low.get()) < self.high.get() - self.low.get()
    }

    /// The word at an address, if it can be read.
    #[inline]
    fn word(&self, address: u64) -> Option<u64> {
        if !self.has(address) {
            self.look(address)?;
        }
        // SAFETY: an aligned word in pages that the kernel read.
        Some(unsafe { (address as *const u64).read() })
    }

    #[cold]
    #[inline(never)]
    fn look(&self, address: u64) -> Option<()> {
        if !address.is_multiple_of(8) {
            return None;
        }
        // No system call for what nearly all programs have.
        if let Some((low, end)) = first_stack().filter(|(low, end)| (*low..*end).contains(&address)) {
            self.low.set(low);
            self.high.set(end);
            return Some(());
        }
        let page = address & !(PAGE as u64 - 1);
        let end = page + PAGE as u64;
        let (low, high) = (self.low.get(), self.high.get());
        // The frame of one function may be larger than a page: those between are looked at too,
        // or else each walk would forget what the one before saw.
        if page.wrapping_sub(high) < MOST_BETWEEN && all_readable(high, end) {
            self.high.set(end);
        } else if low.wrapping_sub(end) < MOST_BETWEEN && all_readable(page, low) {
            self.low.set(page);
        } else if all_readable(page, end) {
            self.low.set(page);
            self.high.set(end);
        } else {
            return None;
        }
        Some(())
    }
}

/// Whether the kernel can read all pages of a range.
///
/// By waiting no time while there is a value that no program has there: malloc waits for its
/// locks by the same call, so that a filter of system calls that lets it work allows this.
fn all_readable(start: u64, end: u64) -> bool {
    const UNLIKELY: u32 = 0x8f3a_61d5;
    (start..end).step_by(PAGE).all(|page| futex_wait(page, UNLIKELY, 0) == Waited::Read)
}

/// The end of the first thread's stack; 0: not known so far.
static STACK_END: AtomicU64 = AtomicU64::new(0);

/// What the kernel leaves free below that end at least, whatever the limit of stacks is (Linux
/// 6.1, `mm/util.c`, `MIN_GAP`): an address in there is of the stack.
const STACK_ROOM: u64 = 128 << 20;

/// Takes note of an address in the last page of the first thread's stack.
pub(crate) fn stack_ends(near: u64) {
    STACK_END.store(near | (PAGE as u64 - 1), Ordering::Relaxed);
}

/// The part of the first thread's stack that is in use, where this runs on it.
fn first_stack() -> Option<(u64, u64)> {
    let local = 0_u8;
    let low = &raw const local as u64 & !(PAGE as u64 - 1);
    let end = STACK_END.load(Ordering::Relaxed).wrapping_add(1);
    (low < end && end - low <= STACK_ROOM).then_some((low, end))
}

/// A stack as it was walked.
pub(crate) struct Walked {
    /// How many frames there are.
    pub(crate) frames: usize,
    /// What tells this stack from others.
    pub(crate) hash: u64,
    /// Whether it leads on further than is known.
    pub(crate) cut: bool,
}

/// Where a call came from: the registers of the caller's frame, with the return address
/// on top of the stack.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) sp: u64,
    pub(crate) bp: u64,
}

#[inline]
fn mix(hash: u64, pc: u64) -> u64 {
    (hash ^ pc).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29)
}

/// Places that are remembered by where on the stack they were, as a power of two.
const SEEN_BITS: u32 = 8;

/// The rules of places, by where on its stack a thread met them last.
///
/// What is at the same place of a stack tends to have the same rule: the same function, or
/// one alike. So a step begins by that rule before its return address was read, let alone
/// looked up, and steps need not wait for one another.
#[repr(C)]
pub(crate) struct Seen([Cell<u64>; 1 << SEEN_BITS]);

impl Seen {
    #[inline]
    fn at(&self, sp: u64) -> &Cell<u64> {
        // SAFETY: the remainder is below their number.
        unsafe { self.0.get_unchecked((sp >> 3) as usize % (1 << SEEN_BITS)) }
    }
}

/// What is known of stacks so far: by this thread, and by all.
pub(crate) struct Known<'k> {
    pub(crate) readable: &'k Readable,
    pub(crate) seen: &'k Seen,
    pub(crate) rules: &'k Rules,
    pub(crate) modules: &'k Modules,
}

impl Known<'_> {
    /// The rule of a return address that was met at `sp`.
    #[inline]
    fn rule(&self, pc: u64, sp: u64) -> Rule {
        let seen = self.seen.at(sp);
        let guess = seen.get();
        let mut rule = guess;
        // SAFETY: does nothing. The compiler knows of no relation between the two any more, or
        // else it would go on with what was found, and so wait for it.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) rule, options(pure, nomem, nostack, preserves_flags));
        };
        let found = self.rules.rule(pc, self.modules).bits();
        if found != guess {
            seen.set(found);
            rule = found;
        }
        Rule::from_bits(rule)
    }

    /// The stack above a call, from the caller on, into `frames`.
    #[inline]
    pub(crate) fn walk(&self, caller: Caller, function: u64, frames: &mut [u64]) -> Walked {
        let mut bp = caller.bp;
        let mut sp = caller.sp + 8;
        let mut walked = Walked { frames: 0, hash: mix(0, function), cut: true };
        // SAFETY: the call has just put it there.
        let mut pc = unsafe { (caller.sp as *const u64).read() };
        let mut exact = 0;
        for place in frames.iter_mut() {
            *place = pc | exact;
            walked.frames += 1;
            walked.hash = mix(walked.hash, pc | exact);
            // The rule is that of the byte before; what a signal interrupted stands where it is.
            let rule = self.rule(pc + (exact >> 63), sp);
            exact = 0;
            let Some((frame, saved)) = step(rule, sp, bp, self.readable) else {
                match rule.frame() {
                    Frame::End => walked.cut = false,
                    Frame::Signal => {
                        if let Some(before) = interrupted(sp, self.readable) {
                            (pc, sp, bp) = before;
                            exact = EXACT;
                            continue;
                        }
                    }
                    _ => {}
                }
                break;
            };
            let Some(back) = self.readable.word(frame.wrapping_sub(8)) else { break };
            // Callers' frames lie above.
            if frame <= sp {
                break;
            }
            // The last function of a thread may return to nothing.
            if back == 0 {
                walked.cut = false;
                break;
            }
            (pc, sp, bp) = (back, frame, saved);
        }
        walked.hash = mix(walked.hash, walked.frames as u64);
        walked
    }
}

/// The address of the frame, and the caller's frame pointer.
#[inline]
fn step(rule: Rule, sp: u64, bp: u64, readable: &Readable) -> Option<(u64, u64)> {
    // Nearly all: the frame is where the stack pointer says.
    if let Some(offset) = rule.plain() {
        return Some((sp.wrapping_add(offset), bp));
    }
    let frame = match rule.frame() {
        Frame::Sp => sp.wrapping_add_signed(rule.offset()),
        Frame::Bp => bp.wrapping_add_signed(rule.offset()),
        Frame::AtBp => readable.word(bp.wrapping_add_signed(rule.offset()))?,
        _ => return None,
    };
    let saved = match rule.saved() {
        Saved::Same => bp,
        Saved::AtFrame => readable.word(frame.wrapping_add_signed(rule.saved_at()))?,
        Saved::AtBp => readable.word(bp.wrapping_add_signed(rule.saved_at()))?,
    };
    Some((frame, saved))
}

/// The program counter, stack pointer and frame pointer that a signal interrupted.
///
/// `sp` is where the handler returns to: there stands a `ucontext_t`, whose registers
/// begin at byte 40 (Linux, `arch/x86/include/uapi/asm/sigcontext.h`).
fn interrupted(sp: u64, readable: &Readable) -> Option<(u64, u64, u64)> {
    const REGISTERS: u64 = 40;
    let register = |number: i32| readable.word(sp + REGISTERS + 8 * number as u64);
    let pc = register(libc::REG_RIP)?;
    Some((pc, register(libc::REG_RSP)?, register(libc::REG_RBP)?))
}
