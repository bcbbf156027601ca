//! The one error of the crate: thing, place, value, rule.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Everything that can be wrong with a target, a file or a request.
///
/// Messages are lower case without a full stop, name the thing, the place, the
/// value and the rule that it breaks, and fit on one line.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A range whose ends do not fit together.
    #[error("range at {start:#x}: {rule} ({value:#x})")]
    Range {
        /// Where the range starts.
        start: u64,
        /// The end or length that breaks the rule.
        value: u64,
        /// The rule.
        rule: &'static str,
    },
    /// No region of the target holds the address.
    #[error("no region at {address:#x}")]
    NoRegion {
        /// The address asked for.
        address: u64,
    },
    /// The region exists, its bytes were not kept.
    #[error("memory at {address:#x} was not saved in the {place}")]
    NotSaved {
        /// The first address whose byte is missing.
        address: u64,
        /// What did not keep it: `core`, `snapshot`, `list of regions`.
        place: &'static str,
    },
    /// The region exists, reading it went wrong.
    #[error("memory at {address:#x} could not be read: {cause}")]
    Unreadable {
        /// The first address that could not be read.
        address: u64,
        /// The system's reason.
        cause: String,
    },
    /// A file that cannot be used as what it was given for.
    #[error("{}: {problem}", Shown(path))]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A text whose line cannot be understood.
    #[error("{}: line {line}: {problem}", Shown(path))]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong, with the value.
        problem: String,
    },
    /// A process that cannot be read, stopped or found.
    #[error("process {pid}: {problem}")]
    Process {
        /// The process.
        pid: i32,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A needle that cannot be looked for.
    #[error("needle {needle}: {rule}")]
    Needle {
        /// The needle as it was given.
        needle: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// A request that makes no sense: which part of it, its value, the rule.
    #[error("{thing} {value}: {rule}")]
    Request {
        /// The part of the request.
        thing: &'static str,
        /// Its value.
        value: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// The person asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// A path whose bytes that are not UTF-8 are `\xHH`.
struct Shown<'a>(&'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_os_str().as_encoded_bytes().utf8_chunks() {
            out.write_str(chunk.valid())?;
            chunk.invalid().iter().try_for_each(|byte| write!(out, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

impl Error {
    /// The address that the error is about, where there is one.
    #[must_use]
    pub fn address(&self) -> Option<u64> {
        match self {
            Self::Range { start, .. } => Some(*start),
            Self::NoRegion { address }
            | Self::NotSaved { address, .. }
            | Self::Unreadable { address, .. } => Some(*address),
            _ => None,
        }
    }

    /// A file that cannot be used, with what is wrong with it.
    pub fn file(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File { path: path.into(), problem: problem.into() }
    }
}

/// The system's reason without its number.
#[must_use]
pub fn reason(cause: &io::Error) -> String {
    let text = cause.to_string();
    match text.split_once(" (os error") {
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}
