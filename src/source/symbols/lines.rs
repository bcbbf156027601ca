//! Function, file and line of an address of code, with the calls that were inlined there.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use addr2line::Context;
use gimli::{AbbreviationsCacheStrategy, DwLang};

use crate::name::Name;

use super::dwarf;
use super::files::Sought;
use super::reader::{Meter, Section};

/// How many calls inlined at one address are listed, outermost left out.
const MOST_INLINED: usize = 256;

/// Steps that each byte of debug information may cost in all: those of a unit are read some
/// times, when its functions, their parts and their names are looked for.
const STEPS_PER_BYTE: u64 = 16;

/// Steps for a file however short it is, and for each question: what was read before is kept.
const STEPS_AT_FIRST: u64 = 1 << 20;
const STEPS_PER_QUESTION: u64 = 1 << 16;

/// A call, as people read it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Line {
    /// The function's name; C++ with its parameters.
    pub function: Option<String>,
    /// The source file: the compiler's folder, the file's and its name, joined.
    pub file: Option<String>,
    /// The line in it, from 1 up.
    pub line: Option<u32>,
    /// The file of the module: where it was found for a core, as the system calls it for a process.
    pub module: Option<Name>,
}

/// A call as debug information has it.
#[derive(Default)]
pub(super) struct Call {
    /// The name as the linker has it, else as the source has it.
    pub name: Option<String>,
    /// Whether functions of its language have another name for the linker.
    pub mangles: bool,
    pub file: Option<String>,
    pub line: Option<u32>,
}

/// The debug information of a module.
pub(super) struct Lines {
    context: Mutex<Context<Section>>,
    meter: Arc<Meter>,
    files: Vec<Section>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("Lines")
    }
}

impl Lines {
    /// That of the module, from the first of its files that has it.
    pub(super) fn find(sought: &Sought) -> Option<Self> {
        sought.found().find_map(|found| {
            let meter = Arc::new(Meter::default());
            meter.begin(STEPS_AT_FIRST);
            let mut loaded = dwarf::load(found, sought, &meter)?;
            meter.begin(loaded.length.saturating_mul(STEPS_PER_BYTE));
            // Units that share abbreviations do so by the thousand, after dwz and in Go.
            loaded.dwarf.populate_abbreviations_cache(AbbreviationsCacheStrategy::Duplicates);
            let context = Mutex::new(Context::from_dwarf(loaded.dwarf).ok()?);
            Some(Self { context, meter, files: loaded.files })
        })
    }

    /// The calls at the linked address `at`, innermost first; none where nothing is known of it.
    pub(super) fn calls(&self, at: u64) -> Vec<Call> {
        let whole = |section: &Section| section.file().is_none_or(|file| file.recheck().is_ok());
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.files.iter().all(whole) {
            return Vec::new();
        }
        self.meter.begin(STEPS_PER_QUESTION);
        let mut calls = Vec::new();
        // What one of several calls is missing makes the others no worse.
        if let Ok(mut frames) = context.find_frames(at).skip_all_loads() {
            while let Ok(Some(frame)) = frames.next() {
                let mut call = Call::default();
                if let Some(function) = &frame.function {
                    call.name = function.raw_name().ok().map(std::borrow::Cow::into_owned);
                    call.mangles = function.language.is_none_or(mangles);
                }
                if let Some(location) = &frame.location {
                    call.file = location.file.filter(|file| !file.is_empty()).map(str::to_owned);
                    call.line = location.line.filter(|line| *line > 0);
                }
                // The outermost is the frame itself and comes last.
                if calls.len() > MOST_INLINED {
                    calls.pop();
                }
                calls.push(call);
            }
        }
        if calls.is_empty() {
            // A function that cannot be read, whose line can.
            let place = context.find_location(at).ok().flatten();
            calls.extend(place.map(|place| Call {
                file: place.file.map(str::to_owned),
                line: place.line.filter(|line| *line > 0),
                ..Call::default()
            }));
        }
        calls
    }
}

/// Whether the language's functions have a name of their own for the linker.
fn mangles(language: DwLang) -> bool {
    !matches!(
        language,
        gimli::DW_LANG_C
            | gimli::DW_LANG_C89
            | gimli::DW_LANG_C99
            | gimli::DW_LANG_C11
            | gimli::DW_LANG_C17
            | gimli::DW_LANG_Mips_Assembler
            | gimli::DW_LANG_Go
    )
}
