//! Jobs that are stopped while stacks are unwound.

use gdb_leak::error::Error;
use gdb_leak::memory::{Buffer, Memory, Region, View};
use gdb_leak::pass::Job;
use gdb_leak::range::AddressRange;
use gdb_leak::source::captured::Captured;
use gdb_leak::unwind::{Unwinder, dead};
use gdb_leak::word::WordFormat;

use crate::module::{Part, STACK, WAITS, at, image, memory, thread};

/// Its call returns at its fifth byte.
const CALLS: &str = "
    e8fb0f0000         call .+0x1000
    f4                 hlt";

/// Stops a job when the code of part 0 is read.
struct Stopping<'j> {
    program: Captured,
    job: &'j Job,
}

impl Memory for Stopping<'_> {
    fn word_format(&self) -> WordFormat {
        self.program.word_format()
    }

    fn regions(&self) -> &[Region] {
        self.program.regions()
    }

    fn view<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
        if range.contains(at(0)) {
            self.job.stop();
        }
        self.program.view(range, buffer)
    }
}

#[test]
fn a_job_that_is_stopped_within_the_last_thread_ends_as_interrupted() {
    let stack = [0, at(1) + 5, 0, 0];
    let program = || memory(&image(&[Part::new(WAITS), Part::new(CALLS).outermost()]), &stack);
    let threads = [thread(at(0) + 6, STACK, 0)];
    let job = Job::default();
    let stopping = Stopping { program: program(), job: &job };
    assert!(matches!(dead(&stopping, &threads, &job), Err(Error::Interrupted)));
    assert!(job.stopped());
    // What was cut short is not kept for the next answer.
    let mut unwinder = Unwinder::new(&stopping);
    assert!(unwinder.frames(&threads[0], &job).is_err());
    let whole = program();
    let undisturbed = Unwinder::new(&whole).frames(&threads[0], &Job::default()).unwrap();
    assert_eq!(unwinder.frames(&threads[0], &Job::default()).unwrap(), undisturbed);
    assert_eq!(undisturbed.frames.len(), 1);
}
