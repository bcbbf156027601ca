//! What the program calls.
//!
//! An allocation function hands the registers of its caller's frame on and jumps: the
//! stack is as the caller left it, with the return address on top. So no frame of ours
//! is on it, and none has to be unwound. What follows gets them as further arguments.

use core::arch::naked_asm;
use core::ffi::{c_int, c_long, c_void};

use crate::real;
use crate::recorder::{closed, filter_comes, recorder};
use crate::unwind::walk::Caller;

/// An allocation function: its name, what it takes, the registers of the two arguments
/// after these, and what does its work.
///
/// The functions are naked: the compiler adds nothing to this code, whatever it was
/// asked for (`-C force-frame-pointers`, no optimisation, `-C instrument-coverage`). They
/// are why the recorder requires Rust 1.88. Assembly outside of functions (`global_asm!`)
/// needs no new compiler, but rustc exports no symbol from it.
macro_rules! entry {
    ($(#[$doc:meta])* $name:ident($($argument:ident: $kind:ty),*) -> $result:ty, $sp:literal, $bp:literal, $work:path) => {
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// As the C library's function of that name.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),*) -> $result {
            // Arguments stay in their registers; the two after them are free for a callee;
            // the stack is the caller's, so that the work returns to it.
            naked_asm!(
                concat!("mov ", $sp, ", rsp"),
                concat!("mov ", $bp, ", rbp"),
                "jmp {work}",
                work = sym $work,
            )
        }
    };
}

entry!(/// Allocates memory.
    malloc(size: usize) -> *mut c_void, "rsi", "rdx", on_malloc);
entry!(/// Allocates memory of zeros for an array.
    calloc(count: usize, size: usize) -> *mut c_void, "rdx", "rcx", on_calloc);
entry!(/// Resizes a block.
    realloc(block: *mut c_void, size: usize) -> *mut c_void, "rdx", "rcx", on_realloc);
entry!(/// Resizes an array.
    reallocarray(block: *mut c_void, count: usize, size: usize) -> *mut c_void, "rcx", "r8", on_reallocarray);
entry!(/// Allocates aligned memory, and says what went wrong.
    posix_memalign(place: *mut *mut c_void, alignment: usize, size: usize) -> c_int, "rcx", "r8", on_posix_memalign);
entry!(/// Allocates aligned memory, by C11.
    aligned_alloc(alignment: usize, size: usize) -> *mut c_void, "rdx", "rcx", on_aligned_alloc);
entry!(/// Allocates aligned memory.
    memalign(alignment: usize, size: usize) -> *mut c_void, "rdx", "rcx", on_memalign);
entry!(/// Allocates memory from the start of a page on.
    valloc(size: usize) -> *mut c_void, "rsi", "rdx", on_valloc);
entry!(/// Allocates whole pages.
    pvalloc(size: usize) -> *mut c_void, "rsi", "rdx", on_pvalloc);

/// The addresses of the allocation functions, in the order of a recording's header.
pub(crate) fn functions() -> [u64; 9] {
    [
        malloc as *const (),
        calloc as *const (),
        realloc as *const (),
        reallocarray as *const (),
        posix_memalign as *const (),
        aligned_alloc as *const (),
        memalign as *const (),
        valloc as *const (),
        pvalloc as *const (),
    ]
    .map(|function| function as u64)
}

/// Records a block, where there is one, and hands it on.
#[inline]
fn gave(block: *mut c_void, size: usize, function: usize, sp: u64, bp: u64) -> *mut c_void {
    if !block.is_null()
        && !real::is_early(block)
        && let Some(recorder) = recorder()
    {
        recorder.allocated(block, size, function, Caller { sp, bp });
    }
    block
}

/// Makes sure that the functions behind are known, or that another thread looks for them just now.
#[inline]
fn ready() {
    let _ = recorder();
}

extern "C" fn on_malloc(size: usize, sp: u64, bp: u64) -> *mut c_void {
    ready();
    gave(real::malloc(size), size, malloc as *const () as usize, sp, bp)
}

extern "C" fn on_calloc(count: usize, size: usize, sp: u64, bp: u64) -> *mut c_void {
    ready();
    gave(real::calloc(count, size), count.wrapping_mul(size), calloc as *const () as usize, sp, bp)
}

extern "C" fn on_aligned_alloc(alignment: usize, size: usize, sp: u64, bp: u64) -> *mut c_void {
    ready();
    gave(real::aligned_alloc(alignment, size), size, aligned_alloc as *const () as usize, sp, bp)
}

extern "C" fn on_memalign(alignment: usize, size: usize, sp: u64, bp: u64) -> *mut c_void {
    ready();
    gave(real::memalign(alignment, size), size, memalign as *const () as usize, sp, bp)
}

extern "C" fn on_valloc(size: usize, sp: u64, bp: u64) -> *mut c_void {
    ready();
    gave(real::valloc(size), size, valloc as *const () as usize, sp, bp)
}

extern "C" fn on_pvalloc(size: usize, sp: u64, bp: u64) -> *mut c_void {
    ready();
    gave(real::pvalloc(size), size, pvalloc as *const () as usize, sp, bp)
}

unsafe extern "C" fn on_posix_memalign(
    place: *mut *mut c_void,
    alignment: usize,
    size: usize,
    sp: u64,
    bp: u64,
) -> c_int {
    ready();
    // SAFETY: by the word of the caller, who has room for an address there.
    let status = unsafe { real::posix_memalign(place, alignment, size) };
    if status == 0 {
        // SAFETY: as above; the call has written it.
        gave(unsafe { *place }, size, posix_memalign as *const () as usize, sp, bp);
    }
    status
}

unsafe extern "C" fn on_realloc(block: *mut c_void, size: usize, sp: u64, bp: u64) -> *mut c_void {
    // SAFETY: by the caller's word.
    unsafe { resize(block, size, realloc as *const () as usize, sp, bp) }
}

unsafe extern "C" fn on_reallocarray(
    block: *mut c_void,
    count: usize,
    size: usize,
    sp: u64,
    bp: u64,
) -> *mut c_void {
    let Some(size) = count.checked_mul(size) else {
        // SAFETY: glibc gives each thread its own.
        unsafe { *libc::__errno_location() = libc::ENOMEM };
        return core::ptr::null_mut();
    };
    // SAFETY: by the caller's word.
    unsafe { resize(block, size, reallocarray as *const () as usize, sp, bp) }
}

/// Resizes a block.
///
/// What is known of it is forgotten first: once it is given back, another thread may get
/// its address.
///
/// # Safety
///
/// As for realloc of the C library.
unsafe fn resize(block: *mut c_void, size: usize, function: usize, sp: u64, bp: u64) -> *mut c_void {
    ready();
    let known = if block.is_null() { None } else { recorder() };
    let kept = known.and_then(|recorder| recorder.resizes(block));
    // SAFETY: by the caller's word.
    let fresh = unsafe { real::realloc(block, size) };
    // Without a new block the old one stays, but of no bytes: glibc gives it back then.
    if fresh.is_null()
        && size != 0
        && let (Some(recorder), Some(kept)) = (known, kept)
    {
        recorder.stays(block, kept);
    }
    gave(fresh, size, function, sp, bp)
}

/// Gives a block back.
///
/// # Safety
///
/// As the C library's function of that name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    if block.is_null() || real::is_early(block) {
        return;
    }
    // The C library reads what stands before the block: that is waited for together with the
    // recorder's own words.
    crate::memory::prefetch((block as u64).wrapping_sub(16));
    if recorder().is_none_or(|recorder| recorder.released(block)) {
        // SAFETY: by the caller's word.
        unsafe { real::free(block) };
    }
}

/// Gives a block back whose size is known (C23).
///
/// # Safety
///
/// As the C library's function of that name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(block: *mut c_void, _: usize) {
    // SAFETY: by the caller's word.
    unsafe { free(block) };
}

/// Gives an aligned block back whose size is known (C23).
///
/// # Safety
///
/// As the C library's function of that name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(block: *mut c_void, _: usize, _: usize) {
    // SAFETY: by the caller's word.
    unsafe { free(block) };
}

/// Asks the kernel about the process: filters of system calls may be set so.
///
/// # Safety
///
/// As the C library's function of that name. It takes any number of arguments, all in registers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prctl(option: c_int, second: u64, third: u64, fourth: u64, fifth: u64) -> c_int {
    if option == libc::PR_SET_SECCOMP {
        filter_comes();
    }
    ready();
    // SAFETY: by the caller's word.
    unsafe { real::prctl(option, second, third, fourth, fifth) }
}

/// Makes a system call, of which one sets a filter of the others.
///
/// All others are handed on by a jump: what is on the stack stays as the caller left it, for
/// calls that go on with another stack.
///
/// # Safety
///
/// As the C library's function of that name.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(number: c_long, first: u64) -> c_long {
    naked_asm!(
        "cmp rdi, {seccomp}",
        "je {work}",
        "cmp rdi, {prctl}",
        "jne 2f",
        "cmp rsi, {set}",
        "je {work}",
        "2:",
        "mov r11, qword ptr [rip + {next}]",
        "test r11, r11",
        "jz {work}",
        "jmp r11",
        seccomp = const libc::SYS_seccomp,
        prctl = const libc::SYS_prctl,
        set = const libc::PR_SET_SECCOMP,
        next = sym real::SYSCALL,
        work = sym on_syscall,
    )
}

/// A system call that may set a filter, or is made before the C library's function is known.
///
/// The last argument is on the stack, where a word can be read whether it was passed or not.
unsafe extern "C" fn on_syscall(
    number: c_long,
    first: u64,
    second: u64,
    third: u64,
    fourth: u64,
    fifth: u64,
    sixth: u64,
) -> c_long {
    let sets = number == libc::SYS_prctl && first == libc::PR_SET_SECCOMP as u64;
    if sets || number == libc::SYS_seccomp {
        filter_comes();
    }
    ready();
    // SAFETY: by the caller's word.
    unsafe { real::syscall(number, [first, second, third, fourth, fifth, sixth]) }
}

/// Lets a library go.
///
/// # Safety
///
/// As the C library's function of that name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlclose(library: *mut c_void) -> c_int {
    ready();
    // SAFETY: by the caller's word.
    closed(unsafe { real::dlclose(library) })
}
