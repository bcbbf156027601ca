//! The symbol at an address, and the source lines of code, from the files of the target's modules.
//!
//! A file is believed only if its build-id is that of the module in memory: it
//! may have been built again since the process started or the core was written.
//! Nothing is opened before an address of its module is asked for.
//!
//! What this does not do: it reads neither types nor compressed symbol tables
//! (`.gnu_debugdata`), and asks no server.

mod contents;
mod dwarf;
mod files;
mod known;
mod lines;
mod names;
mod reader;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use object::elf;

use crate::memory::{Memory, Region};
use crate::name::Name;
use crate::source::elf::{Image, Segment, loaded};
use crate::source::{Files, SourceKind, Target, proc};

use files::Sought;
use known::Known;
pub use lines::Line;

/// How many places where a file may start are tried for one address.
const MOST_BASES: usize = 64;

/// The name of a place in a module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Symbol {
    /// The name as people write it, parameters included.
    pub name: String,
    /// How many bytes behind the symbol's start the address lies.
    pub offset: u64,
    /// The file of the module: where it was found for a core, as the system calls it for a process.
    pub module: Name,
    /// The section that holds the address, where the file lists one.
    pub section: Option<String>,
}

/// Where the files of the modules are.
#[derive(Debug)]
enum Places {
    /// The program and the folder that stands for `/`, as they were given with a core.
    Core { executable: Option<PathBuf>, sysroot: Option<PathBuf> },
    /// The process's folder in /proc.
    Process(PathBuf),
    /// The target has no bytes, or its debugger knows its symbols.
    Nowhere,
}

/// The path and the build-id of a module.
type NameAndId = (Name, Vec<u8>);

/// The symbols of a target, read as they are asked for.
#[derive(Debug)]
pub struct Symbols {
    places: Places,
    /// The indexes of the regions that files back.
    named: Vec<usize>,
    /// Where the first bytes of each file are mapped, in order.
    bases: BTreeMap<Name, Vec<u64>>,
    /// What is loaded at each base that was looked at.
    modules: Mutex<BTreeMap<u64, Option<Arc<Module>>>>,
    /// Modules that are not in memory, by their paths and build-ids.
    unloaded: Mutex<BTreeMap<NameAndId, Arc<Known>>>,
}

/// A module as it lies in memory.
#[derive(Debug)]
struct Module {
    bias: u64,
    image: Image,
    known: Known,
}

impl Symbols {
    /// The symbols of that target; no file is read yet.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        let origin = &target.origin;
        let places = match (origin.kind, origin.pid) {
            (SourceKind::Core, _) => {
                Places::Core { executable: origin.executable.clone(), sysroot: origin.sysroot.clone() }
            }
            (SourceKind::Process, Some(pid)) => Places::Process(proc::path(pid)),
            _ => Places::Nowhere,
        };
        let mut named = Vec::new();
        let mut bases: BTreeMap<Name, Vec<u64>> = BTreeMap::new();
        let regions = target.memory.regions().iter().enumerate();
        for (index, region) in regions.filter(|(_, region)| !region.anonymous()) {
            named.push(index);
            if region.file_offset == 0 {
                bases.entry(region.name.clone()).or_default().push(region.range.start());
            }
        }
        Self { places, named, bases, modules: Mutex::default(), unloaded: Mutex::default() }
    }

    /// The symbol that covers `address` of `memory`, the memory of the target.
    ///
    /// A symbol without a size counts up to the next symbol, where no symbol
    /// with a size covers the address. `None` for code and data without a
    /// name, and wherever no file with the module's build-id is at hand.
    #[must_use]
    pub fn name(&self, memory: &dyn Memory, address: u64) -> Option<Symbol> {
        let module = self.module_at(memory, address)?;
        module.known.symbol(address.wrapping_sub(module.bias))
    }

    /// The calls at `address` of `memory`, the memory of the target: innermost first where
    /// functions were inlined there, last the function whose frame it is.
    ///
    /// The address is one inside of the call: of a return address the one before it. Where
    /// debug information is missing, the function is that of the symbol; where no file with
    /// the module's build-id is at hand, only the module is known. Empty where no file backs
    /// the address.
    #[must_use]
    pub fn lines(&self, memory: &dyn Memory, address: u64) -> Vec<Line> {
        let module = self.module_at(memory, address);
        let lines = module.map(|module| module.known.lines(address.wrapping_sub(module.bias)));
        let lines = lines.unwrap_or_default();
        let region = memory.region_at(address).filter(|region| lines.is_empty() && !region.anonymous());
        match region {
            Some(region) => vec![Line { module: Some(region.name.clone()), ..Line::default() }],
            None => lines,
        }
    }

    /// The calls at the linked address `linked` (less the bias, where the module was loaded) of
    /// a module that is loaded no longer, as [`Symbols::lines`] has them.
    ///
    /// Empty where no file with that build-id is at hand, and without a build-id.
    #[must_use]
    pub fn lines_of_file(&self, path: &Name, build_id: &[u8], linked: u64) -> Vec<Line> {
        let mut unloaded = self.unloaded.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (path.clone(), build_id.to_vec());
        let make = || Arc::new(self.sought(path, None, build_id.to_vec(), None));
        let known = unloaded.entry(key).or_insert_with(make).clone();
        drop(unloaded);
        known.lines(linked)
    }

    /// The addresses of the functions with that name, in all modules, in order.
    ///
    /// A name is taken as the file has it, and as people write it, with or without
    /// parameters.
    #[must_use]
    pub fn functions(&self, memory: &dyn Memory, name: &str) -> Vec<u64> {
        if matches!(self.places, Places::Nowhere) {
            return Vec::new();
        }
        let bases = self.bases.iter().flat_map(|(file, bases)| bases.iter().map(move |base| (file, *base)));
        let mut found = Vec::new();
        for (file, base) in bases {
            let Some(module) = self.module(memory, file, base) else { continue };
            let linked = module.known.addresses(name).into_iter();
            let code = |at: &u64| memory.region_at(*at).is_some_and(|region| region.permissions.executable());
            found.extend(linked.map(|address| address.wrapping_add(module.bias)).filter(code));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Which of the names, as files have them, the module at the lowest address defines.
    ///
    /// That is the program, but for programs that are loaded where libraries are.
    #[must_use]
    pub fn defined(&self, memory: &dyn Memory, names: &[&str]) -> Vec<bool> {
        let first = self.bases.iter().filter_map(|(file, bases)| Some((*bases.first()?, file))).min();
        let wanted = first.filter(|_| !matches!(self.places, Places::Nowhere));
        let module = wanted.and_then(|(base, file)| self.module(memory, file, base));
        module.map_or_else(|| vec![false; names.len()], |module| module.known.defined(names))
    }

    /// The module whose segments hold `address`.
    fn module_at(&self, memory: &dyn Memory, address: u64) -> Option<Arc<Module>> {
        if matches!(self.places, Places::Nowhere) {
            return None;
        }
        let here = memory.region_at(address)?;
        let name = if here.anonymous() { self.file_below(memory, address)? } else { &here.name };
        let bases = self.bases.get(name)?;
        let below = bases.get(..bases.partition_point(|base| *base <= address))?;
        // A file may be loaded twice (`dlmopen`): the nearest that holds the address is meant.
        let modules = below.iter().rev().take(MOST_BASES).map(|base| self.module(memory, name, *base));
        modules.flatten().find(|module| module.holds(here, address))
    }

    /// The file of the last region before `address` that has one: the bss behind it is of its module.
    fn file_below<'a>(&self, memory: &'a dyn Memory, address: u64) -> Option<&'a Name> {
        let regions = memory.regions();
        let starts_below =
            |index: &usize| regions.get(*index).is_some_and(|region| region.range.start() <= address);
        let last = self.named.partition_point(starts_below).checked_sub(1)?;
        Some(&regions.get(*self.named.get(last)?)?.name)
    }

    /// What is loaded at `base`, if that is a module.
    fn module(&self, memory: &dyn Memory, name: &Name, base: u64) -> Option<Arc<Module>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let found = modules.entry(base);
        found.or_insert_with(|| self.new_module(memory, name, base).map(Arc::new)).clone()
    }

    /// The module whose file starts at `base`, if its data lies where its headers say.
    ///
    /// Folklore: the first page of a file may be mapped once more as its data, with
    /// the headers in it, and a program may map a library's file to read it. Both
    /// look like a module. Seen: `ld -z noseparate-code`, gdb. Neither has its data in
    /// place. Code is not asked for: some programs move theirs to large pages.
    fn new_module(&self, memory: &dyn Memory, name: &Name, base: u64) -> Option<Module> {
        let (image, build_id) = loaded(memory, base)?;
        let bias = image.bias(base);
        let data = image
            .segments
            .iter()
            .filter(|segment| segment.loaded() && segment.file_size > 0 && !segment.flag(elf::PF_X));
        let in_place = |segment: &Segment| {
            let region = memory.region_at(bias.wrapping_add(segment.address));
            region.is_some_and(|region| region.name == *name && backs(region, segment, bias))
        };
        if !data.clone().all(in_place) {
            return None;
        }
        let known = self.sought(name, memory.region_at(base), build_id, Some(image.clone()));
        Some(Module { bias, image, known })
    }

    /// Where the files of the module may be that the target calls `name`; `base` is where it
    /// is mapped.
    fn sought(&self, name: &Name, base: Option<&Region>, build_id: Vec<u8>, image: Option<Image>) -> Known {
        let (files, roots) = match &self.places {
            Places::Core { executable, sysroot } => {
                let places = Files { executable: executable.as_deref(), sysroot: sysroot.as_deref() };
                // Whichever module the program given is: its build-id tells.
                let files = executable.iter().cloned().chain([places.place(name.path())]).collect();
                (files, sysroot.iter().cloned().chain([PathBuf::from("/")]).collect())
            }
            Places::Process(folder) => {
                let bytes = name.bytes();
                let name = Name::from(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes).to_vec());
                let root = folder.join("root");
                let mut files = Vec::new();
                // The file itself, whatever became of its path; for root only.
                if let Some(region) = base {
                    let range = format!("{:x}-{:x}", region.range.start(), region.range.end());
                    files.push(folder.join("map_files").join(range));
                }
                files.push(root.join(name.path().strip_prefix("/").unwrap_or(name.path())));
                files.push(name.path().to_owned());
                // The program, also where it was deleted.
                files.push(folder.join("exe"));
                (files, vec![root, PathBuf::from("/")])
            }
            Places::Nowhere => (vec![name.path().to_owned()], vec![PathBuf::from("/")]),
        };
        let sought = Sought { name: name.clone(), files, roots, build_id, image };
        Known::new(sought, matches!(self.places, Places::Core { .. }))
    }
}

impl Module {
    /// Whether `address`, in a region of the module's file or of none, is part of the module.
    fn holds(&self, region: &Region, address: u64) -> bool {
        let linked = address.wrapping_sub(self.bias);
        let inside = |segment: &&Segment| {
            let inside = linked.checked_sub(segment.address);
            segment.loaded() && inside.is_some_and(|inside| inside < segment.memory_size)
        };
        let Some(segment) = self.image.segments.iter().find(inside) else { return false };
        // Bss, and code that was moved to large pages, have no file. Where address space is
        // not random the bss may be one region with the heap, which the segment does not reach.
        region.anonymous() || backs(region, segment, self.bias)
    }
}

/// Whether the region maps the file as the segment wants it.
fn backs(region: &Region, segment: &Segment, bias: u64) -> bool {
    let start = bias.wrapping_add(segment.address).wrapping_sub(segment.offset);
    region.range.start().wrapping_sub(region.file_offset) == start
}
