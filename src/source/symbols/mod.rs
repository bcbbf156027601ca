//! The symbol at an address, from the files of the target's modules.
//!
//! A file is believed only if its build-id is that of the module in memory: it
//! may have been built again since the process started or the core was written.
//! Nothing is opened before an address of its module is asked for.
//!
//! What this does not do: it reads neither debug information (a line, a type)
//! nor compressed symbol tables (`.gnu_debugdata`), and asks no server.

mod contents;
mod names;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use object::elf;

use crate::memory::{Memory, Region};
use crate::source::elf::{Image, Segment, file_of, loaded};
use crate::source::{Files, SourceKind, Target, process};

use contents::Contents;

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
    pub module: String,
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

/// The symbols of a target, read as they are asked for.
#[derive(Debug)]
pub struct Symbols {
    places: Places,
    /// The indexes of the regions that files back.
    named: Vec<usize>,
    /// Where the first bytes of each file are mapped, in order.
    bases: BTreeMap<String, Vec<u64>>,
    /// What is loaded at each base that was looked at.
    modules: Mutex<BTreeMap<u64, Option<Arc<Module>>>>,
}

/// A module as it lies in memory.
#[derive(Debug)]
struct Module {
    name: String,
    base: u64,
    bias: u64,
    image: Image,
    build_id: Vec<u8>,
    /// The path to show, and the symbols: none where no file here is the module's.
    file: OnceLock<Option<(String, Contents)>>,
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
            (SourceKind::Process, Some(pid)) => Places::Process(process::folder(pid)),
            _ => Places::Nowhere,
        };
        let mut named = Vec::new();
        let mut bases: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let regions = target.memory.regions().iter().enumerate();
        for (index, region) in regions.filter(|(_, region)| !region.anonymous()) {
            named.push(index);
            if region.file_offset == 0 {
                bases.entry(region.name.clone()).or_default().push(region.range.start());
            }
        }
        Self { places, named, bases, modules: Mutex::default() }
    }

    /// The symbol that covers `address` of `memory`, the memory of the target.
    ///
    /// A symbol without a size counts up to the next symbol, where no symbol
    /// with a size covers the address. `None` for code and data without a
    /// name, and wherever no file with the module's build-id is at hand.
    #[must_use]
    pub fn name(&self, memory: &dyn Memory, address: u64) -> Option<Symbol> {
        let module = self.module_at(memory, address)?;
        let (path, contents) = self.contents(memory, &module)?;
        let linked = address.wrapping_sub(module.bias);
        let (name, start) = contents.symbol_at(linked)?;
        Some(Symbol {
            name,
            offset: linked.saturating_sub(start),
            module: path.clone(),
            section: contents.section_at(linked),
        })
    }

    /// The module whose segments hold `address`.
    fn module_at(&self, memory: &dyn Memory, address: u64) -> Option<Arc<Module>> {
        if matches!(self.places, Places::Nowhere) {
            return None;
        }
        let here = memory.region_at(address)?;
        let name = if here.anonymous() { self.file_below(memory, address)? } else { here.name.as_str() };
        let bases = self.bases.get(name)?;
        let below = bases.get(..bases.partition_point(|base| *base <= address))?;
        // A file may be loaded twice (`dlmopen`): the nearest that holds the address is meant.
        let modules = below.iter().rev().take(MOST_BASES).map(|base| self.module(memory, name, *base));
        modules.flatten().find(|module| module.holds(here, address))
    }

    /// The file of the last region before `address` that has one: the bss behind it is of its module.
    fn file_below<'a>(&self, memory: &'a dyn Memory, address: u64) -> Option<&'a str> {
        let regions = memory.regions();
        let starts_below =
            |index: &usize| regions.get(*index).is_some_and(|region| region.range.start() <= address);
        let last = self.named.partition_point(starts_below).checked_sub(1)?;
        Some(regions.get(*self.named.get(last)?)?.name.as_str())
    }

    /// What is loaded at `base`, if that is a module.
    fn module(&self, memory: &dyn Memory, name: &str, base: u64) -> Option<Arc<Module>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        modules.entry(base).or_insert_with(|| Module::new(memory, name, base).map(Arc::new)).clone()
    }

    /// The symbols of the module, from the first file that has them all, and the path to show.
    fn contents<'a>(&self, memory: &dyn Memory, module: &'a Module) -> Option<&'a (String, Contents)> {
        module.file.get_or_init(|| self.read(memory, module)).as_ref()
    }

    fn read(&self, memory: &dyn Memory, module: &Module) -> Option<(String, Contents)> {
        let (files, debug) = self.paths(memory, module);
        let first_debug = files.len();
        let mut shown = None;
        let mut exported = None;
        for (index, path) in files.into_iter().chain(debug).enumerate() {
            let Some((file, image)) = file_of(&path, &module.build_id) else { continue };
            if !same_addresses(&image, &module.image) {
                continue;
            }
            if index < first_debug && shown.is_none() {
                shown = Some(path);
            }
            match Contents::read(file) {
                Some(contents) if contents.full => {
                    exported = Some(contents);
                    break;
                }
                other => exported = exported.or(other),
            }
        }
        let shown = match (&self.places, shown) {
            (Places::Core { .. }, Some(path)) => {
                std::path::absolute(&path).unwrap_or(path).to_string_lossy().into_owned()
            }
            _ => module.name.clone(),
        };
        Some((shown, exported?))
    }

    /// The files that may be the module's, and those with the symbols that were taken out of it.
    fn paths(&self, memory: &dyn Memory, module: &Module) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let name = module.name.as_str();
        match &self.places {
            Places::Core { executable, sysroot } => {
                let files = Files { executable: executable.as_deref(), sysroot: sysroot.as_deref() };
                // Whichever module the program given is: its build-id tells.
                let found = executable.iter().cloned().chain([files.place(name)]).collect();
                let roots = sysroot.as_deref().into_iter().chain([Path::new("/")]);
                (found, roots.filter_map(|root| debug_file(root, &module.build_id)).collect())
            }
            Places::Process(folder) => {
                let name = name.strip_suffix(" (deleted)").unwrap_or(name);
                let root = folder.join("root");
                let mut found = Vec::new();
                // The file itself, whatever became of its path; for root only.
                if let Some(region) = memory.region_at(module.base) {
                    let range = format!("{:x}-{:x}", region.range.start(), region.range.end());
                    found.push(folder.join("map_files").join(range));
                }
                found.push(root.join(name.trim_start_matches('/')));
                found.push(PathBuf::from(name));
                // The program, also where it was deleted.
                found.push(folder.join("exe"));
                let roots = [root.as_path(), Path::new("/")];
                (found, roots.iter().filter_map(|root| debug_file(root, &module.build_id)).collect())
            }
            Places::Nowhere => (Vec::new(), Vec::new()),
        }
    }
}

impl Module {
    /// The module whose file starts at `base`, if its data lies where its headers say.
    ///
    /// Folklore: the first page of a file may be mapped once more as its data, with
    /// the headers in it, and a program may map a library's file to read it. Both
    /// look like a module. Seen: `ld -z noseparate-code`, gdb. Neither has its data in
    /// place. Code is not asked for: some programs move theirs to large pages.
    fn new(memory: &dyn Memory, name: &str, base: u64) -> Option<Self> {
        let (image, build_id) = loaded(memory, base)?;
        let bias = image.bias(base);
        let data = image
            .segments
            .iter()
            .filter(|segment| segment.loaded() && segment.file_size > 0 && !segment.flag(elf::PF_X));
        let in_place = |segment: &Segment| {
            let region = memory.region_at(bias.wrapping_add(segment.address));
            region.is_some_and(|region| region.name == name && backs(region, segment, bias))
        };
        if !data.clone().all(in_place) {
            return None;
        }
        let name = name.to_owned();
        Some(Self { name, base, bias, image, build_id, file: OnceLock::new() })
    }

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

/// Whether both were linked to the same addresses.
///
/// Folklore: prelink moved libraries in place and left their build-ids as they were,
/// and their debug files where they had been.
fn same_addresses(one: &Image, other: &Image) -> bool {
    let loads = |image: &Image| -> Vec<(u64, u64)> {
        let loaded = image.segments.iter().filter(|segment| segment.loaded());
        loaded.map(|segment| (segment.address, segment.memory_size)).collect()
    };
    loads(one) == loads(other)
}

/// Where distributions put the symbols of the file with that build-id.
fn debug_file(root: &Path, build_id: &[u8]) -> Option<PathBuf> {
    let spelled = hex::encode(build_id);
    let (folder, rest) = spelled.split_at_checked(2).filter(|(_, rest)| !rest.is_empty())?;
    Some(root.join("usr/lib/debug/.build-id").join(folder).join(format!("{rest}.debug")))
}
