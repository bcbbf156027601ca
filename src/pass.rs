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
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};

use crate::error::Error;
use crate::memory::{Buffer, Gap, Memory};
use crate::range::AddressRange;

/// Bytes that one worker takes at a time.
///
/// Large enough that starting a chunk costs nothing beside reading it, small
/// enough that the last chunks of a pass keep all threads busy and that an
/// interrupt is answered at once.
pub const CHUNK: u64 = 1 << 20;

/// Chunks that may be finished but not yet handed over, per thread.
const AHEAD: usize = 32;

/// How many jobs were asked to end and have not.
static STOPPING: AtomicUsize = AtomicUsize::new(0);

/// Whether work was asked to end that has not.
///
/// For what waits without knowing whose work it is: a read that the system does not answer.
pub(crate) fn stopping() -> bool {
    STOPPING.load(Ordering::Relaxed) > 0
}

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
        if !self.stop.swap(true, Ordering::Relaxed) {
            STOPPING.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the work was asked to end.
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

    /// [`Error::Interrupted`] once the work was asked to end.
    ///
    /// # Errors
    ///
    /// As said.
    pub fn check(&self) -> Result<(), Error> {
        if self.stopped() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.stopped() {
            STOPPING.fetch_sub(1, Ordering::Relaxed);
        }
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

/// Cuts ranges into chunks, some at a time.
///
/// What takes no time to go over ([`Memory::blank`]) is one chunk, however long: a region of
/// 2^60 bytes of which a few were saved must not become 2^40 chunks.
struct Cutter<'m> {
    memory: &'m dyn Memory,
    /// The ranges that are not cut to their end, the next one last, and where to go on in them.
    left: Vec<(AddressRange, u64)>,
    size: u64,
}

impl<'m> Cutter<'m> {
    fn new(memory: &'m dyn Memory, ranges: &[AddressRange], size: u64) -> Self {
        let runs = AddressRange::merge(ranges.to_vec()).into_iter().rev();
        Self { memory, left: runs.map(|run| (run, run.start())).collect(), size: size.max(1) }
    }

    /// The next chunk.
    ///
    /// Chunk borders lie at multiples of the size, so that pages are never shared.
    fn cut(&mut self) -> Option<Chunk> {
        let (run, from) = self.left.last_mut()?;
        let run = *run;
        let border = from.checked_next_multiple_of(self.size).unwrap_or(u64::MAX);
        let border = if border == *from { from.saturating_add(self.size) } else { border };
        let rest = AddressRange::saturating(*from, run.end().saturating_sub(*from));
        let blank = from.saturating_add(self.memory.blank(rest));
        let last = blank.checked_div(self.size).unwrap_or(0).saturating_mul(self.size);
        let last = if blank >= run.end() { blank } else { last };
        let end = border.max(last).min(run.end());
        let own = AddressRange::saturating(*from, end.saturating_sub(*from));
        *from = end;
        if end >= run.end() {
            self.left.pop();
        }
        Some(Chunk { own, run })
    }

    /// Leaves out what lies before `address` of the range that is being cut; says how much.
    fn skip(&mut self, address: u64) -> u64 {
        let Some((run, from)) = self.left.last_mut() else { return 0 };
        let to = address.clamp(*from, run.end());
        let skipped = to.saturating_sub(*from);
        *from = to;
        if to >= run.end() {
            self.left.pop();
        }
        skipped
    }
}

thread_local! {
    static BUFFER: RefCell<Buffer> = RefCell::default();
}

/// Cuts ranges of `memory` into chunks of `size` bytes, works on them in parallel, and hands the results over
/// in order.
///
/// A chunk is longer where `memory` has nothing to read ([`Memory::blank`]): workers must not copy
/// what they have not asked [`Memory::zeros`] about. Touching and overlapping ranges are one. `work` gets a buffer that its
/// thread keeps; `take` may answer with an address before which nothing more
/// can be had, and the pass goes on there. Memory: at most [`AHEAD`] results
/// per thread exist at a time beside what `take` keeps.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped, and whatever `take` finds.
pub fn in_order<T: Send>(
    memory: &dyn Memory,
    ranges: &[AddressRange],
    size: u64,
    job: &Job,
    work: impl Fn(&Chunk, &mut Buffer) -> T + Sync,
    mut take: impl FnMut(&Chunk, T) -> Result<Option<u64>, Error>,
) -> Result<(), Error> {
    let mut cutter = Cutter::new(memory, ranges, size);
    let total = cutter.left.iter().map(|(run, _)| run.len()).fold(0, u64::saturating_add);
    job.total.fetch_add(total, Ordering::Relaxed);
    let most = rayon::current_num_threads().saturating_mul(AHEAD).max(1);
    loop {
        let batch: Vec<Chunk> = std::iter::from_fn(|| cutter.cut()).take(most).collect();
        if batch.is_empty() {
            return Ok(());
        }
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
            let Some(result) = result else { continue };
            if let Some(address) = take(chunk, result)? {
                job.done.fetch_add(cutter.skip(address), Ordering::Relaxed);
            }
        }
    }
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
    use crate::memory::{Region, View};
    use crate::word::WordFormat;

    fn range(start: u64, end: u64) -> AddressRange {
        AddressRange::new(start, end).unwrap()
    }

    /// Memory of which nothing has to be read in some ranges.
    #[derive(Default)]
    struct Blank(Vec<AddressRange>);

    impl Memory for Blank {
        fn word_format(&self) -> WordFormat {
            WordFormat::LITTLE_64
        }

        fn regions(&self) -> &[Region] {
            &[]
        }

        fn view<'a>(&'a self, _: AddressRange, _: &'a mut Buffer) -> View<'a> {
            View { bytes: &[], gap: None }
        }

        fn blank(&self, range: AddressRange) -> u64 {
            let here = self.0.iter().find(|blank| blank.contains(range.start()));
            here.and_then(|blank| blank.intersection(range)).map_or(0, AddressRange::len)
        }
    }

    #[test]
    fn what_needs_no_reading_is_one_chunk_up_to_a_border() {
        let memory = Blank(vec![range(20, 95), range(200, 1 << 60)]);
        let mut cutter = Cutter::new(&memory, &[range(15, 100), range(200, 1 << 60)], 10);
        let own: Vec<_> = std::iter::from_fn(|| cutter.cut()).map(|chunk| chunk.own).collect();
        assert_eq!(own, [range(15, 20), range(20, 90), range(90, 100), range(200, 1 << 60)]);
    }

    #[test]
    fn chunks_tile_their_ranges_and_break_at_multiples_of_their_size() {
        let memory = Blank::default();
        let mut cutter = Cutter::new(&memory, &[range(5, 25), range(30, 40)], 10);
        let own: Vec<_> = std::iter::from_fn(|| cutter.cut()).map(|chunk| chunk.own).collect();
        assert_eq!(own, [range(5, 10), range(10, 20), range(20, 25), range(30, 40)]);
    }

    #[test]
    fn results_are_taken_in_address_order() {
        let mut seen = Vec::new();
        let work = |chunk: &Chunk, _: &mut Buffer| chunk.own.start();
        in_order(&Blank::default(), &[range(0, 1000)], 3, &Job::default(), work, |_, start| {
            seen.push(start);
            Ok(None)
        })
        .unwrap();
        assert!(seen.is_sorted());
        assert_eq!(seen.len(), 334);
    }

    #[test]
    fn what_cannot_be_read_is_not_cut_into_chunks() {
        let mut chunks = 0;
        let job = Job::default();
        in_order(
            &Blank::default(),
            &[range(0, 1 << 60), range(1 << 61, (1 << 61) + 5)],
            16,
            &job,
            |_, _| (),
            |_, ()| {
                chunks += 1;
                Ok(Some(1 << 60))
            },
        )
        .unwrap();
        assert!(chunks < 100_000, "{chunks}");
        assert_eq!(job.progress(), ((1 << 60) + 5, (1 << 60) + 5));
    }

    #[test]
    fn a_stopped_job_ends_as_interrupted() {
        let job = Job::default();
        job.stop();
        let result = in_order(&Blank::default(), &[range(0, 10)], 3, &job, |_, _| (), |_, ()| Ok(None));
        assert!(matches!(result, Err(Error::Interrupted)));
    }
}
