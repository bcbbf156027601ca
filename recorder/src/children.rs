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
    // The environment lies at the end of the stack.
    crate::unwind::walk::stack_ends(environment as u64);
    if !crate::recorder::starts() {
        return;
    }
    // SAFETY: the loader gives the environment: strings that end in zero, and a null behind.
    unsafe {
        take_out_of(environment);
        // A constructor that ran before this one may have had it copied.
        if !core::ptr::eq(environ, environment) {
            take_out_of(environ);
        }
    }
}

unsafe extern "C" {
    /// The C library's.
    static environ: *mut *mut c_char;
}

/// Takes this library out of an environment.
///
/// # Safety
///
/// As for [`each`], which the environment is fit for.
unsafe fn take_out_of(environment: *mut *mut c_char) {
    let mut at = None;
    // SAFETY: by the caller's word.
    unsafe {
        each(environment, |place, text| {
            if text.starts_with(b"LD_PRELOAD=") {
                at = Some(place);
            }
        });
        if let Some(at) = at {
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

/// Takes this library out of the variable with that number, or the variable where it has no other.
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
        let Some(list) = bytes.get_mut(start..) else { return };
        if !without_ours(list) {
            let mut place = environment.add(at);
            while !(*place).is_null() {
                *place = *place.add(1);
                place = place.add(1);
            }
        }
    }
}

/// Takes this library out of a list of libraries that ends in zero; whether others are left.
fn without_ours(list: &mut [u8]) -> bool {
    let mut at = 0;
    let between = |byte: &u8| matches!(*byte, b':' | b' ' | 0);
    while let Some(length) = list.get(at..).and_then(|rest| rest.iter().position(between)) {
        let end = at + length;
        let closing = list.get(end) == Some(&0);
        if !list.get(at..end).is_some_and(is_ours) {
            at = end + 1;
        } else if !closing {
            list.copy_within(end + 1.., at);
            continue;
        } else if let Some(place) = list.get_mut(at.saturating_sub(1)) {
            *place = 0;
        }
        if closing {
            break;
        }
    }
    list.first().is_some_and(|first| *first != 0)
}

fn is_ours(path: &[u8]) -> bool {
    const NAME: &[u8] = b"libgdb_leak_recorder.so";
    path.windows(NAME.len()).any(|part| part == NAME)
}

#[cfg(test)]
mod tests {
    use super::without_ours;

    #[test]
    fn this_library_is_taken_out_wherever_it_stands_and_others_stay() {
        for (before, after) in [
            ("/a/libgdb_leak_recorder.so", ""),
            ("/a/libgdb_leak_recorder.so:/b.so", "/b.so"),
            ("/b.so /a/libgdb_leak_recorder.so", "/b.so"),
            ("/b.so:/a/libgdb_leak_recorder.so:/c.so", "/b.so:/c.so"),
            ("libgdb_leak_recorder.so libgdb_leak_recorder.so:/c.so", "/c.so"),
            ("/b.so:/c.so", "/b.so:/c.so"),
            ("", ""),
        ] {
            let mut list = [before.as_bytes(), &[0]].concat();
            assert_eq!(without_ours(&mut list), !after.is_empty(), "{before}");
            let end = list.iter().position(|byte| *byte == 0).unwrap();
            assert_eq!(&list[..end], after.as_bytes(), "{before}");
        }
    }
}
