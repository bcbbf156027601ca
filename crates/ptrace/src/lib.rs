//! The calls of the system that gdb-leak makes and that no crate has in a safe form, and nothing else.
//!
//! [`pages`] and [`aside`] say what they are for. What is in this file is of ptrace:
//!
//! nix names signals by an enum that ends at 31: it can neither say that a thread
//! stands before a real-time signal nor hand one on, and it has no `PTRACE_LISTEN`.
//! Other safe wrappers stand on nix, or bring a runtime of their own. So here are
//! these calls, with signals as numbers and statuses as the kernel gives them.
//!
//! Safety of these: the requests made here take numbers only. None reads or
//! writes memory of this process, but for the status that [`wait`] has room for.
//! What a wrong number does, it does to a thread that this one traces, or it is
//! refused by the kernel.

pub mod aside;
pub mod pages;
mod serve;

use std::io;

/// Waits for a tracee of the calling thread, whatever thread of its process it is.
///
/// Gives the thread and its status as `waitpid(2)` has it; `None` where `block` is
/// false and nothing happened. Children that the calling thread does not trace are
/// left to whoever started them.
///
/// # Errors
///
/// `ECHILD` where the thread traces nothing any more.
pub fn wait(block: bool) -> io::Result<Option<(i32, i32)>> {
    let now = if block { 0 } else { libc::WNOHANG };
    wait_for(-1, libc::__WALL | libc::__WNOTHREAD | now)
}

/// Returns the status of the tracee `thread` of the calling thread as `waitpid(2)` has it, if it
/// stopped or ended; `None` if it runs.
///
/// # Errors
///
/// `ECHILD` where the calling thread does not trace it.
pub fn status(thread: i32) -> io::Result<Option<i32>> {
    Ok(wait_for(thread, libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG)?.map(|(_, status)| status))
}

/// Waits until the child `process` of this process has ended, and gives its status.
///
/// # Errors
///
/// `ECHILD` where there is no such child.
pub fn wait_end(process: i32) -> io::Result<i32> {
    wait_for(process, libc::__WALL)?.map(|(_, status)| status).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Lets a held thread go on, with a signal; 0 is none.
///
/// # Errors
///
/// `ESRCH` where the thread is not held by the calling one, or is being killed.
pub fn resume(thread: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, thread, signal)
}

/// Leaves a thread stopped with its group, until its process goes on.
///
/// # Errors
///
/// Where the thread is in no such stop.
pub fn listen(thread: i32) -> io::Result<()> {
    request(libc::PTRACE_LISTEN, thread, 0)
}

/// Lets a held thread go on, with a signal, untraced.
///
/// # Errors
///
/// `ESRCH` where the thread is not held by the calling one, or is being killed.
pub fn detach(thread: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, thread, signal)
}

fn request(request: libc::c_uint, thread: i32, signal: i32) -> io::Result<()> {
    let nowhere = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests take a thread and a number in place of data; no memory of
    // this process is read or written. The kernel checks both.
    let answer = unsafe { libc::ptrace(request, thread, nowhere, libc::c_long::from(signal)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn wait_for(process: i32, flags: i32) -> io::Result<Option<(i32, i32)>> {
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes one int to `status`, which lives until the call returns.
        let thread = unsafe { libc::waitpid(process, &raw mut status, flags) };
        if thread > 0 {
            return Ok(Some((thread, status)));
        }
        if thread == 0 {
            return Ok(None);
        }
        let cause = io::Error::last_os_error();
        if cause.kind() != io::ErrorKind::Interrupted {
            return Err(cause);
        }
    }
}
