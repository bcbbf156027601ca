//! Filters of system calls, of which a forbidden one may end the process.
//!
//! Whether there is one is asked at the start: a service manager may have set it before the
//! program began. Later nothing may be asked, because the question itself is a call; so what
//! is done then is what malloc itself does. One exception is left, the barrier of
//! [`crate::lock`], which is given up when the program asks the C library for a filter
//! ([`crate::entry`]).

use crate::layout::PAGE;

/// Whether a filter is there already, or nothing is known of it.
pub(crate) fn is_there() -> bool {
    let mut buffer = [0_u8; PAGE];
    // SAFETY: plain calls, with a name that ends in zero; the buffer has that many bytes.
    let got = unsafe {
        let file = libc::open(c"/proc/self/status".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return true;
        }
        let got = libc::read(file, buffer.as_mut_ptr().cast(), buffer.len());
        libc::close(file);
        got
    };
    let text = usize::try_from(got).ok().and_then(|got| buffer.get(..got)).unwrap_or_default();
    says(text)
}

/// Whether the text of `/proc/PID/status` says so (`Seccomp:`, 0: no filter), or nothing.
fn says(text: &[u8]) -> bool {
    const NONE: &[u8] = b"\nSeccomp:\t0\n";
    !text.windows(NONE.len()).any(|part| part == NONE)
}

#[cfg(test)]
mod tests {
    use super::says;

    #[test]
    fn only_a_status_that_says_so_has_no_filter() {
        assert!(!says(b"NoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n"));
        assert!(says(b"NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(says(b""));
    }
}
