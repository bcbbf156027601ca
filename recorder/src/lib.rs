//! Records, in the process that it is preloaded into, which code allocated each live block.
//!
//! The layout of what it keeps is in docs/recording.md. It neither allocates nor
//! unwinds by exceptions, and calls the C library only where that is safe inside malloc.

#![cfg_attr(not(test), no_std)]
// The entry points are no part of the unit tests: they would stand before their malloc.
#![cfg_attr(test, allow(dead_code))]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64")))]
compile_error!("the recorder knows x86-64 Linux only");

mod blocks;
mod children;
#[cfg(not(test))]
pub mod entry;
mod layout;
mod lock;
mod memory;
mod real;
mod recorder;
mod sample;
mod seccomp;
mod settings;
mod slot;
mod spare;
mod stacks;
mod unwind;

/// Found in the file by those who ask which recorder it is: `gdb-leak doctor`.
#[used]
static VERSION: [u8; VERSION_TEXT.len()] = *VERSION_TEXT;
const VERSION_TEXT: &[u8; TEXT.len()] = match TEXT.as_bytes().first_chunk() {
    Some(text) => text,
    None => unreachable!(),
};
const TEXT: &str = concat!("gdb-leak recorder version ", env!("CARGO_PKG_VERSION"), "\0");

/// Ends the process: nothing here panics, and nothing could be told to whom.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the call takes nothing and does not come back.
    unsafe { libc::abort() }
}

// The core library is compiled to unwind, and so its functions name the routine that cleans
// up after a panic. Only link-time optimisation removes that name together with them; where
// it is off (`lto = "off"`, "thin") the loader would miss it when the program starts. Nothing
// here unwinds: it is never called. Hidden, or else it would be that of a program in Rust.
#[cfg(not(test))]
core::arch::global_asm!(
    ".pushsection .text.rust_eh_personality,\"ax\",@progbits",
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    ".type rust_eh_personality,@function",
    "rust_eh_personality:",
    "ud2",
    ".size rust_eh_personality, . - rust_eh_personality",
    ".popsection",
);
