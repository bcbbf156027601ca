//! Heaps of programs that are stepped through malloc, one instruction at a time.
// A test may panic on its own mistakes, and its helpers are no part of what it tests.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::print_stderr
)]
#![cfg(target_arch = "x86_64")]

#[path = "steps/aborted.rs"]
mod aborted;
#[path = "steps/mirror.rs"]
mod mirror;
#[path = "steps/tracer.rs"]
mod tracer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use gdb_leak::heap::block::State;
use gdb_leak::pass::Job;

use tracer::{Addresses, Mark, Step, Tracer};

/// What the fixture calls, by its numbers.
const CALLS: [&str; 8] = ["", "malloc", "calloc", "realloc", "memalign", "free", "malloc_trim", "thread"];

/// What was seen at all stops of one run.
#[derive(Default)]
struct Account {
    calls: u64,
    stops: u64,
    judged: u64,
    wrong: u64,
    /// The faults by what they are, how often, and the first of each.
    faults: BTreeMap<String, (u64, String)>,
    inside: u64,
    /// Blocks that are in use at a stop and neither before nor after the call, by what they were before
    /// and what they are after it.
    stale: BTreeMap<String, u64>,
    notes: BTreeMap<String, u64>,
}

impl Account {
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.stops += other.stops;
        self.judged += other.judged;
        self.inside += other.inside;
        self.wrong += other.wrong;
    }

    fn figures(&self) -> String {
        let Self { calls, stops, judged, inside, wrong, .. } = self;
        format!("{calls} calls, {stops} stops, {judged} judged, {inside} inside, {wrong} wrong")
    }
}

/// The units of a heap by their starts: what each is, and how long.
type Units = BTreeMap<u64, (State, u64)>;

/// What a unit was or becomes that starts at `start`, in words.
fn role(units: &Units, start: u64) -> String {
    match units.range(..=start).next_back() {
        Some((own, (state, _))) if *own == start => format!("{state:?}"),
        Some((own, (state, length))) if start < own + length => format!("inside {state:?}"),
        _ => "none".to_owned(),
    }
}

/// Numbers become `#`, so that alike faults count together.
fn alike(text: &str) -> String {
    let number = |word: &str| {
        word.trim_start_matches("0x").starts_with(|letter: char| letter.is_ascii_hexdigit())
            && word.bytes().any(|byte| byte.is_ascii_digit())
    };
    let words = text.split(' ').map(|word| if number(word) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

struct Run {
    tracer: Tracer,
    table: u64,
    entries: u64,
    account: Account,
    verbose: bool,
}

impl Run {
    fn held(&self, entry: u64) -> Vec<(u64, u64)> {
        let mut held = Vec::new();
        for number in (0..self.entries).filter(|number| *number != entry) {
            let at = self.table + number * 16;
            let (address, usable) = (self.tracer.mirror.word_now(at), self.tracer.mirror.word_now(at + 8));
            if address != 0 {
                held.push((address, usable));
            }
        }
        held
    }

    /// Checks the heap against what is true at every moment, and returns its units.
    fn judge(&mut self, held: &[(u64, u64)], begun: bool) -> Units {
        self.account.judged += 1;
        let threads = self.tracer.threads();
        let heap = gdb_leak::heap::open(&self.tracer.mirror, &threads, &Job::default()).unwrap();
        let mut faults = Vec::new();
        let Some(heap) = heap else {
            if begun {
                self.fault("no heap".to_owned(), String::new());
            }
            return Units::new();
        };
        for damage in heap.damage() {
            faults.push((
                alike(&damage.rule),
                format!("{:#x}: {} ({:#x})", damage.address, damage.rule, damage.value),
            ));
        }
        for check in heap.checks().iter().filter(|check| !check.holds) {
            faults.push((check.rule.to_owned(), check.detail.clone()));
        }
        let blocks = heap.blocks();
        for (address, usable) in held {
            let block = blocks.block_at(*address).filter(|unit| unit.block().start() == *address);
            let fine =
                block.as_ref().is_some_and(|unit| unit.state == State::Used && unit.block().len() == *usable);
            if !fine {
                let said = blocks.unit_at(*address).map(|unit| (unit.state, unit.range));
                faults.push(("held".to_owned(), format!("{address:#x} of {usable} bytes is {said:x?}")));
            }
        }
        let mut inside = false;
        for note in heap.notes() {
            if note.contains("middle of a") {
                inside = true;
                *self.account.notes.entry(alike(note)).or_default() += 1;
            }
        }
        self.account.inside += u64::from(inside);
        if !faults.is_empty() {
            faults.extend(
                heap.notes()
                    .iter()
                    .filter(|note| note.contains("middle of a"))
                    .map(|note| {
                        let kind = faults.last().map_or(String::new(), |(kind, _)| kind.clone());
                        (kind, note.clone())
                    })
                    .collect::<Vec<_>>(),
            );
            self.account.wrong += 1;
            let kinds: BTreeSet<&str> = faults.iter().map(|(kind, _)| kind.as_str()).collect();
            let key = kinds.into_iter().collect::<Vec<_>>().join(" + ");
            let all: Vec<&str> = faults.iter().map(|(_, text)| text.as_str()).collect();
            self.fault(key, format!("pc {:#x} {}", self.tracer.registers.rip, all.join("; ")));
        }
        blocks.units().map(|unit| (unit.range.start(), (unit.state, unit.range.len()))).collect()
    }

    fn fault(&mut self, key: String, text: String) {
        if self.verbose && self.account.faults.get(&key).is_none_or(|(count, _)| *count < 3) {
            eprintln!("call {} stop {}: {key}: {text}", self.account.calls, self.tracer.stops);
            eprintln!("  {}", self.tracer.shown());
        }
        self.account.faults.entry(key).or_insert((0, text)).0 += 1;
    }

    fn go(&mut self) {
        let mut begun = false;
        loop {
            let Some(mark) = self.tracer.next() else { return };
            match mark {
                Mark::Ready { table, entries } => {
                    (self.table, self.entries) = (table, entries);
                    for word in 0..4 {
                        let place = self.tracer.mirror.word_now(table + entries * 16 + word * 8);
                        self.tracer.near(place);
                    }
                }
                Mark::End => {}
                Mark::Begin { entry, call } => {
                    self.call(entry, call, begun);
                    begun = true;
                    continue;
                }
            }
            self.tracer.go();
        }
    }

    fn call(&mut self, entry: u64, call: u64, begun: bool) {
        self.account.calls += 1;
        let held = self.held(entry);
        self.tracer.look();
        let before = if begun { self.judge(&held, true) } else { Units::new() };
        let mut extra: Vec<(u64, u64)> = Vec::new();
        loop {
            match self.tracer.step() {
                Step::Same => {}
                Step::Changed => {
                    let now = self.judge(&held, begun);
                    let used =
                        now.iter().filter(|(_, (state, _))| *state == State::Used).map(|(start, _)| *start);
                    let was = |start: &u64| before.get(start).is_some_and(|(state, _)| *state == State::Used);
                    let counter = self.tracer.registers.rip;
                    extra.extend(used.filter(|start| !was(start)).map(|start| (start, counter)));
                }
                Step::Over => break,
                Step::Ended => {
                    self.tracer.ended();
                    return;
                }
            }
        }
        self.tracer.look();
        let after = self.judge(&held, true);
        let name = CALLS.get(usize::try_from(call).unwrap()).unwrap_or(&"?");
        let mut freed = None;
        for (start, counter) in extra {
            if after.get(&start).is_none_or(|(state, _)| *state != State::Used) {
                let told = format!("{name}: {} -> {}", role(&before, start), role(&after, start));
                *self.account.stale.entry(told).or_default() += 1;
            }
            // What the call has in hand it changes: it takes it, moves it to another list or merges it.
            let was = before.get(&start).filter(|(state, _)| state.free());
            if let Some((state, length)) = was.filter(|was| after.get(&start) == Some(*was)) {
                freed = Some(format!("pc {counter:#x} {start:#x} of {length:#x} bytes, {state:?}"));
            }
        }
        if let Some(text) = freed {
            self.account.wrong += 1;
            self.fault("freed before the call and in use".to_owned(), text);
        }
        self.tracer.go();
    }
}

fn step_through(program: &Path, words: &[&str], addresses: Addresses) -> Account {
    let began = Instant::now();
    let tracer = Tracer::start(program, words, addresses);
    let verbose = std::env::var_os("GDB_LEAK_STEPS_VERBOSE").is_some();
    let mut run = Run { tracer, table: 0, entries: 0, account: Account::default(), verbose };
    run.go();
    run.account.stops = run.tracer.stops;
    let mut told = format!(
        "{} {}: {}, {:.1} s\n",
        program.display(),
        words.join(" "),
        run.account.figures(),
        began.elapsed().as_secs_f64(),
    );
    for (kind, (count, first)) in &run.account.faults {
        writeln!(told, "  {count} times {kind}\n      {first}").unwrap();
    }
    if verbose {
        for (note, count) in &run.account.notes {
            writeln!(told, "  {count} notes {note}").unwrap();
        }
        for (kind, count) in &run.account.stale {
            writeln!(told, "  {count} in use for a moment: {kind}").unwrap();
        }
    }
    // At once: others write, too.
    eprint!("{told}");
    run.account
}

/// Does all jobs, as many at a time as there are processors; what came of each, in their order.
///
/// A traced process belongs to the thread that traces it, from its start to its end.
fn in_parallel<J: Sync, T: Send>(jobs: &[J], work: impl Fn(&J) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        while let Some((number, job)) = {
            let number = next.fetch_add(1, Ordering::Relaxed);
            jobs.get(number).map(|job| (number, job))
        } {
            done.push((number, work(job)));
        }
        done
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(some)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, came)| came).collect()
}

/// A fixture's program, made by gcc with these words more.
fn compiled(folder: &Path, fixture: &str, flags: &[String]) -> PathBuf {
    let out = folder.join(fixture);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{fixture}.c"));
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-g", "-pthread", "-o"]).arg(&out).arg(source).args(flags);
    assert!(gcc.status().unwrap().success());
    out
}

/// The C libraries of the matrix that are unpacked here, each with gcc's words for it: as
/// tests/harness/glibc.py has them. Without any, the machine's own.
fn libraries() -> Vec<(String, Vec<String>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".glibc");
    let Ok(entries) = std::fs::read_dir(folder) else {
        return vec![("the machine's own glibc, dynamic".to_owned(), Vec::new())];
    };
    let mut roots: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    roots.retain(|root| root.join("unpacked").exists());
    roots.sort();
    let mut found = Vec::new();
    for root in roots {
        let triplet = "x86_64-linux-gnu";
        let own = [root.join("usr/lib").join(triplet), root.join("lib").join(triplet)];
        let Some(library) = own.iter().find(|folder| folder.join("libc.so.6").exists()) else { continue };
        let name = root.file_name().unwrap().to_string_lossy().into_owned();
        let minor: u32 = name.split(['.', '-']).nth(1).unwrap().parse().unwrap();
        let (root, library, files) = (root.display(), library.display(), own[0].display());
        let words = format!(
            "--sysroot={root} -B{files} -L{files} -idirafter /usr/include/{triplet} -idirafter /usr/include \
             -static-libgcc"
        );
        let dynamic =
            format!("{words} -Wl,--dynamic-linker,{library}/ld-linux-x86-64.so.2 -Wl,-rpath,{library}");
        // libgcc_eh of a newer gcc finds frames by a function that came with glibc 2.35.
        let symbol = if minor < 35 { " -Wl,--defsym,_dl_find_object=0" } else { "" };
        for (linked, words) in [("dynamic", dynamic), ("static", format!("{words} -static{symbol}"))] {
            let words = words.split_whitespace().map(str::to_owned).collect();
            found.push((format!("glibc {name}, {linked}"), words));
        }
    }
    found
}

/// What the machine's own library is stepped through in `make test`: the seed, the calls, where, which.
///
/// The longest first, so that all processors have something to do up to the end. Arenas with several
/// heaps are in `make soak` alone: their blocks of many MiB make each stop a hundred times as slow.
const OWN: [[&str; 4]; 6] = [
    ["1", "300", "thread", "mixed"],
    ["8", "250", "thread", "mixed"],
    ["5", "60", "thread", "foreign"],
    ["3", "60", "thread", "top"],
    ["4", "60", "thread", "mapped"],
    ["6", "60", "thread", "apart"],
];

#[test]
fn a_heap_is_whole_at_every_stop_inside_of_malloc() {
    let folder = tempfile::tempdir().unwrap();
    let program = compiled(folder.path(), "heap_steps", &[]);
    let accounts = in_parallel(&OWN, |words| step_through(&program, words, Addresses::Same));
    let judged: u64 = accounts.iter().map(|account| account.judged).sum();
    let wrong: u64 = accounts.iter().map(|account| account.wrong).sum();
    assert!(judged >= 20_000, "{judged} judged");
    assert_eq!(wrong, 0);
}

/// What a row of the matrix is stepped through in `make soak`: the seed, the calls, where, which.
const SOAK: [[&str; 4]; 10] = [
    ["2", "600", "thread", "mixed"],
    ["9", "600", "thread", "mixed"],
    ["14", "600", "main", "mixed"],
    ["3", "400", "thread", "top"],
    ["4", "400", "thread", "mapped"],
    ["5", "400", "thread", "foreign"],
    ["15", "400", "thread", "foreign"],
    ["6", "300", "thread", "apart"],
    ["16", "300", "thread", "apart"],
    ["7", "100", "thread", "heaps"],
];

#[test]
fn a_heap_of_each_library_is_whole_at_every_stop_inside_of_malloc() {
    if std::env::var_os("GDB_LEAK_SOAK").is_none() {
        return;
    }
    let libraries = libraries();
    let programs: Vec<(String, tempfile::TempDir, PathBuf)> = libraries
        .into_iter()
        .map(|(name, flags)| {
            let folder = tempfile::tempdir().unwrap();
            let program = compiled(folder.path(), "heap_steps", &flags);
            (name, folder, program)
        })
        .collect();
    let rows = programs.iter().flat_map(|(name, _, program)| SOAK.map(|words| (name, program, words)));
    let rows: Vec<_> = rows.collect();
    let began = Instant::now();
    let accounts = in_parallel(&rows, |(name, program, words)| {
        let began = Instant::now();
        let account = step_through(program, words, Addresses::Random);
        (*name, words.join(" "), account, began.elapsed())
    });
    let mut all = Account::default();
    for (name, ..) in &programs {
        let mut sum = Account::default();
        let mut seconds = 0.0;
        for (_, _, account, time) in accounts.iter().filter(|(own, ..)| *own == name) {
            sum.add(account);
            seconds += time.as_secs_f64();
        }
        eprintln!("{name}: {}, {seconds:.0} s", sum.figures());
        all.add(&sum);
    }
    eprintln!("all: {}, {:.0} s", all.figures(), began.elapsed().as_secs_f64());
    assert!(all.judged >= 20_000, "{} judged", all.judged);
    let wrong = accounts.iter().filter(|(_, _, account, _)| account.wrong > 0);
    let wrong: Vec<String> = wrong.map(|(name, words, ..)| format!("{name}: {words}")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A program and its words from the environment: what a run showed is looked at again.
#[test]
fn a_program_that_is_named_is_stepped_through() {
    let Ok(program) = std::env::var("GDB_LEAK_STEPS") else { return };
    let words = std::env::var("GDB_LEAK_STEPS_WORDS").unwrap();
    let words: Vec<&str> = words.split(' ').collect();
    assert_eq!(step_through(Path::new(&program), &words, Addresses::Random).wrong, 0);
}
