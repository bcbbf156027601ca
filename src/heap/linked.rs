//! Allocators that are part of a module: named, so that memory of no known heap has an explanation.
//!
//! No verdict on a block depends on this. A name is given where signs agree: the symbols of the
//! program have two of the allocator's functions; or the read-only data of a module has two of
//! its texts, and the writable data of the same module leads into the memory that belongs to no
//! known heap; or that data leads to a table as only that allocator keeps it ([`tables`]). One
//! text alone says nothing: a debugger or a document may have it.

use std::collections::{BTreeMap, BTreeSet};

use aho_corasick::{AhoCorasick, MatchKind};

use crate::error::Error;
use crate::memory::{Buffer, Memory, Permissions, Region, RegionKind};
use crate::name::Name;
use crate::pass::{self, Chunk, Job};
use crate::range::AddressRange;
use crate::source::symbols::Symbols;

use super::tables;

/// What is known of one allocator.
struct Known {
    name: &'static str,
    /// Two of its texts, with an `@` in each: this program must not have them itself.
    texts: [&'static str; 2],
    /// Pairs of functions, of which a program that has it defines both.
    functions: &'static [[&'static str; 2]],
}

/// Texts as compilers leave them in read-only data.
///
/// mimalloc 1.7 to 3.4, src/options.c, `_mi_warning_message` and `_mi_error_message`; jemalloc
/// 5.2 to 5.3, src/jemalloc.c, `malloc_conf_next`, `obtain_malloc_conf`; gperftools 2.10,
/// src/tcmalloc.cc, `DumpStats`; scudo of LLVM 14 to 19, standalone/report.cpp; Go 1.18 to 1.24,
/// runtime/malloc.go; `CPython` 3.9 to 3.13, the names that its programs and libraries export.
const KNOWN: [Known; 6] = [
    Known {
        name: "mimalloc",
        texts: ["mimalloc@: warning: ", "mimalloc@: error: "],
        functions: &[["mi_malloc", "mi_free"]],
    },
    Known {
        name: "jemalloc",
        texts: ["<jemalloc>@: Malformed conf string", "/etc/@malloc.conf"],
        functions: &[
            ["je_malloc", "je_free"],
            ["_rjem_malloc", "_rjem_free"],
            ["mallocx", "rallocx"],
            ["je_mallocx", "je_rallocx"],
        ],
    },
    Known {
        name: "tcmalloc",
        texts: ["Bytes in use @by application", "Bytes in central @cache freelist"],
        functions: &[["tc_malloc", "tc_free"], ["TCMallocInternalMalloc", "TCMallocInternalFree"]],
    },
    Known {
        name: "scudo",
        texts: ["Scudo @ERROR: ", "corrupted @chunk header at address"],
        functions: &[["scudo_malloc", "scudo_free"]],
    },
    Known {
        name: "the Go runtime",
        texts: ["runtime: out of memory: @cannot allocate ", "runtime: cannot map @pages in arena"],
        functions: &[["runtime.mallocgc", "runtime.sysAlloc"]],
    },
    Known { name: "pymalloc (CPython)", texts: ["_Py@Runtime\0", "PyObject_@Malloc\0"], functions: &[] },
];

/// More read-only data than this is not gone over; programs have a tenth of it.
const MOST_READ: u64 = 256 << 20;

/// More writable data of a module than this is not gone over.
const MOST_DATA: u64 = 64 << 20;

/// More words of the data of modules are not tried as the starts of tables.
const MOST_WORDS: usize = 1 << 17;

/// The allocators that a module of the target contains, beside glibc's.
///
/// `places` is the memory that belongs to no known heap.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn linked(
    memory: &dyn Memory,
    symbols: &Symbols,
    places: &[AddressRange],
    job: &Job,
) -> Result<Vec<&'static str>, Error> {
    let texts = texts(memory, job)?;
    let mut names = BTreeSet::new();
    for (known, modules) in KNOWN.iter().zip(&texts) {
        for module in modules {
            if leads(memory, module, places, job)? {
                names.insert(known.name);
                break;
            }
        }
    }
    let mut words = BTreeSet::new();
    words_into(memory, None, places, job, &mut |word| {
        words.insert(word);
        words.len() < MOST_WORDS
    })?;
    names.extend(tables::kept(memory, &words, places, job)?);
    let wanted: Vec<&str> =
        KNOWN.iter().flat_map(|known| known.functions.iter().flatten().copied()).collect();
    let mut defined = symbols.defined(memory, &wanted).into_iter();
    for known in &KNOWN {
        for _ in known.functions {
            // Both are taken, whatever the first one is.
            let (one, other) = (defined.next(), defined.next());
            if one == Some(true) && other == Some(true) {
                names.insert(known.name);
            }
        }
    }
    Ok(KNOWN.iter().map(|known| known.name).filter(|name| names.contains(name)).collect())
}

/// Of each allocator, the modules that have both of its texts in what they do not write to.
fn texts(memory: &dyn Memory, job: &Job) -> Result<Vec<BTreeSet<Name>>, Error> {
    let ranges = read_only(memory);
    let needles: Vec<String> =
        KNOWN.iter().flat_map(|known| known.texts.iter().map(|text| text.replace('@', ""))).collect();
    // Fails for texts of gigabytes in all.
    let Ok(finder) = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(&needles) else {
        return Ok(Vec::new());
    };
    let longest = needles.iter().map(String::len).max().unwrap_or(0) as u64;
    let mut seen: Vec<BTreeSet<Name>> = vec![BTreeSet::new(); needles.len()];
    let work = |chunk: &Chunk, buffer: &mut Buffer| {
        let end = chunk.own.end().saturating_add(longest).min(chunk.run.end());
        let mut at = chunk.own.start();
        let mut found: BTreeSet<(usize, &Name)> = BTreeSet::new();
        // The pieces so far, so that a text across two of them is found; what a gap separates is
        // no text. Most chunks are one piece, which is not copied.
        let mut joined: Vec<u8> = Vec::new();
        while at < end {
            let rest = AddressRange::saturating(at, end.saturating_sub(at));
            // No text has a zero in it.
            let zeros = memory.zeros(rest);
            if zeros > 0 {
                found.extend(holders(memory, &finder, &joined, at));
                joined.clear();
                at = at.saturating_add(zeros);
                continue;
            }
            let view = memory.view(rest, buffer);
            at = at.saturating_add(view.bytes.len() as u64);
            let last = view.gap.is_some() || view.bytes.is_empty() || at >= end;
            if last && joined.is_empty() {
                found.extend(holders(memory, &finder, view.bytes, at));
            } else {
                joined.extend_from_slice(view.bytes);
            }
            if last {
                found.extend(holders(memory, &finder, &joined, at));
                joined.clear();
            }
            match view.gap {
                Some(gap) => at = gap.range.end().max(at.saturating_add(1)),
                None if view.bytes.is_empty() => break,
                None => {}
            }
        }
        found
    };
    pass::in_order(memory, &ranges, pass::CHUNK, job, work, |_, found| {
        for (number, name) in found {
            if let Some(names) = seen.get_mut(number) {
                names.insert(name.clone());
            }
        }
        Ok(None)
    })?;
    let both = seen.chunks_exact(2).map(|pair| match pair {
        [one, other] => one.intersection(other).cloned().collect(),
        _ => BTreeSet::new(),
    });
    Ok(both.collect())
}

/// Returns which texts are in `bytes`, which end at `end`, each with the module that has all of it.
fn holders<'m>(
    memory: &'m dyn Memory,
    finder: &AhoCorasick,
    bytes: &[u8],
    end: u64,
) -> BTreeSet<(usize, &'m Name)> {
    let start = end.saturating_sub(bytes.len() as u64);
    let mut found = BTreeSet::new();
    for text in finder.find_iter(bytes) {
        let address = start.saturating_add(text.start() as u64);
        let name = |at| memory.region_at(at).map(|region| &region.name);
        let last = address.saturating_add(text.len() as u64).saturating_sub(1);
        let number = text.pattern().as_usize();
        found.extend(name(address).filter(|own| name(last) == Some(own)).map(|own| (number, own)));
    }
    found
}

/// What modules do not write to: their read-only data, and code, which may have some in it.
fn read_only(memory: &dyn Memory) -> Vec<AddressRange> {
    let regions = memory.regions();
    let modules: BTreeSet<&Name> = regions
        .iter()
        .filter(|region| region.kind == RegionKind::Data && !region.anonymous())
        .map(|region| &region.name)
        .collect();
    let known = |region: &&Region| {
        let readable = matches!(region.permissions, Permissions::Known { read: true, write: false, .. });
        readable && !region.anonymous() && modules.contains(&region.name)
    };
    // Code last: it has texts only in programs that are linked without read-only segments.
    let (code, data): (Vec<&Region>, Vec<&Region>) =
        regions.iter().filter(known).partition(|region| region.permissions.executable());
    let mut last: BTreeMap<&Name, u64> = BTreeMap::new();
    for region in &data {
        let offset = last.entry(&region.name).or_default();
        *offset = region.file_offset.max(*offset);
    }
    let separate =
        |region: &&&Region| last.get(&region.name).is_none_or(|offset| *offset <= region.file_offset);
    let mut left = MOST_READ;
    let wanted = data.iter().chain(code.iter().filter(separate));
    let wanted = wanted.map(|region| {
        let length = region.range.len().min(left);
        left = left.saturating_sub(length);
        AddressRange::saturating(region.range.start(), length)
    });
    AddressRange::merge(wanted.filter(|range| !range.is_empty()).collect())
}

/// Whether a word in the writable data of the module, its bss included, leads into `places`.
fn leads(memory: &dyn Memory, module: &Name, places: &[AddressRange], job: &Job) -> Result<bool, Error> {
    let mut found = false;
    words_into(memory, Some(module), places, job, &mut |_| {
        found = true;
        false
    })?;
    Ok(found)
}

/// Hands the words in the writable data of one module, or of all, that lead into `places` to
/// `take`, until that says that it has enough.
fn words_into(
    memory: &dyn Memory,
    module: Option<&Name>,
    places: &[AddressRange],
    job: &Job,
    take: &mut dyn FnMut(u64) -> bool,
) -> Result<(), Error> {
    let format = memory.word_format();
    let size = format.size as u64;
    let mut touching = None;
    let mut left = MOST_DATA;
    let mut buffer = Buffer::default();
    for region in memory.regions().iter().filter(|region| region.kind == RegionKind::Data) {
        let behind = region.anonymous() && touching == Some(region.range.start());
        if module.is_some_and(|module| region.name != *module) && !behind {
            continue;
        }
        touching = Some(region.range.end());
        let end = region.range.start().saturating_add(region.range.len().min(left));
        left = left.saturating_sub(region.range.len());
        let mut at = region.range.start();
        while at < end {
            job.check()?;
            let rest = AddressRange::saturating(at, end.saturating_sub(at));
            let blank = memory.zeros(rest).max(memory.blank(rest));
            if blank > 0 {
                at = at.saturating_add(blank);
                continue;
            }
            let range = AddressRange::saturating(at, rest.len().min(pass::CHUNK));
            let view = memory.view(range, &mut buffer);
            // A piece that ends within a chunk is followed by another.
            let length = (view.bytes.len() as u64) & !size.wrapping_sub(1);
            at = match view.gap {
                Some(gap) => gap.range.end().checked_next_multiple_of(size).unwrap_or(end),
                None if view.bytes.is_empty() => end,
                None => at,
            }
            .max(at.saturating_add(length.max(size)));
            let words = view.bytes.chunks_exact(format.size).filter_map(|word| format.read(word));
            for word in words.filter(|word| *word != 0 && tables::inside(places, *word)) {
                if !take(word) {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}
