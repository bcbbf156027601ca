//! The fixture program: compiled, run, and made into a core.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gdb_leak::source::symbols::{Symbol, Symbols};
use gdb_leak::source::{Files, Target, open_file, process};
use tempfile::TempDir;

use crate::core_builder::{Builder, X86_64};

pub(crate) fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The program, the library beside it, and the core, in a folder that goes with the test.
pub(crate) struct Subject {
    pub(crate) folder: TempDir,
    process: Child,
    /// What it printed: where each of its variables lies, and how long it is.
    pub(crate) places: BTreeMap<String, (u64, u64)>,
}

/// A line of `/proc/PID/maps`.
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) permissions: String,
    pub(crate) offset: u64,
    pub(crate) name: String,
}

impl Subject {
    /// The program compiled with those flags for gcc, waiting.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        compile(folder.path(), flags);
        let mut process = Command::new(folder.path().join("program"))
            .arg(folder.path().join("libsymbols.so"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut places = BTreeMap::new();
        for line in BufReader::new(process.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if line == "READY" {
                break;
            }
            let words: Vec<&str> = line.split(' ').collect();
            let start = u64::from_str_radix(&words[1][2..], 16).unwrap();
            places.insert(words[0].to_owned(), (start, words[2].parse().unwrap()));
        }
        Self { folder, process, places }
    }

    pub(crate) fn at(&self, place: &str) -> u64 {
        self.places[place].0
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.folder.path().join("program")
    }

    pub(crate) fn library(&self) -> PathBuf {
        self.folder.path().join("libsymbols.so")
    }

    pub(crate) fn live(&self) -> Named {
        Named::of(process::open(self.process.id().try_into().unwrap(), false).unwrap())
    }

    /// Whether the system hands out the files of mappings, whatever became of their paths.
    pub(crate) fn maps_files(&self) -> bool {
        let first = &self.mappings()[0];
        let range = format!("{:x}-{:x}", first.start, first.end);
        fs::File::open(format!("/proc/{}/map_files/{range}", self.process.id())).is_ok()
    }

    pub(crate) fn mappings(&self) -> Vec<Mapping> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.process.id())).unwrap();
        let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let mapping = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (start, end) = words[0].split_once('-').unwrap();
            Mapping {
                start: hex(start),
                end: hex(end),
                permissions: words[1].to_owned(),
                offset: hex(words[2]),
                name: words.get(5).copied().unwrap_or_default().to_owned(),
            }
        };
        maps.lines().map(mapping).collect()
    }

    /// The process as a core, `change` made to its mappings first.
    pub(crate) fn core(&self, change: impl Fn(&mut Mapping)) -> Vec<u8> {
        let memory = fs::File::open(format!("/proc/{}/mem", self.process.id())).unwrap();
        let mut core = Builder::new(X86_64);
        let mut files = Vec::new();
        let mut mappings = self.mappings();
        mappings.iter_mut().for_each(change);
        for mapping in mappings.iter().filter(|mapping| mapping.permissions.starts_with('r')) {
            let mut bytes = vec![0; (mapping.end - mapping.start) as usize];
            if mapping.name.starts_with("[v") || memory.read_exact_at(&mut bytes, mapping.start).is_err() {
                continue;
            }
            let flags = [('r', 4), ('w', 2), ('x', 1)];
            let flags = flags.iter().filter(|(letter, _)| mapping.permissions.contains(*letter));
            core = core.load(mapping.start, flags.map(|(_, flag)| flag).sum(), &bytes, bytes.len() as u64);
            if mapping.name.starts_with('/') {
                files.push((mapping.start, mapping.end, mapping.offset / 4096, mapping.name.as_str()));
            }
        }
        core.files(&files).build()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Writes the program and its library into the folder.
pub(crate) fn compile(folder: &Path, flags: &[&str]) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let gcc = || {
        let mut gcc = Command::new("gcc");
        gcc.current_dir(folder).args(["-g", "-Wl,--build-id"]).args(flags);
        gcc
    };
    run(gcc().args(["-shared", "-fPIC", "-o", "libsymbols.so"]).arg(sources.join("symbols_library.c")));
    run(gcc().args(["-o", "program"]).arg(sources.join("symbols.c")).args([
        "-L.",
        "-lsymbols",
        "-Wl,-rpath,$ORIGIN",
        "-ldl",
    ]));
}

/// A target with its symbols.
pub(crate) struct Named {
    target: Target,
    symbols: Symbols,
}

impl Named {
    fn of(target: Target) -> Self {
        let symbols = Symbols::new(&target);
        Self { target, symbols }
    }

    pub(crate) fn core(bytes: &[u8], files: Files<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("core");
        fs::write(&path, bytes).unwrap();
        Self::of(open_file(&path, files).unwrap())
    }

    pub(crate) fn symbol(&self, address: u64) -> Option<Symbol> {
        self.symbols.name(self.target.memory.as_ref(), address)
    }

    pub(crate) fn regions(&self) -> &[gdb_leak::memory::Region] {
        self.target.memory.regions()
    }

    /// `NAME+OFFSET SECTION FILE`, of the file only its own name; empty where there is none.
    pub(crate) fn spelled(&self, address: u64) -> String {
        self.symbol(address).map(|symbol| spell(&symbol)).unwrap_or_default()
    }
}

pub(crate) fn spell(symbol: &Symbol) -> String {
    let file = String::from_utf8_lossy(symbol.module.last_part());
    let section = symbol.section.as_deref().unwrap_or("-");
    format!("{}+{} {section} {file}", symbol.name, symbol.offset)
}
