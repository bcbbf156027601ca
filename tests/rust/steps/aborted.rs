//! Heaps that malloc itself found damaged: it is caught within a call, and the damage is still named.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use gdb_leak::pass::Job;
use gdb_leak::source::{process, stop::Stop};

/// What the fixture can overwrite.
const KINDS: [&str; 9] = ["size", "zero", "flag", "wild", "top", "topzero", "free", "less", "link"];

/// A process that is killed in the end.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts the fixture and waits until it has stopped itself.
fn start(program: &Path, kind: &str, threads: &str) -> Waiting {
    let mut command = Command::new(program);
    command.args([kind, threads]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Waiting(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("STOPPED"), "{kind} {threads}: {line}");
    child
}

/// How much damage is found in the process, with the registers of its threads, and which checks fail.
fn damage(child: &Waiting) -> (u64, Vec<&'static str>) {
    let pid = i32::try_from(child.0.id()).unwrap();
    let stop = Stop::new(pid, &Job::default()).unwrap();
    let target = process::open(pid, false).unwrap();
    let heap =
        gdb_leak::heap::open(target.memory.as_ref(), stop.threads(), &Job::default()).unwrap().unwrap();
    (heap.damages(), heap.checks().iter().filter(|check| !check.holds).map(|check| check.rule).collect())
}

#[test]
fn damage_that_ends_a_program_within_malloc_is_still_damage() {
    let folder = tempfile::tempdir().unwrap();
    let program = crate::compiled(folder.path(), "heap_aborted", &[]);
    for threads in ["0", "2"] {
        assert_eq!(damage(&start(&program, "none", threads)), (0, Vec::new()));
        for kind in KINDS {
            let (damages, failed) = damage(&start(&program, kind, threads));
            assert!(damages > 0 && !failed.is_empty(), "{kind}, {threads} threads: {damages} {failed:?}");
        }
    }
}
