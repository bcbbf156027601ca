//! What tables left that grew out of their places.

use core::cell::Cell;

use crate::layout::PAGE;

/// Pages of a table that were given back: all zero, and without memory until they are used again.
///
/// Tables that grow alike are next to each other, and so are the places that they leave, which
/// become one that is large enough for others. They are not given back by `munmap`: each hole
/// makes a mapping more, of which a process may have some ten thousand.
///
/// Zero bytes are nothing.
#[repr(C)]
pub(crate) struct Spare {
    count: Cell<usize>,
    /// Start and end of each; no two meet.
    runs: [Cell<(usize, usize)>; 255],
}

impl Spare {
    fn runs(&self) -> &[Cell<(usize, usize)>] {
        self.runs.get(..self.count.get()).unwrap_or_default()
    }

    /// Keeps whole pages, which are zero. Without room for another run the smaller is forgotten: address
    /// space is lost, no memory.
    pub(crate) fn keep(&self, start: usize, end: usize) {
        let (mut start, mut end) = (start, end);
        while let Some(at) = self.runs().iter().position(|run| run.get().1 == start || run.get().0 == end) {
            let (first, last) = self.remove(at);
            (start, end) = (start.min(first), end.max(last));
        }
        if let Some(free) = self.runs.get(self.count.get()) {
            free.set((start, end));
            self.count.set(self.count.get() + 1);
        } else if let Some(least) = self.runs().iter().min_by_key(|run| length(run))
            && length(least) < end - start
        {
            least.set((start, end));
        }
    }

    /// Hands so many bytes out, of the smallest run that has them.
    pub(crate) fn take(&self, bytes: usize) -> Option<usize> {
        let pages = bytes.next_multiple_of(PAGE);
        // What is smaller than a page is not given back.
        if bytes < PAGE {
            return None;
        }
        let fits = self.runs().iter().enumerate().filter(|(_, run)| length(run) >= pages);
        let (at, run) = fits.min_by_key(|(_, run)| length(run))?;
        let (start, end) = run.get();
        if start + pages == end {
            self.remove(at);
        } else {
            run.set((start + pages, end));
        }
        Some(start)
    }

    fn remove(&self, at: usize) -> (usize, usize) {
        let last = self.runs().last().map(Cell::get).unwrap_or_default();
        let removed = self.runs().get(at).map(|run| run.replace(last)).unwrap_or_default();
        self.count.set(self.count.get().saturating_sub(1));
        removed
    }
}

fn length(run: &Cell<(usize, usize)>) -> usize {
    let (start, end) = run.get();
    end - start
}

#[cfg(test)]
mod tests {
    use super::{Cell, PAGE, Spare};

    fn empty() -> Spare {
        Spare { count: Cell::new(0), runs: [const { Cell::new((0, 0)) }; 255] }
    }

    #[test]
    fn pages_given_back_next_to_each_other_are_one_run() {
        let at = 1 << 30;
        let spare = empty();
        for page in [0, 2, 5, 1] {
            spare.keep(at + page * PAGE, at + (page + 1) * PAGE);
        }
        assert_eq!(spare.take(4 * PAGE), None);
        assert_eq!(spare.take(2 * PAGE + 1), Some(at));
        assert_eq!(spare.take(PAGE - 1), None);
        assert_eq!(spare.take(PAGE), Some(at + 5 * PAGE));
        assert_eq!(spare.take(PAGE), None);
    }

    #[test]
    fn more_runs_than_there_is_room_for_leave_the_largest() {
        let at = 1 << 30;
        let spare = empty();
        for number in 0..300 {
            let start = at + number * 3 * PAGE;
            spare.keep(start, start + (1 + usize::from(number > 280)) * PAGE);
        }
        assert_eq!((0..1000).take_while(|_| spare.take(2 * PAGE).is_some()).count(), 19);
        assert_eq!((0..1000).take_while(|_| spare.take(PAGE).is_some()).count(), 255 - 19);
    }
}
