//! How much of memory holds anything: resident pages of a process, elsewhere pages that are not all zeros.

use crate::error::Error;
use crate::memory::{Buffer, Memory};
use crate::pass::{self, Chunk, Job};
use crate::range::AddressRange;

/// The size of a page on the machines that are read.
pub const PAGE: u64 = 4096;

/// How much of memory the kernel is asked about at once.
const ASKED: u64 = 1 << 30;

/// How many ranges the kernel is asked about at once.
const MANY: usize = 1 << 14;

/// The bytes of `ranges`, which are in address order, that the kernel says are resident.
///
/// `None` where nothing says so: of cores, and of what only gdb reads.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn resident(memory: &dyn Memory, ranges: &[AddressRange], job: &Job) -> Result<Option<u64>, Error> {
    let mut sum = 0_u64;
    for some in ranges.chunks(MANY) {
        let mut asked: Vec<AddressRange> = Vec::with_capacity(some.len());
        let mut bytes = 0_u64;
        for range in some {
            let mut at = range.start();
            while at < range.end() {
                let length = range.end().saturating_sub(at).min(ASKED.saturating_sub(bytes).max(PAGE));
                asked.push(AddressRange::saturating(at, length));
                bytes = bytes.saturating_add(length);
                at = at.saturating_add(length);
                if bytes >= ASKED {
                    job.check()?;
                    let Some(found) = memory.resident(&asked) else { return Ok(None) };
                    sum = sum.saturating_add(found);
                    asked.clear();
                    bytes = 0;
                }
            }
        }
        job.check()?;
        let Some(found) = memory.resident(&asked) else { return Ok(None) };
        sum = sum.saturating_add(found);
    }
    Ok(Some(sum))
}

/// The bytes of `ranges` in pages that are not all zeros; what is missing counts as if it were not.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn not_zero(memory: &dyn Memory, ranges: &[AddressRange], job: &Job) -> Result<u64, Error> {
    let work = |chunk: &Chunk, buffer: &mut Buffer| {
        let (mut at, mut held, mut behind) = (chunk.own.start(), 0_u64, None);
        let end = chunk.own.end();
        while at < end {
            let rest = AddressRange::saturating(at, end.saturating_sub(at));
            let zeros = memory.zeros(rest);
            if zeros > 0 {
                at = at.saturating_add(zeros);
                continue;
            }
            let view = memory.view(rest, buffer);
            held = held.saturating_add(of_bytes(at, view.bytes));
            at = at.saturating_add(view.bytes.len() as u64);
            let Some(gap) = view.gap else {
                if view.bytes.is_empty() {
                    break;
                }
                continue;
            };
            let to = gap.range.end().clamp(at, end);
            held = held.saturating_add(to.saturating_sub(at));
            if to == at {
                break;
            }
            behind = Some(gap.range.end()).filter(|gap_end| to == end && *gap_end > end);
            at = to;
        }
        (held, behind)
    };
    // A gap may continue into later chunks; those that were already split off count their own
    // part.
    let (mut sum, mut reached, mut gap_end) = (0_u64, 0_u64, 0_u64);
    pass::in_order(memory, ranges, pass::CHUNK, job, work, |chunk, (held, behind)| {
        let skipped = gap_end.min(chunk.own.start()).saturating_sub(reached);
        sum = sum.saturating_add(skipped).saturating_add(held);
        reached = chunk.own.end();
        gap_end = behind.map_or(0, |behind| behind.min(chunk.run.end()));
        Ok(behind)
    })?;
    Ok(sum.saturating_add(gap_end.saturating_sub(reached)))
}

/// As [`not_zero`], but once there are more than `enough` no more are looked for.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn not_zero_until(
    memory: &dyn Memory,
    ranges: &[AddressRange],
    enough: u64,
    job: &Job,
) -> Result<u64, Error> {
    const STEP: u64 = 64 << 20;
    let (mut sum, mut some, mut bytes) = (0_u64, Vec::new(), 0_u64);
    for range in ranges {
        let mut at = range.start();
        while at < range.end() && sum <= enough {
            // A region of 2^60 bytes of which a few were saved must not become 2^34 steps.
            let step = STEP.max(range.len() / 256);
            let length = range.end().saturating_sub(at).min(step);
            some.push(AddressRange::saturating(at, length));
            at = at.saturating_add(length);
            bytes = bytes.saturating_add(length);
            if bytes >= STEP {
                sum = sum.saturating_add(not_zero(memory, &some, job)?);
                some.clear();
                bytes = 0;
            }
        }
    }
    Ok(if sum > enough { sum } else { sum.saturating_add(not_zero(memory, &some, job)?) })
}

/// The bytes in pages that are not all zeros, of bytes that are read from `start` on.
fn of_bytes(start: u64, bytes: &[u8]) -> u64 {
    let to_border = PAGE.saturating_sub(start % PAGE);
    let cut = usize::try_from(to_border).unwrap_or(usize::MAX).min(bytes.len());
    let (first, rest) = bytes.split_at_checked(cut).unwrap_or((bytes, &[]));
    let pages = rest.chunks(usize::try_from(PAGE).unwrap_or(usize::MAX));
    let counted = std::iter::once(first).chain(pages).filter(|page| !blank(page));
    counted.map(|page| page.len() as u64).sum()
}

/// Whether all bytes are zeros.
#[must_use]
pub fn blank(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|some| some.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_counts_where_one_of_its_bytes_is_not_zero() {
        let mut bytes = vec![0_u8; 3 * 4096];
        assert_eq!(of_bytes(0x1000, &bytes), 0);
        bytes[4096] = 1;
        assert_eq!(of_bytes(0x1000, &bytes), 4096);
        // The same bytes on other pages: the last 256 of one, and all of the next.
        assert_eq!(of_bytes(0x1100, &bytes), 4096);
        bytes[0] = 1;
        assert_eq!(of_bytes(0x1f00, &bytes), 256 + 4096);
        assert_eq!(of_bytes(0x1000, &[]), 0);
    }
}
