//! Which pages of a process are there: present or swapped out, many in one call.
//!
//! `ioctl(PAGEMAP_SCAN)` on `/proc/PID/pagemap`, since Linux 6.7: a quarter of the time that
//! reading an entry for each page takes, because it looks at the page tables alone.

use std::fs::File;
use std::io;

/// Pages in a row that are there.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Run {
    /// Where the first page starts.
    pub start: u64,
    /// Where the last page ends.
    pub end: u64,
    categories: u64,
}

/// Linux, include/uapi/linux/fs.h, `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Argument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// Fills `runs` with the pages from `start` up to `end` that are there, `most` pages at most, in
/// order, and gives how many runs these are and up to where was looked.
///
/// Both addresses are multiples of the size of a page. The kernel walks a run to its end before
/// it gives it, unless `most` ends it: to ask for the first page that is there, a `most` of one
/// takes microseconds where gigabytes in a row are.
///
/// # Errors
///
/// The system's: `ENOTTY` before Linux 6.7, `ESRCH` where the process has ended.
pub fn scan(pagemap: &File, start: u64, end: u64, most: u64, runs: &mut [Run]) -> io::Result<(usize, u64)> {
    const PRESENT: u64 = 1 << 3;
    const SWAPPED: u64 = 1 << 4;
    let mut argument = Argument {
        size: size_of::<Argument>() as u64,
        start,
        end,
        vec: runs.as_mut_ptr().expose_provenance() as u64,
        vec_len: runs.len() as u64,
        // Zero would mean any number.
        max_pages: most.max(1),
        category_anyof_mask: PRESENT | SWAPPED,
        return_mask: PRESENT,
        ..Argument::default()
    };
    // SAFETY: `vec` and `vec_len` are those of `runs`, which is borrowed until the call returns.
    let found = unsafe { request(pagemap, &mut argument) }?;
    Ok((found.min(runs.len()), argument.walk_end))
}

/// The request's number is made in another way on other machines (`_IOC` of mips, powerpc, sparc).
#[cfg(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
unsafe fn request(pagemap: &File, argument: &mut Argument) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    // _IOWR('f', 16, struct pm_scan_arg)
    const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
    // SAFETY: the kernel reads and writes `argument`, whose size it is given, and writes at most
    // `vec_len` runs to `vec`, which the caller answers for. A file that is not a pagemap has no such
    // request.
    let found = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, std::ptr::from_mut(argument)) };
    usize::try_from(found).map_err(|_| io::Error::last_os_error())
}

#[cfg(not(any(
    target_arch = "x86",
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
unsafe fn request(_: &File, _: &mut Argument) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_were_touched_are_there() {
        const LENGTH: usize = 64 << 20;
        const PAGE: usize = 4096;
        // No huge page has two of them.
        const TOUCHED: [usize; 3] = [LENGTH / 8, LENGTH / 4, LENGTH / 2];
        let mut room = vec![0_u8; LENGTH];
        for at in TOUCHED {
            room[at] = 1;
        }
        std::hint::black_box(&room);
        let start = room.as_ptr().addr();
        let page = |at: usize| ((start + at) / PAGE * PAGE) as u64;
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let mut runs = [Run::default(); 8];
        let (from, to) = (page(PAGE), page(LENGTH));
        let (count, walked) = match scan(&pagemap, from, to, u64::MAX, &mut runs) {
            Ok(found) => found,
            // Before Linux 6.7, or filtered.
            Err(cause) => {
                let known = [libc::ENOTTY, libc::EINVAL, libc::EPERM, libc::ENOSYS];
                assert!(cause.raw_os_error().is_none_or(|number| known.contains(&number)), "{cause}");
                return;
            }
        };
        let there = |at: usize| runs[..count].iter().any(|run| run.start <= page(at) && page(at) < run.end);
        assert!(TOUCHED.iter().all(|at| there(*at)));
        assert!(!TOUCHED.iter().any(|at| there(*at + LENGTH / 16)));
        assert_eq!(walked, to);
        let (count, walked) = scan(&pagemap, from, to, 1, &mut runs).unwrap();
        let first = runs[0];
        assert_eq!((count, first.end - first.start), (1, PAGE as u64));
        assert!(first.start <= page(TOUCHED[0]) && first.end <= walked && walked <= page(TOUCHED[1]));
    }
}
