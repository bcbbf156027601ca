//! Passes over memory: cut into chunks, worked on in parallel, taken in address order.
//!
//! One way to go over a gigabyte is `for range in ranges { look(bytes(range)) }`.
//! It copies everything, uses one processor, cannot be interrupted and misses
//! what lies across two ranges. A pass instead cuts the ranges into chunks of
//! [`CHUNK`] bytes, lets threads work on them through views that borrow from
//! the mapping, and hands the results over in address order, so that an answer
//! never depends on which thread was faster. What lies across a chunk's border
//! belongs to the chunk where it starts; [`Chunk::run`] says how far the
//! worker may read past its own chunk for it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};

use crate::error::Error;
use crate::memory::{Buffer, Gap};
use crate::range::AddressRange;

/// Bytes that one worker takes at a time.
///
/// Large enough that starting a chunk costs nothing beside reading it, small
/// enough that the last chunks of a pass keep all threads busy and that an
/// interrupt is answered at once.
pub const CHUNK: u64 = 1 << 20;

/// Chunks that may be finished but not yet handed over, per thread.
const AHEAD: usize = 32;

/// A piece of work that can be watched and stopped from another thread.
#[derive(Default, Debug)]
pub struct Job {
    stop: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
}

impl Job {
    /// Asks the work to end soon.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked the work to end.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Bytes gone over, and bytes to go over in all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// Notes that `bytes` more of `total` were gone over.
    pub fn advance(&self, bytes: u64, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// [`Error::Interrupted`] once somebody asked the work to end.
    ///
    /// # Errors
    ///
    /// As said.
    pub fn check(&self) -> Result<(), Error> {
        if self.stopped() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// One worker's share of a pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// The addresses that this worker answers for.
    pub own: AddressRange,
    /// The whole range that the chunk was cut from.
    pub run: AddressRange,
}

/// Cuts ranges in address order into chunks of at most `size` bytes.
///
/// Chunk borders lie at multiples of `size`, so that pages are never shared.
#[must_use]
pub fn chunks(ranges: &[AddressRange], size: u64) -> Vec<Chunk> {
    let size = size.max(1);
    let mut chunks = Vec::new();
    for &run in ranges {
        let mut start = run.start();
        while start < run.end() {
            let border = start.checked_next_multiple_of(size).unwrap_or(u64::MAX);
            let border = if border == start { start.saturating_add(size) } else { border };
            let own = AddressRange::saturating(start, border.min(run.end()).saturating_sub(start));
            chunks.push(Chunk { own, run });
            start = own.end();
        }
    }
    chunks
}

thread_local! {
    static BUFFER: RefCell<Buffer> = RefCell::default();
}

/// Works on all chunks in parallel and hands the results over in order.
///
/// `work` gets a buffer that its thread keeps. Memory: at most [`AHEAD`]
/// results per thread exist at a time beside what `take` keeps.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped, and whatever `take` finds.
pub fn in_order<T: Send>(
    chunks: &[Chunk],
    job: &Job,
    work: impl Fn(&Chunk, &mut Buffer) -> T + Sync,
    mut take: impl FnMut(&Chunk, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let total = chunks.iter().map(|chunk| chunk.own.len()).fold(0, u64::saturating_add);
    job.total.store(total, Ordering::Relaxed);
    let batch = rayon::current_num_threads().saturating_mul(AHEAD).max(1);
    for batch in chunks.chunks(batch) {
        let results: Vec<Option<T>> = batch
            .par_iter()
            .with_max_len(1)
            .map(|chunk| {
                if job.stopped() {
                    return None;
                }
                let result = BUFFER.with_borrow_mut(|buffer| work(chunk, buffer));
                job.done.fetch_add(chunk.own.len(), Ordering::Relaxed);
                Some(result)
            })
            .collect();
        job.check()?;
        for (chunk, result) in batch.iter().zip(results) {
            if let Some(result) = result {
                take(chunk, result)?;
            }
        }
    }
    Ok(())
}

/// Appends `gap` to gaps in address order; touching ones of one cause become one.
pub fn push_gap(gaps: &mut Vec<Gap>, gap: Gap) {
    match gaps.last_mut() {
        Some(last) if last.missing == gap.missing && last.range.end() >= gap.range.start() => {
            let end = last.range.end().max(gap.range.end());
            let start = last.range.start();
            last.range = AddressRange::saturating(start, end.saturating_sub(start));
        }
        _ => gaps.push(gap),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_tile_their_ranges_and_break_at_multiples_of_their_size() {
        let ranges = [AddressRange::new(5, 25).unwrap(), AddressRange::new(30, 40).unwrap()];
        let own: Vec<_> = chunks(&ranges, 10).iter().map(|chunk| chunk.own).collect();
        let range = |start, end| AddressRange::new(start, end).unwrap();
        assert_eq!(own, [range(5, 10), range(10, 20), range(20, 25), range(30, 40)]);
    }

    #[test]
    fn results_are_taken_in_address_order() {
        let run = AddressRange::new(0, 1000).unwrap();
        let chunks = chunks(&[run], 3);
        let mut seen = Vec::new();
        let work = |chunk: &Chunk, _: &mut Buffer| chunk.own.start();
        in_order(&chunks, &Job::default(), work, |_, start| {
            seen.push(start);
            Ok(())
        })
        .unwrap();
        assert!(seen.is_sorted());
        assert_eq!(seen.len(), chunks.len());
    }

    #[test]
    fn a_stopped_job_ends_as_interrupted() {
        let job = Job::default();
        job.stop();
        let chunks = chunks(&[AddressRange::new(0, 10).unwrap()], 3);
        let result = in_order(&chunks, &job, |_, _| (), |_, ()| Ok(()));
        assert!(matches!(result, Err(Error::Interrupted)));
    }
}
