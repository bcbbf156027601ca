//! What the files of one module say of its addresses, each file read when it is first asked.

use std::sync::OnceLock;

use crate::name::Name;

use super::Symbol;
use super::contents::Contents;
use super::files::Sought;
use super::lines::{Call, Line, Lines};
use super::names::{mangled, readable};

/// What glibc puts before the names of its functions where it calls them itself (`__GI_fwrite`
/// in the debug information of glibc 2.36, include/libc-symbols.h, `__GI_##name`).
const OWN_USE: &str = "__GI_";

/// How many underscores a name begins with: `pthread_create` is what people call, and
/// `__pthread_create_2_1` what glibc calls it.
fn underscores(name: &str) -> usize {
    name.bytes().take_while(|letter| *letter == b'_').count()
}

/// The files of a module, as far as they were read.
#[derive(Debug)]
pub(super) struct Known {
    sought: Sought,
    /// Whether the module is shown by the path where its file was found, not by its own name.
    shown_as_found: bool,
    symbols: OnceLock<Named>,
    lines: OnceLock<Option<Lines>>,
}

/// The symbols of a module.
#[derive(Debug)]
struct Named {
    /// The path to show; none where no file here is the module's.
    path: Option<Name>,
    contents: Option<Contents>,
}

impl Known {
    pub(super) fn new(sought: Sought, shown_as_found: bool) -> Self {
        Self { sought, shown_as_found, symbols: OnceLock::new(), lines: OnceLock::new() }
    }

    /// The symbol at the linked address `at`.
    pub(super) fn symbol(&self, at: u64) -> Option<Symbol> {
        let named = self.named();
        let contents = named.contents.as_ref()?;
        let (name, start) = contents.symbol_at(at)?;
        Some(Symbol {
            name: readable(&name),
            offset: at.saturating_sub(start),
            module: self.shown(),
            section: contents.section_at(at),
        })
    }

    /// The linked addresses of what has that name, as [`Contents::named`] has it.
    pub(super) fn addresses(&self, name: &str) -> Vec<u64> {
        self.named().contents.as_ref().map(|contents| contents.named(name)).unwrap_or_default()
    }

    /// Which of the names are those of something in the module; none where no file is the module's.
    pub(super) fn defined(&self, names: &[&str]) -> Vec<bool> {
        let contents = self.named().contents.as_ref();
        contents.map_or_else(|| vec![false; names.len()], |contents| contents.defined(names))
    }

    /// The calls at the linked address `at`, innermost first; nothing where no file is the module's.
    pub(super) fn lines(&self, at: u64) -> Vec<Line> {
        let named = self.named();
        if named.path.is_none() {
            return Vec::new();
        }
        let mut calls = match self.lines.get_or_init(|| Lines::find(&self.sought)) {
            Some(lines) => lines.calls(at),
            None => Vec::new(),
        };
        if calls.is_empty() {
            calls.push(Call::default());
        }
        if let Some(outermost) = calls.last_mut() {
            // What was inlined has no symbol; the frame itself has one, also where its debug
            // information has no name or only a short one (lambdas of C++).
            let symbol = || Some(named.contents.as_ref()?.symbol_at(at)?.0);
            match outermost.name.as_deref() {
                None => outermost.name = symbol(),
                Some(name) if outermost.mangles && !mangled(name) => {
                    outermost.name = symbol().filter(|symbol| mangled(symbol)).or(outermost.name.take());
                }
                Some(name) if !outermost.mangles && name.starts_with("__") => {
                    let better = |symbol: &String| underscores(symbol) < underscores(name);
                    outermost.name = symbol().filter(better).or(outermost.name.take());
                }
                Some(_) => {}
            }
        }
        for call in calls.iter_mut().filter(|call| !call.mangles) {
            if let Some(name) = call.name.as_deref().and_then(|name| name.strip_prefix(OWN_USE)) {
                call.name = Some(name.to_owned());
            }
        }
        let line = |call: Call| Line {
            function: call.name.map(|name| readable(&name)),
            file: call.file,
            line: call.line,
            module: Some(self.shown()),
        };
        calls.into_iter().map(line).collect()
    }

    fn shown(&self) -> Name {
        self.named().path.clone().unwrap_or_else(|| self.sought.name.clone())
    }

    /// The symbols, from the first file that has them all.
    fn named(&self) -> &Named {
        self.symbols.get_or_init(|| {
            let (mut path, mut believed, mut exported) = (None, false, None);
            for found in self.sought.found() {
                believed = true;
                if found.own && path.is_none() {
                    path = Some(found.path);
                }
                match Contents::read(found.file) {
                    Some(contents) if contents.full => {
                        exported = Some(contents);
                        break;
                    }
                    other => exported = exported.or(other),
                }
            }
            let shown = match path.filter(|_| self.shown_as_found) {
                Some(path) => Name::from(std::path::absolute(&path).unwrap_or(path)),
                None => self.sought.name.clone(),
            };
            Named { path: believed.then_some(shown), contents: exported }
        })
    }
}
