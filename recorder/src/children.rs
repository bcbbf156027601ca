//! Before the program's own code: recording begins, or this library leaves the environment.

use core::ffi::{c_char, c_int};

/// Called by the loader with the arguments of the program, before its own code runs.
#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) = at_start;

/// Begins to record, where no constructor called malloc before. In a process that is not to be
/// recorded it takes this library out of the environment: the programs that it executes are
/// none of its business either.
///
/// The stack is large here, which it need not be where the program calls malloc first, and the
/// key that tells the ends of threads is one of those for which glibc needs no memory
/// (`PTHREAD_KEY_2NDLEVEL_SIZE`, the first 32), though the program may take many.
extern "C" fn at_start(_: c_int, _: *mut *mut c_char, environment: *mut *mut c_char) {
    if !crate::recorder::is_other() {
        return;
    }
    let mut found = None;
    // SAFETY: the loader gives the environment: strings that end in zero, and a null behind.
    unsafe {
        each(environment, |place, text| {
            if text.starts_with(b"LD_PRELOAD=") {
                found = Some(place);
            }
        });
        if let Some(at) = found {
            take_out(environment, at);
        }
    }
}

/// Calls `look` with the number and text of each variable.
///
/// # Safety
///
/// As for [`at_start`].
unsafe fn each(environment: *mut *mut c_char, mut look: impl FnMut(usize, &[u8])) {
    let mut at = 0;
    // SAFETY: by the caller's word.
    unsafe {
        while !environment.is_null() && !(*environment.add(at)).is_null() {
            look(at, core::ffi::CStr::from_ptr(*environment.add(at)).to_bytes());
            at += 1;
        }
    }
}

/// Takes the first library out of the variable with that number, or the variable where it has no other.
///
/// # Safety
///
/// As for [`at_start`]; the number is that of a variable with an equals sign.
unsafe fn take_out(environment: *mut *mut c_char, at: usize) {
    // SAFETY: by the caller's word. What is written is shorter than what was there; the
    // environment of a program is its own to change.
    unsafe {
        let text = *environment.add(at);
        let bytes = core::slice::from_raw_parts_mut(text.cast::<u8>(), libc::strlen(text) + 1);
        let Some(start) = bytes.iter().position(|byte| *byte == b'=').map(|equals| equals + 1) else {
            return;
        };
        let first = |bytes: &[u8]| bytes.iter().position(|byte| matches!(byte, b':' | b' '));
        let Some(list) = bytes.get(start..) else { return };
        match first(list) {
            Some(length) if list.get(..length).is_some_and(is_ours) => {
                bytes.copy_within(start + length + 1.., start);
            }
            None if is_ours(list) => {
                let mut place = environment.add(at);
                while !(*place).is_null() {
                    *place = *place.add(1);
                    place = place.add(1);
                }
            }
            _ => {}
        }
    }
}

fn is_ours(path: &[u8]) -> bool {
    const NAME: &[u8] = b"libgdb_leak_recorder.so";
    path.windows(NAME.len()).any(|part| part == NAME)
}
