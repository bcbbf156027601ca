//! The child's side of [`crate::aside`]: requests at a socket, answered by bare calls of the system.
//!
//! All of it runs in a child of a process that may have other threads: nothing here allocates,
//! takes a lock or panics.

use std::ffi::c_int;
use std::io;

/// Bytes of a number in a request or a reply.
pub(crate) const WORD: usize = 8;
/// What is to be done, and three numbers for it.
const REQUEST: usize = 4 * WORD;
/// What came of it, and six numbers of a file.
pub(crate) const REPLY: usize = 7 * WORD;

/// Opens the path that follows, of the first number's bytes.
pub(crate) const OPEN: u64 = 1;
/// Reads of the file with the first number, from the second on, as many bytes as the third says.
pub(crate) const READ: u64 = 2;
/// Closes the file with the first number.
pub(crate) const CLOSE: u64 = 3;
/// Reads as [`READ`] does, of the file that comes with the request.
pub(crate) const READ_SENT: u64 = 4;

/// Forks a child that answers at the socket; gives its number.
pub(crate) fn fork(socket: c_int, room: &mut [u8]) -> io::Result<c_int> {
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are filled by the calls before they are read. The child shares nothing
    // with this process but the socket: it runs on a copy of this thread's stack and of `room`,
    // which `serve` never returns to, and makes no call that needs another thread.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        // No signal at its end: of no interest to those who wait for any child.
        let child = bare_fork();
        if child == 0 {
            serve(socket, room.as_mut_ptr(), room.len());
        }
        let answer = if child < 0 { Err(io::Error::last_os_error()) } else { Ok(child) };
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        answer
    }
}

/// `clone` without flags is a `fork` that sends no signal when the child ends; its arguments are in another order on s390.
#[cfg(not(target_arch = "s390x"))]
unsafe fn bare_fork() -> c_int {
    // SAFETY: without flags and with no stack given the child has a copy of everything.
    let child = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    c_int::try_from(child).unwrap_or(-1)
}

#[cfg(target_arch = "s390x")]
unsafe fn bare_fork() -> c_int {
    // SAFETY: as that of any fork.
    unsafe { libc::fork() }
}

/// Returns whether the child has ended and was reaped.
pub(crate) fn waited(child: c_int) -> bool {
    let mut status = 0;
    // SAFETY: the kernel writes one int to `status`.
    unsafe { libc::waitpid(child, &raw mut status, libc::__WALL | libc::WNOHANG) != 0 }
}

/// Kills the child while it is one: its number is not given to another process before it is waited for.
pub(crate) fn kill(child: c_int) {
    if !waited(child) {
        // SAFETY: takes two numbers.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
}

/// Answers requests until the other end of the socket is closed.
///
/// # Safety
///
/// In a child of `fork` alone. `room` has `length` bytes, more than [`ROOM`] is not asked for.
unsafe fn serve(socket: c_int, room: *mut u8, length: usize) -> ! {
    // SAFETY: all are bare system calls with numbers, with constants, and with memory that is given here.
    unsafe {
        // No signal at the end of the parent: that would come at the end of the thread that forked.
        // The socket ends with the process.
        libc::prctl(libc::PR_SET_NAME, c"gdb-leak-reads".as_ptr());
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        libc::dup2(socket, 0);
        close_others();
        let mut request = [0_u64; REQUEST / WORD];
        while let Some(sent) = take_request(request.as_mut_ptr().cast()) {
            let [what, first, second, third] = request;
            let mut reply = [0_u64; REPLY / WORD];
            let mut more = 0;
            match what {
                OPEN => {
                    let path = usize::try_from(first).unwrap_or(usize::MAX);
                    if path >= length || !take(room, path) {
                        break;
                    }
                    room.add(path).write(0);
                    reply = opened(room);
                }
                READ | READ_SENT => {
                    let file = if what == READ { c_int::try_from(first).unwrap_or(-1) } else { sent };
                    match read_all(file, second, room, usize::try_from(third).unwrap_or(0).min(length)) {
                        Ok(read) => {
                            reply[1] = read as u64;
                            more = read;
                        }
                        Err(number) => reply[0] = number,
                    }
                }
                CLOSE => {
                    libc::close(c_int::try_from(first).unwrap_or(-1));
                }
                _ => break,
            }
            if sent >= 0 {
                libc::close(sent);
            }
            if !give(reply.as_ptr().cast(), REPLY) || !give(room, more) {
                break;
            }
        }
        libc::_exit(0)
    }
}

/// Closes all files but the first.
unsafe fn close_others() {
    // SAFETY: takes numbers, or memory that is given here.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) == 0 {
            return;
        }
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let most = c_int::try_from(limit.rlim_cur).unwrap_or(1 << 16).min(1 << 16);
        let mut file = 1;
        while file < most {
            libc::close(file);
            file = file.wrapping_add(1);
        }
    }
}

fn errno() -> u64 {
    let number = io::Error::last_os_error().raw_os_error();
    number.and_then(|number| u64::try_from(number).ok()).unwrap_or(1)
}

fn interrupted() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
}

/// Opens the file whose path ends with a zero, if it is a regular one: looking at others may have effects.
unsafe fn opened(path: *const u8) -> [u64; REPLY / WORD] {
    let mut reply = [0; REPLY / WORD];
    // SAFETY: `path` ends with a zero, the structures are filled by the calls before they are read.
    unsafe {
        let mut status = std::mem::zeroed::<libc::stat>();
        let mut system = std::mem::zeroed::<libc::statfs>();
        let place = libc::open(path.cast(), libc::O_PATH | libc::O_CLOEXEC);
        if place < 0 {
            reply[0] = errno();
            return reply;
        }
        if libc::fstat(place, &raw mut status) != 0 {
            reply[0] = errno();
            libc::close(place);
            return reply;
        }
        let mut number = -1;
        if status.st_mode & libc::S_IFMT == libc::S_IFREG {
            // A lease on the file would make it wait without this flag.
            let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
            number = libc::open(link_to(place).as_ptr().cast(), flags);
            if number < 0 {
                reply[0] = errno();
            } else if libc::fstatfs(number, &raw mut system) != 0 {
                reply[0] = errno();
                libc::close(number);
            }
        }
        libc::close(place);
        reply[1] = u64::try_from(number).unwrap_or(u64::MAX);
        reply[2] = status.st_dev;
        reply[3] = status.st_ino;
        reply[4] = u64::try_from(status.st_size).unwrap_or(0);
        reply[5] = u64::from(status.st_mode);
        reply[6] = u64::from_ne_bytes((system.f_type as i64).to_ne_bytes());
    }
    reply
}

/// `/proc/self/fd/` and the number, with a zero at its end.
fn link_to(file: c_int) -> [u8; 32] {
    let mut link = [0; 32];
    let mut digits = 1;
    let mut unit: c_int = 1;
    while file.checked_div(unit).unwrap_or(0) >= 10 {
        unit = unit.wrapping_mul(10);
        digits = usize::wrapping_add(digits, 1);
    }
    let folder = b"/proc/self/fd/";
    let number = (0..digits).map(|_| {
        let digit = file.checked_div(unit).and_then(|left| left.checked_rem(10)).unwrap_or(0);
        unit = unit.checked_div(10).unwrap_or(1).max(1);
        b'0'.wrapping_add(u8::try_from(digit).unwrap_or(0))
    });
    for (place, letter) in link.iter_mut().zip(folder.iter().copied().chain(number)) {
        *place = letter;
    }
    link
}

/// Reads up to `length` bytes from `offset`.
unsafe fn read_all(file: c_int, offset: u64, room: *mut u8, length: usize) -> Result<usize, u64> {
    let mut read = 0;
    while read < length {
        let Ok(at) = libc::off64_t::try_from(offset.wrapping_add(read as u64)) else { break };
        // SAFETY: `room` has `length` bytes.
        let got = unsafe { libc::pread64(file, room.add(read).cast(), length.wrapping_sub(read), at) };
        match usize::try_from(got) {
            Ok(0) => break,
            Ok(got) => read = read.wrapping_add(got),
            Err(_) if interrupted() => {}
            Err(_) if read > 0 => break,
            Err(_) => return Err(errno()),
        }
    }
    Ok(read)
}

/// Reads a request, and gives the file that comes with it, -1 where none does; `None` at the end.
unsafe fn take_request(request: *mut u8) -> Option<c_int> {
    let mut sent = -1;
    let mut taken = 0;
    while taken < REQUEST {
        // Room for one file; as words, since its header is aligned to them.
        let mut control = [0_usize; 4];
        // SAFETY: `request` has `REQUEST` bytes. The kernel writes to it and to `control`, whose
        // sizes it is given, and what it wrote there is read by the macros made for it.
        unsafe {
            let mut part =
                libc::iovec { iov_base: request.add(taken).cast(), iov_len: REQUEST.wrapping_sub(taken) };
            let mut message = std::mem::zeroed::<libc::msghdr>();
            (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            let got = libc::recvmsg(0, &raw mut message, libc::MSG_CMSG_CLOEXEC);
            match usize::try_from(got) {
                Ok(0) => return None,
                Ok(got) => taken = taken.wrapping_add(got),
                Err(_) if interrupted() => continue,
                Err(_) => return None,
            }
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
                sent = libc::CMSG_DATA(header).cast::<c_int>().read_unaligned();
            }
        }
    }
    Some(sent)
}

/// Sends bytes, and a file with the first of them; gives how many were sent.
///
/// # Errors
///
/// The system's. The other end may be gone: no signal comes of it.
pub(crate) fn send(socket: c_int, bytes: &[u8], file: Option<c_int>) -> io::Result<usize> {
    let mut control = [0_usize; 4];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the kernel reads `bytes` and `control`, whose sizes it is given, and writes to neither.
    // `control` is aligned, and has room for a header and one file.
    let sent = unsafe {
        let mut message = std::mem::zeroed::<libc::msghdr>();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        if let Some(file) = file {
            #[allow(clippy::cast_possible_truncation)] // of an int
            const FILE: u32 = size_of::<c_int>() as u32;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(FILE) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            ((*header).cmsg_level, (*header).cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
            (*header).cmsg_len = libc::CMSG_LEN(FILE) as usize;
            libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(file);
        }
        libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Reads `length` bytes that follow a request.
unsafe fn take(room: *mut u8, length: usize) -> bool {
    let mut taken = 0;
    while taken < length {
        // SAFETY: `room` has `length` bytes.
        let got = unsafe { libc::recv(0, room.add(taken).cast(), length.wrapping_sub(taken), 0) };
        match usize::try_from(got) {
            Ok(0) => return false,
            Ok(got) => taken = taken.wrapping_add(got),
            Err(_) if interrupted() => {}
            Err(_) => return false,
        }
    }
    true
}

/// Writes `length` bytes of a reply.
unsafe fn give(bytes: *const u8, length: usize) -> bool {
    let mut given = 0;
    while given < length {
        // SAFETY: `bytes` has `length` bytes.
        let sent =
            unsafe { libc::send(0, bytes.add(given).cast(), length.wrapping_sub(given), libc::MSG_NOSIGNAL) };
        match usize::try_from(sent) {
            Ok(sent) => given = given.wrapping_add(sent),
            Err(_) if interrupted() => {}
            Err(_) => return false,
        }
    }
    true
}
