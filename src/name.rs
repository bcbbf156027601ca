//! Names of regions, as the bytes that they are.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::text;

/// The path of a mapped file, or the kernel's name in brackets; empty where there is none.
///
/// A path may hold any byte but zero, and is not necessarily text. One that starts with `[` is the
/// kernel's own name: no absolute path does. A copy shares the bytes: one file may have many regions.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// The name of a file, of which a list may give the last part only.
    ///
    /// ```
    /// use gdb_leak::name::Name;
    ///
    /// assert_eq!(Name::of_file(b"[heap]"), "./[heap]");
    /// assert_eq!(Name::of_file(b"/lib/libc.so.6"), "/lib/libc.so.6");
    /// ```
    #[must_use]
    pub fn of_file(name: &[u8]) -> Self {
        if name.starts_with(b"[") { [b"./", name].concat().into() } else { Self(name.into()) }
    }

    /// The name in a line of `/proc/PID/maps`, which escapes the line's end and nothing else.
    ///
    /// Linux, `fs/proc/task_mmu.c`, `show_map_vma`: `seq_path` with "\n". So a name that holds
    /// these four characters reads like one with a line's end; comparisons take both for one.
    ///
    /// ```
    /// use gdb_leak::name::Name;
    ///
    /// assert_eq!(Name::of_maps(br"/a\012b\n "), "/a\nb\\n ");
    /// ```
    #[must_use]
    pub fn of_maps(name: &[u8]) -> Self {
        const LINE_END: &[u8] = br"\012";
        let mut plain = Vec::with_capacity(name.len());
        let mut rest = name;
        while let Some((first, others)) = rest.split_first() {
            if let Some(after) = rest.strip_prefix(LINE_END) {
                plain.push(b'\n');
                rest = after;
            } else {
                plain.push(*first);
                rest = others;
            }
        }
        plain.into()
    }

    /// The bytes of the name.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as a path.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new(self.os())
    }

    /// The name as the system's functions take it.
    #[must_use]
    pub fn os(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// Whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the name starts like this.
    #[must_use]
    pub fn starts_with(&self, start: &str) -> bool {
        self.0.starts_with(start.as_bytes())
    }

    /// Whether the name ends like this.
    #[must_use]
    pub fn ends_with(&self, end: &str) -> bool {
        self.0.ends_with(end.as_bytes())
    }

    /// What follows the last slash; all of it where there is none.
    #[must_use]
    pub fn last_part(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self(name.as_bytes().into())
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self(name.into_bytes().into())
    }
}

impl From<Vec<u8>> for Name {
    fn from(name: Vec<u8>) -> Self {
        Self(name.into())
    }
}

impl From<PathBuf> for Name {
    fn from(path: PathBuf) -> Self {
        Self(path.into_os_string().into_vec().into())
    }
}

impl From<Name> for OsString {
    fn from(name: Name) -> Self {
        Self::from_vec(name.0.to_vec())
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other.as_bytes()
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == *other.as_bytes()
    }
}

/// Escapes unprintable bytes as `\xHH`, tabs too: a name is one column of a table. Of one of more than
/// 256 bytes the end is shown, after a `…`, from the border of a character on.
///
/// ```
/// use gdb_leak::name::Name;
///
/// let name = Name::from("/a\tb\u{202e}".to_owned());
/// assert_eq!(name.to_string(), r"/a\x09b\xe2\x80\xae");
/// let name = Name::from("/".to_owned() + &"é".repeat(200) + "a");
/// assert_eq!(name.to_string(), "…".to_owned() + &"é".repeat(127) + "a");
/// ```
impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A note names several; the end of a path tells more than its start.
        const MOST: usize = 256;
        let cut = self.0.len().saturating_sub(MOST);
        // Not within a character.
        let inside = self.0.iter().skip(cut).take_while(|byte| *byte & 0xc0 == 0x80).take(3).count();
        let cut = if cut > 0 { cut.saturating_add(inside) } else { 0 };
        let shown = text::escaped(self.0.get(cut..).unwrap_or_default()).replace('\t', r"\x09");
        if cut > 0 { out.pad(&format!("…{shown}")) } else { out.pad(&shown) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.to_string())
    }
}
