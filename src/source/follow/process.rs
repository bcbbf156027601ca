//! What /proc says of processes that are followed.

use std::io;
use std::path::PathBuf;

use crate::source::{Thread, held, proc};

/// The entry of the auxiliary vector with the program's first instruction (`AT_ENTRY`).
const AT_ENTRY: u64 = 9;
/// The longest auxiliary vector that is read; they have some twenty entries.
const MOST_AUXV: usize = 4096;
/// `execve` and `execveat` (Linux, `arch/x86/entry/syscalls/syscall_64.tbl`).
const EXECUTES: [&str; 2] = ["59", "322"];

/// The process that the thread is of.
pub(super) fn process_of(thread: i32) -> Option<i32> {
    proc::number_in_status(&std::fs::read(format!("/proc/{thread}/status")).ok()?, "Tgid")
}

/// Whether the thread waits in a call that executes another program.
pub(super) fn executes(process: i32, thread: i32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{process}/task/{thread}/syscall"));
    call.is_ok_and(|text| text.split(' ').next().is_some_and(|number| EXECUTES.contains(&number)))
}

/// The address of the program's first instruction.
pub(super) fn entry(process: i32) -> io::Result<u64> {
    let vector = std::fs::read(format!("/proc/{process}/auxv"))?;
    let words: Vec<u64> = vector
        .chunks_exact(size_of::<u64>())
        .take(MOST_AUXV)
        .filter_map(|bytes| bytes.try_into().ok().map(u64::from_ne_bytes))
        .collect();
    let found = words.chunks_exact(2).find(|pair| pair.first() == Some(&AT_ENTRY));
    found.and_then(|pair| pair.last().copied()).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// These threads of the process, all held by the calling one, with their registers.
pub(super) fn with_registers(process: i32, threads: impl Iterator<Item = i32>) -> Vec<Thread> {
    let mut numbers: Vec<i32> = threads.collect();
    numbers.sort_by_key(|id| (*id != process, *id));
    // A main thread that ended before the others has no program any more.
    let first = numbers.first().map(|id| PathBuf::from(format!("/proc/{process}/task/{id}")));
    let image = first.and_then(|folder| proc::image(std::fs::File::open(folder.join("exe")).ok()?));
    let unread = |id| Thread { id, ..Thread::default() };
    numbers.into_iter().map(|id| held::thread(id, image.as_ref()).unwrap_or_else(|| unread(id))).collect()
}
