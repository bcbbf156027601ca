//! What a step from a frame to its caller costs: by frame pointers, by framehop, and by the
//! recorder's own walk, through ten functions built with frame pointers and without.
//!
//! ```text
//! cargo run --release --manifest-path benches/unwind/Cargo.toml [CALLS]
//! ```
//!
//! Each way walks up to eleven frames of the own stack at the end of ten calls, whose way is
//! another one each time; what the calls alone take is measured and subtracted. Prints one
//! line of JSON: for each build and way nanoseconds a frame, how many frames it found, and
//! how many of them were right, at worst.

#[allow(dead_code)]
#[path = "../../../recorder/src/layout.rs"]
mod layout;
#[allow(dead_code)]
#[path = "../../../recorder/src/lock.rs"]
mod lock;
#[allow(dead_code)]
#[path = "../../../recorder/src/memory.rs"]
mod memory;
#[allow(dead_code)]
#[path = "../../../recorder/src/unwind/mod.rs"]
mod unwind;

use std::alloc::{Layout, alloc_zeroed};
use std::arch::global_asm;
use std::ffi::c_int;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::Instant;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder};

use unwind::modules::Modules;
use unwind::rules::Rules;
use unwind::walk::{Caller, Known, Readable, Seen};

/// Frames of a walk: the innermost function, and where it and its nine callers return to.
const FRAMES: usize = 11;

// The registers of the frame that calls, as in the recorder's entries.
global_asm!(
    ".globl walk",
    "walk:",
    "mov rdi, rsp",
    "mov rsi, rbp",
    "jmp {walked}",
    walked = sym walked,
);

unsafe extern "C" {
    fn chain_with(way: u32) -> u32;
    fn chain_without(way: u32) -> u32;
    static chain_with_returns: [u64; FRAMES - 1];
    static chain_without_returns: [u64; FRAMES - 1];
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Nothing,
    FramePointers,
    Framehop,
    Recorder,
}

struct State {
    way: Way,
    frames: [u64; FRAMES],
    found: usize,
    stack_end: u64,
    unwinder: UnwinderX86_64<&'static [u8]>,
    cache: CacheX86_64,
    readable: &'static Readable,
    seen: &'static Seen,
    rules: Rules,
    modules: Modules,
}

static STATE: AtomicPtr<State> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn walked(sp: u64, bp: u64) {
    // SAFETY: set before anything calls, and one thread calls.
    let state = unsafe { &mut *STATE.load(Ordering::Relaxed) };
    state.found = match state.way {
        Way::Nothing => 0,
        Way::FramePointers => by_frame_pointers(state, sp, bp),
        Way::Framehop => by_framehop(state, sp, bp),
        Way::Recorder => {
            let State { readable, seen, rules, modules, frames, .. } = state;
            Known { readable, seen, rules, modules }.walk(Caller { sp, bp }, 0, frames).frames
        }
    };
}

/// Nothing but the chain that frame pointers are, as far as it leads up the stack.
fn by_frame_pointers(state: &mut State, sp: u64, bp: u64) -> usize {
    // SAFETY: the call has put the return address there; what is read lies in the stack.
    unsafe {
        state.frames[0] = *(sp as *const u64);
        let (mut bp, mut below, mut found) = (bp, sp, 1);
        while found < FRAMES && bp > below && bp < state.stack_end - 8 && bp % 8 == 0 {
            state.frames[found] = *((bp + 8) as *const u64);
            found += 1;
            below = bp;
            bp = *(bp as *const u64);
        }
        found
    }
}

fn by_framehop(state: &mut State, sp: u64, bp: u64) -> usize {
    let end = state.stack_end;
    // SAFETY: only what lies in the stack is read.
    let mut read = |at: u64| {
        if at >= sp && at < end && at % 8 == 0 { Ok(unsafe { *(at as *const u64) }) } else { Err(()) }
    };
    let Ok(pc) = read(sp) else { return 0 };
    let mut registers = UnwindRegsX86_64::new(pc, sp + 8, bp);
    state.frames[0] = pc;
    let (mut found, mut pc) = (1, pc);
    while found < FRAMES {
        let Some(address) = FrameAddress::from_return_address(pc) else { break };
        match state.unwinder.unwind_frame(address, &mut registers, &mut state.cache, &mut read) {
            Ok(Some(back)) => pc = back,
            Ok(None) | Err(_) => break,
        }
        state.frames[found] = pc;
        found += 1;
    }
    found
}

/// Tells framehop of a module.
unsafe extern "C" fn add(info: *mut libc::dl_phdr_info, _: usize, to: *mut libc::c_void) -> c_int {
    // SAFETY: the loader's own headers and segments, of a module that stays.
    unsafe {
        let unwinder = &mut *to.cast::<UnwinderX86_64<&'static [u8]>>();
        let bias = (*info).dlpi_addr;
        let headers = std::slice::from_raw_parts((*info).dlpi_phdr, usize::from((*info).dlpi_phnum));
        let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let end = loaded().map(|header| header.p_vaddr + header.p_memsz).max().unwrap_or(0);
        let Some(index) = headers.iter().find(|header| header.p_type == libc::PT_GNU_EH_FRAME) else {
            return 0;
        };
        let at = index.p_vaddr;
        // A version, three encodings (of the pointer: relative to itself, 4 bytes), the pointer.
        let frames = (at + 4).wrapping_add_signed(i64::from(*((bias + at + 4) as *const i32)));
        let holds = |address: u64| {
            loaded().find(|header| (header.p_vaddr..header.p_vaddr + header.p_filesz).contains(&address))
        };
        let Some(segment) = holds(frames) else { return 0 };
        let frames_end = segment.p_vaddr + segment.p_filesz;
        let bytes = |start: u64, end: u64| {
            std::slice::from_raw_parts((bias + start) as *const u8, (end - start) as usize)
        };
        let sections = ExplicitModuleSectionInfo {
            eh_frame_hdr_svma: Some(at..at + index.p_memsz),
            eh_frame_hdr: Some(bytes(at, at + index.p_memsz)),
            eh_frame_svma: Some(frames..frames_end),
            eh_frame: Some(bytes(frames, frames_end)),
            ..Default::default()
        };
        unwinder.add_module(Module::new(String::new(), bias..bias + end, bias, sections));
        0
    }
}

fn zeroed<T>() -> &'static T {
    // SAFETY: what is asked for are cells of numbers, for which zero is a value; it stays.
    unsafe { &*alloc_zeroed(Layout::new::<T>()).cast::<T>() }
}

fn state() -> State {
    let plan = memory::Plan {
        areas: [(32, 16), (16, 16), (size_of::<layout::Module>(), 1024), (1, 1 << 20), (16384, 1)],
        tables: [4096, 4096, Rules::TABLE_BYTES, Modules::table_bytes(1024), 4096],
    };
    let reserved = plan.reserve().expect("address space");
    let [_, _, modules, names, _] = reserved.areas;
    let mut unwinder = UnwinderX86_64::new();
    // SAFETY: the callback gets the address of the unwinder, which lives across the call.
    unsafe { libc::dl_iterate_phdr(Some(add), (&raw mut unwinder).cast()) };
    static GENERATION: AtomicU32 = AtomicU32::new(0);
    State {
        way: Way::Nothing,
        frames: [0; FRAMES],
        found: 0,
        stack_end: stack_end(),
        unwinder,
        cache: CacheX86_64::new(),
        readable: zeroed(),
        seen: zeroed(),
        rules: Rules::new(reserved.tables[2]),
        modules: Modules::new(modules, names, reserved.tables[3], &raw const GENERATION),
    }
}

fn stack_end() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    let line = maps.lines().find(|line| line.ends_with("[stack]")).expect("a stack");
    let end = line.split(['-', ' ']).nth(1).expect("a range");
    u64::from_str_radix(end, 16).expect("an address")
}

/// Seconds of so many calls, and the fewest frames that were found and were right, of those checked.
fn calls(
    chain: unsafe extern "C" fn(u32) -> u32,
    returns: *const [u64; FRAMES - 1],
    count: u32,
    checks: bool,
) -> (f64, usize, usize) {
    let state = STATE.load(Ordering::Relaxed);
    let (mut found, mut right) = (FRAMES, FRAMES - 1);
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    let begun = Instant::now();
    for _ in 0..count {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        // SAFETY: one thread; nothing else uses the state meanwhile.
        unsafe {
            chain((number >> 32) as u32);
            if checks {
                found = found.min((*state).found);
                let frames = (&(*state).frames)[..(*state).found].iter().skip(1);
                right = right.min(frames.zip(&*returns).take_while(|(frame, truth)| frame == truth).count());
            }
        }
    }
    (begun.elapsed().as_secs_f64(), found, right)
}

fn main() {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(2_000_000);
    STATE.store(Box::leak(Box::new(state())), Ordering::Relaxed);
    let ways = [
        ("nothing", Way::Nothing),
        ("frame_pointers", Way::FramePointers),
        ("framehop", Way::Framehop),
        ("recorder", Way::Recorder),
    ];
    let mut lines = Vec::new();
    for (build, chain, returns) in [
        ("with", chain_with as unsafe extern "C" fn(u32) -> u32, &raw const chain_with_returns),
        ("without", chain_without, &raw const chain_without_returns),
    ] {
        let mut best = [f64::INFINITY; 4];
        let mut quality = [(0, 0); 4];
        for round in 0..6 {
            for (at, (_, way)) in ways.iter().enumerate() {
                // SAFETY: one thread.
                unsafe { (*STATE.load(Ordering::Relaxed)).way = *way };
                // The first round is for the caches, and to look at what is found.
                let (seconds, found, right) =
                    calls(chain, returns, if round == 0 { 10_000 } else { count }, round == 0);
                if round == 0 {
                    quality[at] = (found, right);
                } else {
                    best[at] = best[at].min(seconds);
                }
            }
        }
        for at in 1..ways.len() {
            let (found, right) = quality[at];
            let each = (best[at] - best[0]) / f64::from(count) * 1e9;
            lines.push(format!(
                r#"{{"build": "{build}", "way": "{}", "walk_ns": {each:.2}, "frames": {found}, "right": {right}}}"#,
                ways[at].0
            ));
        }
    }
    println!("[{}]", lines.join(", "));
}
